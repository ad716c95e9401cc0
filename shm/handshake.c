/*
 * HELLO, WELCOME, ATTACH over SOCK_SEQPACKET with SCM_RIGHTS. Every received descriptor is either
 * handed to the caller or closed here, on each path.
 */
#include "shm/handshake.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "shm/doorbell.h"
#include "shm/layout.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif
#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif

/* The kernel's own bound on descriptors in one message: room for all, so that none is lost. */
enum { SCM_FD_MAX = 253, RETRY_NS = 1000000, LEFTOVER_MS = 5000 };

static int make_address(const char *path, struct sockaddr_un *ret_addr)
{
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof(ret_addr->sun_path))
        return len ? -ENAMETOOLONG : -ENOENT;
    *ret_addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
    memcpy(ret_addr->sun_path, path, len + 1);
    return 0;
}

/*
 * Receive one message of up to `bytes`. Descriptors go to fds (n_fd_max of them), the surplus is
 * closed and *ret_n_fd tells how many came in all.
 */
static ssize_t receive(int fd, void *buf, size_t bytes, int flags, int *fds, unsigned n_fd_max,
                       unsigned *ret_n_fd)
{
    union {
        char bytes[CMSG_SPACE(SCM_FD_MAX * sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec iov = { .iov_base = buf, .iov_len = bytes };
    struct msghdr msg = { .msg_iov = &iov,
                          .msg_iovlen = 1,
                          .msg_control = control.bytes,
                          .msg_controllen = sizeof(control.bytes) };
    ssize_t n;
    do {
        n = recvmsg(fd, &msg, flags | MSG_CMSG_CLOEXEC);
    } while (n < 0 && errno == EINTR);
    *ret_n_fd = 0;
    if (n < 0)
        return -errno;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(&msg); c; c = CMSG_NXTHDR(&msg, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int got;
            memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(int));
            if (*ret_n_fd < n_fd_max)
                fds[*ret_n_fd] = got;
            else
                close(got);
            ++*ret_n_fd;
        }
    }
    if (msg.msg_flags & MSG_TRUNC)
        return (ssize_t)bytes + 1; /* longer than any message of ours */
    return n;
}

/* One message of exactly `bytes` and no descriptors, without blocking. */
static int receive_exact(int fd, void *buf, size_t bytes)
{
    unsigned n_fd;
    ssize_t n = receive(fd, buf, bytes, MSG_DONTWAIT, NULL, 0, &n_fd);
    if (n == -EAGAIN)
        return -EAGAIN;
    if (n == 0 && n_fd == 0)
        return -EPIPE; /* a left peer, or an empty message: refused the same way */
    if (n < 0)
        return n == -ECONNRESET ? -EPIPE : (int)n;
    return (size_t)n == bytes && n_fd == 0 ? 0 : -EPROTO;
}

static int send_plain(int fd, const void *buf, size_t bytes)
{
    ssize_t n;
    do {
        n = send(fd, buf, bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == ECONNRESET ? -EPIPE : -errno;
    return 0;
}

/* Whose listening socket we are connected to: does that process live? */
static bool is_peer_alive(int fd)
{
    struct handshake_peer peer;
    int error = handshake_peer(fd, &peer);
    if (error)
        return error != -ESRCH;
    struct pollfd end = { .fd = peer.pidfd, .events = POLLIN };
    bool alive = poll(&end, 1, 0) <= 0;
    close(peer.pidfd);
    return alive;
}

/*
 * Does somebody accept at this address? The socket of a daemon that was killed goes on listening
 * for a moment, until the kernel has taken down the io_uring that held it: that is waited for.
 */
static bool is_live(const struct sockaddr_un *addr)
{
    for (int i = 0; i < 2; i++) {
        auto_close int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        if (fd < 0)
            return true;
        if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0)
            return errno != ECONNREFUSED && errno != ENOENT;
        if (is_peer_alive(fd))
            return true;
        struct pollfd hangup = { .fd = fd };
        (void)poll(&hangup, 1, LEFTOVER_MS); /* with the socket what waits at it goes */
    }
    return true;
}

int handshake_check_address(const char *path)
{
    struct sockaddr_un addr;
    struct stat st;
    int error = make_address(path, &addr);
    if (error < 0)
        return error;
    if (lstat(path, &st) < 0)
        return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
    return !S_ISSOCK(st.st_mode) || is_live(&addr) ? -EADDRINUSE : 0;
}

/* A socket file of a daemon that is gone makes way. */
static int bind_anew(int fd, const char *path, const struct sockaddr_un *addr)
{
    int error = handshake_check_address(path);
    if (error < 0)
        return error;
    if (unlink(path) < 0 && errno != ENOENT)
        return -errno;
    return bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 ? -errno : 0;
}

int handshake_listen(const char *path, mode_t mode, int backlog, int *ret_fd)
{
    struct sockaddr_un addr;
    int error = make_address(path, &addr);
    if (error < 0)
        return error;
    auto_close int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    /* Nobody can connect before listen, so the mode is in force before the first client. */
    if (bind(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
        error = errno == EADDRINUSE ? bind_anew(fd, path, &addr) : -errno;
        if (error < 0)
            return error;
    }
    if (chmod(path, mode) < 0 || listen(fd, backlog) < 0) {
        error = -errno;
        unlink(path);
        return error;
    }
    *ret_fd = steal_fd(&fd);
    return 0;
}

int handshake_peer(int fd, struct handshake_peer *ret_peer)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return -errno;
    struct handshake_peer peer = { .pid = cred.pid, .uid = cred.uid, .gid = cred.gid, .pidfd = -1 };
    len = sizeof(peer.pidfd);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &peer.pidfd, &len) < 0) {
        if (errno == ESRCH || errno == EINVAL || errno == ENODATA)
            return -ESRCH;
        if (errno != ENOPROTOOPT)
            return -errno;
        peer.pidfd = (int)syscall(SYS_pidfd_open, cred.pid, 0);
        if (peer.pidfd < 0)
            return -errno;
        /* The number may have been reused: whoever connected must still hold the socket. */
        struct pollfd pfd = { .fd = fd };
        if (poll(&pfd, 1, 0) > 0 && (pfd.revents & (POLLHUP | POLLERR))) {
            close(peer.pidfd);
            return -ESRCH;
        }
    }
    (void)fcntl(peer.pidfd, F_SETFD, FD_CLOEXEC);
    *ret_peer = peer;
    return 0;
}

