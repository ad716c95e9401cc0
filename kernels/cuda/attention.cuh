/* What the two ways of attention share: rows one by one, and tiles of rows of one sequence. */
#ifndef RINGLET_CUDA_ATTENTION_CUH
#define RINGLET_CUDA_ATTENTION_CUH

#include "kernels/cuda/act.cuh"
#include "kernels/cuda/attn_plan.h"

namespace ACT_SPACE {

/* The rope_append that comes first (attention_turn.cuh). */
struct attn_turn {
    const act *k, *v;             /* the rows' own, as q lies; NULL: it was done */
    act *k_pool, *v_pool;
    const int32_t *position, *slot;
    const float *inv_freq, *q_norm, *k_norm;
    float scale, eps;
    bool normed; /* else there are no norms */
};

struct attn_params {
    act *out;
    const act *q;
    const act *k, *v;
    int64_t out_stride, q_stride, block_stride; /* elements */
    const int32_t *row_start, *kv_tokens, *block_start, *blocks, *row_seq;
    float *part;
    uint32_t *ticket;
    int row0, n_head, n_kv_head, head_dim, window;
    int group, n_group;    /* query heads a block takes; blocks per KV head */
    int n_split;           /* grid; with fixed: at most this many of a length that depends on kv */
    bool fixed;
    bool cluster;          /* the splits of a row are one */
    bool lone;             /* a warp is enough for a short context */
    bool ahead;            /* KV older than this step may be read before pdl_wait() */
    bool early;            /* the whole grid is resident, let the next kernel in */
    bool soonest;          /* and leaves it room enough to do so before the wait */
    float scale;
    attn_turn turn;
};

/*
 * Sequences with several rows, by tiles of 128 query rows (attention_prefill.cu). -ENOTSUP: the row
 * kernel takes them.
 */
int attn_prefill(struct stream *st, const attn_params &a, const struct attn_args *args);

} // namespace ACT_SPACE

#endif
