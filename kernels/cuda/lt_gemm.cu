/*
 * cublasLt: one algorithm per shape, chosen once. Rows are grouped into buckets, so that the
 * heuristic is asked at most a few times a weight shape and never in the steady state.
 */
#include "kernels/cuda/cuda_common.cuh"

#include <map>
#include <new>
#include <tuple>

typedef std::tuple<int, int, int, bool, bool> lt_key; /* out rows, k, row bucket, f32, accumulate */

struct lt_cache {
    std::map<lt_key, cublasLtMatmulAlgo_t> algo;
};

struct lt_problem {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
};

struct lt_cache *lt_cache_open(struct device *dev)
{
    (void)dev;
    return new (std::nothrow) lt_cache();
}

void lt_cache_close(struct lt_cache *cache)
{
    delete cache;
}

static int bucket_of(int n_row)
{
    int step = n_row <= 64 ? 16 : n_row <= 512 ? 64 : 256;
    return (n_row + step - 1) / step * step;
}

static void problem_close(lt_problem *p)
{
    if (p->c)
        cublasLtMatrixLayoutDestroy(p->c);
    if (p->b)
        cublasLtMatrixLayoutDestroy(p->b);
    if (p->a)
        cublasLtMatrixLayoutDestroy(p->a);
    if (p->desc)
        cublasLtMatmulDescDestroy(p->desc);
}

/* Column-major words: out^T [w rows, n_row] = w^T x^T. */
static bool problem_open(lt_problem *p, const struct weight *w, int64_t x_stride,
                         int64_t out_stride, int n_row, bool out_f32)
{
    *p = {};
    cublasOperation_t transpose = CUBLAS_OP_T;
    cudaDataType out_type = out_f32 ? CUDA_R_32F : CUDA_R_16BF;
    uint64_t k = (uint64_t)w->n_col, m = (uint64_t)w->n_row, n = (uint64_t)n_row;
    return cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == 0
           && cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                             sizeof transpose)
                  == 0
           && cublasLtMatrixLayoutCreate(&p->a, CUDA_R_16BF, k, m, w->n_col) == 0
           && cublasLtMatrixLayoutCreate(&p->b, CUDA_R_16BF, k, n, x_stride) == 0
           && cublasLtMatrixLayoutCreate(&p->c, out_type, m, n, out_stride) == 0;
}

static bool ask_heuristic(struct stream *st, const lt_problem *p, cublasLtMatmulAlgo_t *ret)
{
    cublasLtMatmulPreference_t preference;
    if (cublasLtMatmulPreferenceCreate(&preference))
        return false;
    size_t workspace = WORKSPACE_BYTES;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &workspace, sizeof workspace);
    cublasLtMatmulHeuristicResult_t result;
    int n = 0;
    cublasStatus_t status = cublasLtMatmulAlgoGetHeuristic(
        st->dev->lt, p->desc, p->a, p->b, p->c, p->c, preference, 1, &result, &n);
    cublasLtMatmulPreferenceDestroy(preference);
    if (status || n == 0)
        return false;
    *ret = result.algo;
    return true;
}

int lt_gemm(struct stream *st, const struct weight *w, const bf16 *x, int64_t x_stride, void *out,
            int64_t out_stride, int n_row, bool out_f32, float alpha, float beta)
{
    lt_problem p;
    std::map<lt_key, cublasLtMatmulAlgo_t> &cache = st->dev->cache->algo;
    lt_key key(w->n_row, w->n_col, bucket_of(n_row), out_f32, beta != 0);
    bool ok = problem_open(&p, w, x_stride, out_stride, n_row, out_f32);
    auto found = cache.find(key);
    cublasLtMatmulAlgo_t algo;
    bool known = found != cache.end();
    if (known)
        algo = found->second;
    else
        ok = ok && ask_heuristic(st, &p, &algo);
    cublasStatus_t status = CUBLAS_STATUS_NOT_SUPPORTED;
    if (ok)
        status = cublasLtMatmul(st->dev->lt, p.desc, &alpha, w->data, p.a, x, p.b, &beta, out, p.c,
                                out, p.c, &algo, st->workspace, WORKSPACE_BYTES, st->cs);
    /* An algorithm of the bucket may not fit every member: ask for this very shape. */
    if (ok && status && known && ask_heuristic(st, &p, &algo))
        status = cublasLtMatmul(st->dev->lt, p.desc, &alpha, w->data, p.a, x, p.b, &beta, out, p.c,
                                out, p.c, &algo, st->workspace, WORKSPACE_BYTES, st->cs);
    problem_close(&p);
    if (!ok || status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE)
        return -ENOTSUP;
    if (status)
        return cuda_check(st->dev, cudaErrorUnknown, "cublasLt matrix product");
    if (!known)
        cache[key] = algo;
    return 0;
}
