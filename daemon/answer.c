/*
 * What requests have to say to their clients: admission, tokens and text, ends. Events of one
 * request go out in order; out of credit the request waits in its session's `blocked` list and its
 * ids stay where they are, in the sequence's own array, so that a later event carries several.
 *
 *   outbox -> answer -> [ACCEPTED] [PROMPT ...] [TOKENS ...] [FINISHED ...] FINISHED + END ->
 * forget
 */
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "base/planted.h"
#include "daemon/base/payload.h"
#include "daemon/handles.h"
#include "daemon/serve.h"
#include "daemon/session/intake.h"
#include "daemon/session/publish.h"

static struct publish_id id_of(const struct request *request)
{
    return (struct publish_id){ request->slot, request->generation, request->tag };
}

static struct serve_request *side_of(struct serve *sv, const struct request *request)
{
    return &sv->request[request->pool_index];
}

/* Not enough credit: wait for the client to read on. */
static void block(struct session *s, struct request *request)
{
    list_remove(&request->outbox_node);
    if (!BUG(215))
        list_push_back(&s->blocked, &request->outbox_node);
}

/* Where the time of a request that was admitted went; of a beginning alone what there is. */
static void observe_times(uint64_t **h, const struct request_totals *t, uint32_t n_longest)
{
    if (t->first_token_ns > t->arrived_ns)
        stats_observe(h[STATS_FIRST_TOKEN_NS], t->first_token_ns - t->arrived_ns);
    if (t->ended_ns > t->arrived_ns)
        stats_observe(h[STATS_TOTAL_NS], t->ended_ns - t->arrived_ns);
    if (t->admitted_ns < t->arrived_ns || !t->admitted_ns)
        return;
    stats_observe(h[STATS_QUEUE_NS], t->admitted_ns - t->arrived_ns);
    if (t->ended_ns >= t->admitted_ns)
        stats_observe(h[STATS_INFERENCE_NS], t->ended_ns - t->admitted_ns);
    if (t->first_token_ns < t->admitted_ns || t->ended_ns < t->first_token_ns)
        return;
    stats_observe(h[STATS_PREFILL_NS], t->first_token_ns - t->admitted_ns);
    stats_observe(h[STATS_DECODE_NS], t->ended_ns - t->first_token_ns);
    if (n_longest > 1)
        stats_observe(h[STATS_PER_OUTPUT_TOKEN_NS],
                      (t->ended_ns - t->first_token_ns) / (n_longest - 1));
}

static void observe_sizes(uint64_t **h, const struct request *request, uint32_t n_longest)
{
    const struct request_totals *t = &request->totals;
    stats_observe(h[STATS_REQUEST_PROMPT_TOKENS], t->prompt_tokens);
    stats_observe(h[STATS_REQUEST_COMPUTED_TOKENS],
                  t->prompt_tokens - min_of(t->cached_tokens, t->prompt_tokens));
    stats_observe(h[STATS_REQUEST_GENERATION_TOKENS], t->completion_tokens);
    stats_observe(h[STATS_REQUEST_MAX_GENERATION_TOKENS], n_longest);
    stats_observe(h[STATS_REQUEST_N], request->n_seq);
    if (request->params.max_tokens != RINGLET_MAX_TOKENS_CONTEXT)
        stats_observe(h[STATS_REQUEST_MAX_TOKENS], request->params.max_tokens);
    stats_observe(h[STATS_REQUEST_PREEMPTIONS], t->preemptions);
}

