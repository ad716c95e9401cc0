/* Captured decode steps give what op-by-op steps give: padding, offsets, samplers, bounds. */
#include "daemon/exec/graphs.h"

#include <errno.h>

#include "base/compiler.h"
#include "daemon/exec/exec_model.h"
#include "tests/daemon/exec/golden.h"
#include "tests/daemon/exec/replay_device.h"
#include "tests/harness/harness.h"

enum { SEQS = 5, PROMPT = 12, DECODE = 10 };

static int try_model(struct runner *r, const char *path, const struct backend *table,
                     struct format_error *err)
{
    struct executor_config config = { .backend = "cpu", .n_thread = 1, .table = table };
    struct executor_load load = {
        .source.path = path, .batch_max = SEQS, .rows_max = 64, .samples_max = 64, .kv_type = "f32"
    };
    return runner_open_config(r, &config, &load, err);
}

static void open_model(struct runner *r, const char *path, const struct backend *table)
{
    struct format_error err = { "" };
    if (try_model(r, path, table, &err) < 0)
        fail_msg("%s", err.text);
}

/* The same model op by op, and replayed where it can be. */
static void open_pair(struct runner *plain, struct runner *replayed)
{
    const char *path = golden_weights("llama_f32_gqa_tied");
    const struct backend *table = replay_backend();
    assert_non_null(table);
    open_model(plain, path, NULL);
    open_model(replayed, path, table);
}

static void prefill(struct runner *r, int32_t *token)
{
    uint64_t seed = 99;
    for (int s = 0; s < SEQS; s++) {
        int32_t prompt[PROMPT];
        for (int i = 0; i < PROMPT; i++)
            prompt[i] = (int32_t)(harness_rand(&seed) % 160);
        struct step *step = runner_step(r);
        r->first_block = 4 * s;
        runner_add_seq(r, step, prompt, 0, PROMPT, PROMPT);
        runner_add_sample(step, PROMPT - 1, PROMPT);
        assert_ok(runner_run(r, step));
        token[s] = step->result[0].token;
    }
}

/* Decode n sequences at once, odd steps with what the captured sampler cannot do. */
static void decode(struct runner *r, int n, struct step_token out[DECODE][SEQS])
{
    int32_t token[SEQS];
    prefill(r, token);
    for (int i = 0; i < DECODE; i++) {
        struct step *step = runner_step(r);
        for (int s = 0; s < n; s++) {
            r->first_block = 4 * s;
            runner_add_seq(r, step, &token[s], PROMPT + i, 1, PROMPT);
            runner_add_sample(step, s, PROMPT + i + 1);
            if (i % 2 == 0)
                continue;
            step->sample[s].temperature = 0.9f;
            step->sample[s].seed = 5;
            step->sample[s].index = (uint32_t)s;
            step->sample[s].flags = STEP_SAMPLE_LOGPROBS;
            step->sample[s].n_top = 3;
            step->sample[s].bias_start = step->n_bias;
            step->sample[s].n_bias = 1;
            step->bias_id[step->n_bias] = 40 + s;
            step->bias[step->n_bias++] = 1.5f;
        }
        assert_ok(runner_run(r, step));
        for (int s = 0; s < n; s++) {
            out[i][s] = step->result[s];
            token[s] = step->result[s].token;
        }
    }
}

TEST(graphs_replay_gives_what_single_ops_give)
{
    static struct step_token want[DECODE][SEQS], have[DECODE][SEQS];
    struct runner plain, replayed;
    open_pair(&plain, &replayed);
    assert_int_equal(plain.model.n_graph, 0);
    /* 1, 2, 4, 5 rows, a context of 256: whole, 1 and 2 rows for 128 tokens as well, the model's
       part; 4 and 5 of any rows: whole with one sample for 64 and 256 tokens, whole, that part */
    assert_int_equal(replayed.model.n_graph, 4 + 2 + 4 + 2 * 4);
    for (int n = 1; n <= SEQS; n++) {
        int before = replay_launches();
        decode(&plain, n, want);
        decode(&replayed, n, have);
        assert_int_equal(replay_launches() - before, DECODE);
        for (int i = 0; i < DECODE; i++)
            for (int s = 0; s < n; s++) {
                assert_int_equal(have[i][s].token, want[i][s].token);
                assert_int_equal(have[i][s].n_top, want[i][s].n_top);
                if (i % 2)
                    assert_close((double)have[i][s].logprob, (double)want[i][s].logprob, 0, 0);
            }
    }
    runner_close(&plain);
    runner_close(&replayed);
}

TEST(graphs_warm_prompts_runs_the_longest_before_the_first_request)
{
    struct runner replayed;
    open_model(&replayed, golden_weights("llama_f32_gqa_tied"), replay_backend());
    assert_int_equal(replay_most_rows(), 64);
    runner_close(&replayed);
}

