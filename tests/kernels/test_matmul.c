/* Matmul, fused FFN input, logits and embedding, for every weight type. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref.h"
#include "tests/harness/harness.h"
#include "tests/kernels/rig.h"

static const enum dtype types[] = { DTYPE_F32,  DTYPE_F16,  DTYPE_BF16, DTYPE_Q8_0,
                                    DTYPE_Q4_0, DTYPE_Q4_1, DTYPE_Q5_0, DTYPE_Q5_1,
                                    DTYPE_Q4_K, DTYPE_Q5_K, DTYPE_Q6_K };
enum { N_TYPE = sizeof(types) / sizeof(types[0]) };

struct shape {
    int n_row, n_out, n_col;
    bool norm, add, bias;
    float outlier; /* factor of every 97th input; with it the norm weights are around 8 */
};

static const struct shape shapes[] = {
    { 1, 48, 256, false, false, false, 0 }, { 1, 17, 512, true, false, true, 0 },
    { 3, 100, 256, true, true, false, 0 },  { 8, 16, 768, false, true, true, 0 },
    { 33, 65, 256, true, false, false, 0 }, { 70, 33, 512, false, false, false, 0 },
    { 1, 37, 2304, false, true, true, 0 },  { 1, 37, 3072, true, true, false, 0 },
    { 1, 21, 4864, false, true, false, 0 },
};

static bool is_block(enum dtype dtype)
{
    return dtype_infos[dtype].block_elems > 1;
}

/* What the CPU's rounding of activations leaves for the oracle to multiply. */
static void as_cpu_sees(const struct rig *rig, struct matmul_args *args, float *x,
                        const float *norm_weight, enum dtype dtype)
{
    int n_col = args->weight[0]->n_col;
    if (!rig->is_cpu || !is_block(dtype))
        return;
    if (norm_weight) {
        struct rms_norm_args norm = { .out = x, .x = x, .weight = norm_weight,
                                      .n_row = args->n_row, .dim = n_col, .out_stride = n_col,
                                      .x_stride = n_col, .eps = args->norm_eps };
        ref_rms_norm(&norm);
        args->norm_weight = NULL;
    }
    for (int r = 0; r < args->n_row; r++)
        ref_round_activations(x + r * n_col, n_col);
}

/* How large the sum of a lone output's products would be, were their signs random. */
static double products_size(const struct matmul_args *ref, int row)
{
    int n_col = ref->weight[0]->n_col;
    const float *from = (const float *)ref->x + row * ref->x_stride;
    float *x = malloc((size_t)n_col * 4), *w = malloc((size_t)n_col * 4);
    double square = 0;
    struct rms_norm_args norm = { .out = x, .x = from, .weight = ref->norm_weight, .n_row = 1,
                                  .dim = n_col, .out_stride = n_col, .x_stride = n_col,
                                  .eps = ref->norm_eps };
    memcpy(x, from, (size_t)n_col * 4);
    if (ref->norm_weight)
        ref_rms_norm(&norm);
    ref_dequantize(ref->weight[0]->dtype, ref->weight[0]->data, n_col, w);
    for (int k = 0; k < n_col; k++)
        square += pow((double)x[k] * (double)w[k], 2);
    free(x), free(w);
    return sqrt(square);
}

