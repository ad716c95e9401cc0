/* The rows of activations of a skinny product, brought into shared memory, RMS norm folded in. */
#ifndef RINGLET_CUDA_GEMV_STAGE_CUH
#define RINGLET_CUDA_GEMV_STAGE_CUH

#include "kernels/cuda/gemv_params.cuh"

namespace ACT_SPACE {

/*
 * The norm weights, which are immutable, before pdl_wait(): for several rows into shared memory;
 * for one row only into L2, since who waits for them here waits for the weights asked for before.
 * With ACT_NARROW the largest of each warp's has to be known as well.
 */
template <int W, bool ONE>
static __device__ __forceinline__ void stage_norm(const gemv_params &p, float *norm, float *peaks)
{
    float peak = 0;
    if (!p.norm_weight)
        return;
    for (int i = (int)threadIdx.x * 4; i < p.n_col; i += W * 32 * 4) {
        if (ONE && !ACT_NARROW) {
            if (i % 32 == 0)
                prefetch_l2(p.norm_weight + i);
            continue;
        }
        float4 n = __ldg((const float4 *)(p.norm_weight + i));
        if (!ONE)
            *(float4 *)(norm + i) = n;
        if (ACT_NARROW)
            peak = fmaxf(peak, fmaxf(fmaxf(fabsf(n.x), fabsf(n.y)), fmaxf(fabsf(n.z), fabsf(n.w))));
    }
    if (ACT_NARROW) {
        peak = warp_max(peak);
        if (threadIdx.x % 32 == 0)
            peaks[threadIdx.x / 32] = peak;
    }
    if (!ONE || ACT_NARROW)
        __syncthreads();
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

/* Warps that stage one row together; W / that many rows are staged at once. */
template <int W> static __device__ __forceinline__ int warps_a_row(int n_row)
{
    return n_row < W ? W / n_row : 1;
}

/*
 * A piece of a row into shared memory, times the norm weights n0 and n1 if there are any (and
 * shrink with ACT_NARROW); returns its sum of squares.
 */
static __device__ __forceinline__ float stage_piece(const gemv_params &p, const act8 &r, float4 n0,
                                                    float4 n1, float shrink, act *to)
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
    v[0] *= n0.x, v[1] *= n0.y, v[2] *= n0.z, v[3] *= n0.w;
    v[4] *= n1.x, v[5] *= n1.y, v[6] *= n1.z, v[7] *= n1.w;
    store8(to, v);
    return sum;
}

/* The norm weights of a piece; anything without a norm. */
static __device__ __forceinline__ void norm_piece(const float *norm, int i, float4 *n0, float4 *n1)
{
    *n0 = *n1 = make_float4(0, 0, 0, 0);
    if (norm) {
        *n0 = *(const float4 *)(norm + i);
        *n1 = *(const float4 *)(norm + i + 4);
    }
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
        float4 n0, n1;
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
            norm_piece(p.norm_weight, at, &n0, &n1);
            sum += stage_piece(p, r[j], n0, n1, shrink, xs + at);
        }
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        squares[threadIdx.x / 32] = sum;
    __syncthreads();
}

/* The rows into shared memory, several loads in flight; sums of squares as [row][W]. */
template <int W>
static __device__ __forceinline__ void stage_rows(const gemv_params &p, act *xs, int xs_stride,
                                                  const float *norm, float shrink, float *squares)
{
    constexpr int AHEAD = 4;
    int each = warps_a_row<W>(p.n_row), warp = (int)threadIdx.x / 32, part = warp % each;
    int stride = each * 32 * 8;
    for (int row = warp / each; row < p.n_row; row += W / each) {
        const act *x = p.x + (p.x_row ? p.x_row[row] : row) * p.x_stride;
        float sum = 0;
        for (int i = (part * 32 + (int)threadIdx.x % 32) * 8; i < p.n_col; i += AHEAD * stride) {
            act8 r[AHEAD];
#pragma unroll
            for (int j = 0; j < AHEAD; j++)
                if (i + j * stride < p.n_col)
                    r[j] = load8(x + i + j * stride);
#pragma unroll
            for (int j = 0; j < AHEAD; j++)
                if (i + j * stride < p.n_col) {
                    float4 n0, n1;
                    norm_piece(p.norm_weight ? norm : NULL, i + j * stride, &n0, &n1);
                    sum +=
                        stage_piece(p, r[j], n0, n1, shrink, xs + row * xs_stride + i + j * stride);
                }
        }
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0)
            squares[row * W + part] = sum;
    }
    __syncthreads();
}

/* The input into shared memory. Returns 1/rms of a finishing thread's row. */
template <int W, bool ONE, int FORM, typename Meanwhile>
static __device__ __forceinline__ float stage_x(const gemv_params &p, act *xs, int xs_stride,
                                                const float *norm, float shrink, float *squares,
                                                int token, Meanwhile meanwhile)
{
    if (ONE) {
        stage_one<W, FORM <= GEMV_HALVES ? 4 : 1>(p, xs, shrink, squares, meanwhile);
    } else {
        meanwhile();
        stage_rows<W>(p, xs, xs_stride, norm, shrink, squares);
    }
    float sum = 0;
    int each = ONE ? W : warps_a_row<W>(p.n_row);
    for (int w = 0; w < each && token < p.n_row; w++)
        sum += squares[token * W + w];
    return p.norm_weight ? unshrunk(rsqrtf(sum / (float)p.n_col + p.eps), shrink) : 1.0f;
}

} // namespace ACT_SPACE

#endif