/* Totals of tokens grow as the request does, so that a rate is what happens now. */
static void count_tokens(struct serve *sv, const struct request *request)
{
    struct serve_request *side = side_of(sv, request);
    uint64_t **value = sv->model[request->model].stats->value;
    const struct request_totals *t = &request->totals;
    if (t->prompt_tokens > side->n_prompt_told)
        stats_add(value[STATS_PROMPT_TOKENS], t->prompt_tokens - side->n_prompt_told);
    if (t->cached_tokens > side->n_cached_told)
        stats_add(value[STATS_CACHED_TOKENS], t->cached_tokens - side->n_cached_told);
    if (t->completion_tokens > side->n_completion_told)
        stats_add(value[STATS_COMPLETION_TOKENS], t->completion_tokens - side->n_completion_told);
    side->n_prompt_told = max_of(side->n_prompt_told, t->prompt_tokens);
    side->n_cached_told = max_of(side->n_cached_told, t->cached_tokens);
    side->n_completion_told = max_of(side->n_completion_told, t->completion_tokens);
}

static void count_end(struct serve *sv, const struct request *request, uint16_t reason)
{
    struct stats_of_model *stats = sv->model[request->model].stats;
    const struct request_totals *t = &request->totals;
    uint32_t n_longest = 0;
    int i = stats_reason_index(reason);
    stats_add(stats->value[STATS_FINISHED], 1);
    if (i >= 0)
        stats_add(stats->reason[i], 1);
    count_tokens(sv, request);
    for (uint32_t seq_i = 0; seq_i < request->n_seq; seq_i++)
        n_longest = max_of(n_longest, request->seq[seq_i]->n_output);
    observe_times(stats->histogram[request->params.urgency / 64], t, n_longest);
    if (t->admitted_ns)
        observe_sizes(stats->whole, request, n_longest);
}

/* Give the request up: the scheduler first, if it knows it; then its memory. */
static void forget(struct serve *sv, struct request *request)
{
    struct serve_request *side = side_of(sv, request);
    list_remove(&request->outbox_node);
    side->ended = true;
    side->session = NULL;
    if (side->scheduled) {
        sv->model[request->model].dirty = true; /* somebody may have waited for its memory */
        sched_forget(sv->model[request->model].sched, request);
    } else if (!side->encoding) {
        serve_released(sv, request);
    }
}

static void finish_last(struct serve *sv, struct request *request, const struct publish_end *end)
{
    struct session *s = side_of(sv, request)->session;
    struct publish_id id = id_of(request);
    if (!request->totals.ended_ns)
        request->totals.ended_ns = serve_now(sv);
    count_end(sv, request, end->reason);
    publish_last(s, &id, end, request);
    forget(sv, request);
}

void answer_entry(struct session *s, const struct intake_item *item, uint16_t reason,
                  uint32_t detail, uint32_t field)
{
    struct publish_id id = { item->sqe.slot, item->sqe.generation, item->sqe.tag };
    struct publish_end end = {
        .index = RINGLET_INDEX_ALL, .reason = reason, .detail = detail, .field = field
    };
    publish_last(s, &id, &end, NULL);
}

void answer_refusal(struct serve *sv, struct request *request, uint16_t reason, uint32_t detail,
                    uint32_t field)
{
    struct publish_end end = {
        .index = RINGLET_INDEX_ALL, .reason = reason, .detail = detail, .field = field
    };
    if (side_of(sv, request)->session)
        finish_last(sv, request, &end);
    else
        forget(sv, request);
}

/*
 * PROMPT events: ids for TOKENIZE, log-probabilities for GENERATE. True: all that is known is out.
 */
static bool answer_prompt(struct serve *sv, struct session *s, struct request *request, uint32_t n)
{
    const struct step_logprob *lp = request->prompt_logprob;
    uint32_t n_top = lp ? request->params.prompt_logprobs_k : 0;
    struct publish_id id = id_of(request);
    (void)sv;
    while (request->n_prompt_published < n) {
        uint32_t at = request->n_prompt_published;
        uint32_t most = min_of(n - at, (uint32_t)RINGLET_EVENT_TOKENS_MAX);
        uint64_t one = publish_span_bytes(2, lp != NULL, n_top, 0) / 2;
        if (!publish_can(s, one + 8))
            return false;
        uint64_t fit = publish_room(s) / one;
        most = fit < most ? (uint32_t)max_of(fit, UINT64_C(1)) : most;
        if (!publish_bulk(s, most * one))
            return false;
        struct publish_tokens t = {
            .kind = RINGLET_KIND_PROMPT,
            .index = RINGLET_INDEX_ALL,
            .position = at + BUG(216),
            .ids = request->prompt + at,
            .n_id = most,
            .logprobs = lp ? lp + at : NULL,
            .n_top = n_top,
        };
        publish_tokens(s, &id, &t);
        request->n_prompt_published += most;
    }
    return true;
}

