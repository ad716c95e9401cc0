/*
 * What planning costs: sched_tick and sched_commit per step at batch 1 and 256, with 10,000 cached
 * prefixes in the tree; and what the tree costs where nothing ever hits. Medians, in nanoseconds.
 *
 *   sched_bench [seconds per case, default 0.5] [microseconds of a real step]
 *
 * The second is the mean step_ns of a daemon that has served 1024 + 32 tokens one after the other
 * without hits: then the tree's share of a step is told, else the step that it is 0.5 % of.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "daemon/base/arena.h"
#include "daemon/base/payload.h"
#include "daemon/base/prng.h"
#include "daemon/kv/block_pool.h"
#include "daemon/kv/radix_tree.h"
#include "daemon/request/request.h"
#include "daemon/sched/sched.h"
#include "daemon/step/step.h"

enum { CACHED = 10000, PREFIX_TOKENS = 256, CONTEXT = 8192, SAMPLES = 20000, BLOCKS = 400000 };

static double seconds = 0.5;

static uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static int compare(const void *a, const void *b)
{
    uint64_t x, y;
    memcpy(&x, a, sizeof(x));
    memcpy(&y, b, sizeof(y));
    return x < y ? -1 : x > y;
}

static uint64_t percentile(uint64_t *sample, int n, int percent)
{
    qsort(sample, (size_t)n, sizeof(*sample), compare);
    return n ? sample[(int64_t)(n - 1) * percent / 100] : 0;
}

struct bench {
    struct arena *arena;
    struct payload_pool *payload;
    struct request_pool *requests;
    struct sched *sched;
    struct step step[2];
    int next;
    struct prng prng;
    int32_t *prompt;
    uint64_t now;
};

static void released(void *context, struct request *request)
{
    struct bench *b = context;
    request_put(b->requests, request);
}

static void bench_open(struct bench *b, int batch, const char *policy, bool cache, int n_block)
{
    *b = (struct bench){ .prng = { 7 }, .now = 1 };
    struct step_limits limits = {
        .rows_max = 2048,
        .seqs_max = batch,
        .samples_max = batch,
        .blocks_max = batch * (CONTEXT / BLOCK_TOKENS + 1),
        .lists_max = 4096,
        .moves_max = 256,
        .vocab = 50000,
    };
    static int32_t eos = 2;
    struct sched_config config = {
        .policy = policy,
        .batch_max = batch,
        .rows_max = 2048,
        .samples_max = batch,
        .context_max = CONTEXT,
        .kv_blocks = n_block,
        .queue_max = 4096,
        .queue_uid_max = 4096,
        .requests_max = 4096,
        .sequences_max = 4096,
        .lists_max = 4096,
        .moves_max = 256,
        .vocab = 50000,
        .prefix_cache = cache,
        .batch_invariant = true,
        .eos_ids = &eos,
        .n_eos_id = 1,
        .released = released,
        .context = b,
    };
    if (arena_create((size_t)2 << 30, &b->arena) ||
        payload_create((size_t)512 << 20, b->arena, &b->payload) ||
        request_pool_create(4096, 4096, b->arena, &b->requests))
        exit(1);
    config.payload = b->payload;
    b->prompt = arena_array(b->arena, int32_t, 4096 * 64);
    if (sched_create(&config, b->arena, &b->sched) || step_init(&b->step[0], &limits, b->arena) ||
        step_init(&b->step[1], &limits, b->arena))
        exit(1);
}

/* beams: 0, or the width of a beam search. */
static void add(struct bench *b, int32_t *prompt, uint32_t n_prompt, uint32_t max_tokens,
                uint32_t beams)
{
    struct request *request = request_take(b->requests, beams ? beams : 1);
    if (!request)
        return;
    request->prompt = prompt;
    request->n_prompt = n_prompt;
    request->params = (struct request_params){ .top_p = 1,
                                               .repetition = 1,
                                               .n = 1,
                                               .max_tokens = max_tokens,
                                               .urgency = 128,
                                               .beam_width = (uint8_t)beams,
                                               .length_penalty = 1,
                                               .ignore_eos = true };
    request->uid = b->prng.state % 7;
    if (sched_add(b->sched, request, b->now))
        exit(1);
}

