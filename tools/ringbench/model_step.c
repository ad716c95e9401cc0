/* Makes the model and runs its ops; no clock but the one that model.c reads. */
#include "tools/ringbench/model_step.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { NOISE_BYTES = 64 << 20 };

static const uint64_t random_start = 88172645463325252ull;

static const struct shape shapes[] = {
    { "llama-3.1-8b", 32, 4096, 32, 8, 128, 14336, 128256, false, false },
    { "llama-3.2-1b", 16, 2048, 32, 8, 64, 8192, 128256, false, false },
    { "qwen3-0.6b", 28, 1024, 16, 8, 128, 3072, 151936, true, false },
    { "qwen3-8b", 36, 4096, 32, 8, 128, 12288, 151936, true, false },
    { "tiny", 2, 512, 8, 2, 64, 1536, 4096, false, true },
    { "mini", 1, 384, 4, 2, 96, 512, 1024, true, true },
};

const struct shape *model_find_shape(const char *name)
{
    for (size_t j = 0; j < ARRAY_SIZE(shapes); j++)
        if (strcmp(shapes[j].name, name) == 0)
            return &shapes[j];
    return NULL;
}

void model_die(const char *what)
{
    fprintf(stderr, "ringbench model: %s\n", what);
    exit(1);
}

void model_must(struct model_bench *b, int error, const char *what)
{
    if (!error)
        return;
    const char *why = b->dev ? b->d->error(b->dev) : NULL;
    fprintf(stderr, "ringbench model: %s: %s %s\n", what, strerror(-error), why ? why : "");
    exit(1);
}

static void *device_room(struct model_bench *b, int64_t bytes)
{
    void *p = b->d->alloc(b->dev, (size_t)bytes);
    if (!p)
        model_die("out of device memory");
    return p;
}

double model_now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int model_by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* A value that is 0 or between 2^-14 and 1, cut off to f16. */
static uint16_t as_f16(uint32_t bits)
{
    uint32_t exponent = bits >> 23 & 0xff;
    return exponent < 113
               ? 0
               : (uint16_t)((bits >> 16 & 0x8000) | (exponent - 112) << 10 | (bits >> 13 & 0x3ff));
}

/* Xorshift: each from the one before. */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Uniform with standard deviation 0.02, in the type of the op table. */
static void make_noise(struct model_bench *b)
{
    uint16_t *noise = b->noise ? b->noise : b->d->host_alloc(b->dev, NOISE_BYTES);
    if (!noise)
        model_die("out of pinned memory");
    b->noise = noise;
    b->noise_dtype = b->k->act_dtype;
    uint64_t state = random_start;
    for (int64_t i = 0; i < NOISE_BYTES / 2; i++) {
        float v = ((float)(next_random(&state) >> 40) * 0x1p-23f - 1.0f) * 0.0346f;
        uint32_t bits;
        memcpy(&bits, &v, 4);
        noise[i] = b->noise_dtype == DTYPE_F16 ? as_f16(bits) : (uint16_t)(bits >> 16);
    }
}

static void load_noise(struct model_bench *b, struct weight *w, int n_row, int n_col)
{
    *w = (struct weight){ .dtype = b->k->act_dtype, .n_row = n_row, .n_col = n_col };
    model_must(b, b->k->weight_layout(b->dev, w->dtype, n_row, n_col, &w->bytes, &w->layout),
               "layout");
    w->data = device_room(b, w->bytes);
    int rows = NOISE_BYTES / 2 / n_col / 64 * 64;
    for (int row = 0; row < n_row; row += rows)
        model_must(b,
                   b->k->weight_load(b->st, w, row, n_row - row < rows ? n_row - row : rows,
                                     b->noise, (int64_t)n_col * 2),
                   "weight_load");
    b->weight_bytes += w->bytes;
}

static float *floats(struct model_bench *b, int n, float base, float spread)
{
    float *host = b->d->host_alloc(b->dev, (size_t)n * 4), *dev = device_room(b, (int64_t)n * 4);
    for (int i = 0; i < n; i++)
        host[i] = base + spread * sinf((float)i);
    model_must(b, b->d->copy_in(b->st, dev, host, (size_t)n * 4), "copy_in");
    model_must(b, b->d->stream_sync(b->st), "sync");
    b->d->host_free(b->dev, host);
    return dev;
}

