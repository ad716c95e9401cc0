/* The oracle: plain C, double accumulation, as close to the formulas as it can be written. */
#include "kernels/cpu/ref.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"

static void *need(size_t n, size_t bytes)
{
    void *p = calloc(n ? n : 1, bytes);
    if (!p)
        abort();
    return p;
}

static uint16_t u16_at(const uint8_t *p)
{
    return (uint16_t)(p[0] + 256 * p[1]);
}

static double half_value(uint16_t h)
{
    int exp = h >> 10 & 31, frac = h & 1023;
    double value = exp == 31  ? (frac ? (double)NAN : (double)INFINITY)
                   : exp == 0 ? ldexp(frac, -24)
                              : ldexp(1024 + frac, exp - 25);
    return h & 0x8000 ? -value : value;
}

static double half_at(const uint8_t *p)
{
    return half_value(u16_at(p));
}

static double bf16_value(uint16_t b)
{
    uint32_t bits = (uint32_t)b << 16;
    float f;
    memcpy(&f, &bits, 4);
    return (double)f;
}

/* The nearest of the 65536 values by halving the gap; ties to the even code. */
static uint16_t nearest_code(double value, uint16_t infinity, double (*value_of)(uint16_t))
{
    uint16_t low = 0, high = infinity;
    double mag = fabs(value);
    if (isnan(value))
        return (uint16_t)(infinity | 1 | infinity >> 1);
    while (high - low > 1) {
        uint16_t middle = (uint16_t)((low + high) / 2);
        if (value_of(middle) <= mag)
            low = middle;
        else
            high = middle;
    }
    if (mag >= value_of(infinity)) {
        low = infinity;
    } else {
        double top = high == infinity ? 2.0 * value_of(low) - value_of((uint16_t)(low - 1))
                                      : value_of(high);
        double below = mag - value_of(low), above = top - mag;
        if (above < below || (above == below && low % 2))
            low = high;
    }
    return (uint16_t)(low | (signbit(value) ? 0x8000 : 0));
}

static double small_element(enum dtype dtype, const uint8_t *p, int i)
{
    double d = half_at(p);
    int bit = 0;
    switch (dtype) {
    case DTYPE_Q8_0:
        return (double)(int8_t)p[2 + i] * d;
    case DTYPE_Q4_0:
        return ((i < 16 ? p[2 + i] & 15 : p[2 + i - 16] >> 4) - 8) * d;
    case DTYPE_Q4_1:
        return (i < 16 ? p[4 + i] & 15 : p[4 + i - 16] >> 4) * d + half_at(p + 2);
    case DTYPE_Q5_0:
        bit = p[2 + i / 8] >> (i % 8) & 1;
        return ((i < 16 ? p[6 + i] & 15 : p[6 + i - 16] >> 4) + 16 * bit - 16) * d;
    default:
        bit = p[4 + i / 8] >> (i % 8) & 1;
        return ((i < 16 ? p[8 + i] & 15 : p[8 + i - 16] >> 4) + 16 * bit) * d + half_at(p + 2);
    }
}

static double k_element(enum dtype dtype, const uint8_t *p, int i)
{
    if (dtype == DTYPE_Q6_K) {
        int half = i / 128, l = i % 32, quarter = i % 128 / 32;
        int low = p[64 * half + 32 * (quarter % 2) + l];
        low = quarter < 2 ? low & 15 : low >> 4;
        int high = p[128 + 32 * half + l] >> (2 * quarter) & 3;
        int scale = (int8_t)p[192 + 8 * half + l / 16 + 2 * quarter];
        return half_at(p + 208) * scale * (low + 16 * high - 32);
    }
    const uint8_t *s = p + 4, *quants = dtype == DTYPE_Q5_K ? p + 48 : p + 16;
    int sub = i / 32, l = i % 32, scale, min;
    if (sub < 4) {
        scale = s[sub] & 63;
        min = s[sub + 4] & 63;
    } else {
        scale = (s[sub + 4] & 15) + 16 * (s[sub - 4] >> 6);
        min = (s[sub + 4] >> 4) + 16 * (s[sub] >> 6);
    }
    int q = quants[32 * (sub / 2) + l];
    q = sub % 2 ? q >> 4 : q & 15;
    if (dtype == DTYPE_Q5_K)
        q += 16 * (p[16 + l] >> sub & 1);
    return half_at(p) * scale * q - half_at(p + 2) * min;
}