/* One pass; returns rows, and the times of the two calls. */
static int pass(struct bench *b, uint64_t *ret_tick, uint64_t *ret_commit)
{
    struct step *step = &b->step[b->next];
    step_reset(step);
    uint64_t start = clock_ns();
    int n_row = sched_tick(b->sched, b->now, step);
    *ret_tick = clock_ns() - start;
    if (n_row == 0)
        return 0;
    for (int sample_i = 0; sample_i < step->n_sample; sample_i++) {
        struct step_token *result = &step->result[sample_i];
        *result = (struct step_token){ .token = (int32_t)(b->now % 40000) + 5 };
        float best = -(float)(prng_next(&b->prng) >> 40) / (1 << 24);
        for (int top = 0; top < step->sample[sample_i].n_top; top++) {
            result->top_id[result->n_top] = result->token + top;
            result->top_logprob[result->n_top++] = best - (float)top / 8;
        }
    }
    step->started_ns = b->now;
    step->ended_ns = b->now += 1000000;
    start = clock_ns();
    sched_commit(b->sched, step, b->now);
    *ret_commit = clock_ns() - start;
    struct list *outbox = sched_outbox(b->sched);
    while (!list_empty(outbox)) {
        struct request *request = list_first(outbox, struct request, outbox_node);
        list_remove(&request->outbox_node);
        if (request->state == REQUEST_DONE)
            sched_forget(b->sched, request);
    }
    return n_row;
}

static void fill_cache(struct bench *b)
{
    uint64_t tick, commit;
    static int32_t prompt[PREFIX_TOKENS];
    for (int prefix_i = 0; prefix_i < CACHED; prefix_i++) {
        for (int id_i = 0; id_i < PREFIX_TOKENS; id_i++)
            prompt[id_i] = (int32_t)prng_below(&b->prng, 50000);
        prompt[0] = 1;
        add(b, prompt, PREFIX_TOKENS, 0, 0);
        while (pass(b, &tick, &commit)) {
        }
    }
}

static void decode_case(const char *policy, int batch)
{
    struct bench b;
    static uint64_t tick[SAMPLES], commit[SAMPLES];
    bench_open(&b, batch, policy, true, BLOCKS);
    fill_cache(&b);
    for (int seq_i = 0; seq_i < batch; seq_i++) {
        int32_t *prompt = b.prompt + seq_i * 64;
        for (int id_i = 0; id_i < 64; id_i++)
            prompt[id_i] = (int32_t)prng_below(&b.prng, 50000);
        add(&b, prompt, 64, CONTEXT - 64, 0);
    }
    uint64_t end = clock_ns() + (uint64_t)(seconds * 1e9), unused;
    int n = 0;
    for (int warm = 0; warm < 40; warm++)
        pass(&b, &unused, &unused);
    while (n < SAMPLES && n < CONTEXT - 200 && clock_ns() < end &&
           pass(&b, &tick[n], &commit[n]) == batch)
        n++;
    printf("%-15s batch %3d: tick %6llu ns (p99 %llu), commit %6llu ns, %d steps\n", policy, batch,
           (unsigned long long)percentile(tick, n, 50), (unsigned long long)percentile(tick, n, 99),
           (unsigned long long)percentile(commit, n, 50), n);
    arena_free(b.arena);
}

/* Beam searches of width 10 that fill the batch. */
static void beam_case(int batch)
{
    struct bench b;
    static uint64_t tick[SAMPLES], commit[SAMPLES];
    bench_open(&b, batch, "fair", true, BLOCKS);
    for (int request_i = 0; request_i < batch / 10; request_i++)
        add(&b, b.prompt + request_i * 64, 64, 1024, 10);
    uint64_t end = clock_ns() + (uint64_t)(seconds * 1e9), unused;
    int n = 0;
    for (int warm = 0; warm < 40; warm++)
        pass(&b, &unused, &unused);
    while (n < SAMPLES && clock_ns() < end && pass(&b, &tick[n], &commit[n]) > 0)
        n++;
    printf("beams of 10,    batch %3d: tick %6llu ns (p99 %llu), commit %6llu ns, %d steps\n",
           batch, (unsigned long long)percentile(tick, n, 50),
           (unsigned long long)percentile(tick, n, 99),
           (unsigned long long)percentile(commit, n, 50), n);
    arena_free(b.arena);
}

