/*
 * The device table on the CUDA runtime. Faults are sticky: the first one is kept in words and every
 * later call returns -EIO. Memory, streams and graphs are made at start-up only.
 */
#include "kernels/cuda/attn_plan.h"
#include "kernels/cuda/best.cuh"
#include "kernels/cuda/gpu_facts.h"

#include <new>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int cuda_check(struct device *dev, cudaError_t error, const char *what)
{
    if (error == cudaSuccess)
        return dev->faulted ? -EIO : 0;
    if (error == cudaErrorMemoryAllocation && !dev->faulted) {
        cudaGetLastError(); /* the device is well, and may be asked for less */
        return -ENOMEM;
    }
    if (!dev->faulted) {
        dev->faulted = true;
        snprintf(dev->fault, sizeof dev->fault, "%s: %s (%s)", what, cudaGetErrorString(error),
                 cudaGetErrorName(error));
    }
    cudaGetLastError();
    return -EIO;
}

static int device_count(void)
{
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess) {
        cudaGetLastError();
        return 0;
    }
    return n;
}

/* One of our kernels must have code for the device. */
static __global__ void probe_kernel(void)
{
}

/* What there is to know before the device is opened; opening one that is too old may fail oddly. */
static void facts_of(int index, struct gpu_facts *ret, cudaDeviceProp *prop)
{
    *ret = {};
    ret->index = index;
    cudaDriverGetVersion(&ret->driver);
    if (ret->driver < GPU_DRIVER_MIN)
        return; /* asking it for more would tell less */
    cudaError_t error = cudaGetDeviceCount(&ret->n_gpu);
    if (error != cudaSuccess)
        ret->count_error = cudaGetErrorString(error);
    if (error == cudaSuccess && index >= 0 && index < ret->n_gpu
        && cudaGetDeviceProperties(prop, index) == cudaSuccess) {
        ret->name = prop->name;
        ret->compute = prop->major * 10 + prop->minor;
        ret->has_code = true; /* the device can tell when it is open */
    }
    cudaGetLastError();
}

static bool has_code(void)
{
    cudaFuncAttributes attributes;
    bool has = cudaFuncGetAttributes(&attributes, probe_kernel) == cudaSuccess;
    cudaGetLastError();
    return has;
}

static void device_close(struct device *dev)
{
    if (!dev)
        return;
    if (dev->cache)
        lt_cache_close(dev->cache);
    if (dev->lt)
        cublasLtDestroy(dev->lt);
    delete dev;
}

static int device_open(const struct device_options *options, struct device **ret, char *err,
                       size_t err_bytes)
{
    struct gpu_facts facts;
    cudaDeviceProp prop;
    facts_of(options->index, &facts, &prop);
    int error = gpu_facts_check(&facts, err, err_bytes);
    if (error)
        return error;
    struct device *dev = new (std::nothrow) struct device();
    if (!dev)
        return -ENOMEM;
    cudaError_t cuda_error = cudaSetDevice(options->index);
    if (cuda_error == cudaSuccess && !facts.name)
        cuda_error = cudaGetDeviceProperties(&prop, options->index);
    if (cuda_error == cudaSuccess)
        cuda_error = cudaFree(NULL); /* makes the context here, not in the first request */
    if (cuda_error != cudaSuccess) {
        snprintf(err, err_bytes, "GPU %d cannot be opened: %s", options->index,
                 cudaGetErrorString(cuda_error));
        cudaGetLastError();
        delete dev;
        return -ENODEV;
    }
    dev->index = options->index;
    dev->serial = getenv("RINGLET_CUDA_SERIAL") != NULL;
    dev->n_sm = prop.multiProcessorCount;
    dev->compute = prop.major * 10 + prop.minor;
    snprintf(dev->name, sizeof dev->name, "%.127s", prop.name);
    snprintf(dev->driver, sizeof dev->driver, "cuda-%d.%d", facts.driver / 1000,
             facts.driver % 1000 / 10);
    facts.name = dev->name;
    facts.compute = dev->compute;
    facts.has_code = has_code();
    error = gpu_facts_check(&facts, err, err_bytes);
    cudaDriverEntryPointQueryResult found;
    if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", (void **)&dev->encode_tiled,
                                         12000, cudaEnableDefault, &found)
        != cudaSuccess)
        cudaGetLastError();
    if (!error && cublasLtCreate(&dev->lt) != CUBLAS_STATUS_SUCCESS) {
        snprintf(err, err_bytes, "cublasLt does not start on %s", dev->name);
        error = -ENODEV;
    }
    if (!error && !(dev->cache = lt_cache_open(dev)))
        error = -ENOMEM;
    if (error) {
        device_close(dev);
        return error;
    }
    *ret = dev;
    return 0;
}

