/* The decision is counted here and made in few places; moving is a few system calls, seldom. */
#include "daemon/placement.h"

#include "base/bits.h"
#include "base/compiler.h"
#include "daemon/base/clock.h"
#include "daemon/exec/executor.h"

#define HOLD_NS_MIN (10 * NS_PER_MS)
#define HOLD_NS_MAX (10 * NS_PER_S)

enum placement_move placement_slept(struct placement *p, bool in_flight, uint64_t slept_ns,
                                    uint64_t now_ns)
{
    uint32_t *n = in_flight ? &p->n_step : &p->n_bell;
    uint64_t brief_ns = in_flight ? PLACEMENT_STEP_BRIEF_NS : PLACEMENT_BELL_BRIEF_NS;
    if (p->n_core < 2)
        return PLACEMENT_STAY;
    *n = slept_ns < brief_ns ? *n + 1 : 0;
    if (*n < PLACEMENT_ROW || (p->hold_ns && now_ns - p->moved_ns < HOLD_NS_MIN))
        return PLACEMENT_STAY;
    p->n_bell = p->n_step = 0;
    if (p->hold_ns == 0 || (now_ns > p->free_ns && now_ns - p->free_ns > p->hold_ns))
        p->hold_ns = HOLD_NS_MIN; /* the first, or long after the last was let go */
    else
        p->hold_ns = min_of(2 * p->hold_ns, (uint64_t)HOLD_NS_MAX);
    p->moved_ns = now_ns;
    p->free_ns = now_ns + p->hold_ns;
    return in_flight ? PLACEMENT_EXECUTOR : PLACEMENT_LOOP;
}

static cpu_set_t here(void)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)sched_getcpu(), &set);
    return set;
}

static cpu_set_t without(const cpu_set_t *all, const cpu_set_t *some)
{
    cpu_set_t set;
    CPU_XOR(&set, all, some);
    CPU_AND(&set, &set, all);
    return set;
}

static void place_loop(struct placement *p, const cpu_set_t *cpus)
{
    if (sched_setaffinity(0, sizeof(*cpus), cpus) == 0)
        p->loop = *cpus;
}

/* What the process may use. False: nothing to choose, or somebody else has placed us meanwhile. */
static bool look(struct placement *p)
{
    cpu_set_t now;
    CPU_ZERO(&now);
    if (sched_getaffinity(0, sizeof(now), &now) < 0 || (p->placed && !CPU_EQUAL(&now, &p->loop)))
        return false;
    if (!p->placed)
        p->all = p->loop = now;
    return CPU_COUNT(&p->all) >= 2;
}

void placement_do(struct placement *p, enum placement_move move, struct executor *const *executor,
                  uint32_t n_executor)
{
    cpu_set_t cpus = here();
    if (move == PLACEMENT_STAY || !look(p))
        return;
    p->placed = true;
    if (move == PLACEMENT_LOOP) {
        cpus = without(&p->all, &cpus);
        place_loop(p, &cpus); /* it is there when this returns */
        cpus = here();
    }
    if (p->n_core > 2)
        cpus = without(&p->all, &cpus);
    else
        place_loop(p, &cpus);
    for (uint32_t i = 0; i < n_executor; i++)
        executor_place(executor[i], &cpus);
}

static void let_go(struct placement *p, struct executor *const *executor, uint32_t n_executor)
{
    if (look(p))
        place_loop(p, &p->all);
    for (uint32_t i = 0; i < n_executor; i++)
        executor_place(executor[i], &p->all);
    p->placed = false;
}

void placement_turn(struct placement *p, uint64_t now_ns, struct executor *const *executor,
                    uint32_t n_executor)
{
    if (unlikely(p->placed) && now_ns >= p->free_ns)
        let_go(p, executor, n_executor);
}

void placement_step(struct placement *p, uint64_t step_ns, struct executor *const *executor,
                    uint32_t n_executor)
{
    if (unlikely(p->placed) && step_ns >= PLACEMENT_STEP_BRIEF_NS)
        let_go(p, executor, n_executor);
}
