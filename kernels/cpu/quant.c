/*
 * Weight layouts of the CPU: packs a file's rows into groups and reads single rows back. The
 * formats of the file are GGUF's (FORMATS: struct block of ggml); every byte pattern is valid.
 */
#include "kernels/cpu/quant.h"

#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"

/* One file block, taken apart; K types have factors of d and d_min, others only d and d_min. */
struct parts {
    uint8_t q[256];
    uint16_t d, d_min; /* f16 */
    uint8_t scale[16], min[8];
};

static uint16_t read16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t read32(const uint8_t *p)
{
    return (uint32_t)read16(p) | (uint32_t)read16(p + 2) << 16;
}

static void nibbles(const uint8_t *src, int n, uint8_t *low, uint8_t *high)
{
    for (int i = 0; i < n; i++) {
        low[i] = src[i] & 15;
        high[i] = src[i] >> 4;
    }
}

static void parts_small(enum dtype dtype, const uint8_t *p, struct parts *ret)
{
    bool has_min = dtype == DTYPE_Q4_1 || dtype == DTYPE_Q5_1;
    ret->d = read16(p);
    ret->d_min = has_min ? read16(p + 2) : 0;
    p += has_min ? 4 : 2;
    if (dtype == DTYPE_Q8_0) {
        for (int i = 0; i < 32; i++)
            ret->q[i] = p[i] ^ 0x80;
        return;
    }
    if (dtype == DTYPE_Q4_0 || dtype == DTYPE_Q4_1) {
        nibbles(p, 16, ret->q, ret->q + 16);
        return;
    }
    uint32_t high = read32(p);
    nibbles(p + 4, 16, ret->q, ret->q + 16);
    for (int i = 0; i < 32; i++)
        ret->q[i] |= (uint8_t)((high >> i & 1) << 4);
}

/* The eight 6-bit (scale, min) pairs of a K block. */
static void k_scales(const uint8_t *s, int i, int *ret_scale, int *ret_min)
{
    if (i < 4) {
        *ret_scale = s[i] & 63;
        *ret_min = s[i + 4] & 63;
    } else {
        *ret_scale = (s[i + 4] & 15) | (s[i - 4] >> 6) << 4;
        *ret_min = s[i + 4] >> 4 | (s[i] >> 6) << 4;
    }
}

static void parts_k45(enum dtype dtype, const uint8_t *p, struct parts *ret)
{
    const uint8_t *high = p + 16, *low = dtype == DTYPE_Q5_K ? p + 48 : p + 16;

    for (int i = 0; i < 8; i++) {
        int scale, min;
        k_scales(p + 4, i, &scale, &min);
        ret->scale[i] = (uint8_t)scale;
        ret->min[i] = (uint8_t)min;
    }
    ret->d = read16(p);
    ret->d_min = read16(p + 2) ^ 0x8000; /* mins are taken away */
    for (int i = 0; i < 4; i++)
        nibbles(low + 32 * i, 32, ret->q + 64 * i, ret->q + 64 * i + 32);
    if (dtype == DTYPE_Q5_K)
        for (int i = 0; i < 256; i++)
            ret->q[i] |= (uint8_t)((high[i % 32] >> (i / 32) & 1) << 4);
}

static void parts_k6(const uint8_t *p, struct parts *ret)
{
    const uint8_t *low = p, *high = p + 128;

    ret->d = read16(p + 208);
    memcpy(ret->scale, p + 192, 16);
    for (int i = 0; i < 256; i++) {
        int part = i / 128, in_part = i % 128, quarter = in_part / 32, l = in_part % 32;
        uint8_t nibble_byte = low[64 * part + l + (quarter & 1 ? 32 : 0)];
        uint8_t nibble = quarter < 2 ? nibble_byte & 15 : nibble_byte >> 4;
        ret->q[i] = (uint8_t)(nibble | (high[32 * part + l] >> (2 * quarter) & 3) << 4);
    }
}

static void parts_of(enum dtype dtype, const uint8_t *block, struct parts *ret)
{
    if (dtype == DTYPE_Q6_K)
        parts_k6(block, ret);
    else if (dtype == DTYPE_Q4_K || dtype == DTYPE_Q5_K)
        parts_k45(dtype, block, ret);
    else
        parts_small(dtype, block, ret);
}

