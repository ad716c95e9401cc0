#include "daemon/base/payload.h"
#include "daemon/sched/sched_internal.h"
#include "tests/daemon/sched/bed.h"

static struct bed bed;

TEST(admission_reuses_the_longest_cached_prefix_to_the_token)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *first = bed_request(&bed, 0, 100, 10);
    bed_submit(&bed, first);
    bed_run(&bed);
    assert_int_equal(first->totals.cached_tokens, 0);
    int32_t prompt[80];
    memcpy(prompt, bed.stream, sizeof(prompt));
    prompt[70]++;
    struct request *second = bed_request(&bed, 0, 80, 10);
    second->prompt = prompt;
    bed_submit(&bed, second);
    bed_run(&bed);
    assert_int_equal(second->totals.cached_tokens, 70);
    struct request *same = bed_request(&bed, 0, 100, 10);
    bed_submit(&bed, same);
    bed_run(&bed);
    assert_int_equal(same->totals.cached_tokens, 99); /* the last is always computed */
    assert_memory_equal(same->seq[0]->output, first->seq[0]->output, 10 * sizeof(int32_t));
    bed_forget(&bed, first);
    bed_forget(&bed, second);
    bed_forget(&bed, same);
    bed_close(&bed);
}

TEST(admission_finds_generated_text)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *turn = bed_request(&bed, 0, 40, 30);
    bed_submit(&bed, turn);
    bed_run(&bed);
    int32_t prompt[80];
    memcpy(prompt, bed.stream, 40 * sizeof(int32_t));
    memcpy(prompt + 40, turn->seq[0]->output, 30 * sizeof(int32_t));
    memcpy(prompt + 70, bed.stream + 200, 10 * sizeof(int32_t));
    struct request *next = bed_request(&bed, 0, 80, 5);
    next->prompt = prompt;
    bed_submit(&bed, next);
    bed_run(&bed);
    assert_int_equal(next->totals.cached_tokens, 69); /* all but the token that was drawn last */
    bed_forget(&bed, turn);
    bed_forget(&bed, next);
    bed_close(&bed);
}

TEST(admission_computes_a_new_shared_prefix_once)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *request[4];
    static int32_t prompt[4][130];
    for (int i = 0; i < 4; i++) {
        memcpy(prompt[i], bed.stream, sizeof(prompt[i]));
        prompt[i][129] = 1 + i;
        request[i] = bed_request(&bed, 0, 130, 4);
        request[i]->prompt = prompt[i];
        bed_submit(&bed, request[i]);
    }
    int n_row = 0;
    for (struct step *step; (step = bed_plan(&bed)); bed_commit(&bed))
        n_row += step->n_row - step->n_decode;
    assert_int_equal(n_row, 130 + 3 * 2); /* 128 shared by blocks, the rest each */
    for (int i = 0; i < 4; i++)
        bed_forget(&bed, request[i]);
    bed_close(&bed);
}

TEST(admission_is_by_urgency_and_age)
{
    bed_init(&bed);
    bed.config.batch_max = 1;
    bed_open(&bed);
    struct request *running = bed_request(&bed, 0, 4, 3), *low = bed_request(&bed, 10, 4, 3),
                   *high = bed_request(&bed, 20, 4, 3);
    bed_submit(&bed, running);
    bed_plan(&bed);
    low->params.urgency = 0;
    high->params.urgency = 255;
    bed_submit(&bed, low);
    bed.now += 1000;
    bed_submit(&bed, high);
    bed_run(&bed);
    assert_true(high->totals.admitted_ns < low->totals.admitted_ns);
    bed_forget(&bed, running);
    bed_forget(&bed, low);
    bed_forget(&bed, high);
    bed_close(&bed);
}

