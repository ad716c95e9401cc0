/* Publish: what a client reads is what was said; credit, spans, bells, the reserved END. */
#include "tests/daemon/session/rig.h"

#include <poll.h>
#include <unistd.h>

#include "daemon/base/clock.h"

static struct rig *r;
static struct raw_client c;
static struct session *s;
static const struct publish_id id = { 2, 5, 0xABCDEF };

static void open_all(void)
{
    r = rig_open();
    raw_connect(r, &c, (struct ringlet_hello){ .n_slot = 16, .text_bytes = 65536 });
    s = rig_session(r);
}

static void close_all(void)
{
    raw_close(&c);
    rig_turn(r, 10);
    rig_close(r);
}

TEST(one_short_token_takes_one_line)
{
    open_all();
    struct ringlet_cqe e;
    int32_t token = 42;
    struct publish_tokens t = { .kind = RINGLET_KIND_TOKENS,
                                .index = 1,
                                .position = 9,
                                .ids = &token,
                                .n_id = 1,
                                .text = " word",
                                .text_bytes = 5 };
    assert_int_equal(publish_span_bytes(1, false, 0, 5), 0);
    assert_true(publish_can(s, 0));
    publish_tokens(s, &id, &t);
    assert_true(raw_take(&c, &e));
    assert_int_equal(e.kind, RINGLET_KIND_TOKENS);
    assert_int_equal(e.flags, RINGLET_CQE_INLINE);
    assert_int_equal(e.token, 42);
    assert_int_equal(e.position, 9);
    assert_int_equal(e.tag, 0xABCDEF);
    assert_int_equal(e.slot, 2);
    assert_int_equal(e.generation, 5);
    assert_memory_equal(e.body.text, " word", 5);
    close_all();
}

TEST(ids_logprobs_and_text_lie_in_the_span_without_gaps)
{
    open_all();
    struct ringlet_cqe e;
    int32_t ids[2] = { 7, 8 };
    struct step_logprob lp[2] = { { -0.5f, 2, { 7, 3 }, { -0.5f, -1.5f } },
                                  { -2, 1, { 8 }, { -2 } } };
    struct publish_tokens t = { .kind = RINGLET_KIND_TOKENS,
                                .ids = ids,
                                .n_id = 2,
                                .logprobs = lp,
                                .n_top = 2,
                                .text = "some longer text",
                                .text_bytes = 16 };
    uint64_t bytes = publish_span_bytes(2, true, 2, 16);
    assert_int_equal(bytes, 2 * 4 + 2 * 4 + 4 * 8 + 16);
    assert_true(publish_can(s, bytes));
    publish_tokens(s, &id, &t);
    assert_true(raw_take(&c, &e));
    assert_int_equal(e.flags, RINGLET_CQE_LOGPROBS);
    const unsigned char *span = c.down_part.text + e.span_off;
    assert_memory_equal(span, ids, 8);
    const float *logprob = (const void *)(span + 8);
    assert_close(logprob[1], -2, 0, 0);
    const struct ringlet_top *top = (const void *)(span + 16);
    assert_int_equal(top[1].id, 3);
    assert_int_equal(top[3].id, 0xFFFFFFFF); /* fewer than asked: filled */
    assert_memory_equal(span + 48, "some longer text", 16);
    close_all();
}

TEST(credit_ends_before_the_reserved_entries_and_comes_back)
{
    open_all();
    struct intake_item item;
    struct ringlet_cqe e;
    raw_put(&c, (struct ringlet_sqe){ .op = RINGLET_OP_NOP, .generation = 5, .slot = 2 });
    intake_begin(s);
    assert_int_equal(intake_take(s, &r->env, &item), 1);
    struct publish_end end = { .reason = RINGLET_REASON_LENGTH };
    int n = 0;
    for (; publish_can(s, 0); n++)
        publish_finished(s, &id, &end);
    assert_int_equal(n, 63); /* 4 S, less the one that is owed */
    assert_true(s->starved);
    publish_last(s, &id, &end, NULL); /* cannot fail */
    assert_int_equal(s->n_owed, 0);
    for (int i = 0; i < 63; i++) {
        assert_true(raw_take(&c, &e));
        assert_int_equal(e.flags, 0);
    }
    assert_true(raw_take(&c, &e));
    assert_int_equal(e.flags, RINGLET_CQE_END);
    assert_true(publish_can(s, 0));
    assert_false(s->starved);
    assert_int_equal(load_once(&c.down_part.head->credit_wait) & 1, 0);
    close_all();
}

