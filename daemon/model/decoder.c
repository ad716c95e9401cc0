/* Bind and forward of the shared decoder. parse runs on the start-up thread, forward on the
 * executor. */
#include "daemon/model/decoder.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/model/weights.h"

/* Tensor names of the two formats; %d is the layer. */
struct decoder_names {
    const char *embed, *norm, *head;
    const char *attn_norm, *q, *k, *v, *o, *q_bias, *k_bias, *v_bias, *o_bias, *q_norm, *k_norm;
    const char *ffn_norm, *gate, *up, *down;
};

static const struct decoder_names gguf_names = {
    .embed = "token_embd.weight",
    .norm = "output_norm.weight",
    .head = "output.weight",
    .attn_norm = "blk.%d.attn_norm.weight",
    .q = "blk.%d.attn_q.weight",
    .k = "blk.%d.attn_k.weight",
    .v = "blk.%d.attn_v.weight",
    .o = "blk.%d.attn_output.weight",
    .q_bias = "blk.%d.attn_q.bias",
    .k_bias = "blk.%d.attn_k.bias",
    .v_bias = "blk.%d.attn_v.bias",
    .o_bias = "blk.%d.attn_output.bias",
    .q_norm = "blk.%d.attn_q_norm.weight",
    .k_norm = "blk.%d.attn_k_norm.weight",
    .ffn_norm = "blk.%d.ffn_norm.weight",
    .gate = "blk.%d.ffn_gate.weight",
    .up = "blk.%d.ffn_up.weight",
    .down = "blk.%d.ffn_down.weight",
};

static const struct decoder_names hf_names = {
    .embed = "model.embed_tokens.weight",
    .norm = "model.norm.weight",
    .head = "lm_head.weight",
    .attn_norm = "model.layers.%d.input_layernorm.weight",
    .q = "model.layers.%d.self_attn.q_proj.weight",
    .k = "model.layers.%d.self_attn.k_proj.weight",
    .v = "model.layers.%d.self_attn.v_proj.weight",
    .o = "model.layers.%d.self_attn.o_proj.weight",
    .q_bias = "model.layers.%d.self_attn.q_proj.bias",
    .k_bias = "model.layers.%d.self_attn.k_proj.bias",
    .v_bias = "model.layers.%d.self_attn.v_proj.bias",
    .o_bias = "model.layers.%d.self_attn.o_proj.bias",
    .q_norm = "model.layers.%d.self_attn.q_norm.weight",
    .k_norm = "model.layers.%d.self_attn.k_norm.weight",
    .ffn_norm = "model.layers.%d.post_attention_layernorm.weight",
    .gate = "model.layers.%d.mlp.gate_proj.weight",
    .up = "model.layers.%d.mlp.up_proj.weight",
    .down = "model.layers.%d.mlp.down_proj.weight",
};

/*
 * Rotation that is stretched makes the context longer. Files give the length before as often as the
 * one after.
 */
static void stretch_context(struct model *m)
{
    const struct rope_freq *r = &((struct decoder *)m->arch_state)->rope;
    struct model_shape *s = &m->shape;
    float context = r->context_original * r->factor;
    bool stretched = r->scaling == ROPE_SCALING_LINEAR || r->scaling == ROPE_SCALING_YARN;
    if (stretched && s->context > 0 && context > (float)s->context)
        s->context = context < (float)INT_MAX / 2 ? (int)context : INT_MAX / 2;
}

