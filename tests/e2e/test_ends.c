/*
 * Ends of requests that no other test brings about from ring to ring: repetition, overload, a
 * template that refuses, a deadline that is refused early, a prompt larger than the KV memory, a
 * text that the model has no ids for.
 */
#include "tests/e2e/e2e.h"

#include <unistd.h>

static struct e2e_daemon d;
static struct e2e_answer a;

TEST(a_repeated_pattern_ends_the_answer)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req = e2e_text("xyz abcabcabcabcabcabc");
    req.repetition_min = 2;
    req.repetition_max = 4;
    req.repetition_count = 3;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_REPETITION);
    assert_string_equal(a.text, "xyz abcabcabc");
    req.repetition_max = 2; /* the pattern has three tokens */
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_STOP_EOS);
    assert_string_equal(a.text, req.text);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

/* Beyond the bound of a user's queue: `overload`, each exactly once, and the rest is served. */
TEST(more_than_a_user_may_queue_is_overload)
{
    enum { REQUESTS = 1500 };
    const char *const args[] = { "--batch-max", "1", NULL };
    static struct e2e_answer first;
    e2e_start(&d, args);
    struct ringlet_options o = e2e_options(&d);
    o.n_slot = 4096;
    struct ringlet_client *cl = e2e_connect_with(&d, &o);
    struct ringlet_stats_info info;
    assert_ok(ringlet_stats(cl, &info));
    static char text[2001];
    memset(text, 'q', sizeof(text) - 1);
    struct ringlet_request slow = e2e_text(text), req = e2e_text("hi");
    uint64_t id;
    e2e_pause(&d);                             /* they come faster than the first goes */
    assert_ok(ringlet_submit(cl, &slow, &id)); /* it has the only place meanwhile */
    for (int i = 0; i < REQUESTS; i++)
        assert_ok(ringlet_submit(cl, &req, NULL));
    e2e_resume(&d);
    uint32_t n_overload = 0, n_done = 0, n_end = 0;
    while (n_end < REQUESTS + 1) {
        struct ringlet_event ev;
        assert_ok(ringlet_wait(cl, &ev, e2e_deadline_ns()));
        n_overload += ev.reason == RINGLET_REASON_OVERLOAD;
        n_done += ev.reason == RINGLET_REASON_STOP_EOS;
        n_end += ev.flags & RINGLET_CQE_END;
        ringlet_advance(cl);
    }
    assert_int_equal(n_overload + n_done, REQUESTS + 1);
    assert_true(n_done >= info.limits->queued_uid_max);
    assert_true(n_overload > 0);
    e2e_ask(cl, &req, &first);
    assert_string_equal(first.text, "hi");
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(a_template_that_refuses_ends_the_request)
{
    const char *path = e2e_stories_with(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}"
        "{{ raise_exception('no tools here') }}{% endif %}{{ m.content }} {% endfor %}");
    const char *const args[] = { "--model", path, "--log", "text=debug", NULL };
    if (!path)
        skip();
    e2e_start_with(&d, args);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_message m = { .role = RINGLET_ROLE_USER, .text = "Lily", .bytes = 4 };
    struct ringlet_request req = e2e_text("");
    req.text = NULL;
    req.messages = &m;
    req.n_message = 1;
    req.max_tokens = 4;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_LENGTH);
    m.role = RINGLET_ROLE_TOOL;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_ERROR_REQUEST);
    assert_int_equal(a.detail, RINGLET_ERROR_BAD_TEMPLATE);
    assert_int_equal(a.n_event, 1);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
    char log[4096] = "";
    FILE *file = fopen(d.log, "r");
    assert_non_null(file);
    log[fread(log, 1, sizeof(log) - 1, file)] = 0;
    fclose(file);
    assert_non_null(strstr(log, "no tools here"));
}

/* A tokenizer with more ids than the model has logits: that costs who asks, and nobody else. */
TEST(a_text_beyond_the_models_ids_ends_alone)
{
    static struct e2e_answer long_answer;
    const char *path = e2e_tiny("llama_hf_beyond");
    const char *const args[] = { "--model", path, NULL };
    if (!path)
        skip();
    e2e_start_with(&d, args);
    struct ringlet_client *cl = e2e_connect(&d), *other = e2e_connect(&d);
    struct ringlet_request req = e2e_text("abc");
    uint64_t id;
    req.max_tokens = 200;
    req.options = RINGLET_BLOCK_IGNORE_EOS;
    assert_int_equal(ringlet_submit(cl, &req, &id), 0);
    for (int i = 0; i < 20; i++) {
        struct ringlet_request bad = e2e_text(i % 2 ? "ab ~~ cd" : "~~");
        e2e_ask(other, &bad, &a);
        assert_int_equal(a.reason, RINGLET_REASON_REJECTED);
        assert_int_equal(a.detail, RINGLET_ERROR_BAD_TOKEN);
    }
    struct ringlet_request least = e2e_text("abc"); /* no id that ends, nor one beyond */
    least.min_tokens = least.max_tokens = 3;
    e2e_ask(other, &least, &a);
    assert_int_equal(a.reason, RINGLET_REASON_LENGTH);
    e2e_gather(cl, id, &long_answer);
    assert_int_equal(long_answer.reason, RINGLET_REASON_LENGTH);
    assert_int_equal(long_answer.n_token, 200);
    e2e_audit(cl, 0);
    ringlet_close(other);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(a_deadline_that_cannot_be_met_is_refused_with_the_estimate)
{
    const char *path = e2e_stories();
    const char *const args[] = { "--model", path, "--ctx", "512", NULL };
    if (!path)
        skip();
    e2e_start_with(&d, args);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req = e2e_text("Lily had a ball.");
    req.max_tokens = 400;
    req.options = RINGLET_BLOCK_IGNORE_EOS;
    for (int i = 0; i < 3; i++)
        e2e_ask(cl, &req, &a); /* the daemon learns what a token costs */
    uint64_t short_ns = 1000000, until = e2e_deadline_ns();
    do { /* 0: it had passed before the daemon saw it, on a busy machine */
        req.total_deadline_ns = e2e_now_ns() + short_ns;
        e2e_ask(cl, &req, &a);
        assert_int_equal(a.reason, RINGLET_REASON_DEADLINE);
    } while (a.detail == 0 && e2e_may_wait(until));
    assert_int_equal(a.detail, 1);
    assert_int_equal(a.n_token, 0);
    assert_true(a.annex.estimate_ns > short_ns);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(a_prompt_beyond_the_kv_memory_is_too_big)
{
    const char *const args[] = { "--kv-memory", "8K", NULL };
    static char text[4001];
    e2e_start(&d, args);
    struct ringlet_client *cl = e2e_connect(&d);
    uint64_t blocks = e2e_stat(cl, "kv_blocks_total", 0);
    assert_true(blocks > 0 && blocks * 16 < sizeof(text) - 1);
    memset(text, 'b', sizeof(text) - 1);
    struct ringlet_request req = e2e_text(text);
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_REJECTED);
    assert_int_equal(a.detail, RINGLET_ERROR_TOO_BIG);
    assert_int_equal(a.annex.total_prompt_tokens, 4000);
    assert_int_equal(a.annex.kv_blocks_peak, 250); /* that it needs */
    req.text_bytes = 20;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_STOP_EOS);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}
