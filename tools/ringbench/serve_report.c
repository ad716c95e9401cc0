/*
 * The results of ringbench serve: latencies and rates of each subject, and what the first one gains
 * over the one of --versus.
 *
 * Gain: time of the run with the other daemon / time with the first. What the saved tokens allow:
 * the same with the other's time less what the other takes for exactly the tokens that the first
 * had in its cache (prompts of just those, no answers, measured in the same run). So a share of 1
 * means that cached tokens cost nothing and all else costs what it cost before.
 */
#include "tools/ringbench/serve.h"

#include <stdlib.h>
#include <string.h>

static int by_double(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double bench_quantile_of(double *values, int n, double quantile)
{
    qsort(values, (size_t)n, sizeof(*values), by_double);
    double at = quantile * (n - 1);
    int low = (int)at;
    return low + 1 < n ? values[low] + (at - low) * (values[low + 1] - values[low]) : values[low];
}

double load_seconds(const struct load_totals *t)
{
    return (double)(t->ended_ns - t->started_ns) / 1e9;
}

static void report_latency(struct bench_report *report, struct subject *subject, int n_run,
                           const char *name, size_t samples_off)
{
    struct bench_samples runs[RUNS_MAX];
    for (int i = 0; i < n_run; i++)
        memcpy(&runs[i], (char *)&subject->totals[i] + samples_off, sizeof(runs[i]));
    bench_result_runs(bench_report_add(report, name, subject->name), runs, n_run);
}

static void report_subject(struct bench_report *report, const struct serve *s,
                           struct subject *subject)
{
    int n_run = s->n_run;
    report_latency(report, subject, n_run, "ttft", offsetof(struct load_totals, ttft));
    report_latency(report, subject, n_run, "inter_token", offsetof(struct load_totals, itl));
    report_latency(report, subject, n_run, "end_to_end", offsetof(struct load_totals, e2e));
    double tokens[RUNS_MAX], requests[RUNS_MAX], good[RUNS_MAX], time[RUNS_MAX];
    uint64_t done = 0, failed = 0, prompt = 0, cached = 0;
    for (int i = 0; i < n_run; i++) {
        const struct load_totals *t = &subject->totals[i];
        time[i] = load_seconds(t);
        tokens[i] = (double)t->output_tokens / time[i];
        requests[i] = (double)t->n_done / time[i];
        good[i] = (double)t->n_good / time[i];
        done += t->n_done;
        failed += t->n_failed;
        prompt += t->prompt_tokens;
        cached += t->cached_tokens;
    }
    struct bench_result *r = bench_report_add(report, "throughput", subject->name);
    snprintf(r->note, sizeof(r->note), "%s", s->params.workload);
    bench_value_set(r, "output_tokens_per_s", bench_quantile_of(tokens, n_run, 0.5));
    bench_value_set(r, "requests_per_s", bench_quantile_of(requests, n_run, 0.5));
    bench_value_set(r, "goodput_per_s", bench_quantile_of(good, n_run, 0.5));
    bench_value_set(r, "seconds", bench_quantile_of(time, n_run, 0.5));
    bench_value_set(r, "requests", (double)done);
    bench_value_set(r, "failed", (double)failed);
    bench_value_set(r, "cached_share", prompt ? (double)cached / (double)prompt : 0);
}

/* The first subject beside another, run by run. */
static void report_gain(struct bench_report *report, const struct serve *s, int other)
{
    const struct load_totals *first = s->subjects[0].totals, *versus = s->subjects[other].totals;
    double gain[RUNS_MAX], allowed[RUNS_MAX], share[RUNS_MAX], saved_s[RUNS_MAX];
    uint64_t saved_tokens = 0;
    int n = s->n_run;
    for (int i = 0; i < n; i++) {
        double before = load_seconds(&versus[i]);
        saved_s[i] = s->saved[i].n_done ? load_seconds(&s->saved[i]) : 0;
        saved_tokens += s->saved[i].prompt_tokens;
        gain[i] = before / load_seconds(&first[i]);
        allowed[i] = before > saved_s[i] ? before / (before - saved_s[i]) : 0;
        share[i] = allowed[i] > 0 ? gain[i] / allowed[i] : 0;
    }
    struct bench_result *r = bench_report_add(report, "gain", s->subjects[0].name);
    snprintf(r->note, sizeof(r->note), "%s, over %s", s->params.workload, s->subjects[other].name);
    bench_value_set(r, "gain", bench_quantile_of(gain, n, 0.5));
    bench_value_set(r, "gain_p25", bench_quantile_of(gain, n, 0.25));
    bench_value_set(r, "gain_p75", bench_quantile_of(gain, n, 0.75));
    bench_value_set(r, "gain_min", gain[0]);
    bench_value_set(r, "gain_max", gain[n - 1]);
    bench_value_set(r, "pairs", n);
    if (other != 1 || saved_tokens == 0)
        return;
    bench_value_set(r, "gain_allowed", bench_quantile_of(allowed, n, 0.5));
    bench_value_set(r, "share_of_allowed", bench_quantile_of(share, n, 0.5));
    bench_value_set(r, "saved_tokens", (double)saved_tokens / n);
    bench_value_set(r, "saved_seconds", bench_quantile_of(saved_s, n, 0.5));
}

void serve_report(struct bench_report *report, struct serve *s)
{
    for (int i = 0; i < s->n_subject; i++)
        report_subject(report, s, &s->subjects[i]);
    for (int i = 1; i < s->n_subject; i++)
        report_gain(report, s, i);
}
