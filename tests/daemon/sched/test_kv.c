#include "tests/daemon/sched/bed.h"

#include "daemon/kv/block_pool.h"
#include "daemon/sched/sched_internal.h"

static struct bed bed;

TEST(kv_evicts_the_cache_before_it_preempts_anybody)
{
    bed_init(&bed);
    bed.config.kv_blocks = 12;
    bed_open(&bed);
    for (uint32_t i = 0; i < 10; i++) {
        struct request *request = bed_request(&bed, i * 90, 90, 20);
        bed_submit(&bed, request);
        bed_run(&bed);
        assert_int_equal(request->totals.preemptions, 0);
        bed_forget(&bed, request);
    }
    struct sched_stats stats;
    sched_stats(bed.sched, &stats);
    assert_true(stats.evicted_blocks > 40);
    assert_int_equal(stats.kv_free + stats.kv_cached, 12);
    bed_close(&bed);
}

TEST(kv_comes_back_from_the_host)
{
    bed_init(&bed);
    bed.config.kv_blocks = 12;
    bed.config.kv_host_blocks = 40;
    bed_open(&bed);
    for (int pass = 0; pass < 3; pass++) {
        for (uint32_t i = 0; i < 4; i++) {
            struct request *request = bed_request(&bed, i * 120, 120, 8);
            bed_submit(&bed, request);
            bed_run(&bed);
            assert_int_equal(request->totals.cached_tokens, pass ? 119 : 0);
            bed_forget(&bed, request);
        }
    }
    struct sched_stats stats;
    sched_stats(bed.sched, &stats);
    assert_int_equal(stats.host_total, 40);
    assert_in_range(stats.host_used, 1, 40);
    assert_in_range(stats.swapped_in, 8 * 6, stats.swapped_out);
    bed_close(&bed);
}

/* Preempted, swapped out, swapped in: what comes back is not computed again. */
TEST(kv_of_a_preempted_request_is_swapped_if_that_is_cheaper)
{
    uint64_t n_row[2];
    for (int host = 0; host < 2; host++) {
        bed_init(&bed);
        bed.config.kv_blocks = 12;
        bed.config.kv_host_blocks = host ? 40 : 0;
        bed_open(&bed);
        struct request *old = bed_request(&bed, 0, 60, 120), *new = bed_request(&bed, 300, 60, 60);
        bed_submit(&bed, old);
        bed_submit(&bed, new);
        n_row[host] = 0;
        for (struct step *step; (step = bed_plan(&bed)); bed_commit(&bed))
            n_row[host] += (uint64_t)step->n_row;
        assert_true(new->totals.preemptions > 0);
        bed_forget(&bed, old);
        bed_forget(&bed, new);
        bed_close(&bed);
    }
    assert_true(n_row[1] + 40 < n_row[0]);
}

/* What it costs is measured: where computing a block takes less time, nothing comes back. */
TEST(kv_is_computed_again_where_the_measured_swap_takes_longer)
{
    for (int slow = 0; slow < 2; slow++) {
        bed_init(&bed);
        bed.config.kv_blocks = 12;
        bed.config.kv_host_blocks = 40;
        bed.row_ns = 1000;                 /* 16 us a block */
        bed.swap_ns = slow ? 50000 : 2000; /* either way between */
        bed_open(&bed);
        int n_in = 0, n_late = 0;
        for (uint32_t i = 0; i < 12; i++) {
            struct request *request = bed_request(&bed, i % 4 * 120, 120, 8);
            bed_submit(&bed, request);
            for (struct step *step; (step = bed_plan(&bed)); bed_commit(&bed)) {
                n_in += step->n_swap_in;
                n_late += i >= 8 ? step->n_swap_in : 0;
            }
            bed_forget(&bed, request);
        }
        if (slow)
            assert_int_equal(n_late, 0);
        else
            assert_true(n_late >= 4 * 6 && n_in > n_late);
        bed_close(&bed);
    }
}

/* A stop string is found when a step ahead has already computed what stands behind it. */
TEST(kv_of_ids_that_were_never_said_is_not_cached)
{
    bed_init(&bed);
    bed_open(&bed);
    struct request *request = bed_request(&bed, 0, 40, 30);
    struct sequence *seq = request->seq[0];
    bed_submit(&bed, request);
    while (seq->n_output < 12) {
        assert_non_null(bed_plan(&bed));
        bed_commit(&bed);
    }
    int32_t ids[52];
    memcpy(ids, request->prompt, 40 * sizeof(*ids));
    memcpy(ids + 40, seq->output, 12 * sizeof(*ids));
    seq->n_output = 5;
    sched_finish(bed.sched, seq, RINGLET_REASON_STOP_STRING, 0, bed.now);
    assert_int_equal(sched_query(bed.sched, request->domain, ids, 52), 44);
    bed_forget(&bed, request);
    bed_close(&bed);
}