static void device_info(struct device *dev, struct device_info *ret)
{
    use_device(dev);
    memset(ret, 0, sizeof *ret);
    snprintf(ret->name, sizeof ret->name, "%s", dev->name);
    snprintf(ret->features, sizeof ret->features, "%s", dev->driver);
    ret->n_core = dev->n_sm;
    ret->compute = dev->compute;
    size_t memory_free = 0, memory_total = 0;
    if (CUDA_CHECK(dev, cudaMemGetInfo(&memory_free, &memory_total)) == 0) {
        ret->memory_total = memory_total;
        ret->memory_free = memory_free;
    }
}

/* A kernel's fault comes up in any later call: ask for something that waits for nothing. */
static const char *device_error(struct device *dev)
{
    if (!dev->faulted) {
        use_device(dev);
        cudaError_t error = cudaStreamQuery(cudaStreamLegacy);
        if (error == cudaErrorNotReady)
            cudaGetLastError();
        else
            cuda_check(dev, error, "device");
    }
    return dev->faulted ? dev->fault : NULL;
}

/*
 * Running out of memory is an answer, not a fault. Our streams do not wait for the default stream,
 * so the zeros must be there before anybody else can write.
 */
static void *device_alloc(struct device *dev, size_t bytes)
{
    use_device(dev);
    void *p = NULL;
    cudaError_t error = cudaMalloc(&p, bytes ? bytes : 1);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return NULL;
    }
    if (cuda_check(dev, error, "cudaMalloc"))
        return NULL;
    if (CUDA_CHECK(dev, cudaMemset(p, 0, bytes))
        || CUDA_CHECK(dev, cudaStreamSynchronize(cudaStreamLegacy))) {
        cudaFree(p);
        return NULL;
    }
    return p;
}

static void device_free(struct device *dev, void *p)
{
    use_device(dev);
    if (p)
        CUDA_CHECK(dev, cudaFree(p));
}

static void *device_host_alloc(struct device *dev, size_t bytes)
{
    use_device(dev);
    void *p = NULL;
    cudaError_t error = cudaHostAlloc(&p, bytes ? bytes : 1, cudaHostAllocPortable);
    if (error == cudaErrorMemoryAllocation) {
        cudaGetLastError();
        return NULL;
    }
    if (cuda_check(dev, error, "cudaHostAlloc"))
        return NULL;
    memset(p, 0, bytes);
    return p;
}

static void device_host_free(struct device *dev, void *p)
{
    use_device(dev);
    if (p)
        CUDA_CHECK(dev, cudaFreeHost(p));
}

static void stream_close(struct stream *st)
{
    if (!st)
        return;
    if (st->cs)
        cudaStreamSynchronize(st->cs);
    for (int i = 0; i < 2; i++) {
        if (st->stage_done[i])
            cudaEventDestroy(st->stage_done[i]);
        device_host_free(st->dev, st->stage_host[i]);
        device_free(st->dev, st->stage_device[i]);
    }
    device_free(st->dev, st->workspace);
    device_free(st->dev, st->norm_x);
    device_free(st->dev, st->wide);
    device_free(st->dev, st->attn_part);
    device_free(st->dev, st->sample_part);
    device_free(st->dev, st->best_part);
    device_free(st->dev, st->ticket);
    if (st->cs)
        cudaStreamDestroy(st->cs);
    delete st;
}

