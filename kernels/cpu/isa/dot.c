/*
 * Sixteen weight rows against up to DOT_ROWS_MAX token rows. One lane is one weight row; the sum
 * over K has one order: exact integers inside a block of 32, then one fused multiply-add per block.
 * So the bits of a result depend on nothing but its two rows.
 */
#include "kernels/cpu/isa/isa_fns.h"
#include "kernels/cpu/quant.h"

static always_inline v16 load_scale(const uint8_t *p, int scale_bytes)
{
    if (scale_bytes == 2)
        return v16_load_f16((const uint16_t *)(const void *)p);
    return v16_load((const float *)(const void *)p);
}

struct xq_row {
    const int8_t *q;
    const float *scale, *scaled_sum;
    const int32_t *sum;
};

/* What is constant in one instance of the block kernel. */
struct format {
    int bits, n_half, scale_bytes;
    bool has_min, wide;
};

static always_inline b64 quad_of(const uint8_t *quants, int quad, int bits)
{
    if (bits == 8)
        return b64_load(quants + 64 * quad);
    b64 pair = b64_load(quants + 64 * (quad & 3));
    return quad < 4 ? b64_low(pair) : b64_high(pair);
}

static always_inline void dot_blocks(const struct packed *w, const uint8_t *block,
                                     const struct xq_row *x, float *out, const int n,
                                     const struct format f)
{
    const int scales_bytes = LANES * f.scale_bytes;
    const int quants_at = scales_bytes * (f.n_half + f.has_min);
    const int block_bytes = quants_at + LANES * XQ_BLOCK * f.bits / 8;
    const int n_block = w->n_col / XQ_BLOCK, zero = w->zero;
    v16 acc[TILE_ROWS];

    for (int t = 0; t < n; t++)
        acc[t] = v16_set1(0.0f);
    for (int b = 0; b < n_block; b++, block += block_bytes) {
        for (int half = 0; half < f.n_half; half++) {
            const int quads = 8 / f.n_half;
            n16 sum[TILE_ROWS];
            for (int t = 0; t < n; t++)
                sum[t] = n16_start(zero, f.n_half == 2 ? x[t].sum[2 * b + half]
                                                       : x[t].sum[2 * b] + x[t].sum[2 * b + 1],
                                   f.wide);
            for (int quad = half * quads; quad < (half + 1) * quads; quad++) {
                b64 q = quad_of(block + quants_at, quad, f.bits);
                for (int t = 0; t < n; t++)
                    sum[t] = n16_dot(sum[t], q, x[t].q + XQ_BLOCK * b + 4 * quad, f.wide);
            }
            v16 scale = load_scale(block + half * scales_bytes, f.scale_bytes);
            for (int t = 0; t < n; t++)
                acc[t] = v16_fma(v16_mul(scale, v16_set1(x[t].scale[b])), v16_from_n16(sum[t]),
                                 acc[t]);
        }
        if (f.has_min) {
            v16 min = load_scale(block + f.n_half * scales_bytes, f.scale_bytes);
            for (int t = 0; t < n; t++)
                acc[t] = v16_fma(min, v16_set1(x[t].scaled_sum[b]), acc[t]);
        }
    }
    for (int t = 0; t < n; t++)
        v16_store(out + LANES * t, acc[t]);
}

static always_inline void dot_tiles(const struct packed *w, const uint8_t *data,
                                    const void *const *x, int n_row, float *out,
                                    const struct format f)
{
    int n_block = w->n_col / XQ_BLOCK;
    for (int i = 0; i < n_row;) {
        struct xq_row rows[TILE_ROWS];
        int n = min_of(n_row - i, TILE_ROWS);
        n = n == 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
        for (int t = 0; t < n; t++) {
            const char *base = x[i + t];
            const float *scale = (const float *)(const void *)(base + w->n_col);
            rows[t] = (struct xq_row){ (const int8_t *)base, scale, scale + n_block,
                                       (const int32_t *)(const void *)(scale + 2 * n_block) };
        }
        float *at = out + LANES * i;
        if (n == 8)
            dot_blocks(w, data, rows, at, min_of(8, TILE_ROWS), f);
        else if (n == 4)
            dot_blocks(w, data, rows, at, 4, f);
        else if (n == 2)
            dot_blocks(w, data, rows, at, 2, f);
        else
            dot_blocks(w, data, rows, at, 1, f);
        i += n;
    }
}

