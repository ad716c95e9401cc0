/*
 * Workloads: who asks what, and what follows from an answer. Each is a set of threads of
 * conversation (struct talk); a talk has one job out at a time, or several branches.
 *
 *   plain         independent prompts with random lengths; the first --shared-prefix tokens are
 *                 common to a group
 *   few-shot      one long set of examples (1,000 tokens) and a short question of its own (32)
 *   n             the same prompt answered n = 8 times in one request (self-consistency)
 *   chat          four turns; each prompt is the talk so far and 32 new tokens
 *   tree          tree of thought: depth 3, three branches from each answer
 *   agent         a common tool description (600), six rounds of answer and tool result, two tries
 * each rag           two of eight shared documents (400 each) before the question no-sharing random
 * prompts, nothing in common (what a prefix cache costs)
 */
#include "tools/ringbench/load.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct talk {
    struct talk *next_ready;
    uint32_t *context; /* tokens so far */
    uint32_t n_context, turn;
};

struct kind {
    const char *name;
    uint32_t shared, own, answer; /* tokens; 0: from --prompt and --output */
    uint32_t turns, branches, n;
};

static const struct kind kinds[] = {
    { "plain", 0, 0, 0, 1, 1, 1 },    { "few-shot", 1000, 32, 32, 1, 1, 1 },
    { "n", 0, 64, 64, 1, 1, 8 },      { "chat", 200, 32, 48, 4, 1, 1 },
    { "tree", 600, 16, 32, 3, 3, 1 }, { "agent", 600, 48, 32, 6, 1, 2 },
    { "rag", 800, 32, 48, 1, 1, 1 },  { "no-sharing", 0, 512, 32, 1, 1, 1 },
};

enum { RAG_DOCUMENTS = 8 };

struct workload {
    const struct load_params *params;
    const struct kind *kind;
    uint64_t rand_state;
    struct talk *ready, **ready_tail;
    uint32_t n_started, n_running;
    uint64_t next_due_ns, end_ns;
    uint32_t *shared; /* RAG: RAG_DOCUMENTS documents; else n_group prefixes */
    uint32_t n_shared;
};

