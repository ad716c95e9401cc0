/*
 * The loop thread waits in io_uring_enter and nowhere else, whatever clients do to the descriptors
 * that they share with it: every system call of it is looked at as it is entered, while clients
 * come, ask, ring, do not read, fill what can be filled, and die.
 */
#include "tests/e2e/e2e.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/e2e/tracer.h"

static struct e2e_daemon d;

/* Calls that come back at once whatever their arguments, or wait for nobody but the kernel. */
static const int at_once[] = {
    SYS_memfd_create,
    SYS_ftruncate,
    SYS_fallocate,
    SYS_mmap,
    SYS_munmap,
    SYS_madvise,
    SYS_mprotect,
    SYS_fcntl,
    SYS_close,
    SYS_pipe2,
    SYS_eventfd2,
    SYS_pidfd_open,
    SYS_getsockopt,
    SYS_setsockopt,
    SYS_fstat,
    SYS_newfstatat,
    SYS_getpid,
    SYS_gettid,
    SYS_sched_yield,
    SYS_sched_setaffinity,
    SYS_getcpu,
    SYS_clock_gettime,
    SYS_rt_sigreturn,
    SYS_rt_sigprocmask,
    SYS_sched_getaffinity,
    SYS_restart_syscall,
};

/* Descriptors below have been there before the first client: they are nobody's but the daemon's. */
static int first_shared;
static char wrong[200];
static int n_enter, n_bell, n_message, n_call;

static bool fd_is(pid_t pid, int fd, const char *kind)
{
    char path[64], link[64] = "";
    snprintf(path, sizeof(path), "/proc/%d/fd/%d", (int)pid, fd);
    return readlink(path, link, sizeof(link) - 1) > 0 && strncmp(link, kind, strlen(kind)) == 0;
}

static bool is_nonblocking(pid_t pid, int fd)
{
    char path[64], line[64];
    unsigned flags = 0;
    snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", (int)pid, fd);
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof(line), file))
        if (strncmp(line, "flags:", 6) == 0)
            flags = (unsigned)strtoul(line + 6, NULL, 8);
    if (file)
        fclose(file);
    return flags & O_NONBLOCK;
}

/*
 * May this call of the loop wait for a client? Of descriptors that clients share only the pipe is
 * touched, and its writing end is the daemon's alone, so that nobody can make it block.
 */
static bool may_wait(pid_t pid, int call, const uint64_t args[6])
{
    int fd = (int)args[0];
    for (size_t i = 0; i < sizeof(at_once) / sizeof(*at_once); i++)
        if (call == at_once[i])
            return false;
    switch (call) {
    case SYS_io_uring_enter:
        n_enter++;
        return false;
    case SYS_recvmsg:
    case SYS_sendmsg:
        n_message++;
        return !(args[2] & MSG_DONTWAIT);
    case SYS_recvfrom:
    case SYS_sendto:
        return !(args[3] & MSG_DONTWAIT);
    case SYS_write:
        if (fd < first_shared)
            return fd > STDERR_FILENO && !fd_is(pid, fd, "anon_inode:[eventfd]");
        n_bell++;
        return !fd_is(pid, fd, "pipe:") || !is_nonblocking(pid, fd);
    case SYS_read:
        return fd >= first_shared || !is_nonblocking(pid, fd);
    case SYS_poll:
        return args[2] != 0;
    case SYS_futex:
        return (args[1] & FUTEX_CMD_MASK) != FUTEX_WAKE;
    default:
        return true;
    }
}

static void look(struct tracer *t, pid_t tid, int call, const uint64_t args[6])
{
    if (tid != t->pid) /* executor and encoder wait for the loop */
        return;
    n_call++;
    if (!may_wait(t->pid, call, args) || wrong[0])
        return;
    snprintf(wrong, sizeof(wrong), "system call %d (%llu, %llu, %llu, %llu) may wait for a client",
             call, (unsigned long long)args[0], (unsigned long long)args[1],
             (unsigned long long)args[2], (unsigned long long)args[3]);
}

static struct ringlet_client *connect_here(uint32_t flags)
{
    struct ringlet_options o = e2e_options(&d);
    struct ringlet_client *cl;
    o.spin_ns = 0; /* sleeps, so that it is rung */
    o.n_slot = 16;
    o.flags = flags;
    return ringlet_connect(&o, &cl) == 0 ? cl : NULL;
}

static void ask_some(struct ringlet_client *cl, int n)
{
    struct ringlet_request req = e2e_text("some text that comes back");
    for (int i = 0; i < n; i++)
        (void)ringlet_submit(cl, &req, NULL);
}