static void check_shape(struct rig *rig, enum dtype dtype, const struct shape *s,
                        bool deterministic)
{
    uint64_t seed = 77 + (uint64_t)dtype;
    int stride = s->n_out + 3, n_col = s->n_col;
    struct weight file = random_weight(&seed, dtype, s->n_out, n_col, 0.1f), w;
    size_t n_x = (size_t)s->n_row * (size_t)n_col, n_out = (size_t)s->n_row * (size_t)stride;
    float *x = random_floats(&seed, n_x, 97), *out = random_floats(&seed, n_out, 0);
    float *bias = random_floats(&seed, (size_t)s->n_out, 0), *got = nan_floats(n_out);
    float *norm_weight = random_floats(&seed, (size_t)n_col, 0);

    if (!rig_put_weight(rig, &file, &w))
        goto out;
    for (size_t i = 96; s->outlier != 0.0f && i < n_x; i += 97)
        x[i] = copysignf(s->outlier, x[i]);
    for (int i = 0; s->outlier != 0.0f && i < n_col; i++)
        norm_weight[i] += copysignf(8.0f, norm_weight[i]);
    rig_round(rig, x, n_x);
    rig_round(rig, out, n_out);
    struct matmul_args args = { .x_stride = n_col, .n_row = s->n_row, .n_weight = 1,
                                .weight = { &w }, .out_stride = { stride }, .norm_eps = 1e-5f,
                                .add = s->add, .deterministic = deterministic, .next = { &w } };
    struct matmul_args ref = args;
    args.x = rig_put_act(rig, x, n_x);
    args.out[0] = rig_put_act(rig, s->add ? out : NULL, n_out);
    args.bias[0] = s->bias ? rig_put(rig, bias, (size_t)s->n_out * 4) : NULL;
    args.norm_weight = s->norm ? rig_put(rig, norm_weight, (size_t)n_col * 4) : NULL;
    assert_ok(rig->ops->matmul(rig->st, &args));
    rig_get_act(rig, args.out[0], got, n_out);

    ref.weight[0] = &file;
    ref.x = x;
    ref.out[0] = out;
    ref.bias[0] = s->bias ? bias : NULL;
    ref.norm_weight = s->norm ? norm_weight : NULL;
    as_cpu_sees(rig, &ref, x, ref.norm_weight, dtype);
    ref_matmul(&ref);
    for (int r = 0; r < s->n_row; r++) {
        double error = max_error(got + r * stride, out + r * stride, (size_t)s->n_out);
        /* quantised rows: a value halfway between two steps may fall to either side */
        double bound = rig_bound(rig, is_block(dtype) && s->norm ? 5e-3 : 3e-5, 8);
        if (s->n_out == 1 && !rig->is_cpu) /* it may be small and its parts large */
            error *= fmin(1, (double)fabsf(out[r * stride]) / products_size(&ref, r));
        if (!(error < bound))
            fail_msg("%s: %s %dx%dx%d, %d, row %d: error %g", rig->name, dtype_name(dtype),
                     s->n_row, s->n_out, n_col, deterministic, r, error);
        for (int k = s->n_out; !s->add && k < stride; k++)
            assert_true(isnan(got[r * stride + k])); /* nothing beside the matrix is touched */
    }
out:
    rig_reset(rig);
    free(file.data), free(x), free(out), free(bias), free(got), free(norm_weight);
}

/* The CPU has one way for both. */
static void check_both(struct rig *rig, enum dtype dtype, const struct shape *s)
{
    check_shape(rig, dtype, s, true);
    if (!rig->is_cpu)
        check_shape(rig, dtype, s, false);
}

/* Types that are loaded alike meet the same kernels. */
static bool is_left_out(enum dtype dtype)
{
    return rig_small() && dtype != DTYPE_BF16 && dtype != DTYPE_Q8_0;
}

static void check_types(struct rig *rig)
{
    for (int t = 0; t < N_TYPE; t++)
        for (size_t i = 0; i < ARRAY_SIZE(shapes) && !is_left_out(types[t]); i++)
            check_both(rig, types[t], &shapes[i]);
}

TEST(matmul_of_every_type_meets_the_oracle)
{
    assert_true(rig_each(check_types) > 0);
}

/* 32 columns are the least of the small block types; plain types take any width. */
static void check_odd_widths(struct rig *rig)
{
    for (int t = 0; t < N_TYPE; t++) {
        int n_col = is_block(types[t]) ? dtype_infos[types[t]].block_elems : 37;
        struct shape shape = { 5, 19, n_col, true, false, false, 0 };
        if (is_left_out(types[t]))
            continue;
        check_both(rig, types[t], &shape);
        shape.n_row = 1;
        shape.n_out = 1;
        check_both(rig, types[t], &shape);
    }
}

TEST(matmul_takes_odd_widths_and_single_outputs)
{
    rig_each(check_odd_widths);
}

/* A row times its norm weights is beyond f16 here; normalised it is not. */
static void check_large_rows(struct rig *rig)
{
    static const int rows[] = { 1, 2, 3, 8, 9, 16, 17, 40 };
    for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
        struct shape shape = { rows[i], 67, 512, true, false, false, 2e4f };
        check_both(rig, DTYPE_F16, &shape);
    }
}

TEST(matmul_normalises_rows_as_large_as_f16_can_hold)
{
    rig_each(check_large_rows);
}

