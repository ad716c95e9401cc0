/*
 * Skinny matrix products: weights stream once from memory into tensor-core fragments.
 *
 * A tile is 16 weight rows, two groups of 8 ("a" and "b"), so that a rotary pair or a gate and its
 * up row end in one thread. A warp owns a slice of K; a lane (g = lane / 4, t = lane % 4) loads 8
 * consecutive values of rows a + g and b + g. The order of k inside a step of 32 is permuted alike
 * for weights and activations, so both come straight from row-major memory, 16 bytes a load.
 * U steps are in flight per warp, across tile borders; the first U are asked for before the
 * predecessor kernel has ended (immutable weights).
 *
 * NT 0 is the one-row form: the row is staged in shared memory, and RMS norm is folded in (its
 * 1/rms factor scales the finished sums). NT >= 1 takes 8 NT rows straight from L2.
 */
#ifndef RINGLET_CUDA_GEMV_CUH
#define RINGLET_CUDA_GEMV_CUH

#include <cooperative_groups.h>

#include "kernels/cuda/cuda_common.cuh"

enum { RED_STRIDE = 20 /* floats between columns: no bank conflicts */ };

enum gemv_form { GEMV_PLAIN, GEMV_SWIGLU, GEMV_ROPE, GEMV_ROPE_NORM };

struct gemv_part {
    const bf16 *w;
    void *out;
    const float *bias;
    int64_t out_stride;
    int tile0, n_row;
};

struct gemv_rope {
    const int32_t *position, *slot;
    const float *inv_freq, *q_norm, *k_norm;
    bf16 *k_pool, *v_pool;
    int64_t block_stride; /* elements */
    int n_head, n_kv_head, head_dim;
    bool interleaved;
    float scale, eps;
};

struct gemv_params {
    gemv_part part[MATMUL_WEIGHTS_MAX];
    const bf16 *x;
    const int32_t *x_row; /* NULL = row 0 (NT 0 only) */
    const float *norm_weight;
    int64_t x_stride;
    int n_part, n_tile, n_col, n_row, step; /* step: steps of 32 a warp, a multiple of U */
    float eps, scale;
    bool add, out_f32;
    gemv_rope rope;
};

struct tile_rows {
    const bf16 *a, *b; /* row g of either group */
};

static __device__ __forceinline__ int part_of(const gemv_params &p, int tile)
{
    int i = 0;
    if (p.n_part > 1 && tile >= p.part[1].tile0)
        i = 1;
    if (p.n_part > 2 && tile >= p.part[2].tile0)
        i = 2;
    return i;
}

template <int FORM>
static __device__ __forceinline__ tile_rows rows_of(const gemv_params &p, int tile, int g)
{
    if (tile >= p.n_tile)
        tile = p.n_tile - 1;
    int64_t n_col = p.n_col;
    if (FORM == GEMV_SWIGLU) {
        int row = min(tile * 8 + g, p.part[0].n_row - 1);
        return { p.part[0].w + row * n_col, p.part[1].w + row * n_col };
    }
    const gemv_part &part = p.part[part_of(p, tile)];
    tile -= part.tile0;
    if (FORM == GEMV_PLAIN) {
        int a = min(tile * 16 + g, part.n_row - 1), b = min(tile * 16 + 8 + g, part.n_row - 1);
        return { part.w + a * n_col, part.w + b * n_col };
    }
    int per_head = p.rope.head_dim / 16, head = tile / per_head;
    int pair = tile % per_head * 8 + g, half = p.rope.head_dim / 2;
    int64_t a = (int64_t)head * p.rope.head_dim + (p.rope.interleaved ? 2 * pair : pair);
    int64_t b = p.rope.interleaved ? a + 1 : a + half;
    return { part.w + a * n_col, part.w + b * n_col };
}

static __device__ __forceinline__ uint4 load_weight_if(const void *p, bool ok)
{
    uint4 r;
    asm volatile("{ .reg .pred q; setp.ne.b32 q, %5, 0;\n"
                 "mov.b32 %0, 0; mov.b32 %1, 0; mov.b32 %2, 0; mov.b32 %3, 0;\n"
                 "@q ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4]; }"
                 : "=&r"(r.x), "=&r"(r.y), "=&r"(r.z), "=&r"(r.w)
                 : "l"(p), "r"((int)ok));
    return r;
}

static __device__ __forceinline__ void store_value(const gemv_params &p, const gemv_part &part,
                                                   int row, int token, float v)
{
    int64_t at = token * part.out_stride + row;
    if (part.bias)
        v += part.bias[row];
    v *= p.scale;
    if (p.out_f32) {
        float *out = (float *)part.out + at;
        *out = p.add ? *out + v : v;
    } else {
        bf16 *out = (bf16 *)part.out + at;
        *out = __float2bfloat16(p.add ? __bfloat162float(*out) + v : v);
    }
}

