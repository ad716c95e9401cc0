/* Plain C: any machine. Slow where fmaf is a call. Included by simd.h only. */
#ifndef RINGLET_KERNELS_CPU_SIMD_PLAIN_H
#define RINGLET_KERNELS_CPU_SIMD_PLAIN_H

typedef struct { float f[LANES]; } v16;
typedef struct { int32_t n[LANES]; } n16;
typedef struct { uint8_t b[64]; } b64;

/* What a dot kernel holds in registers: token rows times groups of weight rows. */
#define TILE_ROWS 4
#define TILE_GROUPS 1

#define EACH_LANE for (int i = 0; i < LANES; i++)

static always_inline v16 v16_set1(float f)
{
    v16 r;
    EACH_LANE
        r.f[i] = f;
    return r;
}

static always_inline v16 v16_load(const float *p)
{
    v16 r;
    EACH_LANE
        r.f[i] = p[i];
    return r;
}

static always_inline void v16_store(float *p, v16 v)
{
    EACH_LANE
        p[i] = v.f[i];
}

static always_inline v16 v16_add(v16 a, v16 b)
{
    v16 r;
    EACH_LANE
        r.f[i] = a.f[i] + b.f[i];
    return r;
}

static always_inline v16 v16_sub(v16 a, v16 b)
{
    v16 r;
    EACH_LANE
        r.f[i] = a.f[i] - b.f[i];
    return r;
}

static always_inline v16 v16_mul(v16 a, v16 b)
{
    v16 r;
    EACH_LANE
        r.f[i] = a.f[i] * b.f[i];
    return r;
}

static always_inline v16 v16_div(v16 a, v16 b)
{
    v16 r;
    EACH_LANE
        r.f[i] = a.f[i] / b.f[i];
    return r;
}

static always_inline v16 v16_max(v16 a, v16 b)
{
    v16 r;
    EACH_LANE
        r.f[i] = a.f[i] > b.f[i] ? a.f[i] : b.f[i];
    return r;
}

static always_inline v16 v16_min(v16 a, v16 b)
{
    v16 r;
    EACH_LANE
        r.f[i] = a.f[i] < b.f[i] ? a.f[i] : b.f[i];
    return r;
}

static always_inline v16 v16_abs(v16 a)
{
    v16 r;
    EACH_LANE
        r.f[i] = fabsf(a.f[i]);
    return r;
}

/* a * b + c, rounded once */
static always_inline v16 v16_fma(v16 a, v16 b, v16 c)
{
    v16 r;
    EACH_LANE
        r.f[i] = fmaf(a.f[i], b.f[i], c.f[i]);
    return r;
}

/* p * 2^n, n in the low bits of t's representation. */
static always_inline v16 v16_scale2(v16 p, v16 t)
{
    v16 r;
    EACH_LANE
        r.f[i] = f32_from_bits(bits_from_f32(p.f[i]) + (bits_from_f32(t.f[i]) << 23));
    return r;
}

/* Lanes i and i + 8, then + 4, + 2, + 1. */
static always_inline float v16_sum(v16 v)
{
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++)
            v.f[i] += v.f[i + half];
    return v.f[0];
}

static always_inline float v16_hmax(v16 v)
{
    float r = v.f[0];
    EACH_LANE
        r = v.f[i] > r ? v.f[i] : r;
    return r;
}

/* Lanes lo <= i < hi of a, the rest of b. */
static always_inline v16 v16_select(int lo, int hi, v16 a, v16 b)
{
    v16 r;
    EACH_LANE
        r.f[i] = i >= lo && i < hi ? a.f[i] : b.f[i];
    return r;
}

static always_inline v16 v16_load_f16(const uint16_t *p)
{
    v16 r;
    EACH_LANE
        r.f[i] = f32_from_f16(p[i]);
    return r;
}

static always_inline v16 v16_load_bf16(const uint16_t *p)
{
    v16 r;
    EACH_LANE
        r.f[i] = f32_from_bf16(p[i]);
    return r;
}

static always_inline v16 v16_load_i8(const int8_t *p)
{
    v16 r;
    EACH_LANE
        r.f[i] = (float)p[i];
    return r;
}

static always_inline v16 v16_load_u8(const uint8_t *p)
{
    v16 r;
    EACH_LANE
        r.f[i] = (float)p[i];
    return r;
}

static always_inline void v16_store_f16(uint16_t *p, v16 v)
{
    EACH_LANE
        p[i] = f16_from_f32(v.f[i]);
}

/* Rounded to nearest even, |v| <= 127; ret_sum takes the sum of the stored values. */
static always_inline void v16_store_i8(int8_t *p, v16 v, int32_t *ret_sum)
{
    int32_t sum = 0;
    EACH_LANE
    {
        p[i] = fabsf(v.f[i]) <= 127.5f ? (int8_t)rintf(v.f[i]) : (int8_t)0;
        sum += p[i];
    }
    *ret_sum = sum;
}

static always_inline b64 b64_load(const uint8_t *p)
{
    b64 r;
    memcpy(r.b, p, sizeof(r.b));
    return r;
}

static always_inline b64 b64_low(b64 v)
{
    for (int i = 0; i < 64; i++)
        v.b[i] &= 15;
    return v;
}

static always_inline b64 b64_high(b64 v)
{
    for (int i = 0; i < 64; i++)
        v.b[i] >>= 4;
    return v;
}

/* v with n bits of plane, from bit `from` of each byte on, as its bits 4 and up. */
static always_inline b64 b64_join(b64 v, b64 plane, int from, int n)
{
    for (int i = 0; i < 64; i++)
        v.b[i] |= (uint8_t)((plane.b[i] >> from & ((1 << n) - 1)) << 4);
    return v;
}

/* Where a sum of (w - (1 << shift)) * x starts; minus: less the sum of x. shift -1: no bias. */
static always_inline n16 n16_start(int shift, const int32_t *minus)
{
    n16 r;
    EACH_LANE
        r.n[i] = shift < 0 ? 0 : *minus * (1 << shift);
    return r;
}

/* acc[i] += sum over j < 4 of w[4 i + j] (unsigned) * x[j]. */
static always_inline n16 n16_dot(n16 acc, b64 w, const int8_t *x, bool wide)
{
    (void)wide;
    EACH_LANE
        for (int j = 0; j < 4; j++)
            acc.n[i] += w.b[4 * i + j] * x[j];
    return acc;
}

static always_inline n16 n16_times256(n16 a)
{
    EACH_LANE
        a.n[i] *= 256;
    return a;
}

static always_inline n16 n16_add(n16 a, n16 b)
{
    n16 r;
    EACH_LANE
        r.n[i] = a.n[i] + b.n[i];
    return r;
}

static always_inline v16 v16_from_n16(n16 n)
{
    v16 r;
    EACH_LANE
        r.f[i] = (float)n.n[i];
    return r;
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
