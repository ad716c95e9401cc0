/* What requests become on the wire, what is refused before it, and how a full session behaves. */
#include "ringlet.h"

#include <errno.h>
#include <math.h>

#include "tests/client/fake_daemon.h"
#include "tests/harness/harness.h"

static struct fake_daemon *d;
static struct ringlet_client *cl;

static void open_session(uint32_t n_slot, uint32_t flags)
{
    static char path[128];
    struct ringlet_options o;
    snprintf(path, sizeof(path), "%s/s", harness_tmpdir());
    d = fake_daemon_start(path, NULL);
    ringlet_options_init(&o);
    o.socket_path = path;
    o.n_slot = n_slot;
    o.prompt_bytes = RINGLET_PROMPT_BYTES_MIN;
    o.flags = flags;
    o.timeout_ns = o.heartbeat_ns = RINGLET_FOREVER; /* this machine may be busy */
    assert_ok(ringlet_connect(&o, &cl));
}

static void close_session(void)
{
    ringlet_close(cl);
    fake_daemon_kill(d);
}

static struct ringlet_request text(const char *s)
{
    struct ringlet_request req;
    ringlet_request_init(&req);
    req.text = s;
    req.text_bytes = strlen(s);
    return req;
}

/* Collects the text of one request until its END. */
static uint16_t finish(uint64_t id, char *ret_text, size_t bytes)
{
    struct ringlet_event ev;
    size_t n = 0;
    for (;;) {
        assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
        assert_int_equal(ev.id, id);
        assert_true(n + ev.text_bytes < bytes);
        memcpy(ret_text + n, ev.text, ev.text_bytes);
        n += ev.text_bytes;
        ret_text[n] = 0;
        uint16_t reason = ev.reason;
        int end = ev.flags & RINGLET_CQE_END;
        ringlet_advance(cl);
        if (end)
            return reason;
    }
}

TEST(submit_carries_text_ids_and_messages)
{
    char out[512];
    uint64_t id;
    open_session(0, 0);
    struct ringlet_request req = text("a prompt that is longer than one piece of the answer");
    assert_ok(ringlet_submit(cl, &req, &id));
    assert_int_equal(finish(id, out, sizeof(out)), RINGLET_REASON_LENGTH);
    assert_string_equal(out, req.text);
    assert_int_equal(fake_daemon_last_sqe(d).input_kind, RINGLET_INPUT_TEXT);
    assert_int_equal(fake_daemon_last_sqe(d).block_bytes, 0);
    assert_int_equal(fake_daemon_last_sqe(d).urgency, 128);
    assert_int_equal(fake_daemon_last_sqe(d).max_tokens, RINGLET_MAX_TOKENS_CONTEXT);
    assert_int_equal(fake_daemon_last_sqe(d).model_generation, 7); /* looked up on BOARD */

    const uint32_t ids[] = { 1, 2, 3000000000u };
    ringlet_request_init(&req);
    req.tokens = ids;
    req.n_token = 3;
    assert_ok(ringlet_submit(cl, &req, &id));
    struct ringlet_event ev;
    for (uint32_t i = 0; i < 5; i++) {
        assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
        assert_int_equal(ev.kind, i == 0  ? RINGLET_KIND_ACCEPTED
                                  : i < 4 ? RINGLET_KIND_TOKENS
                                          : RINGLET_KIND_FINISHED);
        if (ev.kind == RINGLET_KIND_TOKENS) {
            assert_int_equal(ev.n_token, 1);
            assert_int_equal(ev.tokens[0], ids[i - 1]);
            assert_int_equal(ev.position, i - 1);
            assert_close(ev.logprobs[0], -0.5, 0, 0);
            assert_null(ev.tops);
        }
        ringlet_advance(cl);
    }
    struct ringlet_message m[2] = { { .role = RINGLET_ROLE_SYSTEM, .text = "abc", .bytes = 3 },
                                    { .role = RINGLET_ROLE_USER,
                                      .text = "12345678",
                                      .bytes = 8,
                                      .flags = RINGLET_CHAT_CONTINUE } };
    ringlet_request_init(&req);
    req.messages = m;
    req.n_message = 2;
    assert_ok(ringlet_submit(cl, &req, &id));
    finish(id, out, sizeof(out));
    const unsigned char *in = fake_daemon_last_input(d);
    const struct ringlet_chat_record *r = (const void *)in;
    assert_int_equal(fake_daemon_last_sqe(d).input_bytes, 16 + 16);
    assert_int_equal(r->role, RINGLET_ROLE_SYSTEM);
    assert_int_equal(r->bytes, 3);
    assert_memory_equal(in + 8, "abc\0\0\0\0\0", 8);
    r = (const void *)(in + 16);
    assert_int_equal(r->flags, RINGLET_CHAT_CONTINUE);
    assert_memory_equal(in + 24, "12345678", 8);
    close_session();
}