void ref_dequantize(enum dtype dtype, const void *src, int n, float *out)
{
    const struct dtype_info *info = &dtype_infos[dtype];
    const uint8_t *p = src;
    assert(n % info->block_elems == 0);
    for (int i = 0; i < n; i++) {
        const uint8_t *block = p + (int64_t)(i / info->block_elems) * info->block_bytes;
        switch (dtype) {
        case DTYPE_F32:
            memcpy(&out[i], block, 4);
            break;
        case DTYPE_F16:
            out[i] = (float)half_at(block);
            break;
        case DTYPE_BF16:
            out[i] = (float)bf16_value(u16_at(block));
            break;
        case DTYPE_Q4_K:
        case DTYPE_Q5_K:
        case DTYPE_Q6_K:
            out[i] = (float)k_element(dtype, block, i % 256);
            break;
        default:
            out[i] = (float)small_element(dtype, block, i % 32);
        }
    }
}

void ref_quantize(enum dtype dtype, const float *src, int n, void *out)
{
    uint8_t *p = out;
    if (dtype == DTYPE_F32) {
        memcpy(out, src, (size_t)n * 4);
        return;
    }
    if (dtype != DTYPE_Q8_0) {
        for (int i = 0; i < n; i++) {
            uint16_t code = dtype == DTYPE_F16 ? nearest_code((double)src[i], 0x7c00, half_value)
                                               : nearest_code((double)src[i], 0x7f80, bf16_value);
            memcpy(p + 2 * i, &code, 2);
        }
        return;
    }
    for (int i = 0; i < n; i += 32, p += 34) {
        double most = 0.0;
        for (int j = 0; j < 32; j++)
            most = fmax(most, fabs((double)src[i + j]));
        uint16_t code = nearest_code(most / 127.0, 0x7c00, half_value);
        double d = half_value(code);
        memcpy(p, &code, 2);
        for (int j = 0; j < 32; j++)
            p[2 + j] = (uint8_t)(int8_t)(d > 0.0 ? nearbyint((double)src[i + j] / d) : 0.0);
    }
}

void ref_round_activations(float *x, int n)
{
    for (int i = 0; i < n; i += 32) {
        double most = 0.0;
        for (int j = 0; j < 32; j++)
            most = fmax(most, fabs((double)x[i + j]));
        for (int j = 0; j < 32 && most > 0.0; j++)
            x[i + j] = (float)(nearbyint((double)x[i + j] * 127.0 / most) * most / 127.0);
    }
}

static void norm(const float *x, const float *weight, int n, float eps, double *out)
{
    double sum = 0.0;
    for (int i = 0; i < n; i++)
        sum += (double)x[i] * (double)x[i];
    double scale = weight ? 1.0 / sqrt(sum / n + (double)eps) : 1.0;
    for (int i = 0; i < n; i++)
        out[i] = (double)x[i] * scale * (weight ? (double)weight[i] : 1.0);
}

/* out[r] = sum over k of w[r][k] * x[k] */
static void apply(const struct weight *w, const double *x, double *out)
{
    float *row = need((size_t)w->n_col, sizeof(*row));
    for (int r = 0; r < w->n_row; r++) {
        ref_dequantize(w->dtype, (const uint8_t *)w->data + r * dtype_bytes(w->dtype, w->n_col),
                       w->n_col, row);
        out[r] = 0.0;
        for (int k = 0; k < w->n_col; k++)
            out[r] += (double)row[k] * x[k];
    }
    free(row);
}

