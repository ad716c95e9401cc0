/*
 * Windows of a trial in order, time by time, sweep after sweep; then the hold. What the trial found
 * may be chance, or true only of what the other side did just then: a hold that keeps being slower
 * than its trial ends early. PACE_SLOW is longer than a trial, since the other side's makes ours
 * slow.
 */
#include "shm/pace.h"

#include <stdbool.h>

#include "base/bits.h"

enum { TRIAL = PACE_TIMES * PACE_SWEEPS };

static void begin_trial(struct pace *p)
{
    p->window = p->n_slow = 0;
    p->late_ticks = 0;
    for (int i = 0; i < PACE_TIMES; i++)
        p->best[i] = UINT64_MAX;
}

/* A window of the hold took so long: is the time worth another trial? */
static bool is_slow(struct pace *p, uint64_t took)
{
    uint64_t promised = p->best[p->choice];
    if (took > promised + promised / 4)
        p->n_slow++;
    else if (p->n_slow > 0)
        p->n_slow--;
    return p->n_slow > PACE_SLOW;
}

static uint32_t fastest(const struct pace *p)
{
    uint32_t best = 1;
    for (uint32_t i = 2; i < PACE_TIMES; i++)
        if (p->best[i] < p->best[best])
            best = i;
    return p->best[best] < p->best[0] - p->best[0] / 16 ? best : 0; /* for less: not worth it */
}

void pace_turn(struct pace *p, uint64_t now)
{
    uint64_t took = now - p->from;
    bool first = p->from == 0;
    p->n = 0;
    p->from = now;
    if (now == 0) /* no ticks on this machine */
        return;
    if (first || took > (uint64_t)PACE_WINDOW * PACE_APART_TICKS) {
        begin_trial(p);
        return;
    }
    if (p->window < TRIAL) {
        uint32_t time = p->window % PACE_TIMES;
        p->best[time] = min_of(p->best[time], took);
    }
    p->window++;
    if (p->window < TRIAL)
        p->late_ticks = pace_time(p->window % PACE_TIMES);
    else if (p->window == TRIAL) {
        p->choice = fastest(p);
        p->late_ticks = pace_time(p->choice);
        /* Longer each time, and never in step with the other side, which tries things, too. */
        p->hold = min_of(2 * p->hold + 4 + (uint32_t)(now >> 3) % 16, (uint32_t)PACE_HOLD);
    } else if (p->window >= TRIAL + p->hold || is_slow(p, took)) {
        begin_trial(p);
    }
}
