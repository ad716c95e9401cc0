/* Paged attention: which kernel takes which rows. attn_plan.h: how contexts are split. */
#include "kernels/cuda/attention_rows.cuh"

#include <math.h>

namespace ACT_SPACE {

enum {
    HEADS_A_BLOCK = 16,
    LONE_WAVES = 2, /* of blocks without splits: from here on a short context has one warp */
};

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
    const act *q = p.q + row * p.q_stride + (int64_t)head * hd;
    act *out = p.out + row * p.out_stride + (int64_t)head * hd;
    const int32_t *blocks = p.blocks + p.block_start[seq];
    int64_t head_at = (int64_t)(head / (p.n_head / p.n_kv_head)) * KV_BLOCK_TOKENS * hd;
    float qv[8] = {}, o[8] = {}, max = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (lane + 32 * i < hd)
            qv[i] = to_float(q[lane + 32 * i]) * p.scale;
    for (int token = p.window > 0 ? ::max(0, kv - p.window) : 0; token < kv; token++) {
        int64_t at = blocks[token / KV_BLOCK_TOKENS] * p.block_stride + head_at
                     + token % KV_BLOCK_TOKENS * hd;
        float dot = 0;
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (lane + 32 * i < hd)
                dot += qv[i] * to_float(p.k[at + lane + 32 * i]);
        dot = warp_sum(dot);
        float grown = fmaxf(max, dot), f = exp2f(max - grown), weight = exp2f(dot - grown);
        max = grown;
        sum = sum * f + weight;
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (lane + 32 * i < hd)
                o[i] = o[i] * f + weight * to_float(p.v[at + lane + 32 * i]);
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        if (lane + 32 * i < hd)
            out[lane + 32 * i] = to_act(kv > 0 ? o[i] / sum : 0.0f);
}

static attn_turn turn_of(const struct rope_append_args *r)
{
    attn_turn turn;
    rope_tell(&turn, r);
    turn.k = (const act *)r->k;
    turn.v = (const act *)r->v;
    turn.normed = r->q_norm != NULL;
    return turn;
}

static attn_params params_of(struct stream *st, const struct attn_args *a)
{
    const struct seq_batch *b = a->batch;
    attn_params p = {};
    p.out = (act *)a->out;
    p.q = (const act *)a->q;
    p.k = (const act *)a->kv.k;
    p.v = (const act *)a->kv.v;
    p.out_stride = a->out_stride;
    p.q_stride = a->q_stride;
    p.block_stride = a->kv.block_stride / (int64_t)sizeof(act);
    p.row_start = b->row_start;
    p.kv_tokens = b->kv_tokens;
    p.block_start = b->block_start;
    p.blocks = b->blocks;
    p.row_seq = b->row_seq;
    p.part = st->attn_part;
    p.ticket = st->ticket;
    p.n_head = a->n_head;
    p.n_kv_head = a->kv.n_kv_head;
    p.head_dim = a->kv.head_dim;
    p.window = a->window;
    p.fixed = b->deterministic;
    p.ahead = a->rope ? st->settled : st->appended_rows == b->n_row;
    p.scale = a->scale * (float)M_LOG2E;
    if (a->rope)
        p.turn = turn_of(a->rope);
    int per_kv = a->n_head / a->kv.n_kv_head;
    p.n_group = div_up(per_kv, HEADS_A_BLOCK);
    p.group = per_kv < HEADS_A_BLOCK ? per_kv : HEADS_A_BLOCK;
    return p;
}

template <int HD, int NT, bool TURN, int W>
static int launch_rows(struct stream *st, const attn_params &p, int n_row)
{
    constexpr size_t PART = sizeof(head_part<HD>);
    constexpr int BYTES_MAX = (int)((W + ATTN_CLUSTER_MAX) * 8 * NT * PART); /* whatever the plan */
    /* The merge of splits fits in what the warps leave. */
    size_t smem = (size_t)((W + (p.cluster ? p.n_split : 0)) * p.group) * PART;
    static_assert(W * PART >= (ATTN_SPLIT_MAX + 1) * sizeof(float));
    if (smem > 40 << 10) { /* of 48 KB without asking, less what is static */
        int error = CUDA_CHECK(st->dev,
                               cudaFuncSetAttribute(attn_rows_kernel<HD, NT, TURN, W>,
                                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                    BYTES_MAX));
        if (error)
            return error;
    }
    dim3 grid((unsigned)p.n_split, (unsigned)(p.n_kv_head * p.n_group), (unsigned)n_row);
    return launch_cluster(st, attn_rows_kernel<HD, NT, TURN, W>, grid, dim3(W * 32), smem,
                          p.cluster ? p.n_split : 1, p);
}

template <int HD, int W>
static int launch_warps(struct stream *st, const attn_params &p, int n_row)
{
    return p.turn.k ? launch_rows<HD, 1, true, W>(st, p, n_row)
                    : launch_rows<HD, 1, false, W>(st, p, n_row);
}

template <int HD>
static int launch_heads(struct stream *st, const attn_params &p, int n_warp, int n_row)
{
    if (p.group > 8)
        return launch_rows<HD, 2, false, ATTN_NARROW>(st, p, n_row);
    if (HD == 64 && n_warp == ATTN_WIDEST)
        return launch_warps<64, ATTN_WIDEST>(st, p, n_row);
    return n_warp == ATTN_WIDE ? launch_warps<HD, ATTN_WIDE>(st, p, n_row)
                               : launch_warps<HD, ATTN_NARROW>(st, p, n_row);
}

static int attn_rows(struct stream *st, attn_params p, int row0, int n_row, int kv_tokens_max)
{
    while (n_row > 0) {
        /* Groups of rows, so that partials and tickets fit. */
        int n = n_row;
        int64_t unit = (int64_t)p.n_kv_head * p.n_group;
        struct attn_work work = { st->dev->n_sm, st->dev->compute, (int)(n * unit), p.head_dim,
                                  p.group, kv_tokens_max, p.fixed };
        struct attn_plan plan = attn_plan_of(&work);
        int64_t held = (int64_t)st->dev->n_sm
                       * (plan.n_warp == ATTN_NARROW ? (int)ATTN_NARROW_BLOCKS : 1);
        p.n_split = plan.n_split;
        p.cluster = plan.cluster;
        if (p.n_split > 1) {
            int64_t floats = unit * p.n_split * p.group * (p.head_dim + 4);
            int64_t fit = st->attn_part_floats / floats;
            if (fit > TICKETS / unit)
                fit = TICKETS / unit;
            if (n > fit)
                n = fit > 0 ? (int)fit : 1;
        }
        if (n > 32768)
            n = 32768;
        p.row0 = row0;
        p.lone = !p.turn.k && !p.fixed && p.n_split == 1 && n * unit >= LONE_WAVES * held;
        p.early = (int64_t)n * unit * p.n_split <= held;
        p.soonest = (int64_t)n * unit * p.n_split <= st->dev->n_sm;
        int error = p.head_dim == 64 ? launch_heads<64>(st, p, plan.n_warp, n)
                                     : launch_heads<128>(st, p, plan.n_warp, n);
        if (error)
            return error;
        row0 += n;
        n_row -= n;
    }
    return 0;
}

bool cuda_attn_turns(struct stream *st, const struct attn_args *a)
{
    return attn_turns_fits(a, ACT_DTYPE, st->dev->compute);
}

int cuda_attn(struct stream *st, const struct attn_args *a)
{
    const struct seq_batch *b = a->batch;
    if (a->kv.dtype != ACT_DTYPE || a->kv.head_dim > 256 || a->kv.n_kv_head <= 0
        || a->n_head % a->kv.n_kv_head)
        return -ENOTSUP;
    if (b->n_row == 0)
        return 0;
    if (a->rope && !attn_turns_fits(a, ACT_DTYPE, st->dev->compute))
        return -ENOTSUP;
    attn_params p = params_of(st, a);
    if (a->rope)
        st->appended_rows = 0; /* the new rows' append is not behind but in this kernel */
    bool aligned = p.block_stride % 8 == 0 && p.q_stride % 8 == 0 && (uintptr_t)p.q % 16 == 0
                   && (uintptr_t)p.k % 16 == 0 && (uintptr_t)p.v % 16 == 0;
    if (aligned && (p.head_dim == 64 || p.head_dim == 128)) {
        int error = attn_prefill(st, p, a);
        if (error == -ENOTSUP)
            return attn_rows(st, p, 0, b->n_row, b->kv_tokens_max);
        return error || b->n_decode == 0 ? error
                                         : attn_rows(st, p, 0, b->n_decode, b->kv_tokens_max);
    }
    return launch(st, attn_any_kernel, dim3((unsigned)b->n_row, (unsigned)div_up(p.n_head, 4)),
                  dim3(128), 0, p);
}

} // namespace ACT_SPACE
