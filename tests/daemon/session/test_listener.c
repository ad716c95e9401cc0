/* Handshakes: who gets in, who waits, who is refused, and that nobody leaves anything behind. */
#include "tests/daemon/session/rig.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/base/clock.h"
#include "daemon/base/pool.h"
#include "shm/handshake.h"

static int refusal(struct rig *r, struct ringlet_hello hello)
{
    int fds[RINGLET_N_FD], fd;
    struct ringlet_welcome w;
    assert_ok(handshake_connect(r->path, clock_now_ns() + RIG_PATIENCE_NS, &fd));
    assert_ok(handshake_send_hello(fd, &hello));
    rig_turn_until(r, fd);
    int error = handshake_recv_welcome(fd, false, clock_now_ns() + RIG_PATIENCE_NS, &w, fds);
    close(fd);
    rig_turn(r, 3);
    return error;
}

TEST(a_client_gets_in_and_out)
{
    struct rig *r = rig_open();
    struct raw_client c;
    raw_connect(r, &c, (struct ringlet_hello){ 0 });
    assert_int_equal(r->all->n_session, 1);
    assert_int_equal(r->all->n_handshake, 0);
    assert_int_equal(rig_session(r)->phase, SESSION_OPEN);
    assert_true(rig_session(r)->hot);
    raw_close(&c);
    rig_turn_to(r, r->all->n_session == 0);
    assert_int_equal(r->n_gone, 1);
    rig_close(r);
}

TEST(hellos_out_of_range_are_refused)
{
    struct rig *r = rig_open();
    assert_int_equal(refusal(r, (struct ringlet_hello){ .n_slot = 17 }), -EINVAL);
    assert_int_equal(refusal(r, (struct ringlet_hello){ .n_slot = 8192 }), -EINVAL);
    assert_int_equal(refusal(r, (struct ringlet_hello){ .prompt_bytes = 4097 }), -EINVAL);
    assert_int_equal(refusal(r, (struct ringlet_hello){ .text_bytes = UINT64_MAX }), -EINVAL);
    assert_int_equal(refusal(r, (struct ringlet_hello){ .flags = 64 }), -EINVAL);
    assert_int_equal(refusal(r, (struct ringlet_hello){ .features_required = 1 }), -ENOTSUP);
    assert_int_equal(r->all->n_connection, 0);
    rig_close(r);
}

TEST(a_users_shared_memory_is_capped)
{
    struct rig *r = rig_open();
    struct raw_client c[4];
    struct ringlet_hello big = { .prompt_bytes = 20 << 20 };
    for (int i = 0; i < 3; i++)
        raw_connect(r, &c[i], big);
    assert_int_equal(refusal(r, big), -EDQUOT);
    raw_close(&c[0]);
    rig_turn_to(r, r->all->n_session == 2);
    raw_connect(r, &c[0], big);
    for (int i = 0; i < 3; i++)
        raw_close(&c[i]);
    rig_turn(r, 5);
    rig_close(r);
}

TEST(memory_on_its_way_back_is_no_reason_to_refuse_for_good)
{
    struct rig *r = rig_open();
    struct raw_client c;
    struct ringlet_hello big = { .prompt_bytes = 40 << 20 };
    raw_connect(r, &c, big);
    session_doom(rig_session(r), RINGLET_SESSION_ERROR_NONE);
    raw_close(&c);
    int fds[RINGLET_N_FD], fd;
    struct ringlet_welcome w;
    assert_ok(handshake_connect(r->path, clock_now_ns() + RIG_PATIENCE_NS, &fd));
    assert_ok(handshake_send_hello(fd, &big));
    sessions_end_doomed(r->all); /* gone, but for memory that is given back in pieces */
    assert_int_equal(r->all->n_session, 0);
    struct pollfd answer = { .fd = fd, .events = POLLIN };
    for (int i = 0; i < RIG_PATIENCE_MS && poll(&answer, 1, 0) == 0; i++)
        loop_wait(r->loop, clock_now_ns() + NS_PER_MS); /* and nothing is given back meanwhile */
    assert_int_equal(handshake_recv_welcome(fd, false, clock_now_ns() + RIG_PATIENCE_NS, &w, fds),
                     -EAGAIN);
    close(fd);
    rig_turn_to(r, r->all->n_connection == 0);
    raw_connect(r, &c, big); /* as the library would, a little later */
    assert_int_equal(refusal(r, big), -EDQUOT);
    raw_close(&c);
    rig_turn_to(r, r->all->n_connection == 0);
    assert_int_equal(r->all->users[0].buried_bytes, 0);
    rig_close(r);
}

