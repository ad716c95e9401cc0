/* Pace against a side whose messages take what the test says, depending on the time waited. */
#include "shm/pace.h"

#include "base/bits.h"
#include "tests/harness/harness.h"

/* One window: PACE_WINDOW messages, each of so many ticks. */
static void window(struct pace *p, uint64_t *now, uint64_t each)
{
    *now += PACE_WINDOW * each;
    pace_turn(p, *now);
}

/* Messages take 800 ticks, 500 if one waits 100 to 200, and what is waited beyond that more. */
static uint64_t takes(uint32_t late)
{
    return late < 100 ? 800 : late <= 200 ? 500 : 300 + late;
}

TEST(the_fastest_time_is_found_and_kept_for_a_while)
{
    struct pace p = { 0 };
    uint64_t now = 1000;
    window(&p, &now, 500);
    for (int i = 0; i < PACE_TIMES * PACE_SWEEPS; i++) {
        assert_int_equal(p.late_ticks, pace_time((uint32_t)i % PACE_TIMES));
        window(&p, &now, takes(p.late_ticks));
    }
    uint32_t kept = p.late_ticks;
    assert_in_range(kept, 100, 200);
    uint32_t n_kept = 0, n = 40 * PACE_HOLD;
    for (uint32_t i = 0; i < n; i++) {
        window(&p, &now, takes(p.late_ticks));
        n_kept += p.late_ticks == kept;
    }
    assert_true(n_kept > n * 9 / 10); /* it is tried again, but seldom */
    assert_true(n_kept < n);
}

/* How many windows until a pace that holds its time tries others again. */
static uint32_t held_for(struct pace *p, uint64_t *now, uint64_t each)
{
    uint32_t n = 0, late = p->late_ticks;
    for (; p->late_ticks == late; n++)
        window(p, now, each);
    return n;
}

/* A pace that found its time some while ago, and is at the beginning of a long hold. */
static void settle(struct pace *p, uint64_t *now)
{
    *p = (struct pace){ 0 };
    window(p, now, 500);
    do
        window(p, now, takes(p->late_ticks));
    while (p->hold < PACE_HOLD_NEAR || p->window != p->n_try * PACE_SWEEPS);
}

TEST(a_time_that_does_not_keep_its_promise_is_given_up)
{
    struct pace p;
    uint64_t now = 1000;
    settle(&p, &now);
    assert_int_equal(held_for(&p, &now, 500), PACE_HOLD_NEAR);
    settle(&p, &now);
    assert_int_equal(held_for(&p, &now, 700), PACE_SLOW + 1);
    assert_int_equal(p.n_try, PACE_TIMES);
}

TEST(a_trial_of_the_other_side_ends_no_hold)
{
    struct pace p;
    uint64_t now = 1000;
    settle(&p, &now);
    uint32_t late = p.late_ticks;
    for (int i = 0; i < PACE_TIMES * PACE_SWEEPS; i++)
        window(&p, &now, 900);
    assert_int_equal(held_for(&p, &now, 500), PACE_HOLD_NEAR - PACE_TIMES * PACE_SWEEPS);
    assert_int_not_equal(p.late_ticks, late);
    assert_in_range(p.n_try, 1, 3); /* its neighbours, not all */
}

/*
 * Each side is fastest where it waits as long as the other: at any such time neither gains by
 * waiting less alone, and both would gain by waiting less together.
 */
TEST(two_sides_that_wait_too_long_give_way_to_each_other)
{
    enum { LONG = PACE_TIMES - 2 };
    struct pace side[2];
    uint64_t now = 1000, took = PACE_WINDOW * (500 + pace_time(LONG) / 8);
    for (uint32_t k = 0; k < 2; k++) {
        side[k] = (struct pace){ .from = now,
                                 .choice = LONG,
                                 .late_ticks = pace_time(LONG),
                                 .first = LONG - 1,
                                 .n_try = 3,
                                 .window = 9,
                                 .hold = 5 + 40 * k };
        side[k].best[LONG] = took;
    }
    for (int i = 0; i < 1000; i++) { /* all times are not tried again so soon */
        uint32_t x = side[0].late_ticks, y = side[1].late_ticks;
        uint32_t apart = x > y ? x - y : y - x;
        now += PACE_WINDOW *
               (500 + max_of(x, y) / 8 + apart / 3 + (apart > 20) * 300 + (x < 60 || y < 60) * 300);
        for (int k = 0; k < 2; k++)
            pace_turn(&side[k], now);
    }
    assert_true(side[0].n_near > 0 && side[1].n_near > 0);
    assert_in_range(side[0].choice, 5, LONG - 4);
    assert_in_range(side[1].choice, 5, LONG - 4);
}

TEST(nothing_is_waited_for_where_it_does_not_help)
{
    struct pace p = { 0 };
    uint64_t now = 1000;
    uint32_t n_waited = 0;
    for (uint32_t i = 0; i < 100 * PACE_HOLD; i++) {
        window(&p, &now, 500 + p.late_ticks);
        n_waited += p.late_ticks > 0;
    }
    assert_true(n_waited < 100 * PACE_HOLD / 20);
}

TEST(messages_that_are_far_apart_wait_for_nothing)
{
    struct pace p = { 0 };
    uint64_t now = 1000;
    for (int i = 0; i < 1000; i++) {
        window(&p, &now, 2 * PACE_APART_TICKS);
        assert_int_equal(p.late_ticks, 0);
    }
}

TEST(a_machine_without_ticks_never_waits)
{
    struct pace p = { 0 };
    for (int i = 0; i < 1000; i++) {
        pace_turn(&p, 0);
        assert_int_equal(p.late_ticks, 0);
    }
}

TEST(no_message_waits_longer_than_the_longest_time)
{
    struct pace p = { 0 };
    uint64_t most = 0;
    for (int i = 0; i < 20000; i++) {
        pace_published(&p);
        most = max_of(most, (uint64_t)p.late_ticks);
    }
    assert_true(most <= pace_time(PACE_TIMES - 1));
}
