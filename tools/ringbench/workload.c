/*
 * Workloads: who asks what, and what follows from an answer. Each is a set of threads of
 * conversation (struct talk); a talk has one job out at a time, or several branches. The numbers of
 * tokens are in `kinds`; what is shared is shared by all talks (of a group, with --groups).
 *
 *   plain       independent prompts with random lengths; the first --shared-prefix tokens are
 *               common to a group
 *   few-shot    long examples that all share, a short question of one's own
 *   n           the same with eight answers to each question in one request (self-consistency)
 *   beam        the same examples, an answer by beam search of four beams
 *   chat        four turns; each prompt is the talk so far and the next question
 *   tree        tree of thought: depth 3, three branches from each answer
 *   agent       a common description of tools, six rounds of answer and tool result; in each round
 *               a second tool is tried as well, whose branch ends with what the model says to it
 *   rag         two of eight shared documents, in any order, then the question
 *   no-sharing  random prompts with nothing in common: what a prefix cache costs
 *
 * A replay has talks of one job each: prefixes that another run found in its cache.
 */
#include "tools/ringbench/load.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct talk {
    struct talk *next_ready;
    uint64_t rand_state; /* its own, so that what it says depends on no other's pace */
    uint32_t *context;   /* tokens so far */
    uint32_t n_context, turn;
};

struct kind {
    const char *name;
    uint32_t shared, own, answer; /* tokens; 0: from --prompt and --output */
    uint32_t turns, branches, n;
    bool dead_ends;     /* of the branches only the first goes on after its answer */
    uint32_t documents; /* of `shared` tokens; a prompt begins with two of them */
    uint32_t beam_width;
};

static const struct kind kinds[] = {
    { .name = "plain", .turns = 1, .branches = 1, .n = 1 },
    { "few-shot", 1000, 32, 32, 1, 1, 1, false, 0, 0 },
    { "n", 500, 64, 64, 1, 1, 8, false, 0, 0 },
    { "beam", 500, 64, 32, 1, 1, 1, false, 0, 4 },
    { "chat", 200, 32, 48, 4, 1, 1, false, 0, 0 },
    { "tree", 600, 16, 32, 3, 3, 1, false, 0, 0 },
    { "agent", 600, 48, 32, 6, 2, 1, true, 0, 0 },
    { "rag", 400, 32, 48, 1, 1, 1, false, 8, 0 },
    { "no-sharing", 0, 512, 32, 1, 1, 1, false, 0, 0 },
};
static const struct kind replay_kind = { .name = "replay", .turns = 1, .branches = 1, .n = 1 };

struct workload {
    const struct load_params *params;
    const struct kind *kind;
    uint64_t rand_state;
    struct talk *ready, **ready_tail;
    struct list running; /* jobs that are out */
    uint32_t n_started, n_running;
    uint64_t next_due_ns, end_ns;
    uint32_t *shared; /* documents, or n_group prefixes, n_shared tokens each */
    uint32_t n_shared;
    const struct load_record *replay; /* NULL: not one */
};

