/*
 * RMS norm, SwiGLU, embedding and bias: one pass over rows, 16 bytes a thread. And the product of
 * any width, for what no other takes.
 */
#include "kernels/cuda/act.cuh"

#include "kernels/cuda/cuda_rows.cuh"

namespace ACT_SPACE {

enum { NORM_THREADS = 256 };

struct norm_params {
    act *out;
    const act *x;
    const float *weight;
    const int32_t *row; /* NULL = the identity */
    int dim, n_row;
    int64_t out_stride, x_stride;
    float eps;
};

/* Blocks an SM that a grid has at most: what their registers allow. */
static constexpr int norm_blocks(int c)
{
    return c == 1 ? 5 : c == 2 ? 4 : 2;
}

static __device__ __forceinline__ const act *norm_row(const norm_params &p, int row)
{
    return p.x + (int64_t)(p.row ? p.row[row] : row) * p.x_stride;
}

/*
 * Rows whose width is a multiple of 8, up to 2048 C: everything in registers, asked for at once. A
 * block takes every gridDim'th row and has the next one on its way.
 */
template <int C>
static __global__ void __launch_bounds__(NORM_THREADS, norm_blocks(C))
rms_norm_kernel(norm_params p)
{
    __shared__ float shared[2][NORM_THREADS / 32];
    int at = (int)threadIdx.x * 8, parity = 0;
    float4 w[C][2] = {};
    act8 next[C] = {};
#pragma unroll
    for (int c = 0; c < C; c++) {
        const float *weight = p.weight + at + c * NORM_THREADS * 8;
        if (at + c * NORM_THREADS * 8 < p.dim) {
            w[c][0] = __ldg((const float4 *)weight);
            w[c][1] = __ldg((const float4 *)(weight + 4));
        }
    }
    pdl_wait();
    const act *x = norm_row(p, (int)blockIdx.x);
#pragma unroll
    for (int c = 0; c < C; c++)
        if (at + c * NORM_THREADS * 8 < p.dim)
            next[c] = load8(x + at + c * NORM_THREADS * 8);
    for (int row = (int)blockIdx.x; row < p.n_row; row += (int)gridDim.x, parity ^= 1) {
        float v[C][8], sum = 0;
        bool more = row + (int)gridDim.x < p.n_row;
        x = more ? norm_row(p, row + (int)gridDim.x) : x;
#pragma unroll
        for (int c = 0; c < C; c++) {
            unpack8(next[c], v[c]);
            if (more && at + c * NORM_THREADS * 8 < p.dim)
                next[c] = load8(x + at + c * NORM_THREADS * 8);
#pragma unroll
            for (int j = 0; j < 8; j++)
                sum += v[c][j] * v[c][j];
        }
        if (!more)
            pdl_trigger();
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0)
            shared[parity][threadIdx.x / 32] = sum;
        __syncthreads();
        sum = 0;
#pragma unroll
        for (int i = 0; i < NORM_THREADS / 32; i++)
            sum += shared[parity][i];
        float rstd = rsqrtf(sum / (float)p.dim + p.eps);
        act *out = p.out + row * p.out_stride;
#pragma unroll
        for (int c = 0; c < C; c++) {
            const float *weight = &w[c][0].x;
#pragma unroll
            for (int j = 0; j < 8; j++)
                v[c][j] *= rstd * weight[j];
            if (at + c * NORM_THREADS * 8 < p.dim)
                store8(out + at + c * NORM_THREADS * 8, v[c]);
        }
    }
}

/* Any width and alignment. */
static __global__ void __launch_bounds__(NORM_THREADS) rms_norm_any_kernel(norm_params p)
{
    __shared__ float shared[33];
    pdl_wait();
    int64_t row = p.row ? p.row[blockIdx.x] : blockIdx.x;
    const act *x = p.x + row * p.x_stride;
    act *out = p.out + blockIdx.x * p.out_stride;
    float sum = 0;
    for (int i = threadIdx.x; i < p.dim; i += NORM_THREADS) {
        float v = to_float(x[i]);
        sum += v * v;
    }
    float rstd = rsqrtf(block_sum(sum, shared) / (float)p.dim + p.eps);
    for (int i = threadIdx.x; i < p.dim; i += NORM_THREADS)
        out[i] = to_act(to_float(x[i]) * rstd * p.weight[i]);
}