static __device__ __forceinline__ void store_plain(const gemv_params &p, int tile, int i,
                                                   int token, float v)
{
    const gemv_part &part = p.part[part_of(p, tile)];
    int row = (tile - part.tile0) * 16 + i;
    if (row < part.n_row)
        store_value(p, part, row, token, v);
}

static __device__ __forceinline__ void store_swiglu(const gemv_params &p, int tile, int i,
                                                    int token, float gate, float up)
{
    int row = tile * 8 + i;
    if (row < p.part[0].n_row)
        store_value(p, p.part[0], row, token, gate / (1.0f + __expf(-gate)) * up);
}

/*
 * Lane i < 8 holds pair i of the tile. The whole first warp calls; with head norms every warp does,
 * since all threads of the cluster meet at its barrier.
 */
template <int FORM>
static __device__ __forceinline__ void store_rope(const gemv_params &p, int tile, int i, float a,
                                                  float b, float *exchange)
{
    const gemv_rope &r = p.rope;
    int part_i = part_of(p, tile);
    const gemv_part &part = p.part[part_i];
    int per_head = r.head_dim / 16, head = (tile - part.tile0) / per_head;
    int pair = (tile - part.tile0) % per_head * 8 + i;
    int da = r.interleaved ? 2 * pair : pair;
    int db = r.interleaved ? da + 1 : pair + r.head_dim / 2;
    bool mine = i < 8;
    if (part.bias && mine) {
        a += part.bias[head * r.head_dim + da];
        b += part.bias[head * r.head_dim + db];
    }
    if (FORM == GEMV_ROPE_NORM) {
        namespace cg = cooperative_groups;
        cg::cluster_group cluster = cg::this_cluster();
        float sum = warp_sum(mine ? a * a + b * b : 0.0f);
        if (threadIdx.x == 0)
            *exchange = sum;
        asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
        sum = 0;
        for (int c = 0; c < per_head; c++)
            sum += *cluster.map_shared_rank(exchange, c);
        asm volatile("barrier.cluster.arrive.release;" ::: "memory");
        const float *norm = part_i == 0 ? r.q_norm : r.k_norm;
        if (part_i < 2 && norm && mine) {
            float rstd = rsqrtf(sum / (float)r.head_dim + r.eps);
            a *= rstd * norm[da];
            b *= rstd * norm[db];
        }
    }
    int slot = r.slot[0];
    if (!mine || threadIdx.x >= 32 || (part_i > 0 && slot < 0))
        return;
    if (part_i < 2) {
        float sine, cosine;
        sincosf((float)r.position[0] * r.inv_freq[pair], &sine, &cosine);
        float ra = (a * cosine - b * sine) * r.scale;
        b = (b * cosine + a * sine) * r.scale;
        a = ra;
    }
    bf16 *to = (bf16 *)part.out + (int64_t)head * r.head_dim;
    if (part_i > 0)
        to = (part_i == 1 ? r.k_pool : r.v_pool) + slot / KV_BLOCK_TOKENS * r.block_stride
             + ((int64_t)head * KV_BLOCK_TOKENS + slot % KV_BLOCK_TOKENS) * r.head_dim;
    to[da] = __float2bfloat16(a);
    to[db] = __float2bfloat16(b);
}

