/* config.json of a checkpoint -> shape of the shared decoder. check_shape bounds every number. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/format/hfjson.h"
#include "daemon/model/decoder.h"

/* An integer; optional ones keep *ret when absent. */
static int hf_int(const struct model *m, const char *path, bool optional, int *ret,
                  struct format_error *err)
{
    uint32_t value;
    int rc = hfjson_u32(m->config, path, &value);
    if (rc == -ENOENT && optional)
        return 0;
    if (rc < 0)
        return hfjson_need_u32(m->config, path, &value, err);
    *ret = value > INT_MAX ? INT_MAX : (int)value; /* the shape check refuses it by name */
    return 0;
}

static int hf_float(const struct model *m, const char *path, float *ret, struct format_error *err)
{
    float value;
    int rc = hfjson_f32(m->config, path, &value);
    if (rc == -ENOENT)
        return 0;
    if (rc < 0)
        return hfjson_need_f32(m->config, path, &value, err);
    *ret = value;
    return 0;
}

static int hf_bool(const struct model *m, const char *path, bool *ret, struct format_error *err)
{
    int rc = hfjson_bool(m->config, path, ret);
    if (rc == 0 || rc == -ENOENT)
        return 0;
    return format_fail(err, -EINVAL, "%s: \"%s\" is neither true nor false", hfjson_path(m->config),
                       path);
}

/* What would change the answers and is not supported must not be there. */
static int hf_refuse(const struct model *m, struct format_error *err)
{
    const char *act = "silu", *method = "unknown";
    bool mlp_bias = false;
    size_t bytes;
    if (hfjson_has(m->config, "quantization_config")) {
        hfjson_string(m->config, "quantization_config.quant_method", &method, &bytes);
        return format_fail(err, -ENOTSUP, "%s: quantisation method \"%s\" is not supported",
                           hfjson_path(m->config), method);
    }
    hfjson_string(m->config, "hidden_act", &act, &bytes);
    if (strcmp(act, "silu") != 0)
        return format_fail(err, -ENOTSUP, "%s: hidden_act \"%s\" is not supported, only silu",
                           hfjson_path(m->config), act);
    int rc = hf_bool(m, "mlp_bias", &mlp_bias, err);
    if (rc == 0 && mlp_bias)
        rc = format_fail(err, -ENOTSUP, "%s: mlp_bias is not supported", hfjson_path(m->config));
    return rc;
}

/* Newer files say rope_parameters, older ones rope_theta and rope_scaling. */
static int hf_rope_numbers(struct model *m, const char *where, struct format_error *err)
{
    struct decoder *d = m->arch_state;
    struct rope_freq *r = &d->rope;
    char path[96];
    const struct {
        const char *name;
        float *value;
    } numbers[] = {
        { "rope_theta", &r->base },
        { "factor", &r->factor },
        { "low_freq_factor", &r->low_factor },
        { "high_freq_factor", &r->high_factor },
        { "beta_fast", &r->beta_fast },
        { "beta_slow", &r->beta_slow },
        { "attention_factor", &r->attn_factor },
        { "original_max_position_embeddings", &r->context_original },
    };
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        snprintf(path, sizeof(path), "%s.%s", where, numbers[i].name);
        int rc = hf_float(m, path, numbers[i].value, err);
        if (rc < 0)
            return rc;
    }
    static const char *const unknown[] = { "mscale", "mscale_all_dim", "truncate" };
    for (size_t i = 0; i < ARRAY_SIZE(unknown); i++) {
        snprintf(path, sizeof(path), "%s.%s", where, unknown[i]);
        if (hfjson_has(m->config, path))
            return format_fail(err, -ENOTSUP, "%s: \"%s\" is not supported", hfjson_path(m->config),
                               path);
    }
    return 0;
}

static int hf_rope_type(struct model *m, const char *where, struct format_error *err)
{
    static const struct {
        const char *name;
        enum rope_scaling scaling;
    } types[] = {
        { "default", ROPE_SCALING_NONE },
        { "linear", ROPE_SCALING_LINEAR },
        { "llama3", ROPE_SCALING_LLAMA3 },
        { "yarn", ROPE_SCALING_YARN },
    };
    struct decoder *d = m->arch_state;
    const char *type = "default";
    char path[96];
    size_t bytes;
    snprintf(path, sizeof(path), "%s.rope_type", where);
    if (hfjson_string(m->config, path, &type, &bytes) < 0) {
        snprintf(path, sizeof(path), "%s.type", where);
        hfjson_string(m->config, path, &type, &bytes);
    }
    for (size_t i = 0; i < ARRAY_SIZE(types); i++)
        if (strcmp(types[i].name, type) == 0) {
            d->rope.scaling = types[i].scaling;
            return 0;
        }
    return format_fail(err, -ENOTSUP,
                       "%s: rope type \"%s\" is not supported, only default, linear, llama3, yarn",
                       hfjson_path(m->config), type);
}

static int hf_rope(struct model *m, float theta, struct format_error *err)
{
    struct decoder *d = m->arch_state;
    const char *where =
        hfjson_has(m->config, "rope_parameters") ? "rope_parameters" : "rope_scaling";
    float part = 1;
    d->rope = (struct rope_freq){ .base = theta,
                                  .factor = 1,
                                  .beta_fast = 32,
                                  .beta_slow = 1,
                                  .context_original = (float)m->shape.context };
    int rc = hf_float(m, "rope_theta", &d->rope.base, err);
    if (rc == 0)
        rc = hf_float(m, "partial_rotary_factor", &part, err);
    if (rc == 0 && hfjson_has(m->config, where)) {
        rc = hf_rope_type(m, where, err);
        if (rc == 0)
            rc = hf_rope_numbers(m, where, err);
    }
    if (rc == 0 && !(part > 0 && part <= 1))
        rc = format_fail(err, -EINVAL, "%s: partial_rotary_factor %g is not in (0, 1]",
                         hfjson_path(m->config), (double)part);
    if (rc == 0)
        d->rope.n_dim = (int)((float)m->shape.head_dim * part);
    return rc;
}

