/* Rotation, head norms and the way of K and V into the pool, in every KV type. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref.h"
#include "tests/harness/harness.h"
#include "tests/kernels/rig.h"

struct rope_case {
    int n_row, n_head, n_kv_head, head_dim, n_dim;
    bool interleaved, norm;
    enum dtype kv;
};

static const struct rope_case cases[] = {
    { 1, 9, 3, 64, 64, true, false, DTYPE_F16 }, { 7, 9, 3, 64, 64, false, false, DTYPE_F16 },
    { 5, 4, 1, 80, 32, false, true, DTYPE_F32 }, { 20, 2, 2, 256, 256, true, true, DTYPE_BF16 },
    { 3, 3, 3, 6, 6, false, false, DTYPE_F32 },  { 9, 4, 2, 96, 64, true, false, DTYPE_Q8_0 },
    { 4, 2, 1, 18, 16, false, true, DTYPE_F16 },
};

enum { BLOCKS = 8 };

static void kv_to_floats(enum dtype dtype, const uint8_t *pool, int64_t bytes, float *out)
{
    int64_t n = bytes / dtype_infos[dtype].block_bytes * dtype_infos[dtype].block_elems;
    ref_dequantize(dtype, pool, (int)n, out);
}

static void check_case(struct rig *rig, const struct rope_case *of, int first_position)
{
    uint64_t seed = 50;
    struct rope_case copy = *of;
    const struct rope_case *c = &copy;
    if (!rig->is_cpu)
        copy.kv = rig->act; /* the one type that it takes */
    int wide = (c->n_head + 2 * c->n_kv_head) * c->head_dim + 8, q_wide = c->n_head * c->head_dim;
    size_t n = (size_t)c->n_row * (size_t)wide;
    int64_t half = c->n_kv_head * KV_BLOCK_TOKENS * dtype_bytes(c->kv, c->head_dim);
    int64_t stride = 2 * half, bytes = stride * BLOCKS;
    float *x = random_floats(&seed, n, 29), *norms = random_floats(&seed, 512, 0);
    float *got = nan_floats(n), *freq = random_floats(&seed, 128, 0);
    uint8_t *pool = calloc(1, (size_t)bytes), *got_pool = malloc((size_t)bytes);
    float *kv_got = nan_floats((size_t)bytes), *kv_want = nan_floats((size_t)bytes);
    int32_t position[32], slot[32];

    rig_round(rig, x, n);
    for (int i = 0; i < c->n_row; i++) {
        position[i] = first_position + i * 3;
        slot[i] = i == 2 ? -1 : (i * 29 + 5) % (BLOCKS * KV_BLOCK_TOKENS);
    }
    struct rope_append_args ref = {
        .q = x,
        .k = x + q_wide,
        .v = x + q_wide + c->n_kv_head * c->head_dim,
        .stride = wide,
        .n_row = c->n_row,
        .n_head = c->n_head,
        .position = position,
        .slot = slot,
        .rope = { freq, c->n_dim, c->interleaved, 1.25f },
        .norm_eps = 1e-5f,
        .q_norm = c->norm ? norms : NULL,
        .k_norm = c->norm ? norms + 256 : NULL,
        .kv = { pool, pool + half, stride, c->kv, c->n_kv_head, c->head_dim },
    };
    struct rope_append_args args = ref;
    args.q = rig_put_act(rig, x, n);
    args.k = (char *)args.q + dtype_bytes(rig->act, q_wide);
    args.v = (const char *)args.k + dtype_bytes(rig->act, c->n_kv_head * c->head_dim);
    args.position = rig_put(rig, position, sizeof(position));
    args.slot = rig_put(rig, slot, sizeof(slot));
    args.rope.inv_freq = rig_put(rig, freq, 512);
    args.q_norm = c->norm ? rig_put(rig, norms, 1024) : NULL;
    args.k_norm = c->norm ? rig_put(rig, norms + 256, 1024) : NULL;
    args.kv.k = rig_put(rig, pool, (size_t)bytes);
    args.kv.v = (char *)args.kv.k + half;
    int error = rig->ops->rope_append(rig->st, &args);
    if (!error) {
        rig_get_act(rig, args.q, got, n);
        rig_get(rig, args.kv.k, got_pool, (size_t)bytes);
        ref_rope_append(&ref);
        kv_to_floats(c->kv, got_pool, bytes, kv_got);
        kv_to_floats(c->kv, pool, bytes, kv_want);
        for (int i = 0; i < c->n_row; i++)
            assert_true(max_error(got + i * wide, x + i * wide, (size_t)q_wide) <
                        rig_bound(rig, 1e-5, 8));
        double bound = c->kv == DTYPE_Q8_0   ? 3e-2
                       : c->kv == DTYPE_BF16 ? 0.1 /* a step of bf16 on an outlier */
                       : c->kv == DTYPE_F16  ? 2e-3
                                             : 1e-4;
        bound = rig_bound(rig, bound, 26);
        int64_t n_kv = bytes / dtype_infos[c->kv].block_bytes * dtype_infos[c->kv].block_elems;
        assert_true(max_error(kv_got, kv_want, (size_t)n_kv) < bound);
    } else {
        fail_msg("%s: %d", rig->name, error);
    }
    rig_reset(rig);
    free(x), free(norms), free(got), free(freq), free(pool), free(got_pool);
    free(kv_got), free(kv_want);
}

