/*
 * Picks the family, opens the file, loads, closes. Start-up thread but for model_forward.
 *
 *   model_open: file -> arch -> parse -> tensor list -> info     model_load: bind -> load ->
 * prepare
 */
#include "daemon/model/model.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "daemon/format/gguf.h"
#include "daemon/format/hfjson.h"
#include "daemon/format/safetensors.h"
#include "daemon/model/model_meta.h"
#include "daemon/model/weights.h"

static bool names_have(const char *const *names, const char *name, size_t bytes)
{
    for (; names && *names; names++)
        if (strlen(*names) == bytes && memcmp(*names, name, bytes) == 0)
            return true;
    return false;
}

/* A family that needs no files is asked for by its name. */
static const struct model_arch *arch_without_files(const char *path)
{
    for (int i = 0; model_archs[i]; i++)
        if (!model_archs[i]->gguf_names && !model_archs[i]->hf_names &&
            strcmp(model_archs[i]->name, path) == 0)
            return model_archs[i];
    return NULL;
}

static int arch_of_gguf(const struct gguf *g, const char *path, const struct model_arch **ret,
                        struct format_error *err)
{
    struct gguf_text arch;
    int rc = gguf_need_string(g, "general.architecture", &arch, err);
    if (rc < 0)
        return rc;
    for (int i = 0; model_archs[i]; i++)
        if (names_have(model_archs[i]->gguf_names, arch.data, arch.bytes)) {
            *ret = model_archs[i];
            return 0;
        }
    return format_fail(err, -ENOTSUP, "%s: architecture \"%.*s\" is not supported", path,
                       (int)min_of(arch.bytes, (size_t)64), arch.data);
}

/* The first architecture names the family; where none is named, model_type does. */
static int arch_of_config(const struct hfjson *config, const struct model_arch **ret,
                          struct format_error *err)
{
    const char *name = "", *type = "";
    int rc = hfjson_string(config, "architectures[0]", &name, NULL);
    bool by_type = rc == -ENOENT && hfjson_string(config, "model_type", &type, NULL) == 0;
    if (rc < 0 && !by_type)
        return hfjson_need_string(config, "architectures[0]", &name, err);
    for (int i = 0; model_archs[i]; i++)
        if (by_type ? model_archs[i]->hf_names && strcmp(model_archs[i]->name, type) == 0
                    : names_have(model_archs[i]->hf_names, name, strlen(name))) {
            *ret = model_archs[i];
            return 0;
        }
    return format_fail(err, -ENOTSUP, "%s: %s \"%s\" is not supported", hfjson_path(config),
                       by_type ? "model type" : "architecture", by_type ? type : name);
}

int model_check_family(const char *path, const struct gguf *g, struct format_error *err)
{
    const struct model_arch *arch;
    auto_call(hfjson_close) struct hfjson *config = NULL;
    if (g)
        return arch_of_gguf(g, path, &arch, err);
    int rc = hfjson_open(path, "config.json", &config, err);
    return rc < 0 ? rc : arch_of_config(config, &arch, err);
}

static int model_open_gguf(struct model *m, struct format_error *err)
{
    m->gguf = m->source.gguf;
    if (!m->gguf) {
        int rc = gguf_open(m->source.path, &m->gguf_owned, err);
        if (rc < 0)
            return rc;
        m->gguf = m->gguf_owned;
    }
    return arch_of_gguf(m->gguf, m->source.path, &m->arch, err);
}

static int model_open_folder(struct model *m, struct format_error *err)
{
    const char *path = m->source.path;
    int rc = hfjson_open(path, "config.json", &m->config, err);
    if (rc == 0)
        rc = arch_of_config(m->config, &m->arch, err);
    if (rc < 0)
        return rc;
    rc = hfjson_open(path, "generation_config.json", &m->generation, err);
    if (rc < 0 && rc != -ENOENT)
        return rc;
    return m->source.dummy ? 0 : safetensors_open(path, &m->tensors, err);
}

