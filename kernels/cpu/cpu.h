/* What the files of the CPU backend share. */
#ifndef RINGLET_KERNELS_CPU_CPU_H
#define RINGLET_KERNELS_CPU_CPU_H

#include <stdint.h>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_memory.h"
#include "kernels/cpu/cpu_threads.h"
#include "kernels/cpu/isa.h"
#include "kernels/kernels.h"

extern const struct backend cpu_backend;
extern const struct device_ops cpu_device_ops;

struct device {
    struct cpu_threads *pool;
    const struct cpu_isa *isa;
    int n_thread;
    struct cpu_memory memory;
};

/* Scratch of one stream, cut from one allocation; sizes from op_limits. */
struct stream {
    struct device *dev;
    struct op_limits limits;
    void *memory;
    char *x;            /* [rows_max] activation rows as the weights want them, x_stride apart */
    int64_t x_stride;   /* bytes */
    char *thread;       /* [n_thread] private pieces, thread_stride apart */
    int64_t thread_stride;
    float *partials;    /* attention states of split sequences */
    int64_t partials_floats;
    float *cos_sin;     /* [rows_max][head_dim] of the positions below */
    int32_t *rope_position;
    float *rope_freq;
    struct rope rope;   /* what cos_sin was made for; n_dim 0 = nothing */
    int n_rope_row;
};

static inline void *stream_thread_piece(const struct stream *st, int thread_i)
{
    return st->thread + st->thread_stride * thread_i;
}

int cpu_weight_layout(struct device *dev, enum dtype dtype, int n_row, int n_col,
                      int64_t *ret_bytes, int *ret_layout);
int cpu_weight_load(struct stream *st, struct weight *w, int first_row, int n_row,
                    const void *src, int64_t row_bytes);
int cpu_embed(struct stream *st, const struct embed_args *args);
int cpu_rms_norm(struct stream *st, const struct rms_norm_args *args);
int cpu_matmul(struct stream *st, const struct matmul_args *args);
int cpu_rope_append(struct stream *st, const struct rope_append_args *args);
int cpu_attn(struct stream *st, const struct attn_args *args);
int cpu_swiglu(struct stream *st, const struct swiglu_args *args);
int cpu_logits(struct stream *st, const struct logits_args *args);
int cpu_sample(struct stream *st, const struct sample_args *args);
int cpu_counts_load(struct stream *st, const struct counts_load_args *args);
int cpu_kv_copy(struct stream *st, const struct kv_copy_args *args);
int cpu_kv_move(struct stream *st, const struct kv_move_args *args);
int cpu_attn_in(struct stream *st, const struct attn_in_args *args);
int cpu_ffn_in(struct stream *st, const struct ffn_in_args *args);

/* Scratch of one thread's share of attention, floats, for these limits. */
int64_t cpu_attn_thread_floats(const struct op_limits *limits);
/* Scratch of one thread's share of sampling, bytes. */
int64_t cpu_sample_thread_bytes(const struct op_limits *limits);

#endif
