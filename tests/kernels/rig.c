#include "tests/kernels/rig.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cpu/cpu.h"
#include "kernels/cpu/ref.h"
#include "tests/harness/harness.h"

const struct op_limits rig_limits = {
    .rows_max = 1300,
    .seqs_max = 128,
    .samples_max = 64,
    .dim_max = 4864,
    .out_max = 4096,
    .vocab = 50000,
    .n_head = 16,
    .n_kv_head = 16,
    .head_dim = 256,
    .context_max = 1024,
};

static void open_on(struct rig *rig, const struct backend *backend,
                    const struct kernel_ops *ops, const struct device_options *options)
{
    char err[256] = "";
    if (backend->device->open(options, &rig->dev, err, sizeof(err)) != 0)
        fail_msg("%s: %s", rig->name, err);
    rig->backend = backend;
    rig->ops = ops;
    rig->act = ops->act_dtype;
    assert_ok(backend->device->stream_open(rig->dev, &rig_limits, &rig->st));
}

void rig_open_cpu(struct rig *rig, const char *isa, int n_thread)
{
    char err[256];
    const struct backend *backend;
    struct device_options options = { .n_thread = n_thread };

    *rig = (struct rig){ .is_cpu = true };
    snprintf(rig->name, sizeof(rig->name), "cpu %s, %d threads", isa ? isa : "best", n_thread);
    assert_ok(backend_find("cpu", &backend, err, sizeof(err)));
    setenv("RINGLET_CPU_ISA", isa ? isa : "", 1);
    open_on(rig, backend, backend->ops, &options);
    unsetenv("RINGLET_CPU_ISA");
}

bool rig_small(void)
{
    return getenv("RINGLET_TEST_SMALL") != NULL;
}

int rig_each(void (*fn)(struct rig *rig))
{
    static const char *const levels[] = { "plain", "avx2", "avx512-vnni" };
    static const int threads[] = { 1, 3 };
    const struct backend *cuda;
    struct rig rig;
    char err[256];
    int n = 0;

    for (int i = 0; i < 3 && !rig_small(); i++)
        for (int j = 0; cpu_isa_find(levels[i]) && j < 2; j++, n++) {
            rig_open_cpu(&rig, levels[i], threads[j]);
            fn(&rig);
            rig_close(&rig);
        }
    bool found = backend_find("cuda", &cuda, err, sizeof(err)) == 0;
    if (!found || cuda->device->count() == 0) {
        const char *device = getenv("RINGLET_TEST_DEVICE");
        if (device && strcmp(device, "cuda") == 0)
            fail_msg("RINGLET_TEST_DEVICE is cuda: %s", found ? "no GPU is visible" : err);
        return n;
    }
    harness_allow_descriptors();
    for (int i = 0; i < 2; i++, n++) {
        const struct kernel_ops *ops = i ? cuda->ops_f16 : cuda->ops;
        rig = (struct rig){ 0 };
        snprintf(rig.name, sizeof(rig.name), "cuda %s", dtype_name(ops->act_dtype));
        open_on(&rig, cuda, ops, &(struct device_options){ 0 });
        fn(&rig);
        rig_close(&rig);
    }
    return n;
}

double rig_bound(const struct rig *rig, double cpu, double roundings)
{
    if (rig->is_cpu)
        return cpu;
    return roundings * (rig->act == DTYPE_F16 ? 0x1p-11 : 0x1p-8);
}

void rig_reset(struct rig *rig)
{
    while (rig->n_taken)
        rig->backend->device->free(rig->dev, rig->taken[--rig->n_taken]);
}

void rig_close(struct rig *rig)
{
    rig_reset(rig);
    rig->backend->device->stream_close(rig->st);
    rig->backend->device->close(rig->dev);
}

void *rig_put(struct rig *rig, const void *src, size_t bytes)
{
    void *p = rig->backend->device->alloc(rig->dev, bytes + 64);
    assert_non_null(p);
    assert_true(rig->n_taken < 64);
    rig->taken[rig->n_taken++] = p;
    if (src)
        assert_ok(rig->backend->device->copy_in(rig->st, p, src, bytes));
    else
        assert_ok(rig->backend->device->fill(rig->st, p, 0xff, bytes));
    assert_ok(rig->backend->device->stream_sync(rig->st));
    return p;
}

void rig_get(struct rig *rig, const void *device, void *dst, size_t bytes)
{
    assert_ok(rig->backend->device->copy_out(rig->st, dst, device, bytes));
    assert_ok(rig->backend->device->stream_sync(rig->st));
}

void *rig_put_act(struct rig *rig, const float *src, size_t n)
{
    size_t bytes = (size_t)dtype_bytes(rig->act, (int64_t)n);
    if (!src)
        return rig_put(rig, NULL, bytes);
    void *packed = malloc(bytes);
    ref_quantize(rig->act, src, (int)n, packed);
    void *p = rig_put(rig, packed, bytes);
    free(packed);
    return p;
}

