/*
 * Weights as the CPU keeps them. Sixteen rows (a group) lie interleaved so that one vector meets
 * one activation of sixteen rows:
 *
 *   plain types   [n_col] times 16 elements
 *   block types   [n_col / 32] times a block of 16 rows: scales [1 or 2][16], mins [16] if the type
 *                 has them, then quants: 8 bits: [8 quads][16 rows][4]; 4 bits: [4][16][4] bytes,
 *                 low nibble quad c, high nibble quad c + 4; 5 bits: these, then [16][4] bytes
 *                 whose bit c is the fifth of quad c; 6 bits: then [2][16][4] bytes, two bits a
 *                 quad, four quads each
 *   K types       before the blocks: [n_col / 256] times f16 d[16] and, with mins, f16 dmin[16];
 *                 a block's scales and mins are 8-bit factors of these. Others: f16.
 *
 * value = scale * (quant - zero) + min, exact. Rows past n_row are zero.
 */
#ifndef RINGLET_KERNELS_CPU_QUANT_H
#define RINGLET_KERNELS_CPU_QUANT_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/dtype.h"
#include "kernels/kernels.h"

struct packed {
    enum dtype dtype;
    int n_row, n_col, n_group;
    int bits;        /* of a quant: 4, 5, 6, 8; plain types: 16, 32 */
    int n_half;      /* scales in 32 columns: 1 or 2 */
    bool has_min;
    bool is_k;
    int zero;
    int64_t block_bytes; /* 16 rows of 32 columns; plain types: of 1 column */
    int64_t head_bytes; /* K types: of a group, before its blocks */
    int64_t group_bytes;
    uint8_t *data;
};

/* False if the CPU has no layout for the type or width. */
bool packed_shape(enum dtype dtype, int n_row, int n_col, struct packed *ret);
/* The packed form of a weight that weight_load filled. */
struct packed packed_view(const struct weight *w);
/* Pack rows [first, first + n) of src into their groups; first % 16 == 0. */
void packed_fill(const struct packed *w, int first, int n, const void *src, int64_t row_bytes);
/* Row row of w, exact but for the rounding of scale * quant + min */
void packed_row(const struct packed *w, int row, float *out);

static inline bool packed_is_plain(const struct packed *w)
{
    return w->bits >= 16;
}

#endif
