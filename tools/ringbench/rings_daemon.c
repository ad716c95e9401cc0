/*
 * The product's own lines of ringbench rings: round trips, throughput and wake-ups through the
 * client library and a ringletd of our own on the model echo.
 */
#include <dirent.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "ringlet.h"
#include "tools/ringbench/load.h"
#include "tools/ringbench/rings.h"

enum { OUTSTANDING = 128, BATCH = 16, CLIENTS_MAX = 256 };

struct session {
    struct ringlet_client *cl;
    struct ringlet_request req;
    uint32_t ids[16384];
};

_Noreturn void rings_broken(const char *what, int error)
{
    bench_progress_end();
    fprintf(stderr, "ringbench: %s: %s\n", what, ringlet_strerror(error));
    exit(3);
}

/* NOP, or a request for one token. */
static void open_session(struct session *s, const char *path, uint64_t spin_ns, uint32_t flags,
                         uint32_t n_slot)
{
    struct ringlet_options o;
    bench_client_options(&o, path);
    o.spin_ns = spin_ns;
    o.flags = flags;
    o.n_slot = n_slot;
    int error = ringlet_connect(&o, &s->cl);
    if (error < 0)
        rings_broken(path ? path : "the daemon", error);
    ringlet_request_init(&s->req);
    s->req.op = RINGLET_OP_NOP;
}

static void use_echo(struct session *s, size_t n_token)
{
    struct ringlet_model_info model;
    int error = ringlet_model(s->cl, NULL, &model);
    if (error < 0)
        rings_broken("no model is ready", error);
    for (size_t i = 0; i < n_token; i++)
        s->ids[i] = 'a' + (uint32_t)i % 26;
    s->req.op = RINGLET_OP_GENERATE;
    s->req.model = model.index;
    s->req.tokens = s->ids;
    s->req.n_token = n_token;
    s->req.max_tokens = 1;
    s->req.temperature = 0;
    s->req.flags = RINGLET_SQE_NO_TEXT;
    s->req.options = RINGLET_BLOCK_IGNORE_EOS;
}

static void check_end(const struct ringlet_event *ev)
{
    if (ev->reason >= 16) {
        bench_progress_end();
        fprintf(stderr, "ringbench: the daemon answered %s (%s)\n", ringlet_reason_name(ev->reason),
                ringlet_error_name(ev->detail));
        exit(1);
    }
}

/* Polls with ringlet_peek, as a client that cares for latency does. */
static void polling_round_trip(void *arg)
{
    struct session *s = arg;
    struct ringlet_event ev;
    int error = ringlet_submit(s->cl, &s->req, NULL);
    if (error < 0)
        rings_broken("submit", error);
    for (int end = 0; !end;) {
        while ((error = ringlet_peek(s->cl, &ev)) == -EAGAIN)
            cpu_relax();
        if (error < 0)
            rings_broken("peek", error);
        end = ev.flags & RINGLET_CQE_END;
        if (end)
            check_end(&ev);
        ringlet_advance(s->cl);
    }
}

static void waiting_round_trip(void *arg)
{
    struct session *s = arg;
    struct ringlet_event ev;
    int error = ringlet_submit(s->cl, &s->req, NULL);
    if (error < 0)
        rings_broken("submit", error);
    for (int end = 0; !end;) {
        error = ringlet_wait(s->cl, &ev, RINGLET_FOREVER);
        if (error < 0)
            rings_broken("wait", error);
        end = ev.flags & RINGLET_CQE_END;
        if (end)
            check_end(&ev);
        ringlet_advance(s->cl);
    }
}

static size_t reap(struct session *s)
{
    struct ringlet_event ev;
    size_t n = 0;
    while (ringlet_peek(s->cl, &ev) == 0) {
        n++;
        ringlet_advance(s->cl);
    }
    return n;
}

static double nop_rate(const struct rings_bench *b, struct session *s)
{
    struct ringlet_request reqs[BATCH];
    uint64_t done = 0, out = 0, start = bench_now_ns(), now = start;
    size_t n;
    for (int i = 0; i < BATCH; i++)
        reqs[i] = s->req;
    while (now - start < b->run_ns) {
        for (int k = 0; k < 256; k++) {
            while (out + BATCH <= OUTSTANDING) {
                int error = ringlet_submit_many(s->cl, reqs, BATCH, NULL, &n);
                out += n;
                if (error < 0 && error != -EAGAIN)
                    rings_broken("submit", error);
                if (error < 0)
                    break;
            }
            size_t got = reap(s);
            out -= got;
            done += got;
        }
        now = bench_now_ns();
    }
    while (out > 0)
        out -= reap(s);
    return (double)done * 1e9 / (double)(now - start);
}

