/* AVX2, FMA, F16C. Included by simd.h only. */
#ifndef RINGLET_KERNELS_CPU_SIMD_AVX2_H
#define RINGLET_KERNELS_CPU_SIMD_AVX2_H

#include <immintrin.h>

typedef struct { __m256 a, b; } v16;   /* 16 floats */
typedef struct { __m256i a, b; } n16;  /* 16 int32 */
typedef struct { __m256i a, b; } b64;  /* 64 bytes */

/* What a dot kernel holds in registers: token rows times groups of weight rows. */
#define TILE_ROWS 4
#define TILE_GROUPS 1

#define V16_PAIR(expr_a, expr_b) ((v16){ (expr_a), (expr_b) })

static always_inline v16 v16_set1(float f)
{
    return V16_PAIR(_mm256_set1_ps(f), _mm256_set1_ps(f));
}

static always_inline v16 v16_load(const float *p)
{
    return V16_PAIR(_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8));
}

static always_inline void v16_store(float *p, v16 v)
{
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}

static always_inline v16 v16_add(v16 x, v16 y)
{
    return V16_PAIR(_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b));
}

static always_inline v16 v16_sub(v16 x, v16 y)
{
    return V16_PAIR(_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b));
}

static always_inline v16 v16_mul(v16 x, v16 y)
{
    return V16_PAIR(_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b));
}

static always_inline v16 v16_div(v16 x, v16 y)
{
    return V16_PAIR(_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b));
}

static always_inline v16 v16_max(v16 x, v16 y)
{
    return V16_PAIR(_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b));
}

static always_inline v16 v16_min(v16 x, v16 y)
{
    return V16_PAIR(_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b));
}

static always_inline v16 v16_abs(v16 x)
{
    __m256 sign = _mm256_set1_ps(-0.0f);
    return V16_PAIR(_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b));
}

/* x * y + z, rounded once */
static always_inline v16 v16_fma(v16 x, v16 y, v16 z)
{
    return V16_PAIR(_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b));
}

static always_inline __m256 scale2_half(__m256 p, __m256 t)
{
    __m256i n = _mm256_slli_epi32(_mm256_castps_si256(t), 23);
    return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), n));
}

/* p * 2^n, n in the low bits of t's representation. */
static always_inline v16 v16_scale2(v16 p, v16 t)
{
    return V16_PAIR(scale2_half(p.a, t.a), scale2_half(p.b, t.b));
}

/* Lanes i and i + 8, then + 4, + 2, + 1. */
static always_inline float v16_sum(v16 v)
{
    __m256 a = _mm256_add_ps(v.a, v.b);
    __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(b, _mm_shuffle_ps(b, b, 1)));
}

static always_inline float v16_hmax(v16 v)
{
    __m256 a = _mm256_max_ps(v.a, v.b);
    __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    b = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(b, _mm_shuffle_ps(b, b, 1)));
}

static always_inline __m256 select_half(int lo, int hi, __m256 x, __m256 y, int first)
{
    __m256i lane = _mm256_add_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                    _mm256_set1_epi32(first));
    __m256i below = _mm256_cmpgt_epi32(_mm256_set1_epi32(hi), lane);
    __m256i inside = _mm256_andnot_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(lo), lane), below);
    return _mm256_blendv_ps(y, x, _mm256_castsi256_ps(inside));
}

/* Lanes lo <= i < hi of x, the rest of y. */
static always_inline v16 v16_select(int lo, int hi, v16 x, v16 y)
{
    return V16_PAIR(select_half(lo, hi, x.a, y.a, 0), select_half(lo, hi, x.b, y.b, 8));
}

static always_inline __m128i load128(const void *p)
{
    return _mm_loadu_si128((const __m128i *)p);
}

static always_inline v16 v16_load_f16(const uint16_t *p)
{
    return V16_PAIR(_mm256_cvtph_ps(load128(p)), _mm256_cvtph_ps(load128(p + 8)));
}

static always_inline __m256 bf16_half(const uint16_t *p)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load128(p)), 16));
}

static always_inline v16 v16_load_bf16(const uint16_t *p)
{
    return V16_PAIR(bf16_half(p), bf16_half(p + 8));
}

static always_inline v16 v16_load_i8(const int8_t *p)
{
    __m128i bytes = load128(p);
    return V16_PAIR(_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8))));
}

static always_inline v16 v16_load_u8(const uint8_t *p)
{
    __m128i bytes = load128(p);
    return V16_PAIR(_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(bytes)),
                    _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))));
}

