/* Samples, quantiles, results. Exact: samples are kept and sorted, nothing is binned. */
#include "tools/ringbench/bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void bench_samples_add(struct bench_samples *samples, uint64_t ns)
{
    if (samples->n == samples->capacity) {
        size_t capacity = samples->capacity ? samples->capacity * 2 : 4096;
        uint64_t *grown = realloc(samples->ns, capacity * sizeof(*grown));
        if (!grown)
            return; /* a benchmark out of memory loses samples, not the run */
        samples->ns = grown;
        samples->capacity = capacity;
    }
    samples->ns[samples->n++] = ns;
}

void bench_samples_free(struct bench_samples *samples)
{
    free(samples->ns);
    memset(samples, 0, sizeof(*samples));
}

double bench_quantile(int i)
{
    /* Equal steps in nines: 0, 0.1, ... up to five nines, then the maximum. */
    if (i >= BENCH_QUANTILES - 1)
        return 1.0;
    return 1.0 - pow(10.0, -5.0 * i / (BENCH_QUANTILES - 2));
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static double at(const struct bench_samples *samples, double quantile)
{
    size_t i = (size_t)ceil(quantile * (double)samples->n);
    return (double)samples->ns[i == 0 ? 0 : i - 1];
}

void bench_summarise(struct bench_samples *samples, struct bench_latency *ret)
{
    memset(ret, 0, sizeof(*ret));
    if (samples->n == 0)
        return;
    qsort(samples->ns, samples->n, sizeof(samples->ns[0]), by_value);
    double sum = 0;
    for (size_t i = 0; i < samples->n; i++)
        sum += (double)samples->ns[i];
    ret->n = samples->n;
    ret->mean_ns = sum / (double)samples->n;
    ret->p50_ns = at(samples, 0.5);
    ret->p90_ns = at(samples, 0.9);
    ret->p99_ns = at(samples, 0.99);
    ret->p999_ns = at(samples, 0.999);
    ret->p9999_ns = at(samples, 0.9999);
    ret->max_ns = at(samples, 1.0);
    for (int i = 0; i < BENCH_QUANTILES; i++)
        ret->curve_ns[i] = at(samples, bench_quantile(i));
}

struct bench_result *bench_report_add(struct bench_report *report, const char *name,
                                      const char *subject)
{
    if (report->n_result == report->capacity) {
        size_t capacity = report->capacity ? report->capacity * 2 : 32;
        struct bench_result *grown = realloc(report->results, capacity * sizeof(*grown));
        if (!grown) {
            fputs("ringbench: out of memory\n", stderr);
            exit(1);
        }
        report->results = grown;
        report->capacity = capacity;
    }
    struct bench_result *result = &report->results[report->n_result++];
    memset(result, 0, sizeof(*result));
    snprintf(result->name, sizeof(result->name), "%s", name);
    snprintf(result->subject, sizeof(result->subject), "%s", subject);
    return result;
}

void bench_report_free(struct bench_report *report)
{
    free(report->results);
    free(report->sources);
    report->sources = NULL;
    report->n_source = 0;
    report->results = NULL;
    report->n_result = report->capacity = 0;
}

void bench_result_runs(struct bench_result *result, struct bench_samples *runs, int n_run)
{
    struct bench_latency all[64];
    int order[64], n = min_of(n_run, 64);
    for (int i = 0; i < n; i++) {
        bench_summarise(&runs[i], &all[i]);
        int at_i = i;
        for (; at_i > 0 && all[order[at_i - 1]].p50_ns > all[i].p50_ns; at_i--)
            order[at_i] = order[at_i - 1];
        order[at_i] = i;
    }
    if (n == 0)
        return;
    result->latency = all[order[n / 2]];
    if (result->latency.n == 0)
        return; /* nothing to tell a spread of */
    result->n_run = n;
    result->p50_run_min_ns = all[order[0]].p50_ns;
    result->p50_run_max_ns = all[order[n - 1]].p50_ns;
}

void bench_value_set(struct bench_result *result, const char *key, double value)
{
    for (int i = 0; i < result->n_value; i++)
        if (strcmp(result->values[i].key, key) == 0) {
            result->values[i].value = value;
            return;
        }
    if (result->n_value == BENCH_VALUES_MAX)
        return;
    struct bench_value *slot = &result->values[result->n_value++];
    snprintf(slot->key, sizeof(slot->key), "%s", key);
    slot->value = value;
}

double bench_value_get(const struct bench_result *result, const char *key)
{
    for (int i = 0; i < result->n_value; i++)
        if (strcmp(result->values[i].key, key) == 0)
            return result->values[i].value;
    return NAN;
}

const struct bench_result *bench_find(const struct bench_report *report, const char *name,
                                      const char *subject)
{
    for (size_t i = 0; i < report->n_result; i++)
        if (strcmp(report->results[i].name, name) == 0 &&
            strcmp(report->results[i].subject, subject) == 0)
            return &report->results[i];
    return NULL;
}
