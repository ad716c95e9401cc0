/* Paged attention: batches of decode and prefill rows, head sizes, KV types, windows. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref.h"
#include "tests/harness/harness.h"
#include "tests/kernels/attn_world.h"
#include "tests/kernels/rig.h"

static const struct attn_case cases[] = {
    { 9, 3, 64, 0, DTYPE_F16, 3, 3, { 1, 1, 1 }, { 1, 17, 300 } },
    { 9, 3, 64, 0, DTYPE_F16, 1, 3, { 1, 40, 65 }, { 128, 40, 200 } },
    { 8, 1, 80, 0, DTYPE_F32, 1, 2, { 1, 20 }, { 129, 20 } },
    { 4, 4, 96, 0, DTYPE_BF16, 2, 3, { 1, 1, 5 }, { 16, 15, 260 } },
    { 6, 2, 128, 50, DTYPE_F16, 2, 3, { 1, 1, 70 }, { 200, 30, 190 } },
    { 2, 2, 256, 0, DTYPE_F16, 1, 2, { 1, 3 }, { 40, 3 } },
    { 3, 3, 2, 0, DTYPE_F32, 1, 2, { 1, 9 }, { 5, 9 } },
    { 4, 2, 30, 7, DTYPE_BF16, 1, 2, { 1, 33 }, { 33, 150 } },
    { 4, 2, 32, 0, DTYPE_Q8_0, 1, 2, { 1, 33 }, { 33, 150 } },
    { 5, 5, 18, 0, DTYPE_F16, 0, 1, { 100 }, { 129 } },
    { 9, 3, 64, 0, DTYPE_F16, 3, 4, { 1, 1, 1, 2 }, { 0, 17, 0, 40 } }, /* padding rows */
    { 8, 2, 128, 0, DTYPE_F16, 2, 4, { 1, 1, 129, 64 }, { 500, 33, 300, 64 } },
    { 32, 2, 64, 100, DTYPE_F16, 1, 2, { 1, 90 }, { 257, 260 } },
    { 8, 2, 64, 500, DTYPE_F16, 3, 3, { 1, 1, 1 }, { 1000, 531, 37 } },
};

/* Runs the op on a rig. */
static void run(struct rig *rig, const struct attn_case *c, const struct attn_world *w, float *out)
{
    struct attn_args args = attn_world_args(c, w, NULL);
    struct seq_batch batch = w->batch;
    uint8_t *pool = rig_put(rig, w->pool, (size_t)w->pool_bytes);
    size_t ints = sizeof(int32_t);

    args.kv.k = pool + w->layer_bytes;
    args.kv.v = pool + w->layer_bytes + w->layer_bytes / 2;
    args.q = rig_put_act(rig, w->q, w->n_q);
    args.out = rig_put_act(rig, NULL, w->n_q);
    args.batch = &batch;
    batch.row_start = rig_put(rig, w->row_start, ints * (size_t)(c->n_seq + 1));
    batch.kv_tokens = rig_put(rig, w->kv_tokens, ints * (size_t)c->n_seq);
    batch.block_start = rig_put(rig, w->block_start, ints * (size_t)(c->n_seq + 1));
    batch.blocks = rig_put(rig, w->blocks, sizeof(w->blocks));
    batch.row_seq = rig_put(rig, w->row_seq, sizeof(w->row_seq));
    int error = rig->ops->attn(rig->st, &args);
    if (error == 0)
        rig_get_act(rig, args.out, out, w->n_q);
    else
        fail_msg("%s: %d", rig->name, error);
    rig_reset(rig);
}