static always_inline void v16_store_f16(uint16_t *p, v16 v)
{
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(v.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128((__m128i *)(void *)(p + 8), _mm256_cvtps_ph(v.b, _MM_FROUND_TO_NEAREST_INT));
}

/* Rounded to nearest even, |v| <= 127; ret_sum takes the sum of the stored values. */
static always_inline void v16_store_i8(int8_t *p, v16 v, int32_t *ret_sum)
{
    __m256i a = _mm256_cvtps_epi32(v.a), b = _mm256_cvtps_epi32(v.b);
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words),
                                    _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128((__m128i *)(void *)p, bytes);
    __m256i s = _mm256_add_epi32(a, b);
    __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    *ret_sum = _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1)));
}

static always_inline b64 b64_load(const uint8_t *p)
{
    return (b64){ _mm256_loadu_si256((const __m256i *)(const void *)p),
                  _mm256_loadu_si256((const __m256i *)(const void *)(p + 32)) };
}

static always_inline b64 b64_low(b64 v)
{
    __m256i mask = _mm256_set1_epi8(15);
    return (b64){ _mm256_and_si256(v.a, mask), _mm256_and_si256(v.b, mask) };
}

static always_inline b64 b64_high(b64 v)
{
    __m256i mask = _mm256_set1_epi8(15);
    return (b64){ _mm256_and_si256(_mm256_srli_epi16(v.a, 4), mask),
                  _mm256_and_si256(_mm256_srli_epi16(v.b, 4), mask) };
}

/* v with n bits of plane, from bit `from` of each byte on, as its bits 4 and up. */
static always_inline __m256i join_half(__m256i v, __m256i plane, int from, int n)
{
    plane = from > 4 ? _mm256_srli_epi16(plane, from - 4) : _mm256_slli_epi16(plane, 4 - from);
    __m256i mask = _mm256_set1_epi8((char)(((1 << n) - 1) << 4));
    return _mm256_or_si256(v, _mm256_and_si256(plane, mask));
}

static always_inline b64 b64_join(b64 v, b64 plane, int from, int n)
{
    return (b64){ join_half(v.a, plane.a, from, n), join_half(v.b, plane.b, from, n) };
}

/* Where a sum of (w - (1 << shift)) * x starts; minus: less the sum of x. shift -1: no bias. */
static always_inline n16 n16_start(int shift, const int32_t *minus)
{
    __m256i n = _mm256_setzero_si256();
    if (shift >= 0 && shift != 7) /* 7: dot_half takes the bias away */
        n = _mm256_slli_epi32(_mm256_set1_epi32(*minus), shift);
    return (n16){ n, n };
}

/* Pair products of unsigned w < 128 fit 16 bits; a wide w is made signed and split by its sign. */
static always_inline __m256i dot_half(__m256i acc, __m256i w, __m256i x, bool wide)
{
    if (wide) {
        w = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
        x = _mm256_sign_epi8(x, w);
        w = _mm256_abs_epi8(w);
    }
    __m256i pairs = _mm256_maddubs_epi16(w, x);
    return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

/* acc[i] += sum over j < 4 of w[4 i + j] * x[j]; wide: w is biased by 128. */
static always_inline n16 n16_dot(n16 acc, b64 w, const int8_t *x, bool wide)
{
    int32_t quad;
    memcpy(&quad, x, 4);
    __m256i xs = _mm256_set1_epi32(quad);
    return (n16){ dot_half(acc.a, w.a, xs, wide), dot_half(acc.b, w.b, xs, wide) };
}

static always_inline n16 n16_times256(n16 x)
{
    return (n16){ _mm256_slli_epi32(x.a, 8), _mm256_slli_epi32(x.b, 8) };
}

static always_inline n16 n16_add(n16 x, n16 y)
{
    return (n16){ _mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b) };
}

static always_inline v16 v16_from_n16(n16 n)
{
    return V16_PAIR(_mm256_cvtepi32_ps(n.a), _mm256_cvtepi32_ps(n.b));
}

/* out[i * out_stride + t] = in[t * in_stride + i] for t < 16 and i < n <= 16. */
static always_inline void v16_transpose(float *out, int out_stride, const float *in, int in_stride,
                                        int n)
{
    for (int i = 0; i < n; i++)
        for (int t = 0; t < LANES; t++)
            out[i * out_stride + t] = in[t * in_stride + i];
}

#endif