/* Every thread of a process to these CPUs. */
static void pin_process(int pid, const cpu_set_t *set)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/task", pid);
    DIR *dir = opendir(path);
    struct dirent *entry;
    while (dir && (entry = readdir(dir)))
        if (entry->d_name[0] != '.')
            (void)sched_setaffinity((pid_t)strtol(entry->d_name, NULL, 10), sizeof(*set), set);
    if (dir)
        closedir(dir);
}

/*
 * Start the daemon and pin it once it serves: it chooses its spin times by the CPUs that it may
 * use, and one CPU for it alone is not "one CPU". one_cpu: CPU B for all of it. Else, with more
 * than two CPUs, all but A.
 */
static int start_daemon(struct rings_bench *b, struct bench_daemon *daemon, const char *spin,
                        bool one_cpu)
{
    const char *arguments[] = { "--model", "echo", "--spin", spin, NULL };
    cpu_set_t set = b->all_cpus;
    sched_setaffinity(0, sizeof(set), &set);
    int error = bench_daemon_start(daemon, arguments);
    bench_pin(b->cpu_a);
    if (error < 0)
        return 3;
    CPU_CLR(b->cpu_a, &set);
    if (one_cpu) {
        CPU_ZERO(&set);
        CPU_SET(b->cpu_b, &set);
    }
    if (one_cpu || CPU_COUNT(&set) >= 2)
        pin_process(daemon->pid, &set);
    return 0;
}

static void run_one(struct rings_bench *b, const char *name, const char *subject, const char *note,
                    void (*round_trip)(void *), struct session *s)
{
    struct rings_subject *line = rings_subject(b, name, subject, note);
    bench_progress("rings: run %d of %d: %s %s", b->run + 1, b->repeat, name, subject);
    bool sleeps = strcmp(name, "wake_up") == 0;
    if (sleeps || strcmp(name, "round_trip") == 0)
        rings_measure_beside_bare(b, line, !sleeps, round_trip, s);
    else
        rings_measure(b, &line->runs[line->n_run++], round_trip, s);
}

static void *no_work(void *arg)
{
    return arg;
}

/* From here on the C library's locks are real: while there never was a second thread they are not.
 */
static void become_threaded(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, no_work, NULL) == 0)
        pthread_join(thread, NULL);
}

static void run_polling(struct rings_bench *b, const char *path)
{
    static struct session s;
    open_session(&s, path, RINGLET_FOREVER, 0, 0);
    run_one(b, "round_trip", "ringlet", "NOP through library and daemon", polling_round_trip, &s);
    ringlet_close(s.cl);
    open_session(&s, path, RINGLET_FOREVER, 0, 2 * OUTSTANDING);
    struct rings_subject *line =
        rings_subject(b, "throughput", "ringlet_nop", "requests answered by the daemon, 128 out");
    bench_progress("rings: run %d of %d: throughput ringlet_nop", b->run + 1, b->repeat);
    rings_rate(line, nop_rate(b, &s));
    ringlet_close(s.cl);
    become_threaded();
    open_session(&s, path, RINGLET_FOREVER, RINGLET_SHARED, 0);
    run_one(b, "round_trip", "ringlet_shared", "a session that any thread may use",
            polling_round_trip, &s);
    ringlet_close(s.cl);
}

static void run_echo(struct rings_bench *b, const char *path)
{
    static struct session s;
    open_session(&s, path, 50000, 0, 0);
    use_echo(&s, 16);
    run_one(b, "echo_round_trip", "ringlet", "16 ids in, one token out, whole path",
            polling_round_trip, &s);
    ringlet_close(s.cl);
}

static void run_sleeping(struct rings_bench *b, const char *path)
{
    static struct session s;
    open_session(&s, path, 0, 0, 0);
    run_one(b, "wake_up", "ringlet", "NOP, both sides asleep", waiting_round_trip, &s);
    ringlet_close(s.cl);
}

