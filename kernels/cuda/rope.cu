/* Head norms, rotary embedding and the KV append: one warp a head and row. */
#include "kernels/cuda/act.cuh"

namespace ACT_SPACE {

enum { ROPE_WARPS = 4, HEAD_DIM_MAX = 256 };

struct rope_params {
    act *q;
    const act *k, *v;
    int64_t stride;
    int n_head, n_kv_head, head_dim, n_job; /* jobs: rows x (q heads + k heads + v heads) */
    const int32_t *position, *slot;
    const float *inv_freq, *q_norm, *k_norm;
    int n_dim;
    bool interleaved;
    float scale, eps;
    act *k_pool, *v_pool;
    int64_t block_stride; /* elements */
};

static __device__ __forceinline__ int64_t slot_at(const rope_params &p, int slot, int head)
{
    return slot / KV_BLOCK_TOKENS * p.block_stride
           + ((int64_t)head * KV_BLOCK_TOKENS + slot % KV_BLOCK_TOKENS) * p.head_dim;
}

/* Lane values at dims lane, lane + 32, ... through shared memory, since pairs may be far apart. */
static __device__ void rope_head(const rope_params &p, const act *src, act *dst,
                                 const float *norm, int position, float *s)
{
    int lane = (int)threadIdx.x % 32;
    float sum = 0;
    for (int i = lane; i < p.head_dim; i += 32) {
        float v = to_float(src[i]);
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
        dst[a] = to_act(s[a] * cosine - s[b] * sine);
        dst[b] = to_act(s[b] * cosine + s[a] * sine);
    }
    for (int i = p.n_dim + lane; i < p.head_dim; i += 32)
        dst[i] = to_act(s[i]);
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
        act *q = p.q + row * p.stride + (int64_t)head * p.head_dim;
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
    const act *v = p.v + row * p.stride + (int64_t)head * p.head_dim;
    act *to = p.v_pool + slot_at(p, slot, head);
    for (int i = (int)threadIdx.x % 32; i < p.head_dim; i += 32)
        to[i] = v[i];
}

enum { TOKEN_THREADS_MAX = 512 };

/*
 * One block a token: the angles once, then 16 bytes of either half of a head a thread, as many at
 * once as there are threads. Head sizes whose head_dim / 16 threads are a power of two, whole heads
 * rotated, halves paired.
 */
static __global__ void __launch_bounds__(TOKEN_THREADS_MAX, 3)
rope_token_kernel(const __grid_constant__ rope_params p)
{
    __shared__ float sine[HEAD_DIM_MAX / 2], cosine[HEAD_DIM_MAX / 2];
    int row = (int)blockIdx.x, half = p.head_dim / 2, per_head = p.head_dim / 16;
    int slot = p.slot[row];
    for (int i = (int)threadIdx.x; i < half; i += (int)blockDim.x) {
        sincosf((float)p.position[row] * p.inv_freq[i], &sine[i], &cosine[i]);
        sine[i] *= p.scale;
        cosine[i] *= p.scale;
    }
    pdl_wait();
    int n_turn = (p.n_head + p.n_kv_head) * per_head, n_all = n_turn + p.n_kv_head * per_head;
    for (int i0 = 0; i0 < n_all; i0 += (int)blockDim.x) {
        int i = i0 + (int)threadIdx.x, head = i / per_head, at = i % per_head * 8;
        bool is_q = head < p.n_head, is_k = !is_q && i < n_turn, active = i < n_all;
        int own = is_q ? head : is_k ? head - p.n_head : head - p.n_head - p.n_kv_head;
        const act *src = (is_q ? p.q : is_k ? p.k : p.v) + row * p.stride
                          + (int64_t)own * p.head_dim + at;
        float a[8] = {}, b[8] = {}, sum = 0;
        if (active) {
            unpack8(load8(src), a);
            unpack8(load8(src + half), b);
        }
        const float *norm = is_q ? p.q_norm : is_k ? p.k_norm : NULL;
        if (i0 == 0)
            __syncthreads(); /* the angles; the first values are under way */
        for (int j = 0; j < 8; j++)
            sum += a[j] * a[j] + b[j] * b[j];
        for (int x = 1; x < per_head; x <<= 1)
            sum += __shfl_xor_sync(0xffffffffu, sum, x);
        float rstd = rsqrtf(sum / (float)p.head_dim + p.eps);
        for (int j = 0; j < 8; j++) {
            if (norm) {
                a[j] *= rstd * norm[at + j];
                b[j] *= rstd * norm[at + half + j];
            }
            if (is_q || is_k) {
                float turned = a[j] * cosine[at + j] - b[j] * sine[at + j];
                b[j] = b[j] * cosine[at + j] + a[j] * sine[at + j];
                a[j] = turned;
            }
        }
        act *to = is_q ? p.q + row * p.stride + (int64_t)own * p.head_dim
                        : (is_k ? p.k_pool : p.v_pool) + slot_at(p, slot, own);
        if (active && (is_q || slot >= 0)) {
            store8(to + at, a);
            store8(to + at + half, b);
        }
    }
}

static bool whole_heads(const rope_params &p)
{
    int per_head = p.head_dim / 16;
    return p.n_dim == p.head_dim && !p.interleaved && p.head_dim % 16 == 0 && per_head <= 16
           && (per_head & (per_head - 1)) == 0 && p.stride % 8 == 0 && (uintptr_t)p.q % 16 == 0
           && (uintptr_t)p.k % 16 == 0 && (uintptr_t)p.v % 16 == 0 && p.block_stride % 8 == 0;
}

int cuda_rope_append(struct stream *st, const struct rope_append_args *a)
{
    if (a->kv.dtype != ACT_DTYPE || a->kv.head_dim > HEAD_DIM_MAX)
        return -ENOTSUP;
    if (a->n_row == 0)
        return 0;
    st->appended_rows = a->n_row;
    rope_params p;
    rope_tell(&p, a);
    p.q = (act *)a->q;
    p.k = (const act *)a->k;
    p.v = (const act *)a->v;
    p.stride = a->stride;
    p.n_head = a->n_head;
    p.n_kv_head = a->kv.n_kv_head;
    p.head_dim = a->kv.head_dim;
    p.n_job = a->n_row * (a->n_head + 2 * a->kv.n_kv_head);
    p.n_dim = a->rope.n_dim;
    p.interleaved = a->rope.interleaved;
    p.block_stride = a->kv.block_stride / (int64_t)sizeof(act);
    int threads = div_up((a->n_head + 2 * a->kv.n_kv_head) * a->kv.head_dim / 16, 32) * 32;
    threads = threads < 128 ? 128 : threads < TOKEN_THREADS_MAX ? threads : TOKEN_THREADS_MAX;
    if (whole_heads(p))
        return launch(st, rope_token_kernel, dim3((unsigned)a->n_row), dim3((unsigned)threads), 0,
                      p);
    return launch(st, rope_append_kernel, dim3((unsigned)div_up(p.n_job, ROPE_WARPS)),
                  dim3(ROPE_WARPS * 32), 0, p);
}

} // namespace ACT_SPACE
