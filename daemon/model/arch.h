/*
 * The interface of a model family. An arch_x.c exports one `const struct model_arch arch_x`; the
 * word "x" in the arch_names list of this folder's meson.build puts it into the table.
 *
 *   parse    read a file's metadata into struct model_shape and the arch's own config: no weights
 *   bind     name every tensor with its shape; weights.c checks, places and loads them
 *   forward  compute the logits of the wanted rows; tensors, not steps
 *
 * Everything in the file is hostile: parse bounds every number before it is used (ARCH_*_MAX).
 */
#ifndef RINGLET_MODEL_ARCH_H
#define RINGLET_MODEL_ARCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/format/format_error.h"
#include "kernels/kernels.h"

struct gguf;
struct model;
struct weights;

enum {
    ARCH_LAYERS_MAX = 512,
    ARCH_DIM_MAX = 1 << 17, /* model and ffn width */
    ARCH_HEADS_MAX = 1024,
    ARCH_HEAD_DIM_MAX = 256, /* even */
    ARCH_VOCAB_MAX = 1 << 20,
    ARCH_CONTEXT_MAX = 1 << 24,
    MODEL_EOS_MAX = 16,
};

/* What the rest of the daemon must know of a model's form. Filled by parse. */
struct model_shape {
    int n_layer, dim, ffn_dim;
    int n_head, n_kv_head, head_dim;
    int vocab;               /* logits width: ids are below it */
    int context;             /* tokens the model was made for */
    enum dtype weight_dtype; /* of most weights: picks the activation type */
    int64_t kv_block_bytes;  /* 0: [layer][K, V][kv_head][16][head_dim]; else the arch's own */
};

/* One pass. Device memory but for n_sample and batch's host fields; valid during the call only. */
struct forward_args {
    const struct seq_batch *batch;
    const int32_t *token, *position, *slot; /* [n_row], as in step.h */
    const int32_t *prev_sampled;            /* ids of the step before, by sample row */
    const int32_t *prompt_tokens;           /* [n_seq] */
    const int32_t *sample_row;              /* [n_sample] */
    int n_sample;
    void *kv_pool; /* [block] by kv_block_bytes */
    int64_t kv_block_bytes;
    enum dtype kv_dtype;
    float *logits; /* [n_sample, vocab], written */
};

struct model_arch {
    const char *name;
    const char *const *gguf_names; /* values of general.architecture; NULL-ended; may be NULL */
    const char *const *hf_names;   /* values of architectures[0]; NULL-ended; may be NULL */

    /*
     * Fill m->shape (and m->arch_state, owned by m) from m->gguf or m->config.
     * Returns: 0; -EINVAL a value is missing or out of range; -ENOTSUP a variant that is not
     * supported (err names it); -ENOMEM.
     */
    int (*parse)(struct model *m, struct format_error *err);

    /* Fill m->info beyond what every file says (end ids). NULL: nothing. */
    void (*meta)(struct model *m);

    /* Bind all weights. Returns: 0, or what weights_* returned. NULL: a family without weights. */
    int (*bind)(struct model *m, struct weights *w);

    /*
     * Take scratch for passes of at most limits' size from m->dev. After parse, before forward.
     * Returns: 0, -ENOMEM.
     */
    int (*prepare)(struct model *m, const struct op_limits *limits, struct format_error *err);

    /* Returns: 0; -EIO device fault; -ENOTSUP no kernel for a shape (found at warm-up). */
    int (*forward)(struct model *m, struct stream *st, const struct forward_args *args);

    /* Free what parse, bind and prepare took, m->arch_state included; also half-built. */
    void (*close)(struct model *m);
};

#endif