/* A prompt of three rows alone, then one of two beside a sequence that decodes. */
static void short_prompts(struct runner *r, struct step_token out[3])
{
    static const int32_t prompts[2][3] = { { 5, 77, 130 }, { 9, 44 } };
    struct step *step = runner_step(r);
    r->first_block = 0;
    runner_add_seq(r, step, prompts[0], 0, 3, 3);
    runner_add_sample(step, 2, 3);
    assert_ok(runner_run(r, step));
    out[0] = step->result[0];
    step = runner_step(r);
    runner_add_seq(r, step, &out[0].token, 3, 1, 3);
    runner_add_sample(step, 0, 4);
    r->first_block = 4;
    runner_add_seq(r, step, prompts[1], 0, 2, 2);
    runner_add_sample(step, 2, 2);
    step->sample[1].temperature = 0.8f;
    step->sample[1].seed = 3;
    step->sample[1].flags = STEP_SAMPLE_LOGPROBS;
    assert_ok(runner_run(r, step));
    out[1] = step->result[0];
    out[2] = step->result[1];
}

TEST(graphs_replay_short_prompts_alone_and_beside_others)
{
    struct runner plain, replayed;
    struct step_token want[3], have[3];
    open_pair(&plain, &replayed);
    short_prompts(&plain, want);
    int before = replay_launches();
    short_prompts(&replayed, have);
    assert_int_equal(replay_launches() - before, 2);
    for (int i = 0; i < 3; i++)
        assert_int_equal(have[i].token, want[i].token);
    assert_close((double)have[2].logprob, (double)want[2].logprob, 0, 0);
    runner_close(&plain);
    runner_close(&replayed);
}

/* A prompt of one row, then one of five in two chunks, of which the first samples nothing. */
static void small_chunks(struct runner *r, int32_t out[2])
{
    static const int32_t lone = 77, prompt[5] = { 5, 31, 130, 9, 44 };
    struct step *step = runner_step(r);
    r->first_block = 0;
    runner_add_seq(r, step, &lone, 0, 1, 1);
    runner_add_sample(step, 0, 1);
    step->n_decode = 0;
    assert_ok(runner_run(r, step));
    out[0] = step->result[0].token;
    r->first_block = 4;
    step = runner_step(r);
    runner_add_seq(r, step, prompt, 0, 3, 5);
    assert_ok(runner_run(r, step));
    step = runner_step(r);
    runner_add_seq(r, step, prompt + 3, 3, 2, 5);
    runner_add_sample(step, 1, 5);
    assert_ok(runner_run(r, step));
    out[1] = step->result[0].token;
}

TEST(graphs_replay_a_prompt_of_one_row_and_a_chunk_that_samples_nothing)
{
    struct runner plain, replayed;
    int32_t want[2], have[2];
    open_pair(&plain, &replayed);
    small_chunks(&plain, want);
    int before = replay_launches();
    small_chunks(&replayed, have);
    assert_int_equal(replay_launches() - before, 3);
    for (int i = 0; i < 2; i++)
        assert_int_equal(have[i], want[i]);
    runner_close(&plain);
    runner_close(&replayed);
}

TEST(graphs_pick_leaves_other_steps_alone)
{
    static struct exec_model em;
    int32_t kv_tokens[5] = { 10, 900, 20 };
    struct step_sample sample[5];
    for (int i = 0; i < 5; i++)
        sample[i] = (struct step_sample){ .state_slot = -1, .mask_index = -1 };
    struct step step = { .n_row = 3,
                         .n_seq = 3,
                         .n_decode = 3,
                         .n_sample = 3,
                         .kv_tokens = kv_tokens,
                         .sample = sample };
    assert_null(graphs_pick(&em, &step));
    static const int rows[] = { 1, 4 };
    struct graph *some = (void *)&sample; /* never launched */
    for (int i = 0; i < 8; i++)
        em.graphs.captured[em.graphs.n++] =
            (struct captured){ .rows = rows[i / 4],
                               .n_sample = rows[i / 4],
                               .kv_tokens_max = i / 2 % 2 ? 8192 : 1024,
                               .forward = i % 2 ? some : NULL };
    const struct captured *c = graphs_pick(&em, &step);
    assert_true(c && c->rows == 4 && c->kv_tokens_max == 1024 && !c->forward);
    kv_tokens[1] = 1025;
    c = graphs_pick(&em, &step);
    assert_true(c && c->rows == 4 && c->kv_tokens_max == 8192 && !c->forward);
    sample[2].temperature = 1;
    c = graphs_pick(&em, &step);
    assert_true(c && !c->forward);
    sample[2].n_ban = 1; /* its list lies where no graph looks */
    c = graphs_pick(&em, &step);
    assert_true(c && c->forward == some);
    kv_tokens[1] = 8193;
    assert_null(graphs_pick(&em, &step));
    kv_tokens[1] = 1;
    step.n_decode = 2; /* a prompt of one row is as good as a decode row */
    c = graphs_pick(&em, &step);
    assert_true(c && c->forward == some);
    step.n_seq = 2; /* two rows of a sequence are not */
    assert_null(graphs_pick(&em, &step));
    em.graphs.captured[4].any_rows = em.graphs.captured[5].any_rows = true;
    c = graphs_pick(&em, &step);
    assert_true(c == &em.graphs.captured[5]);
    sample[2].n_ban = 0;
    em.graphs.captured[4].n_sample = 1; /* for short prompts */
    assert_null(graphs_pick(&em, &step));
    step.n_sample = 1;
    c = graphs_pick(&em, &step);
    assert_true(c == &em.graphs.captured[4]);
    step.n_sample = 3;
    em.graphs.captured[4].n_sample = 4;
    step.n_seq = step.n_decode = 3;
    step.deterministic = true;
    assert_null(graphs_pick(&em, &step));
    step.deterministic = false;
    step.n_row = step.n_seq = step.n_decode = 5;
    assert_null(graphs_pick(&em, &step));
}