/*
 * More than shared memory holds or few, outputs enough for two tiles a block, ragged ends; with a
 * norm, slices that a warp stages in two pieces, in part or not at all.
 */
static void check_long_rows(struct rig *rig)
{
    static const struct shape long_rows[] = { { 16, 2201, 5768, false, true, true, 0 },
                                              { 7, 2137, 13144, true, false, false, 0 },
                                              { 11, 2180, 1000, false, true, true, 0 },
                                              { 13, 2150, 4872, true, false, false, 0 },
                                              { 6, 2150, 2312, true, false, true, 0 } };
    for (size_t i = 0; i < ARRAY_SIZE(long_rows) && !rig->is_cpu && !rig_small(); i++)
        check_shape(rig, DTYPE_BF16, &long_rows[i], false);
}

TEST(matmul_takes_several_rows_that_are_long)
{
    rig_each(check_long_rows);
}

static void run_rows(struct rig *rig, const struct weight *w, const float *x, int n_row, float *out)
{
    struct matmul_args args = { .x = rig_put_act(rig, x, (size_t)n_row * (size_t)w->n_col),
                                .x_stride = w->n_col, .n_row = n_row, .n_weight = 1,
                                .weight = { w }, .out_stride = { w->n_row },
                                .deterministic = true };
    size_t n = (size_t)n_row * (size_t)w->n_row;
    args.out[0] = rig_put_act(rig, NULL, n);
    assert_ok(rig->ops->matmul(rig->st, &args));
    rig_get_act(rig, args.out[0], out, n);
}

TEST(matmul_row_has_the_same_bits_in_any_batch_at_any_level_and_thread_count)
{
    static const char *const levels[] = { "plain", "avx2", "avx512-vnni" };
    enum { N_ROW = 41, N_OUT = 83, N_COL = 768 };
    static float first[N_ROW * N_OUT], other[N_ROW * N_OUT];
    uint64_t seed = 5;
    float *x = random_floats(&seed, N_ROW * N_COL, 31);

    for (int t = 0; t < N_TYPE; t++) {
        struct weight file = random_weight(&seed, types[t], N_OUT, N_COL, 0.1f), w;
        bool have_first = false;
        for (int level = 0; level < 3; level++)
            for (int n_thread = 1; n_thread <= 4; n_thread += 3) {
                struct rig rig;
                if (!cpu_isa_find(levels[level]))
                    continue;
                rig_open_cpu(&rig, levels[level], n_thread);
                assert_true(rig_put_weight(&rig, &file, &w));
                run_rows(&rig, &w, x, N_ROW, have_first ? other : first);
                if (have_first)
                    assert_memory_equal(first, other, sizeof(first));
                have_first = true;
                for (int r = 0; r < N_ROW; r += 13) {
                    run_rows(&rig, &w, x + r * N_COL, 1, other);
                    assert_memory_equal(first + r * N_OUT, other, N_OUT * sizeof(float));
                }
                rig_close(&rig);
            }
        free(file.data);
    }
    free(x);
}

/* Widths that a backend's usual way takes, and what is ragged or too long for it. */
static void check_batches(struct rig *rig)
{
    enum { N_ROW = 34, N_OUT = 83, N_COL_MAX = 33000 };
    static const int widths[] = { 768, 700, N_COL_MAX }, batches[] = { 1, 2, 9, 17 };
    static float all[N_ROW * N_OUT], some[N_ROW * N_OUT];
    for (size_t i = 0; i < ARRAY_SIZE(widths); i++) {
        if ((rig->is_cpu || rig_small()) && widths[i] > rig_limits.dim_max)
            continue; /* the CPU's scratch follows the limits, a GPU's product needs none */
        uint64_t seed = 6;
        size_t n_col = (size_t)widths[i];
        struct weight file = random_weight(&seed, DTYPE_BF16, N_OUT, widths[i], 0.1f), w;
        float *x = random_floats(&seed, N_ROW * n_col, 31);
        assert_true(rig_put_weight(rig, &file, &w));
        run_rows(rig, &w, x, N_ROW, all);
        for (size_t b = 0; b < ARRAY_SIZE(batches); b++) {
            size_t from = (size_t)(N_ROW - batches[b]);
            run_rows(rig, &w, x + from * n_col, batches[b], some);
            assert_memory_equal(all + from * N_OUT, some,
                                (size_t)batches[b] * N_OUT * sizeof(float));
        }
        rig_reset(rig);
        free(x);
        free(file.data);
    }
}