/* New prompts all the time, none of which is cached: with and without the tree. */
static void miss_case(bool cache, uint64_t *ret_ns, uint64_t *ret_request_ns)
{
    struct bench b;
    bench_open(&b, 32, "fcfs", cache, BLOCKS);
    if (cache)
        fill_cache(&b);
    static int32_t prompt[1024];
    uint64_t total = 0, tick = 0, commit = 0, n_step = 0,
             end = clock_ns() + (uint64_t)(seconds * 1e9);
    uint64_t n_request = 0;
    while (clock_ns() < end) {
        for (int id_i = 0; id_i < 1024; id_i++)
            prompt[id_i] = (int32_t)prng_below(&b.prng, 50000);
        add(&b, prompt, 1024, 32, 0);
        n_request++;
        while (pass(&b, &tick, &commit)) {
            total += tick + commit;
            n_step++;
        }
    }
    *ret_ns = n_step ? total / n_step : 0;
    *ret_request_ns = n_request ? total / n_request : 0;
    arena_free(b.arena);
}

/* 64 requests at once of 256 + 256 tokens; the pool holds this share of what they want together. */
static void pressure_case(int percent)
{
    enum { N_REQUEST = 64, N_TOKEN = 256 };
    struct bench b;
    uint64_t tick, commit, n_row = 0, n_step = 0;
    bench_open(&b, N_REQUEST, "fcfs", true, N_REQUEST * 2 * N_TOKEN / BLOCK_TOKENS * percent / 100);
    static int32_t prompt[N_REQUEST][N_TOKEN];
    for (int i = 0; i < N_REQUEST; i++) {
        for (int id_i = 0; id_i < N_TOKEN; id_i++)
            prompt[i][id_i] = (int32_t)prng_below(&b.prng, 50000);
        add(&b, prompt[i], N_TOKEN, N_TOKEN, 0);
    }
    for (int rows; (rows = pass(&b, &tick, &commit)) > 0; n_step++)
        n_row += (uint64_t)rows;
    struct sched_stats stats;
    sched_stats(b.sched, &stats);
    printf(
        "pool at %3d %% of demand: %llu steps, %llu preemptions, %llu blocks evicted, %.1f %% of "
        "rows computed again\n",
        percent, (unsigned long long)n_step, (unsigned long long)stats.preemptions,
        (unsigned long long)stats.evicted_blocks,
        100.0 * (double)n_row / (N_REQUEST * (2.0 * N_TOKEN - 1)) - 100);
    arena_free(b.arena);
}

/* What the tree costs where it never helps. */
static void tell_misses(double step_us)
{
    uint64_t with_ns, without_ns, with_request_ns, without_request_ns;
    miss_case(true, &with_ns, &with_request_ns);
    miss_case(false, &without_ns, &without_request_ns);
    double tree_ns = (double)with_ns - (double)without_ns;
    printf("0%% hits, 1024 + 32 tokens: tree on %llu ns a step, off %llu; %llu ns a request, off "
           "%llu\n",
           (unsigned long long)with_ns, (unsigned long long)without_ns,
           (unsigned long long)with_request_ns, (unsigned long long)without_request_ns);
    if (step_us > 0)
        printf("the tree: %.4f %% of a step of %.1f us\n", tree_ns / step_us / 10, step_us);
    else
        printf("the tree: 0.5 %% of a step of %.1f us\n", tree_ns / 5);
}

int main(int argc, char **argv)
{
    static const char *const policies[] = { "fcfs", "fair", "deadline", "longest-prefix" };
    if (argc > 1)
        seconds = strtod(argv[1], NULL);
    for (int policy_i = 0; policy_i < 4; policy_i++) {
        decode_case(policies[policy_i], 1);
        decode_case(policies[policy_i], 256);
    }
    beam_case(10);
    beam_case(250);
    pressure_case(100);
    pressure_case(50);
    pressure_case(10);
    tell_misses(argc > 2 ? strtod(argv[2], NULL) : 0);
    return 0;
}
