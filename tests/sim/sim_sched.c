/*
 * Simulation of scheduler, KV, request and step code under a virtual clock: one seed is one small
 * world (pool, limits, policy, faults: each seed draws its own) and one history. Every token is
 * checked against the true one, the scheduler's invariants after each call.
 *
 *   sim_sched --seed N              one seed, verbose
 *   sim_sched --seeds FIRST COUNT   quiet; prints the first failing seed, and how to repeat it
 *   sim_sched --long                a million seeds
 *   sim_planted --planted [N]       each planted bug (or one) must be seen
 */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/compiler.h"
#include "daemon/base/arena.h"
#include "daemon/base/payload.h"
#include "daemon/base/planted.h"
#include "daemon/base/prng.h"
#include "daemon/kv/block_pool.h"
#include "daemon/request/request.h"
#include "daemon/sched/sched.h"
#include "daemon/step/step.h"
#include "tests/sim/fake_executor.h"

enum { REQUESTS = 48, SEQUENCES = 160, STREAMS = 6, STREAM_TOKENS = 256, STOPS = 3, BIASES = 4,
       HANDLES = 16 };

struct mirror {
    struct request *request;
    bool live, done, forgotten;
    uint32_t checked[REQUEST_SEQS_MAX];
    uint32_t scored;
    uint64_t admitted_tick;
    int32_t prompt[STREAM_TOKENS];
    int32_t stop[STOPS];
    struct request_bias bias[BIASES];
};

struct handle {
    uint64_t handle;
    uint32_t session_id, uid, n;
    int32_t ids[STREAM_TOKENS];
};

struct world {
    uint64_t seed;
    bool verbose;
    struct prng prng;
    uint64_t now, tick, trace;
    uint64_t n_event;
    struct arena *arena;
    struct payload_pool *payload;
    struct request_pool *requests;
    struct sched *sched;
    struct sched_config config;
    struct fake_executor *fake;
    struct step step[2];
    int n_flight; /* steps that ran and are not committed, oldest first */
    struct step *flight[2];
    struct mirror mirror[REQUESTS];
    int32_t stream[STREAMS][STREAM_TOKENS];
    int32_t eos[2];
    struct handle handle[HANDLES];
    uint32_t n_handle;
    uint32_t n_wanted, n_added, n_released, n_ended;
    /* swarm: how likely each thing is, in percent; 0 in many worlds */
    uint32_t cancel, stall, deadline, fail, lag, forks, scores, penalties, lists, holds;
    uint64_t swap_ns;
    bool faults;
    char error[256];
};

#define fail_world(w, ...)                                                                         \
    do {                                                                                           \
        if (!(w)->error[0])                                                                        \
            snprintf((w)->error, sizeof((w)->error), __VA_ARGS__);                                 \
    } while (0)

static void trace(struct world *w, uint64_t what)
{
    w->trace = prng_mix(w->trace ^ what) + 1;
    w->n_event++;
}

static struct mirror *mirror_of(struct world *w, const struct request *request)
{
    return &w->mirror[request->pool_index];
}

static void check(struct world *w, const char *after)
{
    const char *wrong = sched_check(w->sched);
    if (wrong)
        fail_world(w, "%s, after %s", wrong, after);
}

/* The publisher gave the last event out; the scheduler says that nobody reads it any more. */
static void released(void *context, struct request *request)
{
    struct world *w = context;
    struct mirror *mirror = mirror_of(w, request);
    if (!mirror->live || !mirror->forgotten)
        fail_world(w, "a request was released before it was forgotten");
    mirror->live = false;
    w->n_released++;
    request_put(w->requests, request);
}

