#include "daemon/kv/block_table.h"

#include "daemon/base/arena.h"
#include "tests/harness/harness.h"

TEST(block_table_shares_full_blocks_and_tells_the_partial_one)
{
    struct arena *arena;
    struct block_pool *pool;
    assert_ok(arena_create(1 << 20, &arena));
    assert_ok(block_pool_create(8, arena, &pool));
    int32_t storage[2][4];
    struct block_table a, b;
    block_table_init(&a, storage[0], 4);
    block_table_init(&b, storage[1], 4);
    for (int i = 0; i < 3; i++)
        block_table_push(&a, block_pool_take(pool));
    assert_int_equal(block_table_share(&b, &a, 2 * 16 + 5, pool), a.blocks[2]);
    assert_int_equal(b.n_block, 2);
    assert_int_equal(pool->refs[a.blocks[0]], 2);
    assert_int_equal(pool->refs[a.blocks[2]], 1);
    assert_int_equal(block_table_slot(&b, 17), a.blocks[1] * 16 + 1);
    block_table_drop(&a, pool);
    assert_int_equal(block_pool_owned(pool), 2);
    assert_true(block_pool_consistent(pool, 2));
    block_table_drop(&b, pool);
    assert_int_equal(pool->n_free, 8);
    arena_free(arena);
}

TEST(block_table_share_of_whole_blocks_needs_no_copy)
{
    struct arena *arena;
    struct block_pool *pool;
    assert_ok(arena_create(1 << 20, &arena));
    assert_ok(block_pool_create(8, arena, &pool));
    int32_t storage[2][4];
    struct block_table a, b;
    block_table_init(&a, storage[0], 4);
    block_table_init(&b, storage[1], 4);
    for (int i = 0; i < 3; i++)
        block_table_push(&a, block_pool_take(pool));
    assert_int_equal(block_table_share(&b, &a, 32, pool), -1);
    assert_int_equal(b.n_block, 2);
    assert_int_equal(block_count(0), 0);
    assert_int_equal(block_count(1), 1);
    assert_int_equal(block_count(16), 1);
    assert_int_equal(block_count(17), 2);
    arena_free(arena);
}
