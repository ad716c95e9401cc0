/* Sleep and wake: a bell only for a sleeper, one per sleep, none lost between two threads. */
#include "tests/harness/harness.h"

#include <pthread.h>

#include "daemon/base/wake.h"

TEST(wake_rings_only_a_sleeper_and_once)
{
    struct wake w;
    assert_ok(wake_init(&w, EFD_NONBLOCK));
    assert_false(wake_ring(&w));
    wake_announce(&w);
    assert_true(wake_ring(&w));
    assert_false(wake_ring(&w));
    wake_sleep(&w);
    assert_false(wake_ring(&w));
    wake_announce(&w);
    wake_awake(&w);
    assert_false(wake_ring(&w));
    wake_close(&w);
    wake_close(&w);
}

enum { N_ROUND = 20000 };
static struct wake wake;
static uint32_t sent;

static void *sender(void *arg)
{
    (void)arg;
    for (uint32_t i = 1; i <= N_ROUND; i++) {
        store_release(&sent, i);
        wake_ring(&wake);
    }
    return NULL;
}

TEST(wake_loses_nothing_between_two_threads)
{
    pthread_t thread;
    assert_ok(wake_init(&wake, 0));
    assert_int_equal(pthread_create(&thread, NULL, sender, NULL), 0);
    for (uint32_t seen = 0; seen < N_ROUND;) {
        wake_announce(&wake);
        if (load_acquire(&sent) == seen)
            wake_sleep(&wake);
        else
            wake_awake(&wake);
        seen = load_acquire(&sent);
    }
    pthread_join(thread, NULL);
    wake_close(&wake);
}
