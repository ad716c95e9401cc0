/* The parts of a matmul, so that fused ops can run them inside one fork-join. */
#ifndef RINGLET_KERNELS_CPU_MATMUL_H
#define RINGLET_KERNELS_CPU_MATMUL_H

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/quant.h"

struct matmul_job {
    struct stream *st;
    const float *x;
    int64_t x_stride;
    const int32_t *row; /* which rows of x; NULL = all in order */
    int n_row, n_col, n_weight;
    struct packed w[MATMUL_WEIGHTS_MAX];
    float *out[MATMUL_WEIGHTS_MAX];
    int64_t out_stride[MATMUL_WEIGHTS_MAX];
    const float *bias[MATMUL_WEIGHTS_MAX];
    const float *norm_weight;
    float norm_eps, scale;
    bool add;
    bool swiglu; /* weights 0 and 1 are gate and up; out[0] takes silu(gate) * up */
    bool any_plain, any_block;
    int n_group;               /* of all weights; swiglu: of gate */
    int row_block, n_row_block, chunk, n_chunk;
    int next_row, next_item;   /* counters shared by the threads */
};

/* Complete a job whose inputs are set: which forms of x, how the work is cut. -ENOTSUP: too big. */
int matmul_job_plan(struct matmul_job *job);
/* One thread's share. Every thread of the pool must call it. */
void matmul_job_run(struct matmul_job *job, int thread_i);
int matmul_job_init(struct matmul_job *job, struct stream *st, const struct matmul_args *args);

/* Items [from, to) of n_row * (n_head + n_kv_head) heads; after rope_prepare. */
int rope_prepare(struct stream *st, const struct rope_append_args *args);
void rope_items(struct stream *st, const struct rope_append_args *args, int from, int to);

static inline int share_start(int n, int thread_i, int n_thread)
{
    return (int)((int64_t)n * thread_i / n_thread);
}

#endif
