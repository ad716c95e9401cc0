/*
 * The op table: the only door from models and samplers to a backend's math.
 *
 * Conventions. Shapes are [rows, columns], row-major; "act" is the backend's activation type
 * (ops->act_dtype: f32 on the CPU, bf16 or f16 on CUDA). Every pointer inside an args struct is
 * device memory unless the comment says host. The struct itself is read before the call returns.
 * A row is one token of the step. Padding rows (captured graphs) have slot -1 and belong to
 * sequences with kv_tokens 0: ops may compute anything finite for them and write no KV.
 * All ops: thread executor; asynchronous on st; allocate nothing; safe to capture in a graph.
 * Returns: 0; -ENOTSUP no kernel for this shape or type (blocks.c then composes simpler ops);
 * -EIO device fault. The oracle of each op is ref_<op> in kernels/cpu/ref.c.
 */
#ifndef RINGLET_KERNELS_KERNELS_H
#define RINGLET_KERNELS_KERNELS_H

#include "kernels/device.h"
#include "kernels/dtype.h"

enum {
    KV_BLOCK_TOKENS = 16,
    MATMUL_WEIGHTS_MAX = 3,
    SAMPLE_TOP_MAX = 20, /* logprobs k */
};

/*
 * A matrix [n_row, n_col] as the backend keeps it. dtype is the file's type; layout and data are
 * the backend's own business (repacked, dequantised, or the file's bytes in place).
 */
struct weight {
    enum dtype dtype;
    int n_row, n_col;
    void *data;
    int64_t bytes;
    int layout;
};

/*
 * One layer's view of the KV pool. A pool is [block][layer][K, V][kv_head][KV_BLOCK_TOKENS]
 * [head_dim]; k is the layer's K of block 0, v its V; block_stride is in bytes. q8_0 keeps head_dim
 * / 32 blocks of 34 bytes a row (head_dim % 32 == 0).
 */
struct kv_layer {
    void *k, *v;
    int64_t block_stride;
    enum dtype dtype;
    int n_kv_head, head_dim;
};

/*
 * The sequences of a step. Sequence s has rows row_start[s] .. row_start[s + 1] - 1, which are its
 * positions kv_tokens[s] - n .. kv_tokens[s] - 1; its KV blocks are blocks[block_start[s] ...].
 * The first n_decode sequences have exactly one row each and their rows come first.
 */
struct seq_batch {
    int n_row, n_seq, n_decode;    /* host */
    int kv_tokens_max;             /* host: bound of kv_tokens[], for grids and plans */
    const int32_t *row_start;      /* [n_seq + 1] */
    const int32_t *kv_tokens;      /* [n_seq] this step's rows included; 0 = padding */
    const int32_t *block_start;    /* [n_seq + 1] */
    const int32_t *blocks;         /* [block_start[n_seq]] */
    const int32_t *row_seq;        /* [n_row] sequence of each row */
    bool deterministic;            /* fixed splits: a row's result never depends on its batch */
};

/* out[i] = table[id(i)], id(i) = token[i] if >= 0, else prev_sampled[-1 - token[i]]. */
struct embed_args {
    void *out;                    /* act [n_row, table->n_col] */
    const struct weight *table;   /* [vocab, dim] */
    const int32_t *token;         /* [n_row] */
    const int32_t *prev_sampled;  /* ids sampled by the step before; may be NULL if no negative */
    int n_row;
    float scale;                  /* multiplies the row; 1 for most families */
};

/* out = x / sqrt(mean(x^2) + eps) * weight, row by row. Tolerance 1e-5 (f32), 1e-2 (bf16). */
struct rms_norm_args {
    void *out;             /* act [n_row, dim] by out_stride */
    const void *x;         /* act [n_row, dim] by x_stride */
    const float *weight;   /* [dim] */
    int n_row, dim;
    int64_t out_stride, x_stride; /* elements */
    float eps;
};

/*
 * out[i] = [out[i] +] weight[i] * norm(x) [+ bias[i]], for up to three weights that share x.
 * norm is RMS norm by norm_weight if given, else the identity.
 * CPU: block types meet x quantised to int8 per 32 values; the sum over K has one fixed order.
 */
struct matmul_args {
    const void *x;                 /* act [n_row, n_col] by x_stride */
    int64_t x_stride;              /* elements */
    int n_row, n_weight;
    const struct weight *weight[MATMUL_WEIGHTS_MAX]; /* same n_col */
    void *out[MATMUL_WEIGHTS_MAX]; /* act (f32 if out_f32) [n_row, weight[i]->n_row] */
    int64_t out_stride[MATMUL_WEIGHTS_MAX]; /* elements */
    const float *bias[MATMUL_WEIGHTS_MAX];  /* [weight[i]->n_row] or NULL */
    const float *norm_weight;      /* [n_col] or NULL */
    float norm_eps;
    bool add;                      /* accumulate into out (residual) */
    bool out_f32;                  /* logits */
    bool deterministic;
    const struct weight *next[MATMUL_WEIGHTS_MAX]; /* that ops after this read, NULL-ended: may be
                                      brought nearer meanwhile; results do not depend on it */
};

