/* Row-wise steps that other ops compose (norm.cu). */
#ifndef RINGLET_CUDA_ROWS_CUH
#define RINGLET_CUDA_ROWS_CUH

#include "kernels/cuda/act.cuh"

namespace ACT_SPACE {

/* out[i] = norm(x[row ? row[i] : i]) * weight. */
int rows_norm(struct stream *st, act *out, int64_t out_stride, const act *x, int64_t x_stride,
              const int32_t *row, const float *weight, float eps, int n_row, int dim);

/* out[i] += bias. */
int rows_bias(struct stream *st, void *out, int64_t stride, const float *bias, int n_row,
              int n_col, bool f32);

} // namespace ACT_SPACE

#endif