/* The one row into shared memory, times the norm weight; the sum of squares by warp. */
template <int W>
static __device__ __forceinline__ void stage_row(const gemv_params &p, bf16 *xs, float *squares)
{
    const bf16 *x = p.x + (p.x_row ? p.x_row[0] * p.x_stride : 0);
    float sum = 0;
    for (int i = (int)threadIdx.x * 8; i < p.n_col; i += W * 32 * 8) {
        bf16x8 r = load8(x + i);
        if (p.norm_weight) {
            float v[8];
            unpack8(r, v);
#pragma unroll
            for (int j = 0; j < 8; j++) {
                sum += v[j] * v[j];
                v[j] *= __ldg(p.norm_weight + i + j);
            }
            store8(xs + i, v);
        } else {
            *(bf16x8 *)(xs + i) = r;
        }
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        squares[threadIdx.x / 32] = sum;
    __syncthreads();
}

/* Sum the warps' slices of K and hand the tile's values to their places. */
template <int W, int COLS, int FORM>
static __device__ __forceinline__ void finish_tile(const gemv_params &p, int tile,
                                                   const float *red, float rstd, float *exchange)
{
    int lane = (int)threadIdx.x % 32;
    auto sum = [&](int row, int col) {
        float v = 0;
#pragma unroll
        for (int w = 0; w < W; w++)
            v += red[w * RED_STRIDE * COLS + col * RED_STRIDE + row];
        return v * rstd;
    };
    if (FORM == GEMV_ROPE || FORM == GEMV_ROPE_NORM) {
        if (FORM == GEMV_ROPE_NORM || threadIdx.x < 32)
            store_rope<FORM>(p, tile, lane, sum(lane % 8, 0), sum(lane % 8 + 8, 0), exchange);
    } else if (FORM == GEMV_SWIGLU) {
        for (int i = (int)threadIdx.x; i < 8 * p.n_row; i += W * 32)
            store_swiglu(p, tile, i % 8, i / 8, sum(i % 8, i / 8), sum(i % 8 + 8, i / 8));
    } else {
        for (int i = (int)threadIdx.x; i < 16 * p.n_row; i += W * 32)
            store_plain(p, tile, i % 16, i / 16, sum(i % 16, i / 16));
    }
}

template <int W, int U, int NT, int FORM>
static __global__ void __launch_bounds__(W * 32, 16 / W)
gemv_kernel(const __grid_constant__ gemv_params p)
{
    constexpr bool ONE = NT == 0;
    constexpr int N = ONE ? 1 : NT, COLS = ONE ? 1 : 8 * NT;
    extern __shared__ uint4 shared[];
    __shared__ float red[2][W][RED_STRIDE * COLS];
    __shared__ float squares[W], exchange;
    bf16 *xs = (bf16 *)shared;
    int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int k0 = warp * p.step * 32 + 8 * t, k_end = min(p.n_col, (warp + 1) * p.step * 32);

    uint4 wa[U], wb[U], xv[ONE ? 1 : U][N];
    int ask_tile = (int)blockIdx.x, ask_step = 0;
    tile_rows rows = rows_of<FORM>(p, ask_tile, g);
#define ASK(u)                                                                                     \
    do {                                                                                           \
        int k = k0 + ask_step * 32;                                                                \
        bool ok = ask_tile < p.n_tile && k < k_end;                                                \
        wa[u] = load_weight_if(rows.a + k, ok);                                                    \
        wb[u] = load_weight_if(rows.b + k, ok);                                                    \
        if (++ask_step == p.step) {                                                                \
            ask_step = 0;                                                                          \
            ask_tile += (int)gridDim.x;                                                            \
            rows = rows_of<FORM>(p, ask_tile, g);                                                  \
        }                                                                                          \
    } while (0)
#define ASK_X(u, s)                                                                                \
    do {                                                                                           \
        int k = k0 + (s) * 32;                                                                     \
        for (int n = 0; n < N; n++)                                                                \
            xv[u][n] = k < k_end ? __ldcg((const uint4 *)(p.x                                      \
                                                          + min(n * 8 + g, p.n_row - 1)            \
                                                                * p.x_stride + k))                 \
                                 : make_uint4(0, 0, 0, 0);                                         \
    } while (0)
#pragma unroll
    for (int u = 0; u < U; u++)
        ASK(u);
    pdl_wait();
    if (ONE) {
        stage_row<W>(p, xs, squares);
    } else {
#pragma unroll
        for (int u = 0; u < U; u++)
            ASK_X(u, u);
    }
    float rstd = 1;
    if (ONE && p.norm_weight) {
        float sum = 0;
        for (int i = 0; i < W; i++)
            sum += squares[i];
        rstd = rsqrtf(sum / (float)p.n_col + p.eps);
    }

    int parity = 0;
    for (int tile = (int)blockIdx.x; tile < p.n_tile; tile += (int)gridDim.x, parity ^= 1) {
        float acc[2][N][4] = {};
        for (int s = 0; s < p.step; s += U) {
#pragma unroll
            for (int u = 0; u < U; u++) {
                if (ONE) {
                    int k = min(k0 + (s + u) * 32, p.n_col - 8);
                    xv[0][0] = *(const uint4 *)(xs + k);
                }
#pragma unroll
                for (int n = 0; n < N; n++) {
                    uint4 x = xv[ONE ? 0 : u][n];
                    mma_16816(acc[0][n], wa[u].x, wb[u].x, wa[u].y, wb[u].y, x.x, x.y);
                    mma_16816(acc[1][n], wa[u].z, wb[u].z, wa[u].w, wb[u].w, x.z, x.w);
                }
                ASK(u);
                if (!ONE) {
                    int next = s + u + U;
                    ASK_X(u, next < p.step ? next : next - p.step);
                }
            }
        }
        if (tile + (int)gridDim.x >= p.n_tile)
            pdl_trigger();
        float *r = red[parity][warp];
#pragma unroll
        for (int n = 0; n < N; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = g + i / 2 * 8, col = n * 8 + 2 * t + i % 2;
                if (!ONE)
                    r[col * RED_STRIDE + row] = acc[0][n][i] + acc[1][n][i];
                else if (t == 0 && i % 2 == 0)
                    r[row] = acc[0][n][i] + acc[1][n][i];
            }
        }
        __syncthreads();
        finish_tile<W, COLS, FORM>(p, tile, red[parity][0], rstd, &exchange);
    }
    if (FORM == GEMV_ROPE_NORM)
        asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#undef ASK
#undef ASK_X
}

#endif
