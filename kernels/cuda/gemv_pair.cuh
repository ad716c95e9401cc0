/*
 * A skinny product of several rows whose activations come straight from L2, two tiles of 16 weight
 * rows a block: each fragment of activations is used twice, so that they are half as many bytes on
 * the way to the SMs. Plain form only; see gemv.cuh for fragments, slices and tiles.
 */
#ifndef RINGLET_CUDA_GEMV_PAIR_CUH
#define RINGLET_CUDA_GEMV_PAIR_CUH

#include "kernels/cuda/gemv.cuh"

namespace ACT_SPACE {

enum { PAIR_WARPS = 16, PAIR_STEPS = 2 };

/* The loads in flight of one warp: weights of both tiles and rows of activations. */
template <int NT> struct pair_pipeline {
    uint4 w[PAIR_STEPS][4], xv[PAIR_STEPS][NT];
    tile_rows rows[2];
    int pair, step, g, k0, k_end;

    __device__ __forceinline__ void turn_to(const gemv_params &p, int to)
    {
        pair = to;
        step = 0;
        rows[0] = rows_of<GEMV_PLAIN>(p, 2 * to, g);
        rows[1] = rows_of<GEMV_PLAIN>(p, 2 * to + 1, g);
    }

    __device__ __forceinline__ void begin(const gemv_params &p)
    {
        int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
        g = lane / 4;
        k0 = warp * p.step * 32 + lane % 4 * 8;
        k_end = min(p.n_col, (warp + 1) * p.step * 32);
        turn_to(p, (int)blockIdx.x);
    }

    /* Ask for the next step of weights into slot u. */
    __device__ __forceinline__ void ask(const gemv_params &p, int u)
    {
        int k = k0 + step * 32;
        bool ok = 2 * pair < p.n_tile && k < k_end;
#pragma unroll
        for (int i = 0; i < 2; i++) {
            w[u][2 * i] = load_weight_if(rows[i].a + k, ok);
            w[u][2 * i + 1] = load_weight_if(rows[i].b + k, ok);
        }
        if (++step == p.step)
            turn_to(p, pair + (int)gridDim.x);
    }

    __device__ __forceinline__ void ask_x(const gemv_params &p, int u, int at)
    {
        ask_rows<NT>(p, k0 + at * 32, k_end, g, xv[u]);
    }

    /* Both tiles' products; the slots are refilled for what comes after. */
    __device__ __forceinline__ void run(const gemv_params &p, float (*acc)[NT][4])
    {
        for (int s = 0; s < p.step; s += PAIR_STEPS) {
#pragma unroll
            for (int u = 0; u < PAIR_STEPS; u++) {
#pragma unroll
                for (int n = 0; n < NT; n++)
#pragma unroll
                    for (int i = 0; i < 2; i++) {
                        const uint4 a = w[u][2 * i], b = w[u][2 * i + 1], x = xv[u][n];
                        mma_16816(acc[i][n], a.x, b.x, a.y, b.y, x.x, x.y);
                        mma_16816(acc[i][n], a.z, b.z, a.w, b.w, x.z, x.w);
                    }
                ask(p, u);
                int next = s + u + PAIR_STEPS;
                ask_x(p, u, next < p.step ? next : next - p.step);
            }
        }
    }

    __device__ __forceinline__ void put(const float (*acc)[4], float *red)
    {
        int t = (int)threadIdx.x % 4;
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                red[(n * 8 + 2 * t + i % 2) * RED_STRIDE + g + i / 2 * 8] = acc[n][i];
    }
};

template <int NT>
static __global__ void __launch_bounds__(PAIR_WARPS * 32, 1)
gemv_pair_kernel(const __grid_constant__ gemv_params p)
{
    constexpr int COLS = 8 * NT, EACH = tile_values<GEMV_PLAIN>;
    __shared__ float red[2][PAIR_WARPS][RED_STRIDE * COLS]; /* by tile of the pair */
    static_assert(2 * EACH * COLS <= PAIR_WARPS * 32);
    int i = (int)threadIdx.x % EACH, token = (int)threadIdx.x / EACH % COLS;
    int tile = (int)threadIdx.x / (EACH * COLS), warp = (int)threadIdx.x / 32;
    bool mine = tile < 2 && token < p.n_row;
    pair_pipeline<NT> pipe;
    pipe.begin(p);
#pragma unroll
    for (int u = 0; u < PAIR_STEPS; u++)
        pipe.ask(p, u);
    pdl_wait();
    if (p.early)
        pdl_trigger();
#pragma unroll
    for (int u = 0; u < PAIR_STEPS; u++)
        pipe.ask_x(p, u, u);
    for (int pair = (int)blockIdx.x, next; 2 * pair < p.n_tile; pair = next) {
        next = pair + (int)gridDim.x;
        tile_end end = {};
        if (mine)
            end = end_of<GEMV_PLAIN>(p, 2 * pair + tile, i, token);
        float acc[2][NT][4] = {};
        pipe.run(p, acc);
        if (2 * next >= p.n_tile) {
            bring_ahead(p.ahead);
            pdl_trigger();
        }
        pipe.put(acc[0], red[0][warp]);
        pipe.put(acc[1], red[1][warp]);
        __syncthreads();
        float sum = 0;
#pragma unroll
        for (int w = 0; mine && w < PAIR_WARPS; w++)
            sum += red[tile][w][token * RED_STRIDE + i];
        if (mine)
            store_value(p, end, sum);
        if (2 * next < p.n_tile)
            __syncthreads(); /* red is written again */
    }
}

} // namespace ACT_SPACE

#endif
