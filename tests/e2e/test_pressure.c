/*
 * A KV pool far smaller than what is asked of it, through real rings and the real executor:
 * requests are preempted, swapped out and in, copied and evicted, and every answer is right all the
 * same. The model echo reads its answer back through the block table.
 */
#include "tests/e2e/e2e.h"

#include <errno.h>

enum { REQUESTS = 48, TEXT_MAX = 300 };

struct asked {
    uint64_t id;
    char text[TEXT_MAX + 1];
    size_t bytes, got[3];
    uint32_t n, n_ended;
    bool done;
};

static struct e2e_daemon d;
static struct asked asked[REQUESTS];

static void submit(struct ringlet_client *cl, struct asked *a, uint64_t *state, const char *shared)
{
    *a = (struct asked){ .n = 1 + (uint32_t)(harness_rand(state) % 3) };
    size_t keep = harness_rand(state) % 120;
    a->bytes = keep + 1 + harness_rand(state) % (TEXT_MAX - 120);
    for (size_t i = 0; i < a->bytes; i++)
        a->text[i] = i < keep ? shared[i] : (char)('a' + harness_rand(state) % 26);
    struct ringlet_request req = e2e_text(a->text);
    req.text_bytes = a->bytes;
    req.n = a->n;
    if (a->n > 1)
        req.temperature = 0.01f;
    if (harness_rand(state) % 4 == 0)
        req.presence_penalty = 0.01f;
    int error;
    while ((error = ringlet_submit(cl, &req, &a->id)) == -EAGAIN)
        usleep(1000);
    assert_ok(error);
}

static void take(const struct ringlet_event *ev)
{
    struct asked *a = NULL;
    for (int i = 0; i < REQUESTS && !a; i++)
        a = asked[i].id == ev->id && !asked[i].done ? &asked[i] : NULL;
    assert_non_null(a);
    if (ev->kind == RINGLET_KIND_TOKENS) {
        assert_true(a->got[ev->index] + ev->text_bytes <= a->bytes);
        assert_memory_equal(ev->text, a->text + a->got[ev->index], ev->text_bytes);
        a->got[ev->index] += ev->text_bytes;
    }
    if (ev->kind == RINGLET_KIND_FINISHED) {
        assert_int_equal(ev->reason, RINGLET_REASON_STOP_EOS);
        assert_int_equal(a->got[ev->index], a->bytes);
        a->n_ended++;
    }
    if (ev->flags & RINGLET_CQE_END) {
        assert_int_equal(a->n_ended, a->n);
        a->done = true;
    }
}

static void storm(const char *const *extra)
{
    e2e_start(&d, extra);
    struct ringlet_client *cl = e2e_connect(&d);
    uint64_t state = harness_seed() | 1;
    char shared[120];
    for (size_t i = 0; i < sizeof(shared); i++)
        shared[i] = (char)('A' + harness_rand(&state) % 26);
    for (int round = 0; round < 4; round++) {
        if (round == 0) /* at once, or a client that is seldom run never fills the pool */
            e2e_pause(&d);
        for (int i = 0; i < REQUESTS; i++)
            submit(cl, &asked[i], &state, shared);
        if (round == 0)
            e2e_resume(&d);
        for (int left = REQUESTS; left > 0;) {
            struct ringlet_event ev;
            int got = ringlet_wait(cl, &ev, e2e_deadline_ns());
            assert_ok(got);
            take(&ev);
            left -= (ev.flags & RINGLET_CQE_END) != 0;
            ringlet_advance(cl);
        }
    }
    e2e_stat_reaches(cl, "preemptions", 0, 1);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(every_answer_is_right_in_a_pool_that_is_much_too_small)
{
    static const char *const extra[] = { "--kv-memory", "8K", NULL };
    storm(extra);
}

TEST(every_answer_is_right_with_swap_to_the_host)
{
    static const char *const extra[] = { "--kv-memory", "8K", "--host-kv-memory", "16K", NULL };
    storm(extra);
}

TEST(every_answer_is_right_without_a_prefix_cache_and_with_policies)
{
    static const char *const extra[] = {
        "--kv-memory",    "8K",  "--host-kv-memory", "8K", "--policy", "fair",
        "--prefix-cache", "off", "--cadence-ms",     "1",  NULL
    };
    storm(extra);
}
