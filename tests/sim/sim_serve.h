/*
 * One simulated world of the whole daemon: the real serve, session, scheduler, KV, text and client
 * library code over a simulated system (sim_os.h) and device (sim_exec.h). sim_daemon.c starts and
 * examines the daemon, sim_client.c and sim_expect.c are honest clients and what they must get,
 * sim_hostile.c the others, sim_serve.c lets time pass and trouble happen.
 */
#ifndef RINGLET_TESTS_SIM_SERVE_H
#define RINGLET_TESTS_SIM_SERVE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/engine.h"
#include "daemon/serve.h"
#include "ringlet.h"
#include "tests/sim/fake_executor.h"
#include "tests/sim/sim_exec.h"
#include "tests/sim/sim_os.h"

enum {
    SIM_CLIENTS = 90,
    SIM_REQUESTS = 200, /* of the daemon, in any state */
    SIM_CROWD = 66,     /* more than the daemon scans in each pass */
    SIM_CONTEXT = 250,
    SIM_PROMPT = 2 * SIM_CONTEXT + 64,
    SIM_WANTS = 8,
    SIM_SEQS = 5,
    SIM_STOPS = 3,
    SIM_LISTS = 3,
    SIM_HANDLES = 8,
    SIM_MODELS = 2,
    SIM_ALPHABET = 24,
    SIM_LONG = 100000,
    SIM_UIDS = 3,
    SIM_GROUPS = 2,
    SIM_RECORDS = 10
};

struct sim;

/* What a request of an honest client must get. */
struct want {
    bool open, accepted, cancelled;
    bool orphan; /* its daemon died, and the client has connected to another */
    bool deaf;   /* it was cancelled, and the daemon has had the time to see that */
    uint64_t asked_ns;
    uint64_t sure_ns; /* before it no handle may be missing; 0: it names no lease */
    uint32_t group;   /* whose cache it shares, from 1; 0: its uid's own */
    uint64_t told;    /* of all that its events said beside ids and text, in any order */
    uint64_t cancel_tick;
    uint64_t id, tag;
    uint8_t op;
    bool chat;
    uint32_t may_error; /* bits: enum ringlet_error that a refusal may name */
    bool must_error;    /* it must be refused with one of these */
    struct ringlet_request ask;
    struct request request; /* as the daemon should see it; its sequences' outputs as received */
    struct sequence seq[SIM_SEQS];
    bool ended[SIM_SEQS], flushed[SIM_SEQS];
    uint32_t n_ended, n_scored, cached, total_cached;
    uint32_t n_long; /* bytes of a text too long for `prompt` */
    int32_t prompt[SIM_PROMPT], out[SIM_SEQS][SIM_CONTEXT + 1];
    char text[SIM_SEQS][4 * SIM_CONTEXT + 64];
    uint32_t n_text[SIM_SEQS];
    char stop[SIM_STOPS][8];
    struct ringlet_text stops[SIM_STOPS];
    uint32_t stop_ids[SIM_LISTS];
    struct ringlet_logit_bias bias[SIM_LISTS];
    struct request_bias bias_seen[SIM_LISTS];
};

/* A handle that FINISHED told. */
struct sim_handle {
    uint64_t handle, expires_ns; /* 0: a held sequence, never */
    uint64_t sure_ns;            /* a lease is there at least until then */
    bool renewing;
    uint16_t model;
    uint32_t n;
    int32_t ids[SIM_PROMPT];
};

/* CLIENT_LONE asks for one thing after the other, the same in each run of a seed (sim_lone.c). */
enum client_kind { CLIENT_HONEST, CLIENT_HOSTILE, CLIENT_RUDE, CLIENT_LONE };

/* What a lone client has seen of one request. */
struct record {
    uint64_t told, ids, text;
    uint32_t n_id, n_text, cached, total_cached;
    uint8_t op;
    bool stops; /* it had stop strings */
};

struct client {
    struct sim *sim;
    int task_i;
    enum client_kind kind;
    struct os_process process;
    struct prng prng;
    struct ringlet_client *cl;
    bool connecting, lost;
    uint32_t budget; /* requests that it will still make */
    uint32_t n_open;
    uint32_t life;                  /* which daemon it is connected to */
    uint64_t last_read_ns, slow_ns; /* slow_ns: the longest time that it did not read */
    uint64_t next_tag;
    struct want want[SIM_WANTS];
    struct sim_handle handle[SIM_HANDLES];
    uint32_t n_handle, n_forgotten; /* forgotten: handles that it was told and has no room for */
};

/* What the seed chose; percent where nothing else is said. */
struct sim_chances {
    uint32_t cancel, stall, deadline, forks, scores, penalties, lists, holds, stops, chats, hurry,
        longs, idle, beams, groups, batches, renews;
    uint32_t long_max; /* bytes */
    uint32_t kill_ppm, drain_ppm, crash_ppm;
};

