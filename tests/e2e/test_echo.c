/* Every operation and every way a request can end, through real rings, over the model echo. */
#include "tests/e2e/e2e.h"

#include <errno.h>
#include <time.h>

static struct e2e_daemon d;
static struct e2e_answer a;

TEST(nop_answers_done)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req;
    ringlet_request_init(&req);
    req.op = RINGLET_OP_NOP;
    for (int i = 0; i < 1000; i++) {
        req.tag = (uint64_t)i;
        e2e_ask(cl, &req, &a);
        assert_int_equal(a.reason, RINGLET_REASON_DONE);
        assert_int_equal(a.n_event, 1);
    }
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(text_comes_back_as_text_and_ids)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req = e2e_text("Gr\xc3\xbc\xc3\x9f"
                                          "e, \xe4\xbd\xa0\xe5\xa5\xbd!");
    e2e_ask(cl, &req, &a);
    assert_string_equal(a.text, req.text);
    assert_int_equal(a.reason, RINGLET_REASON_STOP_EOS);
    assert_int_equal(a.n_accepted, 1);
    assert_int_equal(a.n_token, req.text_bytes + 1);
    for (size_t i = 0; i < req.text_bytes; i++)
        assert_int_equal(a.tokens[i], (unsigned char)req.text[i]);
    assert_int_equal(a.annex.total_prompt_tokens, req.text_bytes);
    assert_int_equal(a.annex.completion_tokens, req.text_bytes + 1);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(ids_come_back_as_ids)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    uint32_t ids[300];
    for (uint32_t i = 0; i < 300; i++)
        ids[i] = i * 7 % 256;
    struct ringlet_request req = e2e_text("");
    req.text = NULL;
    req.text_bytes = 0;
    req.tokens = ids;
    req.n_token = 300;
    req.flags = RINGLET_SQE_NO_TEXT;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_STOP_EOS);
    assert_int_equal(a.n_token, 301);
    assert_memory_equal(a.tokens, ids, sizeof(ids));
    assert_int_equal(a.text_bytes, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(tokenize_gives_ids_of_short_and_of_long_text)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    static char text[20001];
    for (int i = 0; i < 20000; i++)
        text[i] = (char)('a' + i % 26);
    for (int bytes = 0; bytes <= 20000; bytes = bytes ? bytes * 20 : 50) {
        struct ringlet_request req = e2e_text(text);
        req.op = RINGLET_OP_TOKENIZE;
        req.text_bytes = (size_t)bytes;
        e2e_ask(cl, &req, &a);
        assert_int_equal(a.reason, RINGLET_REASON_DONE);
        assert_int_equal(a.n_prompt, bytes);
        for (int i = 0; i < bytes; i++)
            assert_int_equal(a.prompt[i], (unsigned char)text[i]);
    }
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(long_text_takes_the_encoder_thread)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    static char text[4001];
    for (int i = 0; i < 4000; i++)
        text[i] = (char)('A' + i % 26);
    struct ringlet_request req = e2e_text(text);
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_STOP_EOS);
    assert_string_equal(a.text, text);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(ends_by_length_eos_stop_id_and_stop_string)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req = e2e_text("hello, world and more");
    req.max_tokens = 5;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_LENGTH);
    assert_string_equal(a.text, "hello");

    uint32_t stop_id = 'w';
    req = e2e_text("hello, world and more");
    req.stop_token_ids = &stop_id;
    req.n_stop_token_id = 1;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_STOP_TOKEN);
    assert_int_equal(a.detail, 'w');
    assert_string_equal(a.text, "hello, ");
    assert_int_equal(a.tokens[a.n_token - 1], 'w');

    struct ringlet_text stops[2] = { { "xyz", 3 }, { "ld a", 4 } };
    req = e2e_text("hello, world and more");
    req.stop = stops;
    req.n_stop = 2;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_STOP_STRING);
    assert_int_equal(a.detail, 1);
    assert_string_equal(a.text, "hello, wor");
    assert_int_equal(a.n_token, 14);

    req.options = RINGLET_BLOCK_INCLUDE_STOP;
    e2e_ask(cl, &req, &a);
    assert_string_equal(a.text, "hello, world a");
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(ends_by_context_and_refuses_what_is_longer)
{
    const char *const args[] = { "--ctx", "64", NULL };
    e2e_start(&d, args);
    struct ringlet_client *cl = e2e_connect(&d);
    char text[101];
    memset(text, 'x', 100);
    text[50] = 0;
    struct ringlet_request req = e2e_text(text);
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_CONTEXT);
    assert_int_equal(a.n_token, 14);
    text[50] = 'x';
    text[100] = 0;
    req = e2e_text(text);
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_REJECTED);
    assert_int_equal(a.detail, RINGLET_ERROR_TOO_LONG);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(cancel_ends_a_running_request_once)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    static char text[8001];
    memset(text, 'c', 4000);
    struct ringlet_request req = e2e_text(text);
    uint64_t id = 0;
    assert_ok(ringlet_submit(cl, &req, &id));
    struct ringlet_event ev;
    assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER)); /* ACCEPTED */
    ringlet_advance(cl);
    for (int i = 0; i < 3; i++)
        assert_ok(ringlet_cancel(cl, id));
    e2e_gather(cl, id, &a);
    assert_int_equal(a.reason, RINGLET_REASON_CANCELLED);
    assert_int_equal(a.n_finished, 1);
    assert_ok(ringlet_cancel(cl, id)); /* too late: nothing */
    req = e2e_text("still here");
    e2e_ask(cl, &req, &a);
    assert_string_equal(a.text, "still here");
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(a_cancel_right_behind_its_submission_counts_while_others_run)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    static char text[4001];
    memset(text, 'c', 4000);
    struct ringlet_request req = e2e_text(text);
    uint64_t busy = 0, id = 0;
    assert_ok(ringlet_submit(cl, &req, &busy));
    for (int n_cancelled = 0; n_cancelled < 300;) {
        struct ringlet_event ev;
        assert_ok(ringlet_submit(cl, &req, &id));
        assert_ok(ringlet_cancel(cl, id));
        for (bool ended = false; !ended;) {
            assert_ok(ringlet_wait(cl, &ev, e2e_deadline_ns()));
            ended = ev.id == id && ev.flags & RINGLET_CQE_END;
            bool busy_ended = ev.id == busy && ev.flags & RINGLET_CQE_END;
            if (ended)
                assert_int_equal(ev.reason, RINGLET_REASON_CANCELLED);
            ringlet_advance(cl);
            if (busy_ended)
                assert_ok(ringlet_submit(cl, &req, &busy));
        }
        n_cancelled++;
    }
    assert_ok(ringlet_cancel(cl, busy));
    e2e_gather(cl, busy, &a);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(an_expired_deadline_ends_a_request)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    static char text[4001];
    memset(text, 'd', 4000);
    struct ringlet_request req = e2e_text(text);
    req.total_deadline_ns = e2e_now_ns() + 3000000;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_DEADLINE);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(several_sequences_end_each_and_the_last_with_end)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req = e2e_text("fork");
    req.temperature = 0.5f;
    req.n = 7;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.n_finished, 7);
    for (int i = 0; i < 7; i++)
        assert_int_equal(a.reasons[i], RINGLET_REASON_STOP_EOS);
    assert_int_equal(a.n_token, 7 * 5);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(a_full_ring_is_refused_and_drained_in_order)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    uint64_t ids[64];
    struct ringlet_request req = e2e_text("many");
    int n = 0;
    while (n < 64 && ringlet_submit(cl, &req, &ids[n]) == 0)
        n++;
    assert_int_equal(n, 64);
    assert_int_equal(ringlet_submit(cl, &req, NULL), -EAGAIN);
    int n_end = 0;
    while (n_end < 64) {
        struct ringlet_event ev;
        assert_ok(ringlet_wait(cl, &ev, e2e_deadline_ns()));
        if (ev.flags & RINGLET_CQE_END) {
            assert_int_equal(ev.reason, RINGLET_REASON_STOP_EOS);
            n_end++;
        }
        ringlet_advance(cl);
    }
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(a_client_that_does_not_read_is_slow_and_hurts_nobody)
{
    const char *const args[] = { "--slow-client-s", "1", NULL };
    e2e_start(&d, args);
    struct ringlet_options o = e2e_options(&d);
    o.n_slot = 16;
    struct ringlet_client *slow = e2e_connect_with(&d, &o), *other = e2e_connect(&d);
    static char text[3001];
    memset(text, 's', 3000);
    struct ringlet_request req = e2e_text(text);
    uint64_t id = 0;
    assert_ok(ringlet_submit(slow, &req, &id));
    for (int i = 0; i < 20; i++) {
        struct ringlet_request quick = e2e_text("quick");
        e2e_ask(other, &quick, &a);
        assert_string_equal(a.text, "quick");
    }
    e2e_stat_becomes(other, "finished_slow_client", 0, 1);
    e2e_gather(slow, id, &a);
    assert_int_equal(a.reason, RINGLET_REASON_SLOW_CLIENT);
    e2e_audit(other, 0);
    ringlet_close(slow);
    ringlet_close(other);
    e2e_stop(&d);
}

