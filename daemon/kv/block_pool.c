/* Owns the counts and the free stack. Every state change of a block happens in this file. */
#include "daemon/kv/block_pool.h"

#include <errno.h>

#include "base/assert.h"
#include "base/planted.h"
#include "daemon/base/arena.h"

int block_pool_create(int32_t n_block, struct arena *arena, struct block_pool **ret)
{
    if (n_block < 1)
        return -EINVAL;
    struct block_pool *pool = arena_new(arena, struct block_pool);
    if (!pool)
        return -ENOMEM;
    pool->refs = arena_array(arena, uint32_t, n_block);
    pool->in_tree = arena_array(arena, uint8_t, n_block);
    pool->free_stack = arena_array(arena, int32_t, n_block);
    if (!pool->refs || !pool->in_tree || !pool->free_stack)
        return -ENOMEM;
    pool->n_block = pool->n_free = n_block;
    for (int32_t block = 0; block < n_block; block++)
        pool->free_stack[block] = n_block - 1 - block;
    *ret = pool;
    return 0;
}

static void block_free(struct block_pool *pool, int32_t block)
{
    assert(pool->n_free < pool->n_block);
    pool->free_stack[pool->n_free++] = block;
}

int32_t block_pool_take(struct block_pool *pool)
{
    if (pool->n_free == 0)
        return -1;
    int32_t block = pool->free_stack[--pool->n_free];
    assert(pool->refs[block] == 0 && !pool->in_tree[block]);
    pool->refs[block] = 1;
    return block;
}

void block_pool_ref(struct block_pool *pool, int32_t block)
{
    assert(block >= 0 && block < pool->n_block);
    assert(pool->refs[block] > 0 || pool->in_tree[block]);
    if (pool->refs[block]++ == 0 && !BUG(2))
        pool->n_cached--;
}

void block_pool_unref(struct block_pool *pool, int32_t block)
{
    assert(block >= 0 && block < pool->n_block);
    assert(pool->refs[block] > 0);
    if (--pool->refs[block] > 0 || BUG(1))
        return;
    if (pool->in_tree[block] && !BUG(3))
        pool->n_cached++;
    else
        block_free(pool, block);
}

void block_pool_tree_hold(struct block_pool *pool, int32_t block)
{
    assert(block >= 0 && block < pool->n_block);
    assert(pool->refs[block] > 0 && !pool->in_tree[block]);
    pool->in_tree[block] = 1;
}

void block_pool_tree_drop(struct block_pool *pool, int32_t block)
{
    assert(block >= 0 && block < pool->n_block && pool->in_tree[block]);
    pool->in_tree[block] = 0;
    if (pool->refs[block] > 0)
        return;
    pool->n_cached--;
    block_free(pool, block);
}

bool block_pool_consistent(const struct block_pool *pool, uint64_t ref_sum)
{
    int32_t n_free = 0, n_cached = 0;
    uint64_t refs = 0;
    for (int32_t block = 0; block < pool->n_block; block++) {
        refs += pool->refs[block];
        if (pool->refs[block] == 0)
            *(pool->in_tree[block] ? &n_cached : &n_free) += 1;
    }
    for (int32_t free_i = 0; free_i < pool->n_free; free_i++) {
        int32_t block = pool->free_stack[free_i];
        if (block < 0 || block >= pool->n_block || pool->refs[block] || pool->in_tree[block])
            return false;
    }
    return refs == ref_sum && n_free == pool->n_free && n_cached == pool->n_cached;
}
