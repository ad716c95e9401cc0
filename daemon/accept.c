/*
 * Entries become requests: what intake copied and validate let through gets its ids (at once, from
 * a handle, or by the encoder thread) and goes to the scheduler. Operations that need no step are
 * answered here.
 */
#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "base/planted.h"
#include "daemon/base/arena.h"
#include "daemon/base/payload.h"
#include "daemon/base/pool.h"
#include "daemon/handles.h"
#include "daemon/serve.h"
#include "daemon/session/intake.h"
#include "daemon/text/encode.h"
#include "daemon/text/vocab.h"

/* Sharing domains of groups lie beyond those of users, which are their ids. */
#define GROUP_DOMAIN (UINT64_C(1) << 32)

static void make_stops(struct serve_request *side, struct intake_item *item)
{
    side->stops = NULL;
    if (!item->stops)
        return;
    struct detok_stops *stops = item->stops;
    memset(stops, 0, sizeof(*stops));
    for (uint32_t at = 0; at < item->raw_stops_bytes;) {
        uint32_t bytes;
        memcpy(&bytes, item->raw_stops + at, sizeof(bytes));
        int error = detok_stops_add(stops, (const char *)item->raw_stops + at + 4, bytes);
        assert(!error); /* validated */
        at += 4 + (bytes + 3) / 4 * 4;
    }
    side->stops = BUG(210) ? NULL : stops;
}

static struct request *make_request(struct serve *sv, struct session *s, struct intake_item *item)
{
    if (s->user->n_request >= LIMIT_REQUESTS_UID)
        return NULL;
    uint32_t n_seq = item->params.beam_width ? item->params.beam_width : item->params.n;
    struct request *request = request_take(sv->requests, n_seq);
    if (!request)
        return NULL;
    struct serve_request *side = &sv->request[request->pool_index];
    *side = (struct serve_request){ .request = request,
                                    .session = s,
                                    .user = s->user,
                                    .payload_bytes = item->payload_bytes,
                                    .handle = item->sqe.handle };
    list_init(&side->encode_node);
    s->user->n_request++;
    request->session = s;
    request->session_id = s->id;
    request->uid = s->user->uid;
    request->domain = item->group ? GROUP_DOMAIN + (BUG(259) ? 1 : item->group)
                      : BUG(211)  ? 1
                                  : s->user->uid;
    request->slot = item->sqe.slot;
    request->generation = item->sqe.generation;
    request->tag = item->sqe.tag;
    request->op = item->sqe.op;
    request->model = item->sqe.model;
    request->params = item->params;
    if (request->op == RINGLET_OP_LEASE) {
        request->params.max_tokens = 0;
        if (!request->params.lease_ns)
            request->params.lease_ns = LIMIT_LEASE_NS;
    }
    if (!item->seed_set)
        request->params.seed = seeds_next(&sv->seeds);
    request->payload = item->payload;
    request->prompt = item->ids;
    request->n_prompt = item->n_id;
    request->stop_ids = item->stop_ids;
    request->n_stop_id = item->n_stop_id;
    request->bias = item->bias;
    request->n_bias = item->n_bias;
    request->totals.arrived_ns = serve_now(sv);
    make_stops(side, item);
    s->slot[request->slot].request = request;
    sv->n_request++;
    return request;
}

/* Ids of the handle first. False: refused. */
static bool join(struct serve *sv, struct request *request, uint64_t handle)
{
    int error = handles_join(sv, request, handle);
    struct session *s = sv->request[request->pool_index].session;
    request->totals.prompt_tokens = request->n_prompt;
    if (!error) /* copied ids are paid for like input */
        s->deficit -= min_of(s->deficit, request->n_prompt * 4u);
    if (error == -EAGAIN)
        answer_refusal(sv, request, RINGLET_REASON_OVERLOAD, 0, 0);
    else if (error)
        answer_refusal(sv, request, RINGLET_REASON_REJECTED,
                       error == -ENOENT ? RINGLET_ERROR_NO_HANDLE : RINGLET_ERROR_TOO_LONG,
                       VALIDATE_SQE_FIELD(handle));
    return error == 0;
}

/* Nothing but BOS and its like stands before the answer: it begins the text, without a space. */
static bool begins_text(const struct serve_model *m, const struct request *request)
{
    if (!m->vocab || !vocab_adds_space(m->vocab))
        return false;
    for (uint32_t i = 0; i < request->n_prompt; i++)
        if (!vocab_is_control(m->vocab, request->prompt[i]))
            return false;
    return true;
}

