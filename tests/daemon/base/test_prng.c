#include "daemon/base/prng.h"

#include "tests/harness/harness.h"

TEST(prng_repeats_from_its_seed)
{
    struct prng a = { 42 }, b = { 42 }, c = { 43 };
    uint64_t first = prng_next(&a);
    assert_int_equal(first, prng_next(&b));
    assert_int_not_equal(first, prng_next(&c));
    assert_int_not_equal(first, prng_next(&a));
}

TEST(prng_below_is_even)
{
    struct prng prng = { 1 };
    int count[10] = { 0 };
    for (int i = 0; i < 100000; i++)
        count[prng_below(&prng, 10)]++;
    for (int i = 0; i < 10; i++)
        assert_in_range(count[i], 9500, 10500);
    for (int i = 0; i < 1000; i++)
        assert_in_range(prng_between(&prng, 5, 7), 5, 7);
    assert_false(prng_chance(&prng, 0));
    assert_true(prng_chance(&prng, 100));
}
