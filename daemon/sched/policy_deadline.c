/*
 * Earliest deadline first. What has no deadline is due at a horizon after its (urgency-adjusted)
 * arrival, so it is not passed for ever by a stream of requests with short deadlines.
 */
#include "daemon/sched/sched_internal.h"

#include <errno.h>

#include "base/compiler.h"
#include "daemon/base/arena.h"

#define HORIZON_NS (UINT64_C(10) * 1000000000)

struct edf {
    struct heap waiting;
};

static int edf_create(const struct sched_config *config, struct sched *sched, struct arena *arena,
                      void **ret)
{
    (void)sched;
    struct edf *edf = arena_new(arena, struct edf);
    if (!edf)
        return -ENOMEM;
    *ret = edf;
    return heap_init(&edf->waiting, (uint32_t)config->requests_max, arena);
}

static uint64_t due(const struct ticket *ticket)
{
    const struct request_params *params = &ticket->request->params;
    uint64_t key = ticket->order_ns + HORIZON_NS;
    if (params->total_deadline_ns)
        key = min_of(key, params->total_deadline_ns);
    if (params->queue_deadline_ns && !ticket->admitted_once)
        key = min_of(key, params->queue_deadline_ns);
    if (params->first_token_deadline_ns && ticket->request->totals.first_token_ns == 0)
        key = min_of(key, params->first_token_deadline_ns);
    return key;
}

static void edf_add(void *self, struct ticket *ticket)
{
    struct edf *edf = self;
    ticket->order.key = due(ticket);
    ticket->order.tie = ticket->serial;
    heap_put(&edf->waiting, &ticket->order);
}

static void edf_remove(void *self, struct ticket *ticket)
{
    struct edf *edf = self;
    heap_remove(&edf->waiting, &ticket->order);
}

static struct ticket *edf_next(void *self, uint64_t now_ns)
{
    (void)now_ns;
    struct edf *edf = self;
    struct heap_node *top = heap_top(&edf->waiting);
    if (!top)
        return NULL;
    heap_remove(&edf->waiting, top);
    return container_of(top, struct ticket, order);
}

static bool edf_before(const struct ticket *a, const struct ticket *b)
{
    return due(a) < due(b) || (due(a) == due(b) && a->serial < b->serial);
}

const struct policy policy_deadline = {
    .name = "deadline",
    .create = edf_create,
    .add = edf_add,
    .remove = edf_remove,
    .next = edf_next,
    .put_back = edf_add,
    .before = edf_before,
};
