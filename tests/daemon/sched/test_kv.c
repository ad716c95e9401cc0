#include "tests/daemon/sched/bed.h"

#include "daemon/kv/block_pool.h"

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
