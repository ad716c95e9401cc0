#include "tests/daemon/sched/bed.h"

#include <errno.h>

static struct bed bed;

static uint64_t hold(uint32_t from, uint32_t n_prompt, uint32_t max_tokens)
{
    struct request *request = bed_request(&bed, from, n_prompt, max_tokens);
    request->params.hold = true;
    request->session_id = 1;
    bed_submit(&bed, request);
    bed_run(&bed);
    uint64_t handle = request->seq[0]->handle;
    bed_forget(&bed, request);
    return handle;
}

TEST(handle_keeps_ids_and_kv_for_forks)
{
    bed_init(&bed);
    bed.config.prefix_cache = false;
    bed_open(&bed);
    uint64_t handle = hold(0, 37, 20);
    assert_true(handle != 0);
    const int32_t *ids;
    uint32_t n;
    assert_int_equal(sched_handle_ids(bed.sched, 2, handle, &ids, &n), -ENOENT);
    assert_ok(sched_handle_ids(bed.sched, 1, handle, &ids, &n));
    assert_int_equal(n, 57);
    int32_t prompt[60];
    memcpy(prompt, ids, n * sizeof(*ids));
    memcpy(prompt + n, bed.stream + 500, 3 * sizeof(*ids));
    struct request *fork[3];
    for (int i = 0; i < 3; i++) {
        fork[i] = bed_request(&bed, 0, 60, 10);
        fork[i]->prompt = prompt;
        fork[i]->session_id = 1;
        fork[i]->from_handle = handle;
        fork[i]->params.seed = (uint64_t)i;
        bed_submit(&bed, fork[i]);
    }
    bed_run(&bed);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(fork[i]->totals.cached_tokens, 56);
        bed_forget(&bed, fork[i]);
    }
    assert_ok(sched_handle_release(bed.sched, 1, handle));
    assert_int_equal(sched_handle_release(bed.sched, 1, handle), -ENOENT);
    bed_close(&bed);
}

TEST(handle_is_cut_to_what_was_said)
{
    bed_init(&bed);
    bed_open(&bed);
    uint64_t handle = hold(0, 37, 20);
    struct sched_stats stats;
    const int32_t *ids;
    uint32_t n;
    assert_int_equal(sched_handle_cut(bed.sched, 2, handle, 40), -ENOENT);
    assert_ok(sched_handle_cut(bed.sched, 1, handle, 45));
    sched_stats(bed.sched, &stats);
    assert_int_equal(stats.kv_pinned, 3);                  /* of 4 */
    assert_ok(sched_handle_cut(bed.sched, 1, handle, 50)); /* never longer again */
    assert_ok(sched_handle_ids(bed.sched, 1, handle, &ids, &n));
    assert_int_equal(n, 45);
    int32_t prompt[47];
    memcpy(prompt, ids, n * sizeof(*ids));
    memcpy(prompt + n, bed.stream + 500, 2 * sizeof(*ids));
    struct request *fork = bed_request(&bed, 0, 47, 10);
    fork->prompt = prompt;
    fork->session_id = 1;
    fork->from_handle = handle;
    bed_submit(&bed, fork);
    bed_run(&bed);
    assert_int_equal(fork->totals.cached_tokens, 45);
    bed_forget(&bed, fork);
    assert_ok(sched_handle_release(bed.sched, 1, handle));
    bed_close(&bed);
}

TEST(handle_quota_of_a_user_and_of_a_session)
{
    bed_init(&bed);
    bed_open(&bed);                      /* 64 blocks, 25 %, 4 handles a session */
    assert_true(hold(0, 100, 5) != 0);   /* 7 blocks */
    assert_true(hold(200, 110, 5) != 0); /* 8 blocks: 15 of 16 */
    assert_true(hold(400, 30, 5) == 0);  /* 3 blocks */
    assert_true(hold(400, 10, 5) != 0);
    sched_handle_release_all(bed.sched, 1);
    for (uint32_t i = 0; i < 5; i++)
        assert_int_equal(hold(i * 50, 5, 2) != 0, i < 4);
    sched_handle_release_all(bed.sched, 1);
    bed_close(&bed);
}

