/* Descriptors, time, blocking, and the system calls that the product makes beside its seams. */
#include "tests/sim/sim_os.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "base/compiler.h"

struct os os;

struct os_fd_entry {
    enum os_kind kind;
    struct os_object *object;
    const struct os_process *owner;
};

enum { OBJECTS = 16384 };

static struct os_fd_entry fds[OS_FDS];
static int n_fd;
static struct os_object objects[OBJECTS];
static int n_object;

/* Linked with --wrap: the product's calls come here, the real ones are __real_. */
int __real_close(int fd);
ssize_t __real_read(int fd, void *to, size_t bytes);
int __real_poll(struct pollfd *fd, nfds_t n, int timeout);
int __wrap_close(int fd);
ssize_t __wrap_read(int fd, void *to, size_t bytes);
int __wrap_poll(struct pollfd *fd, nfds_t n, int timeout);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret);

void os_open(uint64_t seed, bool verbose)
{
    memset(&os, 0, sizeof(os));
    os.prng.state = prng_mix(seed ^ 77);
    os.verbose = verbose;
    os.now_ns = 1000000000;
    n_fd = n_object = 0;
    os_loop_reset();
}

void os_close(void)
{
    for (int i = 0; i < n_object; i++)
        free(objects[i].base);
    n_object = n_fd = 0;
}

/* ---- Tasks ---- */

static const struct os_process *owner_now(void)
{
    int task_i = task_current();
    return task_i <= 0 ? NULL : os.task[task_i].process;
}

void os_yield(void)
{
    if (task_current() >= 0)
        task_yield();
}

void os_block(bool (*ready)(void *arg), void *arg, uint64_t until_ns)
{
    struct os_task *task = &os.task[task_current()];
    task->ready = ready;
    task->arg = arg;
    task->until_ns = until_ns;
    task_yield();
    task->ready = NULL;
}

static bool never(void *arg)
{
    (void)arg;
    return false;
}

void os_pause(uint64_t ns)
{
    os_block(never, NULL, os.now_ns + ns);
}

void os_end_pause(int task_i)
{
    if (os.task[task_i].ready == never)
        os.task[task_i].until_ns = os.now_ns;
}

bool os_task_runs(int task_i)
{
    const struct os_task *task = &os.task[task_i];
    if (!task->used || task->done)
        return false;
    return !task->ready || task->until_ns <= os.now_ns || task->ready(task->arg);
}

/* ---- Descriptors ---- */

struct os_object *os_object_new(enum os_kind kind)
{
    if (n_object == OBJECTS) {
        fprintf(stderr, "sim: too many objects\n");
        exit(2);
    }
    struct os_object *object = &objects[n_object++];
    memset(object, 0, sizeof(*object));
    object->kind = kind;
    object->live = true;
    return object;
}

static bool is_write_end(enum os_kind kind)
{
    return kind == OS_PIPE_WRITE || kind == OS_CONN;
}

int os_fd_new(enum os_kind kind, struct os_object *object)
{
    if (n_fd == OS_FDS) {
        fprintf(stderr, "sim: too many descriptors\n");
        exit(2);
    }
    fds[n_fd] = (struct os_fd_entry){ kind, object, owner_now() };
    if (is_write_end(kind))
        object->n_write++;
    else
        object->n_read++;
    return OS_FD_BASE + n_fd++;
}

struct os_object *os_fd(int fd, enum os_kind kind)
{
    int i = fd - OS_FD_BASE;
    return i >= 0 && i < n_fd && fds[i].kind == kind ? fds[i].object : NULL;
}

static void region_settle(struct os_object *object)
{
    if (object->n_read == 0 && object->n_map == 0 && object->n_map_daemon == 0) {
        free(object->base);
        object->base = NULL;
    }
}

/* Descriptors that were sent and never received. */
static void drop_passed(struct os_object *conn)
{
    for (int i = 0; i < RINGLET_N_FD; i++) {
        struct os_object *passed = conn->passed[i];
        if (!passed)
            continue;
        conn->passed[i] = NULL;
        passed->n_read--;
        if (passed->kind == OS_REGION)
            region_settle(passed);
    }
}

static void close_at(int i)
{
    struct os_object *object = fds[i].object;
    enum os_kind kind = fds[i].kind;
    fds[i].kind = OS_CLOSED;
    if (is_write_end(kind))
        object->n_write--;
    else
        object->n_read--;
    if (kind == OS_SOCKET && object->n_read == 0) {
        os_event(object, POLLIN | POLLHUP | POLLRDHUP);
        drop_passed(object);
    }
    for (uint32_t k = 0; kind == OS_LISTEN && object->n_read == 0 && k < object->bytes; k++)
        object->waiting[k]->accepted = true; /* and hung up on */
    if (kind == OS_REGION)
        region_settle(object);
}

