/*
 * Weights on the device: row-major, in the type of activations. Files' other types, GGUF blocks
 * included, are turned into it on the way up. Pinned memory is copied from where it is; other
 * memory goes through two pinned buffers, so that the next copy can start while the last one is
 * converted.
 */
#include "kernels/cuda/act.cuh"

#include <string.h>

namespace ACT_SPACE {

struct block_shape {
    int elems, bytes;
};

/* GGUF's block types; 0 = not a weight type. */
static __host__ __device__ block_shape block_shape_of(int dtype)
{
    switch (dtype) {
    case DTYPE_F32:
        return { 1, 4 };
    case DTYPE_F16:
    case DTYPE_BF16:
        return { 1, 2 };
    case DTYPE_Q8_0:
        return { 32, 34 };
    case DTYPE_Q4_0:
        return { 32, 18 };
    case DTYPE_Q4_1:
        return { 32, 20 };
    case DTYPE_Q5_0:
        return { 32, 22 };
    case DTYPE_Q5_1:
        return { 32, 24 };
    case DTYPE_Q4_K:
        return { 256, 144 };
    case DTYPE_Q5_K:
        return { 256, 176 };
    case DTYPE_Q6_K:
        return { 256, 210 };
    default:
        return { 0, 0 };
    }
}

static __device__ __forceinline__ float half_at(const uint8_t *p)
{
    __half_raw h;
    h.x = (unsigned short)(p[0] | p[1] << 8);
    return __half2float(__half(h));
}

/* Element e of a 32-element block. */
static __device__ float small_block(int dtype, const uint8_t *b, int e)
{
    float d = half_at(b);
    int i = e % 16, shift = e / 16 * 4;
    switch (dtype) {
    case DTYPE_Q8_0:
        return d * (float)(int8_t)b[2 + e];
    case DTYPE_Q4_0:
        return d * (float)((b[2 + i] >> shift & 15) - 8);
    case DTYPE_Q4_1:
        return d * (float)(b[4 + i] >> shift & 15) + half_at(b + 2);
    case DTYPE_Q5_0:
        return d * (float)(((b[6 + i] >> shift & 15) | (b[2 + e / 8] >> e % 8 & 1) << 4) - 16);
    default: /* Q5_1 */
        return d * (float)((b[8 + i] >> shift & 15) | (b[4 + e / 8] >> e % 8 & 1) << 4)
               + half_at(b + 2);
    }
}

/* Element e of a 256-element block. */
static __device__ float super_block(int dtype, const uint8_t *b, int e)
{
    int j = e / 32, l = e % 32;
    if (dtype == DTYPE_Q6_K) {
        int n = e / 128, q = e % 128 / 32;
        int low = b[n * 64 + l + (q & 1) * 32] >> (q < 2 ? 0 : 4) & 15;
        int high = b[128 + n * 32 + l] >> (2 * q) & 3;
        float scale = (float)(int8_t)b[192 + e / 16];
        return half_at(b + 208) * scale * (float)((low | high << 4) - 32);
    }
    const uint8_t *s = b + 4;
    int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4;
    int min = j < 4 ? s[j + 4] & 63 : s[j + 4] >> 4 | (s[j] >> 6) << 4;
    const uint8_t *qs = dtype == DTYPE_Q5_K ? b + 48 : b + 16;
    int q = qs[e / 64 * 32 + l] >> (j % 2 * 4) & 15;
    if (dtype == DTYPE_Q5_K)
        q |= (b[16 + l] >> j & 1) << 4;
    return half_at(b) * (float)(scale * q) - half_at(b + 2) * (float)min;
}

static __device__ float element(int dtype, const uint8_t *row, int64_t col)
{
    block_shape shape = block_shape_of(dtype);
    const uint8_t *b = row + col / shape.elems * shape.bytes;
    if (dtype == DTYPE_F32) {
        uint32_t bits = b[0] | b[1] << 8 | b[2] << 16 | (uint32_t)b[3] << 24;
        return __uint_as_float(bits);
    }
    if (dtype == DTYPE_F16)
        return half_at(b);
    if (dtype == DTYPE_BF16)
        return __uint_as_float((uint32_t)(b[0] | b[1] << 8) << 16);
    int e = (int)(col % shape.elems);
    return shape.elems == 32 ? small_block(dtype, b, e) : super_block(dtype, b, e);
}

static __global__ void __launch_bounds__(256)
convert_kernel(int dtype, act *out, const uint8_t *src, int64_t n, int n_col, int64_t row_bytes)
{
    pdl_wait();
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n)
        out[i] = to_act(element(dtype, src + i / n_col * row_bytes, i % n_col));
}

