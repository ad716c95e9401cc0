/* Byte rings freed in entry order, and the checked copy out of a peer's arena. */
#include "shm/span.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "shm/peer.h"

void span_arena_init(struct span_arena *a, uint64_t bytes, uint64_t *ends, uint32_t n_entry,
                     uint32_t start)
{
    assert(is_pow2(n_entry) && bytes % RINGLET_SPAN_ALIGN == 0 && bytes <= UINT32_MAX);
    *a = (struct span_arena){ .bytes = bytes, .ends = ends, .mask = n_entry - 1, .next = start };
}

/* Where a piece of `need` bytes would begin, as a cursor; need <= bytes. */
static uint64_t place(const struct span_arena *a, uint64_t need)
{
    uint64_t off = a->tail % a->bytes;
    return off + need <= a->bytes ? a->tail : a->tail + (a->bytes - off);
}

int span_arena_take(struct span_arena *a, uint64_t bytes, uint32_t *ret_off)
{
    if (bytes == 0) {
        *ret_off = 0;
        return 0;
    }
    if (bytes > a->bytes)
        return -EMSGSIZE;
    if (a->head == a->tail) /* empty: begin at the front, where a piece of any size fits */
        a->head = a->tail += a->bytes - a->tail % a->bytes;
    uint64_t need = align_up(bytes, RINGLET_SPAN_ALIGN);
    uint64_t from = place(a, need);
    if (from + need - a->head > a->bytes)
        return -EAGAIN;
    a->tail = from + need;
    *ret_off = (uint32_t)(from % a->bytes);
    return 0;
}

uint64_t span_arena_room(const struct span_arena *a)
{
    if (a->head == a->tail)
        return a->bytes;
    uint64_t left = a->bytes - (a->tail - a->head);
    uint64_t to_end = a->bytes - a->tail % a->bytes;
    if (left <= to_end)
        return left;
    return max_of(to_end, left - to_end);
}

int span_fetch(void *to, const void *arena, uint64_t arena_bytes, uint32_t off, uint32_t bytes,
               uint32_t align)
{
    if (!span_inside(off, bytes, arena_bytes) || (off & (align - 1)))
        return -EFAULT;
#if defined(RINGLET_LOAD_HOOK) || defined(RINGLET_EXPLORE) /* byte by byte, each seen */
    const unsigned char *from = (const unsigned char *)arena + off;
    for (uint32_t i = 0; i < bytes; i++)
        ((unsigned char *)to)[i] = peer_load(from + i);
#else
    memcpy(to, (const unsigned char *)arena + off, bytes);
    compiler_barrier();
#endif
    return 0;
}
