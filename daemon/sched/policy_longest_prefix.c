/*
 * Among the first few in order of arrival (urgency-adjusted), the one with the most cached prefix:
 * requests that share a prefix run together, before it is evicted. The first is passed over so many
 * times and no more.
 */
#include "daemon/sched/sched_internal.h"

#include <errno.h>

#include "base/compiler.h"
#include "daemon/base/arena.h"

enum { WINDOW = 16, PASSED_MAX = 16 };

struct prefix {
    struct heap waiting;
    struct sched *sched;
};

static int prefix_create(const struct sched_config *config, struct sched *sched,
                         struct arena *arena, void **ret)
{
    struct prefix *prefix = arena_new(arena, struct prefix);
    if (!prefix)
        return -ENOMEM;
    prefix->sched = sched;
    *ret = prefix;
    return heap_init(&prefix->waiting, (uint32_t)config->requests_max, arena);
}

static void prefix_add(void *self, struct ticket *ticket)
{
    struct prefix *prefix = self;
    ticket->order.key = ticket->order_ns;
    ticket->order.tie = ticket->serial;
    heap_put(&prefix->waiting, &ticket->order);
}

static void prefix_remove(void *self, struct ticket *ticket)
{
    struct prefix *prefix = self;
    heap_remove(&prefix->waiting, &ticket->order);
}

static struct ticket *prefix_next(void *self, uint64_t now_ns)
{
    (void)now_ns;
    struct prefix *prefix = self;
    struct ticket *window[WINDOW], *best = NULL;
    uint32_t n_window = 0, best_cached = 0;
    while (n_window < WINDOW && heap_top(&prefix->waiting)) {
        struct heap_node *top = heap_top(&prefix->waiting);
        heap_remove(&prefix->waiting, top);
        window[n_window++] = container_of(top, struct ticket, order);
    }
    for (uint32_t ticket_i = 0; ticket_i < n_window; ticket_i++) {
        uint32_t n_cached = admission_hint(prefix->sched, window[ticket_i]);
        if (!best || n_cached > best_cached) {
            best = window[ticket_i];
            best_cached = n_cached;
        }
    }
    if (n_window > 0 && best != window[0] && ++window[0]->n_passed > PASSED_MAX)
        best = window[0];
    for (uint32_t ticket_i = 0; ticket_i < n_window; ticket_i++) {
        if (window[ticket_i] != best)
            heap_put(&prefix->waiting, &window[ticket_i]->order);
    }
    return best;
}

const struct policy policy_longest_prefix = {
    .name = "longest-prefix",
    .create = prefix_create,
    .add = prefix_add,
    .remove = prefix_remove,
    .next = prefix_next,
    .put_back = prefix_add,
    .before = ticket_before,
};