TEST(a_request_that_ended_unread_is_slow_too_and_leaves_nothing)
{
    const char *const args[] = { "--slow-client-s", "1", NULL };
    e2e_start(&d, args);
    struct ringlet_options o = e2e_options(&d);
    /* The text arena, not the entries, runs out, however many tokens an event carries: it has room
     * for about 380 tokens with their 20 best, so the last are owed, too few to stall. */
    o.n_slot = 256;
    o.text_bytes = 65536;
    struct ringlet_client *slow = e2e_connect_with(&d, &o), *other = e2e_connect(&d);
    static char text[421];
    memset(text, 's', 420);
    struct ringlet_request req = e2e_text(text);
    req.logprobs = 20;
    req.flags = RINGLET_SQE_HOLD;
    uint64_t id = 0;
    assert_ok(ringlet_submit(slow, &req, &id));
    e2e_stat_becomes(other, "finished_slow_client", 0, 1);
    e2e_gather(slow, id, &a);
    assert_int_equal(a.reason, RINGLET_REASON_SLOW_CLIENT);
    assert_int_equal(a.handle, 0);
    e2e_audit(other, 0); /* what it held is gone, since nobody was told its handle */
    ringlet_close(slow);
    ringlet_close(other);
    e2e_stop(&d);
}

TEST(a_slow_reader_gets_everything_in_larger_events)
{
    e2e_start(&d, NULL);
    struct ringlet_options o = e2e_options(&d);
    o.n_slot = 16;
    struct ringlet_client *cl = e2e_connect_with(&d, &o);
    static char text[3001];
    for (int i = 0; i < 3000; i++)
        text[i] = (char)('a' + i % 23);
    struct ringlet_request req = e2e_text(text);
    uint64_t id = 0;
    assert_ok(ringlet_submit(cl, &req, &id));
    nanosleep(&(struct timespec){ .tv_nsec = 300000000 }, NULL);
    e2e_gather(cl, id, &a);
    assert_int_equal(a.reason, RINGLET_REASON_STOP_EOS);
    assert_string_equal(a.text, text);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}