int handshake_recv_hello(int fd, struct ringlet_hello *ret_hello)
{
    struct ringlet_hello hello;
    int error = receive_exact(fd, &hello, sizeof(hello));
    if (error < 0)
        return error;
    if (hello.magic != RINGLET_MAGIC_HELLO || hello.struct_size != sizeof(hello) ||
        hello.reserved0 != 0 || hello.reserved1 != 0)
        return -EPROTO;
    *ret_hello = hello;
    return 0;
}

int handshake_check_hello(const struct ringlet_hello *hello, uint64_t features, uint16_t *ret_minor,
                          uint64_t *ret_features)
{
    struct layout layout;
    if (hello->abi_major != RINGLET_ABI_MAJOR)
        return -EPROTONOSUPPORT;
    if (hello->features_required & ~features)
        return -ENOTSUP;
    if (hello->flags & ~(uint32_t)RINGLET_HELLO_FLAGS_KNOWN)
        return -EINVAL;
    if (layout_compute(hello->n_slot, hello->prompt_bytes, hello->text_bytes, &layout) < 0)
        return -EINVAL;
    *ret_minor = min_of(hello->abi_minor, (uint16_t)RINGLET_ABI_MINOR);
    *ret_features = (hello->features_wanted | hello->features_required) & features;
    return 0;
}

int handshake_send_welcome(int fd, struct ringlet_welcome *welcome, const int *fds, unsigned n_fd)
{
    assert(n_fd <= RINGLET_N_FD);
    welcome->magic = RINGLET_MAGIC_WELCOME;
    welcome->abi_major = RINGLET_ABI_MAJOR;
    welcome->struct_size = sizeof(*welcome);
    union {
        char bytes[CMSG_SPACE(RINGLET_N_FD * sizeof(int))];
        struct cmsghdr align;
    } control = { 0 };
    struct iovec iov = { .iov_base = welcome, .iov_len = sizeof(*welcome) };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    if (n_fd > 0) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(n_fd * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n_fd * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n_fd * sizeof(int));
    }
    ssize_t n;
    do {
        n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == ECONNRESET ? -EPIPE : -errno;
    return 0;
}

int handshake_recv_attach(int fd, uint64_t session_id)
{
    struct ringlet_attach attach;
    int error = receive_exact(fd, &attach, sizeof(attach));
    if (error < 0)
        return error;
    if (attach.magic != RINGLET_MAGIC_ATTACH || attach.struct_size != sizeof(attach) ||
        attach.session_id != session_id)
        return -EPROTO;
    return 0;
}

