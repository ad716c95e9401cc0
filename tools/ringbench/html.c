/*
 * The report as one self-contained page: for each name what it is, the latency distribution or bars
 * (html_plot.c), then the table. Light or dark as the reader's system is.
 */
#include "tools/ringbench/html.h"

#include <math.h>
#include <string.h>
#include <time.h>

static const char *const style =
    ":root{color-scheme:light "
    "dark;--text:#1c2230;--soft:#5b6475;--page:#fff;--line:#e3e7ee;--axis:#8d96a8;"
    "--code:#f1f3f7;--c0:#0b6bcb;--c1:#d1495b;--c2:#23874f;--c3:#8f5bd6;--c4:#b86e0c;"
    "--c5:#0f8b8d;--c6:#6b7280;--c7:#b1387c;--c8:#5a7d00;--c9:#3f4fae;--c10:#9a5a3a;"
    "--c11:#00708a;--c12:#374151;--c13:#c026d3}"
    "@media(prefers-color-scheme:dark){:root{--text:#e4e8f0;--soft:#9aa5b8;--page:#14171d;"
    "--line:#2b313c;--axis:#5d687b;--code:#20252e;--c0:#5aa9f5;--c1:#f2788a;--c2:#5cc98d;"
    "--c3:#b794f4;--c4:#eaa54a;--c5:#4fd0d0;--c6:#a3acba;--c7:#ea7fbb;--c8:#a9cc4f;"
    "--c9:#8e9df0;--c10:#d6977a;--c11:#52c0dc;--c12:#dfe4ec;--c13:#e879f9}}"
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;"
    "color:var(--text);background:var(--page)}h1{font-size:1.6em;margin-bottom:.1em}"
    "h2{font-size:1.2em;margin:2em 0 0}h3{font-size:1em;margin:1em 0 0}p{margin:.2em 0 "
    ".6em}p.machine,p.what{color:var(--soft)}"
    "code{background:var(--code);padding:.1em .3em;border-radius:3px;overflow-wrap:anywhere}"
    "div.wide{overflow-x:auto}"
    "table{border-collapse:collapse;font-size:13px;width:100%;font-variant-numeric:tabular-nums}"
    "th,td{padding:.25em .6em;text-align:right;border-bottom:1px solid var(--line);"
    "white-space:nowrap}th{color:var(--soft);font-weight:600}"
    "th:first-child,td:first-child,th.fig,td.fig{text-align:left}"
    "td.fig{white-space:normal;color:var(--soft)}"
    "svg{width:100%;height:auto}svg text{font:12px system-ui,sans-serif;fill:var(--soft)}"
    "svg text.name{fill:var(--text);font-size:13px}svg text.head{font-weight:600}"
    ".grid{stroke:var(--line)}.axis{stroke:var(--axis);fill:none}"
    ".mark{stroke:var(--text);stroke-width:2}"
    ".curve{fill:none;stroke:currentColor;stroke-width:2;stroke-linejoin:round}"
    ".dot,.bar{fill:currentColor}";

/* What a name means; a name that is not here is its own title. */
static const struct {
    const char *name, *title, *what;
} titles[] = {
    { "ttft", "Time to first token", "From when a request was due to its first token." },
    { "inter_token", "Time between tokens",
      "Between the events of a request's first sequence; of an event with several tokens the "
      "mean." },
    { "end_to_end", "End to end", "From when a request was due to its last event." },
    { "throughput", "Throughput", "Medians over the runs." },
    { "gain", "Gain",
      "Time of a run on the other subject over the time here, run by run. What is allowed: as if "
      "tokens found in the cache had cost nothing and all else what it costs the other." },
    { "round_trip", "Round trip", "64 bytes there and back, both sides polling." },
    { "echo_round_trip", "Echo round trip", "A request for one token over the model echo." },
    { "session_each", "A session each",
      "NOP of one thread beside others that have a session, too." },
    { "shared_session", "A shared session",
      "NOP of one thread; all threads use one session, opened with RINGLET_SHARED." },
    { "wake_up", "Wake-up", "There and back with both sides asleep: two wake-ups." },
    { "idle_cpu", "Idle", "What the daemon takes while a session is idle." },
};

