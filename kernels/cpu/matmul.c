/*
 * Matmul: activations are normed and quantised once (by each thread for itself if there is one
 * row: no barrier), then pieces of (rows x groups of weight rows) are handed out to the threads.
 * How the work is cut never changes a result.
 */
#include "kernels/cpu/matmul.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"

enum {
    CHUNKS_PER_THREAD = 8,
    ROW_BLOCK_BYTES = 512 << 10, /* of quantised rows that stay in the second-level cache */
};

/* Where row i of the job lies in its two forms. */
struct forms {
    float *f32;
    void *xq;
};

static struct forms forms_at(const struct matmul_job *job, void *piece)
{
    return (struct forms){ piece, (char *)piece + (int64_t)lanes_up(job->n_col) * 4 };
}

static struct forms forms_of_row(const struct matmul_job *job, int i, int thread_i)
{
    struct stream *st = job->st;
    if (job->n_row == 1)
        return forms_at(job, stream_thread_piece(st, thread_i));
    return forms_at(job, st->x + st->x_stride * i);
}

static const float *x_row(const struct matmul_job *job, int i)
{
    return job->x + (job->row ? job->row[i] : i) * job->x_stride;
}

static void prepare_row(const struct matmul_job *job, int i, int thread_i)
{
    const struct cpu_isa *isa = job->st->dev->isa;
    struct forms forms = forms_of_row(job, i, thread_i);
    const float *x = x_row(job, i);

    if (job->norm_weight) {
        float inverse = isa->rms_inverse(x, job->n_col, job->norm_eps);
        isa->scale_row(forms.f32, x, job->norm_weight, inverse, job->n_col);
        x = forms.f32;
    }
    if (job->any_block)
        isa->quantize_row(forms.xq, x, job->n_col, job->fine);
}

int matmul_job_plan(struct matmul_job *job)
{
    const struct stream *st = job->st;
    int n_thread = st->dev->n_thread;

    job->n_group = 0;
    for (int i = 0; i < job->n_weight; i++) {
        job->any_block |= !packed_is_plain(&job->w[i]);
        if (i == 0 || !job->swiglu)
            job->n_group += job->w[i].n_group;
    }
    int64_t row_bytes = (int64_t)lanes_up(job->n_col) * 4 + xq_bytes(job->n_col);
    int rows_max = max_of(st->limits.rows_max, st->limits.samples_max);
    if (row_bytes > st->x_stride || job->n_row > rows_max)
        return -ENOTSUP;
    int64_t hot_bytes = (int64_t)job->n_col * 4;
    if (job->any_block)
        hot_bytes = job->fine ? xq_bytes(job->n_col) : xq_bytes(job->n_col) - job->n_col;
    job->row_block = (int)max_of(ROW_BLOCK_BYTES / hot_bytes, (int64_t)DOT_ROWS_MAX);
    job->row_block = job->row_block / DOT_ROWS_MAX * DOT_ROWS_MAX;
    job->n_row_block = (job->n_row - 1) / job->row_block + 1;
    job->chunk = max_of(job->n_group / (n_thread * CHUNKS_PER_THREAD), 1);
    job->chunk = (job->chunk + 1) / 2 * 2; /* dot kernels like pairs of groups */
    job->n_chunk = (job->n_group - 1) / job->chunk + 1;
    job->next_row = job->next_item = 0;
    return 0;
}