static void check_cases(struct rig *rig)
{
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        check_case(rig, &cases[i], 0);
        check_case(rig, &cases[i], 4000);
        check_case(rig, &cases[i], 4000); /* kept cosines */
    }
}

TEST(rope_append_meets_the_oracle)
{
    assert_true(rig_each(check_cases) > 0);
}

static void check_head_sizes(struct rig *rig)
{
    static const enum dtype types[] = { DTYPE_F16, DTYPE_F32, DTYPE_BF16 };
    for (int dim = 2; rig->is_cpu && dim <= 256; dim += 2) {
        struct rope_case c = { 3, 3, 1, dim, dim, dim % 4 == 0, dim % 3 == 0, types[dim / 2 % 3] };
        check_case(rig, &c, 700);
    }
}

TEST(rope_append_takes_every_even_head_size_up_to_256)
{
    assert_true(rig_each(check_head_sizes) > 0);
}

struct in_case {
    int n_row, n_head, n_kv_head, head_dim, n_weight;
    bool head_norm, bias, deterministic;
};

static const struct in_case in_cases[] = {
    { 1, 4, 2, 64, 3, false, true, false },  { 1, 4, 2, 128, 1, true, false, false },
    { 2, 4, 2, 128, 3, true, true, false },  { 8, 4, 4, 64, 1, true, false, false },
    { 9, 6, 2, 128, 1, true, false, false }, { 16, 4, 1, 128, 3, true, true, false },
    { 16, 4, 2, 64, 1, false, true, false }, { 30, 4, 2, 128, 1, true, false, false },
    { 7, 4, 2, 128, 1, true, true, true },   { 1, 4, 2, 16, 3, true, false, false },
    { 2, 4, 2, 32, 3, true, false, false },  { 3, 4, 2, 16, 3, false, false, false },
    { 1, 16, 8, 128, 3, true, true, false }, { 1, 32, 8, 64, 1, false, true, false },
    { 30, 64, 8, 128, 3, true, true, true },
};

/* Host memory of one call: activations, weights and pool, as the oracle takes them. */
struct in_world {
    struct weight file, part[3];
    enum dtype kv;
    float *x, *out, *bias, *norm, *head_norms, *freq;
    uint8_t *pool;
    int64_t half, pool_bytes;
    int wide, first[4]; /* row of the joint weight where q, k and v begin */
    int32_t position[32], slot[32];
};

enum { IN_DIM = 256 };

static void make_in_world(const struct rig *rig, const struct in_case *c, struct in_world *w,
                          uint64_t *seed)
{
    int kv = c->n_kv_head * c->head_dim, q = c->n_head * c->head_dim;
    *w = (struct in_world){ .wide = q + 2 * kv, .first = { 0, q, q + kv, q + 2 * kv },
                             .kv = rig->is_cpu ? DTYPE_BF16 : rig->act };
    w->file = random_weight(seed, DTYPE_BF16, w->wide, IN_DIM, 0.1f);
    for (int i = 0; i < 3; i++) {
        w->part[i] = w->file;
        w->part[i].n_row = w->first[i + 1] - w->first[i];
        w->part[i].data = (char *)w->file.data + (int64_t)w->first[i] * IN_DIM * 2;
    }
    w->x = random_floats(seed, (size_t)c->n_row * IN_DIM, 0);
    w->out = nan_floats((size_t)c->n_row * (size_t)w->wide);
    w->bias = random_floats(seed, (size_t)w->wide, 0);
    w->norm = random_floats(seed, IN_DIM, 0);
    w->head_norms = random_floats(seed, 512, 0);
    w->freq = random_floats(seed, 128, 0);
    w->half = (int64_t)kv * KV_BLOCK_TOKENS * 2;
    w->pool_bytes = 2 * w->half * BLOCKS;
    w->pool = calloc(1, (size_t)w->pool_bytes);
    for (int i = 0; i < c->n_row; i++) {
        w->position[i] = 300 + i * 3;
        w->slot[i] = i == 2 ? -1 : (i * 29 + 5) % (BLOCKS * KV_BLOCK_TOKENS);
    }
}