static void draw_config(struct world *w)
{
    struct prng *p = &w->prng;
    struct sched_config *config = &w->config;
    static const char *const policies[] = { "fcfs", "fair", "deadline", "longest-prefix" };
    static const struct sched_share shares[] = { { 0, 3, 0 }, { 1, 1, 9 } };
    config->policy = policies[prng_below(p, ARRAY_SIZE(policies))];
    config->batch_max = (int)prng_between(p, 1, prng_chance(p, 50) ? 4 : 24);
    config->rows_max = config->batch_max + (int)prng_below(p, prng_chance(p, 50) ? 8 : 128);
    config->samples_max = config->batch_max + (int)prng_below(p, 16);
    config->context_max = (int)prng_between(p, 4, prng_chance(p, 50) ? 64 : 250);
    uint32_t blocks_max = prng_chance(p, 30) ? 8 : prng_chance(p, 60) ? 40 : 256;
    config->kv_blocks = (int)prng_between(p, 1, blocks_max);
    config->queue_max = (int)prng_between(p, 1, 40);
    config->queue_uid_max = (int)prng_between(p, 1, 40);
    config->requests_max = REQUESTS;
    config->sequences_max = SEQUENCES;
    config->lists_max = (int)prng_between(p, 8, 64);
    config->moves_max = (int)prng_between(p, 1, 16);
    config->kv_host_blocks = prng_chance(p, 50) ? (int)prng_between(p, 1, 64) : 0;
    config->vocab = 50;
    config->prefix_cache = prng_chance(p, 80);
    config->batch_invariant = prng_chance(p, 50);
    w->eos[0] = 0;
    w->eos[1] = 1;
    config->eos_ids = w->eos;
    config->n_eos_id = (int)prng_below(p, 3);
    config->shares = shares;
    config->n_share = prng_chance(p, 50) ? 2 : 0;
    config->cadence_ns = prng_chance(p, 50) ? 0 : prng_between(p, 1, 60);
    config->handles_max = prng_chance(p, 60) ? (int)prng_between(p, 1, HANDLES) : 0;
    config->handles_session_max = (int)prng_between(p, 1, 8);
    config->pinned_percent = (int)prng_between(p, 0, 50);
    config->payload = w->payload;
    config->released = released;
    config->context = w;
}

static uint32_t swarm(struct prng *p, uint32_t percent)
{
    return prng_chance(p, 50) ? 0 : prng_between(p, 1, percent);
}

static void draw_world(struct world *w)
{
    struct prng *p = &w->prng;
    w->cancel = swarm(p, 10);
    w->stall = swarm(p, 15);
    w->deadline = swarm(p, 30);
    w->fail = prng_chance(p, 20) ? prng_between(p, 1, 4) : 0;
    w->lag = prng_between(p, 0, 90);
    w->forks = swarm(p, 60);
    w->scores = swarm(p, 40);
    w->penalties = swarm(p, 60);
    w->lists = swarm(p, 60);
    w->swap_ns = prng_below(p, 30);
    w->holds = swarm(p, 60);
    w->n_wanted = prng_between(p, 4, 60);
    for (int stream_i = 0; stream_i < STREAMS; stream_i++) {
        uint32_t keep = stream_i ? prng_below(p, 80) : 0;
        memcpy(w->stream[stream_i], w->stream[0], sizeof(w->stream[0]));
        for (uint32_t id_i = keep; id_i < STREAM_TOKENS; id_i++)
            w->stream[stream_i][id_i] = (int32_t)prng_below(p, 50);
    }
}

static bool world_open(struct world *w, uint64_t seed, bool verbose)
{
    *w = (struct world){ .seed = seed, .verbose = verbose, .prng = { seed }, .faults = true,
                         .now = 1000 };
    struct prng *p = &w->prng;
    if (arena_create(8 << 20, &w->arena) ||
        payload_create(prng_chance(p, 10) ? 64 << 10 : 4 << 20, w->arena, &w->payload) ||
        request_pool_create(REQUESTS, SEQUENCES, w->arena, &w->requests))
        return false;
    draw_config(w);
    draw_world(w);
    const struct sched_config *config = &w->config;
    struct step_limits limits = {
        .rows_max = config->rows_max, .seqs_max = config->batch_max,
        .samples_max = config->samples_max,
        .blocks_max = config->batch_max * (config->context_max / 16 + 1),
        .lists_max = config->lists_max, .moves_max = config->moves_max, .vocab = config->vocab,
    };
    if (sched_create(config, w->arena, &w->sched) || step_init(&w->step[0], &limits, w->arena) ||
        step_init(&w->step[1], &limits, w->arena))
        return false;
    w->fake = fake_create(config->kv_blocks, config->kv_host_blocks, config->batch_max,
                          config->vocab);
    return true;
}

static void world_close(struct world *w)
{
    if (w->fake)
        fake_free(w->fake);
    arena_free(w->arena);
}

/* Requests. */

