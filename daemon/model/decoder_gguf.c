/* Metadata of a GGUF file -> shape of the shared decoder. Every number is bounded by check_shape.
 */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/compiler.h"
#include "daemon/format/gguf.h"
#include "daemon/model/decoder.h"

struct key {
    char text[128];
};

static const char *key_of(struct key *key, const char *prefix, const char *name)
{
    snprintf(key->text, sizeof(key->text), "%s.%s", prefix, name);
    return key->text;
}

/* An integer of the family's keys; optional ones keep *ret when absent. */
static int gguf_int(const struct model *m, const char *prefix, const char *name, bool optional,
                    int *ret, struct format_error *err)
{
    struct key key;
    uint32_t value;
    int rc = gguf_u32(m->gguf, key_of(&key, prefix, name), &value);
    if (rc == -ENOENT && optional)
        return 0;
    if (rc < 0)
        return gguf_need_u32(m->gguf, key.text, &value, err);
    *ret = value > INT_MAX ? INT_MAX : (int)value; /* the shape check refuses it by name */
    return 0;
}

static int gguf_float(const struct model *m, const char *prefix, const char *name, float *ret,
                      struct format_error *err)
{
    struct key key;
    float value;
    int rc = gguf_f32(m->gguf, key_of(&key, prefix, name), &value);
    if (rc == -ENOENT)
        return 0;
    if (rc < 0)
        return gguf_need_f32(m->gguf, key.text, &value, err);
    *ret = value;
    return 0;
}

/* The numbers of a file's rotation; which of them count is the type's word. */
static int gguf_rope_numbers(struct model *m, const char *prefix, float *linear, float *extrapolate,
                             struct format_error *err)
{
    struct decoder *d = m->arch_state;
    struct rope_freq *r = &d->rope;
    const struct {
        const char *name;
        float *value;
    } numbers[] = {
        { "rope.freq_base", &r->base },
        { "rope.scaling.factor", &r->factor },
        { "rope.scale_linear", linear },
        { "rope.scaling.attn_factor", &r->attn_factor },
        { "rope.scaling.yarn_attn_factor", &r->attn_factor },
        { "rope.scaling.yarn_beta_fast", &r->beta_fast },
        { "rope.scaling.yarn_beta_slow", &r->beta_slow },
        { "rope.scaling.yarn_ext_factor", extrapolate },
    };
    int context = 0;
    int rc = gguf_int(m, prefix, "rope.dimension_count", true, &r->n_dim, err);
    for (size_t i = 0; i < ARRAY_SIZE(numbers) && rc == 0; i++)
        rc = gguf_float(m, prefix, numbers[i].name, numbers[i].value, err);
    if (rc == 0)
        rc = gguf_int(m, prefix, "rope.scaling.original_context_length", true, &context, err);
    if (context > 0)
        r->context_original = (float)context;
    return rc;
}

static int gguf_rope(struct model *m, const char *prefix, struct format_error *err)
{
    struct decoder *d = m->arch_state;
    struct rope_freq *r = &d->rope;
    struct key key;
    struct gguf_text type = { .data = "none", .bytes = 4 };
    float linear = 0, extrapolate = 1;
    *r = (struct rope_freq){ .n_dim = m->shape.head_dim,
                             .base = 10000,
                             .factor = 1,
                             .beta_fast = 32,
                             .beta_slow = 1,
                             .context_original = (float)m->shape.context };
    int rc = gguf_rope_numbers(m, prefix, &linear, &extrapolate, err);
    if (rc < 0)
        return rc;
    rc = gguf_string(m->gguf, key_of(&key, prefix, "rope.scaling.type"), &type);
    if (rc < 0 && rc != -ENOENT)
        return gguf_need_string(m->gguf, key.text, &type, err);
    if (rc == -ENOENT && linear > 0) {
        r->scaling = ROPE_SCALING_LINEAR;
        r->factor = linear;
    } else if (gguf_text_is(type, "linear")) {
        r->scaling = ROPE_SCALING_LINEAR;
    } else if (gguf_text_is(type, "yarn")) {
        r->scaling = ROPE_SCALING_YARN;
        if (extrapolate >= 0 && extrapolate != 1) /* below 0: the usual */
            return format_fail(err, -ENOTSUP,
                               "%s: key \"%s.rope.scaling.yarn_ext_factor\" is %g: only 1 is "
                               "supported",
                               m->source.path, prefix, (double)extrapolate);
        /* The exporters store a multiplier of the usual 0.1 ln(factor) + 1. */
        if (r->attn_factor > 0 && r->factor > 1)
            r->attn_factor *= (float)(0.1 * __builtin_log((double)r->factor) + 1);
    } else if (!gguf_text_is(type, "none")) {
        return format_fail(err, -ENOTSUP,
                           "%s: key \"%s\" is \"%.*s\": supported are none, linear, yarn",
                           m->source.path, key.text, (int)type.bytes, type.data);
    }
    return 0;
}

