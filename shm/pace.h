/*
 * When to look for the answer to what was just published. Who polls an entry's line before it is
 * written holds a copy of it, and the writer has to take that back first: two transfers between the
 * caches instead of one, each way. So a side that plays ping-pong (one message out, then nothing to
 * do until the other side answers) leaves the line alone for a moment. How long is best depends on
 * the machine and on both sides' work; it is tried: windows of some messages with each of a few
 * times, then the fastest for a long while. Where messages are more than about a microsecond apart
 * it does not matter, and the time is 0.
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
    PACE_TIMES = 16,        /* that are tried, see pace_time */
    PACE_WINDOW = 64,       /* messages */
    PACE_SWEEPS = 3,        /* each time is tried as often */
    PACE_HOLD = 1024,       /* windows until it is tried again, at most */
    PACE_SLOW = 128,        /* more slow windows than others in a hold: it is tried again at once */
    PACE_APART_TICKS = 4000 /* messages that far apart are no ping-pong */
};

struct pace {
    uint32_t late_ticks; /* from the publication to the first look */
    uint32_t n;          /* messages of this window */
    uint32_t window;     /* of the trial, then of the hold */
    uint32_t hold;       /* how long that is */
    uint32_t choice;     /* which time it is */
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

/* The i-th time that is tried: 0, then finer steps where the best one mostly lies (20 to 60 ns). */
static inline uint32_t pace_time(uint32_t i)
{
    return i * (i + 10);
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
