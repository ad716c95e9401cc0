/*
 * A device that hangs: every request ends with error_engine, the daemon executes itself anew behind
 * the same socket, and a client that reconnects is served. The hang is a tracer's: it stops the
 * executor's thread in the middle of its work.
 */
#include "tests/e2e/e2e.h"

#include <dirent.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static struct e2e_daemon d;
static struct e2e_answer a;

/* The thread of this name, or 0. */
static pid_t thread_named(pid_t pid, const char *name)
{
    char path[300], line[32];
    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *dir = opendir(path);
    pid_t found = 0;
    for (struct dirent *entry; dir && !found && (entry = readdir(dir));) {
        snprintf(path, sizeof(path), "/proc/%d/task/%.20s/comm", (int)pid, entry->d_name);
        FILE *file = fopen(path, "r");
        if (file && fgets(line, sizeof(line), file) && strncmp(line, name, strlen(name)) == 0)
            found = (pid_t)strtol(entry->d_name, NULL, 10);
        if (file)
            fclose(file);
    }
    if (dir)
        closedir(dir);
    return found;
}

/* In the place of systemd: a datagram socket that NOTIFY_SOCKET names. */
static int manager_open(void)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    snprintf(at.sun_path, sizeof(at.sun_path), "%s/notify", harness_tmpdir());
    unlink(at.sun_path);
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    assert_ok(bind(fd, (struct sockaddr *)&at, sizeof(at)));
    setenv("NOTIFY_SOCKET", at.sun_path, 1);
    return fd;
}

/* Everything it heard so far, in order. */
static const char *manager_heard(int fd)
{
    static char text[256];
    size_t n = 0;
    ssize_t got;
    while ((got = recv(fd, text + n, sizeof(text) - 1 - n, 0)) > 0)
        n += (size_t)got;
    text[n] = 0;
    return text;
}

static void manager_close(int fd)
{
    close(fd);
    unsetenv("NOTIFY_SOCKET");
}

TEST(the_service_manager_is_told_of_start_and_end)
{
    int manager = manager_open();
    e2e_start(&d, NULL);
    char byte; /* the socket listens a moment before the daemon says so */
    for (uint64_t until = e2e_deadline_ns(); recv(manager, &byte, 1, MSG_PEEK) <= 0;)
        assert_true(e2e_may_wait(until));
    assert_string_equal(manager_heard(manager), "READY=1\n");
    e2e_stop(&d);
    assert_string_equal(manager_heard(manager), "STOPPING=1\n");
    manager_close(manager);
}

/* Stop the executor's thread; false where this cannot be done. */
static bool hang(pid_t *ret_tid)
{
    int status;
    pid_t tid = thread_named(d.pid, "exec");
    assert_int_not_equal(tid, 0);
    if (ptrace(PTRACE_SEIZE, tid, 0, 0))
        return false;
    assert_int_equal(ptrace(PTRACE_INTERRUPT, tid, 0, 0), 0);
    assert_int_equal(waitpid(tid, &status, __WALL), tid);
    *ret_tid = tid;
    return true;
}

/* Where the daemon came first its exec has killed the thread, and waits until we reap it. */
static void unhang(pid_t tid)
{
    int status;
    if (ptrace(PTRACE_DETACH, tid, 0, 0))
        waitpid(tid, &status, __WALL);
}

/* The watchdog of what is to hang: a thread that is not run for a while is not to be taken for it.
 */
#define WATCHDOG_S "3"

TEST(a_hanging_device_is_told_and_survived)
{
    const char *const args[] = { "--watchdog-s", WATCHDOG_S, NULL };
    int manager = manager_open();
    e2e_start(&d, args);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_stats_info before, after;
    struct ringlet_request req = e2e_text("well");
    e2e_ask(cl, &req, &a);
    assert_ok(ringlet_stats(cl, &before));
    pid_t tid;
    if (!hang(&tid))
        skip();            /* no ptrace here */
    e2e_ask(cl, &req, &a); /* it hangs until the watchdog bites */
    assert_int_equal(a.reason, RINGLET_REASON_ERROR_ENGINE);
    assert_int_equal(a.n_finished, 1);
    unhang(tid);
    for (uint64_t until = e2e_deadline_ns(); ringlet_reconnect(cl) < 0;)
        assert_true(e2e_may_wait(until));
    e2e_ask(cl, &req, &a);
    assert_string_equal(a.text, "well");
    assert_ok(ringlet_stats(cl, &after));
    assert_int_equal(after.pid, before.pid); /* the same process, executed anew */
    assert_int_not_equal(after.daemon_generation, before.daemon_generation);
    e2e_audit(cl, 0);
    assert_string_equal(manager_heard(manager), "READY=1\nREADY=1\n"); /* it never stopped */
    ringlet_close(cl);
    assert_ok(access(d.socket, F_OK));
    e2e_stop(&d);
    assert_int_equal(access(d.socket, F_OK), -1); /* the socket was its own all along */
    manager_close(manager);
}

/*
 * A step hangs, for less than the watchdog allows but for the time that the daemon is stopped.
 * Returns whether that can be told: somebody else may keep us from letting it go on in time.
 */