/* `i` names the case and seeds its numbers. */
static void check(struct rig *rig, struct attn_case c, size_t i, bool deterministic)
{
    uint64_t seed = 100 + i;
    struct attn_world w;
    if (!rig->is_cpu)
        c.kv = rig->act; /* the one type that it takes */
    attn_world_make(&w, &c, &seed);
    w.batch.deterministic = deterministic;
    float *got = nan_floats(w.n_q), *want = nan_floats(w.n_q);
    rig_round(rig, w.q, w.n_q);
    struct attn_args ref = attn_world_args(&c, &w, want);
    ref_attn(&ref);
    run(rig, &c, &w, got);
    double error = max_error(got, want, w.n_q);
    if (!(error < rig_bound(rig, 3e-4, 10)))
        fail_msg("%s, case %zu, %d: error %g", rig->name, i, deterministic, error);
    free(got), free(want);
    attn_world_free(&w);
}

static void check_cases(struct rig *rig)
{
    for (size_t i = 0; i < ARRAY_SIZE(cases) && !rig_small(); i++) {
        check(rig, cases[i], i, true);
        if (!rig->is_cpu) /* the CPU has one way for both */
            check(rig, cases[i], i, false);
    }
}

static void check_head_sizes(struct rig *rig)
{
    static const enum dtype types[] = { DTYPE_F16, DTYPE_F32, DTYPE_BF16 };
    for (int dim = 2; rig->is_cpu && dim <= 256; dim += 2) {
        struct attn_case c = { 4, 2, dim,      dim % 3 ? 0 : 9, types[dim / 2 % 3],
                               1, 2, { 1, 6 }, { 18, 7 } };
        check(rig, c, (size_t)dim, true);
    }
}

TEST(attn_meets_the_oracle)
{
    assert_true(rig_each(check_cases) > 0);
}

/* Rows enough to fill a device, of contexts on either side of what one warp takes. */
static void check_many_rows(struct rig *rig)
{
    static const struct {
        int n_head, dim;
    } shapes[] = { { 16, 64 }, { 16, 128 }, { 128, 64 }, { 192, 64 } };
    size_t n = rig_small() ? 0 : rig->is_cpu ? 1 : ARRAY_SIZE(shapes);
    for (size_t i = 0; i < n; i++) {
        struct attn_case c = { shapes[i].n_head, 8, shapes[i].dim, 0, DTYPE_F16, 100, 100 };
        for (int s = 0; s < 100; s++) {
            c.rows[s] = 1;
            c.tokens[s] = s % 9 == 8 ? 0 : 1 + s * 37 % 290;
        }
        check(rig, c, i, false);
    }
}

TEST(attn_of_many_rows_meets_the_oracle)
{
    assert_true(rig_each(check_many_rows) > 0);
}

/* Contexts on either side of where a GPU's plan changes (attn_plan.h), alone and among others. */
static void check_plans(struct rig *rig)
{
    static const int tokens[] = { 64, 65, 128, 129, 255, 256, 257, 513, 1024, 1025, 2047, 2048 };
    static const int bounds[] = { 0, 1024, 8192 }, many[] = { 4, 8, 16 };
    for (size_t i = 0; i < ARRAY_SIZE(tokens) && !rig_small(); i++)
        for (size_t b = 0; b < (rig->is_cpu ? 1 : 4); b++) { /* alone with each bound, then many */
            int n = b < 3 ? 1 : many[i % 3], dim = (i + b) % 2 ? 64 : 128;
            struct attn_case c = { 8, 8, dim, i % 4 == 3 ? 200 : 0, DTYPE_F16, n, n };
            c.bound = bounds[(b + i) % 3];
            for (int s = 0; s < n; s++) {
                c.rows[s] = 1;
                c.tokens[s] = s % 3 == 0 ? tokens[i] : s % 3 == 1 ? 17 * s : tokens[i] / s;
            }
            check(rig, c, i, false);
        }
}

TEST(attn_of_every_plan_meets_the_oracle)
{
    assert_true(rig_each(check_plans) > 0);
}