static void draw_params(struct world *w, struct request *request, struct mirror *mirror)
{
    struct prng *p = &w->prng;
    struct request_params *params = &request->params;
    params->temperature = 1;
    params->top_p = (float)prng_between(p, 1, 10) / 10;
    params->repetition = 1;
    params->seed = prng_next(p);
    params->max_tokens = prng_chance(p, 10) ? 0 : prng_between(p, 1, prng_chance(p, 80) ? 40 : 400);
    params->min_tokens = prng_chance(p, w->lists) ? prng_below(p, 20) : 0;
    params->urgency = prng_chance(p, 70) ? 128 : (uint8_t)prng_below(p, 256);
    params->logprobs = prng_chance(p, w->scores);
    params->logprobs_k = (uint8_t)prng_below(p, 21);
    params->prompt_logprobs = prng_chance(p, w->scores);
    params->prompt_logprobs_k = (uint8_t)prng_below(p, 21);
    params->ignore_eos = prng_chance(p, 20);
    params->deterministic = prng_chance(p, 20);
    params->hold = prng_chance(p, w->holds);
    params->lease_ns = prng_chance(p, w->holds / 2) ? prng_between(p, 1, 3000) : 0;
    if (prng_chance(p, w->penalties))
        params->presence = 0.5f;
    if (prng_chance(p, w->penalties))
        params->repetition = 1.5f;
    if (prng_chance(p, w->lists)) {
        request->n_stop_id = prng_below(p, STOPS + 1);
        for (uint32_t stop_i = 0; stop_i < request->n_stop_id; stop_i++)
            mirror->stop[stop_i] = (int32_t)prng_below(p, 50);
        request->stop_ids = mirror->stop;
        request->n_bias = prng_below(p, BIASES + 1);
        for (uint32_t bias_i = 0; bias_i < request->n_bias; bias_i++)
            mirror->bias[bias_i] = (struct request_bias){ (int32_t)prng_below(p, 50), 0.25f };
        request->bias = mirror->bias;
    }
    if (prng_chance(p, w->deadline))
        params->total_deadline_ns = w->now + prng_between(p, 1, 4000);
    if (prng_chance(p, w->deadline))
        params->queue_deadline_ns = w->now + prng_between(p, 1, 2000);
    if (prng_chance(p, w->deadline))
        params->first_token_deadline_ns = w->now + prng_between(p, 1, 2000);
}

static void handle_add(struct world *w, const struct request *request, uint64_t handle,
                       const int32_t *output, uint32_t n_output)
{
    if (!handle)
        return;
    trace(w, handle);
    uint32_t n = request->n_prompt + n_output;
    if (w->n_handle == HANDLES || n > STREAM_TOKENS) {
        sched_handle_release(w->sched, request->session_id, handle);
        return;
    }
    struct handle *held = &w->handle[w->n_handle++];
    *held = (struct handle){ handle, request->session_id, request->uid, n, { 0 } };
    memcpy(held->ids, request->prompt, request->n_prompt * sizeof(int32_t));
    if (n_output)
        memcpy(held->ids + request->n_prompt, output, n_output * sizeof(int32_t));
}

static void handle_forget(struct world *w, uint32_t handle_i)
{
    w->handle[handle_i] = w->handle[--w->n_handle];
}

/* Go on from a held sequence, if there is one. */
static bool fork_handle(struct world *w, struct request *request, struct mirror *mirror)
{
    if (w->n_handle == 0 || !prng_chance(&w->prng, w->holds))
        return false;
    uint32_t handle_i = prng_below(&w->prng, w->n_handle), n;
    const struct handle *held = &w->handle[handle_i];
    const int32_t *ids;
    if (sched_handle_ids(w->sched, held->session_id + 1, held->handle, &ids, &n) == 0)
        fail_world(w, "another session has this handle");
    if (sched_handle_ids(w->sched, held->session_id, held->handle, &ids, &n)) {
        handle_forget(w, handle_i); /* a lease that ended */
        return false;
    }
    if (n != held->n || memcmp(ids, held->ids, n * sizeof(*ids)) != 0)
        fail_world(w, "the ids of a handle changed");
    request->n_prompt = min_of(n + prng_below(&w->prng, 5), (uint32_t)STREAM_TOKENS);
    memcpy(mirror->prompt, ids, n * sizeof(*ids));
    for (uint32_t id_i = n; id_i < request->n_prompt; id_i++)
        mirror->prompt[id_i] = (int32_t)prng_below(&w->prng, 50);
    request->prompt = mirror->prompt;
    request->from_handle = held->handle;
    request->uid = held->uid;
    request->session_id = held->session_id;
    return true;
}

