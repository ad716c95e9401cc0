/*
 * Queue of pointers between two threads of the daemon: one pushes, one pops. A NULL slot is empty,
 * so a push and a pop each touch one shared line and no shared index. Nothing blocks; a sleeping
 * consumer is somebody else's business.
 */
#ifndef RINGLET_BASE_SPSC_H
#define RINGLET_BASE_SPSC_H

#include <stdbool.h>
#include <stdint.h>

#include "base/assert.h"
#include "base/atomics.h"
#include "base/compiler.h"

struct arena;

struct spsc {
    void **slot;
    uint32_t mask;
    aligned_to(CACHE_LINE_PAIR) uint32_t tail; /* the producer's own */
    aligned_to(CACHE_LINE_PAIR) uint32_t head; /* the consumer's own */
};

/* Room for n pointers (rounded up to a power of two). Returns 0, -EINVAL, -ENOMEM. */
int spsc_init(struct spsc *q, struct arena *arena, uint32_t n);

/* Producer. p is not NULL. Returns false when the queue is full. */
static inline bool spsc_push(struct spsc *q, void *p)
{
    void **slot = &q->slot[q->tail & q->mask];
    assert(p);
    if (load_acquire(slot)) /* pairs with store_release in spsc_pop: its reader is done */
        return false;
    store_release(slot, p); /* pairs with load_acquire in spsc_pop */
    q->tail++;
    return true;
}

/* Consumer. Returns NULL when the queue is empty. */
static inline void *spsc_pop(struct spsc *q)
{
    void **slot = &q->slot[q->head & q->mask];
    void *p = load_acquire(slot); /* pairs with store_release in spsc_push */
    if (p) {
        store_release(slot, NULL); /* pairs with load_acquire in spsc_push */
        q->head++;
    }
    return p;
}

/* Consumer: the next pointer without taking it, NULL when there is none. */
static inline void *spsc_peek(const struct spsc *q)
{
    return load_acquire(&q->slot[q->head & q->mask]); /* pairs with store_release in spsc_push */
}

#endif
