/* What the two halves of ringbench rings share: the run, its subjects, the clock. One thread. */
#ifndef RINGLET_TOOLS_RINGS_H
#define RINGLET_TOOLS_RINGS_H

#include <sched.h>

#include "tools/ringbench/bench.h"

enum {
    RINGS_SUBJECTS_MAX = 48,
    RINGS_REPEAT_MAX = 64,
    RINGS_SAMPLES_MAX = 1 << 18,
    RINGS_CHUNKS_MAX = 512
};

/* One line of the report while it is being measured: samples, or rates, run by run. */
struct rings_subject {
    char name[BENCH_NAME], subject[BENCH_NAME], note[128];
    char key[40]; /* of the rate, if it is no msgs_per_s */
    struct bench_samples runs[RINGS_REPEAT_MAX];
    double rates[RINGS_REPEAT_MAX];  /* beside samples: of all threads */
    double ratios[RINGS_REPEAT_MAX]; /* p50 to the bare cache line just before and after */
    int n_ratio;
    double best; /* rate of the fastest chunk */
    int n_run;
};

enum rings_placement { RINGS_ANY, RINGS_SAME, RINGS_OTHER };

struct rings_bench {
    const struct bench_options *options;
    cpu_set_t all_cpus;
    int cpu_a, cpu_b, repeat, run; /* run counts from 0 */
    uint64_t run_ns;
    bool no_daemon, threads;
    enum rings_placement placement;
    struct rings_subject subjects[RINGS_SUBJECTS_MAX];
    int n_subject;
};

/* A cheap clock with a constant rate, and what a tick is. */
static inline uint64_t rings_tick(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return bench_now_ns();
#endif
}
double rings_ns_per_tick(void);

/* The subject of this name, made on first use. */
struct rings_subject *rings_subject(struct rings_bench *b, const char *name, const char *subject,
                                    const char *note);

/* Warm up, then time round trips for run_ns into the samples. */
void rings_measure(const struct rings_bench *b, struct bench_samples *samples,
                   void (*round_trip)(void *), void *arg);

/*
 * As rings_measure into the subject's next run, between two short looks at what the hardware or the
 * kernel allows: the bare cache line while polling, else the faster of bare eventfd and pipe. On a
 * virtual machine the CPUs may move between caches at any time: if the looks differ there is no
 * ratio.
 */
void rings_measure_beside_bare(struct rings_bench *b, struct rings_subject *s, bool spin,
                               void (*round_trip)(void *), void *arg);

/* Note a run's rate. */
void rings_rate(struct rings_subject *s, double per_second);

/* Is there a daemon to be measured? Told before minutes of baselines. Exit status: 0, 3. */
int rings_check_daemon(struct rings_bench *b);

/* The product itself, in rings_daemon.c: one run; the sweeps of --long. Exit status: 0, 1, 3. */
int rings_run_daemon(struct rings_bench *b);
int rings_run_sweeps(struct rings_bench *b);

/* The daemon or its session failed: say so and end with exit status 3. */
_Noreturn void rings_broken(const char *what, int error);

/* One run of 1, 2, 4 threads on one session and on a session each, in rings_threads.c. */
void rings_run_threads(struct rings_bench *b, const char *path);

#endif
