/* mirrors: daemon/handles.c. Held sequences, leases, queries through real rings, over the model
 * echo. */
#include "tests/e2e/e2e.h"

#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static struct e2e_daemon d;
static struct e2e_answer a;

static void op(struct ringlet_client *cl, uint8_t what, const char *text, uint64_t handle)
{
    struct ringlet_request req = e2e_text(text ? text : "");
    req.op = what;
    if (!text)
        req.text = NULL;
    req.handle = handle;
    e2e_ask(cl, &req, &a);
}

static uint64_t hold(struct ringlet_client *cl, const char *text, uint32_t max_tokens,
                     uint64_t handle)
{
    struct ringlet_request req = e2e_text(text);
    req.flags = RINGLET_SQE_HOLD;
    req.max_tokens = max_tokens;
    req.handle = handle;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_LENGTH);
    assert_true(a.handle != 0);
    return a.handle;
}

TEST(a_held_sequence_is_continued_and_forked)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    const char *text = "a first turn, longer than one block of sixteen";
    uint64_t first = hold(cl, text, 7, 0);
    char expected[256];
    snprintf(expected, sizeof(expected), "%sa first and more", text);
    for (int fork = 0; fork < 3; fork++) {
        op(cl, RINGLET_OP_GENERATE, " and more", first);
        assert_string_equal(a.text, expected);
        assert_true(a.annex.total_cached_tokens >= strlen(text));
    }
    uint64_t second = hold(cl, " b", 3, first);
    op(cl, RINGLET_OP_GENERATE, "", second);
    snprintf(expected, sizeof(expected), "%sa first ba f", text);
    assert_string_equal(a.text, expected);
    op(cl, RINGLET_OP_RELEASE, NULL, first);
    assert_int_equal(a.reason, RINGLET_REASON_DONE);
    op(cl, RINGLET_OP_RELEASE, NULL, first);
    assert_int_equal(a.reason, RINGLET_REASON_REJECTED);
    assert_int_equal(a.detail, RINGLET_ERROR_NO_HANDLE);
    op(cl, RINGLET_OP_GENERATE, "x", first);
    assert_int_equal(a.detail, RINGLET_ERROR_NO_HANDLE);
    op(cl, RINGLET_OP_RELEASE, NULL, second);
    assert_int_equal(a.reason, RINGLET_REASON_DONE);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

/* Events that nobody reads yet, up to a few of the 64 that 16 slots have. */
static void fill_ring(struct ringlet_client *cl, uint64_t ids[12])
{
    static char text[1021];
    struct ringlet_event ev;
    memset(text, 'x', sizeof(text) - 1);
    /* A client that is about to sleep tells what it has read: all are free. */
    assert_int_equal(ringlet_wait(cl, &ev, e2e_now_ns() + 1000000), -ETIMEDOUT);
    for (int i = 0; i < 12; i++) {
        struct ringlet_request req = e2e_text(text);
        req.op = RINGLET_OP_TOKENIZE; /* 4 pieces of 255 ids, and the end */
        assert_ok(ringlet_submit(cl, &req, &ids[i]));
    }
}

/*
 * The scheduler runs ahead of a client that does not read, to an end of its own behind the stop
 * string. What is held ends where the events do: with the id that completed the stop.
 */
