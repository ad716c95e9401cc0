/* The plots of the page: SVG whose colours are the page's, so they follow light and dark. */
#include "tools/ringbench/html.h"

#include <math.h>
#include <string.h>

enum { PLOT_W = 960, PLOT_H = 340, LEFT = 74, RIGHT = 262, TOP = 26, BOTTOM = 48, LEGEND_H = 21 };

struct plot {
    const struct bench_result *series[HTML_SERIES_MAX];
    int colour[HTML_SERIES_MAX];
    int n, n_left_out;
    double lo, hi; /* decades of ns */
    double nines;  /* the right end: 2 is 99 % */
};

/* Nines that n samples can tell: the largest of 100 stands for 99 %. */
static double nines_of(uint64_t n)
{
    return fmin(fmax(log10((double)n), 0.5), 5.0);
}

static double x_of(const struct plot *p, double nines)
{
    return LEFT + (PLOT_W - LEFT - RIGHT) * nines / p->nines;
}

static double y_of(const struct plot *p, double ns)
{
    return TOP + (PLOT_H - TOP - BOTTOM) * (1.0 - (log10(ns) - p->lo) / (p->hi - p->lo));
}

static void grid_line(bool vertical, double at, FILE *out)
{
    if (vertical)
        fprintf(out, "<line class='grid' x1='%.1f' x2='%.1f' y1='%d' y2='%d'/>", at, at, TOP,
                PLOT_H - BOTTOM);
    else
        fprintf(out, "<line class='grid' x1='%d' x2='%d' y1='%.1f' y2='%.1f'/>", LEFT,
                PLOT_W - RIGHT, at, at);
}

static void x_axis(const struct plot *p, FILE *out)
{
    static const struct {
        double quantile;
        const char *label;
    } marks[] = { { 0.0, "min" },         { 0.5, "50 %" },     { 0.9, "90 %" },
                  { 0.99, "99 %" },       { 0.999, "99.9 %" }, { 0.9999, "99.99 %" },
                  { 0.99999, "99.999 %" } };
    for (size_t i = 0; i < ARRAY_SIZE(marks); i++) {
        double nines = -log10(1.0 - marks[i].quantile), x = x_of(p, nines);
        if (nines > p->nines + 1e-9)
            break;
        grid_line(true, x, out);
        if (i == 0 && x_of(p, 0.3) - x < 48)
            continue; /* no room for two labels */
        fprintf(out, "<text x='%.1f' y='%d' text-anchor='middle'>%s</text>", x,
                PLOT_H - BOTTOM + 18, marks[i].label);
    }
    fprintf(out, "<text x='%d' y='%d' text-anchor='middle'>share of samples at or below</text>",
            (LEFT + PLOT_W - RIGHT) / 2, PLOT_H - 8);
}

static void y_axis(const struct plot *p, FILE *out)
{
    static const double fine[] = { 1, 1.5, 2, 3, 4, 5, 7 }, coarse[] = { 1, 2, 5 };
    bool is_fine = p->hi - p->lo < 1.2, is_coarse = p->hi - p->lo < 3.2;
    size_t n = is_fine ? ARRAY_SIZE(fine) : is_coarse ? ARRAY_SIZE(coarse) : 1;
    for (int decade = (int)floor(p->lo); decade <= (int)ceil(p->hi); decade++)
        for (size_t i = 0; i < n; i++) {
            double ns = (is_fine ? fine[i] : coarse[i]) * pow(10.0, decade);
            if (log10(ns) < p->lo - 1e-9 || log10(ns) > p->hi + 1e-9)
                continue;
            const char *unit = ns < 1e3 ? "ns" : ns < 1e6 ? "µs" : ns < 1e9 ? "ms" : "s";
            double scale = ns < 1e3 ? 1 : ns < 1e6 ? 1e3 : ns < 1e9 ? 1e6 : 1e9;
            grid_line(false, y_of(p, ns), out);
            fprintf(out, "<text x='%d' y='%.1f' text-anchor='end'>%.4g %s</text>", LEFT - 8,
                    y_of(p, ns) + 4, ns / scale, unit);
        }
    fprintf(out, "<text x='%d' y='%d' text-anchor='end'>time</text>", LEFT - 8, TOP - 12);
    fprintf(out, "<polyline class='axis' points='%d,%d %d,%d %d,%d'/>", LEFT, TOP, LEFT,
            PLOT_H - BOTTOM, PLOT_W - RIGHT, PLOT_H - BOTTOM);
}

static void curve(const struct plot *p, int series_i, FILE *out)
{
    const struct bench_latency *l = &p->series[series_i]->latency;
    double end = nines_of(l->n);
    fprintf(out, "<g class='s%d'><title>", p->colour[series_i]);
    html_escaped(p->series[series_i]->subject, out);
    fputs("</title><polyline class='curve' points='", out);
    for (int i = 0; i < BENCH_QUANTILES - 1; i++) {
        double nines = 5.0 * i / (BENCH_QUANTILES - 2); /* as bench_quantile() has it */
        if (nines >= end)
            break;
        fprintf(out, "%.1f,%.1f ", x_of(p, nines), y_of(p, fmax(l->curve_ns[i], 1.0)));
    }
    double x = x_of(p, end), y = y_of(p, fmax(l->max_ns, 1.0));
    fprintf(out, "%.1f,%.1f'/><circle class='dot' cx='%.1f' cy='%.1f' r='3.5'/></g>\n", x, y, x, y);
}

/* Name at most 20 characters wide, the middle left out. */
static void short_name(const char *name, FILE *out)
{
    char text[64];
    size_t length = strlen(name);
    if (length <= 22) {
        html_escaped(name, out);
        return;
    }
    snprintf(text, sizeof(text), "%.9s…%s", name, name + length - 11);
    html_escaped(text, out);
}

