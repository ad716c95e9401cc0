/*
 * Attention of single rows over the paged KV pool, split along the context.
 *
 * One block takes one row, one KV head (up to 16 of its query heads at once) and one split of the
 * context; its warps take turns at the KV blocks. Scores and output are computed transposed,
 * S^T = K Q^T and O^T = V^T P^T, so K and V are the wide operands of the tensor cores and come from
 * memory straight into their fragments; up to 8 heads of a group share every byte. The last split
 * to finish merges the others in their order. Up to ATTN_CLUSTER_MAX splits are a cluster instead
 * and hand their results to its first block through shared memory (attention_merge.cuh). The rows'
 * rope_append may be left to it (attention_turn.cuh).
 *
 * Fragments (g = lane / 4, t = lane % 4), one KV block of 16 tokens:
 *   K    rows g and g + 8 (tokens), 8 values at 32 j + 8 t; k is permuted alike in Q
 *   S^T  tokens g and g + 8, heads 2t and 2t + 1; transposed by movmatrix into P^T
 *   V    tokens 2t, 2t + 1, 2t + 8, 2t + 9, 8 values at 64 i + 8 g; pairs of tokens by byte permute
 *   O^T  tile 4 i + j: dims 64 i + 8 g + 2 j (+ 1), heads 2t and 2t + 1
 */
#ifndef RINGLET_CUDA_ATTENTION_ROWS_CUH
#define RINGLET_CUDA_ATTENTION_ROWS_CUH

#include "kernels/cuda/attention_merge.cuh"
#include "kernels/cuda/attention_turn.cuh"

namespace ACT_SPACE {

enum { LONE_TOKENS_MAX = 256 };

struct row_range {
    int kv, first;         /* visible positions [first, kv) */
    int block0, block1;    /* KV blocks of this split */
    int active;            /* splits of this row */
    int old;               /* positions below it were appended by earlier steps */
    int table;             /* where the sequence's block numbers begin */
};

/*
 * kv 0: padding. round: KV blocks that a block has on their way at a time. SINGLE: each row is a
 * sequence of its own, which has its number. Each load that waits for another takes long.
 */
template <bool SINGLE>
static __device__ __forceinline__ row_range range_of(const attn_params &p, int row, int split,
                                                     int round)
{
    row_range r;
    int seq = SINGLE ? row : p.row_seq[row], kv = p.kv_tokens[seq];
    int row0 = SINGLE ? row : p.row_start[seq], row1 = SINGLE ? row + 1 : p.row_start[seq + 1];
    r.table = p.block_start[seq];
    r.kv = kv > 0 ? kv - (row1 - 1 - row) : 0;
    r.old = kv - (row1 - row0);
    r.first = p.window > 0 ? max(0, r.kv - p.window) : 0;
    int block0 = r.first / KV_BLOCK_TOKENS;
    int n_block = (r.kv + KV_BLOCK_TOKENS - 1) / KV_BLOCK_TOKENS - block0;
    int each = attn_split_blocks(n_block, p.n_split, round, p.fixed);
    r.active = (n_block + each - 1) / each;
    r.block0 = block0 + split * each;
    r.block1 = min(r.block0 + each, block0 + n_block);
    return r;
}

static __device__ __forceinline__ uint32_t transpose8x8(uint32_t v)
{
    uint32_t r;
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(r) : "r"(v));
    return r;
}

static __device__ __forceinline__ uint4 load_kv(const act *p)
{
    uint4 r;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
                 : "l"(p));
    return r;
}

template <int HD, int NT, int W> static constexpr int flying = attn_flying(HD, 8 * NT, W);

