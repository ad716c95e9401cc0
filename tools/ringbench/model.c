/*
 * ringbench model: whole decode steps and prefills of real model shapes through the op table alone,
 * random weights; what the kernels reach without a daemon around them. Shares are of the limit made
 * from ceilings measured in the same process.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernels/backend.h"
#include "kernels/device.h"
#include "kernels/kernels.h"
#include "tools/ringbench/bench.h"

static const char *const usage =
    "usage: ringbench model [--no-ceilings] SHAPE FIGURE... [SHAPE FIGURE...]...\n"
    "\n"
    "  SHAPE        llama-3.1-8b, llama-3.2-1b, qwen3-0.6b, qwen3-8b or tiny\n"
    "  FIGURE       CONTEXT:BATCH   a decode step in a captured graph\n"
    "               pTOKENS         a prefill of one sequence\n"
    "               aTOKENS         the attention op alone, of such a prefill\n"
    "               dCONTEXT:BATCH  the attention op alone, of a decode step\n"
    "               check           results must not depend on the batch (exit status 1)\n"
    "  --no-ceilings  leave out the machine's limits, and with them the shares\n"
    "\n"
    "Runs on CUDA device 0. Common options: ringbench --help.\n";

enum { NOISE_BYTES = 64 << 20, REPLAYS = 100, ROUNDS = 5 };

struct shape {
    const char *name;
    int n_layer, dim, n_head, n_kv_head, head_dim, ffn, vocab;
    bool head_norm, bias;
};

static const struct shape shapes[] = {
    { "llama-3.1-8b", 32, 4096, 32, 8, 128, 14336, 128256, false, false },
    { "llama-3.2-1b", 16, 2048, 32, 8, 64, 8192, 128256, false, false },
    { "qwen3-0.6b", 28, 1024, 16, 8, 128, 3072, 151936, true, false },
    { "qwen3-8b", 36, 4096, 32, 8, 128, 12288, 151936, true, false },
    { "tiny", 2, 512, 8, 2, 64, 1536, 4096, false, true },
};

struct bench {
    const struct backend *backend;
    const struct device_ops *d;
    const struct kernel_ops *k;
    struct device *dev;
    struct stream *st;
    struct device_ceilings top;
    const struct shape *s;
    struct weight *layers, embed; /* qkv, o, gate_up, down a layer */
    float *norm, *head_norm, *bias, *inv_freq;
    int rows_max, kv_blocks;
    void *x, *qkv, *attn, *act, *noise;
    uint8_t *pool;
    int64_t block_stride, weight_bytes;
    float *logits;
    int32_t *ints; /* token, position, slot, row_seq, row_start, kv_tokens, block_start, row */
    int32_t *blocks, *sampled;
    struct sample_params *params;
    struct sample_out *out;
    struct bench_report report;
};

static void die(const char *what)
{
    fprintf(stderr, "ringbench model: %s\n", what);
    exit(1);
}

static void must(struct bench *b, int error, const char *what)
{
    if (!error)
        return;
    const char *why = b->dev ? b->d->error(b->dev) : NULL;
    fprintf(stderr, "ringbench model: %s: %s %s\n", what, strerror(-error), why ? why : "");
    exit(1);
}

static void *device_room(struct bench *b, int64_t bytes)
{
    void *p = b->d->alloc(b->dev, (size_t)bytes);
    if (!p)
        die("out of device memory");
    return p;
}

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Uniform bf16 with standard deviation 0.02. */
static void *make_noise(struct bench *b)
{
    uint16_t *noise = b->d->host_alloc(b->dev, NOISE_BYTES);
    uint64_t s = 88172645463325252ull;
    for (int64_t i = 0; i < NOISE_BYTES / 2; i++) {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        float v = ((float)(s >> 40) * 0x1p-23f - 1.0f) * 0.0346f;
        uint32_t bits;
        memcpy(&bits, &v, 4);
        noise[i] = (uint16_t)(bits >> 16);
    }
    return noise;
}

