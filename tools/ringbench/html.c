/*
 * The report as one self-contained page: per name a plot of the latency distribution (time on a
 * logarithmic axis against the share of samples, spread out towards the tail), then the table.
 */
#include "tools/ringbench/bench.h"

#include <math.h>
#include <string.h>

enum { PLOT_W = 860, PLOT_H = 360, LEFT = 76, RIGHT = 190, TOP = 18, BOTTOM = 44, SERIES_MAX = 12 };

static const char *const colours[SERIES_MAX] = {
    "#0b6bcb", "#d1495b", "#2a9d5c", "#8f5bd6", "#c77d12", "#0f8b8d",
    "#7a7a7a", "#b1387c", "#5a7d00", "#3f4fae", "#9a5a3a", "#00798c",
};

static const char *const style =
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;"
    "color:#1c2230;background:#fff}h1{font-size:1.6em;margin-bottom:.1em}h2{font-size:1.15em;"
    "margin:1.8em 0 .3em}p.machine{color:#5b6475;margin-top:0}code{background:#f1f3f7;padding:.1em "
    ".3em;border-radius:3px}table{border-collapse:collapse;font-size:13px;width:100%}th,td{padding:"
    ".25em .6em;text-align:right;border-bottom:1px solid "
    "#e3e7ee;white-space:nowrap}th:nth-child(-n+2"
    "),td:nth-child(-n+2){text-align:left}td.fig{text-align:left;white-space:normal;color:#5b6475}"
    "svg{max-width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:#5b6475}"
    ".grid{stroke:#e3e7ee}.axis{stroke:#8d96a8}";

static void escaped(const char *text, FILE *out)
{
    for (; *text; text++) {
        if (*text == '<')
            fputs("&lt;", out);
        else if (*text == '&')
            fputs("&amp;", out);
        else
            fputc(*text, out);
    }
}

static void short_ns(double ns, char *text, size_t bytes)
{
    const char *unit = ns < 1e3 ? "ns" : ns < 1e6 ? "µs" : ns < 1e9 ? "ms" : "s";
    double value = ns < 1e3 ? ns : ns < 1e6 ? ns / 1e3 : ns < 1e9 ? ns / 1e6 : ns / 1e9;
    snprintf(text, bytes,
             value < 10    ? "%.2f %s"
             : value < 100 ? "%.1f %s"
                           : "%.0f %s",
             value, unit);
}

/* Position along x: nines, so that 90 %, 99 %, 99.9 % lie equally far apart. */
static double x_of(double quantile)
{
    double nines = quantile >= 1.0 ? 5.0 : -log10(1.0 - quantile);
    return LEFT + (PLOT_W - LEFT - RIGHT) * fmin(nines, 5.0) / 5.0;
}

static double y_of(double ns, double lo, double hi)
{
    return TOP + (PLOT_H - TOP - BOTTOM) * (1.0 - (log10(ns) - lo) / (hi - lo));
}

/* Marks at 1, 2 and 5 of a decade; at 1 alone when there are many decades. */
static int next_step(int step, double decades)
{
    return decades > 2.5 || step == 5 ? 10 : step == 1 ? 1 : 3;
}

static void axes(double lo, double hi, FILE *out)
{
    static const struct {
        double quantile;
        const char *label;
    } marks[] = { { 0.0, "min" },      { 0.5, "50 %" },       { 0.9, "90 %" }, { 0.99, "99 %" },
                  { 0.999, "99.9 %" }, { 0.9999, "99.99 %" }, { 1.0, "max" } };
    for (size_t i = 0; i < ARRAY_SIZE(marks); i++) {
        double x = x_of(marks[i].quantile);
        fprintf(out, "<line class='grid' x1='%.1f' x2='%.1f' y1='%d' y2='%d'/>", x, x, TOP,
                PLOT_H - BOTTOM);
        fprintf(out, "<text x='%.1f' y='%d' text-anchor='middle'>%s</text>", x,
                PLOT_H - BOTTOM + 18, marks[i].label);
    }
    for (int decade = (int)floor(lo); decade <= (int)ceil(hi); decade++)
        for (int step = 1; step < 10; step += next_step(step, hi - lo)) {
            double ns = step * pow(10.0, decade), y = y_of(ns, lo, hi);
            char label[32];
            if (log10(ns) < lo - 1e-9 || log10(ns) > hi + 1e-9)
                continue;
            short_ns(ns, label, sizeof(label));
            fprintf(out, "<line class='grid' x1='%d' x2='%d' y1='%.1f' y2='%.1f'/>", LEFT,
                    PLOT_W - RIGHT, y, y);
            fprintf(out, "<text x='%d' y='%.1f' text-anchor='end'>%s</text>", LEFT - 8, y + 4,
                    label);
        }
    fprintf(out, "<polyline class='axis' fill='none' points='%d,%d %d,%d %d,%d'/>", LEFT, TOP, LEFT,
            PLOT_H - BOTTOM, PLOT_W - RIGHT, PLOT_H - BOTTOM);
    fprintf(out, "<text x='%d' y='%d' text-anchor='middle'>share of samples at or below</text>",
            (LEFT + PLOT_W - RIGHT) / 2, PLOT_H - 6);
}

