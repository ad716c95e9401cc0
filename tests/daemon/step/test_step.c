#include "daemon/step/step.h"

#include <errno.h>

#include "daemon/base/arena.h"
#include "tests/harness/harness.h"

static const struct step_limits limits = {
    .rows_max = 32,
    .seqs_max = 4,
    .samples_max = 8,
    .blocks_max = 64,
    .lists_max = 16,
    .moves_max = 4,
    .vocab = 100,
};

TEST(step_init_takes_what_step_bytes_says)
{
    struct arena *arena;
    assert_ok(arena_create(1 << 20, &arena));
    struct step step;
    assert_ok(step_init(&step, &limits, arena));
    assert_true(arena_used(arena) <= step_bytes(&limits) + 64 * 64);
    assert_int_equal(step.limits.rows_max, 32);
    /* every array is writable to its end and apart from the others */
    memset(step.token, 1, 32 * sizeof(int32_t));
    memset(step.row_start, 2, 5 * sizeof(int32_t));
    memset(step.block_start, 3, 5 * sizeof(int32_t));
    memset(step.result, 4, 8 * sizeof(struct step_token));
    memset(step.swap_out, 5, 4 * sizeof(struct step_move));
    assert_int_equal(((char *)step.token)[127], 1);
    assert_int_equal(((char *)step.row_start)[19], 2);
    arena_free(arena);
}

TEST(step_init_tells_too_little_memory_and_absurd_limits)
{
    struct arena *arena;
    assert_ok(arena_create(4096, &arena));
    struct step_limits big = limits;
    big.rows_max = 1 << 24;
    struct step step;
    assert_int_equal(step_init(&step, &big, arena), -ENOMEM);
    big.rows_max = 0;
    assert_int_equal(step_init(&step, &big, arena), -EINVAL);
    arena_free(arena);
}

TEST(step_reset_empties_the_plan_and_keeps_the_arrays)
{
    struct arena *arena;
    assert_ok(arena_create(1 << 20, &arena));
    struct step step;
    assert_ok(step_init(&step, &limits, arena));
    step.model = 3;
    step.n_row = step.n_seq = step.n_copy = step.n_ban = 2;
    step.status = -EIO;
    step.row_start[0] = 7;
    int32_t *token = step.token;
    step_reset(&step);
    assert_int_equal(step.n_row + step.n_seq + step.n_copy + step.n_ban, 0);
    assert_int_equal(step.row_start[0], 0);
    assert_int_equal(step.status, 0);
    assert_int_equal(step.model, 3);
    assert_ptr_equal(step.token, token);
    arena_free(arena);
}
