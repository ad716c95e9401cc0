/* mirrors: daemon/sched/account.c daemon/sched/check.c (a check that never fails is proved by the
 * planted bugs of tests/sim) */
#include "tests/daemon/sched/bed.h"

#include <errno.h>

#include "base/compiler.h"

static struct bed bed;

static int add_error(struct request *request)
{
    int error = sched_add(bed.sched, request, bed.now);
    assert_null(request->sched);
    assert_int_equal(request->state, REQUEST_ENCODING);
    request_put(bed.requests, request);
    return error;
}

TEST(sched_add_refuses_what_can_never_run)
{
    bed_init(&bed);
    bed.config.kv_blocks = 8;
    bed_open(&bed);
    struct request *big = bed_request(&bed, 0, 8 * 16 + 1, 1);
    assert_int_equal(sched_add(bed.sched, big, bed.now), -E2BIG);
    assert_int_equal(big->totals.kv_blocks_peak, 9); /* for the one who asked */
    request_put(bed.requests, big);
    assert_int_equal(add_error(bed_request(&bed, 0, 256, 1)), -EMSGSIZE);
    assert_int_equal(add_error(bed_request(&bed, 0, 257, 0)), -EMSGSIZE);
    struct request *request = bed_request(&bed, 0, 4, 1);
    static struct request_bias bias[300];
    request->bias = bias;
    request->n_bias = 300;
    assert_int_equal(add_error(request), -ENOSPC);
    /* as large as the pool is fine */
    request = bed_request(&bed, 0, 8 * 16, 5);
    bed_submit(&bed, request);
    bed_run(&bed);
    assert_int_equal(request->seq[0]->reason, RINGLET_REASON_CONTEXT);
    assert_int_equal(request->seq[0]->detail, RINGLET_ERROR_TOO_BIG);
    assert_int_equal(request->seq[0]->n_output, 1);
    bed_forget(&bed, request);
    bed_close(&bed);
}

/* All of them end as if they had run alone, so many at a time. */
static void takes_turns(uint32_t n_prompt, uint32_t n, int n_together)
{
    struct request *request = bed_fork(&bed, 0, n_prompt, 20, n);
    int n_seq_max = 0;
    bed_submit(&bed, request);
    for (struct step *step; (step = bed_plan(&bed)); bed_commit(&bed))
        n_seq_max = max_of(n_seq_max, step->n_seq);
    assert_int_equal(n_seq_max, n_together);
    for (uint32_t i = 0; i < n; i++)
        assert_int_equal(request->seq[i]->reason, RINGLET_REASON_LENGTH);
    assert_int_equal(request->totals.completion_tokens, 20 * n);
    assert_int_equal(request->totals.preemptions, 0);
    bed_forget(&bed, request); /* checks every token */
}

TEST(sched_sequences_beyond_the_batch_the_cap_or_the_pool_take_turns)
{
    bed_init(&bed);
    static const struct sched_share shares[] = { { 7, 1, 2 } };
    bed.config.batch_max = 3;
    bed_open(&bed);
    takes_turns(21, 8, 3);
    bed_close(&bed);
    bed.config.shares = shares;
    bed.config.n_share = 1;
    bed_open(&bed);
    struct request *capped = bed_fork(&bed, 0, 21, 20, 5);
    capped->uid = 7;
    bed_submit(&bed, capped);
    assert_int_equal(bed_plan(&bed)->n_sample, 2);
    bed_run(&bed);
    assert_int_equal(capped->totals.completion_tokens, 100);
    bed_forget(&bed, capped);
    bed_close(&bed);
    bed_init(&bed);
    bed.config.kv_blocks = 8;
    bed_open(&bed);
    takes_turns(4 * 16, 6, 4); /* a block each is what there is at first, two are needed */
    bed_close(&bed);
    bed_init(&bed);
    bed.config.prefix_cache = false;
    bed.config.batch_max = 2;
    bed_open(&bed);
    takes_turns(21, 5, 2);
    bed_close(&bed);
}

TEST(sched_add_bounds_the_queue_of_all_and_of_each_user)
{
    bed_init(&bed);
    bed.config.queue_max = 5;
    bed.config.queue_uid_max = 3;
    bed_open(&bed);
    struct request *request[5];
    for (uint32_t i = 0; i < 5; i++) {
        request[i] = bed_request(&bed, i, 4, 1);
        request[i]->uid = i / 3;
        bed_submit(&bed, request[i]);
    }
    struct request *more = bed_request(&bed, 0, 4, 1);
    more->uid = 0;
    assert_int_equal(add_error(more), -EAGAIN);
    more = bed_request(&bed, 0, 4, 1);
    more->uid = 9;
    assert_int_equal(add_error(more), -EAGAIN);
    bed_run(&bed);
    for (uint32_t i = 0; i < 5; i++)
        bed_forget(&bed, request[i]);
    bed_close(&bed);
}