static int hf_shape(struct model *m, struct format_error *err)
{
    struct model_shape *s = &m->shape;
    const struct {
        const char *name;
        int *value;
    } needed[] = {
        { "num_hidden_layers", &s->n_layer }, { "hidden_size", &s->dim },
        { "intermediate_size", &s->ffn_dim }, { "num_attention_heads", &s->n_head },
        { "vocab_size", &s->vocab },          { "max_position_embeddings", &s->context },
    };
    for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
        int rc = hf_int(m, needed[i].name, false, needed[i].value, err);
        if (rc < 0)
            return rc;
    }
    s->n_kv_head = s->n_head;
    s->head_dim = s->n_head > 0 ? s->dim / s->n_head : 0;
    int rc = hf_int(m, "num_key_value_heads", true, &s->n_kv_head, err);
    return rc < 0 ? rc : hf_int(m, "head_dim", true, &s->head_dim, err);
}

/* Type of the weights, where no tensor tells (dummy). */
static enum dtype hf_dtype(const struct model *m)
{
    const char *type = "bfloat16";
    size_t bytes;
    if (hfjson_string(m->config, "dtype", &type, &bytes) < 0)
        hfjson_string(m->config, "torch_dtype", &type, &bytes);
    if (strcmp(type, "float32") == 0)
        return DTYPE_F32;
    return strcmp(type, "float16") == 0 ? DTYPE_F16 : DTYPE_BF16;
}

int decoder_parse_hf(struct model *m, const struct decoder_hf_defaults *defaults,
                     struct format_error *err)
{
    struct decoder *d = calloc(1, sizeof(*d));
    if (!d)
        return -ENOMEM;
    m->arch_state = d;
    d->norm_eps = 1e-6f;
    d->tied = defaults->tied;
    int rc = hf_shape(m, err);
    if (rc == 0)
        rc = hf_refuse(m, err);
    if (rc == 0)
        rc = hf_rope(m, defaults->theta, err);
    if (rc == 0)
        rc = hf_float(m, "rms_norm_eps", &d->norm_eps, err);
    if (rc == 0)
        rc = hf_bool(m, "tie_word_embeddings", &d->tied, err);
    if (rc == 0 && defaults->reads_attention_bias) {
        rc = hf_bool(m, "attention_bias", &d->qkv_bias, err);
        d->o_bias = d->qkv_bias;
    }
    m->shape.weight_dtype = hf_dtype(m);
    return rc < 0 ? rc : decoder_check_shape(m, err);
}

int decoder_hf_window(struct model *m, bool all_layers, struct format_error *err)
{
    struct decoder *d = m->arch_state;
    bool use = all_layers;
    int window = 0, first = 0, n_layer = m->shape.n_layer;
    size_t n_type = 0;
    int rc = hf_bool(m, "use_sliding_window", &use, err);
    if (rc == 0)
        rc = hf_int(m, "sliding_window", true, &window, err);
    if (rc == 0)
        rc = hf_int(m, "max_window_layers", true, &first, err);
    if (rc < 0 || !use || window <= 0)
        return rc;
    d->window = window;
    if (hfjson_size(m->config, "layer_types", &n_type) == 0 && n_type != (size_t)n_layer)
        return format_fail(err, -EINVAL, "%s: layer_types has %zu entries for %d layers",
                           hfjson_path(m->config), n_type, n_layer);
    d->windowed = calloc((size_t)n_layer, sizeof(*d->windowed));
    if (!d->windowed)
        return -ENOMEM;
    for (int i = 0; i < n_layer; i++) {
        char path[64];
        const char *type;
        size_t bytes;
        snprintf(path, sizeof(path), "layer_types[%d]", i);
        d->windowed[i] = all_layers || i >= first;
        if (n_type > 0 && hfjson_string(m->config, path, &type, &bytes) == 0)
            d->windowed[i] = strcmp(type, "sliding_attention") == 0;
    }
    return 0;
}

int decoder_hf_no_rope(struct model *m, struct format_error *err)
{
    struct decoder *d = m->arch_state;
    size_t n = 0;
    d->no_rope_interval = 4;
    int rc = hf_int(m, "no_rope_layer_interval", true, &d->no_rope_interval, err);
    if (rc < 0 || hfjson_size(m->config, "no_rope_layers", &n) < 0)
        return rc;
    if (n != (size_t)m->shape.n_layer)
        return format_fail(err, -EINVAL, "%s: no_rope_layers has %zu entries for %d layers",
                           hfjson_path(m->config), n, m->shape.n_layer);
    d->no_rope = calloc(n, sizeof(*d->no_rope));
    if (!d->no_rope)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        char path[64];
        int rotates = 1;
        snprintf(path, sizeof(path), "no_rope_layers[%zu]", i);
        rc = hf_int(m, path, false, &rotates, err);
        if (rc < 0)
            return rc;
        d->no_rope[i] = rotates == 0; /* the list's name says the opposite of its numbers */
    }
    return 0;
}
