/*
 * Memory of requests: prompts, stop lists and outputs of any size from one preallocated region.
 * Two-level segregated fit: taking and giving back are a few bit operations and at most one
 * split or two merges, whatever the state of the region. Loop thread only.
 *
 *   class (first level, power of two) x 16 slices (second level) -> a list of free pieces;
 *   neighbours are found by boundary tags, so free pieces never lie side by side
 */
#ifndef RINGLET_BASE_PAYLOAD_H
#define RINGLET_BASE_PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena;
struct payload_pool;

/*
 * A pool over `bytes` of lazy memory (arena_take_lazy), 4 KiB up to 64 GiB.
 * Returns: 0; -EINVAL; -ENOMEM. Thread: start-up.
 */
int payload_create(size_t bytes, struct arena *arena, struct payload_pool **ret);

/* A piece of at least `bytes`, 16-aligned, not zeroed; NULL where none fits. Thread: loop. */
void *payload_take(struct payload_pool *pool, size_t bytes);

/* Give a piece back; NULL is fine. Thread: loop. */
void payload_give(struct payload_pool *pool, void *p);

/* Pieces that came back so far: whoever waits for room looks when this has changed. */
uint64_t payload_gives(const struct payload_pool *pool);

/* Bytes out, headers included; 0 when every piece is back. */
size_t payload_used(const struct payload_pool *pool);
size_t payload_bytes(const struct payload_pool *pool);

/* Walks the whole region: sizes add up, tags agree, no free neighbours. For tests. */
bool payload_consistent(const struct payload_pool *pool);

#endif