/*
 * The n-th id from now completed a stop string. The scheduler is a step ahead and may have seen an
 * end of its own behind it, EOS or the length: the stop came first. Ids behind it are never said,
 * and what is held ends with the id that completed the stop, as the events do.
 */
static void end_at_stop(struct serve *sv, struct sequence *seq, uint32_t n, uint32_t stop)
{
    struct request *request = seq->request;
    struct serve_model *m = &sv->model[request->model];
    request->totals.completion_tokens -= seq->n_output - (seq->n_published + n);
    if (!BUG(217))
        seq->n_output = seq->n_published + n;
    m->dirty = true;
    if (seq->state == SEQUENCE_ENDED && seq->reason < RINGLET_REASON_CANCELLED) {
        seq->reason = RINGLET_REASON_STOP_STRING;
        seq->detail = stop;
        if (seq->handle)
            sched_handle_cut(m->sched, request->session_id, seq->handle, sequence_tokens(seq));
        return;
    }
    sched_finish(m->sched, seq, RINGLET_REASON_STOP_STRING, stop, serve_now(sv));
}

/* Text of the next ids into sv->out, as many as fit. A stop string ends the sequence here. */
static uint32_t take_text(struct serve *sv, struct sequence *seq, uint32_t most, size_t *ret_bytes)
{
    struct request *request = seq->request;
    struct serve_model *m = &sv->model[request->model];
    struct serve_sequence *side = &sv->sequence[seq->pool_index];
    size_t bytes = 0;
    uint32_t n = 0;
    while (n < most && (n == 0 || SERVE_OUT_BYTES - bytes >= DETOK_OUT_MAX)) {
        int32_t id = seq->output[seq->n_published + n++];
        size_t got = 0;
        int stop = -1;
        bool end_id =
            seq->state == SEQUENCE_ENDED && seq->n_published + n == seq->n_output &&
            (seq->reason == RINGLET_REASON_STOP_EOS || seq->reason == RINGLET_REASON_STOP_TOKEN);
        if ((request->params.no_text && !side->detok.stops) || (end_id && !BUG(218)))
            continue; /* without text it is still searched for stop strings */
        int error = detok_push(&side->detok, m->vocab, id, sv->out + bytes, SERVE_OUT_BYTES - bytes,
                               &got, &stop);
        assert(!error);
        bytes += request->params.no_text ? 0 : got;
        if (stop >= 0) {
            end_at_stop(sv, seq, n, (uint32_t)stop);
            break;
        }
    }
    *ret_bytes = bytes;
    return n;
}

static void count_interval(struct serve *sv, struct sequence *seq, uint32_t n)
{
    struct serve_sequence *side = &sv->sequence[seq->pool_index];
    struct request *request = seq->request;
    uint64_t now = serve_now(sv);
    if (side->last_ns)
        stats_observe(sv->model[request->model]
                          .stats->histogram[request->params.urgency / 64][STATS_TOKEN_INTERVAL_NS],
                      (now - side->last_ns) / n);
    side->last_ns = now;
}