static void legend(const struct plot *p, FILE *out)
{
    int x = PLOT_W - RIGHT + 22, y = TOP + 4;
    fprintf(out, "<text class='head' x='%d' y='%d' text-anchor='end'>median</text>", PLOT_W - 4,
            y - 16 + 4);
    for (int i = 0; i < p->n; i++) {
        char p50[32];
        html_ns(p->series[i]->latency.p50_ns, p50, sizeof(p50));
        int line_y = y + LEGEND_H * i + 8;
        fprintf(out, "<g class='s%d'><circle class='dot' cx='%d' cy='%d' r='5'/></g>", p->colour[i],
                x, line_y - 4);
        fprintf(out, "<text class='name' x='%d' y='%d'>", x + 12, line_y);
        short_name(p->series[i]->subject, out);
        fprintf(out, "</text><text x='%d' y='%d' text-anchor='end'>%s</text>\n", PLOT_W - 4, line_y,
                p50);
    }
    if (p->n_left_out)
        fprintf(out, "<text x='%d' y='%d'>and %d more in the table</text>", x + 12,
                y + LEGEND_H * p->n + 8, p->n_left_out);
}

/* The fastest first: that is the order of the legend. */
static void insert(struct plot *p, const struct bench_result *r)
{
    int at = p->n;
    if (at == HTML_SERIES_MAX) {
        p->n_left_out++;
        return;
    }
    for (; at > 0 && p->series[at - 1]->latency.p50_ns > r->latency.p50_ns; at--)
        p->series[at] = p->series[at - 1];
    p->series[at] = r;
    p->n++;
}

void html_plot(const struct bench_report *report, const char *name, FILE *out)
{
    struct plot p = { .lo = 30 };
    for (size_t i = 0; i < report->n_result; i++) {
        const struct bench_result *r = &report->results[i];
        if (strcmp(r->name, name) != 0 || r->latency.n == 0)
            continue;
        insert(&p, r);
        p.lo = fmin(p.lo, log10(fmax(r->latency.curve_ns[0], 1.0)));
        p.hi = fmax(p.hi, log10(fmax(r->latency.max_ns, 1.0)));
        p.nines = fmax(p.nines, nines_of(r->latency.n));
    }
    if (p.n == 0)
        return;
    p.lo = floor(p.lo * 5) / 5;
    p.hi = fmax(ceil(p.hi * 5) / 5, p.lo + 0.6);
    fprintf(out, "<svg viewBox='0 0 %d %d' role='img' aria-label='latency distribution of ", PLOT_W,
            PLOT_H);
    html_escaped(name, out);
    fputs("'>", out);
    for (int i = 0; i < p.n; i++)
        p.colour[i] = html_colour(report, p.series[i]->subject);
    x_axis(&p, out);
    y_axis(&p, out);
    for (int i = p.n; i-- > 0;)
        curve(&p, i, out);
    legend(&p, out);
    fputs("</svg>\n", out);
}

static void bar(const struct bench_result *r, int colour, int i, double most, FILE *out)
{
    char text[32];
    int label_w = 220, y = 28 + 26 * i;
    double value = r->values[0].value;
    double w = most > 0 ? (PLOT_W - label_w - 110) * value / most : 0;
    html_number(value, text, sizeof(text));
    fprintf(out, "<text class='name' x='%d' y='%d' text-anchor='end'>", label_w - 10, y + 13);
    short_name(r->subject, out);
    fprintf(out,
            "</text><g class='s%d'><rect class='bar' x='%d' y='%d' width='%.1f' height='18' "
            "rx='2'/></g>",
            colour, label_w, y, fmax(w, 1.0));
    double allowed = bench_value_get(r, "gain_allowed");
    if (allowed > 0) { /* the mark that the bar is measured by */
        double x = label_w + (PLOT_W - label_w - 110) * allowed / most;
        fprintf(out, "<line class='mark' x1='%.1f' x2='%.1f' y1='%d' y2='%d'/>", x, x, y - 4,
                y + 22);
        w = fmax(w, x - label_w);
    }
    fprintf(out, "<text x='%.1f' y='%d'>%s</text>\n", label_w + w + 8, y + 13, text);
}

void html_bars(const struct bench_report *report, const char *name, FILE *out)
{
    const struct bench_result *rows[HTML_SERIES_MAX];
    const char *key = NULL;
    double most = 0;
    bool marked = false;
    int n = 0;
    for (size_t i = 0; i < report->n_result && n < HTML_SERIES_MAX; i++) {
        const struct bench_result *r = &report->results[i];
        if (strcmp(r->name, name) != 0 || r->latency.n || r->n_value == 0)
            continue;
        key = key ? key : r->values[0].key;
        double value = r->values[0].value, allowed = bench_value_get(r, "gain_allowed");
        if (!(value >= 0) || strcmp(r->values[0].key, key) != 0)
            continue;
        marked = marked || allowed > 0;
        most = fmax(most, fmax(value, allowed > 0 ? allowed : 0));
        rows[n++] = r;
    }
    if (n == 0 || (n == 1 && !marked))
        return; /* one bar alone says nothing */
    fprintf(out, "<svg viewBox='0 0 %d %d' role='img' aria-label='", PLOT_W, 34 + 26 * n);
    html_escaped(name, out);
    fputs("'><text class='head' x='220' y='16'>", out);
    html_escaped(key, out);
    fputs(marked ? ", and what the saved tokens allow (mark)</text>\n" : "</text>\n", out);
    for (int i = 0; i < n; i++)
        bar(rows[i], html_colour(report, rows[i]->subject), i, most, out);
    fputs("</svg>\n", out);
}
