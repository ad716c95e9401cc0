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
    bool any_block;
    bool fine; /* activations of block weights in 16 bits, not 8 */
    int n_group;               /* of all weights; swiglu: of gate */
    int row_block, n_row_block, chunk, n_chunk;
    int next_row, next_item;   /* counters shared by the threads */
};

/* Complete a job whose inputs are set: which forms of x, how the work is cut. -ENOTSUP: too big. */
int matmul_job_plan(struct matmul_job *job);
/* Norm and quantise, then multiply: one or two fork-joins. */
void matmul_job_run(struct matmul_job *job);
int matmul_job_init(struct matmul_job *job, struct stream *st, const struct matmul_args *args);

/* Run fn over items 0 .. n_item - 1 in pieces of `piece`, on all threads. */
typedef void items_fn(void *arg, int from, int to);
void run_items(struct stream *st, items_fn *fn, void *arg, int n_item, int piece);

#endif
