#include "daemon/model/rope_freq.h"

#include <errno.h>

#include "tests/harness/harness.h"

TEST(rope_freq_is_a_power_of_the_base)
{
    struct rope_freq r = { .n_dim = 8, .base = 10000 };
    float freq[4], scale = 0;
    assert_ok(rope_freq_fill(&r, NULL, freq, &scale));
    assert_close((double)scale, 1, 0, 0);
    for (int i = 0; i < 4; i++)
        assert_close((double)freq[i], pow(10000, -i / 4.0), 0, 1e-7);
}

TEST(rope_freq_linear_divides)
{
    struct rope_freq r = { .n_dim = 4, .base = 100, .scaling = ROPE_SCALING_LINEAR, .factor = 4 };
    const float divide[] = { 1, 2 };
    float freq[2], scale;
    assert_ok(rope_freq_fill(&r, divide, freq, &scale));
    assert_close((double)freq[0], 0.25, 0, 1e-7);
    assert_close((double)freq[1], 0.0125, 0, 1e-6);
}

TEST(rope_freq_llama3_keeps_high_and_divides_low_frequencies)
{
    /* Llama 3.1's own numbers */
    struct rope_freq r = { .n_dim = 128,
                           .base = 500000,
                           .scaling = ROPE_SCALING_LLAMA3,
                           .factor = 8,
                           .low_factor = 1,
                           .high_factor = 4,
                           .context_original = 8192 };
    float freq[64], scale;
    assert_ok(rope_freq_fill(&r, NULL, freq, &scale));
    assert_close((double)freq[0], 1, 0, 1e-7);
    assert_close((double)freq[63], pow(500000, -126.0 / 128) / 8, 0, 1e-6);
    for (int i = 1; i < 64; i++)
        assert_true(freq[i] < freq[i - 1]);
}

TEST(rope_freq_yarn_scales_attention)
{
    struct rope_freq r = { .n_dim = 64,
                           .base = 10000,
                           .scaling = ROPE_SCALING_YARN,
                           .factor = 4,
                           .beta_fast = 32,
                           .beta_slow = 1,
                           .context_original = 2048 };
    float freq[32], scale;
    assert_ok(rope_freq_fill(&r, NULL, freq, &scale));
    assert_close((double)scale, 0.1 * log(4) + 1, 0, 1e-6);
    assert_close((double)freq[0], 1, 0, 1e-7);
    assert_close((double)freq[31], pow(10000, -62.0 / 64) / 4, 0, 1e-6);
}

TEST(rope_freq_refuses_what_is_not_positive_and_finite)
{
    const struct rope_freq good = { .n_dim = 8,
                                    .base = 10000,
                                    .scaling = ROPE_SCALING_LLAMA3,
                                    .factor = 8,
                                    .low_factor = 1,
                                    .high_factor = 4,
                                    .context_original = 32 };
    float freq[4], scale;
    assert_ok(rope_freq_fill(&good, NULL, freq, &scale));
    for (int what = 0; what < 9; what++) {
        struct rope_freq r = good;
        const float divide[] = { 1, 0, 1, 1 };
        switch (what) {
        case 0:
            r.n_dim = 7;
            break;
        case 1:
            r.n_dim = 0;
            break;
        case 2:
            r.base = 0;
            break;
        case 3:
            r.base = NAN;
            break;
        case 4:
            r.factor = INFINITY;
            break;
        case 5:
            r.context_original = -1;
            break;
        case 6:
            r.high_factor = 1;
            break;
        case 7:
            r.low_factor = NAN;
            break;
        }
        assert_int_equal(rope_freq_fill(&r, what == 8 ? divide : NULL, freq, &scale), -EINVAL);
    }
}
