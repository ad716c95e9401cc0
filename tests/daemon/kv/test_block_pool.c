#include "daemon/kv/block_pool.h"

#include <errno.h>

#include "daemon/base/arena.h"
#include "tests/harness/harness.h"

static struct block_pool *make(struct arena **ret_arena, int32_t n)
{
    struct block_pool *pool;
    assert_ok(arena_create(1 << 20, ret_arena));
    assert_ok(block_pool_create(n, *ret_arena, &pool));
    return pool;
}

TEST(block_pool_takes_each_block_once)
{
    struct arena *arena;
    struct block_pool *pool = make(&arena, 3);
    bool seen[3] = { false };
    for (int i = 0; i < 3; i++) {
        int32_t block = block_pool_take(pool);
        assert_in_range(block, 0, 2);
        assert_false(seen[block]);
        seen[block] = true;
    }
    assert_int_equal(block_pool_take(pool), -1);
    assert_int_equal(block_pool_owned(pool), 3);
    assert_true(block_pool_consistent(pool, 3));
    arena_free(arena);
}

TEST(block_pool_frees_with_the_last_reference)
{
    struct arena *arena;
    struct block_pool *pool = make(&arena, 2);
    int32_t block = block_pool_take(pool);
    block_pool_ref(pool, block);
    block_pool_unref(pool, block);
    assert_int_equal(pool->n_free, 1);
    block_pool_unref(pool, block);
    assert_int_equal(pool->n_free, 2);
    assert_true(block_pool_consistent(pool, 0));
    assert_false(block_pool_consistent(pool, 1));
    arena_free(arena);
}

TEST(block_pool_keeps_what_the_tree_holds)
{
    struct arena *arena;
    struct block_pool *pool = make(&arena, 2);
    int32_t block = block_pool_take(pool);
    block_pool_tree_hold(pool, block);
    assert_int_equal(pool->n_cached, 0); /* still owned */
    block_pool_unref(pool, block);
    assert_int_equal(pool->n_cached, 1);
    block_pool_ref(pool, block); /* a hit */
    assert_int_equal(pool->n_cached, 0);
    block_pool_tree_drop(pool, block);
    assert_int_equal(pool->n_free, 1); /* the table has it still */
    block_pool_unref(pool, block);
    assert_int_equal(pool->n_free, 2);
    assert_true(block_pool_consistent(pool, 0));
    arena_free(arena);
}

TEST(block_pool_create_refuses_an_empty_pool)
{
    struct arena *arena;
    struct block_pool *pool;
    assert_ok(arena_create(1 << 16, &arena));
    assert_int_equal(block_pool_create(0, arena, &pool), -EINVAL);
    arena_free(arena);
}