static const struct packed packed_formats[DTYPE_COUNT] = {
    [DTYPE_F32] = { .bits = 32 },
    [DTYPE_F16] = { .bits = 16 },
    [DTYPE_BF16] = { .bits = 16 },
    [DTYPE_Q8_0] = { .bits = 8, .n_half = 1, .zero = 128 },
    [DTYPE_Q4_0] = { .bits = 4, .n_half = 1, .zero = 8 },
    [DTYPE_Q4_1] = { .bits = 4, .n_half = 1, .has_min = true },
    [DTYPE_Q5_0] = { .bits = 5, .n_half = 1, .zero = 16 },
    [DTYPE_Q5_1] = { .bits = 5, .n_half = 1, .has_min = true },
    [DTYPE_Q4_K] = { .bits = 4, .n_half = 1, .has_min = true, .is_k = true },
    [DTYPE_Q5_K] = { .bits = 5, .n_half = 1, .has_min = true, .is_k = true },
    [DTYPE_Q6_K] = { .bits = 6, .n_half = 2, .zero = 32, .is_k = true },
};

bool packed_shape(enum dtype dtype, int n_row, int n_col, struct packed *ret)
{
    if ((unsigned)dtype >= DTYPE_COUNT || n_row < 1 || n_col < 1)
        return false;
    struct packed w = packed_formats[dtype];
    if (!w.bits || n_col % dtype_infos[dtype].block_elems)
        return false;
    w.dtype = dtype;
    w.n_row = n_row;
    w.n_col = n_col;
    w.n_group = (n_row - 1) / GROUP_ROWS + 1;
    if (packed_is_plain(&w)) {
        w.block_bytes = GROUP_ROWS * w.bits / 8;
        w.group_bytes = w.block_bytes * n_col;
    } else {
        int scales = w.n_half + w.has_min;
        w.block_bytes = GROUP_ROWS * ((w.is_k ? 1 : 2) * scales + XQ_BLOCK * w.bits / 8);
        if (w.is_k)
            w.head_bytes = (int64_t)(n_col / 256) * GROUP_ROWS * 2 * (1 + w.has_min);
        w.group_bytes = w.head_bytes + w.block_bytes * (n_col / XQ_BLOCK);
    }
    *ret = w;
    return true;
}

struct packed packed_view(const struct weight *w)
{
    struct packed ret;
    bool known = packed_shape(w->dtype, w->n_row, w->n_col, &ret);
    assert(known);
    ret.data = w->data;
    return ret;
}

static int64_t quants_offset(const struct packed *w)
{
    return GROUP_ROWS * (w->is_k ? 1 : 2) * (w->n_half + w->has_min);
}

/* Where the d (which 0) or d_min (1) of a lane lies; k is a column. */
static uint8_t *head_at(const struct packed *w, uint8_t *group, int k, int which, int lane)
{
    return group + ((k / 256 * (1 + w->has_min) + which) * GROUP_ROWS + lane) * 2;
}

/* Scales and mins of columns k .. k + 31, which start at column i of the file block. */
static void put_scales(const struct packed *w, uint8_t *group, uint8_t *block, int lane,
                       const struct parts *parts, int k, int i)
{
    if (!w->is_k) {
        memcpy(block + 2 * lane, &parts->d, 2);
        if (w->has_min)
            memcpy(block + 2 * (GROUP_ROWS + lane), &parts->d_min, 2);
        return;
    }
    memcpy(head_at(w, group, k, 0, lane), &parts->d, 2);
    if (w->has_min)
        memcpy(head_at(w, group, k, 1, lane), &parts->d_min, 2);
    for (int half = 0; half < w->n_half; half++)
        block[GROUP_ROWS * half + lane] = parts->scale[i / XQ_BLOCK * w->n_half + half];
    if (w->has_min)
        block[GROUP_ROWS * w->n_half + lane] = parts->min[i / XQ_BLOCK];
}

/* Scale `half` of a lane of the block of column k, or its min (half = n_half). */
static float get_scale(const struct packed *w, uint8_t *group, const uint8_t *block, int k,
                       int half, int lane)
{
    if (!w->is_k)
        return f32_from_f16(read16(block + 2 * (GROUP_ROWS * half + lane)));
    uint8_t factor = block[GROUP_ROWS * half + lane];
    float d = f32_from_f16(read16(head_at(w, group, k, half == w->n_half, lane)));
    return d * (float)(w->n_half == 2 ? (int8_t)factor : factor);
}

