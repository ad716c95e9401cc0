/*
 * The descriptor in a caller's own event loop: epoll, level- and edge-triggered, and io_uring. No
 * event is lost between arming and blocking, the loop blocks while nothing is there, and the
 * daemon's death ends the wait.
 */
#include "tests/e2e/e2e.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <sys/epoll.h>
#include <unistd.h>

enum { CLIENTS = 3, REQUESTS = 200, PATIENCE_MS = E2E_PATIENCE_NS / 1000000 };

static struct e2e_daemon d;

/* A stop of this process may end the wait early. */
static int wait_for(int ep, struct epoll_event *got, int n_most, int ms)
{
    int n;
    do
        n = epoll_wait(ep, got, n_most, ms);
    while (n < 0 && errno == EINTR);
    return n;
}

struct looping {
    struct ringlet_client *cl;
    int n_sent, n_end, n_lost;
    size_t text_bytes;
};

static void send_one(struct looping *l)
{
    struct ringlet_request req = e2e_text("twelve bytes");
    assert_ok(ringlet_submit(l->cl, &req, NULL));
    l->n_sent++;
}

/* Everything that is there, and a new request for each that ended; then armed. False: lost. */
static bool drain(struct looping *l)
{
    struct ringlet_event ev;
    for (;;) {
        int error = ringlet_peek(l->cl, &ev);
        if (error == -EPIPE)
            return false;
        if (error == -EAGAIN) {
            error = ringlet_arm(l->cl);
            if (error == 0)
                return true;
            assert_int_equal(error, -EALREADY);
            continue;
        }
        assert_ok(error);
        l->text_bytes += ev.text_bytes;
        l->n_lost += ev.reason == RINGLET_REASON_DAEMON_LOST;
        l->n_end += ev.flags & RINGLET_CQE_END;
        bool more = ev.flags & RINGLET_CQE_END && l->n_sent < REQUESTS && !l->n_lost;
        ringlet_advance(l->cl);
        if (more)
            send_one(l);
    }
}

static void begin(struct looping *l)
{
    memset(l, 0, sizeof(*l));
    l->cl = e2e_connect(&d);
    send_one(l);
    send_one(l);
    assert_true(drain(l));
}

static int n_ended(const struct looping *all)
{
    int n = 0;
    for (int i = 0; i < CLIENTS; i++)
        n += all[i].n_end;
    return n;
}

static void check_and_close(struct looping *all)
{
    for (int i = 0; i < CLIENTS; i++) {
        assert_int_equal(all[i].n_end, REQUESTS);
        assert_int_equal(all[i].text_bytes, REQUESTS * strlen("twelve bytes"));
        ringlet_close(all[i].cl);
    }
}

static void serve_by_epoll(uint32_t events)
{
    static struct looping all[CLIENTS];
    struct epoll_event event, got[CLIENTS];
    int ep = epoll_create1(EPOLL_CLOEXEC), n_wake = 0;
    e2e_start(&d, NULL);
    for (int i = 0; i < CLIENTS; i++) {
        begin(&all[i]);
        event = (struct epoll_event){ .events = events, .data.u32 = (uint32_t)i };
        assert_ok(epoll_ctl(ep, EPOLL_CTL_ADD, ringlet_fd(all[i].cl), &event));
    }
    while (n_ended(all) < CLIENTS * REQUESTS) {
        int n = wait_for(ep, got, CLIENTS, PATIENCE_MS);
        if (n == 0)
            fail_msg("asleep with %d of %d answers", n_ended(all), CLIENTS * REQUESTS);
        n_wake++;
        for (int i = 0; i < n; i++)
            assert_true(drain(&all[got[i].data.u32]));
    }
    /* All is read: nothing wakes it, but for a bell that was on its way to each meanwhile. */
    for (int n, n_late = 0; (n = wait_for(ep, got, CLIENTS, 20)) > 0;) {
        n_late += n;
        assert_true(n_late <= CLIENTS);
        for (int i = 0; i < n; i++)
            assert_true(drain(&all[got[i].data.u32]));
    }
    assert_true(n_wake > 0);
    check_and_close(all);
    close(ep);
    e2e_stop(&d);
}

