/*
 * Weights of the next kernel, brought into L2 while this one has little left to ask for: a chain of
 * short kernels waits for latency most of the time, and memory would be idle meanwhile.
 */
#ifndef RINGLET_CUDA_GEMV_AHEAD_CUH
#define RINGLET_CUDA_GEMV_AHEAD_CUH

#include "kernels/cuda/cuda_common.cuh"

/* The beginning of a weight: each block of the grid brings its share. */
struct gemv_ahead {
    const char *data;
    uint32_t bytes, each; /* each: a block's share, whole lines */
};

enum {
    AHEAD_SM_BYTES = 24 << 10,    /* that an SM brings; more delays what is read now */
    AHEAD_BLOCK_BYTES = 64 << 10, /* few blocks bring less */
    ALONE_SM_BYTES = 64 << 10,    /* that an SM's blocks ask for themselves before their wait */
};

/*
 * What next names, cut to what the device may bring. Nothing at all where the next kernel's blocks
 * ask for everything before their wait: it would only come twice.
 */
static inline void ahead_set(gemv_ahead *ahead, const struct weight *const *next, int n_sm)
{
    int64_t total = 0, most = (int64_t)n_sm * AHEAD_SM_BYTES;
    for (int i = 0; i < MATMUL_WEIGHTS_MAX && next[i]; i++)
        total += next[i]->bytes;
    if (total <= (int64_t)n_sm * ALONE_SM_BYTES)
        return;
    for (int i = 0; i < MATMUL_WEIGHTS_MAX && next[i]; i++) {
        double share = total > most ? (double)most / (double)total : 1;
        ahead[i].data = (const char *)next[i]->data;
        ahead[i].bytes = (uint32_t)((double)next[i]->bytes * share) & ~15u;
    }
}

static inline void ahead_share(gemv_ahead *ahead, int grid)
{
    for (int i = 0; i < MATMUL_WEIGHTS_MAX; i++) {
        uint32_t each = (uint32_t)div_up(ahead[i].bytes, grid * 128) * 128;
        ahead[i].each = each < AHEAD_BLOCK_BYTES ? each : AHEAD_BLOCK_BYTES;
    }
}

#ifdef __CUDACC__

/* All threads may call. */
static __device__ __forceinline__ void bring_ahead(const gemv_ahead *ahead)
{
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x != 0)
        return;
#pragma unroll
    for (int i = 0; i < MATMUL_WEIGHTS_MAX; i++) {
        uint32_t at = blockIdx.x * ahead[i].each;
        if (at < ahead[i].bytes)
            asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(ahead[i].data + at),
                         "r"(min(ahead[i].each, ahead[i].bytes - at))
                         : "memory");
    }
#endif
}

#endif
#endif
