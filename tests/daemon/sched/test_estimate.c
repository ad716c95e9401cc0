#include "tests/daemon/sched/bed.h"

static struct bed bed;

/* Learns what a step costs: 1 us a row. */
static void teach(void)
{
    bed.row_ns = 1000;
    struct request *teacher = bed_request(&bed, 0, 100, 40);
    bed_submit(&bed, teacher);
    bed_run(&bed);
    bed_forget(&bed, teacher);
}

TEST(estimate_refuses_deadlines_that_cannot_be_met_and_tells_the_estimate)
{
    bed_init(&bed);
    bed.row_ns = 1000;
    bed_open(&bed);
    struct request *teacher = bed_request(&bed, 0, 100, 40);
    bed_submit(&bed, teacher);
    bed_run(&bed);
    struct request *hopeless = bed_request(&bed, 300, 200, 5),
                   *fine = bed_request(&bed, 600, 100, 5);
    hopeless->params.first_token_deadline_ns = bed.now + 100 * 1000;
    fine->params.first_token_deadline_ns = bed.now + 300 * 1000;
    bed_submit(&bed, hopeless);
    bed_submit(&bed, fine);
    assert_int_equal(hopeless->seq[0]->reason, RINGLET_REASON_DEADLINE);
    assert_int_equal(hopeless->seq[0]->detail, 1);
    assert_close(hopeless->totals.estimate_ns, 200 * 1000, 0, 0.2);
    bed_run(&bed);
    assert_int_equal(fine->seq[0]->reason, RINGLET_REASON_LENGTH);
    assert_true(fine->totals.first_token_ns < fine->params.first_token_deadline_ns);
    bed_forget(&bed, teacher);
    bed_forget(&bed, hopeless);
    bed_forget(&bed, fine);
    bed_close(&bed);
}

TEST(estimate_counts_no_cached_tokens_against_a_deadline)
{
    bed_init(&bed);
    bed_open(&bed);
    teach();
    struct request *again = bed_request(&bed, 0, 100, 1);
    again->params.first_token_deadline_ns = bed.now + 50 * 1000;
    bed_submit(&bed, again);
    bed_run(&bed);
    assert_int_equal(again->seq[0]->reason, RINGLET_REASON_LENGTH);
    bed_forget(&bed, again);
    bed_close(&bed);
}

TEST(estimate_counts_no_held_tokens_against_a_deadline)
{
    bed_init(&bed);
    bed.config.prefix_cache = false;
    bed_open(&bed);
    teach();
    struct request *turn = bed_request(&bed, 300, 100, 1);
    turn->params.hold = true;
    bed_submit(&bed, turn);
    bed_run(&bed);
    struct request *next = bed_request(&bed, 300, 110, 1);
    next->from_handle = turn->seq[0]->handle;
    next->params.first_token_deadline_ns = bed.now + 50 * 1000;
    bed_submit(&bed, next);
    bed_run(&bed);
    assert_int_equal(next->seq[0]->reason, RINGLET_REASON_LENGTH);
    assert_ok(sched_handle_release(bed.sched, 0, turn->seq[0]->handle));
    bed_forget(&bed, turn);
    bed_forget(&bed, next);
    bed_close(&bed);
}

/* Those that it overtakes do not count, whatever the policy orders by; those before it do. */
TEST(estimate_counts_only_those_before_it_against_a_deadline)
{
    static const char *const policies[] = { "fcfs", "fair", "deadline", "longest-prefix" };
    for (int policy_i = 0; policy_i < 4; policy_i++) {
        bed_init(&bed);
        bed.config.batch_max = 1;
        bed.config.policy = policies[policy_i];
        bed_open(&bed);
        teach();
        struct request *low[4], *urgent = bed_request(&bed, 500, 50, 1),
                                *late = bed_request(&bed, 600, 50, 1);
        for (uint32_t i = 0; i < 4; i++) {
            low[i] = bed_request(&bed, 110 + 100 * i, 100, 1);
            low[i]->params.urgency = 10;
            low[i]->uid = 1;
            bed_submit(&bed, low[i]);
        }
        urgent->params.urgency = 255;
        urgent->params.first_token_deadline_ns = bed.now + 150 * 1000;
        bed_submit(&bed, urgent);
        late->params.urgency = 0;
        late->uid = 1;
        late->params.first_token_deadline_ns = bed.now + 200 * 1000;
        bed_submit(&bed, late);
        bed_run(&bed);
        assert_int_equal(urgent->seq[0]->reason, RINGLET_REASON_LENGTH);
        assert_true(urgent->totals.first_token_ns < urgent->params.first_token_deadline_ns);
        if (policy_i != 2) { /* it would come second by its deadline */
            assert_int_equal(late->seq[0]->reason, RINGLET_REASON_DEADLINE);
            assert_int_equal(late->totals.admitted_ns, 0);
            assert_true(late->totals.estimate_ns > 400 * 1000);
        }
        for (uint32_t i = 0; i < 4; i++)
            bed_forget(&bed, low[i]);
        bed_forget(&bed, urgent);
        bed_forget(&bed, late);
        bed_close(&bed);
    }
}
