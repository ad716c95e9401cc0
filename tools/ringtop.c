/*
 * ringtop: what a daemon does, live, from its BOARD. It maps the counters once and asks for nothing
 * again; what it shows per second is the difference of two readings. Plain escape sequences, so it
 * needs no terminal library; without a terminal it prints one reading and ends.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "base/compiler.h"
#include "config.h"
#include "ringlet.h"

enum { COUNTERS_MAX = 2048, BAR_COLUMNS = 32 };

static volatile sig_atomic_t interrupted;
static struct termios saved_terminal;
static struct ringlet_client *client;
static struct ringlet_counter counters[COUNTERS_MAX];
static uint32_t n_counter;
static const char *line_end = "\n", *bold = "", *plain = "";

/* Two readings of every value; histograms count their values from `first`. */
struct reading {
    uint64_t *values;
    uint64_t at_ns;
};
static uint32_t first_value[COUNTERS_MAX];
static struct reading now, before;

static uint64_t clock_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static bool find_counters(void)
{
    uint32_t n_value = 0;
    while (n_counter < COUNTERS_MAX &&
           ringlet_stat_at(client, n_counter, &counters[n_counter]) == 0) {
        first_value[n_counter] = n_value;
        n_value += counters[n_counter++].n_value;
    }
    now.values = calloc(n_value + 1, sizeof(uint64_t));
    before.values = calloc(n_value + 1, sizeof(uint64_t));
    return now.values && before.values;
}

static void take_reading(void)
{
    struct reading swap = before;
    before = now;
    now = swap;
    now.at_ns = clock_ns();
    for (uint32_t i = 0; i < n_counter; i++) {
        for (uint32_t k = 0; k < counters[i].n_value; k++)
            now.values[first_value[i] + k] =
                __atomic_load_n(&counters[i].values[k], __ATOMIC_RELAXED);
    }
}

static int find(int model, const char *name)
{
    for (uint32_t i = 0; i < n_counter; i++) {
        if (counters[i].model == (model < 0 ? RINGLET_STAT_ANY : (unsigned)model) &&
            counters[i].kind != RINGLET_STAT_HISTOGRAM && strcmp(counters[i].name, name) == 0)
            return (int)i;
    }
    return -1;
}

static uint64_t value(int model, const char *name)
{
    int i = find(model, name);
    return i < 0 ? 0 : now.values[first_value[i]];
}

/* Per second since the last reading; since the daemon's start at the first. */
static double rate(int model, const char *name, uint64_t uptime_ns)
{
    int i = find(model, name);
    uint64_t ns = before.at_ns ? now.at_ns - before.at_ns : uptime_ns;
    if (i < 0 || ns == 0)
        return 0;
    return (double)(now.values[first_value[i]] - before.values[first_value[i]]) * 1e9 / (double)ns;
}

/* A percentile of what was observed since the last reading, in ns; class -1: over all of them. */
static bool percentile(int model, int urgency_class, const char *name, double p, uint64_t *ret)
{
    uint64_t buckets[RINGLET_STAT_BUCKETS] = { 0 }, n = 0, seen = 0;
    for (uint32_t i = 0; i < n_counter; i++) {
        const struct ringlet_counter *c = &counters[i];
        if (c->kind != RINGLET_STAT_HISTOGRAM || c->model != (unsigned)model ||
            (urgency_class >= 0 && c->urgency_class != (unsigned)urgency_class) ||
            strcmp(c->name, name) != 0)
            continue;
        for (uint32_t k = 0; k < RINGLET_STAT_BUCKETS && k + 2 < c->n_value; k++) {
            uint64_t d = now.values[first_value[i] + 2 + k] - before.values[first_value[i] + 2 + k];
            buckets[k] += d;
            n += d;
        }
    }
    for (uint32_t k = 0; k < RINGLET_STAT_BUCKETS && n > 0; k++) {
        seen += buckets[k];
        if ((double)seen >= p * (double)n) {
            *ret = ringlet_stat_bucket_floor(k);
            return true;
        }
    }
    return false;
}