static uint64_t rand_next(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static double rand_unit(uint64_t *state)
{
    return (double)(rand_next(state) >> 11) * 0x1p-53;
}

/* A number >= lo at *text, which then points behind it. NAN: none. */
static double read_number(const char **text, double lo)
{
    char *end;
    double value = strtod(*text, &end);
    bool good = end != *text && value >= lo && value < 1e8;
    *text = end;
    return good ? value : NAN;
}

/* N, A-B (uniform), exp:MEAN, normal:MEAN,SD. 0: malformed. */
static uint32_t draw_length(uint64_t *state, const char *text)
{
    double value;
    if (strncmp(text, "exp:", 4) == 0) {
        text += 4;
        value = -log(1.0 - rand_unit(state)) * read_number(&text, 1);
    } else if (strncmp(text, "normal:", 7) == 0) {
        text += 7;
        double mean = read_number(&text, 1), sd = 0;
        if (*text == ',') {
            text++;
            sd = read_number(&text, 0);
        }
        double size = sqrt(-2.0 * log(1.0 - rand_unit(state)));
        value = mean + sd * size * cos(2 * M_PI * rand_unit(state));
    } else {
        double lo = read_number(&text, 1), hi = lo;
        if (*text == '-') {
            text++;
            hi = read_number(&text, lo);
        }
        value = lo + (hi - lo + 1) * rand_unit(state);
    }
    if (*text || isnan(value))
        return 0;
    return value < 1 ? 1 : (uint32_t)fmin(value, 1e8);
}

static uint32_t random_token(const struct workload *w, uint64_t *state)
{
    /* The first ids are control tokens in most vocabularies; bytes of the echo model are 0..255. */
    uint32_t vocab = w->params->vocab, low = vocab > 1024 ? 256 : 0;
    return low +
           (uint32_t)(rand_next(state) % ((vocab > 1024 ? vocab : min_of(vocab, 256u)) - low));
}

static const struct kind *find_kind(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        if (strcmp(name, kinds[i].name) == 0)
            return &kinds[i];
    fprintf(stderr, "ringbench: unknown workload '%s'; known:", name);
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        fprintf(stderr, "%s %s", i ? "," : "", kinds[i].name);
    fputc('\n', stderr);
    return NULL;
}

static struct workload *new_workload(const struct load_params *params, const struct kind *kind)
{
    struct workload *w = calloc(1, sizeof(*w));
    if (!w)
        return NULL;
    w->params = params;
    w->kind = kind;
    w->rand_state = params->seed;
    w->ready_tail = &w->ready;
    list_init(&w->running);
    w->next_due_ns = bench_now_ns();
    w->end_ns = params->duration_ns ? w->next_due_ns + params->duration_ns : UINT64_MAX;
    return w;
}

struct workload *workload_open(const struct load_params *params)
{
    const struct kind *kind = find_kind(params->workload);
    struct workload *w = kind ? new_workload(params, kind) : NULL;
    if (!w)
        return NULL;
    if (!draw_length(&w->rand_state, params->prompt) ||
        !draw_length(&w->rand_state, params->output)) {
        fprintf(stderr, "ringbench: a length is N, A-B, exp:MEAN or normal:MEAN,SD, not '%s'\n",
                draw_length(&w->rand_state, params->prompt) ? params->output : params->prompt);
        workload_close(w);
        return NULL;
    }
    w->n_shared = kind->shared ? kind->shared : params->shared_tokens;
    uint32_t groups = kind->documents ? kind->documents : max_of(params->n_group, 1u);
    w->shared = calloc((size_t)groups * max_of(w->n_shared, 1u), sizeof(*w->shared));
    for (uint32_t i = 0; w->shared && i < groups * w->n_shared; i++)
        w->shared[i] = random_token(w, &w->rand_state);
    return w;
}

struct workload *workload_replay(const struct load_params *params, const struct load_record *record)
{
    struct workload *w = new_workload(params, &replay_kind);
    if (w) {
        w->replay = record;
        w->end_ns = UINT64_MAX;
    }
    return w;
}

static void talk_free(struct talk *talk)
{
    if (talk)
        free(talk->context);
    free(talk);
}

static void job_out(struct workload *w, struct load_job *job)
{
    list_push_back(&w->running, &job->node);
    w->n_running++;
}

static void job_free(struct workload *w, struct load_job *job)
{
    list_remove(&job->node);
    w->n_running--;
    free(job->output);
    free(job);
}

void workload_close(struct workload *w)
{
    if (!w)
        return;
    for (struct talk *talk = w->ready, *next; talk; talk = next) {
        next = talk->next_ready;
        talk_free(talk);
    }
    while (!list_empty(&w->running)) {
        struct load_job *job = list_first(&w->running, struct load_job, node);
        talk_free(job->owner);
        job_free(w, job);
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

static void append_random(const struct workload *w, struct talk *talk, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        uint32_t token = random_token(w, &talk->rand_state);
        append(talk, &token, 1, w->params->context - 1);
    }
}

static struct talk *talk_start(struct workload *w)
{
    struct talk *talk = calloc(1, sizeof(*talk));
    if (!talk)
        return NULL;
    const struct load_params *params = w->params;
    talk->rand_state = rand_next(&w->rand_state);
    if (w->kind->documents) {
        for (int i = 0; i < 2; i++) {
            uint64_t which = rand_next(&w->rand_state) % w->kind->documents;
            append(talk, w->shared + which * w->n_shared, w->n_shared, params->context / 2);
        }
    } else if (w->n_shared) {
        uint32_t group = (uint32_t)(rand_next(&w->rand_state) % max_of(params->n_group, 1u));
        append(talk, w->shared + (size_t)group * w->n_shared, w->n_shared, params->context / 2);
    }
    uint32_t own = w->kind->own ? w->kind->own : draw_length(&talk->rand_state, params->prompt);
    append_random(w, talk, own);
    return talk;
}

static void make_ready(struct workload *w, struct talk *talk)
{
    talk->next_ready = NULL;
    *w->ready_tail = talk;
    w->ready_tail = &talk->next_ready;
}

static struct load_job *next_replay(struct workload *w)
{
    if (w->n_started == w->replay->n)
        return NULL;
    struct load_job *job = calloc(1, sizeof(*job));
    if (!job)
        return NULL;
    const struct load_prefix *prefix = &w->replay->prefixes[w->n_started++];
    job->tokens = prefix->tokens;
    job->n_token = prefix->n_token;
    job->n = 1;
    job_out(w, job);
    return job;
}

struct load_job *workload_next(struct workload *w)
{
    const struct load_params *params = w->params;
    struct talk *talk = w->ready;
    if (w->replay)
        return next_replay(w);
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
            w->next_due_ns +=
                (uint64_t)(-log(1.0 - rand_unit(&w->rand_state)) / params->rate * 1e9);
        }
    }
    struct load_job *job = calloc(1, sizeof(*job));
    uint32_t answer =
        w->kind->answer ? w->kind->answer : draw_length(&talk->rand_state, params->output);
    if (!job || !(job->output = calloc(answer, sizeof(*job->output)))) {
        free(job);
        return NULL;
    }
    job->tokens = talk->context;
    job->n_token = min_of(talk->n_context, params->context > answer ? params->context - answer : 1);
    job->max_tokens = answer;
    job->n = w->kind->n;
    job->beam_width = w->kind->beam_width;
    job->due_ns = due;
    job->owner = talk;
    job_out(w, job);
    return job;
}

