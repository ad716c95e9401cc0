/*
 * shm/region.h, shm/doorbell.h and shm/handshake.h over simulated descriptors: regions are plain
 * memory that both sides map, bells are counters, the session socket is a short queue.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "shm/doorbell.h"
#include "shm/handshake.h"
#include "shm/layout.h"
#include "shm/region.h"
#include "shm/ring.h"
#include "tests/sim/sim_os.h"

static bool in_daemon(void)
{
    return task_current() <= 0;
}

/* ---- Loads from memory that the other side may write ---- */

/* A hostile client's word is another one at each look. */
static uint64_t lie(const char *p, unsigned bytes, uint64_t value)
{
    for (int i = 0; i < OS_HOSTILE; i++) {
        if (p < os.hostile[i].from || p >= os.hostile[i].to)
            continue;
        uint64_t other = prng_next(&os.prng);
        switch (prng_below(&os.prng, 3)) {
        case 0:
            return value ^ (uint64_t)1 << other % (8 * bytes);
        case 1:
            return value + other % 256 - 128;
        default:
            return other;
        }
    }
    return value;
}

uint64_t ring_load_hook(const void *p, unsigned bytes)
{
    uint64_t value = 0;
    memcpy(&value, p, bytes);
    if (!os.hooks || task_current() < 0)
        return value;
    if (prng_below(&os.prng, 1000000) < os.preempt_ppm)
        os_yield(); /* the value was read before; the world goes on behind it */
    if (os.lie_ppm && in_daemon() && prng_below(&os.prng, 1000000) < os.lie_ppm)
        value = lie(p, bytes, value);
    return value;
}

/* ---- Regions ---- */

int region_create(const char *name, size_t bytes, enum region_kind kind, struct region *ret_region)
{
    (void)name;
    assert(bytes > 0 && bytes % 4096 == 0);
    struct os_object *object = os_object_new(OS_REGION);
    object->base = aligned_alloc(4096, bytes);
    if (!object->base)
        return -ENOMEM;
    memset(object->base, 0, bytes);
    object->size = bytes;
    object->region_kind = kind;
    object->n_map_daemon = 1;
    *ret_region =
        (struct region){ .fd = os_fd_new(OS_REGION, object), .base = object->base, .bytes = bytes };
    return 0;
}

int region_map(int fd, size_t bytes, enum region_kind kind, struct region *ret_region)
{
    struct os_object *object = os_fd(fd, OS_REGION);
    if (!object || object->size != bytes || object->region_kind != (int)kind)
        return -EPROTO;
    object->n_map++;
    *ret_region = (struct region){ .fd = -1, .base = object->base, .bytes = bytes };
    return 0;
}

int region_populate(const struct region *region, size_t off, size_t bytes)
{
    assert(bytes <= region->bytes && off <= region->bytes - bytes);
    return 0;
}

void region_punch(const struct region *region, size_t off, size_t bytes)
{
    if (bytes)
        memset((char *)region->base + off, 0, bytes);
}

void region_close_fd(struct region *region)
{
    os_close_fd(&region->fd);
}

void region_free(struct region *region)
{
    region_close_fd(region);
    if (region->base)
        os_unmap(region->base, in_daemon());
    region->base = NULL;
    region->bytes = 0;
}

/* ---- Bells ---- */

void doorbell_nap(uint64_t ns)
{
    os_pause(ns);
}

uint64_t doorbell_now_ns(void)
{
    if (!in_daemon()) {
        os.now_ns += 200 + prng_below(&os.prng, 800);
        os_yield();
    }
    return os.now_ns;
}

int bell_up_create(int *ret_fd)
{
    *ret_fd = os_fd_new(OS_BELL, os_object_new(OS_BELL));
    return 0;
}

int bell_up_ring(int fd)
{
    os_yield(); /* published, and not yet rung */
    struct os_object *bell = os_fd(fd, OS_BELL);
    if (!bell)
        return -EBADF;
    os_event(bell, POLLIN);
    return 0;
}

