/* Windows of a trial in order, time by time, sweep after sweep; then the hold. */
#include "shm/pace.h"

#include <stdbool.h>

#include "base/bits.h"

enum { TRIAL = PACE_TIMES * PACE_SWEEPS };

static void begin_trial(struct pace *p)
{
    p->window = 0;
    p->late_ticks = 0;
    for (int i = 0; i < PACE_TIMES; i++)
        p->best[i] = UINT64_MAX;
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
        p->late_ticks = p->window % PACE_TIMES * PACE_STEP_TICKS;
    else if (p->window == TRIAL) {
        p->late_ticks = fastest(p) * PACE_STEP_TICKS;
        /* Longer each time, and never in step with the other side, which tries things, too. */
        p->hold = min_of(2 * p->hold + 4 + (uint32_t)(now >> 3) % 16, (uint32_t)PACE_HOLD);
    } else if (p->window >= TRIAL + p->hold)
        begin_trial(p);
}
