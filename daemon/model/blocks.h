/*
 * What transformer families are made of: each function is one or a few ops of the table, the fused
 * form first, the plain composition where the backend has none. Residuals are added in place: x is
 * the running hidden state.
 */
#ifndef RINGLET_MODEL_BLOCKS_H
#define RINGLET_MODEL_BLOCKS_H

#include "daemon/model/arch.h"

/* One layer's attention. NULL where the family has none. */
struct attn_weights {
    struct weight q, k, v, o;
    const float *norm; /* [dim] before the projections */
    const float *q_bias, *k_bias, *v_bias, *o_bias;
    const float *q_norm, *k_norm; /* [head_dim] */
    bool no_rope;                 /* positions are not encoded in this layer */
    int window;                   /* 0 = full */
};

/* One layer's gated MLP. */
struct ffn_weights {
    struct weight gate, up, down;
    const float *norm;
};

/* Memory of a pass and what all layers share. */
struct block_ctx {
    const struct kernel_ops *ops;
    const struct model_shape *shape;
    float norm_eps, attn_scale;
    struct rope rope;
    struct rope no_rope; /* angle 0 */
    /* scratch, device memory: act [rows_max, ...] */
    void *x, *qkv, *attn, *ffn;
    int rows_max;
    const struct weight *after[MATMUL_WEIGHTS_MAX]; /* what the block after the one called reads */
    bool has_attn_in, has_ffn_in; /* the backend has the fused forms for this model */
};

/* Take the scratch. Returns 0, -ENOMEM. Thread: start-up. */
int blocks_prepare(struct block_ctx *c, struct model *m, int rows_max);
void blocks_close(struct block_ctx *c, struct model *m);

/* Name what the block after the next one called reads first; NULL: nothing more. */
void blocks_after(struct block_ctx *c, const struct weight *a, const struct weight *b,
                  const struct weight *last);

/* x[i] = table row of token i. */
int block_embed(struct block_ctx *c, struct stream *st, const struct forward_args *args,
                const struct weight *table, float scale);

/* x += o(attention(rope(qkv(norm(x))))); K and V go to the KV pool. */
int block_attn(struct block_ctx *c, struct stream *st, const struct forward_args *args, int layer_i,
               const struct attn_weights *w);

/* x += down(silu(gate(norm(x))) * up(norm(x))). */
int block_ffn(struct block_ctx *c, struct stream *st, const struct forward_args *args,
              const struct ffn_weights *w);

/* logits = lm_head(norm(x[sample rows])). */
int block_logits(struct block_ctx *c, struct stream *st, const struct forward_args *args,
                 const float *norm, const struct weight *lm_head);

#endif
