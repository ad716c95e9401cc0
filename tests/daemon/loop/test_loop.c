/* The io_uring loop: edges without reading, accept, ended watches, wakes from threads, timeouts. */
#include "tests/harness/harness.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "daemon/base/arena.h"
#include "daemon/base/clock.h"
#include "daemon/loop/loop.h"

static struct arena *arena;

static struct loop *loop_open(void)
{
    struct loop *loop;
    assert_ok(arena_create(1 << 20, &arena));
    int error = loop_create(64, arena, &loop);
    if (error == -EPERM || error == -ENOSYS)
        skip();
    assert_ok(error);
    return loop;
}

static void loop_close(struct loop *loop)
{
    loop_free(loop);
    arena_free(arena);
}

/* For what must come: the machine may have something else to do. */
#define PATIENCE_NS (60 * NS_PER_S)

static int n_call;
static uint32_t last_events;

static void on_poll(void *context, uint32_t events)
{
    (void)context;
    n_call++;
    last_events = events;
}

TEST(every_write_to_an_eventfd_is_an_edge_that_nobody_reads)
{
    struct loop *loop = loop_open();
    loop_handle h;
    uint64_t one = 1;
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    assert_ok(loop_watch(loop, fd, POLLIN, on_poll, NULL, &h));
    loop_poll(loop);
    for (int i = 1; i <= 5; i++) {
        assert_int_equal(write(fd, &one, 8), 8);
        loop_wait(loop, clock_now_ns() + PATIENCE_NS);
        assert_int_equal(n_call, i);
    }
    loop_unwatch(loop, h);
    assert_int_equal(write(fd, &one, 8), 8);
    loop_wait(loop, clock_now_ns() + 5 * NS_PER_MS);
    assert_int_equal(n_call, 5);
    loop_unwatch(loop, h);
    close(fd);
    loop_close(loop);
}

TEST(a_quiet_poll_does_not_enter_the_kernel)
{
    struct loop *loop = loop_open();
    loop_poll(loop);
    uint64_t before = loop_syscalls(loop);
    for (int i = 0; i < 10000; i++)
        loop_poll(loop);
    assert_int_equal(loop_syscalls(loop), before);
    loop_close(loop);
}

TEST(hangup_of_a_socket_is_told)
{
    struct loop *loop = loop_open();
    loop_handle h;
    int pair[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    assert_ok(loop_watch(loop, pair[0], POLLIN | POLLRDHUP, on_poll, NULL, &h));
    loop_poll(loop);
    close(pair[1]);
    loop_wait(loop, clock_now_ns() + PATIENCE_NS);
    assert_true(n_call >= 1 && last_events & POLLHUP);
    loop_unwatch(loop, h);
    close(pair[0]);
    loop_close(loop);
}

static int accepted[8], n_accepted;

static void on_accept(void *context, int fd)
{
    (void)context;
    if (fd >= 0)
        accepted[n_accepted++] = fd;
}

TEST(connections_are_accepted_until_the_watch_ends)
{
    struct loop *loop = loop_open();
    loop_handle h;
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    snprintf(at.sun_path, sizeof(at.sun_path), "%s/s", harness_tmpdir());
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), peer[3];
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
    assert_int_equal(listen(fd, 16), 0);
    assert_ok(loop_accept(loop, fd, on_accept, NULL, &h));
    for (int i = 0; i < 3; i++) {
        if (i == 2)
            loop_unwatch(loop, h);
        peer[i] = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        assert_int_equal(connect(peer[i], (struct sockaddr *)&at, sizeof(at)), 0);
        if (i < 2)
            loop_wait(loop, clock_now_ns() + PATIENCE_NS);
        else
            loop_wait(loop, clock_now_ns() + 20 * NS_PER_MS);
    }
    assert_int_equal(n_accepted, 2);
    for (int i = 0; i < 3; i++)
        close(peer[i]);
    close(accepted[0]);
    close(accepted[1]);
    close(fd);
    loop_close(loop);
}

static int written;

static void on_write(void *context, int n)
{
    (void)context;
    written = n;
}

TEST(a_write_completes_once)
{
    struct loop *loop = loop_open();
    int pipe_fd[2];
    char got[8] = "";
    assert_int_equal(pipe(pipe_fd), 0);
    assert_ok(loop_write(loop, pipe_fd[1], "hello", 5, on_write, NULL));
    loop_wait(loop, clock_now_ns() + PATIENCE_NS);
    assert_int_equal(written, 5);
    assert_int_equal(read(pipe_fd[0], got, 8), 5);
    assert_string_equal(got, "hello");
    close(pipe_fd[0]);
    close(pipe_fd[1]);
    loop_close(loop);
}

enum { N_WAKE = 3000 };
static uint32_t handed;

static void *hand_over(void *arg)
{
    struct loop *loop = arg;
    for (uint32_t i = 1; i <= N_WAKE; i++) {
        store_release(&handed, i);
        wake_ring(loop_wake(loop));
        if (i % 3 == 0) /* let the loop fall asleep now and then */
            nanosleep(&(struct timespec){ .tv_nsec = 1000 }, NULL);
    }
    return NULL;
}

TEST(no_wake_of_another_thread_is_lost)
{
    struct loop *loop = loop_open();
    pthread_t thread;
    struct wake *wake = loop_wake(loop);
    assert_int_equal(pthread_create(&thread, NULL, hand_over, loop), 0);
    for (uint32_t seen = 0; seen < N_WAKE; seen = load_acquire(&handed)) {
        uint64_t now = clock_now_ns();
        wake_announce(wake);
        if (load_acquire(&handed) == seen)
            loop_wait(loop, now + PATIENCE_NS);
        wake_awake(wake);
        assert_true(clock_now_ns() - now < PATIENCE_NS); /* who is not woken sleeps to the end */
    }
    pthread_join(thread, NULL);
    loop_close(loop);
}

TEST(a_wait_ends_at_its_time)
{
    struct loop *loop = loop_open();
    uint64_t now = clock_now_ns();
    assert_int_equal(loop_wait(loop, now + 20 * NS_PER_MS), 0);
    assert_true(clock_now_ns() >= now + 20 * NS_PER_MS);
    loop_wait(loop, now); /* passed: does not block */
    loop_close(loop);
}

TEST(watches_have_a_bound)
{
    struct loop *loop = loop_open();
    loop_handle h[65];
    int fd = eventfd(0, EFD_CLOEXEC);
    for (int i = 0; i < 64; i++)
        assert_ok(loop_watch(loop, fd, POLLIN, on_poll, NULL, &h[i]));
    assert_int_equal(loop_watch(loop, fd, POLLIN, on_poll, NULL, &h[64]), -ENOSPC);
    loop_unwatch(loop, h[7]);
    assert_ok(loop_watch(loop, fd, POLLIN, on_poll, NULL, &h[64]));
    loop_unwatch(loop, 0);
    close(fd);
    loop_close(loop);
}