/* "1.23ms", right-aligned in 8 columns; "-" if nothing was observed. */
static void show_time(int model, int urgency_class, const char *name, double p)
{
    uint64_t ns;
    if (!percentile(model, urgency_class, name, p, &ns))
        printf("%8s", "-");
    else if (ns >= 1000000000u)
        printf("%7.2fs", (double)ns * 1e-9);
    else if (ns >= 1000000u)
        printf("%6.1fms", (double)ns * 1e-6);
    else
        printf("%6.1fus", (double)ns * 1e-3);
}

static void show_times(int model, int urgency_class, const char *label)
{
    static const char *const names[] = { "queue_ns", "first_token_ns", "token_interval_ns" };
    printf("  %-16s", label);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        show_time(model, urgency_class, names[i], 0.5);
        show_time(model, urgency_class, names[i], 0.99);
        fputs(i + 1 < ARRAY_SIZE(names) ? "    " : line_end, stdout);
    }
}

/* A line for each urgency class that was served since the last reading. */
static void show_classes(int model)
{
    uint64_t ns;
    printf("  %-16s%16s    %16s    %16s%s", "", "waiting", "first token", "between tokens",
           line_end);
    printf("  %-16s%8s%8s    %8s%8s    %8s%8s%s", "urgency", "p50", "p99", "p50", "p99", "p50",
           "p99", line_end);
    show_times(model, -1, "all");
    for (int u = 0; u < RINGLET_URGENCY_CLASSES; u++) {
        char label[32];
        if (!percentile(model, u, "token_interval_ns", 0.5, &ns) &&
            !percentile(model, u, "first_token_ns", 0.5, &ns) &&
            !percentile(model, u, "queue_ns", 0.5, &ns))
            continue;
        snprintf(label, sizeof(label), "%d-%d", 64 * u, 64 * u + 63);
        show_times(model, u, label);
    }
}

/* KV blocks: owned by requests #, kept for their prefix =, free dots. */
static void show_kv(int model)
{
    uint64_t total = value(model, "kv_blocks_total"), owned = value(model, "kv_blocks_owned");
    uint64_t cached = value(model, "kv_blocks_cached");
    char bar[BAR_COLUMNS + 1];
    double all = total ? (double)total : 1;
    for (int i = 0; i < BAR_COLUMNS; i++) {
        double at = (i + 0.5) / BAR_COLUMNS * all;
        bar[i] = at < (double)owned ? '#' : at < (double)(owned + cached) ? '=' : '.';
    }
    bar[BAR_COLUMNS] = 0;
    printf("  KV blocks  %s %.0f%% used, %.0f%% cached of %" PRIu64 "%s", bar,
           100 * (double)owned / all, 100 * (double)cached / all, total, line_end);
}

/* Mean of what a histogram observed since the last reading. */
static double mean(int model, const char *name)
{
    for (uint32_t i = 0; i < n_counter; i++) {
        const struct ringlet_counter *c = &counters[i];
        if (c->kind != RINGLET_STAT_HISTOGRAM || c->model != (unsigned)model ||
            strcmp(c->name, name) != 0)
            continue;
        uint64_t n = now.values[first_value[i]] - before.values[first_value[i]];
        uint64_t sum = now.values[first_value[i] + 1] - before.values[first_value[i] + 1];
        return n ? (double)sum / (double)n : 0;
    }
    return 0;
}