void ref_embed(const struct embed_args *args)
{
    const struct weight *table = args->table;
    for (int i = 0; i < args->n_row; i++) {
        int32_t id = args->token[i];
        float *out = (float *)args->out + (int64_t)i * table->n_col;
        if (id < 0)
            id = args->prev_sampled[-1 - id];
        if (id < 0 || id >= table->n_row)
            id = 0;
        ref_dequantize(table->dtype,
                       (const uint8_t *)table->data + id * dtype_bytes(table->dtype, table->n_col),
                       table->n_col, out);
        for (int k = 0; k < table->n_col; k++)
            out[k] = (float)((double)out[k] * (double)args->scale);
    }
}

void ref_rms_norm(const struct rms_norm_args *args)
{
    double *y = need((size_t)args->dim, sizeof(*y));
    for (int i = 0; i < args->n_row; i++) {
        norm((const float *)args->x + i * args->x_stride, args->weight, args->dim, args->eps, y);
        for (int k = 0; k < args->dim; k++)
            ((float *)args->out)[i * args->out_stride + k] = (float)y[k];
    }
    free(y);
}

void ref_matmul(const struct matmul_args *args)
{
    int n_col = args->weight[0]->n_col;
    double *x = need((size_t)n_col, sizeof(*x));
    for (int r = 0; r < args->n_row; r++) {
        norm((const float *)args->x + r * args->x_stride, args->norm_weight, n_col,
             args->norm_eps, x);
        for (int i = 0; i < args->n_weight; i++) {
            int n = args->weight[i]->n_row;
            float *out = (float *)args->out[i] + r * args->out_stride[i];
            double *y = need((size_t)n, sizeof(*y));
            apply(args->weight[i], x, y);
            for (int k = 0; k < n; k++) {
                double bias = args->bias[i] ? (double)args->bias[i][k] : 0.0;
                out[k] = (float)(y[k] + bias + (args->add ? (double)out[k] : 0.0));
            }
            free(y);
        }
    }
    free(x);
}

static void turn(float *head, const struct rope *rope, int position)
{
    int n = rope->n_dim / 2;
    for (int i = 0; i < n; i++) {
        float *a = rope->interleaved ? head + 2 * i : head + i;
        float *b = rope->interleaved ? a + 1 : head + i + n;
        double angle = (double)((float)position * rope->inv_freq[i]), x = (double)*a;
        double y = (double)*b, c = cos(angle) * (double)rope->scale;
        double s = sin(angle) * (double)rope->scale;
        *a = (float)(x * c - y * s);
        *b = (float)(x * s + y * c);
    }
}

static uint8_t *kv_row(const struct kv_layer *kv, const void *base, int block, int offset, int head)
{
    int64_t row = (int64_t)head * KV_BLOCK_TOKENS + offset;
    return (uint8_t *)(uintptr_t)base + block * kv->block_stride +
           row * dtype_bytes(kv->dtype, kv->head_dim);
}

static void turn_head(const struct rope_append_args *args, float *head, const float *norm_weight,
                      int position)
{
    double y[256];
    int n = args->kv.head_dim;
    norm(head, norm_weight, n, args->norm_eps, y);
    for (int i = 0; i < n; i++)
        head[i] = (float)y[i];
    turn(head, &args->rope, position);
}

void ref_rope_append(const struct rope_append_args *args)
{
    const struct kv_layer *kv = &args->kv;
    int n = kv->head_dim;
    float k[256];
    for (int r = 0; r < args->n_row; r++) {
        int slot = args->slot[r], block = slot / KV_BLOCK_TOKENS, at = slot % KV_BLOCK_TOKENS;
        for (int h = 0; h < args->n_head; h++)
            turn_head(args, (float *)args->q + r * args->stride + h * n, args->q_norm,
                      args->position[r]);
        for (int h = 0; h < kv->n_kv_head && slot >= 0; h++) {
            const float *v = (const float *)args->v + r * args->stride + h * n;
            memcpy(k, (const float *)args->k + r * args->stride + h * n, (size_t)n * 4);
            turn_head(args, k, args->k_norm, args->position[r]);
            ref_quantize(kv->dtype, k, n, kv_row(kv, kv->k, block, at, h));
            ref_quantize(kv->dtype, v, n, kv_row(kv, kv->v, block, at, h));
        }
    }
}