static void load_noise(struct bench *b, struct weight *w, int n_row, int n_col)
{
    *w = (struct weight){ .dtype = DTYPE_BF16, .n_row = n_row, .n_col = n_col };
    must(b, b->k->weight_layout(b->dev, w->dtype, n_row, n_col, &w->bytes, &w->layout), "layout");
    w->data = device_room(b, w->bytes);
    int rows = NOISE_BYTES / 2 / n_col / 64 * 64;
    for (int row = 0; row < n_row; row += rows)
        must(b, b->k->weight_load(b->st, w, row, n_row - row < rows ? n_row - row : rows, b->noise,
                                  (int64_t)n_col * 2),
             "weight_load");
    b->weight_bytes += w->bytes;
}

static float *floats(struct bench *b, int n, float base, float spread)
{
    float *host = b->d->host_alloc(b->dev, (size_t)n * 4), *dev = device_room(b, (int64_t)n * 4);
    for (int i = 0; i < n; i++)
        host[i] = base + spread * sinf((float)i);
    must(b, b->d->copy_in(b->st, dev, host, (size_t)n * 4), "copy_in");
    must(b, b->d->stream_sync(b->st), "sync");
    b->d->host_free(b->dev, host);
    return dev;
}

static void load_model(struct bench *b)
{
    const struct shape *s = b->s;
    int heads = s->n_head + 2 * s->n_kv_head;
    b->layers = calloc((size_t)s->n_layer * 4, sizeof *b->layers);
    for (int i = 0; i < s->n_layer; i++) {
        struct weight *w = b->layers + 4 * i;
        load_noise(b, w, heads * s->head_dim, s->dim);
        load_noise(b, w + 1, s->dim, s->n_head * s->head_dim);
        load_noise(b, w + 2, 2 * s->ffn, s->dim);
        load_noise(b, w + 3, s->dim, s->ffn);
    }
    load_noise(b, &b->embed, s->vocab, s->dim);
    b->norm = floats(b, s->dim, 1.0f, 0.1f);
    b->head_norm = floats(b, s->head_dim, 1.0f, 0.1f);
    b->bias = floats(b, heads * s->head_dim, 0.0f, 0.1f);
    float *f = b->d->host_alloc(b->dev, (size_t)s->head_dim * 2);
    for (int i = 0; i < s->head_dim / 2; i++)
        f[i] = powf(500000.0f, -2.0f * (float)i / (float)s->head_dim);
    b->inv_freq = device_room(b, s->head_dim * 2);
    must(b, b->d->copy_in(b->st, b->inv_freq, f, (size_t)s->head_dim * 2), "copy_in");
    b->block_stride = (int64_t)s->n_layer * 2 * s->n_kv_head * KV_BLOCK_TOKENS * s->head_dim * 2;
}

static void make_room(struct bench *b)
{
    const struct shape *s = b->s;
    int64_t rows = b->rows_max;
    b->x = device_room(b, rows * s->dim * 2);
    b->qkv = device_room(b, rows * (s->n_head + 2 * s->n_kv_head) * s->head_dim * 2);
    b->attn = device_room(b, rows * s->n_head * s->head_dim * 2);
    b->act = device_room(b, rows * s->ffn * 2);
    b->logits = device_room(b, 512ll * s->vocab * 4);
    b->ints = device_room(b, 8 * (rows + 1) * 4);
    b->blocks = device_room(b, (int64_t)b->kv_blocks * 4);
    b->sampled = device_room(b, 512 * 4);
    b->params = b->d->host_alloc(b->dev, 512 * sizeof *b->params);
    b->out = b->d->host_alloc(b->dev, 512 * sizeof *b->out);
    for (int i = 0; i < 512; i++)
        b->params[i] = (struct sample_params){
            .top_p = 1, .repetition = 1, .state_slot = -1, .mask_index = -1
        };
    b->pool = device_room(b, (int64_t)b->kv_blocks * b->block_stride);
    for (int64_t at = 0, n = (int64_t)b->kv_blocks * b->block_stride; at < n; at += NOISE_BYTES)
        must(b, b->d->copy_in(b->st, b->pool + at, b->noise,
                              (size_t)(n - at < NOISE_BYTES ? n - at : NOISE_BYTES)),
             "fill");
    must(b, b->d->stream_sync(b->st), "sync");
}

