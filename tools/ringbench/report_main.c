/* ringbench report: earlier --json files as one table and one page. */
#include "tools/ringbench/bench.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

static const char *const usage =
    "usage: ringbench report [--html FILE] [--csv FILE] FILE.json...\n";

static const char *const latency_keys[] = { "p50_ns",  "p90_ns",   "p99_ns",
                                            "p999_ns", "p9999_ns", "max_ns" };

/* The file keeps quantiles only: the curve goes straight between them. */
static void curve_from_quantiles(struct bench_latency *l)
{
    const double at[] = { 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0 };
    const double ns[] = { l->p50_ns, l->p90_ns, l->p99_ns, l->p999_ns, l->p9999_ns, l->max_ns };
    for (int i = 0; i < BENCH_QUANTILES; i++) {
        double quantile = bench_quantile(i);
        size_t k = 0;
        while (k + 1 < ARRAY_SIZE(at) && at[k] < quantile)
            k++;
        l->curve_ns[i] = ns[k];
    }
}

static void take_result(struct bench_report *report, const char *label, json_t *object)
{
    const char *name = json_string_value(json_object_get(object, "name"));
    const char *subject = json_string_value(json_object_get(object, "subject"));
    if (!name || !subject)
        return;
    char full[BENCH_NAME];
    snprintf(full, sizeof(full), label ? "%.24s (%.20s)" : "%.47s", subject, label);
    struct bench_result *r = bench_report_add(report, name, full);
    struct bench_latency *l = &r->latency;
    double *slots[] = { &l->p50_ns, &l->p90_ns, &l->p99_ns, &l->p999_ns, &l->p9999_ns, &l->max_ns };
    l->n = (uint64_t)json_integer_value(json_object_get(object, "n"));
    for (size_t i = 0; i < ARRAY_SIZE(slots); i++)
        *slots[i] = json_number_value(json_object_get(object, latency_keys[i]));
    l->mean_ns = json_number_value(json_object_get(object, "mean_ns"));
    curve_from_quantiles(l);
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        bool known = !json_is_number(value) || strcmp(key, "n") == 0 || strcmp(key, "mean_ns") == 0;
        for (size_t i = 0; i < ARRAY_SIZE(latency_keys); i++)
            known = known || strcmp(key, latency_keys[i]) == 0;
        if (!known)
            bench_value_set(r, key, json_number_value(value));
    }
}

static int take_file(struct bench_report *report, const char *path, bool label)
{
    json_error_t error;
    json_t *root = json_load_file(path, JSON_REJECT_DUPLICATES, &error);
    json_t *results = json_object_get(root, "results");
    if (!json_is_array(results)) {
        fprintf(stderr, "ringbench report: %s: %s\n", path,
                root ? "no \"results\" in it" : error.text);
        json_decref(root);
        return 1;
    }
    const char *slash = strrchr(path, '/');
    size_t i;
    json_t *object;
    json_array_foreach(results, i, object)
        take_result(report, label ? (slash ? slash + 1 : path) : NULL, object);
    json_decref(root);
    return 0;
}

int bench_report_main(int argc, char **argv, const struct bench_options *options)
{
    struct bench_report report = { .bench = "report" };
    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        fputs(usage, stdout);
        return 0;
    }
    if (argc < 2 || argv[1][0] == '-') {
        fputs(usage, stderr);
        return 2;
    }
    snprintf(report.command, sizeof(report.command), "ringbench report (%d files)", argc - 1);
    int rc = 0;
    for (int i = 1; i < argc && rc == 0; i++)
        rc = take_file(&report, argv[i], argc > 2);
    if (rc == 0 && bench_report_write(&report, options) < 0)
        rc = 1;
    bench_report_free(&report);
    return rc;
}
