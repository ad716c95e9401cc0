/*
 * Inside libringlet: one session and its two sides. The up side (submit, cancel) and the down side
 * (peek, advance, wait) share no plain variable: slots pass from down to up through a queue of
 * their own, so one thread may submit while another reaps; with RINGLET_SHARED each side has a
 * lock.
 */
#ifndef RINGLET_CLIENT_INTERNAL_H
#define RINGLET_CLIENT_INTERNAL_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/compiler.h"
#include "ringlet.h"
#include "shm/doorbell.h"
#include "shm/layout.h"
#include "shm/pace.h"
#include "shm/region.h"
#include "shm/ring.h"
#include "shm/span.h"

enum { CLIENT_PATH_BYTES = 108, BOARD_BYTES_MIN = RINGLET_BOARD_STATS_OFF + 64 };

/* What a handshake brings; replaced as a whole by ringlet_reconnect. */
struct client_link {
    struct layout layout;
    struct region up, down, board;
    struct layout_up up_parts;
    struct layout_down down_parts;
    int socket_fd, bell_up_fd, bell_down_fd;
    uint32_t sq_start, cq_start;
    int64_t clock_shift_ns; /* daemon's CLOCK_MONOTONIC minus ours: 0 but for a time namespace */
};

/*
 *  FREE --submit--> OPEN --advance of END--> FREE
 *                    |
 *                    +--session lost--> LOST --advance of daemon_lost--> FREE
 */
enum client_slot_state { CLIENT_SLOT_FREE, CLIENT_SLOT_OPEN, CLIENT_SLOT_LOST };

struct client_slot {
    uint64_t tag;
    uint32_t generation;
    uint32_t state; /* enum client_slot_state */
};

/* Written by submit and cancel only. */
struct client_up {
    pthread_mutex_t lock;
    struct ring_writer sq;
    struct span_arena prompt;
    struct wait_watch daemon_watch;
    uint32_t cancel_seq;
    uint32_t free_head; /* slots taken out of the queue */
};

/* Written by peek, advance, wait and arm only. */
struct client_down {
    pthread_mutex_t lock;
    const void *holder; /* thread that was shown an event: it holds the lock until advance */
    struct ring_reader cq;
    struct wait_watch credit_watch;
    struct wait_word wait;
    union ring_entry shown;
    bool is_shown, is_armed;
    bool bell_may_wait;    /* armed since the pipe was last drained */
    uint32_t head_told;    /* cq_head as last stored */
    uint64_t untold_bytes; /* of spans that were consumed since */
    uint32_t free_tail;    /* slots put into the queue */
    uint32_t submitted;    /* up.free_head as last seen */
    struct pace pace;
    uint32_t n_idle;    /* fruitless looks since the last event, or look at the clock */
    uint64_t check_ns;  /* when there was last a sign of life; 0: an event was the last one */
    uint64_t beat_seen; /* the daemon's heartbeat at the last check */
};

struct ringlet_client {
    struct ringlet_options options;
    char path[CLIENT_PATH_BYTES];
    struct client_link link;
    struct client_slot *slots; /* [n_slot] */
    uint16_t *free_slots;      /* [n_slot] queue from down to up */
    uint64_t *prompt_ends;     /* [n_slot] for the arena */
    uint32_t n_slot;
    uint32_t *alive; /* a page that fork wipes: 0 in a child */
    uint32_t n_lost; /* slots of a replaced session whose end is still to be shown; down side */
    int lost;        /* 0, or why the session ended, a negative errno; shared by both sides */

    struct client_up up aligned_to(CACHE_LINE_PAIR);
    struct client_down down aligned_to(CACHE_LINE_PAIR);
};

/* Marks the session lost, for the first reason that was found. */
static inline int client_lose(struct ringlet_client *cl, int error)
{
    int none = 0;
    __atomic_compare_exchange_n(&cl->lost, &none, error, false, __ATOMIC_RELEASE, __ATOMIC_RELAXED);
    return load_acquire(&cl->lost); /* pairs with the exchange, maybe another thread's */
}

static inline bool client_is_observer(const struct ringlet_client *cl)
{
    return cl->options.flags & RINGLET_OBSERVER;
}

static inline bool client_is_shared(const struct ringlet_client *cl)
{
    return cl->options.flags & RINGLET_SHARED;
}

/* The checks that every call on the rings begins with. */
static inline int client_check(const struct ringlet_client *cl)
{
    if (unlikely(load_once(cl->alive) == 0))
        return -ECHILD;
    if (unlikely(client_is_observer(cl)))
        return -ENOTCONN;
    return 0;
}

static inline const struct ringlet_board_beat *client_beat(const struct ringlet_client *cl)
{
    return (const struct ringlet_board_beat *)(const void *)((const char *)cl->link.board.base +
                                                             RINGLET_BOARD_BEAT_OFF);
}

/* Requests of this session that have not ended. Any thread; exact only for a lone one. */
static inline uint32_t client_in_flight(const struct ringlet_client *cl)
{
    /* pairs with store_release in slot_free */
    return cl->n_slot - (load_acquire(&cl->down.free_tail) - load_once(&cl->up.free_head));
}

static inline uint64_t client_id(uint32_t generation, uint16_t slot)
{
    return (uint64_t)generation << 32 | slot;
}

#endif