/* More query heads for a KV head than a GPU's block takes at once: decode, prefill, both. */
static void check_shared_heads(struct rig *rig)
{
    static const struct attn_case shared[] = {
        { 32, 1, 64, 0, DTYPE_F16, 2, 2, { 1, 1 }, { 20, 1 } },
        { 24, 1, 128, 0, DTYPE_F16, 1, 2, { 1, 3 }, { 17, 5 } },
        { 32, 1, 64, 0, DTYPE_F16, 4, 4, { 1, 1, 1, 1 }, { 1, 17, 0, 900 } },
        { 32, 1, 128, 0, DTYPE_F16, 1, 1, { 1 }, { 2000 }, 8192 },
        { 24, 1, 64, 0, DTYPE_F16, 2, 2, { 1, 1 }, { 300, 2000 } },
        { 24, 1, 128, 100, DTYPE_F16, 1, 2, { 1, 40 }, { 257, 260 } },
        { 32, 1, 64, 0, DTYPE_F16, 0, 2, { 70, 3 }, { 130, 3 } },
        { 24, 1, 128, 0, DTYPE_F16, 0, 1, { 33 }, { 33 } },
        { 48, 2, 128, 0, DTYPE_F16, 1, 2, { 1, 20 }, { 530, 33 } },
        { 34, 2, 64, 0, DTYPE_F16, 2, 3, { 1, 1, 18 }, { 70, 129, 18 } }, /* one is left over */
        { 24, 1, 80, 0, DTYPE_F16, 1, 2, { 1, 20 }, { 129, 40 } },
    };
    for (size_t i = 0; i < (rig_small() ? 2 : ARRAY_SIZE(shared)); i++)
        for (int fixed = 0; fixed < (rig->is_cpu ? 1 : 2); fixed++)
            check(rig, shared[i], i, fixed);
}

TEST(attn_of_heads_that_share_one_kv_head_meets_the_oracle)
{
    assert_true(rig_each(check_shared_heads) > 0);
}

/* Each way by itself and small, for sanitizers. */
static void check_split_rows(struct rig *rig)
{
    struct attn_case c = { 4, 2, 64, 0, DTYPE_F16, 2, 2, { 1, 1 }, { 200, 20 } };
    struct attn_case wide = { 2, 1, 128, 20, DTYPE_F16, 1, 1, { 1 }, { 130 } };
    struct attn_case cluster = { 8, 8, 128, 0, DTYPE_F16, 1, 1, { 1 }, { 300 }, 1024 };
    check(rig, cluster, 3, false);
    for (int fixed = 0; fixed < 2; fixed++) {
        check(rig, c, 1, fixed);
        check(rig, wide, 2, fixed);
    }
}

TEST(attn_of_split_rows_meets_the_oracle)
{
    assert_true(rig_each(check_split_rows) > 0);
}

static void check_tiles(struct rig *rig)
{
    struct attn_case c = { 4, 2, 64, 0, DTYPE_F16, 0, 2, { 20, 3 }, { 40, 3 } };
    struct attn_case wide = { 2, 1, 128, 20, DTYPE_F16, 0, 1, { 18 }, { 40 } };
    check(rig, c, 1, false);
    check(rig, wide, 2, false);
}

TEST(attn_of_tiles_meets_the_oracle)
{
    assert_true(rig_each(check_tiles) > 0);
}

static void check_odd_heads(struct rig *rig)
{
    struct attn_case c = { 2, 1, 80, 0, DTYPE_F16, 1, 2, { 1, 3 }, { 20, 5 } };
    check(rig, c, 1, false);
}

TEST(attn_of_odd_heads_meets_the_oracle)
{
    assert_true(rig_each(check_odd_heads) > 0);
}

TEST(attn_takes_every_even_head_size_up_to_256)
{
    assert_true(rig_each(check_head_sizes) > 0);
}