/* Before its prompt is computed, if that is known then. */
TEST(handle_of_a_lease_beyond_the_quota_is_refused_at_once)
{
    bed_init(&bed);
    bed_open(&bed); /* 64 blocks, 25 % */
    struct request *request = bed_request(&bed, 0, 256, 0);
    request->op = RINGLET_OP_LEASE;
    request->params.lease_ns = 1000;
    request->session_id = 1;
    uint64_t held = hold(300, 10, 5);
    assert_int_equal(sched_add(bed.sched, request, bed.now), -EDQUOT); /* 16 of 16, and one more */
    assert_ok(sched_handle_release(bed.sched, 1, held));
    bed_submit(&bed, request);
    bed_run(&bed);
    assert_true(request->lease_handle != 0);
    bed_forget(&bed, request);
    sched_handle_release_all(bed.sched, 1);
    bed_close(&bed);
}

/* A lease of 1000 ns on the stream's first 50 ids, of session 1. Returns its handle. */
static uint64_t take_lease(void)
{
    struct request *request = bed_request(&bed, 0, 50, 0);
    request->params.lease_ns = 1000;
    request->session_id = 1;
    bed_submit(&bed, request);
    bed_run(&bed);
    uint64_t lease = request->lease_handle;
    assert_true(lease != 0);
    bed_forget(&bed, request);
    return lease;
}

TEST(handle_of_a_lease_ends_with_it)
{
    bed_init(&bed);
    bed_open(&bed);
    uint64_t lease = take_lease(), end = sched_next_ns(bed.sched);
    assert_int_equal(sched_query(bed.sched, 0, bed.stream, 51), 50);
    assert_int_equal(sched_handle_renew(bed.sched, 2, lease, 50, bed.now), -ENOENT);
    assert_int_equal(sched_handle_renew(bed.sched, 1, lease, 0, bed.now), -EINVAL);
    assert_ok(sched_handle_renew(bed.sched, 1, lease, 5000, bed.now));
    sched_expire(bed.sched, end);
    assert_int_equal(sched_next_ns(bed.sched), bed.now + 5000);
    sched_expire(bed.sched, bed.now + 5000);
    assert_int_equal(sched_handle_release(bed.sched, 1, lease), -ENOENT);
    bed_close(&bed);
}

TEST(handle_of_a_lease_is_not_renewed_after_its_end)
{
    bed_init(&bed);
    bed_open(&bed);
    uint64_t lease = take_lease(), end = sched_next_ns(bed.sched);
    assert_ok(sched_handle_renew(bed.sched, 1, lease, 1000, end - 1));
    assert_int_equal(sched_handle_renew(bed.sched, 1, lease, 5000, end + 999), -ENOENT);
    assert_int_equal(sched_next_ns(bed.sched), UINT64_MAX);
    bed_close(&bed);
}

TEST(handle_gives_its_blocks_up_before_a_request_would_wait_for_ever)
{
    bed_init(&bed);
    bed.config.kv_blocks = 16;
    bed_open(&bed);
    uint64_t handle = hold(0, 50, 5);
    struct request *large = bed_request(&bed, 300, 240, 10);
    bed_submit(&bed, large);
    bed_run(&bed);
    assert_int_equal(large->seq[0]->reason, RINGLET_REASON_LENGTH);
    bed_forget(&bed, large);
    const int32_t *ids;
    uint32_t n;
    assert_ok(sched_handle_ids(bed.sched, 1, handle, &ids, &n)); /* the promise stands */
    assert_int_equal(n, 55);
    sched_handle_release_all(bed.sched, 1);
    bed_close(&bed);
}

TEST(handle_of_a_cancelled_request_is_never_made)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *request = bed_request(&bed, 0, 20, 50);
    request->params.hold = true;
    bed_submit(&bed, request);
    bed_plan(&bed);
    bed_commit(&bed);
    sched_cancel(bed.sched, request, RINGLET_REASON_CANCELLED, 0, bed.now);
    assert_true(request->seq[0]->handle == 0);
    bed_forget(&bed, request);
    bed_close(&bed);
}