static always_inline v16 load_plain(const uint8_t *p, enum dtype dtype)
{
    if (dtype == DTYPE_F32)
        return v16_load((const float *)(const void *)p);
    if (dtype == DTYPE_F16)
        return v16_load_f16((const uint16_t *)(const void *)p);
    return v16_load_bf16((const uint16_t *)(const void *)p);
}

static always_inline void dot_floats(const struct packed *w, const uint8_t *data,
                                    const float *const *x, float *out, const int n,
                                    const enum dtype dtype)
{
    v16 acc[TILE_ROWS];
    for (int t = 0; t < n; t++)
        acc[t] = v16_set1(0.0f);
    for (int k = 0; k < w->n_col; k++, data += dtype == DTYPE_F32 ? 64 : 32) {
        v16 q = load_plain(data, dtype);
        for (int t = 0; t < n; t++)
            acc[t] = v16_fma(q, v16_set1(x[t][k]), acc[t]);
    }
    for (int t = 0; t < n; t++)
        v16_store(out + LANES * t, acc[t]);
}

static always_inline void float_tiles(const struct packed *w, const uint8_t *data,
                                      const void *const *x, int n_row, float *out,
                                      const enum dtype dtype)
{
    for (int i = 0; i < n_row;) {
        const float *rows[TILE_ROWS];
        int n = min_of(n_row - i, TILE_ROWS);
        n = n == 8 ? 8 : n >= 4 ? 4 : n >= 2 ? 2 : 1;
        for (int t = 0; t < n; t++)
            rows[t] = x[i + t];
        float *at = out + LANES * i;
        if (n == 8)
            dot_floats(w, data, rows, at, min_of(8, TILE_ROWS), dtype);
        else if (n == 4)
            dot_floats(w, data, rows, at, 4, dtype);
        else if (n == 2)
            dot_floats(w, data, rows, at, 2, dtype);
        else
            dot_floats(w, data, rows, at, 1, dtype);
        i += n;
    }
}

void ISA_FN(dot)(const struct packed *w, int group, const void *const *x, int n_row, float *out)
{
    const uint8_t *data = w->data + group * w->group_bytes;

    switch (w->dtype) {
    case DTYPE_F32:
        float_tiles(w, data, x, n_row, out, DTYPE_F32);
        break;
    case DTYPE_F16:
        float_tiles(w, data, x, n_row, out, DTYPE_F16);
        break;
    case DTYPE_BF16:
        float_tiles(w, data, x, n_row, out, DTYPE_BF16);
        break;
    case DTYPE_Q4_0:
        dot_tiles(w, data, x, n_row, out, (struct format){ 4, 1, 2, false, false });
        break;
    case DTYPE_Q4_1:
        dot_tiles(w, data, x, n_row, out, (struct format){ 4, 1, 2, true, false });
        break;
    case DTYPE_Q4_K:
        dot_tiles(w, data, x, n_row, out, (struct format){ 4, 1, 4, true, false });
        break;
    case DTYPE_Q8_0:
        dot_tiles(w, data, x, n_row, out, (struct format){ 8, 1, 2, false, true });
        break;
    case DTYPE_Q5_0:
        dot_tiles(w, data, x, n_row, out, (struct format){ 8, 1, 2, false, false });
        break;
    case DTYPE_Q5_1:
        dot_tiles(w, data, x, n_row, out, (struct format){ 8, 1, 2, true, false });
        break;
    case DTYPE_Q5_K:
        dot_tiles(w, data, x, n_row, out, (struct format){ 8, 1, 4, true, false });
        break;
    case DTYPE_Q6_K:
        dot_tiles(w, data, x, n_row, out, (struct format){ 8, 2, 4, false, false });
        break;
    default:
        break;
    }
}