/* Mixed lengths of mean 200 and more: blocks hold almost nothing but tokens. */
TEST(kv_waste_is_small)
{
    bed_init(&bed);
    bed.config.batch_max = 64;
    bed.config.rows_max = 512;
    bed.config.kv_blocks = 2000;
    bed.config.context_max = 600;
    bed.config.prefix_cache = false;
    bed_open(&bed);
    struct request *request[64];
    for (uint32_t i = 0; i < 64; i++) {
        request[i] = bed_request(&bed, i * 7, 40 + i * 6, 80);
        bed_submit(&bed, request[i]);
    }
    double waste = 0;
    int n_sample = 0;
    for (struct step *step; (step = bed_plan(&bed)); bed_commit(&bed)) {
        struct sched_stats stats;
        sched_stats(bed.sched, &stats);
        uint64_t n_token = 0;
        for (int seq_i = 0; seq_i < step->n_seq; seq_i++)
            n_token += (uint64_t)step->kv_tokens[seq_i];
        if (step->n_decode < 60) /* all of them have their prompt */
            continue;
        waste += 1 - (double)n_token / (stats.kv_owned * (double)BLOCK_TOKENS);
        n_sample++;
    }
    assert_true(n_sample > 30);
    assert_true(waste / n_sample < 0.04);
    for (uint32_t i = 0; i < 64; i++)
        bed_forget(&bed, request[i]);
    bed_close(&bed);
}

TEST(kv_of_deterministic_requests_is_apart_where_batches_change_results)
{
    for (int invariant = 0; invariant < 2; invariant++) {
        bed_init(&bed);
        bed.config.batch_invariant = invariant;
        bed_open(&bed);
        for (int pass = 0; pass < 2; pass++) {
            struct request *request = bed_request(&bed, 0, 50, 4);
            request->params.deterministic = pass;
            bed_submit(&bed, request);
            bed_run(&bed);
            assert_int_equal(request->totals.cached_tokens, pass && invariant ? 49 : 0);
            bed_forget(&bed, request);
        }
        bed_close(&bed);
    }
}

static int32_t fork_prompt[2][40];

/* A fork of the first n_same of 24 held ids, that goes on with ten of its own. */
static struct request *fork_of(uint64_t handle, int i, uint32_t n_same, uint32_t n)
{
    struct request *request = bed_fork(&bed, 0, n_same + 10, 3, n);
    memcpy(fork_prompt[i], bed.stream, n_same * sizeof(int32_t));
    memcpy(fork_prompt[i] + n_same, bed.stream + 600 + 20 * i, 10 * sizeof(int32_t));
    request->prompt = fork_prompt[i];
    request->from_handle = handle;
    bed_submit(&bed, request);
    return request;
}

/*
 * Two share a block that nobody else has any more. One is to go on in a copy, so the other writes
 * to it; then the first gives way in the same tick, and is left with the block itself.
 */
TEST(kv_of_a_block_that_another_writes_to_is_not_cached)
{
    bed_init(&bed);
    bed.config.kv_blocks = 16;
    bed.config.moves_max = 1;
    bed.config.policy = "fcfs";
    bed_open(&bed);
    struct request *held = bed_request(&bed, 0, 24, 1), *longer = bed_request(&bed, 0, 32, 1),
                   *part = bed_request(&bed, 200, 20, 1);
    held->params.hold = true;
    bed_submit(&bed, held);
    bed_run(&bed);
    bed_submit(&bed, part);
    bed_submit(&bed, longer); /* the tree has its longer block now, the handle the other */
    bed_run(&bed);
    uint64_t handle = held->seq[0]->handle;
    struct request *mover = bed_request(&bed, 200, 30, 3);
    bed_submit(&bed, mover);
    struct request *gives = fork_of(handle, 0, 24, 2), *writes = fork_of(handle, 1, 20, 1);
    assert_non_null(bed_plan(&bed)); /* one may move, the others wait for that */
    bed_commit(&bed);
    assert_ok(sched_handle_release(bed.sched, 0, handle));
    sched_stall(bed.sched, gives->seq[0], true);
    sched_stall(bed.sched, gives->seq[1], true); /* who does not read gives way first */
    sched_stall(bed.sched, writes->seq[0], true);
    struct request *newer = bed_request(&bed, 400, 64, 1); /* cached later than what they forked */
    bed_submit(&bed, newer);
    bed_run(&bed);
    struct request *grows = bed_request(&bed, 300, 16, 150);
    grows->params.urgency = 255;
    bed_submit(&bed, grows);
    const struct run *run = run_of(grows->seq[0]);
    while (run->n_planned < 16 || run->n_planned % 16 || kv_available(bed.sched) > 0) {
        assert_non_null(bed_plan(&bed));
        bed_commit(&bed);
    }
    sched_stall(bed.sched, gives->seq[0], false);
    sched_stall(bed.sched, writes->seq[0], false);
    assert_non_null(bed_plan(&bed));
    assert_int_equal(gives->state, REQUEST_QUEUED);
    bed_commit(&bed);
    sched_cancel(bed.sched, grows, RINGLET_REASON_CANCELLED, 0, bed.now);
    sched_stall(bed.sched, gives->seq[1], false);
    bed_run(&bed);
    assert_true(gives->totals.preemptions > 0);
    struct request *all[] = { held, longer, part, mover, gives, writes, newer, grows };
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        bed_forget(&bed, all[i]);
    bed_close(&bed);
}
