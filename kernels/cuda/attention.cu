/* Paged attention: which kernel takes which rows, and how contexts are split. */
#include "kernels/cuda/attention_rows.cuh"
#include "kernels/cuda/sm90/attention_sm90.cuh"

#include <math.h>

namespace ACT_SPACE {

enum {
    HEADS_A_BLOCK = 16,
    BLOCKS_A_SM = 3,
    BLOCK_COST = 2, /* of a block's start and end, in KV blocks a warp */
    TICKET_COST = 1, /* of a merge through memory, likewise */
    SPLIT_TOKENS_MIN = 64,
    FIXED_TOKENS = 256,
    PREFILL_ROWS_MIN = 17,
};

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
    p.ahead = st->appended_rows == b->n_row;
    p.scale = a->scale * (float)M_LOG2E;
    int per_kv = a->n_head / a->kv.n_kv_head;
    p.n_group = div_up(per_kv, HEADS_A_BLOCK);
    p.group = per_kv < HEADS_A_BLOCK ? per_kv : HEADS_A_BLOCK;
    return p;
}

template <int HD, int NT>
static int launch_rows(struct stream *st, const attn_params &p, int n_row)
{
    size_t smem = ROWS_WARPS * 8 * NT * sizeof(head_part<HD>); /* the merge of splits fits in it */
    if (p.cluster)
        smem += (size_t)(p.n_split * p.group) * sizeof(head_part<HD>);
    static_assert(ROWS_WARPS * sizeof(head_part<HD>) >= (ATTN_SPLIT_MAX + 1) * sizeof(float));
    if (smem > 48 << 10) {
        int error = CUDA_CHECK(st->dev,
                               cudaFuncSetAttribute(attn_rows_kernel<HD, NT>,
                                                    cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                    (int)smem));
        if (error)
            return error;
    }
    dim3 grid((unsigned)p.n_split, (unsigned)(p.n_kv_head * p.n_group), (unsigned)n_row);
    return launch_cluster(st, attn_rows_kernel<HD, NT>, grid, dim3(ROWS_WARPS * 32), smem,
                          p.cluster ? p.n_split : 1, p);
}

/* A cluster waits until there is room for all of it, so only grids that leave room have them. */
static bool can_cluster(struct stream *st, const attn_params &p, int64_t units, int n_split)
{
    int a_sm = p.head_dim == 64 ? BLOCKS_A_SM : BLOCKS_A_SM - 1;
    return st->dev->compute >= 90 && !p.fixed && n_split > 1 && n_split <= CLUSTER_SPLITS_MAX
           && units * n_split <= (int64_t)st->dev->n_sm * a_sm;
}

/*
 * Splits with the least estimated time: waves of blocks over the SMs, each as long as its walk (in
 * KV blocks a warp) and a fixed cost. Fixed splits depend on the context alone.
 */
static int split_of(struct stream *st, const attn_params &p, int n_row, int kv_tokens_max)
{
    int most = div_up(kv_tokens_max, p.fixed ? FIXED_TOKENS : SPLIT_TOKENS_MIN);
    if (most > ATTN_SPLIT_MAX)
        most = ATTN_SPLIT_MAX;
    if (p.fixed || most <= 1)
        return most < 1 ? 1 : most;
    int64_t units = (int64_t)n_row * p.n_kv_head * p.n_group;
    int slots = st->dev->n_sm * BLOCKS_A_SM, best = 1;
    int walk = div_up(kv_tokens_max, (int)KV_BLOCK_TOKENS * ROWS_WARPS);
    int64_t least = INT64_MAX;
    for (int n = 1; n <= most; n++) {
        int64_t cost = (int64_t)div_up(units * n, slots) * (div_up(walk, n) + BLOCK_COST);
        if (!can_cluster(st, p, units, n))
            cost += n > 1 ? TICKET_COST : 0;
        if (cost < least) {
            least = cost;
            best = n;
        }
    }
    return best;
}