static int be_served(void)
{
    struct ringlet_event ev;
    struct ringlet_client *cl = connect_here(0);
    if (!cl)
        return 1;
    for (int i = 0; i < 20; i++) {
        ask_some(cl, 1);
        for (bool end = false; !end; ringlet_advance(cl)) {
            if (ringlet_wait(cl, &ev, RINGLET_FOREVER) < 0)
                return 1;
            end = ev.flags & RINGLET_CQE_END;
        }
    }
    ringlet_close(cl);
    return 0;
}

/* Its bell is full, and whoever writes it waits; it sleeps, reads nothing, and dies. */
static int be_hostile(void)
{
    uint64_t most = UINT64_MAX - 1;
    int bell = 3;
    struct ringlet_client *cl = connect_here(0);
    while (cl && bell < 64 && !fd_is(getpid(), bell, "anon_inode:[eventfd]"))
        bell++;
    if (!cl || write(bell, &most, sizeof(most)) < 0)
        return 1;
    for (int i = 0; i < 6; i++) {
        (void)fcntl(bell, F_SETFL, O_NONBLOCK); /* it would wait itself */
        ask_some(cl, 16);
        (void)ringlet_arm(cl);
        (void)fcntl(bell, F_SETFL, 0);
        nanosleep(&(struct timespec){ .tv_nsec = 3000000 }, NULL);
    }
    kill(getpid(), SIGKILL);
    return 1;
}

/* Messages that nobody asked for, a connection that never says a word, one that does not read. */
static int be_rude(void)
{
    struct sockaddr_un addr = { .sun_family = AF_UNIX };
    memcpy(addr.sun_path, d.socket, strnlen(d.socket, sizeof(addr.sun_path) - 1));
    for (int i = 0; i < 12; i++) {
        int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        int small = 1;
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small));
        if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
            return 1;
        for (int k = 0; k < i % 4; k++)
            (void)send(fd, &addr, 64, MSG_NOSIGNAL | MSG_DONTWAIT);
    }
    struct ringlet_client *cl = connect_here(RINGLET_OBSERVER);
    ringlet_close(cl);
    return !cl;
}

static int run(struct tracer *t, int (*child)(void))
{
    pid_t pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        _exit(child());
    }
    return tracer_run(t, pid);
}

TEST(the_loop_waits_for_nobody)
{
    struct tracer t;
    if (getenv("RINGLET_TEST_SANITIZED"))
        skip(); /* a sanitizer has calls of its own */
    e2e_start(&d, NULL);
    for (first_shared = 3; fd_is(d.pid, first_shared, ""); first_shared++)
        ;
    if (!tracer_seize(&t, d.pid))
        skip(); /* no ptrace here */
    t.look = look;
    for (int i = 0; i < 3; i++) {
        assert_int_equal(run(&t, be_served), 0);
        assert_int_equal(run(&t, be_hostile), SIGKILL);
        assert_int_equal(run(&t, be_rude), 0);
    }
    assert_int_equal(run(&t, be_served), 0);
    tracer_release(&t);
    if (wrong[0])
        fail_msg("%s", wrong);
    print_message("# %d calls of the loop: %d io_uring_enter, %d messages, %d bells\n", n_call,
                  n_enter, n_message, n_bell);
    assert_true(n_enter > 10 && n_message > 10 && n_bell > 10);
    e2e_stop(&d);
}

TEST(the_look_knows_calls_that_wait)
{
    const uint64_t plain[6] = { 0 }, wait_ms[6] = { 0, 0, 10 };
    const uint64_t dont_wait[6] = { 0, 0, MSG_DONTWAIT };
    uint64_t bell[6] = { (uint64_t)eventfd(0, EFD_NONBLOCK) };
    int ends[2];
    assert_ok(pipe(ends));
    uint64_t blocking_pipe[6] = { (uint64_t)ends[1] };
    first_shared = 3;
    assert_false(may_wait(getpid(), SYS_poll, plain));
    assert_true(may_wait(getpid(), SYS_poll, wait_ms));
    assert_true(may_wait(getpid(), SYS_recvmsg, plain));
    assert_false(may_wait(getpid(), SYS_recvmsg, dont_wait));
    assert_true(may_wait(getpid(), SYS_nanosleep, plain));
    assert_true(may_wait(getpid(), SYS_futex, plain)); /* FUTEX_WAIT */
    assert_true(may_wait(getpid(), SYS_write, bell));  /* a client can make it blocking */
    assert_true(may_wait(getpid(), SYS_read, bell));
    assert_true(may_wait(getpid(), SYS_write, blocking_pipe));
    assert_ok(fcntl(ends[1], F_SETFL, O_NONBLOCK));
    assert_false(may_wait(getpid(), SYS_write, blocking_pipe));
    close(ends[0]);
    close(ends[1]);
    close((int)bell[0]);
}
