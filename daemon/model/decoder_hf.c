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

/* A word; absent keeps *ret. */
static int hf_word(const struct model *m, const char *path, const char **ret,
                   struct format_error *err)
{
    size_t bytes;
    int rc = hfjson_string(m->config, path, ret, &bytes);
    return rc == 0 || rc == -ENOENT ? 0 : hfjson_need_string(m->config, path, ret, err);
}

/* Quantised weights, under the key of transformers, of older compressed-tensors, or of MLX. */
static int hf_refuse_quantised(const struct model *m, struct format_error *err)
{
    static const char *const keys[] = { "quantization_config", "compression_config",
                                        "quantization" };
    for (size_t i = 0; i < ARRAY_SIZE(keys); i++) {
        const char *method;
        char path[64];
        snprintf(path, sizeof(path), "%s.quant_method", keys[i]);
        if (!hfjson_has(m->config, keys[i]))
            continue;
        if (hfjson_string(m->config, path, &method, NULL) == 0)
            return format_fail(err, -ENOTSUP, "%s: quantisation method \"%s\" is not supported",
                               hfjson_path(m->config), method);
        return format_fail(err, -ENOTSUP, "%s: quantised weights (\"%s\") are not supported",
                           hfjson_path(m->config), keys[i]);
    }
    return 0;
}

/* What would change the answers and is not supported must not be there. */
static int hf_refuse(const struct model *m, struct format_error *err)
{
    const char *act = "silu";
    bool mlp_bias = false;
    int rc = hf_refuse_quantised(m, err);
    if (rc == 0)
        rc = hf_word(m, "hidden_act", &act, err);
    if (rc < 0)
        return rc;
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        return format_fail(err, -ENOTSUP, "%s: hidden_act \"%s\" is not supported, only silu",
                           hfjson_path(m->config), act);
    rc = hf_bool(m, "mlp_bias", &mlp_bias, err);
    if (rc == 0 && mlp_bias)
        rc = format_fail(err, -ENOTSUP, "%s: mlp_bias is not supported", hfjson_path(m->config));
    return rc;
}

/* One number of the object `where`. */
struct rope_number {
    const char *name;
    float *value;
    bool needed; /* by this scaling */
};

static int hf_rope_number(struct model *m, const char *where, const struct rope_number *n,
                          struct format_error *err)
{
    char path[96];
    snprintf(path, sizeof(path), "%s.%s", where, n->name);
    if (n->needed && !hfjson_has(m->config, path))
        return hfjson_need_f32(m->config, path, n->value, err);
    int rc = hf_float(m, path, n->value, err);
    if (rc == 0 && hfjson_has(m->config, path) && !(*n->value > 0))
        rc = format_fail(err, -EINVAL, "%s: \"%s\" is %g, expected a number above 0",
                         hfjson_path(m->config), path, (double)*n->value);
    return rc;
}

static int hf_rope_numbers(struct model *m, const char *where, float *part,
                           struct format_error *err)
{
    struct decoder *d = m->arch_state;
    struct rope_freq *r = &d->rope;
    bool llama3 = r->scaling == ROPE_SCALING_LLAMA3;
    const struct rope_number numbers[] = {
        { "rope_theta", &r->base, false },
        { "partial_rotary_factor", part, false },
        { "factor", &r->factor, r->scaling != ROPE_SCALING_NONE },
        { "low_freq_factor", &r->low_factor, llama3 },
        { "high_freq_factor", &r->high_factor, llama3 },
        { "beta_fast", &r->beta_fast, false },
        { "beta_slow", &r->beta_slow, false },
        { "attention_factor", &r->attn_factor, false },
        { "original_max_position_embeddings", &r->context_original, llama3 },
    };
    for (size_t i = 0; i < ARRAY_SIZE(numbers); i++) {
        int rc = hf_rope_number(m, where, &numbers[i], err);
        if (rc < 0)
            return rc;
    }
    if (llama3 && !(r->high_factor > r->low_factor))
        return format_fail(err, -EINVAL, "%s: high_freq_factor %g is not above low_freq_factor %g",
                           hfjson_path(m->config), (double)r->high_factor, (double)r->low_factor);
    return 0;
}

