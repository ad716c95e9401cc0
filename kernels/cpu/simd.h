/*
 * Sixteen float lanes at three levels: AVX-512 (VNNI), AVX2 (FMA, F16C) and plain C. The files of
 * isa/ are compiled once per level. Every function is defined lane by lane, sums of lanes have one
 * order, and multiply-add is fused at all levels, so that a result has the same bits at each.
 */
#ifndef RINGLET_KERNELS_CPU_SIMD_H
#define RINGLET_KERNELS_CPU_SIMD_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/compiler.h"

#define LANES 16

static always_inline float f32_from_bits(uint32_t bits)
{
    float f;
    memcpy(&f, &bits, 4);
    return f;
}

static always_inline uint32_t bits_from_f32(float f)
{
    uint32_t bits;
    memcpy(&bits, &f, 4);
    return bits;
}

static inline float f32_from_f16(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exp = h >> 10 & 31, frac = h & 0x3ff;
    if (exp == 31)
        return f32_from_bits(sign | 0x7f800000 | frac << 13 | (frac ? 0x400000 : 0));
    if (exp == 0) {
        float f = (float)frac * 0x1p-24f;
        return sign ? -f : f;
    }
    return f32_from_bits(sign | (exp + 112) << 23 | frac << 13);
}

/* To nearest, ties to even; overflow to infinity; NaN stays NaN. */
static inline uint16_t f16_from_f32(float f)
{
    uint32_t bits = bits_from_f32(f), sign = bits >> 16 & 0x8000, mag = bits & 0x7fffffff;
    if (mag >= 0x7f800000)
        return (uint16_t)(sign | 0x7c00 | (mag > 0x7f800000 ? 0x200 | (mag >> 13 & 0x3ff) : 0));
    if (mag >= 0x477ff000)
        return (uint16_t)(sign | 0x7c00);
    if (mag < 0x38800000) /* below the smallest normal: the addition rounds */
        return (uint16_t)(sign | (bits_from_f32(f32_from_bits(mag) + 0.5f) - 0x3f000000));
    return (uint16_t)(sign | ((mag + 0xc8000fff + (mag >> 13 & 1)) >> 13));
}

static always_inline float f32_from_bf16(uint16_t b)
{
    return f32_from_bits((uint32_t)b << 16);
}

static inline uint16_t bf16_from_f32(float f)
{
    uint32_t bits = bits_from_f32(f);
    if ((bits & 0x7fffffff) > 0x7f800000)
        return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

#if defined(CPU_ISA_AVX512)
#define ISA_FN(name) name##_avx512
#include "kernels/cpu/simd_avx512.h"
#elif defined(CPU_ISA_AVX2)
#define ISA_FN(name) name##_avx2
#include "kernels/cpu/simd_avx2.h"
#else
#define ISA_FN(name) name##_plain
#include "kernels/cpu/simd_plain.h"
#endif

/* The first n lanes of p, zero beyond. */
static always_inline v16 v16_load_some(const float *p, int n)
{
    if (n >= LANES)
        return v16_load(p);
    float lanes[LANES] aligned_to(64) = { 0 };
    for (int i = 0; i < n; i++)
        lanes[i] = p[i];
    return v16_load(lanes);
}

static always_inline void v16_store_some(float *p, v16 v, int n)
{
    if (n >= LANES) {
        v16_store(p, v);
        return;
    }
    float lanes[LANES] aligned_to(64);
    v16_store(lanes, v);
    for (int i = 0; i < n; i++)
        p[i] = lanes[i];
}

/* e^x within 2 units of the last place, x held to [-86.5, 88]; NaN stays NaN. */
static always_inline v16 v16_exp(v16 x)
{
    const v16 magic = v16_set1(12582912.0f); /* 1.5 * 2^23: the sum's low bits are the integer */
    x = v16_max(v16_set1(-86.5f), x);        /* a NaN in the second operand survives */
    x = v16_min(v16_set1(88.0f), x);
    v16 t = v16_fma(x, v16_set1(1.44269504f), magic);
    v16 n = v16_sub(t, magic);
    v16 r = v16_fma(n, v16_set1(-0.693359375f), x);
    r = v16_fma(n, v16_set1(2.12194440e-4f), r);
    v16 p = v16_set1(1.3888889e-3f);
    p = v16_fma(p, r, v16_set1(8.3333333e-3f));
    p = v16_fma(p, r, v16_set1(4.1666667e-2f));
    p = v16_fma(p, r, v16_set1(1.6666667e-1f));
    p = v16_fma(p, r, v16_set1(0.5f));
    p = v16_fma(p, r, v16_set1(1.0f));
    p = v16_fma(p, r, v16_set1(1.0f));
    return v16_scale2(p, t);
}

#endif
