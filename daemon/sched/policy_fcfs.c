/* First come, first served, by urgency-adjusted arrival. */
#include "daemon/sched/sched_internal.h"

#include <errno.h>

#include "daemon/base/arena.h"

struct fcfs {
    struct heap waiting;
};

static int fcfs_create(const struct sched_config *config, struct sched *sched, struct arena *arena,
                       void **ret)
{
    (void)sched;
    struct fcfs *fcfs = arena_new(arena, struct fcfs);
    if (!fcfs)
        return -ENOMEM;
    *ret = fcfs;
    return heap_init(&fcfs->waiting, (uint32_t)config->requests_max, arena);
}

static void fcfs_add(void *self, struct ticket *ticket)
{
    struct fcfs *fcfs = self;
    ticket->order.key = ticket->order_ns;
    ticket->order.tie = ticket->serial;
    heap_put(&fcfs->waiting, &ticket->order);
}

static void fcfs_remove(void *self, struct ticket *ticket)
{
    struct fcfs *fcfs = self;
    heap_remove(&fcfs->waiting, &ticket->order);
}

static struct ticket *fcfs_next(void *self, uint64_t now_ns)
{
    (void)now_ns;
    struct fcfs *fcfs = self;
    struct heap_node *top = heap_top(&fcfs->waiting);
    if (!top)
        return NULL;
    heap_remove(&fcfs->waiting, top);
    return container_of(top, struct ticket, order);
}

const struct policy policy_fcfs = {
    .name = "fcfs",
    .create = fcfs_create,
    .add = fcfs_add,
    .remove = fcfs_remove,
    .next = fcfs_next,
    .put_back = fcfs_add,
    .before = ticket_before,
};
