/*
 * Paged prefill attention on Hopper: FlashAttention-3's shape (arXiv 2407.08608). One producer warp
 * copies K and V tiles of 128 tokens (8 KV blocks) through two stages; two warpgroups each own 64
 * of the tile's 128 query rows and overlap the softmax of one tile with the products of the next.
 *
 * A tile's rows are tokens x the query heads of one KV head, so a byte of K or V serves them all.
 * Tiles run from the diagonal backwards, the longest tiles of the grid first.
 *
 *   shared  q [HD / 64][128 rows][128 bytes]   k, v [2 stages][HD / 64][128 tokens][128 bytes]
 */
#ifndef RINGLET_CUDA_ATTENTION_SM90_CUH
#define RINGLET_CUDA_ATTENTION_SM90_CUH

#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/sm90/wgmma.cuh"

namespace ACT_SPACE {

enum {
    TILE_ROWS = 128,
    TILE_KV = 128,
    TILE_STAGES = 2,
    TILE_CONSUMERS = 256,
    TILE_THREADS = 384,
    HALF_BYTES = 128 * 128, /* 128 rows of 64 values */
};

struct prefill_params {
    attn_params a;
    int seq0, n_seq;        /* sequences [seq0, n_seq) have more than one row, or may */
    int tile_tokens;        /* tokens of a tile */
    int n_tile;             /* bound over all sequences */
};

struct prefill_tile {
    int seq, row0, n_token, position0, kv; /* position0: of the first token */
};

/* Tile number i over all sequences; every warp finds it by itself. seq -1: there is none. */
static __device__ __forceinline__ prefill_tile find_tile(const prefill_params &p, int i)
{
    int lane = (int)threadIdx.x % 32;
    for (int s0 = p.seq0; s0 < p.n_seq; s0 += 32) {
        int s = s0 + lane, from = 0, n = 0;
        if (s < p.n_seq) {
            from = p.a.row_start[s];
            n = p.a.row_start[s + 1] - from;
        }
        int own = (n + p.tile_tokens - 1) / p.tile_tokens, sum = own;
#pragma unroll
        for (int x = 1; x < 32; x <<= 1) {
            int v = __shfl_up_sync(0xffffffffu, sum, x);
            if (lane >= x)
                sum += v;
        }
        unsigned found = __ballot_sync(0xffffffffu, i < sum);
        if (!found) {
            i -= __shfl_sync(0xffffffffu, sum, 31);
            continue;
        }
        int at = __ffs((int)found) - 1;
        int token0 = (i - __shfl_sync(0xffffffffu, sum - own, at)) * p.tile_tokens;
        n = __shfl_sync(0xffffffffu, n, at);
        from = __shfl_sync(0xffffffffu, from, at);
        int kv = p.a.kv_tokens[s0 + at];
        return { s0 + at, from + token0, min(p.tile_tokens, n - token0), kv - n + token0, kv };
    }
    return { -1, 0, 0, 0, 0 };
}

template <int HD> struct prefill_shared {
    static constexpr int HALVES = HD / 64, TILE_BYTES = HALVES * HALF_BYTES;
    static constexpr int BYTES = TILE_BYTES * (1 + 2 * TILE_STAGES) + 1024 + 128;
    uint8_t *q, *k, *v; /* k and v: stages follow each other */
    uint64_t *full_k, *full_v, *empty_k, *empty_v;

    __device__ __forceinline__ prefill_shared(uint8_t *raw)
    {
        q = raw + (1024 - shared_address(raw) % 1024) % 1024;
        k = q + TILE_BYTES;
        v = k + TILE_STAGES * TILE_BYTES;
        full_k = (uint64_t *)(v + TILE_STAGES * TILE_BYTES);
        full_v = full_k + TILE_STAGES;
        empty_k = full_v + TILE_STAGES;
        empty_v = empty_k + TILE_STAGES;
    }

    __device__ __forceinline__ void init(void)
    {
        for (int i = 0; i < TILE_STAGES; i++) {
            barrier_init(full_k + i, 1);
            barrier_init(full_v + i, 1);
            barrier_init(empty_k + i, TILE_CONSUMERS / 32);
            barrier_init(empty_v + i, TILE_CONSUMERS / 32);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
};

/* KV tiles of a query tile: [first, last], walked from last to first. */
struct kv_tiles {
    int first, last;
};

static __device__ __forceinline__ kv_tiles tiles_of(const prefill_params &p, const prefill_tile &t)
{
    int from = p.a.window > 0 ? max(0, t.position0 - p.a.window + 1) : 0;
    return { from / TILE_KV, (t.position0 + t.n_token - 1) / TILE_KV };
}

template <int HD>
static __device__ __forceinline__ void produce(const prefill_params &p, const prefill_tile &t,
                                               const prefill_shared<HD> &s,
                                               const CUtensorMap *k_map, const CUtensorMap *v_map,
                                               int kv_head)
{
    constexpr int BLOCKS = TILE_KV / KV_BLOCK_TOKENS;
    int lane = (int)threadIdx.x % 32, last_block = (t.kv - 1) / KV_BLOCK_TOKENS;
    const int32_t *blocks = p.a.blocks + p.a.block_start[t.seq];
    kv_tiles tiles = tiles_of(p, t);
    for (int j = tiles.last, n = 0; j >= tiles.first; j--, n++) {
        int stage = n % TILE_STAGES, parity = (n / TILE_STAGES & 1) ^ 1;
        int block = lane < BLOCKS ? blocks[min(j * BLOCKS + lane, last_block)] : 0;
        for (int kv = 0; kv < 2; kv++) {
            uint64_t *full = (kv ? s.full_v : s.full_k) + stage;
            barrier_wait((kv ? s.empty_v : s.empty_k) + stage, (uint32_t)parity);
            if (lane == 0)
                barrier_expect(full, s.TILE_BYTES);
            __syncwarp();
            uint8_t *to = (kv ? s.v : s.k) + stage * s.TILE_BYTES;
            if (lane < BLOCKS)
                for (int h = 0; h < s.HALVES; h++)
                    copy_tile_4d(to + h * HALF_BYTES + lane * KV_BLOCK_TOKENS * 128,
                                 kv ? v_map : k_map, h * 64, 0, kv_head, block, full);
        }
    }
}

/* The query rows, swizzled by hand; rows past the tile's tokens are zero. */
template <int HD>
static __device__ __forceinline__ void load_queries(const prefill_params &p, const prefill_tile &t,
                                                    uint8_t *to, int kv_head)
{
    constexpr int CHUNKS = HD / 8;
    int group = p.a.group;
    for (int i = (int)threadIdx.x; i < TILE_ROWS * CHUNKS; i += TILE_CONSUMERS) {
        int row = i / CHUNKS, chunk = i % CHUNKS, token = row / group;
        uint4 v = make_uint4(0, 0, 0, 0);
        if (token < t.n_token) {
            int head = kv_head * group + row % group;
            v = __ldcg((const uint4 *)(p.a.q + (t.row0 + token) * p.a.q_stride + head * HD)
                       + chunk);
        }
        *(uint4 *)(to + chunk / 8 * HALF_BYTES + row * 128 + (chunk % 8 ^ row % 8) * 16) = v;
    }
}

static __device__ __forceinline__ float exp2_fast(float v)
{
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v));
    return r;
}

/* One warpgroup's 64 rows; a thread holds parts of rows g and g + 8 of its warp's 16. */
template <int HD> struct prefill_state {
    float o[HD / 2], s[TILE_KV / 2];
    uint32_t w[TILE_KV / 4]; /* weights, in pairs */
    float max[2], sum[2], shrink[2];

    __device__ __forceinline__ void score(uint32_t q, uint32_t k)
    {
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < HD / 16; i++) {
            uint32_t at = i / 4 * HALF_BYTES + i % 4 * 32;
            wgmma_ss_n128(s, operand(q + at, 16, 1024), operand(k + at, 16, 1024), i > 0);
        }
        wgmma_commit();
    }

