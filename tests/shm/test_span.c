/* Arenas against a model that remembers every byte's owner; bounds of the copy. */
#include "shm/span.h"

#include <errno.h>

#include "tests/harness/harness.h"

enum { BYTES = 1024, N = 16 };

TEST(span_arena_never_gives_a_byte_twice)
{
    uint64_t ends[N], rand = harness_seed();
    uint32_t owner[BYTES] = { 0 }, put = 0, freed = 0;
    uint32_t start = RINGLET_SEQ_START;
    struct span_arena a;
    span_arena_init(&a, BYTES, ends, N, start);
    for (int round = 0; round < 20000; round++) {
        uint64_t want = harness_rand(&rand) % 400;
        uint32_t off, room = (uint32_t)span_arena_room(&a);
        if (put - freed < N && span_arena_take(&a, want, &off) == 0) {
            assert_true(want <= room);
            assert_true(off % 8 == 0 && off + want <= BYTES);
            put++;
            for (uint32_t i = 0; i < want; i++) {
                assert_int_equal(owner[off + i], 0);
                owner[off + i] = put;
            }
            span_arena_put(&a, start + put - 1);
        } else if (put - freed < N) {
            assert_true(want > room || room == 0);
        }
        if (harness_rand(&rand) % 3 == 0 && freed < put) {
            freed += 1 + (uint32_t)(harness_rand(&rand) % (put - freed));
            for (uint32_t i = 0; i < BYTES; i++)
                if (owner[i] <= freed)
                    owner[i] = 0;
            span_arena_free_to(&a, start + freed);
        }
    }
    assert_true(put > 1000);
}

TEST(span_arena_gives_all_of_itself_when_empty)
{
    uint64_t ends[N];
    struct span_arena a;
    uint32_t off, number = 0;
    span_arena_init(&a, BYTES, ends, N, 0);
    assert_int_equal(span_arena_take(&a, BYTES + 1, &off), -EMSGSIZE);
    for (; number < 50; number++) {
        assert_ok(span_arena_take(&a, number % 2 ? BYTES : 40, &off));
        assert_int_equal(off, 0);
        span_arena_put(&a, number);
        if (number % 2)
            assert_int_equal(span_arena_take(&a, 1, &off), -EAGAIN);
        span_arena_free_to(&a, number + 1);
    }
}

TEST(span_arena_entries_without_bytes_free_nothing)
{
    uint64_t ends[N];
    struct span_arena a;
    uint32_t off;
    span_arena_init(&a, BYTES, ends, N, 0);
    span_arena_put(&a, 0); /* bare, put while empty */
    assert_ok(span_arena_take(&a, BYTES, &off));
    span_arena_put(&a, 1);
    span_arena_free_to(&a, 1);
    assert_int_equal(span_arena_room(&a), 0);
    span_arena_free_to(&a, 2);
    assert_int_equal(span_arena_room(&a), BYTES);
}

TEST(span_fetch_stays_inside_the_arena)
{
    unsigned char arena[256], to[256];
    memset(arena, 7, sizeof(arena));
    assert_ok(span_fetch(to, arena, 256, 0, 256, 8));
    assert_ok(span_fetch(to, arena, 256, 248, 8, 8));
    assert_ok(span_fetch(to, arena, 256, 256, 0, 8));
    assert_int_equal(span_fetch(to, arena, 256, 248, 9, 8), -EFAULT);
    assert_int_equal(span_fetch(to, arena, 256, 4, 8, 8), -EFAULT);
    assert_int_equal(span_fetch(to, arena, 256, 264, 0, 8), -EFAULT);
    assert_int_equal(span_fetch(to, arena, 256, 0xFFFFFFF8u, 16, 8), -EFAULT);
    assert_int_equal(span_fetch(to, arena, 256, 8, 0xFFFFFFFFu, 8), -EFAULT);
}
