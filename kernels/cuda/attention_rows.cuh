/*
 * Attention of single rows over the paged KV pool, split along the context.
 *
 * One block takes one row, one KV head (up to 16 of its query heads at once) and one split of the
 * context; a warp takes every fourth KV block of it. Scores and output are computed transposed,
 * S^T = K Q^T and O^T = V^T P^T, so K and V are the wide operands of the tensor cores and come from
 * memory straight into their fragments; up to 8 heads of a group share every byte. The last split
 * to finish merges the others in their order.
 *
 * Fragments (g = lane / 4, t = lane % 4), one KV block of 16 tokens:
 *   K    rows g and g + 8 (tokens), 8 values at 32 j + 8 t; k is permuted alike in Q
 *   S^T  tokens g and g + 8, heads 2t and 2t + 1; transposed by movmatrix into P^T
 *   V    tokens 2t, 2t + 1, 2t + 8, 2t + 9, 8 values at 64 i + 8 g; pairs of tokens by byte permute
 *   O^T  tile 4 i + j: dims 64 i + 8 g + 2 j (+ 1), heads 2t and 2t + 1
 */
#ifndef RINGLET_CUDA_ATTENTION_ROWS_CUH
#define RINGLET_CUDA_ATTENTION_ROWS_CUH

#include "kernels/cuda/cuda_common.cuh"

enum { ROWS_WARPS = 4 };

struct attn_params {
    bf16 *out;
    const bf16 *q;
    const bf16 *k, *v;
    int64_t out_stride, q_stride, block_stride; /* elements */
    const int32_t *row_start, *kv_tokens, *block_start, *blocks, *row_seq;
    float *part;
    uint32_t *ticket;
    int row0, n_head, n_kv_head, head_dim, window;
    int group, n_group;    /* query heads a block takes; blocks per KV head */
    int n_split;           /* grid; with fixed: at most this many of a length that depends on kv */
    bool fixed;
    float scale;
};

struct row_range {
    int kv, first;         /* visible positions [first, kv) */
    int block0, block1;    /* KV blocks of this split */
    int active;            /* splits of this row */
};

static __device__ __forceinline__ row_range range_of(const attn_params &p, int row, int split)
{
    row_range r = {};
    int seq = p.row_seq[row], kv = p.kv_tokens[seq];
    if (kv <= 0)
        return r;
    r.kv = kv - (p.row_start[seq + 1] - 1 - row);
    r.first = p.window > 0 ? max(0, r.kv - p.window) : 0;
    int block0 = r.first / KV_BLOCK_TOKENS;
    int n_block = (r.kv + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS - block0;
    int each = (n_block + p.n_split - 1) / p.n_split;
    if (p.fixed)
        each = max(16, (n_block + ATTN_SPLIT_MAX - 1) / ATTN_SPLIT_MAX);
    each = (each + ROWS_WARPS - 1) / ROWS_WARPS * ROWS_WARPS;
    r.active = (n_block + each - 1) / each;
    r.block0 = block0 + split * each;
    r.block1 = min(r.block0 + each, block0 + n_block);
    return r;
}

static __device__ __forceinline__ uint32_t transpose8x8(uint32_t v)
{
    uint32_t r;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(v));
    return r;
}

static __device__ __forceinline__ uint32_t pack_bf16(float lo, float hi)
{
    __nv_bfloat162 v = __floats2bfloat162_rn(lo, hi);
    uint32_t r;
    memcpy(&r, &v, 4);
    return r;
}

static __device__ __forceinline__ uint4 load_kv(const bf16 *p)
{
    uint4 r;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
                 : "l"(p));
    return r;
}

