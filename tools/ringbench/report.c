/* Reports: the table on stdout, CSV, JSON. html.c draws the page. */
#include "tools/ringbench/bench.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

/* "1.23 us" in at most 11 columns. */
static const char *human_ns(double ns, char *text, size_t bytes)
{
    if (ns < 1e3)
        snprintf(text, bytes, "%.0f ns", ns);
    else if (ns < 1e6)
        snprintf(text, bytes, "%.2f us", ns / 1e3);
    else if (ns < 1e9)
        snprintf(text, bytes, "%.2f ms", ns / 1e6);
    else
        snprintf(text, bytes, "%.2f s", ns / 1e9);
    return text;
}

static void print_table(const struct bench_report *report)
{
    char machine[512], cell[6][24];
    bench_machine_line(machine, sizeof(machine));
    if (!report->sources)
        printf("%s: %s\n%s\n\n", report->bench, machine, report->command);
    for (size_t i = 0; i < report->n_source; i++)
        printf("%s: %s, %s\n%s\n\n", report->sources[i].file, report->sources[i].machine,
               report->sources[i].date, report->sources[i].command);
    printf("%-22s %-16s %11s %11s %11s %11s %11s %11s %9s  %s\n", "name", "subject", "p50", "p90",
           "p99", "p99.9", "p99.99", "max", "n", "figures");
    for (size_t i = 0; i < report->n_result; i++) {
        const struct bench_result *r = &report->results[i];
        const struct bench_latency *l = &r->latency;
        printf("%-22s %-16s ", r->name, r->subject);
        if (l->n)
            printf("%11s %11s %11s %11s %11s %11s %9llu ", human_ns(l->p50_ns, cell[0], 24),
                   human_ns(l->p90_ns, cell[1], 24), human_ns(l->p99_ns, cell[2], 24),
                   human_ns(l->p999_ns, cell[3], 24), human_ns(l->p9999_ns, cell[4], 24),
                   human_ns(l->max_ns, cell[5], 24), (unsigned long long)l->n);
        else
            printf("%11s %11s %11s %11s %11s %11s %9s ", "-", "-", "-", "-", "-", "-", "-");
        if (r->n_run > 1)
            printf(" p50 of %d runs %s..%s", r->n_run, human_ns(r->p50_run_min_ns, cell[0], 24),
                   human_ns(r->p50_run_max_ns, cell[1], 24));
        for (int v = 0; v < r->n_value; v++)
            printf(" %s=%.6g", r->values[v].key, r->values[v].value);
        printf("%s%s\n", r->note[0] ? "  " : "", r->note);
    }
    fflush(stdout);
}

/* A field of CSV, in quotes if it has to be. */
static void csv_text(const char *text, FILE *out)
{
    if (!strpbrk(text, ",\"\n")) {
        fputs(text, out);
        return;
    }
    fputc('"', out);
    for (; *text; text++)
        fputs(*text == '"' ? "\"\"" : (char[]){ *text, 0 }, out);
    fputc('"', out);
}

static void write_csv(const struct bench_report *report, FILE *out)
{
    fputs("bench,name,subject,n,mean_ns,p50_ns,p90_ns,p99_ns,p999_ns,p9999_ns,max_ns,runs,"
          "p50_run_min_ns,p50_run_max_ns,figures\n",
          out);
    for (size_t i = 0; i < report->n_result; i++) {
        const struct bench_result *r = &report->results[i];
        const struct bench_latency *l = &r->latency;
        fprintf(out, "%s,%s,", report->bench, r->name);
        csv_text(r->subject, out);
        fprintf(out, ",%llu,%.1f,%.0f,%.0f,%.0f,%.0f,%.0f,%.0f,%d,%.0f,%.0f,",
                (unsigned long long)l->n, l->mean_ns, l->p50_ns, l->p90_ns, l->p99_ns, l->p999_ns,
                l->p9999_ns, l->max_ns, r->n_run, r->p50_run_min_ns, r->p50_run_max_ns);
        for (int v = 0; v < r->n_value; v++)
            fprintf(out, "%s%s=%.9g", v ? ";" : "", r->values[v].key, r->values[v].value);
        fputc('\n', out);
    }
}

