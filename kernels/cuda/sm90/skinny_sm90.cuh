/*
 * Products of a few rows (2 to 128) on Hopper: bound by the weights' bytes, so the weights are the
 * tall operand. A block computes 128 weight rows x N tokens: one producer thread keeps tensor
 * copies of [128 x 64] weights and [N x 64] activations in flight, one warpgroup multiplies.
 * Blocks of a cluster split K and add their sums through each other's shared memory, in order.
 * Weights of the first stages are asked for before the predecessor kernel has ended.
 *
 * Up to three weights share one launch. With SwiGLU the two halves of a tile (64 rows each) come
 * from two weights, so that a gate row and its up row end in one thread.
 */
#ifndef RINGLET_CUDA_SKINNY_SM90_CUH
#define RINGLET_CUDA_SKINNY_SM90_CUH

#include <cooperative_groups.h>

#include "kernels/cuda/sm90/wgmma.cuh"

namespace ACT_SPACE {

enum {
    SKINNY_THREADS = 160, /* a warpgroup and the producer's warp */
    SKINNY_STAGES = 3,
    SKINNY_ROWS = 128,
    SKINNY_WEIGHTS = SKINNY_ROWS * 128, /* bytes of a stage */
};

struct skinny_part {
    void *out;
    const float *bias;
    int64_t out_stride;
    int n_out, tile0;      /* rows of the result; first tile */
};

struct skinny_params {
    skinny_part part[MATMUL_WEIGHTS_MAX];
    int n_part, n_row, n_block; /* tokens; blocks of 64 along K */
    int row_up;            /* SwiGLU: row of the up weight's map that meets gate row 0 */
    float scale;
    bool swiglu, add, out_f32;
};

struct skinny_maps {
    CUtensorMap w[MATMUL_WEIGHTS_MAX], x; /* SwiGLU: gate and up */
};

template <int N> struct skinny_shared {
    static constexpr int STAGE = SKINNY_WEIGHTS + N * 128;
    static constexpr int SUM_STRIDE = SKINNY_ROWS + 4;
    static constexpr int SUMS = N * SUM_STRIDE * 4;
    static constexpr int RING = SKINNY_STAGES * STAGE > SUMS ? SKINNY_STAGES * STAGE : SUMS;
    static constexpr int BYTES = RING + 1024 + 64;
    uint8_t *ring;
    uint64_t *full, *empty;

    __device__ __forceinline__ skinny_shared(uint8_t *raw)
    {
        ring = raw + (1024 - shared_address(raw) % 1024) % 1024;
        full = (uint64_t *)(ring + RING);
        empty = full + SKINNY_STAGES;
    }
};

struct skinny_work {
    int part, row0, first, n; /* weight row of the tile in its part; blocks of K */
};

template <int N>
static __device__ __forceinline__ void skinny_weights(const skinny_params &p, const skinny_work &w,
                                                      const skinny_shared<N> &s, int i,
                                                      const skinny_maps &maps)
{
    int stage = i % SKINNY_STAGES, k = (w.first + i) * 64;
    uint8_t *to = s.ring + stage * s.STAGE;
    barrier_expect(s.full + stage, s.STAGE);
    copy_tile_2d(to, &maps.w[w.part], k, w.row0, s.full + stage);
    copy_tile_2d(to + SKINNY_WEIGHTS / 2, &maps.w[p.swiglu ? 1 : w.part], k,
                 w.row0 + (p.swiglu ? p.row_up : 64), s.full + stage);
}

template <int N>
static __device__ __forceinline__ void skinny_produce(const skinny_params &p, const skinny_work &w,
                                                      const skinny_shared<N> &s,
                                                      const skinny_maps &maps)
{
    int ahead = min(w.n, (int)SKINNY_STAGES);
    for (int i = 0; i < ahead; i++)
        skinny_weights<N>(p, w, s, i, maps);
    pdl_wait();
    for (int i = 0; i < w.n; i++) {
        int stage = i % SKINNY_STAGES;
        if (i >= ahead) {
            barrier_wait(s.empty + stage, (uint32_t)(i / SKINNY_STAGES & 1) ^ 1);
            skinny_weights<N>(p, w, s, i, maps);
        }
        copy_tile_2d(s.ring + stage * s.STAGE + SKINNY_WEIGHTS, &maps.x, (w.first + i) * 64, 0,
                     s.full + stage);
    }
}

template <int N>
static __device__ __forceinline__ void skinny_multiply(const skinny_work &w,
                                                       const skinny_shared<N> &s,
                                                       float (*acc)[N / 2])
{
    for (int i = 0; i < w.n; i++) {
        int stage = i % SKINNY_STAGES;
        uint32_t a = shared_address(s.ring) + (uint32_t)(stage * s.STAGE), x = a + SKINNY_WEIGHTS;
        barrier_wait(s.full + stage, i / SKINNY_STAGES & 1);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint64_t b = operand(x + k * 32, 16, 1024);
            wgmma_ss<N>(acc[0], operand(a + k * 32, 16, 1024), b, 1);
            wgmma_ss<N>(acc[1], operand(a + SKINNY_WEIGHTS / 2 + k * 32, 16, 1024), b, 1);
        }
        wgmma_commit();
        wgmma_wait<0>();
        keep<N / 2>(acc[0]);
        keep<N / 2>(acc[1]);
        if (threadIdx.x % 32 == 0)
            barrier_arrive(s.empty + stage);
    }
}