/* However many urgent requests come: urgency is worth 100 ms a unit and no more. */
TEST(admission_starves_nobody_beyond_the_aging_bound)
{
    static const char *const policies[] = { "fcfs", "fair", "longest-prefix" };
    for (int policy_i = 0; policy_i < 3; policy_i++) {
        bed_init(&bed);
        bed.config.batch_max = 1;
        bed.config.policy = policies[policy_i];
        bed_open(&bed);
        struct request *low = bed_request(&bed, 10, 4, 1);
        low->params.urgency = 0;
        low->uid = 1;
        bed_submit(&bed, low);
        struct request *waiting = NULL;
        const uint64_t second = 1000000000;
        uint64_t came = bed.now;
        while (low->totals.admitted_ns == 0) {
            struct request *urgent = bed_request(&bed, 20, 4, 1);
            urgent->params.urgency = 255;
            bed_submit(&bed, urgent);
            bed.now += second / 4;
            if (waiting && waiting->state == REQUEST_DONE)
                bed_forget(&bed, waiting);
            waiting = urgent;
            while (urgent->state != REQUEST_DONE && low->totals.admitted_ns == 0) {
                bed_plan(&bed);
                bed_commit(&bed);
            }
            /* longest-prefix: 16 times more that cached ones pass the head */
            assert_true(bed.now - came < 27 * second + (policy_i == 2 ? 16 * second / 4 : 0));
        }
        assert_true(bed.now - came > 20 * second); /* and urgency was worth something */
        bed_run(&bed);
        bed_forget(&bed, waiting);
        bed_forget(&bed, low);
        bed_close(&bed);
    }
}

/* What has no deadline is due at a horizon of 10 s after its age. */
TEST(admission_by_deadline_starves_nobody)
{
    bed_init(&bed);
    bed.config.batch_max = 1;
    bed.config.policy = "deadline";
    bed_open(&bed);
    struct request *low = bed_request(&bed, 10, 4, 1), *waiting = NULL;
    low->params.urgency = 0;
    bed_submit(&bed, low);
    const uint64_t second = 1000000000;
    uint64_t came = bed.now;
    while (low->totals.admitted_ns == 0) {
        struct request *hasty = bed_request(&bed, 20, 4, 1);
        hasty->params.total_deadline_ns = bed.now + second;
        bed_submit(&bed, hasty);
        bed.now += second / 4;
        if (waiting)
            bed_forget(&bed, waiting);
        waiting = hasty;
        while (hasty->state != REQUEST_DONE && low->totals.admitted_ns == 0) {
            bed_plan(&bed);
            bed_commit(&bed);
        }
        assert_true(bed.now - came < 37 * second);
    }
    assert_true(bed.now - came > 30 * second);
    bed_run(&bed);
    bed_forget(&bed, waiting);
    bed_forget(&bed, low);
    bed_close(&bed);
}

/* Smaller ones of the same user do not take the places that a larger one waits for. */
TEST(admission_under_a_cap_starves_no_gang)
{
    static const char *const policies[] = { "fcfs", "fair", "deadline", "longest-prefix" };
    static const struct sched_share shares[] = { { 7, 1, 2 } };
    for (int policy_i = 0; policy_i < 4; policy_i++) {
        bed_init(&bed);
        bed.config.policy = policies[policy_i];
        bed.config.shares = shares;
        bed.config.n_share = 1;
        bed_open(&bed);
        struct request *request[6];
        for (uint32_t i = 0; i < 6; i++) {
            request[i] = bed_fork(&bed, i * 20, 10, 10 + i, i == 1 ? 2 : 1);
            request[i]->uid = i < 5 ? 7 : 8;
            bed_submit(&bed, request[i]);
        }
        assert_int_equal(bed_plan(&bed)->n_seq, 2); /* the first one's, and the other user's */
        bed_run(&bed);
        for (uint32_t i = 2; i < 5; i++)
            assert_true(request[1]->totals.admitted_ns < request[i]->totals.admitted_ns);
        for (uint32_t i = 0; i < 6; i++)
            bed_forget(&bed, request[i]);
        bed_close(&bed);
    }
}