/* One warp's running softmax over its KV blocks, for 8 NT heads. */
template <int HD, int NT, int F> struct row_state {
    float o[NT][HD / 16][4];
    float max[NT][2], sum[NT][2];
    uint4 q[NT][HD / 32];
    uint4 k[F][HD / 32][2];
    uint4 v[F][HD / 64][4];

    __device__ void clear(void)
    {
        memset(&o, 0, sizeof o);
        for (int n = 0; n < NT; n++)
            for (int c = 0; c < 2; c++) {
                max[n][c] = -INFINITY;
                sum[n][c] = 0;
            }
    }

    __device__ void load_q(const act *q0, int n_valid, int g, int t)
    {
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int j = 0; j < HD / 32; j++)
                q[n][j] = n * 8 + g < n_valid
                              ? __ldcg((const uint4 *)(q0 + (n * 8 + g) * HD + 32 * j + 8 * t))
                              : make_uint4(0, 0, 0, 0);
    }

    __device__ void load_k(int f, const act *block, int g, int t)
    {
#pragma unroll
        for (int j = 0; j < HD / 32; j++) {
            k[f][j][0] = load_kv(block + g * HD + 32 * j + 8 * t);
            k[f][j][1] = load_kv(block + (g + 8) * HD + 32 * j + 8 * t);
        }
    }

    /* Tokens outside of [lo, hi) may hold anything, NaN too: they count as zero. */
    __device__ void load_v(int f, const act *block, int g, int t, int lo, int hi)
    {
#pragma unroll
        for (int i = 0; i < HD / 64; i++)
#pragma unroll
            for (int j = 0; j < 4; j++) {
                int token = 2 * t + j % 2 + j / 2 * 8;
                v[f][i][j] = token >= lo && token < hi
                                 ? load_kv(block + token * HD + 64 * i + 8 * g)
                                 : make_uint4(0, 0, 0, 0);
            }
    }

    /* One token's K and V from elsewhere. */
    __device__ void replace(int f, const act *own_k, const act *own_v, int token, int g, int t)
    {
#pragma unroll
        for (int j = 0; j < HD / 32; j++) {
            if (token == g)
                k[f][j][0] = *(const uint4 *)(own_k + 32 * j + 8 * t);
            if (token == g + 8)
                k[f][j][1] = *(const uint4 *)(own_k + 32 * j + 8 * t);
        }
#pragma unroll
        for (int i = 0; i < HD / 64; i++)
#pragma unroll
            for (int j = 0; j < 4; j++)
                if (token == 2 * t + j % 2 + j / 2 * 8)
                    v[f][i][j] = *(const uint4 *)(own_v + 64 * i + 8 * g);
    }

    __device__ void scores(int f, float (*s)[4])
    {
#pragma unroll
        for (int j = 0; j < HD / 32; j++)
#pragma unroll
            for (int n = 0; n < NT; n++) {
                const uint4 a = k[f][j][0], b = k[f][j][1];
                mma_16816(s[n], a.x, b.x, a.y, b.y, q[n][j].x, q[n][j].y);
                mma_16816(s[n], a.z, b.z, a.w, b.w, q[n][j].z, q[n][j].w);
            }
    }

    /* s becomes weights; the state is rescaled where a maximum grew. */
    __device__ void soften(float (*s)[4], float scale, int g, int lo, int hi)
    {
#pragma unroll
        for (int n = 0; n < NT; n++) {
            float grown[2];
#pragma unroll
            for (int c = 0; c < 2; c++) {
                s[n][c] = g >= lo && g < hi ? s[n][c] * scale : -INFINITY;
                s[n][c + 2] = g + 8 >= lo && g + 8 < hi ? s[n][c + 2] * scale : -INFINITY;
                float m = fmaxf(s[n][c], s[n][c + 2]);
#pragma unroll
                for (int x = 4; x < 32; x <<= 1)
                    m = fmaxf(m, __shfl_xor_sync(0xffffffffu, m, x));
                grown[c] = fmaxf(max[n][c], m);
            }
            if (__any_sync(0xffffffffu, grown[0] > max[n][0] || grown[1] > max[n][1])) {
                float f0 = exp2f(max[n][0] - grown[0]), f1 = exp2f(max[n][1] - grown[1]);
                sum[n][0] *= f0;
                sum[n][1] *= f1;
#pragma unroll
                for (int j = 0; j < HD / 16; j++) {
                    o[n][j][0] *= f0;
                    o[n][j][1] *= f1;
                    o[n][j][2] *= f0;
                    o[n][j][3] *= f1;
                }
            }
#pragma unroll
            for (int c = 0; c < 2; c++) {
                max[n][c] = grown[c];
                s[n][c] = exp2f(s[n][c] - grown[c]);
                s[n][c + 2] = exp2f(s[n][c + 2] - grown[c]);
                sum[n][c] += s[n][c] + s[n][c + 2];
            }
        }
    }

    __device__ void accumulate(int f, const float (*s)[4])
    {
        uint32_t b[NT][2];
#pragma unroll
        for (int n = 0; n < NT; n++) {
            b[n][0] = transpose8x8(pack_act(s[n][0], s[n][1]));
            b[n][1] = transpose8x8(pack_act(s[n][2], s[n][3]));
        }
#pragma unroll
        for (int i = 0; i < HD / 64; i++) {
            const uint32_t *w0 = &v[f][i][0].x, *w1 = &v[f][i][1].x;
            const uint32_t *w2 = &v[f][i][2].x, *w3 = &v[f][i][3].x;
#pragma unroll
            for (int j = 0; j < 4; j++) {
                uint32_t a0 = __byte_perm(w0[j], w1[j], 0x5410);
                uint32_t a1 = __byte_perm(w0[j], w1[j], 0x7632);
                uint32_t a2 = __byte_perm(w2[j], w3[j], 0x5410);
                uint32_t a3 = __byte_perm(w2[j], w3[j], 0x7632);
#pragma unroll
                for (int n = 0; n < NT; n++)
                    mma_16816(o[n][4 * i + j], a0, a1, a2, a3, b[n][0], b[n][1]);
            }
        }
    }
};

