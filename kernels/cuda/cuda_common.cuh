/*
 * What every .cu of the module shares: the device and the stream, error capture, kernel launch with
 * programmatic dependencies, and small device helpers.
 *
 * launch() lets a kernel start before its predecessor has ended, and pdl_wait() waits for that end.
 * Above that call a kernel may read only what nothing on its way writes: weights, the step's plan
 * (nothing starts before a fetch has ended), and in attention the KV of earlier steps, where the
 * stream's appended_rows tells which rows are being appended, or settled that none are. It writes
 * nothing there. A kernel that skipped the call would break the order of the whole chain.
 */
#ifndef RINGLET_CUDA_COMMON_CUH
#define RINGLET_CUDA_COMMON_CUH

#include <cublasLt.h>
#include <cudaTypedefs.h>
#include <cuda_runtime.h>
#include <errno.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "kernels/device.h"
#include "kernels/dtype.h"
#include "kernels/kernels.h"

enum {
    LAYOUT_BF16_ROWS = 1,           /* row-major */
    LAYOUT_F16_ROWS,
    STAGE_BYTES = 8 << 20,          /* one upload staging buffer */
    WORKSPACE_BYTES = 32 << 20,     /* cublasLt */
    TICKETS = 1 << 16,              /* last-arriver counters; zero between kernels */
    ROWS_SKINNY_MAX = 16,           /* rows that gemv.cu takes */
    BEST_BLOCKS_MAX = 1024,         /* that make logits and leave the best of theirs */
    SKINNY_MAX = 32,                /* rows that skinny.cu takes; above it cublasLt is as fast */
};

struct lt_cache;
struct candidate;

struct device {
    int index;
    int n_sm;
    int compute;
    char name[128];
    char driver[64];
    cublasLtHandle_t lt;
    struct lt_cache *cache;
    PFN_cuTensorMapEncodeTiled_v12000 encode_tiled; /* NULL if the driver lacks it */
    bool serial; /* kernels do not overlap: for sanitizers, which cannot follow it */
    bool faulted;
    char fault[256];
};

struct stream {
    struct device *dev;
    cudaStream_t cs;
    struct op_limits limits;
    void *workspace;
    void *norm_x;      /* 16-bit [rows_max or samples_max, dim_max] normalised input */
    void *wide;        /* 16-bit [rows_max, out_max] gate and up before SwiGLU */
    float *attn_part;  /* split-KV partials */
    int64_t attn_part_floats;
    float *sample_part;
    struct candidate *best_part;   /* [ROWS_SKINNY_MAX, BEST_BLOCKS_MAX] beside the last logits */
    const float *best_logits;      /* whose; NULL: none, or something came between: a capture or
                                      replay begins or ends, logits were written */
    int best_rows, best_blocks;
    uint32_t *ticket;
    void *stage_host[2], *stage_device[2];
    cudaEvent_t stage_done[2];
    int stage_next;
    bool fetched;      /* the next kernel waits until the last one has ended altogether */
    int appended_rows; /* of the last KV append, 0 once anything else touched KV memory */
    bool settled;      /* the last kernel let the next in after all before it had ended, and wrote
                          no KV */
};

/* Memory was written by another way than ops. */
static inline void stream_touched(struct stream *st)
{
    st->appended_rows = 0;
    st->settled = false;
    st->best_logits = NULL;
}

struct graph {
    cudaGraphExec_t exec;
    struct device *dev;
};

extern const struct device_ops cuda_device_ops;
int cuda_ceilings(struct device *dev, struct device_ceilings *ret);

/* The runtime's current device is a thread's own: whoever calls us must be on ours. */
static inline void use_device(const struct device *dev)
{
    static thread_local int current = -1;
    if (current != dev->index) {
        cudaSetDevice(dev->index);
        current = dev->index;
    }
}

/* 0, or -EIO and the fault in words if it was the first one. */
int cuda_check(struct device *dev, cudaError_t error, const char *what);
#define CUDA_CHECK(dev, call) cuda_check((dev), (call), #call)

