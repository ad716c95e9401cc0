/*
 * Paged causal attention. A row's KV is cut into spans of SPAN_TOKENS at fixed positions; each
 * span gives (max, sum, values), and spans are merged in order. That cut is the same for prefill
 * and decode and for any number of threads; whether spans of one row run on one thread or on many
 * is a matter of scheduling alone.
 */
#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/matmul.h"

enum {
    TILE_QUERIES = 64, /* queries (rows x heads of one KV head) that share a loaded span */
    SPAN_BLOCKS = SPAN_TOKENS / KV_BLOCK_TOKENS,
};

/* One thread's scratch. */
struct work {
    struct kv_span span;
    float *scores;    /* [4][SPAN_TOKENS] */
    float *q;         /* [TILE_QUERIES][head_dim] scaled */
    float *acc, *next_acc; /* [TILE_QUERIES][stride] */
};

struct attn_job {
    struct stream *st;
    const struct attn_args *args;
    int n_group;     /* query heads of one KV head */
    int stride;      /* head_dim rounded up */
    int tile_rows;   /* rows of one tile */
    int n_item;      /* decode: sequences x KV heads [x spans]; then tiles x KV heads */
    int n_span;      /* > 0: spans of a decode row are items of their own */
    int next_item;
};

/* Queries of one KV head: rows first .. of one sequence, heads head .. of the group. */
struct tile {
    int seq, kv_head;
    int row, n_row;    /* rows of the step */
    int head, n_head;  /* absolute query heads */
    int position;      /* of the first row */
};

int64_t cpu_attn_thread_floats(const struct op_limits *limits)
{
    int64_t dim = lanes_up(max_of(limits->head_dim, 16));
    return 2 * dim * SPAN_TOKENS + 4 * SPAN_TOKENS + 3 * TILE_QUERIES * dim;
}

static struct work work_of(const struct attn_job *job, int thread_i)
{
    float *at = stream_thread_piece(job->st, thread_i);
    struct work work;
    work.span.k = at;
    work.span.v = work.span.k + job->stride * SPAN_TOKENS;
    work.scores = work.span.v + job->stride * SPAN_TOKENS;
    work.q = work.scores + 4 * SPAN_TOKENS;
    work.acc = work.q + TILE_QUERIES * job->stride;
    work.next_acc = work.acc + TILE_QUERIES * job->stride;
    return work;
}

static void load_span(const struct attn_job *job, struct work *work, int seq, int kv_head,
                      int span, int n_token)
{
    const struct seq_batch *batch = job->args->batch;
    const struct kv_layer *kv = &job->args->kv;
    const int32_t *blocks = batch->blocks + batch->block_start[seq] + span * SPAN_BLOCKS;
    int64_t head_at = dtype_bytes(kv->dtype, kv->head_dim) * KV_BLOCK_TOKENS * kv_head;
    const void *k[SPAN_BLOCKS], *v[SPAN_BLOCKS];

    for (int i = 0; i * KV_BLOCK_TOKENS < n_token; i++) {
        k[i] = (const char *)kv->k + blocks[i] * kv->block_stride + head_at;
        v[i] = (const char *)kv->v + blocks[i] * kv->block_stride + head_at;
    }
    job->st->dev->isa->kv_load(&work->span, k, v, n_token, kv->head_dim, kv->dtype);
}

/* The queries of a tile that see something of this span; returns how many. */
static int span_queries(const struct attn_job *job, const struct tile *tile, int span,
                        const struct work *work, struct attn_state *state,
                        struct span_query *ret_query)
{
    int base = span * SPAN_TOKENS, n = 0, window = job->args->window;
    for (int r = 0; r < tile->n_row; r++) {
        int position = tile->position + r;
        int first = window > 0 ? max_of(position - window + 1 - base, 0) : 0;
        int end = min_of(position + 1 - base, (int)SPAN_TOKENS);
        if (first >= end)
            continue;
        for (int h = 0; h < tile->n_head; h++) {
            int i = r * tile->n_head + h;
            ret_query[n++] = (struct span_query){
                .q = work->q + i * job->args->kv.head_dim,
                .first = first,
                .end = end,
                .state = &state[i],
            };
        }
    }
    return n;
}

static void scale_queries(const struct attn_job *job, const struct tile *tile, struct work *work)
{
    const struct attn_args *args = job->args;
    int head_dim = args->kv.head_dim;
    for (int r = 0; r < tile->n_row; r++) {
        const float *q = (const float *)args->q + (tile->row + r) * args->q_stride;
        float *out = work->q + (int64_t)r * tile->n_head * head_dim;
        q += tile->head * head_dim;
        for (int i = 0; i < tile->n_head * head_dim; i++)
            out[i] = q[i] * args->scale;
    }
}

