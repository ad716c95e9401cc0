/*
 * kernel_bench [-t THREADS] [-q TYPE] [-p ROWS] [-c CONTEXT]
 *
 * Times the CPU's ops at the shapes of SmolLM2-135M (width 576, FFN 1536, 9 heads, 3 KV heads of
 * 64, 30 layers, vocabulary 49152) beside the read bandwidth and the int8 dot peak of the same run.
 * Weights of all layers are walked in turn, so that caches hold what they would in a model.
 * Prints medians of several rounds.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/cpu/cpu.h"

enum { DIM = 576, FFN = 1536, HEADS = 9, KV_HEADS = 3, HEAD = 64, LAYERS = 30, VOCAB = 49152 };
enum { QKV = (HEADS + 2 * KV_HEADS) * HEAD, ROUNDS = 7, ROWS_MAX = 2048, CONTEXT_MAX = 8192 };

struct bench {
    const struct device_ops *device;
    const struct kernel_ops *ops;
    struct device *dev;
    struct stream *st;
    struct weight qkv[LAYERS], o[LAYERS], gate[LAYERS], up[LAYERS], down[LAYERS], head;
    float *x, *wide, *act, *logits, *norm, *freq;
    int32_t *position, *slot, *row;
    struct seq_batch batch;
    int32_t starts[2], tokens, block_start[2], blocks[CONTEXT_MAX / 16];
    struct kv_layer kv;
    int n_row, context;
};

static double now_us(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Median microseconds of one call of fn over all layers. */
static double median_us(struct bench *b, void (*fn)(struct bench *b, int layer), int layers)
{
    double us[ROUNDS];
    fn(b, 0);
    for (int i = 0; i < ROUNDS; i++) {
        double start = now_us();
        for (int layer = 0; layer < layers; layer++)
            fn(b, layer);
        us[i] = (now_us() - start) / layers;
    }
    qsort(us, ROUNDS, sizeof(us[0]), by_value);
    return us[ROUNDS / 2];
}

static void must(int error, const char *what)
{
    if (error) {
        fprintf(stderr, "kernel_bench: %s: %s\n", what, strerror(-error));
        exit(1);
    }
}

static struct weight make_weight(struct bench *b, enum dtype dtype, int n_row, int n_col)
{
    struct weight w = { .dtype = dtype, .n_row = n_row, .n_col = n_col };
    int64_t row_bytes = dtype_bytes(dtype, n_col);
    uint8_t *file = malloc((size_t)(row_bytes * n_row));
    uint64_t state = 88172645463325252u;
    for (int64_t i = 0; i < row_bytes * n_row; i++) {
        state ^= state << 13, state ^= state >> 7, state ^= state << 17;
        file[i] = (uint8_t)state & 0xbf; /* no exponent of a half float is all ones */
    }
    must(b->ops->weight_layout(b->dev, dtype, n_row, n_col, &w.bytes, &w.layout), "weight type");
    w.data = b->device->alloc(b->dev, (size_t)w.bytes);
    must(w.data ? 0 : -12, "weight");
    must(b->ops->weight_load(b->st, &w, 0, n_row, file, row_bytes), "weight");
    free(file);
    return w;
}

static float *make_floats(struct bench *b, int64_t n, float scale)
{
    float *x = b->device->alloc(b->dev, (size_t)n * 4);
    must(x ? 0 : -12, "activations");
    for (int64_t i = 0; i < n; i++)
        x[i] = scale * (float)((i * 7919) % 2001 - 1000) / 1000.0f;
    return x;
}

