/*
 * The start-up allocator: one reservation, taken piece by piece while the daemon sets itself up and
 * closed by arena_seal before it serves anyone. Pieces are zeroed, never freed one by one, and
 * apart from each other by poisoned red zones under ASan.
 *
 *   INIT --arena_seal--> SEALED --arena_free--> EXIT
 */
#ifndef RINGLET_BASE_ARENA_H
#define RINGLET_BASE_ARENA_H

#include <stdbool.h>
#include <stddef.h>

struct arena;

/*
 * Reserve room for `bytes` in all; memory is taken from the system as pieces are taken.
 * Returns: 0; -ENOMEM. Thread: start-up.
 */
int arena_create(size_t bytes, struct arena **ret);
void arena_free(struct arena *a);

/*
 * Take `bytes` (0 gives one byte of its own), aligned to `align` (a power of two, at least 16 is
 * kept). The piece is zero. Taking from a sealed arena is a bug of ours: it aborts.
 * Returns NULL when the reservation is used up. Thread: start-up.
 */
void *arena_take(struct arena *a, size_t bytes, size_t align);

/*
 * As arena_take, of a mapping of its own whose pages come with their first use: for pools that are
 * sized for the worst case. At most ARENA_LAZY_MAX of them; freed with the arena.
 */
enum { ARENA_LAZY_MAX = 32 };
void *arena_take_lazy(struct arena *a, size_t bytes);

/* n zeroed objects of a type on a cache line of their own, or NULL (also where n * size overflows).
 */
void *arena_take_array(struct arena *a, size_t n, size_t object_bytes);
#define arena_new(a, type)      ((type *)arena_take_array((a), 1, sizeof(type)))
#define arena_array(a, type, n) ((type *)arena_take_array((a), (size_t)(n), sizeof(type)))

/* Touch every page that was taken, so that no page fault is left for later, and close the arena. */
void arena_seal(struct arena *a);
bool arena_sealed(const struct arena *a);

size_t arena_used(const struct arena *a);
size_t arena_bytes(const struct arena *a);

#endif