/* TOKENS events of one sequence. True: everything it has is out. */
static bool answer_tokens(struct serve *sv, struct session *s, struct sequence *seq)
{
    struct request *request = seq->request;
    bool logprobs = request->params.logprobs && seq->logprobs;
    uint32_t n_top = logprobs ? request->params.logprobs_k : 0;
    uint64_t one = publish_span_bytes(2, logprobs, n_top, 0) / 2;
    struct publish_id id = id_of(request);
    const struct detok *detok = &sv->sequence[seq->pool_index].detok;
    while (seq->n_published < seq->n_output && !detok->done) { /* nothing after a stop string */
        if (!publish_can(s, request->params.no_text ? one + 8 : one + DETOK_OUT_MAX + 8))
            return false;
        uint64_t room = publish_room(s), text_room = request->params.no_text ? 0 : SERVE_OUT_BYTES;
        uint64_t fit = room > text_room + 8 ? (room - text_room - 8) / one : 1;
        uint32_t most =
            min_of(seq->n_output - seq->n_published, (uint32_t)RINGLET_EVENT_TOKENS_MAX);
        most = fit < most ? (uint32_t)max_of(fit, UINT64_C(1)) : most;
        size_t text_bytes;
        uint32_t n = take_text(sv, seq, most, &text_bytes);
        struct publish_tokens t = {
            .kind = RINGLET_KIND_TOKENS,
            .index = (uint16_t)seq->index,
            .position = seq->n_published,
            .ids = seq->output + (BUG(219) ? seq->n_output - n : seq->n_published),
            .n_id = n,
            .logprobs = logprobs ? seq->logprobs + seq->n_published : NULL,
            .n_top = n_top,
            .text = sv->out,
            .text_bytes = (uint32_t)text_bytes,
        };
        publish_tokens(s, &id, &t);
        seq->n_published += n;
        sv->n_told_tokens += n;
        count_interval(sv, seq, n);
    }
    return true;
}

/* Text that was held back when the sequence ended for another reason than a stop string. */
static bool answer_held_text(struct serve *sv, struct session *s, struct sequence *seq)
{
    struct serve_sequence *side = &sv->sequence[seq->pool_index];
    size_t bytes = 0;
    if (seq->request->params.no_text || side->detok.done || BUG(222))
        return true;
    if (!publish_can(s, DETOK_OUT_MAX + 8))
        return false;
    int error = detok_flush(&side->detok, sv->out, SERVE_OUT_BYTES, &bytes);
    assert(!error);
    if (bytes) {
        struct publish_id id = id_of(seq->request);
        struct publish_tokens t = {
            .kind = RINGLET_KIND_TOKENS,
            .index = (uint16_t)seq->index,
            .position = seq->n_published,
            .text = sv->out,
            .text_bytes = (uint32_t)bytes,
        };
        publish_tokens(s, &id, &t);
    }
    return true;
}

/* One sequence, up to its FINISHED. True: nothing is left to say for now. */
static bool answer_sequence(struct serve *sv, struct session *s, struct sequence *seq, bool last)
{
    struct request *request = seq->request;
    if (seq->end_published)
        return true;
    if (!answer_tokens(sv, s, seq))
        return false;
    if (seq->state != SEQUENCE_ENDED)
        return true;
    if (!answer_held_text(sv, s, seq))
        return false;
    struct publish_end end = { .index = (uint16_t)seq->index,
                               .reason = seq->reason,
                               .detail = seq->detail,
                               .position = seq->n_published,
                               .hypothesis = request->params.beam_width > 0,
                               .cumulative = seq->cumulative,
                               .handle = handles_wire(request, seq->handle) };
    if (last) {
        if (!end.handle)
            end.handle = handles_wire(request, request->lease_handle);
        seq->end_published = true;
        finish_last(sv, request, &end);
        return true;
    }
    if (!publish_can(s, 0))
        return false;
    struct publish_id id = id_of(request);
    publish_finished(s, &id, &end);
    seq->end_published = true;
    return true;
}

/* Did the request as a whole end (cancel, deadline, error)? Then one END says so, owed tokens drop.
 */
