/*
 * Sessions: one per connection, from its acceptance to the last trace of it. This file owns the
 * pool, the descriptors, the mapped regions and the lists of who is looked at; listener.c brings
 * sessions in, intake.c reads what clients write, publish.c writes what they read.
 *
 *   PARKED -> HELLO -> ATTACH -> OPEN, or OBSERVER
 *      \________\________\________\__ doomed -> reaped at the end of the pass -> gone, but for
 *                                     its prompt arena, which goes in pieces (BURIED)
 *
 *   an OPEN session is  hot   scanned each pass, its wait word even
 *                       cold  not scanned, its wait word odd: it must ring
 *
 * Loop thread only. A session is never freed while somebody may still look at it in this pass: it
 * is doomed first, and reaped between passes.
 */
#ifndef RINGLET_SESSION_SESSION_H
#define RINGLET_SESSION_SESSION_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"
#include "daemon/base/limits.h"
#include "daemon/base/stats.h"
#include "daemon/loop/loop.h"
#include "daemon/loop/timer.h"
#include "daemon/request/request.h"
#include "daemon/session/board.h"
#include "ringlet_abi.h"
#include "shm/doorbell.h"
#include "shm/layout.h"
#include "shm/pace.h"
#include "shm/region.h"
#include "shm/ring.h"
#include "shm/span.h"

struct arena;
struct payload_pool;
struct pool;
struct sessions;

enum session_phase {
    SESSION_PARKED,
    SESSION_HELLO,
    SESSION_ATTACH,
    SESSION_OPEN,
    SESSION_OBSERVER,
    SESSION_BURIED
};

/* One user with at least one connection. */
struct session_uid {
    uid_t uid;
    uint32_t n_connection; /* 0, and nothing charged: the place is free */
    uint32_t n_session, n_handshake, n_parked, n_observer;
    uint32_t n_request; /* outlives its session as long as a step names it */
    uint64_t shm_bytes, buried_bytes, payload_bytes; /* buried: of shm, on its way back */
    uint32_t sessions_max;
    uint64_t shm_bytes_max;
    uint64_t groups;
    uint32_t log_lines, n_unlogged; /* budget left; lines that were not written */
    uint64_t log_ns;
};

/* What the configuration grants one user; 0: as everybody. */
struct session_grant {
    uid_t uid;
    uint32_t sessions_max;
    uint64_t shm_bytes_max;
    uint64_t groups; /* bit i: may join sessions_config.groups[i] */
};

/* A request slot of a session. */
struct session_slot {
    struct request *request; /* NULL while free, or taken by an entry that intake still copies */
    uint32_t generation;
    bool busy;
};

/* An entry that was taken from the ring and whose bytes are still being copied. */
struct session_pending {
    union ring_entry entry;
    struct request_params params;
    struct ringlet_block block;
    bool taken, has_block, placed; /* placed: its payload is there */
    uint8_t *payload;
    uint32_t payload_bytes;                                          /* charged to the user */
    uint32_t copied;                                                 /* input bytes */
    uint64_t input_at, text_at, stops_at, detok_at, ids_at, bias_at; /* in the payload */
    uint32_t ids_max;
    uint32_t group; /* as in intake_item */
};

struct session {
    struct sessions *all;
    uint32_t id;
    enum session_phase phase;
    bool doomed, hot, observer, low_latency, latency_held;
    uint32_t error; /* enum ringlet_session_error, once doomed */
    struct list doomed_node, dirty_node, again_node, pool_node, parked_node;
    struct timer timer; /* handshake; later the bell penalty */

    int fd, pidfd, bell_up, bell_down;
    loop_handle fd_watch, pidfd_watch, bell_watch;
    pid_t pid;
    struct session_uid *user;
    uint64_t shm_bytes;
    uint64_t punched; /* of UP, once buried */

    struct region up, down;
    struct layout layout;
    struct layout_up up_part;
    struct layout_down down_part;
    void *tables; /* slot, busy_map and the text arena's ends, one payload piece */
    struct session_slot *slot;
    uint64_t *busy_map; /* bit per slot */
    uint32_t n_busy;

    /* intake.c */
    struct ring_reader sq;
    uint32_t cancel_seq;
    struct wait_word daemon_wait;
    struct session_pending pending;
    uint32_t deficit; /* bytes that may still be copied */
    uint32_t bite;    /* entries that a turn takes; see intake_bitten */
    uint32_t lone;    /* entries to come before it grows */
    struct pace pace; /* while it sends one at a time and is alone */
    uint64_t active_ns;
    uint32_t n_bell;
    uint64_t bell_second_ns;
    bool muted; /* too many bells: not read for a while */

    /* publish.c */
    struct ring_writer cq;
    struct span_arena text;
    struct wait_watch client_watch;
    struct wait_word credit_wait;
    uint32_t n_owed; /* completion slots kept for END events */
    bool dirty;      /* published since the last fence */
    bool starved;    /* out of credit: somebody waits for cq_head */
    struct timer slow_timer;
    uint32_t bulk_pass; /* in which bulk_bytes went out, see publish_bulk */
    uint64_t bulk_bytes;
    struct list blocked; /* requests with something to publish and no credit: outbox_node */
};

