/* Products of 2 to 128 rows on Hopper: maps, cluster sizes and the choice of kernel. */
#include "kernels/cuda/sm90/skinny_sm90.cuh"

#include "kernels/cuda/cuda_rows.cuh"

/* A map of [n_row, n_col] bf16 by stride, in boxes of 64 columns x box_rows. */
static int map_rows(struct stream *st, const void *base, int n_row, int n_col, int64_t stride,
                    int box_rows, CUtensorMap *ret)
{
    cuuint64_t size[2] = { (cuuint64_t)n_col, (cuuint64_t)n_row };
    cuuint64_t pitch[1] = { (cuuint64_t)stride * sizeof(bf16) };
    cuuint32_t box[2] = { 64, (cuuint32_t)box_rows }, step[2] = { 1, 1 };
    CUresult error = st->dev->encode_tiled(
        ret, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)base, size, pitch, box, step,
        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return error == CUDA_SUCCESS ? 0 : -ENOTSUP;
}

/* As many blocks of K side by side as fill the SMs about three times over. */
static int cluster_of(struct stream *st, int n_tile, int n_block)
{
    int cluster = 1;
    while (cluster < 8 && n_tile * cluster * 2 <= st->dev->n_sm * 3 && n_block >= cluster * 8)
        cluster *= 2;
    return cluster;
}

struct skinny_job {
    const struct weight *a, *b; /* the two halves of a tile; the same but for separate gate and up */
    const bf16 *x;
    int64_t x_stride;
};

template <int N>
static int launch_skinny(struct stream *st, const skinny_params &p, const skinny_job &job)
{
    CUtensorMap map_a, map_b, map_x;
    int n_col = job.a->n_col;
    int error = map_rows(st, job.a->data, job.a->n_row, n_col, n_col, 64, &map_a);
    if (!error)
        error = map_rows(st, job.b->data, job.b->n_row, n_col, n_col, 64, &map_b);
    if (!error)
        error = map_rows(st, job.x, p.n_row, n_col, job.x_stride, N, &map_x);
    if (!error)
        error = CUDA_CHECK(st->dev,
                           cudaFuncSetAttribute(skinny_kernel<N>,
                                                cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                skinny_shared<N>::BYTES));
    if (error)
        return error;
    int n_tile = div_up(p.n_out, p.swiglu ? SKINNY_ROWS / 2 : SKINNY_ROWS);
    int cluster = cluster_of(st, n_tile, p.n_block);
    return launch_cluster(st, skinny_kernel<N>, dim3((unsigned)(n_tile * cluster)),
                          dim3(SKINNY_THREADS), skinny_shared<N>::BYTES, cluster, p, map_a, map_b,
                          map_x);
}

static int run_skinny(struct stream *st, skinny_params &p, const skinny_job &job)
{
    p.n_block = div_up(job.a->n_col, 64);
    if (p.n_row <= 8)
        return launch_skinny<8>(st, p, job);
    if (p.n_row <= 16)
        return launch_skinny<16>(st, p, job);
    if (p.n_row <= 32)
        return launch_skinny<32>(st, p, job);
    if (p.n_row <= 64)
        return launch_skinny<64>(st, p, job);
    return launch_skinny<128>(st, p, job);
}

static bool fits(struct stream *st, const struct weight *w, const void *x, int64_t x_stride,
                 int n_row)
{
    return st->dev->compute == 90 && st->dev->encode_tiled && n_row >= 2 && n_row <= SKINNY_MAX
           && w->n_row >= 64 && x_stride % 8 == 0 && (uintptr_t)x % 16 == 0
           && (uintptr_t)w->data % 16 == 0;
}

int skinny_matmul(struct stream *st, const struct weight *w, const bf16 *x, int64_t x_stride,
                  void *out, int64_t out_stride, int n_row, const float *bias, float scale,
                  bool out_f32, bool add)
{
    if (!fits(st, w, x, x_stride, n_row))
        return -ENOTSUP;
    skinny_params p = {};
    p.out = out;
    p.bias = bias;
    p.out_stride = out_stride;
    p.n_out = w->n_row;
    p.n_row = n_row;
    p.row_b = 64;
    p.scale = scale;
    p.add = add;
    p.out_f32 = out_f32;
    return run_skinny(st, p, { w, w, x, x_stride });
}

int skinny_ffn_in(struct stream *st, const struct ffn_in_args *a)
{
    const struct weight *up = a->up ? a->up : a->gate;
    int dim = a->gate->n_col, ffn = a->up ? a->gate->n_row : a->gate->n_row / 2;
    if (a->deterministic || ffn < 64 || !fits(st, a->gate, st->norm_x, dim, a->n_row))
        return -ENOTSUP;
    int error = rows_norm(st, st->norm_x, dim, (const bf16 *)a->x, dim, NULL, a->norm_weight,
                          a->norm_eps, a->n_row, dim);
    if (error)
        return error;
    skinny_params p = {};
    p.out = a->out;
    p.out_stride = p.n_out = ffn;
    p.n_row = a->n_row;
    p.row_b = a->up ? 0 : ffn;
    p.scale = 1;
    p.swiglu = true;
    return run_skinny(st, p, { a->gate, up, st->norm_x, dim });
}
