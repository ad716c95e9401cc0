/* The timer wheel against a sorted list: fires all, none early, at most a tick late, in tick order.
 */
#include "tests/harness/harness.h"

#include "daemon/loop/timer.h"

#define TICK_NS (UINT64_C(1) << TIMER_TICK_LOG2)

enum { N_TIMER = 3000 };

static struct probe {
    struct timer timer;
    uint64_t fired_ns;
    int n_fired;
} probes[N_TIMER];

static void fire(struct timer *t, uint64_t now_ns)
{
    struct probe *p = container_of(t, struct probe, timer);
    assert_true(now_ns >= t->when_ns);
    p->fired_ns = now_ns;
    p->n_fired++;
}

TEST(timers_fire_once_and_never_early)
{
    struct timer_wheel wheel;
    uint64_t seed = harness_seed(), now = harness_rand(&seed) >> 3;
    timer_wheel_init(&wheel, now);
    assert_int_equal(timer_next_ns(&wheel), UINT64_MAX);
    for (int i = 0; i < N_TIMER; i++) {
        timer_init(&probes[i].timer, fire);
        timer_set(&wheel, &probes[i].timer,
                  now + (harness_rand(&seed) >> (4 + harness_rand(&seed) % 50)) %
                            (UINT64_C(1) << 42));
    }
    for (int i = 0; i < N_TIMER; i += 7)
        timer_drop(&wheel, &probes[i].timer);
    for (int left = N_TIMER; left > 0;) {
        uint64_t next = timer_next_ns(&wheel);
        if (next == UINT64_MAX)
            break;
        assert_true(next + TICK_NS >= now);
        now = next > now ? next : now;
        left -= timer_expire(&wheel, now);
    }
    for (int i = 0; i < N_TIMER; i++) {
        assert_int_equal(probes[i].n_fired, i % 7 != 0);
        if (i % 7 && probes[i].fired_ns > probes[i].timer.when_ns)
            assert_true(probes[i].fired_ns - probes[i].timer.when_ns <= 2 * TICK_NS);
    }
}

static struct timer_wheel self_wheel;
static int n_chain;

static void chain(struct timer *t, uint64_t now_ns)
{
    if (++n_chain < 5)
        timer_set(&self_wheel, t, now_ns); /* past: fires in a later tick, no endless loop */
}

TEST(a_timer_may_set_itself_again)
{
    struct timer t;
    timer_wheel_init(&self_wheel, 0);
    timer_init(&t, chain);
    timer_set(&self_wheel, &t, 1);
    assert_true(timer_is_set(&t));
    for (uint64_t now = TICK_NS; now < 20 * TICK_NS; now += TICK_NS)
        timer_expire(&self_wheel, now);
    assert_int_equal(n_chain, 5);
    assert_false(timer_is_set(&t));
    timer_drop(&self_wheel, &t);
}

TEST(a_moved_timer_fires_at_its_new_time_only)
{
    struct timer_wheel wheel;
    struct probe p = { 0 };
    timer_wheel_init(&wheel, 0);
    timer_init(&p.timer, fire);
    timer_set(&wheel, &p.timer, 5 * TICK_NS);
    timer_set(&wheel, &p.timer, 5000 * TICK_NS);
    timer_expire(&wheel, 4999 * TICK_NS);
    assert_int_equal(p.n_fired, 0);
    timer_expire(&wheel, 5001 * TICK_NS);
    assert_int_equal(p.n_fired, 1);
}
