/*
 * The decoder-only transformer that the Llama and Qwen families share: pre-norm attention and gated
 * MLP on one residual. An arch file says which options its family has and how its files name
 * things; nothing here asks for the family.
 */
#ifndef RINGLET_MODEL_DECODER_H
#define RINGLET_MODEL_DECODER_H

#include "daemon/model/blocks.h"
#include "daemon/model/model.h"
#include "daemon/model/rope_freq.h"

struct decoder_layer {
    struct attn_weights attn;
    struct ffn_weights ffn;
};

struct decoder {
    /* The family's and the file's own form. */
    bool qkv_bias, o_bias; /* attention projections have biases */
    bool qk_norm;          /* RMS norm of each head of q and k */
    bool rope_interleaved; /* pairs (2i, 2i + 1) */
    bool tied;             /* lm_head is the embedding */
    float norm_eps;
    struct rope_freq rope;
    int no_rope_interval; /* every n-th layer has no rotation; 0 = none */
    bool *no_rope;        /* [n_layer] or NULL: layers without rotation */
    int window;           /* sliding window of layers in windowed[], 0 = none */
    bool *windowed;       /* [n_layer] or NULL: all layers */

    struct decoder_layer *layers;
    struct weight embed, head;
    const float *norm, *inv_freq, *zero_freq;
    struct block_ctx ctx;
};

/*
 * parse for a GGUF file whose keys begin with `prefix`: allocates m->arch_state as a struct decoder
 * and fills shape. The arch then sets its options.
 * Returns: 0; -EINVAL, -ENOTSUP, -ENOMEM with err.
 */
int decoder_parse_gguf(struct model *m, const char *prefix, struct format_error *err);

/* What a family's config class assumes where config.json is silent. */
struct decoder_hf_defaults {
    float theta;
    int context;
    int head_dim;  /* 0: model width / heads */
    int n_kv_head; /* 0: as many as heads; null in the file always means that */
    bool tied;
    bool reads_attention_bias; /* attention_bias gives q, k, v and o biases */
};

/* The same for a checkpoint folder (m->config). */
int decoder_parse_hf(struct model *m, const struct decoder_hf_defaults *defaults,
                     struct format_error *err);

/*
 * Which layers see a sliding window only, unless a list in the file says it. config.json has a
 * switch and a size in each family, a GGUF file a size.
 */
enum decoder_window {
    WINDOW_NEVER,   /* Llama reads none of it */
    WINDOW_ALWAYS,  /* Mistral: all layers, unless the size is null */
    WINDOW_LATE,    /* Qwen: layers from max_window_layers on */
    WINDOW_NO_ROPE, /* SmolLM3: layers without rotation */
};

/* After decoder_hf_no_rope, where the family has that. */
int decoder_hf_window(struct model *m, enum decoder_window rule, struct format_error *err);

/*
 * The same for a GGUF file whose keys begin with `prefix`, after decoder_parse_gguf. No key says
 * where late layers begin: a model whose file does not list them gets a context of one window, in
 * which none slides.
 */
int decoder_gguf_window(struct model *m, const char *prefix, enum decoder_window rule,
                        struct format_error *err);

/* Allocate d->windowed and fill it by a rule; first: of the late layers. Returns: 0, -ENOMEM. */
int decoder_fill_windowed(struct model *m, enum decoder_window rule, int first);

/* Layers without rotation (SmolLM3): a list, or every n-th. */
int decoder_hf_no_rope(struct model *m, struct format_error *err);
bool decoder_rotates(const struct decoder *d, int layer_i);

/* The rest of struct model_arch, as they stand. */
int decoder_bind(struct model *m, struct weights *w);
int decoder_prepare(struct model *m, const struct op_limits *limits, struct format_error *err);
int decoder_forward(struct model *m, struct stream *st, const struct forward_args *args);
void decoder_close(struct model *m);

/* Are the numbers of m->shape sane, and the layers allocated? For the parsers. */
int decoder_check_shape(struct model *m, struct format_error *err);

#endif
