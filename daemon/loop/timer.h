/*
 * Timer wheel: many deadlines, O(1) to set and to drop. Five wheels of 64 slots; a tick is 2^20 ns
 * (about 1 ms), so a timer fires up to one tick late and never early. Intrusive, no allocation.
 * Thread: the loop's.
 */
#ifndef RINGLET_LOOP_TIMER_H
#define RINGLET_LOOP_TIMER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"

enum { TIMER_LEVELS = 5, TIMER_SLOTS = 64, TIMER_TICK_LOG2 = 20 };

struct timer {
    struct list node; /* alone when not set */
    uint64_t when_ns;
    void (*fn)(struct timer *t, uint64_t now_ns);
    uint8_t level, slot;
};

struct timer_wheel {
    uint64_t tick; /* expired up to here */
    uint64_t occupied[TIMER_LEVELS];
    struct list slot[TIMER_LEVELS][TIMER_SLOTS];
};

void timer_wheel_init(struct timer_wheel *wheel, uint64_t now_ns);

void timer_init(struct timer *t, void (*fn)(struct timer *t, uint64_t now_ns));

/* Fire at when_ns or up to a tick later; a set timer is moved. A time that has passed fires next.
 */
void timer_set(struct timer_wheel *wheel, struct timer *t, uint64_t when_ns);

/* Idempotent. */
void timer_drop(struct timer_wheel *wheel, struct timer *t);

bool timer_is_set(const struct timer *t);

/*
 * Call fn of each timer that is due, in order of its tick. fn may set and drop any timer, its own
 * included. Returns how many fired.
 */
int timer_expire(struct timer_wheel *wheel, uint64_t now_ns);

/* When timer_expire should run next, at the latest; UINT64_MAX: no timer. May be too early. */
uint64_t timer_next_ns(const struct timer_wheel *wheel);

#endif