static void write_out(const struct attn_job *job, int row, int head, const struct attn_state *state)
{
    const struct attn_args *args = job->args;
    float *out = (float *)args->out + row * args->out_stride + head * args->kv.head_dim;
    float inverse = 1.0f / state->sum;
    for (int d = 0; d < args->kv.head_dim; d++)
        out[d] = state->acc[d] * inverse;
}

static void write_zeros(const struct attn_job *job, const struct tile *tile)
{
    const struct attn_args *args = job->args;
    for (int r = 0; r < tile->n_row; r++)
        memset((float *)args->out + (tile->row + r) * args->out_stride +
                   tile->head * args->kv.head_dim,
               0, (size_t)tile->n_head * args->kv.head_dim * 4);
}

static int first_span(const struct attn_job *job, int position)
{
    int window = job->args->window;
    return window > 0 ? max_of(position - window + 1, 0) / SPAN_TOKENS : 0;
}

/* All spans of a tile, merged in order as they come. */
static void run_tile(const struct attn_job *job, const struct tile *tile, struct work *work)
{
    const struct cpu_isa *isa = job->st->dev->isa;
    int head_dim = job->args->kv.head_dim, last = tile->position + tile->n_row - 1;
    struct attn_state state[TILE_QUERIES], next[TILE_QUERIES];
    struct span_query query[TILE_QUERIES];
    bool started[TILE_QUERIES] = { false };

    if (tile->position < 0) {
        write_zeros(job, tile);
        return;
    }
    scale_queries(job, tile, work);
    for (int span = first_span(job, tile->position); span <= last / SPAN_TOKENS; span++) {
        for (int i = 0; i < TILE_QUERIES; i++) {
            state[i].acc = work->acc + i * job->stride;
            next[i].acc = work->next_acc + i * job->stride;
        }
        load_span(job, work, tile->seq, tile->kv_head, span,
                  min_of(last + 1 - span * SPAN_TOKENS, (int)SPAN_TOKENS));
        int n = span_queries(job, tile, span, work, next, query);
        isa->span_attend(&work->span, query, n, head_dim, work->scores);
        for (int j = 0; j < n; j++) {
            int i = (int)(query[j].state - next);
            if (started[i]) {
                isa->attn_merge(&state[i], &next[i], head_dim);
                continue;
            }
            memcpy(state[i].acc, next[i].acc, (size_t)job->stride * 4);
            state[i].max = next[i].max;
            state[i].sum = next[i].sum;
            started[i] = true;
        }
    }
    for (int r = 0; r < tile->n_row; r++)
        for (int h = 0; h < tile->n_head; h++)
            write_out(job, tile->row + r, tile->head + h, &state[r * tile->n_head + h]);
}

/* The heads of a KV head's group in pieces that fit a tile. */
static void run_rows(const struct attn_job *job, struct tile tile, struct work *work)
{
    int end = (tile.kv_head + 1) * job->n_group;
    for (tile.head = end - job->n_group; tile.head < end; tile.head += tile.n_head) {
        tile.n_head = min_of(end - tile.head, (int)TILE_QUERIES);
        run_tile(job, &tile, work);
    }
}

static float *partial_at(const struct attn_job *job, int seq, int head, int span)
{
    int64_t i = ((int64_t)seq * job->args->n_head + head) * job->n_span + span;
    return job->st->partials + i * (job->stride + 16);
}

/* One span of a decode row; its states wait in partials. */
static void run_span(const struct attn_job *job, int seq, int kv_head, int span,
                     struct work *work)
{
    const struct seq_batch *batch = job->args->batch;
    int position = batch->kv_tokens[seq] - 1, end = (kv_head + 1) * job->n_group;
    struct attn_state state[TILE_QUERIES];
    struct span_query query[TILE_QUERIES];
    struct tile tile = { seq, kv_head, batch->row_start[seq], 1, 0, 0, position };

    if (position < 0 || span > position / SPAN_TOKENS || span < first_span(job, position))
        return;
    load_span(job, work, seq, kv_head, span,
              min_of(position + 1 - span * SPAN_TOKENS, (int)SPAN_TOKENS));
    for (tile.head = end - job->n_group; tile.head < end; tile.head += tile.n_head) {
        tile.n_head = min_of(end - tile.head, (int)TILE_QUERIES);
        scale_queries(job, &tile, work);
        for (int h = 0; h < tile.n_head; h++)
            state[h].acc = partial_at(job, seq, tile.head + h, span) + 16;
        int n = span_queries(job, &tile, span, work, state, query);
        job->st->dev->isa->span_attend(&work->span, query, n, job->args->kv.head_dim,
                                       work->scores);
        for (int h = 0; h < tile.n_head; h++) {
            state[h].acc[-16] = state[h].max;
            state[h].acc[-15] = state[h].sum;
        }
    }
}