int bell_down_create(int *ret_read_fd, int *ret_write_fd)
{
    struct os_object *pipe = os_object_new(OS_PIPE_READ);
    *ret_read_fd = os_fd_new(OS_PIPE_READ, pipe);
    *ret_write_fd = os_fd_new(OS_PIPE_WRITE, pipe);
    return 0;
}

int bell_down_ring(int write_fd)
{
    struct os_object *pipe = os_fd(write_fd, OS_PIPE_WRITE);
    if (!pipe || pipe->n_read == 0)
        return -EPIPE;
    pipe->bytes = min_of(pipe->bytes + 1, 4096u);
    return 0;
}

int bell_down_drain(int read_fd)
{
    struct os_object *pipe = os_fd(read_fd, OS_PIPE_READ);
    if (!pipe || (pipe->bytes == 0 && pipe->n_write == 0))
        return -EPIPE;
    pipe->bytes = 0;
    return 0;
}

static bool pipe_ready(void *arg)
{
    const struct os_object *pipe = arg;
    return pipe->bytes || pipe->n_write == 0;
}

int bell_down_wait(int read_fd, uint64_t deadline_ns)
{
    struct os_object *pipe = os_fd(read_fd, OS_PIPE_READ);
    if (!pipe)
        return -EPIPE;
    if (!pipe_ready(pipe)) {
        if (prng_chance(&os.prng, 2))
            return -EINTR;
        os_block(pipe_ready, pipe, deadline_ns);
    }
    return pipe_ready(pipe) ? bell_down_drain(read_fd) : -ETIMEDOUT;
}

/* ---- Handshake, the daemon's side ---- */

int os_listen(void)
{
    if (os.listen && os.listen->n_read > 0)
        return os.listen_fd; /* kept */
    os.listen = os_object_new(OS_LISTEN);
    os.listen_fd = os_fd_new(OS_LISTEN, os.listen);
    return os.listen_fd;
}

bool os_session_over(uint64_t session_id)
{
    for (uint32_t i = os.n_session; i-- > 0;)
        if (os.session[i].id == session_id)
            return os.session[i].conn->told;
    return false;
}

void os_signal(struct os_object *signals, int number)
{
    if (signals->bytes < 4)
        signals->signals[signals->bytes++] = number;
    os_event(signals, POLLIN);
}

int handshake_peer(int fd, struct handshake_peer *ret_peer)
{
    struct os_object *conn = os_fd(fd, OS_CONN);
    if (!conn || (os.no_pidfd && conn->n_read == 0))
        return -ESRCH;
    *ret_peer = (struct handshake_peer){ .pid = (pid_t)conn->process->pid,
                                         .uid = conn->process->uid,
                                         .pidfd = -1 };
    if (!os.no_pidfd) {
        struct os_object *pidfd = os_object_new(OS_PIDFD);
        pidfd->process = conn->process;
        pidfd->conn = conn;
        ret_peer->pidfd = os_fd_new(OS_PIDFD, pidfd);
    }
    return 0;
}

/* The oldest message: 0, -EAGAIN, -EPIPE, or what is wrong with it. */
static int take_message(struct os_object *conn)
{
    if (!conn)
        return -EPIPE;
    if (conn->n_up == 0)
        return conn->n_read ? -EAGAIN : -EPIPE;
    int error = conn->up_error[0];
    conn->n_up--;
    memmove(conn->up_error, conn->up_error + 1, sizeof(conn->up_error) - sizeof(int));
    return error;
}

int handshake_recv_hello(int fd, struct ringlet_hello *ret_hello)
{
    struct os_object *conn = os_fd(fd, OS_CONN);
    int error = take_message(conn);
    if (!error)
        *ret_hello = conn->hello;
    return error;
}