/* This block's sums as [token][row]. */
template <int N>
static __device__ __forceinline__ void skinny_put(float *sums, const float (*acc)[N / 2])
{
    int lane = (int)threadIdx.x % 32, row = (int)threadIdx.x / 32 * 16 + lane / 4;
#pragma unroll
    for (int h = 0; h < 2; h++)
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            int token = i / 4 * 8 + lane % 4 * 2 + i % 2;
            sums[token * skinny_shared<N>::SUM_STRIDE + h * 64 + row + i / 2 % 2 * 8] = acc[h][i];
        }
}

static __device__ __forceinline__ void skinny_store(const skinny_params &p, int part, int row,
                                                    int token, float v)
{
    const skinny_part &to = p.part[part];
    int64_t at = token * to.out_stride + row;
    if (to.bias)
        v += to.bias[row];
    v *= p.scale;
    if (p.out_f32)
        ((float *)to.out)[at] = p.add ? ((float *)to.out)[at] + v : v;
    else
        ((act *)to.out)[at] = to_act(
            p.add ? to_float(((act *)to.out)[at]) + v : v);
}

/* Rank r of the cluster adds up and stores its share of the tile's rows. */
template <int N>
static __device__ __forceinline__ void skinny_finish(const skinny_params &p, const skinny_work &w,
                                                     float *sums)
{
    namespace cg = cooperative_groups;
    cg::cluster_group cluster = cg::this_cluster();
    int n_rank = (int)cluster.num_blocks(), rank = (int)cluster.block_rank();
    int rows = (p.swiglu ? SKINNY_ROWS / 2 : SKINNY_ROWS) / n_rank;
    const float *peer[8];
#pragma unroll
    for (int c = 0; c < 8; c++)
        peer[c] = cluster.map_shared_rank(sums, c < n_rank ? c : 0);
    for (int i = (int)threadIdx.x; i < rows * p.n_row; i += SKINNY_THREADS) {
        int own = rank * rows + i % rows, token = i / rows, row = w.row0 + own;
        int at = token * skinny_shared<N>::SUM_STRIDE + own;
        float v = 0, up = 0;
#pragma unroll
        for (int c = 0; c < 8; c++) {
            if (c < n_rank) {
                v += peer[c][at];
                if (p.swiglu)
                    up += peer[c][at + SKINNY_ROWS / 2];
            }
        }
        if (p.swiglu)
            v = v / (1.0f + __expf(-v)) * up;
        if (row < p.part[w.part].n_out)
            skinny_store(p, w.part, row, token, v);
    }
}

template <int N>
static __global__ void __launch_bounds__(SKINNY_THREADS, 3)
skinny_kernel(const __grid_constant__ skinny_params p, const __grid_constant__ skinny_maps maps)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ uint8_t raw[];
    namespace cg = cooperative_groups;
    cg::cluster_group cluster = cg::this_cluster();
    skinny_shared<N> s(raw);
    int n_rank = (int)cluster.num_blocks(), rank = (int)cluster.block_rank();
    int tile = (int)blockIdx.x / n_rank;
    skinny_work w;
    w.part = p.n_part > 2 && tile >= p.part[2].tile0   ? 2
             : p.n_part > 1 && tile >= p.part[1].tile0 ? 1
                                                       : 0;
    w.row0 = (tile - p.part[w.part].tile0) * (p.swiglu ? SKINNY_ROWS / 2 : SKINNY_ROWS);
    w.first = p.n_block * rank / n_rank;
    w.n = p.n_block * (rank + 1) / n_rank - w.first;
    if (threadIdx.x == 0) {
        for (int i = 0; i < SKINNY_STAGES; i++) {
            barrier_init(s.full + i, 1);
            barrier_init(s.empty + i, 4);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncthreads();
    if (threadIdx.x == 128)
        skinny_produce<N>(p, w, s, maps);
    pdl_wait();
    pdl_trigger();
    float acc[2][N / 2] = {};
    if (threadIdx.x < 128)
        skinny_multiply<N>(w, s, acc);
    __syncthreads(); /* every product is done: the ring becomes the sums */
    if (threadIdx.x < 128)
        skinny_put<N>((float *)s.ring, acc);
    cluster.sync();
    skinny_finish<N>(p, w, (float *)s.ring);
    cluster.sync();
#endif
}

} // namespace ACT_SPACE

#endif
