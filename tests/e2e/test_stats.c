/* What the counters say after known requests: sizes to the token, times in order. */
#include "tests/e2e/e2e.h"

#include <string.h>

static struct e2e_daemon d;
static struct e2e_answer a;

struct histogram {
    uint64_t count, sum;
};

static struct histogram histogram(struct ringlet_client *cl, const char *name, int urgency_class)
{
    struct ringlet_counter c;
    struct histogram h = { 0 };
    uint8_t want = urgency_class < 0 ? RINGLET_STAT_ANY : (uint8_t)urgency_class;
    for (uint32_t i = 0; ringlet_stat_at(cl, i, &c) == 0; i++) {
        if (strcmp(c.name, name) != 0 || c.model != 0 || c.urgency_class != want)
            continue;
        uint64_t in_buckets = 0;
        assert_int_equal(c.kind, RINGLET_STAT_HISTOGRAM);
        assert_int_equal(c.n_value, RINGLET_STAT_HISTOGRAM_VALUES);
        h.count = __atomic_load_n(&c.values[0], __ATOMIC_RELAXED);
        h.sum = __atomic_load_n(&c.values[1], __ATOMIC_RELAXED);
        for (uint32_t k = 2; k < c.n_value; k++)
            in_buckets += __atomic_load_n(&c.values[k], __ATOMIC_RELAXED);
        assert_int_equal(in_buckets, h.count);
        return h;
    }
    fail_msg("no histogram %s", name);
    return h;
}

#define assert_histogram(name, n, total)                                                           \
    do {                                                                                           \
        struct histogram h_ = histogram(cl, (name), -1);                                           \
        assert_int_equal(h_.count, (n));                                                           \
        assert_int_equal(h_.sum, (total));                                                         \
    } while (0)

TEST(histograms_tell_sizes_and_times_of_requests_that_ran)
{
    static const char text[] = "more than one KV block of tokens, found again"; /* 45 */
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req = e2e_text(text);
    req.max_tokens = 20;
    req.urgency = 200; /* class 3 */
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_LENGTH);
    e2e_settle(cl); /* it is told one by one, behind its end */
    assert_int_equal(e2e_stat(cl, "requests_finished", 0), 1);
    assert_histogram("request_prompt_tokens", 1, 45);
    assert_histogram("request_generation_tokens", 1, 20);
    assert_histogram("request_params_max_tokens", 1, 20);
    assert_histogram("request_prefill_kv_computed_tokens", 1, 45);
    assert_histogram("request_num_preemptions", 1, 0);

    req.n = 3;
    req.temperature = 0.5f;
    req.max_tokens = 8;
    e2e_ask(cl, &req, &a);
    e2e_settle(cl);
    assert_int_equal(e2e_stat(cl, "requests_finished", 0), 2);
    struct histogram computed = histogram(cl, "request_prefill_kv_computed_tokens", -1);
    uint64_t hits = 90 - computed.sum;
    assert_int_equal(computed.count, 2);
    assert_in_range(hits, 32, 44);
    assert_int_equal(e2e_stat(cl, "prefix_cache_hits", 0), hits);
    assert_histogram("request_prompt_tokens", 2, 90);
    assert_histogram("request_params_n", 2, 4);
    assert_histogram("request_generation_tokens", 2, 20 + a.annex.completion_tokens);
    struct histogram longest = histogram(cl, "request_max_num_generation_tokens", -1);
    assert_in_range(longest.sum, 21, 28);

    /* what is refused was of no size and took no time, but has a reason */
    req = e2e_text(text);
    req.temperature = 9;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_REJECTED);
    e2e_settle(cl);
    assert_int_equal(e2e_stat(cl, "finished_rejected", 0), 1);
    assert_histogram("request_prompt_tokens", 2, 90);

    struct histogram total = histogram(cl, "total_ns", 3), first = histogram(cl, "prefill_ns", 3);
    struct histogram queue = histogram(cl, "queue_ns", 3), decode = histogram(cl, "decode_ns", 3);
    struct histogram engine = histogram(cl, "inference_ns", 3);
    assert_int_equal(total.count, 2);
    assert_int_equal(histogram(cl, "time_per_output_token_ns", 3).count, 2);
    assert_int_equal(total.sum, queue.sum + engine.sum);
    assert_int_equal(engine.sum, first.sum + decode.sum);
    assert_int_equal(histogram(cl, "total_ns", 2).count, 0);

    /* the last steps may still be on their way back: two are in flight */
    e2e_audit(cl, 0);
    e2e_settle(cl);
    struct histogram rows = histogram(cl, "iteration_tokens", -1);
    struct histogram step = histogram(cl, "step_ns", -1);
    assert_int_equal(rows.count, step.count);
    assert_true(rows.sum >= 45 + 19 + 45 - hits + 3 * 7);
    assert_true(step.sum > 0);
    ringlet_close(cl);
    e2e_stop(&d);
}
