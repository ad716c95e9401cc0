#include "tests/daemon/sched/bed.h"

#include <errno.h>

static struct bed bed;

static void finish(struct request *request, uint16_t reason, uint32_t detail)
{
    bed_submit(&bed, request);
    bed_run(&bed);
    assert_int_equal(request->seq[0]->reason, reason);
    assert_int_equal(request->seq[0]->detail, detail);
    bed_check(&bed, request);
}

TEST(commit_ends_at_eos_and_stop_ids_and_publishes_nothing_behind)
{
    bed_init(&bed);
    bed.config.vocab = 20;
    bed_open(&bed);
    struct request *request = bed_request(&bed, 0, 10, 200);
    request->params.ignore_eos = false;
    finish(request, RINGLET_REASON_STOP_EOS, BED_EOS);
    uint32_t n = request->seq[0]->n_output;
    assert_int_equal(request->seq[0]->output[n - 1], BED_EOS);
    assert_int_equal(request->totals.completion_tokens, n);
    bed_forget(&bed, request);
    static const int32_t stop[] = { 7 };
    request = bed_request(&bed, 0, 10, 200);
    request->stop_ids = stop;
    request->n_stop_id = 1;
    finish(request, RINGLET_REASON_STOP_TOKEN, 7);
    bed_forget(&bed, request);
    bed_close(&bed);
}

TEST(commit_ends_at_max_tokens_and_at_the_context)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *request = bed_request(&bed, 0, 10, 33);
    finish(request, RINGLET_REASON_LENGTH, 0);
    assert_int_equal(request->seq[0]->n_output, 33);
    bed_forget(&bed, request);
    request = bed_request(&bed, 0, 200, 57);
    finish(request, RINGLET_REASON_CONTEXT, 0);
    assert_int_equal(request->seq[0]->n_output, 56);
    bed_forget(&bed, request);
    bed_close(&bed);
}

TEST(commit_ends_prompt_only_requests_with_their_prompt)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *request = bed_request(&bed, 0, 256, 0);
    request->params.prompt_logprobs = true;
    request->params.prompt_logprobs_k = 3;
    finish(request, RINGLET_REASON_LENGTH, 0);
    assert_int_equal(request->n_prompt_scored, 256);
    assert_true(isnan(request->prompt_logprob[0].logprob));
    for (uint32_t position = 1; position < 256; position++) {
        assert_true(request->prompt_logprob[position].logprob ==
                    fake_score(bed.fake, request->seq[0], position));
        assert_int_equal(request->prompt_logprob[position].n_top, 3);
    }
    bed_forget(&bed, request);
    bed_close(&bed);
}

TEST(commit_scores_a_prompt_of_one_id_although_there_is_nothing_to_score)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *request = bed_request(&bed, 0, 1, 2);
    request->params.prompt_logprobs = true;
    finish(request, RINGLET_REASON_LENGTH, 0);
    assert_int_equal(request->n_prompt_scored, 1);
    assert_true(isnan(request->prompt_logprob[0].logprob));
    bed_forget(&bed, request);
    bed_close(&bed);
}

TEST(commit_reads_no_cache_for_prompt_logprobs)
{
    bed_init(&bed);
    bed_open(&bed);
    for (int pass = 0; pass < 2; pass++) {
        struct request *request = bed_request(&bed, 0, 100, 3);
        request->params.prompt_logprobs = true;
        finish(request, RINGLET_REASON_LENGTH, 0);
        assert_int_equal(request->totals.cached_tokens, 0);
        bed_forget(&bed, request);
    }
    bed_close(&bed);
}

TEST(commit_finds_repetitions)
{
    bed_init(&bed);
    bed.config.vocab = 2; /* soon a pattern of two comes three times */
    bed_open(&bed);
    struct request *request = bed_request(&bed, 0, 10, 200);
    request->params.repeat_min = 1;
    request->params.repeat_max = 2;
    request->params.repeat_count = 3;
    finish(request, RINGLET_REASON_REPETITION, 0);
    const int32_t *out = request->seq[0]->output;
    uint32_t n = request->seq[0]->n_output;
    bool one = out[n - 1] == out[n - 2] && out[n - 2] == out[n - 3];
    bool two =
        n >= 6 && !memcmp(out + n - 2, out + n - 4, 8) && !memcmp(out + n - 4, out + n - 6, 8);
    assert_true(one || two);
    bed_forget(&bed, request);
    bed_close(&bed);
}

TEST(commit_ends_a_sequence_whose_logits_are_bad)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *request = bed_request(&bed, 0, 10, 20);
    bed_submit(&bed, request);
    bed_plan(&bed)->result[0] = (struct step_token){ .token = -1, .flags = STEP_TOKEN_BAD };
    bed_commit(&bed);
    assert_int_equal(request->seq[0]->reason, RINGLET_REASON_ERROR_ENGINE);
    assert_int_equal(request->seq[0]->n_output, 0);
    bed_run(&bed);
    bed_forget(&bed, request);
    bed_close(&bed);
}

TEST(commit_of_a_failed_step_ends_who_runs_and_forgets_all_kv)
{
    bed_init(&bed);
    bed.config.batch_max = 1;
    bed_open(&bed);
    struct request *running = bed_request(&bed, 0, 40, 20), *waiting = bed_request(&bed, 0, 40, 20);
    bed_submit(&bed, running);
    bed_submit(&bed, waiting);
    bed_plan(&bed);
    bed_commit(&bed);
    bed_plan(&bed)->status = -EIO;
    bed_plan(&bed);
    bed_commit(&bed);
    assert_int_equal(running->seq[0]->reason, RINGLET_REASON_ERROR_ENGINE);
    assert_int_equal(running->seq[0]->n_output, 1);
    assert_int_equal(waiting->state, REQUEST_QUEUED);
    struct sched_stats stats;
    sched_stats(bed.sched, &stats);
    assert_int_equal(stats.kv_free, stats.kv_total);
    bed_run(&bed);
    assert_int_equal(waiting->seq[0]->reason, RINGLET_REASON_LENGTH);
    assert_int_equal(waiting->totals.cached_tokens, 0);
    bed_forget(&bed, running);
    bed_forget(&bed, waiting);
    bed_close(&bed);
}

TEST(shrink_halves_what_runs_at_once_down_to_one)
{
    struct request *request[6];
    struct sched_stats stats;
    bed_init(&bed);
    bed.config.batch_max = 6;
    bed_open(&bed);
    assert_int_equal(sched_shrink(bed.sched), 3);
    for (int i = 0; i < 6; i++) {
        request[i] = bed_request(&bed, 7 * (uint32_t)i, 20, 4);
        bed_submit(&bed, request[i]);
    }
    bed_plan(&bed);
    sched_stats(bed.sched, &stats);
    assert_int_equal(stats.running, 3);
    bed_commit(&bed);
    assert_int_equal(sched_shrink(bed.sched), 1); /* those that run go on */
    assert_int_equal(sched_shrink(bed.sched), 0);
    bed_run(&bed);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(request[i]->seq[0]->reason, RINGLET_REASON_LENGTH);
        bed_forget(&bed, request[i]);
    }
    bed_close(&bed);
}
