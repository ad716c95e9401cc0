/*
 * Brings mapped ranges of a file into memory ahead of whoever reads them: a few threads fault
 * pages in, in the order of the ranges, while weights are packed or uploaded.
 */
#ifndef RINGLET_MODEL_PREFETCH_H
#define RINGLET_MODEL_PREFETCH_H

#include <stddef.h>

struct prefetch;

struct prefetch_range {
    const void *data;
    size_t bytes;
};

/*
 * Start on a copy of the ranges. Only speed depends on it: on any failure *ret is NULL.
 * Thread: start-up; two threads of its own run until they are through or stopped.
 */
void prefetch_start(const struct prefetch_range *ranges, int n, struct prefetch **ret);

/* Stop early if need be, join. NULL is fine. */
void prefetch_stop(struct prefetch *p);

/* Give mapped pages back to the page cache: nobody reads this range soon. */
void prefetch_drop(const void *data, size_t bytes);

#endif