static void setup(struct bench *b, enum dtype dtype, int n_thread)
{
    struct device_options options = { .n_thread = n_thread };
    struct op_limits limits = { ROWS_MAX, 1, ROWS_MAX, FFN, 2 * FFN, VOCAB, HEADS, KV_HEADS, HEAD,
                                CONTEXT_MAX };
    char err[256];

    b->device = cpu_backend.device;
    b->ops = cpu_backend.ops;
    must(b->device->open(&options, &b->dev, err, sizeof(err)), "device");
    must(b->device->stream_open(b->dev, &limits, &b->st), "stream");
    for (int i = 0; i < LAYERS; i++) {
        b->qkv[i] = make_weight(b, dtype, QKV, DIM);
        b->o[i] = make_weight(b, dtype, DIM, DIM);
        b->gate[i] = make_weight(b, dtype, FFN, DIM);
        b->up[i] = make_weight(b, dtype, FFN, DIM);
        b->down[i] = make_weight(b, dtype, DIM, FFN);
    }
    b->head = make_weight(b, dtype == DTYPE_Q4_1 ? DTYPE_Q8_0 : dtype, VOCAB, DIM);
    b->x = make_floats(b, (int64_t)ROWS_MAX * FFN, 1.0f);
    b->wide = make_floats(b, (int64_t)ROWS_MAX * FFN, 1.0f);
    b->act = make_floats(b, (int64_t)ROWS_MAX * FFN, 1.0f);
    b->logits = make_floats(b, VOCAB, 1.0f);
    b->norm = make_floats(b, FFN, 1.0f);
    b->freq = make_floats(b, HEAD, 0.1f);
    b->position = calloc(ROWS_MAX, 4);
    b->slot = calloc(ROWS_MAX, 4);
    b->row = calloc(ROWS_MAX, 4);
    for (int i = 0; i < CONTEXT_MAX / 16; i++)
        b->blocks[i] = i;
    int64_t half = KV_HEADS * KV_BLOCK_TOKENS * HEAD * 2;
    char *pool = b->device->alloc(b->dev, (size_t)(2 * half * CONTEXT_MAX / 16));
    must(pool ? 0 : -12, "pool");
    b->kv = (struct kv_layer){ pool, pool + half, 2 * half, DTYPE_F16, KV_HEADS, HEAD };
}

/* The last n_row tokens of a context. */
static void set_step(struct bench *b, int n_row, int context)
{
    b->n_row = n_row;
    b->context = context;
    for (int i = 0; i < n_row; i++)
        b->position[i] = b->slot[i] = context - n_row + i;
    b->starts[1] = n_row;
    b->tokens = context;
    b->block_start[1] = (context + 15) / 16;
    b->batch = (struct seq_batch){ n_row, 1, n_row == 1, context, b->starts, &b->tokens,
                                   b->block_start, b->blocks, b->row, true };
}

static void op_attn_in(struct bench *b, int layer)
{
    struct attn_in_args args = {
        .qkv = { .x = b->x, .x_stride = DIM, .n_row = b->n_row, .n_weight = 1,
                 .weight = { &b->qkv[layer] }, .out = { b->wide }, .out_stride = { QKV },
                 .norm_weight = b->norm, .norm_eps = 1e-5f },
        .rope = { .q = b->wide, .k = b->wide + HEADS * HEAD,
                  .v = b->wide + (HEADS + KV_HEADS) * HEAD, .stride = QKV, .n_row = b->n_row,
                  .n_head = HEADS, .position = b->position, .slot = b->slot,
                  .rope = { b->freq, HEAD, true, 1.0f }, .kv = b->kv },
    };
    must(b->ops->attn_in(b->st, &args), "attn_in");
}

static void op_attn(struct bench *b, int layer)
{
    struct attn_args args = { .out = b->act, .q = b->wide, .out_stride = DIM, .q_stride = QKV,
                              .n_head = HEADS, .scale = 0.125f, .kv = b->kv, .batch = &b->batch };
    (void)layer;
    must(b->ops->attn(b->st, &args), "attn");
}

static void matmul(struct bench *b, const struct weight *w)
{
    struct matmul_args args = { .x = b->act, .x_stride = w->n_col, .n_row = b->n_row,
                                .n_weight = 1, .weight = { w }, .out = { b->wide },
                                .out_stride = { w->n_row } };
    must(b->ops->matmul(b->st, &args), "matmul");
}

static void op_o(struct bench *b, int layer)
{
    matmul(b, &b->o[layer]);
}

static void op_ffn_in(struct bench *b, int layer)
{
    struct ffn_in_args args = { .out = b->act, .x = b->x, .gate = &b->gate[layer],
                                .up = &b->up[layer], .norm_weight = b->norm, .norm_eps = 1e-5f,
                                .n_row = b->n_row };
    must(b->ops->ffn_in(b->st, &args), "ffn_in");
}

static void op_down(struct bench *b, int layer)
{
    matmul(b, &b->down[layer]);
}

