/*
 * Pieces lie back to back. Each has a 16-byte header {bytes of the piece before, own bytes | used};
 * a free piece keeps its list links in its body. The last piece is a used sentinel of no size, so
 * a merge never runs off the end; the first piece's `before` is 0.
 *
 *   | before, bytes|1 | body ...        | before, bytes|0 | next, prev, ... | ... | sentinel |
 */
#include "daemon/base/payload.h"

#include <errno.h>
#include <stdint.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/compiler.h"
#include "daemon/base/arena.h"

enum {
    UNIT = 16,
    SLICES_LOG2 = 4,
    SLICES = 1 << SLICES_LOG2,
    CLASSES = 33, /* of units: up to 2^36 bytes */
    BYTES_MIN = 2 * UNIT + UNIT,
};
#define USED UINT64_C(1)

struct piece {
    uint64_t before;           /* bytes of the piece before this one, its header included */
    uint64_t bytes_state;      /* own bytes, header included, | USED */
    struct piece *next, *prev; /* free only */
};

struct payload_pool {
    uint8_t *base;
    size_t bytes, used;
    uint64_t n_give;
    uint64_t class_map;
    uint32_t slice_map[CLASSES];
    struct piece *free_list[CLASSES][SLICES];
};

static uint64_t piece_bytes(const struct piece *p)
{
    return p->bytes_state & ~USED;
}

static bool piece_used(const struct piece *p)
{
    return p->bytes_state & USED;
}

static struct piece *piece_after(struct piece *p)
{
    return (struct piece *)(void *)((uint8_t *)p + piece_bytes(p));
}

static struct piece *piece_before(struct piece *p)
{
    return (struct piece *)(void *)((uint8_t *)p - p->before);
}

/* Class and slice of a size: below SLICES units exact, then SLICES per power of two. */
static void place_of(uint64_t bytes, int *ret_class, int *ret_slice)
{
    uint64_t units = bytes / UNIT;
    if (units < SLICES) {
        *ret_class = 0;
        *ret_slice = (int)units;
        return;
    }
    int top = 63 - __builtin_clzll(units);
    *ret_class = top - SLICES_LOG2 + 1;
    *ret_slice = (int)((units >> (top - SLICES_LOG2)) & (SLICES - 1));
}

static void list_add(struct payload_pool *pool, struct piece *p)
{
    int class_i, slice_i;
    place_of(piece_bytes(p), &class_i, &slice_i);
    struct piece **head = &pool->free_list[class_i][slice_i];
    p->prev = NULL;
    p->next = *head;
    if (*head)
        (*head)->prev = p;
    *head = p;
    pool->slice_map[class_i] |= 1u << slice_i;
    pool->class_map |= UINT64_C(1) << class_i;
}

static void list_drop(struct payload_pool *pool, struct piece *p)
{
    int class_i, slice_i;
    place_of(piece_bytes(p), &class_i, &slice_i);
    struct piece **head = &pool->free_list[class_i][slice_i];
    if (p->prev)
        p->prev->next = p->next;
    else
        *head = p->next;
    if (p->next)
        p->next->prev = p->prev;
    if (!*head) {
        pool->slice_map[class_i] &= ~(1u << slice_i);
        if (!pool->slice_map[class_i])
            pool->class_map &= ~(UINT64_C(1) << class_i);
    }
}

int payload_create(size_t bytes, struct arena *arena, struct payload_pool **ret)
{
    if (bytes < 4096 || bytes > UINT64_C(1) << 36)
        return -EINVAL;
    bytes = bytes / UNIT * UNIT;
    struct payload_pool *pool = arena_new(arena, struct payload_pool);
    uint8_t *base = arena_take_lazy(arena, bytes);
    if (!pool || !base)
        return -ENOMEM;
    pool->base = base;
    pool->bytes = bytes;
    struct piece *first = (struct piece *)(void *)base;
    first->bytes_state = bytes - UNIT;
    struct piece *sentinel = piece_after(first);
    sentinel->before = bytes - UNIT;
    sentinel->bytes_state = UNIT | USED;
    list_add(pool, first);
    *ret = pool;
    return 0;
}

