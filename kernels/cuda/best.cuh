/* The best of many logits: what greedy rows need, whoever looks at them (sample.cu, gemv.cuh). */
#ifndef RINGLET_CUDA_BEST_CUH
#define RINGLET_CUDA_BEST_CUH

#include "kernels/cuda/cuda_common.cuh"

/* A logit and its id; CANDIDATE_NONE: nothing yet, CANDIDATE_BAD: one was not finite. */
struct candidate {
    float value;
    int id;
};

enum { CANDIDATE_NONE = -1, CANDIDATE_BAD = -2 };

/* The better of two candidates: larger value, then lower id. */
static __device__ __forceinline__ candidate better(candidate a, candidate b)
{
    if (b.id < 0)
        return a;
    if (a.id < 0 || b.value > a.value || (b.value == a.value && b.id < a.id))
        return b;
    return a;
}

/* As better, of logits that may not all have been finite: one that is not spoils the whole. */
static __device__ __forceinline__ candidate better_sound(candidate a, candidate b)
{
    return a.id == CANDIDATE_BAD || b.id == CANDIDATE_BAD ? candidate{ 0, CANDIDATE_BAD }
                                                          : better(a, b);
}

/* One more logit, of a higher id than all before. */
static __device__ __forceinline__ void take_logit(candidate *best, float value, int id)
{
    if (!isfinite(value))
        *best = { INFINITY, CANDIDATE_BAD };
    else if (value > best->value)
        *best = { value, id };
}

/* Over groups of n neighbouring lanes, in each of them. */
template <int N> static __device__ __forceinline__ candidate lanes_best(candidate c)
{
#pragma unroll
    for (int x = N / 2; x > 0; x >>= 1) {
        candidate o = { __shfl_xor_sync(0xffffffffu, c.value, x),
                        __shfl_xor_sync(0xffffffffu, c.id, x) };
        c = better_sound(c, o);
    }
    return c;
}

/* Over the block, in every thread. shared: one a warp. */
static __device__ __forceinline__ candidate block_best(candidate c, candidate *shared)
{
    c = lanes_best<32>(c);
    __syncthreads();
    if (threadIdx.x % 32 == 0)
        shared[threadIdx.x / 32] = c;
    __syncthreads();
    c = shared[0];
    for (int i = 1; i < (int)blockDim.x / 32; i++)
        c = better_sound(c, shared[i]);
    return c;
}

#endif
