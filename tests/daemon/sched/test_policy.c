/*
 * mirrors: daemon/sched/policy_fcfs.c daemon/sched/policy_fair.c daemon/sched/policy_deadline.c
 * mirrors: daemon/sched/policy_longest_prefix.c
 */
#include "tests/daemon/sched/bed.h"

#include "daemon/sched/policy.h"

static struct bed bed;

/* Every policy: each request is served exactly once, whatever the order. */
TEST(policies_lose_nobody)
{
    static const char *const names[] = { "fcfs", "fair", "deadline", "longest-prefix" };
    assert_null(policy_find("none"));
    for (int policy_i = 0; policy_i < 4; policy_i++) {
        assert_string_equal(policy_find(names[policy_i])->name, names[policy_i]);
        bed_init(&bed);
        bed.config.policy = names[policy_i];
        bed.config.batch_max = 3;
        bed.config.kv_blocks = 10;
        bed_open(&bed);
        struct request *request[100];
        for (uint32_t i = 0; i < 100; i++) {
            request[i] = bed_request(&bed, i % 7 * 3, 5 + i % 60, 1 + i % 9);
            request[i]->uid = i % 5;
            request[i]->session_id = i % 11;
            request[i]->params.urgency = (uint8_t)(i * 37);
            bed_submit(&bed, request[i]);
        }
        bed_run(&bed);
        for (uint32_t i = 0; i < 100; i++) {
            assert_int_equal(request[i]->seq[0]->reason, RINGLET_REASON_LENGTH);
            bed_forget(&bed, request[i]);
        }
        bed_close(&bed);
    }
}

/* Tokens that each user got when the first n steps are over and all still want more. */
static void shares_after(uint32_t n_step, const uint32_t *n_request, uint64_t *ret_tokens)
{
    struct request *request[1000];
    uint32_t n = 0;
    for (uint32_t uid = 0; uid < 3; uid++) {
        ret_tokens[uid] = 0;
        for (uint32_t i = 0; i < n_request[uid]; i++) {
            request[n] = bed_request(&bed, (n * 13) % 600, 40, 20);
            request[n]->uid = uid;
            request[n]->session_id = uid * 100 + i % 4;
            bed_submit(&bed, request[n++]);
        }
    }
    for (uint32_t step = 0; step < n_step; step++) {
        bed_plan(&bed);
        bed_commit(&bed);
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t n_prompt = request[i]->totals.prefilled_ns ? 40 : 0;
        ret_tokens[request[i]->uid] += n_prompt + request[i]->totals.completion_tokens;
        sched_cancel(bed.sched, request[i], RINGLET_REASON_CANCELLED, 0, bed.now);
    }
    bed_run(&bed);
    for (uint32_t i = 0; i < n; i++)
        bed_forget(&bed, request[i]);
}

TEST(policy_fair_gives_users_equal_tokens_however_many_requests_they_send)
{
    bed_init(&bed);
    bed.config.policy = "fair";
    bed.config.prefix_cache = false;
    bed_open(&bed);
    static const uint32_t n_request[] = { 300, 60, 60 };
    uint64_t tokens[3];
    shares_after(400, n_request, tokens);
    assert_close(tokens[0], tokens[1], 0, 0.1);
    assert_close(tokens[2], tokens[1], 0, 0.1);
    bed_close(&bed);
}

/* One request at a time, each of them a large one, against many small ones that wait. */
TEST(policy_fair_remembers_what_a_user_has_spent_between_requests)
{
    enum { SMALL = 100 };
    bed_init(&bed);
    bed.config.policy = "fair";
    bed.config.batch_max = 1;
    bed.config.prefix_cache = false;
    bed_open(&bed);
    struct request *small[SMALL], *large = NULL;
    for (uint32_t i = 0; i < SMALL; i++) {
        small[i] = bed_request(&bed, i * 8, 20, 1);
        small[i]->uid = 1;
        bed_submit(&bed, small[i]);
    }
    uint32_t n_large = 0;
    while (small[SMALL - 1]->state != REQUEST_DONE) {
        if (!large || large->state == REQUEST_DONE) {
            if (large)
                bed_forget(&bed, large);
            n_large += large != NULL;
            large = bed_request(&bed, 500, 200, 1);
            large->uid = 2;
            bed_submit(&bed, large);
        }
        assert_non_null(bed_plan(&bed));
        bed_commit(&bed);
    }
    assert_in_range(n_large * 200, SMALL * 20 / 2, SMALL * 20 * 3 / 2);
    bed_run(&bed);
    bed_forget(&bed, large);
    for (uint32_t i = 0; i < SMALL; i++)
        bed_forget(&bed, small[i]);
    bed_close(&bed);
}

