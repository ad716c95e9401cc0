/*
 * ringbench rings: round trip, throughput and wake-up of the rings beside the channels of
 * channel.h. Subjects take turns within each repeat, so that all of them meet the same state of the
 * machine. A daemon of our own serves the model echo; it is stopped while the baselines run.
 */
#include "tools/ringbench/rings.h"

#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/atomics.h"
#include "tools/ringbench/channel.h"

static const char *const usage =
    "usage: ringbench rings [OPTION...]\n"
    "\n"
    "  --cpus A,B      pin this side to CPU A and the other to CPU B (default: the first two)\n"
    "  --placement same|other\n"
    "                  pin to two CPUs that share their last-level cache, or do not\n"
    "  --threads       also 1, 2 and 4 threads on one shared session, beside a session each\n"
    "  --run-ms N      length of one run of one subject (default 150, with --long 1000)\n"
    "  --no-daemon     baselines only\n"
    "  and --json, --csv, --html FILE, --repeat N (default 5), --long, --socket PATH\n"
    "\n"
    "round_trip: both sides poll. wake_up: both sides sleep between messages, so each round trip\n"
    "is two wake-ups. throughput: 64-byte messages one way in batches of 16. echo_round_trip: a\n"
    "request for one token over the model echo. --long adds sizes and numbers of clients.\n";

double rings_ns_per_tick(void)
{
    static double scale;
    if (scale == 0) {
        uint64_t t0 = rings_tick(), n0 = bench_now_ns();
        while (bench_now_ns() - n0 < 20000000)
            ;
        scale = (double)(bench_now_ns() - n0) / (double)(rings_tick() - t0);
    }
    return scale;
}

static void samples_reserve(struct bench_samples *samples)
{
    if (!samples->ns)
        samples->ns = calloc(RINGS_SAMPLES_MAX, sizeof(*samples->ns));
    if (!samples->ns) {
        fputs("ringbench: out of memory\n", stderr);
        exit(1);
    }
    memset(samples->ns, 1, RINGS_SAMPLES_MAX * sizeof(*samples->ns)); /* no page faults later */
    samples->capacity = RINGS_SAMPLES_MAX;
    samples->n = 0;
}

void rings_measure(const struct rings_bench *b, struct bench_samples *samples,
                   void (*round_trip)(void *), void *arg)
{
    double scale = rings_ns_per_tick();
    samples_reserve(samples);
    uint64_t end = bench_now_ns() + b->run_ns / 10;
    while (bench_now_ns() < end) /* warm up */
        for (int i = 0; i < 16; i++)
            round_trip(arg);
    uint64_t stop = rings_tick() + (uint64_t)((double)b->run_ns / scale), last = rings_tick();
    while (last < stop && samples->n < RINGS_SAMPLES_MAX) {
        round_trip(arg);
        uint64_t now = rings_tick(); /* one end is the next one's start */
        samples->ns[samples->n++] = now - last;
        last = now;
    }
    for (size_t i = 0; i < samples->n; i++)
        samples->ns[i] = (uint64_t)((double)samples->ns[i] * scale + 0.5);
}

struct rings_subject *rings_subject(struct rings_bench *b, const char *name, const char *subject,
                                    const char *note)
{
    for (int i = 0; i < b->n_subject; i++)
        if (strcmp(b->subjects[i].name, name) == 0 && strcmp(b->subjects[i].subject, subject) == 0)
            return &b->subjects[i];
    if (b->n_subject == RINGS_SUBJECTS_MAX) {
        fputs("ringbench: too many subjects\n", stderr);
        exit(1);
    }
    struct rings_subject *s = &b->subjects[b->n_subject++];
    *s = (struct rings_subject){ 0 };
    snprintf(s->name, sizeof(s->name), "%s", name);
    snprintf(s->subject, sizeof(s->subject), "%s", subject);
    snprintf(s->note, sizeof(s->note), "%s", note);
    return s;
}

void rings_rate(struct rings_subject *s, double per_second)
{
    if (s->n_run < RINGS_REPEAT_MAX)
        s->rates[s->n_run++] = per_second;
}

/* ---- The channels ---- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void channel_round_trip(void *arg)
{
    struct channel *ch = arg;
    ch->kind->round_trip(ch);
}

/* p50 of a brief look at a channel; 0: none. */
static double look_at(const struct rings_bench *b, const struct channel_kind *kind, bool spin)
{
    static struct bench_samples samples;
    struct channel ch;
    struct bench_latency l = { 0 };
    struct rings_bench brief = *b;
    brief.run_ns = spin ? 4000000 : 60000000;
    if (channel_open(&ch, kind, spin, false, b->cpu_b) < 0)
        return 0;
    rings_measure(&brief, &samples, channel_round_trip, &ch);
    channel_close(&ch);
    bench_summarise(&samples, &l);
    return l.p50_ns;
}