/* One query against tokens [first, end) of its sequence. */
static void attend(const struct attn_args *args, const int32_t *blocks, int kv_head,
                   const float *q, int first, int end, float *out)
{
    const struct kv_layer *kv = &args->kv;
    double *score = need((size_t)end, sizeof(*score)), max = -(double)INFINITY, sum = 0.0;
    double acc[256] = { 0 };
    float row[256];
    for (int t = first; t < end; t++) {
        ref_dequantize(kv->dtype, kv_row(kv, kv->k, blocks[t / 16], t % 16, kv_head), kv->head_dim,
                       row);
        for (int d = 0; d < kv->head_dim; d++)
            score[t] += (double)q[d] * (double)row[d];
        score[t] *= (double)args->scale;
        max = fmax(max, score[t]);
    }
    for (int t = first; t < end; t++) {
        double p = exp(score[t] - max);
        sum += p;
        ref_dequantize(kv->dtype, kv_row(kv, kv->v, blocks[t / 16], t % 16, kv_head), kv->head_dim,
                       row);
        for (int d = 0; d < kv->head_dim; d++)
            acc[d] += p * (double)row[d];
    }
    for (int d = 0; d < kv->head_dim; d++)
        out[d] = (float)(acc[d] / sum);
    free(score);
}

void ref_attn(const struct attn_args *args)
{
    const struct seq_batch *batch = args->batch;
    int n = args->kv.head_dim, group = args->n_head / args->kv.n_kv_head;
    for (int s = 0; s < batch->n_seq; s++)
        for (int r = batch->row_start[s]; r < batch->row_start[s + 1]; r++) {
            int position = batch->kv_tokens[s] - (batch->row_start[s + 1] - r);
            int first = args->window > 0 ? position - args->window + 1 : 0;
            for (int h = 0; h < args->n_head; h++) {
                float *out = (float *)args->out + r * args->out_stride + h * n;
                if (position < 0)
                    memset(out, 0, (size_t)n * 4);
                else
                    attend(args, batch->blocks + batch->block_start[s], h / group,
                           (const float *)args->q + r * args->q_stride + h * n,
                           first > 0 ? first : 0, position + 1, out);
            }
        }
}

static double silu(double x)
{
    return x / (1.0 + exp(-x));
}

void ref_swiglu(const struct swiglu_args *args)
{
    for (int r = 0; r < args->n_row; r++)
        for (int k = 0; k < args->dim; k++) {
            double gate = (double)((const float *)args->gate)[r * args->stride + k];
            double up = (double)((const float *)args->up)[r * args->stride + k];
            ((float *)args->out)[r * args->out_stride + k] = (float)(silu(gate) * up);
        }
}

void ref_ffn_in(const struct ffn_in_args *args)
{
    int n_col = args->gate->n_col, n = args->up ? args->gate->n_row : args->gate->n_row / 2;
    double *x = need((size_t)n_col, sizeof(*x)), *y = need(2 * (size_t)n, sizeof(*y));
    for (int r = 0; r < args->n_row; r++) {
        norm((const float *)args->x + (int64_t)r * n_col, args->norm_weight, n_col, args->norm_eps,
             x);
        apply(args->gate, x, y);
        if (args->up)
            apply(args->up, x, y + n);
        for (int k = 0; k < n; k++)
            ((float *)args->out)[(int64_t)r * n + k] = (float)(silu(y[k]) * y[n + k]);
    }
    free(x);
    free(y);
}

void ref_attn_in(const struct attn_in_args *args)
{
    ref_matmul(&args->qkv);
    ref_rope_append(&args->rope);
}

void ref_logits(const struct logits_args *args)
{
    const struct weight *w = args->lm_head;
    double *x = need((size_t)w->n_col, sizeof(*x)), *y = need((size_t)w->n_row, sizeof(*y));
    for (int i = 0; i < args->n_sample; i++) {
        norm((const float *)args->x + args->row[i] * args->x_stride, args->norm_weight, w->n_col,
             args->norm_eps, x);
        apply(w, x, y);
        for (int k = 0; k < w->n_row; k++)
            args->out[(int64_t)i * w->n_row + k] = (float)(y[k] * (double)args->scale);
    }
    free(x);
    free(y);
}