static void op_logits(struct bench *b, int layer)
{
    struct logits_args args = { .out = b->logits, .x = b->x, .x_stride = DIM, .row = b->row,
                                .n_sample = 1, .norm_weight = b->norm, .norm_eps = 1e-5f,
                                .lm_head = &b->head, .scale = 1.0f };
    (void)layer;
    must(b->ops->logits(b->st, &args), "logits");
}

static void op_nothing_fn(void *arg, int thread_i)
{
    (void)arg;
    (void)thread_i;
}

static void op_fork(struct bench *b, int layer)
{
    (void)layer;
    cpu_threads_run(b->dev->pool, op_nothing_fn, NULL);
}

static struct {
    uint64_t *data;
    int64_t words;
    uint64_t sum;
} reading;

static void read_piece(void *arg, int thread_i)
{
    int *next = arg;
    const int64_t piece = 1 << 17;
    (void)thread_i;
    for (int64_t i; (i = cpu_work_next(next, 1) * piece) < reading.words;) {
        const uint64_t *p = reading.data + i;
        uint64_t sum[32] = { 0 };
        for (int64_t k = 0; k < piece; k += 32)
            for (int j = 0; j < 32; j++)
                sum[j] += p[k + j];
        for (int j = 0; j < 32; j++)
            __atomic_fetch_add(&reading.sum, sum[j], __ATOMIC_RELAXED);
    }
}

static void op_read(struct bench *b, int layer)
{
    int next = 0;
    (void)layer;
    cpu_threads_run(b->dev->pool, read_piece, &next);
}

enum { PEAK_LOOPS = 200000, PEAK_CHAINS = 12, PEAK_PIECES = 64 };

#if defined(__x86_64__)
__attribute__((target("avx512f,avx512vnni"))) static void peak_piece(void *arg, int thread_i)
{
    (void)thread_i;
    while (cpu_work_next(arg, 1) < PEAK_PIECES) {
        __m512i acc[PEAK_CHAINS];
        for (int j = 0; j < PEAK_CHAINS; j++)
            acc[j] = _mm512_set1_epi32(j);
        for (int i = 0; i < PEAK_LOOPS / PEAK_PIECES; i++)
            for (int j = 0; j < PEAK_CHAINS; j++) {
                acc[j] = _mm512_dpbusd_epi32(acc[j], acc[j], acc[j]);
                __asm__ volatile("" : "+v"(acc[j]));
            }
    }
}
#else
static void peak_piece(void *arg, int thread_i)
{
    (void)arg;
    (void)thread_i;
}
#endif

static void op_peak(struct bench *b, int layer)
{
    int next = 0;
    (void)layer;
    cpu_threads_run(b->dev->pool, peak_piece, &next);
}

static void print_op(const char *name, double us, double bytes, double macs, double read_gbs,
                     double peak_tops)
{
    printf("%-18s %10.1f us  %7.2f GB/s (%3.0f%% of read)  %6.3f TOP/s (%3.0f%% of peak)\n", name,
           us, bytes / us * 1e-3, bytes / us * 1e-1 / read_gbs, 2 * macs / us * 1e-6,
           2 * macs / us * 1e-4 / peak_tops);
}

static void run_step(struct bench *b, const char *title, double gbs, double tops)
{
    static const struct {
        const char *name;
        void (*fn)(struct bench *b, int layer);
    } ops[] = { { "norm+qkv+rope", op_attn_in }, { "attention", op_attn }, { "o", op_o },
                { "norm+gate+up+silu", op_ffn_in }, { "down", op_down } };
    double bytes[] = { (double)b->qkv[0].bytes, 2.0 * KV_HEADS * HEAD * 2 * b->context,
                       (double)b->o[0].bytes, (double)(b->gate[0].bytes + b->up[0].bytes),
                       (double)b->down[0].bytes };
    double n = b->n_row, seen = n * (b->context - (n - 1) / 2);
    double macs[] = { n * QKV * DIM, 2 * seen * HEADS * HEAD, n * DIM * DIM, 2 * n * FFN * DIM,
                      n * DIM * FFN };
    double total = 0.0;

    printf("\n%s: %d rows, context %d\n", title, b->n_row, b->context);
    for (int i = 0; i < 5; i++) {
        double us = median_us(b, ops[i].fn, b->n_row > 64 ? 6 : LAYERS);
        total += us * LAYERS;
        print_op(ops[i].name, us, bytes[i], macs[i], gbs, tops);
    }
    double us = median_us(b, op_logits, 1);
    total += us;
    print_op("logits (1 row)", us, (double)b->head.bytes, (double)VOCAB * DIM, gbs, tops);
    printf("%-18s %10.1f us  = %.1f tokens/s\n", "sum of the model", total, n / total * 1e6);
}