/* One warp's running softmax over its KV blocks, for 8 NT heads. */
template <int HD, int NT> struct row_state {
    float o[NT][HD / 16][4];
    float max[NT][2], sum[NT][2];
    uint4 q[NT][HD / 32];
    uint4 k[HD / 32][2];
    uint4 v[HD / 64][4];

    __device__ void load_q(const bf16 *q0, int n_valid, int g, int t)
    {
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int j = 0; j < HD / 32; j++)
                q[n][j] = n * 8 + g < n_valid
                              ? __ldcg((const uint4 *)(q0 + (n * 8 + g) * HD + 32 * j + 8 * t))
                              : make_uint4(0, 0, 0, 0);
    }

    __device__ void load_k(const bf16 *block, int g, int t)
    {
#pragma unroll
        for (int j = 0; j < HD / 32; j++) {
            k[j][0] = load_kv(block + g * HD + 32 * j + 8 * t);
            k[j][1] = load_kv(block + (g + 8) * HD + 32 * j + 8 * t);
        }
    }

    /* Tokens outside of [lo, hi) may hold anything, NaN too: they count as zero. */
    __device__ void load_v(const bf16 *block, int g, int t, int lo, int hi)
    {
#pragma unroll
        for (int i = 0; i < HD / 64; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int token = 2 * t + j % 2 + j / 2 * 8;
                v[i][j] = token >= lo && token < hi ? load_kv(block + token * HD + 64 * i + 8 * g)
                                                    : make_uint4(0, 0, 0, 0);
            }
    }

    __device__ void scores(float (*s)[4])
    {
#pragma unroll
        for (int j = 0; j < HD / 32; j++)
#pragma unroll
            for (int n = 0; n < NT; n++) {
                mma_16816(s[n], k[j][0].x, k[j][1].x, k[j][0].y, k[j][1].y, q[n][j].x, q[n][j].y);
                mma_16816(s[n], k[j][0].z, k[j][1].z, k[j][0].w, k[j][1].w, q[n][j].z, q[n][j].w);
            }
    }

    /* s becomes weights; the state is rescaled where a maximum grew. */
    __device__ void soften(float (*s)[4], float scale, int g, int lo, int hi)
    {
#pragma unroll
        for (int n = 0; n < NT; n++) {
            float grown[2];
#pragma unroll
            for (int c = 0; c < 2; c++) {
                s[n][c] = g >= lo && g < hi ? s[n][c] * scale : -INFINITY;
                s[n][c + 2] = g + 8 >= lo && g + 8 < hi ? s[n][c + 2] * scale : -INFINITY;
                float m = fmaxf(s[n][c], s[n][c + 2]);
#pragma unroll
                for (int x = 4; x < 32; x <<= 1)
                    m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, x));
                grown[c] = fmaxf(max[n][c], m);
            }
            if (__any_sync(0xffffffffu, grown[0] > max[n][0] || grown[1] > max[n][1])) {
                float f0 = exp2f(max[n][0] - grown[0]), f1 = exp2f(max[n][1] - grown[1]);
                sum[n][0] *= f0;
                sum[n][1] *= f1;
#pragma unroll
                for (int j = 0; j < HD / 16; j++) {
                    o[n][j][0] *= f0;
                    o[n][j][1] *= f1;
                    o[n][j][2] *= f0;
                    o[n][j][3] *= f1;
                }
            }
#pragma unroll
            for (int c = 0; c < 2; c++) {
                max[n][c] = grown[c];
                s[n][c] = exp2f(s[n][c] - grown[c]);
                s[n][c + 2] = exp2f(s[n][c + 2] - grown[c]);
                sum[n][c] += s[n][c] + s[n][c + 2];
            }
        }
    }

    __device__ void accumulate(const float (*s)[4])
    {
        uint32_t b[NT][2];
#pragma unroll
        for (int n = 0; n < NT; n++) {
            b[n][0] = transpose8x8(pack_bf16(s[n][0], s[n][1]));
            b[n][1] = transpose8x8(pack_bf16(s[n][2], s[n][3]));
        }
#pragma unroll
        for (int i = 0; i < HD / 64; i++) {
            const uint32_t *w0 = &v[i][0].x, *w1 = &v[i][1].x, *w2 = &v[i][2].x, *w3 = &v[i][3].x;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                uint32_t a0 = __byte_perm(w0[j], w1[j], 0x5410);
                uint32_t a1 = __byte_perm(w0[j], w1[j], 0x7632);
                uint32_t a2 = __byte_perm(w2[j], w3[j], 0x5410);
                uint32_t a3 = __byte_perm(w2[j], w3[j], 0x7632);
#pragma unroll
                for (int n = 0; n < NT; n++)
                    mma_16816(o[n][4 * i + j], a0, a1, a2, a3, b[n][0], b[n][1]);
            }
        }
    }
};

