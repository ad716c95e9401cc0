/* Intake against a client that writes anything: protocol errors, spans, budgets, a full pool. */
#include "tests/daemon/session/rig.h"

#include <unistd.h>

#include "daemon/base/payload.h"

static struct rig *r;
static struct raw_client c;
static struct session *s;
static struct intake_item item;

static void open_all(void)
{
    r = rig_open();
    raw_connect(r, &c, (struct ringlet_hello){ .n_slot = 16 });
    s = rig_session(r);
}

static void close_all(void)
{
    raw_close(&c);
    rig_turn(r, 10);
    rig_close(r);
}

static int take(void)
{
    intake_begin(s);
    return intake_take(s, &r->env, &item);
}

static void answer_last(void)
{
    intake_give(r->all, s->user, item.payload, item.payload_bytes);
    struct publish_id id = { item.sqe.slot, item.sqe.generation, item.sqe.tag };
    struct publish_end end = { .index = RINGLET_INDEX_ALL };
    publish_last(s, &id, &end, NULL);
}

static struct ringlet_sqe tokens(uint32_t off, uint32_t bytes)
{
    return (struct ringlet_sqe){ .op = RINGLET_OP_GENERATE,
                                 .generation = 1,
                                 .model_generation = 1,
                                 .input_kind = RINGLET_INPUT_TOKENS,
                                 .input_off = off,
                                 .input_bytes = bytes,
                                 .tag = 77 };
}

TEST(an_entry_and_its_input_are_copied)
{
    open_all();
    int32_t ids[4] = { 1, 2, 999, 4 };
    memcpy(c.up_part.prompt + 64, ids, sizeof(ids));
    raw_put(&c, tokens(64, 16));
    assert_int_equal(take(), 1);
    memset(c.up_part.prompt, 0xff, 4096); /* too late to matter */
    assert_int_equal(item.fault.error, 0);
    assert_int_equal(item.n_id, 4);
    assert_memory_equal(item.ids, ids, 16);
    assert_int_equal(item.sqe.tag, 77);
    intake_end(s);
    assert_int_equal(load_once(&c.down_part.head->sq_head), c.sq.tail);
    answer_last();
    assert_int_equal(take(), 0);
    close_all();
}

TEST(a_sharing_group_is_for_those_who_may_join_it)
{
    static const char *const groups[] = { "lab", "shop" };
    static const struct {
        const char *name;
        uint32_t group, error;
    } cases[] = { { "lab", 1, 0 },
                  { "shop", 0, RINGLET_ERROR_BAD_FIELD },
                  { "la", 0, RINGLET_ERROR_BAD_FIELD },
                  { "labo", 0, RINGLET_ERROR_BAD_FIELD },
                  { "", 0, 0 } };
    open_all();
    r->all->config.groups = groups;
    r->all->config.n_group = 2;
    s->user->groups = 1;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct ringlet_sqe sqe = tokens(0, 16);
        struct ringlet_block b = { .block_bytes = RINGLET_BLOCK_BYTES, .set = RINGLET_SET_GROUP };
        memset(c.up_part.prompt, 0, 4096);
        b.group = (struct ringlet_span){ 1024, (uint32_t)strlen(cases[i].name) };
        memcpy(c.up_part.prompt + 1024, cases[i].name, strlen(cases[i].name));
        memcpy(c.up_part.prompt + 512, &b, RINGLET_BLOCK_BYTES);
        sqe.block_off = 512;
        sqe.block_bytes = RINGLET_BLOCK_BYTES;
        sqe.slot = (uint16_t)i;
        raw_put(&c, sqe);
        assert_int_equal(take(), 1);
        assert_int_equal(item.fault.error, cases[i].error);
        if (cases[i].error)
            assert_int_equal(item.fault.field, VALIDATE_BLOCK_FIELD(group));
        else
            assert_int_equal(item.group, cases[i].group);
        answer_last();
    }
    close_all();
}

TEST(a_bite_grows_while_there_is_more_and_shrinks_where_a_look_was_in_vain)
{
    open_all();
    assert_int_equal(s->bite, 1);
    intake_bitten(s, 1); /* all of a bite: there may be more */
    assert_int_equal(s->bite, 2);
    intake_bitten(s, 1); /* there was not: one a turn from here, for a while */
    assert_int_equal(s->bite, 1);
    for (uint32_t i = 0; i + 1 < LIMIT_INTAKE_ENTRIES; i++) {
        intake_bitten(s, 1);
        assert_int_equal(s->bite, 1);
    }
    for (int i = 0; i < 10; i++)
        intake_bitten(s, s->bite); /* a flood gets the most that a turn may take, never more */
    assert_int_equal(s->bite, LIMIT_INTAKE_ENTRIES);
    intake_bitten(s, 0);
    assert_int_equal(s->bite, 1);
    close_all();
}