static int model_open_source(struct model *m, struct format_error *err)
{
    struct stat st;
    m->arch = arch_without_files(m->source.path);
    if (m->arch)
        return 0;
    if (m->source.gguf)
        return model_open_gguf(m, err);
    if (stat(m->source.path, &st) < 0)
        return format_fail(err, -errno, "%s: %s", m->source.path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return model_open_folder(m, err);
    if (m->source.dummy)
        return format_fail(err, -EINVAL, "%s: dummy weights need a checkpoint folder's config.json",
                           m->source.path);
    return model_open_gguf(m, err);
}

static void model_fill_info(struct model *m, const char *name)
{
    struct model_info *info = &m->info;
    info->bos_id = -1;
    model_meta_fill(m);
    if (name || !info->name[0])
        copy_text(info->name, sizeof(info->name), name ? name : m->arch->name);
    copy_text(info->arch, sizeof(info->arch), m->arch->name);
    info->vocab = m->shape.vocab;
    info->context = m->shape.context;
    info->n_layer = m->shape.n_layer;
    info->n_head = m->shape.n_head;
    info->n_kv_head = m->shape.n_kv_head;
    info->head_dim = m->shape.head_dim;
    info->dim = m->shape.dim;
    if (m->weights) {
        copy_text(info->file_type, sizeof(info->file_type), dtype_name(m->shape.weight_dtype));
        info->weight_bytes = weights_file_bytes(m->weights);
        info->n_parameter = weights_parameters(m->weights);
    }
}

/* The op table: the one that was asked for, else the weights decide. */
static int model_choose_ops(struct model *m, struct format_error *err)
{
    const struct backend *b = m->backend;
    const struct kernel_ops *tables[] = { b->ops, b->ops_f16 };
    const char *want = m->source.dtype;
    m->ops = backend_ops(b, m->shape.weight_dtype);
    if (!m->weights || !want || strcmp(want, "auto") == 0)
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(tables); i++)
        if (tables[i] && strcmp(dtype_name(tables[i]->act_dtype), want) == 0) {
            m->ops = tables[i];
            return 0;
        }
    return format_fail(err, -ENOTSUP, "%s: dtype %s: the %s backend computes in %s%s%s",
                       m->source.path, want, b->name, dtype_name(b->ops->act_dtype),
                       b->ops_f16 ? " or " : "",
                       b->ops_f16 ? dtype_name(b->ops_f16->act_dtype) : "");
}

int model_open(const struct backend *backend, struct device *dev, const struct model_source *source,
               const char *name, struct model **ret, struct format_error *err)
{
    struct model *m = calloc(1, sizeof(*m));
    if (!m)
        return -ENOMEM;
    m->source = *source;
    m->backend = backend;
    m->dev = dev;
    int rc = model_open_source(m, err);
    if (rc == 0)
        rc = m->arch->parse(m, err);
    if (rc == 0 && m->arch->bind) {
        rc = weights_open(m, &m->weights, err);
        if (rc == 0)
            m->shape.weight_dtype = weights_main_dtype(m->weights);
    }
    if (rc == 0)
        rc = model_choose_ops(m, err);
    if (rc < 0) {
        model_close(m);
        return rc;
    }
    model_fill_info(m, name);
    *ret = m;
    return 0;
}

static int model_bind(struct model *m, struct format_error *err)
{
    const struct format_error *why;
    int rc = m->arch->bind(m, m->weights);
    int status = weights_status(m->weights, &why);
    if (status < 0)
        return format_fail(err, status, "%s", why->text);
    if (rc < 0)
        return format_fail(err, rc, "%s: rotary frequencies are not positive finite numbers",
                           m->source.path);
    return 0;
}

int model_load(struct model *m, struct stream *st, const struct op_limits *limits,
               model_progress_fn progress, void *progress_arg, struct format_error *err)
{
    int rc = 0;
    if (m->weights) {
        rc = model_bind(m, err);
        if (rc == 0)
            rc = weights_load(m->weights, st, progress, progress_arg, err);
        m->info.device_bytes = weights_device_bytes(m->weights);
        m->info.weight_bytes = weights_file_bytes(m->weights); /* dummy: known only now */
        m->info.n_parameter = weights_parameters(m->weights);
    }
    return rc < 0 ? rc : m->arch->prepare(m, limits, err);
}

int model_forward(struct model *m, struct stream *st, const struct forward_args *args)
{
    return m->arch->forward(m, st, args);
}

int64_t model_kv_block_bytes(const struct model *m, enum dtype kv_dtype)
{
    const struct model_shape *s = &m->shape;
    if (s->kv_block_bytes)
        return s->kv_block_bytes;
    if (s->head_dim % dtype_infos[kv_dtype].block_elems != 0)
        return 0;
    return (int64_t)s->n_layer * 2 * s->n_kv_head * KV_BLOCK_TOKENS *
           dtype_bytes(kv_dtype, s->head_dim);
}

void model_close(struct model *m)
{
    if (!m)
        return;
    if (m->arch && m->arch->close)
        m->arch->close(m);
    weights_close(m->weights);
    gguf_close(m->gguf_owned);
    safetensors_close(m->tensors);
    hfjson_close(m->generation);
    hfjson_close(m->config);
    free(m);
}