TEST(what_a_stop_string_ended_is_held_to_the_stop_and_forked)
{
    e2e_start(&d, NULL);
    struct ringlet_options options = e2e_options(&d);
    options.n_slot = 16;
    struct ringlet_client *cl = e2e_connect_with(&d, &options), *other = e2e_connect(&d);
    const char *text = "one two three four five six seven eight";
    struct ringlet_text stop = { "five", 4 };
    const uint32_t n_said = (uint32_t)strlen("one two three four five");
    for (int ahead = 0; ahead < 2; ahead++) {
        struct ringlet_request req = e2e_text(text);
        uint64_t id, before[12];
        req.flags = RINGLET_SQE_HOLD;
        req.stop = &stop;
        req.n_stop = 1;
        if (ahead)
            fill_ring(cl, before);
        assert_ok(ringlet_submit(cl, &req, &id));
        if (ahead) { /* 39 ids of the prompt, and its echo */
            e2e_stat_becomes(other, "kv_blocks_owned", 0, 5);
            e2e_stat_becomes(other, "running", 0, 0);
        }
        for (int i = 0; ahead && i < 12; i++)
            e2e_gather(cl, before[i], &a);
        e2e_gather(cl, id, &a);
        assert_int_equal(a.reason, RINGLET_REASON_STOP_STRING);
        assert_int_equal(a.n_token, n_said);
        assert_int_equal(a.annex.completion_tokens, n_said);
        assert_int_equal(a.text_bytes, n_said - 4);
        uint64_t handle = a.handle;
        assert_true(handle != 0);
        char expected[512];
        snprintf(expected, sizeof(expected), "%s%.*s!", text, (int)n_said, text);
        op(cl, RINGLET_OP_GENERATE, "!", handle);
        assert_string_equal(a.text, expected); /* echo says all of what it was given */
        op(cl, RINGLET_OP_RELEASE, NULL, handle);
        assert_int_equal(a.reason, RINGLET_REASON_DONE);
    }
    e2e_audit(other, 0);
    ringlet_close(cl);
    ringlet_close(other);
    e2e_stop(&d);
}

TEST(a_handle_belongs_to_its_session_and_ends_with_it)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d), *other = e2e_connect(&d);
    uint64_t handle = hold(cl, "somebody's own words", 4, 0);
    op(other, RINGLET_OP_GENERATE, "x", handle);
    assert_int_equal(a.detail, RINGLET_ERROR_NO_HANDLE);
    op(other, RINGLET_OP_RELEASE, NULL, handle);
    assert_int_equal(a.detail, RINGLET_ERROR_NO_HANDLE);
    op(other, RINGLET_OP_GENERATE, "x", UINT64_MAX);
    assert_int_equal(a.detail, RINGLET_ERROR_NO_HANDLE);
    op(other, RINGLET_OP_GENERATE, "x", UINT64_C(0xFF000000));
    assert_int_equal(a.detail, RINGLET_ERROR_NO_HANDLE);
    ringlet_close(cl);
    e2e_stat_becomes(other, "kv_blocks_owned", 0, 0);
    e2e_audit(other, 0);
    ringlet_close(other);
    e2e_stop(&d);
}

TEST(query_tells_what_is_cached_and_computes_nothing)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    const char *text = "forty bytes of text, which are 40 tokens";
    op(cl, RINGLET_OP_QUERY, text, 0);
    assert_int_equal(a.reason, RINGLET_REASON_DONE);
    assert_int_equal(a.n_event, 1);
    assert_int_equal(a.annex.total_prompt_tokens, 40);
    assert_int_equal(a.annex.total_cached_tokens, 0);
    op(cl, RINGLET_OP_GENERATE, text, 0);
    op(cl, RINGLET_OP_QUERY, text, 0);
    assert_int_equal(a.annex.total_cached_tokens, 39); /* the last is always computed */
    op(cl, RINGLET_OP_QUERY, "forty bytes of something else", 0);
    assert_int_equal(a.annex.total_cached_tokens, 15);
    ringlet_close(cl);
    e2e_stop(&d);
}

/* What of a text is cached for this group; UINT32_MAX: refused. */
static uint32_t cached(struct ringlet_client *cl, const char *text, const char *group)
{
    struct ringlet_request req = e2e_text(text);
    req.op = RINGLET_OP_QUERY;
    req.group = group;
    req.group_bytes = strlen(group);
    e2e_ask(cl, &req, &a);
    if (a.reason == RINGLET_REASON_DONE)
        return a.annex.total_cached_tokens;
    assert_int_equal(a.reason, RINGLET_REASON_REJECTED);
    assert_int_equal(a.detail, RINGLET_ERROR_BAD_FIELD);
    assert_int_equal(a.field, 64 + offsetof(struct ringlet_block, group));
    return UINT32_MAX;
}