/*
 * Where a warp's KV blocks lie: every `every`th of the range. Their numbers are read a round of F
 * blocks ahead of their use.
 */
template <int HD, int F> struct block_walk {
    const act *k, *v;
    const int32_t *blocks;
    int64_t stride;
    int b, end, every, kv, first, id[F], next_id[F];

    __device__ __forceinline__ void begin(const attn_params &p, const row_range &r, int kv_head,
                                          int b0, int each)
    {
        int64_t head_at = (int64_t)kv_head * KV_BLOCK_TOKENS * HD;
        blocks = p.blocks + r.table;
        k = p.k + head_at;
        v = p.v + head_at;
        stride = p.block_stride;
        b = b0;
        end = r.block1;
        every = each;
        kv = r.kv;
        first = r.first;
#pragma unroll
        for (int f = 0; f < F; f++) {
            id[f] = number(f);
            next_id[f] = number(F + f);
        }
    }

    /* The number of the warp's block after `n` more. */
    __device__ __forceinline__ int number(int n) const
    {
        int block = b + n * every;
        return block < end ? blocks[block] : 0;
    }

    /* Does this warp come by the last block of all? */
    __device__ __forceinline__ bool has_last(void) const
    {
        int last = (kv - 1) / KV_BLOCK_TOKENS;
        return last >= b && last < end && (last - b) % every == 0;
    }

    __device__ __forceinline__ int lo(int block) const
    {
        return first - block * KV_BLOCK_TOKENS;
    }

    __device__ __forceinline__ int hi(int block) const
    {
        return kv - block * KV_BLOCK_TOKENS;
    }
};

/* Ask for the first round: what earlier steps appended may be read before pdl_wait(). */
template <int HD, int NT, int F, bool TURN>
static __device__ __forceinline__ void first_round(const attn_params &p, const row_range &r,
                                                   const block_walk<HD, F> &w,
                                                   row_state<HD, NT, F> &state, bool waited)
{
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int f = 0; f < F; f++) {
        int b = w.b + f * w.every;
        bool old = p.ahead && (TURN || (b + 1) * KV_BLOCK_TOKENS <= r.old);
        if (b >= w.end || old == waited)
            continue;
        int64_t at = w.id[f] * w.stride;
        state.load_k(f, w.k + at, g, t);
        state.load_v(f, w.v + at, g, t, w.lo(b), w.hi(b));
    }
}

