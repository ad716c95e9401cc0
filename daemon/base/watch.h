/*
 * How long has somebody waited for something that does not come? The time between two looks counts
 * for WATCH_GAP_NS at most: one who was stopped himself (SIGSTOP, a paused machine, a core given to
 * others) cannot tell, for what he waits for may have been stopped with him. Looks must not be
 * further apart than that. Pure.
 */
#ifndef RINGLET_BASE_WATCH_H
#define RINGLET_BASE_WATCH_H

#include <stdint.h>

#include "base/compiler.h"

#define WATCH_GAP_NS (UINT64_C(250) * 1000000)

struct watch {
    uint64_t mark, seen_ns, waited_ns;
};

/*
 * One look.
 *
 *   mark   tells apart what is waited for: with another one the wait begins anew
 *
 * Returns: how long it has been waited for, in nanoseconds; 0 at the first look.
 */
static inline uint64_t watch_look(struct watch *w, uint64_t mark, uint64_t now_ns)
{
    if (w->seen_ns == 0 || w->mark != mark)
        w->waited_ns = 0;
    else if (now_ns > w->seen_ns)
        w->waited_ns += min_of(now_ns - w->seen_ns, WATCH_GAP_NS);
    w->mark = mark;
    w->seen_ns = now_ns;
    return w->waited_ns;
}

#endif