/* What would change the frequencies and is not supported. Transformers' own default is fine. */
static int hf_rope_refuse(struct model *m, const char *where, struct format_error *err)
{
    static const char *const unknown[] = { "mscale", "mscale_all_dim", "truncate", "full_attention",
                                           "sliding_attention" };
    if (!hfjson_is_object(m->config, where))
        return format_fail(err, -EINVAL, "%s: \"%s\" is no object", hfjson_path(m->config), where);
    for (size_t i = 0; i < ARRAY_SIZE(unknown); i++) {
        char path[96];
        bool truncate = false;
        snprintf(path, sizeof(path), "%s.%s", where, unknown[i]);
        bool usual = strcmp(unknown[i], "truncate") == 0 &&
                     hfjson_bool(m->config, path, &truncate) == 0 && truncate;
        if (hfjson_has(m->config, path) && !usual)
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
    const char *type = NULL;
    char path[96];
    snprintf(path, sizeof(path), "%s.rope_type", where);
    int rc = hf_word(m, path, &type, err);
    snprintf(path, sizeof(path), "%s.type", where);
    if (rc == 0 && !type)
        rc = hf_word(m, path, &type, err);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < ARRAY_SIZE(types); i++)
        if (strcmp(types[i].name, type ? type : "default") == 0) {
            d->rope.scaling = types[i].scaling;
            return 0;
        }
    return format_fail(err, -ENOTSUP,
                       "%s: rope type \"%s\" is not supported, only default, linear, llama3, yarn",
                       hfjson_path(m->config), type);
}

/*
 * Newer files say rope_parameters, older ones rope_theta and rope_scaling. Where somebody wrote the
 * older word into a newer file it counts, and the newer one not at all.
 */
static int hf_rope_where(struct model *m, const char **ret, struct format_error *err)
{
    bool older = hfjson_is_true(m->config, "rope_scaling");
    *ret = older ? "rope_scaling" : "rope_parameters";
    if (older && hfjson_has(m->config, "rope_parameters.rope_theta") &&
        !hfjson_has(m->config, "rope_scaling.rope_theta") && !hfjson_has(m->config, "rope_theta"))
        return format_fail(err, -EINVAL,
                           "%s: \"rope_scaling\" takes the place of \"rope_parameters\", whose "
                           "rope_theta it lacks",
                           hfjson_path(m->config));
    return 0;
}

static int hf_rope(struct model *m, float theta, struct format_error *err)
{
    struct decoder *d = m->arch_state;
    const char *where;
    float part = 1;
    d->rope = (struct rope_freq){ .base = theta,
                                  .factor = 1,
                                  .beta_fast = 32,
                                  .beta_slow = 1,
                                  .context_original = (float)m->shape.context };
    int rc = hf_rope_where(m, &where, err);
    if (rc == 0)
        rc = hf_float(m, "rope_theta", &d->rope.base, err);
    if (rc == 0)
        rc = hf_float(m, "partial_rotary_factor", &part, err);
    if (rc == 0 && hfjson_is_true(m->config, where)) {
        rc = hf_rope_refuse(m, where, err);
        if (rc == 0)
            rc = hf_rope_type(m, where, err);
        if (rc == 0)
            rc = hf_rope_numbers(m, where, &part, err);
    }
    if (rc == 0 && !(part > 0 && part <= 1))
        rc = format_fail(err, -EINVAL, "%s: partial_rotary_factor %g is not in (0, 1]",
                         hfjson_path(m->config), (double)part);
    if (rc == 0)
        d->rope.n_dim = (int)((float)m->shape.head_dim * part);
    return rc;
}