TEST(admission_preempts_the_newest_whole_and_its_stream_goes_on)
{
    bed_init(&bed);
    bed.config.kv_blocks = 12;
    bed.config.kv_host_blocks = 0;
    bed_open(&bed);
    struct request *old = bed_request(&bed, 0, 60, 100), *gang = bed_fork(&bed, 200, 50, 40, 3);
    bed_submit(&bed, old);
    bed_submit(&bed, gang);
    bed_run(&bed);
    assert_int_equal(old->totals.preemptions, 0);
    assert_true(gang->totals.preemptions > 0);
    assert_int_equal(gang->totals.completion_tokens, 120);
    bed_forget(&bed, old);
    bed_forget(&bed, gang); /* checks every token */
    bed_close(&bed);
}

/* More than are looked at in one tick wait before it, for what only they can have. */
enum { CROWD = 100 };

TEST(admission_looks_behind_the_crowd_of_a_user_at_their_cap)
{
    static const char *const policies[] = { "fcfs", "fair", "deadline", "longest-prefix" };
    static const struct sched_share shares[] = { { 7, 1, 2 } };
    for (int policy_i = 0; policy_i < 4; policy_i++) {
        bed_init(&bed);
        bed.config.policy = policies[policy_i];
        bed.config.shares = shares;
        bed.config.n_share = 1;
        bed_open(&bed);
        struct request *crowd[CROWD], *other = bed_request(&bed, 900, 10, 5);
        for (uint32_t i = 0; i < CROWD; i++) { /* pairs, and one alone that runs before them */
            crowd[i] = bed_fork(&bed, i * 8, 10, i ? 3 : 20, i ? 2 : 1);
            crowd[i]->uid = 7;
            bed_submit(&bed, crowd[i]);
        }
        bed_submit(&bed, other);
        for (int step_i = 0; step_i < 8; step_i++) {
            assert_non_null(bed_plan(&bed));
            bed_commit(&bed);
        }
        assert_int_equal(other->state, REQUEST_DONE);
        assert_int_equal(crowd[0]->state, REQUEST_RUNNING);
        /* Nor does a small one that comes now take the place that a pair waits for. */
        struct request *small = bed_request(&bed, 930, 10, 1);
        small->uid = 7;
        bed_submit(&bed, small);
        bed_run(&bed);
        if (policy_i != 2 && policy_i != 3)
            assert_true(crowd[1]->totals.admitted_ns < small->totals.admitted_ns);
        for (uint32_t i = 0; i < CROWD; i++)
            bed_forget(&bed, crowd[i]);
        bed_forget(&bed, other);
        bed_forget(&bed, small);
        bed_close(&bed);
    }
}

TEST(admission_looks_behind_a_crowd_whose_clients_do_not_read)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *crowd[CROWD], *other = bed_request(&bed, 900, 10, 5);
    for (uint32_t i = 0; i < CROWD; i++) {
        crowd[i] = bed_request(&bed, i * 8, 10, 20);
        bed_submit(&bed, crowd[i]);
        sched_stall(bed.sched, crowd[i]->seq[0], true);
    }
    bed_submit(&bed, other);
    bed_run(&bed);
    assert_int_equal(other->state, REQUEST_DONE);
    for (uint32_t i = 0; i < CROWD; i++)
        sched_stall(bed.sched, crowd[i]->seq[0], false);
    bed_run(&bed);
    for (uint32_t i = 0; i < CROWD; i++)
        bed_forget(&bed, crowd[i]);
    bed_forget(&bed, other);
    bed_close(&bed);
}

/* Pieces that somebody else has, until nothing is left. */
static struct {
    void *piece[256];
    uint32_t n;
} others;

static void others_take_all(void)
{
    for (size_t bytes = payload_bytes(bed.payload); bytes > 0; bytes /= 2) {
        void *piece;
        while ((piece = payload_take(bed.payload, bytes))) {
            assert_in_range(others.n, 0, ARRAY_SIZE(others.piece) - 1);
            others.piece[others.n++] = piece;
        }
    }
}

static void others_give_all(void)
{
    while (others.n > 0)
        payload_give(bed.payload, others.piece[--others.n]);
}