TEST(policy_fair_follows_weights)
{
    bed_init(&bed);
    static const struct sched_share shares[] = { { 0, 3, 0 }, { 1, 1, 0 }, { 2, 1, 0 } };
    bed.config.policy = "fair";
    bed.config.prefix_cache = false;
    bed.config.shares = shares;
    bed.config.n_share = 3;
    bed_open(&bed);
    static const uint32_t n_request[] = { 200, 100, 100 };
    uint64_t tokens[3];
    shares_after(400, n_request, tokens);
    assert_close(tokens[0], 3 * tokens[1], 0, 0.15);
    assert_close(tokens[2], tokens[1], 0, 0.15);
    bed_close(&bed);
}

TEST(policy_fair_passes_over_users_at_their_cap)
{
    bed_init(&bed);
    static const struct sched_share shares[] = { { 1, 1, 1 } };
    bed.config.policy = "fair";
    bed.config.shares = shares;
    bed.config.n_share = 1;
    bed_open(&bed);
    struct request *request[6];
    for (uint32_t i = 0; i < 6; i++) {
        request[i] = bed_request(&bed, i * 20, 10, 5);
        request[i]->uid = i < 5 ? 1 : 2;
        bed_submit(&bed, request[i]);
    }
    assert_int_equal(bed_plan(&bed)->n_seq, 2);
    bed_run(&bed);
    for (uint32_t i = 0; i < 6; i++)
        bed_forget(&bed, request[i]);
    bed_close(&bed);
}

TEST(policy_deadline_takes_the_earliest_first)
{
    bed_init(&bed);
    bed.config.policy = "deadline";
    bed.config.batch_max = 1;
    bed_open(&bed);
    struct request *request[4];
    for (uint32_t i = 0; i < 4; i++) {
        request[i] = bed_request(&bed, i * 20, 10, 2);
        if (i < 3)
            request[i]->params.total_deadline_ns = bed.now + (uint64_t)(9 - i * 2) * 1000000000;
        bed_submit(&bed, request[i]);
    }
    bed_run(&bed);
    assert_true(request[2]->totals.admitted_ns < request[1]->totals.admitted_ns);
    assert_true(request[1]->totals.admitted_ns < request[0]->totals.admitted_ns);
    assert_true(request[0]->totals.admitted_ns < request[3]->totals.admitted_ns);
    for (uint32_t i = 0; i < 4; i++)
        bed_forget(&bed, request[i]);
    bed_close(&bed);
}

static void takes_cached_ones_first(const char *policy)
{
    bed_init(&bed);
    bed.config.policy = policy;
    bed.config.batch_max = 1;
    bed_open(&bed);
    struct request *warm = bed_request(&bed, 0, 100, 2);
    bed_submit(&bed, warm);
    bed_run(&bed);
    struct request *request[3];
    static const uint32_t from[] = { 500, 0, 300 };
    for (uint32_t i = 0; i < 3; i++) {
        request[i] = bed_request(&bed, from[i], 90, 2);
        bed_submit(&bed, request[i]);
    }
    bed_run(&bed);
    assert_int_equal(request[1]->totals.cached_tokens, 89);
    assert_true(request[1]->totals.admitted_ns < request[0]->totals.admitted_ns);
    assert_true(request[0]->totals.admitted_ns < request[2]->totals.admitted_ns);
    bed_forget(&bed, warm);
    for (uint32_t i = 0; i < 3; i++)
        bed_forget(&bed, request[i]);
    bed_close(&bed);
}

TEST(policy_longest_prefix_takes_cached_ones_first)
{
    takes_cached_ones_first("longest-prefix");
}

TEST(policy_fair_takes_cached_ones_of_a_session_first)
{
    takes_cached_ones_first("fair");
}

/* Cached ones that keep coming pass the oldest so many times and no more. */
TEST(policy_fair_lets_cached_ones_pass_only_so_often)
{
    bed_init(&bed);
    bed.config.policy = "fair";
    bed.config.batch_max = 1;
    bed_open(&bed);
    struct request *warm = bed_request(&bed, 0, 100, 2), *cold = bed_request(&bed, 500, 90, 2);
    struct request *cached[40];
    bed_submit(&bed, warm);
    bed_run(&bed);
    bed_submit(&bed, cold);
    for (uint32_t i = 0; i < 40; i++) {
        cached[i] = bed_request(&bed, 0, 90, 2);
        bed_submit(&bed, cached[i]);
    }
    bed_run(&bed);
    uint32_t n_before = 0;
    for (uint32_t i = 0; i < 40; i++)
        n_before += cached[i]->totals.admitted_ns < cold->totals.admitted_ns;
    assert_int_equal(n_before, 16);
    bed_forget(&bed, warm);
    bed_forget(&bed, cold);
    for (uint32_t i = 0; i < 40; i++)
        bed_forget(&bed, cached[i]);
    bed_close(&bed);
}
