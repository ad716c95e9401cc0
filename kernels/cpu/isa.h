/*
 * What differs by instruction set: the inner loops, as one table per level. All levels give the
 * same bits. The loops know rows and blocks; threads, batches and op arguments stay outside.
 */
#ifndef RINGLET_KERNELS_CPU_ISA_H
#define RINGLET_KERNELS_CPU_ISA_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/dtype.h"
#include "kernels/kernels.h"

struct packed;

enum {
    GROUP_ROWS = 16,   /* weight rows that lie interleaved */
    XQ_BLOCK = 32,     /* activations that share a scale */
    SPAN_TOKENS = 128, /* KV tokens between two rescalings of attention */
    DOT_ROWS_MAX = 24, /* token rows of one dot call */
    DOT_TILES_MAX = 48, /* and rows times groups of it */
};

/*
 * A row of n activations as int8: q[n], then f32 scale[n / 32], f32 scale * sum of q[n / 32], i32
 * minus the sums of q by blocks [n / 32], the same by sixteens [n / 16], i8 fine[n]. A fine row
 * has scale * (256 q + fine), and so its scales are smaller; a coarse one scale * q.
 */
static inline int64_t xq_bytes(int n)
{
    return (2 * (int64_t)n + n / XQ_BLOCK * 20 + 63) / 64 * 64;
}

/* One span of one KV head, made ready for many queries. */
struct kv_span {
    float *k; /* [head_dim][SPAN_TOKENS] transposed */
    float *v; /* [SPAN_TOKENS][v_stride], v_stride = head_dim rounded up to LANES */
};

/* Running state of one query against spans in order. */
struct attn_state {
    float max, sum;
    float *acc; /* [v_stride] */
};

struct span_query {
    const float *q;   /* [head_dim], scaled */
    int first, end;   /* tokens of the span that it sees, first < end */
    struct attn_state *state;
};

struct cpu_isa {
    const char *name;
    float (*rms_inverse)(const float *x, int n, float eps); /* 1 / sqrt(mean(x^2) + eps) */
    /* out = x * scale * weight; weight may be NULL. out may be x. */
    void (*scale_row)(float *out, const float *x, const float *weight, float scale, int n);
    void (*quantize_row)(void *xq, const float *x, int n, bool fine);
    void (*swiglu_row)(float *out, const float *gate, const float *up, int n);
    /*
     * out[g][r][16] = group `group` + g of w times row r of x, for n_group groups and n_row rows;
     * rows are xq (fine or coarse) or f32 as w asks.
     */
    void (*dot)(const struct packed *w, int group, int n_group, const void *const *x, int n_row,
                bool fine, float *out);
    /* out[r][lane] = [out[r][lane] +] tile[r][lane] * scale [+ bias[lane]], lane < n_lane <= 16 */
    void (*tile_out)(float *out, int64_t out_stride, const float *tile, int n_row, int n_lane,
                     const float *bias, float scale, bool add);
    void (*rotate)(float *head, const float *cos_sin, int n_dim, bool interleaved);
    void (*kv_store)(void *dst, const float *src, int n, enum dtype dtype);
    /* Tokens [0, n_token) of the span from consecutive blocks' rows. */
    void (*kv_load)(const struct kv_span *span, const void *const *k, const void *const *v,
                    int n_token, int head_dim, enum dtype dtype);
    void (*span_attend)(const struct kv_span *span, const struct span_query *query, int n_query,
                        int head_dim, float *scores);
    /* into = into combined with next, which saw later spans */
    void (*attn_merge)(struct attn_state *into, const struct attn_state *next, int head_dim);
    /* The largest; ret_finite tells whether all are finite. A NaN may be missed by the maximum. */
    float (*row_max)(const float *x, int n, bool *ret_finite);
    /* Sum of e^(x / divisor - max / divisor) */
    double (*sum_exp)(const float *x, int n, float max, float divisor);
    /* Philox4x32-10 words for counters (first + i, c1, c2, 0), i < n_quad: out[4 i .. 4 i + 3]. */
    void (*philox)(uint32_t *out, uint32_t first, int n_quad, uint32_t c1, uint32_t c2,
                   uint64_t key);
};

extern const struct cpu_isa cpu_isa_plain, cpu_isa_avx2, cpu_isa_avx512;

/* The best level of this machine, or the one named (NULL if the machine lacks it). */
const struct cpu_isa *cpu_isa_find(const char *name);

static inline int lanes_up(int n)
{
    return (n + 15) / 16 * 16;
}

#endif
