/* ptrace: stops at every entry and exit of a system call; the parent's wait is the only event. */
#include "tests/e2e/tracer.h"

#include <dirent.h>
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>

#include "tests/harness/harness.h"

const struct tracer_error tracer_errors[] = {
    { SYS_memfd_create, { EMFILE, ENOMEM }, "memfd_create" },
    { SYS_ftruncate, { ENOSPC, EIO }, "ftruncate" },
    { SYS_fallocate, { ENOSPC, ENOMEM }, "fallocate" },
    { SYS_fcntl, { EPERM, EBUSY }, "fcntl" },
    { SYS_mmap, { ENOMEM, EAGAIN }, "mmap" },
    { SYS_madvise, { ENOMEM, EAGAIN }, "madvise" },
    { SYS_open, { ENFILE, EMFILE }, "open" },
    { SYS_openat, { ENFILE, EMFILE }, "openat" },
    { SYS_pipe2, { EMFILE, ENFILE }, "pipe2" },
    { SYS_eventfd2, { ENFILE, ENOMEM }, "eventfd2" },
    { SYS_pidfd_open, { EMFILE, ESRCH }, "pidfd_open" },
    { SYS_getsockopt, { ENOMEM, ENOTCONN }, "getsockopt" },
    { SYS_setsockopt, { ENOMEM, ENOBUFS }, "setsockopt" },
    { SYS_socket, { EMFILE, ENOBUFS }, "socket" },
    { SYS_connect, { EAGAIN, ECONNREFUSED }, "connect" },
    { SYS_sendmsg, { ENOBUFS, ENOMEM }, "sendmsg" },
    { SYS_recvmsg, { ENOMEM, ECONNRESET }, "recvmsg" },
    { SYS_sendto, { ENOBUFS, EPIPE }, "sendto" },
    { SYS_recvfrom, { ENOMEM, ECONNRESET }, "recvfrom" },
    { SYS_io_uring_enter, { EINTR, EAGAIN }, "io_uring_enter" },
    { SYS_execve, { ENOMEM, E2BIG }, "execve" },
    { SYS_munmap, { 0, 0 }, "munmap" }, /* 0: counted and killed at, not failed */
    { SYS_close, { 0, 0 }, "close" },
    { SYS_write, { 0, 0 }, "write" },
    { SYS_unlink, { 0, 0 }, "unlink" },
    { SYS_exit_group, { 0, 0 }, "exit_group" },
    { -1, { 0, 0 }, NULL },
};

static const struct tracer_error *entry_of(int call)
{
    for (const struct tracer_error *e = tracer_errors; e->call >= 0; e++)
        if (e->call == call)
            return e;
    return NULL;
}

const char *tracer_call_name(int call)
{
    const struct tracer_error *e = entry_of(call);
    return e ? e->name : "a call";
}

#if defined(__x86_64__) && !defined(RINGLET_TEST_NO_PTRACE)

/* A thread whose call was taken away: it gets this error when it comes out. */
struct owed {
    pid_t tid;
    int error;
};

static struct owed owed[16];

static int *owed_to(pid_t tid)
{
    for (size_t i = 0; i < sizeof(owed) / sizeof(*owed); i++)
        if (owed[i].tid == tid)
            return &owed[i].error;
    return NULL;
}

static void owe(pid_t tid, int error)
{
    int *to = owed_to(tid);
    for (size_t i = 0; !to && i < sizeof(owed) / sizeof(*owed); i++)
        if (owed[i].error == 0) {
            owed[i].tid = tid;
            to = &owed[i].error;
        }
    assert_non_null(to);
    *to = error;
}

static bool is_named(pid_t pid, pid_t tid, const char *name)
{
    char path[64], line[32] = "";
    snprintf(path, sizeof(path), "/proc/%d/task/%d/comm", (int)pid, (int)tid);
    FILE *file = fopen(path, "r");
    bool is = file && fgets(line, sizeof(line), file) && strncmp(line, name, strlen(name)) == 0;
    if (file)
        fclose(file);
    return is;
}

static bool each_thread(pid_t pid, bool (*do_it)(pid_t tid))
{
    char path[64];
    bool ok = true;
    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            ok = do_it((pid_t)strtol(entry->d_name, NULL, 10)) && ok;
    if (dir)
        closedir(dir);
    return dir && ok;
}

static bool seize_thread(pid_t tid)
{
    long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC;
    return ptrace(PTRACE_SEIZE, tid, 0, (void *)(uintptr_t)options) == 0 &&
           ptrace(PTRACE_INTERRUPT, tid, 0, 0) == 0;
}

bool tracer_seize(struct tracer *t, pid_t pid)
{
    *t = (struct tracer){ .pid = pid, .hit = -1, .then_hit = -1 };
    memset(owed, 0, sizeof(owed));
    return each_thread(pid, seize_thread);
}

/* A thread can be let go only while it is stopped. */
static bool let_go(pid_t tid)
{
    int status;
    if (ptrace(PTRACE_DETACH, tid, 0, 0) == 0)
        return true;
    if (ptrace(PTRACE_INTERRUPT, tid, 0, 0) < 0 || waitpid(tid, &status, __WALL) != tid)
        return false;
    return ptrace(PTRACE_DETACH, tid, 0, 0) == 0;
}

void tracer_release(struct tracer *t)
{
    if (!t->dead)
        (void)each_thread(t->pid, let_go);
    t->pid = 0;
}

