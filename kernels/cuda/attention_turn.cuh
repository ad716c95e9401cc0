/*
 * The rope_append of a decode row in its attention: RMS norm and rotation of the query heads and of
 * the row's own K, which with V goes to the KV pool.
 *
 * A lane holds 8 values at 32 j + 8 t of head g (attention_rows.cuh), so both values of a pair, and
 * a head's sum of squares is four lanes'. K takes columns that no query head has: the same
 * instructions turn both. Every warp turns its own copy of the queries. The warp that walks the
 * last KV block appends K and V, and keeps them in shared memory for that block: so all of the
 * block may be read before pdl_wait(), its last token too, whatever the pool holds there.
 */
#ifndef RINGLET_CUDA_ATTENTION_TURN_CUH
#define RINGLET_CUDA_ATTENTION_TURN_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attn_turns.h"

namespace ACT_SPACE {

/* Of pair i: a becomes a ac - b bs, b becomes b bc + a as; norm weights are in it, 1/rms is not. */
template <int HD> struct alignas(16) turn_table {
    float ac[HD / 2], bs[HD / 2], bc[HD / 2], as[HD / 2];
};

template <int HD> struct alignas(16) turn_shared {
    turn_table<HD> q, k;
    act own_k[HD], own_v[HD]; /* of the last KV block's last token */
};

/* What one thread makes of the tables: pair i of q's or of k's. */
struct turn_ask {
    float freq, norm_a, norm_b;
    int position, slot;
};

/*
 * Asks only: the step's arrays and weights were there before it began. Volatile, or the compiler
 * would move it below KV loads, and who waits for it would wait for those.
 */
static __device__ __forceinline__ int ask_int(const int32_t *p)
{
    int v;
    asm volatile("ld.global.b32 %0, [%1];" : "=r"(v) : "l"(p));
    return v;
}

static __device__ __forceinline__ float ask_float(const float *p)
{
    float v;
    asm volatile("ld.global.f32 %0, [%1];" : "=f"(v) : "l"(p));
    return v;
}

template <int HD>
static __device__ __forceinline__ turn_ask ask_turn(const attn_turn &p, int row)
{
    int i = (int)threadIdx.x % (HD / 2);
    const float *norm = (int)threadIdx.x < HD / 2 ? p.q_norm : p.k_norm;
    turn_ask ask = {};
    ask.position = ask_int(p.position + row);
    ask.slot = ask_int(p.slot + row);
    ask.freq = ask_float(p.inv_freq + i);
    ask.norm_a = ask.norm_b = 1;
    if (p.normed) {
        ask.norm_a = ask_float(norm + i);
        ask.norm_b = ask_float(norm + i + HD / 2);
    }
    return ask;
}

/* The tables. All threads of the block, which then has to meet. */
template <int HD>
static __device__ __forceinline__ void put_tables(const attn_turn &p, const turn_ask &ask,
                                                  turn_shared<HD> *s)
{
    static_assert(HD <= 128); /* threads */
    int i = (int)threadIdx.x % (HD / 2);
    if ((int)threadIdx.x >= HD)
        return;
    turn_table<HD> *table = (int)threadIdx.x < HD / 2 ? &s->q : &s->k;
    float sine, cosine;
    sincosf((float)ask.position * ask.freq, &sine, &cosine);
    sine *= p.scale;
    cosine *= p.scale;
    table->ac[i] = ask.norm_a * cosine;
    table->as[i] = ask.norm_a * sine;
    table->bc[i] = ask.norm_b * cosine;
    table->bs[i] = ask.norm_b * sine;
}

static __device__ __forceinline__ float4 turn_four(const float *x, const float *y, const float *xs,
                                                   const float *ys, float rstd, float sign)
{
    float4 m = *(const float4 *)xs, n = *(const float4 *)ys;
    return make_float4(rstd * (x[0] * m.x + sign * (y[0] * n.x)),
                       rstd * (x[1] * m.y + sign * (y[1] * n.y)),
                       rstd * (x[2] * m.z + sign * (y[2] * n.z)),
                       rstd * (x[3] * m.w + sign * (y[3] * n.w)));
}

/* This lane's values of a head, q's or k's: norm and rotation in place. All lanes of a warp. */
template <int HD>
static __device__ __forceinline__ void turn_head(const attn_turn &p, const turn_table<HD> &table,
                                                 int t, uint4 *head)
{
    constexpr int N = HD / 32;
    float v[N][8], sums[4] = {}; /* apart: sums that follow each other take long */
#pragma unroll
    for (int j = 0; j < N; j++) {
        act8 raw;
        memcpy(&raw, &head[j], 16);
        unpack8(raw, v[j]);
#pragma unroll
        for (int i = 0; i < 8; i++)
            sums[i % 4] += v[j][i] * v[j][i];
    }
    float sum = sums[0] + sums[1] + (sums[2] + sums[3]);
    sum += __shfl_xor_sync(0xffffffffu, sum, 1);
    sum += __shfl_xor_sync(0xffffffffu, sum, 2);
    float rstd = p.normed ? rsqrtf(sum / (float)HD + p.eps) : 1.0f;
#pragma unroll
    for (int j = 0; j < N / 2; j++) {
        const float *x = v[j], *y = v[j + N / 2];
        uint32_t *a = &head[j].x, *b = &head[j + N / 2].x;
#pragma unroll
        for (int i = 0; i < 8; i += 4) {
            int at = 32 * j + 8 * t + i;
            float4 u = turn_four(x + i, y + i, table.ac + at, table.bs + at, rstd, -1);
            float4 w = turn_four(y + i, x + i, table.bc + at, table.as + at, rstd, 1);
            a[i / 2] = pack_act(u.x, u.y);
            a[i / 2 + 1] = pack_act(u.z, u.w);
            b[i / 2] = pack_act(w.x, w.y);
            b[i / 2 + 1] = pack_act(w.z, w.w);
        }
    }
}

/* Where a lane finds its part of head g of q or, in the columns after the last, of the row's K. */
struct raw_at {
    const act *head;
    const act *v; /* its part of the row's V; NULL: it takes none */
};

/* Called before pdl_wait(), so that nothing is left to compute after it: hence the asm. */
template <int HD>
static __device__ __forceinline__ raw_at find_raw(const attn_turn &p, const act *q0, int64_t own,
                                                  int n_valid, bool last)
{
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    raw_at at;
    at.head = (g < n_valid ? q0 + g * HD : p.k + own) + 8 * t;
    at.v = last && lane < HD / 8 ? p.v + own + 8 * lane : NULL;
    asm volatile("" : "+l"(at.head), "+l"(at.v));
    return at;
}

template <int HD>
static __device__ __forceinline__ void ask_raw(const raw_at &at, uint4 *q, uint4 *v)
{
#pragma unroll
    for (int j = 0; j < HD / 32; j++)
        q[j] = __ldcg((const uint4 *)(at.head + 32 * j));
    *v = at.v ? __ldcg((const uint4 *)at.v) : make_uint4(0, 0, 0, 0);
}

/*
 * Turns what ask_raw() brought; the columns of K are zero afterwards. last: this warp walks the
 * row's last KV block, keeps K and V, and appends them at `at` of the pools, elements (-1: not).
 */
template <int HD>
static __device__ __forceinline__ void turn_raw(const attn_turn &p, turn_shared<HD> *s, int n_valid,
                                                bool last, int64_t at, uint4 *q, uint4 v)
{
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    turn_head<HD>(p, g < n_valid ? s->q : s->k, t, q);
    if (last && lane < HD / 8) {
        *(uint4 *)(s->own_v + 8 * lane) = v;
        if (at >= 0)
            *(uint4 *)(p.v_pool + at + 8 * lane) = v;
    }
    if (last && g == TURN_HEADS_MAX) {
#pragma unroll
        for (int j = 0; j < HD / 32; j++) {
            *(uint4 *)(s->own_k + 32 * j + 8 * t) = q[j];
            if (at >= 0)
                *(uint4 *)(p.k_pool + at + 32 * j + 8 * t) = q[j];
        }
    }
    if (last)
        __syncwarp();
#pragma unroll
    for (int j = 0; j < HD / 32; j++)
        if (g >= n_valid)
            q[j] = make_uint4(0, 0, 0, 0);
}

} // namespace ACT_SPACE

#endif