static void release(struct bench *b)
{
    void *all[] = { b->x, b->qkv, b->attn, b->act, b->logits, b->ints, b->blocks, b->sampled,
                    b->pool, b->norm, b->head_norm, b->bias, b->inv_freq, b->embed.data };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        b->d->free(b->dev, all[i]);
    for (int i = 0; i < b->s->n_layer * 4; i++)
        b->d->free(b->dev, b->layers[i].data);
    free(b->layers);
    b->d->host_free(b->dev, b->params);
    b->d->host_free(b->dev, b->out);
    b->weight_bytes = 0;
}

/* n_seq sequences whose contexts reach `context` tokens, `each` of them this step's rows. */
static struct seq_batch set_batch(struct bench *b, int n_seq, int each, int context)
{
    int rows = n_seq * each, per = (context + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    int64_t part = b->rows_max + 1;
    int32_t *h = b->d->host_alloc(b->dev, (size_t)part * 8 * 4);
    int32_t *blocks = b->d->host_alloc(b->dev, (size_t)b->kv_blocks * 4);
    if (rows > b->rows_max || n_seq * per > b->kv_blocks)
        die("batch is larger than the room");
    for (int i = 0; i < n_seq * per; i++) /* scattered, each once */
        blocks[i] = (int32_t)((int64_t)i * 7919 % b->kv_blocks);
    for (int i = 0; i < rows; i++) {
        int seq = i / each, position = context - each + i % each;
        int slot = blocks[seq * per + position / KV_BLOCK_TOKENS] * KV_BLOCK_TOKENS;
        h[i] = (i * 37 + 11) % b->s->vocab;
        h[part + i] = position;
        h[2 * part + i] = slot + position % KV_BLOCK_TOKENS;
        h[3 * part + i] = seq;
    }
    for (int i = 0; i <= n_seq; i++) {
        h[4 * part + i] = i * each;
        h[5 * part + i] = context;
        h[6 * part + i] = i * per;
        h[7 * part + i] = i < n_seq ? (i + 1) * each - 1 : 0;
    }
    must(b, b->d->copy_in(b->st, b->ints, h, (size_t)part * 8 * 4), "copy_in");
    must(b, b->d->copy_in(b->st, b->blocks, blocks, (size_t)b->kv_blocks * 4), "copy_in");
    must(b, b->d->stream_sync(b->st), "sync");
    b->d->host_free(b->dev, h);
    b->d->host_free(b->dev, blocks);
    return (struct seq_batch){
        .n_row = rows, .n_seq = n_seq, .n_decode = each == 1 ? n_seq : 0,
        .kv_tokens_max = context, .row_start = b->ints + 4 * part,
        .kv_tokens = b->ints + 5 * part, .block_start = b->ints + 6 * part, .blocks = b->blocks,
        .row_seq = b->ints + 3 * part,
    };
}

static void layer(struct bench *b, const struct seq_batch *batch, int i)
{
    const struct shape *s = b->s;
    const struct weight *w = b->layers + 4 * i;
    int64_t heads = s->n_head + 2 * s->n_kv_head, stride = heads * s->head_dim;
    int64_t half = b->block_stride / s->n_layer / 2, part = b->rows_max + 1;
    uint16_t *q = b->qkv;
    struct kv_layer kv = { b->pool + 2 * i * half, b->pool + (2 * i + 1) * half, b->block_stride,
                           DTYPE_BF16, s->n_kv_head, s->head_dim };
    struct attn_in_args in = {
        .qkv = { .x = b->x, .x_stride = s->dim, .n_row = batch->n_row, .n_weight = 1,
                 .weight = { w }, .out = { b->qkv }, .out_stride = { stride },
                 .bias = { s->bias ? b->bias : NULL }, .norm_weight = b->norm, .norm_eps = 1e-5f,
                 .deterministic = batch->deterministic },
        .rope = { .q = q, .k = q + s->n_head * s->head_dim,
                  .v = q + (s->n_head + s->n_kv_head) * s->head_dim, .stride = stride,
                  .n_row = batch->n_row, .n_head = s->n_head, .position = b->ints + part,
                  .slot = b->ints + 2 * part,
                  .rope = { b->inv_freq, s->head_dim, false, 1 },
                  .q_norm = s->head_norm ? b->head_norm : NULL,
                  .k_norm = s->head_norm ? b->head_norm : NULL, .norm_eps = 1e-6f, .kv = kv },
    };
    must(b, b->k->attn_in(b->st, &in), "attn_in");
    struct attn_args at = { .out = b->attn, .q = q, .out_stride = s->n_head * s->head_dim,
                            .q_stride = stride, .n_head = s->n_head,
                            .scale = 1.0f / sqrtf((float)s->head_dim), .kv = kv, .batch = batch };
    must(b, b->k->attn(b->st, &at), "attn");
    struct matmul_args o = { .x = b->attn, .x_stride = s->n_head * s->head_dim,
                             .n_row = batch->n_row, .n_weight = 1, .weight = { w + 1 },
                             .out = { b->x }, .out_stride = { s->dim }, .add = true,
                             .deterministic = batch->deterministic };
    must(b, b->k->matmul(b->st, &o), "o");
    struct ffn_in_args f = { b->act, b->x, w + 2, NULL, b->norm, 1e-5f, batch->n_row,
                             batch->deterministic };
    must(b, b->k->ffn_in(b->st, &f), "ffn_in");
    struct matmul_args down = { .x = b->act, .x_stride = s->ffn, .n_row = batch->n_row,
                                .n_weight = 1, .weight = { w + 3 }, .out = { b->x },
                                .out_stride = { s->dim }, .add = true,
                                .deterministic = batch->deterministic };
    must(b, b->k->matmul(b->st, &down), "down");
}

static void step(struct bench *b, const struct seq_batch *batch)
{
    int64_t part = b->rows_max + 1;
    struct embed_args e = { b->x, &b->embed, b->ints, b->sampled, batch->n_row, 1 };
    must(b, b->k->embed(b->st, &e), "embed");
    for (int i = 0; i < b->s->n_layer; i++)
        layer(b, batch, i);
    struct logits_args l = { b->logits, b->x, b->s->dim, b->ints + 7 * part, batch->n_seq, b->norm,
                             1e-5f, &b->embed, 1, batch->deterministic };
    must(b, b->k->logits(b->st, &l), "logits");
    struct sample_args sa = { .logits = b->logits, .n_sample = batch->n_seq, .vocab = b->s->vocab,
                              .params = b->params, .out = b->out, .sampled = b->sampled };
    must(b, b->k->sample(b->st, &sa), "sample");
}

static struct bench_result *add_figure(struct bench *b, const char *name, int n_seq, int rows,
                                       int context)
{
    struct bench_result *r = bench_report_add(&b->report, name, b->s->name);
    snprintf(r->note, sizeof(r->note), "batch %d, %d rows each, context %d", n_seq, rows, context);
    bench_value_set(r, "batch", n_seq);
    bench_value_set(r, "rows", rows);
    bench_value_set(r, "context", context);
    bench_progress("%s %s %s", b->s->name, name, r->note);
    return r;
}

/* Median milliseconds of one call of the graph, or of the eager step. */
static double time_step(struct bench *b, const struct seq_batch *batch, bool captured)
{
    struct graph *graph = NULL;
    double ms[ROUNDS];
    int n = captured ? REPLAYS : 3;
    step(b, batch); /* chooses algorithms */
    must(b, b->d->stream_sync(b->st), "step");
    if (captured) {
        must(b, b->d->graph_begin(b->st), "capture");
        step(b, batch);
        must(b, b->d->graph_end(b->st, &graph), "capture");
        must(b, b->d->graph_launch(b->st, graph), "replay");
    }
    for (int r = 0; r < ROUNDS; r++) {
        must(b, b->d->stream_sync(b->st), "replay");
        double from = now_s();
        for (int i = 0; i < n; i++) {
            if (captured)
                must(b, b->d->graph_launch(b->st, graph), "replay");
            else
                step(b, batch);
        }
        must(b, b->d->stream_sync(b->st), "replay");
        ms[r] = (now_s() - from) * 1e3 / n;
    }
    b->d->graph_close(graph);
    qsort(ms, ROUNDS, sizeof *ms, by_value);
    return ms[ROUNDS / 2];
}

static void decode_figure(struct bench *b, int context, int n_seq)
{
    struct seq_batch batch = set_batch(b, n_seq, 1, context);
    double ms = time_step(b, &batch, true);
    double kv = (double)n_seq * context * (double)b->block_stride / KV_BLOCK_TOKENS;
    double params = (double)b->weight_bytes / 2;
    double flops_s = 2.0 * n_seq * params / b->top.matmul_flops_per_s;
    double bytes_s = (double)b->weight_bytes / b->top.read_bytes_per_s;
    double limit = ((flops_s > bytes_s ? flops_s : bytes_s) + kv / b->top.read_bytes_per_s) * 1e3;
    struct bench_result *r = add_figure(b, "decode", n_seq, 1, context);
    bench_value_set(r, "ms", ms);
    bench_value_set(r, "limit_ms", limit);
    bench_value_set(r, "share_of_limit", limit / ms);
    bench_value_set(r, "tokens_per_s", n_seq * 1e3 / ms);
}

static void prefill_figure(struct bench *b, int tokens)
{
    const struct shape *s = b->s;
    struct seq_batch batch = set_batch(b, 1, tokens, tokens);
    double ms = time_step(b, &batch, false);
    double head = (double)s->vocab * s->dim, params = (double)b->weight_bytes / 2 - head;
    double linear = 2.0 * tokens * params / b->top.matmul_flops_per_s;
    double attn = 2.0 * tokens * tokens * s->n_head * s->head_dim * s->n_layer / 740e12;
    double limit = (linear + attn) * 1e3;
    struct bench_result *r = add_figure(b, "prefill", 1, tokens, tokens);
    bench_value_set(r, "ms", ms);
    bench_value_set(r, "limit_ms", limit);
    bench_value_set(r, "share_of_limit", limit / ms);
    bench_value_set(r, "tokens_per_s", tokens * 1e3 / ms);
}

/* The attention op alone: of one prefill, or of a decode step. */
static void attn_figure(struct bench *b, int n_seq, int each, int context)
{
    const struct shape *s = b->s;
    struct seq_batch batch = set_batch(b, n_seq, each, context);
    int64_t stride = (int64_t)(s->n_head + 2 * s->n_kv_head) * s->head_dim;
    int64_t half = b->block_stride / s->n_layer / 2;
    double ms[ROUNDS];
    step(b, &batch); /* real queries */
    for (int r = -1; r < ROUNDS; r++) {
        must(b, b->d->stream_sync(b->st), "attention");
        double from = now_s();
        for (int i = 0; i < s->n_layer * 4; i++) {
            int64_t at = 2 * (i % s->n_layer) * half;
            struct attn_args a = {
                .out = b->attn, .q = b->qkv, .out_stride = s->n_head * s->head_dim,
                .q_stride = stride, .n_head = s->n_head,
                .scale = 1.0f / sqrtf((float)s->head_dim), .batch = &batch,
                .kv = { b->pool + at, b->pool + at + half, b->block_stride, DTYPE_BF16,
                        s->n_kv_head, s->head_dim },
            };
            must(b, b->k->attn(b->st, &a), "attention");
        }
        must(b, b->d->stream_sync(b->st), "attention");
        if (r >= 0)
            ms[r] = (now_s() - from) * 1e3 / (s->n_layer * 4);
    }
    qsort(ms, ROUNDS, sizeof *ms, by_value);
    double t = ms[ROUNDS / 2] * 1e-3;
    double flops = 4.0 * n_seq * s->n_head * s->head_dim * each * (context - 0.5 * each);
    double bytes = 4.0 * n_seq * context * s->n_kv_head * s->head_dim;
    struct bench_result *r = add_figure(b, "attention", n_seq, each, context);
    bench_value_set(r, "us", t * 1e6);
    bench_value_set(r, "tflops", flops / t * 1e-12);
    bench_value_set(r, "gb_per_s", bytes / t * 1e-9);
    bench_value_set(r, "share_of_read", bytes / t / b->top.read_bytes_per_s);
}

static void fetch(struct bench *b, const struct seq_batch *batch, float *to, int row, int vocab)
{
    float *host = b->d->host_alloc(b->dev, (size_t)vocab * 4);
    step(b, batch);
    must(b, b->d->copy_out(b->st, host, b->logits + (int64_t)row * vocab, (size_t)vocab * 4),
         "copy_out");
    must(b, b->d->stream_sync(b->st), "check");
    memcpy(to, host, (size_t)vocab * 4);
    b->d->host_free(b->dev, host);
}

/* A prefill of two sequences behind 300 tokens: tiles of rows against row by row. */
static int check_prefill(struct bench *b, int each, int context)
{
    int vocab = b->s->vocab;
    float *tiles = calloc((size_t)vocab, 4), *rows = calloc((size_t)vocab, 4);
    double diff = 0, norm = 0;
    for (int det = 0; det < 2; det++) {
        struct seq_batch batch = set_batch(b, 2, each, context);
        batch.deterministic = det;
        fetch(b, &batch, det ? rows : tiles, 1, vocab);
    }
    for (int t = 0; t < vocab; t++) {
        diff += pow((double)tiles[t] - (double)rows[t], 2);
        norm += pow((double)rows[t], 2);
    }
    double error = sqrt(diff / norm);
    struct bench_result *r = add_figure(b, "check", 2, each, context);
    bench_value_set(r, "error", error);
    bench_value_set(r, "ok", error < 0.05);
    free(tiles);
    free(rows);
    return error < 0.05 ? 0 : 1;
}

/* One row's logits must not depend (but for rounding) on which kernels its batch size chooses. */
static int check(struct bench *b)
{
    static const int sizes[] = { 1, 2, 8, 9, 16, 17, 64 };
    int vocab = b->s->vocab, bad = 0;
    float *one = calloc((size_t)vocab, 4), *other = calloc((size_t)vocab, 4);
    for (int det = 0; det < 2; det++) {
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            struct seq_batch batch = set_batch(b, sizes[i], 1, 300);
            batch.deterministic = det;
            fetch(b, &batch, i ? other : one, 0, vocab);
            double diff = 0, norm = 0;
            for (int t = 0; t < vocab && i; t++) {
                diff += pow((double)other[t] - (double)one[t], 2);
                norm += pow((double)one[t], 2);
            }
            double error = i ? sqrt(diff / norm) : 0;
            bool fine = det ? !i || memcmp(one, other, (size_t)vocab * 4) == 0 : error < 0.05;
            bad += !fine;
            struct bench_result *r = add_figure(b, "check", sizes[i], 1, 300);
            bench_value_set(r, "deterministic", det);
            bench_value_set(r, "error", error);
            bench_value_set(r, "ok", fine);
        }
    }
    free(one);
    free(other);
    bad += check_prefill(b, 100, 100) + check_prefill(b, 37, 333) + check_prefill(b, 128, 384);
    return bad;
}

