/* Each block is a few ops. Executor thread but for prepare and close. */
#include "daemon/model/blocks.h"

#include <errno.h>
#include <string.h>

#include "daemon/model/model.h"

static int64_t qkv_width(const struct model_shape *s)
{
    return (int64_t)(s->n_head + 2 * s->n_kv_head) * s->head_dim;
}

int blocks_prepare(struct block_ctx *c, struct model *m, int rows_max)
{
    const struct model_shape *s = &m->shape;
    const struct device_ops *device = m->backend->device;
    int64_t item = dtype_infos[m->ops->act_dtype].block_bytes;
    c->ops = m->ops;
    c->shape = s;
    c->rows_max = rows_max;
    c->has_attn_in = c->ops->attn_in != NULL;
    c->has_ffn_in = c->ops->ffn_in != NULL;
    c->x = device->alloc(m->dev, (size_t)(rows_max * item * s->dim));
    c->qkv = device->alloc(m->dev, (size_t)(rows_max * item * qkv_width(s)));
    c->attn = device->alloc(m->dev, (size_t)(rows_max * item * s->n_head * s->head_dim));
    c->ffn = device->alloc(m->dev, (size_t)(rows_max * item * 2 * s->ffn_dim));
    return c->x && c->qkv && c->attn && c->ffn ? 0 : -ENOMEM;
}

void blocks_close(struct block_ctx *c, struct model *m)
{
    void *all[] = { c->x, c->qkv, c->attn, c->ffn };
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        if (all[i])
            m->backend->device->free(m->dev, all[i]);
    c->x = c->qkv = c->attn = c->ffn = NULL;
}

static void *act_at(const struct block_ctx *c, void *base, int64_t i)
{
    return (uint8_t *)base + i * dtype_infos[c->ops->act_dtype].block_bytes;
}

int block_embed(struct block_ctx *c, struct stream *st, const struct forward_args *args,
                const struct weight *table, float scale)
{
    struct embed_args e = {
        .out = c->x,
        .table = table,
        .token = args->token,
        .prev_sampled = args->prev_sampled,
        .n_row = args->batch->n_row,
        .scale = scale,
    };
    return c->ops->embed(st, &e);
}

/* This layer's view of the KV pool (kernels.h has the layout). */
static struct kv_layer layer_kv(const struct block_ctx *c, const struct forward_args *args,
                                int layer_i)
{
    const struct model_shape *s = c->shape;
    int64_t half =
        (int64_t)s->n_kv_head * KV_BLOCK_TOKENS * dtype_bytes(args->kv_dtype, s->head_dim);
    uint8_t *k = (uint8_t *)args->kv_pool + 2 * half * layer_i;
    return (struct kv_layer){
        .k = k,
        .v = k + half,
        .block_stride = args->kv_block_bytes,
        .dtype = args->kv_dtype,
        .n_kv_head = s->n_kv_head,
        .head_dim = s->head_dim,
    };
}

void blocks_after(struct block_ctx *c, const struct weight *a, const struct weight *b,
                  const struct weight *last)
{
    c->after[0] = a;
    c->after[1] = b;
    c->after[2] = last;
}

static void attn_in_fill(const struct block_ctx *c, const struct forward_args *args,
                         const struct attn_weights *w, struct kv_layer kv, struct attn_in_args *a)
{
    const struct model_shape *s = c->shape;
    int64_t stride = qkv_width(s), q_dim = (int64_t)s->n_head * s->head_dim;
    void *q = c->qkv, *k = act_at(c, q, q_dim);
    void *v = act_at(c, k, (int64_t)s->n_kv_head * s->head_dim);
    *a = (struct attn_in_args){
        .qkv = {
            .x = c->x,
            .x_stride = s->dim,
            .n_row = args->batch->n_row,
            .n_weight = 3,
            .weight = { &w->q, &w->k, &w->v },
            .out = { q, k, v },
            .out_stride = { stride, stride, stride },
            .bias = { w->q_bias, w->k_bias, w->v_bias },
            .norm_weight = w->norm,
            .norm_eps = c->norm_eps,
            .deterministic = args->batch->deterministic,
            .next = { c->after[0] }, /* o's are on their way while attention runs */
        },
        .rope = {
            .q = q, .k = k, .v = v,
            .stride = stride,
            .n_row = args->batch->n_row,
            .n_head = s->n_head,
            .position = args->position,
            .slot = args->slot,
            .rope = w->no_rope ? c->no_rope : c->rope,
            .q_norm = w->q_norm,
            .k_norm = w->k_norm,
            .norm_eps = c->norm_eps,
            .kv = kv,
        },
    };
}

