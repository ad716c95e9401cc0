/* Steps of a real (tiny) model: independence of neighbours and chunks, moves, sampler state. */
#include "daemon/exec/exec_model.h"

#include <errno.h>

#include "base/compiler.h"
#include "tests/daemon/exec/fault_device.h"
#include "tests/daemon/exec/golden.h"
#include "tests/harness/harness.h"

static void open_tiny(struct runner *r, const char *path, int n_thread)
{
    struct format_error err = { "" };
    struct executor_load load = { .source.path = path, .rows_max = 64, .host_kv_bytes = 1 << 20 };
    if (runner_open(r, golden_device(), n_thread, &load, &err) < 0)
        fail_msg("%s", err.text);
    r->deterministic = true; /* the CPU is so anyway */
}

static void random_ids(int32_t *ids, int n, uint64_t seed, int vocab)
{
    for (int i = 0; i < n; i++)
        ids[i] = (int32_t)(harness_rand(&seed) % (uint64_t)vocab);
}

/* Bit for bit: chunks of any size and any number of threads. */
static void check_chunks(const char *name)
{
    static const int chunks[] = { 0, 1, 5, 16, 33 };
    struct step_token want[50], have[50];
    int32_t ids[50];
    const char *path = golden_weights(name);
    for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
        struct runner r;
        open_tiny(&r, path, i % 2 ? 2 : 1);
        random_ids(ids, 50, 7, r.model.info.vocab);
        r.chunk = chunks[i];
        r.first_block = (int)i;
        assert_ok(runner_score(&r, ids, 50, i == 0 ? want : have));
        for (int j = 0; j < 50 && i > 0; j++) {
            assert_memory_equal(&have[j].logprob, &want[j].logprob, sizeof(float));
            assert_memory_equal(have[j].top_logprob, want[j].top_logprob,
                                sizeof(want[j].top_logprob));
            assert_memory_equal(have[j].top_id, want[j].top_id, sizeof(want[j].top_id));
        }
        runner_close(&r);
    }
}

TEST(exec_model_scores_do_not_depend_on_chunks)
{
    check_chunks("llama_q4_1");
    check_chunks("llama_f32_gqa_tied");
    check_chunks("llama_q6_k");
}

TEST(exec_model_scores_do_not_depend_on_neighbours)
{
    struct runner r;
    int32_t ids[3][20];
    float alone[3];
    open_tiny(&r, golden_weights("llama_q8_0"), 2);
    for (int s = 0; s < 3; s++) {
        random_ids(ids[s], 20, (uint64_t)s + 1, r.model.info.vocab);
        struct step *step = runner_step(&r);
        r.first_block = 4 * s;
        runner_add_seq(&r, step, ids[s], 0, 20 - s, 20);
        runner_add_sample(step, 19 - s, 20);
        step->sample[0].flags = STEP_SAMPLE_LOGPROBS;
        assert_ok(runner_run(&r, step));
        alone[s] = step->result[0].logprob;
    }
    struct step *step = runner_step(&r);
    for (int s = 0; s < 3; s++) {
        r.first_block = 20 + 4 * s;
        runner_add_seq(&r, step, ids[s], 0, 20 - s, 20);
        runner_add_sample(step, step->n_row - 1, 20);
        step->sample[s].flags = STEP_SAMPLE_LOGPROBS;
    }
    assert_ok(runner_run(&r, step));
    for (int s = 0; s < 3; s++)
        assert_memory_equal(&step->result[s].logprob, &alone[s], sizeof(float));
    runner_close(&r);
}

/* The row's token and log-probabilities are wanted, with those of the five best. */
static void want_bits(struct step *step, int position)
{
    runner_add_sample(step, step->n_row - 1, position);
    step->sample[step->n_sample - 1].flags = STEP_SAMPLE_LOGPROBS;
    step->sample[step->n_sample - 1].n_top = 5;
}

static void check_bits(const struct step_token *have, const struct step_token *want)
{
    assert_int_equal(want->n_top, 5);
    assert_int_equal(have->token, want->token);
    assert_memory_equal(&have->logprob, &want->logprob, sizeof(want->logprob));
    assert_memory_equal(have->top_id, want->top_id, sizeof(want->top_id));
    assert_memory_equal(have->top_logprob, want->top_logprob, sizeof(want->top_logprob));
}

/* One more token of some sequences, in one step; what was drawn for the one in question. */
static struct step_token decode_among(struct runner *r, int32_t ids[4][40], unsigned which, int of)
{
    struct step *step = runner_step(r);
    int row_of = -1;
    for (int s = 0; s < 4; s++) {
        if (!(which >> s & 1))
            continue;
        r->first_block = 4 * s;
        row_of = s == of ? step->n_row : row_of;
        runner_add_seq(r, step, ids[s] + 20 + 5 * s, 20 + 5 * s, 1, 20);
        want_bits(step, 20 + 5 * s);
    }
    assert_ok(runner_run(r, step));
    return step->result[row_of];
}

