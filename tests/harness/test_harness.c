/* The harness itself, and the base headers that every test includes. */
#include "tests/harness/harness.h"

#include "base/atomics.h"
#include "base/bits.h"
#include "base/cleanup.h"
#include "base/list.h"

TEST(uniform_stays_in_its_range)
{
    uint64_t s = harness_seed();
    for (int i = 0; i < 1000; i++) {
        double x = harness_uniform(&s, -2.0, 3.0);
        assert_true(x >= -2.0 && x < 3.0);
    }
}

TEST(span_inside_survives_overflow)
{
    assert_true(span_inside(0, 0, 0));
    assert_true(span_inside(10, 6, 16));
    assert_false(span_inside(10, 7, 16));
    assert_false(span_inside(UINT64_MAX, 2, 16));
    assert_false(span_inside(2, UINT64_MAX, 16));
}

TEST(list_removal_is_idempotent)
{
    struct list head = LIST_INIT(head), a, b;
    list_push_back(&head, &a);
    list_push_front(&head, &b);
    assert_ptr_equal(head.next, &b);
    list_remove(&a);
    list_remove(&a);
    list_remove(&b);
    assert_true(list_empty(&head));
}

TEST(stolen_descriptors_are_not_closed)
{
    int kept;
    {
        auto_close int fd = dup(0);
        kept = steal_fd(&fd);
    }
    assert_int_equal(close(kept), 0);
}
