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

enum { COUNTERS_MAX = 2048, TIMES_COLUMN = 86 /* where times to first token begin */ };

static volatile sig_atomic_t interrupted;
static struct termios saved_terminal;
static struct ringlet_client *client;
static struct ringlet_counter counters[COUNTERS_MAX];
static uint32_t n_counter;

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

static void show_time(int model, int urgency_class, const char *name, double p)
{
    uint64_t ns;
    if (!percentile(model, urgency_class, name, p, &ns))
        printf("%9s", "-");
    else if (ns >= 1000000000u)
        printf("%8.2fs", (double)ns * 1e-9);
    else if (ns >= 1000000u)
        printf("%7.1fms", (double)ns * 1e-6);
    else
        printf("%7.1fus", (double)ns * 1e-3);
}

static void show_times(int model, int urgency_class, const char *end)
{
    show_time(model, urgency_class, "first_token_ns", 0.5);
    show_time(model, urgency_class, "first_token_ns", 0.99);
    show_time(model, urgency_class, "token_interval_ns", 0.5);
    show_time(model, urgency_class, "token_interval_ns", 0.99);
    fputs(end, stdout);
}

/* A line for each urgency class that was served since the last reading. */
static void show_classes(int model, const char *end)
{
    uint64_t ns;
    for (int u = 0; u < RINGLET_URGENCY_CLASSES; u++) {
        if (!percentile(model, u, "token_interval_ns", 0.5, &ns) &&
            !percentile(model, u, "first_token_ns", 0.5, &ns))
            continue;
        char label[32];
        snprintf(label, sizeof(label), "  urgency %d-%d", 64 * u, 64 * u + 63);
        printf("%-*s", TIMES_COLUMN, label);
        show_times(model, u, end);
    }
}

/* Prompt tokens whose KV was there, of those admitted since the last reading. */
static void show_hit_rate(int model, uint64_t uptime_ns)
{
    double queries = rate(model, "prefix_cache_queries", uptime_ns);
    if (queries > 0)
        printf(" %4.0f%%", 100 * rate(model, "prefix_cache_hits", uptime_ns) / queries);
    else
        printf(" %5s", "-");
}

static void show_model(const struct ringlet_model_info *m, uint64_t uptime_ns, const char *end)
{
    static const char *const states[] = { "empty", "loading", "ready", "failed", "draining" };
    int i = m->index;
    uint64_t total = value(i, "kv_blocks_total");
    uint64_t used = value(i, "kv_blocks_owned"), cached = value(i, "kv_blocks_cached");
    printf("%-24.24s %-8s %5" PRIu64 " %6" PRIu64 " %9.1f %10.1f %4.0f%% %5.0f%%", m->name,
           m->state < ARRAY_SIZE(states) ? states[m->state] : "?", value(i, "running"),
           value(i, "queued"), rate(i, "completion_tokens", uptime_ns),
           rate(i, "prompt_tokens", uptime_ns), total ? 100.0 * (double)used / (double)total : 0,
           total ? 100.0 * (double)cached / (double)total : 0);
    show_hit_rate(i, uptime_ns);
    show_times(i, -1, end);
    show_classes(i, end);
}

/* False: the daemon is gone. */
static bool show(const char *end)
{
    struct ringlet_stats_info stats;
    struct ringlet_model_info model;
    if (ringlet_stats(client, &stats) < 0 || (kill((pid_t)stats.pid, 0) < 0 && errno == ESRCH))
        return false;
    take_reading();
    uint64_t s = stats.uptime_ns / 1000000000u, up = stats.uptime_ns;
    printf("ringletd %s  pid %u  up %" PRIu64 ":%02u:%02u%s", stats.version, stats.pid, s / 3600,
           (unsigned)(s / 60 % 60), (unsigned)(s % 60), end);
    printf("clients %" PRIu64 " (%" PRIu64 " hot)  observers %" PRIu64 "  dropped %" PRIu64
           "  prompts %.1f MB of %.0f MB%s",
           value(-1, "clients"), value(-1, "hot_sessions"), value(-1, "observers"),
           value(-1, "sessions_dropped"), (double)value(-1, "prompt_pool_used") * 1e-6,
           (double)value(-1, "prompt_pool_bytes") * 1e-6, end);
    printf("loop: %.0f passes/s  %.0f sleeps/s  bells up %.0f/s, down %.0f/s%s%s",
           rate(-1, "passes", up), rate(-1, "sleeps", up), rate(-1, "bells_up", up),
           rate(-1, "bells_down", up), end, end);
    printf("%-24s %-8s %5s %6s %9s %10s %5s %6s %5s%9s%9s%9s%9s%s", "MODEL", "STATE", "RUN",
           "QUEUED", "TOKENS/S", "PROMPT/S", "KV", "CACHED", "HITS", "TTFT p50", "p99", "ITL p50",
           "p99", end);
    for (uint32_t i = 0; i < stats.n_model; i++) {
        if (ringlet_model_at(client, i, &model) == 0)
            show_model(&model, up, end);
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
    while (!interrupted && alive) {
        struct pollfd in = { .fd = STDIN_FILENO, .events = POLLIN };
        char key = 0;
        fputs("\033[H", stdout);
        alive = show("\033[K\n");
        fputs("\033[K\nq leaves\033[K\033[J", stdout);
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
                "requests, tokens per second, KV use, times to first token and\nbetween tokens. "
                "q leaves.\n\n  --once  one reading over an interval, then end");
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
    if (!show("\n")) {
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
        fprintf(stderr, "ringtop: %s: %s\n", socket_path ? socket_path : "the default socket",
                ringlet_strerror(error));
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