    __device__ __forceinline__ void finish_score(void)
    {
        wgmma_wait<0>();
        keep<TILE_KV / 2>(s);
    }

    /* Mask where tile j crosses the diagonal or the window's edge, then soften. */
    __device__ __forceinline__ void weigh(const prefill_params &p, const prefill_tile &t,
                                          const int *position, int lowest, int j)
    {
        if (j * TILE_KV + TILE_KV - 1 > lowest
            || (p.a.window > 0 && j * TILE_KV <= t.position0 + t.n_token - 1 - p.a.window))
            mask(position, j * TILE_KV + (int)threadIdx.x % 4 * 2, p.a.window);
        soften(p.a.scale);
    }

    __device__ __forceinline__ void accumulate(uint32_t v)
    {
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < TILE_KV / 16; i++) {
            uint64_t b = operand(v + i * 16 * 128, HALF_BYTES, 1024);
            if (HD == 128)
                wgmma_rs_n128(o, w + 4 * i, b);
            else
                wgmma_rs_n64(o, w + 4 * i, b);
        }
        wgmma_commit();
    }

    /* Columns that a row may not see. position: of rows g and g + 8; column0: of s[0]. */
    __device__ __forceinline__ void mask(const int *position, int column0, int window)
    {
#pragma unroll
        for (int i = 0; i < TILE_KV / 2; i++) {
            int column = column0 + i / 4 * 8 + i % 2, row = position[i / 2 % 2];
            if (column > row || (window > 0 && column <= row - window))
                s[i] = -INFINITY;
        }
    }

    /* Scores become weights, in place. */
    __device__ __forceinline__ void soften(float scale)
    {
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float m = -INFINITY;
#pragma unroll
            for (int i = 0; i < TILE_KV / 4; i++)
                m = fmaxf(m, s[i / 2 * 4 + 2 * r + i % 2]);
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 1));
            m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, 2)) * scale;
            float grown = fmaxf(max[r], m), base = grown == -INFINITY ? 0.0f : grown;
            shrink[r] = exp2_fast(max[r] - base);
            max[r] = grown;
            float total = 0;
