/*
 * The daemon dies: anywhere in a session's life, in a drain, while it executes itself anew. Every
 * request ends once, and the same session is served by the next daemon on the same socket.
 */
#include "tests/e2e/e2e.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/tracer.h"

enum { N_ASK = 6, ANSWER = 400 };

/* How a client's process ends. */
enum { SERVED = 0, NEVER_LOST = 3, TWICE = 10, UNENDED, NO_NEXT, WRONG_ANSWER };

static struct e2e_daemon d;
static struct e2e_answer a;

static void nap_us(long us)
{
    nanosleep(&(struct timespec){ .tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000 }, NULL);
}

/* Connect, or connect again, to whoever serves next; never fails for long. */
static void reach_the_next(struct ringlet_client **cl)
{
    struct ringlet_options o = e2e_options(&d);
    uint64_t until = e2e_deadline_ns();
    do
        if ((*cl ? ringlet_reconnect(*cl) : ringlet_connect(&o, cl)) == 0)
            return;
    while (e2e_may_wait(until));
    _exit(NO_NEXT);
}

/* One question; false: the daemon died meanwhile. What it left is read until nothing is open. */
static bool is_served(struct ringlet_client *cl, const char *text)
{
    struct ringlet_request req = e2e_text(text);
    struct ringlet_event ev;
    char got[64] = "";
    uint64_t id;
    if (ringlet_submit(cl, &req, &id) < 0)
        return false;
    for (bool end = false; !end; ringlet_advance(cl)) {
        if (ringlet_wait(cl, &ev, RINGLET_FOREVER) < 0)
            _exit(UNENDED);
        if (ev.id != id)
            continue;
        if (ev.kind == RINGLET_KIND_TOKENS)
            strncat(got, ev.text, ev.text_bytes);
        end = ev.flags & RINGLET_CQE_END;
        if (end && ev.reason >= 16) {
            ringlet_advance(cl);
            return false;
        }
    }
    if (strcmp(got, text) != 0)
        _exit(WRONG_ANSWER);
    return true;
}

static void back_in_service(struct ringlet_client **cl)
{
    do
        reach_the_next(cl);
    while (!is_served(*cl, "alive"));
}

/* Ask several things at once, cancel one; each ends once, whatever happens. True: all was well. */
static bool ask_many(struct ringlet_client *cl, bool end_the_daemon)
{
    static char text[ANSWER + 1];
    struct ringlet_event ev;
    int n_open = 0, n_end = 0, ends[N_ASK] = { 0 }, error = 0;
    memset(text, 'd', ANSWER);
    struct ringlet_request req = e2e_text(text);
    for (; n_open < N_ASK; n_open++) {
        uint64_t id;
        req.tag = (uint64_t)n_open;
        if (ringlet_submit(cl, &req, &id) < 0)
            break;
        if (n_open == 2)
            (void)ringlet_cancel(cl, id);
    }
    bool well = n_open == N_ASK;
    while (n_end < n_open && (error = ringlet_wait(cl, &ev, RINGLET_FOREVER)) == 0) {
        if (end_the_daemon)
            kill(d.pid, SIGTERM);
        end_the_daemon = false;
        if (ev.flags & RINGLET_CQE_END) {
            n_end++;
            if (++ends[ev.tag] > 1)
                _exit(TWICE);
            well = well && (ev.reason < 16 || ev.reason == RINGLET_REASON_CANCELLED);
        }
        ringlet_advance(cl);
    }
    if (error || ringlet_peek(cl, &ev) == 0)
        _exit(error ? UNENDED : TWICE);
    return well;
}

/* A client's life under a daemon that dies somewhere in it. */
static _Noreturn void live(bool end_the_daemon)
{
    struct ringlet_options o = e2e_options(&d);
    struct ringlet_client *cl = NULL;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    bool well = ringlet_connect(&o, &cl) == 0;
    well = well && ask_many(cl, end_the_daemon) && !end_the_daemon;
    if (well) {
        ringlet_close(cl);
        for (int i = 0; i < 200 && kill(d.pid, 0) == 0; i++) /* dead while it buries us? */
            nap_us(10000);
        _exit(NEVER_LOST);
    }
    struct ringlet_event ev;
    while (cl && ringlet_wait(cl, &ev, RINGLET_FOREVER) == 0)
        ringlet_advance(cl);
    back_in_service(&cl);
    _exit(SERVED);
}

struct point {
    const char *phase;
    int call, most; /* the first `most` of these calls */
    bool drain, exec, after_exec;
};