TEST(what_is_answered_at_once_carries_what_its_answer_names)
{
    open_all();
    raw_put(&c, (struct ringlet_sqe){ .op = RINGLET_OP_NOP, .slot = 3, .generation = 9, .tag = 5 });
    memset(&item, 0xa5, sizeof(item)); /* another entry's */
    assert_int_equal(take(), 1);
    assert_int_equal(item.fault.error, 0);
    assert_int_equal(item.sqe.op, RINGLET_OP_NOP);
    assert_int_equal(item.sqe.model, 0); /* whose refusal it would be */
    assert_int_equal(item.sqe.slot, 3);
    assert_int_equal(item.sqe.generation, 9);
    assert_int_equal(item.sqe.tag, 5);
    assert_null(item.payload);
    intake_end(s);
    answer_last();
    struct ringlet_cqe cqe;
    assert_true(raw_take(&c, &cqe));
    assert_int_equal(cqe.tag, 5);
    assert_int_equal(cqe.slot, 3);
    assert_int_equal(cqe.generation, 9);
    close_all();
}

static const struct ringlet_sqe bare = {
    .op = RINGLET_OP_NOP, .slot = 3, .generation = 9, .tag = 5
};

TEST(a_lone_nop_is_answered_without_marking_its_slot)
{
    struct ringlet_sqe sqe = { 0 };
    struct ringlet_cqe cqe;
    open_all();
    assert_int_equal(intake_take_nop(s, &r->env, &sqe), 0); /* nothing there */
    raw_put(&c, bare);
    assert_int_equal(intake_take_nop(s, &r->env, &sqe), 1);
    assert_int_equal(sqe.slot, 3);
    assert_int_equal(sqe.generation, 9);
    assert_int_equal(sqe.tag, 5);
    publish_done(s, &sqe);
    intake_end(s);
    assert_int_equal(load_once(&c.down_part.head->sq_head), c.sq.tail);
    assert_true(raw_take(&c, &cqe));
    assert_int_equal(cqe.kind, RINGLET_KIND_FINISHED);
    assert_int_equal(cqe.flags, RINGLET_CQE_END);
    assert_int_equal(cqe.reason, RINGLET_REASON_DONE);
    assert_int_equal(cqe.slot, 3);
    assert_int_equal(cqe.generation, 9);
    assert_int_equal(cqe.tag, 5);
    assert_int_equal(s->n_busy, 0);
    close_all();
}

/* The short way leaves it; what does the long way say? Returns the fault's error, or -1: doomed. */
static int long_way(struct ringlet_sqe sqe)
{
    struct ringlet_sqe copy;
    raw_connect(r, &c, (struct ringlet_hello){ .n_slot = 16 });
    s = rig_session(r);
    raw_put(&c, sqe);
    assert_int_equal(intake_take_nop(s, &r->env, &copy), -EAGAIN);
    assert_int_equal(s->sq.head, (uint32_t)(c.sq.tail - 1)); /* still there */
    int error = take() == 1 ? (int)item.fault.error : -1;
    assert_int_equal(error < 0, s->doomed);
    if (error >= 0)
        answer_last();
    raw_close(&c);
    rig_turn(r, 10);
    return error;
}

TEST(what_is_no_plain_nop_takes_the_long_way)
{
    struct ringlet_sqe e = bare;
    r = rig_open();
    e.slot = 16; /* out of range */
    assert_int_equal(long_way(e), -1);
    e = bare;
    e.generation = 0;
    assert_int_equal(long_way(e), -1);
    e = bare;
    e.must_understand = 1u << 31;
    assert_int_equal(long_way(e), RINGLET_ERROR_BAD_BIT);
    e = bare;
    e.flags = 0x80;
    assert_int_equal(long_way(e), RINGLET_ERROR_BAD_BIT);
    e = bare;
    e.op = 99;
    assert_int_equal(long_way(e), RINGLET_ERROR_BAD_OP);
    rig_close(r);
}