static int hf_shape(struct model *m, const struct decoder_hf_defaults *defaults,
                    struct format_error *err)
{
    struct model_shape *s = &m->shape;
    const struct {
        const char *name;
        int *value;
    } needed[] = {
        { "num_hidden_layers", &s->n_layer }, { "hidden_size", &s->dim },
        { "intermediate_size", &s->ffn_dim }, { "num_attention_heads", &s->n_head },
        { "vocab_size", &s->vocab },
    };
    for (size_t i = 0; i < ARRAY_SIZE(needed); i++) {
        int rc = hf_int(m, needed[i].name, false, needed[i].value, err);
        if (rc < 0)
            return rc;
    }
    s->n_kv_head = s->n_head;
    if (defaults->n_kv_head && !hfjson_is_null(m->config, "num_key_value_heads"))
        s->n_kv_head = defaults->n_kv_head;
    s->context = defaults->context;
    s->head_dim = s->n_head > 0 ? s->dim / s->n_head : 0;
    if (defaults->head_dim)
        s->head_dim = defaults->head_dim;
    int rc = hf_int(m, "max_position_embeddings", true, &s->context, err);
    if (rc == 0)
        rc = hf_int(m, "num_key_value_heads", true, &s->n_kv_head, err);
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
    int rc = hf_shape(m, defaults, err);
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

/* Which layers the config names, into d->windowed. Families that do not read it only check it. */
static int hf_layer_types(struct model *m, bool reads, struct format_error *err)
{
    struct decoder *d = m->arch_state;
    size_t n = 0;
    if (!hfjson_has(m->config, "layer_types"))
        return 0;
    int rc = hfjson_size(m->config, "layer_types", &n);
    if (rc < 0 || n != (size_t)m->shape.n_layer)
        return format_fail(err, -EINVAL, "%s: layer_types has %zu entries for %d layers",
                           hfjson_path(m->config), n, m->shape.n_layer);
    for (size_t i = 0; i < n; i++) {
        char path[64];
        const char *type = "";
        snprintf(path, sizeof(path), "layer_types[%zu]", i);
        rc = hfjson_need_string(m->config, path, &type, err);
        if (rc < 0)
            return rc;
        bool slides = strcmp(type, "sliding_attention") == 0;
        if (!slides && strcmp(type, "full_attention") != 0)
            return format_fail(err, -ENOTSUP,
                               "%s: \"%s\" is \"%s\": supported are full_attention and "
                               "sliding_attention",
                               hfjson_path(m->config), path, type);
        if (reads)
            d->windowed[i] = slides;
    }
    return 0;
}

int decoder_hf_window(struct model *m, enum decoder_window rule, struct format_error *err)
{
    struct decoder *d = m->arch_state;
    bool use = rule == WINDOW_ALWAYS, switched = rule == WINDOW_LATE || rule == WINDOW_NO_ROPE;
    int first = 28; /* as the config classes have it */
    int window = rule == WINDOW_NO_ROPE || hfjson_is_null(m->config, "sliding_window") ? 0 : 4096;
    int rc = switched ? hf_bool(m, "use_sliding_window", &use, err) : 0;
    if (rc == 0)
        rc = hf_int(m, "sliding_window", true, &window, err);
    if (rc == 0 && rule == WINDOW_LATE)
        rc = hf_int(m, "max_window_layers", true, &first, err);
    if (rc < 0)
        return rc;
    d->window = use ? window : 0;
    rc = decoder_fill_windowed(m, rule, first);
    return rc < 0 ? rc : hf_layer_types(m, switched, err);
}

int decoder_hf_no_rope(struct model *m, struct format_error *err)
{
    struct decoder *d = m->arch_state;
    size_t n = 0;
    d->no_rope_interval = 4;
    int rc = hf_int(m, "no_rope_layer_interval", true, &d->no_rope_interval, err);
    if (rc < 0)
        return rc;
    if (!hfjson_has(m->config, "no_rope_layers"))
        return d->no_rope_interval > 0
                   ? 0
                   : format_fail(err, -EINVAL,
                                 "%s: no_rope_layer_interval is 0, expected 1 or more",
                                 hfjson_path(m->config));
    (void)hfjson_size(m->config, "no_rope_layers", &n); /* no list: none */
    if (n != (size_t)m->shape.n_layer)
        return format_fail(err, -EINVAL, "%s: no_rope_layers has %zu entries for %d layers",
                           hfjson_path(m->config), n, m->shape.n_layer);
    d->no_rope = calloc(n, sizeof(*d->no_rope));
    if (!d->no_rope)
        return -ENOMEM;
    for (size_t i = 0; i < n; i++) {
        char path[64];
        int rotates = 1;
        bool flag;
        snprintf(path, sizeof(path), "no_rope_layers[%zu]", i);
        if (hfjson_bool(m->config, path, &flag) == 0)
            rotates = flag;
        else
            rc = hf_int(m, path, false, &rotates, err);
        if (rc < 0)
            return rc;
        d->no_rope[i] = rotates == 0; /* the list's name says the opposite of its numbers */
    }
    return 0;
}