int decoder_check_shape(struct model *m, struct format_error *err)
{
    const struct model_shape *s = &m->shape;
    struct decoder *d = m->arch_state;
    stretch_context(m);
    const struct {
        const char *name;
        int value, max;
    } bounds[] = {
        { "layers", s->n_layer, ARCH_LAYERS_MAX },
        { "model width", s->dim, ARCH_DIM_MAX },
        { "ffn width", s->ffn_dim, ARCH_DIM_MAX },
        { "heads", s->n_head, ARCH_HEADS_MAX },
        { "KV heads", s->n_kv_head, ARCH_HEADS_MAX },
        { "head size", s->head_dim, ARCH_HEAD_DIM_MAX },
        { "vocabulary", s->vocab, ARCH_VOCAB_MAX },
        { "context", s->context, ARCH_CONTEXT_MAX },
    };
    for (size_t i = 0; i < ARRAY_SIZE(bounds); i++)
        if (bounds[i].value < 1 || bounds[i].value > bounds[i].max)
            return format_fail(err, -EINVAL, "%s: %s is %d, not in 1 .. %d", m->source.path,
                               bounds[i].name, bounds[i].value, bounds[i].max);
    if (s->head_dim % 2 != 0 || s->n_head % s->n_kv_head != 0)
        return format_fail(
            err, -ENOTSUP,
            "%s: %d heads of size %d over %d KV heads is not supported: head sizes are "
            "even, and KV heads divide the heads",
            m->source.path, s->n_head, s->head_dim, s->n_kv_head);
    if (!(d->norm_eps > 0) || !(d->norm_eps < 1))
        return format_fail(err, -EINVAL, "%s: norm epsilon %g is not in (0, 1)", m->source.path,
                           (double)d->norm_eps);
    if (d->rope.n_dim < 2 || d->rope.n_dim > s->head_dim || d->rope.n_dim % 2 != 0)
        return format_fail(err, -EINVAL, "%s: %d rotated dimensions in heads of size %d",
                           m->source.path, d->rope.n_dim, s->head_dim);
    d->layers = calloc((size_t)s->n_layer, sizeof(*d->layers));
    return d->layers ? 0 : -ENOMEM;
}

bool decoder_rotates(const struct decoder *d, int layer_i)
{
    if (d->no_rope)
        return !d->no_rope[layer_i];
    return d->no_rope_interval == 0 || (layer_i + 1) % d->no_rope_interval != 0;
}

int decoder_fill_windowed(struct model *m, enum decoder_window rule, int first)
{
    struct decoder *d = m->arch_state;
    d->windowed = calloc((size_t)m->shape.n_layer, sizeof(*d->windowed));
    if (!d->windowed)
        return -ENOMEM;
    for (int i = 0; i < m->shape.n_layer; i++)
        d->windowed[i] = rule == WINDOW_ALWAYS || (rule == WINDOW_LATE && i >= first) ||
                         (rule == WINDOW_NO_ROPE && !decoder_rotates(d, i));
    return 0;
}

/* The formats are our own constants with one %d each. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
static void decoder_bind_layer(struct model *m, struct weights *w, const struct decoder_names *n,
                               int i)
{
    const struct model_shape *s = &m->shape;
    struct decoder *d = m->arch_state;
    struct attn_weights *a = &d->layers[i].attn;
    struct ffn_weights *f = &d->layers[i].ffn;
    int q_dim = s->n_head * s->head_dim, kv_dim = s->n_kv_head * s->head_dim;

    weights_vector(w, &a->norm, s->dim, n->attn_norm, i);
    weights_matrix(w, &a->q, q_dim, s->dim, n->q, i);
    weights_matrix(w, &a->k, kv_dim, s->dim, n->k, i);
    weights_matrix(w, &a->v, kv_dim, s->dim, n->v, i);
    weights_matrix(w, &a->o, s->dim, q_dim, n->o, i);
    if (d->qkv_bias) {
        weights_vector(w, &a->q_bias, q_dim, n->q_bias, i);
        weights_vector(w, &a->k_bias, kv_dim, n->k_bias, i);
        weights_vector(w, &a->v_bias, kv_dim, n->v_bias, i);
    }
    if (d->o_bias)
        weights_vector(w, &a->o_bias, s->dim, n->o_bias, i);
    if (d->qk_norm) {
        weights_vector(w, &a->q_norm, s->head_dim, n->q_norm, i);
        weights_vector(w, &a->k_norm, s->head_dim, n->k_norm, i);
    }
    a->no_rope = !decoder_rotates(d, i);
    a->window = !d->windowed || d->windowed[i] ? d->window : 0;

    weights_vector(w, &f->norm, s->dim, n->ffn_norm, i);
    weights_matrix(w, &f->gate, s->ffn_dim, s->dim, n->gate, i);
    weights_matrix(w, &f->up, s->ffn_dim, s->dim, n->up, i);
    weights_matrix(w, &f->down, s->dim, s->ffn_dim, n->down, i);
}
#pragma GCC diagnostic pop

/* GGUF files may carry one divisor per frequency (Llama 3's scaling, worked out by the exporter).
 */