static void json_string(const char *text, FILE *out)
{
    fputc('"', out);
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            fprintf(out, "\\%c", c);
        else if (c < 0x20)
            fprintf(out, "\\u%04x", c);
        else
            fputc(c, out);
    }
    fputc('"', out);
}

/* For the plot of `ringbench report`: at bench_quantile(i). */
static void write_curve(const struct bench_latency *l, FILE *out)
{
    fputs(",\"curve_ns\":[", out);
    for (int i = 0; i < BENCH_QUANTILES; i++)
        fprintf(out, "%s%.0f", i ? "," : "", l->curve_ns[i]);
    fputc(']', out);
}

static void write_json(const struct bench_report *report, FILE *out)
{
    fprintf(out, "{\"bench\":\"%s\",\"command\":", report->bench);
    json_string(report->command, out);
    fputs(",\"machine\":", out);
    bench_write_machine_json(out);
    fputs(",\"results\":[", out);
    for (size_t i = 0; i < report->n_result; i++) {
        const struct bench_result *r = &report->results[i];
        const struct bench_latency *l = &r->latency;
        fprintf(out, "%s\n {\"name\":", i ? "," : "");
        json_string(r->name, out);
        fputs(",\"subject\":", out);
        json_string(r->subject, out);
        if (l->n)
            fprintf(out,
                    ",\"p50_ns\":%.0f,\"p90_ns\":%.0f,\"p99_ns\":%.0f,\"p999_ns\":%.0f,"
                    "\"p9999_ns\":%.0f,\"max_ns\":%.0f,\"mean_ns\":%.1f,\"n\":%llu",
                    l->p50_ns, l->p90_ns, l->p99_ns, l->p999_ns, l->p9999_ns, l->max_ns, l->mean_ns,
                    (unsigned long long)l->n);
        if (l->n)
            write_curve(l, out);
        if (r->n_run > 1)
            fprintf(out, ",\"runs\":%d,\"p50_run_min_ns\":%.0f,\"p50_run_max_ns\":%.0f", r->n_run,
                    r->p50_run_min_ns, r->p50_run_max_ns);
        for (int v = 0; v < r->n_value; v++)
            if (isfinite(r->values[v].value))
                fprintf(out, ",\"%s\":%.9g", r->values[v].key, r->values[v].value);
        if (r->dtype[0]) {
            fputs(",\"dtype\":", out);
            json_string(r->dtype, out);
        }
        if (r->note[0]) {
            fputs(",\"note\":", out);
            json_string(r->note, out);
        }
        fputc('}', out);
    }
    fputs("\n]}\n", out);
}

static int write_file(const char *path, const struct bench_report *report,
                      void (*write_fn)(const struct bench_report *, FILE *))
{
    if (!path)
        return 0;
    if (strcmp(path, "-") == 0) {
        write_fn(report, stdout);
        return 0;
    }
    auto_fclose FILE *out = fopen(path, "we");
    if (!out) {
        int error = errno;
        fprintf(stderr, "ringbench: %s: %s\n", path, strerror(error));
        return -error;
    }
    write_fn(report, out);
    if (fflush(out) != 0 || ferror(out)) {
        fprintf(stderr, "ringbench: %s: %s\n", path, strerror(errno));
        return -EIO;
    }
    return 0;
}

int bench_report_write(const struct bench_report *report, const struct bench_options *options)
{
    bool json_on_stdout = options->json_path && strcmp(options->json_path, "-") == 0;
    if (!json_on_stdout)
        print_table(report);
    int rc = write_file(options->json_path, report, write_json);
    int rc_csv = write_file(options->csv_path, report, write_csv);
    int rc_html = write_file(options->html_path, report, bench_write_html);
    return rc ? rc : rc_csv ? rc_csv : rc_html;
}