TEST(a_nop_waits_for_its_turn_behind_others_and_for_credit)
{
    struct ringlet_sqe sqe;
    open_all();
    raw_put(&c, bare);
    s->bite = 2; /* a batch may be coming: turn by turn */
    assert_int_equal(intake_take_nop(s, &r->env, &sqe), -EAGAIN);
    s->bite = 1;
    s->muted = true;
    assert_int_equal(intake_take_nop(s, &r->env, &sqe), -EAGAIN);
    s->muted = false;
    uint32_t head = s->cq.head;
    s->cq.head =
        s->cq.tail - (s->cq.mask + 1); /* as if the client had read nothing of a full ring */
    assert_int_equal(intake_take_nop(s, &r->env, &sqe), -EAGAIN);
    s->cq.head = head;
    assert_int_equal(intake_take_nop(s, &r->env, &sqe), 1);
    session_slot_take(s, 4, 1); /* in use: the client is broken */
    struct ringlet_sqe busy = bare;
    busy.slot = 4;
    raw_put(&c, busy);
    assert_int_equal(intake_take_nop(s, &r->env, &sqe), -EAGAIN);
    assert_int_equal(take(), 0);
    assert_true(s->doomed);
    close_all();
}

TEST(faults_are_answers_and_leave_nothing)
{
    open_all();
    int32_t ids[2] = { 1, 1000 };
    memcpy(c.up_part.prompt, ids, sizeof(ids));
    raw_put(&c, tokens(0, 8));
    assert_int_equal(take(), 1);
    assert_int_equal(item.fault.error, RINGLET_ERROR_BAD_TOKEN);
    assert_null(item.payload);
    answer_last();
    raw_put(&c, tokens(0x40000000, 8));
    assert_int_equal(take(), 1);
    assert_int_equal(item.fault.error, RINGLET_ERROR_BAD_SPAN);
    answer_last();
    assert_int_equal(s->n_busy, 0);
    assert_int_equal(s->n_owed, 0);
    close_all();
}

static void drops(struct ringlet_sqe sqe, uint32_t error)
{
    open_all();
    raw_put(&c, sqe);
    assert_int_equal(take(), 0);
    assert_true(s->doomed);
    rig_turn_to(r, r->all->n_session == 0);
    assert_int_equal(load_once(&c.down_part.head->session_state), RINGLET_SESSION_DROPPED);
    assert_int_equal(load_once(&c.down_part.head->session_error), error);
    close_all();
}

TEST(a_slot_out_of_range_drops_the_session)
{
    struct ringlet_sqe sqe = { .op = RINGLET_OP_NOP, .generation = 1, .slot = 16 };
    drops(sqe, RINGLET_SESSION_ERROR_SLOT);
}

TEST(generation_zero_drops_the_session)
{
    drops((struct ringlet_sqe){ .op = RINGLET_OP_NOP }, RINGLET_SESSION_ERROR_SLOT);
}

TEST(a_slot_in_use_drops_the_session)
{
    open_all();
    struct ringlet_sqe nop = { .op = RINGLET_OP_NOP, .generation = 1, .slot = 3 };
    raw_put(&c, nop);
    assert_int_equal(take(), 1);
    raw_put(&c, nop);
    assert_int_equal(take(), 0);
    assert_true(s->doomed);
    assert_int_equal(s->error, RINGLET_SESSION_ERROR_SLOT);
    rig_turn(r, 2);
    close_all();
}

TEST(an_impossible_number_drops_the_session)
{
    open_all();
    store_release(&c.up_part.sq[0], 0x1234567800000005u);
    store_release(&c.up_part.sq[8 * 13], 0x77u); /* the slot of the first number, too */
    for (int i = 0; i < 16; i++)
        store_release(&c.up_part.sq[8 * i], 0x77u);
    assert_int_equal(take(), 0);
    assert_true(s->doomed);
    assert_int_equal(s->error, RINGLET_SESSION_ERROR_SEQ);
    rig_turn(r, 2);
    close_all();
}

TEST(a_lying_cq_head_drops_the_session)
{
    open_all();
    store_release(&c.up_part.head->cq_head, s->cq.tail + 1);
    publish_room(s);
    assert_true(s->doomed);
    assert_int_equal(s->error, RINGLET_SESSION_ERROR_CQ_HEAD);
    rig_turn(r, 2);
    close_all();
}

TEST(a_message_on_the_socket_drops_the_session)
{
    open_all();
    assert_int_equal(write(c.fd, "x", 1), 1);
    rig_turn_to(r, r->all->n_session == 0);
    assert_int_equal(load_once(&c.down_part.head->session_error), RINGLET_SESSION_ERROR_MESSAGE);
    close_all();
}