void html_escaped(const char *text, FILE *out)
{
    for (; *text; text++) {
        switch (*text) {
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        case '\'':
            fputs("&#39;", out);
            break;
        default:
            fputc(*text, out);
        }
    }
}

static void three_digits(double value, const char *unit, char *text, size_t bytes)
{
    int decimals = fabs(value) < 9.995 ? 2 : fabs(value) < 99.95 ? 1 : 0;
    snprintf(text, bytes, "%.*f%s%s", decimals, value, unit[0] ? " " : "", unit);
}

void html_ns(double ns, char *text, size_t bytes)
{
    if (ns < 999.5)
        snprintf(text, bytes, "%.0f ns", ns);
    else if (ns < 999.5e3)
        three_digits(ns / 1e3, "µs", text, bytes);
    else if (ns < 999.5e6)
        three_digits(ns / 1e6, "ms", text, bytes);
    else
        three_digits(ns / 1e9, "s", text, bytes);
}

void html_number(double value, char *text, size_t bytes)
{
    double size = fabs(value);
    if (!isfinite(value))
        snprintf(text, bytes, "–");
    else if (value == floor(value) && size < 1e5)
        snprintf(text, bytes, "%.0f", value);
    else if (size < 999.5)
        snprintf(text, bytes, "%.3g", value);
    else if (size < 9999.5)
        snprintf(text, bytes, "%.0f", value);
    else if (size < 999.5e3)
        three_digits(value / 1e3, "k", text, bytes);
    else if (size < 999.5e6)
        three_digits(value / 1e6, "M", text, bytes);
    else
        three_digits(value / 1e9, "G", text, bytes);
}

/* Key of column k among the figures of a name: each once, in the order in which they come. */
static const char *column_key(const struct bench_report *report, const char *name, int column)
{
    const char *keys[BENCH_VALUES_MAX * 2];
    int n = 0;
    for (size_t i = 0; i < report->n_result; i++) {
        const struct bench_result *r = &report->results[i];
        for (int v = 0; strcmp(r->name, name) == 0 && v < r->n_value; v++) {
            bool known = false;
            for (int k = 0; k < n; k++)
                known = known || strcmp(keys[k], r->values[v].key) == 0;
            if (known || n == (int)ARRAY_SIZE(keys))
                continue;
            if (n == column)
                return r->values[v].key;
            keys[n++] = r->values[v].key;
        }
    }
    return NULL;
}

static void table_head(const struct bench_report *report, const char *name, bool latency,
                       bool notes, FILE *out)
{
    fputs("<div class='wide'><table><tr><th>subject</th>", out);
    if (latency)
        fputs("<th>p50</th><th>p90</th><th>p99</th><th>p99.9</th><th>p99.99</th><th>max</th><th>n</"
              "th>",
              out);
    const char *key;
    for (int column = 0; (key = column_key(report, name, column)); column++) {
        fputs("<th>", out);
        for (; *key; key++)
            fputc(*key == '_' ? ' ' : *key, out);
        fputs("</th>", out);
    }
    fputs(notes ? "<th class='fig'>notes</th></tr>\n" : "</tr>\n", out);
}

static void latency_cells(const struct bench_latency *l, FILE *out)
{
    double shown[] = { l->p50_ns, l->p90_ns, l->p99_ns, l->p999_ns, l->p9999_ns, l->max_ns };
    for (size_t c = 0; c < ARRAY_SIZE(shown); c++) {
        char text[32] = "–";
        if (l->n)
            html_ns(shown[c], text, sizeof(text));
        fprintf(out, "<td>%s</td>", text);
    }
    fprintf(out, "<td>%llu</td>", (unsigned long long)l->n);
}

static void note_cell(const struct bench_result *r, FILE *out)
{
    fputs("<td class='fig'>", out);
    if (r->n_run > 1) {
        char low[32], high[32];
        html_ns(r->p50_run_min_ns, low, sizeof(low));
        html_ns(r->p50_run_max_ns, high, sizeof(high));
        fprintf(out, "p50 of %d runs %s to %s%s", r->n_run, low, high, r->note[0] ? "; " : "");
    }
    html_escaped(r->note, out);
    fputs("</td>", out);
}