/* The mode's promise, for rows that decode: the same bits whoever else is in the step. */
TEST(exec_model_decodes_with_the_same_bits_beside_others)
{
    static const unsigned beside[] = { 0xf, 0x3, 0x5, 0xe, 0x8 };
    struct runner r;
    int32_t ids[4][40];
    open_tiny(&r, golden_weights("llama_hf_bf16"), 2);
    for (int s = 0; s < 4; s++) {
        random_ids(ids[s], 40, (uint64_t)s + 21, r.model.info.vocab);
        struct step *step = runner_step(&r);
        r.first_block = 4 * s;
        runner_add_seq(&r, step, ids[s], 0, 20 + 5 * s, 20);
        assert_ok(runner_run(&r, step));
    }
    for (int s = 0; s < 4; s++) {
        struct step_token want = decode_among(&r, ids, 1u << s, s);
        for (size_t i = 0; i < ARRAY_SIZE(beside); i++) {
            if (!(beside[i] >> s & 1))
                continue;
            struct step_token have = decode_among(&r, ids, beside[i], s);
            check_bits(&have, &want);
        }
    }
    runner_close(&r);
}

enum { FORK_PROMPT = 20, FORKS = 3 }; /* one block whole, one in part */

/* One token more after the prompt, in blocks that nobody else has. */
static struct step_token lone_fork(struct runner *r, const int32_t *prompt, int32_t next, int block)
{
    r->first_block = block;
    r->block_step = 1;
    struct step *step = runner_step(r);
    runner_add_seq(r, step, prompt, 0, FORK_PROMPT, FORK_PROMPT);
    assert_ok(runner_run(r, step));
    step = runner_step(r);
    runner_add_seq(r, step, &next, FORK_PROMPT, 1, FORK_PROMPT);
    want_bits(step, FORK_PROMPT + 1);
    assert_ok(runner_run(r, step));
    return step->result[0];
}

/* Forks share the whole block and have copies of the other; a prefix is the whole block alone. */
TEST(exec_model_forks_and_prefixes_have_the_bits_of_lone_sequences)
{
    struct runner r;
    int32_t prompt[FORK_PROMPT], next[FORKS] = { 3, 77, 140 };
    struct step_token want[FORKS], whole;
    open_tiny(&r, golden_weights("llama_hf_bf16"), 2);
    random_ids(prompt, FORK_PROMPT, 31, r.model.info.vocab);
    for (int i = 0; i < FORKS; i++)
        want[i] = lone_fork(&r, prompt, next[i], 10 + 2 * i);

    r.first_block = 0;
    r.block_step = 1;
    struct step *step = runner_step(&r);
    runner_add_seq(&r, step, prompt, 0, FORK_PROMPT, FORK_PROMPT);
    want_bits(step, FORK_PROMPT);
    assert_ok(runner_run(&r, step));
    whole = step->result[0];
    step = runner_step(&r);
    for (int i = 0; i < FORKS; i++) {
        if (i > 0)
            step->copy[step->n_copy++] = (struct step_move){ 1, 1 + i };
        r.block_step = 1 + i; /* blocks 0 and 1 + i */
        runner_add_seq(&r, step, &next[i], FORK_PROMPT, 1, FORK_PROMPT);
        want_bits(step, FORK_PROMPT + 1);
    }
    assert_ok(runner_run(&r, step));
    for (int i = 0; i < FORKS; i++)
        check_bits(&step->result[i], &want[i]);

    r.block_step = 8;
    step = runner_step(&r);
    runner_add_seq(&r, step, prompt + KV_BLOCK_TOKENS, KV_BLOCK_TOKENS,
                   FORK_PROMPT - KV_BLOCK_TOKENS, FORK_PROMPT);
    want_bits(step, FORK_PROMPT);
    assert_ok(runner_run(&r, step));
    check_bits(&step->result[0], &whole);
    runner_close(&r);
}

TEST(exec_model_decodes_ahead_as_alone)
{
    struct runner r;
    int32_t prompt[10], slow[30], fast[30];
    open_tiny(&r, golden_weights("llama_q5_1"), 2);
    random_ids(prompt, 10, 3, r.model.info.vocab);
    assert_ok(runner_generate(&r, prompt, 10, 30, false, slow));
    r.first_block = 9;
    r.chunk = 4;
    assert_ok(runner_generate(&r, prompt, 10, 30, true, fast));
    assert_memory_equal(slow, fast, sizeof(slow));
    runner_close(&r);
}

