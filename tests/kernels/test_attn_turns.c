/* Which batches the CUDA backend leaves head norms and rotation of to attention. */
#include "kernels/cuda/attn_turns.h"

#include "tests/harness/harness.h"

/* A step of Qwen3-0.6B's shape, that is taken. */
struct step {
    struct seq_batch batch;
    struct rope_append_args rope;
    struct attn_args args;
};

static float norms[128];
static _Alignas(16) char memory[16];

static struct step *a_step(int n_row)
{
    static struct step s;
    s.batch = (struct seq_batch){ .n_row = n_row, .n_seq = n_row, .n_decode = n_row };
    s.rope = (struct rope_append_args){
        .q = memory,
        .k = memory,
        .v = memory,
        .stride = 4096,
        .n_row = n_row,
        .n_head = 16,
        .rope = { norms, 128, false, 1 },
        .q_norm = norms,
        .k_norm = norms,
        .kv = { memory, memory, 32768, DTYPE_BF16, 8, 128 },
    };
    s.args = (struct attn_args){
        .q = memory,
        .q_stride = 4096,
        .n_head = 16,
        .kv = s.rope.kv,
        .batch = &s.batch,
        .rope = &s.rope,
    };
    return &s;
}

static bool taken(const struct step *s)
{
    return attn_turns_fits(&s->args, DTYPE_BF16, 90);
}

TEST(attention_turns_what_few_decode_rows_left_it)
{
    assert_true(taken(a_step(1)));
    assert_true(taken(a_step(TURN_ROWS_MAX)));
    assert_false(taken(a_step(TURN_ROWS_MAX + 1)));
    assert_false(attn_turns_fits(&a_step(1)->args, DTYPE_BF16, 89));
    assert_false(attn_turns_fits(&a_step(1)->args, DTYPE_F16, 90));
    struct step *s = a_step(1);
    s->rope.n_head = s->args.n_head = 56;
    assert_true(taken(s));
    s->rope.n_head = s->args.n_head = 64; /* no column is left for K */
    assert_false(taken(s));
    s = a_step(1);
    s->rope.rope.n_dim = s->rope.kv.head_dim = 64;
    assert_true(taken(s));
    s = a_step(1);
    s->rope.q_norm = s->rope.k_norm = NULL;
    assert_true(taken(s));
}

TEST(attention_turns_no_batch_of_another_kind)
{
    struct step *s = a_step(4);
    s->batch.n_decode = 3;
    assert_false(taken(s));
    s = a_step(4);
    s->batch.n_seq = 3;
    assert_false(taken(s));
    s = a_step(4);
    s->batch.deterministic = true;
    assert_false(taken(s));
    s = a_step(4);
    s->args.rope = NULL;
    assert_false(taken(s));
    s = a_step(4);
    s->args.q_stride = 2048; /* not where rope_append would leave it */
    assert_false(taken(s));
}

TEST(attention_turns_no_heads_of_another_shape)
{
    struct step *s = a_step(1);
    s->rope.q_norm = NULL; /* both or none */
    assert_false(taken(s));
    s = a_step(1);
    s->rope.k_norm = NULL;
    assert_false(taken(s));
    s = a_step(1);
    s->rope.rope.interleaved = true;
    assert_false(taken(s));
    s = a_step(1);
    s->rope.rope.n_dim = 64;
    assert_false(taken(s));
    s = a_step(1);
    s->rope.rope.n_dim = s->rope.kv.head_dim = 96;
    assert_false(taken(s));
    s = a_step(1);
    s->rope.kv.n_kv_head = 3;
    assert_false(taken(s));
    s = a_step(1);
    s->rope.stride = s->args.q_stride = 4100; /* 8 bytes off at every other row */
    assert_false(taken(s));
    s = a_step(1);
    s->rope.k = memory + 8;
    assert_false(taken(s));
}