static void load_model(struct model_bench *b)
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
    model_must(b, b->d->copy_in(b->st, b->inv_freq, f, (size_t)s->head_dim * 2), "copy_in");
    b->block_stride = (int64_t)s->n_layer * 2 * s->n_kv_head * KV_BLOCK_TOKENS * s->head_dim * 2;
}

static void make_room(struct model_bench *b)
{
    const struct shape *s = b->s;
    int64_t rows = b->rows_max;
    b->x = device_room(b, rows * s->dim * 2);
    b->qkv = device_room(b, rows * (s->n_head + 2 * s->n_kv_head) * s->head_dim * 2);
    b->attn = device_room(b, rows * s->n_head * s->head_dim * 2);
    b->act = device_room(b, rows * s->ffn * 2);
    b->logits = device_room(b, (int64_t)MODEL_SEQS_MAX * s->vocab * 4);
    b->ints = device_room(b, 8 * (rows + 1) * 4);
    b->blocks = device_room(b, (int64_t)b->kv_blocks * 4);
    b->sampled = device_room(b, MODEL_SEQS_MAX * 4);
    b->params = b->d->host_alloc(b->dev, MODEL_SEQS_MAX * sizeof *b->params);
    b->out = b->d->host_alloc(b->dev, MODEL_SEQS_MAX * sizeof *b->out);
    for (int i = 0; i < MODEL_SEQS_MAX; i++)
        b->params[i] = (struct sample_params){
            .top_p = 1, .repetition = 1, .state_slot = -1, .mask_index = -1
        };
    b->pool = device_room(b, (int64_t)b->kv_blocks * b->block_stride);
    for (int64_t at = 0, n = (int64_t)b->kv_blocks * b->block_stride; at < n; at += NOISE_BYTES)
        model_must(b,
                   b->d->copy_in(b->st, b->pool + at, b->noise,
                                 (size_t)(n - at < NOISE_BYTES ? n - at : NOISE_BYTES)),
                   "fill");
    model_must(b, b->d->stream_sync(b->st), "sync");
}

void model_release(struct model_bench *b)
{
    void *all[] = { b->x,         b->qkv,    b->attn,     b->act,       b->logits,
                    b->ints,      b->blocks, b->sampled,  b->pool,      b->norm,
                    b->head_norm, b->bias,   b->inv_freq, b->embed.data };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        b->d->free(b->dev, all[i]);
    for (int i = 0; i < b->s->n_layer * 4; i++)
        b->d->free(b->dev, b->layers[i].data);
    free(b->layers);
    b->d->host_free(b->dev, b->params);
    b->d->host_free(b->dev, b->out);
    b->weight_bytes = 0;
}

/* All numbers below n, each once; a fixed step would at some n meet the same memory channels. */
static void scatter(int32_t *ret, int n)
{
    uint64_t state = random_start;
    for (int i = 0; i < n; i++) {
        int at = (int)(next_random(&state) >> 33) % (i + 1);
        ret[i] = ret[at];
        ret[at] = i;
    }
}