static bool aligned16(const void *p, int64_t stride)
{
    return (uintptr_t)p % 16 == 0 && stride % 8 == 0;
}

int rows_norm(struct stream *st, act *out, int64_t out_stride, const act *x, int64_t x_stride,
              const int32_t *row, const float *weight, float eps, int n_row, int dim)
{
    if (n_row == 0)
        return 0;
    norm_params p = { out, x, weight, row, dim, n_row, out_stride, x_stride, eps };
    bool fast = dim % 8 == 0 && dim <= NORM_THREADS * 8 * 4 && aligned16(out, out_stride)
                && aligned16(x, x_stride) && (uintptr_t)weight % 16 == 0;
    int each = dim <= NORM_THREADS * 8 ? 1 : dim <= NORM_THREADS * 16 ? 2 : 4;
    auto kernel = !fast       ? rms_norm_any_kernel
                  : each == 1 ? rms_norm_kernel<1>
                  : each == 2 ? rms_norm_kernel<2>
                              : rms_norm_kernel<4>;
    int most = fast ? st->dev->n_sm * norm_blocks(each) : n_row;
    return launch(st, kernel, dim3((unsigned)(n_row < most ? n_row : most)), dim3(NORM_THREADS), 0,
                  p);
}

int cuda_rms_norm(struct stream *st, const struct rms_norm_args *a)
{
    return rows_norm(st, (act *)a->out, a->out_stride, (const act *)a->x, a->x_stride, NULL,
                     a->weight, a->eps, a->n_row, a->dim);
}

struct swiglu_params {
    act *out;
    const act *gate, *up;
    int64_t out_stride, stride;
    int dim, width; /* values a thread takes: 8 or 1 */
};

static __device__ __forceinline__ float silu(float v)
{
    return v / (1.0f + __expf(-v));
}

static __global__ void __launch_bounds__(256) swiglu_kernel(swiglu_params p)
{
    pdl_wait();
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x) * p.width;
    if (i >= p.dim)
        return;
    const act *gate = p.gate + blockIdx.y * p.stride + i, *up = p.up + blockIdx.y * p.stride + i;
    act *out = p.out + blockIdx.y * p.out_stride + i;
    if (p.width == 1) {
        *out = to_act(silu(to_float(*gate)) * to_float(*up));
        return;
    }
    float g[8], u[8];
    unpack8(load8(gate), g);
    unpack8(load8(up), u);
    pdl_trigger();
#pragma unroll
    for (int j = 0; j < 8; j++)
        g[j] = silu(g[j]) * u[j];
    store8(out, g);
}

int cuda_swiglu(struct stream *st, const struct swiglu_args *a)
{
    if (a->n_row == 0)
        return 0;
    bool wide = a->dim % 8 == 0 && aligned16(a->out, a->out_stride) && aligned16(a->gate, a->stride)
                && aligned16(a->up, a->stride);
    swiglu_params p = { (act *)a->out, (const act *)a->gate, (const act *)a->up, a->out_stride,
                        a->stride, a->dim, wide ? 8 : 1 };
    dim3 grid((unsigned)div_up(a->dim, 256 * p.width), (unsigned)a->n_row);
    return launch(st, swiglu_kernel, grid, dim3(256), 0, p);
}

struct embed_params {
    act *out;
    const act *table;
    const int32_t *token, *prev_sampled;
    int dim, vocab;
    float scale;
};

