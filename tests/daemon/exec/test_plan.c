#include "daemon/exec/plan.h"

#include <errno.h>

#include "daemon/step/step.h"
#include "kernels/kernels.h"
#include "tests/harness/harness.h"

/* Two sequences: one decodes at position 17, one prefills positions 0 .. 2. */
struct small {
    struct step step;
    int32_t token[4], position[4], slot[4], row_seq[4], row_start[3], kv_tokens[2], prompt[2];
    int32_t block_start[3], blocks[3], sample_row[2], bias_id[1], ban_id[1];
    float bias[1];
    struct step_sample sample[2];
    struct step_move move;
    struct step_state_load load;
};

static const struct plan_bounds bounds = {
    .vocab = 100, .context = 64, .kv_blocks = 10, .kv_host_blocks = 2, .n_sampled = 1
};

static void small_init(struct small *s)
{
    *s = (struct small){
        .token = { -1, 1, 2, 3 },
        .position = { 17, 0, 1, 2 },
        .slot = { 5 * 16 + 1, 7 * 16, 7 * 16 + 1, 7 * 16 + 2 },
        .row_seq = { 0, 1, 1, 1 },
        .row_start = { 0, 1, 4 },
        .kv_tokens = { 18, 3 },
        .prompt = { 9, 3 },
        .block_start = { 0, 2, 3 },
        .blocks = { 4, 5, 7 },
        .sample_row = { 0, 3 },
        .bias_id = { 50 },
        .ban_id = { 51 },
        .bias = { 2 },
    };
    for (int i = 0; i < 2; i++)
        s->sample[i] = (struct step_sample){
            .top_p = 1, .state_slot = -1, .mask_index = -1, .seed = 77 + (uint64_t)i
        };
    s->step = (struct step){
        .limits = { .rows_max = 8,
                    .seqs_max = 2,
                    .samples_max = 2,
                    .blocks_max = 8,
                    .lists_max = 1,
                    .moves_max = 1,
                    .vocab = 100 },
        .n_row = 4,
        .n_seq = 2,
        .n_decode = 1,
        .n_sample = 2,
        .token = s->token,
        .position = s->position,
        .slot = s->slot,
        .row_seq = s->row_seq,
        .row_start = s->row_start,
        .kv_tokens = s->kv_tokens,
        .prompt_tokens = s->prompt,
        .block_start = s->block_start,
        .blocks = s->blocks,
        .sample_row = s->sample_row,
        .sample = s->sample,
        .bias_id = s->bias_id,
        .ban_id = s->ban_id,
        .bias = s->bias,
        .copy = &s->move,
        .swap_in = &s->move,
        .swap_out = &s->move,
        .state_load = &s->load,
    };
}

TEST(plan_layout_aligns_sections_and_keeps_them_apart)
{
    const struct plan_limits n = { 4, 2, 2, 3, 1 };
    struct plan p;
    plan_layout(&n, &p);
    const size_t at[] = { p.params,    p.token,       p.position,  p.slot,          p.row_seq,
                          p.row_start, p.block_start, p.kv_tokens, p.prompt_tokens, p.sample_row,
                          p.blocks,    p.bias_id,     p.bias,      p.ban_id,        p.bytes };
    for (size_t i = 1; i < sizeof(at) / sizeof(*at); i++) {
        assert_int_equal(at[i] % 64, 0);
        assert_true(at[i] > at[i - 1]);
    }
    assert_true(p.token >= 2 * sizeof(struct sample_params));
}

