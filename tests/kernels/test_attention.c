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
enum { DISTINCT_ROWS = 97, SEQS = 128 };

struct attn_case {
    int n_head, n_kv_head, head_dim, window;
    enum dtype kv;
    int n_decode, n_seq;
    int rows[SEQS], tokens[SEQS]; /* per sequence: rows of this step, KV tokens with them */
    int bound;                    /* tokens that any may have, as a graph's */
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
    *w = (struct world){ .batch.kv_tokens_max = c->bound };
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

/* Decode whose head norms (if any), rotation and KV append are still to do. */
struct turn_case {
    int n_head, n_kv_head, head_dim, window, n_seq;
    int tokens[16];
    bool bare; /* without head norms */
};

static const struct turn_case turn_cases[] = {
    { 16, 8, 128, 0, 1, { 1 } },
    { 16, 8, 128, 0, 1, { 64 } },
    { 16, 8, 128, 0, 1, { 65 } },
    { 16, 8, 128, 0, 4, { 16, 17, 0, 33 } }, /* a padding row */
    { 8, 2, 128, 0, 1, { 1013 } },
    { 8, 8, 128, 0, 1, { 256 } },
    { 16, 8, 128, 0, 1, { 257 } },
    { 16, 8, 128, 0, 1, { 1024 } },
    { 16, 8, 128, 0, 8, { 1040, 64, 257, 1, 0, 1024, 999, 17 } },
    { 16, 8, 64, 0, 1, { 256 } },
    { 16, 8, 64, 0, 2, { 513, 128 } },
    { 16, 8, 64, 0, 8, { 1040, 64, 257, 1, 0, 1024, 999, 17 } },
    { 56, 8, 128, 0, 1, { 2048 } },
    { 14, 2, 128, 0, 3, { 700, 5, 129 } },
    { 10, 2, 128, 40, 2, { 300, 21 } },
    { 8, 2, 128, 0, 2, { 150, 16 }, true },
    { 2, 2, 64, 0, 2, { 31, 15 }, true },
    { 14, 2, 64, 0, 16, { 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 140, 500 } },
    { 6, 1, 64, 100, 1, { 257 } },
};

/* A step of it: host arrays, and the args of the op table on a rig. */
struct turn_world {
    struct world w;
    struct attn_case shape;
    int wide, q_dim, kv_dim;
    int32_t position[16], slot[16];
    float norms[256], freq[64], *raw, *x;
    struct weight file;
    bool bare;
};

enum { TURN_DIM = 64 };

/* The bytes of one head's row of the pool. */
static uint8_t *pool_row(const struct turn_world *t, uint8_t *pool, int row, bool is_v, int head)
{
    int64_t row_bytes = dtype_bytes(t->shape.kv, t->shape.head_dim);
    int slot = t->slot[row];
    return pool + slot / KV_BLOCK_TOKENS * t->w.block_stride + t->w.layer_bytes +
           (is_v ? t->w.layer_bytes / 2 : 0) +
           (head * KV_BLOCK_TOKENS + slot % KV_BLOCK_TOKENS) * row_bytes;
}

static void make_turn_world(struct turn_world *t, const struct turn_case *c, enum dtype kv,
                            uint64_t *seed)
{
    *t = (struct turn_world){ .shape = { c->n_head,
                                         c->n_kv_head,
                                         c->head_dim,
                                         c->window,
                                         kv,
                                         c->n_seq,
                                         c->n_seq,
                                         { 0 },
                                         { 0 } } };
    for (int s = 0; s < c->n_seq; s++) {
        t->shape.rows[s] = 1;
        t->shape.tokens[s] = c->tokens[s];
    }
    make_world(&t->w, &t->shape, seed);
    t->w.batch.deterministic = false;
    t->bare = c->bare;
    t->q_dim = c->n_head * c->head_dim;
    t->kv_dim = c->n_kv_head * c->head_dim;
    t->wide = t->q_dim + 2 * t->kv_dim;
    for (int s = 0; s < c->n_seq; s++) {
        int last = max_of(c->tokens[s] - 1, 0);
        const int32_t *blocks = t->w.blocks + t->w.block_start[s];
        t->position[s] = last;
        t->slot[s] = c->tokens[s] ? blocks[last / 16] * 16 + last % 16 : -1;
        for (int h = 0; h < 2 * c->n_kv_head && c->tokens[s]; h++) /* NaN until it is appended */
            memset(pool_row(t, t->w.pool, s, h % 2, h / 2), 0xff,
                   (size_t)dtype_bytes(kv, c->head_dim));
    }
    for (int i = 0; i < 256; i++)
        t->norms[i] = (float)harness_uniform(seed, 0.5, 1.5);
    for (int i = 0; i < 64; i++)
        t->freq[i] = (float)harness_uniform(seed, 0.0, 1.0);
    t->raw = random_floats(seed, (size_t)(c->n_seq * t->wide), 0);
    t->x = random_floats(seed, (size_t)c->n_seq * TURN_DIM, 0);
    t->file = random_weight(seed, DTYPE_BF16, t->wide, TURN_DIM, 0.5f);
}

/* qkv: the rows' q, k and v, item bytes each; the arrays are the caller's kind of memory. */
static struct rope_append_args turn_rope(const struct turn_world *t, char *qkv, int64_t item,
                                         const float *norms, const float *freq,
                                         const int32_t *position, const int32_t *slot)
{
    const struct attn_case *c = &t->shape;
    return (struct rope_append_args){
        .q = qkv,
        .k = qkv + t->q_dim * item,
        .v = qkv + (t->q_dim + t->kv_dim) * item,
        .stride = t->wide,
        .n_row = c->n_seq,
        .n_head = c->n_head,
        .position = position,
        .slot = slot,
        .rope = { freq, c->head_dim, false, 1.25f },
        .q_norm = t->bare ? NULL : norms,
        .k_norm = t->bare ? NULL : norms + 128,
        .norm_eps = 1e-6f,
    };
}

/* The step on a rig, with attention doing all of it where it can; by a product if there is one. */
static void run_turn(struct rig *rig, struct turn_world *t, bool product, float *out, uint8_t *pool)
{
    struct attn_args args = host_args(&t->shape, &t->w, NULL);
    struct seq_batch batch = t->w.batch;
    struct weight loaded;
    size_t n = (size_t)(t->shape.n_seq * t->wide), ints = sizeof(int32_t) * (SEQS + 1);
    uint8_t *device_pool = rig_put(rig, t->w.pool, (size_t)t->w.pool_bytes);
    char *qkv = rig_put_act(rig, t->raw, n);
    struct rope_append_args rope = turn_rope(
        t, qkv, dtype_bytes(rig->act, 1), rig_put(rig, t->norms, sizeof(t->norms)),
        rig_put(rig, t->freq, sizeof(t->freq)), rig_put(rig, t->position, sizeof(t->position)),
        rig_put(rig, t->slot, sizeof(t->slot)));
    struct matmul_args m = {
        .x = rig_put_act(rig, t->x, (size_t)t->shape.n_seq * TURN_DIM),
        .x_stride = TURN_DIM,
        .n_row = t->shape.n_seq,
        .n_weight = 1,
        .weight = { &loaded },
        .out = { qkv },
        .out_stride = { t->wide },
    };
    batch.row_start = rig_put(rig, t->w.row_start, ints);
    batch.kv_tokens = rig_put(rig, t->w.kv_tokens, ints - 4);
    batch.block_start = rig_put(rig, t->w.block_start, ints);
    batch.blocks = rig_put(rig, t->w.blocks, sizeof(t->w.blocks));
    batch.row_seq = rig_put(rig, t->w.row_seq, sizeof(t->w.row_seq));
    args.kv.k = device_pool + t->w.layer_bytes;
    args.kv.v = device_pool + t->w.layer_bytes + t->w.layer_bytes / 2;
    args.q = qkv;
    args.q_stride = t->wide;
    args.out = rig_put_act(rig, NULL, t->w.n_q);
    args.batch = &batch;
    rope.kv = args.kv;
    args.rope = &rope;
    assert_true(rig_put_weight(rig, &t->file, &loaded));
    if (product) {
        assert_ok(rig->ops->matmul(rig->st, &m));
        rig_get_act(rig, qkv, t->raw, n);
        assert_ok(rig->ops->matmul(rig->st, &m)); /* again: what came between ends an overlap */
    }
    if (!rig->ops->attn_turns || !rig->ops->attn_turns(rig->st, &args)) {
        assert_int_equal(rig->ops->attn(rig->st, &args), -ENOTSUP);
        assert_ok(rig->ops->rope_append(rig->st, &rope));
        args.rope = NULL;
    }
    assert_ok(rig->ops->attn(rig->st, &args));
    rig_get_act(rig, args.out, out, t->w.n_q);
    rig_get(rig, device_pool, pool, (size_t)t->w.pool_bytes);
    rig_reset(rig);
}

/* K and V of every row as the oracle's, and nothing else touched: got is made equal to check it. */
static void check_appended(struct rig *rig, const struct turn_world *t, uint8_t *got)
{
    int dim = t->shape.head_dim;
    float *a = nan_floats((size_t)dim), *b = nan_floats((size_t)dim);
    for (int row = 0; row < t->shape.n_seq; row++)
        for (int h = 0; t->slot[row] >= 0 && h < 2 * t->shape.n_kv_head; h++) {
            uint8_t *mine = pool_row(t, got, row, h % 2, h / 2);
            const uint8_t *want = pool_row(t, t->w.pool, row, h % 2, h / 2);
            ref_dequantize(t->shape.kv, mine, dim, a);
            ref_dequantize(t->shape.kv, want, dim, b);
            double error = max_error(a, b, (size_t)dim);
            if (!(error <= rig_bound(rig, 2e-3, h % 2 ? 0 : 3)))
                fail_msg("%s: %s of row %d, head %d: error %g", rig->name, h % 2 ? "V" : "K", row,
                         h / 2, error);
            memcpy(mine, want, (size_t)dtype_bytes(t->shape.kv, dim));
        }
    assert_memory_equal(got, t->w.pool, (size_t)t->w.pool_bytes);
    free(a), free(b);
}

static void check_turn(struct rig *rig, const struct turn_case *c, size_t i, bool product)
{
    uint64_t seed = 300 + i;
    struct turn_world t;
    make_turn_world(&t, c, rig->is_cpu ? DTYPE_F16 : rig->act, &seed);
    float *got = nan_floats(t.w.n_q), *want = nan_floats(t.w.n_q);
    uint8_t *pool = malloc((size_t)t.w.pool_bytes);
    rig_round(rig, t.raw, (size_t)(c->n_seq * t.wide));
    run_turn(rig, &t, product, got, pool);
    struct attn_args ref = host_args(&t.shape, &t.w, want);
    struct rope_append_args rope =
        turn_rope(&t, (char *)t.raw, sizeof(float), t.norms, t.freq, t.position, t.slot);
    rope.kv = ref.kv;
    ref.q = t.raw;
    ref.q_stride = t.wide;
    ref_rope_append(&rope);
    rig_round(rig, t.raw, (size_t)(c->n_seq * t.wide)); /* what attention multiplies is rounded */
    ref_attn(&ref);
    check_appended(rig, &t, pool);
    double error = max_error(got, want, t.w.n_q);
    if (!(error < rig_bound(rig, 2e-3, 10)))
        fail_msg("%s, case %zu, %d: error %g", rig->name, i, product, error);
    free(got), free(want), free(pool), free(t.raw), free(t.x), free(t.file.data);
    free_world(&t.w);
}

static void check_turns(struct rig *rig)
{
    for (size_t i = 0; i < (rig_small() ? 4 : ARRAY_SIZE(turn_cases)); i++)
        for (int product = 0; product < (rig->is_cpu ? 1 : 2); product++)
            check_turn(rig, &turn_cases[i], i, product);
}

TEST(attn_that_turns_meets_the_oracle)
{
    assert_true(rig_each(check_turns) > 0);
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
