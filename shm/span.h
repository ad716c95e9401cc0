/*
 * Byte arenas beside the rings: prompts go up, ids and text go down. An arena is a byte ring that
 * is freed in entry order: consuming a ring entry frees what it names, so there is no release
 * message. A piece is contiguous and 8-aligned; where it does not fit before the arena's end the
 * rest is skipped and freed with it. Only the writer keeps cursors, in private memory.
 */
#ifndef RINGLET_SHM_SPAN_H
#define RINGLET_SHM_SPAN_H

#include <stdint.h>

#include "base/compiler.h"
#include "ringlet_abi.h"

/*
 * The writer's private view. Cursors only grow; a byte's offset is its cursor mod bytes.
 *
 *     head                           tail
 *      | entries put | being filled |        free: bytes - (tail - head)
 */
struct span_arena {
    uint64_t bytes;
    uint64_t head;  /* freed up to here */
    uint64_t tail;  /* taken up to here */
    uint64_t *ends; /* [mask + 1]: `tail` when the entry with that number was put */
    uint32_t mask;
    uint32_t next; /* running number of the oldest entry that was not freed */
};

/*
 * Set up an arena beside a ring.
 *
 *   bytes     of the arena, multiple of 8
 *   ends      n_entry words of private memory, kept by the caller as long as the arena lives
 *   n_entry   entries of the ring, power of two
 *   start     running number of the ring's first entry
 */
void span_arena_init(struct span_arena *a, uint64_t bytes, uint64_t *ends, uint32_t n_entry,
                     uint32_t start);

/*
 * Take a contiguous piece for the entry that is being filled. May be called several times for one
 * entry.
 *
 *   bytes     0 gives offset 0 and takes nothing
 *   ret_off   from the arena's start, 8-aligned
 *
 * Returns: 0; -EAGAIN not free now; -EMSGSIZE larger than the arena.
 */
nodiscard int span_arena_take(struct span_arena *a, uint64_t bytes, uint32_t *ret_off);

/* The largest piece that span_arena_take would give now. */
uint64_t span_arena_room(const struct span_arena *a);

/* The entry with this running number is published and owns all that was taken. Call for each. */
static inline void span_arena_put(struct span_arena *a, uint32_t number)
{
    a->ends[number & a->mask] = a->tail;
}

/* The reader consumed all entries before `head` (checked, see ring_writer_see_head). */
static inline void span_arena_free_to(struct span_arena *a, uint32_t head)
{
    if (head == a->next)
        return;
    uint64_t end = a->ends[(head - 1) & a->mask];
    if ((int64_t)(end - a->head) > 0) /* an empty arena may have moved on to its front */
        a->head = end;
    a->next = head;
}

/*
 * Copy a span out of the peer's arena into private memory, after checking that it lies inside. The
 * bytes are read once; they may change afterwards, the copy cannot.
 *
 *   arena, arena_bytes   the mapping and its private size
 *   off, bytes           from a private copy of an entry or block
 *   align                power of two that off must be a multiple of
 *
 * Returns: 0; -EFAULT outside of the arena or misaligned.
 */
nodiscard int span_fetch(void *to, const void *arena, uint64_t arena_bytes, uint32_t off,
                         uint32_t bytes, uint32_t align);

#endif