static void free_in_world(struct in_world *w)
{
    free(w->file.data), free(w->x), free(w->out), free(w->bias), free(w->norm);
    free(w->head_norms), free(w->freq), free(w->pool);
}

/* act_bytes: of one activation. out, x, pool, norms and weights are the caller's kind of memory. */
static struct attn_in_args in_args(const struct in_case *c, const struct in_world *w, char *out,
                                   int64_t act_bytes, const struct weight *weight)
{
    struct attn_in_args a = {
        .qkv = { .x_stride = IN_DIM, .n_row = c->n_row, .n_weight = c->n_weight,
                 .norm_eps = 1e-5f, .deterministic = c->deterministic },
        .rope = { .q = out, .k = out + w->first[1] * act_bytes, .v = out + w->first[2] * act_bytes,
                  .stride = w->wide, .n_row = c->n_row, .n_head = c->n_head,
                  .rope = { NULL, c->head_dim, false, 1.0f }, .norm_eps = 1e-6f,
                  .kv = { NULL, NULL, 2 * w->half, w->kv, c->n_kv_head, c->head_dim } },
    };
    for (int i = 0; i < c->n_weight; i++) {
        a.qkv.weight[i] = &weight[i];
        a.qkv.out[i] = out + w->first[i] * act_bytes;
        a.qkv.out_stride[i] = w->wide;
    }
    return a;
}

static void set_arrays(struct attn_in_args *a, const struct in_case *c, const struct in_world *w,
                       const float *bias, const float *head_norms)
{
    for (int i = 0; c->bias && i < c->n_weight; i++)
        a->qkv.bias[i] = bias + w->first[i];
    a->rope.q_norm = c->head_norm ? head_norms : NULL;
    a->rope.k_norm = c->head_norm ? head_norms + 256 : NULL;
}

/* Each token's K and V against its own size, since most of the pool is zero and must stay so. */
static void check_in_pool(struct rig *rig, const struct in_case *c, const struct in_world *w,
                          float *got, float *want)
{
    int64_t each = w->half / 2, n = each * 2 * BLOCKS;
    size_t dim = (size_t)c->head_dim, width = dim * (size_t)c->n_kv_head;
    float *row_got = malloc(width * 4), *row_want = malloc(width * 4);
    for (int i = 0; i < c->n_row; i++)
        for (int v = 0; w->slot[i] >= 0 && v < 2; v++) {
            for (int h = 0; h < c->n_kv_head; h++) {
                int64_t at = (w->slot[i] / KV_BLOCK_TOKENS * 2 + v) * each +
                             (h * KV_BLOCK_TOKENS + w->slot[i] % KV_BLOCK_TOKENS) * (int64_t)dim;
                memcpy(row_got + (size_t)h * dim, got + at, dim * 4);
                memcpy(row_want + (size_t)h * dim, want + at, dim * 4);
                memset(got + at, 0, dim * 4);
            }
            double error = max_error(row_got, row_want, width);
            if (!(error < rig_bound(rig, 4e-2, 10)))
                fail_msg("%s: %s of row %d of %d, heads of %d: error %g", rig->name, v ? "V" : "K",
                         i, c->n_row, c->head_dim, error);
        }
    for (int64_t i = 0; i < n; i++)
        assert_true(got[i] == 0.0f);
    free(row_got), free(row_want);
}

