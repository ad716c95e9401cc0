/* AVX-512 F, BW, DQ, VL, VNNI. Included by simd.h only. */
#ifndef RINGLET_KERNELS_CPU_SIMD_AVX512_H
#define RINGLET_KERNELS_CPU_SIMD_AVX512_H

#include <immintrin.h>

typedef __m512 v16;   /* 16 floats */
typedef __m512i n16;  /* 16 int32 */
typedef __m512i b64;  /* 64 bytes */

/* What a dot kernel holds in registers: token rows times groups of weight rows. */
#define TILE_ROWS 6
#define TILE_GROUPS 2

static always_inline v16 v16_set1(float f) { return _mm512_set1_ps(f); }
static always_inline v16 v16_load(const float *p) { return _mm512_loadu_ps(p); }
static always_inline void v16_store(float *p, v16 v) { _mm512_storeu_ps(p, v); }
static always_inline v16 v16_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
static always_inline v16 v16_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
static always_inline v16 v16_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
static always_inline v16 v16_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
static always_inline v16 v16_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
static always_inline v16 v16_min(v16 a, v16 b) { return _mm512_min_ps(a, b); }
static always_inline v16 v16_abs(v16 a) { return _mm512_abs_ps(a); }
/* a * b + c, rounded once */
static always_inline v16 v16_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }

/* p * 2^n, n in the low bits of t's representation. */
static always_inline v16 v16_scale2(v16 p, v16 t)
{
    __m512i n = _mm512_slli_epi32(_mm512_castps_si512(t), 23);
    return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), n));
}

/* Lanes i and i + 8, then + 4, + 2, + 1. */
static always_inline float v16_sum(v16 v)
{
    __m256 a = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}

static always_inline float v16_hmax(v16 v)
{
    return _mm512_reduce_max_ps(v);
}

/* Lanes lo <= i < hi of a, the rest of b. */
static always_inline v16 v16_select(int lo, int hi, v16 a, v16 b)
{
    return _mm512_mask_mov_ps(b, (__mmask16)((1u << hi) - (1u << lo)), a);
}

static always_inline v16 v16_load_f16(const uint16_t *p)
{
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

static always_inline v16 v16_load_bf16(const uint16_t *p)
{
    __m256i half = _mm256_loadu_si256((const __m256i *)(const void *)p);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

static always_inline v16 v16_load_i8(const int8_t *p)
{
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

static always_inline v16 v16_load_u8(const uint8_t *p)
{
    __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)p);
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes));
}

static always_inline void v16_store_f16(uint16_t *p, v16 v)
{
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}

/* Rounded to nearest even, |v| <= 127; ret_sum takes the sum of the stored values. */
static always_inline void v16_store_i8(int8_t *p, v16 v, int32_t *ret_sum)
{
    __m512i n = _mm512_cvtps_epi32(v);
    _mm_storeu_si128((__m128i *)(void *)p, _mm512_cvtsepi32_epi8(n));
    *ret_sum = _mm512_reduce_add_epi32(n);
}

static always_inline b64 b64_load(const uint8_t *p) { return _mm512_loadu_si512(p); }
static always_inline b64 b64_low(b64 v) { return _mm512_and_si512(v, _mm512_set1_epi8(15)); }

static always_inline b64 b64_high(b64 v)
{
    return _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15));
}

/* v with n bits of plane, from bit `from` of each byte on, as its bits 4 and up. */
static always_inline b64 b64_join(b64 v, b64 plane, int from, int n)
{
    plane = from > 4 ? _mm512_srli_epi16(plane, (unsigned)(from - 4))
                     : _mm512_slli_epi16(plane, (unsigned)(4 - from));
    __m512i mask = _mm512_set1_epi8((char)(((1 << n) - 1) << 4));
    return _mm512_ternarylogic_epi32(v, plane, mask, 0xf8); /* v | (plane & mask) */
}

/* Where a sum of (w - (1 << shift)) * x starts; minus: less the sum of x. shift -1: no bias. */
static always_inline n16 n16_start(int shift, const int32_t *minus)
{
    if (shift < 0)
        return _mm512_setzero_si512();
    return _mm512_slli_epi32(_mm512_set1_epi32(*minus), (unsigned)shift);
}

/* acc[i] += sum over j < 4 of w[4 i + j] (unsigned) * x[j]. */
static always_inline n16 n16_dot(n16 acc, b64 w, const int8_t *x, bool wide)
{
    int32_t quad;
    (void)wide;
    memcpy(&quad, x, 4);
    return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(quad));
}

static always_inline n16 n16_times256(n16 a)
{
    return _mm512_slli_epi32(a, 8);
}

static always_inline n16 n16_add(n16 a, n16 b) { return _mm512_add_epi32(a, b); }
static always_inline v16 v16_from_n16(n16 n) { return _mm512_cvtepi32_ps(n); }

/* out[i * out_stride + t] = in[t * in_stride + i] for t < 16 and i < n <= 16. */
static always_inline void v16_transpose(float *out, int out_stride, const float *in, int in_stride,
                                        int n)
{
    __m512 r[16], s[16];
    for (int i = 0; i < 16; i++)
        r[i] = _mm512_loadu_ps(in + i * in_stride);
    for (int i = 0; i < 16; i += 2) { /* pairs of rows: elements 0 1 4 5 ..., 2 3 6 7 ... */
        s[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; j++) {
            __m512d a = _mm512_castps_pd(s[i + j]), b = _mm512_castps_pd(s[i + j + 2]);
            r[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            r[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    /* r[4 g + c] holds rows 4 g .. 4 g + 3 of columns c, c + 4, c + 8, c + 12 */
    for (int c = 0; c < 4; c++) {
        __m512 a = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88);
        __m512 b = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88);
        __m512 d = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd);
        __m512 e = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
        s[c] = _mm512_shuffle_f32x4(a, b, 0x88);
        s[c + 8] = _mm512_shuffle_f32x4(a, b, 0xdd);
        s[c + 4] = _mm512_shuffle_f32x4(d, e, 0x88);
        s[c + 12] = _mm512_shuffle_f32x4(d, e, 0xdd);
    }
    for (int i = 0; i < n; i++)
        _mm512_storeu_ps(out + i * out_stride, s[i]);
}

#endif