TEST(matmul_row_of_any_width_has_the_same_bits_in_any_batch)
{
    rig_each(check_batches);
}

TEST(matmul_shows_a_nan_or_infinity_of_its_input)
{
    for (int t = 0; t < N_TYPE; t++)
        for (int bad = 0; bad < 2; bad++) {
            struct rig rig;
            uint64_t seed = 9;
            struct weight file = random_weight(&seed, types[t], 20, 256, 0.1f), w;
            float *x = random_floats(&seed, 256, 0), out[20];
            x[200] = bad ? INFINITY : NAN;
            rig_open_cpu(&rig, NULL, 1);
            assert_true(rig_put_weight(&rig, &file, &w));
            run_rows(&rig, &w, x, 1, out);
            for (int i = 0; i < 20; i++)
                assert_false(isfinite(out[i]));
            rig_close(&rig);
            free(x);
            free(file.data);
        }
}

struct ffn_case {
    int n_row, dim, ffn;
    bool fused, deterministic, gpu_only;
};

static void check_ffn_case(struct rig *rig, const struct ffn_case *c)
{
    uint64_t seed = 3;
    struct weight file = random_weight(&seed, DTYPE_F16, 2 * c->ffn, c->dim, 0.1f), gate, up;
    struct weight file_gate = file, file_up = file;
    size_t n = (size_t)c->n_row * (size_t)c->ffn, n_x = (size_t)c->n_row * (size_t)c->dim;
    float *x = random_floats(&seed, n_x, 50), *got = nan_floats(n);
    float *norm = random_floats(&seed, (size_t)c->dim, 0), *want = nan_floats(n);
    file_gate.n_row = file_up.n_row = c->ffn;
    file_up.data = (char *)file.data + c->ffn * c->dim * 2;
    rig_round(rig, x, n_x);
    assert_true(rig_put_weight(rig, c->fused ? &file : &file_gate, &gate));
    assert_true(rig_put_weight(rig, &file_up, &up));
    struct ffn_in_args args = { .gate = &gate, .up = c->fused ? NULL : &up, .n_row = c->n_row,
                                .norm_eps = 1e-5f, .deterministic = c->deterministic,
                                .next = { &gate, &up } };
    struct ffn_in_args ref = args;
    args.x = rig_put_act(rig, x, n_x);
    args.norm_weight = rig_put(rig, norm, (size_t)c->dim * 4);
    args.out = rig_put_act(rig, NULL, n);
    assert_ok(rig->ops->ffn_in(rig->st, &args));
    rig_get_act(rig, args.out, got, n);
    ref.gate = &file_gate;
    ref.up = &file_up;
    ref.x = x;
    ref.norm_weight = norm;
    ref.out = want;
    ref_ffn_in(&ref);
    double error = max_error(got, want, n); /* the largest of a million roundings is larger */
    if (!(error < rig_bound(rig, 1e-4, n > 1 << 19 ? 26 : 13)))
        fail_msg("%s: %d rows, %d by %d, fused %d, deterministic %d: error %g", rig->name,
                 c->n_row, c->dim, c->ffn, c->fused, c->deterministic, error);
    rig_reset(rig);
    free(file.data), free(x), free(got), free(norm), free(want);
}

/* A row, a few, more than the skinny kernels take, and tiles of many rows with ragged ends. */
static void check_ffn_in(struct rig *rig)
{
    static const struct ffn_case cases[] = {
        { 1, 256, 96, false, true, false },   { 1, 256, 96, true, false, false },
        { 2, 256, 96, false, false, true },   { 9, 256, 96, true, false, true },
        { 19, 256, 96, true, true, false },   { 19, 256, 96, false, false, false },
        { 37, 256, 96, false, true, false },  { 37, 256, 96, true, false, false },
        { 200, 256, 96, false, false, true }, { 1025, 72, 1032, false, false, true },
        { 1100, 64, 1112, true, false, true }, { 1300, 40, 1024, true, false, true },
    };
    for (size_t i = 0; rig->ops->ffn_in && i < ARRAY_SIZE(cases); i++)
        if (!(cases[i].gpu_only && rig->is_cpu) && !(rig_small() && cases[i].n_row > 1025))
            check_ffn_case(rig, &cases[i]);
}