TEST(epoll_level_triggered_misses_nothing)
{
    serve_by_epoll(EPOLLIN);
}

TEST(epoll_edge_triggered_misses_nothing)
{
    serve_by_epoll(EPOLLIN | EPOLLET);
}

/* One-shot polls: armed anew after each drain. */
TEST(io_uring_misses_nothing)
{
    static struct looping all[CLIENTS];
    struct __kernel_timespec patience = { .tv_sec = PATIENCE_MS / 1000 };
    struct io_uring_cqe *cqe;
    struct io_uring ring;
    assert_ok(io_uring_queue_init(16, &ring, 0));
    e2e_start(&d, NULL);
    for (int i = 0; i < CLIENTS; i++) {
        begin(&all[i]);
        struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
        io_uring_prep_poll_add(sqe, ringlet_fd(all[i].cl), POLLIN);
        io_uring_sqe_set_data(sqe, &all[i]);
    }
    while (n_ended(all) < CLIENTS * REQUESTS) {
        int n = io_uring_submit_and_wait_timeout(&ring, &cqe, 1, &patience, NULL);
        if (n < 0 && n != -EINTR)
            fail_msg("%s with %d of %d answers", strerror(-n), n_ended(all), CLIENTS * REQUESTS);
        while (io_uring_peek_cqe(&ring, &cqe) == 0) {
            struct looping *l = io_uring_cqe_get_data(cqe);
            assert_true(cqe->res & POLLIN);
            io_uring_cqe_seen(&ring, cqe);
            assert_true(drain(l));
            struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
            io_uring_prep_poll_add(sqe, ringlet_fd(l->cl), POLLIN);
            io_uring_sqe_set_data(sqe, l);
        }
    }
    check_and_close(all);
    io_uring_queue_exit(&ring);
    e2e_stop(&d);
}

/* A daemon and a session that waits for nothing. Returns: an epoll of its descriptor, by edges. */
static int begin_by_edges(struct looping *l)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLET };
    int ep = epoll_create1(EPOLL_CLOEXEC);
    e2e_start(&d, NULL);
    memset(l, 0, sizeof(*l));
    l->cl = e2e_connect(&d);
    assert_true(drain(l));
    assert_ok(epoll_ctl(ep, EPOLL_CTL_ADD, ringlet_fd(l->cl), &event));
    return ep;
}

/* Its death is one more edge, which brings the end of what was asked. */
static void end_by_edges(struct looping *l, int ep)
{
    struct epoll_event got;
    assert_int_equal(wait_for(ep, &got, 1, PATIENCE_MS), 1);
    assert_false(drain(l));
    assert_int_equal(l->n_end, 1);
    ringlet_close(l->cl);
    close(ep);
}

TEST(a_dead_daemon_ends_the_callers_wait)
{
    static struct looping l;
    struct epoll_event got;
    int ep = begin_by_edges(&l);
    e2e_pause(&d);
    send_one(&l); /* it will never be answered */
    assert_int_equal(wait_for(ep, &got, 1, 20), 0);
    kill(d.pid, SIGKILL);
    end_by_edges(&l, ep);
    assert_int_equal(l.n_lost, 1);
    e2e_wait(&d);
}

/* The bell and the end of file are one edge: what is read of it must not hide the rest. */
TEST(a_daemon_that_dies_right_behind_its_bell_is_seen)
{
    static struct looping l;
    int ep = begin_by_edges(&l);
    struct pollfd bell = { .fd = ringlet_fd(l.cl), .events = POLLIN };
    l.n_sent = REQUESTS; /* no more after this one */
    send_one(&l);
    assert_int_equal(poll(&bell, 1, PATIENCE_MS), 1);
    kill(d.pid, SIGKILL);
    e2e_wait(&d);
    end_by_edges(&l, ep);
}