int cuda_weight_layout(struct device *dev, enum dtype dtype, int n_row, int n_col,
                       int64_t *ret_bytes, int *ret_layout)
{
    (void)dev;
    block_shape shape = block_shape_of(dtype);
    if (shape.elems == 0 || n_row <= 0 || n_col <= 0 || n_col % shape.elems)
        return -ENOTSUP;
    *ret_bytes = (int64_t)n_row * n_col * (int64_t)sizeof(act);
    *ret_layout = ACT_LAYOUT;
    return 0;
}

/* May the device read it by itself, whenever it gets there? */
static bool is_pinned(const void *p)
{
    cudaPointerAttributes a;
    if (cudaPointerGetAttributes(&a, p) == cudaSuccess)
        return a.type == cudaMemoryTypeHost;
    cudaGetLastError();
    return false;
}

/* One staging buffer's worth: rows [row, row + n). */
static int load_chunk(struct stream *st, struct weight *w, int row, int n, const uint8_t *src,
                      int64_t row_bytes, int64_t src_row_bytes)
{
    use_device(st->dev);
    struct device *dev = st->dev;
    int slot = st->stage_next, error = 0;
    st->stage_next ^= 1;
    const uint8_t *host = src;
    if (row_bytes != src_row_bytes || !is_pinned(src)) {
        uint8_t *stage = (uint8_t *)st->stage_host[slot];
        host = stage;
        error = CUDA_CHECK(dev, cudaEventSynchronize(st->stage_done[slot]));
        if (error)
            return error;
        if (row_bytes == src_row_bytes)
            memcpy(stage, src, (size_t)(n * row_bytes));
        else
            for (int i = 0; i < n; i++)
                memcpy(stage + i * row_bytes, src + i * src_row_bytes, (size_t)row_bytes);
    }
    act *out = (act *)w->data + (int64_t)row * w->n_col;
    void *to = w->dtype == ACT_DTYPE ? (void *)out : st->stage_device[slot];
    error = CUDA_CHECK(dev, cudaMemcpyAsync(to, host, (size_t)(n * row_bytes),
                                            cudaMemcpyHostToDevice, st->cs));
    int64_t elems = (int64_t)n * w->n_col;
    if (!error && w->dtype != ACT_DTYPE)
        error = launch(st, convert_kernel, dim3((unsigned)div_up(elems, 256)), dim3(256), 0,
                       (int)w->dtype, out, (const uint8_t *)st->stage_device[slot], elems,
                       w->n_col, row_bytes);
    if (!error)
        error = CUDA_CHECK(dev, cudaEventRecord(st->stage_done[slot], st->cs));
    return error;
}

int cuda_weight_load(struct stream *st, struct weight *w, int first_row, int n_row,
                     const void *src, int64_t row_bytes)
{
    block_shape shape = block_shape_of(w->dtype);
    if (w->layout != ACT_LAYOUT || shape.elems == 0)
        return -ENOTSUP;
    int64_t bytes = (int64_t)w->n_col / shape.elems * shape.bytes;
    int64_t rows_max = STAGE_BYTES / bytes;
    if (rows_max == 0)
        return -ENOTSUP;
    for (int row = 0; row < n_row;) {
        int n = n_row - row < rows_max ? n_row - row : (int)rows_max;
        int error = load_chunk(st, w, first_row + row, n, (const uint8_t *)src + row * row_bytes,
                               bytes, row_bytes);
        if (error)
            return error;
        row += n;
    }
    return 0;
}

} // namespace ACT_SPACE
