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
 * Where 16 rows a tile leave half of the SMs without work, one row of activations takes 8 rows of
 * weights a tile (GEMV_HALVES): "b" is then the second half of the same rows, and meets the second
 * half of the activations in the columns that one row leaves free.
 *
 * Staged forms keep the rows in shared memory and fold RMS norm in (its 1/rms factor scales the
 * finished sums; in f16 the norm weights are divided by a power of two beyond all of them, so that
 * no product is too large): one row (NT 0) or up to 8 NT. The others take up to 8 NT rows straight
 * from L2.
 */
#ifndef RINGLET_CUDA_GEMV_CUH
#define RINGLET_CUDA_GEMV_CUH

#include "kernels/cuda/act.cuh"
#include "kernels/cuda/best.cuh"
#include "kernels/cuda/gemv_ahead.cuh"

namespace ACT_SPACE {

enum {
    RED_STRIDE = 20, /* floats between columns: no bank conflicts */
    HEAD_BLOCKS_MAX = 8, /* of head norms: 16 values a block */
};

enum gemv_form { GEMV_PLAIN, GEMV_LOGITS, GEMV_HALVES, GEMV_SWIGLU, GEMV_ROPE, GEMV_ROPE_NORM };

/* Sixteen rows of weights that end as they are. */
template <int FORM>
static constexpr bool gemv_flat = FORM == GEMV_PLAIN || FORM == GEMV_LOGITS;

/* Values of a tile, each finished by a thread for one token; in the paired forms, pairs. */
template <int FORM> static constexpr int tile_values = gemv_flat<FORM> ? 16 : 8;

/* Columns that a warp's slices run over. */
template <int FORM> static __host__ __device__ __forceinline__ int gemv_width(int n_col)
{
    return FORM == GEMV_HALVES ? n_col / 2 : n_col;
}

struct gemv_part {
    const act *w;
    void *out;
    const float *bias;
    int64_t out_stride;
    int tile0, n_row;
};

struct gemv_rope {
    const int32_t *position, *slot;
    const float *inv_freq, *q_norm, *k_norm;
    act *k_pool, *v_pool;
    int64_t block_stride; /* elements */
    int n_head, n_kv_head, head_dim;
    bool interleaved;
    float scale, eps;
};

struct gemv_params {
    gemv_part part[MATMUL_WEIGHTS_MAX];
    const act *x;
    const int32_t *x_row; /* rows of x, staged forms only; NULL = the first n_row */
    const float *norm_weight;
    int64_t x_stride;
    int n_part, n_tile, n_col, n_row, step; /* step: steps of 32 a warp, a multiple of U */
    float eps, scale;
    bool add, out_f32, early; /* early: the whole grid is resident, let the next kernel in */
    candidate *best;          /* GEMV_LOGITS: of each row and block, [row][BEST_BLOCKS_MAX] */
    gemv_ahead ahead[MATMUL_WEIGHTS_MAX];
    gemv_rope rope;
};

struct tile_rows {
    const act *a, *b; /* row g of either group */
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
    if (FORM == GEMV_HALVES) {
        const act *a = part.w + min(tile * 8 + g, part.n_row - 1) * n_col;
        return { a, a + n_col / 2 };
    }
    if (gemv_flat<FORM>) {
        int a = min(tile * 16 + g, part.n_row - 1), b = min(tile * 16 + 8 + g, part.n_row - 1);
        return { part.w + a * n_col, part.w + b * n_col };
    }
    int per_head = p.rope.head_dim / 16, head = tile / per_head;
    int pair = tile % per_head * 8 + g, half = p.rope.head_dim / 2;
    int64_t a = (int64_t)head * p.rope.head_dim + (p.rope.interleaved ? 2 * pair : pair);
    int64_t b = p.rope.interleaved ? a + 1 : a + half;
    return { part.w + a * n_col, part.w + b * n_col };
}

/*
 * What one finishing thread needs besides the sum, asked for while the products are under way:
 * value i of the tile for one token, or pair i.
 */
struct tile_end {
    int part, row;          /* row of the part, of value a in the paired forms */
    float bias_a, bias_b, sine, cosine, norm_a, norm_b;
    float old;              /* what the result is added to */
    int64_t at;             /* where it goes: element of the output or of the KV pool; -1 nowhere */
    int step;               /* from a to b, elements */
};

template <int FORM>
static __device__ __forceinline__ tile_end end_of_rope(const gemv_params &p, int tile, int i,
                                                       int token)
{
    const gemv_rope &r = p.rope;
    tile_end e = {};
    e.part = part_of(p, tile);
    const gemv_part &part = p.part[e.part];
    int per_head = r.head_dim / 16, head = (tile - part.tile0) / per_head;
    int pair = (tile - part.tile0) % per_head * 8 + i % 8;
    int da = r.interleaved ? 2 * pair : pair;
    e.step = r.interleaved ? 1 : r.head_dim / 2;
    if (part.bias) {
        e.bias_a = part.bias[head * r.head_dim + da];
        e.bias_b = part.bias[head * r.head_dim + da + e.step];
    }
    const float *norm = e.part == 0 ? r.q_norm : r.k_norm;
    e.norm_a = FORM == GEMV_ROPE_NORM && norm ? norm[da] : 1;
    e.norm_b = FORM == GEMV_ROPE_NORM && norm ? norm[da + e.step] : 1;
    if (token >= p.n_row) {
        e.at = -1;
        return e;
    }
    int slot = r.slot[token];
    e.at = token * part.out_stride + (int64_t)head * r.head_dim + da;
    if (e.part > 0)
        e.at = slot < 0 ? -1
                        : slot / KV_BLOCK_TOKENS * r.block_stride + da
                              + ((int64_t)head * KV_BLOCK_TOKENS + slot % KV_BLOCK_TOKENS)
                                    * r.head_dim;
    if (e.part < 2) {
        sincosf((float)r.position[token] * r.inv_freq[pair], &e.sine, &e.cosine);
        e.sine *= r.scale;
        e.cosine *= r.scale;
    }
    return e;
}

template <int FORM>
static __device__ __forceinline__ tile_end end_of(const gemv_params &p, int tile, int i, int token)
{
    if (FORM == GEMV_ROPE || FORM == GEMV_ROPE_NORM)
        return end_of_rope<FORM>(p, tile, i, token);
    tile_end e = {};
    e.part = FORM == GEMV_SWIGLU ? 0 : part_of(p, tile);
    const gemv_part &part = p.part[e.part];
    e.row = (tile - part.tile0) * tile_values<FORM> + i;
    bool inside = e.row < part.n_row && token < p.n_row;
    e.at = inside ? token * part.out_stride + e.row : -1;
    if (inside && part.bias)
        e.bias_a = part.bias[e.row];
    if (inside && p.add)
        e.old = p.out_f32 ? __ldcg((const float *)part.out + e.at)
                          : to_float(__ldcg((const act *)part.out + e.at));
    return e;
}

static __device__ __forceinline__ void store_value(const gemv_params &p, const tile_end &e, float v)
{
    if (e.at < 0)
        return;
    v = (v + e.bias_a) * p.scale + e.old;
    if (p.out_f32)
        ((float *)p.part[e.part].out)[e.at] = v;
    else
        ((act *)p.part[e.part].out)[e.at] = to_act(v);
}

/* A logit, and the best of those that this thread has seen. */
static __device__ __forceinline__ void store_logit(const gemv_params &p, const tile_end &e,
                                                   float v, candidate *best)
{
    if (e.at < 0)
        return;
    v *= p.scale;
    ((float *)p.part[0].out)[e.at] = v;
    take_logit(best, v, e.row);
}

/* This block's best of each row. All threads. */
static __device__ __forceinline__ void put_best(const gemv_params &p, candidate best)
{
    int row = (int)threadIdx.x / 16;
    best = lanes_best<16>(best);
    if (threadIdx.x % 16 == 0 && row < p.n_row)
        p.best[row * BEST_BLOCKS_MAX + (int)blockIdx.x] = best;
}

/* What the blocks of a head tell each other, each into the shared memory of all of them. */
template <int COLS> struct head_exchange {
    float square[HEAD_BLOCKS_MAX][COLS]; /* a block's sum of squares, by rank and token */
    uint64_t full;
};

/*
 * Thread 8 token + i holds pair i of the tile for one token. With head norms every thread calls,
 * since all threads of the cluster meet at its barrier.
 */
template <int FORM, int COLS>
static __device__ __forceinline__ void store_rope(const gemv_params &p, const tile_end &e, float a,
                                                  float b, head_exchange<COLS> *ex)
{
    const gemv_rope &r = p.rope;
    int token = (int)threadIdx.x / 8;
    bool mine = token < p.n_row;
    a += e.bias_a;
    b += e.bias_b;
    if (FORM == GEMV_ROPE_NORM) {
        float sum = mine ? a * a + b * b : 0.0f;
        int per_head = r.head_dim / 16, own = (int)threadIdx.x % 8;
        int rank = (int)(blockIdx.x % (unsigned)per_head); /* clusters are per_head blocks */
#pragma unroll
        for (int x = 1; x < 8; x <<= 1)
            sum += __shfl_xor_sync(0xffffffffu, sum, x);
        cluster_meet_end();
        if (mine && own < per_head)
            inbox_put(&ex->square[rank][token], &ex->full, own, sum);
        if (mine) {
            inbox_wait(&ex->full);
            sum = 0;
            for (int c = 0; c < per_head; c++)
                sum += ex->square[c][token];
        }
        if (e.part == 0 ? r.q_norm != NULL : e.part == 1 && r.k_norm != NULL) {
            float rstd = rsqrtf(sum / (float)r.head_dim + r.eps);
            a *= rstd * e.norm_a;
            b *= rstd * e.norm_b;
        }
    }
    if (!mine || e.at < 0)
        return;
    if (e.part < 2) {
        float turned = a * e.cosine - b * e.sine;
        b = b * e.cosine + a * e.sine;
        a = turned;
    }
    act *to = e.part == 0 ? (act *)p.part[0].out : e.part == 1 ? r.k_pool : r.v_pool;
    to[e.at] = to_act(a);
    to[e.at + e.step] = to_act(b);
}

/*
 * The norm weights into shared memory: immutable, so before pdl_wait(). With ACT_NARROW also the
 * largest of each warp's.
 */
template <int W>
static __device__ __forceinline__ void stage_norm(const gemv_params &p, float *norm, float *peaks)
{
    float peak = 0;
    for (int i = (int)threadIdx.x * 4; p.norm_weight && i < p.n_col; i += W * 32 * 4) {
        float4 n = __ldg((const float4 *)(p.norm_weight + i));
        *(float4 *)(norm + i) = n;
        if (ACT_NARROW)
            peak = fmaxf(peak, fmaxf(fmaxf(fabsf(n.x), fabsf(n.y)), fmaxf(fabsf(n.z), fabsf(n.w))));
    }
    if (ACT_NARROW && p.norm_weight) {
        peak = warp_max(peak);
        if (threadIdx.x % 32 == 0)
            peaks[threadIdx.x / 32] = peak;
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

/* Warps that stage one row together; W / that many rows are staged at once. */
template <int W> static __device__ __forceinline__ int warps_a_row(int n_row)
{
    return n_row < W ? W / n_row : 1;
}

/*
 * A piece of a row into shared memory, times the norm weights (and shrink with ACT_NARROW); returns
 * its sum of squares.
 */
static __device__ __forceinline__ float stage_piece(const gemv_params &p, const act8 &r, int i,
                                                    const float *norm, float shrink, act *to)
{
    float v[8], sum = 0;
    if (!p.norm_weight) {
        *(act8 *)(to + i) = r;
        return 0;
    }
    float4 n0 = *(const float4 *)(norm + i), n1 = *(const float4 *)(norm + i + 4);
    unpack8(r, v);
#pragma unroll
    for (int j = 0; j < 8; j++)
        sum += v[j] * v[j];
    if (ACT_NARROW)
        for (int j = 0; j < 8; j++)
            v[j] *= shrink;
    v[0] *= n0.x, v[1] *= n0.y, v[2] *= n0.z, v[3] *= n0.w;
    v[4] *= n1.x, v[5] *= n1.y, v[6] *= n1.z, v[7] *= n1.w;
    store8(to + i, v);
    return sum;
}

/* One row: nothing but the shortest way, since every block of every kernel waits for it. */
template <int W>
static __device__ __forceinline__ void stage_one(const gemv_params &p, act *xs, const float *norm,
                                                 float shrink, float *squares)
{
    const act *x = p.x + (p.x_row ? p.x_row[0] * p.x_stride : 0);
    float sum = 0;
    for (int i = (int)threadIdx.x * 8; i < p.n_col; i += W * 32 * 8)
        sum += stage_piece(p, load8(x + i), i, norm, shrink, xs);
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
                if (i + j * stride < p.n_col)
                    sum += stage_piece(p, r[j], i + j * stride, norm, shrink,
                                       xs + row * xs_stride);
        }
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0)
            squares[row * W + part] = sum;
    }
    __syncthreads();
}

