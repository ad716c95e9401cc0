#include "tools/ringbench/bench.h"

#include "tests/harness/harness.h"

TEST(samples_are_summarised_exactly)
{
    struct bench_samples samples = { 0 };
    struct bench_latency l;
    for (uint64_t i = 0; i < 10000; i++)
        bench_samples_add(&samples, (i * 7919) % 10000 + 1); /* 1 .. 10000, out of order */
    bench_summarise(&samples, &l);
    assert_int_equal(l.n, 10000);
    assert_close(l.p50_ns, 5000, 0, 0);
    assert_close(l.p90_ns, 9000, 0, 0);
    assert_close(l.p99_ns, 9900, 0, 0);
    assert_close(l.p999_ns, 9990, 0, 0);
    assert_close(l.p9999_ns, 9999, 0, 0);
    assert_close(l.max_ns, 10000, 0, 0);
    assert_close(l.mean_ns, 5000.5, 1e-9, 0);
    for (int i = 1; i < BENCH_QUANTILES; i++)
        assert_true(l.curve_ns[i] >= l.curve_ns[i - 1]);
    assert_close(l.curve_ns[0], 1, 0, 0);
    assert_close(l.curve_ns[BENCH_QUANTILES - 1], 10000, 0, 0);
    bench_samples_free(&samples);
    bench_summarise(&samples, &l);
    assert_int_equal(l.n, 0);
}

TEST(the_run_of_median_p50_is_shown_with_the_spread)
{
    struct bench_samples runs[3] = { 0 };
    struct bench_result result = { 0 };
    static const uint64_t p50[] = { 30, 10, 20 };
    for (int i = 0; i < 3; i++) {
        bench_samples_add(&runs[i], p50[i] - 5);
        bench_samples_add(&runs[i], p50[i]);
        bench_samples_add(&runs[i], p50[i]);
    }
    bench_result_runs(&result, runs, 3);
    assert_close(result.latency.p50_ns, 20, 0, 0);
    assert_close(result.p50_run_min_ns, 10, 0, 0);
    assert_close(result.p50_run_max_ns, 30, 0, 0);
    assert_int_equal(result.n_run, 3);
    for (int i = 0; i < 3; i++)
        bench_samples_free(&runs[i]);
}

TEST(runs_without_samples_have_no_spread)
{
    struct bench_samples runs[2] = { 0 };
    struct bench_result result = { 0 };
    bench_result_runs(&result, runs, 2);
    assert_int_equal(result.latency.n, 0);
    assert_int_equal(result.n_run, 0);
}

TEST(values_are_found_by_key_and_replaced)
{
    struct bench_report report = { .bench = "test" };
    for (int i = 0; i < 40; i++) {
        char name[16];
        snprintf(name, sizeof(name), "r%d", i);
        bench_value_set(bench_report_add(&report, name, "s"), "x", i);
    }
    assert_close(bench_value_get(bench_find(&report, "r33", "s"), "x"), 33, 0, 0);
    assert_null(bench_find(&report, "r33", "t"));
    bench_value_set(&report.results[0], "x", 5);
    assert_int_equal(report.results[0].n_value, 1);
    assert_close(bench_value_get(&report.results[0], "x"), 5, 0, 0);
    assert_true(isnan(bench_value_get(&report.results[0], "y")));
    bench_report_free(&report);
}