#pragma unroll
            for (int i = 0; i < TILE_KV / 4; i++) {
                float &v = s[i / 2 * 4 + 2 * r + i % 2];
                v = exp2_fast(fmaf(v, scale, -base));
                total += v;
            }
            sum[r] = sum[r] * shrink[r] + total;
        }
    }

    __device__ __forceinline__ void pack(void)
    {
#pragma unroll
        for (int i = 0; i < TILE_KV / 4; i++)
            w[i] = pack_act(s[2 * i], s[2 * i + 1]);
    }

    __device__ __forceinline__ void rescale(void)
    {
#pragma unroll
        for (int i = 0; i < HD / 2; i++)
            o[i] *= shrink[i / 2 % 2];
    }
};

/* Slots past the sequence may hold anything, NaN too: their weight is 0, make their V 0 as well. */
template <int HD>
static __device__ __forceinline__ void clear_tail(uint8_t *v, int first)
{
    constexpr int CHUNKS = HD / 8;
    for (int i = first * CHUNKS + (int)threadIdx.x; i < TILE_KV * CHUNKS; i += TILE_CONSUMERS)
        *(uint4 *)(v + i % CHUNKS / 8 * HALF_BYTES + i / CHUNKS * 128 + i % 8 * 16) =
            make_uint4(0, 0, 0, 0);
    fence_async();
    warps_meet(1, TILE_CONSUMERS);
}

template <int HD>
static __device__ __forceinline__ void write_out(const prefill_params &p, const prefill_tile &t,
                                                 const prefill_state<HD> &st, int row, int kv_head)
{
    int lane = (int)threadIdx.x % 32, group = p.a.group;
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float sum = st.sum[r];
        sum += __shfl_xor_sync(0xffffffffu, sum, 1);
        sum += __shfl_xor_sync(0xffffffffu, sum, 2);
        float scale = sum > 0 ? 1.0f / sum : 0.0f;
        int own = row + 8 * r, token = own / group, head = kv_head * group + own % group;
        if (token >= t.n_token)
            continue;
        act *out = p.a.out + (t.row0 + token) * p.a.out_stride + (int64_t)head * HD
                    + lane % 4 * 2;
#pragma unroll
        for (int i = 0; i < HD / 8; i++)
            *(act2 *)(out + i * 8) = to_act2(
                st.o[4 * i + 2 * r] * scale, st.o[4 * i + 2 * r + 1] * scale);
    }
}