/* The polling limit, or what a bare wake-up costs: the faster of the two primitives. */
static double look_at_bare(const struct rings_bench *b, bool spin)
{
    if (spin)
        return look_at(b, &channel_cache_line, true);
    return fmin(look_at(b, &channel_eventfd, false), look_at(b, &channel_pipe, false));
}

void rings_measure_beside_bare(struct rings_bench *b, struct rings_subject *s, bool spin,
                               void (*round_trip)(void *), void *arg)
{
    struct bench_samples *run = &s->runs[s->n_run++];
    double before = look_at_bare(b, spin);
    rings_measure(b, run, round_trip, arg);
    double after = look_at_bare(b, spin), lo = fmin(before, after), hi = fmax(before, after);
    struct bench_latency l;
    bench_summarise(run, &l);
    if (lo > 0 && hi < 1.3 * lo && l.n)
        s->ratios[s->n_ratio++] = l.p50_ns / ((before + after) / 2);
}

static void run_round_trips(struct rings_bench *b, const struct channel_kind *kind, bool spin)
{
    struct channel ch;
    const char *subject = kind == &channel_ring ? "ring_alone" : kind->name;
    const char *note = kind == &channel_ring        ? "the ring without library and daemon"
                       : kind == &channel_two_lines ? "one word there, one back, a line each"
                                                    : "";
    struct rings_subject *s = rings_subject(b, spin ? "round_trip" : "wake_up", subject, note);
    bench_progress("rings: run %d of %d: %s %s", b->run + 1, b->repeat, s->name, s->subject);
    int error = channel_open(&ch, kind, spin, false, b->cpu_b);
    if (error < 0) {
        fprintf(stderr, "ringbench: %s: %s\n", kind->name, strerror(-error));
        return;
    }
    if (spin && kind != &channel_cache_line && ch.fds[0][0] < 0)
        rings_measure_beside_bare(b, s, true, channel_round_trip, &ch);
    else
        rings_measure(b, &s->runs[s->n_run++], channel_round_trip, &ch);
    channel_close(&ch);
}

static void run_throughput(struct rings_bench *b, const struct channel_kind *kind)
{
    struct channel ch;
    const char *note = kind == &channel_ring ? "the ring one way, copied out, bell test per batch"
                       : kind == &channel_cache_line
                           ? "lines of 64 bytes written and read, told by the 64"
                           : "";
    struct rings_subject *s =
        rings_subject(b, "throughput", kind == &channel_ring ? "ringlet" : kind->name, note);
    bool polls = kind == &channel_ring || kind == &channel_spsc || kind == &channel_cache_line;
    bench_progress("rings: run %d of %d: throughput %s", b->run + 1, b->repeat, s->subject);
    int error = channel_open(&ch, kind, polls, true, b->cpu_b);
    if (error < 0) {
        fprintf(stderr, "ringbench: %s: %s\n", kind->name, strerror(-error));
        return;
    }
    /*
     * Many chunks of a few milliseconds; the median one is the run's rate: a chunk in which one
     * side was taken off its CPU says nothing about the channel. */
    double rates[RINGS_CHUNKS_MAX];
    uint64_t chunk = 4096, start = bench_now_ns(), end = start + b->run_ns, took = 0;
    int n = 0;
    while (took < 500000 && chunk < 1 << 20) {
        start = bench_now_ns();
        kind->produce(&ch, chunk);
        took = bench_now_ns() - start;
        chunk *= took < 500000 ? 2 : 1;
    }
    for (; n < RINGS_CHUNKS_MAX && (n < 3 || start < end); n++) {
        start = bench_now_ns();
        kind->produce(&ch, chunk);
        rates[n] = (double)chunk * 1e9 / (double)(bench_now_ns() - start);
    }
    qsort(rates, (size_t)n, sizeof(rates[0]), by_value);
    rings_rate(s, rates[n / 2]);
    s->best = fmax(s->best, rates[n - 1]);
    channel_close(&ch);
}

static void run_channels(struct rings_bench *b)
{
    bench_pin(b->cpu_a);
    for (int i = 0; channel_kinds[i]; i++)
        if (channel_kinds[i]->can_spin)
            run_round_trips(b, channel_kinds[i], true);
    for (int i = 0; channel_kinds[i]; i++)
        if (channel_kinds[i]->can_sleep)
            run_round_trips(b, channel_kinds[i], false);
    for (int i = 0; channel_kinds[i]; i++)
        if (channel_kinds[i]->produce)
            run_throughput(b, channel_kinds[i]);
}

/* ---- Results ---- */

