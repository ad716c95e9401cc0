/*
 * What all ringbench subcommands share: samples, results, the machine, reports.
 * One thread builds a report; samples may be filled by any single thread.
 */
#ifndef RINGLET_TOOLS_BENCH_H
#define RINGLET_TOOLS_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/compiler.h"

enum { BENCH_QUANTILES = 41, BENCH_VALUES_MAX = 24, BENCH_NAME = 48 };

/* Nanoseconds, in the order they came; grows. */
struct bench_samples {
    uint64_t *ns;
    size_t n, capacity;
};

void bench_samples_add(struct bench_samples *samples, uint64_t ns);
void bench_samples_free(struct bench_samples *samples);

struct bench_latency {
    uint64_t n; /* 0: this result has no latency */
    double mean_ns, p50_ns, p90_ns, p99_ns, p999_ns, p9999_ns, max_ns;
    double curve_ns[BENCH_QUANTILES]; /* at bench_quantile(i), for the plot */
};

/* A figure of its own, such as msgs_per_s or share_of_limit. */
struct bench_value {
    char key[40];
    double value;
};

struct bench_result {
    char name[BENCH_NAME];    /* round_trip, throughput, ttft, ... */
    char subject[BENCH_NAME]; /* ringlet, cache_line, http, ... */
    char note[128];
    char dtype[8]; /* that a model was computed in, or "" */
    struct bench_latency latency;
    int n_run;                             /* runs behind it; latency is the run of median p50 */
    double p50_run_min_ns, p50_run_max_ns; /* spread of p50 over the runs */
    struct bench_value values[BENCH_VALUES_MAX];
    int n_value;
};

/* Where results came from that were measured before. */
struct bench_source {
    char file[64], machine[256], date[32], command[1024];
};

struct bench_report {
    const char *bench; /* rings, serve, model, report */
    struct bench_result *results;
    size_t n_result, capacity;
    char command[1024];
    struct bench_source *sources; /* of `report`; else NULL: this machine, now, `command` */
    size_t n_source;
};

/* Options that every subcommand takes; main.c parses them out of argv. */
struct bench_options {
    const char *json_path, *csv_path, *html_path, *socket_path;
    int repeat;
    bool long_run;
    char command[1024]; /* as it was given */
};

/* Quantile of plot point i: 0, then denser towards 1. */
double bench_quantile(int i);

/* Sort the samples and fill the latency. Empty samples give n = 0. */
void bench_summarise(struct bench_samples *samples, struct bench_latency *ret);

/* A new empty result at the end of the report; valid until the next call. */
struct bench_result *bench_report_add(struct bench_report *report, const char *name,
                                      const char *subject);
void bench_report_free(struct bench_report *report);

/* Latency out of several runs of samples: the run of median p50, with the spread. Sorts them. */
void bench_result_runs(struct bench_result *result, struct bench_samples *runs, int n_run);

void bench_value_set(struct bench_result *result, const char *key, double value);
/* NAN where there is none. */
double bench_value_get(const struct bench_result *result, const char *key);
const struct bench_result *bench_find(const struct bench_report *report, const char *name,
                                      const char *subject);

/* Table on stdout, then the files asked for. Returns 0 or -errno after telling stderr which file.
 */
int bench_report_write(const struct bench_report *report, const struct bench_options *options);

/* Self-contained page with a distribution plot for each name. */
void bench_write_html(const struct bench_report *report, FILE *out);

/* The machine as a JSON object: processor, cores, cache sharing, kernel, idle states, date. */
void bench_write_machine_json(FILE *out);
/* The same as one line of words. */
void bench_machine_line(char *line, size_t bytes);

/* CPU ids this process may use; returns how many, at most max. */
int bench_cpus(int *cpus, int max);
/* Whether two CPUs share their last-level cache. */
bool bench_same_cache(int cpu_a, int cpu_b);
void bench_pin(int cpu); /* -1: leave */
uint64_t bench_now_ns(void);

/* "progress 3/10 ..." on stderr, rewritten on a terminal, rare otherwise. */
void bench_progress(const char *format, ...) printf_like(1, 2);
void bench_progress_end(void);

/* Subcommands: argv[0] is the subcommand's name. They return an exit status. */
int bench_rings_main(int argc, char **argv, const struct bench_options *options);
int bench_serve_main(int argc, char **argv, const struct bench_options *options);
int bench_model_main(int argc, char **argv, const struct bench_options *options);
int bench_report_main(int argc, char **argv, const struct bench_options *options);

#endif