/* A life with death at one call. Returns whether that call came. */
static bool die_at(const struct point *p, int nth)
{
    const char *const args[] = { "--watchdog-s", "1", NULL };
    const int calls[] = { p->call, -1 };
    struct tracer t;
    e2e_start(&d, p->exec ? args : NULL); /* of the others none hangs */
    if (!tracer_seize(&t, d.pid))
        skip(); /* no ptrace here */
    tracer_arm(&t, calls, nth, TRACER_KILL);
    t.hung_name = p->exec ? "exec" : NULL;
    t.after_exec = p->after_exec;
    pid_t client = fork();
    if (client == 0)
        live(p->drain);
    int status = tracer_run(&t, client);
    if (status >= 0) {
        if (!WIFEXITED(status) || (WEXITSTATUS(status) != NEVER_LOST && !p->exec))
            fail_msg("%s, %s %d: the client ended with 0x%x", p->phase, tracer_call_name(p->call),
                     nth, (unsigned)status);
        tracer_kill(&t);
        return false;
    }
    bool killed = WIFSIGNALED(t.status) && t.hit >= 0;
    e2e_start_again(&d);
    assert_int_equal(waitpid(client, &status, 0), client);
    if (status != SERVED && !(WIFEXITED(status) && WEXITSTATUS(status) == NEVER_LOST))
        fail_msg("%s, %s %d: the client ended with 0x%x", p->phase, tracer_call_name(p->call), nth,
                 (unsigned)status);
    struct ringlet_client *cl = e2e_connect(&d);
    e2e_stat_becomes(cl, "clients", -1, 1);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
    return killed;
}

static int die_at_each(const struct point *points, size_t n)
{
    bool slow = getenv("RINGLET_TEST_SANITIZED");
    int n_kill = 0;
    if (slow) /* a traced process cannot look for its leaks */
        setenv("ASAN_OPTIONS", "detect_leaks=0:abort_on_error=1", 1);
    for (size_t i = 0; i < n; i++) {
        int nth = 1, most = slow ? 1 : harness_long() ? points[i].most * 10 : points[i].most;
        for (int tries = 0; nth == 1 && tries < 5; tries++) /* the client's patience may end */
            while (nth <= most && die_at(&points[i], nth))
                nth++;
        if (nth == 1)
            fail_msg("%s: %s never came", points[i].phase, tracer_call_name(points[i].call));
        n_kill += nth - 1;
    }
    return n_kill;
}

TEST(death_at_every_named_point_of_service)
{
    const struct point points[] = {
        { .phase = "handshake", .call = SYS_memfd_create, .most = 2 },
        { .phase = "handshake", .call = SYS_ftruncate, .most = 2 },
        { .phase = "handshake", .call = SYS_fcntl, .most = 4 },
        { .phase = "handshake", .call = SYS_pipe2, .most = 1 },
        { .phase = "handshake", .call = SYS_recvmsg, .most = 2 },
        { .phase = "handshake", .call = SYS_sendmsg, .most = 1 },
        { .phase = "service", .call = SYS_mmap, .most = 2 },
        { .phase = "service", .call = SYS_io_uring_enter, .most = 8 },
        { .phase = "service", .call = SYS_write, .most = 3 },
        { .phase = "burial", .call = SYS_munmap, .most = 2 },
        { .phase = "burial", .call = SYS_close, .most = 4 },
    };
    print_message("# %d daemons killed at named calls, 0 requests lost\n",
                  die_at_each(points, sizeof(points) / sizeof(*points)));
}

TEST(death_in_a_drain)
{
    const struct point points[] = {
        { .phase = "drain", .call = SYS_io_uring_enter, .most = 4, .drain = true },
        { .phase = "drain", .call = SYS_unlink, .most = 1, .drain = true },
        { .phase = "drain", .call = SYS_munmap, .most = 2, .drain = true },
        { .phase = "drain", .call = SYS_exit_group, .most = 1, .drain = true },
    };
    print_message("# %d daemons killed in a drain, 0 requests lost\n",
                  die_at_each(points, sizeof(points) / sizeof(*points)));
}

TEST(death_in_the_middle_of_a_new_start)
{
    const struct point points[] = {
        { .phase = "new start", .call = SYS_execve, .most = 1, .exec = true },
        { .phase = "new start", .call = SYS_mmap, .most = 1, .exec = true, .after_exec = true },
        { .phase = "new start",
          .call = SYS_io_uring_enter,
          .most = 1,
          .exec = true,
          .after_exec = true },
    };
    print_message("# %d daemons killed in a new start, 0 requests lost\n",
                  die_at_each(points, sizeof(points) / sizeof(*points)));
}

/* What the clients of a daemon that dies again and again have seen. */
enum kind { IDLE, ASLEEP, BUSY, KINDS };

static struct {
    _Atomic int back[KINDS]; /* times that it was served after a loss */
} * seen;

