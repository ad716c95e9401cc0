/*
 * Attention of queries against one span of KV tokens, and KV rows in and out of their types.
 * Scores: one lane is one token, summed over head_dim in order. Values: one lane is one dimension,
 * summed over the tokens that the query sees, in order. So a query's bits depend on its own row,
 * its range and the span's contents, never on the queries computed beside it.
 */
#include "kernels/cpu/isa/isa_fns.h"

enum {
    QUERIES = 4,       /* that share loads */
    SCORE_VECTORS = 2, /* of tokens */
    VALUE_VECTORS = 4, /* of dimensions */
};

static void store_q8(uint8_t *dst, const float *src)
{
    float most = v16_hmax(v16_max(v16_abs(v16_load(src)), v16_abs(v16_load(src + LANES))));
    uint16_t half = f16_from_f32(most / 127.0f);
    float scale = f32_from_f16(half);
    v16 inverse = v16_set1(scale > 0.0f ? 1.0f / scale : 0.0f);
    int32_t sum;

    memcpy(dst, &half, 2);
    v16_store_i8((int8_t *)dst + 2, v16_mul(v16_load(src), inverse), &sum);
    v16_store_i8((int8_t *)dst + 2 + LANES, v16_mul(v16_load(src + LANES), inverse), &sum);
}

void ISA_FN(kv_store)(void *dst, const float *src, int n, enum dtype dtype)
{
    uint16_t *half = dst;
    int i = 0;
    switch (dtype) {
    case DTYPE_F32:
        memcpy(dst, src, (size_t)n * 4);
        break;
    case DTYPE_F16:
        for (; i + LANES <= n; i += LANES)
            v16_store_f16(half + i, v16_load(src + i));
        for (; i < n; i++)
            half[i] = f16_from_f32(src[i]);
        break;
    case DTYPE_BF16:
        for (; i < n; i++)
            half[i] = bf16_from_f32(src[i]);
        break;
    default:
        for (; i < n; i += 32)
            store_q8((uint8_t *)dst + i / 32 * 34, src + i);
    }
}

/* One row of n elements to floats; n is padded with zeros up to a multiple of LANES. */
static void row_to_f32(float *out, const uint8_t *row, int n, enum dtype dtype)
{
    const uint16_t *half = (const uint16_t *)(const void *)row;
    int i = 0;
    if (dtype == DTYPE_Q8_0) {
        for (; i < n; i += LANES) {
            const uint8_t *block = row + i / 32 * 34;
            uint16_t scale;
            memcpy(&scale, block, 2);
            v16 q = v16_load_i8((const int8_t *)block + 2 + i % 32);
            v16_store(out + i, v16_mul(q, v16_set1(f32_from_f16(scale))));
        }
        return;
    }
    for (; i + LANES <= n; i += LANES) {
        v16 v = dtype == DTYPE_F32   ? v16_load((const float *)(const void *)row + i)
                : dtype == DTYPE_F16 ? v16_load_f16(half + i)
                                     : v16_load_bf16(half + i);
        v16_store(out + i, v);
    }
    if (i == n)
        return;
    v16_store(out + n / LANES * LANES, v16_set1(0.0f));
    for (; i < n; i++)
        out[i] = dtype == DTYPE_F32   ? ((const float *)(const void *)row)[i]
                 : dtype == DTYPE_F16 ? f32_from_f16(half[i])
                                      : f32_from_bf16(half[i]);
}

void ISA_FN(kv_load)(const struct kv_span *span, const void *const *k, const void *const *v,
                     int n_token, int head_dim, enum dtype dtype)
{
    int row_bytes = (int)dtype_bytes(dtype, head_dim), stride = lanes_up(head_dim);
    float rows[KV_BLOCK_TOKENS][256];

    for (int first = 0; first < n_token; first += KV_BLOCK_TOKENS) {
        int n = min_of(n_token - first, (int)KV_BLOCK_TOKENS);
        const uint8_t *k_rows = k[first / KV_BLOCK_TOKENS], *v_rows = v[first / KV_BLOCK_TOKENS];
        for (int t = 0; t < n; t++) {
            row_to_f32(rows[t], k_rows + t * row_bytes, head_dim, dtype);
            row_to_f32(span->v + (first + t) * stride, v_rows + t * row_bytes, head_dim, dtype);
        }
        for (int t = n; t < KV_BLOCK_TOKENS; t++)
            memset(rows[t], 0, sizeof(rows[t]));
        for (int d = 0; d < head_dim; d += LANES)
            v16_transpose(span->k + d * SPAN_TOKENS + first, SPAN_TOKENS, rows[0] + d, 256,
                          min_of(head_dim - d, LANES));
    }
}

/* scores[i][token] of n queries and SCORE_VECTORS vectors of tokens. */
static always_inline void score_tile(const float *k, const struct span_query *query, const int n,
                                     int head_dim, float *scores)
{
    v16 acc[QUERIES][SCORE_VECTORS];
    for (int i = 0; i < n; i++)
        for (int j = 0; j < SCORE_VECTORS; j++)
            acc[i][j] = v16_set1(0.0f);
    for (int d = 0; d < head_dim; d++, k += SPAN_TOKENS)
        for (int i = 0; i < n; i++) {
            v16 q = v16_set1(query[i].q[d]);
            for (int j = 0; j < SCORE_VECTORS; j++)
                acc[i][j] = v16_fma(q, v16_load(k + LANES * j), acc[i][j]);
        }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < SCORE_VECTORS; j++)
            v16_store(scores + i * SPAN_TOKENS + LANES * j, acc[i][j]);
}

