/* RMS norm and SwiGLU. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/ref.h"
#include "tests/harness/harness.h"
#include "tests/kernels/rig.h"

static const int dims[] = { 1, 2, 15, 16, 17, 64, 576, 577, 1536, 2048 };

static void check_rows(struct rig *rig, int n_row, int dim, int stride)
{
    uint64_t seed = 20 + (uint64_t)dim;
    size_t n = (size_t)n_row * (size_t)stride;
    float *x = random_floats(&seed, n, 100), *weight = random_floats(&seed, (size_t)dim, 0);
    float *got = nan_floats(n), *want = nan_floats(n);
    rig_round(rig, x, n);
    struct rms_norm_args args = { .n_row = n_row, .dim = dim, .out_stride = stride,
                                  .x_stride = stride, .eps = 1e-6f };
    struct rms_norm_args ref = args;
    args.x = rig_put_act(rig, x, n);
    args.out = rig_put_act(rig, NULL, n);
    args.weight = rig_put(rig, weight, (size_t)dim * 4);
    assert_ok(rig->ops->rms_norm(rig->st, &args));
    rig_get_act(rig, args.out, got, n);
    ref.x = x;
    ref.out = want;
    ref.weight = weight;
    ref_rms_norm(&ref);
    for (int r = 0; r < n_row; r++) {
        assert_true(max_error(got + r * stride, want + r * stride, (size_t)dim) <
                    rig_bound(rig, 1e-5, 12));
        for (int k = dim; k < stride; k++)
            assert_true(isnan(got[r * stride + k]));
    }
    rig_reset(rig);
    free(x), free(weight), free(got), free(want);
}

/* Unaligned rows; aligned ones too, and more of them than a device takes at once. */
static void check_norm(struct rig *rig)
{
    static const int wide[] = { 64, 2048, 2056, 4096, 4104, 8192 };
    for (size_t i = 0; i < sizeof(dims) / sizeof(dims[0]); i++)
        check_rows(rig, 6, dims[i], dims[i] + 5);
    for (size_t i = 0; i < sizeof(wide) / sizeof(wide[0]); i++)
        check_rows(rig, rig->is_cpu || rig_small() ? 6 : 1500, wide[i], wide[i] + 8);
}

TEST(rms_norm_meets_the_oracle)
{
    assert_true(rig_each(check_norm) > 0);
}

static void check_swiglu(struct rig *rig)
{
    for (size_t i = 0; i < sizeof(dims) / sizeof(dims[0]); i++) {
        uint64_t seed = 30 + i;
        int dim = dims[i], n_row = 4, stride = 2 * dim;
        size_t n = (size_t)n_row * (size_t)dim;
        float *x = random_floats(&seed, 2 * n, 11), *got = nan_floats(n), *want = nan_floats(n);
        for (size_t k = 0; k < 2 * n; k += 7)
            x[k] *= 20.0f; /* where e^-x leaves f32 */
        rig_round(rig, x, 2 * n);
        struct swiglu_args args = { .out_stride = dim, .stride = stride, .n_row = n_row,
                                    .dim = dim };
        struct swiglu_args ref = args;
        args.gate = rig_put_act(rig, x, 2 * n);
        args.up = (const char *)args.gate + dtype_bytes(rig->act, dim);
        args.out = rig_put_act(rig, NULL, n);
        assert_ok(rig->ops->swiglu(rig->st, &args));
        rig_get_act(rig, args.out, got, n);
        ref.gate = x;
        ref.up = x + dim;
        ref.out = want;
        ref_swiglu(&ref);
        for (size_t k = 0; k < n; k++)
            if (rig->act == DTYPE_F16 && fabsf(want[k]) > 65519.0f)
                assert_true(got[k] == copysignf(INFINITY, want[k])); /* never cut off in silence */
            else
                assert_close(got[k], want[k], 1e-6, rig_bound(rig, 2e-6, 2.5));
        rig_reset(rig);
        free(x), free(got), free(want);
    }
}

TEST(swiglu_meets_the_oracle)
{
    rig_each(check_swiglu);
}