template <int HD>
static __device__ __forceinline__ void consume(const prefill_params &p, const prefill_tile &t,
                                               const prefill_shared<HD> &sh, int kv_head)
{
    int wg = (int)threadIdx.x / 128, lane = (int)threadIdx.x % 32;
    int row = (int)threadIdx.x / 32 * 16 + lane / 4;
    int position[2] = { t.position0 + row / p.a.group, t.position0 + (row + 8) / p.a.group };
    int lowest = t.position0 + wg * 64 / p.a.group;
    uint32_t q = shared_address(sh.q) + (uint32_t)wg * 64 * 128;
    prefill_state<HD> st;
    for (int i = 0; i < HD / 2; i++)
        st.o[i] = 0;
    for (int r = 0; r < 2; r++) {
        st.max[r] = -INFINITY;
        st.sum[r] = 0;
    }
    load_queries<HD>(p, t, sh.q, kv_head);
    fence_async();
    warps_meet(1, TILE_CONSUMERS);
    kv_tiles tiles = tiles_of(p, t);
    uint32_t k = shared_address(sh.k), v = shared_address(sh.v);
    barrier_wait(sh.full_k, 0);
    st.score(q, k);
    st.finish_score();
    if (lane == 0)
        barrier_arrive(sh.empty_k);
    st.weigh(p, t, position, lowest, tiles.last);
    st.pack();
    if ((tiles.last + 1) * TILE_KV > t.kv) {
        barrier_wait(sh.full_v, 0);
        clear_tail<HD>(sh.v, t.kv - tiles.last * TILE_KV);
    }
    int n = 1;
    for (int j = tiles.last - 1; j >= tiles.first; j--, n++) {
        int stage = n % TILE_STAGES, before = (n - 1) % TILE_STAGES;
        barrier_wait(sh.full_k + stage, n / TILE_STAGES & 1);
        st.score(q, k + stage * sh.TILE_BYTES);
        barrier_wait(sh.full_v + before, (n - 1) / TILE_STAGES & 1);
        st.accumulate(v + before * sh.TILE_BYTES);
        wgmma_wait<1>();
        keep<TILE_KV / 2>(st.s);
        if (lane == 0)
            barrier_arrive(sh.empty_k + stage);
        st.weigh(p, t, position, lowest, j);
        wgmma_wait<0>();
        keep<HD / 2>(st.o);
        if (lane == 0)
            barrier_arrive(sh.empty_v + before);
        st.rescale();
        st.pack();
    }
    int stage = (n - 1) % TILE_STAGES;
    barrier_wait(sh.full_v + stage, (n - 1) / TILE_STAGES & 1);
    st.accumulate(v + stage * sh.TILE_BYTES);
    wgmma_wait<0>();
    keep<HD / 2>(st.o);
    write_out<HD>(p, t, st, row, kv_head);
}

template <int HD>
static __global__ void __launch_bounds__(TILE_THREADS, 1)
attn_prefill_kernel(const __grid_constant__ prefill_params p,
                    const __grid_constant__ CUtensorMap k_map,
                    const __grid_constant__ CUtensorMap v_map)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ uint8_t raw[];
    prefill_shared<HD> shared(raw);
    int kv_head = (int)blockIdx.x % p.a.n_kv_head;
    prefill_tile tile = find_tile(p, p.n_tile - 1 - (int)blockIdx.x / p.a.n_kv_head);
    if (threadIdx.x == 0)
        shared.init();
    __syncthreads();
    pdl_wait();
    if (tile.seq < 0)
        return;
    if (tile.kv <= 0) { /* padding */
        for (int i = (int)threadIdx.x; i < tile.n_token * p.a.group * HD; i += TILE_THREADS)
            p.a.out[(tile.row0 + i / (p.a.group * HD)) * p.a.out_stride
                    + kv_head * p.a.group * HD + i % (p.a.group * HD)] = to_act(0);
        return;
    }
    if (threadIdx.x >= TILE_CONSUMERS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x < TILE_CONSUMERS + 32)
            produce<HD>(p, tile, shared, &k_map, &v_map, kv_head);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        consume<HD>(p, tile, shared, kv_head);
    }
#endif
}

} // namespace ACT_SPACE

#endif