static int gguf_shape(struct model *m, const char *prefix, struct format_error *err)
{
    struct model_shape *s = &m->shape;
    int value_dim, n_expert = 0;
    int rc = gguf_int(m, prefix, "block_count", false, &s->n_layer, err);
    if (rc == 0)
        rc = gguf_int(m, prefix, "embedding_length", false, &s->dim, err);
    if (rc == 0)
        rc = gguf_int(m, prefix, "feed_forward_length", false, &s->ffn_dim, err);
    if (rc == 0)
        rc = gguf_int(m, prefix, "context_length", false, &s->context, err);
    if (rc == 0)
        rc = gguf_int(m, prefix, "attention.head_count", false, &s->n_head, err);
    s->n_kv_head = s->n_head;
    if (rc == 0)
        rc = gguf_int(m, prefix, "attention.head_count_kv", true, &s->n_kv_head, err);
    s->head_dim = rc == 0 && s->n_head > 0 ? s->dim / s->n_head : 0;
    if (rc == 0)
        rc = gguf_int(m, prefix, "attention.key_length", true, &s->head_dim, err);
    value_dim = s->head_dim;
    if (rc == 0)
        rc = gguf_int(m, prefix, "attention.value_length", true, &value_dim, err);
    if (rc == 0)
        rc = gguf_int(m, prefix, "expert_count", true, &n_expert, err);
    if (rc < 0)
        return rc;
    if (value_dim != s->head_dim)
        return format_fail(err, -ENOTSUP, "%s: key size %d and value size %d differ: not supported",
                           m->source.path, s->head_dim, value_dim);
    if (n_expert > 0)
        return format_fail(err, -ENOTSUP,
                           "%s: %d experts: mixtures of experts are not supported yet",
                           m->source.path, n_expert);
    const struct gguf_tensor *embed = gguf_tensor_find(m->gguf, "token_embd.weight");
    if (!embed)
        return format_fail(
            err, -ENOENT, "%s: tensor \"token_embd.weight\" is missing: %s", m->source.path,
            gguf_tensor_count(m->gguf) == 0 ? "the file has a vocabulary and no weights"
                                            : "the file is no language model");
    s->vocab = embed->dims[1] > INT_MAX ? INT_MAX : (int)embed->dims[1];
    return 0;
}

/* One word for each layer. */
static int gguf_window_list(struct model *m, const char *key, struct format_error *err)
{
    struct decoder *d = m->arch_state;
    struct gguf_array list;
    int rc = gguf_array(m->gguf, key, &list);
    if (rc < 0 || list.elem != GGUF_BOOL) {
        rc = gguf_need_array(m->gguf, key, GGUF_U32, &list, err);
        if (rc < 0)
            return rc;
    }
    if (list.n != (uint64_t)m->shape.n_layer)
        return format_fail(err, -EINVAL, "%s: key \"%s\" has %" PRIu64 " entries for %d layers",
                           m->source.path, key, list.n, m->shape.n_layer);
    for (int i = 0; i < m->shape.n_layer; i++) {
        int64_t slides = list.data[i];
        if (list.elem != GGUF_BOOL)
            gguf_array_i64(&list, (uint64_t)i, &slides);
        d->windowed[i] = slides != 0;
    }
    return 0;
}

int decoder_gguf_window(struct model *m, const char *prefix, enum decoder_window rule,
                        struct format_error *err)
{
    static const char pattern[] = "attention.sliding_window_pattern";
    struct decoder *d = m->arch_state;
    struct key key;
    int period = 0;
    int rc = gguf_int(m, prefix, "attention.sliding_window", true, &d->window, err);
    if (rc < 0 || d->window == 0)
        return rc;
    rc = decoder_fill_windowed(m, rule, m->shape.n_layer);
    if (rc < 0)
        return rc;
    const struct gguf_kv *kv = gguf_kv_find(m->gguf, key_of(&key, prefix, pattern));
    if (kv && kv->type == GGUF_ARRAY)
        return gguf_window_list(m, key.text, err);
    if (!kv && rule == WINDOW_LATE)
        m->shape.context = min_of(m->shape.context, d->window);
    if (!kv)
        return 0;
    rc = gguf_int(m, prefix, pattern, false, &period, err);
    for (int i = 0; i < m->shape.n_layer && rc == 0; i++)
        d->windowed[i] = period == 0 || i % period < period - 1;
    return rc;
}

int decoder_parse_gguf(struct model *m, const char *prefix, struct format_error *err)
{
    struct decoder *d = calloc(1, sizeof(*d));
    if (!d)
        return -ENOMEM;
    m->arch_state = d;
    int rc = gguf_shape(m, prefix, err);
    if (rc == 0)
        rc = gguf_rope(m, prefix, err);
    if (rc == 0) {
        struct key key;
        rc = gguf_need_f32(m->gguf, key_of(&key, prefix, "attention.layer_norm_rms_epsilon"),
                           &d->norm_eps, err);
    }
    return rc < 0 ? rc : decoder_check_shape(m, err);
}