static uint64_t rand_next(struct workload *w)
{
    uint64_t z = (w->rand_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static double rand_unit(struct workload *w)
{
    return (double)(rand_next(w) >> 11) * 0x1p-53;
}

/* N, A-B (uniform), exp:MEAN, normal:MEAN,SD. 0: malformed. */
static uint32_t draw_length(struct workload *w, const char *text)
{
    char *end;
    double value = 0;
    if (strncmp(text, "exp:", 4) == 0) {
        value = -log(1.0 - rand_unit(w)) * strtod(text + 4, &end);
    } else if (strncmp(text, "normal:", 7) == 0) {
        double mean = strtod(text + 7, &end), sd = *end == ',' ? strtod(end + 1, &end) : 0;
        double u = sqrt(-2.0 * log(1.0 - rand_unit(w))) * cos(2 * M_PI * rand_unit(w));
        value = mean + sd * u;
    } else {
        double lo = strtod(text, &end);
        double hi = *end == '-' ? strtod(end + 1, &end) : lo;
        value = lo + (hi - lo + 1) * rand_unit(w);
        if (hi < lo || lo < 1)
            return 0;
    }
    if (*end || !(value < 1e8))
        return 0;
    return value < 1 ? 1 : (uint32_t)value;
}

static uint32_t random_token(struct workload *w)
{
    /* The first ids are control tokens in most vocabularies; bytes of the echo model are 0..255. */
    uint32_t vocab = w->params->vocab, low = vocab > 1024 ? 256 : 0;
    return low + (uint32_t)(rand_next(w) % ((vocab > 1024 ? vocab : min_of(vocab, 256u)) - low));
}

const char *workload_names(void)
{
    return "plain, few-shot, n, chat, tree, agent, rag, no-sharing";
}

struct workload *workload_open(const struct load_params *params)
{
    const struct kind *kind = NULL;
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        if (strcmp(params->workload, kinds[i].name) == 0)
            kind = &kinds[i];
    if (!kind) {
        fprintf(stderr, "ringbench: unknown workload '%s'; known: %s\n", params->workload,
                workload_names());
        return NULL;
    }
    struct workload *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    w->params = params;
    w->kind = kind;
    w->rand_state = params->seed;
    w->ready_tail = &w->ready;
    if (!draw_length(w, params->prompt) || !draw_length(w, params->output)) {
        fprintf(stderr, "ringbench: a length is N, A-B, exp:MEAN or normal:MEAN,SD, not '%s'\n",
                draw_length(w, params->prompt) ? params->output : params->prompt);
        workload_close(w);
        return NULL;
    }
    w->n_shared = kind->shared ? kind->shared : params->shared_tokens;
    uint32_t groups = strcmp(kind->name, "rag") == 0 ? RAG_DOCUMENTS : max_of(params->n_group, 1u);
    w->shared = calloc((size_t)groups * max_of(w->n_shared, 1u), sizeof(*w->shared));
    for (uint32_t i = 0; w->shared && i < groups * w->n_shared; i++)
        w->shared[i] = random_token(w);
    w->next_due_ns = bench_now_ns();
    w->end_ns = params->duration_ns ? w->next_due_ns + params->duration_ns : UINT64_MAX;
    return w;
}

void workload_close(struct workload *w)
{
    if (!w)
        return;
    for (struct talk *talk = w->ready, *next; talk; talk = next) {
        next = talk->next_ready;
        free(talk->context);
        free(talk);
    }
    free(w->shared);
    free(w);
}

static void append(struct talk *talk, const uint32_t *tokens, uint32_t n, uint32_t max)
{
    n = min_of(n, max > talk->n_context ? max - talk->n_context : 0);
    uint32_t *grown = realloc(talk->context, (talk->n_context + n + 1) * sizeof(*grown));
    if (!grown)
        return;
    talk->context = grown;
    memcpy(grown + talk->n_context, tokens, n * sizeof(*tokens));
    talk->n_context += n;
}

static void append_random(struct workload *w, struct talk *talk, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t token = random_token(w);
        append(talk, &token, 1, w->params->context - 1);
    }
}

static struct talk *talk_start(struct workload *w)
{
    struct talk *talk = calloc(1, sizeof(*talk));
    if (!talk)
        return NULL;
    const struct load_params *params = w->params;
    if (strcmp(w->kind->name, "rag") == 0) {
        uint32_t half = w->n_shared / 2; /* two documents of half the size each */
        for (int i = 0; i < 2; i++)
            append(talk, w->shared + rand_next(w) % RAG_DOCUMENTS * w->n_shared, half,
                   params->context);
    } else if (w->n_shared) {
        uint32_t group = (uint32_t)(rand_next(w) % max_of(params->n_group, 1u));
        append(talk, w->shared + (size_t)group * w->n_shared, w->n_shared, params->context / 2);
    }
    uint32_t own = w->kind->own ? w->kind->own : draw_length(w, params->prompt);
    append_random(w, talk, own);
    return talk;
}

static void make_ready(struct workload *w, struct talk *talk)
{
    talk->next_ready = NULL;
    *w->ready_tail = talk;
    w->ready_tail = &talk->next_ready;
}

struct load_job *workload_next(struct workload *w)
{
    const struct load_params *params = w->params;
    struct talk *talk = w->ready;
    uint64_t due = 0;
    if (talk) {
        w->ready = talk->next_ready;
        if (!w->ready)
            w->ready_tail = &w->ready;
    } else {
        if (w->n_started >= params->n_request || bench_now_ns() >= w->end_ns)
            return NULL;
        talk = talk_start(w);
        if (!talk)
            return NULL;
        w->n_started++;
        if (params->rate > 0) {
            due = w->next_due_ns;
            w->next_due_ns += (uint64_t)(-log(1.0 - rand_unit(w)) / params->rate * 1e9);
        }
    }
    struct load_job *job = calloc(1, sizeof(*job));
    uint32_t answer = w->kind->answer ? w->kind->answer : draw_length(w, params->output);
    if (!job || !(job->output = calloc(answer, sizeof(*job->output)))) {
        free(job);
        return NULL;
    }
    job->tokens = talk->context;
    job->n_token = min_of(talk->n_context, params->context > answer ? params->context - answer : 1);
    job->max_tokens = answer;
    job->n = w->kind->n;
    job->due_ns = due;
    job->owner = talk;
    job->step = talk->turn;
    w->n_running++;
    return job;
}

void workload_done(struct workload *w, struct load_job *job)
{
    struct talk *talk = job->owner;
    uint32_t room = w->params->context;
    if (talk->turn + 1 < w->kind->turns && job->n_output > 0) {
        append(talk, job->output, job->n_output, room);
        talk->turn++;
        for (uint32_t branch = 1; branch < w->kind->branches; branch++) {
            struct talk *twin = calloc(1, sizeof(*twin));
            if (!twin)
                break;
            append(twin, talk->context, talk->n_context, room);
            twin->turn = talk->turn;
            append_random(w, twin, w->kind->own);
            make_ready(w, twin);
        }
        append_random(w, talk, w->kind->own);
        make_ready(w, talk);
    } else {
        free(talk->context);
        free(talk);
    }
    free(job->output);
    free(job);
    w->n_running--;
}

bool workload_finished(const struct workload *w)
{
    return !w->ready && w->n_running == 0 &&
           (w->n_started >= w->params->n_request || bench_now_ns() >= w->end_ns);
}

void load_count(struct load_totals *totals, const struct load_params *params,
                const struct load_job *job)
{
    totals->n_done++;
    totals->prompt_tokens += job->prompt_tokens;
    totals->cached_tokens += job->cached_tokens;
    totals->output_tokens += job->n_output_all;
    totals->ended_ns = job->done_ns;
    if (job->reason >= 16 || job->n_output == 0) {
        totals->n_failed++;
        return;
    }
    /* Open loop: time counts from when the request was due, so a stalled engine cannot hide it. */
    uint64_t start = job->due_ns ? job->due_ns : job->sent_ns;
    uint64_t ttft = job->first_ns - start, e2e = job->done_ns - start;
    bench_samples_add(&totals->ttft, ttft);
    bench_samples_add(&totals->e2e, e2e);
    if ((!params->ttft_deadline_ns || ttft <= params->ttft_deadline_ns) &&
        (!params->total_deadline_ns || e2e <= params->total_deadline_ns))
        totals->n_good++;
}