int handshake_peek_closed(int fd)
{
    char byte;
    int error = receive_exact(fd, &byte, sizeof(byte));
    if (error == 0)
        return -EPROTO;
    return error == -EAGAIN ? 0 : error == -EPROTO ? -EPROTO : -EPIPE;
}

int handshake_connect(const char *path, uint64_t deadline_ns, int *ret_fd)
{
    struct sockaddr_un addr;
    int error = make_address(path, &addr);
    if (error < 0)
        return error;
    auto_close int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    /* A full listen queue says EAGAIN to a non-blocking connect: come again until the deadline. */
    while (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) < 0) {
        if (errno != EAGAIN && errno != EINTR)
            return -errno;
        if (doorbell_now_ns() >= deadline_ns)
            return -ETIMEDOUT;
        nanosleep(&(struct timespec){ .tv_nsec = RETRY_NS }, NULL);
    }
    int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags & ~O_NONBLOCK) < 0)
        return -errno;
    *ret_fd = steal_fd(&fd);
    return 0;
}

int handshake_send_hello(int fd, struct ringlet_hello *hello)
{
    hello->magic = RINGLET_MAGIC_HELLO;
    hello->abi_major = RINGLET_ABI_MAJOR;
    hello->abi_minor = RINGLET_ABI_MINOR;
    hello->struct_size = sizeof(*hello);
    return send_plain(fd, hello, sizeof(*hello));
}

static int wait_readable(int fd, uint64_t deadline_ns)
{
    for (;;) {
        uint64_t now = doorbell_now_ns();
        if (now >= deadline_ns)
            return -ETIMEDOUT;
        uint64_t ns = min_of(deadline_ns - now, (uint64_t)3600 * 1000000000u);
        struct timespec left = { .tv_sec = (time_t)(ns / 1000000000u),
                                 .tv_nsec = (long)(ns % 1000000000u) };
        struct pollfd pfd = { .fd = fd, .events = POLLIN };
        int n = ppoll(&pfd, 1, &left, NULL);
        if (n > 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return -errno;
    }
}

static int check_welcome(const struct ringlet_welcome *w, ssize_t n, unsigned n_fd, bool observer)
{
    if (n != sizeof(*w) || w->magic != RINGLET_MAGIC_WELCOME || w->struct_size != sizeof(*w) ||
        w->reserved != 0 || w->result > 0)
        return -EPROTO;
    if (w->result < 0)
        return n_fd == 0 ? w->result : -EPROTO;
    if (w->abi_major != RINGLET_ABI_MAJOR || w->abi_minor > RINGLET_ABI_MINOR)
        return -EPROTO;
    return n_fd == (observer ? 1u : (unsigned)RINGLET_N_FD) ? 0 : -EPROTO;
}

int handshake_recv_welcome(int fd, bool observer, uint64_t deadline_ns,
                           struct ringlet_welcome *ret_welcome, int ret_fds[RINGLET_N_FD])
{
    struct ringlet_welcome welcome = { 0 };
    unsigned n_fd;
    for (int i = 0; i < RINGLET_N_FD; i++)
        ret_fds[i] = -1;
    int error = wait_readable(fd, deadline_ns);
    if (error < 0)
        return error;
    ssize_t n = receive(fd, &welcome, sizeof(welcome), MSG_DONTWAIT, ret_fds, RINGLET_N_FD, &n_fd);
    if (n == -ECONNRESET || (n == 0 && n_fd == 0))
        return -EPIPE;
    error = n < 0 ? (int)n : check_welcome(&welcome, n, n_fd, observer);
    if (error < 0) {
        for (int i = 0; i < RINGLET_N_FD; i++) {
            if (ret_fds[i] >= 0)
                close(ret_fds[i]);
            ret_fds[i] = -1;
        }
    }
    if (n == sizeof(welcome) && welcome.magic == RINGLET_MAGIC_WELCOME)
        *ret_welcome = welcome; /* a refusal too: it tells the daemon's version */
    return error;
}

int handshake_send_attach(int fd, uint64_t session_id)
{
    struct ringlet_attach attach = { .magic = RINGLET_MAGIC_ATTACH,
                                     .struct_size = sizeof(attach),
                                     .session_id = session_id };
    return send_plain(fd, &attach, sizeof(attach));
}