/* Rotary embedding: pair i of n_dim / 2 turns by position * inv_freq[i]; cos, sin * scale. */
struct rope {
    const float *inv_freq; /* [n_dim / 2]; scaling variants are folded in by the model */
    int n_dim;             /* <= head_dim; the rest passes through */
    bool interleaved;      /* pairs (2i, 2i+1); else (i, i + n_dim / 2) */
    float scale;           /* 1 but for yarn */
};

/*
 * Optional RMS norm of each head of q and k, rotation of q (in place) and k, then k and v go to
 * their KV slots. q, k and v may be column ranges of one matrix (same stride).
 */
struct rope_append_args {
    void *q;                 /* act [n_row, n_head * head_dim] by stride; rotated in place */
    const void *k, *v;       /* act [n_row, n_kv_head * head_dim] by stride */
    int64_t stride;          /* elements */
    int n_row, n_head;
    const int32_t *position; /* [n_row] */
    const int32_t *slot;     /* [n_row] block * KV_BLOCK_TOKENS + offset; -1 = write nothing */
    struct rope rope;
    const float *q_norm, *k_norm; /* [head_dim] or NULL */
    float norm_eps;
    struct kv_layer kv;
};

/*
 * Paged causal attention of all rows, decode and prefill alike (a backend may split by n_decode).
 * Row at position p of its sequence sees KV positions (p - window, p], all if window is 0.
 * Tolerance 2e-3 relative (f16, bf16 KV); head_dim even, <= 256.
 */
struct attn_args {
    void *out;          /* act [n_row, n_head * head_dim] by out_stride */
    const void *q;      /* act, rotated, by q_stride */
    int64_t out_stride, q_stride; /* elements */
    int n_head;
    float scale;        /* 1 / sqrt(head_dim) for most families */
    int window;         /* 0 = none */
    struct kv_layer kv;
    const struct seq_batch *batch;
    const struct rope_append_args *rope; /* that comes first, of this q (it may be left as it was);
                                            NULL: was done. Only where attn_turns says so */
};

/* out = silu(gate) * up. */
struct swiglu_args {
    void *out;              /* act [n_row, dim] by out_stride */
    const void *gate, *up;  /* act [n_row, dim] by stride */
    int64_t out_stride, stride;
    int n_row, dim;
};

/* out = swiglu(gate * norm(x), up * norm(x)): the fused form; gate and up share x. */
struct ffn_in_args {
    void *out;                        /* act [n_row, gate->n_row] */
    const void *x;                    /* act [n_row, gate->n_col] */
    const struct weight *gate, *up;   /* up NULL: gate holds both, gate rows first */
    const float *norm_weight;         /* [n_col] */
    float norm_eps;
    int n_row;
    bool deterministic;
    const struct weight *next[MATMUL_WEIGHTS_MAX]; /* as matmul_args has */
};

/* matmul (norm, q, k, v) followed by rope_append: the fused form. */
struct attn_in_args {
    struct matmul_args qkv;
    struct rope_append_args rope;
};

/*
 * Logits of chosen rows: out[i] = lm_head * norm(x[row[i]]), f32.
 * CPU: block types meet x quantised to 16 bits per 32 values here, not to 8.
 */
struct logits_args {
    float *out;              /* [n_sample, lm_head->n_row] */
    const void *x;           /* act [n_row, dim] */
    int64_t x_stride;
    const int32_t *row;      /* [n_sample] */
    int n_sample;
    const float *norm_weight;
    float norm_eps;
    const struct weight *lm_head;
    float scale;             /* multiplies the logits; 1 for most families */
    bool deterministic;
    const struct weight *next[MATMUL_WEIGHTS_MAX]; /* as matmul_args has */
};

enum {
    SAMPLE_SCORE = 1, /* draw nothing: report the log-probability of score_id (prompt logprobs) */
    SAMPLE_LOGPROBS = 2, /* report logprob and the n_top best */
    SAMPLE_SHAPED = 4, /* with SAMPLE_LOGPROBS: the n_top best are those after penalties, bias, mask
                          and bans, less the log of the untouched sum; what is not allowed is left
                          out (beam search) */
};

/*
 * One row's sampling, 80 bytes, fixed layout (host fills, device reads). Order: penalties
 * (repetition, then presence and frequency), bias, mask and bans, temperature, top_k, top_p, min_p,
 * draw. Ranks are by logit, the lower id first among equals. top_k keeps the k first; top_p the
 * shortest run of what is left that holds top_p of its mass; min_p those of at least min_p times
 * the largest probability. temperature 0 = the first in rank.
 *
 * The draw is Gumbel-max: the largest of logit / temperature + g(t), g(t) = -log(-log1p(-v)), where
 * v = min(fma((float)w, 2^-32, 2^-33), 1 - 2^-24) in f32 and w is word t % 4 of Philox4x32-10 with
 * key = seed and counter = (t / 4, position, index, 0); so it depends on nothing else.
 */
