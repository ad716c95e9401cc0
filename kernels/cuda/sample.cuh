/* Block-wide searches over one row of logits (sample.cu); each gives the same answer always. */
#ifndef RINGLET_CUDA_SAMPLE_CUH
#define RINGLET_CUDA_SAMPLE_CUH

#include "kernels/cuda/best.cuh"

enum { SAMPLE_THREADS = 512, SAMPLE_CHUNKS = 16, BIN_BITS = 11, BINS = 1 << BIN_BITS };

/* Unsigned order of floats. */
static __device__ __forceinline__ uint32_t key_of(float v)
{
    uint32_t bits = __float_as_uint(v);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

struct search_shared {
    unsigned long long bin[BINS];
    unsigned long long warp[SAMPLE_THREADS / 32];
    unsigned long long before;
    int found;
};

/* Bin, from the top, in which the running sum reaches the target; *ret_before: sum above it. */
static __device__ int find_bin(search_shared *s, unsigned long long target,
                               unsigned long long *ret_before)
{
    constexpr int EACH = BINS / SAMPLE_THREADS;
    int tid = (int)threadIdx.x, top = BINS - 1 - tid * EACH;
    unsigned long long own = 0;
    for (int i = 0; i < EACH; i++)
        own += s->bin[top - i];
    unsigned long long sum = own;
#pragma unroll
    for (int x = 1; x < 32; x <<= 1) {
        unsigned long long v = __shfl_up_sync(0xffffffffu, sum, x);
        if (tid % 32 >= x)
            sum += v;
    }
    if (tid % 32 == 31)
        s->warp[tid / 32] = sum;
    if (tid == 0)
        s->found = -1;
    __syncthreads();
    for (int i = 0; i < tid / 32; i++)
        sum += s->warp[i];
    unsigned long long before = sum - own;
    if (before < target && target <= sum) {
        int i = 0;
        while (i < EACH - 1 && before + s->bin[top - i] < target)
            before += s->bin[top - i++];
        s->before = before;
        s->found = top - i;
    }
    __syncthreads();
    *ret_before = s->before;
    return s->found;
}

/*
 * The key whose weight, with all larger keys' weights, reaches the target: sum of weights over keys
 * above it < target <= sum with it; *ret_rest = target - the sum above. weight(i) in integers, so
 * that order does not matter. Returns 0 (everything) if the total is less than the target.
 */
template <typename Key, typename Weight>
static __device__ uint32_t select_key(int n, unsigned long long target, search_shared *s, Key key,
                                      Weight weight, unsigned long long *ret_rest)
{
    uint32_t prefix = 0, mask = 0;
    const int shift[3] = { 21, 10, 0 }, bits[3] = { 11, 11, 10 };
    *ret_rest = ~0ull;
    for (int pass = 0; pass < 3; pass++) {
        __syncthreads();
        for (int i = (int)threadIdx.x; i < BINS; i += SAMPLE_THREADS)
            s->bin[i] = 0;
        __syncthreads();
        uint32_t bin_mask = (1u << bits[pass]) - 1;
        for (int i = (int)threadIdx.x; i < n; i += SAMPLE_THREADS) {
            uint32_t k = key(i);
            unsigned long long w = (k & mask) == prefix ? weight(i) : 0;
            if (w)
                atomicAdd(&s->bin[k >> shift[pass] & bin_mask], w);
        }
        __syncthreads();
        unsigned long long before;
        int found = find_bin(s, target, &before);
        if (found < 0)
            return 0;
        target -= before;
        prefix |= (uint32_t)found << shift[pass];
        mask |= bin_mask << shift[pass];
    }
    __syncthreads();
    *ret_rest = target;
    return prefix;
}

struct philox_words {
    uint32_t w[4];
};

/* Philox4x32-10 (Salmon et al., SC 2011). */
static __device__ __forceinline__ philox_words philox(uint32_t c0, uint32_t c1, uint32_t c2,
                                                      uint64_t key)
{
    uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32), c3 = 0;
#pragma unroll
    for (int i = 0; i < 10; i++) {
        uint32_t hi0 = __umulhi(0xD2511F53u, c0), lo0 = 0xD2511F53u * c0;
        uint32_t hi1 = __umulhi(0xCD9E8D57u, c2), lo1 = 0xCD9E8D57u * c2;
        c0 = hi1 ^ c1 ^ k0;
        c1 = lo1;
        c2 = hi0 ^ c3 ^ k1;
        c3 = lo0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return { { c0, c1, c2, c3 } };
}

static __device__ __forceinline__ float gumbel_of(uint32_t word)
{
    float v = fminf(fmaf((float)word, 0x1p-32f, 0x1p-33f), 0x1.fffffep-1f);
    return -logf(-log1pf(-v));
}

#endif