/* Scores become weights: e^(score - max) inside the range, 0 outside. */
static void soften(float *scores, const struct span_query *query)
{
    int first = query->first / LANES * LANES, end = query->end;
    v16 most = v16_set1(-INFINITY), sum = v16_set1(0.0f);

    for (int t = first; t < end; t += LANES)
        most = v16_max(v16_select(max_of(query->first - t, 0), min_of(end - t, LANES),
                                  v16_load(scores + t), most), most);
    float max = v16_hmax(most);
    for (int t = first; t < end; t += LANES) {
        v16 e = v16_exp(v16_sub(v16_load(scores + t), v16_set1(max)));
        e = v16_select(max_of(query->first - t, 0), min_of(end - t, LANES), e, v16_set1(0.0f));
        v16_store(scores + t, e);
        sum = v16_add(sum, e);
    }
    query->state->max = max;
    query->state->sum = v16_sum(sum);
}

/* acc += weights * values for tokens [first, end) of n queries, dimensions d and on. */
static always_inline void value_tile(const struct kv_span *span, int stride, int d,
                                     const float *scores, const struct span_query *query,
                                     int first, int end, const int n, const int n_vector)
{
    v16 acc[QUERIES][VALUE_VECTORS];
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n_vector; j++)
            acc[i][j] = v16_load(query[i].state->acc + d + LANES * j);
    for (int t = first; t < end; t++) {
        const float *v = span->v + t * stride + d;
        for (int i = 0; i < n; i++) {
            v16 p = v16_set1(scores[i * SPAN_TOKENS + t]);
            for (int j = 0; j < n_vector; j++)
                acc[i][j] = v16_fma(p, v16_load(v + LANES * j), acc[i][j]);
        }
    }
    for (int i = 0; i < n; i++)
        for (int j = 0; j < n_vector; j++)
            v16_store(query[i].state->acc + d + LANES * j, acc[i][j]);
}

static always_inline void value_rows(const struct kv_span *span, int stride, const float *scores,
                                     const struct span_query *query, int first, int end,
                                     const int n)
{
    int d = 0;
    for (; d + LANES * VALUE_VECTORS <= stride; d += LANES * VALUE_VECTORS)
        value_tile(span, stride, d, scores, query, first, end, n, VALUE_VECTORS);
    for (; d < stride; d += LANES)
        value_tile(span, stride, d, scores, query, first, end, n, 1);
}

static always_inline void attend_tile(const struct kv_span *span, const struct span_query *query,
                                      const int n, int head_dim, float *scores)
{
    int stride = lanes_up(head_dim), first = SPAN_TOKENS, end = 0, shared_first = 0;
    int shared_end = SPAN_TOKENS;
    const int step = LANES * SCORE_VECTORS;

    for (int i = 0; i < n; i++) {
        first = min_of(first, query[i].first);
        end = max_of(end, query[i].end);
        shared_first = max_of(shared_first, query[i].first);
        shared_end = min_of(shared_end, query[i].end);
        memset(query[i].state->acc, 0, (size_t)stride * sizeof(float));
    }
    for (int t = first / step * step; t < end; t += step)
        score_tile(span->k + t, query, n, head_dim, scores + t);
    for (int i = 0; i < n; i++)
        soften(scores + i * SPAN_TOKENS, &query[i]);
    if (shared_end < shared_first)
        shared_end = shared_first;
    for (int i = 0; i < n; i++)
        value_rows(span, stride, scores + i * SPAN_TOKENS, query + i, query[i].first,
                   min_of(shared_first, query[i].end), 1);
    value_rows(span, stride, scores, query, shared_first, shared_end, n);
    for (int i = 0; i < n; i++)
        value_rows(span, stride, scores + i * SPAN_TOKENS, query + i,
                   max_of(shared_end, query[i].first), query[i].end, 1);
}

void ISA_FN(span_attend)(const struct kv_span *span, const struct span_query *query, int n_query,
                         int head_dim, float *scores)
{
    for (; n_query >= QUERIES; n_query -= QUERIES, query += QUERIES)
        attend_tile(span, query, QUERIES, head_dim, scores);
    if (n_query == 3)
        attend_tile(span, query, 3, head_dim, scores);
    else if (n_query == 2)
        attend_tile(span, query, 2, head_dim, scores);
    else if (n_query == 1)
        attend_tile(span, query, 1, head_dim, scores);
}

void ISA_FN(attn_merge)(struct attn_state *into, const struct attn_state *next, int head_dim)
{
    float lanes[LANES] aligned_to(64);
    float max = into->max > next->max ? into->max : next->max;
    v16 gap = v16_select(0, 1, v16_set1(into->max - max), v16_set1(next->max - max));

    v16_store(lanes, v16_exp(gap));
    v16 a = v16_set1(lanes[0]), b = v16_set1(lanes[1]);
    for (int d = 0; d < head_dim; d += LANES)
        v16_store(into->acc + d, v16_fma(v16_load(into->acc + d), a,
                                         v16_mul(v16_load(next->acc + d), b)));
    into->sum = fmaf(into->sum, lanes[0], next->sum * lanes[1]);
    into->max = max;
}
