/*
 * Sleeping and waking across the wire. A side that is about to sleep makes its wait word odd,
 * fences, looks at everything once more and blocks; a side that published something fences and
 * rings the bell if the other's word is odd. With a full fence on both sides, either the sleeper's
 * second look sees the publication or the publisher sees the odd word: no wake-up is lost.
 *
 *     publisher                               sleeper
 *     ring_writer_put ... (release)           wait_word_announce: store odd, full fence
 *     full_fence()      one per batch         look again at everything (acquire)
 *     wait_watch_must_ring? -> bell           nothing: block; woken or not: wait_word_withdraw
 *
 * The bells: up is an eventfd that the client writes and the daemon only polls (edge by edge),
 * never reads or writes; a hostile client can spoil it for itself only. Down is a pipe whose only
 * write end, O_NONBLOCK, is the daemon's: its write cannot block, and its end of file is the
 * daemon's death.
 */
#ifndef RINGLET_SHM_DOORBELL_H
#define RINGLET_SHM_DOORBELL_H

#include <stdbool.h>
#include <stdint.h>

#include "base/atomics.h"
#include "base/compiler.h"
#include "shm/peer.h"

/* A wait word, as its owner (the sleeper) sees it. */
struct wait_word {
    uint32_t *word; /* in the region that this side writes */
    uint32_t epoch; /* what it holds; odd while announced */
};

/* The same word, as the publisher sees it. */
struct wait_watch {
    const uint32_t *word;
    uint32_t last; /* the odd epoch that a bell was rung for: one bell per sleep */
};

static inline void wait_word_init(struct wait_word *w, uint32_t *word)
{
    *w = (struct wait_word){ .word = word, .epoch = load_once(word) & ~1u };
}

/*
 * Make the word odd without the fence: for many words, then one full_fence() of the caller's.
 * Always a new epoch: a word that stayed odd over a bell (credit still missing, say) would not ring
 * again.
 */
static inline void wait_word_announce_unfenced(struct wait_word *w)
{
    w->epoch = (w->epoch + 1) | 1;
    store_once(w->word, w->epoch);
}

/*
 * Tell the peer that this side is about to sleep. After it the caller looks once more at everything
 * that the peer may have published, with acquire, and blocks only if there is nothing.
 */
static inline void wait_word_announce(struct wait_word *w)
{
    wait_word_announce_unfenced(w);
    full_fence(); /* pairs with the publisher's full_fence before wait_watch_must_ring */
}

/* Awake again, by whatever. The word is even from here: the peer rings no more. */
static inline void wait_word_withdraw(struct wait_word *w)
{
    w->epoch += w->epoch & 1;
    store_once(w->word, w->epoch);
}

static inline bool wait_word_announced(const struct wait_word *w)
{
    return w->epoch & 1;
}

static inline void wait_watch_init(struct wait_watch *w, const uint32_t *word)
{
    *w = (struct wait_watch){ .word = word };
}

/*
 * After publishing a batch and one full_fence(): must this side ring? True at most once per sleep.
 */
static inline bool wait_watch_must_ring(struct wait_watch *w)
{
    uint32_t word = peer_load(w->word); /* pairs with the store in wait_word_announce */
    if (likely(!(word & 1)) || word == w->last)
        return false;
    w->last = word;
    return true;
}

/*
 * The up bell: an eventfd, close-on-exec, non-blocking at birth (the client may change that for
 * itself: the daemon must never read or write it).
 *
 * Returns: 0; -errno of eventfd.
 */
nodiscard int bell_up_create(int *ret_fd);

/*
 * Client: ring the daemon.
 *
 * Returns: 0 (a full counter counts as rung); -EBADF the descriptor was closed under us.
 */
int bell_up_ring(int fd);

/*
 * The down bell: a pipe, both ends close-on-exec and non-blocking, one page of buffer where the
 * kernel allows it. The client gets the read end, the write end never leaves the daemon.
 *
 * Returns: 0; -errno of pipe2.
 */
nodiscard int bell_down_create(int *ret_read_fd, int *ret_write_fd);

/*
 * Daemon: ring the client. Never blocks; needs SIGPIPE ignored in this process.
 *
 * Returns: 0 (a full pipe counts as rung); -EPIPE the client closed its end: it is gone.
 */
int bell_down_ring(int write_fd);

/*
 * Client: take all waiting bells out of the pipe, so that it polls unreadable again.
 *
 * Returns: 0; -EPIPE end of file: the daemon is gone.
 */
int bell_down_drain(int read_fd);

/*
 * Client: block until the bell rings.
 *
 *   deadline_ns   CLOCK_MONOTONIC, absolute; UINT64_MAX: none
 *
 * Returns: 0 rung, and drained; -ETIMEDOUT; -EINTR a signal came; -EPIPE the daemon is gone.
 */
nodiscard int bell_down_wait(int read_fd, uint64_t deadline_ns);

/* CLOCK_MONOTONIC in nanoseconds. */
uint64_t doorbell_now_ns(void);

/* Sleep for less than a second, or until a signal. */
void doorbell_nap(uint64_t ns);

#endif