static struct sample_params sampling;

static void op_sample(struct bench *b, int layer)
{
    static struct sample_out out;
    static int32_t sampled;
    struct sample_args args = { .logits = b->logits, .n_sample = 1, .vocab = VOCAB,
                                .params = &sampling, .out = &out, .sampled = &sampled };
    sampling.position = (uint32_t)layer;
    must(b->ops->sample(b->st, &args), "sample");
}

/* Logits as a model has them: a bell of width 3 with a few that stand out. */
static void run_sampling(struct bench *b)
{
    static const struct {
        const char *name;
        struct sample_params params;
    } kinds[] = {
        { "greedy", { .top_p = 1.0f } },
        { "temperature 1", { .temperature = 1.0f, .top_p = 1.0f } },
        { "top_k 40, top_p 0.9", { .temperature = 1.0f, .top_p = 0.9f, .top_k = 40 } },
        { "top_p 0.95", { .temperature = 1.0f, .top_p = 0.95f } },
        { "greedy, 20 logprobs", { .top_p = 1.0f, .flags = SAMPLE_LOGPROBS, .n_top = 20 } },
    };
    uint64_t state = 88172645463325252u;
    for (int i = 0; i < VOCAB; i++) {
        b->logits[i] = i % 9000 == 7 ? 14.0f : -9.0f;
        for (int j = 0; j < 12; j++) {
            state ^= state << 13, state ^= state >> 7, state ^= state << 17;
            b->logits[i] += (float)(state >> 40) * 0x1p-24f * 1.5f;
        }
    }
    printf("\nsampling of one row, vocabulary %d\n", VOCAB);
    for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        sampling = kinds[i].params;
        sampling.repetition = 1.0f;
        sampling.state_slot = sampling.mask_index = -1;
        printf("%-20s %8.1f us\n", kinds[i].name, median_us(b, op_sample, 20));
    }
}

int main(int argc, char **argv)
{
    static struct bench b;
    int n_thread = 1, rows = 512, context = 512;
    enum dtype dtype = DTYPE_Q4_1;

    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "-t") == 0)
            n_thread = (int)strtol(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "-p") == 0)
            rows = (int)strtol(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "-c") == 0)
            context = (int)strtol(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "-q") == 0)
            for (int t = 0; t < DTYPE_COUNT; t++)
                dtype = strcmp(argv[i + 1], dtype_name(t)) == 0 ? (enum dtype)t : dtype;
    }
    if (rows < 1 || rows > ROWS_MAX || context < 1 || context > CONTEXT_MAX) {
        fprintf(stderr, "kernel_bench [-t THREADS] [-q TYPE] [-p ROWS <= %d] [-c CONTEXT <= %d]\n",
                ROWS_MAX, CONTEXT_MAX);
        return 2;
    }
    setup(&b, dtype, n_thread);
    reading.words = 32 << 20;
    reading.data = b.device->alloc(b.dev, (size_t)reading.words * 8);
    must(reading.data ? 0 : -12, "read buffer");
    memset(reading.data, 1, (size_t)reading.words * 8);
    double gbs = (double)reading.words * 8 / median_us(&b, op_read, 1) * 1e-3;
    double tops = 1e-9;
    if (strcmp(b.dev->isa->name, "avx512-vnni") == 0)
        tops = 2.0 * 64 * PEAK_LOOPS * PEAK_CHAINS / median_us(&b, op_peak, 1) * 1e-6;
    printf("%s, %s, %d threads: read %.2f GB/s, int8 dot %.3f TOP/s, empty fork-join %.2f us\n",
           b.dev->isa->name, dtype_name(dtype), n_thread, gbs, tops,
           median_us(&b, op_fork, 1000));
    set_step(&b, 1, context);
    run_step(&b, "decode", gbs, tops);
    set_step(&b, rows, rows);
    run_step(&b, "prefill", gbs, tops);
    run_sampling(&b);
    b.device->stream_close(b.st);
    b.device->close(b.dev);
    return 0;
}