/* turn: has K and V of the last token, which the pool lacks yet; NULL: it has them. */
template <int HD, int NT, int F>
static __device__ __forceinline__ void walk(const attn_params &p, block_walk<HD, F> &w,
                                            row_state<HD, NT, F> &state,
                                            const turn_shared<HD> *turn)
{
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    for (; w.b < w.end; w.b += F * w.every) {
#pragma unroll
        for (int f = 0; f < F; f++) {
            int b = w.b + f * w.every, next = b + F * w.every;
            if (f > 0 && b >= w.end)
                break;
            int64_t at = w.next_id[f] * w.stride;
            w.next_id[f] = w.number(2 * F + f);
            if (turn && w.hi(b) <= KV_BLOCK_TOKENS)
                state.replace(f, turn->own_k, turn->own_v, w.hi(b) - 1, g, t);
            float s[NT][4] = {};
            state.scores(f, s);
            if (next < w.end)
                state.load_k(f, w.k + at, g, t);
            state.soften(s, p.scale, g, w.lo(b), w.hi(b));
            state.accumulate(f, s);
            if (next < w.end)
                state.load_v(f, w.v + at, g, t, w.lo(next), w.hi(next));
        }
    }
}

template <int HD, int NT, int F>
static __device__ __forceinline__ void put_warp(row_state<HD, NT, F> &state, int n_valid,
                                                head_part<HD> *to)
{
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
    for (int n = 0; n < NT; n++) {
#pragma unroll
        for (int c = 0; c < 2; c++) {
            int h = n * 8 + 2 * t + c;
            head_part<HD> *head = to + h;
            float sum = state.sum[n][c];
#pragma unroll
            for (int x = 4; x < 32; x <<= 1)
                sum += __shfl_xor_sync(0xffffffffu, sum, x);
            if (h >= n_valid)
                continue;
            if (g == 0) {
                head->max = state.max[n][c];
                head->sum = sum;
            }
#pragma unroll
            for (int j = 0; j < HD / 16; j++) {
                int d = j / 4 * 64 + 8 * g + j % 4 * 2;
                head->o[d] = state.o[n][j][c];
                head->o[d + 1] = state.o[n][j][c + 2];
            }
        }
    }
}

/* Warps that put a result: of wide blocks those that had work. */
template <int W> static __device__ __forceinline__ int warps_put(const row_range &r)
{
    return W == ATTN_NARROW ? W : min(W, r.block1 - r.block0);
}

/* This block's result to the first of its cluster, which merges. */
template <int HD, int W>
static __device__ __forceinline__ void finish_cluster(const attn_params &p, const row_range &r,
                                                      int n_valid, act *out, float *shared,
                                                      uint64_t *box)
{
    const head_part<HD> *local = (const head_part<HD> *)shared;
    head_part<HD> *part = (head_part<HD> *)shared + W * p.group;
    int rank = (int)blockIdx.x, n_warp = warps_put<W>(r);
    if (rank > 0)
        cluster_meet_end();
    for (int i = (int)threadIdx.x; i < n_valid * HD / 4; i += W * 32) {
        int h = i * 4 / HD, d = i * 4 % HD;
        head_part<HD> *to = part + rank * n_valid + h;
        float4 ends = make_float4(0, 0, 0, 0);
        float4 v = merge_warps<HD, W>(local, n_warp, p.group, h, d, &ends.x, &ends.y);
        if (rank > 0) {
            inbox_put4(&to->o[d], box, 0, v);
            if (d == 0)
                inbox_put4(&to->max, box, 0, ends);
        } else {
            *(float4 *)&to->o[d] = v;
            if (d == 0)
                *(float4 *)&to->max = ends;
        }
    }
    if (rank > 0)
        return;
    cluster_meet_end(); /* nothing to wait for any more, but racecheck hangs without */
    inbox_wait(box);
    __syncthreads();
    merge_few<HD, W, false>(part, r.active, n_valid, n_valid, out);
}