static void expect_bounds(int rows, int context, int n, const int *want)
{
    int have[GRAPHS_BOUNDS_MAX];
    assert_int_equal(graphs_bounds(rows, context, have), n);
    for (int i = 0; i < n; i++)
        assert_int_equal(have[i], want[i]);
}

TEST(graphs_bounds_follow_the_plans_of_attention_and_end_with_the_context)
{
    expect_bounds(2, 131072, 5, (const int[]){ 128, 256, 1024, 2048, 131072 });
    expect_bounds(4, 131072, 3, (const int[]){ 256, 2048, 131072 });
    expect_bounds(5, 131072, 1, (const int[]){ 131072 });
    expect_bounds(16, 40960, 1, (const int[]){ 40960 });
    expect_bounds(17, 40960, 2, (const int[]){ 1024, 40960 });
    expect_bounds(256, 131072, 2, (const int[]){ 1024, 131072 });
    expect_bounds(1, 2048, 4, (const int[]){ 128, 256, 1024, 2048 });
    expect_bounds(1, 2049, 5, (const int[]){ 128, 256, 1024, 2048, 2049 });
    expect_bounds(1, 256, 2, (const int[]){ 128, 256 });
    expect_bounds(256, 100, 1, (const int[]){ 100 });
}

/* Each beginning and end of a capture fails in its turn: the load ends and says what was short. */
TEST(graphs_that_cannot_be_captured_end_the_load)
{
    struct runner r;
    char path[512];
    snprintf(path, sizeof(path), "%s", golden_weights("llama_f32_gqa_tied"));
    open_model(&r, path, replay_backend());
    int n_call = replay_graph_calls();
    assert_int_equal(n_call, 2 * r.model.n_graph);
    runner_close(&r);
    for (int call = 1; call <= n_call; call++) {
        struct format_error err = { "" };
        const struct backend *table = replay_backend();
        replay_fail(call, -ENOMEM);
        assert_int_equal(try_model(&r, path, table, &err), -ENOMEM);
        if (!strstr(err.text, "capturing a graph failed") || !strstr(err.text, "MB are free"))
            fail_msg("call %d: \"%s\"", call, err.text);
    }
}

/* One step of one row, replayed. */
static int replay_one(struct runner *r, int position)
{
    int32_t token = 7;
    struct step *step = runner_step(r);
    r->first_block = 0;
    runner_add_seq(r, step, &token, position, 1, 1);
    runner_add_sample(step, 0, position + 1);
    return runner_run(r, step);
}

TEST(graphs_that_cannot_be_launched_fail_their_step)
{
    struct runner r;
    open_model(&r, golden_weights("llama_f32_gqa_tied"), replay_backend());
    assert_ok(replay_one(&r, 0));
    replay_fail(1, -ENOMEM);
    assert_int_equal(replay_one(&r, 1), -ENOMEM);
    assert_null(executor_fault(r.ex));
    assert_ok(replay_one(&r, 1)); /* it was short of memory, and is well */
    replay_fail(1, -EIO);
    assert_int_equal(replay_one(&r, 2), -EIO);
    assert_non_null(executor_fault(r.ex));
    assert_int_equal(replay_one(&r, 2), -EIO); /* nothing runs on it any more */
    assert_int_equal(replay_graph_calls(), 1);
    runner_close(&r);
}
