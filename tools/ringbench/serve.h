/* What serve.c measured, for serve_report.c. */
#ifndef RINGLET_TOOLS_SERVE_H
#define RINGLET_TOOLS_SERVE_H

#include "tools/ringbench/load.h"

enum { SUBJECTS_MAX = 3, RUNS_MAX = 64 };

struct subject {
    char name[BENCH_NAME];
    bool http;
    bool own;
    const char *extra; /* arguments of the own daemon */
    struct bench_daemon daemon;
    const char *socket_path;
    struct load_totals totals[RUNS_MAX];
};

struct serve {
    struct load_params params;
    const char *http_model, *daemon_args, *versus, *model_path;
    bool http_only;
    uint32_t n_warm_up; /* requests that are thrown away */
    struct subject subjects[SUBJECTS_MAX];
    int n_subject;
    int n_run;
    /*
     * By run: what the subject of --versus takes for exactly those tokens that the first one had in
     * its cache, if it had none cached itself.
     */
    struct load_totals saved[RUNS_MAX];
};

/* Seconds from the first request to the last event. */
double load_seconds(const struct load_totals *totals);

/* Value at a quantile of n sorted or unsorted values, between neighbours if need be. Sorts them. */
double bench_quantile_of(double *values, int n, double quantile);

/* All results of all subjects. Sorts the samples. */
void serve_report(struct bench_report *report, struct serve *s);

#endif
