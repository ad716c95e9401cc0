/* Head norms, rotary embedding and the KV append: one warp a head and row. */
#include "kernels/cuda/cuda_common.cuh"

enum { ROPE_WARPS = 4, HEAD_DIM_MAX = 256 };

struct rope_params {
    bf16 *q;
    const bf16 *k, *v;
    int64_t stride;
    int n_head, n_kv_head, head_dim, n_job; /* jobs: rows x (q heads + k heads + v heads) */
    const int32_t *position, *slot;
    const float *inv_freq, *q_norm, *k_norm;
    int n_dim;
    bool interleaved;
    float scale, eps;
    bf16 *k_pool, *v_pool;
    int64_t block_stride; /* elements */
};

static __device__ __forceinline__ int64_t slot_at(const rope_params &p, int slot, int head)
{
    return slot / KV_BLOCK_TOKENS * p.block_stride
           + ((int64_t)head * KV_BLOCK_TOKENS + slot % KV_BLOCK_TOKENS) * p.head_dim;
}

/* Lane values at dims lane, lane + 32, ... through shared memory, since pairs may be far apart. */
static __device__ void rope_head(const rope_params &p, const bf16 *src, bf16 *dst,
                                 const float *norm, int position, float *s)
{
    int lane = (int)threadIdx.x % 32;
    float sum = 0;
    for (int i = lane; i < p.head_dim; i += 32) {
        float v = __bfloat162float(src[i]);
        s[i] = v;
        sum += v * v;
    }
    if (norm) {
        float rstd = rsqrtf(warp_sum(sum) / (float)p.head_dim + p.eps);
        for (int i = lane; i < p.head_dim; i += 32)
            s[i] *= rstd * norm[i];
    }
    __syncwarp();
    int half = p.n_dim / 2;
    for (int i = lane; i < half; i += 32) {
        int a = p.interleaved ? 2 * i : i, b = p.interleaved ? 2 * i + 1 : i + half;
        float sine, cosine;
        sincosf((float)position * p.inv_freq[i], &sine, &cosine);
        sine *= p.scale;
        cosine *= p.scale;
        dst[a] = __float2bfloat16(s[a] * cosine - s[b] * sine);
        dst[b] = __float2bfloat16(s[b] * cosine + s[a] * sine);
    }
    for (int i = p.n_dim + lane; i < p.head_dim; i += 32)
        dst[i] = __float2bfloat16(s[i]);
    __syncwarp();
}

static __global__ void __launch_bounds__(ROPE_WARPS * 32)
rope_append_kernel(const __grid_constant__ rope_params p)
{
    __shared__ float shared[ROPE_WARPS][HEAD_DIM_MAX];
    pdl_wait();
    int job = (int)(blockIdx.x * ROPE_WARPS + threadIdx.x / 32);
    if (job >= p.n_job)
        return;
    int heads = p.n_head + 2 * p.n_kv_head, row = job / heads, head = job % heads;
    float *s = shared[threadIdx.x / 32];
    int slot = p.slot[row], position = p.position[row];
    if (head < p.n_head) {
        bf16 *q = p.q + row * p.stride + (int64_t)head * p.head_dim;
        rope_head(p, q, q, p.q_norm, position, s);
        return;
    }
    head -= p.n_head;
    if (slot < 0)
        return;
    if (head < p.n_kv_head) {
        rope_head(p, p.k + row * p.stride + (int64_t)head * p.head_dim,
                  p.k_pool + slot_at(p, slot, head), p.k_norm, position, s);
        return;
    }
    head -= p.n_kv_head;
    const bf16 *v = p.v + row * p.stride + (int64_t)head * p.head_dim;
    bf16 *to = p.v_pool + slot_at(p, slot, head);
    for (int i = (int)threadIdx.x % 32; i < p.head_dim; i += 32)
        to[i] = v[i];
}

int cuda_rope_append(struct stream *st, const struct rope_append_args *a)
{
    if (a->kv.dtype != DTYPE_BF16 || a->kv.head_dim > HEAD_DIM_MAX)
        return -ENOTSUP;
    if (a->n_row == 0)
        return 0;
    st->appended_rows = a->n_row;
    rope_params p;
    p.q = (bf16 *)a->q;
    p.k = (const bf16 *)a->k;
    p.v = (const bf16 *)a->v;
    p.stride = a->stride;
    p.n_head = a->n_head;
    p.n_kv_head = a->kv.n_kv_head;
    p.head_dim = a->kv.head_dim;
    p.n_job = a->n_row * (a->n_head + 2 * a->kv.n_kv_head);
    p.position = a->position;
    p.slot = a->slot;
    p.inv_freq = a->rope.inv_freq;
    p.q_norm = a->q_norm;
    p.k_norm = a->k_norm;
    p.n_dim = a->rope.n_dim;
    p.interleaved = a->rope.interleaved;
    p.scale = a->rope.scale;
    p.eps = a->norm_eps;
    p.k_pool = (bf16 *)a->kv.k;
    p.v_pool = (bf16 *)a->kv.v;
    p.block_stride = a->kv.block_stride / (int64_t)sizeof(bf16);
    return launch(st, rope_append_kernel, dim3((unsigned)div_up(p.n_job, ROPE_WARPS)),
                  dim3(ROPE_WARPS * 32), 0, p);
}
