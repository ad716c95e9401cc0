/* How a block divides its work between the ops of a backend: a table of ops that only take notes.
 */
#include "daemon/model/blocks.h"

#include <errno.h>

#include "tests/harness/harness.h"

/* Calls as letters: i attn_in, m matmul, r rope_append, a attn, A attn with the rope. */
static char calls[16];
static int n_call, attn_in_rc, matmul_rc;
static bool turns;
static const void *rope_q, *attn_q;

static int note(char what, int rc)
{
    calls[n_call++] = what;
    calls[n_call] = 0;
    return rc;
}

static int note_attn_in(struct stream *st, const struct attn_in_args *args)
{
    (void)st, (void)args;
    return note('i', attn_in_rc);
}

static int note_matmul(struct stream *st, const struct matmul_args *args)
{
    (void)st, (void)args;
    return note('m', matmul_rc);
}

static int note_rope_append(struct stream *st, const struct rope_append_args *args)
{
    (void)st, (void)args;
    return note('r', 0);
}

static int note_attn(struct stream *st, const struct attn_args *args)
{
    (void)st;
    attn_q = args->q;
    rope_q = args->rope ? args->rope->q : NULL;
    return note(args->rope ? 'A' : 'a', 0);
}

static bool note_turns(struct stream *st, const struct attn_args *args)
{
    (void)st;
    assert_non_null(args->rope);
    assert_ptr_equal(args->q, args->rope->q);
    assert_int_equal(args->q_stride, args->rope->stride);
    return turns;
}

/* The ops of one block_attn, and what it returned. */
static int calls_of(const struct kernel_ops *ops, bool has_attn_in)
{
    static const struct model_shape shape = {
        .n_layer = 1, .dim = 64, .n_head = 4, .n_kv_head = 2, .head_dim = 64
    };
    static char scratch[64], pool[64];
    struct block_ctx c = { .ops = ops,
                           .shape = &shape,
                           .x = scratch,
                           .qkv = scratch + 16,
                           .attn = scratch + 32,
                           .has_attn_in = has_attn_in };
    struct seq_batch batch = { .n_row = 1, .n_seq = 1, .n_decode = 1 };
    struct forward_args args = { .batch = &batch, .kv_pool = pool, .kv_dtype = DTYPE_BF16 };
    struct attn_weights w = { 0 };
    n_call = 0;
    calls[0] = 0;
    attn_q = rope_q = NULL;
    return block_attn(&c, NULL, &args, 0, &w);
}

static struct kernel_ops all_ops(void)
{
    attn_in_rc = matmul_rc = 0;
    turns = false;
    return (struct kernel_ops){
        .act_dtype = DTYPE_BF16,
        .matmul = note_matmul,
        .rope_append = note_rope_append,
        .attn = note_attn,
        .attn_in = note_attn_in,
        .attn_turns = note_turns,
    };
}

TEST(block_attn_takes_the_fused_form_first)
{
    struct kernel_ops ops = all_ops();
    assert_ok(calls_of(&ops, true));
    assert_string_equal(calls, "iam"); /* and o */
    assert_null(rope_q);
    ops.attn_turns = NULL;
    assert_ok(calls_of(&ops, true));
    assert_string_equal(calls, "iam");
}

TEST(block_attn_composes_what_the_backend_lacks)
{
    struct kernel_ops ops = all_ops();
    attn_in_rc = -ENOTSUP;
    assert_ok(calls_of(&ops, true));
    assert_string_equal(calls, "imram");
    ops.attn_in = NULL;
    assert_ok(calls_of(&ops, false));
    assert_string_equal(calls, "mram");
    assert_null(rope_q);
}

TEST(block_attn_leaves_the_rope_to_attention_where_that_is_better)
{
    struct kernel_ops ops = all_ops();
    turns = true;
    assert_ok(calls_of(&ops, true));
    assert_string_equal(calls, "mAm");
    assert_non_null(rope_q);
    assert_ptr_equal(rope_q, attn_q);
    assert_ok(calls_of(&ops, false));
    assert_string_equal(calls, "mAm");
}

TEST(block_attn_ends_with_the_first_op_that_fails)
{
    struct kernel_ops ops = all_ops();
    attn_in_rc = -EIO;
    assert_int_equal(calls_of(&ops, true), -EIO);
    assert_string_equal(calls, "i");
    turns = true;
    matmul_rc = -EIO;
    assert_int_equal(calls_of(&ops, true), -EIO);
    assert_string_equal(calls, "m");
}