static void merge_row(const struct attn_job *job, int seq, int head)
{
    const struct seq_batch *batch = job->args->batch;
    int position = batch->kv_tokens[seq] - 1, row = batch->row_start[seq];
    struct attn_state state, next;

    if (position < 0) {
        struct tile tile = { seq, 0, row, 1, head, 1, position };
        write_zeros(job, &tile);
        return;
    }
    int span = first_span(job, position);
    state.acc = partial_at(job, seq, head, span) + 16;
    state.max = state.acc[-16];
    state.sum = state.acc[-15];
    while (++span <= position / SPAN_TOKENS) {
        next.acc = partial_at(job, seq, head, span) + 16;
        next.max = next.acc[-16];
        next.sum = next.acc[-15];
        job->st->dev->isa->attn_merge(&state, &next, job->args->kv.head_dim);
    }
    write_out(job, row, head, &state);
}

static int tiles_of(const struct attn_job *job, int seq)
{
    const int32_t *start = job->args->batch->row_start;
    return (start[seq + 1] - start[seq] + job->tile_rows - 1) / job->tile_rows;
}

/* Items of sequences with many rows come last tile first: those see the most tokens. */
static void run_item(const struct attn_job *job, int item, struct work *work)
{
    const struct seq_batch *batch = job->args->batch;
    int kv_head = item % job->args->kv.n_kv_head, tile_i = item / job->args->kv.n_kv_head;
    int seq = tile_i;

    if (tile_i >= batch->n_decode) {
        tile_i -= batch->n_decode;
        for (seq = batch->n_decode; tile_i >= tiles_of(job, seq); seq++)
            tile_i -= tiles_of(job, seq);
        tile_i = tiles_of(job, seq) - 1 - tile_i;
    } else {
        tile_i = 0;
    }
    int start = batch->row_start[seq], end = batch->row_start[seq + 1];
    int row = start + tile_i * job->tile_rows;
    struct tile tile = {
        .seq = seq,
        .kv_head = kv_head,
        .row = row,
        .n_row = min_of(end - row, job->tile_rows),
        .position = batch->kv_tokens[seq] - (end - row),
    };
    run_rows(job, tile, work);
}

static void attn_fn(void *arg, int thread_i)
{
    struct attn_job *job = arg;
    struct work work = work_of(job, thread_i);
    int n_kv_head = job->args->kv.n_kv_head;

    for (int item; (item = cpu_work_next(&job->next_item, 1)) < job->n_item;) {
        if (job->n_span) {
            int seq = item / job->n_span / n_kv_head;
            run_span(job, seq, item / job->n_span % n_kv_head, item % job->n_span, &work);
        } else {
            run_item(job, item, &work);
        }
    }
}

static void merge_items(void *arg, int from, int to)
{
    const struct attn_job *job = arg;
    for (int i = from; i < to; i++)
        merge_row(job, i / job->args->n_head, i % job->args->n_head);
}

/* Few decode rows with long contexts: their spans become items, if the states fit. */
static void plan_items(struct attn_job *job)
{
    const struct seq_batch *batch = job->args->batch;
    int n_kv_head = job->args->kv.n_kv_head, n_thread = job->st->dev->n_thread;
    int n_span = (batch->kv_tokens_max + SPAN_TOKENS - 1) / SPAN_TOKENS;
    int64_t floats = (int64_t)batch->n_seq * job->args->n_head * n_span * (job->stride + 16);

    job->n_item = batch->n_decode * n_kv_head;
    for (int seq = batch->n_decode; seq < batch->n_seq; seq++)
        job->n_item += tiles_of(job, seq) * n_kv_head;
    if (batch->n_decode == batch->n_seq && n_span > 1 && n_thread > 1 &&
        job->n_item < 4 * n_thread && floats <= job->st->partials_floats) {
        job->n_span = n_span;
        job->n_item *= n_span;
    }
}

int cpu_attn(struct stream *st, const struct attn_args *args)
{
    const struct kv_layer *kv = &args->kv;
    struct attn_job job = { .st = st, .args = args, .stride = lanes_up(kv->head_dim) };

    if (kv->head_dim < 2 || kv->head_dim > 256 || kv->head_dim % 2 || kv->n_kv_head < 1 ||
        args->n_head % kv->n_kv_head || kv->head_dim > max_of(st->limits.head_dim, 16) ||
        args->rope)
        return -ENOTSUP;
    if (kv->dtype == DTYPE_Q8_0 ? kv->head_dim % 32 != 0
                                : kv->dtype != DTYPE_F32 && kv->dtype != DTYPE_F16 &&
                                      kv->dtype != DTYPE_BF16)
        return -ENOTSUP;
    if (args->batch->n_row < 1)
        return 0;
    job.n_group = args->n_head / kv->n_kv_head;
    job.tile_rows = max_of((int)TILE_QUERIES / job.n_group, 1);
    plan_items(&job);
    if (job.n_item == 1)
        attn_fn(&job, 0);
    else
        cpu_threads_run(st->dev->pool, attn_fn, &job);
    if (job.n_span)
        run_items(st, merge_items, &job, args->batch->n_seq * args->n_head, 32);
    return 0;
}
