/*
 * ringbench model: whole decode steps and prefills of real model shapes through the op table alone,
 * random weights; what the kernels reach without a daemon around them. Shares are of the limit made
 * from ceilings measured in the same process.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tools/ringbench/model_step.h"

static const char *const usage =
    "usage: ringbench model [--no-ceilings] [--dtype LIST] SHAPE FIGURE... [SHAPE FIGURE...]...\n"
    "\n"
    "  SHAPE        llama-3.1-8b, llama-3.2-1b, qwen3-0.6b, qwen3-8b, tiny or mini\n"
    "  FIGURE       CONTEXT:BATCH   a decode step in a captured graph\n"
    "               pTOKENS         a prefill of one sequence\n"
    "               aTOKENS         the attention op alone, of such a prefill\n"
    "               dCONTEXT:BATCH  the attention op alone, of a decode step\n"
    "               kCONTEXT:BATCH  each op of a decode step alone: time, bytes, GB/s\n"
    "               kpTOKENS        each op of a prefill alone: time, operations, TFLOP/s\n"
    "               check           results must not depend on the batch (exit status 1)\n"
    "               check-small     the same of fewer and shorter steps, for sanitizers\n"
    "               CONTEXT, BATCH and TOKENS may be lists: 32,1024:1,16,64 is six figures\n"
    "  --no-ceilings  leave out the machine's limits, and with them the shares\n"
    "  --dtype LIST   compute in bf16 (usual), f16, or bf16,f16: each shape in both\n"
    "\n"
    "Runs on CUDA device 0. Common options: ringbench --help.\n";

enum {
    REPLAYS = 100,
    ROUNDS = 5,
    CAPTURED_ROWS_MAX = 16, /* prefills that the daemon replays as well */
    LIST_MAX = 16,
    DTYPES_MAX = 2,
    ATTN_TFLOPS = 740, /* the best published for Hopper; the one limit that is not measured here */
    CONTEXT_MAX = 1 << 17,
    BATCH_MAX = MODEL_SEQS_MAX,
};

static struct bench_result *add_figure(struct model_bench *b, const char *name, int n_seq, int rows,
                                       int context)
{
    struct bench_result *r = bench_report_add(&b->report, name, b->s->name);
    snprintf(r->note, sizeof(r->note), "batch %d, %d rows each, context %d, %s", n_seq, rows,
             context, dtype_name(b->k->act_dtype));
    snprintf(r->dtype, sizeof(r->dtype), "%s", dtype_name(b->k->act_dtype));
    bench_value_set(r, "batch", n_seq);
    bench_value_set(r, "rows", rows);
    bench_value_set(r, "context", context);
    bench_progress("%s %s %s", b->s->name, name, r->note);
    return r;
}

/* Median milliseconds of one call of the graph, or of the eager step. */
static double time_step(struct model_bench *b, const struct seq_batch *batch, bool captured)
{
    struct graph *graph = NULL;
    double ms[ROUNDS];
    int n = captured ? REPLAYS : 3;
    model_run_step(b, batch); /* chooses algorithms */
    model_must(b, b->d->stream_sync(b->st), "step");
    if (captured) {
        model_must(b, b->d->graph_begin(b->st), "capture");
        model_run_step(b, batch);
        model_must(b, b->d->graph_end(b->st, &graph), "capture");
        model_must(b, b->d->graph_launch(b->st, graph), "replay");
    }
    for (int r = 0; r < ROUNDS; r++) {
        model_must(b, b->d->stream_sync(b->st), "replay");
        double from = model_now_s();
        for (int i = 0; i < n; i++) {
            if (captured)
                model_must(b, b->d->graph_launch(b->st, graph), "replay");
            else
                model_run_step(b, batch);
        }
        model_must(b, b->d->stream_sync(b->st), "replay");
        ms[r] = (model_now_s() - from) * 1e3 / n;
    }
    b->d->graph_close(graph);
    qsort(ms, ROUNDS, sizeof *ms, model_by_value);
    return ms[ROUNDS / 2];
}