static int stream_alloc(struct stream *st)
{
    const struct op_limits *l = &st->limits;
    struct device *dev = st->dev;
    int64_t rows = l->rows_max > l->samples_max ? l->rows_max : l->samples_max;
    int64_t per_head = (int64_t)(l->head_dim + 4) * l->n_head;
    st->attn_part_floats = per_head * ((int64_t)l->seqs_max * 8 + 4 * ATTN_SPLIT_MAX);
    st->workspace = device_alloc(dev, WORKSPACE_BYTES);
    st->norm_x = device_alloc(dev, (size_t)(rows * l->dim_max) * 2);
    st->wide = device_alloc(dev, (size_t)l->rows_max * l->out_max * 2);
    st->attn_part = (float *)device_alloc(dev, (size_t)st->attn_part_floats * sizeof(float));
    st->sample_part = (float *)device_alloc(dev, (size_t)l->samples_max * 1024);
    st->best_part = (candidate *)device_alloc(dev, sizeof(candidate) * ROWS_SKINNY_MAX
                                                       * BEST_BLOCKS_MAX);
    st->ticket = (uint32_t *)device_alloc(dev, TICKETS * sizeof(uint32_t));
    if (!st->workspace || !st->norm_x || !st->wide || !st->attn_part || !st->sample_part
        || !st->best_part || !st->ticket)
        return dev->faulted ? -EIO : -ENOMEM;
    for (int i = 0; i < 2; i++) {
        st->stage_host[i] = device_host_alloc(dev, STAGE_BYTES);
        st->stage_device[i] = device_alloc(dev, STAGE_BYTES);
        if (!st->stage_host[i] || !st->stage_device[i])
            return dev->faulted ? -EIO : -ENOMEM;
        int error = CUDA_CHECK(
            dev, cudaEventCreateWithFlags(&st->stage_done[i], cudaEventDisableTiming));
        if (error)
            return error;
    }
    return 0;
}

static int stream_open(struct device *dev, const struct op_limits *limits, struct stream **ret)
{
    struct stream *st = new (std::nothrow) struct stream();
    if (!st)
        return -ENOMEM;
    st->dev = dev;
    st->limits = *limits;
    use_device(dev);
    int error = CUDA_CHECK(dev, cudaStreamCreateWithFlags(&st->cs, cudaStreamNonBlocking));
    if (!error)
        error = stream_alloc(st);
    if (!error)
        error = CUDA_CHECK(dev, cudaDeviceSynchronize());
    if (error) {
        stream_close(st);
        return error;
    }
    *ret = st;
    return 0;
}

static int stream_sync(struct stream *st)
{
    use_device(st->dev);
    return CUDA_CHECK(st->dev, cudaStreamSynchronize(st->cs));
}

static int copy_in(struct stream *st, void *dst, const void *src, size_t bytes)
{
    use_device(st->dev);
    stream_touched(st);
    return CUDA_CHECK(st->dev, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyHostToDevice, st->cs));
}

static int copy_out(struct stream *st, void *dst, const void *src, size_t bytes)
{
    use_device(st->dev);
    return CUDA_CHECK(st->dev, cudaMemcpyAsync(dst, src, bytes, cudaMemcpyDeviceToHost, st->cs));
}

static int fill(struct stream *st, void *dst, uint8_t byte, size_t bytes)
{
    use_device(st->dev);
    stream_touched(st);
    return CUDA_CHECK(st->dev, cudaMemsetAsync(dst, byte, bytes, st->cs));
}

/* Pairs with the acquire load of whoever polls the word. */
static __global__ void signal_kernel(uint32_t *word, uint32_t value)
{
    pdl_wait();
    asm volatile("fence.acq_rel.sys; st.release.sys.u32 [%0], %1;" ::"l"(word), "r"(value)
                 : "memory");
}

static int signal_word(struct stream *st, uint32_t *word, uint32_t value)
{
    return launch(st, signal_kernel, dim3(1), dim3(1), 0, word, value);
}

enum { BRING_THREADS = 256, BRING_BLOCKS_MAX = 16 };

/*
 * A block of pinned host memory, read over the bus: what is surely there of both blocks without
 * waiting for length or turn, which only the step before lets stand. Nothing of dst is written
 * before the kernels that still read it have ended.
 */
static __global__ void __launch_bounds__(BRING_THREADS)
fetch_kernel(uint4 *dst, const uint4 *even, const uint4 *odd, const uint32_t *turn,
             uint32_t n_sure)
{
    uint32_t i = blockIdx.x * BRING_THREADS + threadIdx.x, step = gridDim.x * BRING_THREADS;
    uint4 first[2] = { make_uint4(0, 0, 0, 0), make_uint4(0, 0, 0, 0) };
    uint32_t length[2] = { *(const volatile uint32_t *)even, *(const volatile uint32_t *)odd };
    if (i < n_sure) {
        first[0] = __ldcv(even + i);
        first[1] = __ldcv(odd + i);
    }
    pdl_wait();
    bool is_odd = __ldcg(turn) % 2;
    const uint4 *src = is_odd ? odd : even;
    uint32_t n = (is_odd ? length[1] : length[0]) / 16;
    if (i < n_sure)
        dst[i] = is_odd ? first[1] : first[0];
    for (i = i < n_sure ? i + step : i; i < n; i += step)
        dst[i] = __ldcv(src + i);
}