static int attn_rows(struct stream *st, attn_params p, int row0, int n_row, int kv_tokens_max)
{
    bool one = p.group <= 8;
    while (n_row > 0) {
        /* Groups of rows, so that partials and tickets fit. */
        int n = n_row;
        int64_t unit = (int64_t)p.n_kv_head * p.n_group;
        p.n_split = split_of(st, p, n, kv_tokens_max);
        p.cluster = can_cluster(st, p, n * unit, p.n_split);
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
        p.early = (int64_t)n * unit * p.n_split <= st->dev->n_sm * BLOCKS_A_SM;
        int error = -ENOTSUP;
        if (p.head_dim == 64)
            error = one ? launch_rows<64, 1>(st, p, n) : launch_rows<64, 2>(st, p, n);
        else if (p.head_dim == 128)
            error = one ? launch_rows<128, 1>(st, p, n) : launch_rows<128, 2>(st, p, n);
        if (error)
            return error;
        row0 += n;
        n_row -= n;
    }
    return 0;
}

/* A map of the pool for tensor copies: one KV block's rows of one head, 64 values wide. */
static int map_pool(struct stream *st, const void *base, const struct kv_layer *kv,
                    CUtensorMap *ret)
{
    cuuint64_t size[4] = { (cuuint64_t)kv->head_dim, KV_BLOCK_TOKENS, (cuuint64_t)kv->n_kv_head,
                           1u << 30 };
    cuuint64_t stride[3] = { (cuuint64_t)kv->head_dim * sizeof(act),
                             (cuuint64_t)kv->head_dim * KV_BLOCK_TOKENS * sizeof(act),
                             (cuuint64_t)kv->block_stride };
    cuuint32_t box[4] = { 64, KV_BLOCK_TOKENS, 1, 1 }, step[4] = { 1, 1, 1, 1 };
    if (!st->dev->encode_tiled)
        return -ENOTSUP;
    CUresult error = st->dev->encode_tiled(
        ret, ACT_MAP_TYPE, 4, (void *)base, size, stride, box, step,
        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return error == CUDA_SUCCESS ? 0 : -ENOTSUP;
}

template <int HD>
static int launch_prefill(struct stream *st, const prefill_params &p, const struct kv_layer *kv)
{
    CUtensorMap k_map, v_map;
    int error = map_pool(st, kv->k, kv, &k_map);
    if (!error)
        error = map_pool(st, kv->v, kv, &v_map);
    if (!error)
        error = CUDA_CHECK(st->dev, cudaFuncSetAttribute(
                                        attn_prefill_kernel<HD>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        prefill_shared<HD>::BYTES));
    if (error)
        return error;
    return launch(st, attn_prefill_kernel<HD>, dim3((unsigned)(p.n_tile * p.a.n_kv_head)),
                  dim3(TILE_THREADS), prefill_shared<HD>::BYTES, p, k_map, v_map);
}

/* Sequences with several rows, by tiles of 128 query rows. -ENOTSUP: the row kernel takes them. */
static int attn_prefill(struct stream *st, const attn_params &a, const struct attn_args *args)
{
    const struct seq_batch *b = args->batch;
    int rows = b->n_row - b->n_decode, seqs = b->n_seq - b->n_decode;
    if (st->dev->compute != 90 || a.fixed || a.n_group > 1 || rows < PREFILL_ROWS_MIN
        || args->kv.block_stride % 16)
        return -ENOTSUP;
    prefill_params p = {};
    p.a = a;
    p.seq0 = b->n_decode;
    p.n_seq = b->n_seq;
    p.tile_tokens = TILE_ROWS / a.group;
    p.n_tile = rows / p.tile_tokens + seqs;
    return a.head_dim == 128 ? launch_prefill<128>(st, p, &args->kv)
                             : launch_prefill<64>(st, p, &args->kv);
}

int cuda_attn(struct stream *st, const struct attn_args *a)
{
    const struct seq_batch *b = a->batch;
    if (a->kv.dtype != ACT_DTYPE || a->kv.head_dim > 256 || a->kv.n_kv_head <= 0
        || a->n_head % a->kv.n_kv_head)
        return -ENOTSUP;
    if (b->n_row == 0)
        return 0;
    attn_params p = params_of(st, a);
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
