/* Makes worlds and requests: everything that a seed draws. */
#include "tests/sim/sim_world.h"

#include <string.h>

#include "daemon/base/arena.h"

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
    w->beams = swarm(p, 60);
    w->n_wanted = prng_between(p, 4, 60);
    for (int stream_i = 0; stream_i < STREAMS; stream_i++) {
        uint32_t keep = stream_i ? prng_below(p, 80) : 0;
        memcpy(w->stream[stream_i], w->stream[0], sizeof(w->stream[0]));
        for (uint32_t id_i = keep; id_i < STREAM_TOKENS; id_i++)
            w->stream[stream_i][id_i] = (int32_t)prng_below(p, 50);
    }
}

bool world_open(struct world *w, uint64_t seed, bool verbose)
{
    *w = (struct world){
        .seed = seed, .verbose = verbose, .prng = { seed }, .faults = true, .now = 1000
    };
    struct prng *p = &w->prng;
    if (arena_create(8 << 20, &w->arena) ||
        payload_create(prng_chance(p, 10) ? 64 << 10 : 4 << 20, w->arena, &w->payload) ||
        request_pool_create(REQUESTS, SEQUENCES, w->arena, &w->requests))
        return false;
    draw_config(w);
    draw_world(w);
    const struct sched_config *config = &w->config;
    struct step_limits limits = {
        .rows_max = config->rows_max,
        .seqs_max = config->batch_max,
        .samples_max = config->samples_max,
        .blocks_max = config->batch_max * (config->context_max / 16 + 1),
        .lists_max = config->lists_max,
        .moves_max = config->moves_max,
        .vocab = config->vocab,
    };
    if (sched_create(config, w->arena, &w->sched) || step_init(&w->step[0], &limits, w->arena) ||
        step_init(&w->step[1], &limits, w->arena))
        return false;
    w->fake =
        fake_create(config->kv_blocks, config->kv_host_blocks, config->batch_max, config->vocab);
    return true;
}

void world_close(struct world *w)
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

/* A beam search of so many beams, the best few of which are wanted. */
static void draw_beams(struct world *w, struct request *request)
{
    static const float penalties[] = { 0, 1, 1, 0.5f, 2, -1 };
    struct prng *p = &w->prng;
    struct request_params *params = &request->params;
    params->beam_width = (uint8_t)request->n_seq;
    params->n = (uint16_t)prng_between(p, 1, request->n_seq);
    params->early_stopping = (uint8_t)prng_below(p, 3);
    params->length_penalty = penalties[prng_below(p, ARRAY_SIZE(penalties))];
    params->temperature = params->presence = 0;
    params->top_p = params->repetition = 1;
    params->max_tokens = min_of(params->max_tokens, 60u);
}

void handle_add(struct world *w, const struct request *request, uint64_t handle,
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

void handle_forget(struct world *w, uint32_t handle_i)
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

void add_request(struct world *w)
{
    struct prng *p = &w->prng;
    bool beams = prng_chance(p, w->beams);
    uint32_t n = beams                      ? prng_between(p, 1, 6)
                 : prng_chance(p, w->forks) ? prng_between(p, 2, 9)
                                            : 1;
    struct request *request = request_take(w->requests, n);
    if (!request)
        return;
    w->n_added++;
    struct mirror *mirror = mirror_of(w, request);
    *mirror = (struct mirror){ .request = request, .live = true };
    draw_prompt(w, request, mirror);
    draw_params(w, request, mirror);
    if (beams)
        draw_beams(w, request);
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
