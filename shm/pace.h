/*
 * When to look for the answer to what was just published. Who polls an entry's line before it is
 * written holds a copy of it, and the writer has to take that back first: two transfers between the
 * caches instead of one, each way. So a side that plays ping-pong (one message out, then nothing to
 * do until the other side answers) leaves the line alone for a moment. How long is best depends on
 * the machine and on both sides' work; it is tried: windows of some messages with each of a few
 * times, then the best for a while, then its neighbours. Both sides search, and what is best for
 * one depends on the other: in small steps they get there together. Where messages are more than
 * about a microsecond apart it does not matter, and the time is 0.
 *
 * Ticks are the processor's own; where it has none that are fine enough nothing is ever waited for.
 * No thread of its own: one side of one session.
 */
#ifndef RINGLET_SHM_PACE_H
#define RINGLET_SHM_PACE_H

#include <stdint.h>

#include "base/atomics.h"
#include "base/compiler.h"

enum {
    PACE_TIMES = 20,      /* that are tried, see pace_time */
    PACE_WINDOW = 64,     /* messages */
    PACE_SWEEPS = 3,      /* each time is tried as often */
    PACE_HOLD = 2048,     /* windows until all is tried again where no wait helps, at most */
    PACE_HOLD_NEAR = 128, /* windows until the neighbours of a time that helps are tried, at most */
    PACE_NEAR = 16,       /* so often until all is tried again */
    PACE_SLOW = 96,       /* more slow windows than others in a hold: it is tried again at once */
    PACE_APART_TICKS = 4000 /* messages that far apart are no ping-pong */
};

struct pace {
    uint32_t late_ticks;   /* from the publication to the first look */
    uint32_t n;            /* messages of this window */
    uint32_t window;       /* of the trial, then of the hold */
    uint32_t hold;         /* how long that is */
    uint32_t choice;       /* which time it is */
    uint32_t first, n_try; /* the times of this trial */
    uint32_t n_near;       /* trials of neighbours since all were tried */
    uint32_t n_slow; /* windows of it that took longer than the trial promised, less the others */
    uint64_t from;   /* tick at the window's start; 0: none began */
    uint64_t best[PACE_TIMES];
};

static inline uint64_t pace_tick(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return 0;
#endif
}

/* The i-th time that is tried: steps of 4 to 7 ns, so that sides can give way in small ones. */
static inline uint32_t pace_time(uint32_t i)
{
    return 14 * i;
}

/* A window ended at this tick: what to do in the next one. */
void pace_turn(struct pace *p, uint64_t now);

/* One message was published, and its answer is the next thing that can come: wait for its time. */
static inline void pace_published(struct pace *p)
{
    if (++p->n == PACE_WINDOW)
        pace_turn(p, pace_tick());
    if (p->late_ticks == 0)
        return;
    uint64_t from = pace_tick();
    while (pace_tick() - from < p->late_ticks)
        compiler_barrier(); /* no pause: one is longer than a step of pace_time */
}

#endif
