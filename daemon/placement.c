/* The decision is counted here and made in few places; moving is two system calls, seldom. */
#include "daemon/placement.h"

#include <sched.h>

#include "base/bits.h"
#include "base/compiler.h"
#include "daemon/base/clock.h"
#include "daemon/exec/executor.h"

#define PAUSE_NS_MIN (10 * NS_PER_MS)
#define PAUSE_NS_MAX (10 * NS_PER_S)

enum placement_move placement_slept(struct placement *p, bool in_flight, uint64_t slept_ns,
                                    uint64_t now_ns)
{
    uint32_t *n = in_flight ? &p->n_step : &p->n_bell;
    uint64_t brief_ns = in_flight ? PLACEMENT_STEP_BRIEF_NS : PLACEMENT_BELL_BRIEF_NS;
    if (p->n_core < 2)
        return PLACEMENT_STAY;
    *n = slept_ns < brief_ns ? *n + 1 : 0;
    if (*n < PLACEMENT_ROW || now_ns < p->next_ns)
        return PLACEMENT_STAY;
    p->n_bell = p->n_step = 0;
    bool anew = p->pause_ns == 0 || now_ns - p->next_ns > PAUSE_NS_MAX;
    p->pause_ns = anew ? PAUSE_NS_MIN : min_of(2 * p->pause_ns, (uint64_t)PAUSE_NS_MAX);
    p->next_ns = now_ns + p->pause_ns;
    return in_flight ? PLACEMENT_EXECUTOR : PLACEMENT_LOOP;
}

/* What this process may use; not ours alone: whoever started us may change it at any time. */
static bool usable(cpu_set_t *ret)
{
    CPU_ZERO(ret);
    return sched_getaffinity(0, sizeof(*ret), ret) == 0 && CPU_COUNT(ret) >= 2;
}

static void place_executors(struct placement *p, const cpu_set_t *cpus,
                            struct executor *const *executor, uint32_t n_executor)
{
    for (uint32_t i = 0; i < n_executor; i++)
        executor_place(executor[i], cpus);
    p->placed = true;
}

void placement_do(struct placement *p, enum placement_move move, struct executor *const *executor,
                  uint32_t n_executor)
{
    cpu_set_t all, some;
    if (move == PLACEMENT_STAY || !usable(&all))
        return;
    if (move == PLACEMENT_LOOP) { /* elsewhere, and free again once it is there */
        some = all;
        CPU_CLR((size_t)sched_getcpu(), &some);
        if (CPU_COUNT(&some) > 0 && sched_setaffinity(0, sizeof(some), &some) == 0)
            (void)sched_setaffinity(0, sizeof(all), &all);
    }
    some = all;
    if (p->n_core > 2) {
        CPU_CLR((size_t)sched_getcpu(), &some);
    } else {
        CPU_ZERO(&some);
        CPU_SET((size_t)sched_getcpu(), &some);
    }
    place_executors(p, &some, executor, n_executor);
}

void placement_step(struct placement *p, uint64_t step_ns, struct executor *const *executor,
                    uint32_t n_executor)
{
    cpu_set_t all;
    if (likely(!p->placed) || step_ns < PLACEMENT_STEP_BRIEF_NS || !usable(&all))
        return;
    place_executors(p, &all, executor, n_executor);
    p->placed = false;
}