/* A loop that is told of it again and again would never sleep. */
TEST(what_was_read_of_a_full_ring_is_news_once)
{
    open_all();
    struct intake_item item;
    struct ringlet_cqe e;
    raw_put(&c, (struct ringlet_sqe){ .op = RINGLET_OP_NOP, .generation = 5, .slot = 2 });
    intake_begin(s);
    assert_int_equal(intake_take(s, &r->env, &item), 1);
    struct publish_end end = { .reason = RINGLET_REASON_LENGTH };
    while (publish_can(s, 0))
        publish_finished(s, &id, &end);
    publish_last(s, &id, &end, NULL);
    assert_int_equal(ring_writer_free(&s->cq), 0);
    assert_false(intake_ready(s));
    assert_false(publish_look(s));
    assert_true(raw_take(&c, &e));
    assert_true(intake_ready(s));
    assert_true(publish_look(s));
    assert_false(s->starved);
    assert_false(intake_ready(s));
    assert_false(publish_look(s));
    store_release(&c.up_part.head->cq_head, s->cq.tail + 1);
    s->starved = true;
    assert_true(publish_look(s));
    assert_true(s->doomed);
    close_all();
}

TEST(text_memory_is_a_ring_that_reading_frees)
{
    open_all();
    static char text[30000];
    struct publish_tokens t = { .kind = RINGLET_KIND_TOKENS, .text = text, .text_bytes = 30000 };
    struct ringlet_cqe e;
    for (int i = 0; i < 50; i++) {
        memset(text, 'a' + i % 26, sizeof(text));
        assert_true(publish_can(s, 30000));
        publish_tokens(s, &id, &t);
        if (i == 0) {
            assert_true(publish_can(s, 30000));
            publish_tokens(s, &id, &t);
            assert_false(publish_can(s, 30000)); /* two fit, a third does not */
            assert_true(raw_take(&c, &e));
        }
        assert_true(raw_take(&c, &e));
        assert_true(e.span_off + 30000 <= 65536);
        assert_int_equal(c.down_part.text[e.span_off + 29999], 'a' + i % 26);
    }
    close_all();
}

TEST(only_a_sleeper_hears_a_bell_and_only_one)
{
    open_all();
    struct publish_end end = { .reason = RINGLET_REASON_LENGTH };
    struct pollfd p = { .fd = c.bell_down, .events = POLLIN };
    publish_finished(s, &id, &end);
    publish_flush(r->all);
    assert_int_equal(poll(&p, 1, 0), 0);
    store_release(&c.up_part.head->client_wait, 1);
    char byte[8];
    for (int i = 0; i < 3; i++) {
        publish_finished(s, &id, &end);
        publish_flush(r->all);
    }
    assert_int_equal(poll(&p, 1, 0), 1);
    assert_int_equal(read(c.bell_down, byte, sizeof(byte)), 1);
    store_release(&c.up_part.head->client_wait, 3);
    publish_finished(s, &id, &end);
    publish_flush(r->all);
    assert_int_equal(read(c.bell_down, byte, sizeof(byte)), 1);
    close_all();
}

TEST(a_closed_pipe_is_a_dead_client)
{
    open_all();
    close(c.bell_down);
    c.bell_down = -1;
    store_release(&c.up_part.head->client_wait, 1);
    struct publish_end end = { 0 };
    publish_finished(s, &id, &end);
    publish_flush(r->all);
    assert_true(s->doomed);
    rig_turn_to(r, r->all->n_session == 0);
    close_all();
}

TEST(what_is_known_at_once_goes_out_in_bites_one_a_pass)
{
    open_all();
    for (int pass = 0; pass < 3; pass++) {
        sessions_begin(r->all, clock_now_ns());
        uint64_t bytes = 0;
        while (publish_bulk(s, 1024))
            bytes += 1024;
        assert_int_equal(bytes, LIMIT_PUBLISH_BYTES);
        assert_false(publish_bulk(s, 1));
        assert_true(list_empty(&r->all->again)); /* hot: it is looked at anyway */
    }
    sessions_begin(r->all, clock_now_ns());
    assert_true(publish_bulk(s, 10 * LIMIT_PUBLISH_BYTES)); /* one event may be larger */
    assert_true(session_cool(s));
    assert_false(publish_bulk(s, 1));
    assert_false(publish_bulk(s, 1));
    assert_true(sessions_changed(r->all)); /* a cold one: nobody else would look */
    sessions_begin(r->all, clock_now_ns());
    assert_true(s->hot);
    assert_true(publish_bulk(s, 1));
    close_all();
}