/* This block's result: to the output if it is the row's only split, else merged by the last. */
template <int HD, int W>
static __device__ __forceinline__ void finish_row(const attn_params &p, const row_range &r,
                                                  int n_valid, act *out, float *shared)
{
    const head_part<HD> *local = (const head_part<HD> *)shared;
    int64_t unit = (int64_t)blockIdx.z * gridDim.y + blockIdx.y;
    int n_warp = warps_put<W>(r);
    head_part<HD> *part = (head_part<HD> *)p.part + unit * p.n_split * p.group;
    for (int i = (int)threadIdx.x; i < n_valid * HD / 4; i += W * 32) {
        int h = i * 4 / HD, d = i * 4 % HD;
        float4 ends = make_float4(0, 0, 0, 0);
        float4 v = merge_warps<HD, W>(local, n_warp, p.group, h, d, &ends.x, &ends.y);
        if (r.active == 1) {
            act2 *to = (act2 *)(out + i * 4);
            float scale = 1.0f / ends.y;
            to[0] = to_act2(v.x * scale, v.y * scale);
            to[1] = to_act2(v.z * scale, v.w * scale);
            continue;
        }
        head_part<HD> *to = part + (int)blockIdx.x * p.group + h;
        *(float4 *)&to->o[d] = v;
        if (d == 0)
            *(float4 *)&to->max = ends;
    }
    if (r.active == 1 || !last_arriver(p.ticket + unit, (uint32_t)r.active))
        return;
    if (r.active <= ATTN_CLUSTER_MAX)
        merge_few<HD, W, true>(part, r.active, p.group, n_valid, out);
    else
        merge_splits<HD, W>(part, r.active, p.group, n_valid, out, shared);
}

/*
 * A short context leaves three of four warps nothing to do: where there are rows enough to fill the
 * device, every fourth block (of W) does the work of four, a warp each, and the others end at once.
 */
template <int HD, int NT, int W>
static __device__ void lone_warps(const attn_params &p, int row, const row_range &r, float *shared)
{
    int warp = (int)threadIdx.x / 32, unit = (int)blockIdx.y + warp;
    if (blockIdx.y % W || unit >= (int)gridDim.y)
        return;
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    int per_kv = p.n_head / p.n_kv_head, first = unit % p.n_group * p.group;
    int head0 = unit / p.n_group * per_kv + first, n_valid = min(p.group, per_kv - first);
    act *out = p.out + row * p.out_stride + (int64_t)head0 * HD;
    head_part<HD> *part = (head_part<HD> *)shared + warp * p.group;
    constexpr int F = flying<HD, NT, W>;
    row_state<HD, NT, F> state;
    block_walk<HD, F> w;
    w.begin(p, r, unit / p.n_group, r.block0, 1);
    first_round<HD, NT, F, false>(p, r, w, state, false);
    pdl_wait();
    state.load_q(p.q + row * p.q_stride + (int64_t)head0 * HD, n_valid, g, t);
    first_round<HD, NT, F, false>(p, r, w, state, true);
    state.clear();
    walk<HD, NT>(p, w, state, NULL);
    pdl_trigger();
    put_warp<HD, NT>(state, n_valid, part);
    __syncwarp();
    for (int i = lane; i < n_valid * HD / 4; i += 32) {
        int h = i * 4 / HD, d = i * 4 % HD;
        float4 v = *(const float4 *)&part[h].o[d];
        float scale = 1.0f / part[h].sum;
        act2 *to = (act2 *)(out + i * 4);
        to[0] = to_act2(v.x * scale, v.y * scale);
        to[1] = to_act2(v.z * scale, v.w * scale);
    }
}

/* Where a row's own K and V go in the pools, elements; -1: nowhere. */
template <int HD>
static __device__ __forceinline__ int64_t pool_at(const attn_params &p, int slot, int kv_head)
{
    return slot < 0 ? -1
                    : slot / KV_BLOCK_TOKENS * p.block_stride
                          + (kv_head * KV_BLOCK_TOKENS + slot % KV_BLOCK_TOKENS) * HD;
}