/* p50 over p50 (or rate over rate) of another subject of the same name. */
static void set_ratio(const struct rings_bench *b, struct bench_result *r,
                      const struct bench_report *report, const char *key, const char *to)
{
    const struct bench_result *base = bench_find(report, r->name, to);
    (void)b;
    if (!base || base == r)
        return;
    if (r->latency.n && base->latency.n)
        bench_value_set(r, key, r->latency.p50_ns / base->latency.p50_ns);
    else if (base->n_value && r->n_value)
        bench_value_set(r, key,
                        bench_value_get(r, "msgs_per_s") / bench_value_get(base, "msgs_per_s"));
}

static void add_results(struct rings_bench *b, struct bench_report *report)
{
    for (int i = 0; i < b->n_subject; i++) {
        struct rings_subject *s = &b->subjects[i];
        struct bench_result *r = bench_report_add(report, s->name, s->subject);
        snprintf(r->note, sizeof(r->note), "%s", s->note);
        if (s->n_ratio > 0) {
            qsort(s->ratios, (size_t)s->n_ratio, sizeof(s->ratios[0]), by_value);
            bench_value_set(r, strcmp(s->name, "wake_up") == 0 ? "ratio_to_bare" : "ratio_to_limit",
                            s->ratios[s->n_ratio / 2]);
            bench_value_set(r, "ratio_runs", s->n_ratio);
        }
        if (s->runs[0].n > 0) {
            bench_result_runs(r, s->runs, s->n_run);
            qsort(s->rates, (size_t)s->n_run, sizeof(s->rates[0]), by_value);
            if (s->rates[s->n_run / 2] > 0)
                bench_value_set(r, "all_threads_per_s", s->rates[s->n_run / 2]);
        } else if (s->n_run > 0) {
            qsort(s->rates, (size_t)s->n_run, sizeof(s->rates[0]), by_value);
            bench_value_set(r, s->key[0] ? s->key : "msgs_per_s", s->rates[s->n_run / 2]);
            if (!s->key[0]) {
                bench_value_set(r, "msgs_per_s_min", s->rates[0]);
                bench_value_set(r, "msgs_per_s_max", s->rates[s->n_run - 1]);
                if (s->best > 0)
                    bench_value_set(r, "msgs_per_s_best_chunk", s->best);
            }
        }
    }
    for (size_t i = 0; i < report->n_result; i++) {
        struct bench_result *r = &report->results[i];
        if (strcmp(r->name, "round_trip") == 0 && isnan(bench_value_get(r, "ratio_to_limit")))
            set_ratio(b, r, report, "ratio_to_limit", "cache_line");
        if (strcmp(r->name, "round_trip") == 0 && !isnan(bench_value_get(r, "ratio_runs")))
            set_ratio(b, r, report, "ratio_to_two_lines", "two_lines");
        if (strcmp(r->name, "throughput") == 0) {
            set_ratio(b, r, report, "ratio_to_limit", "cache_line");
            set_ratio(b, r, report, "ratio_to_spsc", "spsc");
        }
    }
}

/* ---- Options ---- */

static bool number(const char *text, long lo, long hi, long *ret)
{
    char *end;
    *ret = strtol(text, &end, 10);
    return *text && !*end && *ret >= lo && *ret <= hi;
}

static int bad(const char *what, const char *value, const char *why)
{
    fprintf(stderr, "ringbench: %s %s: %s\n", what, value, why);
    return 2;
}

static int parse_cpus(struct rings_bench *b, const char *text)
{
    char first[16];
    long a, c;
    const char *comma = strchr(text, ',');
    if (!comma || (size_t)(comma - text) >= sizeof(first))
        return bad("--cpus", text, "give two CPU numbers, as in 0,1");
    memcpy(first, text, (size_t)(comma - text));
    first[comma - text] = 0;
    if (!number(first, 0, CPU_SETSIZE - 1, &a) || !number(comma + 1, 0, CPU_SETSIZE - 1, &c) ||
        a == c)
        return bad("--cpus", text, "give two different CPU numbers, as in 0,1");
    b->cpu_a = (int)a;
    b->cpu_b = (int)c;
    return 0;
}