/* Groups g .. g + n_group - 1 of weight i times rows first .. first + n - 1. */
static void run_groups(const struct matmul_job *job, int i, int g, int n_group, int first, int n,
                       const struct forms *forms)
{
    const struct cpu_isa *isa = job->st->dev->isa;
    float tile[2][DOT_TILES_MAX * GROUP_ROWS] aligned_to(64);
    const void *x[2][DOT_ROWS_MAX];

    for (int r = 0; r < n; r++) {
        x[0][r] = forms[r].f32;
        x[1][r] = forms[r].xq;
    }
    isa->dot(&job->w[i], g, n_group, x[!packed_is_plain(&job->w[i])], n, job->fine,
             tile[0]);
    if (job->swiglu) {
        isa->dot(&job->w[1], g, n_group, x[!packed_is_plain(&job->w[1])], n, job->fine,
                 tile[1]);
        isa->swiglu_row(tile[0], tile[0], tile[1], n_group * n * GROUP_ROWS);
    }
    for (int k = 0; k < n_group; k++) {
        int col = (g + k) * GROUP_ROWS;
        isa->tile_out(job->out[i] + first * job->out_stride[i] + col, job->out_stride[i],
                      tile[0] + k * n * GROUP_ROWS, n,
                      min_of(job->w[i].n_row - col, (int)GROUP_ROWS),
                      job->bias[i] ? job->bias[i] + col : NULL, job->scale, job->add);
    }
}

/* Groups [from, to) of all weights in a row, for the rows whose forms are given. */
static void run_group_range(const struct matmul_job *job, int from, int to, int first, int n,
                            const struct forms *forms)
{
    int n_weight = job->swiglu ? 1 : job->n_weight;
    for (int i = 0, start = 0; i < n_weight; start += job->w[i++].n_group) {
        int g = max_of(from - start, 0), end = min_of(to - start, job->w[i].n_group);
        for (int n_group; g < end; g += n_group) {
            n_group = min_of(end - g, (int)DOT_TILES_MAX / n);
            run_groups(job, i, g, n_group, first, n, forms);
        }
    }
}

static void run_item(const struct matmul_job *job, int item, int thread_i)
{
    int first_row = item / job->n_chunk * job->row_block;
    int end_row = min_of(first_row + job->row_block, job->n_row);
    int from = item % job->n_chunk * job->chunk, to = min_of(from + job->chunk, job->n_group);
    struct forms forms[DOT_ROWS_MAX];

    for (int first = first_row; first < end_row; first += DOT_ROWS_MAX) {
        int n = min_of(end_row - first, (int)DOT_ROWS_MAX);
        for (int r = 0; r < n; r++) {
            forms[r] = forms_of_row(job, first + r, thread_i);
            if (!job->norm_weight)
                forms[r].f32 = (float *)(uintptr_t)x_row(job, first + r);
        }
        run_group_range(job, from, to, first, n, forms);
    }
}

static void prepare_fn(void *arg, int thread_i)
{
    struct matmul_job *job = arg;
    for (int i; (i = cpu_work_next(&job->next_row, 4)) < job->n_row;)
        for (int r = i; r < min_of(i + 4, job->n_row); r++)
            prepare_row(job, r, thread_i);
}

static void multiply_fn(void *arg, int thread_i)
{
    struct matmul_job *job = arg;
    int n_item = job->n_row_block * job->n_chunk, item = cpu_work_next(&job->next_item, 1);

    if (item < n_item && job->n_row == 1 && (job->norm_weight || job->any_block))
        prepare_row(job, 0, thread_i); /* each thread for itself: no waiting */
    for (; item < n_item; item = cpu_work_next(&job->next_item, 1))
        run_item(job, item, thread_i);
}

void matmul_job_run(struct matmul_job *job)
{
    struct cpu_threads *pool = job->st->dev->pool;
    if (job->n_row > 1 && (job->norm_weight || job->any_block))
        cpu_threads_run(pool, prepare_fn, job);
    cpu_threads_run(pool, multiply_fn, job);
}

struct items_job {
    items_fn *fn;
    void *arg;
    int n_item, piece, next;
};

static void items_job_fn(void *arg, int thread_i)
{
    struct items_job *job = arg;
    (void)thread_i;
    for (int i; (i = cpu_work_next(&job->next, job->piece)) < job->n_item;)
        job->fn(job->arg, i, min_of(i + job->piece, job->n_item));
}

