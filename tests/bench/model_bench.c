/*
 * model_bench MODEL [-p PROMPT_TOKENS] [-n NEW_TOKENS] [-t THREADS] [-r REPEAT] [-d DEVICE]
 *             [-k KV_TYPE] [-c CHUNK] [-b BATCH] [-z] [-i ID,ID,...]
 *
 * Tokens per second of prefill and decode through executor steps, without scheduler or rings:
 * medians of the repeats. -b decodes that many sequences at once, each with its own prompt of
 * PROMPT tokens; -z takes random weights of a folder's config.json. -i decodes from these ids
 * instead and prints what follows.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "daemon/base/clock.h"
#include "tests/daemon/exec/step_runner.h"

enum { REPEAT_MAX = 64 };

struct bench_options {
    const char *path, *device, *kv_type, *ids;
    int n_prompt, n_new, n_thread, repeat, chunk, batch;
    bool dummy;
};

static int compare_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof(*x), compare_double);
    return x[n / 2];
}

static int parse(int argc, char **argv, struct bench_options *o)
{
    *o = (struct bench_options){
        .device = "cpu", .n_prompt = 512, .n_new = 128, .repeat = 3, .batch = 1
    };
    int c;
    while ((c = getopt(argc, argv, "p:n:t:r:d:k:c:b:zi:")) != -1) {
        switch (c) {
        case 'p':
            o->n_prompt = (int)strtol(optarg, NULL, 10);
            break;
        case 'n':
            o->n_new = (int)strtol(optarg, NULL, 10);
            break;
        case 't':
            o->n_thread = (int)strtol(optarg, NULL, 10);
            break;
        case 'r':
            o->repeat = (int)strtol(optarg, NULL, 10);
            break;
        case 'c':
            o->chunk = (int)strtol(optarg, NULL, 10);
            break;
        case 'b':
            o->batch = (int)strtol(optarg, NULL, 10);
            break;
        case 'z':
            o->dummy = true;
            break;
        case 'd':
            o->device = optarg;
            break;
        case 'k':
            o->kv_type = optarg;
            break;
        case 'i':
            o->ids = optarg;
            break;
        default:
            return -EINVAL;
        }
    }
    if (optind + 1 != argc || o->n_prompt < 1 || o->n_new < 1 || o->repeat < 1 ||
        o->repeat > REPEAT_MAX || o->batch < 1 || o->batch > 1024)
        return -EINVAL;
    o->path = argv[optind];
    return 0;
}

static int bench_ids(struct runner *r, const struct bench_options *o)
{
    int32_t prompt[512], *out = calloc((size_t)o->n_new, sizeof(*out));
    int n = 0;
    for (const char *p = o->ids; *p && n < (int)ARRAY_SIZE(prompt);) {
        char *end;
        prompt[n++] = (int32_t)strtol(p, &end, 10);
        p = *end == ',' ? end + 1 : end;
        if (end == p)
            break;
    }
    int rc = out ? runner_generate(r, prompt, n, o->n_new, true, out) : -ENOMEM;
    for (int i = 0; i < o->n_new && rc == 0; i++)
        printf("%d%s", out[i], i + 1 < o->n_new ? "," : "\n");
    free(out);
    return rc;
}

static int bench_speed(struct runner *r, const struct bench_options *o)
{
    double prefill[REPEAT_MAX], decode[REPEAT_MAX];
    int32_t *prompt = calloc((size_t)o->n_prompt, sizeof(*prompt));
    int32_t *out = calloc((size_t)o->n_new + 1, sizeof(*out));
    uint32_t x = 12345;
    int rc = prompt && out ? 0 : -ENOMEM;
    for (int i = 0; i < o->n_prompt && rc == 0; i++) {
        x = x * 1664525 + 1013904223;
        prompt[i] = (int32_t)(x >> 8) % r->model.info.vocab;
    }
    for (int i = 0; i < o->repeat && rc == 0; i++) {
        rc = runner_generate(r, prompt, o->n_prompt, 1, false, out);
        prefill[i] = o->n_prompt / ((double)r->prefill_ns * 1e-9);
        if (rc == 0)
            rc = runner_generate(r, prompt, 1, o->n_new + 1, true, out);
        decode[i] = o->n_new / ((double)r->decode_ns * 1e-9);
    }
    if (rc == 0)
        printf("prefill %d tokens: %.1f tokens/s\ndecode %d tokens: %.1f tokens/s\n", o->n_prompt,
               median(prefill, o->repeat), o->n_new, median(decode, o->repeat));
    free(prompt);
    free(out);
    return rc;
}

/* One decode step of all sequences, each on blocks of its own; row i continues what row i drew. */
static void batch_step(struct runner *r, const struct bench_options *o, int done, int32_t *token,
                       struct step **ret)
{
    struct step *step = runner_step(r);
    int blocks = (o->n_prompt + o->n_new) / 16 + 1;
    for (int s = 0; s < o->batch; s++) {
        int32_t id = done == 0 ? token[s] : -1 - s;
        r->first_block = s * blocks;
        runner_add_seq(r, step, &id, o->n_prompt + done, 1, o->n_prompt);
        runner_add_sample(step, s, o->n_prompt + done + 1);
    }
    r->first_block = 0;
    *ret = step;
}

