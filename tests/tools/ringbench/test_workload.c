#include "tools/ringbench/load.h"

#include "tests/harness/harness.h"

static struct load_params params;

static struct workload *open_named(const char *name, uint32_t n_request)
{
    struct load_record *record = params.record;
    params = (struct load_params){ .seed = 7,
                                   .concurrency = 4,
                                   .n_request = n_request,
                                   .prompt = "20-30",
                                   .output = "5",
                                   .n_group = 1,
                                   .vocab = 32000,
                                   .context = 4096,
                                   .workload = name,
                                   .record = record };
    return workload_open(&params);
}

/* Every prompt of a workload, answered with ids that depend on the prompt's length alone. */
struct asked {
    struct {
        uint32_t tokens[2048], n_token, max_tokens, n, beam_width;
    } job[128];
    int n;
};

static void keep(struct asked *asked, const struct load_job *job)
{
    assert_true(asked->n < 128 && job->n_token <= 2048);
    memcpy(asked->job[asked->n].tokens, job->tokens, job->n_token * sizeof(uint32_t));
    asked->job[asked->n].n_token = job->n_token;
    asked->job[asked->n].max_tokens = job->max_tokens;
    asked->job[asked->n].beam_width = job->beam_width;
    asked->job[asked->n++].n = job->n;
}

static void answer(struct workload *w, struct load_job *job)
{
    for (uint32_t i = 0; i < job->max_tokens; i++)
        job->output[i] = 1000 + job->n_token + i;
    job->n_output = job->max_tokens;
    workload_done(w, job);
}

/* `backwards`: of the jobs that are out, the youngest ends first. */
static void run(struct workload *w, struct asked *ret, bool backwards)
{
    struct load_job *out[8], *job;
    int n_out = 0;
    ret->n = 0;
    while (n_out || !workload_finished(w)) {
        while (n_out < 4 && (job = workload_next(w))) {
            keep(ret, job);
            out[n_out++] = job;
        }
        assert_true(n_out > 0);
        int at = backwards ? n_out - 1 : 0;
        job = out[at];
        memmove(out + at, out + at + 1, (size_t)(--n_out - at) * sizeof(job));
        answer(w, job);
    }
    workload_close(w);
}

static uint32_t common(const struct asked *a, int i, int k)
{
    uint32_t n = 0;
    while (n < a->job[i].n_token && n < a->job[k].n_token &&
           a->job[i].tokens[n] == a->job[k].tokens[n])
        n++;
    return n;
}

static struct asked a, b;

TEST(workload_few_shot_shares_a_thousand_tokens_and_has_32_of_its_own)
{
    run(open_named("few-shot", 6), &a, false);
    assert_int_equal(a.n, 6);
    for (int i = 0; i < 6; i++) {
        assert_int_equal(a.job[i].n_token, 1032);
        assert_int_equal(a.job[i].max_tokens, 32);
        if (i)
            assert_in_range(common(&a, 0, i), 1000, 1001);
    }
}

TEST(workload_tree_has_three_branches_to_depth_three)
{
    run(open_named("tree", 2), &a, false);
    assert_int_equal(a.n, 2 * (1 + 3 + 9));
    uint32_t most = 0;
    for (int i = 0; i < a.n; i++)
        most = a.job[i].n_token > most ? a.job[i].n_token : most;
    assert_int_equal(most, 600 + 16 + 2 * (32 + 16));
}

TEST(workload_agent_tries_a_second_tool_in_each_round)
{
    run(open_named("agent", 1), &a, false);
    assert_int_equal(a.n, 6 + 5); /* six rounds; five of them with a branch that ends at once */
    run(open_named("chat", 3), &a, false);
    assert_int_equal(a.n, 12);
    run(open_named("n", 2), &a, false);
    assert_int_equal(a.n, 2);
    assert_int_equal(a.job[0].n, 8);
    assert_in_range(common(&a, 0, 1), 500, 501);
    run(open_named("beam", 2), &a, false);
    assert_int_equal(a.job[1].beam_width, 4);
    assert_int_equal(a.job[1].n, 1);
}

TEST(workload_rag_begins_with_two_shared_documents_and_no_sharing_shares_nothing)
{
    run(open_named("rag", 40), &a, false);
    int pairs = 0;
    for (int i = 0; i < a.n; i++) {
        assert_int_equal(a.job[i].n_token, 832);
        for (int k = 0; k < i; k++)
            pairs += common(&a, i, k) >= 400;
    }
    assert_true(pairs > 20); /* one in eight of 780 */
    run(open_named("no-sharing", 20), &a, false);
    for (int i = 0; i < a.n; i++)
        for (int k = 0; k < i; k++)
            assert_true(common(&a, i, k) < 8);
}

