/* Pieces of the report page, shared by html.c and html_plot.c. */
#ifndef RINGLET_TOOLS_HTML_H
#define RINGLET_TOOLS_HTML_H

#include "tools/ringbench/bench.h"

enum {
    HTML_SERIES_MAX = 14, /* curves of one plot; more subjects are in the table alone */
    HTML_COLOURS = 14,
};

/* Text of users and machines into HTML, attributes in single quotes included. */
void html_escaped(const char *text, FILE *out);
/* "1.23 µs", three digits. */
void html_ns(double ns, char *text, size_t bytes);
/* "1.23 M", three digits and a power's letter. */
void html_number(double value, char *text, size_t bytes);

/* A subject has the same colour in all plots of a page; "ringlet" the first. */
int html_colour(const struct bench_report *report, const char *subject);

/*
 * Latencies of one name as quantiles: time, logarithmic, over the share of samples, spread out
 * towards the tail. A curve ends where its number of samples does. Nothing if there are none.
 */
void html_plot(const struct bench_report *report, const char *name, FILE *out);
/* The first figure of those of a name that have no latency, as bars. */
void html_bars(const struct bench_report *report, const char *name, FILE *out);

#endif
