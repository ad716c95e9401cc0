/* What the skinny products of gemv.cuh are told, and which weight rows a tile takes. */
#ifndef RINGLET_CUDA_GEMV_PARAMS_CUH
#define RINGLET_CUDA_GEMV_PARAMS_CUH

#include "kernels/cuda/act.cuh"
#include "kernels/cuda/best.cuh"
#include "kernels/cuda/gemv_ahead.cuh"

namespace ACT_SPACE {

enum {
    RED_STRIDE = 20,     /* floats between columns: no bank conflicts */
    HEAD_BLOCKS_MAX = 8, /* of head norms: 16 values a block */
};

enum gemv_form { GEMV_PLAIN, GEMV_LOGITS, GEMV_HALVES, GEMV_SWIGLU, GEMV_ROPE, GEMV_ROPE_NORM };

/* Sixteen rows of weights that end as they are. */
template <int FORM> static constexpr bool gemv_flat = FORM == GEMV_PLAIN || FORM == GEMV_LOGITS;

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

} // namespace ACT_SPACE

#endif