static void check_in_case(struct rig *rig, const struct in_case *c)
{
    uint64_t seed = 70;
    struct in_world w;
    struct weight loaded[3];
    make_in_world(rig, c, &w, &seed);
    size_t n = (size_t)c->n_row * (size_t)w.wide, n_kv = (size_t)w.pool_bytes / 2;
    float *got = nan_floats(n), *kv_got = nan_floats(n_kv), *kv_want = nan_floats(n_kv);
    uint8_t *got_pool = malloc((size_t)w.pool_bytes);
    const struct weight *files = c->n_weight == 1 ? &w.file : w.part;
    rig_round(rig, w.x, (size_t)c->n_row * IN_DIM);
    for (int i = 0; i < c->n_weight; i++)
        assert_true(rig_put_weight(rig, &files[i], &loaded[i]));
    char *out = rig_put_act(rig, NULL, n);
    struct attn_in_args a = in_args(c, &w, out, dtype_bytes(rig->act, 1), loaded);
    a.qkv.x = rig_put_act(rig, w.x, (size_t)c->n_row * IN_DIM);
    a.qkv.norm_weight = rig_put(rig, w.norm, IN_DIM * 4);
    a.rope.position = rig_put(rig, w.position, sizeof(w.position));
    a.rope.slot = rig_put(rig, w.slot, sizeof(w.slot));
    a.rope.rope.inv_freq = rig_put(rig, w.freq, 512);
    a.rope.kv.k = rig_put(rig, w.pool, (size_t)w.pool_bytes);
    a.rope.kv.v = (char *)a.rope.kv.k + w.half;
    set_arrays(&a, c, &w, rig_put(rig, w.bias, (size_t)w.wide * 4),
               rig_put(rig, w.head_norms, 2048));
    int error = rig->ops->attn_in(rig->st, &a);
    struct attn_in_args ref = in_args(c, &w, (char *)w.out, sizeof(float), files);
    ref.qkv.x = w.x;
    ref.qkv.norm_weight = w.norm;
    ref.rope.position = w.position;
    ref.rope.slot = w.slot;
    ref.rope.rope.inv_freq = w.freq;
    ref.rope.kv.k = w.pool;
    ref.rope.kv.v = w.pool + w.half;
    set_arrays(&ref, c, &w, w.bias, w.head_norms);
    if (error != -ENOTSUP) {
        assert_int_equal(error, 0);
        ref_attn_in(&ref);
        rig_get_act(rig, out, got, n);
        rig_get(rig, a.rope.kv.k, got_pool, (size_t)w.pool_bytes);
        kv_to_floats(w.kv, got_pool, w.pool_bytes, kv_got);
        kv_to_floats(w.kv, w.pool, w.pool_bytes, kv_want);
        for (int i = 0; i < c->n_row; i++)
            if (!(max_error(got + i * w.wide, w.out + i * w.wide, (size_t)w.first[1]) <
                  rig_bound(rig, 4e-2, 10)))
                fail_msg("%s: q of row %d of %d, heads of %d", rig->name, i, c->n_row,
                         c->head_dim);
        check_in_pool(rig, c, &w, kv_got, kv_want);
    }
    rig_reset(rig);
    free(got), free(kv_got), free(kv_want), free(got_pool);
    free_in_world(&w);
}

static void check_in_cases(struct rig *rig)
{
    for (size_t i = 0; rig->ops->attn_in && i < ARRAY_SIZE(in_cases); i++)
        check_in_case(rig, &in_cases[i]);
}

TEST(attn_in_meets_the_oracle_with_head_norms_and_without)
{
    assert_true(rig_each(check_in_cases) > 0);
}

TEST(f16_is_rounded_as_the_oracle_rounds_at_every_level)
{
    static const char *const levels[] = { "plain", "avx2", "avx512-vnni" };
    float in[64];
    uint16_t got[64], want[64];
    uint64_t seed = 3;
    for (int round = 0; round < 200; round++) {
        for (int i = 0; i < 64; i++) {
            uint32_t bits = (uint32_t)harness_rand(&seed);
            if (round % 2) /* near the edges of f16: subnormals, overflow, ties */
                bits = (bits & 0x80ffffff) | (uint32_t)(0x31 + (bits >> 24 & 0x1f)) << 24;
            if (round % 4 == 3)
                bits &= 0xfffff000;
            memcpy(&in[i], &bits, 4);
            if (isnan(in[i]))
                in[i] = 1.0f;
        }
        for (int t = 0; t < 2; t++) {
            enum dtype dtype = t ? DTYPE_BF16 : DTYPE_F16;
            ref_quantize(dtype, in, 64, want);
            for (int i = 0; i < 3; i++)
                if (cpu_isa_find(levels[i])) {
                    cpu_isa_find(levels[i])->kv_store(got, in, 64, dtype);
                    assert_memory_equal(got, want, sizeof(got));
                    cpu_isa_find(levels[i])->kv_store(got, in, 7, dtype);
                    assert_memory_equal(got, want, sizeof(got));
                }
        }
    }
}
