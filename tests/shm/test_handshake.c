/* The three messages, what comes instead of them, and descriptors that nobody asked for. */
#include "shm/handshake.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/compiler.h"
#include "shm/doorbell.h"
#include "tests/harness/harness.h"

static int fd_count(void)
{
    int n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static void make_pair(int fds[2])
{
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
}

static void send_with_fds(int fd, const void *buf, size_t bytes, int n_fd)
{
    union {
        char bytes[CMSG_SPACE(16 * sizeof(int))];
        struct cmsghdr align;
    } control = { 0 };
    struct iovec iov = { (void *)(uintptr_t)buf, bytes };
    struct msghdr msg = { .msg_iov = &iov,
                          .msg_iovlen = 1,
                          .msg_control = control.bytes,
                          .msg_controllen = CMSG_SPACE((size_t)n_fd * sizeof(int)) };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN((size_t)n_fd * sizeof(int));
    for (int i = 0; i < n_fd; i++)
        memcpy(CMSG_DATA(c) + (size_t)i * sizeof(int), &(int){ 0 }, sizeof(int));
    assert_int_equal(sendmsg(fd, &msg, 0), (ssize_t)bytes);
}

TEST(handshake_whole_over_a_socket_file)
{
    char path[128];
    int listen_fd, client, server, error;
    snprintf(path, sizeof(path), "%s/s", harness_tmpdir());
    assert_int_equal(handshake_connect(path, 0, &client), -ENOENT);
    assert_ok(handshake_check_address(path));
    assert_int_equal(handshake_connect(path, 0, &client), -ENOENT); /* nothing was made */
    assert_ok(handshake_listen(path, 0600, 8, &listen_fd));
    assert_int_equal(handshake_listen(path, 0600, 8, &error), -EADDRINUSE);
    assert_ok(handshake_connect(path, UINT64_MAX, &client));
    server = accept(listen_fd, NULL, NULL);
    if (server >= 0) /* the probe of the second listen came first */
        close(server);
    server = accept(listen_fd, NULL, NULL);
    assert_true(server >= 0);
    struct handshake_peer peer;
    assert_ok(handshake_peer(server, &peer));
    assert_int_equal(peer.pid, getpid());
    assert_int_equal(peer.uid, getuid());
    struct pollfd pfd = { .fd = peer.pidfd, .events = POLLIN };
    assert_int_equal(poll(&pfd, 1, 0), 0);
    close(peer.pidfd);
    struct ringlet_hello hello = { .n_slot = 128 }, got;
    assert_int_equal(handshake_recv_hello(server, &got), -EAGAIN);
    assert_ok(handshake_send_hello(client, &hello));
    assert_ok(handshake_recv_hello(server, &got));
    assert_int_equal(got.n_slot, 128);
    struct ringlet_welcome w = { .session_id = 42 }, back;
    int out[RINGLET_N_FD] = { 0, 1, 2, 0, 1 }, in[RINGLET_N_FD];
    assert_ok(handshake_send_welcome(server, &w, out, RINGLET_N_FD));
    assert_ok(handshake_recv_welcome(client, false, UINT64_MAX, &back, in));
    assert_int_equal(back.session_id, 42);
    for (int i = 0; i < RINGLET_N_FD; i++) {
        assert_true(fcntl(in[i], F_GETFD) & FD_CLOEXEC);
        close(in[i]);
    }
    assert_ok(handshake_send_attach(client, 42));
    assert_ok(handshake_recv_attach(server, 42));
    assert_ok(handshake_peek_closed(server));
    assert_int_equal(send(client, "x", 1, 0), 1);
    assert_int_equal(handshake_peek_closed(server), -EPROTO);
    close(client);
    assert_int_equal(handshake_peek_closed(server), -EPIPE);
    close(server);
    close(listen_fd);
    assert_int_equal(handshake_connect(path, UINT64_MAX, &client), -ECONNREFUSED);
    assert_ok(handshake_listen(path, 0600, 8, &listen_fd)); /* the stale file is replaced */
    close(listen_fd);
}

TEST(handshake_listen_leaves_other_files_alone)
{
    char path[128];
    int fd;
    snprintf(path, sizeof(path), "%s/file", harness_tmpdir());
    fclose(fopen(path, "w"));
    assert_int_equal(handshake_listen(path, 0600, 8, &fd), -EADDRINUSE);
    assert_int_equal(access(path, F_OK), 0);
    char longer[200];
    memset(longer, 'a', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = 0;
    assert_int_equal(handshake_listen(longer, 0600, 8, &fd), -ENAMETOOLONG);
}

/* As io_uring does for a moment after a kill: a dead process's socket still listens. */
TEST(handshake_listen_waits_for_the_socket_of_a_dead_process)
{
    char path[128];
    int fd, status;
    snprintf(path, sizeof(path), "%s/dead", harness_tmpdir());
    pid_t owner = fork();
    if (owner == 0) {
        if (handshake_listen(path, 0600, 8, &fd) < 0)
            _exit(1);
        pid_t keeper = fork();
        if (keeper != 0)
            _exit(keeper < 0);
        struct pollfd knock = { .fd = fd, .events = POLLIN };
        poll(&knock, 1, 10000); /* holds the socket until somebody looks whether it is alive */
        _exit(0);
    }
    assert_int_equal(waitpid(owner, &status, 0), owner);
    assert_int_equal(status, 0);
    assert_ok(handshake_listen(path, 0600, 8, &fd));
    close(fd);
}

TEST(handshake_connect_waits_for_a_full_queue_until_its_deadline)
{
    char path[128];
    int listen_fd, fds[64], n = 0;
    snprintf(path, sizeof(path), "%s/s", harness_tmpdir());
    assert_ok(handshake_listen(path, 0600, 1, &listen_fd));
    while (n < 64 && handshake_connect(path, 0, &fds[n]) == 0)
        n++;
    assert_in_range(n, 1, 8);
    uint64_t before = doorbell_now_ns();
    assert_int_equal(handshake_connect(path, before + 20000000, &fds[63]), -ETIMEDOUT);
    assert_true(doorbell_now_ns() - before >= 20000000);
    while (n > 0)
        close(fds[--n]);
    close(listen_fd);
}

TEST(handshake_closes_descriptors_that_a_client_sends)
{
    int fds[2], before;
    struct ringlet_hello got, hello = { .magic = RINGLET_MAGIC_HELLO, .struct_size = sizeof(got) };
    make_pair(fds);
    before = fd_count();
    send_with_fds(fds[0], &hello, sizeof(hello), 16);
    assert_int_equal(handshake_recv_hello(fds[1], &got), -EPROTO);
    send_with_fds(fds[0], "", 1, 3);
    assert_int_equal(handshake_peek_closed(fds[1]), -EPROTO);
    send_with_fds(fds[0], &hello, 16, 2);
    assert_int_equal(handshake_recv_attach(fds[1], 1), -EPROTO);
    assert_int_equal(fd_count(), before);
    close(fds[0]);
    close(fds[1]);
}

TEST(handshake_hello_of_a_wrong_shape_is_refused)
{
    int fds[2];
    struct ringlet_hello good = { .magic = RINGLET_MAGIC_HELLO, .struct_size = sizeof(good) }, got;
    char longer[100] = { 0 };
    make_pair(fds);
    assert_int_equal(send(fds[0], &good, sizeof(good) - 1, 0), sizeof(good) - 1);
    assert_int_equal(handshake_recv_hello(fds[1], &got), -EPROTO);
    memcpy(longer, &good, sizeof(good));
    assert_int_equal(send(fds[0], longer, sizeof(longer), 0), sizeof(longer));
    assert_int_equal(handshake_recv_hello(fds[1], &got), -EPROTO);
    for (int i = 0; i < 4; i++) {
        struct ringlet_hello bad = good;
        bad.magic += i == 0;
        bad.struct_size += i == 1;
        bad.reserved0 += i == 2;
        bad.reserved1 += i == 3;
        assert_int_equal(send(fds[0], &bad, sizeof(bad), 0), sizeof(bad));
        assert_int_equal(handshake_recv_hello(fds[1], &got), -EPROTO);
    }
    assert_int_equal(send(fds[0], "", 0, 0), 0);
    assert_int_equal(handshake_recv_hello(fds[1], &got), -EPIPE);
    close(fds[0]);
    assert_int_equal(handshake_recv_hello(fds[1], &got), -EPIPE);
    close(fds[1]);
}

TEST(handshake_negotiates_versions_and_features)
{
    struct ringlet_hello h = { .abi_major = RINGLET_ABI_MAJOR, .abi_minor = 9, .n_slot = 64 };
    uint16_t minor;
    uint64_t features;
    h.features_wanted = 6;
    h.features_required = 2;
    assert_ok(handshake_check_hello(&h, 3, &minor, &features));
    assert_int_equal(minor, RINGLET_ABI_MINOR);
    assert_int_equal(features, 2);
    h.features_required = 4;
    assert_int_equal(handshake_check_hello(&h, 3, &minor, &features), -ENOTSUP);
    h.features_required = 0;
    h.flags = 4;
    assert_int_equal(handshake_check_hello(&h, 3, &minor, &features), -EINVAL);
    h.flags = 0;
    h.n_slot = 65;
    assert_int_equal(handshake_check_hello(&h, 3, &minor, &features), -EINVAL);
    h.abi_major++;
    assert_int_equal(handshake_check_hello(&h, 3, &minor, &features), -EPROTONOSUPPORT);
}

TEST(handshake_welcome_with_too_few_descriptors_leaves_none_open)
{
    int fds[2], in[RINGLET_N_FD], out[RINGLET_N_FD] = { 0, 0, 0, 0, 0 };
    struct ringlet_welcome w = { 0 }, got;
    make_pair(fds);
    int before = fd_count();
    for (unsigned n = 0; n < RINGLET_N_FD; n++) {
        assert_ok(handshake_send_welcome(fds[0], &w, out, n));
        assert_int_equal(handshake_recv_welcome(fds[1], false, UINT64_MAX, &got, in), -EPROTO);
    }
    w.result = -EDQUOT;
    assert_ok(handshake_send_welcome(fds[0], &w, NULL, 0));
    assert_int_equal(handshake_recv_welcome(fds[1], false, UINT64_MAX, &got, in), -EDQUOT);
    assert_int_equal(handshake_recv_welcome(fds[1], false, doorbell_now_ns() + 1000000, &got, in),
                     -ETIMEDOUT);
    assert_int_equal(fd_count(), before);
    close(fds[0]);
    assert_int_equal(handshake_recv_welcome(fds[1], false, UINT64_MAX, &got, in), -EPIPE);
    close(fds[1]);
}
