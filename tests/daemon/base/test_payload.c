/* The payload pool against a shadow: no overlap, nothing lost, everything merges again. */
#include "tests/harness/harness.h"

#include <errno.h>

#include "daemon/base/arena.h"
#include "daemon/base/payload.h"

static struct payload_pool *pool_of(size_t bytes, struct arena **ret_arena)
{
    struct payload_pool *pool;
    assert_ok(arena_create(bytes + 65536, ret_arena));
    assert_ok(payload_create(bytes, *ret_arena, &pool));
    return pool;
}

TEST(payload_gives_one_piece_of_nearly_everything)
{
    struct arena *arena;
    struct payload_pool *pool = pool_of(1 << 20, &arena);
    assert_null(payload_take(pool, 1 << 20));
    assert_null(payload_take(pool, SIZE_MAX));
    void *p = payload_take(pool, (1 << 20) * 15 / 16);
    assert_non_null(p);
    payload_give(pool, p);
    payload_give(pool, NULL);
    assert_int_equal(payload_used(pool), 0);
    arena_free(arena);
}

TEST(payload_pieces_keep_their_bytes_under_churn)
{
    enum { N = 400, ROUNDS = 200000 };
    struct arena *arena;
    struct payload_pool *pool = pool_of(1 << 18, &arena);
    static struct {
        uint8_t *p;
        size_t bytes;
        uint8_t mark;
    } live[N];
    uint64_t seed = harness_seed();
    int refused = 0;
    for (int round = 0; round < ROUNDS; round++) {
        int i = (int)(harness_rand(&seed) % N);
        if (live[i].p) {
            for (size_t k = 0; k < live[i].bytes; k += 1 + live[i].bytes / 7)
                assert_int_equal(live[i].p[k], live[i].mark);
            payload_give(pool, live[i].p);
            live[i].p = NULL;
            continue;
        }
        size_t bytes = harness_rand(&seed) % (UINT64_C(1) << (harness_rand(&seed) % 15));
        live[i].p = payload_take(pool, bytes);
        live[i].bytes = bytes;
        live[i].mark = (uint8_t)round;
        refused += !live[i].p;
        if (live[i].p) {
            assert_int_equal((uintptr_t)live[i].p % 16, 0);
            memset(live[i].p, live[i].mark, live[i].bytes);
        }
        if (round % 1000 == 0)
            assert_true(payload_consistent(pool));
    }
    assert_true(refused > 0); /* the pool was really full at times */
    for (int i = 0; i < N; i++)
        payload_give(pool, live[i].p);
    assert_true(payload_consistent(pool));
    assert_int_equal(payload_used(pool), 0);
    assert_non_null(payload_take(pool, (1 << 18) * 15 / 16)); /* all merged again */
    arena_free(arena);
}

TEST(payload_counts_what_comes_back)
{
    struct arena *arena;
    struct payload_pool *pool;
    assert_ok(arena_create(1 << 20, &arena));
    assert_ok(payload_create(65536, arena, &pool));
    void *one = payload_take(pool, 1000), *other = payload_take(pool, 1000);
    assert_int_equal(payload_gives(pool), 0);
    payload_give(pool, one);
    payload_give(pool, NULL);
    assert_int_equal(payload_gives(pool), 1);
    payload_give(pool, other);
    assert_int_equal(payload_gives(pool), 2);
    arena_free(arena);
}

TEST(payload_refuses_silly_pools)
{
    struct arena *arena;
    struct payload_pool *pool;
    assert_ok(arena_create(65536, &arena));
    assert_int_equal(payload_create(100, arena, &pool), -EINVAL);
    assert_int_equal(payload_create((size_t)1 << 40, arena, &pool), -EINVAL);
    arena_free(arena);
}
