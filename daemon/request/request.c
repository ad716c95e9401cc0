/*
 * Owns the pools of requests and sequences and the table of legal moves between states. Loop
 * thread.
 *
 * A request waits (ENCODING, QUEUED), runs, waits again when it is preempted, and ends once: DONE
 * is never left. A sequence is WAITING while it has no KV; STALLED is a side room of DECODE and
 * PREFILL: the sequence keeps its KV there, or loses it and is WAITING once its client reads again.
 */
#include "daemon/request/request.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "daemon/base/arena.h"
#include "daemon/base/pool.h"

#define TO(state) (1u << (state))

static const unsigned request_moves[] = {
    [REQUEST_ENCODING] = TO(REQUEST_QUEUED) | TO(REQUEST_DONE),
    [REQUEST_QUEUED] = TO(REQUEST_RUNNING) | TO(REQUEST_DONE),
    [REQUEST_RUNNING] = TO(REQUEST_QUEUED) | TO(REQUEST_DONE),
    [REQUEST_DONE] = 0,
};

static const unsigned sequence_moves[] = {
    [SEQUENCE_WAITING] =
        TO(SEQUENCE_PREFILL) | TO(SEQUENCE_DECODE) | TO(SEQUENCE_STALLED) | TO(SEQUENCE_ENDED),
    [SEQUENCE_PREFILL] =
        TO(SEQUENCE_WAITING) | TO(SEQUENCE_DECODE) | TO(SEQUENCE_STALLED) | TO(SEQUENCE_ENDED),
    [SEQUENCE_DECODE] =
        TO(SEQUENCE_WAITING) | TO(SEQUENCE_PREFILL) | TO(SEQUENCE_STALLED) | TO(SEQUENCE_ENDED),
    [SEQUENCE_STALLED] =
        TO(SEQUENCE_WAITING) | TO(SEQUENCE_PREFILL) | TO(SEQUENCE_DECODE) | TO(SEQUENCE_ENDED),
    [SEQUENCE_ENDED] = 0,
};

struct request_pool {
    struct pool *requests, *sequences;
};

int request_pool_create(uint32_t n_request, uint32_t n_sequence, struct arena *arena,
                        struct request_pool **ret)
{
    struct request_pool *pool = arena_new(arena, struct request_pool);
    if (!pool)
        return -ENOMEM;
    int error = pool_create(sizeof(struct request), n_request, arena, &pool->requests);
    if (error)
        return error;
    error = pool_create(sizeof(struct sequence), n_sequence, arena, &pool->sequences);
    if (error)
        return error;
    *ret = pool;
    return 0;
}

struct request *request_take(struct request_pool *pool, uint32_t n)
{
    if (n < 1 || n > REQUEST_SEQS_MAX ||
        pool_size(pool->sequences) - pool_used(pool->sequences) < n)
        return NULL;
    struct request *request = pool_take(pool->requests);
    if (!request)
        return NULL;
    request->pool_index = pool_index(pool->requests, request);
    request->pool_generation = pool_generation(pool->requests, request->pool_index);
    request->state = REQUEST_ENCODING;
    request->params.n = (uint16_t)n;
    request->n_seq = n;
    list_init(&request->queue_node);
    list_init(&request->outbox_node);
    for (uint32_t seq_i = 0; seq_i < n; seq_i++) {
        struct sequence *seq = pool_take(pool->sequences);
        seq->request = request;
        seq->index = seq_i;
        seq->pool_index = pool_index(pool->sequences, seq);
        seq->state = SEQUENCE_WAITING;
        request->seq[seq_i] = seq;
    }
    return request;
}

void request_put(struct request_pool *pool, struct request *request)
{
    assert(list_empty(&request->queue_node) && list_empty(&request->outbox_node));
    for (uint32_t seq_i = 0; seq_i < request->n_seq; seq_i++)
        pool_put(pool->sequences, request->seq[seq_i]);
    pool_put(pool->requests, request);
}

struct request *request_get(const struct request_pool *pool, uint32_t index, uint32_t generation)
{
    return pool_get(pool->requests, index, generation);
}

uint32_t request_pool_used(const struct request_pool *pool)
{
    return pool_used(pool->requests);
}

uint32_t request_pool_sequences_used(const struct request_pool *pool)
{
    return pool_used(pool->sequences);
}

void request_to(struct request *request, enum request_state state)
{
    assert(request_moves[request->state] & TO(state));
    request->state = state;
}

void sequence_to(struct sequence *seq, enum sequence_state state)
{
    assert(sequence_moves[seq->state] & TO(state));
    seq->state = state;
}

void sequence_end(struct sequence *seq, uint16_t reason, uint32_t detail)
{
    struct request *request = seq->request;
    if (seq->state == SEQUENCE_ENDED)
        return;
    sequence_to(seq, SEQUENCE_ENDED);
    seq->reason = reason;
    seq->detail = detail;
    request->n_seq_ended++;
    assert(request->n_seq_ended <= request->n_seq);
    if (request->n_seq_ended == request->n_seq)
        request_to(request, REQUEST_DONE);
}
