/* Paged attention: batches of decode and prefill rows, head sizes, KV types, windows. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref.h"
#include "tests/harness/harness.h"
#include "tests/kernels/rig.h"

/* The oracle's rounding is slow: so many rows differ, and no block, head or layer begins alike. */
enum { DISTINCT_ROWS = 97 };

enum { SEQS = 128 };

struct attn_case {
    int n_head, n_kv_head, head_dim, window;
    enum dtype kv;
    int n_decode, n_seq;
    int rows[SEQS], tokens[SEQS]; /* per sequence: rows of this step, KV tokens with them */
};

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

/* A step in memory: the pool with two layers, random blocks in random order. */
struct world {
    struct seq_batch batch; /* host pointers */
    int32_t row_start[SEQS + 1], block_start[SEQS + 1], blocks[2048], row_seq[256];
    int32_t kv_tokens[SEQS];
    int n_block;
    uint8_t *pool;
    int64_t pool_bytes, layer_bytes, block_stride;
    float *q;
    size_t n_q;
};

static void make_world(struct world *w, const struct attn_case *c, uint64_t *seed)
{
    int64_t row_bytes = dtype_bytes(c->kv, c->head_dim);
    *w = (struct world){ 0 };
    for (int s = 0; s < c->n_seq; s++) {
        int n_block = (c->tokens[s] + 15) / 16;
        w->row_start[s + 1] = w->row_start[s] + c->rows[s];
        w->kv_tokens[s] = c->tokens[s];
        w->block_start[s + 1] = w->block_start[s] + n_block;
        for (int r = w->row_start[s]; r < w->row_start[s + 1]; r++)
            w->row_seq[r] = s;
        w->batch.kv_tokens_max = max_of(w->batch.kv_tokens_max, c->tokens[s]);
    }
    w->n_block = w->block_start[c->n_seq] + 3;
    for (int i = 0; i < w->block_start[c->n_seq]; i++)
        w->blocks[i] = (i * 7 + 2) % w->n_block;
    while (w->n_block % 7 == 0)
        w->n_block++;
    for (int i = 0; i < w->block_start[c->n_seq]; i++)
        w->blocks[i] = (i * 7 + 2) % w->n_block;
    w->layer_bytes = 2 * c->n_kv_head * KV_BLOCK_TOKENS * row_bytes;
    w->block_stride = 2 * w->layer_bytes;
    w->pool_bytes = w->block_stride * w->n_block;
    w->pool = malloc((size_t)w->pool_bytes);
    for (int64_t at = 0; at < w->pool_bytes; at += row_bytes) {
        if (at >= DISTINCT_ROWS * row_bytes) {
            memcpy(w->pool + at, w->pool + at - DISTINCT_ROWS * row_bytes, (size_t)row_bytes);
            continue;
        }
        float *row = random_floats(seed, (size_t)c->head_dim, 13);
        ref_quantize(c->kv, row, c->head_dim, w->pool + at);
        free(row);
    }
    w->batch.n_row = w->row_start[c->n_seq];
    w->batch.n_seq = c->n_seq;
    w->batch.n_decode = c->n_decode;
    w->batch.row_start = w->row_start;
    w->batch.kv_tokens = w->kv_tokens;
    w->batch.block_start = w->block_start;
    w->batch.blocks = w->blocks;
    w->batch.row_seq = w->row_seq;
    w->batch.deterministic = true;
    w->n_q = (size_t)w->batch.n_row * (size_t)(c->n_head * c->head_dim);
    w->q = random_floats(seed, w->n_q, 41);
}

static struct attn_args host_args(const struct attn_case *c, const struct world *w, float *out)
{
    int64_t half = w->layer_bytes / 2;
    return (struct attn_args){
        .out = out,
        .q = w->q,
        .out_stride = c->n_head * c->head_dim,
        .q_stride = c->n_head * c->head_dim,
        .n_head = c->n_head,
        .scale = 0.02f, /* outliers of q and k meet: scores of hundreds */
        .window = c->window,
        .kv = { w->pool + w->layer_bytes, w->pool + w->layer_bytes + half, w->block_stride, c->kv,
                c->n_kv_head, c->head_dim },
        .batch = &w->batch,
    };
}

/* Runs the op on a rig. */
static void run(struct rig *rig, const struct attn_case *c, const struct world *w, float *out)
{
    struct attn_args args = host_args(c, w, NULL);
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

static void free_world(struct world *w)
{
    free(w->pool);
    free(w->q);
}

/* `i` names the case and seeds its numbers. */
static void check(struct rig *rig, struct attn_case c, size_t i, bool deterministic)
{
    uint64_t seed = 100 + i;
    struct world w;
    if (!rig->is_cpu)
        c.kv = rig->act; /* the one type that it takes */
    make_world(&w, &c, &seed);
    w.batch.deterministic = deterministic;
    float *got = nan_floats(w.n_q), *want = nan_floats(w.n_q);
    rig_round(rig, w.q, w.n_q);
    struct attn_args ref = host_args(&c, &w, want);
    ref_attn(&ref);
    run(rig, &c, &w, got);
    double error = max_error(got, want, w.n_q);
    if (!(error < rig_bound(rig, 3e-4, 10)))
        fail_msg("%s, case %zu, %d: error %g", rig->name, i, deterministic, error);
    free(got), free(want);
    free_world(&w);
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
    } shapes[] = { { 16, 64 }, { 16, 128 }, { 128, 64 } };
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

/* Each way by itself and small, for sanitizers. */
static void check_split_rows(struct rig *rig)
{
    struct attn_case c = { 4, 2, 64, 0, DTYPE_F16, 2, 2, { 1, 1 }, { 200, 20 } };
    struct attn_case wide = { 2, 1, 128, 20, DTYPE_F16, 1, 1, { 1 }, { 130 } };
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
    struct world w;
    uint64_t seed = 8;
    bool have_first = false;

    for (int window = 0; window < 200; window += 150, have_first = false) {
        c.window = window;
        c.n_decode = 0;
        c.rows[0] = 190;
        c.tokens[0] = TOKENS;
        make_world(&w, &c, &seed);
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
                    struct world alone = w;
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
        free_world(&w);
    }
}

/* Slots past a sequence's end hold another sequence's bytes: NaN there must not be seen. */
TEST(attn_does_not_look_past_the_end)
{
    struct attn_case c = { 4, 2, 32, 0, DTYPE_F32, 1, 2, { 1, 3 }, { 5, 21 } };
    struct world w;
    struct rig rig;
    uint64_t seed = 12;

    make_world(&w, &c, &seed);
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
    free_world(&w);
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
        struct world w = { .batch = { .n_row = 1, .n_seq = 1, .n_decode = 1 } };
        struct attn_args args = host_args(&bad[i], &w, NULL);
        assert_int_equal(rig.ops->attn(rig.st, &args), -ENOTSUP);
    }
    rig_close(&rig);
}