static void branch_off(struct workload *w, struct talk *talk)
{
    uint32_t room = w->params->context;
    struct talk *twin = calloc(1, sizeof(*twin));
    if (!twin)
        return;
    append(twin, talk->context, talk->n_context, room);
    twin->rand_state = rand_next(&talk->rand_state);
    twin->turn = w->kind->dead_ends ? w->kind->turns - 1 : talk->turn;
    append_random(w, twin, w->kind->own);
    make_ready(w, twin);
}

/* What follows from an answer: more turns of the same talk, or its end. */
static void go_on(struct workload *w, struct talk *talk, const struct load_job *job)
{
    if (talk->turn + 1 >= w->kind->turns || job->n_output == 0) {
        talk_free(talk);
        return;
    }
    append(talk, job->output, job->n_output, w->params->context);
    talk->turn++;
    for (uint32_t branch = 1; branch < w->kind->branches; branch++)
        branch_off(w, talk);
    append_random(w, talk, w->kind->own);
    make_ready(w, talk);
}

static void record_prefix(struct load_record *record, const struct load_job *job)
{
    if (record->n == record->capacity) {
        size_t capacity = record->capacity ? record->capacity * 2 : 64;
        struct load_prefix *grown = realloc(record->prefixes, capacity * sizeof(*grown));
        if (!grown)
            return;
        record->prefixes = grown;
        record->capacity = capacity;
    }
    struct load_prefix *prefix = &record->prefixes[record->n];
    prefix->n_token = min_of(job->cached_tokens, job->n_token);
    prefix->tokens = malloc(prefix->n_token * sizeof(*prefix->tokens));
    if (!prefix->tokens)
        return;
    memcpy(prefix->tokens, job->tokens, prefix->n_token * sizeof(*prefix->tokens));
    record->n_token += prefix->n_token;
    record->n++;
}

void load_record_free(struct load_record *record)
{
    for (size_t i = 0; i < record->n; i++)
        free(record->prefixes[i].tokens);
    free(record->prefixes);
    memset(record, 0, sizeof(*record));
}

void workload_done(struct workload *w, struct load_job *job)
{
    if (w->params->record && job->cached_tokens)
        record_prefix(w->params->record, job);
    if (job->owner)
        go_on(w, job->owner, job);
    job_free(w, job);
}

bool workload_finished(const struct workload *w)
{
    if (w->replay)
        return w->n_running == 0 && w->n_started == w->replay->n;
    return !w->ready && w->n_running == 0 &&
           (w->n_started >= w->params->n_request || bench_now_ns() >= w->end_ns);
}

void load_totals_free(struct load_totals *totals)
{
    bench_samples_free(&totals->ttft);
    bench_samples_free(&totals->itl);
    bench_samples_free(&totals->e2e);
}

void load_count(struct load_totals *totals, const struct load_params *params,
                const struct load_job *job)
{
    totals->n_done++;
    totals->prompt_tokens += job->prompt_tokens;
    totals->cached_tokens += job->cached_tokens;
    totals->output_tokens += job->n_output_all;
    totals->ended_ns = job->done_ns;
    if (job->reason >= 16 || (job->max_tokens > 0 && job->n_output_all == 0)) {
        totals->n_failed++;
        return;
    }
    /* Open loop: time counts from when the request was due, so a stalled engine cannot hide it. */
    uint64_t start = job->due_ns ? job->due_ns : job->sent_ns;
    uint64_t ttft = (job->first_ns ? job->first_ns : job->done_ns) - start,
             e2e = job->done_ns - start;
    bench_samples_add(&totals->ttft, ttft);
    bench_samples_add(&totals->e2e, e2e);
    if ((!params->ttft_deadline_ns || ttft <= params->ttft_deadline_ns) &&
        (!params->total_deadline_ns || e2e <= params->total_deadline_ns))
        totals->n_good++;
}