static int decoder_bind_rope(struct model *m, struct weights *w)
{
    struct decoder *d = m->arch_state;
    float divide[ARCH_HEAD_DIM_MAX / 2], inv_freq[ARCH_HEAD_DIM_MAX / 2];
    const float zero[ARCH_HEAD_DIM_MAX / 2] = { 0 };
    int n = d->rope.n_dim / 2;
    int rc = weights_peek(w, "rope_freqs.weight", n, divide);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    rc = rope_freq_fill(&d->rope, rc == 0 ? divide : NULL, inv_freq, &d->ctx.rope.scale);
    if (rc < 0)
        return rc;
    weights_const(w, &d->inv_freq, n, inv_freq);
    return weights_const(w, &d->zero_freq, n, zero);
}

int decoder_bind(struct model *m, struct weights *w)
{
    const struct model_shape *s = &m->shape;
    const struct decoder_names *n = m->gguf ? &gguf_names : &hf_names;
    struct decoder *d = m->arch_state;
    if (m->gguf || !d->tied)
        d->tied = m->gguf && !weights_has(w, n->head);
    else if (weights_has(w, n->head) && !weights_same(w, n->embed, n->head))
        d->tied = false; /* the config is wrong, and transformers does not believe it either */
    else
        weights_ignore(w, n->head);
    weights_ignore(w, ".rotary_emb.inv_freq");

    weights_matrix(w, &d->embed, s->vocab, s->dim, "%s", n->embed);
    if (!d->tied)
        weights_matrix(w, &d->head, s->vocab, s->dim, "%s", n->head);
    weights_vector(w, &d->norm, s->dim, "%s", n->norm);
    for (int i = 0; i < s->n_layer; i++)
        decoder_bind_layer(m, w, n, i);
    return decoder_bind_rope(m, w);
}

int decoder_prepare(struct model *m, const struct op_limits *limits, struct format_error *err)
{
    struct decoder *d = m->arch_state;
    d->ctx.norm_eps = d->norm_eps;
    d->ctx.attn_scale = 1.0f / sqrtf((float)m->shape.head_dim);
    d->ctx.rope.inv_freq = d->inv_freq;
    d->ctx.rope.n_dim = d->rope.n_dim;
    d->ctx.rope.interleaved = d->rope_interleaved;
    d->ctx.no_rope = d->ctx.rope;
    d->ctx.no_rope.inv_freq = d->zero_freq;
    d->ctx.no_rope.scale = 1;
    int rc = blocks_prepare(&d->ctx, m, limits->rows_max);
    if (rc < 0)
        return format_fail(err, rc, "%s: the scratch of %d rows: %s", m->source.path,
                           limits->rows_max, strerror(-rc));
    return 0;
}

int decoder_forward(struct model *m, struct stream *st, const struct forward_args *args)
{
    struct decoder *d = m->arch_state;
    const struct weight *head = d->tied ? &d->embed : &d->head;
    const struct attn_weights *first = &d->layers[0].attn; /* of the next step */
    int rc = block_embed(&d->ctx, st, args, &d->embed, 1);
    for (int i = 0; i < m->shape.n_layer && rc == 0; i++) {
        const struct decoder_layer *l = &d->layers[i];
        blocks_after(&d->ctx, &l->ffn.gate, &l->ffn.up, NULL);
        rc = block_attn(&d->ctx, st, args, i, &l->attn);
        if (i + 1 < m->shape.n_layer)
            blocks_after(&d->ctx, &l[1].attn.q, &l[1].attn.k, &l[1].attn.v);
        else
            blocks_after(&d->ctx, head, NULL, NULL);
        if (rc == 0)
            rc = block_ffn(&d->ctx, st, args, &l->ffn);
    }
    blocks_after(&d->ctx, &first->q, &first->k, &first->v);
    if (rc == 0 && args->n_sample > 0)
        rc = block_logits(&d->ctx, st, args, d->norm, head);
    return rc;
}

void decoder_close(struct model *m)
{
    struct decoder *d = m->arch_state;
    if (!d)
        return;
    blocks_close(&d->ctx, m);
    free(d->layers);
    free(d->no_rope);
    free(d->windowed);
    free(d);
    m->arch_state = NULL;
}
