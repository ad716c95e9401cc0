/* Products of 2 to SKINNY_MAX rows on Hopper: maps, cluster sizes and the choice of kernel. */
#include "kernels/cuda/sm90/skinny_sm90.cuh"

#include "kernels/cuda/cuda_rows.cuh"

namespace ACT_SPACE {

int map_rows(struct stream *st, const void *base, int n_row, int n_col, int64_t stride,
             int box_rows, CUtensorMap *ret)
{
    cuuint64_t size[2] = { (cuuint64_t)n_col, (cuuint64_t)n_row };
    cuuint64_t pitch[1] = { (cuuint64_t)stride * sizeof(act) };
    cuuint32_t box[2] = { 64, (cuuint32_t)box_rows }, step[2] = { 1, 1 };
    CUresult error = st->dev->encode_tiled(
        ret, ACT_MAP_TYPE, 2, (void *)base, size, pitch, box, step,
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
    const struct weight *w[MATMUL_WEIGHTS_MAX];
    int n_weight, n_tile;
    const act *x;
    int64_t x_stride;
};

template <int N>
static int launch_skinny(struct stream *st, const skinny_params &p, const skinny_job &job)
{
    skinny_maps maps;
    int n_col = job.w[0]->n_col, error = 0;
    for (int i = 0; i < MATMUL_WEIGHTS_MAX && !error; i++) {
        const struct weight *w = job.w[i < job.n_weight ? i : 0];
        error = map_rows(st, w->data, w->n_row, n_col, n_col, 64, &maps.w[i]);
    }
    if (!error)
        error = map_rows(st, job.x, p.n_row, n_col, job.x_stride, N, &maps.x);
    if (!error)
        error = CUDA_CHECK(st->dev,
                           cudaFuncSetAttribute(skinny_kernel<N>,
                                                cudaFuncAttributeMaxDynamicSharedMemorySize,
                                                skinny_shared<N>::BYTES));
    if (error)
        return error;
    int cluster = cluster_of(st, job.n_tile, p.n_block);
    return launch_cluster(st, skinny_kernel<N>, dim3((unsigned)(job.n_tile * cluster)),
                          dim3(SKINNY_THREADS), skinny_shared<N>::BYTES, cluster, p, maps);
}

static int run_skinny(struct stream *st, skinny_params &p, const skinny_job &job)
{
    p.n_block = div_up(job.w[0]->n_col, 64);
    if (p.n_row <= 8)
        return launch_skinny<8>(st, p, job);
    if (p.n_row <= 16)
        return launch_skinny<16>(st, p, job);
    static_assert(SKINNY_MAX == 32, "the widest product");
    return launch_skinny<32>(st, p, job);
}

static bool fits(struct stream *st, const struct weight *w, const void *x, int64_t x_stride,
                 int n_row)
{
    return st->dev->compute == 90 && st->dev->encode_tiled && n_row >= 2 && n_row <= SKINNY_MAX
           && w->n_row >= 64 && w->n_col % 8 == 0 && x_stride % 8 == 0 && (uintptr_t)x % 16 == 0
           && (uintptr_t)w->data % 16 == 0;
}

int skinny_matmul(struct stream *st, const struct matmul_args *a, const act *x, int64_t x_stride,
                  float scale)
{
    skinny_params p = {};
    skinny_job job = {};
    job.x = x;
    job.x_stride = x_stride;
    job.n_weight = p.n_part = a->n_weight;
    p.n_row = a->n_row;
    p.scale = scale;
    p.add = a->add;
    p.out_f32 = a->out_f32;
    for (int i = 0; i < a->n_weight; i++) {
        const struct weight *w = a->weight[i];
        if (!fits(st, w, x, x_stride, a->n_row))
            return -ENOTSUP;
        job.w[i] = w;
        p.part[i] = { a->out[i], a->bias[i], a->out_stride[i], w->n_row, job.n_tile };
        job.n_tile += div_up(w->n_row, SKINNY_ROWS);
    }
    return run_skinny(st, p, job);
}

int skinny_ffn_in(struct stream *st, const struct ffn_in_args *a)
{
    const struct weight *up = a->up ? a->up : a->gate;
    int dim = a->gate->n_col, ffn = a->up ? a->gate->n_row : a->gate->n_row / 2;
    if (a->deterministic || ffn < 64 || !fits(st, a->gate, norm_x(st), dim, a->n_row))
        return -ENOTSUP;
    int error = rows_norm(st, norm_x(st), dim, (const act *)a->x, dim, NULL, a->norm_weight,
                          a->norm_eps, a->n_row, dim);
    if (error)
        return error;
    skinny_params p = {};
    p.part[0] = { a->out, NULL, ffn, ffn, 0 };
    p.n_part = 1;
    p.n_row = a->n_row;
    p.row_up = a->up ? 0 : ffn;
    p.scale = 1;
    p.swiglu = true;
    return run_skinny(st, p, { { a->gate, up }, 2, div_up(ffn, SKINNY_ROWS / 2), norm_x(st), dim });
}

} // namespace ACT_SPACE