/* The kernel after it waits for its end: plans may be read above pdl_wait() all over the step. */
static int fetch(struct stream *st, void *dst, const void *src, const struct device_turn *turn,
                 size_t bytes_sure, size_t bytes_max)
{
    const void *odd = (const char *)src + turn->stride;
    (void)bytes_max;
    int blocks = div_up((int64_t)bytes_sure * 3, BRING_THREADS * 16);
    int grid = blocks < BRING_BLOCKS_MAX ? blocks : BRING_BLOCKS_MAX;
    stream_touched(st);
    int error = launch(st, fetch_kernel, dim3((unsigned)(grid > 0 ? grid : 1)),
                       dim3(BRING_THREADS), 0, (uint4 *)dst, (const uint4 *)src,
                       (const uint4 *)odd, (const uint32_t *)turn->word,
                       (uint32_t)(bytes_sure / 16));
    st->fetched = true;
    return error;
}

/*
 * Results and the word that tells of them, in one kernel. Turn and value were there before the step
 * began. The release is for the whole block, which has met; pairs as signal_kernel.
 */
static __global__ void __launch_bounds__(BRING_THREADS)
deliver_kernel(uint4 *dst, const uint4 *src, uint32_t n, uint32_t *word, const uint32_t *value,
               uint32_t *turn, uint64_t stride)
{
    uint64_t offset = __ldcg(turn) % 2 * stride;
    uint32_t end = __ldcg(value);
    pdl_wait();
    dst += offset / sizeof *dst;
    for (uint32_t i = threadIdx.x; i < n; i += BRING_THREADS)
        dst[i] = __ldcg(src + i);
    __syncthreads();
    if (threadIdx.x == 0) {
        *turn = end;
        asm volatile("st.release.sys.u32 [%0], %1;" ::"l"(word + offset / sizeof *word), "r"(end)
                     : "memory");
    }
}

static int deliver(struct stream *st, void *dst, const void *src, size_t bytes, uint32_t *word,
                   const uint32_t *value, const struct device_turn *turn)
{
    return launch(st, deliver_kernel, dim3(1), dim3(BRING_THREADS), 0, (uint4 *)dst,
                  (const uint4 *)src, (uint32_t)(bytes / 16), word, value, turn->word,
                  (uint64_t)turn->stride);
}

static int graph_begin(struct stream *st)
{
    use_device(st->dev);
    st->best_logits = NULL;
    return CUDA_CHECK(st->dev, cudaStreamBeginCapture(st->cs, cudaStreamCaptureModeRelaxed));
}

static int graph_end(struct stream *st, struct graph **ret)
{
    use_device(st->dev);
    st->best_logits = NULL;
    cudaGraph_t graph = NULL;
    int error = CUDA_CHECK(st->dev, cudaStreamEndCapture(st->cs, &graph));
    if (error)
        return error;
    struct graph *g = new (std::nothrow) struct graph();
    if (!g) {
        cudaGraphDestroy(graph);
        return -ENOMEM;
    }
    g->dev = st->dev;
    error = CUDA_CHECK(st->dev, cudaGraphInstantiate(&g->exec, graph, 0));
    cudaGraphDestroy(graph);
    if (!error)
        error = CUDA_CHECK(st->dev, cudaGraphUpload(g->exec, st->cs));
    if (error) {
        if (g->exec)
            cudaGraphExecDestroy(g->exec);
        delete g;
        return error;
    }
    *ret = g;
    return 0;
}

static int graph_launch(struct stream *st, struct graph *graph)
{
    use_device(st->dev);
    st->best_logits = NULL;
    return CUDA_CHECK(st->dev, cudaGraphLaunch(graph->exec, st->cs));
}

static void graph_close(struct graph *graph)
{
    if (!graph)
        return;
    if (graph->exec)
        cudaGraphExecDestroy(graph->exec);
    delete graph;
}

const struct device_ops cuda_device_ops = {
    .count = device_count,
    .open = device_open,
    .close = device_close,
    .info = device_info,
    .error = device_error,
    .alloc = device_alloc,
    .free = device_free,
    .host_alloc = device_host_alloc,
    .host_free = device_host_free,
    .stream_open = stream_open,
    .stream_close = stream_close,
    .stream_sync = stream_sync,
    .copy_in = copy_in,
    .copy_out = copy_out,
    .fill = fill,
    .signal = signal_word,
    .fetch = fetch,
    .deliver = deliver,
    .graph_begin = graph_begin,
    .graph_end = graph_end,
    .graph_launch = graph_launch,
    .graph_close = graph_close,
    .ceilings = cuda_ceilings,
    .is_apart = true,
};