static void draw_prompt(struct world *w, struct request *request, struct mirror *mirror)
{
    struct prng *p = &w->prng;
    if (fork_handle(w, request, mirror))
        return;
    request->uid = prng_below(p, 3);
    request->session_id = request->uid * 8 + prng_below(p, 3) * 2;
    const int32_t *stream = w->stream[prng_below(p, STREAMS)];
    uint32_t most = min_of((uint32_t)w->config.context_max + 1, (uint32_t)STREAM_TOKENS);
    request->n_prompt = prng_between(p, 1, prng_chance(p, 70) ? max_of(most / 2, 1u) : most);
    memcpy(mirror->prompt, stream, request->n_prompt * sizeof(*stream));
    for (uint32_t change = prng_below(p, 3); change > 0; change--)
        mirror->prompt[prng_below(p, request->n_prompt)] = (int32_t)prng_below(p, 50);
    request->prompt = mirror->prompt;
}

static void add_request(struct world *w)
{
    struct prng *p = &w->prng;
    uint32_t n = prng_chance(p, w->forks) ? prng_between(p, 2, 9) : 1;
    struct request *request = request_take(w->requests, n);
    if (!request)
        return;
    w->n_added++;
    struct mirror *mirror = mirror_of(w, request);
    *mirror = (struct mirror){ .request = request, .live = true };
    draw_prompt(w, request, mirror);
    draw_params(w, request, mirror);
    request->domain = request->uid;
    bool apart = request->params.deterministic && !w->config.batch_invariant;
    for (uint32_t seq_i = 0; seq_i < n; seq_i++)
        fake_salt(w->fake, request->seq[seq_i]->pool_index, request->domain * 2 + apart + 1);
    int error = sched_add(w->sched, request, w->now);
    trace(w, (uint64_t)error + 77);
    if (!error)
        return;
    mirror->live = false;
    if (request->sched || request->state != REQUEST_ENCODING)
        fail_world(w, "a refused request left something behind");
    w->n_released++;
    request_put(w->requests, request);
}

/* What the publisher would see. */

static void check_tokens(struct world *w, struct mirror *mirror, const struct sequence *seq)
{
    for (uint32_t *at = &mirror->checked[seq->index]; *at < seq->n_output; (*at)++) {
        float logprob;
        int32_t token = fake_token(w->fake, seq, *at, w->eos, w->config.n_eos_id, &logprob);
        trace(w, (uint64_t)seq->output[*at]);
        if (token != seq->output[*at])
            fail_world(w, "request %u sequence %u output %u is %d, not %d",
                       mirror->request->pool_index, seq->index, *at, seq->output[*at], token);
        if (seq->logprobs && seq->logprobs[*at].logprob != logprob)
            fail_world(w, "request %u output %u has a wrong logprob", mirror->request->pool_index,
                       *at);
        if (seq->logprobs && seq->logprobs[*at].n_top != mirror->request->params.logprobs_k)
            fail_world(w, "wrong number of top logprobs");
    }
}

static void check_scores(struct world *w, struct mirror *mirror)
{
    struct request *request = mirror->request;
    for (; mirror->scored < request->n_prompt_scored; mirror->scored++) {
        float logprob = request->prompt_logprob[mirror->scored].logprob;
        if (mirror->scored == 0 ? !isnan(logprob)
                                : logprob != fake_score(w->fake, request->seq[0], mirror->scored))
            fail_world(w, "request %u: wrong prompt logprob at %u", request->pool_index,
                       mirror->scored);
    }
}