TEST(submit_fills_the_block_with_what_was_set_and_nothing_else)
{
    char out[64];
    uint64_t id;
    open_session(0, 0);
    struct ringlet_request req = text("x");
    const struct ringlet_text stop[] = { { "END", 3 }, { "\xE2\x82\xAC!", 4 } };
    const uint32_t ids[] = { 5, 6 };
    const struct ringlet_logit_bias bias[] = { { 1, -2.5f } };
    req.temperature = 0;
    req.top_k = 0;
    req.n = 3;
    req.logprobs = 0;
    req.seed = 0;
    req.stop = stop;
    req.n_stop = 2;
    req.stop_token_ids = ids;
    req.n_stop_token_id = 2;
    req.logit_bias = bias;
    req.n_logit_bias = 1;
    req.options = RINGLET_BLOCK_IGNORE_EOS;
    assert_ok(ringlet_submit(cl, &req, &id));
    finish(id, out, sizeof(out));
    struct ringlet_block b = fake_daemon_last_block(d);
    assert_int_equal(b.block_bytes, RINGLET_BLOCK_BYTES); /* as before there was more */
    assert_int_equal(b.set, RINGLET_SET_TEMPERATURE | RINGLET_SET_TOP_K | RINGLET_SET_N |
                                RINGLET_SET_LOGPROBS | RINGLET_SET_SEED | RINGLET_SET_STOP |
                                RINGLET_SET_STOP_TOKEN_IDS | RINGLET_SET_LOGIT_BIAS |
                                RINGLET_SET_FLAGS);
    assert_int_equal(b.flags, RINGLET_BLOCK_IGNORE_EOS | RINGLET_BLOCK_LOGPROBS);
    assert_int_equal(b.n, 3);
    assert_int_equal(b.stop.bytes, 8 + 8);
    assert_memory_equal(fake_daemon_last_stop(d), "\3\0\0\0END\0\4\0\0\0\xE2\x82\xAC!", 16);
    assert_int_equal(b.stop_token_ids.bytes, 8);
    assert_int_equal(b.logit_bias.bytes, 8);
    assert_int_equal(b.structure.bytes | b.group.bytes | b.reserved, 0);
    req = text("x");
    req.beam_width = 4;
    req.early_stopping = RINGLET_EARLY_STOPPING_NEVER;
    assert_ok(ringlet_submit(cl, &req, &id));
    finish(id, out, sizeof(out));
    b = fake_daemon_last_block(d);
    assert_int_equal(b.block_bytes, RINGLET_BLOCK_BYTES_MAX);
    assert_int_equal(b.set, RINGLET_SET_BEAM);
    assert_int_equal(b.beam_width, 4);
    assert_int_equal(b.early_stopping, RINGLET_EARLY_STOPPING_NEVER);
    assert_close(b.length_penalty, 1, 0, 0); /* not set */
    req.length_penalty_set = 1;
    assert_ok(ringlet_submit(cl, &req, &id));
    finish(id, out, sizeof(out));
    assert_close(fake_daemon_last_block(d).length_penalty, 0, 0, 0);
    req.beam_width = 0; /* nothing is silently ignored */
    assert_int_equal(ringlet_submit(cl, &req, &id), -EINVAL);
    req.length_penalty_set = 0;
    assert_int_equal(ringlet_submit(cl, &req, &id), -EINVAL);
    req = text("x");
    req.temperature = NAN; /* is for the daemon to refuse: it must get there */
    assert_ok(ringlet_submit(cl, &req, &id));
    finish(id, out, sizeof(out));
    b = fake_daemon_last_block(d);
    assert_int_equal(b.set, RINGLET_SET_TEMPERATURE);
    assert_true(isnan(b.temperature));
    close_session();
}