TEST(plan_pack_copies_every_array)
{
    struct small s;
    struct plan p;
    uint8_t bytes[4096];
    const struct plan_limits n = { 4, 2, 2, 3, 1 };
    small_init(&s);
    s.step.n_bias = s.step.n_ban = 1;
    plan_layout(&n, &p);
    assert_true(p.bytes <= sizeof(bytes));
    memset(bytes, 0xee, sizeof(bytes));
    plan_pack(&s.step, &n, &p, 77, bytes);
    const struct plan_head *head = (void *)bytes;
    assert_int_equal(head->bytes, p.bytes);
    assert_int_equal(head->value, 77);
    assert_true(p.params >= sizeof(*head));
    assert_memory_equal(bytes + p.params, s.sample, sizeof(s.sample));
    assert_memory_equal(bytes + p.token, s.token, sizeof(s.token));
    assert_memory_equal(bytes + p.position, s.position, sizeof(s.position));
    assert_memory_equal(bytes + p.slot, s.slot, sizeof(s.slot));
    assert_memory_equal(bytes + p.row_seq, s.row_seq, sizeof(s.row_seq));
    assert_memory_equal(bytes + p.row_start, s.row_start, sizeof(s.row_start));
    assert_memory_equal(bytes + p.block_start, s.block_start, sizeof(s.block_start));
    assert_memory_equal(bytes + p.kv_tokens, s.kv_tokens, sizeof(s.kv_tokens));
    assert_memory_equal(bytes + p.prompt_tokens, s.prompt, sizeof(s.prompt));
    assert_memory_equal(bytes + p.sample_row, s.sample_row, sizeof(s.sample_row));
    assert_memory_equal(bytes + p.bias_id, s.bias_id, sizeof(s.bias_id));
    assert_memory_equal(bytes + p.bias, s.bias, sizeof(s.bias));
    assert_memory_equal(bytes + p.ban_id, s.ban_id, sizeof(s.ban_id));
    assert_memory_equal(bytes + p.blocks, s.blocks, sizeof(s.blocks));
}

TEST(plan_pack_pads_rows_that_write_nothing)
{
    struct small s;
    struct plan p;
    uint8_t bytes[4096];
    const struct plan_limits n = { 4, 4, 4, 2, 0 };
    small_init(&s);
    s.step.n_row = s.step.n_seq = s.step.n_decode = s.step.n_sample = 1;
    plan_layout(&n, &p);
    memset(bytes, 0xee, sizeof(bytes));
    plan_pack(&s.step, &n, &p, 77, bytes);
    const int32_t *slot = (void *)(bytes + p.slot), *row_start = (void *)(bytes + p.row_start);
    const int32_t *kv_tokens = (void *)(bytes + p.kv_tokens), *token = (void *)(bytes + p.token);
    const int32_t *block_start = (void *)(bytes + p.block_start);
    const int32_t *row_seq = (void *)(bytes + p.row_seq);
    const int32_t *sample_row = (void *)(bytes + p.sample_row);
    const struct sample_params *params = (void *)(bytes + p.params);
    assert_int_equal(slot[0], s.slot[0]);
    assert_int_equal(kv_tokens[0], 18);
    assert_int_equal(row_start[0], 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(row_start[i + 1], i + 1);
        assert_int_equal(block_start[i + 1], 2);
        assert_int_equal(row_seq[i], i);
        assert_int_equal(sample_row[i], 0);
        assert_int_equal(slot[i] == -1, i > 0);
        assert_int_equal(kv_tokens[i] == 0, i > 0);
        assert_int_equal(token[i] == 0, i > 0);
        assert_int_equal(params[i].state_slot, -1);
        assert_close((double)params[i].temperature, 0, 0, 0);
    }
}

/* Two sequences with four rows, packed as eight rows in n_seq sequences. bytes: [4096]. */
static void pack_padded(int n_seq, struct small *s, struct plan *p, uint8_t *bytes)
{
    const struct plan_limits n = { 8, n_seq, 8, 3, 0 };
    small_init(s);
    plan_layout(&n, p);
    memset(bytes, 0xee, 4096);
    plan_pack(&s->step, &n, p, 1, bytes);
}

TEST(plan_pack_gives_each_padding_row_a_sequence_of_its_own)
{
    struct small s;
    struct plan p;
    uint8_t bytes[4096];
    pack_padded(8, &s, &p, bytes);
    const int32_t *row_start = (void *)(bytes + p.row_start), *slot = (void *)(bytes + p.slot);
    const int32_t *row_seq = (void *)(bytes + p.row_seq), *kv = (void *)(bytes + p.kv_tokens);
    assert_memory_equal(row_start, s.row_start, sizeof(s.row_start));
    for (int row = 4; row < 8; row++) {
        int seq = row_seq[row];
        assert_int_equal(seq, row - 2);
        assert_int_equal(row_start[seq], row);
        assert_int_equal(row_start[seq + 1], row + 1);
        assert_int_equal(kv[seq], 0);
        assert_int_equal(slot[row], -1);
    }
    for (int seq = 6; seq < 8; seq++) /* without rows */
        assert_true(row_start[seq] == 8 && row_start[seq + 1] == 8 && kv[seq] == 0);
}