static void show_busy(int i, uint64_t up)
{
    double queries = rate(i, "prefix_cache_queries", up), hits = rate(i, "prefix_cache_hits", up);
    double refused = rate(i, "finished_rejected", up) + rate(i, "finished_overload", up) +
                     rate(i, "finished_deadline", up);
    printf("  requests   %.1f/s ended, %.1f/s refused or late, %.1f/s preempted%s",
           rate(i, "requests_finished", up), refused, rate(i, "preemptions", up), line_end);
    printf("  tokens     %.0f/s answered, %.0f/s asked", rate(i, "completion_tokens", up),
           rate(i, "prompt_tokens", up));
    if (queries > 0)
        printf("; hit rate %.0f%%", 100 * hits / queries);
    else
        fputs("; hit rate -", stdout);
    printf("; %.0f blocks/s evicted%s", rate(i, "evicted_blocks", up), line_end);
    printf("  steps      %.1f/s of %.1f rows, taking", rate(i, "steps", up),
           mean(i, "iteration_tokens"));
    show_time(i, -1, "step_ns", 0.5);
    fputs(" p50", stdout);
    show_time(i, -1, "step_ns", 0.99);
    printf(" p99%s", line_end);
    show_kv(i);
    show_classes(i);
    fputs(line_end, stdout);
}

/* A model at rest takes one line. */
static void show_model(const struct ringlet_model_info *m, uint64_t up)
{
    static const char *const states[] = { "empty", "loading", "ready", "failed", "draining" };
    int i = m->index;
    uint64_t running = value(i, "running"), queued = value(i, "queued");
    bool busy =
        running || queued || rate(i, "steps", up) > 0 || rate(i, "requests_finished", up) > 0;
    printf("%s%-32.32s%s %-8s %4" PRIu64 " running %5" PRIu64 " queued%s%s", bold, m->name, plain,
           m->state < ARRAY_SIZE(states) ? states[m->state] : "?", running, queued,
           busy ? "" : "  idle", line_end);
    if (busy)
        show_busy(i, up);
    else
        show_kv(i);
}

/* False: the daemon is gone. */
static bool show(void)
{
    struct ringlet_stats_info stats;
    struct ringlet_model_info model;
    if (ringlet_stats(client, &stats) < 0 || (kill((pid_t)stats.pid, 0) < 0 && errno == ESRCH))
        return false;
    take_reading();
    uint64_t s = stats.uptime_ns / 1000000000u, up = stats.uptime_ns;
    printf("ringletd %s  pid %u  up %" PRIu64 ":%02u:%02u%s", stats.version, stats.pid, s / 3600,
           (unsigned)(s / 60 % 60), (unsigned)(s % 60), line_end);
    printf("clients %" PRIu64 " (%" PRIu64 " hot)  observers %" PRIu64 "  dropped %" PRIu64
           "  prompts %.1f of %.0f MB%s",
           value(-1, "clients"), value(-1, "hot_sessions"), value(-1, "observers"),
           value(-1, "sessions_dropped"), (double)value(-1, "prompt_pool_used") * 1e-6,
           (double)value(-1, "prompt_pool_bytes") * 1e-6, line_end);
    printf("loop %.0f passes/s, %.0f sleeps/s; bells %.0f/s from clients, %.0f/s to them%s%s",
           rate(-1, "passes", up), rate(-1, "sleeps", up), rate(-1, "bells_up", up),
           rate(-1, "bells_down", up), line_end, line_end);
    for (uint32_t i = 0; i < stats.n_model; i++) {
        if (ringlet_model_at(client, i, &model) == 0)
            show_model(&model, up);
    }
    return true;
}

static void on_signal(int number)
{
    (void)number;
    interrupted = 1;
}

static void terminal_back(void)
{
    tcsetattr(STDIN_FILENO, TCSANOW, &saved_terminal);
    fputs("\033[?25h\033[?1049l", stdout);
    fflush(stdout);
}