/* The input into shared memory. Returns 1/rms of a finishing thread's row. */
template <int W, bool ONE>
static __device__ __forceinline__ float stage_x(const gemv_params &p, act *xs, int xs_stride,
                                                const float *norm, float shrink, float *squares,
                                                int token)
{
    if (ONE)
        stage_one<W>(p, xs, norm, shrink, squares);
    else
        stage_rows<W>(p, xs, xs_stride, norm, shrink, squares);
    float sum = 0;
    int each = ONE ? W : warps_a_row<W>(p.n_row);
    for (int w = 0; w < each && token < p.n_row; w++)
        sum += squares[token * W + w];
    return p.norm_weight ? unshrunk(rsqrtf(sum / (float)p.n_col + p.eps), shrink) : 1.0f;
}

/* Sum the warps' slices of K and hand the tile's values to their places, one a thread. */
template <int W, int COLS, int FORM>
static __device__ __forceinline__ void finish_tile(const gemv_params &p, const tile_end &e,
                                                   const float *red, float rstd,
                                                   head_exchange<COLS> *ex, candidate *best)
{
    constexpr int EACH = tile_values<FORM>;
    static_assert(EACH * COLS <= W * 32);
    int row = (int)threadIdx.x % EACH, token = (int)threadIdx.x / EACH;
    bool mine = token < p.n_row;
    float a = 0, b = 0;
    if (mine) {
        const float *at = red + token * RED_STRIDE + row;
#pragma unroll
        for (int w = 0; w < W; w++) {
            a += at[w * RED_STRIDE * COLS];
            if (!gemv_flat<FORM> && FORM != GEMV_HALVES)
                b += at[w * RED_STRIDE * COLS + 8];
        }
        a *= rstd;
        b *= rstd;
    }
    if (FORM == GEMV_ROPE || FORM == GEMV_ROPE_NORM)
        store_rope<FORM, COLS>(p, e, a, b, ex);
    else if (mine && FORM == GEMV_LOGITS)
        store_logit(p, e, a, best);
    else if (mine)
        store_value(p, e, FORM == GEMV_SWIGLU ? a / (1.0f + __expf(-a)) * b : a);
}

