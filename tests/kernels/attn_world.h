/*
 * A step for attention in host memory, and what the oracle is asked with it. The tests of attention
 * share it.
 */
#ifndef RINGLET_TESTS_KERNELS_ATTN_WORLD_H
#define RINGLET_TESTS_KERNELS_ATTN_WORLD_H

#include "kernels/kernels.h"

enum { WORLD_SEQS = 128 };

struct attn_case {
    int n_head, n_kv_head, head_dim, window;
    enum dtype kv;
    int n_decode, n_seq;
    int rows[WORLD_SEQS];   /* of this step, per sequence */
    int tokens[WORLD_SEQS]; /* KV tokens with them */
    int bound;              /* tokens that any may have, as a graph's */
};

/* A step in memory: the pool with two layers, random blocks in random order. */
struct attn_world {
    struct seq_batch batch; /* host pointers */
    int32_t row_start[WORLD_SEQS + 1], block_start[WORLD_SEQS + 1], blocks[2048], row_seq[256];
    int32_t kv_tokens[WORLD_SEQS];
    int n_block;
    uint8_t *pool;
    int64_t pool_bytes, layer_bytes, block_stride;
    float *q;
    size_t n_q;
};

void attn_world_make(struct attn_world *w, const struct attn_case *c, uint64_t *seed);
void attn_world_free(struct attn_world *w);

/* The op over it, in f32. */
struct attn_args attn_world_args(const struct attn_case *c, const struct attn_world *w, float *out);

#endif