/* Redraws until q, Ctrl-C or the daemon's end. */
static int live(int interval_ms)
{
    struct termios raw;
    struct sigaction action = { .sa_handler = on_signal };
    bool alive = true;
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    tcgetattr(STDIN_FILENO, &saved_terminal);
    raw = saved_terminal;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    tcsetattr(STDIN_FILENO, TCSANOW, &raw);
    fputs("\033[?1049h\033[?25l", stdout);
    line_end = "\033[K\n"; /* what a longer line left behind goes */
    if (!getenv("NO_COLOR")) {
        bold = "\033[1m";
        plain = "\033[m";
    }
    while (!interrupted && alive) {
        struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };
        char key = 0;
        fputs("\033[H", stdout);
        alive = show();
        fputs("q leaves\033[K\033[J", stdout);
        fflush(stdout);
        if (poll(&in, 1, interval_ms) > 0 && (read(STDIN_FILENO, &key, 1) <= 0 || key == 'q'))
            break;
    }
    terminal_back();
    if (alive)
        return 0;
    fputs("ringtop: the daemon has ended\n", stderr);
    return 3;
}

static int parse(int argc, char **argv, const char **ret_socket, double *ret_interval, bool *once)
{
    static const struct option table[] = {
        { "socket", required_argument, NULL, 's' }, { "interval", required_argument, NULL, 'i' },
        { "once", no_argument, NULL, '1' },         { "help", no_argument, NULL, 'h' },
        { "version", no_argument, NULL, 'V' },      { 0 }
    };
    int option;
    char *end;
    while ((option = getopt_long(argc, argv, "h", table, NULL)) >= 0) {
        switch (option) {
        case 's':
            *ret_socket = optarg;
            break;
        case '1':
            *once = true;
            break;
        case 'i':
            *ret_interval = strtod(optarg, &end);
            if (*end || !(*ret_interval >= 0.1 && *ret_interval <= 3600)) {
                fprintf(stderr, "ringtop: --interval %s: expected seconds, 0.1 to 3600\n", optarg);
                return 2;
            }
            break;
        case 'h':
            puts(
                "usage: ringtop [--socket PATH] [--interval SECONDS] [--once]\n\nWatch a ringletd: "
                "requests, queues, tokens per second, steps, KV use, hit rate, and times\nfor "
                "each urgency class. q leaves.\n\n  --once  one reading over an interval, then "
                "end");
            return 0;
        case 'V':
            puts("ringtop " RINGLET_VERSION);
            return 0;
        default:
            return 2;
        }
    }
    if (optind == argc)
        return -1;
    fprintf(stderr, "ringtop: %s: no arguments are expected\n", argv[optind]);
    return 2;
}

/* One reading over an interval, for pipes and scripts. */
static int one_reading(double interval)
{
    take_reading();
    struct timespec nap = { .tv_sec = (time_t)interval };
    nap.tv_nsec = (long)((interval - (double)nap.tv_sec) * 1e9);
    nanosleep(&nap, NULL);
    if (!show()) {
        fputs("ringtop: the daemon has ended\n", stderr);
        return 3;
    }
    return fflush(stdout) == 0 ? 0 : 1;
}

int main(int argc, char **argv)
{
    const char *socket_path = NULL;
    double interval = 1;
    bool once = !isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO);
    int status = parse(argc, argv, &socket_path, &interval, &once);
    if (status >= 0)
        return status;
    struct ringlet_options options;
    ringlet_options_init(&options);
    options.socket_path = socket_path;
    options.flags = RINGLET_OBSERVER;
    int error = ringlet_connect(&options, &client);
    if (error) {
        bool none = error == -ENOENT || error == -ECONNREFUSED;
        fprintf(stderr, "ringtop: %s: %s\n", socket_path ? socket_path : "the default socket",
                none ? "no daemon there; start `ringletd --model PATH`" : ringlet_strerror(error));
        return 3;
    }
    status = 1;
    if (!find_counters())
        fputs("ringtop: out of memory\n", stderr);
    else
        status = once ? one_reading(interval) : live((int)(interval * 1000));
    free(now.values);
    free(before.values);
    ringlet_close(client);
    return status;
}
