/*
 * Sleep and wake between two threads of the daemon. The sleeper makes the word odd, fences, looks
 * at everything once more and only then blocks on the eventfd; whoever hands something over fences
 * and writes the eventfd if the word is odd. With a full fence on both sides no wake-up is lost,
 * and the exchange of the word makes it one write per sleep, however many threads hand over.
 *
 *   sleeper: wake_announce -> look again -> block on fd (or wake_sleep) -> wake_awake
 *   other:   hand over -> wake_ring
 */
#ifndef RINGLET_BASE_WAKE_H
#define RINGLET_BASE_WAKE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <errno.h>

#include "base/atomics.h"
#include "base/compiler.h"

struct wake {
    aligned_to(CACHE_LINE_PAIR) uint32_t word; /* odd: asleep or about to be */
    int fd; /* eventfd; non-blocking where the loop polls it, blocking for wake_sleep */
};

/* flags: 0 or EFD_NONBLOCK. Returns 0 or a negative errno. */
static inline int wake_init(struct wake *w, int flags)
{
    w->word = 0;
    w->fd = eventfd(0, EFD_CLOEXEC | flags);
    return w->fd < 0 ? -errno : 0;
}

static inline void wake_close(struct wake *w)
{
    if (w->fd >= 0)
        close(w->fd);
    w->fd = -1;
}

/* Sleeper: from here on a hand-over rings. Look at every queue after this, before blocking. */
static inline void wake_announce(struct wake *w)
{
    store_once(&w->word, load_once(&w->word) | 1);
    full_fence(); /* pairs with full_fence in wake_ring */
}

/* Sleeper: awake again, or changed its mind. */
static inline void wake_awake(struct wake *w)
{
    uint32_t odd = load_once(&w->word);
    if (odd & 1)
        __atomic_compare_exchange_n(&w->word, &odd, odd + 1, false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED);
}

/* Any other thread, after a hand-over. Returns whether it had to write. */
static inline bool wake_ring(struct wake *w)
{
    full_fence(); /* pairs with full_fence in wake_announce */
    uint32_t odd = load_once(&w->word);
    if (likely(!(odd & 1)))
        return false;
    if (!__atomic_compare_exchange_n(&w->word, &odd, odd + 1, false, __ATOMIC_RELAXED,
                                     __ATOMIC_RELAXED))
        return false; /* another thread rings, or the sleeper woke */
    uint64_t one = 1;
    ssize_t n = write(w->fd, &one, sizeof(one));
    (void)n; /* EAGAIN: the counter is full of bells already */
    return true;
}

/* Sleeper with a blocking eventfd: after wake_announce, when there is still nothing to do. */
static inline void wake_sleep(struct wake *w)
{
    uint64_t count;
    ssize_t n = read(w->fd, &count, sizeof(count));
    (void)n; /* EINTR: the caller looks again anyway */
    wake_awake(w);
}

#endif