static void open_all(struct bench *b, bool ceilings)
{
    char err[256] = "";
    if (backend_find("cuda", &b->backend, err, sizeof(err)))
        die(err);
    b->d = b->backend->device;
    b->k = b->backend->ops;
    if (b->d->open(&(struct device_options){ 0 }, &b->dev, err, sizeof(err)))
        die(err);
    if (b->d->ceilings && ceilings)
        must(b, b->d->ceilings(b->dev, &b->top), "ceilings");
    struct device_info info;
    b->d->info(b->dev, &info);
    struct bench_result *r = bench_report_add(&b->report, "ceilings", "machine");
    snprintf(r->note, sizeof(r->note), "%.80s, %.40s", info.name, info.features);
    bench_value_set(r, "read_gb_per_s", b->top.read_bytes_per_s / 1e9);
    bench_value_set(r, "copy_gb_per_s", b->top.copy_bytes_per_s / 1e9);
    bench_value_set(r, "bf16_tflops", b->top.matmul_flops_per_s / 1e12);
    bench_value_set(r, "launch_ns", b->top.launch_ns);
}

static void open_model(struct bench *b, const struct shape *s, int rows_max, int kv_tokens)
{
    b->s = s;
    b->rows_max = rows_max;
    b->kv_blocks = kv_tokens / KV_BLOCK_TOKENS + 513;
    while (b->kv_blocks % 7919 == 0)
        b->kv_blocks++;
    struct op_limits limits = {
        .rows_max = rows_max, .seqs_max = 512, .samples_max = 512,
        .dim_max = s->ffn > s->dim ? s->ffn : s->dim, .out_max = 2 * s->ffn, .vocab = s->vocab,
        .n_head = s->n_head, .n_kv_head = s->n_kv_head, .head_dim = s->head_dim,
        .context_max = 131072,
    };
    must(b, b->d->stream_open(b->dev, &limits, &b->st), "stream");
    if (!b->noise)
        b->noise = make_noise(b);
    load_model(b);
    make_room(b);
}

