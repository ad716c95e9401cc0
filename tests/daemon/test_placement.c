/* When a thread is moved, by sleeps that the test makes up; and that it is, by its own affinity. */
#include "daemon/placement.h"

#include <sched.h>

#include "daemon/base/clock.h"
#include "tests/harness/harness.h"

enum { BELL_NS = 5000, STEP_NS = 40000 };

static enum placement_move sleeps(struct placement *p, uint64_t *now, int n, bool in_flight,
                                  uint64_t ns)
{
    enum placement_move move = PLACEMENT_STAY;
    for (int i = 0; i < n && move == PLACEMENT_STAY; i++)
        move = placement_slept(p, in_flight, ns, *now += ns);
    return move;
}

TEST(a_row_of_brief_sleeps_moves_what_ended_them)
{
    uint64_t now = NS_PER_S;
    struct placement loop = { .n_core = 2 }, executor = { .n_core = 2 };
    assert_int_equal(sleeps(&loop, &now, PLACEMENT_ROW - 1, false, BELL_NS), PLACEMENT_STAY);
    assert_int_equal(sleeps(&loop, &now, 1, false, BELL_NS), PLACEMENT_LOOP);
    assert_int_equal(sleeps(&executor, &now, PLACEMENT_ROW - 1, true, STEP_NS), PLACEMENT_STAY);
    assert_int_equal(sleeps(&executor, &now, 1, true, STEP_NS), PLACEMENT_EXECUTOR);
}

TEST(both_kinds_in_turn_are_two_rows)
{
    uint64_t now = NS_PER_S;
    struct placement p = { .n_core = 4 };
    for (int i = 1; i < PLACEMENT_ROW; i++) {
        assert_int_equal(sleeps(&p, &now, 1, false, BELL_NS), PLACEMENT_STAY);
        assert_int_equal(sleeps(&p, &now, 1, true, STEP_NS), PLACEMENT_STAY);
    }
    assert_int_equal(sleeps(&p, &now, 1, false, BELL_NS), PLACEMENT_LOOP);
}

TEST(a_long_sleep_ends_the_row)
{
    uint64_t now = NS_PER_S;
    struct placement p = { .n_core = 2 };
    for (int i = 0; i < 100; i++) {
        assert_int_equal(sleeps(&p, &now, PLACEMENT_ROW - 1, false, BELL_NS), PLACEMENT_STAY);
        assert_int_equal(sleeps(&p, &now, 1, false, 10 * BELL_NS), PLACEMENT_STAY);
        assert_int_equal(sleeps(&p, &now, PLACEMENT_ROW - 1, true, STEP_NS), PLACEMENT_STAY);
        assert_int_equal(sleeps(&p, &now, 1, true, NS_PER_MS), PLACEMENT_STAY);
    }
}

TEST(moves_that_come_back_at_once_hold_longer_and_longer)
{
    uint64_t now = NS_PER_S, held = 0;
    struct placement p = { .n_core = 2 };
    for (int i = 0; i < 20; i++) {
        assert_int_equal(sleeps(&p, &now, PLACEMENT_ROW, false, BELL_NS), PLACEMENT_LOOP);
        assert_true(p.free_ns > now);
        assert_true(p.hold_ns >= held);
        held = p.hold_ns;
        now = p.free_ns;
    }
    assert_true(held == 10 * NS_PER_S);
    now = p.free_ns + held + 1; /* long after: it starts anew */
    assert_int_equal(sleeps(&p, &now, PLACEMENT_ROW, false, BELL_NS), PLACEMENT_LOOP);
    assert_true(p.hold_ns < held);
}

TEST(moves_that_help_nothing_are_not_made_all_the_time)
{
    uint64_t now = NS_PER_S, end = now + NS_PER_S;
    struct placement p = { .n_core = 2 };
    int n = 0;
    while (now < end)
        n += placement_slept(&p, false, BELL_NS, now += BELL_NS) == PLACEMENT_LOOP;
    assert_in_range(n, 50, 101); /* one in 10 ms at most */
}

TEST(one_core_leaves_nothing_to_choose)
{
    uint64_t now = NS_PER_S;
    for (uint32_t n_core = 0; n_core < 2; n_core++) {
        struct placement p = { .n_core = n_core };
        assert_int_equal(sleeps(&p, &now, 1000, false, BELL_NS), PLACEMENT_STAY);
        assert_int_equal(sleeps(&p, &now, 1000, true, STEP_NS), PLACEMENT_STAY);
    }
}

TEST(the_loop_leaves_its_cpu_and_is_let_go_later)
{
    cpu_set_t before, one, after;
    assert_ok(sched_getaffinity(0, sizeof(before), &before));
    if (CPU_COUNT(&before) < 2)
        skip();
    int cpu = sched_getcpu();
    CPU_ZERO(&one); /* nothing but the move takes us elsewhere */
    CPU_SET((size_t)cpu, &one);
    assert_ok(sched_setaffinity(0, sizeof(one), &one));
    struct placement p = { .n_core = 2 };
    placement_do(&p, PLACEMENT_LOOP, NULL, 0); /* pinned by somebody else: stays */
    assert_int_equal(sched_getcpu(), cpu);
    assert_false(p.placed);
    assert_ok(sched_setaffinity(0, sizeof(before), &before));
    cpu = sched_getcpu();
    p.free_ns = 100;
    placement_do(&p, PLACEMENT_LOOP, NULL, 0);
    assert_true(p.placed);
    assert_ok(sched_getaffinity(0, sizeof(after), &after));
    assert_int_equal(CPU_COUNT(&after), 1); /* with two cores, both threads on one */
    placement_turn(&p, 99, NULL, 0);
    assert_true(p.placed);
    placement_turn(&p, 100, NULL, 0);
    assert_false(p.placed);
    assert_ok(sched_getaffinity(0, sizeof(after), &after));
    assert_true(CPU_EQUAL(&before, &after));
}

TEST(a_step_that_computes_lets_go_at_once_and_nothing_undoes_what_others_did)
{
    cpu_set_t before, one, after;
    assert_ok(sched_getaffinity(0, sizeof(before), &before));
    if (CPU_COUNT(&before) < 2)
        skip();
    for (int other = 0; other < 2; other++) {
        struct placement p = { .n_core = 3 };
        placement_do(&p, PLACEMENT_LOOP, NULL, 0);
        assert_true(p.placed);
        int cpu = sched_getcpu();
        CPU_ZERO(&one);
        CPU_SET((size_t)cpu, &one);
        if (other) /* a taskset from outside that is not ours */
            CPU_XOR(&one, &before, &p.loop);
        if (other)
            assert_ok(sched_setaffinity(0, sizeof(one), &one));
        placement_step(&p, PLACEMENT_STEP_BRIEF_NS - 1, NULL, 0);
        assert_true(p.placed);
        placement_step(&p, PLACEMENT_STEP_BRIEF_NS, NULL, 0);
        assert_false(p.placed);
        assert_ok(sched_getaffinity(0, sizeof(after), &after));
        assert_true(CPU_EQUAL(&after, other ? &one : &before));
        assert_ok(sched_setaffinity(0, sizeof(before), &before));
    }
}