/* Its ids are known: to the scheduler, or straight back for TOKENIZE. */
void accept_encoded(struct serve *sv, struct request *request)
{
    struct serve_model *m = &sv->model[request->model];
    struct serve_request *side = &sv->request[request->pool_index];
    request->totals.prompt_tokens = request->n_prompt;
    if (request->op == RINGLET_OP_TOKENIZE) {
        answer(sv, request);
        return;
    }
    if (side->handle && !join(sv, request, side->handle))
        return;
    if (request->n_prompt == 0) {
        answer_refusal(sv, request, RINGLET_REASON_REJECTED, RINGLET_ERROR_BAD_FIELD,
                       VALIDATE_SQE_FIELD(input_bytes));
        return;
    }
    if (request->op == RINGLET_OP_QUERY) {
        request->totals.cached_tokens = sched_query(m->sched, BUG(272) ? 0 : request->domain,
                                                    request->prompt, request->n_prompt);
        answer_refusal(sv, request, RINGLET_REASON_DONE, 0, 0);
        return;
    }
    unsigned flags = (request->params.include_stop ? DETOK_INCLUDE_STOP : 0u) |
                     (begins_text(m, request) ? DETOK_AT_START : 0u);
    for (uint32_t i = 0; i < request->n_seq; i++) {
        struct serve_sequence *seq = &sv->sequence[request->seq[i]->pool_index];
        seq->stalled = false;
        seq->last_ns = 0;
        if (i == 0 || !BUG(212))
            detok_init(&seq->detok, side->stops, flags);
    }
    int error = sched_add(m->sched, request, serve_now(sv));
    if (error == 0) {
        side->scheduled = true;
        m->dirty = true;
    } else if (error == -EAGAIN) {
        answer_refusal(sv, request, RINGLET_REASON_OVERLOAD, 0, 0);
    } else {
        bool quota = error == -ENOSPC || error == -EDQUOT || error == -EUSERS;
        answer_refusal(sv, request, RINGLET_REASON_REJECTED,
                       error == -E2BIG ? RINGLET_ERROR_TOO_BIG
                       : quota         ? RINGLET_ERROR_OVER_QUOTA
                                       : RINGLET_ERROR_TOO_LONG,
                       error == -EUSERS   ? VALIDATE_BLOCK_FIELD(beam_width)
                       : error == -EDQUOT ? VALIDATE_BLOCK_FIELD(lease_ns)
                                          : VALIDATE_SQE_FIELD(input_bytes));
    }
}

size_t accept_bytes(void)
{
    return (LIMIT_UIDS + LIMIT_CONNECTIONS) * sizeof(struct encode_place);
}

int accept_create(struct serve *sv, struct arena *arena)
{
    encode_turns_init(&sv->encode_turns);
    sv->encode_user = arena_array(arena, struct encode_place, LIMIT_UIDS);
    sv->encode_session = arena_array(arena, struct encode_place, LIMIT_CONNECTIONS);
    if (!sv->encode_user || !sv->encode_session)
        return -ENOMEM;
    for (int i = 0; i < LIMIT_UIDS; i++)
        encode_place_init(&sv->encode_user[i]);
    for (int i = 0; i < LIMIT_CONNECTIONS; i++)
        encode_place_init(&sv->encode_session[i]);
    return 0;
}

static struct encode_place *place_of(struct serve *sv, const struct session *s)
{
    return &sv->encode_session[pool_index(sv->sessions->pool, s)];
}

void accept_encode_next(struct serve *sv)
{
    struct list *node;
    while ((node = encode_turns_next(&sv->encode_turns))) {
        struct serve_request *side = list_entry(node, struct serve_request, encode_node);
        encode_turns_out(&sv->encode_turns, side->job.text_bytes);
        encode_thread_submit(sv->encode_thread, &side->job);
    }
}

bool accept_encode_undo(struct serve_request *side)
{
    if (list_empty(&side->encode_node))
        return false;
    list_remove(&side->encode_node);
    side->encoding = false;
    return true;
}

void accept_gone(struct serve *sv, const struct session *s)
{
    encode_turns_leave(place_of(sv, s));
}

/* To the encoder, when it is this session's turn. */
static void encode_later(struct serve *sv, struct serve_request *side)
{
    side->encoding = true;
    encode_turns_add(&sv->encode_turns, &sv->encode_user[side->user - sv->sessions->users],
                     place_of(sv, side->session), &side->encode_node);
    accept_encode_next(sv);
}

