/*
 * Sixteen weight rows against up to DOT_ROWS_MAX token rows. One lane is one weight row; the sum
 * over K has one order: exact integers inside a block of 32, then one fused multiply-add per block.
 * So the bits of a result depend on nothing but its two rows.
 */
#include "kernels/cpu/isa/isa_fns.h"
#include "kernels/cpu/quant.h"

struct xq_row {
    const int8_t *q, *fine;
    const float *scale, *scaled_sum;
    const int32_t *minus; /* by blocks or by halves, as the format asks */
};

/* What is constant in one instance of the block kernel. */
struct format {
    int bits, n_half;
    int zero_shift; /* quants are biased by 1 << zero_shift; -1 = not */
    bool has_min, is_k;
    enum dtype dtype; /* of plain types: 16 bits and more */
    bool fine;        /* x has 16 bits */
};

/* Scale `which` of block b, or its min (which = n_half). */
static always_inline v16 load_scale(const uint8_t *head, const uint8_t *block, int which, int b,
                                    const struct format f)
{
    if (!f.is_k)
        return v16_load_f16((const uint16_t *)(const void *)(block + 2 * LANES * which));
    int64_t at = b / 8 * (1 + f.has_min) + (which == f.n_half);
    v16 d = v16_load_f16((const uint16_t *)(const void *)(head + 2 * LANES * at));
    const uint8_t *factor = block + LANES * which;
    return v16_mul(d, f.n_half == 2 ? v16_load_i8((const int8_t *)factor) : v16_load_u8(factor));
}

static always_inline b64 quad_of(const uint8_t *quants, int quad, int bits)
{
    if (bits == 8)
        return b64_load(quants + 64 * quad);
    b64 pair = b64_load(quants + 64 * (quad & 3));
    b64 q = quad < 4 ? b64_low(pair) : b64_high(pair);
    if (bits == 5)
        q = b64_join(q, b64_load(quants + 256), quad, 1);
    if (bits == 6)
        q = b64_join(q, b64_load(quants + 256 + 64 * (quad / 4)), 2 * (quad % 4), 2);
    return q;
}

/* Rows of x (n) times groups of w (n_group): both are constants of the instance. */
static always_inline void dot_blocks(const struct packed *w, const uint8_t *head,
                                     const struct xq_row *x, float *out, int out_stride,
                                     const int n, const int n_group, const struct format f)
{
    const int quants_at = LANES * (f.is_k ? 1 : 2) * (f.n_half + f.has_min);
    const int block_bytes = quants_at + LANES * XQ_BLOCK * f.bits / 8;
    const int n_block = w->n_col / XQ_BLOCK, quads = 8 / f.n_half;
    const uint8_t *block = head + (f.is_k ? w->head_bytes : 0);
    v16 acc[TILE_GROUPS][TILE_ROWS];

    for (int g = 0; g < n_group; g++)
        for (int t = 0; t < n; t++)
            acc[g][t] = v16_set1(0.0f);
    for (int b = 0; b < n_block; b++, block += block_bytes)
        for (int half = 0; half < f.n_half; half++) {
            n16 sum[TILE_GROUPS][TILE_ROWS];
            for (int t = 0; t < n; t++)
                for (int g = 0; g < n_group; g++)
                    sum[g][t] = n16_start(f.fine ? -1 : f.zero_shift,
                                          &x[t].minus[f.n_half * b + half]);
            for (int pass = 0; pass <= f.fine; pass++) {
                for (int t = 0; pass && t < n; t++)
                    for (int g = 0; g < n_group; g++)
                        sum[g][t] = n16_add(n16_times256(sum[g][t]),
                                            n16_start(f.zero_shift,
                                                      &x[t].minus[f.n_half * b + half]));
                for (int quad = half * quads; quad < (half + 1) * quads; quad++) {
                    b64 q[TILE_GROUPS];
                    for (int g = 0; g < n_group; g++)
                        q[g] = quad_of(block + g * w->group_bytes + quants_at, quad, f.bits);
                    for (int t = 0; t < n; t++) {
                        const int8_t *at = (pass ? x[t].fine : x[t].q) + XQ_BLOCK * b + 4 * quad;
                        for (int g = 0; g < n_group; g++)
                            sum[g][t] = n16_dot(sum[g][t], q[g], at, f.zero_shift == 7);
                    }
                }
            }
            for (int g = 0; g < n_group; g++) {
                const uint8_t *head_g = head + g * w->group_bytes;
                const uint8_t *block_g = block + g * w->group_bytes;
                v16 scale = load_scale(head_g, block_g, half, b, f);
                for (int t = 0; t < n; t++)
                    acc[g][t] = v16_fma(v16_mul(scale, v16_set1(x[t].scale[b])),
                                        v16_from_n16(sum[g][t]), acc[g][t]);
                if (!f.has_min)
                    continue;
                v16 min = load_scale(head_g, block_g, f.n_half, b, f);
                for (int t = 0; t < n; t++)
                    acc[g][t] = v16_fma(min, v16_set1(x[t].scaled_sum[b]), acc[g][t]);
            }
        }
    for (int g = 0; g < n_group; g++)
        for (int t = 0; t < n; t++)
            v16_store(out + g * out_stride + LANES * t, acc[g][t]);
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
                                     const float *const *x, float *out, int out_stride,
                                     const int n, const int n_group, const enum dtype dtype)
{
    v16 acc[TILE_GROUPS][TILE_ROWS];
    for (int g = 0; g < n_group; g++)
        for (int t = 0; t < n; t++)
            acc[g][t] = v16_set1(0.0f);
    for (int k = 0; k < w->n_col; k++, data += dtype == DTYPE_F32 ? 64 : 32) {
        v16 q[TILE_GROUPS];
        for (int g = 0; g < n_group; g++)
            q[g] = load_plain(data + g * w->group_bytes, dtype);
        for (int t = 0; t < n; t++) {
            v16 value = v16_set1(x[t][k]);
            for (int g = 0; g < n_group; g++)
                acc[g][t] = v16_fma(q[g], value, acc[g][t]);
        }
    }
    for (int g = 0; g < n_group; g++)
        for (int t = 0; t < n; t++)
            v16_store(out + g * out_stride + LANES * t, acc[g][t]);
}

