#include "daemon/sched/cost.h"

#include "daemon/base/prng.h"
#include "tests/harness/harness.h"

static uint64_t truth(uint32_t n_row, uint64_t n_kv, uint32_t n_swap)
{
    return 50000 + 900 * n_row + 40 * n_kv / 1024 + 7000 * n_swap;
}

TEST(cost_learns_what_a_step_costs)
{
    struct cost_model cost = { 0 };
    struct prng prng = { 3 };
    assert_int_equal(cost_predict(&cost, 10, 100), 0);
    for (int step = 0; step < 300; step++) {
        uint32_t n_row = prng_between(&prng, 1, 512), n_swap = prng_below(&prng, 8);
        uint64_t n_kv = (uint64_t)n_row * prng_between(&prng, 10, 4000);
        uint64_t noise = prng_below(&prng, 2000);
        cost_learn(&cost, n_row, n_kv, n_swap, truth(n_row, n_kv, n_swap) + noise);
    }
    assert_close(cost_predict(&cost, 1, 500), truth(1, 500, 0) + 1000, 0, 0.05);
    assert_close(cost_predict(&cost, 256, 200000), truth(256, 200000, 0) + 1000, 0, 0.03);
    assert_close(cost.term[3], 7000, 0, 0.1);
}

TEST(cost_follows_a_machine_that_becomes_slower)
{
    struct cost_model cost = { 0 };
    struct prng prng = { 3 };
    for (int step = 0; step < 600; step++) {
        uint32_t n_row = prng_between(&prng, 1, 64);
        cost_learn(&cost, n_row, 0, 0, (step < 300 ? 1 : 3) * truth(n_row, 0, 0));
    }
    assert_close(cost_predict(&cost, 32, 0), 3 * truth(32, 0, 0), 0, 0.03);
}

TEST(cost_terms_are_never_negative)
{
    struct cost_model cost = { 0 };
    struct prng prng = { 5 };
    for (int step = 0; step < 2000; step++) {
        /* times that have nothing to do with the work, or fall with it */
        uint32_t n_row = prng_between(&prng, 1, 100);
        uint64_t ns = step % 2 ? prng_below(&prng, 100000) : 1000000 / n_row;
        cost_learn(&cost, n_row, prng_below(&prng, 100000), prng_below(&prng, 3), ns);
        for (int term_i = 0; term_i < COST_TERMS; term_i++)
            assert_true(cost.term[term_i] >= 0 && isfinite(cost.term[term_i]));
    }
}

TEST(cost_survives_steps_that_are_all_alike)
{
    struct cost_model cost = { 0 };
    for (int step = 0; step < 5000; step++)
        cost_learn(&cost, 8, 8000, 0, 40000);
    assert_close(cost_predict(&cost, 8, 8000), 40000, 0, 0.01);
}
