/* What the device reaches at most, measured in the same process as the figures held against it. */
#include "kernels/cuda/cuda_common.cuh"

#include <algorithm>

static constexpr int REPEATS = 7, EMPTY_NODES = 200, GEMM = 8192;

static __global__ void __launch_bounds__(512) read_kernel(const uint4 *p, int64_t n, uint32_t *sink)
{
    uint32_t sum = 0;
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x;
    for (; i + 7 * step < n; i += 8 * step) {
        uint4 v[8];
#pragma unroll
        for (int j = 0; j < 8; j++)
            v[j] = load_weight(p + i + j * step);
#pragma unroll
        for (int j = 0; j < 8; j++)
            sum ^= v[j].x ^ v[j].y ^ v[j].z ^ v[j].w;
    }
    if (sum == 0x5bd1e995u)
        *sink = sum;
}

/* bf16, uniform in [-1, 1) as weights are: how fast products run depends on their numbers. */
static __global__ void noise_kernel(uint32_t *p, int64_t n)
{
    int64_t step = (int64_t)gridDim.x * blockDim.x;
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
        uint32_t h = (uint32_t)i * 2654435761u ^ (uint32_t)(i >> 32);
        h ^= h >> 15;
        h *= 0x2c1b3c6du;
        h ^= h >> 12;
        __nv_bfloat162 v = __floats2bfloat162_rn((float)(int16_t)(h & 0xffff) * 0x1p-15f,
                                                 (float)(int16_t)(h >> 16) * 0x1p-15f);
        memcpy(p + i, &v, sizeof v);
    }
}

static __global__ void empty_kernel(void)
{
    pdl_wait();
}

/* Median milliseconds of a piece of work on the stream. */
template <typename Work> static double median_ms(cudaStream_t cs, Work work)
{
    cudaEvent_t from, to;
    cudaEventCreate(&from);
    cudaEventCreate(&to);
    float ms[REPEATS] = {};
    work();
    for (int i = 0; i < REPEATS; i++) {
        cudaEventRecord(from, cs);
        work();
        cudaEventRecord(to, cs);
        cudaEventSynchronize(to);
        cudaEventElapsedTime(&ms[i], from, to);
    }
    cudaEventDestroy(from);
    cudaEventDestroy(to);
    std::sort(ms, ms + REPEATS);
    return ms[REPEATS / 2];
}

static int measure_launch(struct device *dev, cudaStream_t cs, double *ret_ns)
{
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    int error = CUDA_CHECK(dev, cudaStreamBeginCapture(cs, cudaStreamCaptureModeRelaxed));
    for (int i = 0; i < EMPTY_NODES; i++)
        empty_kernel<<<dev->n_sm, 256, 0, cs>>>();
    if (!error)
        error = CUDA_CHECK(dev, cudaStreamEndCapture(cs, &graph));
    if (!error)
        error = CUDA_CHECK(dev, cudaGraphInstantiate(&exec, graph, 0));
    if (error)
        return error;
    *ret_ns = median_ms(cs, [&] { cudaGraphLaunch(exec, cs); }) * 1e6 / EMPTY_NODES;
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    return 0;
}

static int measure_gemm(struct device *dev, struct stream *st, uint16_t *room, double *ret)
{
    struct weight w = {};
    w.dtype = DTYPE_BF16;
    w.layout = LAYOUT_BF16_ROWS;
    w.n_row = w.n_col = GEMM;
    w.data = room;
    int64_t n = (int64_t)GEMM * GEMM;
    int error = 0;
    double ms = median_ms(st->cs, [&] {
        error = lt_gemm(st, &w, room + n, GEMM, room + 2 * n, GEMM, GEMM, false, 1, 0);
    });
    *ret = 2.0 * GEMM * GEMM * GEMM / (ms * 1e-3);
    return error ? error : cuda_check(dev, cudaPeekAtLastError(), "ceilings");
}

int cuda_ceilings(struct device *dev, struct device_ceilings *ret)
{
    const int64_t bytes = 4ll << 30;
    uint8_t *room = NULL;
    struct stream *st = NULL;
    struct op_limits limits = {};
    limits.rows_max = limits.seqs_max = limits.samples_max = limits.n_head = 1;
    limits.dim_max = limits.out_max = 8;
    if (cudaMalloc((void **)&room, (size_t)bytes)) {
        cudaGetLastError();
        return -ENOMEM;
    }
    int error = cuda_device_ops.stream_open(dev, &limits, &st);
    if (!error) {
        noise_kernel<<<dev->n_sm * 4, 512, 0, st->cs>>>((uint32_t *)room, bytes / 4);
        double ms = median_ms(st->cs, [&] {
            read_kernel<<<dev->n_sm * 4, 512, 0, st->cs>>>((const uint4 *)room, bytes / 16,
                                                            (uint32_t *)room);
        });
        ret->read_bytes_per_s = (double)bytes / (ms * 1e-3);
        ms = median_ms(st->cs, [&] {
            cudaMemcpyAsync(room, room + bytes / 2, (size_t)bytes / 2, cudaMemcpyDeviceToDevice,
                            st->cs);
        });
        ret->copy_bytes_per_s = (double)bytes / (ms * 1e-3);
        error = measure_launch(dev, st->cs, &ret->launch_ns);
    }
    if (!error)
        error = measure_gemm(dev, st, (uint16_t *)room, &ret->matmul_flops_per_s);
    cuda_device_ops.stream_close(st);
    cudaFree(room);
    return error;
}
