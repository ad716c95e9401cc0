#include "tests/daemon/sched/bed.h"

static struct bed bed;

TEST(batcher_puts_decode_rows_first_and_fills_up_with_prefill)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *a = bed_request(&bed, 0, 10, 10), *b = bed_request(&bed, 100, 150, 10);
    bed_submit(&bed, a);
    assert_int_equal(bed_plan(&bed)->n_row, 10);
    bed_submit(&bed, b);
    struct step *step = bed_plan(&bed);
    assert_int_equal(step->n_decode, 1);
    assert_int_equal(step->n_seq, 2);
    assert_int_equal(step->n_row, 64);    /* one of a, 63 of b */
    assert_int_equal(step->token[0], -1); /* what the step before draws */
    assert_int_equal(step->n_sample, 1);
    bed_commit(&bed);
    step = bed_plan(&bed);
    assert_int_equal(step->n_row, 64);
    bed_commit(&bed);
    step = bed_plan(&bed);
    assert_int_equal(step->n_row, 1 + 150 - 63 - 63);
    assert_int_equal(step->n_sample, 2);
    bed_run(&bed);
    bed_forget(&bed, a);
    bed_forget(&bed, b);
    bed_close(&bed);
}

TEST(batcher_asks_for_invariant_kernels_while_somebody_who_wants_them_is_in_the_step)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *same = bed_request(&bed, 0, 10, 3), *plain = bed_request(&bed, 100, 10, 10);
    same->params.deterministic = true;
    bed_submit(&bed, same);
    assert_true(bed_plan(&bed)->deterministic);
    bed_submit(&bed, plain);
    for (int i = 0; i < 2; i++) { /* two more tokens of it, beside the other's prompt and first */
        const struct step *step = bed_plan(&bed);
        assert_int_equal(step->n_seq, 2);
        assert_true(step->deterministic);
        bed_commit(&bed);
    }
    bed_commit(&bed);
    const struct step *step = bed_plan(&bed);
    assert_int_equal(step->n_seq, 1);
    assert_false(step->deterministic);
    bed_run(&bed);
    bed_forget(&bed, same);
    bed_forget(&bed, plain);
    bed_close(&bed);
}

TEST(batcher_draws_the_first_tokens_of_n_forks_from_one_row)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *request = bed_fork(&bed, 0, 21, 9, 4);
    bed_submit(&bed, request);
    struct step *step = bed_plan(&bed);
    assert_int_equal(step->n_row, 21);
    assert_int_equal(step->n_sample, 4);
    for (int sample_i = 0; sample_i < 4; sample_i++) {
        assert_int_equal(step->sample_row[sample_i], 20);
        assert_int_equal(step->sample[sample_i].index, sample_i);
    }
    step = bed_plan(&bed);
    assert_int_equal(step->n_decode, 4);
    assert_int_equal(step->n_copy, 3); /* the last one goes on in the block itself */
    bed_run(&bed);
    assert_int_equal(request->totals.completion_tokens, 36);
    bed_forget(&bed, request);
    bed_close(&bed);
}

TEST(batcher_shrinks_prefill_chunks_for_the_cadence)
{
    bed_init(&bed);
    bed.config.cadence_ns = 30 * 1000;
    bed.row_ns = 1000; /* 30 rows in a cadence */
    bed_open(&bed);
    struct request *a = bed_request(&bed, 0, 10, 60);
    bed_submit(&bed, a);
    for (int step_i = 0; step_i < 20; step_i++) {
        bed_plan(&bed);
        bed_commit(&bed);
    }
    struct request *b = bed_request(&bed, 100, 150, 5);
    bed_submit(&bed, b);
    for (int step_i = 0; step_i < 4; step_i++) {
        struct step *step = bed_plan(&bed);
        assert_in_range(step->n_row, 25, 32);
        bed_commit(&bed);
    }
    bed_run(&bed);
    bed_forget(&bed, a);
    bed_forget(&bed, b);
    bed_close(&bed);
}

TEST(batcher_computes_something_however_short_the_cadence)
{
    bed_init(&bed);
    bed.config.cadence_ns = 10;
    bed.row_ns = 1000;
    bed_open(&bed);
    struct request *a = bed_request(&bed, 0, 10, 100), *b = bed_request(&bed, 100, 150, 5);
    bed_submit(&bed, a);
    bed_plan(&bed);
    bed_commit(&bed);
    bed_submit(&bed, b);
    for (int step_i = 0; step_i < 150 / 16 + 1; step_i++) {
        assert_int_equal(b->seq[0]->n_output, 0);
        bed_plan(&bed);
        bed_commit(&bed);
    }
    assert_int_equal(b->seq[0]->n_output, 1);
    bed_run(&bed);
    bed_forget(&bed, a);
    bed_forget(&bed, b);
    bed_close(&bed);
}

TEST(batcher_bans_end_ids_until_min_tokens_and_shares_lists_of_forks)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *request = bed_fork(&bed, 0, 16, 8, 3);
    static const int32_t stop[] = { 5, 6 };
    static const struct request_bias bias[] = { { 3, 1.5f }, { 4, -2 } };
    request->params.min_tokens = 2;
    request->stop_ids = stop;
    request->n_stop_id = 2;
    request->bias = bias;
    request->n_bias = 2;
    bed_submit(&bed, request);
    struct step *step = bed_plan(&bed);
    assert_int_equal(step->n_ban, 3);
    assert_int_equal(step->n_bias, 2);
    assert_int_equal(step->sample[2].n_ban, 3);
    assert_int_equal(step->sample[2].ban_start, 0);
    assert_int_equal(bed_plan(&bed)->n_ban, 3);
    bed_commit(&bed);
    assert_int_equal(bed_plan(&bed)->n_ban, 0);
    bed_run(&bed);
    bed_forget(&bed, request);
    bed_close(&bed);
}

/* The limit is the step's, and the list is there once: not once for each sequence. */
TEST(batcher_takes_all_forks_with_a_list_that_fills_the_step)
{
    bed_init(&bed);
    bed_open(&bed);
    static struct request_bias bias[256];
    for (int i = 0; i < 256; i++)
        bias[i] = (struct request_bias){ i + 1, 0.5f };
    struct request *request = bed_fork(&bed, 0, 16, 8, 5);
    request->bias = bias;
    request->n_bias = 256;
    bed_submit(&bed, request);
    for (struct step *step; (step = bed_plan(&bed)); bed_commit(&bed)) {
        assert_int_equal(step->n_sample, 5);
        assert_int_equal(step->n_bias, 256);
    }
    bed_forget(&bed, request);
    bed_close(&bed);
}

TEST(batcher_loads_token_counts_once_and_again_after_a_preemption)
{
    bed_init(&bed);
    bed.config.kv_blocks = 8;
    bed_open(&bed);
    struct request *old = bed_request(&bed, 0, 60, 60), *new = bed_request(&bed, 100, 40, 40);
    new->params.presence = 0.5f;
    bed_submit(&bed, old);
    bed_submit(&bed, new);
    int n_load = 0;
    for (struct step *step; (step = bed_plan(&bed)); bed_commit(&bed)) {
        n_load += step->n_state_load;
        if (step->n_state_load)
            assert_int_equal(step->state_load[0].n_output, new->seq[0]->n_output);
    }
    assert_int_equal(new->totals.preemptions, 1);
    assert_int_equal(n_load, 2);
    bed_forget(&bed, old);
    bed_forget(&bed, new);
    bed_close(&bed);
}
