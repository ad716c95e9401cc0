/*
 * Gate, up and SwiGLU of many rows on Hopper, in one pass: a block multiplies 128 rows with 128
 * gate rows and their 128 up rows, and one thread ends up with both of a pair, so that neither half
 * ever goes to memory.
 *
 * One producer thread keeps tensor copies in flight, two warpgroups of 64 rows each multiply. Two
 * blocks of a cluster take neighboring rows and share the weights: each copies one half of them
 * into both. The grid is as large as the device; pairs of blocks walk over the tiles in groups of
 * rows that the L2 cache holds.
 */
#ifndef RINGLET_CUDA_FFN_SM90_CUH
#define RINGLET_CUDA_FFN_SM90_CUH

#include <cooperative_groups.h>

#include "kernels/cuda/sm90/wgmma.cuh"

namespace ACT_SPACE {

enum {
    FFN_TILE = 128,      /* rows, and columns of the result */
    FFN_STAGES = 4,
    FFN_CONSUMERS = 256,
    FFN_THREADS = 384,
    FFN_HALF = FFN_TILE * 128,     /* bytes of 128 rows x 64 values */
    FFN_STAGE = 3 * FFN_HALF,      /* rows, gate, up */
    FFN_BYTES = FFN_STAGES * FFN_STAGE + 1024 + 64,
    FFN_PAIRS_A_GROUP = 8,         /* 2,048 rows */
};

struct ffn_params {
    act *out;
    int n_row, n_out, n_block;     /* n_block: of 64 along K */
    int n_pair, n_column, row_up;  /* tiles: pairs of rows, columns */
};

struct ffn_maps {
    CUtensorMap x, gate, up;
};

struct ffn_shared {
    uint8_t *ring;
    uint64_t *full, *empty;

    __device__ __forceinline__ ffn_shared(uint8_t *raw)
    {
        ring = raw + (1024 - shared_address(raw) % 1024) % 1024;
        full = (uint64_t *)(ring + FFN_STAGES * FFN_STAGE);
        empty = full + FFN_STAGES;
    }
};

/* Slot and phase of the ring, in step on both sides. */
struct ffn_turn {
    int stage = 0;
    uint32_t phase = 0;