/* The quants of 32 columns of one row. */
static void put_quants(const struct packed *w, uint8_t *block, int lane, const uint8_t *q)
{
    uint8_t *quants = block + quants_offset(w) + 4 * lane;

    for (int plane = 256; plane < 64 * w->bits; plane += 64)
        memset(quants + plane, 0, 4); /* rows may be loaded twice */
    if (w->bits == 8) {
        for (int quad = 0; quad < 8; quad++)
            memcpy(quants + 64 * quad, q + 4 * quad, 4);
        return;
    }
    for (int k = 0; k < 16; k++)
        quants[64 * (k / 4) + k % 4] = (uint8_t)((q[k] & 15) | (q[k + 16] & 15) << 4);
    for (int k = 0; k < 32 && w->bits == 5; k++)
        quants[256 + k % 4] |= (uint8_t)((q[k] >> 4) << (k / 4));
    for (int k = 0; k < 32 && w->bits == 6; k++)
        quants[256 + 64 * (k / 16) + k % 4] |= (uint8_t)((q[k] >> 4) << (2 * (k / 4 % 4)));
}

/* Quant k < 32 of the row whose bytes start at quants. */
static int get_quant(const struct packed *w, const uint8_t *quants, int k)
{
    if (w->bits == 8)
        return quants[64 * (k / 4) + k % 4];
    int q = quants[64 * (k % 16 / 4) + k % 4] >> (k / 16 * 4) & 15;
    if (w->bits == 5)
        q |= (quants[256 + k % 4] >> (k / 4) & 1) << 4;
    if (w->bits == 6)
        q |= (quants[256 + 64 * (k / 16) + k % 4] >> (2 * (k / 4 % 4)) & 3) << 4;
    return q;
}

static void fill_plain(const struct packed *w, uint8_t *group, int lane, const uint8_t *src)
{
    for (int k = 0; k < w->n_col && w->bits == 16; k++)
        memcpy(group + (int64_t)k * 2 * GROUP_ROWS + lane * 2, src + (int64_t)k * 2, 2);
    for (int k = 0; k < w->n_col && w->bits == 32; k++)
        memcpy(group + (int64_t)k * 4 * GROUP_ROWS + lane * 4, src + (int64_t)k * 4, 4);
}

static void fill_blocks(const struct packed *w, uint8_t *group, int lane, const uint8_t *src)
{
    const struct dtype_info *info = &dtype_infos[w->dtype];
    uint8_t *blocks = group + w->head_bytes;
    for (int k = 0; k < w->n_col; k += info->block_elems, src += info->block_bytes) {
        struct parts parts;
        parts_of(w->dtype, src, &parts);
        for (int i = 0; i < info->block_elems; i += XQ_BLOCK) {
            uint8_t *block = blocks + (k + i) / XQ_BLOCK * w->block_bytes;
            put_scales(w, group, block, lane, &parts, k + i, i);
            put_quants(w, block, lane, parts.q + i);
        }
    }
}

void packed_fill(const struct packed *w, int first, int n, const void *src, int64_t row_bytes)
{
    assert(first % GROUP_ROWS == 0 && first >= 0 && n >= 0 && n <= w->n_row - first);
    for (int i = 0; i < n; i++) {
        uint8_t *group = w->data + (first + i) / GROUP_ROWS * w->group_bytes;
        const uint8_t *row = (const uint8_t *)src + i * row_bytes;
        if (packed_is_plain(w))
            fill_plain(w, group, i % GROUP_ROWS, row);
        else
            fill_blocks(w, group, i % GROUP_ROWS, row);
    }
}

static float plain_value(const struct packed *w, const uint8_t *at)
{
    if (w->dtype == DTYPE_F32)
        return f32_from_bits(read32(at));
    return w->dtype == DTYPE_F16 ? f32_from_f16(read16(at)) : f32_from_bf16(read16(at));
}

void packed_row(const struct packed *w, int row, float *out)
{
    uint8_t *group = w->data + row / GROUP_ROWS * w->group_bytes;
    int lane = row % GROUP_ROWS;

    assert(row >= 0 && row < w->n_row);
    if (packed_is_plain(w)) {
        for (int k = 0; k < w->n_col; k++)
            out[k] = plain_value(w, group + k * w->block_bytes + lane * (w->bits / 8));
        return;
    }
    for (int k = 0; k < w->n_col; k += XQ_BLOCK) {
        const uint8_t *block = group + w->head_bytes + k / XQ_BLOCK * w->block_bytes;
        const uint8_t *quants = block + quants_offset(w) + 4 * lane;
        float min = w->has_min ? get_scale(w, group, block, k, w->n_half, lane) : 0.0f;
        for (int i = 0; i < XQ_BLOCK; i++) {
            float scale = get_scale(w, group, block, k, i * w->n_half / XQ_BLOCK, lane);
            out[k + i] = scale * (float)(get_quant(w, quants, i) - w->zero) + min;
        }
    }
}
