/* The threads share a counter of pieces; nothing else is written after the start. */
#include "daemon/model/prefetch.h"

#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/atomics.h"
#include "base/bits.h"
#include "base/compiler.h"

enum {
    THREADS = 2,
    PIECE_BYTES = 8 << 20,
    PAGE_BYTES = 4096,
};

struct prefetch {
    struct prefetch_range *ranges;
    int n;
    uint64_t next; /* piece, counted over all ranges */
    uint32_t stopping;
    pthread_t thread[THREADS];
    int n_thread;
};

static uint64_t range_pieces(const struct prefetch_range *r)
{
    return div_ceil(r->bytes, PIECE_BYTES);
}

/* Fault one piece in: at once where the kernel can, else page by page. */
static void fault_in(const uint8_t *from, size_t bytes)
{
    uintptr_t start = (uintptr_t)from & ~(uintptr_t)(PAGE_BYTES - 1);
    size_t span = (uintptr_t)from + bytes - start;
#ifdef MADV_POPULATE_READ
    if (madvise((void *)start, span, MADV_POPULATE_READ) == 0)
        return;
#endif
    for (size_t at = 0; at < span; at += PAGE_BYTES)
        (void)*(const volatile uint8_t *)max_of(start + at, (uintptr_t)from);
}

static void *prefetch_main(void *arg)
{
    struct prefetch *p = arg;
    uint64_t first = 0;
    int range_i = 0;
    while (!load_once(&p->stopping)) {
        uint64_t piece = __atomic_fetch_add(&p->next, 1, __ATOMIC_RELAXED);
        while (range_i < p->n && piece >= first + range_pieces(&p->ranges[range_i]))
            first += range_pieces(&p->ranges[range_i++]);
        if (range_i == p->n)
            return NULL;
        size_t offset = (size_t)(piece - first) * PIECE_BYTES;
        const struct prefetch_range *r = &p->ranges[range_i];
        fault_in((const uint8_t *)r->data + offset, min_of(r->bytes - offset, (size_t)PIECE_BYTES));
    }
    return NULL;
}

void prefetch_start(const struct prefetch_range *ranges, int n, struct prefetch **ret)
{
    struct prefetch *p = calloc(1, sizeof(*p));
    *ret = NULL;
    if (!p)
        return;
    p->ranges = calloc((size_t)n + 1, sizeof(*p->ranges));
    if (p->ranges && n > 0) {
        memcpy(p->ranges, ranges, (size_t)n * sizeof(*ranges));
        p->n = n;
        while (p->n_thread < THREADS &&
               pthread_create(&p->thread[p->n_thread], NULL, prefetch_main, p) == 0)
            p->n_thread++;
    }
    *ret = p;
}

void prefetch_stop(struct prefetch *p)
{
    if (!p)
        return;
    store_once(&p->stopping, 1);
    for (int i = 0; i < p->n_thread; i++)
        pthread_join(p->thread[i], NULL);
    free(p->ranges);
    free(p);
}

void prefetch_drop(const void *data, size_t bytes)
{
    uintptr_t start = align_up((uintptr_t)data, PAGE_BYTES);
    uintptr_t end = ((uintptr_t)data + bytes) & ~(uintptr_t)(PAGE_BYTES - 1);
    if (end > start)
        madvise((void *)start, end - start, MADV_DONTNEED); /* clean pages of a file: a hint */
}