int cuda_sample(struct stream *st, const struct sample_args *a);
int cuda_counts_load(struct stream *st, const struct counts_load_args *a);
int cuda_kv_copy(struct stream *st, const struct kv_copy_args *a);
int cuda_kv_move(struct stream *st, const struct kv_move_args *a);

/* out = beta out + alpha x w^T on cublasLt; x is of w's type, out is f32 or of w's type. */
int lt_gemm(struct stream *st, const struct weight *w, const void *x, int64_t x_stride, void *out,
            int64_t out_stride, int n_row, bool out_f32, float alpha, float beta);
struct lt_cache *lt_cache_open(struct device *dev);
void lt_cache_close(struct lt_cache *cache);

template <typename... Params, typename... Args>
static inline int launch_cluster(struct stream *st, void (*kernel)(Params...), dim3 grid,
                                 dim3 block, size_t smem, int cluster, Args... args)
{
    cudaLaunchAttribute attr[2] = {};
    attr[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attr[0].val.programmaticStreamSerializationAllowed =
        st->dev->compute >= 90 && !st->fetched && !st->dev->serial;
    st->fetched = false;
    st->settled = false;
    attr[1].id = cudaLaunchAttributeClusterDimension;
    attr[1].val.clusterDim.x = (unsigned)cluster;
    attr[1].val.clusterDim.y = 1;
    attr[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = block;
    config.dynamicSmemBytes = smem;
    config.stream = st->cs;
    config.attrs = attr;
    config.numAttrs = cluster > 1 ? 2 : 1;
    use_device(st->dev);
    return cuda_check(st->dev, cudaLaunchKernelEx(&config, kernel, args...), "kernel launch");
}

template <typename... Params, typename... Args>
static inline int launch(struct stream *st, void (*kernel)(Params...), dim3 grid, dim3 block,
                         size_t smem, Args... args)
{
    return launch_cluster(st, kernel, grid, block, smem, 1, args...);
}

static inline int div_up(int64_t a, int64_t b)
{
    return (int)((a + b - 1) / b);
}

/* ---- device side ---- */

#ifdef __CUDACC__

/* Everything that earlier kernels of the stream wrote is visible after this. */
static __device__ __forceinline__ void pdl_wait(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* The next kernel may start; it sees our writes only after its own pdl_wait(). */
static __device__ __forceinline__ void pdl_trigger(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

static __device__ __forceinline__ float warp_sum(float v)
{
#pragma unroll
    for (int i = 16; i > 0; i >>= 1)
        v += __shfl_xor_sync(0xffffffffu, v, i);
    return v;
}

static __device__ __forceinline__ float warp_max(float v)
{
#pragma unroll
    for (int i = 16; i > 0; i >>= 1)
        v = fmaxf(v, __shfl_xor_sync(0xffffffffu, v, i));
    return v;
}

/* Sum over the block, in every thread. shared: 33 floats. */
static __device__ __forceinline__ float block_sum(float v, float *shared)
{
    v = warp_sum(v);
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = v;
    __syncthreads();
    int n_warp = (blockDim.x + 31) / 32;
    float total = 0;
    for (int i = 0; i < n_warp; i++)
        total += shared[i];
    __syncthreads();
    return total;
}

/* Asks for the line of p, so that a later load finds it in L2; waits for nothing. */
static __device__ __forceinline__ void prefetch_l2(const void *p)
{
    asm volatile("prefetch.global.L2 [%0];" ::"l"(p));
}

/* 16 bytes from memory, by way of L2, into shared memory; see copies_wait(). */
static __device__ __forceinline__ void copy16_async(void *to, const void *p)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(to)),
                 "l"(p)
                 : "memory");
}

/* Until all that this thread copied has come. */
static __device__ __forceinline__ void copies_wait(void)
{
    asm volatile("cp.async.wait_all;" ::: "memory");
}

/* Weights: read once, so keep them out of L1. Immutable, so allowed before pdl_wait(). */
static __device__ __forceinline__ uint4 load_weight(const void *p)
{
    uint4 r;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
                 : "l"(p));
    return r;
}