TEST(a_long_input_is_copied_in_bites)
{
    r = rig_open();
    raw_connect(r, &c, (struct ringlet_hello){ .n_slot = 16, .prompt_bytes = 1 << 20 });
    s = rig_session(r);
    memset(c.up_part.prompt, 'x', 1 << 20);
    raw_put(&c, (struct ringlet_sqe){ .op = RINGLET_OP_TOKENIZE,
                                      .generation = 1,
                                      .model_generation = 1,
                                      .input_kind = RINGLET_INPUT_TEXT,
                                      .input_bytes = 600000 });
    int bites = 0;
    while (take() == 0) {
        intake_end(s);
        assert_int_equal(load_once(&c.down_part.head->sq_head), c.welcome.sq_start);
        assert_true(intake_ready(s));
        assert_true(++bites < 20);
    }
    assert_true(bites >= 600000 / (2 * LIMIT_INTAKE_BYTES));
    assert_int_equal(item.text_bytes, 600000);
    for (int i = 0; i < 600000; i++)
        assert_int_equal(item.text[i], 'x');
    intake_end(s);
    assert_int_equal(load_once(&c.down_part.head->sq_head), c.sq.tail);
    answer_last();
    close_all();
}

TEST(ids_are_checked_as_they_are_copied_not_all_at_the_end)
{
    r = rig_open();
    raw_connect(r, &c, (struct ringlet_hello){ .n_slot = 16, .prompt_bytes = 1 << 20 });
    s = rig_session(r);
    struct ringlet_sqe sqe = tokens(0, 600000);
    sqe.op = RINGLET_OP_TOKENIZE; /* takes more than a context of them */
    int32_t bad = 1000;
    for (int bite = 0; bite < 3; bite++) { /* in which the bad one lies: it is refused there */
        uint32_t at = (uint32_t)bite * LIMIT_INTAKE_BYTES + 400;
        memcpy(c.up_part.prompt + at, &bad, sizeof(bad));
        sqe.generation = 1 + (uint32_t)bite;
        raw_put(&c, sqe);
        int n = 0;
        while (take() == 0)
            n++;
        assert_int_equal(n, bite);
        assert_int_equal(item.fault.error, RINGLET_ERROR_BAD_TOKEN);
        assert_int_equal(item.fault.field, VALIDATE_SQE_FIELD(input_off));
        answer_last();
        memset(c.up_part.prompt + at, 0, sizeof(bad));
    }
    close_all();
}

TEST(a_chat_is_not_read_here)
{
    open_all();
    memset(c.up_part.prompt, 0xff, 64); /* no record, and no UTF-8 */
    r->model.has_template = true;
    struct ringlet_sqe sqe = tokens(0, 64);
    sqe.input_kind = RINGLET_INPUT_MESSAGES;
    raw_put(&c, sqe);
    assert_int_equal(take(), 1); /* the encoder will refuse it: its time is nobody else's */
    assert_int_equal(item.fault.error, 0);
    assert_int_equal(item.text_bytes, 64);
    answer_last();
    close_all();
}

TEST(a_full_pool_holds_the_entry_back_and_loses_nothing)
{
    open_all();
    void *hog = payload_take(r->payload, payload_bytes(r->payload) * 15 / 16), *more[4096];
    int n = 0;
    while (n < 4096 && (more[n] = payload_take(r->payload, 4096)))
        n++;
    raw_put(&c, tokens(0, 4000));
    assert_int_equal(take(), 0);
    intake_end(s);
    assert_int_equal(load_once(&c.down_part.head->sq_head), c.welcome.sq_start);
    assert_false(list_empty(&r->all->short_of_pool));
    payload_give(r->payload, hog);
    sessions_pool_freed(r->all);
    assert_true(s->hot);
    assert_int_equal(take(), 1);
    assert_int_equal(item.n_id, 1000);
    answer_last();
    while (n-- > 0)
        payload_give(r->payload, more[n]);
    close_all();
}