static void decode_figure(struct model_bench *b, int context, int n_seq)
{
    struct seq_batch batch = model_batch(b, n_seq, 1, context);
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

static void prefill_figure(struct model_bench *b, int tokens)
{
    const struct shape *s = b->s;
    struct seq_batch batch = model_batch(b, 1, tokens, tokens);
    double ms = time_step(b, &batch, tokens <= CAPTURED_ROWS_MAX);
    double head = (double)s->vocab * s->dim, params = (double)b->weight_bytes / 2 - head;
    double linear = 2.0 * tokens * params / b->top.matmul_flops_per_s;
    double attn = 2.0 * tokens * tokens * s->n_head * s->head_dim * s->n_layer;
    double limit = (linear + attn / (ATTN_TFLOPS * 1e12)) * 1e3;
    struct bench_result *r = add_figure(b, "prefill", 1, tokens, tokens);
    bench_value_set(r, "ms", ms);
    bench_value_set(r, "limit_ms", limit);
    bench_value_set(r, "share_of_limit", limit / ms);
    bench_value_set(r, "tokens_per_s", tokens * 1e3 / ms);
}

/* The attention op alone: of one prefill, or of a decode step. */
static void attn_figure(struct model_bench *b, int n_seq, int each, int context)
{
    const struct shape *s = b->s;
    struct seq_batch batch = model_batch(b, n_seq, each, context);
    double ms[ROUNDS];
    model_run_step(b, &batch);       /* real queries */
    model_rope_append(b, &batch, 0); /* that attention follows, not one in which it does this too */
    for (int r = -1; r < ROUNDS; r++) {
        model_must(b, b->d->stream_sync(b->st), "attention");
        double from = model_now_s();
        for (int i = 0; i < s->n_layer * 4; i++)
            model_attn(b, &batch, i % s->n_layer);
        model_must(b, b->d->stream_sync(b->st), "attention");
        if (r >= 0)
            ms[r] = (model_now_s() - from) * 1e3 / (s->n_layer * 4);
    }
    qsort(ms, ROUNDS, sizeof *ms, model_by_value);
    double t = ms[ROUNDS / 2] * 1e-3;
    double flops = 4.0 * n_seq * s->n_head * s->head_dim * each * (context - 0.5 * each);
    double bytes = 4.0 * n_seq * context * s->n_kv_head * s->head_dim;
    struct bench_result *r = add_figure(b, "attention", n_seq, each, context);
    bench_value_set(r, "us", t * 1e6);
    bench_value_set(r, "tflops", flops / t * 1e-12);
    bench_value_set(r, "gb_per_s", bytes / t * 1e-9);
    bench_value_set(r, "share_of_read", bytes / t / b->top.read_bytes_per_s);
    bench_value_set(r, "share_of_matmul", flops / t / b->top.matmul_flops_per_s);
}

/* Microseconds of one call: a graph that runs it over all layers, so that weights come from memory.
 */
static double time_op(struct model_bench *b, const struct seq_batch *batch, enum model_op op)
{
    bool layered = op > MODEL_EMBED && op < MODEL_LOGITS;
    int n_layer = layered ? b->s->n_layer : 1, n_call = layered ? n_layer : 8;
    struct graph *graph;
    double us[ROUNDS];
    model_must(b, b->d->graph_begin(b->st), "capture");
    for (int i = 0; i < n_call; i++)
        model_run_op(b, batch, op, i % n_layer);
    model_must(b, b->d->graph_end(b->st, &graph), "capture");
    for (int r = -1; r < ROUNDS; r++) {
        model_must(b, b->d->stream_sync(b->st), "op");
        double from = model_now_s();
        for (int i = 0; i < 4; i++)
            model_must(b, b->d->graph_launch(b->st, graph), "op");
        model_must(b, b->d->stream_sync(b->st), "op");
        if (r >= 0)
            us[r] = (model_now_s() - from) * 1e6 / (4 * n_call);
    }
    b->d->graph_close(graph);
    qsort(us, ROUNDS, sizeof *us, model_by_value);
    return us[ROUNDS / 2];
}

/* Each op by itself, with the bytes and operations that it cannot do without. */
static void kernel_figures(struct model_bench *b, int n_seq, int each, int context)
{
    struct seq_batch batch = model_batch(b, n_seq, each, context);
    model_run_step(b, &batch); /* real inputs; chooses algorithms */
    for (enum model_op op = MODEL_EMBED; op < MODEL_OPS; op++) {
        double us = time_op(b, &batch, op);
        double bytes = model_op_bytes(b, &batch, op), flops = model_op_flops(b, &batch, op);
        double calls = op > MODEL_EMBED && op < MODEL_LOGITS ? b->s->n_layer : 1;
        struct bench_result *r = add_figure(b, model_op_name(op), n_seq, each, context);
        bench_value_set(r, "us", us);
        bench_value_set(r, "us_a_step", us * calls);
        bench_value_set(r, "mb", bytes * 1e-6);
        bench_value_set(r, "gb_per_s", bytes / us * 1e-3);
        bench_value_set(r, "share_of_read", bytes / us * 1e6 / b->top.read_bytes_per_s);
        bench_value_set(r, "tflops", flops / us * 1e-6);
        bench_value_set(r, "share_of_matmul", flops / us * 1e6 / b->top.matmul_flops_per_s);
    }
}

static void fetch(struct model_bench *b, const struct seq_batch *batch, float *to, int row,
                  int vocab)
{
    float *host = b->d->host_alloc(b->dev, (size_t)vocab * 4);
    model_run_step(b, batch);
    model_must(b, b->d->copy_out(b->st, host, b->logits + (int64_t)row * vocab, (size_t)vocab * 4),
               "copy_out");
    model_must(b, b->d->stream_sync(b->st), "check");
    memcpy(to, host, (size_t)vocab * 4);
    b->d->host_free(b->dev, host);
}

/* A prefill of two sequences behind 300 tokens: tiles of rows against row by row. */
static int check_prefill(struct model_bench *b, int each, int context)
{
    int vocab = b->s->vocab;
    float *tiles = calloc((size_t)vocab, 4), *rows = calloc((size_t)vocab, 4);
    double diff = 0, norm = 0;
    for (int det = 0; det < 2; det++) {
        struct seq_batch batch = model_batch(b, 2, each, context);
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
static int check(struct model_bench *b, bool small)
{
    static const int sizes[] = { 1, 2, 9, 17, 64, 8, 16, 128 };
    size_t n_size = small ? 5 : ARRAY_SIZE(sizes);
    int vocab = b->s->vocab, bad = 0, context = small ? 70 : 300;
    float *one = calloc((size_t)vocab, 4), *other = calloc((size_t)vocab, 4);
    for (int det = 0; det < 2; det++) {
        for (size_t i = 0; i < n_size; i++) {
            struct seq_batch batch = model_batch(b, sizes[i], 1, context);
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
            struct bench_result *r = add_figure(b, "check", sizes[i], 1, context);
            bench_value_set(r, "deterministic", det);
            bench_value_set(r, "error", error);
            bench_value_set(r, "ok", fine);
        }
    }
    free(one);
    free(other);
    if (small)
        return bad + check_prefill(b, 20, 20) + check_prefill(b, 13, 50);
    bad += check_prefill(b, 100, 100) + check_prefill(b, 37, 333) + check_prefill(b, 128, 384) +
           check_prefill(b, 256, 256);
    return bad;
}

/* One figure of the command line: lists are products. */
struct figure {
    enum {
        DECODE,
        PREFILL,
        ATTN_PREFILL,
        ATTN_DECODE,
        KERNELS,
        KERNELS_PREFILL,
        CHECK,
        CHECK_SMALL
    } kind;
    int context[LIST_MAX], batch[LIST_MAX];
    int n_context, n_batch;
};

/* Numbers of 1 .. max with commas between them, up to something else. Returns where that is; NULL:
 * no number.
 */
static const char *take_list(const char *text, int max, int list[LIST_MAX], int *ret_n)
{
    for (int n = 0; n < LIST_MAX; n++) {
        char *end;
        long value = strtol(text, &end, 10);
        if (end == text || value < 1 || value > max)
            return NULL;
        list[n] = (int)value;
        *ret_n = n + 1;
        if (*end != ',')
            return end;
        text = end + 1;
    }
    return NULL;
}

static bool parse_figure(const char *text, struct figure *ret)
{
    static const struct {
        const char *prefix;
        int kind;
        bool batched;
    } kinds[] = { { "kp", KERNELS_PREFILL, false }, { "k", KERNELS, true },
                  { "p", PREFILL, false },          { "a", ATTN_PREFILL, false },
                  { "d", ATTN_DECODE, true },       { "", DECODE, true } };
    *ret = (struct figure){ .kind = CHECK, .batch = { 1 }, .n_batch = 1 };
    ret->kind = strcmp(text, "check-small") == 0 ? CHECK_SMALL : CHECK;
    if (ret->kind == CHECK_SMALL || strcmp(text, "check") == 0)
        return true;
    size_t i = 0;
    while (strncmp(text, kinds[i].prefix, strlen(kinds[i].prefix)) != 0)
        i++;
    ret->kind = kinds[i].kind;
    text = take_list(text + strlen(kinds[i].prefix), CONTEXT_MAX, ret->context, &ret->n_context);
    if (text && kinds[i].batched)
        text = *text == ':' ? take_list(text + 1, BATCH_MAX, ret->batch, &ret->n_batch) : NULL;
    return text && *text == 0;
}

static int run_figure(struct model_bench *b, const struct figure *f, int context, int batch)
{
    switch (f->kind) {
    case DECODE:
        decode_figure(b, context, batch);
        break;
    case PREFILL:
        prefill_figure(b, context);
        break;
    case ATTN_PREFILL:
        attn_figure(b, 1, context, context);
        break;
    case ATTN_DECODE:
        attn_figure(b, batch, 1, context);
        break;
    case KERNELS:
        kernel_figures(b, batch, 1, context);
        break;
    case KERNELS_PREFILL:
        kernel_figures(b, 1, context, context);
        break;
    case CHECK:
    case CHECK_SMALL:
        return check(b, f->kind == CHECK_SMALL);
    }
    return 0;
}

/* Rows and KV tokens that a figure needs at most. */
static void figure_room(const struct figure *f, int *rows_max, int *kv_tokens)
{
    bool prefills = f->kind == PREFILL || f->kind == ATTN_PREFILL || f->kind == KERNELS_PREFILL;
    for (int c = 0; c < f->n_context; c++)
        for (int n = 0; n < f->n_batch; n++) {
            int rows = prefills ? f->context[c] : f->batch[n];
            *rows_max = max_of(*rows_max, rows);
            *kv_tokens = max_of(*kv_tokens, (f->context[c] + KV_BLOCK_TOKENS) * f->batch[n]);
        }
}

static int run_model(struct model_bench *b, const struct shape *s, char **spec, int n)
{
    int bad = 0, rows_max = 512, kv_tokens = 128 * 304;
    struct figure f;
    for (int i = 0; i < n; i++) {
        parse_figure(spec[i], &f); /* checked before the device was opened */
        figure_room(&f, &rows_max, &kv_tokens);
    }
    model_open_shape(b, s, rows_max, kv_tokens);
    for (int i = 0; i < n; i++) {
        parse_figure(spec[i], &f);
        for (int c = 0; c < max_of(f.n_context, 1); c++)
            for (int k = 0; k < f.n_batch; k++)
                bad += run_figure(b, &f, f.context[c], f.batch[k]);
    }
    model_release(b);
    b->d->stream_close(b->st);
    return bad;
}

/* The dtypes of a list. Returns how many, 0: it names something else. */
static int parse_dtypes(const char *list, enum dtype ret[DTYPES_MAX])
{
    static const enum dtype known[] = { DTYPE_BF16, DTYPE_F16 };
    for (int n = 0; n < DTYPES_MAX;) {
        size_t bytes = strcspn(list, ","), i = 0;
        while (i < ARRAY_SIZE(known) && (strlen(dtype_name(known[i])) != bytes ||
                                         strncmp(dtype_name(known[i]), list, bytes) != 0))
            i++;
        if (i == ARRAY_SIZE(known))
            return 0;
        ret[n++] = known[i];
        if (!list[bytes])
            return n;
        list += bytes + 1;
    }
    return 0;
}

/* Each shape with its figures, in each dtype. */
static int run_models(struct model_bench *b, char **spec, int n, const enum dtype *dtypes,
                      int n_dtype)
{
    int bad = 0;
    for (int i = 0, n_figure; i < n; i += 1 + n_figure) {
        n_figure = 0; /* figures wanted of this shape: up to the next one's name */
        while (i + 1 + n_figure < n && !model_find_shape(spec[i + 1 + n_figure]))
            n_figure++;
        for (int d = 0; d < n_dtype; d++) {
            b->k = backend_ops(b->backend, dtypes[d]);
            bad += run_model(b, model_find_shape(spec[i]), spec + i + 1, n_figure);
        }
    }
    return bad;
}

/* What is wrong, then how it is right. Returns the exit status. */
static int misused(const char *what, const char *why)
{
    fprintf(stderr, "ringbench model: %s %s\n\n%s", what, why, usage);
    return 2;
}

/* Shapes, each with its figures. Returns 0 or the exit status. */
static int check_figures(int argc, char **argv, int from)
{
    if (from == argc)
        return misused("no shape", "was given");
    if (!model_find_shape(argv[from]))
        return misused(argv[from], argv[from][0] == '-' ? "is no option" : "is no shape");
    if (from + 1 == argc)
        return misused(argv[from], "has no figure");
    for (int i = from; i < argc; i++) {
        struct figure f;
        if (!model_find_shape(argv[i]) && !parse_figure(argv[i], &f)) {
            fprintf(stderr, "ringbench model: unknown figure '%s' (see --help)\n", argv[i]);
            return 2;
        }
    }
    return 0;
}

int bench_model_main(int argc, char **argv, const struct bench_options *options)
{
    struct model_bench b = { .report = { .bench = "model" } };
    enum dtype dtypes[DTYPES_MAX] = { DTYPE_BF16 };
    int n_dtype = 1;
    size_t at = (size_t)snprintf(b.report.command, sizeof(b.report.command), "ringbench");
    for (int i = 0; i < argc && at < sizeof(b.report.command); i++)
        at +=
            (size_t)snprintf(b.report.command + at, sizeof(b.report.command) - at, " %s", argv[i]);
    bool ceilings = true;
    int i = 1;
    for (; i < argc && strncmp(argv[i], "--", 2) == 0; i++) {
        if (strcmp(argv[i], "--help") == 0) {
            fputs(usage, stdout);
            return 0;
        }
        if (strcmp(argv[i], "--no-ceilings") == 0)
            ceilings = false;
        else if (strcmp(argv[i], "--dtype") == 0 && i + 1 < argc)
            n_dtype = parse_dtypes(argv[++i], dtypes);
        else
            break;
        if (n_dtype == 0)
            return misused(argv[i], "is no list of bf16 and f16");
    }
    int wrong = check_figures(argc, argv, i);
    if (wrong)
        return wrong;
    model_open_device(&b, ceilings);
    int bad = run_models(&b, argv + i, argc - i, dtypes, n_dtype);
    bench_progress_end();
    b.d->host_free(b.dev, b.noise);
    b.d->close(b.dev);
    int rc = bench_report_write(&b.report, options);
    bench_report_free(&b.report);
    return rc || bad ? 1 : 0;
}
