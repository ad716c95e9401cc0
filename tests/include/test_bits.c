/* What checks of foreign numbers rest on: bounds without overflow, an index that cannot leave. */
#include "base/bits.h"

#include "base/compiler.h"
#include "tests/harness/harness.h"

static const uint32_t edges[] = { 0,          1,          2,          63,         64,
                                  65,         0x7fffffff, 0x80000000, 0x80000001, 0xfffffffe,
                                  0xffffffff };

TEST(an_index_below_its_bound_stays_and_any_other_is_0)
{
    for (size_t k = 0; k < ARRAY_SIZE(edges); k++)
        for (size_t j = 0; j < ARRAY_SIZE(edges); j++) {
            uint32_t i = edges[k], n = edges[j];
            assert_int_equal(index_within(i, n), i < n ? i : 0);
        }
    for (uint32_t n = 0; n < 300; n++)
        for (uint32_t i = 0; i < 300; i++)
            assert_int_equal(index_within(i, n), i < n ? i : 0);
}

TEST(a_span_is_inside_only_with_its_whole_length)
{
    for (uint64_t size = 0; size < 40; size++)
        for (uint64_t off = 0; off < 45; off++)
            for (uint64_t len = 0; len < 45; len++)
                assert_int_equal(span_inside(off, len, size), off + len <= size);
    assert_false(span_inside(UINT64_MAX, 2, 100)); /* the sum is 1 */
    assert_false(span_inside(2, UINT64_MAX, 100));
    assert_true(span_inside(0, UINT64_MAX, UINT64_MAX));
    assert_true(span_inside(UINT64_MAX, 0, UINT64_MAX));
}

TEST(sums_and_products_that_overflow_say_so)
{
    uint64_t r;
    assert_false(add_overflows(UINT64_MAX - 1, 1, &r));
    assert_true(r == UINT64_MAX);
    assert_true(add_overflows(UINT64_MAX, 1, &r));
    assert_false(mul_overflows(UINT64_C(1) << 32, (UINT64_C(1) << 32) - 1, &r));
    assert_true(mul_overflows(UINT64_C(1) << 32, UINT64_C(1) << 32, &r));
}