TEST(sched_cancel_is_idempotent_in_every_state_and_frees_kv)
{
    bed_init(&bed);
    bed_open(&bed);
    for (int when = 0; when < 5; when++) {
        struct request *request = bed_fork(&bed, 0, 100, 20, 3);
        bed_submit(&bed, request); /* 0: queued */
        for (int step = 0; step < when && step < 2; step++)
            bed_plan(&bed); /* 1: prefilling, 2: two steps in flight */
        for (int step = 3; step <= when; step++) {
            bed_commit(&bed); /* 3: between, 4: decoding */
            bed_plan(&bed);
        }
        for (int twice = 0; twice < 2; twice++)
            sched_cancel(bed.sched, request, RINGLET_REASON_CANCELLED, 7, bed.now);
        assert_int_equal(request->state, REQUEST_DONE);
        assert_int_equal(request->seq[2]->reason, RINGLET_REASON_CANCELLED);
        struct sched_stats stats;
        sched_stats(bed.sched, &stats);
        assert_int_equal(stats.kv_owned, 0);
        bed_run(&bed);
        bed_forget(&bed, request);
    }
    bed_close(&bed);
}

TEST(sched_forget_waits_for_steps_that_read_the_request)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *request = bed_request(&bed, 0, 10, 20);
    bed_submit(&bed, request);
    bed_plan(&bed);
    bed_plan(&bed);
    sched_cancel(bed.sched, request, RINGLET_REASON_CANCELLED, 0, bed.now);
    bed_forget(&bed, request);
    assert_int_equal(bed.n_released, 0);
    bed_commit(&bed);
    assert_int_equal(bed.n_released, 0);
    bed_commit(&bed);
    assert_int_equal(bed.n_released, 1);
    bed_close(&bed);
}

TEST(sched_expire_ends_what_is_due_and_nothing_else)
{
    bed_init(&bed);
    bed.config.batch_max = 1;
    bed_open(&bed);
    struct request *first = bed_request(&bed, 0, 10, 100), *queued = bed_request(&bed, 50, 10, 5),
                   *total = bed_request(&bed, 70, 10, 5);
    first->params.first_token_deadline_ns = bed.now + 100;
    queued->params.queue_deadline_ns = bed.now + 200;
    total->params.total_deadline_ns = bed.now + 300;
    bed_submit(&bed, first);
    bed_submit(&bed, queued);
    bed_submit(&bed, total);
    assert_int_equal(sched_next_ns(bed.sched), bed.now + 100);
    bed_plan(&bed);
    bed_commit(&bed); /* its first token is there: that deadline is met */
    bed.now += 250;
    sched_expire(bed.sched, bed.now);
    assert_int_equal(first->state, REQUEST_RUNNING);
    assert_int_equal(queued->seq[0]->reason, RINGLET_REASON_DEADLINE);
    assert_int_equal(queued->seq[0]->detail, 0);
    assert_int_equal(total->state, REQUEST_QUEUED);
    bed.now += 100;
    sched_expire(bed.sched, bed.now);
    assert_int_equal(total->state, REQUEST_DONE);
    assert_int_equal(sched_next_ns(bed.sched), UINT64_MAX);
    bed_run(&bed);
    bed_forget(&bed, first);
    bed_forget(&bed, queued);
    bed_forget(&bed, total);
    bed_close(&bed);
}

TEST(sched_stall_keeps_a_sequence_out_of_batches)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *slow = bed_request(&bed, 0, 10, 30), *other = bed_request(&bed, 50, 10, 30);
    bed_submit(&bed, slow);
    bed_submit(&bed, other);
    bed_plan(&bed);
    bed_commit(&bed);
    sched_stall(bed.sched, slow->seq[0], true);
    bed_run(&bed);
    assert_int_equal(slow->seq[0]->n_output, 1);
    assert_int_equal(other->seq[0]->n_output, 30);
    sched_stall(bed.sched, slow->seq[0], false);
    bed_run(&bed);
    assert_int_equal(slow->seq[0]->n_output, 30);
    bed_forget(&bed, slow);
    bed_forget(&bed, other);
    bed_close(&bed);
}

TEST(sched_create_refuses_an_unknown_policy_and_absurd_sizes)
{
    bed_init(&bed);
    bed_open(&bed);
    struct sched *s;
    struct sched_config config = bed.config;
    config.policy = "best";
    assert_int_equal(sched_create(&config, bed.arena, &s), -EINVAL);
    config = bed.config;
    config.rows_max = config.batch_max - 1;
    assert_int_equal(sched_create(&config, bed.arena, &s), -EINVAL);
    config = bed.config;
    config.kv_blocks = 0;
    assert_int_equal(sched_create(&config, bed.arena, &s), -EINVAL);
    bed_close(&bed);
}