/* Short text on the loop, as much as a pass may take; the rest to the encoder thread. */
static void encode(struct serve *sv, struct request *request, const struct intake_item *item)
{
    struct serve_model *m = &sv->model[request->model];
    struct serve_request *side = &sv->request[request->pool_index];
    bool special = item->sqe.flags & RINGLET_SQE_PARSE_SPECIAL;
    bool bos = !(item->sqe.flags & RINGLET_SQE_NO_BOS) && item->sqe.op != RINGLET_OP_TOKENIZE &&
               !item->sqe.handle;
    if (item->sqe.input_kind == RINGLET_INPUT_TOKENS ||
        item->sqe.input_kind == RINGLET_INPUT_NONE) {
        accept_encoded(sv, request);
        return;
    }
    if (item->sqe.input_kind == RINGLET_INPUT_TEXT && item->text_bytes <= LIMIT_LOOP_TEXT_BYTES &&
        item->text_bytes <= sv->loop_text_left) {
        sv->loop_text_left -= item->text_bytes;
        unsigned flags = (special ? ENCODE_SPECIAL : 0u) | (bos ? ENCODE_BOS : 0u);
        size_t n = 0;
        int error = encode_text(m->encoder, item->text, item->text_bytes, flags, NULL, item->ids,
                                item->ids_max, &n);
        request->n_prompt = (uint32_t)n;
        if (error) {
            uint16_t reason;
            uint32_t detail;
            encode_fault(error, &reason, &detail);
            answer_refusal(sv, request, reason, detail, VALIDATE_SQE_FIELD(input_off));
        } else {
            accept_encoded(sv, request);
        }
        return;
    }
    side->job = (struct encode_job){
        .model = request->model,
        .input_kind = item->sqe.input_kind,
        .parse_special = special || BUG(213),
        .add_bos = bos,
        .text = item->text,
        .text_bytes = item->text_bytes,
        .ids = item->ids,
        .ids_max = item->ids_max,
        .owner = side,
    };
    encode_later(sv, side);
}

/* An end before there was a request, for the counters of the model that it named. */
static void count_refusal(struct serve *sv, const struct intake_item *item, uint16_t reason)
{
    if (item->sqe.model >= sv->n_model)
        return;
    struct stats_of_model *stats = sv->model[item->sqe.model].stats;
    stats_add(stats->value[STATS_FINISHED], 1);
    stats_add(stats->reason[stats_reason_index(reason)], 1);
}

void accept_item(struct serve *sv, struct session *s, struct intake_item *item)
{
    if (item->fault.error) {
        count_refusal(sv, item, RINGLET_REASON_REJECTED);
        answer_entry(s, item, RINGLET_REASON_REJECTED, item->fault.error, item->fault.field);
        return;
    }
    if (item->sqe.op == RINGLET_OP_NOP) {
        answer_entry(s, item, RINGLET_REASON_DONE, 0, 0);
        return;
    }
    if (handles_op(sv, s, item))
        return;
    struct request *request = make_request(sv, s, item);
    if (!request) {
        intake_give(sv->sessions, s->user, item->payload, item->payload_bytes);
        count_refusal(sv, item, RINGLET_REASON_OVERLOAD);
        answer_entry(s, item, RINGLET_REASON_OVERLOAD, 0, 0);
        return;
    }
    encode(sv, request, item);
    if (s->slot[item->sqe.slot].request && intake_cancelled(s, item->sqe.slot) && !BUG(214))
        answer_cancel(sv, s->slot[item->sqe.slot].request, RINGLET_REASON_CANCELLED, 0);
}

bool accept_waiting(struct serve *sv)
{
    uint64_t n = payload_gives(sv->payload);
    if (n == sv->payload_gives)
        return false;
    sv->payload_gives = n;
    for (uint32_t i = 0; i < sv->n_model; i++)
        sv->model[i].dirty = true;
    if (!list_empty(&sv->sessions->short_of_pool))
        sessions_pool_freed(sv->sessions);
    return true;
}

bool accept_payload_comes(void *context, const struct sched *s)
{
    const struct serve *sv = context;
    uint32_t n_waiting = 0;
    for (uint32_t i = 0; i < sv->n_model && !BUG(274); i++) {
        const struct serve_model *m = &sv->model[i];
        uint32_t n = sched_waiting(m->sched);
        if (m->sched != s && m->dirty && n > 0) /* its turn to plan comes: some of them may run */
            return true;
        n_waiting += n;
    }
    return sv->n_request > n_waiting && !BUG(274);
}
