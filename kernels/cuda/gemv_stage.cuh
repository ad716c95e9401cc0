/* The rows of activations of a skinny product, brought into shared memory, RMS norm folded in. */
#ifndef RINGLET_CUDA_GEMV_STAGE_CUH
#define RINGLET_CUDA_GEMV_STAGE_CUH

#include "kernels/cuda/gemv_params.cuh"

namespace ACT_SPACE {

/* A lane's norm weights of 8 columns; anything without a norm. */
struct norm_piece {
    float4 a, b;
};

/* The first before weights are asked for, or who waits for it would wait for those. */
static __device__ __forceinline__ norm_piece ask_norm(const gemv_params &p, int i)
{
    norm_piece n = {};
    if (p.norm_weight && i < p.n_col) {
        n.a = __ldg((const float4 *)(p.norm_weight + i));
        n.b = __ldg((const float4 *)(p.norm_weight + i + 4));
    }
    return n;
}

/* The first of the columns that this thread's warp multiplies; they are 32 p.step, or fewer. */
static __device__ __forceinline__ int slice_begin(const gemv_params &p)
{
    return (int)threadIdx.x / 32 * p.step * 32;
}

/* Where a warp has 128 columns, its halves take every other row of activations. */
static __device__ __forceinline__ bool by_halves(const gemv_params &p)
{
    return p.step == 4;
}

/* The first of the columns that a lane stages of several rows. */
static __device__ __forceinline__ int first_column(const gemv_params &p)
{
    int lane = (int)threadIdx.x % (by_halves(p) ? 16 : 32);
    return slice_begin(p) + lane * 8;
}

/*
 * Before pdl_wait(), since norm weights are immutable. One row: only into L2, since who waits for
 * them here waits for the weights asked for before. With ACT_NARROW the largest of each warp's has
 * to be known as well.
 */
template <int W, bool ONE>
static __device__ __forceinline__ void stage_norm(const gemv_params &p, float *peaks)
{
    float peak = 0;
    if (!p.norm_weight || !(ONE || ACT_NARROW))
        return;
    for (int i = (int)threadIdx.x * 4; i < p.n_col; i += W * 32 * 4) {
        if (!ACT_NARROW) {
            if (i % 32 == 0)
                prefetch_l2(p.norm_weight + i);
            continue;
        }
        float4 n = __ldg((const float4 *)(p.norm_weight + i));
        peak = fmaxf(peak, fmaxf(fmaxf(fabsf(n.x), fabsf(n.y)), fmaxf(fabsf(n.z), fabsf(n.w))));
    }
    if (ACT_NARROW) {
        peak = warp_max(peak);
        if (threadIdx.x % 32 == 0)
            peaks[threadIdx.x / 32] = peak;
        __syncthreads();
    }
}

/* The power of two that brings the largest norm weight below 1, and no further. */
template <int W> static __device__ __forceinline__ float shrink_of(const float *peaks)
{
    float most[4] = {}, peak;
#pragma unroll
    for (int w = 0; w < W; w++)
        most[w % 4] = fmaxf(most[w % 4], peaks[w]);
    peak = fmaxf(fmaxf(most[0], most[1]), fmaxf(most[2], most[3]));
    int exponent = (int)(__float_as_uint(peak) >> 23) - 126; /* peak < 2^exponent */
    return __uint_as_float((uint32_t)(127 - min(max(exponent, -100), 100)) << 23);
}

static __device__ __forceinline__ float unshrunk(float v, float shrink)
{
    return ACT_NARROW ? __fdividef(v, shrink) : v;
}

/*
 * A piece of a row into shared memory, times its norm weights if there are any (and shrink with
 * ACT_NARROW); returns its sum of squares.
 */
static __device__ __forceinline__ float stage_piece(const gemv_params &p, const act8 &r,
                                                    const norm_piece &n, float shrink, act *to)
{
    float v[8], sum = 0;
    if (!p.norm_weight) {
        *(act8 *)to = r;
        return 0;
    }
    unpack8(r, v);
#pragma unroll
    for (int j = 0; j < 8; j++)
        sum += v[j] * v[j];
    if (ACT_NARROW)
        for (int j = 0; j < 8; j++)
            v[j] *= shrink;
    v[0] *= n.a.x, v[1] *= n.a.y, v[2] *= n.a.z, v[3] *= n.a.w;
    v[4] *= n.b.x, v[5] *= n.b.y, v[6] *= n.b.z, v[7] *= n.b.w;
    store8(to, v);
    return sum;
}

/*
 * One row: nothing but the shortest way, since every block of every kernel waits for it. AHEAD
 * loads of a thread are on their way at a time; meanwhile() runs while the first are.
 */
template <int W, int AHEAD, typename Meanwhile>
static __device__ __forceinline__ void stage_one(const gemv_params &p, act *xs, float shrink,
                                                 float *squares, Meanwhile meanwhile)
{
    constexpr int STRIDE = W * 32 * 8;
    const act *x = p.x + (p.x_row ? p.x_row[0] * p.x_stride : 0);
    int first = (int)threadIdx.x * 8;
    float sum = 0;
    for (int i = first; i < p.n_col || i == first; i += AHEAD * STRIDE) {
        act8 r[AHEAD];
#pragma unroll
        for (int j = 0; j < AHEAD; j++)
            if (i + j * STRIDE < p.n_col)
                r[j] = load8(x + i + j * STRIDE);
        if (i == first)
            meanwhile();
#pragma unroll
        for (int j = 0; j < AHEAD; j++) {
            int at = i + j * STRIDE;
            if (at >= p.n_col)
                break;
            sum += stage_piece(p, r[j], ask_norm(p, at), shrink, xs + at);
        }
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        squares[threadIdx.x / 32] = sum;
    __syncthreads();
}

/* Lane i gets the sum of all lanes' v[i % 4], or of those of its half of the warp. */
static __device__ __forceinline__ float sum_by_lane(const float v[4], bool halves)
{
    int lane = (int)threadIdx.x % 32;
    bool odd = lane & 1, upper = lane & 2;
    float a = (odd ? v[1] : v[0]) + __shfl_xor_sync(0xffffffffu, odd ? v[0] : v[1], 1);
    float b = (odd ? v[3] : v[2]) + __shfl_xor_sync(0xffffffffu, odd ? v[2] : v[3], 1);
    float sum = (upper ? b : a) + __shfl_xor_sync(0xffffffffu, upper ? a : b, 2);
    sum += __shfl_xor_sync(0xffffffffu, sum, 4);
    sum += __shfl_xor_sync(0xffffffffu, sum, 8);
    return halves ? sum : sum + __shfl_xor_sync(0xffffffffu, sum, 16);
}

/* take() gets the lane's 8 columns of a row of activations, if it has any. All lanes. */
template <typename Take>
static __device__ __forceinline__ void of_row(const gemv_params &p, int row_of, int row, int i,
                                              int end, Take take)
{
    int64_t at = __shfl_sync(0xffffffffu, row_of, row) * p.x_stride;
    if (row < p.n_row && i < end)
        take(p.x + at + i);
}

/*
 * Several rows: each warp stages the columns that it multiplies, of all rows, and goes on as soon
 * as its own are there. norm: of the lane's first columns. Sums of squares as [row][W]. Code that
 * runs once stays short: with 16 rows unrolled a product took 2 us more.
 */
template <int W>
static __device__ __forceinline__ void stage_rows(const gemv_params &p, act *xs, int xs_stride,
                                                  norm_piece norm, float shrink, float *squares)
{
    constexpr int GROUP = 4; /* rows on their way: more would take the weights' registers */
    int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
    bool halves = by_halves(p);
    int begin = slice_begin(p), end = min(p.n_col, begin + p.step * 32);
    int apart = halves ? 2 : 1, first = halves ? lane / 16 : 0;
    int row_of = lane < p.n_row && p.x_row ? p.x_row[lane] : lane;
    if (begin >= end && lane < p.n_row)
        squares[lane * W + warp] = 0;
#pragma unroll 1
    for (int from = begin, i = first_column(p); from < end; from += 32 * 8, i += 32 * 8) {
        act *to = xs + first * xs_stride + i;
        if (from > begin)
            norm = ask_norm(p, i);
#pragma unroll 1
        for (int row0 = 0; !p.norm_weight && row0 < p.n_row; row0 += apart)
            of_row(p, row_of, row0 + first, i, end,
                   [&](const act *x) { copy16_async(to + row0 * xs_stride, x); });
#pragma unroll 1
        for (int row0 = 0; p.norm_weight && row0 < p.n_row; row0 += GROUP * apart) {
            act8 r[GROUP];
            float sums[GROUP];
#pragma unroll
            for (int j = 0; j < GROUP; j++)
                of_row(p, row_of, row0 + j * apart + first, i, end,
                       [&](const act *x) { r[j] = load8(x); });
#pragma unroll
            for (int j = 0; j < GROUP; j++) {
                int row = row0 + j * apart;
                sums[j] = row + first < p.n_row && i < end
                              ? stage_piece(p, r[j], norm, shrink, to + row * xs_stride)
                              : 0.0f;
            }
            float sum = sum_by_lane(sums, halves);
            int row = row0 + lane % GROUP * apart + first;
            if (lane % 16 < GROUP && (halves || lane < 16) && row < p.n_row)
                squares[row * W + warp] = from > begin ? squares[row * W + warp] + sum : sum;
        }
    }
    copies_wait();
    __syncwarp();
}

/* The input into shared memory. Of one row all threads meet there, of several each warp. */
template <int W, bool ONE, int FORM, typename Meanwhile>
static __device__ __forceinline__ void stage_x(const gemv_params &p, act *xs, int xs_stride,
                                               const norm_piece &norm, float shrink,
                                               float *squares, Meanwhile meanwhile)
{
    if (ONE) {
        stage_one<W, FORM <= GEMV_HALVES ? 4 : 1>(p, xs, shrink, squares, meanwhile);
    } else {
        meanwhile();
        stage_rows<W>(p, xs, xs_stride, norm, shrink, squares);
    }
}

/* 1/rms of a row from its sums of squares, which all threads have met for; 1 without a norm. */
template <int W>
static __device__ __forceinline__ float rstd_of(const gemv_params &p, const float *squares,
                                                float shrink)
{
    float sum = 0;
#pragma unroll
    for (int w = 0; w < W; w++)
        sum += squares[w];
    return p.norm_weight ? unshrunk(rsqrtf(sum / (float)p.n_col + p.eps), shrink) : 1.0f;
}

} // namespace ACT_SPACE

#endif