static void table(const struct bench_report *report, const char *name, FILE *out)
{
    bool latency = false, notes = false;
    for (size_t i = 0; i < report->n_result; i++) {
        const struct bench_result *r = &report->results[i];
        if (strcmp(r->name, name) != 0)
            continue;
        latency = latency || r->latency.n;
        notes = notes || r->note[0] || r->n_run > 1;
    }
    table_head(report, name, latency, notes, out);
    for (size_t i = 0; i < report->n_result; i++) {
        const struct bench_result *r = &report->results[i];
        const char *key;
        if (strcmp(r->name, name) != 0)
            continue;
        fputs("<tr><td>", out);
        html_escaped(r->subject, out);
        fputs("</td>", out);
        if (latency)
            latency_cells(&r->latency, out);
        for (int column = 0; (key = column_key(report, name, column)); column++) {
            char text[32];
            html_number(bench_value_get(r, key), text, sizeof(text));
            fprintf(out, "<td>%s</td>", text);
        }
        if (notes)
            note_cell(r, out);
        fputs("</tr>\n", out);
    }
    fputs("</table></div>\n", out);
}

static void heading(const char *name, FILE *out)
{
    for (size_t i = 0; i < ARRAY_SIZE(titles); i++)
        if (strcmp(titles[i].name, name) == 0) {
            fprintf(out, "<h2 id='%s'>%s</h2><p class='what'>%s</p>\n", name, titles[i].title,
                    titles[i].what);
            return;
        }
    fputs("<h2>", out);
    html_escaped(name, out);
    fputs("</h2>\n", out);
}

/* Where, when, by which command. */
static void origin(const char *machine, const char *date, const char *command, FILE *out)
{
    fputs("<p class='machine'>", out);
    html_escaped(machine, out);
    fputs("<br>", out);
    html_escaped(date, out);
    fputs("<br><code>", out);
    html_escaped(command, out);
    fputs("</code></p>\n", out);
}

static void origins(const struct bench_report *report, FILE *out)
{
    char machine[512], date[64];
    time_t now = time(NULL);
    struct tm utc;
    gmtime_r(&now, &utc);
    strftime(date, sizeof(date), "%Y-%m-%dT%H:%M:%SZ", &utc);
    bench_machine_line(machine, sizeof(machine));
    if (!report->sources)
        origin(machine, date, report->command, out);
    for (size_t i = 0; i < report->n_source; i++) {
        const struct bench_source *source = &report->sources[i];
        fputs("<h3>", out);
        html_escaped(source->file, out);
        fputs("</h3>\n", out);
        origin(source->machine, source->date, source->command, out);
    }
}

int html_colour(const struct bench_report *report, const char *subject)
{
    int colour = 1; /* 0 is ours */
    if (strcmp(subject, "ringlet") == 0)
        return 0;
    for (size_t i = 0; i < report->n_result; i++) {
        const char *other = report->results[i].subject;
        bool seen = strcmp(other, "ringlet") == 0;
        if (strcmp(other, subject) == 0)
            break;
        for (size_t k = 0; k < i && !seen; k++)
            seen = strcmp(report->results[k].subject, other) == 0;
        colour += !seen;
    }
    return 1 + (colour - 1) % (HTML_COLOURS - 1);
}

void bench_write_html(const struct bench_report *report, FILE *out)
{
    fprintf(out,
            "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' "
            "content='width=device-width'><title>ringbench %s</title><style>%s",
            report->bench, style);
    for (int i = 0; i < HTML_COLOURS; i++)
        fprintf(out, ".s%d{color:var(--c%d)}", i, i);
    fprintf(out, "</style>\n<h1>ringbench %s</h1>\n", report->bench);
    origins(report, out);
    for (size_t i = 0; i < report->n_result; i++) {
        const char *name = report->results[i].name;
        bool seen = false;
        for (size_t k = 0; k < i; k++)
            seen = seen || strcmp(report->results[k].name, name) == 0;
        if (seen)
            continue;
        heading(name, out);
        html_plot(report, name, out);
        html_bars(report, name, out);
        table(report, name, out);
    }
    fputs("</html>\n", out);
}
