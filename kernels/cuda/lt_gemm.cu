/*
 * cublasLt: one algorithm per shape, chosen once. Rows are grouped into buckets, so that few shapes
 * exist; the first product of a bucket outside of a capture times the library's candidates, and the
 * winners are kept in the user's cache folder, one file a device and library version. What comes
 * from that file is checked by the library before it is used.
 */
#include "kernels/cuda/cuda_common.cuh"

#include <map>
#include <new>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <tuple>

enum { CANDIDATES = 8, TRIALS = 3, FILE_MAGIC = 0x31544c52 /* RLT1 */, SHAPES_MAX = 4096 };

typedef std::tuple<int, int, int, int> lt_key; /* out rows, k, row bucket, what_of() */

/* Rows and strides are those that the library last accepted the algorithm for. */
struct lt_choice {
    cublasLtMatmulAlgo_t algo;
    int n_row;
    int64_t x_stride, out_stride;
};

struct lt_cache {
    std::map<lt_key, lt_choice> algo;
    char path[512]; /* "" = not kept */
};

struct lt_problem {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    const void *w, *x;
    float alpha, beta;
    bool f16;
};

struct lt_record {
    int32_t key[4];
    cublasLtMatmulAlgo_t algo;
};

struct lt_header {
    uint32_t magic, n;
    uint64_t version;
    char device[128];
};

static lt_header header_of(const struct device *dev)
{
    lt_header h = {};
    h.magic = FILE_MAGIC;
    h.version = cublasLtGetVersion();
    memcpy(h.device, dev->name, sizeof h.device);
    return h;
}

static void cache_path(struct lt_cache *cache, const struct device *dev)
{
    const char *base = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    char above[320], folder[344];
    if (base && base[0] == '/')
        snprintf(above, sizeof above, "%.300s", base);
    else if (home && home[0] == '/')
        snprintf(above, sizeof above, "%.300s/.cache", home);
    else
        return;
    snprintf(folder, sizeof folder, "%s/ringlet", above);
    mkdir(above, 0700);
    mkdir(folder, 0700);
    int n = snprintf(cache->path, sizeof cache->path, "%s/matmul-%.64s.bin", folder, dev->name);
    for (char *c = cache->path + strlen(folder) + 1; n > 0 && *c; c++)
        if (*c == '/' || *c == ' ')
            *c = '-';
}

static void cache_load(struct lt_cache *cache, const struct device *dev)
{
    FILE *file = cache->path[0] ? fopen(cache->path, "rb") : NULL;
    if (!file)
        return;
    lt_header want = header_of(dev), got;
    if (fread(&got, sizeof got, 1, file) == 1 && got.magic == want.magic
        && got.version == want.version && memcmp(got.device, want.device, sizeof got.device) == 0
        && got.n <= SHAPES_MAX) {
        lt_record r;
        for (uint32_t i = 0; i < got.n && fread(&r, sizeof r, 1, file) == 1; i++)
            cache->algo[lt_key(r.key[0], r.key[1], r.key[2], r.key[3])] = { r.algo, 0, 0, 0 };
    }
    fclose(file);
}

/* A new file in place of the old one; a cache that cannot be written costs only time. */
static void cache_save(const struct lt_cache *cache, const struct device *dev)
{
    char next[sizeof cache->path + 8];
    snprintf(next, sizeof next, "%s.new", cache->path);
    FILE *file = cache->path[0] ? fopen(next, "wb") : NULL;
    if (!file)
        return;
    lt_header h = header_of(dev);
    h.n = (uint32_t)cache->algo.size();
    bool ok = fwrite(&h, sizeof h, 1, file) == 1;
    for (const auto &entry : cache->algo) {
        const lt_key &k = entry.first;
        lt_record r = { { std::get<0>(k), std::get<1>(k), std::get<2>(k), std::get<3>(k) },
                        entry.second.algo };
        ok = ok && fwrite(&r, sizeof r, 1, file) == 1;
    }
    ok = fclose(file) == 0 && ok;
    if (!ok || rename(next, cache->path))
        remove(next);
}

