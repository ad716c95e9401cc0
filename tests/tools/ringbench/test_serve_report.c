#include "tools/ringbench/serve.h"

#include "tests/harness/harness.h"

static struct serve s;

static void set_time(struct load_totals *t, double seconds, uint64_t prompt, uint64_t cached)
{
    *t = (struct load_totals){ .started_ns = 1000,
                               .ended_ns = 1000 + (uint64_t)(seconds * 1e9),
                               .n_done = 10,
                               .n_good = 5,
                               .prompt_tokens = prompt,
                               .cached_tokens = cached,
                               .output_tokens = 100 };
    bench_samples_add(&t->ttft, 5000000);
}

static void fill(int n_run)
{
    memset(&s, 0, sizeof(s));
    s.params.workload = "few-shot";
    s.versus = "--prefix-cache off";
    s.n_subject = 2;
    s.n_run = n_run;
    snprintf(s.subjects[0].name, BENCH_NAME, "ringlet");
    snprintf(s.subjects[1].name, BENCH_NAME, "--prefix-cache off");
}

static void done(struct bench_report *report)
{
    for (int run = 0; run < s.n_run; run++) {
        load_totals_free(&s.subjects[0].totals[run]);
        load_totals_free(&s.subjects[1].totals[run]);
        load_totals_free(&s.saved[run]);
    }
    bench_report_free(report);
}

TEST(serve_report_tells_the_gain_and_what_the_saved_tokens_allow)
{
    struct bench_report report = { .bench = "serve" };
    fill(1);
    set_time(&s.subjects[0].totals[0], 2.5, 1000, 900);
    set_time(&s.subjects[1].totals[0], 10, 1000, 0);
    set_time(&s.saved[0], 8, 900, 0);
    serve_report(&report, &s);
    const struct bench_result *r = bench_find(&report, "gain", "ringlet");
    assert_non_null(r);
    assert_close(bench_value_get(r, "gain"), 4, 1e-9, 0);
    assert_close(bench_value_get(r, "gain_allowed"), 5, 1e-9, 0);
    assert_close(bench_value_get(r, "share_of_allowed"), 0.8, 1e-9, 0);
    assert_close(bench_value_get(r, "saved_tokens"), 900, 0, 0);
    r = bench_find(&report, "throughput", "ringlet");
    assert_close(bench_value_get(r, "cached_share"), 0.9, 1e-9, 0);
    assert_close(bench_value_get(r, "output_tokens_per_s"), 40, 1e-9, 0);
    assert_close(bench_value_get(r, "goodput_per_s"), 2, 1e-9, 0);
    done(&report);
}

TEST(serve_report_pairs_runs_and_gives_their_spread)
{
    static const double first[] = { 1.0, 1.1, 0.9, 1.3, 1.0 },
                        other[] = { 1.0, 1.0, 1.0, 1.0, 2.0 };
    struct bench_report report = { .bench = "serve" };
    fill(5);
    for (int i = 0; i < 5; i++) {
        set_time(&s.subjects[0].totals[i], first[i], 1000, 0);
        set_time(&s.subjects[1].totals[i], other[i], 1000, 0);
    }
    serve_report(&report, &s);
    const struct bench_result *r = bench_find(&report, "gain", "ringlet");
    assert_close(bench_value_get(r, "gain"), 1, 1e-9, 0);
    assert_close(bench_value_get(r, "gain_min"), 1 / 1.3, 1e-6, 0);
    assert_close(bench_value_get(r, "gain_max"), 2, 1e-6, 0);
    assert_close(bench_value_get(r, "pairs"), 5, 0, 0);
    assert_true(isnan(bench_value_get(r, "share_of_allowed"))); /* nothing was saved */
    done(&report);
}

TEST(quantiles_lie_between_neighbours)
{
    double values[] = { 4, 1, 3, 2 };
    assert_close(bench_quantile_of(values, 4, 0.5), 2.5, 1e-12, 0);
    assert_close(bench_quantile_of(values, 4, 0), 1, 0, 0);
    assert_close(bench_quantile_of(values, 4, 1), 4, 0, 0);
    assert_close(bench_quantile_of(values, 1, 0.75), 1, 0, 0);
}
