/*
 * The request path: one tick after the other, from a client's ring to the executor and back. The
 * steps of a tick are in serve.c, in their order; answer.c writes what requests have to say. All of
 * it runs on the loop's thread.
 */
#ifndef RINGLET_SERVE_H
#define RINGLET_SERVE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/base/limits.h"
#include "daemon/base/seeds.h"
#include "daemon/base/watch.h"
#include "daemon/encode_thread.h"
#include "daemon/encode_turns.h"
#include "daemon/exec/executor.h"
#include "daemon/loop/loop.h"
#include "daemon/loop/timer.h"
#include "daemon/placement.h"
#include "daemon/request/request.h"
#include "daemon/sched/sched.h"
#include "daemon/session/board.h"
#include "daemon/session/listener.h"
#include "daemon/session/session.h"
#include "daemon/session/validate.h"
#include "daemon/step/step.h"
#include "daemon/text/detokenize.h"

struct encoder;
struct intake_item;
struct payload_pool;

/* A dump of the trace, by SIGUSR2: piece by piece through the loop. */
enum serve_trace { SERVE_TRACE_IDLE, SERVE_TRACE_ASKED, SERVE_TRACE_DUMPING, SERVE_TRACE_WRITING };

enum serve_end { SERVE_RUNNING, SERVE_DRAINED, SERVE_AT_ONCE, SERVE_ENGINE_LOST };

/* One model as the loop sees it. */
struct serve_model {
    struct sched *sched;
    struct executor *executor;
    const struct vocab *vocab;
    struct encoder *encoder; /* for short texts, on the loop */
    struct step *free_step[LIMIT_STEPS_IN_FLIGHT];
    uint32_t n_free; /* steps not in flight */
    bool dirty;      /* something changed that sched_tick may act on */
    struct stats_of_model *stats;
};

/* What the loop keeps beside a request, by its pool index. */
struct serve_request {
    struct request *request;
    struct session *session; /* NULL: its client is gone */
    struct encode_job job;
    struct list encode_node;  /* among its session's texts, while it waits for the encoder */
    struct session_uid *user; /* its payload and its place are charged to */
    uint32_t payload_bytes;
    uint64_t handle;          /* that the entry named */
    uint32_t joined_bytes;    /* charged, too */
    int32_t *joined;          /* the handle's ids and the input's, a payload piece; or NULL */
    bool encoding, scheduled; /* with the encoder; known to the scheduler */
    bool ended;               /* END is out, or nobody is there to read it */
    const struct detok_stops *stops;
    uint32_t n_prompt_told, n_cached_told, n_completion_told; /* tokens that BOARD has counted */
};

/* What the loop keeps beside a sequence, by its pool index. */
struct serve_sequence {
    struct detok detok;
    bool stalled;
    uint64_t last_ns; /* when tokens were last published */
};

/* How long to poll before sleeping. UINT64_MAX: for ever. */
struct serve_spin {
    uint64_t idle_ns;  /* no step in flight */
    uint64_t busy_ns;  /* the executor works */
    uint64_t short_ns; /* the executor works, and its last step took no longer than this */
    uint32_t n_core;
};

struct serve {
    struct loop *loop;
    struct timer_wheel wheel;
    struct board *board;
    struct sessions *sessions;
    struct listener listener;
    struct payload_pool *payload;
    struct request_pool *requests;
    struct encode_thread *encode_thread;
    struct serve_request *request;   /* [requests_max] */
    struct serve_sequence *sequence; /* [sequences_max] */
    uint32_t requests_max, sequences_max;
    struct encode_turns encode_turns;
    struct encode_place *encode_user;    /* [LIMIT_UIDS], by the place in sessions.users */
    struct encode_place *encode_session; /* [LIMIT_CONNECTIONS], by the place in sessions.pool */
    uint32_t loop_text_left;             /* bytes that this pass may still encode itself */

    struct serve_model model[LIMIT_MODELS];
    struct executor *executor[LIMIT_DEVICES];
    uint32_t n_model, n_executor;
    struct validate_model validate_models[LIMIT_MODELS];
    struct validate_env env;

    struct serve_spin spin;
    struct placement placement;
    uint64_t step_ns; /* what the last step took */
    uint64_t now_ns;  /* clock of this pass, read when it is asked for first */
    bool clock_fresh;
    uint32_t n_tick;
    uint64_t active_ns; /* when there was last something to do */
    uint64_t slow_ns;   /* next time for what need not happen each pass */
    uint64_t sched_next_ns;
    uint32_t n_request;   /* in any state */
    uint32_t n_in_flight; /* steps */
    uint64_t steps;
    uint64_t payload_gives; /* as of the last look for those who wait for memory */
    uint64_t progress_ns;   /* the last step came back, or the first went out */
    struct watch progress_watch;
    uint64_t watchdog_ns;
    struct seeds seeds; /* for requests without one */