template <int HD, int NT>
static __device__ __forceinline__ void walk(const attn_params &p, const row_range &r, int seq,
                                            int kv_head, row_state<HD, NT> &state)
{
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int32_t *blocks = p.blocks + p.block_start[seq];
    int64_t head_at = (int64_t)kv_head * KV_BLOCK_TOKENS * HD;
    const bf16 *k = p.k + head_at, *v = p.v + head_at;
    int b = r.block0 + warp;
    if (b >= r.block1)
        return;
    int64_t at = blocks[b] * p.block_stride;
    int next_id = b + ROWS_WARPS < r.block1 ? blocks[b + ROWS_WARPS] : 0;
    auto lo = [&](int block) { return r.first - block * KV_BLOCK_TOKENS; };
    auto hi = [&](int block) { return r.kv - block * KV_BLOCK_TOKENS; };
    state.load_k(k + at, g, t);
    state.load_v(v + at, g, t, lo(b), hi(b));
    for (; b < r.block1; b += ROWS_WARPS) {
        int next = b + ROWS_WARPS;
        at = next_id * p.block_stride;
        if (next + ROWS_WARPS < r.block1)
            next_id = blocks[next + ROWS_WARPS];
        float s[NT][4] = {};
        state.scores(s);
        if (next < r.block1)
            state.load_k(k + at, g, t);
        state.soften(s, p.scale, g, lo(b), hi(b));
        state.accumulate(s);
        if (next < r.block1)
            state.load_v(v + at, g, t, lo(next), hi(next));
    }
}

/* A block's or a split's result for one head: maximum (log2), sum, then HD unscaled values. */
template <int HD> struct head_part {
    float max, sum, o[HD];
};

template <int HD, int NT>
static __device__ __forceinline__ void put_warp(row_state<HD, NT> &state, head_part<HD> *to)
{
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
            head_part<HD> *head = to + n * 8 + 2 * t + c;
            float sum = state.sum[n][c];
#pragma unroll
            for (int x = 4; x < 32; x <<= 1)
                sum += __shfl_xor_sync(0xffffffffu, sum, x);
            if (g == 0) {
                head->max = state.max[n][c];
                head->sum = sum;
            }
#pragma unroll
            for (int j = 0; j < HD / 16; j++) {
                int d = j / 4 * 64 + 8 * g + j % 4 * 2;
                head->o[d] = state.o[n][j][c];
                head->o[d + 1] = state.o[n][j][c + 2];
            }
        }
    }
}

/* Merge n parts of head h (stride parts apart), in order: value d, with the joint max and sum. */
template <int HD, bool GLOBAL>
static __device__ __forceinline__ float merge(const head_part<HD> *part, int n, int stride, int d,
                                              float *ret_max, float *ret_sum)
{
    float max = -INFINITY, sum = 0, value = 0;
    for (int i = 0; i < n; i++)
        max = fmaxf(max, GLOBAL ? __ldcg(&part[i * stride].max) : part[i * stride].max);
    for (int i = 0; i < n; i++) {
        const head_part<HD> *h = part + i * stride;
        float own = GLOBAL ? __ldcg(&h->max) : h->max;
        float f = own == -INFINITY ? 0.0f : exp2f(own - max);
        sum += f * (GLOBAL ? __ldcg(&h->sum) : h->sum);
        value += f * (GLOBAL ? __ldcg(&h->o[d]) : h->o[d]);
    }
    *ret_max = max;
    *ret_sum = sum;
    return value;
}

