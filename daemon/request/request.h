/*
 * A request and its sequences, from acceptance to its END event. Loop thread only; plain data,
 * pooled, no allocation. Who asked (session) and who runs it (sched) keep their own state beside
 * it.
 *
 *   ENCODING -> QUEUED -> PREFILL -> DECODE -> DONE     (a request has n sequences after prefill)
 *                 ^          |         |
 *                 +-- preempted (tokens kept) --+       every state -> DONE by cancel, deadline,
 * error
 */
#ifndef RINGLET_REQUEST_REQUEST_H
#define RINGLET_REQUEST_REQUEST_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "ringlet_abi.h"

enum { REQUEST_SEQS_MAX = 64 };

enum request_state {
    REQUEST_ENCODING, /* text, chat or structure is with the encoder */
    REQUEST_QUEUED,
    REQUEST_RUNNING, /* admitted: at least one sequence prefills or decodes */
    REQUEST_DONE,    /* every sequence has ended; END is owed or published */
};

enum sequence_state {
    SEQUENCE_WAITING, /* not admitted, preempted, or a fork before its prompt is computed */
    SEQUENCE_PREFILL,
    SEQUENCE_DECODE,
    SEQUENCE_STALLED, /* its client does not read: out of batches */
    SEQUENCE_ENDED,
};

/* The effective parameters: validated, every field filled in. Times are CLOCK_MONOTONIC ns. */
struct request_params {
    float temperature, top_p, min_p;
    float presence, frequency, repetition;
    uint32_t top_k;
    uint32_t min_tokens;
    uint32_t max_tokens; /* per sequence; already bounded by the context; 0 = score only */
    uint64_t seed;
    uint64_t queue_deadline_ns, first_token_deadline_ns, total_deadline_ns; /* 0 = none */
    uint64_t lease_ns;
    uint16_t n;
    uint8_t urgency;
    bool logprobs, prompt_logprobs;
    uint8_t logprobs_k, prompt_logprobs_k;
    bool ignore_eos, include_stop, deterministic, hold, no_text;
    uint8_t repeat_min, repeat_max, repeat_count; /* repetition detector, count 0 = off */
    uint8_t beam_width;     /* 0 = no beam search; else so many sequences, of which n are told */
    uint8_t early_stopping; /* RINGLET_EARLY_STOPPING_* */
    float length_penalty;
};

struct request_bias {
    int32_t id;
    float bias;
};

struct request_totals {
    uint32_t prompt_tokens, cached_tokens, completion_tokens;
    uint32_t preemptions, steps, drafted, accepted, kv_blocks_peak;
    uint64_t arrived_ns, admitted_ns, first_token_ns, ended_ns, prefilled_ns;
    uint64_t estimate_ns; /* of a refused deadline */
    bool search_cut;      /* the pool was too small for the beam search to go on */
};

/* One token stream. Its context is prompt[0 .. n_prompt) then output[0 .. n_output). */
struct sequence {
    struct request *request;
    uint32_t index;      /* 0 .. n - 1 */
    uint32_t pool_index; /* of all sequences of the daemon: keys side tables (text, counts) */
    enum sequence_state state;
    int32_t *output; /* [output_max]; the scheduler takes it at admission and gives it back */
    uint32_t n_output, output_max;
    struct step_logprob *logprobs; /* [output_max] or NULL; likewise */
    uint32_t n_published;          /* output ids that publish has handed over */
    uint16_t reason;               /* RINGLET_REASON_* once ended */
    uint32_t detail;               /* matched stop id or string index, error code */
    float cumulative;   /* of a hypothesis: sum of its log-probabilities, biases included */
    uint64_t handle;    /* of the held sequence once ended, if params.hold; 0 = not held */
    bool end_published; /* its FINISHED is out */
    void *sched;        /* the scheduler's own record */
};

struct step_logprob {
    float logprob;
    uint8_t n_top;
    int32_t top_id[20];
    float top_logprob[20];
};

struct request {
    uint32_t pool_index, pool_generation;
    enum request_state state;

    /* Who: keys for fairness and cache domains; the session's pointer is opaque here. */
    void *session;
    uint32_t session_id, uid;
    uint64_t domain; /* sharing domain of the prefix cache */
    uint16_t slot;
    uint32_t generation;
    uint64_t tag;
    uint8_t op;
    uint16_t model;
    uint64_t from_handle; /* held sequence or lease whose tokens the prompt begins with, 0 = none */
    uint64_t lease_handle; /* of the prompt's lease, if params.lease_ns; 0 = quota, or not yet */

    struct request_params params;

    /* Payload, from one block of the payload pool; freed with the request. */
    void *payload;
    int32_t *prompt;
    uint32_t n_prompt;
    struct step_logprob
        *prompt_logprob;      /* [n_prompt] or NULL; the scheduler's, from admission on */
    uint32_t n_prompt_scored; /* known so far; entry 0 has none: NaN, n_top 0 */
    uint32_t n_prompt_published;
    const int32_t *stop_ids;
    uint32_t n_stop_id;
    const struct request_bias *bias;
    uint32_t n_bias;

    struct sequence *seq[REQUEST_SEQS_MAX]; /* [params.n]; taken when the request is accepted */
    uint32_t n_seq, n_seq_ended;

    struct request_totals totals;
    bool accepted_published;

    struct list queue_node;  /* the scheduler's */
    struct list outbox_node; /* has something to publish: tokens, an admission, an end */
    void *sched;             /* the scheduler's own record */
};

struct arena;
struct request_pool;

/* Requests and sequences of the daemon. Returns: 0; -EINVAL; -ENOMEM. Thread: start-up. */
int request_pool_create(uint32_t n_request, uint32_t n_sequence, struct arena *arena,
                        struct request_pool **ret);

/*
 * A request in state ENCODING with params.n = n sequences WAITING, all else zero; pool indices,
 * generation and back pointers are set.
 * Returns NULL when requests or sequences are used up, or n is not 1 .. REQUEST_SEQS_MAX.
 */
struct request *request_take(struct request_pool *pool, uint32_t n);

/* Put a request and its sequences back. Its payload is the caller's to free before. */
void request_put(struct request_pool *pool, struct request *request);

/* The request of a handle, or NULL where it is stale. Any values are safe. */
struct request *request_get(const struct request_pool *pool, uint32_t index, uint32_t generation);

uint32_t request_pool_used(const struct request_pool *pool);
uint32_t request_pool_sequences_used(const struct request_pool *pool);

/* Move along the lifecycle table; a move that the table does not have is a bug of ours: it aborts.
 */
void request_to(struct request *request, enum request_state state);
void sequence_to(struct sequence *seq, enum sequence_state state);

/*
 * End a sequence: state, reason and detail are set, the request's n_seq_ended counts it, and the
 * last one makes the request DONE. Ending an ended sequence does nothing.
 */
void sequence_end(struct sequence *seq, uint16_t reason, uint32_t detail);

/* Tokens of a sequence's context: prompt and output. */
static inline uint32_t sequence_tokens(const struct sequence *seq)
{
    return seq->request->n_prompt + seq->n_output;
}

#endif