TEST(workload_asks_the_same_in_whatever_order_answers_come)
{
    static const char *const names[] = { "plain", "few-shot", "chat", "tree", "agent", "rag" };
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        run(open_named(names[i], 3), &a, false);
        run(open_named(names[i], 3), &b, true);
        assert_int_equal(a.n, b.n);
        for (int k = 0; k < a.n; k++) {
            bool found = false;
            for (int m = 0; m < b.n && !found; m++)
                found = a.job[k].n_token == b.job[m].n_token &&
                        memcmp(a.job[k].tokens, b.job[m].tokens,
                               a.job[k].n_token * sizeof(uint32_t)) == 0;
            assert_true(found);
        }
    }
}

TEST(workload_replays_the_prefixes_that_were_cached)
{
    struct load_record record = { 0 };
    params.record = &record;
    struct workload *w = open_named("plain", 4);
    struct load_job *job;
    for (int i = 0; (job = workload_next(w)); i++) {
        job->cached_tokens = i == 1 ? 0 : 10 + (uint32_t)i;
        keep(&a, (a.n = i, job));
        answer(w, job);
    }
    workload_close(w);
    params.record = NULL;
    assert_int_equal(record.n, 3); /* one had nothing cached */
    assert_int_equal(record.n_token, 10 + 12 + 13);
    run(workload_replay(&params, &record), &b, false);
    assert_int_equal(b.n, 3);
    for (int i = 0; i < 3; i++) {
        int was = i == 0 ? 0 : i + 1;
        assert_int_equal(b.job[i].n_token, 10 + was);
        assert_int_equal(b.job[i].max_tokens, 0);
        assert_memory_equal(b.job[i].tokens, a.job[was].tokens, b.job[i].n_token * 4);
    }
    load_record_free(&record);
}

TEST(workload_refuses_unknown_names_and_lengths)
{
    assert_null(open_named("nonsense", 1));
    static const char *const bad[] = { "",     "x",     "0",          "-5",  "10-5",
                                       "exp:", "exp:x", "normal:5,x", "10-", "1e99" };
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        workload_close(open_named("plain", 1));
        params.prompt = bad[i];
        struct workload *w = workload_open(&params);
        if (w)
            fail_msg("length '%s' was taken", bad[i]);
    }
}

TEST(workload_draws_lengths_as_asked)
{
    static const struct {
        const char *text;
        double mean, within;
    } forms[] = {
        { "50", 50, 0.5 }, { "20-80", 50, 3 }, { "exp:50", 50, 8 }, { "normal:50,5", 50, 2 }
    };
    for (size_t f = 0; f < ARRAY_SIZE(forms); f++) {
        workload_close(open_named("plain", 100));
        params.prompt = forms[f].text;
        params.seed = 11;
        double sum = 0;
        for (int round = 0; round < 4; round++, params.seed++) {
            run(workload_open(&params), &a, false);
            for (int i = 0; i < a.n; i++)
                sum += a.job[i].n_token;
        }
        assert_close(sum / 400, forms[f].mean, forms[f].within, 0);
    }
}

TEST(load_counts_from_when_a_request_was_due)
{
    struct load_totals totals = { 0 };
    params.ttft_deadline_ns = 100;
    params.total_deadline_ns = 0;
    struct load_job job = { .due_ns = 1000,
                            .sent_ns = 1500,
                            .first_ns = 1080,
                            .done_ns = 2000,
                            .max_tokens = 4,
                            .n_output = 4,
                            .n_output_all = 4 };
    load_count(&totals, &params, &job);
    assert_int_equal(totals.ttft.ns[0], 80);
    assert_int_equal(totals.e2e.ns[0], 1000);
    assert_int_equal(totals.n_good, 1);
    job.first_ns = 1200; /* too late for the deadline */
    load_count(&totals, &params, &job);
    assert_int_equal(totals.n_good, 1);
    job.reason = 0xFFFF;
    load_count(&totals, &params, &job);
    assert_int_equal(totals.n_failed, 1);
    assert_int_equal(totals.ttft.n, 2);
    load_totals_free(&totals);
    params.ttft_deadline_ns = 0;
}