static bool whole_end(const struct request *request, struct publish_end *ret)
{
    if (request->state != REQUEST_DONE || BUG(220))
        return false;
    for (uint32_t i = 0; i < request->n_seq; i++) {
        const struct sequence *seq = request->seq[i];
        if (seq->end_published || seq->reason < RINGLET_REASON_CANCELLED)
            continue;
        *ret = (struct publish_end){ .index = RINGLET_INDEX_ALL,
                                     .reason = seq->reason,
                                     .detail = seq->detail,
                                     .position = seq->n_published };
        return true;
    }
    return false;
}

/* Tell the scheduler who may go on: too far ahead of its client means out of the next batches. */
static void stall(struct serve *sv, struct request *request)
{
    struct serve_model *m = &sv->model[request->model];
    for (uint32_t i = 0; i < request->n_seq; i++) {
        struct sequence *seq = request->seq[i];
        struct serve_sequence *side = &sv->sequence[seq->pool_index];
        bool far = seq->n_output - seq->n_published >= LIMIT_UNPUBLISHED;
        if (seq->state == SEQUENCE_ENDED || far == side->stalled || (side->stalled && BUG(221)))
            continue;
        side->stalled = far;
        sched_stall(m->sched, seq, far);
        m->dirty = true;
    }
}

/* Handles that no FINISHED will name: nobody could release them. */
static void drop_untold_handles(struct serve *sv, struct request *request)
{
    struct sched *sched = sv->model[request->model].sched;
    for (uint32_t i = 0; i < request->n_seq; i++)
        if (!request->seq[i]->end_published && request->seq[i]->handle)
            sched_handle_release(sched, request->session_id, request->seq[i]->handle);
    if (request->lease_handle)
        sched_handle_release(sched, request->session_id, request->lease_handle);
}

static bool answer_generate(struct serve *sv, struct session *s, struct request *request)
{
    const struct serve_request *side = side_of(sv, request);
    struct publish_end end;
    if (whole_end(request, &end)) {
        drop_untold_handles(sv, request);
        finish_last(sv, request, &end);
        return true;
    }
    /* Once admitted there may be tokens to say, also while it waits again after a preemption. */
    if (request->totals.admitted_ns == 0 && !request->accepted_published)
        return true;
    if (!request->accepted_published) {
        if (!publish_can(s, 0))
            return false;
        publish_accepted(s, request);
        request->accepted_published = true;
        stats_add(sv->model[request->model].stats->value[STATS_ACCEPTED], 1);
    }
    count_tokens(sv, request);
    if (request->prompt_logprob && !answer_prompt(sv, s, request, request->n_prompt_scored))
        return false;
    if (request->params.beam_width > 0 && request->state != REQUEST_DONE)
        return true; /* which beams are the best is not known before */
    bool all_out = true;
    uint32_t n_open = 0, n_told = request->params.n;
    for (uint32_t i = 0; i < n_told; i++)
        n_open += !request->seq[i]->end_published;
    for (uint32_t i = 0; i < n_told; i++) {
        struct sequence *seq = request->seq[i];
        if (seq->end_published)
            continue;
        bool last = n_open == 1;
        all_out &= answer_sequence(sv, s, seq, last);
        if (side->ended)
            return true; /* the request is gone */
        n_open -= seq->end_published;
    }
    return all_out;
}

/* LEASE says nothing before its end. No handle although it was computed: over the quota. */
static void answer_lease(struct serve *sv, struct request *request)
{
    const struct sequence *seq = request->seq[0];
    struct publish_end end = { .index = RINGLET_INDEX_ALL,
                               .reason = seq->reason,
                               .detail = seq->detail,
                               .handle = handles_wire(request, request->lease_handle) };
    if (request->state != REQUEST_DONE)
        return;
    if (seq->reason == RINGLET_REASON_LENGTH) {
        end.reason = end.handle ? RINGLET_REASON_DONE : RINGLET_REASON_REJECTED;
        end.detail = end.handle ? 0 : RINGLET_ERROR_OVER_QUOTA;
    }
    finish_last(sv, request, &end);
}

