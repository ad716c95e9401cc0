/*
 * Objects of one size with handles that go stale: index and generation name an object only until it
 * is put back. Fixed capacity, from the arena; taking and putting are O(1). One thread.
 */
#ifndef RINGLET_BASE_POOL_H
#define RINGLET_BASE_POOL_H

#include <stddef.h>
#include <stdint.h>

struct arena;
struct pool;

/* Returns: 0; -EINVAL no objects or none of any size; -ENOMEM. Thread: start-up. */
int pool_create(size_t object_bytes, uint32_t n_object, struct arena *arena, struct pool **ret);

/* A zeroed object, or NULL when all are out. The lowest indices are used first. */
void *pool_take(struct pool *pool);

/* Put an object back; its handles are stale from here on. Putting it twice aborts. */
void pool_put(struct pool *pool, void *object);

/* Index and generation (never 0) of an object that is out. */
uint32_t pool_index(const struct pool *pool, const void *object);
uint32_t pool_generation(const struct pool *pool, uint32_t index);

/* The object of a handle, or NULL where it is stale or never was one. Any values are safe. */
void *pool_get(const struct pool *pool, uint32_t index, uint32_t generation);

uint32_t pool_used(const struct pool *pool);
uint32_t pool_size(const struct pool *pool);

#endif
