#include "daemon/exec/turns.h"

#include "daemon/step/step.h"
#include "tests/harness/harness.h"

TEST(turns_keep_the_order_of_one_model)
{
    struct turns t = { 0 };
    struct step a = { .model = 3 }, b = { .model = 3 };
    assert_null(turns_take(&t));
    turns_add(&t, &a);
    turns_add(&t, &b);
    assert_ptr_equal(turns_take(&t), &a);
    assert_ptr_equal(turns_take(&t), &b);
    assert_null(turns_take(&t));
}

/* Steps of 10 ms against steps of 1 ms, both always waiting: ten short ones to a long one. */
TEST(turns_share_by_time)
{
    struct turns t = { 0 };
    struct step step[2] = { { .model = 0 }, { .model = 1 } };
    static const uint64_t cost_ns[2] = { 10000000, 1000000 };
    int n[2] = { 0, 0 };
    turns_add(&t, &step[0]);
    turns_add(&t, &step[1]);
    for (int i = 0; i < 1100; i++) {
        struct step *next = turns_take(&t);
        assert_non_null(next);
        n[next->model]++;
        turns_charge(&t, next->model, cost_ns[next->model]);
        turns_add(&t, next);
    }
    assert_in_range(n[0], 98, 102);
    assert_in_range(n[1], 998, 1002);
}

TEST(turns_give_little_credit_for_idleness)
{
    struct turns t = { 0 };
    struct step step[2] = { { .model = 0 }, { .model = 1 } };
    turns_add(&t, &step[0]);
    for (int i = 0; i < 100; i++) { /* alone for 100 ms */
        assert_ptr_equal(turns_take(&t), &step[0]);
        turns_charge(&t, 0, 1000000);
        turns_add(&t, &step[0]);
    }
    int n[2] = { 0, 0 };
    turns_add(&t, &step[1]);
    for (int i = 0; i < 100; i++) {
        struct step *next = turns_take(&t);
        n[next->model]++;
        turns_charge(&t, next->model, 1000000);
        turns_add(&t, next);
    }
    assert_in_range(n[0], 39, 41); /* 20 ms are owed, the rest is shared */
    assert_in_range(n[1], 59, 61);
}