template <int HD, int NT>
static __global__ void __launch_bounds__(ROWS_WARPS * 32, NT == 1 && HD <= 128 ? 3 : 1)
attn_rows_kernel(const __grid_constant__ attn_params p)
{
    extern __shared__ float shared[];
    head_part<HD> *local = (head_part<HD> *)shared; /* [warp][8 NT] */
    pdl_wait();
    int row = p.row0 + (int)blockIdx.z, split = (int)blockIdx.x;
    int kv_head = (int)blockIdx.y / p.n_group, group = (int)blockIdx.y % p.n_group;
    int per_kv = p.n_head / p.n_kv_head;
    int head0 = kv_head * per_kv + group * p.group;
    int n_valid = min(p.group, per_kv - group * p.group);
    bf16 *out = p.out + row * p.out_stride + (int64_t)head0 * HD;
    row_range r = range_of(p, row, split);
    if (r.kv == 0) { /* padding */
        for (int i = (int)threadIdx.x; split == 0 && i < n_valid * HD; i += ROWS_WARPS * 32)
            out[i] = __float2bfloat16(0);
        return;
    }
    if (split >= r.active)
        return;
    row_state<HD, NT> state;
    memset(&state.o, 0, sizeof state.o);
    for (int n = 0; n < NT; n++)
        for (int c = 0; c < 2; c++) {
            state.max[n][c] = -INFINITY;
            state.sum[n][c] = 0;
        }
    int lane = (int)threadIdx.x % 32;
    state.load_q(p.q + row * p.q_stride + (int64_t)head0 * HD, n_valid, lane / 4, lane % 4);
    walk<HD, NT>(p, r, p.row_seq[row], kv_head, state);
    pdl_trigger();
    put_warp<HD, NT>(state, local + threadIdx.x / 32 * 8 * NT);
    __syncthreads();

    int64_t unit = (int64_t)blockIdx.z * gridDim.y + blockIdx.y;
    head_part<HD> *part = (head_part<HD> *)p.part + unit * p.n_split * p.group;
    for (int i = (int)threadIdx.x; i < n_valid * HD; i += ROWS_WARPS * 32) {
        float max, sum;
        int h = i / HD, d = i % HD;
        float value = merge<HD, false>(local + h, ROWS_WARPS, 8 * NT, d, &max, &sum);
        if (r.active == 1) {
            out[i] = __float2bfloat16(value / sum);
            continue;
        }
        head_part<HD> *to = part + split * p.group + h;
        to->o[d] = value;
        if (d == 0) {
            to->max = max;
            to->sum = sum;
        }
    }
    if (r.active == 1 || !last_arriver(p.ticket + unit, (uint32_t)r.active))
        return;
    for (int i = (int)threadIdx.x; i < n_valid * HD; i += ROWS_WARPS * 32) {
        float max, sum;
        float value = merge<HD, true>(part + i / HD, r.active, p.group, i % HD, &max, &sum);
        out[i] = __float2bfloat16(value / sum);
    }
}

/* Any head size up to 256: a warp takes one row and one query head, token by token. */
static __global__ void __launch_bounds__(128) attn_any_kernel(const __grid_constant__ attn_params p)
{
    pdl_wait();
    int row = p.row0 + (int)blockIdx.x, lane = (int)threadIdx.x % 32;
    int head = (int)(blockIdx.y * 4 + threadIdx.x / 32), hd = p.head_dim;
    if (head >= p.n_head)
        return;
    int seq = p.row_seq[row], kv = p.kv_tokens[seq];
    if (kv > 0)
        kv -= p.row_start[seq + 1] - 1 - row;
    const bf16 *q = p.q + row * p.q_stride + (int64_t)head * hd;
    bf16 *out = p.out + row * p.out_stride + (int64_t)head * hd;
    const int32_t *blocks = p.blocks + p.block_start[seq];
    int64_t head_at = (int64_t)(head / (p.n_head / p.n_kv_head)) * KV_BLOCK_TOKENS * hd;
    float qv[8] = {}, o[8] = {}, max = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (lane + 32 * i < hd)
            qv[i] = __bfloat162float(q[lane + 32 * i]) * p.scale;
    for (int token = p.window > 0 ? ::max(0, kv - p.window) : 0; token < kv; token++) {
        int64_t at = blocks[token / KV_BLOCK_TOKENS] * p.block_stride + head_at
                     + token % KV_BLOCK_TOKENS * hd;
        float dot = 0;
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (lane + 32 * i < hd)
                dot += qv[i] * __bfloat162float(p.k[at + lane + 32 * i]);
        dot = warp_sum(dot);
        float grown = fmaxf(max, dot), f = exp2f(max - grown), weight = exp2f(dot - grown);
        max = grown;
        sum = sum * f + weight;
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (lane + 32 * i < hd)
                o[i] = o[i] * f + weight * __bfloat162float(p.v[at + lane + 32 * i]);
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (lane + 32 * i < hd)
            out[lane + 32 * i] = __float2bfloat16(kv > 0 ? o[i] / sum : 0.0f);
}

#endif