/* q, k and v, and their attention: three ways to divide the work between ops. */
static int qkv_attn(struct block_ctx *c, struct stream *st, const struct attn_in_args *in,
                    struct attn_args *attn)
{
    attn->rope = &in->rope;
    if (c->ops->attn_turns && c->ops->attn_turns(st, attn)) {
        int rc = c->ops->matmul(st, &in->qkv);
        return rc < 0 ? rc : c->ops->attn(st, attn);
    }
    attn->rope = NULL;
    int rc = c->has_attn_in ? c->ops->attn_in(st, in) : -ENOTSUP;
    if (rc == -ENOTSUP) {
        rc = c->ops->matmul(st, &in->qkv);
        if (rc == 0)
            rc = c->ops->rope_append(st, &in->rope);
    }
    return rc < 0 ? rc : c->ops->attn(st, attn);
}

int block_attn(struct block_ctx *c, struct stream *st, const struct forward_args *args, int layer_i,
               const struct attn_weights *w)
{
    const struct model_shape *s = c->shape;
    struct kv_layer kv = layer_kv(c, args, layer_i);
    struct attn_in_args in;
    attn_in_fill(c, args, w, kv, &in);
    int64_t q_dim = (int64_t)s->n_head * s->head_dim;
    struct attn_args attn = {
        .out = c->attn,
        .q = c->qkv,
        .out_stride = q_dim,
        .q_stride = qkv_width(s),
        .n_head = s->n_head,
        .scale = c->attn_scale,
        .window = w->window,
        .kv = kv,
        .batch = args->batch,
    };
    int rc = qkv_attn(c, st, &in, &attn);
    if (rc < 0)
        return rc;
    struct matmul_args o = {
        .x = c->attn,
        .x_stride = q_dim,
        .n_row = args->batch->n_row,
        .n_weight = 1,
        .weight = { &w->o },
        .out = { c->x },
        .out_stride = { s->dim },
        .bias = { w->o_bias },
        .add = true,
        .deterministic = args->batch->deterministic,
        .next = { c->after[1], c->after[2] },
    };
    return c->ops->matmul(st, &o);
}

/* gate and up beside each other in c->ffn, then silu(gate) * up over the gate half. */
static int ffn_in_plain(struct block_ctx *c, struct stream *st, const struct ffn_in_args *in,
                        int64_t *ret_stride)
{
    const struct model_shape *s = c->shape;
    int64_t stride = 2 * (int64_t)s->ffn_dim;
    void *gate = c->ffn, *up = act_at(c, gate, s->ffn_dim);
    struct matmul_args both = {
        .x = in->x,
        .x_stride = s->dim,
        .n_row = in->n_row,
        .n_weight = 2,
        .weight = { in->gate, in->up },
        .out = { gate, up },
        .out_stride = { stride, stride },
        .norm_weight = in->norm_weight,
        .norm_eps = in->norm_eps,
        .deterministic = in->deterministic,
    };
    struct swiglu_args swiglu = {
        .out = gate,
        .gate = gate,
        .up = up,
        .out_stride = stride,
        .stride = stride,
        .n_row = in->n_row,
        .dim = s->ffn_dim,
    };
    *ret_stride = stride;
    int rc = c->ops->matmul(st, &both);
    return rc < 0 ? rc : c->ops->swiglu(st, &swiglu);
}

int block_ffn(struct block_ctx *c, struct stream *st, const struct forward_args *args,
              const struct ffn_weights *w)
{
    struct ffn_in_args in = {
        .out = c->ffn,
        .x = c->x,
        .gate = &w->gate,
        .up = &w->up,
        .norm_weight = w->norm,
        .norm_eps = c->norm_eps,
        .n_row = args->batch->n_row,
        .deterministic = args->batch->deterministic,
        .next = { &w->down },
    };
    int64_t stride = c->shape->ffn_dim;
    int rc = c->has_ffn_in ? c->ops->ffn_in(st, &in) : -ENOTSUP;
    if (rc == -ENOTSUP)
        rc = ffn_in_plain(c, st, &in, &stride);
    if (rc < 0)
        return rc;
    struct matmul_args down = {
        .x = c->ffn,
        .x_stride = stride,
        .n_row = in.n_row,
        .n_weight = 1,
        .weight = { &w->down },
        .out = { c->x },
        .out_stride = { c->shape->dim },
        .add = true,
        .deterministic = in.deterministic,
        .next = { c->after[0], c->after[1], c->after[2] },
    };
    return c->ops->matmul(st, &down);
}

int block_logits(struct block_ctx *c, struct stream *st, const struct forward_args *args,
                 const float *norm, const struct weight *lm_head)
{
    struct logits_args logits = {
        .out = args->logits,
        .x = c->x,
        .x_stride = c->shape->dim,
        .row = args->sample_row,
        .n_sample = args->n_sample,
        .norm_weight = norm,
        .norm_eps = c->norm_eps,
        .lm_head = lm_head,
        .scale = 1,
        .deterministic = args->batch->deterministic,
        .next = { c->after[0], c->after[1], c->after[2] },
    };
    return c->ops->logits(st, &logits);
}