struct lt_cache *lt_cache_open(struct device *dev)
{
    struct lt_cache *cache = new (std::nothrow) lt_cache();
    if (!cache)
        return NULL;
    cache_path(cache, dev);
    cache_load(cache, dev);
    return cache;
}

void lt_cache_close(struct lt_cache *cache)
{
    delete cache;
}

static int bucket_of(int n_row)
{
    int bucket = 16;
    while (bucket < n_row)
        bucket *= 2;
    return bucket;
}

/* The part of a key that is no size: bits f32 out, accumulate, f16. */
static int what_of(const struct weight *w, bool out_f32, float beta)
{
    return out_f32 | (beta != 0) << 1 | (w->layout == LAYOUT_F16_ROWS) << 2;
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
    cublasOperation_t transpose = CUBLAS_OP_T;
    p->f16 = w->layout == LAYOUT_F16_ROWS;
    cudaDataType in_type = p->f16 ? CUDA_R_16F : CUDA_R_16BF;
    cudaDataType out_type = out_f32 ? CUDA_R_32F : in_type;
    uint64_t k = (uint64_t)w->n_col, m = (uint64_t)w->n_row, n = (uint64_t)n_row;
    return cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == 0
           && cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                             sizeof transpose)
                  == 0
           && cublasLtMatrixLayoutCreate(&p->a, in_type, k, m, w->n_col) == 0
           && cublasLtMatrixLayoutCreate(&p->b, in_type, k, n, x_stride) == 0
           && cublasLtMatrixLayoutCreate(&p->c, out_type, m, n, out_stride) == 0;
}

static int ask_heuristic(struct stream *st, const lt_problem *p,
                         cublasLtMatmulHeuristicResult_t *ret, int n_max)
{
    /* Partial sums of f16 results stay f32: they may be larger than their sum. */
    uint32_t f32_sums = CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    cublasLtMatmulPreference_t preference;
    if (cublasLtMatmulPreferenceCreate(&preference))
        return 0;
    size_t workspace = WORKSPACE_BYTES;
    cublasLtMatmulPreferenceSetAttribute(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                         &workspace, sizeof workspace);
    if (p->f16)
        cublasLtMatmulPreferenceSetAttribute(
            preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &f32_sums, sizeof f32_sums);
    int n = 0;
    if (cublasLtMatmulAlgoGetHeuristic(st->dev->lt, p->desc, p->a, p->b, p->c, p->c, preference,
                                       n_max, ret, &n))
        n = 0;
    cublasLtMatmulPreferenceDestroy(preference);
    return n;
}

static cublasStatus_t run(struct stream *st, const lt_problem *p, void *out,
                          const cublasLtMatmulAlgo_t *algo)
{
    return cublasLtMatmul(st->dev->lt, p->desc, &p->alpha, p->w, p->a, p->x, p->b, &p->beta, out,
                          p->c, out, p->c, algo, st->workspace, WORKSPACE_BYTES, st->cs);
}

/* Milliseconds of one algorithm into scratch, or a negative number. */
static float time_algo(struct stream *st, const lt_problem *p, void *scratch,
                       const cublasLtMatmulAlgo_t *algo, cudaEvent_t from, cudaEvent_t to)
{
    float ms = -1;
    if (run(st, p, scratch, algo))
        return -1;
    cudaEventRecord(from, st->cs);
    for (int i = 0; i < TRIALS; i++)
        run(st, p, scratch, algo);
    cudaEventRecord(to, st->cs);
    return cudaEventSynchronize(to) || cudaEventElapsedTime(&ms, from, to) ? -1 : ms;
}

/* The fastest of the candidates, all of them into the stream's scratch. */
static int fastest(struct stream *st, const lt_problem *p,
                   const cublasLtMatmulHeuristicResult_t *found, int n)
{
    cudaEvent_t from = NULL, to = NULL;
    float least = 1e30f;
    int best = 0;
    if (!cudaEventCreate(&from) && !cudaEventCreate(&to))
        for (int i = 0; i < n; i++) {
            float ms = time_algo(st, p, st->wide, &found[i].algo, from, to);
            if (ms > 0 && ms < least) {
                least = ms;
                best = i;
            }
        }
    if (from)
        cudaEventDestroy(from);
    if (to)
        cudaEventDestroy(to);
    return best;
}

