/* ringbench report: earlier --json files as one table and one page. */
#include "tools/ringbench/bench.h"

#include <stdlib.h>
#include <string.h>

#include <jansson.h>

static const char *const usage =
    "usage: ringbench report [--html FILE] [--csv FILE] FILE.json...\n";

static const char *const latency_keys[] = { "p50_ns",  "p90_ns",   "p99_ns",
                                            "p999_ns", "p9999_ns", "max_ns" };

/* As it was written; a file without it keeps quantiles only, and the curve has steps. */
static void take_curve(struct bench_latency *l, json_t *curve)
{
    const double at[] = { 0.5, 0.9, 0.99, 0.999, 0.9999, 1.0 };
    const double ns[] = { l->p50_ns, l->p90_ns, l->p99_ns, l->p999_ns, l->p9999_ns, l->max_ns };
    bool whole = json_array_size(curve) == BENCH_QUANTILES;
    for (int i = 0; i < BENCH_QUANTILES; i++) {
        double quantile = bench_quantile(i);
        size_t k = 0;
        while (k + 1 < ARRAY_SIZE(at) && at[k] < quantile)
            k++;
        l->curve_ns[i] = whole ? json_number_value(json_array_get(curve, (size_t)i)) : ns[k];
    }
}

/* What is told beside the figures: notes, dtype, runs and their spread. */
static void take_rest(struct bench_result *r, json_t *object)
{
    const char *note = json_string_value(json_object_get(object, "note"));
    const char *dtype = json_string_value(json_object_get(object, "dtype"));
    snprintf(r->note, sizeof(r->note), "%s", note ? note : "");
    snprintf(r->dtype, sizeof(r->dtype), "%s", dtype ? dtype : "");
    r->n_run = (int)json_integer_value(json_object_get(object, "runs"));
    r->p50_run_min_ns = json_number_value(json_object_get(object, "p50_run_min_ns"));
    r->p50_run_max_ns = json_number_value(json_object_get(object, "p50_run_max_ns"));
}

static bool is_known(const char *key)
{
    static const char *const others[] = { "n", "mean_ns", "runs", "p50_run_min_ns",
                                          "p50_run_max_ns" };
    for (size_t i = 0; i < ARRAY_SIZE(latency_keys); i++)
        if (strcmp(key, latency_keys[i]) == 0)
            return true;
    for (size_t i = 0; i < ARRAY_SIZE(others); i++)
        if (strcmp(key, others[i]) == 0)
            return true;
    return false;
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
    take_curve(l, json_object_get(object, "curve_ns"));
    take_rest(r, object);
    const char *key;
    json_t *value;
    json_object_foreach(object, key, value)
    {
        if (json_is_number(value) && !is_known(key))
            bench_value_set(r, key, json_number_value(value));
    }
}

static const char *text_of(json_t *object, const char *key)
{
    const char *text = json_string_value(json_object_get(object, key));
    return text ? text : "";
}

/* When, where and by which command it was measured: the page is no place without those. */
static void take_source(struct bench_source *source, const char *file, json_t *root)
{
    json_t *machine = json_object_get(root, "machine");
    const char *device = text_of(machine, "device");
    snprintf(source->file, sizeof(source->file), "%s", file);
    snprintf(source->date, sizeof(source->date), "%s", text_of(machine, "date"));
    snprintf(source->command, sizeof(source->command), "%s", text_of(root, "command"));
    snprintf(source->machine, sizeof(source->machine), "%.120s, %d CPUs%s%.60s, Linux %.40s",
             text_of(machine, "cpu"), (int)json_integer_value(json_object_get(machine, "cpus")),
             device[0] ? ", " : "", device, text_of(machine, "kernel"));
}

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* What tells file i from the others: its name without what all begin with and without .json. */
static void label_of(char **paths, int n, int i, char *label, size_t bytes)
{
    size_t skip = 0;
    const char *name = base_of(paths[i]);
    for (bool same = true; same && name[skip]; skip += same)
        for (int k = 0; k < n; k++)
            same = same && base_of(paths[k])[skip] == name[skip];
    if (!name[skip]) { /* its name is the others' beginning, or they are all called so */
        snprintf(label, bytes, "%d", i + 1);
        return;
    }
    snprintf(label, bytes, "%s", name + skip);
    char *end = strstr(label, ".json");
    if (end && end != label)
        *end = 0;
}

static int take_file(struct bench_report *report, const char *path, const char *label)
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
    take_source(&report->sources[report->n_source++], base_of(path), root);
    size_t i, before = report->n_result;
    json_t *object;
    json_array_foreach(results, i, object) take_result(report, label, object);
    json_decref(root);
    if (report->n_result > before)
        return 0;
    fprintf(stderr, "ringbench report: %s: no result in it has a name and a subject\n", path);
    return 1;
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
    snprintf(report.command, sizeof(report.command), "%s", options->command);
    report.sources = calloc((size_t)argc, sizeof(*report.sources));
    int rc = report.sources ? 0 : 1;
    for (int i = 1; i < argc && rc == 0; i++) {
        char label[64];
        label_of(argv + 1, argc - 1, i - 1, label, sizeof(label));
        rc = take_file(&report, argv[i], argc > 2 ? label : NULL);
    }
    if (rc == 0 && bench_report_write(&report, options) < 0)
        rc = 1;
    bench_report_free(&report);
    return rc;
}
