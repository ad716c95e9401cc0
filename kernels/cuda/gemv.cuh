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

#include "kernels/cuda/gemv_params.cuh"
#include "kernels/cuda/gemv_stage.cuh"

namespace ACT_SPACE {

/*
 * What one finishing thread needs besides the sum, asked for while the products are under way:
 * value i of the tile for one token, or pair i.
 */
struct tile_end {
    int part, row;          /* row of the part, of value a in the paired forms */
    float bias_a, bias_b, sine, cosine, norm_a, norm_b;
    int position, slot;     /* of the token, and sine a frequency, until turn_end() */
    float old;              /* what the result is added to */
    int64_t at;             /* where it goes: element of the output or of the KV pool; -1 nowhere */
    int step;               /* from a to b, elements */
};

/* Only asks, as end_of() does: see turn_end(). */
static __device__ __forceinline__ tile_end end_of_rope(const gemv_params &p, int tile, int i,
                                                       int token)
{
    const gemv_rope &r = p.rope;
    tile_end e = {};
    e.part = part_of(p, tile);
    tile -= p.part[e.part].tile0;
    int per_head = r.head_dim / 16, pair = tile % per_head * 8 + i % 8;
    e.row = tile / per_head * r.head_dim + (r.interleaved ? 2 * pair : pair);
    e.step = r.interleaved ? 1 : r.head_dim / 2;
    if (e.part > 0)
        e.slot = r.slot[token];
    if (e.part < 2) {
        e.position = r.position[token];
        e.sine = r.inv_freq[pair];
    }
    return e;
}

/*
 * Bias, norm weights, angle and place of a pair, with what end_of_rope() asked for. Apart from it:
 * the first use of what was loaded waits for it, and for all that was asked for before.
 */
template <int FORM>
static __device__ __forceinline__ void turn_end(const gemv_params &p, tile_end *e, int token)
{
    const gemv_rope &r = p.rope;
    const gemv_part &part = p.part[e->part];
    int head = e->row / r.head_dim, da = e->row % r.head_dim;
    if (part.bias) {
        e->bias_a = part.bias[e->row];
        e->bias_b = part.bias[e->row + e->step];
    }
    const float *norm = e->part == 0 ? r.q_norm : r.k_norm;
    e->norm_a = FORM == GEMV_ROPE_NORM && norm ? norm[da] : 1;
    e->norm_b = FORM == GEMV_ROPE_NORM && norm ? norm[da + e->step] : 1;
    e->at = token * part.out_stride + e->row;
    if (e->part > 0)
        e->at = e->slot < 0 ? -1
                            : e->slot / KV_BLOCK_TOKENS * r.block_stride + da
                                  + ((int64_t)head * KV_BLOCK_TOKENS + e->slot % KV_BLOCK_TOKENS)
                                        * r.head_dim;
    if (e->part < 2) {
        sincosf((float)e->position * e->sine, &e->sine, &e->cosine);
        e->sine *= r.scale;
        e->cosine *= r.scale;
    }
}

template <int FORM>
static __device__ __forceinline__ tile_end end_of(const gemv_params &p, int tile, int i, int token)
{
    if (FORM == GEMV_ROPE || FORM == GEMV_ROPE_NORM)
        return end_of_rope(p, tile, i, token);
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
                          : to_float(load_act((const act *)part.out + e.at));
    return e;
}

/* At once, with what has to be waited for. */
template <int FORM>
static __device__ __forceinline__ tile_end whole_end_of(const gemv_params &p, int tile, int i,
                                                        int token)
{
    tile_end e = end_of<FORM>(p, tile, i, token);
    if (FORM == GEMV_ROPE || FORM == GEMV_ROPE_NORM)
        turn_end<FORM>(p, &e, token);
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

template <int COLS>
static __device__ __forceinline__ void head_meet_begin(const gemv_params &p,
                                                       head_exchange<COLS> *ex)
{
    if (threadIdx.x == 0)
        inbox_init(&ex->full, p.rope.head_dim / 16 * p.n_row * (int)sizeof(float));
    cluster_meet_begin();
}

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

/* A lane's activations at k of 8 N rows, straight from L2. */
template <int N>
static __device__ __forceinline__ void ask_rows(const gemv_params &p, int k, int k_end, int g,
                                                uint4 *xv)
{
#pragma unroll
    for (int n = 0; n < N; n++) {
        const act *x = p.x + min(n * 8 + g, p.n_row - 1) * p.x_stride + k;
        xv[n] = k < k_end ? __ldcg((const uint4 *)x) : make_uint4(0, 0, 0, 0);
    }
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
        ask_rows<N>(p, k0 + at * 32, k_end, g, xv[u]);
    }

    /* One tile's products; the slots are refilled for what comes after. */
    __device__ __forceinline__ void run(const gemv_params &p, const act *xs, int xs_stride,
                                        float (*acc)[N][4])
    {
        int width = gemv_width<FORM>(p.n_col), other = FORM == GEMV_HALVES && g % 2 ? width : 0;
        constexpr bool OWN = STAGED && !ONE; /* only this warp's columns are sure to be there */
        int last = (OWN ? k_end : width) - 8, n_step = p.step;
        if (OWN && k0 - (int)threadIdx.x % 4 * 8 >= k_end)
            n_step = 0;
        for (int s = 0; s < n_step; s += U) {
#pragma unroll
            for (int u = 0; u < U; u++) {
#pragma unroll
                for (int n = 0; STAGED && n < N; n++) {
                    const act *x = xs + (ONE ? other : min(n * 8 + g, p.n_row - 1) * xs_stride);
                    xv[0][n] = *(const uint4 *)(x + min(k0 + (s + u) * 32, last));
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
static constexpr int threads_max =
    NT == 0 && U == 4 && FORM <= GEMV_HALVES ? 640 / (16 / W) : W * 32;

template <int W, int U, int NT, bool STAGED, int FORM>
static __global__ void
__launch_bounds__(threads_max<W, U, NT, FORM>, U == 2 ? 32 / W : 16 / W)
gemv_kernel(const __grid_constant__ gemv_params p)
{
    constexpr bool ONE = NT == 0;
    constexpr int N = ONE ? 1 : NT, COLS = ONE ? 1 : 8 * NT;
    extern __shared__ uint4 shared[];
    __shared__ float red[2][W][RED_STRIDE * COLS];
    __shared__ alignas(16) float squares[COLS * W];
    __shared__ alignas(16) float peaks[W];
    __shared__ head_exchange<COLS> ex;
    act *xs = (act *)shared;
    int xs_stride = p.n_col + 32; /* rows start 64 bytes apart in the banks */
    int i = (int)threadIdx.x % tile_values<FORM>, token = (int)threadIdx.x / tile_values<FORM>;
    pipeline<W, U, NT, STAGED, FORM> pipe;
    pipe.begin(p);
    norm_piece norm = STAGED && !ONE ? ask_norm(p, first_column(p)) : norm_piece{};
#pragma unroll
    for (int u = 0; u < U; u++)
        pipe.ask(p, u);
    bool soon = p.step <= 2 * U && (int)gridDim.x >= p.n_tile; /* little more to ask for */
    if (soon)
        bring_ahead(p.ahead);
    if (FORM == GEMV_ROPE_NORM)
        head_meet_begin(p, &ex);
    if (STAGED)
        stage_norm<W, ONE>(p, peaks);
    float shrink = STAGED && ACT_NARROW && p.norm_weight ? shrink_of<W>(peaks) : 1.0f;
    /* What the end of the first tile needs: of several rows the angles too, which take long. */
    constexpr bool TURNS = FORM == GEMV_ROPE || FORM == GEMV_ROPE_NORM, SOON = TURNS && !ONE;
    /* Clusters find room the later the more of the next kernel's blocks there are. */
    constexpr bool LATER = FORM == GEMV_ROPE_NORM && ONE;
    tile_end end = SOON && token < p.n_row ? whole_end_of<FORM>(p, (int)blockIdx.x, i, token)
                                           : tile_end{};
    pdl_wait();
    if (p.early && !LATER)
        pdl_trigger();
    auto ask_end = [&] {
        if (!SOON && token < p.n_row)
            end = end_of<FORM>(p, (int)blockIdx.x, i, token);
    };
    if (STAGED)
        stage_x<W, ONE, FORM>(p, xs, xs_stride, norm, shrink, squares, ask_end);
    else
        ask_end();
    if (p.early && LATER)
        pdl_trigger();
    if (TURNS && !SOON && token < p.n_row)
        turn_end<FORM>(p, &end, token);
#pragma unroll
    for (int u = 0; !STAGED && u < U; u++)
        pipe.ask_x(p, u, u);
    float rstd = STAGED && ONE ? rstd_of<W>(p, squares, shrink) : 1.0f;
    candidate best = { -INFINITY, CANDIDATE_NONE };
    for (int tile = (int)blockIdx.x, parity = 0, next; tile < p.n_tile; tile = next, parity ^= 1) {
        next = tile + (int)gridDim.x;
        float acc[2][N][4] = {};
        pipe.run(p, xs, xs_stride, acc);
        if (next >= p.n_tile) {
            if (!soon)
                bring_ahead(p.ahead);
            pdl_trigger();
        }
        pipe.put(acc, red[parity][threadIdx.x / 32]);
        __syncthreads();
        if (STAGED && !ONE && tile == (int)blockIdx.x && token < p.n_row)
            rstd = rstd_of<W>(p, squares + token * W, shrink);
        finish_tile<W, COLS, FORM>(p, end, red[parity][0], rstd, &ex, &best);
        if (next < p.n_tile && token < p.n_row)
            end = whole_end_of<FORM>(p, next, i, token);
    }
    if (FORM == GEMV_LOGITS)
        put_best(p, best);
}

} // namespace ACT_SPACE

#endif
