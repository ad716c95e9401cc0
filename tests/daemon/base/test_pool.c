#include "daemon/base/pool.h"

#include <errno.h>

#include "daemon/base/arena.h"
#include "tests/harness/harness.h"

struct thing {
    uint64_t a;
    char b;
};

static struct pool *make(struct arena **ret_arena, uint32_t n)
{
    struct pool *pool;
    assert_ok(arena_create(1 << 20, ret_arena));
    assert_ok(pool_create(sizeof(struct thing), n, *ret_arena, &pool));
    return pool;
}

TEST(pool_gives_zeroed_objects_until_none_is_left)
{
    struct arena *arena;
    struct pool *pool = make(&arena, 3);
    struct thing *thing[3];
    for (int i = 0; i < 3; i++) {
        thing[i] = pool_take(pool);
        assert_non_null(thing[i]);
        assert_int_equal(thing[i]->a + (uint64_t)thing[i]->b, 0);
        thing[i]->a = thing[i]->b = 7;
    }
    assert_null(pool_take(pool));
    pool_put(pool, thing[1]);
    struct thing *again = pool_take(pool);
    assert_ptr_equal(again, thing[1]);
    assert_int_equal(again->a, 0);
    assert_int_equal(pool_used(pool), 3);
    arena_free(arena);
}

TEST(pool_handle_goes_stale_when_its_object_is_put_back)
{
    struct arena *arena;
    struct pool *pool = make(&arena, 2);
    struct thing *thing = pool_take(pool);
    uint32_t index = pool_index(pool, thing), generation = pool_generation(pool, index);
    assert_ptr_equal(pool_get(pool, index, generation), thing);
    pool_put(pool, thing);
    assert_null(pool_get(pool, index, generation));
    assert_ptr_equal(pool_take(pool), thing);
    assert_null(pool_get(pool, index, generation));
    assert_ptr_equal(pool_get(pool, index, pool_generation(pool, index)), thing);
    assert_null(pool_get(pool, 1, 1)); /* never taken */
    assert_null(pool_get(pool, 2, 1));
    assert_null(pool_get(pool, UINT32_MAX, 0));
    arena_free(arena);
}

TEST(pool_create_refuses_nothing_and_too_much)
{
    struct arena *arena;
    struct pool *pool;
    assert_ok(arena_create(4096, &arena));
    assert_int_equal(pool_create(8, 0, arena, &pool), -EINVAL);
    assert_int_equal(pool_create(0, 8, arena, &pool), -EINVAL);
    assert_int_equal(pool_create(1 << 20, 1 << 20, arena, &pool), -ENOMEM);
    arena_free(arena);
}
