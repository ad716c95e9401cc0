/* Models, counters, names, and the operations on handles. */
#include "ringlet.h"

#include <errno.h>

#include "tests/client/fake_daemon.h"
#include "tests/harness/harness.h"

static struct fake_daemon *d;
static struct ringlet_client *cl;

static void open_session(void)
{
    static char path[128];
    struct ringlet_options o;
    snprintf(path, sizeof(path), "%s/s", harness_tmpdir());
    d = fake_daemon_start(path, NULL);
    ringlet_options_init(&o);
    o.socket_path = path;
    o.timeout_ns = o.heartbeat_ns = RINGLET_FOREVER; /* this machine may be busy */
    assert_ok(ringlet_connect(&o, &cl));
}

static void close_session(void)
{
    ringlet_close(cl);
    fake_daemon_kill(d);
}

TEST(models_are_found_by_name_index_and_readiness)
{
    struct ringlet_model_info m;
    open_session();
    assert_ok(ringlet_model(cl, NULL, &m));
    assert_string_equal(m.name, "echo");
    assert_int_equal(m.vocab, 256);
    assert_int_equal(m.generation, 7);
    assert_ok(ringlet_model(cl, "slow", &m));
    assert_int_equal(m.index, 1);
    assert_int_equal(m.state, RINGLET_MODEL_LOADING);
    assert_int_equal(ringlet_model(cl, "none", &m), -ENOENT);
    assert_int_equal(ringlet_model(cl, "", &m), -ENOENT);
    assert_ok(ringlet_model_at(cl, 0, &m));
    assert_int_equal(ringlet_model_at(cl, 2, &m), -ENOENT);
    assert_int_equal(ringlet_model_at(cl, 999, &m), -ENOENT);
    close_session();
}

TEST(stats_are_read_from_the_board)
{
    struct ringlet_stats_info s;
    struct ringlet_counter c;
    open_session();
    assert_ok(ringlet_stats(cl, &s));
    assert_string_equal(s.version, "fake");
    assert_int_equal(s.n_model, 2);
    assert_int_equal(s.n_stat, 2);
    assert_int_equal(s.in_flight, 0);
    assert_ok(ringlet_stat_at(cl, 0, &c));
    assert_string_equal(c.name, "clients");
    assert_int_equal(c.values[0], 3);
    assert_int_equal(ringlet_stat_at(cl, 1, &c), -EPROTO); /* points outside of BOARD */
    assert_int_equal(ringlet_stat_at(cl, 2, &c), -ENOENT);
    close_session();
}

TEST(handle_operations_reach_the_wire)
{
    struct ringlet_request req;
    struct ringlet_event ev;
    uint64_t id;
    open_session();
    ringlet_request_init(&req);
    req.text = "prefix";
    req.text_bytes = 6;
    req.tag = 4;
    req.temperature = 0.5f; /* does not matter to a lease */
    assert_ok(ringlet_lease(cl, &req, 5000, &id));
    assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
    assert_int_equal(ev.id, id);
    assert_int_equal(ev.tag, 4);
    assert_int_equal(ev.reason, RINGLET_REASON_REJECTED);
    assert_int_equal(ev.detail, RINGLET_ERROR_BAD_OP);
    ringlet_advance(cl);
    assert_int_equal(fake_daemon_last_sqe(d).op, RINGLET_OP_LEASE);
    assert_int_equal(fake_daemon_last_block(d).set, RINGLET_SET_LEASE);
    assert_int_equal(fake_daemon_last_block(d).lease_ns, 5000);
    assert_ok(ringlet_query(cl, &req, &id));
    assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
    ringlet_advance(cl);
    assert_int_equal(fake_daemon_last_sqe(d).op, RINGLET_OP_QUERY);
    assert_memory_equal(fake_daemon_last_input(d), "prefix", 6);
    assert_ok(ringlet_release(cl, 0x100000002, 8, &id));
    assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
    assert_int_equal(ev.tag, 8);
    ringlet_advance(cl);
    assert_int_equal(fake_daemon_last_sqe(d).op, RINGLET_OP_RELEASE);
    assert_int_equal(fake_daemon_last_sqe(d).handle, 0x100000002);
    close_session();
}

TEST(tokenize_answers_with_ids)
{
    struct ringlet_request req;
    struct ringlet_event ev;
    open_session();
    ringlet_request_init(&req);
    req.op = RINGLET_OP_TOKENIZE;
    req.text = "abc";
    req.text_bytes = 3;
    assert_ok(ringlet_submit(cl, &req, NULL));
    assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
    assert_int_equal(ev.kind, RINGLET_KIND_PROMPT);
    assert_int_equal(ev.n_token, 3);
    assert_int_equal(ev.tokens[2], 'c');
    assert_null(ev.logprobs);
    ringlet_advance(cl);
    assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
    assert_int_equal(ev.reason, RINGLET_REASON_DONE);
    ringlet_advance(cl);
    close_session();
}

TEST(names_and_messages_cover_every_code)
{
    const unsigned reasons[] = { 0, 1, 2, 3, 4, 5, 6, 16, 17, 18, 32, 33, 34, 35, 64 };
    for (unsigned i = 0; i < sizeof(reasons) / sizeof(reasons[0]); i++)
        assert_string_not_equal(ringlet_reason_name(reasons[i]), "unknown");
    assert_string_equal(ringlet_reason_name(7), "unknown");
    assert_string_equal(ringlet_error_name(RINGLET_ERROR_DRAINING), "draining");
    assert_string_equal(ringlet_error_name(RINGLET_ERROR_BAD_FIELD), "bad_field");
    assert_string_equal(ringlet_error_name(16), "unknown");
    assert_string_equal(ringlet_version(), "0.1.0");
    assert_string_not_equal(ringlet_strerror(-EDQUOT), ringlet_strerror(-12345));
    assert_non_null(ringlet_strerror(12345));
}