static int parse(struct rings_bench *b, int argc, char **argv)
{
    bool threads = false;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
        long n;
        if (strcmp(name, "--help") == 0) {
            fputs(usage, stdout);
            exit(0);
        }
        if (strcmp(name, "--no-daemon") == 0) {
            b->no_daemon = true;
            continue;
        }
        if (strcmp(name, "--threads") == 0) {
            b->threads = threads = true;
            continue;
        }
        if (strcmp(name, "--cpus") != 0 && strcmp(name, "--run-ms") != 0 &&
            strcmp(name, "--placement") != 0)
            return bad("rings", name, "unknown option (see ringbench rings --help)");
        if (!value)
            return bad("rings", name, "needs a value");
        i++;
        if (strcmp(name, "--cpus") == 0 && parse_cpus(b, value) != 0)
            return 2;
        if (strcmp(name, "--placement") == 0) {
            if (strcmp(value, "same") != 0 && strcmp(value, "other") != 0)
                return bad(name, value, "give same or other");
            b->placement = value[0] == 's' ? RINGS_SAME : RINGS_OTHER;
        }
        if (strcmp(name, "--run-ms") == 0) {
            if (!number(value, 1, 60000, &n))
                return bad(name, value, "give milliseconds from 1 to 60000");
            b->run_ns = (uint64_t)n * 1000000;
        }
    }
    if (b->no_daemon && threads)
        return bad("rings", "--no-daemon", "--threads measures a daemon's clients");
    if (b->no_daemon && b->options->socket_path)
        return bad("rings", "--no-daemon", "--socket names one: give one of both");
    return 0;
}

/* The first pair that shares its last-level cache, or does not, as the kernel tells. */
static int place_cpus(struct rings_bench *b, const int *cpus, int n)
{
    bool same = b->placement == RINGS_SAME;
    for (int i = 0; i < n; i++)
        for (int k = i + 1; k < n; k++)
            if (bench_same_cache(cpus[i], cpus[k]) == same) {
                b->cpu_a = cpus[i];
                b->cpu_b = cpus[k];
                return 0;
            }
    fprintf(stderr,
            "ringbench: --placement %s: no two CPUs here %s a last-level cache, by "
            "/sys/devices/system/cpu\n",
            same ? "same" : "other", same ? "share" : "do not share");
    return 1;
}

static int choose_cpus(struct rings_bench *b)
{
    int cpus[CPU_SETSIZE], n = bench_cpus(cpus, CPU_SETSIZE), found = 0;
    if (n < 2) {
        fputs("ringbench: rings needs two CPUs, this process may use one: a polling pair on one "
              "CPU measures the scheduler\n",
              stderr);
        return 1;
    }
    if (b->placement && b->cpu_a >= 0)
        return bad("--placement", b->placement == RINGS_SAME ? "same" : "other",
                   "--cpus chooses them already: give one of both");
    if (b->placement)
        return place_cpus(b, cpus, n);
    if (b->cpu_a < 0) {
        b->cpu_a = cpus[0];
        b->cpu_b = cpus[1];
    }
    for (int i = 0; i < n; i++)
        found += cpus[i] == b->cpu_a || cpus[i] == b->cpu_b;
    if (found != 2) {
        fprintf(stderr, "ringbench: --cpus %d,%d: this process may not use both\n", b->cpu_a,
                b->cpu_b);
        return 2;
    }
    return 0;
}

int bench_rings_main(int argc, char **argv, const struct bench_options *options)
{
    static struct rings_bench b;
    struct bench_report report = { .bench = "rings" };
    b.cpu_a = b.cpu_b = -1;
    b.options = options;
    b.threads = options->long_run;
    b.run_ns = options->long_run ? 1000000000u : 150000000u;
    b.repeat = options->repeat ? options->repeat : 5;
    int status = parse(&b, argc, argv);
    if (status == 0)
        status = choose_cpus(&b);
    if (status != 0)
        return status;
    sched_getaffinity(0, sizeof(b.all_cpus), &b.all_cpus);
    if (!b.no_daemon)
        status = rings_check_daemon(&b);
    snprintf(report.command, sizeof(report.command),
             "ringbench rings --repeat %d --run-ms %llu --cpus %d,%d (%s last-level cache)%s%s",
             b.repeat, (unsigned long long)(b.run_ns / 1000000), b.cpu_a, b.cpu_b,
             bench_same_cache(b.cpu_a, b.cpu_b) ? "same" : "different",
             b.threads ? " --threads" : "", options->long_run ? " --long" : "");
    for (b.run = 0; b.run < b.repeat && status == 0; b.run++) {
        run_channels(&b);
        if (!b.no_daemon)
            status = rings_run_daemon(&b);
    }
    if (status == 0 && options->long_run && !b.no_daemon)
        status = rings_run_sweeps(&b);
    bench_progress_end();
    sched_setaffinity(0, sizeof(b.all_cpus), &b.all_cpus);
    if (status == 0) {
        add_results(&b, &report);
        status = bench_report_write(&report, options) < 0;
    }
    bench_report_free(&report);
    for (int i = 0; i < b.n_subject; i++)
        for (int k = 0; k < RINGS_REPEAT_MAX; k++)
            bench_samples_free(&b.subjects[i].runs[k]);
    return status;
}