TEST(a_users_sessions_are_capped)
{
    struct rig *r = rig_open();
    static struct raw_client c[80];
    struct ringlet_hello small = { .n_slot = 16, .prompt_bytes = 65536, .text_bytes = 65536 };
    for (int i = 0; i < 80; i++)
        raw_connect(r, &c[i], small);
    assert_int_equal(refusal(r, small), -EDQUOT);
    assert_int_equal(r->all->n_hot, LIMIT_SESSIONS_HOT);
    for (int i = 0; i < 80; i++)
        raw_close(&c[i]);
    rig_turn(r, 10);
    rig_close(r);
}

TEST(garbage_instead_of_a_hello_ends_the_connection)
{
    struct rig *r = rig_open();
    static const char garbage[64] = "GET / HTTP/1.1\r\n";
    for (size_t bytes = 1; bytes <= 64; bytes += 21) {
        int fd;
        assert_ok(handshake_connect(r->path, clock_now_ns() + RIG_PATIENCE_NS, &fd));
        assert_int_equal(send(fd, garbage, bytes, 0), bytes);
        rig_turn_until(r, fd); /* its end */
        assert_int_equal(r->all->n_connection, 0);
        close(fd);
    }
    rig_close(r);
}

TEST(a_wrong_attach_ends_the_connection)
{
    struct rig *r = rig_open();
    int fds[RINGLET_N_FD], fd;
    struct ringlet_welcome w;
    struct ringlet_hello hello = { 0 };
    assert_ok(handshake_connect(r->path, clock_now_ns() + RIG_PATIENCE_NS, &fd));
    assert_ok(handshake_send_hello(fd, &hello));
    rig_turn_until(r, fd);
    assert_ok(handshake_recv_welcome(fd, false, clock_now_ns() + RIG_PATIENCE_NS, &w, fds));
    assert_ok(handshake_send_attach(fd, w.session_id + 1));
    rig_turn_to(r, r->all->n_connection == 0);
    for (int i = 0; i < RINGLET_N_FD; i++)
        close(fds[i]);
    close(fd);
    rig_close(r);
}

TEST(half_open_connections_are_bounded_and_time_out)
{
    struct rig *r = rig_open();
    int fd[100], late;
    uint64_t began = clock_now_ns();
    for (int i = 0; i < 100; i++)
        assert_ok(handshake_connect(r->path, clock_now_ns() + RIG_PATIENCE_NS, &fd[i]));
    rig_turn_to(r, r->all->n_connection == 100);
    assert_int_equal(r->all->n_handshake, LIMIT_HANDSHAKES_UID); /* all are this user's */
    assert_true(r->all->n_parked <= 3 * LIMIT_HANDSHAKES);
    rig_let_time_go_on(r);
    rig_turn_to(r, r->all->n_connection == 0);
    assert_true(clock_now_ns() - began >= LIMIT_HANDSHAKE_NS);
    rig_stop_time(r);
    assert_ok(handshake_connect(r->path, clock_now_ns() + RIG_PATIENCE_NS, &late));
    for (int i = 0; i < 100; i++)
        close(fd[i]);
    close(late);
    struct raw_client c;
    raw_connect(r, &c, (struct ringlet_hello){ 0 });
    raw_close(&c);
    rig_turn(r, 5);
    rig_close(r);
}

TEST(parked_connections_get_their_turn)
{
    struct rig *r = rig_open();
    int fd[LIMIT_HANDSHAKES_UID];
    struct raw_client c;
    for (int i = 0; i < LIMIT_HANDSHAKES_UID; i++)
        assert_ok(handshake_connect(r->path, clock_now_ns() + RIG_PATIENCE_NS, &fd[i]));
    rig_turn_to(r, r->all->n_handshake == LIMIT_HANDSHAKES_UID);
    struct ringlet_hello hello = { 0 };
    assert_ok(handshake_connect(r->path, clock_now_ns() + RIG_PATIENCE_NS, &c.fd));
    assert_ok(handshake_send_hello(c.fd, &hello));
    rig_turn_to(r, r->all->n_parked == 1);
    close(fd[3]);
    rig_turn_to(r, r->all->n_parked == 0);
    int fds[RINGLET_N_FD];
    rig_turn_until(r, c.fd);
    assert_ok(
        handshake_recv_welcome(c.fd, false, clock_now_ns() + RIG_PATIENCE_NS, &c.welcome, fds));
    for (int i = 0; i < RINGLET_N_FD; i++)
        close(fds[i]);
    close(c.fd);
    for (int i = 0; i < LIMIT_HANDSHAKES_UID; i++)
        if (i != 3)
            close(fd[i]);
    rig_turn(r, 10);
    rig_close(r);
}