TEST(admission_waits_for_memory_that_others_will_give_back)
{
    bed_init(&bed);
    bed_open(&bed);
    others_take_all();
    bed.comes = true;
    struct request *request = bed_request(&bed, 0, 20, 200);
    bed_submit(&bed, request);
    bed_run(&bed);
    assert_int_equal(request->state, REQUEST_QUEUED);
    others_give_all();
    bed_run(&bed);
    assert_int_equal(request->seq[0]->reason, RINGLET_REASON_LENGTH);
    bed_forget(&bed, request);
    bed_close(&bed);
}

TEST(admission_refuses_who_finds_no_memory_and_none_will_come)
{
    bed_init(&bed);
    bed_open(&bed);
    others_take_all();
    struct request *request = bed_request(&bed, 0, 20, 200);
    bed_submit(&bed, request);
    bed_run(&bed);
    assert_int_equal(request->seq[0]->reason, RINGLET_REASON_REJECTED);
    assert_int_equal(request->seq[0]->detail, RINGLET_ERROR_OVER_QUOTA);
    bed_forget(&bed, request);
    others_give_all();
    bed_close(&bed);
}

/* Nobody runs any more, but a step in flight still names the one whose memory it is. */
TEST(admission_waits_for_the_memory_of_one_that_is_still_in_flight)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *first = bed_request(&bed, 0, 20, 200), *next = bed_request(&bed, 300, 20, 150);
    bed_submit(&bed, first);
    assert_non_null(bed_plan(&bed));
    others_take_all();
    sched_cancel(bed.sched, first, RINGLET_REASON_CANCELLED, 0, bed.now);
    bed_forget(&bed, first);
    bed_submit(&bed, next);
    assert_null(bed_plan(&bed));
    assert_int_equal(next->state, REQUEST_QUEUED);
    bed_commit(&bed);
    bed_run(&bed);
    assert_int_equal(next->seq[0]->reason, RINGLET_REASON_LENGTH);
    bed_forget(&bed, next);
    others_give_all();
    bed_close(&bed);
}

/* Preempted and stalled, it keeps what it has said until its client reads or is given up. */
TEST(admission_waits_for_the_memory_of_one_whose_client_does_not_read)
{
    bed_init(&bed);
    bed.config.kv_blocks = 12;
    bed_open(&bed);
    struct request *slow = bed_request(&bed, 0, 60, 100), *next = bed_request(&bed, 300, 60, 80);
    bed_submit(&bed, slow);
    assert_non_null(bed_plan(&bed));
    bed_commit(&bed);
    admission_preempt(bed.sched, slow);
    sched_stall(bed.sched, slow->seq[0], true);
    others_take_all();
    bed_submit(&bed, next);
    bed_run(&bed);
    assert_int_equal(next->state, REQUEST_QUEUED);
    sched_cancel(bed.sched, slow, RINGLET_REASON_SLOW_CLIENT, 0, bed.now);
    bed_forget(&bed, slow);
    bed_run(&bed);
    assert_int_equal(next->seq[0]->reason, RINGLET_REASON_LENGTH);
    bed_forget(&bed, next);
    others_give_all();
    bed_close(&bed);
}

TEST(admission_keeps_caps_of_users)
{
    bed_init(&bed);
    static const struct sched_share shares[] = { { 7, 1, 2 } };
    bed.config.shares = shares;
    bed.config.n_share = 1;
    bed_open(&bed);
    struct request *request[4];
    for (uint32_t i = 0; i < 4; i++) {
        request[i] = bed_request(&bed, i * 20, 10, 5);
        request[i]->uid = i < 3 ? 7 : 8;
        bed_submit(&bed, request[i]);
    }
    struct step *step = bed_plan(&bed);
    assert_int_equal(step->n_seq, 3);
    assert_int_equal(request[2]->state, REQUEST_QUEUED);
    assert_int_equal(request[3]->state, REQUEST_RUNNING);
    bed_run(&bed);
    for (uint32_t i = 0; i < 4; i++)
        bed_forget(&bed, request[i]);
    bed_close(&bed);
}