static void rest_idle(struct ringlet_client *cl)
{
    struct ringlet_event ev;
    for (;;) {
        struct pollfd pfd = { .fd = ringlet_fd(cl), .events = POLLIN };
        if (ringlet_arm(cl) == 0)
            (void)poll(&pfd, 1, -1);
        int error = ringlet_peek(cl, &ev);
        if (error != -EAGAIN && error < 0)
            return;
        if (error == 0)
            ringlet_advance(cl);
    }
}

static _Noreturn void live_on(enum kind kind)
{
    static char text[3001];
    struct ringlet_client *cl = NULL;
    struct ringlet_event ev;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    memset(text, 'z', 3000);
    for (;;) {
        back_in_service(&cl);
        atomic_fetch_add(&seen->back[kind], 1);
        struct ringlet_request req = e2e_text(text);
        if (kind == IDLE)
            rest_idle(cl);
        if (kind == ASLEEP) { /* one request is open when death comes, and nobody looks */
            int n_end = 0;
            bool open = ringlet_submit(cl, &req, NULL) == 0;
            while (ringlet_wait(cl, &ev, RINGLET_FOREVER) == 0) {
                bool end = ev.flags & RINGLET_CQE_END;
                n_end += end;
                ringlet_advance(cl);
                if (end && ev.reason != RINGLET_REASON_DAEMON_LOST &&
                    ringlet_submit(cl, &req, NULL) == 0)
                    n_end--;
            }
            if (n_end != open)
                _exit(UNENDED);
        }
        while (kind == BUSY && ask_many(cl, false))
            ;
    }
}

TEST(clients_of_a_killed_daemon_are_served_by_the_next)
{
    int rounds = harness_long() ? 200 : 8;
    uint64_t seed = harness_seed();
    pid_t pids[KINDS];
    seen = mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(seen, MAP_FAILED);
    e2e_start(&d, NULL);
    for (int k = 0; k < KINDS; k++) {
        pids[k] = fork();
        if (pids[k] == 0)
            live_on((enum kind)k);
    }
    for (int r = 0;; r++) {
        for (int k = 0; k < KINDS; k++) {
            uint64_t until = e2e_deadline_ns();
            while (atomic_load(&seen->back[k]) <= r && e2e_may_wait(until)) {
                int status;
                if (waitpid(pids[k], &status, WNOHANG) == pids[k])
                    fail_msg("round %d: client %d ended with 0x%x", r, k, (unsigned)status);
            }
            assert_true(atomic_load(&seen->back[k]) > r);
        }
        if (r == rounds)
            break;
        nap_us((long)(harness_rand(&seed) % 20000));
        kill(d.pid, SIGKILL);
        e2e_wait(&d);
        e2e_start_again(&d);
    }
    for (int k = 0; k < KINDS; k++) {
        kill(pids[k], SIGKILL);
        waitpid(pids[k], NULL, 0);
    }
    struct ringlet_client *cl = e2e_connect(&d);
    e2e_stat_becomes(cl, "clients", -1, 1);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
    print_message("# %d daemons killed, %d sessions came back to the next each time\n", rounds,
                  KINDS);
}

/* What a child may try with the session that it inherited. */
static _Noreturn void inherit(struct ringlet_client *cl, int how)
{
    struct ringlet_request req = e2e_text("not mine");
    struct ringlet_event ev;
    size_t n;
    uint64_t id;
    if (how == 0)
        exit(0); /* with the handlers of libc */
    bool refused = ringlet_submit(cl, &req, &id) == -ECHILD &&
                   ringlet_submit_many(cl, &req, 1, &id, &n) == -ECHILD &&
                   ringlet_cancel(cl, 1) == -ECHILD && ringlet_peek(cl, &ev) == -ECHILD &&
                   ringlet_wait(cl, &ev, 0) == -ECHILD && ringlet_arm(cl) == -ECHILD &&
                   ringlet_reconnect(cl) == -ECHILD;
    ringlet_advance(cl);
    if (how == 2)
        ringlet_close(cl);
    _exit(refused ? 0 : 1);
}

TEST(a_forked_child_takes_nothing_from_its_parent)
{
    static char text[1501];
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    memset(text, 'f', 1500);
    for (int how = 0; how < 3; how++) {
        struct ringlet_request req = e2e_text(text);
        struct ringlet_event ev;
        uint64_t id;
        int status;
        assert_ok(ringlet_submit(cl, &req, &id));
        assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER)); /* shown, and kept over the fork */
        pid_t child = fork();
        if (child == 0)
            inherit(cl, how);
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_int_equal(status, 0);
        ringlet_advance(cl);
        e2e_gather(cl, id, &a);
        assert_int_equal(a.reason, RINGLET_REASON_STOP_EOS);
        assert_true(a.text_bytes + 64 > 1500 && a.n_finished == 1);
    }
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}