TEST(a_user_has_half_of_the_pool_and_then_waits_for_itself)
{
    open_all();
    uint64_t half = payload_bytes(r->payload) / 100 * LIMIT_POOL_UID_PERCENT;
    s->user->payload_bytes = half - 2048; /* by its other sessions */
    raw_put(&c, tokens(0, 4000));
    assert_int_equal(take(), 0);
    intake_end(s);
    assert_int_equal(load_once(&c.down_part.head->sq_head), c.welcome.sq_start); /* held back */
    void *others = payload_take(r->payload, half / 2); /* there is room, but not for this user */
    assert_non_null(others);
    payload_give(r->payload, others);
    sessions_pool_freed(r->all);
    assert_int_equal(take(), 0);
    intake_end(s);
    s->user->payload_bytes -= half / 2; /* one of its requests has ended */
    sessions_pool_freed(r->all);
    assert_int_equal(take(), 1);
    assert_int_equal(item.n_id, 1000);
    s->user->payload_bytes -= half - 2048 - half / 2;
    answer_last();
    close_all();
}

static int n_cancel;
static uint16_t cancelled;

static void on_cancel(void *context, struct session *session, uint16_t slot)
{
    (void)context, (void)session;
    n_cancel++;
    cancelled = slot;
}

TEST(cancel_words_name_a_generation)
{
    open_all();
    for (uint16_t slot = 0; slot < 3; slot++)
        raw_put(&c, (struct ringlet_sqe){ .op = RINGLET_OP_NOP, .generation = 9, .slot = slot });
    for (int i = 0; i < 3; i++)
        assert_int_equal(take(), 1);
    store_once(&c.up_part.cancel[1], 9);
    store_once(&c.up_part.cancel[2], 8); /* stale */
    store_once(&c.up_part.cancel[5], 9); /* not in flight */
    intake_cancels(s, on_cancel, NULL);
    assert_int_equal(n_cancel, 0); /* cancel_seq did not move */
    store_release(&c.up_part.head->cancel_seq, 1);
    assert_true(intake_ready(s));
    intake_cancels(s, on_cancel, NULL);
    intake_cancels(s, on_cancel, NULL);
    assert_int_equal(n_cancel, 1);
    assert_int_equal(cancelled, 1);
    close_all();
}

TEST(no_entry_is_taken_without_room_for_its_end)
{
    open_all();
    uint32_t n = 0;
    for (uint32_t i = 0; i < 200; i++) { /* answers that nobody reads */
        raw_put(&c, (struct ringlet_sqe){ .op = RINGLET_OP_NOP, .generation = 1 + i });
        if (take() == 0)
            break;
        answer_last();
        n++;
    }
    assert_int_equal(n, 64); /* 4 S */
    assert_false(s->doomed);
    assert_true(s->starved);
    assert_true(load_once(&c.down_part.head->credit_wait) & 1);
    struct ringlet_cqe cqe;
    assert_true(raw_take(&c, &cqe));
    assert_true(intake_ready(s));
    assert_int_equal(take(), 1);
    answer_last();
    close_all();
}

TEST(a_cancel_that_was_there_before_its_entry_is_seen)
{
    open_all();
    raw_put(&c, (struct ringlet_sqe){ .op = RINGLET_OP_NOP, .generation = 9, .slot = 1 });
    assert_int_equal(take(), 1); /* in flight: cancel_seq is looked at */
    raw_put(&c, (struct ringlet_sqe){ .op = RINGLET_OP_NOP, .generation = 9, .slot = 2 });
    store_once(&c.up_part.cancel[2], 9);
    store_release(&c.up_part.head->cancel_seq, 1);
    n_cancel = 0;
    intake_cancels(s, on_cancel, NULL);
    assert_int_equal(n_cancel, 0); /* its entry was not taken yet */
    assert_int_equal(take(), 1);
    assert_true(intake_cancelled(s, 2));
    assert_false(intake_cancelled(s, 1));
    close_all();
}

TEST(credit_that_taking_an_entry_finds_feeds_the_starved)
{
    open_all();
    struct publish_end end = { .reason = RINGLET_REASON_LENGTH };
    struct publish_id id = { 0, 1, 0 };
    struct ringlet_cqe cqe;
    while (publish_can(s, 0))
        publish_finished(s, &id, &end);
    assert_true(s->starved);
    while (raw_take(&c, &cqe)) {
    } /* the client reads on, and submits */
    raw_put(&c, (struct ringlet_sqe){ .op = RINGLET_OP_NOP, .generation = 9 });
    assert_int_equal(take(), 1);
    assert_false(s->starved); /* or those who wait for credit would not be tried again */
    assert_int_equal(load_once(&c.down_part.head->credit_wait) & 1, 0);
    close_all();
}
