/*
 * cublasLt: one algorithm per shape, chosen once. Rows are grouped into buckets, so that few shapes
 * exist; the first product of a bucket outside of a capture times the library's candidates, and the
 * winners are kept in the user's cache folder, one file a device. What comes from that file is
 * checked by the library before it is used, and chosen anew once it does not fit. A product that
 * its bucket's algorithm does not fit gets one beside it, untimed.
 */
#include "kernels/cuda/cuda_common.cuh"
#include "kernels/cuda/lt_file.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CANDIDATES = 8, TRIALS = 3 };

/* Partial sums of f16 results stay f32: they may be larger than their sum. */
static const uint32_t f32_sums =
    CUBLASLT_REDUCTION_SCHEME_NONE | CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;

/* What of a product is not in its key; n_row 0 = none. */
struct lt_shape {
    int n_row;
    int64_t x_stride, out_stride;
};

/* Beside an entry of the file. Shapes are those that the library last accepted. */
struct lt_choice {
    struct lt_shape fits, spare_fits;
    cublasLtMatmulAlgo_t spare; /* for a product that the entry does not fit */
    bool chosen;                /* by this process: never timed again */
};

struct lt_cache {
    struct lt_file file;
    struct lt_choice choice[LT_FILE_ENTRIES_MAX];
    char path[512]; /* "" = not kept */
};

struct lt_problem {
    cublasLtMatmulDesc_t desc;
    cublasLtMatrixLayout_t a, b, c;
    const void *w, *x;
    float alpha, beta;
    bool f16;
    struct lt_shape shape;
};

static_assert(sizeof(cublasLtMatmulAlgo_t) == sizeof(lt_file_entry::algo), "kept as it is");