/* The same as another user. Returns what `cached` does, in the exit status. */
static int cached_for(uid_t uid, const char *text, const char *group)
{
    int status;
    pid_t child = fork();
    if (child == 0) {
        if (setresuid(uid, uid, uid))
            _exit(254);
        struct ringlet_client *cl = e2e_connect(&d);
        uint32_t n = cached(cl, text, group);
        ringlet_close(cl);
        _exit(n == UINT32_MAX ? 255 : (int)n);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    return WEXITSTATUS(status);
}

TEST(a_group_shares_a_cache_that_nobody_else_sees)
{
    enum { NOBODY = 65534, SOMEBODY = 65533 };
    char path[256];
    snprintf(path, sizeof(path), "%s/groups.conf", harness_tmpdir());
    FILE *file = fopen(path, "we");
    assert_non_null(file);
    fprintf(file, "[user %u]\ngroups = lab,shop\n[user %d]\ngroups = lab\n", geteuid(), NOBODY);
    assert_int_equal(fclose(file), 0);
    assert_int_equal(chmod(harness_tmpdir(), 0755), 0);
    e2e_start(&d, (const char *[]){ "--config", path, "--socket-mode", "0666", NULL });
    struct ringlet_client *cl = e2e_connect(&d);
    const char *text = "forty bytes of text, which are 40 tokens";
    struct ringlet_request req = e2e_text(text);
    req.group = "lab";
    req.group_bytes = 3;
    e2e_ask(cl, &req, &a);
    assert_string_equal(a.text, text);
    assert_int_equal(cached(cl, text, "lab"), 39);
    assert_int_equal(cached(cl, text, "shop"), 0); /* another group, and one's own: other caches */
    assert_int_equal(cached(cl, text, ""), 0);
    assert_int_equal(cached(cl, text, "mob"), UINT32_MAX);
    if (geteuid() == 0) {
        assert_int_equal(cached_for(NOBODY, text, "lab"), 39);
        assert_int_equal(cached_for(NOBODY, text, "shop"), 255);
        assert_int_equal(cached_for(NOBODY, text, ""), 0);
        assert_int_equal(cached_for(SOMEBODY, text, "lab"), 255);
    }
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(a_lease_is_made_renewed_and_ends_by_itself)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req = e2e_text("a system prompt that many will share");
    uint64_t id;
    assert_ok(ringlet_lease(cl, &req, UINT64_C(60000000000), &id));
    e2e_gather(cl, id, &a);
    assert_int_equal(a.reason, RINGLET_REASON_DONE);
    assert_int_equal(a.n_event, 1);
    uint64_t lease = a.handle;
    assert_true(lease != 0);
    e2e_stat_becomes(cl, "handles", 0, 1);
    e2e_stat_reaches(cl, "kv_blocks_pinned", 0, 1);
    e2e_stat_becomes(cl, "kv_blocks_owned", 0, e2e_stat(cl, "kv_blocks_pinned", 0));
    ringlet_request_init(&req);
    req.handle = lease;
    assert_ok(ringlet_lease(cl, &req, 1000000, &id));
    e2e_gather(cl, id, &a);
    assert_int_equal(a.reason, RINGLET_REASON_DONE);
    e2e_stat_becomes(cl, "kv_blocks_owned", 0, 0);
    e2e_stat_becomes(cl, "handles", 0, 0);
    op(cl, RINGLET_OP_RELEASE, NULL, lease);
    assert_int_equal(a.detail, RINGLET_ERROR_NO_HANDLE);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(forks_of_n_are_held_one_by_one)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req = e2e_text("0123456789abcdefghij");
    req.flags = RINGLET_SQE_HOLD;
    req.temperature = 0.1f;
    req.max_tokens = 3;
    req.n = 3;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.n_finished, 3);
    uint64_t handles[3];
    memcpy(handles, a.handles, sizeof(handles));
    for (int i = 0; i < 3; i++) {
        assert_true(handles[i] != 0 && handles[i] != handles[(i + 1) % 3]);
        op(cl, RINGLET_OP_GENERATE, "!", handles[i]);
        assert_string_equal(a.text, "0123456789abcdefghij012!");
    }
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(more_sequences_than_the_batch_has_take_turns)
{
    e2e_start(&d, (const char *[]){ "--batch-max", "2", NULL });
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req = e2e_text("0123456789abcdefghij");
    req.temperature = 0.1f;
    req.max_tokens = 10;
    req.n = 7;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.n_finished, 7);
    for (int i = 0; i < 7; i++)
        assert_int_equal(a.reasons[i], RINGLET_REASON_LENGTH);
    assert_int_equal(a.annex.completion_tokens, 70);
    assert_int_equal(a.annex.preemptions, 0);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}