static int bench_batch(struct runner *r, const struct bench_options *o)
{
    int32_t *prompt = calloc((size_t)o->n_prompt, sizeof(*prompt));
    int32_t *token = calloc((size_t)o->batch, sizeof(*token));
    int blocks = (o->n_prompt + o->n_new) / 16 + 1, rc = prompt && token ? 0 : -ENOMEM;
    for (int s = 0; s < o->batch && rc == 0; s++) {
        r->first_block = s * blocks;
        for (int i = 0; i < o->n_prompt; i++)
            prompt[i] = (s * 31 + i * 7) % r->model.info.vocab;
        rc = runner_generate(r, prompt, o->n_prompt, 1, false, &token[s]);
    }
    uint64_t start_ns = clock_now_ns();
    struct step *step, *collected;
    for (int i = 0; i < o->n_new && rc == 0; i++) {
        batch_step(r, o, i, token, &step);
        rc = executor_submit(r->ex, step);
        while (rc == 0 && executor_in_flight(r->ex) > (i + 1 < o->n_new ? 1 : 0)) {
            collected = executor_collect(r->ex);
            if (collected && collected->status < 0)
                rc = collected->status;
        }
    }
    double ns = (double)(clock_now_ns() - start_ns) / o->n_new;
    if (rc == 0)
        printf("decode, batch %d at %d tokens: %.3f ms a step, %.1f tokens/s\n", o->batch,
               o->n_prompt, ns * 1e-6, o->batch / ns * 1e9);
    free(prompt);
    free(token);
    return rc;
}

int main(int argc, char **argv)
{
    struct bench_options o;
    struct format_error err = { "" };
    struct runner r;
    if (parse(argc, argv, &o) < 0) {
        fprintf(stderr,
                "usage: %s MODEL [-p N] [-n N] [-t N] [-r N] [-d cpu|cuda] [-k KV_TYPE] [-c N] [-b "
                "N] [-z]"
                " [-i ID,...]\n",
                argv[0]);
        return 2;
    }
    struct executor_load load = { .source.path = o.path,
                                  .kv_type = o.kv_type,
                                  .batch_max = max_of(o.batch, 4),
                                  .rows_max = 2048,
                                  .samples_max = max_of(o.batch, 4),
                                  .source.dummy = o.dummy };
    int rc = runner_open(&r, o.device, o.n_thread, &load, &err);
    if (rc < 0) {
        fprintf(stderr, "%s: %s\n", argv[0], err.text[0] ? err.text : strerror(-rc));
        return 1;
    }
    r.chunk = o.chunk;
    printf("%s: %s %s on %s, %d KV blocks of %lld bytes (%s), loaded in %.0f ms (%d graphs in %.0f "
           "ms)\n",
           r.model.info.name, r.model.info.arch, r.model.info.file_type, r.model.device,
           r.model.kv_blocks, (long long)r.model.kv_block_bytes, dtype_name(r.model.kv_dtype),
           (double)r.model.load_ns * 1e-6, r.model.n_graph, (double)r.model.capture_ns * 1e-6);
    rc = o.ids ? bench_ids(&r, &o) : o.batch > 1 ? bench_batch(&r, &o) : bench_speed(&r, &o);
    if (rc < 0)
        fprintf(stderr, "%s: a step failed: %s\n", argv[0], strerror(-rc));
    runner_close(&r);
    return rc < 0;
}
