/*
 * One PROT_NONE-free, lazily committed mapping and a bump pointer. Start-up thread only; after the
 * seal nothing here runs until the daemon exits.
 */
#include "daemon/base/arena.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/compiler.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
enum { RED_ZONE_BYTES = 64 };
#else
#define ASAN_POISON_MEMORY_REGION(p, n)   ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
enum { RED_ZONE_BYTES = 0 };
#endif

enum { ALIGN_MIN = 16 };

struct arena {
    uint8_t *base;
    size_t bytes, used;
    bool sealed;
    struct {
        void *base;
        size_t bytes;
    } lazy[ARENA_LAZY_MAX];
    int n_lazy;
};

int arena_create(size_t bytes, struct arena **ret)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (bytes == 0 || bytes > SIZE_MAX / 2)
        return -ENOMEM;
    bytes = align_up(bytes, page);
    struct arena *a = calloc(1, sizeof(*a));
    if (!a)
        return -ENOMEM;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    a->base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (a->base == MAP_FAILED) {
        free(a);
        return -ENOMEM;
    }
    a->bytes = bytes;
    ASAN_POISON_MEMORY_REGION(a->base, bytes);
    *ret = a;
    return 0;
}

void arena_free(struct arena *a)
{
    if (!a)
        return;
    ASAN_UNPOISON_MEMORY_REGION(a->base, a->bytes);
    munmap(a->base, a->bytes);
    for (int i = 0; i < a->n_lazy; i++)
        munmap(a->lazy[i].base, a->lazy[i].bytes);
    free(a);
}

void *arena_take_lazy(struct arena *a, size_t bytes)
{
    assert(!a->sealed);
    if (a->n_lazy == ARENA_LAZY_MAX || bytes == 0)
        return NULL;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (base == MAP_FAILED)
        return NULL;
    a->lazy[a->n_lazy].base = base;
    a->lazy[a->n_lazy++].bytes = bytes;
    return base;
}

void *arena_take(struct arena *a, size_t bytes, size_t align)
{
    assert(!a->sealed);
    assert(is_pow2(align));
    align = max_of(align, (size_t)ALIGN_MIN);
    if (align > a->bytes || a->used > a->bytes - align)
        return NULL;
    size_t at = align_up(a->used, align);
    size_t take = bytes ? bytes : 1, end;
    if (add_overflows(at, take, &end) || add_overflows(end, (size_t)RED_ZONE_BYTES, &end))
        return NULL;
    if (end > a->bytes)
        return NULL;
    a->used = end;
    ASAN_UNPOISON_MEMORY_REGION(a->base + at, take);
    return a->base + at;
}

void *arena_take_array(struct arena *a, size_t n, size_t object_bytes)
{
    size_t bytes;
    if (mul_overflows(n, object_bytes, &bytes))
        return NULL;
    return arena_take(a, bytes, CACHE_LINE_PAIR);
}

void arena_seal(struct arena *a)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t bytes = align_up(a->used, page);
#ifdef MADV_POPULATE_WRITE
    if (bytes && madvise(a->base, bytes, MADV_POPULATE_WRITE) == 0)
        bytes = 0;
#endif
    for (size_t i = 0; i < bytes; i += page) { /* an old kernel: a write of what is there */
        volatile uint8_t *p = a->base + i;
#if defined(__SANITIZE_ADDRESS__)
        (void)p;
#else
        *p = *p;
#endif
    }
    a->sealed = true;
}

bool arena_sealed(const struct arena *a)
{
    return a->sealed;
}

size_t arena_used(const struct arena *a)
{
    return a->used;
}

size_t arena_bytes(const struct arena *a)
{
    return a->bytes;
}
