/*
 * The hot path enters the kernel for nobody: a tracer counts the system calls of the daemon's and
 * the client's threads while both are awake. Tracing costs nothing where there are none.
 */
#include "tests/e2e/e2e.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { WARM_UP = 2000, REQUESTS = 20000, WARM_UP_ECHO = 100, REQUESTS_ECHO = 1000 };

struct shared {
    uint32_t phase; /* 0 warm-up, 1 counting, 2 over */
    uint32_t go;
    uint64_t took_ns;
};

static struct e2e_daemon d;
static struct shared *shared;

/* One request, all its events. */
static void round_trip(struct ringlet_client *cl, const struct ringlet_request *req)
{
    struct ringlet_event ev;
    if (ringlet_submit(cl, req, NULL))
        _exit(2);
    do {
        if (ringlet_wait(cl, &ev, RINGLET_FOREVER))
            _exit(2);
        ringlet_advance(cl);
    } while (!(ev.flags & RINGLET_CQE_END));
}

static void client(const struct ringlet_request *req, int n_warm_up, int n_request)
{
    struct ringlet_client *cl;
    struct ringlet_options o = e2e_options(&d);
    o.spin_ns = RINGLET_FOREVER;
    if (ringlet_connect(&o, &cl))
        _exit(1);
    uint64_t began = 0;
    for (int i = 0; i < n_warm_up + n_request; i++) {
        if (i == n_warm_up) {
            while (!__atomic_load_n(&shared->go, __ATOMIC_ACQUIRE)) /* stay hot meanwhile */
                round_trip(cl, req);
            began = e2e_now_ns();
            __atomic_store_n(&shared->phase, 1, __ATOMIC_RELEASE);
        }
        round_trip(cl, req);
    }
    shared->took_ns = e2e_now_ns() - began;
    __atomic_store_n(&shared->phase, 2, __ATOMIC_RELEASE);
    for (;;)
        pause();
}

/* Trace every thread of a process. Returns how many. */
static int trace(pid_t pid, pid_t *tids, int most)
{
    char path[64];
    int n = 0;
    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir)) && n < most;) {
        pid_t tid = (pid_t)strtol(entry->d_name, NULL, 10);
        if (tid > 0 && ptrace(PTRACE_SEIZE, tid, 0, PTRACE_O_TRACESYSGOOD) == 0)
            tids[n++] = tid;
    }
    if (dir)
        closedir(dir);
    return n;
}

static void let_run(pid_t tid)
{
    int status;
    if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) == 0 && waitpid(tid, &status, __WALL) == tid)
        ptrace(PTRACE_SYSCALL, tid, 0, 0);
}

/* The calls of all threads while the client makes so many requests. */
static void count_calls(const struct ringlet_request *req, int n_warm_up, int n_request)
{
    shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    const char *const args[] = { "--spin", "always", "--threads", "1", NULL };
    e2e_start(&d, args);
    pid_t pid = fork();
    if (pid == 0)
        client(req, n_warm_up, n_request);
    while (e2e_stat_of(&d, "clients") < 1)
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    nanosleep(&(struct timespec){ .tv_nsec = 300000000 }, NULL);
    pid_t tids[64];
    int n = trace(pid, tids, 1);
    if (n == 0)
        skip(); /* no ptrace here */
    n += trace(d.pid, tids + n, 63);
    for (int i = 0; i < n; i++)
        let_run(tids[i]);
    __atomic_store_n(&shared->go, 1, __ATOMIC_RELEASE);
    long calls = 0;
    uint64_t until = e2e_deadline_ns();
    while (__atomic_load_n(&shared->phase, __ATOMIC_ACQUIRE) < 2 && e2e_now_ns() < until) {
        int status;
        pid_t tid = waitpid(-1, &status, __WALL | WNOHANG);
        if (tid <= 0) {
            nanosleep(&(struct timespec){ .tv_nsec = 200000 }, NULL);
            continue;
        }
        if (!WIFSTOPPED(status))
            break;
        if (WSTOPSIG(status) == (SIGTRAP | 0x80))
            calls += __atomic_load_n(&shared->phase, __ATOMIC_ACQUIRE) == 1;
        ptrace(PTRACE_SYSCALL, tid, 0, 0);
    }
    assert_int_equal(shared->phase, 2);
    print_message("# %d round trips: %.4f system calls per request (%ld stops), %.0f ns each\n",
                  n_request, (double)calls / 2 / n_request, calls,
                  (double)shared->took_ns / n_request);
    kill(pid, SIGKILL);
    kill(d.pid, SIGKILL);
    while (waitpid(-1, NULL, __WALL) > 0)
        ;
    /*
     * Who sees no event for a millisecond looks whether the other side is still there: so it goes
     * where the host takes a core away. That is no request's call: one a millisecond, two stops
     * each, is allowed for. A call per request, or per thousand requests, is far above.
     */
    assert_true(calls <= (long)(2 * shared->took_ns / 1000000));
}

static int n_cpu(void)
{
    cpu_set_t set;
    return sched_getaffinity(0, sizeof(set), &set) ? 1 : CPU_COUNT(&set);
}

TEST(no_system_call_while_both_sides_are_awake)
{
    struct ringlet_request req;
    if (n_cpu() < 2)
        skip(); /* nobody spins on one core */
    ringlet_request_init(&req);
    req.op = RINGLET_OP_NOP;
    count_calls(&req, WARM_UP, REQUESTS);
}

TEST(no_system_call_for_a_request_through_the_executor)
{
    static const uint32_t ids[16] = { 'r', 'i', 'n', 'g' };
    struct ringlet_request req;
    if (n_cpu() < 3)
        skip(); /* client, loop and executor have a core each, or two of them take turns */
    ringlet_request_init(&req);
    req.tokens = ids;
    req.n_token = 16;
    req.max_tokens = 1;
    req.temperature = 0;
    count_calls(&req, WARM_UP_ECHO, REQUESTS_ECHO);
}
