/*
 * A model of real shapes with random weights on CUDA device 0, op by op: what model.c times. One
 * model at a time. Everything that fails ends the program with a sentence.
 */
#ifndef RINGLET_TOOLS_MODEL_STEP_H
#define RINGLET_TOOLS_MODEL_STEP_H

#include "kernels/backend.h"
#include "kernels/device.h"
#include "kernels/kernels.h"
#include "tools/ringbench/bench.h"

enum { MODEL_SEQS_MAX = 512 }; /* of a step */

struct shape {
    const char *name;
    int n_layer, dim, n_head, n_kv_head, head_dim, ffn, vocab;
    bool head_norm, bias;
};

struct model_bench {
    const struct backend *backend;
    const struct device_ops *d;
    const struct kernel_ops *k; /* of the shape that is open */
    struct device *dev;
    struct stream *st;
    struct device_ceilings top;
    const struct shape *s;
    struct weight *layers, embed; /* qkv, o, gate_up, down a layer */
    float *norm, *head_norm, *bias, *inv_freq;
    int rows_max, kv_blocks;
    void *x, *qkv, *attn, *act, *noise;
    enum dtype noise_dtype;
    uint8_t *pool;
    int64_t block_stride, weight_bytes;
    float *logits;
    int32_t *ints; /* token, position, slot, row_seq, row_start, kv_tokens, block_start, row */
    int32_t *blocks, *sampled;
    struct sample_params *params;
    struct sample_out *out;
    struct bench_report report;
};

/* Ops of a step in their order; those between EMBED and LOGITS come once a layer. */
enum model_op {
    MODEL_EMBED,
    MODEL_ATTN_IN,
    MODEL_ATTN,
    MODEL_O,
    MODEL_FFN_IN,
    MODEL_DOWN,
    MODEL_LOGITS,
    MODEL_SAMPLE,
    MODEL_OPS
};

/* The shape of that name, or NULL. */
const struct shape *model_find_shape(const char *name);

void model_die(const char *what);
/* End the program if error is not 0. */
void model_must(struct model_bench *b, int error, const char *what);
double model_now_s(void);
int model_by_value(const void *a, const void *b);

void model_open_device(struct model_bench *b, bool ceilings);
/* Weights, rooms and a KV pool of noise for so many rows a step and tokens in all; b->k is set. */
void model_open_shape(struct model_bench *b, const struct shape *s, int rows_max, int kv_tokens);
void model_release(struct model_bench *b);

/* n_seq sequences whose contexts reach `context` tokens, `each` of them this step's rows. */
struct seq_batch model_batch(struct model_bench *b, int n_seq, int each, int context);

/* One op of one layer, or a whole step. */
void model_run_op(struct model_bench *b, const struct seq_batch *batch, enum model_op op,
                  int layer);
void model_run_step(struct model_bench *b, const struct seq_batch *batch);

/* A layer's rope_append and attention apart, whether or not attention does both in a step. */
void model_rope_append(struct model_bench *b, const struct seq_batch *batch, int layer);
void model_attn(struct model_bench *b, const struct seq_batch *batch, int layer);
const char *model_op_name(enum model_op op);
/* Bytes that one call must read and write at least: weights, KV, activations. */
double model_op_bytes(const struct model_bench *b, const struct seq_batch *batch, enum model_op op);
/* Operations of one call's products. */
double model_op_flops(const struct model_bench *b, const struct seq_batch *batch, enum model_op op);

#endif