struct sim {
    uint64_t seed;
    bool verbose, calm, draining, at_once, killed, tiny, crowd;
    bool lone;         /* a lone client is there, and room for everybody */
    bool down, reborn; /* no daemon is there, another will come; one has come in order */
    struct prng prng;
    struct sim_chances chances;
    uint64_t turn, n_tick, n_request, n_token;
    uint64_t heard_turn; /* a client had an event */

    /* the daemon */
    struct arena *arena;
    struct board board;
    struct payload_pool *payload;
    struct engine engine;
    struct executor *executor;
    struct encode_thread *encode_thread;
    struct serve *serve;
    struct os_object *signals;
    int listen_fd, signal_fd;
    uint64_t drain_by_ns;
    uint32_t n_life;   /* daemons so far */
    struct prng birth; /* what the first was drawn with: the others are alike */
    bool up, returned, had_failed, had_bad; /* had: a daemon before this one */
    enum serve_end end;
    uint32_t n_model;
    int context[SIM_MODELS], kv_blocks[SIM_MODELS];
    bool batch_invariant;
    struct fake_executor *fake[SIM_MODELS];
    struct fake_executor *truth[SIM_MODELS]; /* what clients compare with */
    bool ended[SIM_REQUESTS];                /* requests by their place, as of the last look */
    struct request_params defaults[SIM_MODELS];
    uint64_t groups[SIM_UIDS + 1]; /* bit i: this uid may join sim_groups[i] */
    uint64_t slow_client_ns;
    struct record record[SIM_RECORDS];
    uint32_t n_record;
    uint32_t n_idle;  /* runs of the daemon that nothing came of */
    uint32_t checked; /* ticks since the costly checks */

    int32_t alphabet[SIM_ALPHABET];
    uint32_t n_alphabet;
    int32_t stream[SIM_CONTEXT];
    uint32_t n_client;
    struct client client[SIM_CLIENTS];
};

/* ---- sim_daemon.c ---- */

/* A daemon as the seed chose it, its task begun. */
void daemon_open(struct sim *sim);
void daemon_close(struct sim *sim);
/* kill -9 in the middle of whatever it does; daemon_open starts another. */
void daemon_kill(struct sim *sim);
/* The engine is lost, and the daemon has ended for that: it executes itself anew. */
void daemon_again(struct sim *sim);
/* For a person. */
void daemon_show(const struct sim *sim);
/* Its books, between two ticks. */
void daemon_check(struct sim *sim);
/* It sleeps and nobody is in the middle of anything: is there something that it should have seen?
 */
void daemon_check_asleep(struct sim *sim);
/* Nobody is there any more. */
void daemon_check_idle(struct sim *sim);
/* serve_run has returned. */
void daemon_check_ended(struct sim *sim);

/* Names of sharing groups; one begins the other. */
extern const char *const sim_groups[SIM_GROUPS];

/* ---- sim_client.c ---- */

void client_start(struct sim *sim, uint32_t client_i, enum client_kind kind);
void client_kill(struct client *c);
void client_free(struct client *c);
bool client_chance(struct client *c, uint32_t percent);
bool client_connect(struct client *c);
/* One event. False: none now, or the session is lost. */
bool client_read(struct client *c, uint64_t deadline_ns);
/* A request is on its way. */
void client_opened(struct client *c, struct want *w);

/* ---- sim_request.c ---- */

/*
 * An operation on the rings with its input. text: where it may lie, SIM_LONG bytes or, if not
 * may_be_long, SIM_PROMPT.
 */
void request_draw(struct client *c, struct want *w, bool may_be_long, char *text,
                  struct ringlet_message *message);
/* The renewal of a lease, or, refused, of a held sequence. */
void request_renew(struct client *c, struct want *w, struct sim_handle *h);
/* A request's parts know each other. */
void request_link(struct want *w);
/* Byte i of a long text. */
char request_long_byte(const struct want *w, uint32_t i);

/* ---- sim_expect.c ---- */

/* Is this event right? Keeps what it tells. */
void expect_event(struct client *c, const struct ringlet_event *ev);
/* A beam search: what holds for its parameters, and why it may be refused. */
void expect_beams(struct client *c, struct want *w);
/* What is certain of these ids' text. flush: they are all. Returns bytes; *ret_stop -1: none. */
uint32_t expect_text(const struct want *w, const int32_t *ids, uint32_t n, bool flush, char *to,
                     int *ret_stop, uint32_t *ret_stop_at);

/* ---- sim_lone.c ---- */

void lone_run(void *arg);
/* Did the lone client see the same with others as without? */
void lone_compare(const struct sim *with, const struct record *without, uint32_t n_without);

/* ---- sim_hostile.c ---- */

void hostile_run(void *arg);
void rude_run(void *arg);

#endif