static int run_model(struct bench *b, const struct shape *s, char **spec, int n)
{
    int bad = 0;
    int rows_max = 512, kv_tokens = 64 * 300;
    for (int i = 0; i < n; i++) {
        int context, batch;
        const char *figure = spec[i] + (spec[i][0] == 'd');
        if (sscanf(figure, "%d:%d", &context, &batch) == 2 && context * batch > kv_tokens)
            kv_tokens = (context + 16) * batch;
        if (sscanf(spec[i], "%*1[pa]%d", &context) == 1) {
            rows_max = context > rows_max ? context : rows_max;
            kv_tokens = context > kv_tokens ? context : kv_tokens;
        }
    }
    open_model(b, s, rows_max, kv_tokens);
    for (int i = 0; i < n; i++) {
        int context, batch;
        if (sscanf(spec[i], "%d:%d", &context, &batch) == 2)
            decode_figure(b, context, batch);
        else if (sscanf(spec[i], "p%d", &context) == 1)
            prefill_figure(b, context);
        else if (sscanf(spec[i], "a%d", &context) == 1)
            attn_figure(b, 1, context, context);
        else if (sscanf(spec[i], "d%d:%d", &context, &batch) == 2)
            attn_figure(b, batch, 1, context);
        else if (strcmp(spec[i], "check") == 0)
            bad += check(b);
        else
            die("unknown figure (see --help)");
    }
    release(b);
    b->d->stream_close(b->st);
    return bad;
}

