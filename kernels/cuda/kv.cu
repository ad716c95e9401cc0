/* KV blocks: copy inside the pool, swap to and from pinned host memory, token counts. */
#include "kernels/cuda/cuda_common.cuh"

#include <string.h>

enum { COPY_PAIRS = 128, COPY_SLICES = 16, COUNT_IDS = 512 };

struct copy_params {
    uint8_t *dst_base;
    const uint8_t *src_base;
    int64_t stride;
    int32_t src[COPY_PAIRS], dst[COPY_PAIRS];
};

/* Block (pair, slice): a slice of one KV block. Host memory is reached through its mapping. */
static __global__ void __launch_bounds__(256) kv_copy_kernel(const __grid_constant__ copy_params p)
{
    pdl_wait();
    const uint8_t *src = p.src_base + p.src[blockIdx.x] * p.stride;
    uint8_t *dst = p.dst_base + p.dst[blockIdx.x] * p.stride;
    int64_t n = p.stride / 16, step = (int64_t)COPY_SLICES * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.y * blockDim.x + threadIdx.x; i < n; i += step)
        ((uint4 *)dst)[i] = __ldcg((const uint4 *)src + i);
    if (blockIdx.y == 0)
        for (int64_t i = n * 16 + threadIdx.x; i < p.stride; i += blockDim.x)
            dst[i] = src[i];
}

int cuda_kv_copy(struct stream *st, const struct kv_copy_args *a)
{
    st->appended_rows = 0;
    copy_params p;
    p.dst_base = (uint8_t *)a->pool;
    p.src_base = (const uint8_t *)a->pool;
    p.stride = a->block_stride;
    for (int i = 0; i < a->n; i += COPY_PAIRS) {
        int n = a->n - i < COPY_PAIRS ? a->n - i : COPY_PAIRS;
        memcpy(p.src, a->src + i, (size_t)n * sizeof p.src[0]);
        memcpy(p.dst, a->dst + i, (size_t)n * sizeof p.dst[0]);
        int error = launch(st, kv_copy_kernel, dim3((unsigned)n, COPY_SLICES), dim3(256), 0, p);
        if (error)
            return error;
    }
    return 0;
}

/* Runs of neighbors go as one transfer; the copy engines do the rest beside the kernels. */
int cuda_kv_move(struct stream *st, const struct kv_move_args *a)
{
    use_device(st->dev);
    st->appended_rows = 0;
    for (int i = 0; i < a->n;) {
        int n = 1;
        while (i + n < a->n && a->pool_block[i + n] == a->pool_block[i] + n
               && a->host_block[i + n] == a->host_block[i] + n)
            n++;
        uint8_t *pool = (uint8_t *)a->pool + a->pool_block[i] * a->block_stride;
        uint8_t *host = (uint8_t *)a->host + a->host_block[i] * a->block_stride;
        size_t bytes = (size_t)(n * a->block_stride);
        cudaError_t copied =
            a->to_host ? cudaMemcpyAsync(host, pool, bytes, cudaMemcpyDeviceToHost, st->cs)
                       : cudaMemcpyAsync(pool, host, bytes, cudaMemcpyHostToDevice, st->cs);
        int error = cuda_check(st->dev, copied, "KV swap");
        if (error)
            return error;
        i += n;
    }
    return 0;
}

struct count_params {
    uint16_t *counts;
    int vocab, n, n_prompt; /* the first n_prompt of the n ids mark the prompt */
    int32_t id[COUNT_IDS];
};

static __global__ void __launch_bounds__(COUNT_IDS)
counts_kernel(const __grid_constant__ count_params p)
{
    pdl_wait();
    int i = (int)threadIdx.x;
    if (i < p.n && p.id[i] >= 0 && p.id[i] < p.vocab)
        count_token(p.counts, p.id[i], i < p.n_prompt);
}

int cuda_counts_load(struct stream *st, const struct counts_load_args *a)
{
    use_device(st->dev);
    uint16_t *row = a->counts + (int64_t)a->slot * a->vocab;
    int error = CUDA_CHECK(st->dev, cudaMemsetAsync(row, 0, (size_t)a->vocab * 2, st->cs));
    count_params p;
    p.counts = row;
    p.vocab = a->vocab;
    for (int i = 0; i < a->n_id && !error; i += COUNT_IDS) {
        p.n = a->n_id - i < COUNT_IDS ? a->n_id - i : COUNT_IDS;
        p.n_prompt = a->n_prompt - i;
        memcpy(p.id, a->id + i, (size_t)p.n * sizeof p.id[0]);
        error = launch(st, counts_kernel, dim3(1), dim3(COUNT_IDS), 0, p);
    }
    return error;
}