static double cpu_seconds(int pid)
{
    char path[64], line[1024];
    unsigned long user = 0, system = 0;
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    FILE *file = fopen(path, "re");
    if (file && fgets(line, sizeof(line), file) && strrchr(line, ')'))
        (void)!sscanf(strrchr(line, ')') + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu",
                      &user, &system);
    if (file)
        fclose(file);
    return (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
}

/* A session that was used and is idle now: what does the daemon burn? Once, in the last run. */
static void run_idle(struct rings_bench *b, const struct bench_daemon *daemon)
{
    static struct session s;
    struct rings_subject *line = rings_subject(b, "idle_cpu", "ringlet",
                                               "percent of one CPU over a second, --spin adaptive");
    if (b->run + 1 < b->repeat)
        return;
    snprintf(line->key, sizeof(line->key), "cpu_percent");
    open_session(&s, daemon->socket_path, 50000, 0, 0);
    waiting_round_trip(&s);
    nanosleep(&(struct timespec){ .tv_nsec = 300000000 }, NULL);
    double before = cpu_seconds(daemon->pid);
    nanosleep(&(struct timespec){ .tv_sec = 1 }, NULL);
    rings_rate(line, 100 * (cpu_seconds(daemon->pid) - before));
    ringlet_close(s.cl);
}

int rings_run_daemon(struct rings_bench *b)
{
    struct bench_daemon daemon;
    if (b->options->socket_path) { /* as that daemon was started: its spin setting is its own */
        run_polling(b, b->options->socket_path);
        run_echo(b, b->options->socket_path);
        return 0;
    }
    int status = start_daemon(b, &daemon, "always", true);
    if (status != 0)
        return status;
    run_polling(b, daemon.socket_path);
    if (b->threads)
        rings_run_threads(b, daemon.socket_path);
    bench_daemon_stop(&daemon);
    status = start_daemon(b, &daemon, "adaptive", false);
    if (status != 0)
        return status;
    run_echo(b, daemon.socket_path);
    run_idle(b, &daemon);
    bench_daemon_stop(&daemon);
    status = start_daemon(b, &daemon, "never", true);
    if (status != 0)
        return status;
    run_sleeping(b, daemon.socket_path);
    bench_daemon_stop(&daemon);
    return 0;
}

int rings_check_daemon(struct rings_bench *b)
{
    struct bench_daemon daemon;
    const char *path = b->options->socket_path;
    struct ringlet_options o;
    struct ringlet_client *cl;
    if (!path) {
        int status = start_daemon(b, &daemon, "never", false);
        if (status == 0)
            bench_daemon_stop(&daemon);
        return status;
    }
    bench_client_options(&o, path);
    o.flags = RINGLET_OBSERVER;
    int error = ringlet_connect(&o, &cl);
    if (error < 0) {
        fprintf(stderr, "ringbench: cannot connect to %s: %s\n", path, bench_connect_error(error));
        return 3;
    }
    ringlet_close(cl);
    return 0;
}

/* ---- Sweeps of --long ---- */

static void sweep_sizes(struct rings_bench *b, const char *path)
{
    static struct session s;
    static const size_t sizes[] = { 16, 64, 256, 1024, 2048 };
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        char subject[BENCH_NAME];
        snprintf(subject, sizeof(subject), "%zu bytes", 4 * sizes[i]);
        open_session(&s, path, 50000, 0, 0);
        use_echo(&s, sizes[i]);
        run_one(b, "prompt_size", subject, "ids in, one token out", polling_round_trip, &s);
        ringlet_close(s.cl);
    }
}

/* A round trip of one client beside idle ones, and of all of them in turn. */
static void sweep_clients(struct rings_bench *b, const char *path)
{
    static struct session sessions[CLIENTS_MAX];
    static const int counts[] = { 1, 16, 64, 256 };
    int n = 0;
    for (size_t i = 0; i < ARRAY_SIZE(counts); i++) {
        char subject[BENCH_NAME];
        for (; n < counts[i]; n++) {
            open_session(&sessions[n], path, RINGLET_FOREVER, 0, 0);
            polling_round_trip(&sessions[n]);
        }
        nanosleep(&(struct timespec){ .tv_nsec = 300000000 }, NULL); /* the others go cold */
        snprintf(subject, sizeof(subject), "%d connected", n);
        run_one(b, "clients_idle", subject, "NOP of one client, the others idle",
                polling_round_trip, &sessions[0]);
    }
    while (n > 0)
        ringlet_close(sessions[--n].cl);
}

int rings_run_sweeps(struct rings_bench *b)
{
    struct bench_daemon daemon;
    const char *path = b->options->socket_path;
    if (!path) {
        int status = start_daemon(b, &daemon, "always", true);
        if (status != 0)
            return status;
        path = daemon.socket_path;
    }
    b->run = 0;
    sweep_clients(b, path);
    if (b->options->socket_path) {
        sweep_sizes(b, path);
        return 0;
    }
    bench_daemon_stop(&daemon);
    int status = start_daemon(b, &daemon, "adaptive", false);
    if (status != 0)
        return status;
    sweep_sizes(b, daemon.socket_path);
    bench_daemon_stop(&daemon);
    return 0;
}