TEST(a_users_observers_are_capped)
{
    struct rig *r = rig_open();
    static int fd[LIMIT_OBSERVERS_UID];
    struct ringlet_hello hello = { .flags = RINGLET_HELLO_OBSERVER };
    for (int i = 0; i < LIMIT_OBSERVERS_UID; i++) {
        int fds[RINGLET_N_FD];
        struct ringlet_welcome w;
        assert_ok(handshake_connect(r->path, clock_now_ns() + RIG_PATIENCE_NS, &fd[i]));
        assert_ok(handshake_send_hello(fd[i], &hello));
        rig_turn_until(r, fd[i]);
        assert_ok(handshake_recv_welcome(fd[i], true, clock_now_ns() + RIG_PATIENCE_NS, &w, fds));
        close(fds[0]);
        assert_ok(handshake_send_attach(fd[i], w.session_id));
        rig_turn(r, 1);
    }
    assert_int_equal(refusal(r, hello), -EDQUOT);
    struct raw_client c; /* a session is another matter */
    raw_connect(r, &c, (struct ringlet_hello){ 0 });
    raw_close(&c);
    for (int i = 0; i < LIMIT_OBSERVERS_UID; i++)
        close(fd[i]);
    rig_turn_to(r, r->all->n_connection == 0);
    assert_int_equal(r->all->n_observer, 0);
    rig_close(r);
}

TEST(a_flood_of_connections_is_not_refused_while_it_waits)
{
    struct rig *r = rig_open();
    enum { N = 300 }; /* more than are worked on and parked: the rest stays in the listen queue */
    static int fd[N];
    for (int i = 0; i < N; i++)
        assert_ok(handshake_connect(r->path, clock_now_ns() + RIG_PATIENCE_NS, &fd[i]));
    rig_turn_to(r, r->all->n_parked == LIMIT_PARKED);
    assert_true(r->all->n_connection <= LIMIT_HANDSHAKES + LIMIT_PARKED);
    for (int i = 0; i < N; i++) {
        struct pollfd pfd = { .fd = fd[i], .events = POLLIN };
        assert_int_equal(poll(&pfd, 1, 0), 0); /* neither closed nor told anything */
    }
    for (int i = 0; i < N; i++)
        close(fd[i]);
    rig_let_time_go_on(r); /* the rest of them is let in after a while */
    rig_turn_to(r, r->all->n_connection == 0);
    rig_close(r);
}

/* Connections that say nothing, of another user: the kernel tells who we were when we connected. */
static void connect_as(struct rig *r, uid_t uid, int *fds, int n)
{
    assert_ok(seteuid(uid));
    for (int i = 0; i < n; i++)
        assert_ok(handshake_connect(r->path, clock_now_ns() + RIG_PATIENCE_NS, &fds[i]));
    assert_ok(seteuid(0));
}

