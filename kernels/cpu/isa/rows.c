/* Row loops: norm, quantisation of activations, SwiGLU, rotation, and what sampling needs. */
#include "kernels/cpu/isa/isa_fns.h"

float ISA_FN(rms_inverse)(const float *x, int n, float eps)
{
    v16 a = v16_set1(0.0f), b = v16_set1(0.0f);
    int i = 0;
    for (; i + 2 * LANES <= n; i += 2 * LANES) {
        v16 p = v16_load(x + i), q = v16_load(x + i + LANES);
        a = v16_fma(p, p, a);
        b = v16_fma(q, q, b);
    }
    for (; i < n; i += LANES) {
        v16 p = v16_load_some(x + i, n - i);
        a = v16_fma(p, p, a);
    }
    return 1.0f / sqrtf(v16_sum(v16_add(a, b)) / (float)n + eps);
}

void ISA_FN(scale_row)(float *out, const float *x, const float *weight, float scale, int n)
{
    v16 s = v16_set1(scale);
    for (int i = 0; i < n; i += LANES) {
        v16 v = v16_mul(v16_load_some(x + i, n - i), s);
        if (weight)
            v = v16_mul(v, v16_load_some(weight + i, n - i));
        v16_store_some(out + i, v, n - i);
    }
}

/*
 * q = x / scale rounded, and in a fine row what that leaves in 256ths. A block with a NaN or an
 * infinity gets scale NaN, so that it is seen in the result.
 */
static float quantize_block(int8_t *q, int8_t *fine, const float *x, int32_t *ret_sum)
{
    float bad = 0.0f, most = 0.0f;
    int32_t sum;

    for (int i = 0; i < XQ_BLOCK; i += LANES) {
        bad += v16_sum(v16_mul(v16_load(x + i), v16_set1(0.0f)));
        float most_here = v16_hmax(v16_abs(v16_load(x + i)));
        most = most_here > most ? most_here : most;
    }
    ret_sum[0] = ret_sum[1] = 0;
    if (bad != 0.0f || most < 1e-30f) { /* NaN compares unequal */
        memset(q, 0, XQ_BLOCK);
        if (fine)
            memset(fine, 0, XQ_BLOCK);
        return bad != 0.0f ? bad : 0.0f;
    }
    v16 inverse = v16_set1(127.0f / most);
    for (int half = 0; half < 2; half++) {
        v16 steps = v16_mul(v16_load(x + LANES * half), inverse);
        v16_store_i8(q + LANES * half, steps, &ret_sum[half]);
        if (!fine)
            continue;
        v16 rest = v16_sub(steps, v16_load_i8(q + LANES * half));
        rest = v16_mul(rest, v16_set1(256.0f));
        rest = v16_max(v16_set1(-127.0f), v16_min(v16_set1(127.0f), rest));
        v16_store_i8(fine + LANES * half, rest, &sum);
        ret_sum[half] = ret_sum[half] * 256 + sum;
    }
    return most / (fine ? 127.0f * 256.0f : 127.0f);
}

void ISA_FN(quantize_row)(void *xq, const float *x, int n, bool fine)
{
    int n_block = n / XQ_BLOCK;
    int8_t *q = xq;
    float *scale = (float *)(void *)((char *)xq + n);
    int32_t *minus = (int32_t *)(void *)(scale + 2 * n_block);
    int8_t *rest = (int8_t *)(minus + 3 * n_block);
    for (int b = 0; b < n_block; b++) {
        int32_t sum[2];
        scale[b] = quantize_block(q + XQ_BLOCK * b, fine ? rest + XQ_BLOCK * b : NULL,
                                  x + XQ_BLOCK * b, sum);
        scale[n_block + b] = scale[b] * (float)(sum[0] + sum[1]);
        minus[b] = -(sum[0] + sum[1]);
        minus[n_block + 2 * b] = -sum[0];
        minus[n_block + 2 * b + 1] = -sum[1];
    }
}