/* n_seq sequences whose contexts reach `context` tokens, `each` of them this step's rows. */
struct seq_batch model_batch(struct model_bench *b, int n_seq, int each, int context)
{
    int rows = n_seq * each, per = (context + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS;
    int64_t part = b->rows_max + 1;
    int32_t *h = b->d->host_alloc(b->dev, (size_t)part * 8 * 4);
    int32_t *blocks = b->d->host_alloc(b->dev, (size_t)b->kv_blocks * 4);
    if (rows > b->rows_max || n_seq * per > b->kv_blocks)
        model_die("batch is larger than the room");
    scatter(blocks, b->kv_blocks);
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
    model_must(b, b->d->copy_in(b->st, b->ints, h, (size_t)part * 8 * 4), "copy_in");
    model_must(b, b->d->copy_in(b->st, b->blocks, blocks, (size_t)b->kv_blocks * 4), "copy_in");
    model_must(b, b->d->stream_sync(b->st), "sync");
    b->d->host_free(b->dev, h);
    b->d->host_free(b->dev, blocks);
    return (struct seq_batch){
        .n_row = rows,
        .n_seq = n_seq,
        .n_decode = each == 1 ? n_seq : 0,
        .kv_tokens_max = context,
        .row_start = b->ints + 4 * part,
        .kv_tokens = b->ints + 5 * part,
        .block_start = b->ints + 6 * part,
        .blocks = b->blocks,
        .row_seq = b->ints + 3 * part,
    };
}

void model_open_device(struct model_bench *b, bool ceilings)
{
    char err[256] = "";
    if (backend_find("cuda", &b->backend, err, sizeof(err)))
        model_die(err);
    b->d = b->backend->device;
    if (b->d->open(&(struct device_options){ 0 }, &b->dev, err, sizeof(err)))
        model_die(err);
    if (b->d->ceilings && ceilings)
        model_must(b, b->d->ceilings(b->dev, &b->top), "ceilings");
    struct device_info info;
    b->d->info(b->dev, &info);
    struct bench_result *r = bench_report_add(&b->report, "ceilings", "machine");
    snprintf(r->note, sizeof(r->note), "%.80s, %.40s", info.name, info.features);
    bench_value_set(r, "read_gb_per_s", b->top.read_bytes_per_s / 1e9);
    bench_value_set(r, "copy_gb_per_s", b->top.copy_bytes_per_s / 1e9);
    bench_value_set(r, "bf16_tflops", b->top.matmul_flops_per_s / 1e12);
    bench_value_set(r, "launch_ns", b->top.launch_ns);
}

void model_open_shape(struct model_bench *b, const struct shape *s, int rows_max, int kv_tokens)
{
    b->s = s;
    b->rows_max = rows_max;
    b->kv_blocks = kv_tokens / KV_BLOCK_TOKENS + 513;
    struct op_limits limits = {
        .rows_max = rows_max,
        .seqs_max = MODEL_SEQS_MAX,
        .samples_max = MODEL_SEQS_MAX,
        .dim_max = s->ffn > s->dim ? s->ffn : s->dim,
        .out_max = 2 * s->ffn,
        .vocab = s->vocab,
        .n_head = s->n_head,
        .n_kv_head = s->n_kv_head,
        .head_dim = s->head_dim,
        .context_max = 131072,
    };
    model_must(b, b->d->stream_open(b->dev, &limits, &b->st), "stream");
    if (!b->noise || b->noise_dtype != b->k->act_dtype)
        make_noise(b);
    load_model(b);
    make_room(b);
}

static struct kv_layer layer_kv(const struct model_bench *b, int i)
{
    const struct shape *s = b->s;
    int64_t half = b->block_stride / s->n_layer / 2;
    return (struct kv_layer){ b->pool + 2 * i * half, b->pool + (2 * i + 1) * half,
                              b->block_stride,        b->k->act_dtype,
                              s->n_kv_head,           s->head_dim };
}

/* Gate (0) or up (1) of a weight that holds both: what attn_in and o name as read next. */
static struct weight half_of(const struct weight *both, int i)
{
    struct weight w = *both;
    w.n_row /= 2;
    w.bytes /= 2;
    w.data = (char *)w.data + i * w.bytes;
    return w;
}

static struct attn_in_args attn_in_of(const struct model_bench *b, const struct seq_batch *batch,
                                      int i)
{
    const struct shape *s = b->s;
    int64_t stride = (int64_t)(s->n_head + 2 * s->n_kv_head) * s->head_dim;
    int64_t part = b->rows_max + 1;
    uint16_t *q = b->qkv;
    return (struct attn_in_args){
        .qkv = { .x = b->x,
                 .x_stride = s->dim,
                 .n_row = batch->n_row,
                 .n_weight = 1,
                 .weight = { b->layers + 4 * i },
                 .out = { b->qkv },
                 .out_stride = { stride },
                 .bias = { s->bias ? b->bias : NULL },
                 .norm_weight = b->norm,
                 .norm_eps = 1e-5f,
                 .deterministic = batch->deterministic },
        .rope = { .q = q,
                  .k = q + s->n_head * s->head_dim,
                  .v = q + (s->n_head + s->n_kv_head) * s->head_dim,
                  .stride = stride,
                  .n_row = batch->n_row,
                  .n_head = s->n_head,
                  .position = b->ints + part,
                  .slot = b->ints + 2 * part,
                  .rope = { b->inv_freq, s->head_dim, false, 1 },
                  .q_norm = s->head_norm ? b->head_norm : NULL,
                  .k_norm = s->head_norm ? b->head_norm : NULL,
                  .norm_eps = 1e-6f,
                  .kv = layer_kv(b, i) },
    };
}

/*
 * rope: of attn_in_of(), or NULL: was done. As in daemon/model/blocks.c it is asked for where
 * attention takes it.
 */
static struct attn_args attn_of(const struct model_bench *b, const struct seq_batch *batch, int i,
                                const struct rope_append_args *rope)
{
    const struct shape *s = b->s;
    struct attn_args at = { .out = b->attn,
                            .q = b->qkv,
                            .out_stride = s->n_head * s->head_dim,
                            .q_stride = (int64_t)(s->n_head + 2 * s->n_kv_head) * s->head_dim,
                            .n_head = s->n_head,
                            .scale = 1.0f / sqrtf((float)s->head_dim),
                            .kv = layer_kv(b, i),
                            .batch = batch,
                            .rope = rope };
    if (!b->k->attn_turns || !b->k->attn_turns(b->st, &at))
        at.rope = NULL;
    return at;
}

static void attn_in(struct model_bench *b, const struct seq_batch *batch, int i)
{
    const struct weight gate = half_of(b->layers + 4 * i + 2, 0);
    struct attn_in_args in = attn_in_of(b, batch, i);
    in.qkv.next[0] = &gate;
    if (attn_of(b, batch, i, &in.rope).rope)
        model_must(b, b->k->matmul(b->st, &in.qkv), "matmul");
    else
        model_must(b, b->k->attn_in(b->st, &in), "attn_in");
}

void model_rope_append(struct model_bench *b, const struct seq_batch *batch, int layer)
{
    const struct attn_in_args in = attn_in_of(b, batch, layer);
    model_must(b, b->k->rope_append(b->st, &in.rope), "rope_append");
}

void model_attn(struct model_bench *b, const struct seq_batch *batch, int layer)
{
    const struct attn_args at = attn_of(b, batch, layer, NULL);
    model_must(b, b->k->attn(b->st, &at), "attention");
}

static void attn(struct model_bench *b, const struct seq_batch *batch, int i)
{
    const struct attn_in_args in = attn_in_of(b, batch, i);
    const struct attn_args at = attn_of(b, batch, i, &in.rope);
    model_must(b, b->k->attn(b->st, &at), "attn");
}

/* A product that adds to x: the attention's or the feed-forward's way out. */
static void add_product(struct model_bench *b, const struct seq_batch *batch,
                        const struct weight *w, const void *x, const struct weight *next)
{
    struct matmul_args m = { .x = x,
                             .x_stride = w->n_col,
                             .n_row = batch->n_row,
                             .n_weight = 1,
                             .weight = { w },
                             .out = { b->x },
                             .out_stride = { b->s->dim },
                             .add = true,
                             .deterministic = batch->deterministic,
                             .next = { next } };
    model_must(b, b->k->matmul(b->st, &m), "matmul");
}

static void ffn_in(struct model_bench *b, const struct seq_batch *batch, int i)
{
    struct ffn_in_args f = { b->act,
                             b->x,
                             b->layers + 4 * i + 2,
                             NULL,
                             b->norm,
                             1e-5f,
                             batch->n_row,
                             batch->deterministic,
                             { b->layers + 4 * i + 3 } };
    model_must(b, b->k->ffn_in(b->st, &f), "ffn_in");
}

static void embed(struct model_bench *b, const struct seq_batch *batch)
{
    struct embed_args e = { b->x, &b->embed, b->ints, b->sampled, batch->n_row, 1 };
    model_must(b, b->k->embed(b->st, &e), "embed");
}

static void logits(struct model_bench *b, const struct seq_batch *batch)
{
    int64_t part = b->rows_max + 1;
    struct logits_args l = {
        b->logits, b->x,      b->s->dim, b->ints + 7 * part,   batch->n_seq, b->norm,
        1e-5f,     &b->embed, 1,         batch->deterministic, { b->layers }
    };
    model_must(b, b->k->logits(b->st, &l), "logits");
}

static void sample(struct model_bench *b, const struct seq_batch *batch)
{
    struct sample_args sa = { .logits = b->logits,
                              .n_sample = batch->n_seq,
                              .vocab = b->s->vocab,
                              .params = b->params,
                              .out = b->out,
                              .sampled = b->sampled };
    model_must(b, b->k->sample(b->st, &sa), "sample");
}

void model_run_op(struct model_bench *b, const struct seq_batch *batch, enum model_op op, int i)
{
    switch (op) {
    case MODEL_EMBED:
        embed(b, batch);
        break;
    case MODEL_ATTN_IN:
        attn_in(b, batch, i);
        break;
    case MODEL_ATTN:
        attn(b, batch, i);
        break;
    case MODEL_O: {
        const struct weight up = half_of(b->layers + 4 * i + 2, 1);
        add_product(b, batch, b->layers + 4 * i + 1, b->attn, &up);
        break;
    }
    case MODEL_FFN_IN:
        ffn_in(b, batch, i);
        break;
    case MODEL_DOWN:
        add_product(b, batch, b->layers + 4 * i + 3, b->act,
                    i + 1 < b->s->n_layer ? b->layers + 4 * i + 4 : &b->embed);
        break;
    case MODEL_LOGITS:
        logits(b, batch);
        break;
    case MODEL_SAMPLE:
    case MODEL_OPS:
        sample(b, batch);
        break;
    }
}

void model_run_step(struct model_bench *b, const struct seq_batch *batch)
{
    embed(b, batch);
    for (int i = 0; i < b->s->n_layer; i++)
        for (enum model_op op = MODEL_ATTN_IN; op <= MODEL_DOWN; op++)
            model_run_op(b, batch, op, i);
    logits(b, batch);
    sample(b, batch);
}

const char *model_op_name(enum model_op op)
{
    static const char *const names[MODEL_OPS] = { "embed",  "attn_in", "attn",   "o",
                                                  "ffn_in", "down",    "logits", "sample" };
    return names[op];
}

/* The weight that an op reads, or NULL. */
static const struct weight *weight_of(const struct model_bench *b, enum model_op op)
{
    switch (op) {
    case MODEL_ATTN_IN:
        return &b->layers[0];
    case MODEL_O:
        return &b->layers[1];
    case MODEL_FFN_IN:
        return &b->layers[2];
    case MODEL_DOWN:
        return &b->layers[3];
    case MODEL_LOGITS:
        return &b->embed;
    default:
        return NULL;
    }
}

double model_op_bytes(const struct model_bench *b, const struct seq_batch *batch, enum model_op op)
{
    const struct shape *s = b->s;
    const struct weight *w = weight_of(b, op);
    double rows = op < MODEL_LOGITS ? batch->n_row : batch->n_seq;
    double kv_row = 4.0 * s->n_kv_head * s->head_dim, q_row = 2.0 * s->n_head * s->head_dim;
    double tokens = batch->n_decode ? (double)batch->n_seq * batch->kv_tokens_max
                                    : (double)batch->n_row; /* a prefill's own, once */
    if (op == MODEL_EMBED)
        return rows * s->dim * 4.0;
    if (op == MODEL_ATTN)
        return tokens * kv_row + rows * 2.0 * q_row;
    if (op == MODEL_SAMPLE)
        return rows * s->vocab * 4.0;
    double out = op == MODEL_LOGITS    ? 4.0 * w->n_row
                 : op == MODEL_FFN_IN  ? 1.0 * w->n_row /* half of it, 2 bytes each */
                 : op == MODEL_ATTN_IN ? 2.0 * w->n_row
                                       : 4.0 * w->n_row; /* read and written */
    return 2.0 * w->n_row * w->n_col + rows * (2.0 * w->n_col + out);
}

double model_op_flops(const struct model_bench *b, const struct seq_batch *batch, enum model_op op)
{
    const struct shape *s = b->s;
    const struct weight *w = weight_of(b, op);
    double rows = op < MODEL_LOGITS ? batch->n_row : batch->n_seq;
    if (w)
        return 2.0 * rows * w->n_row * w->n_col;
    if (op != MODEL_ATTN)
        return 0;
    double seen = batch->n_decode ? batch->kv_tokens_max : batch->kv_tokens_max / 2.0;
    return 4.0 * rows * seen * s->n_head * s->head_dim;
}