static struct rig *open_for_all(void)
{
    struct rlimit limit;
    if (geteuid() != 0)
        skip();
    struct rig *r = rig_open();
    rig_let_time_go_on(r); /* who is sorted out goes by a timer */
    assert_ok(chmod(harness_tmpdir(), 0755));
    assert_ok(chmod(r->path, 0666));
    assert_ok(seteuid(65534));
    int error = faccessat(AT_FDCWD, r->path, W_OK, AT_EACCESS);
    assert_ok(seteuid(0));
    if (error) { /* in a folder that others may not enter */
        rig_close(r);
        skip();
    }
    assert_ok(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = limit.rlim_max;
    assert_ok(setrlimit(RLIMIT_NOFILE, &limit));
    return r;
}

/* Nobody's time runs out, however slow the machine is. */
static void turn_without_time(struct rig *r)
{
    rig_turn(r, 1);
    for (uint32_t i = 0; i < pool_size(r->all->pool); i++) {
        struct session *s = pool_get(r->all->pool, i, pool_generation(r->all->pool, i));
        if (s)
            timer_drop(&r->wheel, &s->timer);
    }
}

#define turn_without_time_to(r, condition)                                                         \
    do {                                                                                           \
        for (int i_ = 0; i_ < 60000 && !(condition); i_++)                                         \
            turn_without_time(r);                                                                  \
        assert_true(condition);                                                                    \
    } while (0)

static void close_all(int *fds, int n)
{
    for (int i = 0; i < n; i++)
        close(fds[i]);
}

TEST(a_flood_of_one_user_keeps_no_other_out)
{
    enum { N = 700 };
    static int fd[N];
    struct rig *r = open_for_all();
    struct raw_client c;
    assert_ok(listen(r->listen_fd, 2 * N));
    connect_as(r, 65534, fd, N);
    turn_without_time_to(r, r->all->n_parked == LIMIT_PARKED);
    raw_connect(r, &c, (struct ringlet_hello){ 0 }); /* behind all of them in the listen queue */
    assert_int_equal(rig_session(r)->user->uid, 0);
    raw_close(&c);
    close_all(fd, N);
    rig_turn_to(r, r->all->n_connection == 0);
    rig_close(r);
}

TEST(of_a_full_waiting_room_the_newest_of_whom_most_are_there_go)
{
    enum { MORE = LIMIT_PARKED + LIMIT_HANDSHAKES_UID, FEW = 20 + LIMIT_HANDSHAKES_UID };
    static int many[MORE], few[FEW];
    struct rig *r = open_for_all();
    struct session *first = NULL;
    connect_as(r, 65534, many, MORE);
    turn_without_time_to(r, r->all->n_parked == LIMIT_PARKED);
    first = list_first(&r->all->parked, struct session, parked_node);
    uint32_t first_id = first->id;
    connect_as(r, 65533, few, FEW);
    turn_without_time_to(r, r->all->n_handshake == 2 * LIMIT_HANDSHAKES_UID &&
                                r->all->users[0].n_parked == LIMIT_PARKED - 20);
    assert_int_equal(r->all->n_parked, LIMIT_PARKED);
    assert_int_equal(r->all->users[1].n_parked, 20);
    first = list_first(&r->all->parked, struct session, parked_node);
    assert_int_equal(first->id, first_id); /* who has waited longest waits on */
    for (int i = 0; i < MORE; i++) {
        struct pollfd pfd = { .fd = many[i], .events = POLLIN };
        assert_int_equal(poll(&pfd, 1, 0), i >= MORE - 20);
    }
    close_all(many, MORE);
    close_all(few, FEW);
    rig_turn_to(r, r->all->n_connection == 0);
    assert_int_equal(r->all->n_parked, 0);
    rig_close(r);
}

TEST(the_next_place_is_for_the_user_with_the_fewest)
{
    enum { USERS = LIMIT_HANDSHAKES / LIMIT_HANDSHAKES_UID, EACH = LIMIT_HANDSHAKES_UID + 4 };
    static int fd[USERS][EACH];
    struct rig *r = open_for_all();
    struct raw_client c;
    struct ringlet_hello hello = { 0 };
    int fds[RINGLET_N_FD];
    for (int i = 0; i < USERS; i++)
        connect_as(r, (uid_t)(60000 + i), fd[i], EACH);
    turn_without_time_to(r,
                         r->all->n_handshake == LIMIT_HANDSHAKES && r->all->n_parked == 4 * USERS);
    assert_ok(handshake_connect(r->path, clock_now_ns() + RIG_PATIENCE_NS, &c.fd));
    assert_ok(handshake_send_hello(c.fd, &hello));
    turn_without_time_to(r, r->all->n_parked == 4 * USERS + 1);
    close(fd[2][0]); /* its own user waits for the place, too, and has waited longer */
    rig_turn_until(r, c.fd);
    assert_ok(
        handshake_recv_welcome(c.fd, false, clock_now_ns() + RIG_PATIENCE_NS, &c.welcome, fds));
    close_all(fds, RINGLET_N_FD);
    close(c.fd);
    for (int i = 0; i < USERS; i++)
        close_all(fd[i] + (i == 2), EACH - (i == 2));
    rig_turn_to(r, r->all->n_connection == 0);
    rig_close(r);
}

TEST(what_a_users_clients_do_fills_no_log)
{
    struct rig *r = rig_open();
    struct raw_client c;
    raw_connect(r, &c, (struct ringlet_hello){ 0 });
    struct session_uid *user = rig_session(r)->user;
    unsigned n = 0;
    for (int i = 0; i < 10000; i++)
        n += session_may_log(r->all, user);
    assert_int_equal(n, LIMIT_LOG_BURST_UID);
    assert_int_equal(user->n_unlogged, 10000 - LIMIT_LOG_BURST_UID);
    r->all->now_ns += 2 * NS_PER_S;
    assert_true(session_may_log(r->all, user));
    assert_int_equal(user->n_unlogged, 0); /* and was told */
    raw_close(&c);
    rig_turn(r, 5);
    rig_close(r);
}
