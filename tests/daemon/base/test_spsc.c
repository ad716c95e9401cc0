/* The pointer queue: order, bounds, and two threads (run it under TSan too). */
#include "tests/harness/harness.h"

#include <errno.h>
#include <pthread.h>

#include "daemon/base/arena.h"
#include "daemon/base/spsc.h"

TEST(spsc_keeps_order_and_says_full_and_empty)
{
    struct arena *arena;
    struct spsc q;
    int x[5];
    assert_ok(arena_create(65536, &arena));
    assert_ok(spsc_init(&q, arena, 3));
    assert_null(spsc_pop(&q));
    for (int i = 0; i < 4; i++)
        assert_true(spsc_push(&q, &x[i]));
    assert_false(spsc_push(&q, &x[4]));
    assert_ptr_equal(spsc_peek(&q), &x[0]);
    for (int i = 0; i < 4; i++)
        assert_ptr_equal(spsc_pop(&q), &x[i]);
    assert_null(spsc_peek(&q));
    assert_int_equal(spsc_init(&q, arena, 0), -EINVAL);
    assert_int_equal(spsc_init(&q, arena, 1 << 20), -ENOMEM);
    arena_free(arena);
}

enum { N_MESSAGE = 200000 };
static uint64_t payload[256];

static void *produce(void *arg)
{
    struct spsc *q = arg;
    for (uint64_t i = 0; i < N_MESSAGE; i++) {
        payload[i % 256] = i;
        while (!spsc_push(q, &payload[i % 256]))
            sched_yield();
    }
    return NULL;
}

TEST(spsc_hands_data_over_between_threads)
{
    struct arena *arena;
    struct spsc q;
    pthread_t thread;
    assert_ok(arena_create(65536, &arena));
    assert_ok(spsc_init(&q, arena, 128)); /* half of payload: a slot is never reused too early */
    assert_int_equal(pthread_create(&thread, NULL, produce, &q), 0);
    for (uint64_t i = 0; i < N_MESSAGE;) {
        uint64_t *p = spsc_peek(&q);
        if (!p) {
            sched_yield();
            continue;
        }
        assert_int_equal(*p, i);
        assert_ptr_equal(spsc_pop(&q), p);
        i++;
    }
    pthread_join(thread, NULL);
    arena_free(arena);
}
