/* Gate, up and SwiGLU of many rows in one kernel: see sm90/ffn_sm90.cuh. */
#include "kernels/cuda/sm90/ffn_sm90.cuh"

#include "kernels/cuda/cuda_rows.cuh"

namespace ACT_SPACE {

enum { FFN_ROWS_MIN = 1024, FFN_OUT_MIN = 1024 };

static bool fits(struct stream *st, const struct ffn_in_args *a, int ffn)
{
    const struct weight *up = a->up ? a->up : a->gate;
    return st->dev->compute == 90 && st->dev->encode_tiled && !a->deterministic
           && a->n_row >= FFN_ROWS_MIN && ffn >= FFN_OUT_MIN && ffn % 8 == 0
           && a->gate->n_col % 8 == 0 && (uintptr_t)a->gate->data % 16 == 0
           && (uintptr_t)up->data % 16 == 0 && (uintptr_t)a->out % 16 == 0;
}

static int launch_ffn(struct stream *st, const ffn_params &p, const ffn_maps &maps)
{
    int error = CUDA_CHECK(
        st->dev, cudaFuncSetAttribute(ffn_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      FFN_BYTES));
    int pairs = p.n_pair * p.n_column < st->dev->n_sm / 2 ? p.n_pair * p.n_column
                                                           : st->dev->n_sm / 2;
    return error ? error
                 : launch_cluster(st, ffn_kernel, dim3((unsigned)pairs * 2), dim3(FFN_THREADS),
                                  FFN_BYTES, 2, p, maps);
}

int swiglu_ffn_in(struct stream *st, const struct ffn_in_args *a)
{
    const struct weight *up = a->up ? a->up : a->gate;
    int dim = a->gate->n_col, ffn = a->up ? a->gate->n_row : a->gate->n_row / 2;
    if (!fits(st, a, ffn))
        return -ENOTSUP;
    ffn_maps maps;
    int error = map_rows(st, norm_x(st), a->n_row, dim, dim, FFN_TILE, &maps.x);
    if (!error)
        error = map_rows(st, a->gate->data, a->gate->n_row, dim, dim, FFN_TILE, &maps.gate);
    if (!error)
        error = map_rows(st, up->data, up->n_row, dim, dim, FFN_TILE, &maps.up);
    if (!error)
        error = rows_norm(st, norm_x(st), dim, (const act *)a->x, dim, NULL, a->norm_weight,
                          a->norm_eps, a->n_row, dim);
    if (error)
        return error;
    ffn_params p = { (act *)a->out, a->n_row, ffn, div_up(dim, 64),
                     div_up(a->n_row, 2 * FFN_TILE), div_up(ffn, FFN_TILE), a->up ? 0 : ffn };
    return launch_ffn(st, p, maps);
}

} // namespace ACT_SPACE