static cublasLtMatmulAlgo_t algo_in(const struct lt_file_entry *entry)
{
    cublasLtMatmulAlgo_t algo;
    memcpy(&algo, entry->algo, sizeof algo);
    return algo;
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

static bool sums_in_f32(const cublasLtMatmulAlgo_t *algo)
{
    uint32_t scheme;
    size_t bytes;
    return cublasLtMatmulAlgoConfigGetAttribute(algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME,
                                                &scheme, sizeof scheme, &bytes)
               == 0
           && (scheme & ~f32_sums) == 0;
}

/* All of a sound file, but what the chooser would not have been offered; nothing of another. */
static void cache_load(struct lt_cache *cache, const struct device *dev)
{
    struct lt_file *f = &cache->file;
    lt_file_init(f, cublasLtGetVersion(), dev->name);
    FILE *from = cache->path[0] ? fopen(cache->path, "rbe") : NULL;
    if (!from)
        return;
    lt_file_head want = f->head;
    size_t n_bytes = fread(f, 1, sizeof *f, from);
    bool whole = !ferror(from) && fgetc(from) == EOF && lt_file_check(f, n_bytes, &want) == 0;
    fclose(from);
    uint32_t n = whole ? f->head.n : 0;
    f->head = want;
    for (uint32_t i = 0; i < n; i++) {
        cublasLtMatmulAlgo_t algo = algo_in(&f->entry[i]);
        if (!(f->entry[i].key.what & LT_FILE_F16) || sums_in_f32(&algo))
            f->entry[f->head.n++] = f->entry[i];
    }
}

/*
 * A new file in place of the old one, under a name of its own until it is whole: another daemon may
 * do the same. A cache that cannot be written costs only time.
 */
static void cache_save(struct lt_cache *cache)
{
    if (!cache->path[0])
        return;
    char next[sizeof cache->path + 8];
    snprintf(next, sizeof next, "%s.XXXXXX", cache->path);
    int fd = mkostemp(next, O_CLOEXEC);
    if (fd < 0)
        return;
    size_t n_bytes = lt_file_seal(&cache->file);
    bool ok = write(fd, &cache->file, n_bytes) == (ssize_t)n_bytes;
    ok = close(fd) == 0 && ok;
    if (!ok || rename(next, cache->path))
        unlink(next);
}

struct lt_cache *lt_cache_open(struct device *dev)
{
    /* Not touched beyond its entries. */
    struct lt_cache *cache = (struct lt_cache *)calloc(1, sizeof *cache);
    if (!cache)
        return NULL;
    cache_path(cache, dev);
    cache_load(cache, dev);
    return cache;
}

void lt_cache_close(struct lt_cache *cache)
{
    free(cache);
}

static int bucket_of(int n_row)
{
    int bucket = LT_FILE_BUCKET_MIN;
    while (bucket < n_row)
        bucket *= 2;
    return bucket;
}

static lt_key key_of(const struct weight *w, int n_row, bool out_f32, float beta)
{
    int what = (out_f32 ? LT_FILE_F32_OUT : 0) | (beta != 0 ? LT_FILE_ACCUMULATE : 0)
               | (w->layout == LAYOUT_F16_ROWS ? LT_FILE_F16 : 0);
    return { w->n_row, w->n_col, bucket_of(n_row), what };
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
static bool problem_open(lt_problem *p, const struct weight *w, lt_shape shape, bool out_f32)
{
    cublasOperation_t transpose = CUBLAS_OP_T;
    p->shape = shape;
    p->f16 = w->layout == LAYOUT_F16_ROWS;
    cudaDataType in_type = p->f16 ? CUDA_R_16F : CUDA_R_16BF;
    cudaDataType out_type = out_f32 ? CUDA_R_32F : in_type;
    uint64_t k = (uint64_t)w->n_col, m = (uint64_t)w->n_row, n = (uint64_t)shape.n_row;
    return cublasLtMatmulDescCreate(&p->desc, CUBLAS_COMPUTE_32F, CUDA_R_32F) == 0
           && cublasLtMatmulDescSetAttribute(p->desc, CUBLASLT_MATMUL_DESC_TRANSA, &transpose,
                                             sizeof transpose)
                  == 0
           && cublasLtMatrixLayoutCreate(&p->a, in_type, k, m, w->n_col) == 0
           && cublasLtMatrixLayoutCreate(&p->b, in_type, k, n, shape.x_stride) == 0
           && cublasLtMatrixLayoutCreate(&p->c, out_type, m, n, shape.out_stride) == 0;
}

static int ask_heuristic(struct stream *st, const lt_problem *p,
                         cublasLtMatmulHeuristicResult_t *ret, int n_max)
{
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

enum fit { FIT_NONE, FIT_PRODUCT, FIT_BUCKET };

/*
 * An algorithm for a bucket. Candidates are timed at the bucket's full size, whatever product came
 * first, on scratch input and output; without room for that, or where nothing is to be measured,
 * the library's first proposal for the product at hand is taken, and only that is known to fit.
 */
static enum fit choose(struct stream *st, const struct weight *w, const lt_problem *p, bool out_f32,
                       bool measure, cublasLtMatmulAlgo_t *ret)
{
    const struct op_limits *l = &st->limits;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    int64_t rows = bucket_of(p->shape.n_row);
    int64_t rows_in = l->rows_max > l->samples_max ? l->rows_max : l->samples_max;
    bool room = rows * w->n_col <= rows_in * l->dim_max
                && rows * w->n_row * (out_f32 ? 2 : 1) <= (int64_t)l->rows_max * l->out_max;
    if (room && measure) {
        lt_problem full = {};
        full.w = w->data;
        full.x = st->norm_x;
        full.alpha = p->alpha;
        full.beta = p->beta;
        int n = 0;
        if (problem_open(&full, w, { (int)rows, w->n_col, w->n_row }, out_f32)
            && (n = ask_heuristic(st, &full, found, CANDIDATES)) > 0)
            *ret = found[n > 1 ? fastest(st, &full, found, n) : 0].algo;
        problem_close(&full);
        if (n > 0 && still_fits(st, p, ret))
            return FIT_BUCKET;
    }
    if (ask_heuristic(st, p, found, 1) == 0)
        return FIT_NONE;
    *ret = found[0].algo;
    return FIT_PRODUCT;
}

static bool same_shape(const lt_shape *a, const lt_shape *b)
{
    return a->n_row == b->n_row && a->x_stride == b->x_stride && a->out_stride == b->out_stride;
}

/*
 * The entry's algorithm or its spare, if the library takes it for this product. Layers of a step
 * ask the same thing over and over: the library is asked once.
 */
static bool recall(struct stream *st, const lt_problem *p, const struct lt_file_entry *entry,
                   struct lt_choice *choice, cublasLtMatmulAlgo_t *ret)
{
    *ret = choice->spare;
    if (same_shape(&choice->spare_fits, &p->shape)) /* then the entry did not fit */
        return true;
    cublasLtMatmulAlgo_t algo = algo_in(entry);
    if (same_shape(&choice->fits, &p->shape) || still_fits(st, p, &algo)) {
        choice->fits = p->shape;
        *ret = algo;
        return true;
    }
    if (choice->spare_fits.n_row == 0 || !still_fits(st, p, ret))
        return false;
    choice->spare_fits = p->shape;
    return true;
}

/* The entry at `at`, which was there before or has room to be made. */
static void keep(struct lt_cache *cache, uint32_t at, const lt_key *key, const lt_problem *p,
                 const cublasLtMatmulAlgo_t *algo)
{
    struct lt_file_entry entry = { *key, {} };
    memcpy(entry.algo, algo, sizeof entry.algo);
    uint32_t behind = cache->file.head.n - at;
    if (lt_file_has(&cache->file, at, key))
        cache->file.entry[at] = entry;
    else if (lt_file_insert(&cache->file, at, &entry))
        memmove(&cache->choice[at + 1], &cache->choice[at], behind * sizeof cache->choice[0]);
    else
        return;
    cache->choice[at] = {};
    cache->choice[at].fits = p->shape;
    cache->choice[at].chosen = true;
    cache_save(cache);
}

/*
 * The algorithm of a product. An entry of the file that does not fit is measured anew, once in a
 * process, and replaced if that gave one for the whole bucket. What was chosen here stays: products
 * that it does not fit share a spare, or two that exclude each other would measure by turns.
 */
static bool algo_for(struct stream *st, const struct weight *w, const lt_problem *p, bool out_f32,
                     cublasLtMatmulAlgo_t *ret)
{
    struct lt_cache *cache = st->dev->cache;
    lt_key key = key_of(w, p->shape.n_row, out_f32, p->beta);
    uint32_t at = lt_file_find(&cache->file, &key);
    bool known = lt_file_has(&cache->file, at, &key);
    struct lt_choice *choice = known ? &cache->choice[at] : NULL;
    if (known && recall(st, p, &cache->file.entry[at], choice, ret))
        return true;
    cudaStreamCaptureStatus capture = cudaStreamCaptureStatusActive;
    cudaStreamIsCapturing(st->cs, &capture);
    bool measure = capture == cudaStreamCaptureStatusNone /* a capture could not */
                   && (known ? !choice->chosen : cache->file.head.n < LT_FILE_ENTRIES_MAX);
    enum fit fit = choose(st, w, p, out_f32, measure, ret);
    if (known && measure)
        choice->chosen = true;
    if (fit == FIT_NONE)
        return false;
    if (measure && (!known || fit == FIT_BUCKET)) {
        keep(cache, at, &key, p, ret);
    } else if (known && choice->chosen) {
        choice->spare = *ret;
        choice->spare_fits = p->shape;
    }
    return true;
}

/* What the library says, and what the device said to it, if that is why. */
static int product_failed(struct stream *st, cublasStatus_t status)
{
    char what[96];
    snprintf(what, sizeof what, "cublasLt matrix product: %s", cublasLtGetStatusString(status));
    cudaError_t error = cudaPeekAtLastError();
    return cuda_check(st->dev, error == cudaSuccess ? cudaErrorUnknown : error, what);
}

int lt_gemm(struct stream *st, const struct weight *w, const void *x, int64_t x_stride, void *out,
            int64_t out_stride, int n_row, bool out_f32, float alpha, float beta)
{
    use_device(st->dev);
    st->settled = false; /* whether its kernels let the next in early is not ours to say */
    lt_problem p = {};
    p.w = w->data;
    p.x = x;
    p.alpha = alpha;
    p.beta = beta;
    cublasLtMatmulAlgo_t algo;
    bool ok = problem_open(&p, w, { n_row, x_stride, out_stride }, out_f32)
              && algo_for(st, w, &p, out_f32, &algo);
    cublasStatus_t status = ok ? run(st, &p, out, &algo) : CUBLAS_STATUS_NOT_SUPPORTED;
    problem_close(&p);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE)
        return -ENOTSUP;
    return status ? product_failed(st, status) : 0;
}