    __device__ __forceinline__ void next(void)
    {
        if (++stage == FFN_STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
};

/* Tile pair number i: *ret_row in rows, *ret_column in columns of the result. */
static __device__ __forceinline__ void ffn_tile(const ffn_params &p, int i, int rank, int *ret_row,
                                                int *ret_column)
{
    int group = i / (FFN_PAIRS_A_GROUP * p.n_column), pair0 = group * FFN_PAIRS_A_GROUP;
    int pairs = min((int)FFN_PAIRS_A_GROUP, p.n_pair - pair0);
    i -= group * FFN_PAIRS_A_GROUP * p.n_column;
    *ret_row = ((pair0 + i % pairs) * 2 + rank) * FFN_TILE;
    *ret_column = i / pairs * FFN_TILE;
}

static __device__ __forceinline__ void ffn_produce(const ffn_params &p, const ffn_maps &maps,
                                                   const ffn_shared &s, int rank)
{
    ffn_turn turn;
    for (int i = (int)blockIdx.x / 2; i < p.n_pair * p.n_column; i += (int)gridDim.x / 2) {
        int row, column;
        ffn_tile(p, i, rank, &row, &column);
        for (int k = 0; k < p.n_block; k++, turn.next()) {
            uint64_t *full = s.full + turn.stage;
            uint8_t *to = s.ring + turn.stage * FFN_STAGE;
            barrier_wait(s.empty + turn.stage, turn.phase ^ 1);
            barrier_expect(full, FFN_STAGE);
            copy_tile_2d(to, &maps.x, k * 64, row, full);
            copy_tile_2d_to(3, to + (1 + rank) * FFN_HALF, rank ? &maps.up : &maps.gate, k * 64,
                            column + (rank ? p.row_up : 0), full);
        }
    }
}

/* A stage was read: both blocks' producers write to it. */
static __device__ __forceinline__ void ffn_release(const ffn_shared &s, int stage)
{
    if (threadIdx.x % 32 < 2)
        barrier_arrive_at(s.empty + stage, threadIdx.x % 32);
}

/* The division is the fast one: every SM's products wait for it. 0 where exp overflows. */
static __device__ __forceinline__ uint32_t ffn_pair(const float *gate, const float *up)
{
    float a = __fdividef(gate[0], 1.0f + __expf(-gate[0])) * up[0];
    float b = __fdividef(gate[1], 1.0f + __expf(-gate[1])) * up[1];
    return pack_act(a, b);
}

/* Lane t of a quad has word t of four rows of words, and gets all words of row t. */
static __device__ __forceinline__ uint4 quad_transpose(uint32_t w0, uint32_t w1, uint32_t w2,
                                                       uint32_t w3)
{
    bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
    uint32_t a = __shfl_xor_sync(0xffffffffu, odd ? w0 : w1, 1);
    uint32_t b = __shfl_xor_sync(0xffffffffu, odd ? w2 : w3, 1);
    uint32_t lo0 = odd ? a : w0, lo1 = odd ? w1 : a, hi0 = odd ? b : w2, hi1 = odd ? w3 : b;
    a = __shfl_xor_sync(0xffffffffu, upper ? lo0 : hi0, 2);
    b = __shfl_xor_sync(0xffffffffu, upper ? lo1 : hi1, 2);
    return upper ? make_uint4(a, b, hi0, hi1) : make_uint4(lo0, lo1, a, b);
}

static __device__ __forceinline__ void ffn_store(const ffn_params &p, const float *acc, int row,
                                                 int column)
{
    int lane = (int)threadIdx.x % 32;
    row += (int)threadIdx.x / 32 * 16 + lane / 4;
    column += lane % 4 * 8;
#pragma unroll
    for (int r = 0; r < 2; r++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float *gate = acc + 16 * j + 2 * r, *up = gate + 64;
            uint4 v = quad_transpose(ffn_pair(gate, up), ffn_pair(gate + 4, up + 4),
                                     ffn_pair(gate + 8, up + 8), ffn_pair(gate + 12, up + 12));
            int at = column + 32 * j;
            if (row + 8 * r < p.n_row && at < p.n_out)
                *(uint4 *)(p.out + (int64_t)(row + 8 * r) * p.n_out + at) = v;
        }
}

static __device__ __forceinline__ void ffn_consume(const ffn_params &p, const ffn_shared &s,
                                                   int rank)
{
    ffn_turn turn;
    uint32_t ring = shared_address(s.ring), own = threadIdx.x / 128 * 64 * 128;
    for (int i = (int)blockIdx.x / 2; i < p.n_pair * p.n_column; i += (int)gridDim.x / 2) {
        float acc[128];
        int row, column, before = 0;
        ffn_tile(p, i, rank, &row, &column);
        for (int k = 0; k < p.n_block; k++) {
            uint32_t x = ring + (uint32_t)(turn.stage * FFN_STAGE), w = x + FFN_HALF;
            barrier_wait(s.full + turn.stage, turn.phase);
            wgmma_fence();
#pragma unroll
            for (int j = 0; j < 4; j++)
                wgmma_ss_n256(acc, operand(x + own + j * 32, 16, 1024),
                              operand(w + j * 32, 16, 1024), k > 0 || j > 0);
            wgmma_commit();
            wgmma_wait<1>();
            if (k > 0)
                ffn_release(s, before);
            before = turn.stage;
            turn.next();
        }
        wgmma_wait<0>();
        keep<128>(acc);
        ffn_release(s, before);
        ffn_store(p, acc, row, column);
    }
}

static __global__ void __launch_bounds__(FFN_THREADS, 1)
ffn_kernel(const __grid_constant__ ffn_params p, const __grid_constant__ ffn_maps maps)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ uint8_t raw[];
    namespace cg = cooperative_groups;
    cg::cluster_group cluster = cg::this_cluster();
    ffn_shared s(raw);
    int rank = (int)cluster.block_rank();
    if (threadIdx.x == 0) {
        for (int i = 0; i < FFN_STAGES; i++) {
            barrier_init(s.full + i, 1);
            barrier_init(s.empty + i, 2 * FFN_CONSUMERS / 32);
        }
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    cluster.sync();
    pdl_wait();
    if (threadIdx.x >= FFN_CONSUMERS) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
        if (threadIdx.x == FFN_CONSUMERS)
            ffn_produce(p, maps, s, rank);
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
        ffn_consume(p, s, rank);
    }
    cluster.sync(); /* a peer's copies and arrivals reach into this block until here */
#endif
}

} // namespace ACT_SPACE

#endif
