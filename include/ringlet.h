/*
 * libringlet: talk to ringletd over shared-memory rings. The only header a program needs.
 *
 *     struct ringlet_client *cl;
 *     struct ringlet_request req;
 *     struct ringlet_event ev;
 *     ringlet_connect(NULL, &cl);
 *     ringlet_request_init(&req);
 *     req.text = "Hello";
 *     req.text_bytes = 5;
 *     ringlet_submit(cl, &req, NULL);
 *     do {
 *         if (ringlet_wait(cl, &ev, RINGLET_FOREVER) < 0)
 *             break;
 *         fwrite(ev.text, 1, ev.text_bytes, stdout);
 *         ringlet_advance(cl);
 *     } while (!(ev.flags & RINGLET_CQE_END));
 *     ringlet_close(cl);
 *
 * Functions return 0 or a negative errno; ringlet_strerror explains it. No call but ringlet_wait
 * and connecting ever blocks, none but connecting allocates, none starts a thread. One session per
 * thread is the fast path; a session opened with RINGLET_SHARED may be used by any thread. A forked
 * child must not use its parent's session: it gets -ECHILD, and may only close it.
 */
#ifndef RINGLET_H
#define RINGLET_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "ringlet_abi.h"

#ifdef __cplusplus
extern "C" {
#endif

#define RINGLET_VERSION_MAJOR 0
#define RINGLET_VERSION_MINOR 1
#define RINGLET_VERSION_PATCH 0

#define RINGLET_FOREVER UINT64_MAX /* a deadline that never comes */
/* Marks of ringlet_request_init for "not set": the model's default holds. */
#define RINGLET_UNSET       0xFFFFFFFFu
#define RINGLET_UNSET_FLOAT (-3.0e38f)
#define RINGLET_UNSET_SEED  UINT64_MAX

struct ringlet_client;

enum ringlet_connect_flag {
    RINGLET_SHARED = 1,      /* any thread may use the session; costs a lock per call */
    RINGLET_LOW_LATENCY = 2, /* ask the daemon to keep the CPUs out of idle states meanwhile */
    RINGLET_OBSERVER = 4,    /* models and stats only, no requests: for tools */
    RINGLET_CONNECT_FLAGS_KNOWN = 7
};

/* How to connect. ringlet_options_init fills in the defaults. */
struct ringlet_options {
    uint32_t struct_size;
    uint32_t flags;          /* enum ringlet_connect_flag */
    const char *socket_path; /* NULL: $RINGLET_SOCKET, else $XDG_RUNTIME_DIR/ringlet/ringlet.sock,
                                else /run/ringlet/ringlet.sock */
    uint32_t n_slot;         /* requests in flight: power of two, 16..4096; 0: 64 */
    uint32_t reserved0;
    uint64_t prompt_bytes; /* arena for prompts; 0: 1 MiB; rounded up to 4096 */
    uint64_t text_bytes;   /* arena for answers; 0: 128 KiB; rounded up to 4096 */
    uint64_t timeout_ns;   /* for connecting, relative; default 2 s */
    uint64_t spin_ns;      /* ringlet_wait polls this long before it sleeps; default 50 us, 0 on one
                              CPU; RINGLET_FOREVER: never sleeps */
    uint64_t heartbeat_ns; /* ringlet_wait gives up on a daemon that made no pass for this long with
                              requests open; default 1 s; RINGLET_FOREVER: never */
    uint64_t reserved1[4];
};

static inline void ringlet_options_init(struct ringlet_options *options)
{
    memset(options, 0, sizeof(*options));
    options->struct_size = (uint32_t)sizeof(*options);
    options->timeout_ns = 2000000000u;
    options->spin_ns = 50000;
    options->heartbeat_ns = 1000000000u;
}

/* A piece of text, not NUL-terminated. */
struct ringlet_text {
    const char *text;
    size_t bytes;
};

/* One chat message, or the tools or template arguments (JSON) for the template. */
struct ringlet_message {
    uint8_t kind;   /* enum ringlet_chat_kind; 0: a message */
    uint8_t role;   /* enum ringlet_role */
    uint16_t flags; /* enum ringlet_chat_flag */
    uint32_t reserved;
    const char *text; /* UTF-8 */
    size_t bytes;
};

/*
 * One request. Call ringlet_request_init first, then set what matters: at most one of text, tokens
 * and messages, and any option. What is left unset takes the model's default. All pointers are the
 * caller's and are read before ringlet_submit returns.
 */
struct ringlet_request {
    uint32_t struct_size;
    uint8_t op;               /* enum ringlet_op; default GENERATE */
    uint8_t urgency;          /* 0 lowest .. 255; default 128 */
    uint16_t flags;           /* enum ringlet_sqe_flag */
    uint64_t tag;             /* yours; comes back in every event */
    uint16_t model;           /* index; see ringlet_model */
    uint16_t model_generation; /* 0: whichever is loaded now */
    uint32_t must_understand;  /* feature bits this request relies on */

    const char *text; /* UTF-8 */
    size_t text_bytes;
    const uint32_t *tokens;
    size_t n_token;
    const struct ringlet_message *messages;
    size_t n_message;
    uint64_t handle; /* held sequence to continue, or lease; 0: none */

    uint32_t max_tokens; /* per sequence; 0: only score the prompt; unset: to the context's end */
    uint32_t min_tokens;
    uint32_t n;               /* sequences, 1..64 */
    uint32_t top_k;           /* 0: all */
    uint32_t logprobs;        /* k most likely tokens beside each chosen one, 0..20; unset: none */
    uint32_t prompt_logprobs; /* the same for the prompt */
    uint64_t seed;            /* unset: the daemon draws one and ACCEPTED tells it */
    float temperature;
    float top_p;
    float min_p;
    float presence_penalty;
    float frequency_penalty;
    float repetition_penalty;
    uint32_t options; /* IGNORE_EOS, INCLUDE_STOP, DETERMINISTIC of enum ringlet_block_flag */

    uint8_t repetition_min; /* detector: shortest, longest pattern, repeats; count 0: off */
    uint8_t repetition_max;
    uint8_t repetition_count;
    uint8_t structure_kind; /* enum ringlet_structure */

    const struct ringlet_text *stop;
    size_t n_stop;
    const uint32_t *stop_token_ids;
    size_t n_stop_token_id;
    const struct ringlet_logit_bias *logit_bias;
    size_t n_logit_bias;
    const char *structure;
    size_t structure_bytes;
    const char *group; /* sharing group of the prefix cache; NULL: this user's own */
    size_t group_bytes;

    uint64_t queue_deadline_ns; /* CLOCK_MONOTONIC, absolute; 0: none. Not admitted by then: ends */
    uint64_t first_token_deadline_ns;
    uint64_t total_deadline_ns;
    uint64_t lease_ns; /* op LEASE: how long */

    uint16_t beam_width; /* beam search with so many beams, 1..10, of which the n best are told when
                            it is over; 0: none. Needs RINGLET_FEATURE_BEAM_SEARCH */
    uint8_t early_stopping;     /* enum ringlet_early_stopping */
    uint8_t length_penalty_set; /* 0: length_penalty is not looked at, 1 is taken */
    float length_penalty; /* hypotheses rank by their log-probabilities' sum / tokens ^ this */
    uint64_t reserved[3];
};

static inline void ringlet_request_init(struct ringlet_request *req)
{
    memset(req, 0, sizeof(*req));
    req->struct_size = (uint32_t)sizeof(*req);
    req->op = RINGLET_OP_GENERATE;
    req->urgency = 128;
    req->max_tokens = req->min_tokens = req->n = req->top_k = RINGLET_UNSET;
    req->logprobs = req->prompt_logprobs = RINGLET_UNSET;
    req->seed = RINGLET_UNSET_SEED;
    req->temperature = req->top_p = req->min_p = RINGLET_UNSET_FLOAT;
    req->presence_penalty = req->frequency_penalty = RINGLET_UNSET_FLOAT;
    req->repetition_penalty = RINGLET_UNSET_FLOAT;
}

/*
 * One event. Pointers lead into the mapped ring and stay valid until ringlet_advance.
 */
struct ringlet_event {
    uint64_t id;  /* of the request, as ringlet_submit gave it */
    uint64_t tag; /* the caller's */
    uint8_t kind;     /* enum ringlet_kind */
    uint8_t flags;    /* enum ringlet_cqe_flag; END: the request's last event */
    uint16_t reason;  /* FINISHED: enum ringlet_reason */
    uint16_t index;   /* sequence, 0..n-1; RINGLET_INDEX_ALL */
    uint16_t n_top;   /* entries per token in `tops` */
    uint32_t position; /* tokens of this sequence (PROMPT: of the prompt) before this event */
    uint32_t n_token;
    uint32_t text_bytes;
    uint32_t detail; /* FINISHED: stop id, stop string's index, enum ringlet_error, ... */
    uint32_t error_field;    /* with RINGLET_ERROR_BAD_FIELD: which */
    float cumulative_logprob; /* FINISHED of a beam search's hypothesis: the sum of its tokens' */
    uint64_t handle;         /* FINISHED: held sequence or lease; 0: none */
    const uint32_t *tokens;  /* [n_token] */
    const float *logprobs;   /* [n_token] with LOGPROBS, else NULL */
    const struct ringlet_top *tops; /* [n_token * n_top], most likely first, or NULL */
    const char *text;        /* [text_bytes], never NULL */
    const struct ringlet_annex *annex; /* ACCEPTED, END: parameters and totals; else NULL */
};

/* What the daemon says about one model. */
struct ringlet_model_info {
    uint16_t index;
    uint16_t generation;
    uint16_t state; /* enum ringlet_model_state */
    uint16_t reserved0;
    uint32_t flags; /* enum ringlet_model_flag */
    uint32_t vocab;
    uint32_t context;
    uint32_t kv_block_tokens;
    uint32_t set; /* enum ringlet_set: which of these the model asks for */
    float temperature, top_p, min_p;
    uint32_t top_k;
    float presence_penalty, frequency_penalty, repetition_penalty;
    uint32_t bos, eos; /* 0xFFFFFFFF: none */
    uint64_t weight_bytes, n_parameter;
    char name[RINGLET_MODEL_NAME_BYTES], arch[32], file_type[16], device[32];
};

/* The daemon at a glance. */
struct ringlet_stats_info {
    char version[32];
    uint64_t daemon_generation; /* random per start */
    uint64_t uptime_ns;
    uint64_t heartbeat_age_ns; /* since the loop's last pass with work; means little when idle */
    uint64_t steps;
    uint32_t pid;
    uint32_t n_model;
    uint32_t n_stat; /* counters, see ringlet_stat_at */
    uint32_t in_flight; /* this session's open requests */
    const struct ringlet_limits *limits; /* in the mapped BOARD */
};

/* One counter, gauge or histogram of BOARD. */
struct ringlet_counter {
    const char *name; /* at most 40 bytes, NUL-terminated */
    uint8_t kind;          /* enum ringlet_stat_kind */
    uint8_t model;         /* index, or RINGLET_STAT_ANY */
    uint8_t urgency_class; /* or RINGLET_STAT_ANY */
    uint8_t reserved;
    uint32_t n_value;
    const uint64_t *values; /* live, in the mapped BOARD; histogram: count, sum, buckets */
};

/* ---- Session ---- */

/*
 * Connect to a daemon: handshake, check and map the regions.
 *
 *   options   NULL: all defaults
 *   ret_cl    untouched on error; end it with ringlet_close
 *
 * Returns: 0; -ENOENT, -ECONNREFUSED no daemon there; -EACCES no permission for the socket;
 *          -ETIMEDOUT; -EDQUOT this user's sessions or memory are used up; -EAGAIN the daemon is
 *          full, -EPIPE it ended each handshake, both up to timeout_ns; -ESHUTDOWN it is draining;
 *          -EPROTONOSUPPORT it speaks another ABI; -ENOTSUP it lacks a feature; -EINVAL bad
 *          options; -EPROTO it sent something impossible; -ENOMEM, -EMFILE.
 * Thread:  any.  Memory: allocated here, once.  Blocks: up to timeout_ns.  Since: 0.1
 */
int ringlet_connect(const struct ringlet_options *options, struct ringlet_client **ret_cl);

/*
 * End the session; its requests are cancelled, its held sequences and leases released.
 *
 *   cl   NULL is fine
 *
 * Returns: nothing. Thread: the last to use it. Memory: freed. Since: 0.1
 */
void ringlet_close(struct ringlet_client *cl);

/*
 * Open a new session in place of one that was lost, with the same options. Requests that were open
 * still come out of ringlet_peek, each with one FINISHED, END, RINGLET_REASON_DAEMON_LOST; nothing
 * is sent again. Events that were not read yet are gone. Held sequences, leases and model indices
 * are of the old daemon: ask anew. ringlet_fd may change.
 *
 * Returns: as ringlet_connect; on error the session is as lost as before.
 * Thread:  one at a time, or any with RINGLET_SHARED. Blocks: up to timeout_ns. Since: 0.1
 */
int ringlet_reconnect(struct ringlet_client *cl);

/* ---- Requests ---- */

/*
 * Queue one request. Never blocks; enters the kernel only to wake a sleeping daemon.
 *
 *   req      copied before return
 *   ret_id   unique within this session, never 0; untouched on error; may be NULL
 *
 * Returns: 0; -EAGAIN ring, slots or arena full (reap events, then retry); -EMSGSIZE the request is
 *          larger than the prompt arena; -EINVAL a field that no daemon could take, or a struct
 *          that ringlet_request_init did not prepare; -EPIPE the daemon is gone; -ECHILD a forked
 *          child; -ENOTCONN an observer. What the daemon refuses comes as an event:
 *          RINGLET_REASON_REJECTED.
 * Thread:  one at a time, or any with RINGLET_SHARED.  Memory: none allocated.  Since: 0.1
 */
int ringlet_submit(struct ringlet_client *cl, const struct ringlet_request *req, uint64_t *ret_id);

/*
 * Queue several requests with one look at the daemon's state and at most one bell.
 *
 *   ret_ids   [n], or NULL
 *   ret_n     how many were queued: the first so many of reqs; set on error too
 *
 * Returns: 0 all were queued; else why the next one was not, as ringlet_submit.
 * Thread:  one at a time, or any with RINGLET_SHARED. Since: 0.1
 */
int ringlet_submit_many(struct ringlet_client *cl, const struct ringlet_request *reqs, size_t n,
                        uint64_t *ret_ids, size_t *ret_n);

/*
 * Ask for an end of a request: it comes as FINISHED with RINGLET_REASON_CANCELLED, if the request
 * has not ended before. Works with a full ring, and any number of times.
 *
 * Returns: 0, also where the request has ended; -EINVAL never an id of this session; -EPIPE;
 *          -ECHILD.
 * Thread:  one at a time, or any with RINGLET_SHARED.  Since: 0.1
 */
int ringlet_cancel(struct ringlet_client *cl, uint64_t id);

/*
 * Keep the KV blocks of an input in the daemon's cache. The answer, FINISHED with `done`, tells the
 * lease's handle; with req->handle and no input that lease is renewed.
 *
 *   req        input, model, tag, group; other fields are not looked at
 *   lease_ns   how long, from now
 *
 * Returns: as ringlet_submit. A daemon without this operation rejects it (bad_op).
 * Thread:  one at a time, or any with RINGLET_SHARED. Since: 0.1
 */
int ringlet_lease(struct ringlet_client *cl, const struct ringlet_request *req, uint64_t lease_ns,
                  uint64_t *ret_id);

/*
 * Ask how many tokens an input has and how many of them are cached, computing nothing: the END
 * event's annex tells prompt_tokens and cached_tokens.
 *
 * Returns: as ringlet_submit. A daemon without this operation rejects it (bad_op).
 * Thread:  one at a time, or any with RINGLET_SHARED. Since: 0.1
 */
int ringlet_query(struct ringlet_client *cl, const struct ringlet_request *req, uint64_t *ret_id);

/*
 * End a held sequence or a lease.
 *
 *   handle   from a FINISHED event of this session
 *   tag      for the answer
 *
 * Returns: as ringlet_submit. A daemon without this operation rejects it (bad_op).
 * Thread:  one at a time, or any with RINGLET_SHARED. Since: 0.1
 */
int ringlet_release(struct ringlet_client *cl, uint64_t handle, uint64_t tag, uint64_t *ret_id);

/* ---- Events ---- */

/*
 * Show the next event, in place, without waiting. Again without ringlet_advance: the same event.
 *
 *   ret_ev   its pointers are valid until ringlet_advance
 *
 * Returns: 0; -EAGAIN none now; -EPIPE the daemon is gone, or -ECONNABORTED it dropped this
 *          session, and every event was shown; -EPROTO it sent something impossible; -ECHILD;
 *          -ENOTCONN.
 * Thread:  one at a time. With RINGLET_SHARED any: a shown event belongs to the thread that got it,
 *          others wait until it calls ringlet_advance.  Since: 0.1
 */
int ringlet_peek(struct ringlet_client *cl, struct ringlet_event *ret_ev);

/*
 * Give the shown event back, with its text; with END its request's slot is free. Without a shown
 * event nothing happens.
 *
 * Returns: nothing. Thread: the one that was shown the event. Since: 0.1
 */
void ringlet_advance(struct ringlet_client *cl);

/*
 * As ringlet_peek, but wait for an event: poll for spin_ns, then sleep.
 *
 *   deadline_ns   CLOCK_MONOTONIC, absolute; 0: do not wait; RINGLET_FOREVER
 *
 * Returns: as ringlet_peek, -EAGAIN excepted; -ETIMEDOUT the deadline came, or the daemon's loop
 *          stood still for heartbeat_ns with requests of this session open; -EINTR a signal.
 * Thread:  as ringlet_peek. Since: 0.1
 */
int ringlet_wait(struct ringlet_client *cl, struct ringlet_event *ret_ev, uint64_t deadline_ns);

/*
 * A descriptor for the caller's own poll, epoll or io_uring: readable when an event may be there.
 * Call ringlet_arm before each blocking on it; do not read or close it.
 *
 * Returns: the descriptor; -ENOTCONN an observer; -EPIPE the session is lost.
 * Thread:  any. Since: 0.1
 */
int ringlet_fd(const struct ringlet_client *cl);

/*
 * Make ready to block on ringlet_fd. The next ringlet_peek or ringlet_wait that finds an event ends
 * the state.
 *
 * Returns: 0 armed: block; -EALREADY an event is there: do not block; -ECHILD; -ENOTCONN.
 * Thread:  one at a time, or any with RINGLET_SHARED. Since: 0.1
 */
int ringlet_arm(struct ringlet_client *cl);

/* ---- What is there ---- */

/*
 * Look up a model.
 *
 *   name   NULL: the first that is ready
 *
 * Returns: 0; -ENOENT no such model; -EAGAIN the daemon keeps rewriting the entry.
 * Thread:  any. Since: 0.1
 */
int ringlet_model(struct ringlet_client *cl, const char *name,
                  struct ringlet_model_info *ret_model);

/*
 * The model with this index.
 *
 * Returns: 0; -ENOENT unused or out of range; -EAGAIN; -ECHILD. Thread: any. Since: 0.1
 */
int ringlet_model_at(struct ringlet_client *cl, uint32_t index,
                     struct ringlet_model_info *ret_model);

/*
 * The daemon at a glance, read from BOARD without asking it.
 *
 * Returns: 0; -ECHILD. Thread: any. Since: 0.1
 */
int ringlet_stats(struct ringlet_client *cl, struct ringlet_stats_info *ret_stats);

/*
 * Counter number i of BOARD.
 *
 * Returns: 0; -ENOENT no more; -EPROTO malformed; -ECHILD. Thread: any. Since: 0.1
 */
int ringlet_stat_at(struct ringlet_client *cl, uint32_t i, struct ringlet_counter *ret_counter);

/*
 * What a negative errno of this library means.
 *
 * Returns: a sentence, never NULL. Thread: any. Since: 0.1
 */
const char *ringlet_strerror(int error);

/*
 * Name of an enum ringlet_reason: "length", "stop_eos", "cancelled", ...
 *
 * Returns: the name; "unknown". Thread: any. Since: 0.1
 */
const char *ringlet_reason_name(unsigned reason);

/*
 * Name of an enum ringlet_error: "bad_field", "too_long", ...
 *
 * Returns: the name; "unknown". Thread: any. Since: 0.1
 */
const char *ringlet_error_name(unsigned error);

/*
 * The library's version.
 *
 * Returns: "0.1.0". Thread: any. Since: 0.1
 */
const char *ringlet_version(void);

#ifdef __cplusplus
}
#endif

#endif