struct sample_params {
    float temperature, top_p, min_p;
    int32_t top_k;                        /* 0 = all */
    float presence, frequency, repetition;
    uint32_t flags;
    uint64_t seed;
    uint32_t index, position;             /* sequence index; tokens of the sequence before this */
    int32_t state_slot; /* token counts, its own among the rows of a call; -1 = no penalties */
    int32_t bias_start, n_bias;           /* into sample_args.bias_* */
    int32_t ban_start, n_ban;             /* into sample_args.ban_id */
    int32_t mask_index;                   /* row of sample_args.mask, -1 = none */
    int32_t n_top;                        /* logprobs k, <= SAMPLE_TOP_MAX */
    int32_t score_id;                     /* with SAMPLE_SCORE */
};

enum { SAMPLE_BAD = 1 /* a non-finite logit, or no token is allowed: none was drawn */ };

struct sample_out {
    int32_t token;   /* -1 with SAMPLE_BAD or SAMPLE_SCORE */
    float logprob;   /* of token or score_id; natural, before penalties and temperature */
    uint32_t flags;
    int32_t n_top;
    int32_t top_id[SAMPLE_TOP_MAX];
    float top_logprob[SAMPLE_TOP_MAX];
};

struct sample_args {
    const float *logits;                 /* [n_sample, vocab]; may be overwritten */
    int n_sample, vocab;
    const struct sample_params *params;  /* [n_sample] */
    const int32_t *bias_id;              /* pooled lists */
    const float *bias;
    const int32_t *ban_id;
    const uint32_t *mask;                /* [n_mask, ceil(vocab / 32)], bit 1 = allowed */
    uint16_t *counts;                    /* [n_state, vocab] bit 15: in the prompt; rest: output
                                            count; a drawn token is added to its row's counts */
    struct sample_out *out;              /* [n_sample] */
    int32_t *sampled;                    /* [n_sample] the ids alone, for the next step's embed */
};

/* Fill counts[slot] anew: ids 0 .. n_prompt - 1 mark the prompt, the rest count as output. */
struct counts_load_args {
    uint16_t *counts; /* [n_state, vocab] */
    int slot, vocab;
    const int32_t *id; /* host */
    int n_prompt, n_id;
};

/* Whole KV blocks, all layers: dst[i] = src[i] for i < n; bytes [0, token bytes) of each. */
struct kv_copy_args {
    void *pool;
    int64_t block_stride; /* bytes of one block over all layers */
    const int32_t *src, *dst; /* host */
    int n;
};

/* Whole KV blocks between the pool and host memory of the same layout (swap). */
struct kv_move_args {
    void *pool;
    void *host;           /* host_alloc memory */
    int64_t block_stride;
    const int32_t *pool_block, *host_block; /* host */
    int n;
    bool to_host;
};

struct kernel_ops {
    enum dtype act_dtype; /* of activations; 16-bit types: of KV blocks as well */

    /*
     * Bytes of device memory for a weight [n_row, n_col] of a file's dtype, and its layout.
     * *ret_bytes 0: the file's own bytes serve in place (set weight.data to the mapping).
     * Returns: 0; -ENOTSUP this type or width is not supported.
     */
    int (*weight_layout)(struct device *dev, enum dtype dtype, int n_row, int n_col,
                         int64_t *ret_bytes, int *ret_layout);
    /*
     * Fill rows [first_row, first_row + n_row) of w from src (host, the file's layout, row_bytes
     * apart). first_row is a multiple of 64. src may be reused when the call returns, but for
     * host_alloc memory: then when the stream has come so far.
     */
    int (*weight_load)(struct stream *st, struct weight *w, int first_row, int n_row,
                       const void *src, int64_t row_bytes);

    int (*embed)(struct stream *st, const struct embed_args *args);
    int (*rms_norm)(struct stream *st, const struct rms_norm_args *args);
    int (*matmul)(struct stream *st, const struct matmul_args *args);
    int (*rope_append)(struct stream *st, const struct rope_append_args *args);
    int (*attn)(struct stream *st, const struct attn_args *args);
    int (*swiglu)(struct stream *st, const struct swiglu_args *args);
    int (*logits)(struct stream *st, const struct logits_args *args);
    int (*sample)(struct stream *st, const struct sample_args *args);
    int (*counts_load)(struct stream *st, const struct counts_load_args *args);
    int (*kv_copy)(struct stream *st, const struct kv_copy_args *args);
    int (*kv_move)(struct stream *st, const struct kv_move_args *args);

    /* Fused forms; NULL or -ENOTSUP: daemon/model/blocks.c composes the ops above. */
    int (*attn_in)(struct stream *st, const struct attn_in_args *args);
    int (*ffn_in)(struct stream *st, const struct ffn_in_args *args);
    /*
     * Is matmul and then attn with args->rope the better way for this batch than attn_in and then
     * attn? Head norms need whole heads, which attn has and the blocks of a product have to gather.
     * NULL: never. Launches nothing.
     */
    bool (*attn_turns)(struct stream *st, const struct attn_args *args);
};

#endif
