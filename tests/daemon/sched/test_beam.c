#include "tests/daemon/sched/bed.h"

#include <errno.h>

#include "base/compiler.h"
#include "tests/sim/fake_beam.h"

static struct bed bed;
static struct fake_beam truth[FAKE_BEAMS];

static struct request *beams(uint32_t from, uint32_t n_prompt, uint32_t max_tokens, uint32_t width)
{
    struct request *request = bed_fork(&bed, from, n_prompt, max_tokens, width);
    request->params.beam_width = (uint8_t)width;
    request->params.length_penalty = 1;
    request->params.temperature = 0;
    return request;
}

/* What it told is what a search without forks finds. */
static void is_true(const struct request *request)
{
    uint32_t room = (uint32_t)bed.config.context_max - request->n_prompt;
    uint32_t n =
        fake_beam_search(bed.fake, request, bed.config.eos_ids, bed.config.n_eos_id, room, truth);
    assert_int_equal(request->state, REQUEST_DONE);
    for (uint32_t i = 0; i < min_of(n, (uint32_t)request->params.n); i++) {
        const struct sequence *seq = request->seq[i];
        assert_int_equal(seq->n_output, truth[i].n);
        assert_memory_equal(seq->output, truth[i].ids, truth[i].n * sizeof(int32_t));
        assert_int_equal(seq->reason, truth[i].reason);
        assert_close(seq->cumulative, truth[i].sum, 0, 0);
        assert_true(i == 0 || truth[i - 1].score >= truth[i].score);
    }
}

static void forget(struct request *request)
{
    assert_int_equal(request->state, REQUEST_DONE);
    sched_forget(bed.sched, request);
}

TEST(beam_search_finds_what_a_search_without_forks_finds)
{
    for (uint32_t width = 1; width <= 8; width++) {
        for (uint32_t early = 0; early < 3; early++) {
            bed_init(&bed);
            bed.config.vocab = 30;
            bed_open(&bed);
            for (int i = 0; i < BED_TOKENS; i++)
                bed.stream[i] %= 30;
            struct request *request = beams(20 * width, 37, 40, width);
            request->params.ignore_eos = false; /* one of 30 ids: hypotheses of many lengths */
            request->params.early_stopping = (uint8_t)early;
            request->params.length_penalty = 0.3f * (float)width;
            bed_submit(&bed, request);
            bed_run(&bed);
            is_true(request);
            forget(request);
            bed_close(&bed);
        }
    }
}

TEST(beam_search_copies_no_more_than_last_blocks)
{
    bed_init(&bed);
    bed.config.batch_max = 4;
    bed.config.kv_blocks = 12; /* 4 beams of 100 tokens without sharing: 28 */
    bed_open(&bed);
    struct request *request = beams(0, 70, 30, 4);
    bed_submit(&bed, request);
    int n_step = 0;
    for (struct step *step; (step = bed_plan(&bed)); bed_commit(&bed), n_step++) {
        if (n_step < 2)
            continue; /* the prompt */
        assert_int_equal(step->n_decode, 4);
        assert_true(step->n_copy <= 3);
        assert_null(bed_plan(&bed)); /* a beam waits for what the others tell */
    }
    assert_int_equal(n_step, 2 + 29);
    assert_int_equal(request->totals.preemptions, 0);
    is_true(request);
    forget(request);
    bed_close(&bed);
}

TEST(beam_search_goes_on_after_a_preemption)
{
    bed_init(&bed);
    bed.config.kv_blocks = 14;
    bed_open(&bed);
    struct request *old = bed_request(&bed, 300, 100, 100), *request = beams(0, 40, 40, 4);
    bed_submit(&bed, old);
    bed_submit(&bed, request);
    bed_run(&bed);
    assert_true(request->totals.preemptions > 0);
    assert_int_equal(old->totals.preemptions, 0);
    is_true(request);
    forget(request);
    bed_forget(&bed, old);
    bed_close(&bed);
}