TEST(submit_refuses_what_cannot_be_sent)
{
    open_session(0, 0);
    uint32_t id32 = 1;
    uint64_t id = 77;
    for (int i = 0; i < 10; i++) {
        struct ringlet_request req = text("x");
        struct ringlet_message m = { .reserved = 1, .text = "x", .bytes = 1 };
        struct ringlet_text stop = { NULL, 5 };
        req.struct_size -= i == 0;
        req.flags = i == 1 ? 256 : 0;
        req.reserved[2] = i == 2;
        req.tokens = i == 3 ? &id32 : NULL;
        req.text = i == 4 ? NULL : req.text;
        req.n = i == 5 ? 70000 : RINGLET_UNSET;
        req.logprobs = i == 6 ? 256 : RINGLET_UNSET;
        req.n_stop_token_id = i == 7;
        if (i == 8) {
            req.text = NULL;
            req.text_bytes = 0;
            req.messages = &m;
            req.n_message = 1;
        }
        req.stop = i == 9 ? &stop : NULL;
        req.n_stop = i == 9;
        assert_int_equal(ringlet_submit(cl, &req, &id), -EINVAL);
    }
    struct ringlet_request req = text("x");
    req.text_bytes = SIZE_MAX;
    assert_int_equal(ringlet_submit(cl, &req, &id), -EMSGSIZE);
    req.text_bytes = RINGLET_PROMPT_BYTES_MIN + 1;
    assert_int_equal(ringlet_submit(cl, &req, &id), -EMSGSIZE);
    req = text("x");
    req.tokens = &id32;
    req.text = NULL;
    req.text_bytes = 0;
    req.n_token = SIZE_MAX / 2;
    assert_int_equal(ringlet_submit(cl, &req, &id), -EMSGSIZE);
    assert_int_equal(id, 77);
    assert_int_equal(fake_daemon_taken(d), 0);
    close_session();
}

TEST(submit_says_again_when_slots_or_arena_are_used_up)
{
    char out[64];
    struct ringlet_event ev;
    uint64_t ids[16], id;
    open_session(16, 0);
    struct ringlet_request req = text("hang");
    for (int i = 0; i < 16; i++)
        assert_ok(ringlet_submit(cl, &req, &ids[i]));
    assert_int_equal(ringlet_submit(cl, &req, &id), -EAGAIN);
    assert_ok(ringlet_cancel(cl, ids[7]));
    assert_ok(ringlet_cancel(cl, ids[7])); /* idempotent */
    assert_int_equal(ringlet_cancel(cl, 0), -EINVAL);
    assert_int_equal(ringlet_cancel(cl, ids[7] | 0xFFFF), -EINVAL);
    assert_int_equal(ringlet_cancel(cl, ids[7] + (5ull << 32)), -EINVAL);
    do {
        assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
        if (ev.kind == RINGLET_KIND_FINISHED)
            assert_int_equal(ev.id, ids[7]);
        ringlet_advance(cl);
    } while (ev.kind != RINGLET_KIND_FINISHED);
    assert_int_equal(ev.reason, RINGLET_REASON_CANCELLED);
    req = text("free again");
    assert_ok(ringlet_submit(cl, &req, &id));
    assert_int_not_equal(id, ids[7]);
    assert_int_equal((uint32_t)id, (uint32_t)ids[7]); /* same slot, next generation */
    assert_ok(ringlet_cancel(cl, ids[7]));            /* stale: nothing happens */
    assert_int_equal(finish(id, out, sizeof(out)), RINGLET_REASON_LENGTH);
    close_session();
}

TEST(submit_many_queues_as_many_as_fit)
{
    struct ringlet_request reqs[20];
    uint64_t ids[20];
    size_t n;
    open_session(16, 0);
    for (int i = 0; i < 20; i++) {
        ringlet_request_init(&reqs[i]);
        reqs[i].op = RINGLET_OP_NOP;
        reqs[i].tag = (uint64_t)i;
    }
    assert_int_equal(ringlet_submit_many(cl, reqs, 20, ids, &n), -EAGAIN);
    assert_int_equal(n, 16);
    for (uint64_t i = 0; i < 16; i++) {
        struct ringlet_event ev;
        assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
        assert_int_equal(ev.tag, i);
        assert_int_equal(ev.id, ids[i]);
        assert_int_equal(ev.reason, RINGLET_REASON_DONE);
        assert_non_null(ev.annex);
        ringlet_advance(cl);
    }
    reqs[1].struct_size = 0;
    assert_int_equal(ringlet_submit_many(cl, reqs, 2, NULL, &n), -EINVAL);
    assert_int_equal(n, 1);
    close_session();
}

TEST(submit_wraps_the_arena_under_random_sizes)
{
    static char big[40000], out[41000];
    uint64_t rand = harness_seed();
    open_session(16, 0);
    for (size_t i = 0; i < sizeof(big); i++)
        big[i] = (char)('a' + harness_rand(&rand) % 26);
    for (int round = 0; round < 400; round++) {
        struct ringlet_request req = text("");
        uint64_t id;
        req.text = big + harness_rand(&rand) % 1000;
        req.text_bytes = harness_rand(&rand) % 39000;
        int error;
        while ((error = ringlet_submit(cl, &req, &id)) == -EAGAIN)
            ;
        assert_ok(error);
        assert_int_equal(finish(id, out, sizeof(out)), RINGLET_REASON_LENGTH);
        assert_int_equal(strlen(out), req.text_bytes);
        assert_memory_equal(out, req.text, req.text_bytes);
    }
    close_session();
}