TEST(ffn_in_meets_the_oracle_with_one_weight_or_two)
{
    rig_each(check_ffn_in);
}

static void check_logits_type(struct rig *rig, enum dtype dtype, bool deterministic)
{
    enum { DIM = 256, VOCAB = 1000, ROWS = 9, SAMPLES = 4 };
    static const int32_t rows[SAMPLES] = { 8, 0, 3, 3 };
    uint64_t seed = 4;
    struct weight file = random_weight(&seed, dtype, VOCAB, DIM, 0.5f), w;
    float *x = random_floats(&seed, ROWS * DIM, 60), *norm = random_floats(&seed, DIM, 0);
    float *got = nan_floats(SAMPLES * VOCAB), *want = nan_floats(SAMPLES * VOCAB);

    if (!rig_put_weight(rig, &file, &w))
        goto out;
    rig_round(rig, x, ROWS * DIM);
    struct logits_args args = { .x = rig_put_act(rig, x, ROWS * DIM), .x_stride = DIM,
                                .row = rig_put(rig, rows, sizeof(rows)), .n_sample = SAMPLES,
                                .norm_weight = rig_put(rig, norm, DIM * 4), .norm_eps = 1e-5f,
                                .lm_head = &w, .scale = 0.5f, .deterministic = deterministic,
                                .next = { &w } };
    struct logits_args ref = args;
    args.out = rig_put(rig, NULL, SAMPLES * VOCAB * 4);
    assert_ok(rig->ops->logits(rig->st, &args));
    rig_get(rig, args.out, got, SAMPLES * VOCAB * 4);
    ref.x = x;
    ref.row = rows;
    ref.norm_weight = norm;
    ref.lm_head = &file;
    ref.out = want;
    ref_logits(&ref);
    /* Outliers of 50 in blocks of ones: 16 bits of activations leave 1e-4, 8 would leave 1e-2. */
    double bound = rig_bound(rig, is_block(dtype) ? 4e-4 : 3e-5, 8);
    double error = max_error(got, want, SAMPLES * VOCAB);
    if (!(error < bound))
        fail_msg("%s: logits of %s: error %g", rig->name, dtype_name(dtype), error);
out:
    rig_reset(rig);
    free(file.data), free(x), free(norm), free(got), free(want);
}

static void check_logits(struct rig *rig)
{
    for (int t = 0; t < 2 * N_TYPE; t++)
        if (t < N_TYPE || !rig->is_cpu)
            if (!is_left_out(types[t % N_TYPE]))
                check_logits_type(rig, types[t % N_TYPE], t < N_TYPE);
}

TEST(logits_are_of_the_chosen_rows)
{
    rig_each(check_logits);
}

static void check_embed(struct rig *rig)
{
    enum { VOCAB = 77, DIM = 512 };
    static const int32_t token[] = { 0, 76, -1, 15, 16, -2 }, prev[] = { 33, 2 };
    enum { N = sizeof(token) / sizeof(token[0]) };
    static float got[N * DIM], want[N * DIM];

    for (int t = 0; t < N_TYPE; t++) {
        uint64_t seed = 6;
        struct weight file = random_weight(&seed, types[t], VOCAB, DIM, 2.0f), w;
        if (rig_put_weight(rig, &file, &w)) {
            struct embed_args args = { .table = &w, .token = rig_put(rig, token, sizeof(token)),
                                       .prev_sampled = rig_put(rig, prev, sizeof(prev)),
                                       .n_row = N, .scale = 3.0f };
            struct embed_args ref = { .out = want, .table = &file, .token = token,
                                      .prev_sampled = prev, .n_row = N, .scale = 3.0f };
            args.out = rig_put_act(rig, NULL, N * DIM);
            assert_ok(rig->ops->embed(rig->st, &args));
            rig_get_act(rig, args.out, got, N * DIM);
            ref_embed(&ref);
            assert_true(max_error(got, want, N * DIM) < rig_bound(rig, 1e-6, 8));
        }
        rig_reset(rig);
        free(file.data);
    }
}

TEST(embed_reads_rows_of_every_type_and_ids_of_the_step_before)
{
    rig_each(check_embed);
}