static void close_all(const struct os_process *owner, bool forked)
{
    for (int i = 0; i < n_fd; i++)
        if (fds[i].kind != OS_CLOSED && fds[i].owner == owner &&
            !(forked && fds[i].kind == OS_SOCKET) && !(os.keep_listen && fds[i].kind == OS_LISTEN))
            close_at(i);
}

void os_process_died(struct os_process *process, bool forked)
{
    process->dead = true;
    close_all(process, forked && !os.no_pidfd);
    for (int i = 0; i < n_object; i++)
        if (objects[i].kind == OS_PIDFD && objects[i].process == process && objects[i].n_read)
            os_event(&objects[i], POLLIN);
}

void os_daemon_died(void)
{
    close_all(NULL, false);
    for (int i = 0; i < n_object; i++) {
        if (objects[i].kind != OS_REGION)
            continue;
        objects[i].n_map_daemon = 0;
        region_settle(&objects[i]);
    }
}

uint32_t os_open_fds(bool daemon)
{
    uint32_t n = 0;
    for (int i = 0; i < n_fd; i++)
        n += fds[i].kind != OS_CLOSED && (fds[i].owner == NULL) == daemon;
    return n;
}

void os_close_fd(int *fd)
{
    if (*fd >= 0)
        __wrap_close(*fd);
    *fd = -1;
}

void os_unmap(void *base, bool daemon)
{
    for (int i = 0; i < n_object; i++) {
        struct os_object *object = &objects[i];
        if (object->kind != OS_REGION || object->base != base)
            continue;
        uint32_t *n = daemon ? &object->n_map_daemon : &object->n_map;
        if (*n == 0)
            os_fail("a region is unmapped twice");
        else
            --*n;
        region_settle(object);
        return;
    }
    if (daemon)
        os_fail("a region is unmapped that is not mapped");
}

void os_pass(struct os_object *conn, unsigned i, int fd)
{
    int at = fd - OS_FD_BASE;
    if (at < 0 || at >= n_fd || fds[at].kind == OS_CLOSED) {
        os_fail("a closed descriptor is sent with WELCOME");
        return;
    }
    conn->passed[i] = fds[at].object;
    conn->passed_kind[i] = (int)fds[at].kind;
    fds[at].object->n_read++;
}

int os_receive(struct os_object *conn, int i)
{
    struct os_object *object = conn->passed[i];
    if (!object)
        return -1;
    conn->passed[i] = NULL;
    object->n_read--;
    return os_fd_new((enum os_kind)conn->passed_kind[i], object);
}

void os_connect(struct os_object *conn)
{
    struct os_object *listen = os.listen;
    if (listen->bytes == OS_BACKLOG)
        return; /* it waits in vain, and times out */
    listen->waiting[listen->bytes++] = conn;
    os_event(listen, POLLIN);
}

int os_accept(void)
{
    struct os_object *listen = os.listen;
    if (listen->bytes == 0)
        return -1;
    struct os_object *conn = listen->waiting[0];
    listen->bytes--;
    memmove(listen->waiting, listen->waiting + 1, sizeof(listen->waiting) - sizeof(conn));
    conn->accepted = true;
    return os_fd_new(OS_CONN, conn);
}

/* ---- System calls ---- */

int __wrap_close(int fd)
{
    int i = fd - OS_FD_BASE;
    if (i < 0)
        return __real_close(fd);
    if (i >= n_fd || fds[i].kind == OS_CLOSED) {
        errno = EBADF;
        return -1;
    }
    close_at(i);
    return 0;
}

ssize_t __wrap_read(int fd, void *to, size_t bytes)
{
    struct os_object *signals = os_fd(fd, OS_SIGNALS);
    if (!signals)
        return __real_read(fd, to, bytes);
    if (signals->bytes == 0) {
        errno = EAGAIN;
        return -1;
    }
    struct signalfd_siginfo info = { .ssi_signo = (uint32_t)signals->signals[0] };
    signals->bytes--;
    memmove(signals->signals, signals->signals + 1, sizeof(signals->signals) - sizeof(int));
    memcpy(to, &info, sizeof(info));
    return sizeof(info);
}

int __wrap_poll(struct pollfd *fd, nfds_t n, int timeout)
{
    const struct os_object *pipe = n == 1 ? os_fd(fd->fd, OS_PIPE_READ) : NULL;
    if (!pipe)
        return __real_poll(fd, n, timeout);
    fd->revents = (short)((pipe->bytes ? POLLIN & fd->events : 0) | (pipe->n_write ? 0 : POLLHUP));
    return fd->revents != 0;
}

/* The product has one clock; a client that looks at it has spent some of it. */
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret)
{
    (void)clock;
    if (task_current() > 0)
        os.now_ns += 200 + prng_below(&os.prng, 800);
    if (task_current() > 0 || (os.hooks && prng_below(&os.prng, 100000) < os.preempt_ppm))
        os_yield();
    *ret = (struct timespec){ .tv_sec = (time_t)(os.now_ns / 1000000000),
                              .tv_nsec = (long)(os.now_ns % 1000000000) };
    return 0;
}