/* A sequence that went to host memory and came back elsewhere goes on as if nothing happened. */
TEST(exec_model_swaps_out_and_in)
{
    struct runner r;
    int32_t prompt[20], want[12], have[12];
    open_tiny(&r, golden_weights("llama_f16"), 1);
    random_ids(prompt, 20, 5, r.model.info.vocab);
    assert_ok(runner_generate(&r, prompt, 20, 12, false, want));
    assert_ok(runner_generate(&r, prompt, 20, 1, false, have));
    struct step *step = runner_step(&r);
    for (int i = 0; i < 2; i++) {
        step->swap_out[step->n_swap_out++] = (struct step_move){ i, 5 - i };
        step->swap_in[step->n_swap_in++] = (struct step_move){ 5 - i, 8 + i };
    }
    assert_ok(runner_run(&r, step));
    r.first_block = 8;
    for (int i = 1; i < 12; i++) {
        step = runner_step(&r);
        runner_add_seq(&r, step, &have[i - 1], 19 + i, 1, 20);
        runner_add_sample(step, 0, 20 + i);
        assert_ok(runner_run(&r, step));
        have[i] = step->result[0].token;
    }
    assert_memory_equal(want, have, sizeof(want));
    runner_close(&r);
}

/* Repetition penalty by a loaded state: ids of prompt and output become less likely than all. */
TEST(exec_model_loads_sampler_state)
{
    struct runner r;
    int32_t ids[8], output[2], best;
    open_tiny(&r, golden_weights("llama_f32_mha"), 1);
    random_ids(ids, 8, 11, r.model.info.vocab);
    assert_ok(runner_generate(&r, ids, 8, 1, false, &best));
    for (int where = 0; where < 3; where++) { /* 0: nowhere, 1: in the prompt, 2: in the output */
        int32_t prompt[8];
        memset(prompt, 0, sizeof(prompt));
        output[0] = output[1] = where == 2 ? best : 0;
        prompt[7] = where == 1 ? best : 0;
        struct step *step = runner_step(&r);
        runner_add_seq(&r, step, ids, 0, 8, 8);
        runner_add_sample(step, 7, 8);
        step->sample[0].state_slot = 3;
        step->sample[0].presence = where == 2 ? 2 : 0;
        step->sample[0].frequency = where == 2 ? 2 : 0;
        step->sample[0].repetition = where == 1 ? 1.999f : 1;
        step->state_load[step->n_state_load++] = (struct step_state_load){
            .slot = 3, .n_prompt = 8, .n_output = 2, .prompt = prompt, .output = output
        };
        assert_ok(runner_run(&r, step));
        assert_int_equal(step->result[0].token == best, where == 0);
    }
    runner_close(&r);
}

TEST(exec_model_flags_logits_that_are_not_finite)
{
    struct runner r;
    struct format_error err = { "" };
    struct executor_config config = { .backend = "cpu", .n_thread = 1 };
    struct executor_load load = { .source.path = golden_weights("llama_f32_mha"), .rows_max = 64 };
    int32_t ids[4] = { 3, 4, 5, 6 };
    config.table = fault_backend("cpu");
    assert_ok(runner_open_config(&r, &config, &load, &err));
    fault_arm(&(struct fault_plan){ .nan_logits = true });
    struct step *step = runner_step(&r);
    runner_add_seq(&r, step, ids, 0, 4, 4);
    runner_add_sample(step, 2, 3);
    runner_add_sample(step, 3, 4);
    assert_ok(runner_run(&r, step));
    assert_int_equal(step->result[0].flags, STEP_TOKEN_BAD);
    assert_int_equal(step->result[0].token, -1);
    assert_int_equal(step->result[1].flags, 0);
    assert_true(step->result[1].token >= 0);
    runner_close(&r);
}

TEST(exec_model_reports_every_failing_op_of_a_step)
{
    struct runner r;
    struct format_error err = { "" };
    struct executor_config config = { .backend = "cpu", .n_thread = 1 };
    struct executor_load load = { .source.path = golden_weights("llama_f32_mha"), .rows_max = 64 };
    int32_t ids[4] = { 3, 4, 5, 6 };
    int n_call = 1;
    for (int call = 0; call <= n_call; call++) {
        config.table = fault_backend("cpu");
        assert_ok(runner_open_config(&r, &config, &load, &err));
        fault_arm(&(struct fault_plan){ .fail_at = call, .fail_rc = -EIO });
        struct step *step = runner_step(&r);
        runner_add_seq(&r, step, ids, 0, 4, 4);
        runner_add_sample(step, 3, 4);
        assert_int_equal(runner_run(&r, step), call ? -EIO : 0);
        if (call == 0)
            n_call = fault_calls();
        runner_close(&r);
    }
    assert_true(n_call > 10);
}
