/* The functions of the level being compiled; isa_table.c gathers them. */
#ifndef RINGLET_KERNELS_CPU_ISA_FNS_H
#define RINGLET_KERNELS_CPU_ISA_FNS_H

#include "kernels/cpu/isa.h"
#include "kernels/cpu/simd.h"

float ISA_FN(rms_inverse)(const float *x, int n, float eps);
void ISA_FN(scale_row)(float *out, const float *x, const float *weight, float scale, int n);
void ISA_FN(quantize_row)(void *xq, const float *x, int n, bool fine);
void ISA_FN(swiglu_row)(float *out, const float *gate, const float *up, int n);
float ISA_FN(row_max)(const float *x, int n, bool *ret_finite);
double ISA_FN(sum_exp)(const float *x, int n, float max, float divisor);
void ISA_FN(philox)(uint32_t *out, uint32_t first, int n_quad, uint32_t c1, uint32_t c2,
                    uint64_t key);
void ISA_FN(dot)(const struct packed *w, int group, int n_group, const void *const *x, int n_row,
                 bool fine, float *out);
void ISA_FN(tile_out)(float *out, int64_t out_stride, const float *tile, int n_row, int n_lane,
                      const float *bias, float scale, bool add);
void ISA_FN(rotate)(float *head, const float *cos_sin, int n_dim, bool interleaved);
void ISA_FN(kv_store)(void *dst, const float *src, int n, enum dtype dtype);
void ISA_FN(kv_load)(const struct kv_span *span, const void *const *k, const void *const *v,
                     int n_token, int head_dim, enum dtype dtype);
void ISA_FN(span_attend)(const struct kv_span *span, const struct span_query *query, int n_query,
                         int head_dim, float *scores);
void ISA_FN(attn_merge)(struct attn_state *into, const struct attn_state *next, int head_dim);

#endif
