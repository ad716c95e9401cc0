/*
 * Windows of a trial in order, time by time, sweep after sweep; then the hold. What the trial found
 * may be chance, or true only of what the other side did just then: a hold that keeps being slower
 * than its trial ends early. PACE_SLOW is longer than a trial, since the other side's makes ours
 * slow.
 */
#include "shm/pace.h"

#include <stdbool.h>

#include "base/bits.h"

/* All times, or the one that was chosen and its neighbours. */
static void begin_trial(struct pace *p, bool all)
{
    p->first = all ? 0 : p->choice - 1;
    p->n_try = all ? (uint32_t)PACE_TIMES : min_of(3u, PACE_TIMES - p->first);
    p->n_near = all ? 0 : p->n_near + 1;
    p->window = p->n_slow = 0;
    p->late_ticks = pace_time(p->first);
    for (uint32_t i = 0; i < p->n_try; i++)
        p->best[p->first + i] = UINT64_MAX;
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

/*
 * The shortest of those that are nearly as fast as the fastest. Sides that both wait too long see
 * no gain in less unless the other waits less, too: giving way a little, they get there together.
 */
static uint32_t shortest_good(const struct pace *p)
{
    uint64_t least = UINT64_MAX;
    for (uint32_t i = 0; i < p->n_try; i++)
        least = min_of(least, p->best[p->first + i]);
    uint32_t i = p->first;
    while (p->best[i] > least + least / 32)
        i++;
    return i;
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
        begin_trial(p, true);
        return;
    }
    uint32_t trial = p->n_try * PACE_SWEEPS, time = p->first + p->window % p->n_try;
    if (p->window < trial)
        p->best[time] = min_of(p->best[time], took);
    p->window++;
    if (p->window < trial) {
        p->late_ticks = pace_time(p->first + p->window % p->n_try);
    } else if (p->window == trial) {
        p->choice = shortest_good(p);
        p->late_ticks = pace_time(p->choice);
        /* Longer each time, and never in step with the other side, which tries things, too. */
        uint32_t most = p->choice ? PACE_HOLD_NEAR : PACE_HOLD;
        p->hold = min_of(2 * p->hold + 4 + (uint32_t)(now >> 3) % 16, most);
    } else if (is_slow(p, took)) {
        begin_trial(p, true);
    } else if (p->window >= trial + p->hold) {
        begin_trial(p, p->choice == 0 || p->n_near >= PACE_NEAR);
    }
}
