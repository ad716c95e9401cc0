/* Plain data of the executor thread. */
#include "daemon/exec/turns.h"

#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/compiler.h"

/* How far behind the others a model may come back: what it is owed after a short pause. */
static const uint64_t credit_ns_max = 20000000;

void turns_add(struct turns *t, struct step *step)
{
    struct turn *turn = &t->model[step->model];
    uint64_t least_ns = UINT64_MAX;
    for (int i = 0; i < EXECUTOR_MODELS_MAX; i++)
        if (t->model[i].n > 0)
            least_ns = min_of(least_ns, t->model[i].used_ns);
    if (turn->n == 0 && least_ns != UINT64_MAX && least_ns > credit_ns_max)
        turn->used_ns = max_of(turn->used_ns, least_ns - credit_ns_max);
    assert(turn->n < EXECUTOR_STEPS_MAX);
    turn->step[turn->n++] = step;
}

struct step *turns_take(struct turns *t)
{
    struct turn *best = NULL;
    for (int i = 0; i < EXECUTOR_MODELS_MAX; i++) {
        struct turn *turn = &t->model[i];
        if (turn->n > 0 && (!best || turn->used_ns < best->used_ns))
            best = turn;
    }
    if (!best)
        return NULL;
    struct step *step = best->step[0];
    best->n--;
    memmove(best->step, best->step + 1, (size_t)best->n * sizeof(best->step[0]));
    return step;
}

void turns_charge(struct turns *t, int model, uint64_t ns)
{
    t->model[model].used_ns += ns;
}