/* As load_weight; zero where not ok. */
static __device__ __forceinline__ uint4 load_weight_if(const void *p, bool ok)
{
    uint4 r;
    asm volatile("{ .reg .pred q; setp.ne.b32 q, %5, 0;\n"
                 "mov.b32 %0, 0; mov.b32 %1, 0; mov.b32 %2, 0; mov.b32 %3, 0;\n"
                 "@q ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4]; }"
                 : "=&r"(r.x), "=&r"(r.y), "=&r"(r.z), "=&r"(r.w)
                 : "l"(p), "r"((int)ok));
    return r;
}

/*
 * True in every thread of the last block of n to arrive at the counter, which is zero again
 * afterwards. Everything the other blocks wrote before is visible to that block.
 */
static __device__ __forceinline__ bool last_arriver(uint32_t *counter, uint32_t n)
{
    __shared__ bool last;
    __syncthreads();
    if (threadIdx.x == 0) {
        __threadfence(); /* for the whole block, which has met */
        last = atomicAdd(counter, 1u) == n - 1;
        if (last)
            *counter = 0;
        __threadfence();
    }
    __syncthreads();
    return last;
}

/* As instructions on shared memory name it. */
static __device__ __forceinline__ uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

/*
 * Blocks of a cluster hand each other values: the receiver says how many bytes it expects, the
 * others put them into its shared memory, its barrier counts them. cluster_meet_begin by all
 * threads after inbox_init, cluster_meet_end before the first put: then every inbox is there. Who
 * expects bytes stays until they came; who put them may leave. Needs Hopper.
 */
static __device__ __forceinline__ void inbox_init(uint64_t *box, int bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;\n"
                 "fence.mbarrier_init.release.cluster;\n"
                 "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(
                     shared_address(box)),
                 "r"(bytes)
                 : "memory");
#endif
}

static __device__ __forceinline__ void cluster_meet_begin(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.relaxed;" ::: "memory");
#endif
}

static __device__ __forceinline__ void cluster_meet_end(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

/* v to the place of `to` in block `rank`. */
static __device__ __forceinline__ void inbox_put(float *to, uint64_t *box, int rank, float v)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n.reg .b32 there, box;\n"
                 "mapa.shared::cluster.u32 there, %0, %2;\n"
                 "mapa.shared::cluster.u32 box, %1, %2;\n"
                 "st.async.shared::cluster.mbarrier::complete_tx::bytes.f32 [there], %3, [box];\n"
                 "}" ::"r"(shared_address(to)),
                 "r"(shared_address(box)), "r"(rank), "f"(v)
                 : "memory");
#endif
}

/* As inbox_put, 16 bytes. */
static __device__ __forceinline__ void inbox_put4(float *to, uint64_t *box, int rank, float4 v)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n.reg .b32 there, box;\n"
                 "mapa.shared::cluster.u32 there, %0, %2;\n"
                 "mapa.shared::cluster.u32 box, %1, %2;\n"
                 "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [there], "
                 "{%3, %4, %5, %6}, [box];\n}" ::"r"(shared_address(to)),
                 "r"(shared_address(box)), "r"(rank), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w)
                 : "memory");
#endif
}

static __device__ __forceinline__ void inbox_wait(uint64_t *box)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("{\n.reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], 0;\n"
                 "@done bra.uni out;\n"
                 "bra.uni again;\n"
                 "out:\n}" ::"r"(shared_address(box))
                 : "memory");
#endif
}

/* 16-bit atomics through the word that holds the counter; counts stop at 15 bits. */
static __device__ __forceinline__ void count_token(uint16_t *row, int id, bool prompt)
{
    uint32_t *word = (uint32_t *)((uintptr_t)(row + id) & ~(uintptr_t)3);
    int shift = (uintptr_t)(row + id) & 2 ? 16 : 0;
    if (prompt) {
        atomicOr(word, 0x8000u << shift);
        return;
    }
    uint32_t old = *(volatile uint32_t *)word, seen;
    do {
        seen = old;
        if ((seen >> shift & 0x7fff) == 0x7fff)
            return;
        old = atomicCAS(word, seen, seen + (1u << shift));
    } while (old != seen);
}

#endif
#endif