    enum serve_end end;
    uint64_t drain_ns;
    struct timer drain_timer;
    bool draining;

    int trace_fd; /* -1: no trace */
    enum serve_trace trace_state;
    char trace[16384]; /* a piece of the dump, [trace_at .. trace_bytes) yet to write */
    size_t trace_at, trace_bytes;
    uint32_t n_told_tokens; /* by the answers of this pass, for the trace */

    char *out; /* text of one event */
    char log[16384];
    bool log_writing;
    loop_handle signal_watch;
    int signal_fd;
};

struct serve_config {
    struct loop *loop;
    struct board *board;
    struct payload_pool *payload;
    uint64_t daemon_generation;
    uint64_t slow_client_ns;
    uint64_t drain_ns;
    uint64_t watchdog_ns;
    struct serve_spin spin;
    uint32_t requests_max, sequences_max; /* in every state */
    uint32_t sessions_max, sessions_uid_max;
    uint64_t shm_uid_bytes_max;
    const struct session_grant *grants;
    uint32_t n_grant;
    const char *const *groups;
    uint32_t n_group;
    uint64_t seed_key[2];
    int signal_fd; /* SIGTERM, SIGINT, SIGHUP, SIGUSR2 */
    int trace_fd;  /* a regular file for the trace, -1: none */
};

/* Text of one event, at most; longer answers take several. */
enum { SERVE_OUT_BYTES = 16384 };

/* Takes its memory from the arena; models and executors are added by the caller before serve_run.
 */
int serve_create(const struct serve_config *config, struct arena *arena, struct serve **ret);
size_t serve_bytes(void);

/* Serve until drained, told to end at once, or the engine is lost. listen_fd stays open. */
enum serve_end serve_run(struct serve *sv, int listen_fd);

/* The scheduler's callback: a request is out of its hands. */
void serve_released(void *context, struct request *request);

/* The clock of this pass, read at most once in it. */
uint64_t serve_now(struct serve *sv);

/* ---- tell.c ---- */

/* What is counted elsewhere, to BOARD. */
void tell_stats(struct serve *sv);
/* A step that is back: its rows and its time, from launch to results. */
void tell_step(struct serve *sv, const struct step *step);
/* Lines that wait to be logged, unless a piece is still on its way. */
void tell_log(struct serve *sv);
/* A piece of the dump that SIGUSR2 asked for; the next one after the kernel has taken it. */
void tell_trace(struct serve *sv);

/* ---- accept.c ---- */

/* An entry that intake took: refused, answered at once, or a request on its way. */
void accept_item(struct serve *sv, struct session *s, struct intake_item *item);
/* The encoder has room: the next texts, those of all in turn. */
void accept_encode_next(struct serve *sv);
/* Is a text of this request still on its way to the encoder? Then it is taken back. */
bool accept_encode_undo(struct serve_request *side);
/* A session ends whose requests have ended. */
void accept_gone(struct serve *sv, const struct session *s);
/* Room for those who wait for the encoder. Returns 0 or -ENOMEM. */
int accept_create(struct serve *sv, struct arena *arena);
size_t accept_bytes(void);
/* Its ids are known: to the scheduler, or straight back. */
void accept_encoded(struct serve *sv, struct request *request);
/*
 * Payload came back, from a request, a handle or a session: intake, and admission of any model, may
 * have waited for it. True: they look again.
 */
bool accept_waiting(struct serve *sv);
/*
 * For schedulers: does a request of any model hold payload that it will give back? Not those that
 * wait for more themselves.
 */
bool accept_payload_comes(void *context, const struct sched *s);

/* ---- answer.c ---- */

/* Take a request's next step towards its client: what it has to say, as credit allows. */
void answer(struct serve *sv, struct request *request);
/* Those of a starved session, after its client read on. */
void answer_blocked(struct serve *sv, struct session *s);
/* A request that never reached the scheduler ends. */
void answer_refusal(struct serve *sv, struct request *request, uint16_t reason, uint32_t detail,
                    uint32_t field);
/* An entry that never became a request. */
void answer_entry(struct session *s, const struct intake_item *item, uint16_t reason,
                  uint32_t detail, uint32_t field);
/* End a request in any state; the answer follows. */
void answer_cancel(struct serve *sv, struct request *request, uint16_t reason, uint32_t detail);
/* The session's client is gone: its requests are nobody's. */
void answer_gone(void *context, struct session *s);
void answer_slow(void *context, struct session *s);

#endif