/* The loads in flight of one warp: U steps of weights (and of activations, if not staged). */
template <int W, int U, int NT, bool STAGED, int FORM> struct pipeline {
    static constexpr bool ONE = NT == 0;
    static constexpr int N = ONE ? 1 : NT;
    uint4 wa[U], wb[U], xv[STAGED ? 1 : U][N];
    tile_rows rows;
    int tile, step, g, k0, k_end;

    __device__ __forceinline__ void begin(const gemv_params &p)
    {
        int lane = (int)threadIdx.x % 32, warp = (int)threadIdx.x / 32;
        g = lane / 4;
        k0 = warp * p.step * 32 + lane % 4 * 8;
        k_end = min(gemv_width<FORM>(p.n_col), (warp + 1) * p.step * 32);
        tile = (int)blockIdx.x;
        step = 0;
        rows = rows_of<FORM>(p, tile, g);
    }

    /* Ask for the next step of weights into slot u. */
    __device__ __forceinline__ void ask(const gemv_params &p, int u)
    {
        int k = k0 + step * 32;
        bool ok = tile < p.n_tile && k < k_end;
        wa[u] = load_weight_if(rows.a + k, ok);
        wb[u] = load_weight_if(rows.b + k, ok);
        if (++step == p.step) {
            step = 0;
            tile += (int)gridDim.x;
            rows = rows_of<FORM>(p, tile, g);
        }
    }

    __device__ __forceinline__ void ask_x(const gemv_params &p, int u, int at)
    {
        int k = k0 + at * 32;
#pragma unroll
        for (int n = 0; n < N; n++) {
            const act *x = p.x + min(n * 8 + g, p.n_row - 1) * p.x_stride + k;
            xv[u][n] = k < k_end ? __ldcg((const uint4 *)x) : make_uint4(0, 0, 0, 0);
        }
    }

    /* One tile's products; the slots are refilled for what comes after. */
    __device__ __forceinline__ void run(const gemv_params &p, const act *xs, int xs_stride,
                                        float (*acc)[N][4])
    {
        int width = gemv_width<FORM>(p.n_col), other = FORM == GEMV_HALVES && g % 2 ? width : 0;
        for (int s = 0; s < p.step; s += U) {
#pragma unroll
            for (int u = 0; u < U; u++) {
#pragma unroll
                for (int n = 0; STAGED && n < N; n++) {
                    const act *x = xs + (ONE ? other : min(n * 8 + g, p.n_row - 1) * xs_stride);
                    xv[0][n] = *(const uint4 *)(x + min(k0 + (s + u) * 32, width - 8));
                }
#pragma unroll
                for (int n = 0; n < N; n++) {
                    uint4 x = xv[STAGED ? 0 : u][n];
                    mma_16816(acc[0][n], wa[u].x, wb[u].x, wa[u].y, wb[u].y, x.x, x.y);
                    mma_16816(acc[1][n], wa[u].z, wb[u].z, wa[u].w, wb[u].w, x.z, x.w);
                }
                ask(p, u);
                if (!STAGED)
                    ask_x(p, u, s + u + U < p.step ? s + u + U : s + u + U - p.step);
            }
        }
    }

    __device__ __forceinline__ void put(const float (*acc)[N][4], float *red)
    {
        int t = (int)threadIdx.x % 4;
#pragma unroll
        for (int n = 0; n < N; n++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int row = g + i / 2 * 8, col = n * 8 + 2 * t + i % 2;
                if (FORM == GEMV_HALVES) { /* rows a by x's first half, rows b by its second */
                    if (t == 0 && i == 0)
                        red[g] = acc[0][n][0] + acc[1][n][0] + (acc[0][n][3] + acc[1][n][3]);
                } else if (!ONE)
                    red[col * RED_STRIDE + row] = acc[0][n][i] + acc[1][n][i];
                else if (t == 0 && i % 2 == 0)
                    red[row] = acc[0][n][i] + acc[1][n][i];
            }
    }
};