/* Long prompts of padding have a single sequence (graphs_warm_prompts). */
TEST(plan_pack_names_no_sequence_beyond_the_last)
{
    struct small s;
    struct plan p;
    uint8_t bytes[4096];
    pack_padded(3, &s, &p, bytes);
    const int32_t *row_seq = (void *)(bytes + p.row_seq), *kv = (void *)(bytes + p.kv_tokens);
    assert_int_equal(kv[2], 0);
    for (int row = 4; row < 8; row++)
        assert_int_equal(row_seq[row], 2);
}

TEST(plan_check_takes_a_sound_step)
{
    struct small s;
    small_init(&s);
    assert_ok(plan_check(&s.step, &bounds));
    s.step = (struct step){ .limits = s.step.limits,
                            .row_start = s.row_start,
                            .block_start = s.block_start };
    assert_ok(plan_check(&s.step, &bounds)); /* nothing but moves */
}

/* Set the i-th wrong number of the sequences' rows and tables; false past the last. */
static bool spoil_rows(struct small *s, int what)
{
    const struct {
        int32_t *at, value;
    } wrong[] = {
        { &s->token[0], -2 },        { &s->token[2], 100 },     { &s->position[2], 2 },
        { &s->slot[0], 5 * 16 },     { &s->slot[3], -1 },       { &s->row_seq[1], 0 },
        { &s->row_start[0], 1 },     { &s->row_start[1], 2 },   { &s->row_start[2], 3 },
        { &s->kv_tokens[0], 33 },    { &s->kv_tokens[1], 2 },   { &s->block_start[1], 3 },
        { &s->block_start[2], 9 },   { &s->blocks[0], 10 },     { &s->blocks[2], -1 },
        { &s->sample_row[1], 4 },    { &s->sample_row[0], -1 }, { &s->sample[0].n_top, 21 },
        { &s->step.n_row, 9 },       { &s->step.n_decode, 2 },  { &s->step.n_sample, 3 },
        { &s->step.n_seq, 3 },       { &s->step.n_copy, 2 },    { &s->sample[1].state_slot, 2 },
        { &s->sample[0].n_bias, 1 }, /* the step has none */
    };
    if (what >= (int)(sizeof(wrong) / sizeof(*wrong)))
        return false;
    *wrong[what].at = wrong[what].value;
    return true;
}

TEST(plan_check_refuses_each_wrong_row)
{
    struct small s;
    for (int what = 0; small_init(&s), spoil_rows(&s, what); what++)
        if (plan_check(&s.step, &bounds) != -EINVAL)
            fail_msg("case %d passed", what);
}

TEST(plan_check_refuses_each_wrong_list)
{
    for (int what = 0; what < 7; what++) {
        struct small s;
        small_init(&s);
        switch (what) {
        case 0:
            s.sample[0].flags = STEP_SAMPLE_SCORE;
            s.sample[0].score_id = 100;
            break;
        case 1:
            s.step.n_bias = 1;
            s.bias_id[0] = 100;
            break;
        case 2:
            s.step.n_ban = 1;
            s.ban_id[0] = -1;
            break;
        case 3:
            s.step.n_copy = 1;
            s.move = (struct step_move){ 0, 10 };
            break;
        case 4:
            s.step.n_swap_in = 1;
            s.move = (struct step_move){ 2, 0 };
            break;
        case 5:
            s.step.n_swap_out = 1;
            s.move = (struct step_move){ 0, 2 };
            break;
        case 6:
            s.step.n_state_load = 1;
            s.load.n_output = 65;
            break;
        }
        if (plan_check(&s.step, &bounds) != -EINVAL)
            fail_msg("case %d passed", what);
    }
}
