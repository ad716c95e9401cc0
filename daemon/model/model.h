/*
 * A model on a device: which family it is, its shape, its weights. Opened, loaded and closed by
 * the thread that starts the daemon; forward runs on the executor thread. Knows no steps.
 */
#ifndef RINGLET_MODEL_MODEL_H
#define RINGLET_MODEL_MODEL_H

#include "daemon/model/arch.h"
#include "kernels/backend.h"

struct hfjson;
struct safetensors;

/* What a model's files ask for where a request does not say. */
enum {
    MODEL_SETS_TEMPERATURE = 1,
    MODEL_SETS_TOP_P = 2,
    MODEL_SETS_MIN_P = 4,
    MODEL_SETS_TOP_K = 8,
    MODEL_SETS_REPETITION = 16,
};

struct model_sampling {
    uint32_t set; /* MODEL_SETS_*: which fields the files give */
    float temperature, top_p, min_p, repetition;
    uint32_t top_k;
};

/* For the model table, the log and the other modules' limits. */
struct model_info {
    char name[64]; /* as configured, else from the file */
    char arch[32];
    char file_type[16]; /* type of most weights, "Q4_1" */
    int vocab;          /* logits width */
    int context;        /* tokens the model was made for */
    int n_layer, n_head, n_kv_head, head_dim, dim;
    int bos_id; /* -1 = none */
    int eos_ids[MODEL_EOS_MAX];
    int n_eos_id;
    struct model_sampling sampling;
    uint64_t weight_bytes; /* of the file's tensors */
    uint64_t device_bytes; /* on the device; weights used in place count as 0 */
    uint64_t n_parameter;
};

/* Where a model comes from. path: a GGUF file, a checkpoint folder, or "echo". */
struct model_source {
    const char *path;
    const struct gguf *gguf; /* already open (kept so until model_close), or NULL */
    bool gguf_is_file;       /* it maps files: their pages may be dropped once they are copied */
    bool dummy;              /* random weights of the file's shapes */
    const char *dtype;       /* to compute in: "f32", "f16", "bf16"; "auto", NULL: the weights' */
};

/* Called now and then while weights load. done <= total, bytes. */
typedef void (*model_progress_fn)(void *arg, uint64_t done, uint64_t total);

struct model {
    const struct model_arch *arch;
    void *arch_state;
    struct model_shape shape;
    struct model_info info;
    struct model_source source;
    const struct gguf *gguf; /* a file's, */
    struct gguf *gguf_owned;
    struct hfjson *config, *generation; /* or a folder's config.json; generation_config or NULL */
    struct safetensors *tensors;        /* NULL: dummy weights */
    struct weights *weights;
    const struct backend *backend;
    const struct kernel_ops *ops; /* the backend's, for the type that the model is computed in */
    struct device *dev;
};

/*
 * Is the family of an open GGUF file, or (g NULL) of the folder at path, one that is known? Said
 * before its tokenizer is looked at, which an unknown family's may fail for another reason.
 * Returns: 0; -ENOTSUP unknown; -ENOENT, -EINVAL the file does not say.  Thread: start-up.
 */
int model_check_family(const char *path, const struct gguf *g, struct format_error *err);

/*
 * Read a model's metadata: its family, shape, eos ids, sampling defaults. Loads no weights.
 *
 *   source   copied, not path's bytes: path must outlive the model
 *   name     as configured, or NULL: from the file
 *   err      file, key, expected and actual, on failure
 *
 * Returns: 0; -ENOENT ... no such file; -EINVAL unsound file; -ENOTSUP unknown family, quantisation
 *          or variant; -ENOMEM.
 * Thread:  start-up.
 */
int model_open(const struct backend *backend, struct device *dev, const struct model_source *source,
               const char *name, struct model **ret, struct format_error *err);

/*
 * Bind and load the weights, take the scratch for passes within limits. Once, after model_open.
 * Returns: 0; -EINVAL a tensor is missing or has another shape; -ENOTSUP its type; -ENOMEM.
 */
int model_load(struct model *m, struct stream *st, const struct op_limits *limits,
               model_progress_fn progress, void *progress_arg, struct format_error *err);

/* Compute one pass. Thread: executor. */
int model_forward(struct model *m, struct stream *st, const struct forward_args *args);

/* Bytes of one KV block of this model with that element type; 0: not supported (q8_0, odd heads).
 */
int64_t model_kv_block_bytes(const struct model *m, enum dtype kv_dtype);

/* Free all, half-built models too; NULL is fine. */
void model_close(struct model *m);

/* All families, NULL-ended; generated from the arch_names list. */
extern const struct model_arch *const model_archs[];

#endif
