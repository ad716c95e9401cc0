/*
 * System calls fail, one after the other, while a session comes to be: on the daemon's side one
 * client is refused, on the client's side ringlet_connect returns an error; nothing leaks, and the
 * next one is served.
 */
#include "tests/e2e/e2e.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/base/limits.h"
#include "tests/e2e/tracer.h"

enum { CALLS_MAX = 300, PATIENCE_MS = E2E_PATIENCE_NS / 1000000 };
enum { CONNECTED = 0, REFUSED = 1, BAD_ERROR = 10, LEAK, NOT_SERVED, WRONG_ANSWER };

static struct e2e_daemon d;

static int connect_within(long ms, struct ringlet_client **ret_cl)
{
    struct ringlet_options o = e2e_options(&d);
    o.timeout_ns = (uint64_t)ms * 1000000u;
    return ringlet_connect(&o, ret_cl);
}

static int ask(struct ringlet_client *cl)
{
    struct ringlet_request req = e2e_text("alive");
    struct ringlet_event ev;
    char text[16] = "";
    int error = ringlet_submit(cl, &req, NULL);
    for (bool end = false; !error && !end; ringlet_advance(cl)) {
        error = ringlet_wait(cl, &ev, e2e_deadline_ns());
        if (error == 0 && ev.kind == RINGLET_KIND_TOKENS)
            strncat(text, ev.text, ev.text_bytes);
        end = !error && ev.flags & RINGLET_CQE_END;
    }
    return error ? NOT_SERVED : strcmp(text, "alive") ? WRONG_ANSWER : CONNECTED;
}