/* One tile: n rows of x from i on. */
static always_inline void dot_tile(const struct packed *w, const uint8_t *data,
                                   const void *const *x, float *out, int out_stride, const int n,
                                   const int n_group, const struct format f)
{
    int n_block = w->n_col / XQ_BLOCK;
    struct xq_row rows[TILE_ROWS];
    if (f.bits >= 16) {
        const float *floats[TILE_ROWS];
        for (int t = 0; t < n; t++)
            floats[t] = x[t];
        dot_floats(w, data, floats, out, out_stride, n, n_group, f.dtype);
        return;
    }
    for (int t = 0; t < n; t++) {
        const char *base = x[t];
        const float *scale = (const float *)(const void *)(base + w->n_col);
        rows[t] = (struct xq_row){ (const int8_t *)base, (const int8_t *)(scale + 5 * n_block),
                                   scale, scale + n_block,
                                   (const int32_t *)(const void *)scale +
                                       (f.n_half == 2 ? 3 : 2) * n_block };
    }
    dot_blocks(w, data, rows, out, out_stride, n, n_group, f);
}

static always_inline void dot_rows(const struct packed *w, const uint8_t *data, int n_group,
                                   const void *const *x, int n_row, float *out,
                                   const struct format f)
{
    const int stride = LANES * n_row;
    for (; n_group >= TILE_GROUPS && n_row > 1; n_group -= TILE_GROUPS) {
        int t = 0;
        for (; t + TILE_ROWS <= n_row; t += TILE_ROWS)
            dot_tile(w, data, x + t, out + LANES * t, stride, TILE_ROWS, TILE_GROUPS, f);
        for (; t + 2 <= n_row; t += 2)
            dot_tile(w, data, x + t, out + LANES * t, stride, 2, TILE_GROUPS, f);
        for (; t < n_row; t++)
            dot_tile(w, data, x + t, out + LANES * t, stride, 1, TILE_GROUPS, f);
        data += TILE_GROUPS * w->group_bytes;
        out += TILE_GROUPS * stride;
    }
    for (; n_group > 0; n_group--, data += w->group_bytes, out += stride)
        for (int t = 0; t < n_row; t++)
            dot_tile(w, data, x + t, out + LANES * t, stride, 1, 1, f);
}

/* out[r][lane] = [out[r][lane] +] tile[r][lane] * scale [+ bias[lane]], lane < n_lane <= 16. */
void ISA_FN(tile_out)(float *out, int64_t out_stride, const float *tile, int n_row, int n_lane,
                      const float *bias, float scale, bool add)
{
    v16 b = bias ? v16_load_some(bias, n_lane) : v16_set1(0.0f), s = v16_set1(scale);
    for (int r = 0; r < n_row; r++, out += out_stride, tile += LANES) {
        v16 v = v16_fma(v16_load(tile), s, b);
        if (add)
            v = v16_add(v16_load_some(out, n_lane), v);
        v16_store_some(out, v, n_lane);
    }
}

#define DOT(...)                                                                                   \
    dot_rows(w, data, n_group, x, n_row, out, (struct format){ __VA_ARGS__ })
#define DOT_FINE_OR_NOT(...)                                                                       \
    do {                                                                                           \
        if (fine)                                                                                  \
            DOT(__VA_ARGS__, 0, true);                                                             \
        else                                                                                       \
            DOT(__VA_ARGS__, 0, false);                                                            \
    } while (0)

void ISA_FN(dot)(const struct packed *w, int group, int n_group, const void *const *x, int n_row,
                 bool fine, float *out)
{
    const uint8_t *data = w->data + group * w->group_bytes;

    switch (w->dtype) {
    case DTYPE_F32:
        DOT(32, 0, -1, false, false, DTYPE_F32);
        break;
    case DTYPE_F16:
        DOT(16, 0, -1, false, false, DTYPE_F16);
        break;
    case DTYPE_BF16:
        DOT(16, 0, -1, false, false, DTYPE_BF16);
        break;
    case DTYPE_Q4_0:
        DOT_FINE_OR_NOT(4, 1, 3, false, false);
        break;
    case DTYPE_Q4_K:
        DOT_FINE_OR_NOT(4, 1, -1, true, true);
        break;
    case DTYPE_Q4_1:
        DOT_FINE_OR_NOT(4, 1, -1, true, false);
        break;
    case DTYPE_Q8_0:
        DOT_FINE_OR_NOT(8, 1, 7, false, false);
        break;
    case DTYPE_Q5_0:
        DOT_FINE_OR_NOT(5, 1, 4, false, false);
        break;
    case DTYPE_Q5_K:
        DOT_FINE_OR_NOT(5, 1, -1, true, true);
        break;
    case DTYPE_Q5_1:
        DOT_FINE_OR_NOT(5, 1, -1, true, false);
        break;
    case DTYPE_Q6_K:
        DOT_FINE_OR_NOT(6, 2, 5, false, true);
        break;
    default:
        break;
    }
}
