/* Connect, refuse, lose, reconnect, fork. */
#include "ringlet.h"

#include <errno.h>
#include <sys/wait.h>
#include <unistd.h>

#include "shm/doorbell.h"
#include "tests/client/fake_daemon.h"
#include "tests/harness/harness.h"

static const char *path(void)
{
    static char p[128];
    snprintf(p, sizeof(p), "%s/s", harness_tmpdir());
    return p;
}

static struct ringlet_options options(void)
{
    struct ringlet_options o;
    ringlet_options_init(&o);
    o.socket_path = path();
    o.timeout_ns = o.heartbeat_ns = RINGLET_FOREVER; /* this machine may be busy */
    return o;
}

static struct ringlet_request text(const char *s)
{
    struct ringlet_request req;
    ringlet_request_init(&req);
    req.text = s;
    req.text_bytes = strlen(s);
    return req;
}

TEST(connect_names_the_missing_daemon)
{
    struct ringlet_options o = options();
    struct ringlet_client *cl = NULL;
    assert_int_equal(ringlet_connect(&o, &cl), -ENOENT);
    assert_null(cl);
    setenv("RINGLET_SOCKET", "/nonexistent/socket", 1);
    assert_int_equal(ringlet_connect(NULL, &cl), -ENOENT);
    unsetenv("RINGLET_SOCKET");
    setenv("XDG_RUNTIME_DIR", "/nonexistent", 1);
    assert_int_equal(ringlet_connect(NULL, &cl), -ENOENT);
    char longer[300];
    memset(longer, 'a', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = 0;
    o.socket_path = longer;
    assert_int_equal(ringlet_connect(&o, &cl), -ENAMETOOLONG);
}

TEST(connect_refuses_options_that_cannot_be)
{
    struct ringlet_client *cl;
    for (int i = 0; i < 7; i++) {
        struct ringlet_options o = options();
        o.struct_size -= i == 0;
        o.flags |= i == 1 ? 64 : 0;
        o.n_slot = i == 2 ? 63 : 0;
        o.prompt_bytes = i == 3 ? UINT64_MAX : 0;
        o.text_bytes = i == 4 ? 100 : 0;
        o.reserved0 = i == 5;
        o.reserved1[2] = i == 6;
        assert_int_equal(ringlet_connect(&o, &cl), -EINVAL);
    }
}

TEST(connect_passes_the_refusal_on)
{
    struct fake_options f = { .refuse = -EDQUOT };
    struct fake_daemon *d = fake_daemon_start(path(), &f);
    struct ringlet_options o = options();
    struct ringlet_client *cl;
    assert_int_equal(ringlet_connect(&o, &cl), -EDQUOT);
    assert_int_equal(fake_daemon_hellos(d), 1); /* that would not change by asking again */
    fake_daemon_kill(d);
}

TEST(connect_comes_again_while_the_daemon_is_full)
{
    struct fake_options f = { .refuse = -EAGAIN, .refuse_times = 4 };
    struct fake_daemon *d = fake_daemon_start(path(), &f);
    struct ringlet_options o = options();
    struct ringlet_client *cl;
    assert_ok(ringlet_connect(&o, &cl));
    assert_int_equal(fake_daemon_hellos(d), 5);
    ringlet_close(cl);
    fake_daemon_kill(d);
}

TEST(connect_comes_again_after_a_handshake_that_was_cut_off)
{
    struct fake_options f = { .hang_up_times = 3 };
    struct fake_daemon *d = fake_daemon_start(path(), &f);
    struct ringlet_options o = options();
    struct ringlet_client *cl;
    for (int i = 0; i < 2; i++) {
        o.flags = i ? (uint32_t)RINGLET_OBSERVER : 0;
        assert_ok(ringlet_connect(&o, &cl));
        assert_int_equal(fake_daemon_hellos(d), 4 + i);
        ringlet_close(cl);
    }
    fake_daemon_kill(d);
}

TEST(connect_comes_again_until_its_deadline_only)
{
    struct fake_options f = { .refuse = -EAGAIN };
    struct fake_daemon *d = fake_daemon_start(path(), &f);
    struct ringlet_options o = options();
    struct ringlet_client *cl = NULL;
    o.timeout_ns = 30000000;
    int error = ringlet_connect(&o, &cl); /* for ever, if it did not look at the time */
    assert_true(error == -EAGAIN || error == -ETIMEDOUT);
    assert_null(cl);
    fake_daemon_kill(d);
}

TEST(connect_and_close_leave_nothing)
{
    struct fake_daemon *d = fake_daemon_start(path(), NULL);
    struct ringlet_options o = options();
    for (int i = 0; i < 50; i++) {
        struct ringlet_client *cl;
        o.n_slot = 16u << i % 5;
        o.flags = i % 3 == 0 ? (uint32_t)RINGLET_SHARED : 0;
        assert_ok(ringlet_connect(&o, &cl));
        struct ringlet_request req = text("hang"); /* open at the close */
        assert_ok(ringlet_submit(cl, &req, NULL));
        ringlet_close(cl);
    }
    ringlet_close(NULL);
    fake_daemon_kill(d); /* the harness counts descriptors, ASan memory */
}

TEST(connect_as_observer_sees_models_but_takes_no_requests)
{
    struct fake_daemon *d = fake_daemon_start(path(), NULL);
    struct ringlet_options o = options();
    struct ringlet_client *cl;
    struct ringlet_event ev;
    struct ringlet_model_info m;
    o.flags = RINGLET_OBSERVER;
    assert_ok(ringlet_connect(&o, &cl));
    assert_ok(ringlet_model(cl, NULL, &m));
    assert_string_equal(m.name, "echo");
    struct ringlet_request req = text("x");
    assert_int_equal(ringlet_submit(cl, &req, NULL), -ENOTCONN);
    assert_int_equal(ringlet_peek(cl, &ev), -ENOTCONN);
    assert_int_equal(ringlet_fd(cl), -ENOTCONN);
    ringlet_close(cl);
    fake_daemon_kill(d);
}

/* All events until every one of n requests has ended; returns how many ended as lost. */
static int drain(struct ringlet_client *cl, int n)
{
    struct ringlet_event ev;
    int lost = 0;
    while (n > 0) {
        assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
        if (ev.flags & RINGLET_CQE_END) {
            n--;
            lost += ev.reason == RINGLET_REASON_DAEMON_LOST;
        }
        ringlet_advance(cl);
    }
    return lost;
}

TEST(reconnect_after_death_ends_each_open_request_once)
{
    for (int spin = 0; spin < 3; spin++) {
        struct fake_daemon *d = fake_daemon_start(path(), NULL);
        struct ringlet_options o = options();
        struct ringlet_client *cl;
        struct ringlet_event ev;
        o.spin_ns = spin == 0 ? 0 : spin == 1 ? 50000 : RINGLET_FOREVER;
        assert_ok(ringlet_connect(&o, &cl));
        struct ringlet_request req = text("hang");
        uint64_t id, seen = 0;
        for (uint64_t i = 0; i < 5; i++) {
            req.tag = i;
            assert_ok(ringlet_submit(cl, &req, &id));
        }
        fake_daemon_kill(d);
        for (int i = 0; i < 3; i++) { /* two more come out after the reconnect */
            assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
            if (ev.kind == RINGLET_KIND_ACCEPTED) {
                i--;
            } else {
                assert_int_equal(ev.reason, RINGLET_REASON_DAEMON_LOST);
                assert_int_equal(ev.flags, RINGLET_CQE_END);
                assert_null(ev.annex);
                seen |= 1u << ev.tag;
            }
            ringlet_advance(cl);
        }
        assert_int_equal(ringlet_submit(cl, &req, &id), -EPIPE);
        assert_int_equal(ringlet_reconnect(cl), -ECONNREFUSED);
        d = fake_daemon_start(path(), NULL);
        assert_ok(ringlet_reconnect(cl));
        req = text("again");
        req.tag = 9;
        assert_ok(ringlet_submit(cl, &req, &id));
        for (int ends = 0; ends < 3; ringlet_advance(cl)) {
            assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
            if (!(ev.flags & RINGLET_CQE_END))
                continue;
            ends++;
            assert_false(seen & 1u << ev.tag);
            seen |= 1u << ev.tag;
            assert_int_equal(ev.reason,
                             ev.tag == 9 ? RINGLET_REASON_LENGTH : RINGLET_REASON_DAEMON_LOST);
        }
        assert_int_equal(seen, 0x21F);
        assert_int_equal(ringlet_peek(cl, &ev), -EAGAIN);
        ringlet_close(cl);
        fake_daemon_kill(d);
    }
}

TEST(reconnect_of_a_living_session_cancels_what_it_had)
{
    struct fake_daemon *d = fake_daemon_start(path(), NULL);
    struct ringlet_options o = options();
    struct ringlet_client *cl;
    assert_ok(ringlet_connect(&o, &cl));
    struct ringlet_request req = text("hang");
    for (int round = 0; round < 200; round++) { /* more than there are slots: none is lost */
        assert_ok(ringlet_submit(cl, &req, NULL));
        assert_ok(ringlet_submit(cl, &req, NULL));
        assert_ok(ringlet_reconnect(cl));
        assert_int_equal(drain(cl, 2), 2);
    }
    ringlet_close(cl);
    fake_daemon_kill(d);
}

TEST(fork_takes_the_session_from_the_child)
{
    struct fake_daemon *d = fake_daemon_start(path(), NULL);
    struct ringlet_options o = options();
    struct ringlet_client *cl;
    struct ringlet_event ev;
    struct ringlet_model_info m;
    assert_ok(ringlet_connect(&o, &cl));
    struct ringlet_request req = text("parent");
    pid_t pid = fork();
    if (pid == 0) {
        int ok = ringlet_submit(cl, &req, NULL) == -ECHILD && ringlet_peek(cl, &ev) == -ECHILD &&
                 ringlet_wait(cl, &ev, 0) == -ECHILD && ringlet_arm(cl) == -ECHILD &&
                 ringlet_cancel(cl, 1) == -ECHILD && ringlet_reconnect(cl) == -ECHILD &&
                 ringlet_model(cl, NULL, &m) == -ECHILD;
        ringlet_advance(cl);
        ringlet_close(cl);
        _exit(ok ? 0 : 1);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    assert_ok(ringlet_submit(cl, &req, NULL)); /* and the parent's goes on */
    assert_int_equal(drain(cl, 1), 0);
    ringlet_close(cl);
    fake_daemon_kill(d);
}