void tracer_kill(struct tracer *t)
{
    int status;
    pid_t tid;
    kill(t->pid, SIGKILL);
    do
        tid = waitpid(-1, &status, __WALL);
    while (tid > 0 && (tid != t->pid || WIFSTOPPED(status)));
    t->dead = true;
}

static bool is_wanted(const struct tracer *t, int call)
{
    if (!t->calls)
        return entry_of(call) && entry_of(call)->error[0] != 0;
    for (const int *c = t->calls; *c >= 0; c++)
        if (*c == call)
            return true;
    return false;
}

/* The next call that counts: is it the one, or the one that fails behind it? */
static bool is_hit(struct tracer *t, int call)
{
    int n = ++t->n_seen;
    if (n == t->nth || (t->act == TRACER_DENY && n > t->nth))
        t->hit = call;
    else if (t->then > 0 && n == t->nth + t->then)
        t->then_hit = call;
    else
        return false;
    return true;
}

static void at_entry(struct tracer *t, pid_t tid, int call)
{
    struct user_regs_struct regs;
    if (call == SYS_sched_yield)
        t->nth = 0;
    if (t->nth == 0 || (t->after_exec && !t->execed) || !is_wanted(t, call) || !is_hit(t, call))
        return;
    if (t->act == TRACER_KILL)
        kill(t->pid, SIGKILL);
    if (t->act != TRACER_FAIL && t->act != TRACER_DENY)
        return;
    owe(tid, entry_of(call)->error[t->then_hit >= 0 ? t->then_other : t->other]);
    assert_int_equal(ptrace(PTRACE_GETREGS, tid, 0, &regs), 0);
    regs.orig_rax = (unsigned long long)-1; /* no such call: nothing is done */
    assert_int_equal(ptrace(PTRACE_SETREGS, tid, 0, &regs), 0);
}

static void at_exit(pid_t tid)
{
    struct user_regs_struct regs;
    int *error = owed_to(tid);
    if (!error || *error == 0)
        return;
    if (ptrace(PTRACE_GETREGS, tid, 0, &regs) == 0) {
        regs.rax = (unsigned long long)(long long)-*error;
        (void)ptrace(PTRACE_SETREGS, tid, 0, &regs);
    }
    *error = 0;
}

static void at_call(struct tracer *t, pid_t tid)
{
    struct __ptrace_syscall_info info;
    if (ptrace(PTRACE_GET_SYSCALL_INFO, tid, (void *)sizeof(info), &info) <= 0)
        return;
    if (info.op == PTRACE_SYSCALL_INFO_ENTRY) {
        uint64_t args[6];
        for (int i = 0; i < 6; i++)
            args[i] = info.entry.args[i];
        if (t->look)
            t->look(t, tid, (int)info.entry.nr, args);
        at_entry(t, tid, (int)info.entry.nr);
    } else if (info.op == PTRACE_SYSCALL_INFO_EXIT)
        at_exit(tid);
}

/* One stop of one thread; it goes on unless it is to hang. */
static void at_stop(struct tracer *t, pid_t tid, int status)
{
    int signal = WSTOPSIG(status), event = status >> 16, pass_on = 0;
    if (signal == (SIGTRAP | 0x80))
        at_call(t, tid);
    else if (event == PTRACE_EVENT_EXEC)
        t->execed = true;
    else if (event == PTRACE_EVENT_STOP && signal != SIGTRAP) {
        (void)ptrace(PTRACE_LISTEN, tid, 0, 0); /* SIGSTOP: it stays stopped until SIGCONT */
        return;
    } else if (event == 0)
        pass_on = signal;
    if (t->hung_name && !t->execed && is_named(t->pid, tid, t->hung_name))
        return;
    (void)ptrace(PTRACE_SYSCALL, tid, 0, (void *)(uintptr_t)pass_on);
}

void tracer_arm(struct tracer *t, const int *calls, int nth, enum tracer_act act)
{
    t->calls = calls;
    t->nth = nth;
    t->act = act;
    t->n_seen = t->then = 0;
    t->hit = t->then_hit = -1;
}

int tracer_run(struct tracer *t, pid_t until)
{
    for (int idle = 0; idle < 60000;) {
        int status;
        pid_t tid = waitpid(-1, &status, __WALL | WNOHANG);
        if (tid == 0) {
            idle++;
            nanosleep(&(struct timespec){ .tv_nsec = idle > 20 ? 1000000 : 20000 }, NULL);
            continue;
        }
        idle = 0;
        if (tid < 0)
            fail_msg("nothing to trace: %s", strerror(errno));
        bool ended = WIFEXITED(status) || WIFSIGNALED(status);
        if (tid == until && ended)
            return status;
        if (tid == t->pid && ended) {
            t->dead = true;
            t->status = status;
            return -1;
        }
        if (WIFSTOPPED(status))
            at_stop(t, tid, status);
    }
    fail_msg("neither the traced process nor its client ends");
    return -1;
}

#else

bool tracer_seize(struct tracer *t, pid_t pid)
{
    *t = (struct tracer){ .pid = pid, .hit = -1 };
    return false;
}

void tracer_release(struct tracer *t)
{
    t->pid = 0;
}

void tracer_kill(struct tracer *t)
{
    t->dead = true;
}

void tracer_arm(struct tracer *t, const int *calls, int nth, enum tracer_act act)
{
    (void)t, (void)calls, (void)nth, (void)act;
}

int tracer_run(struct tracer *t, pid_t until)
{
    (void)t, (void)until;
    return -1;
}

#endif
