#include "daemon/base/seeds.h"

#include <stdbool.h>

#include "tests/harness/harness.h"

static const uint64_t example_key[2] = { UINT64_C(0x0706050403020100),
                                         UINT64_C(0x0f0e0d0c0b0a0908) };

/* The authors' table of outputs for the key 00 01 .. 0f: its row for the message 00 01 .. 07. */
TEST(hash_is_siphash)
{
    assert_true(seeds_hash(example_key, UINT64_C(0x0706050403020100)) ==
                UINT64_C(0x93f5f5799a932462));
}

TEST(seeds_are_a_stream_of_the_key)
{
    struct seeds a = { .key = { 1, 2 } }, b = a, c = { .key = { 1, 3 } };
    for (int i = 0; i < 1000; i++) {
        uint64_t seed = seeds_next(&a);
        assert_true(seed < UINT64_C(1) << 53);
        assert_true(seed == seeds_next(&b));
        assert_true(seed != seeds_next(&c));
    }
}

/* One bit more or less of the key or of the count turns about half of the output's bits. */
TEST(every_bit_of_key_and_count_turns_half_of_the_output)
{
    const int n_round = 500;
    uint64_t seed = harness_seed();
    for (int bit = 0; bit < 192; bit++) {
        int turned = 0;
        for (int i = 0; i < n_round; i++) {
            uint64_t in[3] = { harness_rand(&seed), harness_rand(&seed), harness_rand(&seed) };
            uint64_t before = seeds_hash(in, in[2]);
            in[bit / 64] ^= UINT64_C(1) << bit % 64;
            turned += __builtin_popcountll(before ^ seeds_hash(in, in[2]));
        }
        assert_in_range(turned, 30 * n_round, 34 * n_round); /* 11 standard deviations */
    }
}
