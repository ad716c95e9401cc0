#include "daemon/base/watch.h"

#include "tests/harness/harness.h"

enum { MS = 1000000 };

TEST(watch_adds_up_what_it_saw)
{
    struct watch w = { 0 };
    assert_int_equal(watch_look(&w, 7, 1000), 0);
    for (uint64_t i = 1; i <= 40; i++)
        assert_int_equal(watch_look(&w, 7, 1000 + i * 100 * MS), i * 100 * MS);
}

TEST(watch_begins_anew_with_what_it_waits_for)
{
    struct watch w = { 0 };
    watch_look(&w, 1, 5);
    assert_int_equal(watch_look(&w, 1, 5 + 90 * MS), 90 * MS);
    assert_int_equal(watch_look(&w, 2, 5 + 180 * MS), 0);
    assert_int_equal(watch_look(&w, 2, 5 + 200 * MS), 20 * MS);
    assert_int_equal(watch_look(&w, 1, 5 + 220 * MS), 0);
}

TEST(watch_does_not_count_time_in_which_nobody_looked)
{
    struct watch w = { 0 };
    watch_look(&w, 0, MS);
    watch_look(&w, 0, 2 * MS);
    assert_int_equal(watch_look(&w, 0, 3600 * UINT64_C(1000) * MS), MS + WATCH_GAP_NS);
    assert_int_equal(watch_look(&w, 0, 3600 * UINT64_C(1000) * MS + MS), 2 * MS + WATCH_GAP_NS);
}

TEST(watch_forgives_a_clock_that_stands_still)
{
    struct watch w = { 0 };
    watch_look(&w, 0, 10);
    assert_int_equal(watch_look(&w, 0, 10), 0);
    assert_int_equal(watch_look(&w, 0, 9), 0);
    assert_int_equal(watch_look(&w, 0, 19), 10);
}