void ISA_FN(swiglu_row)(float *out, const float *gate, const float *up, int n)
{
    v16 one = v16_set1(1.0f), zero = v16_set1(0.0f);
    for (int i = 0; i < n; i += LANES) {
        v16 g = v16_load_some(gate + i, n - i), u = v16_load_some(up + i, n - i);
        v16 silu = v16_div(g, v16_add(one, v16_exp(v16_sub(zero, g))));
        v16_store_some(out + i, v16_mul(silu, u), n - i);
    }
}

float ISA_FN(row_max)(const float *x, int n, bool *ret_finite)
{
    v16 most = v16_set1(x[0]), bad = v16_set1(0.0f), zero = v16_set1(0.0f);
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        v16 v = v16_load(x + i);
        bad = v16_fma(v, zero, bad);
        most = v16_max(most, v);
    }
    float best = v16_hmax(most), sum = v16_sum(bad);
    for (; i < n; i++) {
        sum += x[i] * 0.0f;
        best = x[i] > best ? x[i] : best;
    }
    *ret_finite = sum == 0.0f;
    return best;
}

double ISA_FN(sum_exp)(const float *x, int n, float max, float divisor)
{
    double total = 0.0;
    for (int i = 0; i < n;) {
        v16 sum = v16_set1(0.0f);
        int end = min_of(i + 4096, n);
        for (; i < end; i += LANES) {
            v16 z = v16_div(v16_load_some(x + i, n - i), v16_set1(divisor));
            v16 e = v16_exp(v16_sub(z, v16_set1(max / divisor)));
            sum = v16_add(sum, v16_select(0, min_of(n - i, LANES), e, v16_set1(0.0f)));
        }
        total += (double)v16_sum(sum);
    }
    return total;
}

enum { PHILOX_AT_ONCE = 16 };

void ISA_FN(philox)(uint32_t *out, uint32_t first, int n_quad, uint32_t c1, uint32_t c2,
                    uint64_t key)
{
    for (int q = 0; q < n_quad; q += PHILOX_AT_ONCE) {
        uint32_t a[PHILOX_AT_ONCE], b[PHILOX_AT_ONCE], c[PHILOX_AT_ONCE], d[PHILOX_AT_ONCE];
        uint32_t k0 = (uint32_t)key, k1 = (uint32_t)(key >> 32);
        for (int i = 0; i < PHILOX_AT_ONCE; i++) {
            a[i] = first + (uint32_t)(q + i);
            b[i] = c1;
            c[i] = c2;
            d[i] = 0;
        }
        for (int round = 0; round < 10; round++, k0 += 0x9e3779b9, k1 += 0xbb67ae85)
            for (int i = 0; i < PHILOX_AT_ONCE; i++) {
                uint64_t p = (uint64_t)a[i] * 0xd2511f53, r = (uint64_t)c[i] * 0xcd9e8d57;
                a[i] = (uint32_t)(r >> 32) ^ b[i] ^ k0;
                b[i] = (uint32_t)r;
                c[i] = (uint32_t)(p >> 32) ^ d[i] ^ k1;
                d[i] = (uint32_t)p;
            }
        for (int i = 0; i < PHILOX_AT_ONCE && q + i < n_quad; i++) {
            out[4 * (q + i)] = a[i];
            out[4 * (q + i) + 1] = b[i];
            out[4 * (q + i) + 2] = c[i];
            out[4 * (q + i) + 3] = d[i];
        }
    }
}

/* cos_sin: n_dim / 2 cosines, then n_dim / 2 sines. */
void ISA_FN(rotate)(float *head, const float *cos_sin, int n_dim, bool interleaved)
{
    int n = n_dim / 2;
    for (int i = 0; i < n; i++) {
        float *a = interleaved ? head + 2 * i : head + i;
        float *b = interleaved ? a + 1 : head + i + n;
        float x = *a, y = *b, c = cos_sin[i], s = cos_sin[n + i];
        *a = x * c - y * s;
        *b = x * s + y * c;
    }
}