static int n_fd(void)
{
    int n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* Connect and leave. */
static _Noreturn void visit(void)
{
    struct ringlet_client *cl;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int error = connect_within(250, &cl);
    if (error > 0 || error < -4095)
        _exit(BAD_ERROR);
    if (error == 0)
        ringlet_close(cl);
    _exit(error ? REFUSED : CONNECTED);
}

static _Noreturn void be_served(void)
{
    struct ringlet_client *cl;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    _exit(connect_within(PATIENCE_MS, &cl) ? NOT_SERVED : ask(cl));
}

static int run_traced(struct tracer *t, void (*child)(void))
{
    pid_t pid = fork();
    if (pid == 0)
        child();
    int status = tracer_run(t, pid);
    if (status < 0)
        fail_msg("%s %d: the daemon died of it, status 0x%x", tracer_call_name(t->hit), t->nth,
                 (unsigned)t->status);
    if (!WIFEXITED(status) || WEXITSTATUS(status) > REFUSED)
        fail_msg("%s %d: a client ended with 0x%x", tracer_call_name(t->hit), t->nth,
                 (unsigned)status);
    return WEXITSTATUS(status);
}

/* A sanitizer's own memory comes by the same calls, and it does not survive their failure. */
static void skip_if_sanitized(void)
{
    if (getenv("RINGLET_TEST_SANITIZED"))
        skip();
}

static void idle(void)
{
    e2e_nap_ms(10);
    _exit(CONNECTED);
}

/* Whoever comes when nothing fails any more is served, and nothing is left of who was there. */
static void recover(struct tracer *t, int fds)
{
    t->nth = 0;
    assert_int_equal(run_traced(t, be_served), CONNECTED);
    for (uint64_t until = e2e_deadline_ns(); e2e_fd_count(d.pid) != fds && e2e_may_wait(until);)
        (void)run_traced(t, idle);
    if (e2e_fd_count(d.pid) != fds)
        fail_msg("%s: %d descriptors, not %d", tracer_call_name(t->hit), e2e_fd_count(d.pid), fds);
}

/* Each call alone, with either of its errors; then all calls of a kind while a client is there. */
static int torture(struct tracer *t, int fds, int by_call[512], int *ret_refused)
{
    int n_fail = 0;
    for (t->other = 0; t->other < 2; t->other++)
        for (int k = 1; k < CALLS_MAX; k++) {
            tracer_arm(t, NULL, k, TRACER_FAIL);
            *ret_refused += run_traced(t, visit) == REFUSED;
            if (t->hit < 0)
                break;
            n_fail++;
            by_call[t->hit]++;
            recover(t, fds);
        }
    t->other = 0;
    for (const struct tracer_error *e = tracer_errors; e->call >= 0; e++) {
        const int calls[] = { e->call, -1 };
        if (e->error[0] == 0 || e->call == SYS_io_uring_enter) /* without it nothing works at all */
            continue;
        tracer_arm(t, calls, 1, TRACER_DENY);
        *ret_refused += run_traced(t, visit) == REFUSED;
        recover(t, fds);
    }
    return n_fail;
}

/* A daemon that is traced from here on, with one client; its descriptors at rest. */
static struct ringlet_client *start_traced(struct tracer *t, int *ret_fds, uint64_t *ret_pool)
{
    skip_if_sanitized();
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    assert_int_equal(ask(cl), CONNECTED);
    e2e_audit(cl, 0);
    *ret_fds = e2e_fd_count_at_rest(&d, cl);
    *ret_pool = e2e_stat(cl, "prompt_pool_used", -1);
    if (!tracer_seize(t, d.pid))
        skip(); /* no ptrace here */
    recover(t, *ret_fds);
    return cl;
}

/* Who was there all the time is served as before, and of the others nothing is left. */
static void end_traced(struct tracer *t, struct ringlet_client *cl, uint64_t pool)
{
    tracer_release(t);
    e2e_stat_becomes(cl, "clients", -1, 1);
    e2e_stat_becomes(cl, "prompt_pool_used", -1, pool);
    e2e_audit(cl, 0);
    assert_int_equal(ask(cl), CONNECTED);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(each_call_of_the_daemon_that_fails_costs_one_client_at_most)
{
    struct tracer t;
    uint64_t pool;
    int n_refused = 0, by_call[512] = { 0 }, fds;
    struct ringlet_client *cl = start_traced(&t, &fds, &pool);
    int n_fail = torture(&t, fds, by_call, &n_refused);
    end_traced(&t, cl, pool);
    print_message("# %d calls failed, %d clients refused:", n_fail, n_refused);
    for (const struct tracer_error *e = tracer_errors; e->call >= 0; e++)
        if (by_call[e->call])
            print_message(" %s %d", e->name, by_call[e->call]);
    print_message("\n");
    assert_true(n_refused >= 20 && n_fail < 2 * (CALLS_MAX - 1));
}

/* The second failure meets the first one's error path, or the same client's next attempt. */
TEST(pairs_of_calls_of_the_daemon_that_fail_cost_one_client_at_most)
{
    enum { PAIRS = 40, PAIRS_LONG = 2000, FIRST = 16, BEHIND = 6 };
    struct tracer t;
    uint64_t pool, rand = harness_seed();
    int n_refused = 0, n_both = 0, n_pair = harness_long() ? PAIRS_LONG : PAIRS, fds;
    struct ringlet_client *cl = start_traced(&t, &fds, &pool);
    for (int i = 0; i < n_pair; i++) {
        tracer_arm(&t, NULL, 1 + (int)(harness_rand(&rand) % FIRST), TRACER_FAIL);
        t.other = (int)(harness_rand(&rand) % 2);
        t.then = 1 + (int)(harness_rand(&rand) % BEHIND);
        t.then_other = (int)(harness_rand(&rand) % 2);
        n_refused += run_traced(&t, visit) == REFUSED;
        n_both += t.then_hit >= 0;
        recover(&t, fds);
    }
    end_traced(&t, cl, pool);
    print_message("# %d pairs of calls failed, %d clients refused\n", n_both, n_refused);
    assert_true(n_both >= n_pair / 4 && n_refused > 0);
}

/* Wait for the word, connect while one call fails, count, connect again. */
static _Noreturn void connect_under_torture(int ready, int go)
{
    struct ringlet_client *cl = NULL;
    char byte;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    int fds = n_fd();
    if (write(ready, "x", 1) != 1 || read(go, &byte, 1) != 1)
        _exit(NOT_SERVED);
    int error = connect_within(2000, &cl);
    sched_yield(); /* no more failures */
    if (error > 0 || error < -4095)
        _exit(BAD_ERROR);
    if (error == 0)
        ringlet_close(cl);
    if (n_fd() != fds)
        _exit(LEAK);
    int first = error ? REFUSED : CONNECTED;
    int then = connect_within(PATIENCE_MS, &cl) ? NOT_SERVED : ask(cl);
    _exit(then ? then : first);
}

TEST(each_call_of_a_client_that_fails_is_an_error_of_connect)
{
    int n_fail = 0, n_refused = 0;
    skip_if_sanitized();
    e2e_start(&d, NULL);
    for (int k = 1, other = 0; k < CALLS_MAX && other < 2; k++) {
        struct tracer t;
        int ready[2], go[2];
        char byte;
        assert_ok(pipe(ready));
        assert_ok(pipe(go));
        pid_t pid = fork();
        if (pid == 0)
            connect_under_torture(ready[1], go[0]);
        assert_int_equal(read(ready[0], &byte, 1), 1);
        if (!tracer_seize(&t, pid))
            skip(); /* no ptrace here */
        t.other = other;
        tracer_arm(&t, NULL, k, TRACER_FAIL);
        assert_int_equal(write(go[1], "x", 1), 1);
        (void)tracer_run(&t, -1);
        for (int i = 0; i < 2; i++) {
            close(ready[i]);
            close(go[i]);
        }
        if (!WIFEXITED(t.status) || WEXITSTATUS(t.status) > REFUSED)
            fail_msg("%s %d: the client ended with 0x%x", tracer_call_name(t.hit), k,
                     (unsigned)t.status);
        if (t.hit < 0) { /* no such call any more: once again with the other errors */
            other++;
            k = 0;
            continue;
        }
        n_fail++;
        n_refused += WEXITSTATUS(t.status) == REFUSED;
    }
    print_message("# %d calls failed, %d of them errors of ringlet_connect\n", n_fail, n_refused);
    assert_true(n_refused >= 20 && n_fail < CALLS_MAX);
    struct ringlet_client *cl = e2e_connect(&d);
    e2e_stat_becomes(cl, "clients", -1, 1);
    ringlet_close(cl);
    e2e_stop(&d);
}

/* With the encoder at a standstill no request ends: as many as a user may have stay, the rest goes.
 */
static _Noreturn void ask_too_much(void)
{
    enum { ASKED = RINGLET_SLOTS_MAX, TOO_MANY = ASKED - LIMIT_REQUESTS_UID };
    static char text[LIMIT_LOOP_TEXT_BYTES + 100];
    struct ringlet_options o = e2e_options(&d);
    struct ringlet_client *cl;
    struct ringlet_event ev;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    o.n_slot = ASKED;
    o.prompt_bytes = 16 << 20;
    memset(text, 'e', sizeof(text) - 1);
    struct ringlet_request req = e2e_text(text);
    req.op = RINGLET_OP_TOKENIZE;
    if (ringlet_connect(&o, &cl) < 0)
        _exit(NOT_SERVED);
    for (int i = 0; i < ASKED; i++)
        if (ringlet_submit(cl, &req, NULL) < 0)
            _exit(NOT_SERVED);
    for (int n_end = 0;; ringlet_advance(cl)) {
        uint64_t patience_ns = n_end < TOO_MANY ? E2E_PATIENCE_NS : 100000000u;
        if (ringlet_wait(cl, &ev, e2e_now_ns() + patience_ns) < 0)
            _exit(n_end == TOO_MANY ? CONNECTED : NOT_SERVED);
        if (!(ev.flags & RINGLET_CQE_END) || ev.reason != RINGLET_REASON_OVERLOAD ||
            ++n_end > TOO_MANY)
            _exit(WRONG_ANSWER);
    }
}

TEST(a_user_has_a_quarter_of_the_requests)
{
    struct tracer t;
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    if (!tracer_seize(&t, d.pid))
        skip(); /* no ptrace here */
    t.hung_name = "encoder";
    assert_int_equal(run_traced(&t, ask_too_much), CONNECTED);
    assert_int_equal(run_traced(&t, idle), CONNECTED);
    tracer_release(&t);
    e2e_stat_becomes(cl, "clients", -1, 1);
    e2e_audit(cl, 0);
    int error = WRONG_ANSWER; /* overload, until the encoder has given all of them back */
    for (uint64_t until = e2e_deadline_ns(); (error = ask(cl)) != CONNECTED && e2e_may_wait(until);)
        ;
    assert_int_equal(error, CONNECTED);
    ringlet_close(cl);
    e2e_stop(&d);
}

static void limit_fds(int n)
{
    struct rlimit old, limit;
    assert_ok(prlimit(d.pid, RLIMIT_NOFILE, NULL, &old));
    limit = (struct rlimit){ .rlim_cur = (rlim_t)n, .rlim_max = old.rlim_max };
    assert_ok(prlimit(d.pid, RLIMIT_NOFILE, &limit, NULL));
}

/* The lowest descriptor that is not in use: what a limit counts from. */
static int first_free_fd(void)
{
    char path[64];
    struct stat st;
    for (int fd = 0;; fd++) {
        snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)d.pid, fd);
        if (lstat(path, &st) < 0)
            return fd;
    }
}

TEST(a_daemon_without_descriptors_serves_again_when_it_has_some)
{
    struct rlimit old;
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d), *more;
    assert_int_equal(ask(cl), CONNECTED);
    assert_ok(prlimit(d.pid, RLIMIT_NOFILE, NULL, &old));
    int fds = e2e_fd_count_at_rest(&d, cl), free_fd = first_free_fd(), n_refused = 0;
    for (int room = 0; room < 12; room++) {
        limit_fds(free_fd + room);
        int error = connect_within(200, &more);
        n_refused += error < 0;
        if (error == 0)
            ringlet_close(more);
        assert_int_equal(ask(cl), CONNECTED); /* who is in does not notice */
        limit_fds((int)old.rlim_cur);
        assert_ok(connect_within(PATIENCE_MS, &more));
        assert_int_equal(ask(more), CONNECTED);
        ringlet_close(more);
        e2e_fd_count_becomes(&d, fds);
    }
    print_message("# %d of 12 clients refused for want of descriptors\n", n_refused);
    assert_true(n_refused >= 3);
    ringlet_close(cl);
    e2e_stop(&d);
}