static void curve(const struct bench_result *r, int series, double lo, double hi, double label_y,
                  FILE *out)
{
    const char *colour = colours[series % SERIES_MAX];
    fprintf(out, "<polyline fill='none' stroke='%s' stroke-width='2' points='", colour);
    for (int i = 0; i < BENCH_QUANTILES; i++)
        fprintf(out, "%.1f,%.1f ", x_of(bench_quantile(i)),
                y_of(fmax(r->latency.curve_ns[i], 1.0), lo, hi));
    fputs("'/>", out);
    char p50[32];
    short_ns(r->latency.p50_ns, p50, sizeof(p50));
    fprintf(out, "<text x='%d' y='%.1f' style='fill:%s'>", PLOT_W - RIGHT + 8, label_y, colour);
    escaped(r->subject, out);
    fprintf(out, " · %s</text>", p50);
}

static void plot(const struct bench_report *report, const char *name, FILE *out)
{
    const struct bench_result *series[SERIES_MAX];
    int n = 0;
    double lo = 1e30, hi = 1.0;
    for (size_t i = 0; i < report->n_result && n < SERIES_MAX; i++) {
        const struct bench_result *r = &report->results[i];
        if (strcmp(r->name, name) != 0 || r->latency.n == 0)
            continue;
        series[n++] = r;
        lo = fmin(lo, fmax(r->latency.curve_ns[0], 1.0));
        hi = fmax(hi, r->latency.max_ns);
    }
    if (n == 0)
        return;
    lo = floor(log10(lo) * 4) / 4;
    hi = fmax(ceil(log10(hi) * 4) / 4, lo + 0.5);
    fprintf(out, "<svg viewBox='0 0 %d %d' role='img' aria-label='latency distribution of ", PLOT_W,
            PLOT_H);
    escaped(name, out);
    fputs("'>", out);
    axes(lo, hi, out);
    /* Labels at the right, where the curves end, pushed apart from the top. */
    double taken = TOP - 8;
    bool drawn[SERIES_MAX] = { false };
    for (int k = 0; k < n; k++) {
        int best = -1;
        for (int i = 0; i < n; i++)
            if (!drawn[i] && (best < 0 || series[i]->latency.max_ns > series[best]->latency.max_ns))
                best = i;
        drawn[best] = true;
        taken = fmax(taken + 15, y_of(series[best]->latency.max_ns, lo, hi) + 4);
        taken = fmin(taken, PLOT_H - BOTTOM - 15.0 * (n - 1 - k));
        curve(series[best], best, lo, hi, taken, out);
    }
    fputs("</svg>\n", out);
}

static void table(const struct bench_report *report, const char *name, FILE *out)
{
    fputs("<table><tr><th>subject</th><th>p50</th><th>p90</th><th>p99</th><th>p99.9</th>"
          "<th>max</th><th>n</th><th>figures</th></tr>\n",
          out);
    for (size_t i = 0; i < report->n_result; i++) {
        const struct bench_result *r = &report->results[i];
        const struct bench_latency *l = &r->latency;
        if (strcmp(r->name, name) != 0)
            continue;
        fputs("<tr><td>", out);
        escaped(r->subject, out);
        fputs("</td>", out);
        double shown[] = { l->p50_ns, l->p90_ns, l->p99_ns, l->p999_ns, l->max_ns };
        for (size_t c = 0; c < ARRAY_SIZE(shown); c++) {
            char text[32] = "–";
            if (l->n)
                short_ns(shown[c], text, sizeof(text));
            fprintf(out, "<td>%s</td>", text);
        }
        fprintf(out, "<td>%llu</td><td class='fig'>", (unsigned long long)l->n);
        if (r->n_run > 1) {
            char low[32], high[32];
            short_ns(r->p50_run_min_ns, low, sizeof(low));
            short_ns(r->p50_run_max_ns, high, sizeof(high));
            fprintf(out, "p50 of %d runs %s to %s%s", r->n_run, low, high, r->n_value ? "; " : "");
        }
        for (int v = 0; v < r->n_value; v++)
            fprintf(out, "%s%s = %.5g", v ? ", " : "", r->values[v].key, r->values[v].value);
        fputs(r->note[0] && r->n_value ? "; " : "", out);
        escaped(r->note, out);
        fputs("</td></tr>\n", out);
    }
    fputs("</table>\n", out);
}

void bench_write_html(const struct bench_report *report, FILE *out)
{
    char machine[512];
    bench_machine_line(machine, sizeof(machine));
    fprintf(out,
            "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' "
            "content='width=device-width'><title>ringbench %s</title><style>%s</style>\n"
            "<h1>ringbench %s</h1><p class='machine'>",
            report->bench, style, report->bench);
    escaped(machine, out);
    fputs("<br><code>", out);
    escaped(report->command, out);
    fputs("</code></p>\n", out);
    for (size_t i = 0; i < report->n_result; i++) {
        const char *name = report->results[i].name;
        bool seen = false;
        for (size_t k = 0; k < i; k++)
            seen = seen || strcmp(report->results[k].name, name) == 0;
        if (seen)
            continue;
        fputs("<h2>", out);
        escaped(name, out);
        fputs("</h2>\n", out);
        plot(report, name, out);
        table(report, name, out);
    }
    fputs("</html>\n", out);
}
