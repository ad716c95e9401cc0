/* Attention that does the rows' head norms, rotation and KV append itself, where a backend can. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "kernels/cpu/ref.h"
#include "tests/harness/harness.h"
#include "tests/kernels/attn_world.h"
#include "tests/kernels/rig.h"

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
    { 32, 1, 64, 0, 3, { 300, 1, 17 } }, /* more for one KV head than a kernel that turns takes */
    { 24, 1, 128, 0, 2, { 33, 1024 }, true },
};

/* A step of it: host arrays, and the args of the op table on a rig. */
struct turn_world {
    struct attn_world w;
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
    attn_world_make(&t->w, &t->shape, seed);
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
    struct attn_args args = attn_world_args(&t->shape, &t->w, NULL);
    struct seq_batch batch = t->w.batch;
    struct weight loaded;
    size_t n = (size_t)(t->shape.n_seq * t->wide), ints = sizeof(int32_t) * (WORLD_SEQS + 1);
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
    struct attn_args ref = attn_world_args(&t.shape, &t.w, want);
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
    attn_world_free(&t.w);
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