struct sessions_config {
    struct loop *loop;
    struct timer_wheel *wheel;
    struct board *board;
    struct stats *stats;
    struct payload_pool *payload; /* prompts; the session tables too */
    uint64_t daemon_generation;
    uint64_t slow_client_ns;
    uint32_t sessions_max, sessions_uid_max; /* at most LIMIT_SESSIONS */
    uint64_t shm_uid_bytes_max;
    const struct session_grant *grants;
    uint32_t n_grant;
    const char *const *groups; /* names of sharing groups, at most 64 */
    uint32_t n_group;
    uint32_t stops_bytes; /* room that intake leaves in a payload for the caller's stop table */

    /* Called when an OPEN session is reaped: its requests are in `slot`, to be cancelled. */
    void (*on_gone)(void *context, struct session *s);
    /* Called when a starved session made no progress for slow_client_ns. */
    void (*on_slow)(void *context, struct session *s);
    void *context;
};

struct sessions {
    struct sessions_config config;
    struct pool *pool;
    struct session_uid users[LIMIT_UIDS];
    struct session *hot[LIMIT_SESSIONS_HOT];
    uint32_t n_hot;
    uint32_t n_connection, n_handshake, n_session, n_observer, n_parked, n_low_latency;
    int dma_latency_fd;
    uint32_t last_id;
    uint64_t now_ns; /* of this pass */
    uint32_t pass;   /* its number */
    bool draining;
    struct list doomed, dirty, parked;
    struct list buried; /* doomed_node: prompt arenas on their way back to the system */
    struct list again;  /* to be hot in the next pass: it had to make room with something to read */
    struct list short_of_pool; /* an entry of theirs waits for room in the payload pool */
    uint32_t next_hot;         /* fairness: where the next pass begins */
};

/* Room for all sessions. Returns 0 or -ENOMEM. Thread: start-up. */
int sessions_create(const struct sessions_config *config, struct arena *arena,
                    struct sessions **ret);
/* Bytes of the arena that sessions_create takes. */
size_t sessions_bytes(void);

/* Doom and reap them all, observers and handshakes too, telling clients `error`. */
void sessions_close(struct sessions *all, uint32_t error);

/* Nobody may submit any more: the state word of all sessions says so. */
void sessions_drain(struct sessions *all);

/* A connection that was just accepted, or NULL when the pool is empty. Takes the descriptor. */
struct session *session_take(struct sessions *all, int fd);

/*
 * Make regions and bells for a HELLO that was found acceptable, and charge them to the user.
 *   ret_fds   for WELCOME: the session's own, do not close
 * Returns: 0; -EDQUOT; -EAGAIN the daemon is full, or the user's last sessions still take their
 *          memory: the library comes again; -ENOMEM, -EMFILE, ...
 */
int session_build(struct session *s, const struct ringlet_hello *hello, int ret_fds[RINGLET_N_FD]);

/* ATTACH came: watch the bell, close what was sent, hot from here. Returns 0 or -ENOSPC. */
int session_open(struct session *s);

/* Wait for a handshake's turn; not any more, if it does. */
void session_park(struct session *s);
void session_unpark(struct session *s);

/* Over at the end of this pass. error: what the state word tells the client. Idempotent. */
void session_doom(struct session *s, uint32_t error);

/* May a line about this user's clients be logged? Counts it; more than a few a second may not. */
bool session_may_log(struct sessions *all, struct session_uid *user);

/*
 * Doomed sessions are gone for everybody: their requests end, their handles go, nobody finds them.
 * Their memory waits for sessions_reap.
 */
void sessions_end_doomed(struct sessions *all);

/* The same, and a piece of what they leave behind is freed. Between passes. */
void sessions_reap(struct sessions *all);

/* Scan it from now on: wait word even, then look at its ring. */
void session_heat(struct session *s);

/* Stop scanning it: wait word odd, fence, second look. Returns false if there is something to do.
 */
bool session_cool(struct session *s);

/* Cool what was idle for LIMIT_COLD_AFTER_NS; once a millisecond is often enough. */
void sessions_cool_idle(struct sessions *all);

/* The loop is about to sleep: all hot words odd, without the fence, which wake_announce brings. */
void sessions_announce(struct sessions *all);
/* After wake_announce: is there something to read after all? */
bool sessions_ready(const struct sessions *all);
/* Is there something to do about sessions that is no entry: one to free, one to heat? */
bool sessions_changed(const struct sessions *all);
/* Awake: sessions with work in flight are hot again, the others wait for their bell. */
void sessions_awake(struct sessions *all, bool slept);

/*
 * Somebody waits for cq_head to move: credit_wait odd, fence. The caller looks at cq_head again, or
 * its session is looked at again before the loop sleeps (intake_ready).
 */
void session_starve(struct session *s);
/* cq_head moved, or nobody waits any more. */
void session_feed(struct session *s);

/* The session's next entry finds no room in the payload pool. */
void session_wait_pool(struct session *s);
/* A payload was given back: those who wait are looked at again. */
void sessions_pool_freed(struct sessions *all);

/* Beginning of a pass: those who had to make room in the last one are hot again. */
void sessions_begin(struct sessions *all, uint64_t now_ns);

/* A slot was taken by an entry, or is free again. */
void session_slot_take(struct session *s, uint16_t slot, uint32_t generation);
void session_slot_free(struct session *s, uint16_t slot);

#endif