void answer(struct serve *sv, struct request *request)
{
    struct serve_request *side = side_of(sv, request);
    struct session *s = side->session;
    list_remove(&request->outbox_node);
    if (side->ended)
        return;
    if (!s) {
        if (request->state == REQUEST_DONE || !side->scheduled)
            forget(sv, request);
        return;
    }
    if (s->doomed)
        return; /* answer_gone comes */
    if (request->op == RINGLET_OP_TOKENIZE) {
        struct publish_end end = { .index = RINGLET_INDEX_ALL,
                                   .reason = RINGLET_REASON_DONE,
                                   .position = request->n_prompt };
        if (answer_prompt(sv, s, request, request->n_prompt))
            finish_last(sv, request, &end);
        else
            block(s, request);
        return;
    }
    if (request->op == RINGLET_OP_LEASE) {
        answer_lease(sv, request);
        return;
    }
    if (answer_generate(sv, s, request)) {
        if (!side->ended)
            stall(sv, request);
        return;
    }
    stall(sv, request);
    if (!s->doomed)
        block(s, request);
}

void answer_blocked(struct serve *sv, struct session *s)
{
    struct list turn;
    list_init(&turn);
    list_for_each_safe (node, &s->blocked) {
        list_remove(node);
        list_push_back(&turn, node);
    }
    list_for_each_safe (node, &turn)
        answer(sv, list_entry(node, struct request, outbox_node));
}

/* It has ended, but its client did not read to the end: what is owed is dropped. */
static void end_owed(struct request *request, uint16_t reason, uint32_t detail)
{
    for (uint32_t i = 0; i < request->n_seq; i++) {
        struct sequence *seq = request->seq[i];
        if (seq->end_published || seq->reason >= RINGLET_REASON_CANCELLED)
            continue;
        seq->reason = reason;
        seq->detail = detail;
    }
}

void answer_cancel(struct serve *sv, struct request *request, uint16_t reason, uint32_t detail)
{
    struct serve_request *side = side_of(sv, request);
    if (side->ended)
        return;
    if (!accept_encode_undo(side) && side->encoding)
        store_once(&side->job.cancelled, true); /* its memory comes back with the encoder's job */
    if (!side->scheduled) {
        answer_refusal(sv, request, reason, detail, 0);
        return;
    }
    struct serve_model *m = &sv->model[request->model];
    m->dirty = true;
    if (request->state == REQUEST_DONE)
        end_owed(request, reason, detail);
    else
        sched_cancel(m->sched, request, reason, detail, serve_now(sv));
    if (request->state == REQUEST_DONE)
        answer(sv, request);
}

void answer_gone(void *context, struct session *s)
{
    struct serve *sv = context;
    for (uint32_t slot = 0; slot < s->layout.n_slot; slot++) {
        struct request *request = s->slot[slot].busy ? s->slot[slot].request : NULL;
        if (!request)
            continue;
        struct serve_request *side = side_of(sv, request);
        side->session = NULL;
        request->session = NULL;
        list_remove(&request->outbox_node);
        if (!BUG(224))
            answer_cancel(sv, request, RINGLET_REASON_CANCELLED, 0);
    }
    accept_gone(sv, s);
    if (!BUG(223))
        handles_gone(sv, s);
}

void answer_slow(void *context, struct session *s)
{
    struct serve *sv = context;
    struct list turn;
    list_init(&turn);
    list_for_each_safe (node, &s->blocked) {
        list_remove(node);
        list_push_back(&turn, node);
    }
    list_for_each_safe (node, &turn) {
        struct request *request = list_entry(node, struct request, outbox_node);
        list_remove(node);
        answer_cancel(sv, request, BUG(225) ? RINGLET_REASON_CANCELLED : RINGLET_REASON_SLOW_CLIENT,
                      0);
    }
}