/* Blocks that an SM is to hold: of heads of 64 as many as leave a thread 128 registers. */
template <int HD, int NT, int W>
static constexpr int rows_blocks = NT > 1             ? 1
                                   : HD == 64         ? ATTN_WIDEST / W
                                   : W == ATTN_NARROW ? ATTN_NARROW_BLOCKS
                                                      : 1;

/* W warps. TURN: rope_append of single rows is still to do (attention_turn.cuh); NT is 1 then. */
template <int HD, int NT, bool TURN, int W>
static __global__ void __launch_bounds__(W * 32, rows_blocks<HD, NT, W>)
attn_rows_kernel(const __grid_constant__ attn_params p)
{
    extern __shared__ float shared[]; /* head_part<HD> [warp][group] */
    int row = p.row0 + (int)blockIdx.z, split = (int)blockIdx.x;
    int kv_head = (int)blockIdx.y / p.n_group, group = (int)blockIdx.y % p.n_group;
    int per_kv = p.n_head / p.n_kv_head;
    int head0 = kv_head * per_kv + group * p.group;
    int n_valid = min(p.group, per_kv - group * p.group);
    int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    act *out = p.out + row * p.out_stride + (int64_t)head0 * HD;
    const act *q0 = p.q + row * p.q_stride + (int64_t)head0 * HD;
    __shared__ turn_shared<HD> turn; /* TURN only, as the next three are */
    turn_ask ask = {};
    raw_at raw = {};
    uint4 v;
    if constexpr (TURN) /* the batch's arrays were there before the step began */
        ask = ask_turn<HD>(p.turn, row);
    row_range r = range_of<TURN>(p, row, split, W * flying<HD, NT, W>);
    if (!TURN && W == ATTN_NARROW && p.lone && r.kv > 0 && r.kv - r.first <= LONE_TOKENS_MAX) {
        lone_warps<HD, NT, W>(p, row, r, shared);
        return;
    }
    constexpr int F = flying<HD, NT, W>;
    row_state<HD, NT, F> state;
    block_walk<HD, F> w;
    bool working = r.kv > 0 && split < r.active;
    __shared__ uint64_t box;
    if (p.cluster) {
        if (threadIdx.x == 0 && split == 0)
            inbox_init(&box, max(r.active - 1, 0) * n_valid * (int)sizeof(head_part<HD>));
        cluster_meet_begin();
    }
    if (working) {
        w.begin(p, r, kv_head, r.block0 + (int)threadIdx.x / 32, W);
        if constexpr (TURN) {
            put_tables<HD>(p.turn, ask, &turn); /* while the blocks' numbers are on their way */
            __syncthreads();
        }
        first_round<HD, NT, F, TURN>(p, r, w, state, false);
        if constexpr (TURN)
            raw = find_raw<HD>(p.turn, q0, row * p.q_stride + kv_head * HD, n_valid, w.has_last());
    }
    if (p.soonest)
        pdl_trigger();
    pdl_wait();
    if (p.early)
        pdl_trigger();
    if (!working) {
        for (int i = (int)threadIdx.x; r.kv == 0 && split == 0 && i < n_valid * HD; i += W * 32)
            out[i] = to_act(0); /* padding */
        return;
    }
    if constexpr (TURN)
        ask_raw<HD>(raw, state.q[0], &v);
    else
        state.load_q(q0, n_valid, g, t);
    first_round<HD, NT, F, TURN>(p, r, w, state, true);
    if constexpr (TURN)
        turn_raw<HD>(p.turn, &turn, n_valid, w.has_last(), pool_at<HD>(p, ask.slot, kv_head),
                     state.q[0], v);
    state.clear();
    walk<HD, NT>(p, w, state, TURN ? &turn : NULL);
    pdl_trigger();
    if ((int)threadIdx.x / 32 < warps_put<W>(r))
        put_warp<HD, NT>(state, n_valid, (head_part<HD> *)shared + (int)threadIdx.x / 32 * p.group);
    __syncthreads();
    if (p.cluster && r.active > 1)
        finish_cluster<HD, W>(p, r, n_valid, out, shared, &box);
    else
        finish_row<HD, W>(p, r, n_valid, out, shared);
}

} // namespace ACT_SPACE

#endif
