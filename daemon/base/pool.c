/*
 * Owns the objects and, beside them, a generation and a link each. The link of an object that is
 * out is POOL_OUT, so a double put is seen. The generation grows when an object is put back.
 */
#include "daemon/base/pool.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "daemon/base/arena.h"

#define POOL_END UINT32_MAX
#define POOL_OUT (UINT32_MAX - 1)

struct pool {
    char *objects;
    size_t object_bytes, stride;
    uint32_t n_object, n_used;
    uint32_t free_first;
    uint32_t *link, *generation;
};

int pool_create(size_t object_bytes, uint32_t n_object, struct arena *arena, struct pool **ret)
{
    if (object_bytes == 0 || n_object == 0 || n_object >= POOL_OUT)
        return -EINVAL;
    struct pool *pool = arena_new(arena, struct pool);
    if (!pool)
        return -ENOMEM;
    pool->object_bytes = object_bytes;
    pool->stride = align_up(object_bytes, 16);
    pool->n_object = n_object;
    pool->objects = arena_take_array(arena, n_object, pool->stride);
    pool->link = arena_array(arena, uint32_t, n_object);
    pool->generation = arena_array(arena, uint32_t, n_object);
    if (!pool->objects || !pool->link || !pool->generation)
        return -ENOMEM;
    for (uint32_t object_i = 0; object_i < n_object; object_i++) {
        pool->link[object_i] = object_i + 1 < n_object ? object_i + 1 : POOL_END;
        pool->generation[object_i] = 1;
    }
    *ret = pool;
    return 0;
}

void *pool_take(struct pool *pool)
{
    uint32_t index = pool->free_first;
    if (index == POOL_END)
        return NULL;
    pool->free_first = pool->link[index];
    pool->link[index] = POOL_OUT;
    pool->n_used++;
    return memset(pool->objects + index * pool->stride, 0, pool->object_bytes);
}

void pool_put(struct pool *pool, void *object)
{
    uint32_t index = pool_index(pool, object);
    assert(pool->link[index] == POOL_OUT);
    pool->link[index] = pool->free_first;
    pool->free_first = index;
    pool->n_used--;
    if (++pool->generation[index] == 0)
        pool->generation[index] = 1;
}

uint32_t pool_index(const struct pool *pool, const void *object)
{
    size_t off = (size_t)((const char *)object - pool->objects);
    assert(off % pool->stride == 0 && off / pool->stride < pool->n_object);
    return (uint32_t)(off / pool->stride);
}

uint32_t pool_generation(const struct pool *pool, uint32_t index)
{
    assert(index < pool->n_object);
    return pool->generation[index];
}

void *pool_get(const struct pool *pool, uint32_t index, uint32_t generation)
{
    if (index >= pool->n_object || pool->link[index] != POOL_OUT ||
        pool->generation[index] != generation)
        return NULL;
    return pool->objects + index * pool->stride;
}

uint32_t pool_used(const struct pool *pool)
{
    return pool->n_used;
}

uint32_t pool_size(const struct pool *pool)
{
    return pool->n_object;
}