static bool stop_in_a_step(struct ringlet_client *cl)
{
    struct ringlet_request req = e2e_text("well");
    struct ringlet_event ev;
    pid_t tid;
    if (!hang(&tid))
        skip();
    uint64_t began = e2e_now_ns();
    assert_ok(ringlet_submit(cl, &req, NULL));
    assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER)); /* ACCEPTED: a step of it is under way */
    ringlet_advance(cl);
    e2e_nap_ms(250); /* the loop has looked */
    kill(d.pid, SIGSTOP);
    uint64_t stopped = e2e_now_ns();
    e2e_nap_ms(3200); /* longer than the watchdog allows */
    uint64_t awake = e2e_now_ns();
    kill(d.pid, SIGCONT);
    e2e_nap_ms(250); /* and looks again */
    unhang(tid);
    return e2e_now_ns() - awake + stopped - began < 1500000000u;
}

/* Its own stop is no hang of the device, however long it lasts and whoever looks first then. */
TEST(a_daemon_that_was_stopped_goes_on)
{
    const char *const args[] = { "--watchdog-s", WATCHDOG_S, NULL };
    struct ringlet_stats_info before, after;
    struct ringlet_client *cl;
    struct ringlet_event ev;
    e2e_start(&d, args);
    cl = e2e_connect(&d);
    assert_ok(ringlet_stats(cl, &before));
    for (int tries = 0; !stop_in_a_step(cl); tries++) {
        assert_true(tries < 20);
        ringlet_close(cl);
        kill(d.pid, SIGKILL);
        (void)e2e_wait(&d);
        e2e_start(&d, args);
        cl = e2e_connect(&d);
        assert_ok(ringlet_stats(cl, &before));
    }
    do {
        assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
        ringlet_advance(cl);
    } while (!(ev.flags & RINGLET_CQE_END));
    assert_int_equal(ev.reason, RINGLET_REASON_STOP_EOS);
    assert_ok(ringlet_stats(cl, &after));
    assert_int_equal(after.daemon_generation, before.daemon_generation);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

/* Who was told to end does not begin anew because its device hangs on the way. */
TEST(a_hanging_device_does_not_bring_a_draining_daemon_back)
{
    const char *const args[] = { "--watchdog-s", WATCHDOG_S, NULL };
    int manager = manager_open();
    e2e_start(&d, args);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req = e2e_text("well");
    struct ringlet_event ev;
    pid_t tid;
    if (!hang(&tid))
        skip();
    assert_ok(ringlet_submit(cl, &req, NULL));
    assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER)); /* ACCEPTED: a step of it hangs */
    ringlet_advance(cl);
    kill(d.pid, SIGTERM);
    while (ringlet_wait(cl, &ev, RINGLET_FOREVER) == 0 && !(ev.flags & RINGLET_CQE_END))
        ringlet_advance(cl);
    assert_int_equal(ev.reason, RINGLET_REASON_ERROR_ENGINE);
    unhang(tid);
    int status = e2e_wait(&d);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    assert_int_equal(access(d.socket, F_OK), -1);
    assert_string_equal(manager_heard(manager), "READY=1\nSTOPPING=1\n");
    ringlet_close(cl);
    manager_close(manager);
}

TEST(a_daemon_that_gives_up_leaves_no_socket)
{
    const char *const args[] = { "--watchdog-s", WATCHDOG_S, NULL };
    setenv("RINGLETD_RESTARTS", "3", 1); /* as after the third fault in a row */
    e2e_start(&d, args);
    unsetenv("RINGLETD_RESTARTS");
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req = e2e_text("well");
    pid_t tid;
    if (!hang(&tid))
        skip();
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_ERROR_ENGINE);
    unhang(tid);
    int status = e2e_wait(&d);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 1);
    assert_int_equal(access(d.socket, F_OK), -1);
    ringlet_close(cl);
}

/* systemd opened the socket: its file is not the daemon's to take away. */
TEST(a_socket_that_was_handed_over_stays)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    snprintf(at.sun_path, sizeof(at.sun_path), "%s/given", harness_tmpdir());
    snprintf(d.socket, sizeof(d.socket), "%s", at.sun_path);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    assert_ok(bind(fd, (struct sockaddr *)&at, sizeof(at)));
    assert_ok(listen(fd, 16));
    d.pid = fork();
    if (d.pid == 0) {
        char pid[16], *daemon = getenv("RINGLETD");
        snprintf(pid, sizeof(pid), "%d", (int)getpid());
        setenv("LISTEN_PID", pid, 1);
        setenv("LISTEN_FDS", "1", 1);
        if (dup2(fd, 3) == 3)
            execl(daemon, daemon, "--model", "echo", "--socket", at.sun_path, NULL);
        _exit(127);
    }
    close(fd);
    struct ringlet_client *cl = e2e_connect(&d); /* the socket's queue holds it until then */
    struct ringlet_request req = e2e_text("well");
    e2e_ask(cl, &req, &a);
    assert_string_equal(a.text, "well");
    ringlet_close(cl);
    e2e_stop(&d);
    assert_ok(access(at.sun_path, F_OK));
}