int handshake_check_hello(const struct ringlet_hello *hello, uint64_t features, uint16_t *ret_minor,
                          uint64_t *ret_features)
{
    struct layout layout;
    if (hello->flags & ~(uint32_t)RINGLET_HELLO_FLAGS_KNOWN)
        return -EINVAL;
    if (layout_compute(hello->n_slot, hello->prompt_bytes, hello->text_bytes, &layout))
        return -EINVAL;
    *ret_minor = RINGLET_ABI_MINOR;
    *ret_features = hello->features_wanted & features;
    return 0;
}

int handshake_send_welcome(int fd, struct ringlet_welcome *welcome, const int *pass, unsigned n_fd)
{
    struct os_object *conn = os_fd(fd, OS_CONN);
    if (!conn || conn->n_read == 0)
        return -EPIPE;
    conn->welcome = *welcome;
    conn->has_welcome = true;
    if (os.n_session < OS_SESSIONS && welcome->result >= 0) {
        os.session[os.n_session].id = welcome->session_id;
        os.session[os.n_session++].conn = conn;
    }
    for (unsigned i = 0; i < n_fd; i++)
        os_pass(conn, i, pass[i]);
    return 0;
}

int handshake_recv_attach(int fd, uint64_t session_id)
{
    struct os_object *conn = os_fd(fd, OS_CONN);
    int error = take_message(conn);
    return error ? error : conn->up_attach == session_id ? 0 : -EPROTO;
}

int handshake_peek_closed(int fd)
{
    struct os_object *conn = os_fd(fd, OS_CONN);
    if (conn && conn->n_up)
        return -EPROTO;
    return conn && conn->n_read ? 0 : -EPIPE;
}

/* ---- Handshake, the client's side ---- */

int handshake_connect(const char *path, uint64_t deadline_ns, int *ret_fd)
{
    (void)path, (void)deadline_ns;
    os_yield();
    if (!os.listen || os.listen->n_read == 0)
        return -ECONNREFUSED;
    struct os_object *conn = os_object_new(OS_SOCKET);
    conn->process = os.task[task_current()].process;
    *ret_fd = os_fd_new(OS_SOCKET, conn);
    os_connect(conn);
    return 0;
}

void os_send_message(int fd, int error)
{
    struct os_object *conn = os_fd(fd, OS_SOCKET);
    if (!conn || conn->n_up == OS_MESSAGES)
        return;
    conn->up_error[conn->n_up++] = error;
    os_event(conn, POLLIN);
}

int handshake_send_hello(int fd, struct ringlet_hello *hello)
{
    struct os_object *conn = os_fd(fd, OS_SOCKET);
    os_yield();
    if (!conn || (conn->accepted && conn->n_write == 0))
        return -EPIPE;
    conn->hello = *hello;
    os_send_message(fd, 0);
    return 0;
}

static bool welcome_ready(void *arg)
{
    const struct os_object *conn = arg;
    return conn->has_welcome || (conn->accepted && conn->n_write == 0);
}

int handshake_recv_welcome(int fd, bool observer, uint64_t deadline_ns,
                           struct ringlet_welcome *ret_welcome, int ret_fds[RINGLET_N_FD])
{
    struct os_object *conn = os_fd(fd, OS_SOCKET);
    for (int i = 0; i < RINGLET_N_FD; i++)
        ret_fds[i] = -1;
    if (!conn)
        return -EPIPE;
    if (!welcome_ready(conn))
        os_block(welcome_ready, conn, deadline_ns);
    if (!conn->has_welcome)
        return welcome_ready(conn) ? -EPIPE : -ETIMEDOUT;
    conn->has_welcome = false;
    *ret_welcome = conn->welcome;
    if (conn->welcome.result < 0)
        return conn->welcome.result;
    for (int i = 0; i < (observer ? 1 : RINGLET_N_FD); i++)
        ret_fds[i] = os_receive(conn, i);
    return 0;
}

int handshake_send_attach(int fd, uint64_t session_id)
{
    struct os_object *conn = os_fd(fd, OS_SOCKET);
    os_yield();
    if (!conn || conn->n_write == 0)
        return -EPIPE;
    conn->up_attach = session_id;
    os_send_message(fd, 0);
    return 0;
}