/* More than there are in plain forms of one row: 96 registers do, then the next kernel has room. */
template <int W, int U, int NT, int FORM>
static constexpr int threads_max = NT == 0 && U == 4 && FORM <= GEMV_HALVES ? W * 40 : W * 32;

template <int W, int U, int NT, bool STAGED, int FORM>
static __global__ void
__launch_bounds__(threads_max<W, U, NT, FORM>, U == 2 ? 32 / W : 16 / W)
gemv_kernel(const __grid_constant__ gemv_params p)
{
    constexpr bool ONE = NT == 0;
    constexpr int N = ONE ? 1 : NT, COLS = ONE ? 1 : 8 * NT;
    extern __shared__ uint4 shared[];
    __shared__ float red[2][W][RED_STRIDE * COLS];
    __shared__ float squares[COLS * W];
    __shared__ alignas(16) float peaks[W];
    __shared__ head_exchange<COLS> ex;
    float *norm = (float *)shared;
    act *xs = (act *)(norm + (p.norm_weight ? p.n_col : 0));
    int xs_stride = p.n_col + 32; /* rows start 64 bytes apart in the banks */
    int i = (int)threadIdx.x % tile_values<FORM>, token = (int)threadIdx.x / tile_values<FORM>;
    pipeline<W, U, NT, STAGED, FORM> pipe;
    pipe.begin(p);
#pragma unroll
    for (int u = 0; u < U; u++)
        pipe.ask(p, u);
    bool soon = p.step <= 2 * U && (int)gridDim.x >= p.n_tile; /* little more to ask for */
    if (soon)
        bring_ahead(p.ahead);
    if (FORM == GEMV_ROPE_NORM) {
        if (threadIdx.x == 0)
            inbox_init(&ex.full, p.rope.head_dim / 16 * p.n_row * (int)sizeof(float));
        cluster_meet_begin();
    }
    if (STAGED)
        stage_norm<W>(p, norm, peaks);
    __syncthreads();
    float shrink = STAGED && ACT_NARROW && p.norm_weight ? shrink_of<W>(peaks) : 1.0f;
    /* What the end of the first tile needs: the step's arrays now, activations after the wait. */
    constexpr bool TURNS = FORM == GEMV_ROPE || FORM == GEMV_ROPE_NORM;
    tile_end end = {};
    if (TURNS && token < p.n_row)
        end = end_of<FORM>(p, (int)blockIdx.x, i, token);
    pdl_wait();
    if (p.early)
        pdl_trigger();
    if (!TURNS && token < p.n_row)
        end = end_of<FORM>(p, (int)blockIdx.x, i, token);
    float rstd = STAGED ? stage_x<W, ONE>(p, xs, xs_stride, norm, shrink, squares, token) : 1.0f;
#pragma unroll
    for (int u = 0; !STAGED && u < U; u++)
        pipe.ask_x(p, u, u);
    int parity = 0;
    candidate best = { -INFINITY, CANDIDATE_NONE };
    for (int tile = (int)blockIdx.x; tile < p.n_tile; tile += (int)gridDim.x, parity ^= 1) {
        int next = tile + (int)gridDim.x;
        float acc[2][N][4] = {};
        pipe.run(p, xs, xs_stride, acc);
        if (next >= p.n_tile) {
            if (!soon)
                bring_ahead(p.ahead);
            pdl_trigger();
        }
        pipe.put(acc, red[parity][threadIdx.x / 32]);
        __syncthreads();
        finish_tile<W, COLS, FORM>(p, end, red[parity][0], rstd, &ex, &best);
        if (next < p.n_tile && token < p.n_row)
            end = end_of<FORM>(p, next, i, token);
    }
    if (FORM == GEMV_LOGITS)
        put_best(p, best);
}

} // namespace ACT_SPACE

#endif