void run_items(struct stream *st, items_fn *fn, void *arg, int n_item, int piece)
{
    struct items_job job = { fn, arg, n_item, piece, 0 };
    if (n_item > piece)
        cpu_threads_run(st->dev->pool, items_job_fn, &job);
    else if (n_item > 0)
        fn(arg, 0, n_item);
}

int matmul_job_init(struct matmul_job *job, struct stream *st, const struct matmul_args *args)
{
    *job = (struct matmul_job){
        .st = st,
        .x = args->x,
        .x_stride = args->x_stride,
        .n_row = args->n_row,
        .n_weight = args->n_weight,
        .norm_weight = args->norm_weight,
        .norm_eps = args->norm_eps,
        .scale = 1.0f,
        .add = args->add,
    };
    assert(args->n_weight >= 1 && args->n_weight <= MATMUL_WEIGHTS_MAX);
    job->n_col = args->weight[0]->n_col;
    for (int i = 0; i < args->n_weight; i++) {
        assert(args->weight[i]->n_col == job->n_col);
        job->w[i] = packed_view(args->weight[i]);
        job->out[i] = args->out[i];
        job->out_stride[i] = args->out_stride[i];
        job->bias[i] = args->bias[i];
    }
    return matmul_job_plan(job);
}

int cpu_matmul(struct stream *st, const struct matmul_args *args)
{
    struct matmul_job job;
    if (args->n_row < 1)
        return 0;
    int error = matmul_job_init(&job, st, args);
    if (error)
        return error;
    matmul_job_run(&job);
    return 0;
}

int cpu_logits(struct stream *st, const struct logits_args *args)
{
    struct matmul_job job = {
        .st = st,
        .x = args->x,
        .x_stride = args->x_stride,
        .row = args->row,
        .n_row = args->n_sample,
        .n_col = args->lm_head->n_col,
        .n_weight = 1,
        .w = { packed_view(args->lm_head) },
        .out = { args->out },
        .out_stride = { args->lm_head->n_row },
        .norm_weight = args->norm_weight,
        .norm_eps = args->norm_eps,
        .scale = args->scale,
        .fine = true, /* the last rounding is the one that ties of tokens feel; memory hides it */
    };
    if (args->n_sample < 1)
        return 0;
    int error = matmul_job_plan(&job);
    if (error)
        return error;
    matmul_job_run(&job);
    return 0;
}

int cpu_ffn_in(struct stream *st, const struct ffn_in_args *args)
{
    struct packed gate = packed_view(args->gate), up = gate;
    struct matmul_job job = {
        .st = st,
        .x = args->x,
        .x_stride = args->gate->n_col,
        .n_row = args->n_row,
        .n_col = args->gate->n_col,
        .n_weight = 2,
        .out = { args->out },
        .norm_weight = args->norm_weight,
        .norm_eps = args->norm_eps,
        .scale = 1.0f,
        .swiglu = true,
    };
    if (args->up) {
        up = packed_view(args->up);
    } else {
        if (gate.n_row % (2 * GROUP_ROWS))
            return -ENOTSUP;
        gate.n_row /= 2;
        gate.n_group /= 2;
        up = gate;
        up.data += gate.n_group * gate.group_bytes;
    }
    if (args->n_row < 1)
        return 0;
    assert(up.n_row == gate.n_row && up.n_col == gate.n_col);
    job.out_stride[0] = gate.n_row;
    job.w[0] = gate;
    job.w[1] = up;
    int error = matmul_job_plan(&job);
    if (error)
        return error;
    matmul_job_run(&job);
    return 0;
}

int cpu_attn_in(struct stream *st, const struct attn_in_args *args)
{
    struct matmul_job job;
    if (args->qkv.n_row < 1)
        return 0;
    int error = matmul_job_init(&job, st, &args->qkv);
    if (error)
        return error;
    matmul_job_run(&job);
    return cpu_rope_append(st, &args->rope);
}
