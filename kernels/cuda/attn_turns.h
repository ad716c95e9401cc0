/*
 * Which batches leave head norms, rotation and the KV append to attention: decode of few rows,
 * where a kernel's latency is all that counts. Without norms too: the product ends sooner without a
 * rotation, and attention that appends may read its last KV block sooner. Plain C, so that it can
 * be tested without a GPU.
 */
#ifndef RINGLET_CUDA_ATTN_TURNS_H
#define RINGLET_CUDA_ATTN_TURNS_H

#include "kernels/kernels.h"

enum {
    TURN_ROWS_MAX = 16,
    TURN_HEADS_MAX = 7, /* query heads of a KV head: an eighth column of the fragment holds K */
};

/* Does the kernel take these heads, and do its loads meet their alignment? */
static inline bool attn_turns_heads(const struct rope_append_args *r, enum dtype act)
{
    const struct kv_layer *kv = &r->kv;
    uintptr_t at = (uintptr_t)r->q | (uintptr_t)r->k | (uintptr_t)r->v | (uintptr_t)kv->k |
                   (uintptr_t)kv->v | (uintptr_t)kv->block_stride | (uintptr_t)(2 * r->stride);
    return !r->q_norm == !r->k_norm && r->rope.n_dim == kv->head_dim && !r->rope.interleaved &&
           (kv->head_dim == 64 || kv->head_dim == 128) && kv->dtype == act && kv->n_kv_head > 0 &&
           r->n_head % kv->n_kv_head == 0 && r->n_head / kv->n_kv_head <= TURN_HEADS_MAX &&
           at % 16 == 0;
}

/* compute: the GPU's, 10 major + minor. Before Hopper kernels do not overlap: no gain. */
static inline bool attn_turns_fits(const struct attn_args *a, enum dtype act, int compute)
{
    const struct seq_batch *b = a->batch;
    const struct rope_append_args *r = a->rope;
    return compute >= 90 && r && b->n_row <= TURN_ROWS_MAX && r->n_row == b->n_row &&
           b->n_seq == b->n_row && b->n_decode == b->n_row && !b->deterministic && a->q == r->q &&
           a->q_stride == r->stride && a->n_head == r->n_head && attn_turns_heads(r, act);
}

#endif