static const struct shape *find_shape(const char *name)
{
    for (size_t j = 0; j < ARRAY_SIZE(shapes); j++)
        if (strcmp(shapes[j].name, name) == 0)
            return &shapes[j];
    return NULL;
}

int bench_model_main(int argc, char **argv, const struct bench_options *options)
{
    struct bench b = { .report = { .bench = "model" } };
    size_t at = (size_t)snprintf(b.report.command, sizeof(b.report.command), "ringbench");
    for (int i = 0; i < argc && at < sizeof(b.report.command); i++)
        at += (size_t)snprintf(b.report.command + at, sizeof(b.report.command) - at, " %s",
                               argv[i]);
    bool ceilings = !(argc > 1 && strcmp(argv[1], "--no-ceilings") == 0);
    int i = ceilings ? 1 : 2, bad = 0;
    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    if (argc < i + 2 || !find_shape(argv[i])) {
        fputs(usage, stderr);
        return 2;
    }
    open_all(&b, ceilings);
    while (i < argc) {
        int n = 0; /* figures wanted of this shape: up to the next one's name */
        while (i + 1 + n < argc && !find_shape(argv[i + 1 + n]))
            n++;
        bad += run_model(&b, find_shape(argv[i]), argv + i + 1, n);
        i += 1 + n;
    }
    bench_progress_end();
    b.d->host_free(b.dev, b.noise);
    b.d->close(b.dev);
    int rc = bench_report_write(&b.report, options);
    bench_report_free(&b.report);
    return rc || bad ? 1 : 0;
}