/* An algorithm of a bucket, or of the file, may not fit this very problem. */
static bool still_fits(struct stream *st, const lt_problem *p, const cublasLtMatmulAlgo_t *algo)
{
    cublasLtMatmulHeuristicResult_t result;
    return cublasLtMatmulAlgoCheck(st->dev->lt, p->desc, p->a, p->b, p->c, p->c, algo, &result) == 0
           && result.workspaceSize <= WORKSPACE_BYTES;
}

/*
 * An algorithm for a bucket. Candidates are timed at the bucket's full size, whatever product came
 * first, on scratch input and output; without room for that, or in a capture, the library's first
 * proposal for the product at hand is taken.
 */
static bool choose(struct stream *st, const struct weight *w, const lt_problem *p, int n_row,
                   bool out_f32, cublasLtMatmulAlgo_t *ret, bool *ret_keep)
{
    const struct op_limits *l = &st->limits;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusActive;
    cudaStreamIsCapturing(st->cs, &capture);
    *ret_keep = capture == cudaStreamCaptureStatusNone; /* a capture could not measure */
    int64_t rows = bucket_of(n_row), rows_in = l->rows_max > l->samples_max ? l->rows_max
                                                                            : l->samples_max;
    bool room = rows * w->n_col <= rows_in * l->dim_max
                && rows * w->n_row * (out_f32 ? 2 : 1) <= (int64_t)l->rows_max * l->out_max;
    if (room && *ret_keep) {
        lt_problem full = {};
        full.w = w->data;
        full.x = st->norm_x;
        full.alpha = p->alpha;
        full.beta = p->beta;
        int n = 0;
        if (problem_open(&full, w, w->n_col, w->n_row, (int)rows, out_f32)
            && (n = ask_heuristic(st, &full, found, CANDIDATES)) > 0)
            *ret = found[n > 1 ? fastest(st, &full, found, n) : 0].algo;
        problem_close(&full);
        if (n > 0 && still_fits(st, p, ret))
            return true;
    }
    if (ask_heuristic(st, p, found, 1) == 0)
        return false;
    *ret = found[0].algo;
    return true;
}

/* Layers of a step ask the same thing over and over: the library is asked once. */
static bool accepts(struct stream *st, const lt_problem *p, lt_choice *choice, int n_row,
                    int64_t x_stride, int64_t out_stride)
{
    if (choice->n_row == n_row && choice->x_stride == x_stride && choice->out_stride == out_stride)
        return true;
    if (!still_fits(st, p, &choice->algo))
        return false;
    choice->n_row = n_row;
    choice->x_stride = x_stride;
    choice->out_stride = out_stride;
    return true;
}

int lt_gemm(struct stream *st, const struct weight *w, const void *x, int64_t x_stride, void *out,
            int64_t out_stride, int n_row, bool out_f32, float alpha, float beta)
{
    use_device(st->dev);
    lt_problem p = {};
    struct lt_cache *cache = st->dev->cache;
    lt_key key(w->n_row, w->n_col, bucket_of(n_row), what_of(w, out_f32, beta));
    p.w = w->data;
    p.x = x;
    p.alpha = alpha;
    p.beta = beta;
    bool ok = problem_open(&p, w, x_stride, out_stride, n_row, out_f32);
    auto found = cache->algo.find(key);
    bool known = found != cache->algo.end();
    cublasLtMatmulAlgo_t algo;
    if (ok && known && accepts(st, &p, &found->second, n_row, x_stride, out_stride)) {
        algo = found->second.algo;
    } else if (ok) {
        bool keep = false;
        ok = choose(st, w, &p, n_row, out_f32, &algo, &keep);
        if (ok && keep && !known && cache->algo.size() < SHAPES_MAX) {
            cache->algo[key] = { algo, n_row, x_stride, out_stride };
            cache_save(cache, st->dev);
        }
    }
    cublasStatus_t status = ok ? run(st, &p, out, &algo) : CUBLAS_STATUS_NOT_SUPPORTED;
    problem_close(&p);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE)
        return -ENOTSUP;
    return status ? cuda_check(st->dev, cudaErrorUnknown, "cublasLt matrix product") : 0;
}
