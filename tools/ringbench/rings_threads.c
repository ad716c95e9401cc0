/*
 * What it costs that several threads use one session: each submits a NOP and takes an event, its
 * own or another's; beside as many threads with a session each. Main is one of the threads, on CPU
 * A, and the one whose times are told. The others run on what is left beside the daemon's CPU: with
 * two CPUs they share main's, and what is measured is the scheduler as much as the lock.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/atomics.h"
#include "ringlet.h"
#include "tools/ringbench/load.h"
#include "tools/ringbench/rings.h"

enum { THREADS_MAX = 4 };

struct user {
    struct ringlet_client *cl;
    struct ringlet_request nop;
    pthread_t thread;
    const cpu_set_t *cpus;
    uint64_t n;
    bool *stop;
};

/* With all CPUs in sight: a client that may use one only would never poll. */
static void connect_to(const struct rings_bench *b, const char *path, uint32_t flags,
                       struct ringlet_client **ret)
{
    struct ringlet_options o;
    (void)sched_setaffinity(0, sizeof(b->all_cpus), &b->all_cpus);
    bench_client_options(&o, path);
    o.spin_ns = 50000;
    o.flags = flags;
    int error = ringlet_connect(&o, ret);
    bench_pin(b->cpu_a);
    if (error < 0)
        rings_broken(path ? path : "the daemon", error);
}

static void round_trip(void *arg)
{
    struct user *u = arg;
    struct ringlet_event ev;
    int error = ringlet_submit(u->cl, &u->nop, NULL);
    if (error == 0)
        error = ringlet_wait(u->cl, &ev, RINGLET_FOREVER);
    if (error < 0)
        rings_broken("a round trip among threads", error);
    ringlet_advance(u->cl);
    store_once(&u->n, u->n + 1);
}

static void *user_main(void *arg)
{
    struct user *u = arg;
    (void)pthread_setaffinity_np(pthread_self(), sizeof(*u->cpus), u->cpus);
    while (!load_acquire(u->stop)) /* pairs with run_users */
        round_trip(u);
    return NULL;
}

/* n threads for one run: round trips of main into the subject, those of all as a rate. */
static void run_users(struct rings_bench *b, const char *path, bool shared, int n)
{
    struct user users[THREADS_MAX] = { 0 };
    char subject[BENCH_NAME], note[128];
    bool stop = false;
    cpu_set_t cpus = b->all_cpus;
    CPU_CLR((size_t)b->cpu_b, &cpus); /* the daemon's */
    int n_cpu = CPU_COUNT(&cpus) < n ? CPU_COUNT(&cpus) : n;
    if (CPU_COUNT(&cpus) >= n)
        CPU_CLR((size_t)b->cpu_a, &cpus); /* main's alone */
    snprintf(subject, sizeof(subject), "%d %s", n, n == 1 ? "thread" : "threads");
    const char *name = shared ? "shared_session" : "session_each";
    snprintf(note, sizeof(note), "NOP, ringlet_wait; %s on %d %s", subject, n_cpu,
             n_cpu == 1 ? "CPU" : "CPUs");
    struct rings_subject *s = rings_subject(b, name, subject, note);
    bench_progress("rings: run %d of %d: %s, %s", b->run + 1, b->repeat, name, subject);
    for (int i = 0; i < n; i++) {
        if (i == 0 || !shared)
            connect_to(b, path, shared ? RINGLET_SHARED : 0, &users[i].cl);
        else
            users[i].cl = users[0].cl;
        ringlet_request_init(&users[i].nop);
        users[i].nop.op = RINGLET_OP_NOP;
        users[i].cpus = &cpus;
        users[i].stop = &stop;
        if (i > 0 && pthread_create(&users[i].thread, NULL, user_main, &users[i]) != 0)
            rings_broken("a thread", -EAGAIN);
    }
    uint64_t from = bench_now_ns(), all = 0;
    rings_measure(b, &s->runs[s->n_run++], round_trip, &users[0]);
    uint64_t took = bench_now_ns() - from;
    for (int i = 0; i < n; i++)
        all += load_once(&users[i].n);
    store_release(&stop, true); /* pairs with user_main */
    for (int i = 1; i < n; i++)
        pthread_join(users[i].thread, NULL);
    for (int i = 0; i < n; i++)
        if (i == 0 || !shared)
            ringlet_close(users[i].cl);
    s->rates[s->n_run - 1] = (double)all * 1e9 / (double)took;
}

void rings_run_threads(struct rings_bench *b, const char *path)
{
    static const int counts[] = { 1, 2, 4 };
    for (size_t i = 0; i < ARRAY_SIZE(counts); i++)
        for (int shared = 0; shared < 2; shared++)
            run_users(b, path, shared, counts[i]);
}
