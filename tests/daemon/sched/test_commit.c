#include "tests/daemon/sched/bed.h"

#include <errno.h>

#include "daemon/base/limits.h"

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

TEST(commit_believes_no_score_of_logits_that_are_bad)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *request = bed_request(&bed, 0, 10, 0), *other = bed_request(&bed, 0, 10, 2);
    request->params.prompt_logprobs = true;
    bed_submit(&bed, request);
    bed_submit(&bed, other);
    struct step *step = bed_plan(&bed);
    for (int i = 0; i < step->n_sample; i++)
        if (step->sample_owner[i].score == 4)
            step->result[i] = (struct step_token){ .token = -1, .flags = STEP_TOKEN_BAD };
    bed_commit(&bed);
    assert_int_equal(request->seq[0]->reason, RINGLET_REASON_ERROR_ENGINE);
    assert_int_equal(request->n_prompt_scored, 4);
    bed_run(&bed);
    assert_int_equal(other->seq[0]->reason, RINGLET_REASON_LENGTH);
    bed_forget(&bed, request);
    bed_forget(&bed, other);
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

static void submit_all(struct request **request, int n)
{
    for (int i = 0; i < n; i++) {
        request[i] = bed_request(&bed, 7 * (uint32_t)i, 20, 4);
        bed_submit(&bed, request[i]);
    }
}

/* Two of four requests run, in two steps that both lack memory; the first of them is committed. */
static void open_short_of_memory(struct request *request[4])
{
    bed_init(&bed);
    bed.config.batch_max = 2;
    bed_open(&bed);
    submit_all(request, 4);
    bed_plan(&bed)->status = -ENOMEM;
    bed_plan(&bed)->status = -ENOMEM;
    assert_true(bed_commit(&bed));
}

/* The step behind a failed one ran for requests that have ended: it ends nobody who came since. */
TEST(commit_of_a_second_failed_step_leaves_alone_who_was_admitted_after_the_first)
{
    struct request *request[4];
    open_short_of_memory(request);
    assert_int_equal(request[1]->seq[0]->reason, RINGLET_REASON_ERROR_ENGINE);
    bed_plan(&bed);
    bed_commit(&bed);
    assert_int_equal(request[2]->state, REQUEST_RUNNING);
    bed_plan(&bed)->status = -ENOMEM; /* it was planned after the first, and behind no other */
    bed_commit(&bed);
    assert_int_equal(request[2]->seq[0]->n_output, 1);
    bed_commit(&bed);
    for (int i = 2; i < 4; i++)
        assert_int_equal(request[i]->seq[0]->reason, RINGLET_REASON_ERROR_ENGINE);
    for (int i = 0; i < 4; i++)
        bed_forget(&bed, request[i]);
    bed_close(&bed);
}

TEST(shrink_halves_what_runs_at_once_down_to_one)
{
    struct request *request[6];
    struct sched_stats stats;
    bed_init(&bed);
    bed.config.batch_max = 6;
    bed_open(&bed);
    assert_int_equal(sched_shrink(bed.sched, bed.now), 3);
    submit_all(request, 6);
    bed_plan(&bed);
    sched_stats(bed.sched, &stats);
    assert_int_equal(stats.running, 3);
    bed_commit(&bed);
    assert_int_equal(sched_shrink(bed.sched, bed.now), 1); /* those that run go on */
    bed_plan(&bed);
    bed_commit(&bed);
    assert_int_equal(sched_shrink(bed.sched, bed.now), 0);
    bed_run(&bed);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(request[i]->seq[0]->reason, RINGLET_REASON_LENGTH);
        bed_forget(&bed, request[i]);
    }
    bed_close(&bed);
}

/* Two steps are in flight: what was planned before the shortage was known fails too. */
TEST(commit_tells_once_of_two_steps_that_were_planned_alike)
{
    struct request *request[4];
    open_short_of_memory(request);
    assert_int_equal(sched_shrink(bed.sched, bed.now), 1);
    assert_false(bed_commit(&bed));
    for (int i = 0; i < 2; i++)
        assert_int_equal(request[i]->seq[0]->reason, RINGLET_REASON_ERROR_ENGINE);
    bed_plan(&bed)->status = -ENOMEM;
    assert_true(bed_commit(&bed));
    assert_int_equal(sched_shrink(bed.sched, bed.now), 0);
    bed_plan(&bed);
    assert_false(bed_commit(&bed)); /* it ended well */
    bed_run(&bed);
    assert_int_equal(request[3]->seq[0]->reason, RINGLET_REASON_LENGTH);
    for (int i = 0; i < 4; i++)
        bed_forget(&bed, request[i]);
    bed_close(&bed);
}

/* A step that ends this much later; how many sequences it had. */
static int step_after(uint64_t ns)
{
    bed.now += ns;
    const struct step *step = bed_plan(&bed);
    int n = step ? step->n_seq : 0;
    if (step)
        bed_commit(&bed);
    return n;
}

TEST(what_runs_well_lets_the_batch_grow_back)
{
    struct request *request[8];
    bed_init(&bed);
    bed.config.batch_max = 6;
    bed_open(&bed);
    assert_int_equal(sched_shrink(bed.sched, bed.now), 3);
    assert_int_equal(step_after(2 * LIMIT_GROW_NS), 0); /* nobody is there: nothing is known */
    for (int i = 0; i < 8; i++) {
        request[i] = bed_request(&bed, 7 * (uint32_t)i, 20, 100);
        if (i < 6)
            bed_submit(&bed, request[i]);
    }
    assert_int_equal(step_after(0), 3); /* it goes well, and the wait is long over */
    assert_int_equal(step_after(LIMIT_GROW_NS / 2), 4);
    assert_int_equal(step_after(LIMIT_GROW_NS / 2), 4);
    assert_int_equal(step_after(0), 5);
    assert_int_equal(sched_shrink(bed.sched, bed.now), 2); /* too many: now twice the wait */
    for (int i = 0; i < 4; i++)
        sched_cancel(bed.sched, request[i], RINGLET_REASON_CANCELLED, 0, bed.now);
    assert_int_equal(step_after(LIMIT_GROW_NS), 2);
    assert_int_equal(step_after(LIMIT_GROW_NS / 2), 2);
    bed_submit(&bed, request[6]);
    bed_submit(&bed, request[7]);
    assert_int_equal(step_after(LIMIT_GROW_NS / 2), 2);
    assert_int_equal(step_after(0), 3);
    bed_run(&bed);
    for (int i = 0; i < 8; i++)
        bed_forget(&bed, request[i]);
    bed_close(&bed);
}