void rig_get_act(struct rig *rig, const void *device, float *dst, size_t n)
{
    size_t bytes = (size_t)dtype_bytes(rig->act, (int64_t)n);
    void *packed = malloc(bytes);
    rig_get(rig, device, packed, bytes);
    ref_dequantize(rig->act, packed, (int)n, dst);
    free(packed);
}

void rig_round(const struct rig *rig, float *x, size_t n)
{
    void *packed = malloc((size_t)dtype_bytes(rig->act, (int64_t)n));
    ref_quantize(rig->act, x, (int)n, packed);
    ref_dequantize(rig->act, packed, (int)n, x);
    free(packed);
}

bool rig_put_weight(struct rig *rig, const struct weight *file, struct weight *ret)
{
    int64_t bytes, row_bytes = dtype_bytes(file->dtype, file->n_col);
    *ret = *file;
    if (rig->ops->weight_layout(rig->dev, file->dtype, file->n_row, file->n_col, &bytes,
                                &ret->layout) != 0)
        return false;
    ret->bytes = bytes;
    ret->data = rig_put(rig, NULL, (size_t)(bytes ? bytes : row_bytes * file->n_row));
    rig->backend->device->fill(rig->st, ret->data, 0, (size_t)bytes);
    for (int first = 0; first < file->n_row; first += 64) {
        int n = file->n_row - first < 64 ? file->n_row - first : 64;
        assert_ok(rig->ops->weight_load(rig->st, ret, first, n,
                                        (char *)file->data + first * row_bytes, row_bytes));
    }
    return true;
}

/* A half float of size about scale, random sign if it may be negative. */
static void put_half(uint64_t *seed, uint8_t *at, float scale)
{
    float f = scale * (float)harness_uniform(seed, 0.5, 1.0);
    ref_quantize(DTYPE_F16, &f, 1, at);
}

struct weight random_weight(uint64_t *seed, enum dtype dtype, int n_row, int n_col, float scale)
{
    const struct dtype_info *info = &dtype_infos[dtype];
    struct weight w = { .dtype = dtype, .n_row = n_row, .n_col = n_col };
    w.bytes = dtype_bytes(dtype, n_col) * n_row;
    uint8_t *p = malloc((size_t)w.bytes);
    w.data = p;
    if (info->block_elems == 1) {
        for (int64_t i = 0; i < (int64_t)n_row * n_col; i++) {
            float f = scale * (float)harness_uniform(seed, -1.0, 1.0);
            ref_quantize(dtype, &f, 1, p + i * info->block_bytes);
        }
        return w;
    }
    for (int64_t i = 0; i < w.bytes; i++)
        p[i] = (uint8_t)harness_rand(seed);
    for (int64_t at = 0; at < w.bytes; at += info->block_bytes) {
        if (dtype == DTYPE_Q6_K) {
            put_half(seed, p + at + 208, scale / (32 * 64));
            continue;
        }
        float steps = dtype == DTYPE_Q8_0 ? 127.0f : dtype == DTYPE_Q4_K ? 512.0f : 16.0f;
        put_half(seed, p + at, dtype == DTYPE_Q5_K ? scale / 1024 : scale / steps);
        if (dtype == DTYPE_Q4_1 || dtype == DTYPE_Q5_1 || dtype == DTYPE_Q4_K ||
            dtype == DTYPE_Q5_K)
            put_half(seed, p + at + 2, dtype == DTYPE_Q4_1 || dtype == DTYPE_Q5_1 ? scale
                                                                                  : scale / 64);
        if (dtype == DTYPE_Q4_1 || dtype == DTYPE_Q5_1)
            p[at + 3] ^= 0x80; /* minimum below zero */
    }
    return w;
}

float *random_floats(uint64_t *seed, size_t n, int outlier_every)
{
    float *x = malloc((n + 16) * sizeof(*x));
    for (size_t i = 0; i < n; i++) {
        x[i] = (float)harness_uniform(seed, -1.0, 1.0);
        if (outlier_every && i % (size_t)outlier_every == (size_t)outlier_every - 1)
            x[i] *= 50.0f;
    }
    return x;
}

float *nan_floats(size_t n)
{
    float *x = malloc((n + 16) * sizeof(*x));
    memset(x, 0xff, (n + 16) * sizeof(*x));
    return x;
}

double max_error(const float *a, const float *b, size_t n)
{
    double most = 0.0, square = 0.0;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(a[i]) || !isfinite(b[i]))
            return INFINITY;
        square += (double)b[i] * (double)b[i];
    }
    double scale = n && square > 0.0 ? sqrt(square / (double)n) : 1.0;
    for (size_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)a[i] - (double)b[i]) / fmax(scale, fabs((double)b[i])));
    return most;
}