/* An id outside of the table (a row that was not sampled) reads row 0: finite, never used. */
static __global__ void __launch_bounds__(256) embed_kernel(embed_params p)
{
    pdl_wait();
    int id = p.token[blockIdx.x];
    if (id < 0)
        id = p.prev_sampled ? p.prev_sampled[-1 - id] : 0;
    if (id < 0 || id >= p.vocab)
        id = 0;
    pdl_trigger();
    const act *src = p.table + (int64_t)id * p.dim;
    act *out = p.out + (int64_t)blockIdx.x * p.dim;
    for (int i = (int)threadIdx.x; p.dim % 8 && i < p.dim; i += 256)
        out[i] = to_act(to_float(src[i]) * p.scale);
    if (p.dim % 8)
        return;
    for (int i = (int)threadIdx.x * 8; i < p.dim; i += 256 * 8) {
        float v[8];
        unpack8(load8(src + i), v);
        if (p.scale != 1.0f)
            for (int j = 0; j < 8; j++)
                v[j] *= p.scale;
        store8(out + i, v);
    }
}

int cuda_embed(struct stream *st, const struct embed_args *a)
{
    if (a->n_row == 0)
        return 0;
    if (a->table->layout != ACT_LAYOUT)
        return -ENOTSUP;
    embed_params p = { (act *)a->out, (const act *)a->table->data, a->token, a->prev_sampled,
                       a->table->n_col, a->table->n_row, a->scale };
    return launch(st, embed_kernel, dim3((unsigned)a->n_row), dim3(256), 0, p);
}

struct bias_params {
    void *out;
    const float *bias;
    int n_col;
    int64_t stride;
    bool f32;
};

static __global__ void __launch_bounds__(256) bias_kernel(bias_params p)
{
    pdl_wait();
    int i = (int)(blockIdx.x * blockDim.x + threadIdx.x);
    if (i >= p.n_col)
        return;
    int64_t at = blockIdx.y * p.stride + i;
    if (p.f32)
        ((float *)p.out)[at] += p.bias[i];
    else
        ((act *)p.out)[at] =
            to_act(to_float(((act *)p.out)[at]) + p.bias[i]);
}

int rows_bias(struct stream *st, void *out, int64_t stride, const float *bias, int n_row,
              int n_col, bool f32)
{
    bias_params p = { out, bias, n_col, stride, f32 };
    return launch(st, bias_kernel, dim3((unsigned)div_up(n_col, 256), (unsigned)n_row), dim3(256),
                  0, p);
}

struct plain_params {
    const act *x, *w;
    void *out;
    const float *bias;
    int64_t x_stride, out_stride;
    int n_col, n_out;
    float scale;
    bool add, out_f32;
};

/* One warp an output value, in one fixed order. */
static __global__ void __launch_bounds__(256) plain_matmul_kernel(plain_params p)
{
    pdl_wait();
    int row = (int)(blockIdx.x * 8 + threadIdx.x / 32);
    if (row >= p.n_out)
        return;
    const act *x = p.x + blockIdx.y * p.x_stride, *w = p.w + (int64_t)row * p.n_col;
    float v = 0;
    for (int k = (int)threadIdx.x % 32; k < p.n_col; k += 32)
        v += to_float(x[k]) * to_float(w[k]);
    v = (warp_sum(v) + (p.bias ? p.bias[row] : 0)) * p.scale;
    int64_t at = blockIdx.y * p.out_stride + row;
    if (threadIdx.x % 32)
        return;
    if (p.out_f32)
        ((float *)p.out)[at] = p.add ? ((float *)p.out)[at] + v : v;
    else
        ((act *)p.out)[at] =
            to_act(p.add ? to_float(((act *)p.out)[at]) + v : v);
}

int plain_matmul(struct stream *st, const struct matmul_args *a, const act *x, int64_t x_stride,
                 float scale)
{
    int error = 0;
    for (int i = 0; i < a->n_weight && !error; i++) {
        const struct weight *w = a->weight[i];
        plain_params p = { x, (const act *)w->data, a->out[i], a->bias[i], x_stride,
                           a->out_stride[i], w->n_col, w->n_row, scale, a->add, a->out_f32 };
        error = launch(st, plain_matmul_kernel,
                       dim3((unsigned)div_up(w->n_row, 8), (unsigned)a->n_row), dim3(256), 0, p);
    }
    return error;
}

} // namespace ACT_SPACE