TEST(beam_search_keeps_min_tokens_biases_and_stop_ids)
{
    bed_init(&bed);
    bed.config.vocab = 12;
    bed_open(&bed);
    static const int32_t stop[] = { 5, 6 };
    static const struct request_bias bias[] = { { 3, 0.5f }, { 5, 4 } };
    for (int i = 0; i < 40; i++)
        bed.stream[i] %= 12;
    struct request *request = beams(0, 40, 20, 3);
    request->params.ignore_eos = false;
    request->params.min_tokens = 4;
    request->params.n = 2;
    request->params.logprobs = true;
    request->stop_ids = stop;
    request->n_stop_id = 2;
    request->bias = bias;
    request->n_bias = 2;
    bed_submit(&bed, request);
    bed_run(&bed);
    is_true(request);
    double sum = 0; /* of natural ones and biases: what the search went by */
    const struct sequence *seq = request->seq[0];
    for (uint32_t i = 0; i < seq->n_output; i++)
        sum += (double)seq->logprobs[i].logprob + (seq->output[i] == 3   ? 0.5
                                                   : seq->output[i] == 5 ? 4
                                                                         : 0);
    assert_close(sum, seq->cumulative, 1e-6, 1e-6);
    assert_int_equal(seq->reason, RINGLET_REASON_STOP_TOKEN);
    assert_true(seq->n_output > 4);
    assert_int_equal(request->seq[2]->n_output, 0); /* two were asked for */
    assert_int_equal(request->totals.completion_tokens, seq->n_output + request->seq[1]->n_output);
    forget(request);
    bed_close(&bed);
}

TEST(beam_search_is_cancelled_whole_at_any_time)
{
    bed_init(&bed);
    bed_open(&bed);
    for (int when = 0; when < 12; when++) {
        struct request *request = beams(0, 100, 20, 3);
        bed_submit(&bed, request);
        for (int i = 0; i < when; i++) {
            if (i % 2 == 0)
                bed_plan(&bed);
            else
                bed_commit(&bed);
        }
        sched_cancel(bed.sched, request, RINGLET_REASON_CANCELLED, 0, bed.now);
        assert_int_equal(request->state, REQUEST_DONE);
        assert_int_equal(request->totals.completion_tokens, 0);
        struct sched_stats stats;
        sched_stats(bed.sched, &stats);
        assert_int_equal(stats.kv_owned, 0);
        bed_run(&bed);
        forget(request);
    }
    bed_close(&bed);
}

TEST(beam_search_in_a_pool_that_is_too_small_tells_what_it_has)
{
    bed_init(&bed);
    bed.config.kv_blocks = 8;
    bed_open(&bed);
    struct request *request = beams(0, 40, 60, 4);
    bed_submit(&bed, request);
    bed_run(&bed);
    assert_int_equal(request->seq[0]->reason, RINGLET_REASON_CONTEXT);
    assert_int_equal(request->seq[0]->detail, RINGLET_ERROR_TOO_BIG);
    assert_true(request->seq[0]->n_output > 5);
    assert_true(request->totals.search_cut);
    assert_true(request->seq[0]->cumulative >= request->seq[3]->cumulative);
    forget(request);
    bed_close(&bed);
}

TEST(beam_search_wider_than_batch_or_pool_is_refused)
{
    bed_init(&bed);
    bed.config.batch_max = 4;
    bed.config.kv_blocks = 6;
    bed_open(&bed);
    struct request *request = beams(0, 20, 5, 5);
    assert_int_equal(sched_add(bed.sched, request, bed.now), -EUSERS);
    request_put(bed.requests, request);
    request = beams(0, 60, 5, 4);
    assert_int_equal(sched_add(bed.sched, request, bed.now), -E2BIG);
    request_put(bed.requests, request);
    bed_close(&bed);
}

TEST(beam_hypotheses_are_held_and_found_again)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *request = beams(0, 40, 20, 3);
    request->params.hold = true;
    request->params.n = 2;
    bed_submit(&bed, request);
    bed_run(&bed);
    assert_true(request->seq[0]->handle && request->seq[1]->handle && !request->seq[2]->handle);
    const int32_t *ids;
    uint32_t n;
    assert_ok(sched_handle_ids(bed.sched, 0, request->seq[0]->handle, &ids, &n));
    assert_int_equal(n, 60);
    struct request *fork = bed_request(&bed, 0, 60, 5);
    int32_t prompt[60];
    memcpy(prompt, ids, sizeof(prompt));
    fork->prompt = prompt;
    fork->from_handle = request->seq[0]->handle;
    bed_submit(&bed, fork);
    bed_run(&bed);
    assert_true(fork->totals.cached_tokens >= 40);
    sched_handle_release_all(bed.sched, 0);
    forget(request);
    bed_forget(&bed, fork);
    bed_close(&bed);
}