/* The first free piece of a list whose every member is large enough. */
static struct piece *find(struct payload_pool *pool, uint64_t bytes)
{
    uint64_t units = bytes / UNIT;
    if (units >= SLICES) /* round up to the next slice, so any member fits */
        units += (UINT64_C(1) << (63 - __builtin_clzll(units) - SLICES_LOG2)) - 1;
    int class_i, slice_i;
    place_of(units * UNIT, &class_i, &slice_i);
    if (class_i >= CLASSES)
        return NULL;
    uint32_t slices = pool->slice_map[class_i] & (~0u << slice_i);
    if (!slices) {
        uint64_t classes = class_i + 1 < 64 ? pool->class_map & (~UINT64_C(0) << (class_i + 1)) : 0;
        if (!classes)
            return NULL;
        class_i = __builtin_ctzll(classes);
        slices = pool->slice_map[class_i];
    }
    return pool->free_list[class_i][__builtin_ctz(slices)];
}

void *payload_take(struct payload_pool *pool, size_t bytes)
{
    if (bytes > pool->bytes)
        return NULL;
    uint64_t need = max_of(align_up(bytes, UNIT) + UNIT, (uint64_t)BYTES_MIN);
    struct piece *p = find(pool, need);
    if (!p)
        return NULL;
    assert(!piece_used(p) && piece_bytes(p) >= need);
    list_drop(pool, p);
    uint64_t rest = piece_bytes(p) - need;
    if (rest >= BYTES_MIN) {
        p->bytes_state = need;
        struct piece *tail = piece_after(p);
        tail->before = need;
        tail->bytes_state = rest;
        piece_after(tail)->before = rest;
        list_add(pool, tail);
    }
    p->bytes_state |= USED;
    pool->used += piece_bytes(p);
    return (uint8_t *)p + UNIT;
}

void payload_give(struct payload_pool *pool, void *body)
{
    if (!body)
        return;
    struct piece *p = (struct piece *)(void *)((uint8_t *)body - UNIT);
    assert((uint8_t *)p >= pool->base && (uint8_t *)p < pool->base + pool->bytes - UNIT);
    assert(piece_used(p));
    pool->used -= piece_bytes(p);
    pool->n_give++;
    p->bytes_state &= ~USED;
    struct piece *after = piece_after(p);
    if (!piece_used(after)) {
        list_drop(pool, after);
        p->bytes_state += piece_bytes(after);
    }
    if (p->before) {
        struct piece *before = piece_before(p);
        if (!piece_used(before)) {
            list_drop(pool, before);
            before->bytes_state += piece_bytes(p);
            p = before;
        }
    }
    piece_after(p)->before = piece_bytes(p);
    list_add(pool, p);
}

uint64_t payload_gives(const struct payload_pool *pool)
{
    return pool->n_give;
}

size_t payload_used(const struct payload_pool *pool)
{
    return pool->used;
}

size_t payload_bytes(const struct payload_pool *pool)
{
    return pool->bytes;
}

bool payload_consistent(const struct payload_pool *pool)
{
    uint64_t at = 0, before = 0, used = 0;
    bool free_before = false;
    while (at < pool->bytes - UNIT) {
        const struct piece *p = (const struct piece *)(const void *)(pool->base + at);
        if (p->before != before || piece_bytes(p) < UNIT || piece_bytes(p) % UNIT)
            return false;
        if (!piece_used(p) && free_before)
            return false;
        free_before = !piece_used(p);
        used += piece_used(p) ? piece_bytes(p) : 0;
        before = piece_bytes(p);
        at += before;
    }
    return at == pool->bytes - UNIT && used == pool->used;
}