/* The same sequence whole, row by row as decode, and beside others: the same bits. */
TEST(attn_row_has_the_same_bits_alone_in_a_chunk_and_at_any_level)
{
    static const char *const levels[] = { "plain", "avx2", "avx512-vnni" };
    enum { TOKENS = 300, HEADS = 6, DIM = 64 };
    struct attn_case c = { HEADS, 2, DIM, 0, DTYPE_F16, 0, 1, { 190 }, { TOKENS } };
    struct attn_world w;
    uint64_t seed = 8;
    bool have_first = false;

    for (int window = 0; window < 200; window += 150, have_first = false) {
        c.window = window;
        c.n_decode = 0;
        c.rows[0] = 190;
        c.tokens[0] = TOKENS;
        attn_world_make(&w, &c, &seed);
        float *first = nan_floats(w.n_q), *other = nan_floats(w.n_q), *q = w.q;
        for (int i = 0; i < 3; i++)
            for (int n_thread = 1; n_thread <= 4; n_thread += 3) {
                struct rig rig;
                struct attn_case one = c;
                if (!cpu_isa_find(levels[i]))
                    continue;
                rig_open_cpu(&rig, levels[i], n_thread);
                run(&rig, &c, &w, have_first ? other : first);
                if (have_first)
                    assert_memory_equal(first, other, w.n_q * 4);
                have_first = true;
                one.rows[0] = one.n_decode = 1;
                for (int row = 0; row < 190; row += row < 30 ? 1 : 27) {
                    struct attn_world alone = w;
                    alone.q = q + row * HEADS * DIM;
                    alone.n_q = HEADS * DIM;
                    alone.row_start[1] = 1;
                    alone.kv_tokens[0] = alone.batch.kv_tokens_max = TOKENS - 189 + row;
                    alone.batch.n_row = alone.batch.n_decode = 1;
                    alone.batch.row_start = alone.row_start;
                    alone.batch.kv_tokens = alone.kv_tokens;
                    run(&rig, &one, &alone, other);
                    assert_memory_equal(first + row * HEADS * DIM, other, HEADS * DIM * 4);
                }
                rig_close(&rig);
            }
        free(first), free(other);
        attn_world_free(&w);
    }
}

/* Slots past a sequence's end hold another sequence's bytes: NaN there must not be seen. */
TEST(attn_does_not_look_past_the_end)
{
    struct attn_case c = { 4, 2, 32, 0, DTYPE_F32, 1, 2, { 1, 3 }, { 5, 21 } };
    struct attn_world w;
    struct rig rig;
    uint64_t seed = 12;

    attn_world_make(&w, &c, &seed);
    for (int s = 0; s < 2; s++) {
        int last = w.blocks[w.block_start[s + 1] - 1];
        float *block = (float *)(void *)(w.pool + last * w.block_stride + w.layer_bytes);
        for (int head = 0; head < 4; head++) /* K and V heads */
            for (int t = c.tokens[s] % 16; t < 16; t++)
                for (int d = 0; d < 32; d++)
                    block[(head * 16 + t) * 32 + d] = NAN;
    }
    float *got = nan_floats(w.n_q);
    rig_open_cpu(&rig, NULL, 2);
    run(&rig, &c, &w, got);
    for (size_t i = 0; i < w.n_q; i++)
        assert_true(isfinite(got[i]));
    rig_close(&rig);
    free(got);
    attn_world_free(&w);
}

TEST(attn_refuses_shapes_it_has_no_kernel_for)
{
    static const struct attn_case bad[] = {
        { 2, 1, 258, 0, DTYPE_F32, 1, 1, { 1 }, { 4 } },
        { 2, 1, 33, 0, DTYPE_F32, 1, 1, { 1 }, { 4 } },
        { 2, 1, 40, 0, DTYPE_I32, 1, 1, { 1 }, { 4 } },
        { 3, 2, 64, 0, DTYPE_F32, 1, 1, { 1 }, { 4 } },
    };
    struct rig rig;
    rig_open_cpu(&rig, NULL, 1);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct attn_world w = { .batch = { .n_row = 1, .n_seq = 1, .n_decode = 1 } };
        struct attn_args args = attn_world_args(&bad[i], &w, NULL);
        assert_int_equal(rig.ops->attn(rig.st, &args), -ENOTSUP);
    }
    rig_close(&rig);
}