static bool is_in(int32_t id, const int32_t *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

/* Is the reason that a sequence ended with the right one? And did it not end too late? */
static void check_end(struct world *w, const struct sequence *seq)
{
    const struct request *request = seq->request;
    const struct request_params *params = &request->params;
    uint32_t n_eos = params->ignore_eos ? 0 : (uint32_t)w->config.n_eos_id;
    uint32_t room = (uint32_t)w->config.context_max - request->n_prompt;
    for (uint32_t i = 0; i < seq->n_output; i++) {
        bool eos = is_in(seq->output[i], w->eos, n_eos);
        bool stop = is_in(seq->output[i], request->stop_ids, request->n_stop_id);
        if ((eos || stop) && (i + 1 < seq->n_output || seq->state != SEQUENCE_ENDED))
            fail_world(w, "a sequence goes on after a stop id");
        if ((eos || stop) && i < params->min_tokens)
            fail_world(w, "a stop id before min_tokens");
    }
    if (seq->state != SEQUENCE_ENDED)
        return;
    int32_t last = seq->n_output ? seq->output[seq->n_output - 1] : -1;
    bool good = true;
    if (seq->reason == RINGLET_REASON_STOP_EOS)
        good = is_in(last, w->eos, n_eos);
    else if (seq->reason == RINGLET_REASON_STOP_TOKEN)
        good = is_in(last, request->stop_ids, request->n_stop_id);
    else if (seq->reason == RINGLET_REASON_LENGTH)
        good = seq->n_output == params->max_tokens;
    else if (seq->reason == RINGLET_REASON_CONTEXT)
        good = seq->n_output == room || seq->detail == RINGLET_ERROR_TOO_BIG;
    else if (seq->reason == RINGLET_REASON_DEADLINE)
        good = w->deadline > 0;
    else if (seq->reason == RINGLET_REASON_CANCELLED)
        good = w->cancel > 0;
    else if (seq->reason == RINGLET_REASON_ERROR_ENGINE)
        good = w->fail > 0;
    if (!good)
        fail_world(w, "sequence ended with reason %u after %u tokens, which is wrong", seq->reason,
                   seq->n_output);
    if (seq->reason == RINGLET_REASON_LENGTH && params->prompt_logprobs &&
        request->n_prompt_scored != request->n_prompt && request->n_prompt > 1 &&
        request->seq[0]->reason != RINGLET_REASON_CANCELLED)
        fail_world(w, "prompt logprobs are missing at the end");
}

static void publish(struct world *w)
{
    struct list *outbox = sched_outbox(w->sched);
    while (!list_empty(outbox)) {
        struct request *request = list_first(outbox, struct request, outbox_node);
        struct mirror *mirror = mirror_of(w, request);
        list_remove(&request->outbox_node);
        if (mirror->done)
            fail_world(w, "something to publish after the end");
        for (uint32_t seq_i = 0; seq_i < request->n_seq; seq_i++) {
            check_tokens(w, mirror, request->seq[seq_i]);
            check_end(w, request->seq[seq_i]);
        }
        check_scores(w, mirror);
        if (request->state == REQUEST_DONE) {
            mirror->done = true;
            w->n_ended++;
            handle_add(w, request, request->lease_handle, NULL, 0);
            for (uint32_t seq_i = 0; seq_i < request->n_seq; seq_i++)
                handle_add(w, request, request->seq[seq_i]->handle, request->seq[seq_i]->output,
                           request->seq[seq_i]->n_output);
            trace(w, request->seq[0]->reason);
        }
    }
}

static void forget_some(struct world *w, uint32_t percent)
{
    for (int i = 0; i < REQUESTS; i++) {
        struct mirror *mirror = &w->mirror[i];
        if (!mirror->live || !mirror->done || mirror->forgotten ||
            !prng_chance(&w->prng, percent))
            continue;
        mirror->forgotten = true;
        sched_forget(w->sched, mirror->request);
        check(w, "forget");
    }
}

/* Faults. */

static struct request *some_request(struct world *w)
{
    struct mirror *mirror = &w->mirror[prng_below(&w->prng, REQUESTS)];
    return mirror->live && !mirror->done ? mirror->request : NULL;
}

static void make_trouble(struct world *w)
{
    struct prng *p = &w->prng;
    struct request *request = some_request(w);
    if (request && prng_chance(p, w->cancel)) {
        trace(w, 1);
        sched_cancel(w->sched, request, RINGLET_REASON_CANCELLED, 0, w->now);
        sched_cancel(w->sched, request, RINGLET_REASON_CANCELLED, 0, w->now);
        check(w, "cancel");
    }
    request = some_request(w);
    if (request && prng_chance(p, w->stall)) {
        trace(w, 2);
        bool stalled = prng_chance(p, 50);
        for (uint32_t seq_i = 0; seq_i < request->n_seq; seq_i++)
            if (prng_chance(p, 80))
                sched_stall(w->sched, request->seq[seq_i], stalled);
        check(w, "stall");
    }
    if (w->n_handle && prng_chance(p, 5)) {
        trace(w, 5);
        uint32_t handle_i = prng_below(p, w->n_handle);
        const struct handle *held = &w->handle[handle_i];
        if (sched_handle_release(w->sched, held->session_id + 1, held->handle) == 0)
            fail_world(w, "another session released this handle");
        if (prng_chance(p, 50)) {
            sched_handle_renew(w->sched, held->session_id, held->handle, 1000, w->now);
        } else {
            sched_handle_release(w->sched, held->session_id, held->handle);
            if (sched_handle_release(w->sched, held->session_id, held->handle) == 0)
                fail_world(w, "a handle was released twice");
            handle_forget(w, handle_i);
        }
        check(w, "handle");
    }
    request = some_request(w);
    if (request && prng_chance(p, w->cancel)) {
        trace(w, 3);
        sched_finish(w->sched, request->seq[prng_chance(p, 50) ? 0 : prng_below(p, request->n_seq)],
                     RINGLET_REASON_CANCELLED, 0, w->now);
        check(w, "finish");
    }
}

static void calm(struct world *w)
{
    w->faults = false;
    for (int i = 0; i < REQUESTS; i++) {
        struct mirror *mirror = &w->mirror[i];
        for (uint32_t seq_i = 0; mirror->live && !mirror->done && seq_i < mirror->request->n_seq;
             seq_i++)
            sched_stall(w->sched, mirror->request->seq[seq_i], false);
    }
}

/* Steps. */

static void commit_oldest(struct world *w)
{
    struct step *step = w->flight[0];
    w->flight[0] = w->flight[1];
    w->n_flight--;
    sched_commit(w->sched, step, w->now);
    check(w, "commit");
    if (w->verbose)
        printf("commit %llu\n", (unsigned long long)step->number);
}

static void show_step(const struct step *step)
{
    printf("step %llu: %d rows, %d decode, %d draws;", (unsigned long long)step->number,
           step->n_row, step->n_decode, step->n_sample);
    for (int i = 0; i < step->n_swap_out; i++)
        printf(" out %d>%d", step->swap_out[i].src, step->swap_out[i].dst);
    for (int i = 0; i < step->n_copy; i++)
        printf(" copy %d>%d", step->copy[i].src, step->copy[i].dst);
    for (int i = 0; i < step->n_swap_in; i++)
        printf(" in %d>%d", step->swap_in[i].src, step->swap_in[i].dst);
    for (int i = 0; i < step->n_state_load; i++)
        printf(" load %d", step->state_load[i].slot);
    printf("\n");
    for (int i = 0; i < step->n_seq; i++) {
        int n = step->row_start[i + 1] - step->row_start[i];
        printf("    seq %u: positions %d..%d, token %d, blocks", step->seq_owner[i].seq,
               step->kv_tokens[i] - n, step->kv_tokens[i] - 1, step->token[step->row_start[i]]);
        for (int b = step->block_start[i]; b < step->block_start[i + 1]; b++)
            printf(" %d", step->blocks[b]);
        printf("\n");
    }
    for (int i = 0; i < step->n_sample; i++)
        printf("    sample %d: row %d for seq %u, position %u, counts %d, %d bias, %d ban\n", i,
               step->sample_row[i], step->sample_owner[i].seq, step->sample[i].position,
               step->sample[i].state_slot, step->sample[i].n_bias, step->sample[i].n_ban);
}

static bool plan_one(struct world *w)
{
    struct step *step = w->n_flight == 1 && w->flight[0] == &w->step[0] ? &w->step[1] : &w->step[0];
    step_reset(step);
    int n_row = sched_tick(w->sched, w->now, step);
    check(w, "tick");
    trace(w, (uint64_t)n_row);
    if (n_row == 0)
        return false;
    if (w->verbose)
        show_step(step);
    step->started_ns = w->now;
    if (w->faults && prng_chance(&w->prng, w->fail)) {
        trace(w, 4);
        step->status = prng_chance(&w->prng, 50) ? -EIO : -ENOMEM;
        fake_fail(w->fake, step);
    } else {
        fake_run(w->fake, step);
    }
    step->ended_ns = w->now + (uint64_t)step->n_row +
                     w->swap_ns * (uint64_t)(step->n_swap_in + step->n_swap_out);
    if (fake_error(w->fake))
        fail_world(w, "step %llu: %s", (unsigned long long)step->number, fake_error(w->fake));
    w->flight[w->n_flight++] = step;
    return true;
}

static bool world_turn(struct world *w)
{
    struct prng *p = &w->prng;
    w->tick++;
    w->now += prng_between(p, 1, 40);
    bool moved = false;
    if (w->n_flight == 2 || (w->n_flight == 1 && !prng_chance(p, w->lag))) {
        commit_oldest(w);
        publish(w);
        moved = true;
    }
    if (w->faults)
        make_trouble(w);
    sched_expire(w->sched, w->now);
    check(w, "expire");
    if (sched_next_ns(w->sched) <= w->now)
        fail_world(w, "something that is due was not ended");
    if (w->n_flight < 2)
        moved = plan_one(w) || moved;
    publish(w);
    forget_some(w, w->faults ? 50 : 100);
    return moved;
}

static uint64_t tokens_left(const struct world *w)
{
    uint64_t n = 0;
    for (int i = 0; i < REQUESTS; i++) {
        const struct mirror *mirror = &w->mirror[i];
        n += mirror->live ? 400u * mirror->request->n_seq : 0;
    }
    return n;
}

static void world_run(struct world *w)
{
    while (w->n_added < w->n_wanted && !w->error[0]) {
        for (uint32_t burst = prng_below(&w->prng, 4); burst > 0; burst--)
            add_request(w);
        check(w, "add");
        for (uint32_t turn = prng_below(&w->prng, 8); turn > 0 && !w->error[0]; turn--)
            world_turn(w);
    }
    calm(w);
    /* Liveness: every turn that is not idle computes something, and there is only so much to do. */
    uint64_t bound = 3 * tokens_left(w) + 1000;
    while (w->n_released < w->n_added && !w->error[0]) {
        world_turn(w);
        if (bound-- == 0)
            fail_world(w, "faults have stopped, and still %u of %u requests are not done",
                       w->n_added - w->n_released, w->n_added);
    }
    while (w->n_flight > 0 && !w->error[0])
        commit_oldest(w);
    for (uint32_t session_id = 0; session_id < 24; session_id++)
        sched_handle_release_all(w->sched, session_id);
    check(w, "release_all");
    struct sched_stats stats;
    sched_stats(w->sched, &stats);
    if (!w->error[0] && (stats.kv_owned || stats.running || stats.queued))
        fail_world(w, "idle, and not empty");
    if (!w->error[0] && payload_used(w->payload))
        fail_world(w, "idle, and payload is out");
}

static void show(const struct world *w)
{
    struct sched_stats stats;
    sched_stats(w->sched, &stats);
    printf("blocks: %u free, %u cached, %u owned of %u; batch %d, rows %d, context %d; "
           "%u running, %u queued, policy %s\n",
           stats.kv_free, stats.kv_cached, stats.kv_owned, stats.kv_total, w->config.batch_max,
           w->config.rows_max, w->config.context_max, stats.running, stats.queued,
           w->config.policy);
    for (int i = 0; i < REQUESTS; i++) {
        const struct request *request = w->mirror[i].request;
        if (!w->mirror[i].live)
            continue;
        printf("request %d: state %d, prompt %u, scored %u, max_tokens %u, preempted %u:", i,
               request->state, request->n_prompt, request->n_prompt_scored,
               request->params.max_tokens, request->totals.preemptions);
        for (uint32_t seq_i = 0; seq_i < request->n_seq; seq_i++)
            printf(" %d/%u", request->seq[seq_i]->state, request->seq[seq_i]->n_output);
        printf("\n");
    }
}

static uint64_t current_seed;

/* An assert of the product fired, or worse: say which seed it was. */
static void crashed(int signal_number)
{
    char text[96];
    int n = snprintf(text, sizeof(text), "FAILED: crashed\nrepeat: sim_sched --seed %llu\n",
                     (unsigned long long)current_seed);
    ssize_t written = write(STDOUT_FILENO, text, (size_t)n);
    (void)written;
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

/* Returns the number of events, 0 on failure (told). */
static uint64_t run_seed(uint64_t seed, bool verbose, uint64_t *ret_trace)
{
    static struct world world;
    current_seed = seed;
    if (!world_open(&world, seed, verbose)) {
        fprintf(stderr, "sim_sched: cannot set up seed %llu\n", (unsigned long long)seed);
        exit(2);
    }
    world_run(&world);
    *ret_trace = world.trace;
    if (world.error[0])
        printf("FAILED: %s\nrepeat: sim_sched --seed %llu\n", world.error,
               (unsigned long long)seed);
    if (world.error[0] && verbose)
        show(&world);
    uint64_t n_event = world.error[0] ? 0 : max_of(world.n_event, (uint64_t)1);
    world_close(&world);
    return n_event;
}

static int run_seeds(uint64_t first, uint64_t count)
{
    uint64_t n_event = 0;
    for (uint64_t seed = first; seed < first + count; seed++) {
        uint64_t hash, again;
        uint64_t n = run_seed(seed, false, &hash);
        if (n == 0)
            return 1;
        n_event += n;
        if (seed % 64 == 0 && (run_seed(seed, false, &again) == 0 || again != hash)) {
            printf("FAILED: seed %llu gives another history the second time\n",
                   (unsigned long long)seed);
            return 1;
        }
    }
    printf("%llu seeds, %llu events, all good\n", (unsigned long long)count,
           (unsigned long long)n_event);
    return 0;
}

enum { PLANTED_BUGS = 65, PLANTED_SEEDS = 4000, PLANTED_SECONDS = 20 };

int planted_bug; /* daemon/base/planted.h */

/* Does the simulation see this bug? A crash or a hang is seen as well as a complaint. */
static bool bug_caught(int bug, FILE *sink)
{
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        planted_bug = bug;
        dup2(fileno(sink), STDOUT_FILENO);
        dup2(fileno(sink), STDERR_FILENO);
        alarm(PLANTED_SECONDS);
        _exit(run_seeds(1, PLANTED_SEEDS));
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) {
        perror("sim_sched");
        exit(2);
    }
    return status != 0;
}

/* All planted bugs, one at a time; the build without any must be good, or it proves nothing. */
static int run_planted(int only)
{
    if (!BUG(0)) {
        fprintf(stderr, "sim_sched: no bugs are planted in this build\n");
        return 2;
    }
    FILE *sink = fopen("/dev/null", "w");
    if (!sink)
        return 2;
    int n_missed = 0;
    if (!only && bug_caught(0, sink)) {
        printf("FAILED: without any planted bug the simulation fails\n");
        n_missed++;
    }
    for (int bug = only ? only : 1; bug <= (only ? only : PLANTED_BUGS); bug++) {
        if (bug_caught(bug, only ? stderr : sink))
            continue;
        printf("FAILED: planted bug %d is not seen\n", bug);
        n_missed++;
    }
    fclose(sink);
    printf("%d planted bugs, %d missed\n", only ? 1 : PLANTED_BUGS, n_missed);
    return n_missed > 0;
}

int main(int argc, char **argv)
{
    uint64_t hash;
    signal(SIGABRT, crashed);
    signal(SIGSEGV, crashed);
    if (argc == 3 && strcmp(argv[1], "--seed") == 0)
        return run_seed(strtoull(argv[2], NULL, 0), true, &hash) ? 0 : 1;
    if (argc == 4 && strcmp(argv[1], "--seeds") == 0)
        return run_seeds(strtoull(argv[2], NULL, 0), strtoull(argv[3], NULL, 0));
    if (argc == 2 && strcmp(argv[1], "--long") == 0)
        return run_seeds(1, 1000000);
    if (argc >= 2 && argc <= 3 && strcmp(argv[1], "--planted") == 0)
        return run_planted(argc == 3 ? (int)strtol(argv[2], NULL, 10) : 0);
    if (argc == 1)
        return run_seeds(1, 1000);
    fprintf(stderr, "usage: sim_sched [--seed N | --seeds FIRST COUNT | --long | --planted [N]]\n");
    return 2;
}
