/* Embedding rows, RMS norm and SwiGLU: row by row, spread over the threads. */
#include <errno.h>

#include "base/assert.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/matmul.h"

struct row_job {
    struct stream *st;
    const void *args;
};

static void embed_fn(void *arg, int from, int to)
{
    const struct row_job *job = arg;
    const struct embed_args *args = job->args;
    struct packed table = packed_view(args->table);

    for (int i = from; i < to; i++) {
        int32_t id = args->token[i];
        float *out = (float *)args->out + (int64_t)i * table.n_col;
        if (id < 0)
            id = args->prev_sampled[-1 - id];
        if (id < 0 || id >= table.n_row)
            id = 0; /* a step whose id was not drawn: its row is dropped later */
        packed_row(&table, id, out);
        for (int k = 0; args->scale != 1.0f && k < table.n_col; k++)
            out[k] *= args->scale;
    }
}

static void rms_norm_fn(void *arg, int from, int to)
{
    const struct row_job *job = arg;
    const struct rms_norm_args *args = job->args;
    const struct cpu_isa *isa = job->st->dev->isa;

    for (int i = from; i < to; i++) {
        const float *x = (const float *)args->x + i * args->x_stride;
        isa->scale_row((float *)args->out + i * args->out_stride, x, args->weight,
                       isa->rms_inverse(x, args->dim, args->eps), args->dim);
    }
}

static void swiglu_fn(void *arg, int from, int to)
{
    const struct row_job *job = arg;
    const struct swiglu_args *args = job->args;

    for (int i = from; i < to; i++)
        job->st->dev->isa->swiglu_row((float *)args->out + i * args->out_stride,
                                      (const float *)args->gate + i * args->stride,
                                      (const float *)args->up + i * args->stride, args->dim);
}

static int run_rows(struct stream *st, items_fn *fn, const void *args, int n_row)
{
    struct row_job job = { st, args };
    run_items(st, fn, &job, n_row, 8);
    return 0;
}

int cpu_embed(struct stream *st, const struct embed_args *args)
{
    return run_rows(st, embed_fn, args, args->n_row);
}

int cpu_rms_norm(struct stream *st, const struct rms_norm_args *args)
{
    return run_rows(st, rms_norm_fn, args, args->n_row);
}

int cpu_swiglu(struct stream *st, const struct swiglu_args *args)
{
    return run_rows(st, swiglu_fn, args, args->n_row);
}
