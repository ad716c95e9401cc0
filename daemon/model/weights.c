/*
 * Owns the list of a file's tensors and the memory of the loaded ones. Start-up thread only.
 *
 *   open: list   ->   bind: jobs (shape and type checked)   ->   load: place all, then copy
 *
 * All matrices and vectors of a model lie in one allocation, except those that the backend uses in
 * the file's own mapping. Vectors go up first; then matrices follow each other without a wait:
 * from the mapping, which threads page in, or for a device apart through pinned buffers (upload.h).
 */
#include "daemon/model/weights.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "base/cleanup.h"
#include "base/compiler.h"
#include "daemon/format/gguf.h"
#include "daemon/model/prefetch.h"
#include "daemon/model/upload.h"
#include "daemon/model/weights_source.h"

enum {
    WEIGHTS_ALIGN = 256,
    WEIGHTS_CHUNK_BYTES = 8 << 20, /* per weight_load call: how often progress is told */
    WEIGHTS_ROWS_MULTIPLE = 64,    /* weight_load's own rule for first_row */
};

/* One thing to load: a matrix (weight) or a vector (vector). */
struct weights_job {
    struct weight *weight;
    const float **vector;
    int tensor_i; /* -1: dummy, or a constant in host */
    float *host;  /* owned: a constant vector */
    int n_row, n_col;
    int64_t offset, bytes; /* in the allocation; bytes 0: in place */
};

struct weights {
    struct model *model;
    struct weights_source source;
    struct weights_job *jobs;
    int n_job, jobs_max;
    uint8_t *memory; /* device */
    int64_t memory_bytes;
    uint64_t loaded_bytes;
    bool *used;            /* by tensor */
    struct upload *upload; /* while matrices are read into pinned memory, else NULL */
    int status;
    struct format_error err;
};

int weights_open(struct model *m, struct weights **ret, struct format_error *err)
{
    struct weights *w = calloc(1, sizeof(*w));
    if (!w)
        return -ENOMEM;
    w->model = m;
    int rc = weights_source_open(m, &w->source, err);
    if (rc == 0) {
        w->used = calloc((size_t)w->source.n_tensor + 1, sizeof(*w->used));
        rc = w->used ? 0 : -ENOMEM;
    }
    if (rc < 0) {
        weights_close(w);
        return rc;
    }
    *ret = w;
    return 0;
}

void weights_close(struct weights *w)
{
    if (!w)
        return;
    for (int i = 0; i < w->n_job; i++)
        free(w->jobs[i].host);
    if (w->memory)
        w->model->backend->device->free(w->model->dev, w->memory);
    weights_source_close(&w->source);
    free(w->jobs);
    free(w->used);
    free(w);
}

bool weights_has(const struct weights *w, const char *name)
{
    const struct gguf *gguf = w->model->gguf;
    if (w->source.dummy)
        return gguf && gguf_tensor_find(gguf, name);
    return weights_source_find(&w->source, name) >= 0;
}

/* Keep the first failure; hand it back. */
static int weights_fail(struct weights *w, int rc)
{
    if (w->status == 0)
        w->status = rc;
    return w->status;
}

static struct weights_job *weights_job_new(struct weights *w)
{
    if (w->n_job == w->jobs_max) {
        int n = w->jobs_max ? 2 * w->jobs_max : 256;
        struct weights_job *jobs = reallocarray(w->jobs, (size_t)n, sizeof(*jobs));
        if (!jobs) {
            weights_fail(w, -ENOMEM);
            return NULL;
        }
        w->jobs = jobs;
        w->jobs_max = n;
    }
    struct weights_job *job = &w->jobs[w->n_job++];
    *job = (struct weights_job){ .tensor_i = -1 };
    return job;
}

/* GPTQ, AWQ and compressed-tensors name packed weights in words of their own. */
static int weights_missing(struct weights *w, const char *name)
{
    static const char *const packed[] = { "qweight", "weight_packed" };
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; i < ARRAY_SIZE(packed) && dot && !w->model->gguf; i++) {
        char other[160];
        snprintf(other, sizeof(other), "%.*s.%s", (int)(dot - name), name, packed[i]);
        if (weights_has(w, other))
            return format_fail(&w->err, -ENOTSUP,
                               "%s: tensor \"%s\" in place of \"%s\": quantised weights of that "
                               "kind are not supported",
                               w->model->source.path, other, name);
    }
    return format_fail(&w->err, -ENOENT, "%s: tensor \"%s\" is missing: the family %s needs it",
                       w->model->source.path, name, w->model->arch->name);
}

/* The tensor of that name, checked to be [n_row, n_col] (vectors: n_row 1). */
static int weights_find(struct weights *w, const char *name, int n_row, int n_col,
                        int *ret_tensor_i)
{
    int i = weights_source_find(&w->source, name);
    if (i < 0)
        return weights_missing(w, name);
    const struct source_tensor *t = &w->source.tensors[i];
    if (t->n_row < 0)
        return format_fail(&w->err, -EINVAL,
                           "%s: tensor \"%s\" has %u dimensions, its metadata asks for %d x %d",
                           w->model->source.path, name, t->n_dims, n_row, n_col);
    if (t->n_row != n_row || t->n_col != n_col)
        return format_fail(&w->err, -EINVAL,
                           "%s: tensor \"%s\" is %" PRId64 " x %" PRId64
                           ", its metadata asks for %d x %d",
                           w->model->source.path, name, t->n_row, t->n_col, n_row, n_col);
    if (!t->known)
        return format_fail(&w->err, -ENOTSUP,
                           "%s: tensor \"%s\" has type %s, which is not supported; expected %s",
                           w->model->source.path, name, t->type_name,
                           w->model->gguf ? "f32, f16, bf16 or a block type (Q4_0 to Q8_0, Q4_K to "
                                            "Q6_K)"
                                          : "f32, f16 or bf16");
    w->used[i] = true;
    *ret_tensor_i = i;
    return 0;
}

static int weights_check_vector(struct weights *w, const char *name, enum dtype dtype)
{
    if (dtype == DTYPE_F32 || dtype == DTYPE_F16 || dtype == DTYPE_BF16)
        return 0;
    return format_fail(&w->err, -ENOTSUP,
                       "%s: tensor \"%s\" has type %s, a vector is f32, f16 or bf16",
                       w->model->source.path, name, dtype_name(dtype));
}

/* The job of a tensor of that name, checked as weights_find does; NULL: w->status says why. */
static struct weights_job *weights_job_of(struct weights *w, bool is_vector, int n_row, int n_col,
                                          const char *name, va_list args)
{
    char text[128];
    int tensor_i = -1;
    vsnprintf(text, sizeof(text), name, args);
    if (w->status < 0)
        return NULL;
    if (!w->source.dummy) {
        int rc = weights_find(w, text, n_row, n_col, &tensor_i);
        if (rc == 0 && is_vector)
            rc = weights_check_vector(w, text, w->source.tensors[tensor_i].dtype);
        if (rc < 0) {
            weights_fail(w, rc);
            return NULL;
        }
    }
    struct weights_job *job = weights_job_new(w);
    if (!job)
        return NULL;
    job->tensor_i = tensor_i;
    job->n_row = n_row;
    job->n_col = n_col;
    return job;
}

int weights_matrix(struct weights *w, struct weight *dst, int n_row, int n_col, const char *name,
                   ...)
{
    va_list args;
    va_start(args, name);
    struct weights_job *job = weights_job_of(w, false, n_row, n_col, name, args);
    va_end(args);
    if (!job)
        return w->status;
    int i = job->tensor_i;
    job->weight = dst;
    *dst = (struct weight){ .dtype = i < 0 ? w->source.dummy_dtype : w->source.tensors[i].dtype,
                            .n_row = n_row,
                            .n_col = n_col };
    return 0;
}

int weights_vector(struct weights *w, const float **dst, int n, const char *name, ...)
{
    va_list args;
    va_start(args, name);
    struct weights_job *job = weights_job_of(w, true, 1, n, name, args);
    va_end(args);
    if (!job)
        return w->status;
    job->vector = dst;
    return 0;
}

int weights_const(struct weights *w, const float **dst, int n, const float *src)
{
    if (w->status < 0)
        return w->status;
    float *copy = malloc((size_t)n * sizeof(*copy));
    struct weights_job *job = copy ? weights_job_new(w) : NULL;
    if (!job) {
        free(copy);
        return weights_fail(w, -ENOMEM);
    }
    memcpy(copy, src, (size_t)n * sizeof(*copy));
    job->vector = dst;
    job->host = copy;
    job->n_row = 1;
    job->n_col = n;
    return 0;
}

int weights_peek(struct weights *w, const char *name, int n, float *ret)
{
    int i = weights_source_find(&w->source, name);
    if (i < 0)
        return -ENOENT;
    const struct source_tensor *t = &w->source.tensors[i];
    int rc = t->n_row == 1 && t->n_col == n && t->known ? source_floats(t, n, ret) : -EINVAL;
    if (rc < 0) {
        format_fail(&w->err, rc,
                    "%s: tensor \"%s\" is %" PRId64 " x %" PRId64
                    " of type %s, expected %d numbers of f32, f16 or bf16",
                    w->model->source.path, name, t->n_row, t->n_col, t->type_name, n);
        return weights_fail(w, rc);
    }
    w->used[i] = true;
    return 0;
}

bool weights_same(const struct weights *w, const char *name_a, const char *name_b)
{
    int a_i = weights_source_find(&w->source, name_a);
    int b_i = weights_source_find(&w->source, name_b);
    if (a_i < 0 || b_i < 0)
        return false;
    const struct source_tensor *a = &w->source.tensors[a_i], *b = &w->source.tensors[b_i];
    if (strcmp(a->type_name, b->type_name) != 0 || a->n_row != b->n_row || a->n_col != b->n_col ||
        a->bytes != b->bytes || memcmp(a->data, b->data, a->bytes) != 0)
        return false;
    if (w->model->tensors) /* a mapped file: nobody will read the second one again */
        prefetch_drop(b->data, b->bytes);
    return true;
}

void weights_ignore(struct weights *w, const char *suffix)
{
    size_t suffix_bytes = strlen(suffix);
    for (int i = 0; i < w->source.n_tensor; i++) {
        size_t bytes = strlen(w->source.tensors[i].name);
        if (bytes >= suffix_bytes &&
            strcmp(w->source.tensors[i].name + bytes - suffix_bytes, suffix) == 0)
            w->used[i] = true;
    }
}

int weights_status(const struct weights *w, const struct format_error **ret_err)
{
    *ret_err = &w->err;
    return w->status;
}

/* A tensor that nobody asked for would change the model's answers in silence: refuse. */
static int weights_check_used(struct weights *w, struct format_error *err)
{
    for (int i = 0; i < w->source.n_tensor; i++)
        if (!w->used[i])
            return format_fail(
                err, -ENOTSUP,
                "%s: tensor \"%s\" has no place in the family %s: this variant is not "
                "supported",
                w->model->source.path, w->source.tensors[i].name, w->model->arch->name);
    return 0;
}

/* What a real file would have told: sums of all that was bound. */
static void weights_count_dummy(struct weights *w)
{
    for (int i = 0; i < w->n_job; i++) {
        const struct weights_job *job = &w->jobs[i];
        enum dtype dtype = job->weight ? job->weight->dtype : w->source.dummy_dtype;
        if (job->host)
            continue;
        w->source.n_parameter += (uint64_t)job->n_row * (uint64_t)job->n_col;
        w->source.bytes += (uint64_t)dtype_bytes(dtype, (int64_t)job->n_row * job->n_col);
    }
}

/* Decide where every job goes; sum the memory. */
static int weights_place(struct weights *w, struct format_error *err)
{
    struct model *m = w->model;
    int64_t offset = 0;
    for (int i = 0; i < w->n_job; i++) {
        struct weights_job *job = &w->jobs[i];
        job->bytes = (int64_t)job->n_col * (int64_t)sizeof(float);
        if (job->weight) {
            int layout = 0;
            int rc = m->ops->weight_layout(m->dev, job->weight->dtype, job->n_row, job->n_col,
                                           &job->bytes, &layout);
            if (rc < 0)
                return format_fail(err, rc, "%s: backend %s has no layout for a %s matrix %d x %d",
                                   m->source.path, m->backend->name, dtype_name(job->weight->dtype),
                                   job->n_row, job->n_col);
            job->weight->layout = layout;
            job->weight->bytes = job->bytes;
            bool in_place = job->bytes == 0 && job->tensor_i >= 0 &&
                            !m->backend->device->is_apart &&
                            (uintptr_t)w->source.tensors[job->tensor_i].data % 32 == 0;
            if (job->bytes == 0 && !in_place)
                job->bytes = dtype_bytes(job->weight->dtype, (int64_t)job->n_row * job->n_col);
        }
        job->offset = offset;
        offset += (int64_t)align_up((uint64_t)job->bytes, WEIGHTS_ALIGN);
    }
    w->memory_bytes = offset;
    if (offset == 0)
        return 0;
    w->memory = m->backend->device->alloc(m->dev, (size_t)offset);
    if (!w->memory)
        return format_fail(err, -ENOMEM, "%s: no room for %.1f MB of weights", m->source.path,
                           (double)offset / 1e6);
    return 0;
}

static int weights_load_vector(struct weights *w, struct weights_job *job, struct stream *st)
{
    float *values = job->host;
    auto_free float *own = NULL;
    if (!values) {
        own = values = malloc((size_t)job->n_col * sizeof(*values));
        if (!values)
            return -ENOMEM;
        if (job->tensor_i >= 0)
            source_floats(&w->source.tensors[job->tensor_i], job->n_col, values);
        else
            for (int i = 0; i < job->n_col; i++)
                values[i] = 1.0f;
    }
    void *dst = w->memory + job->offset;
    const struct device_ops *device = w->model->backend->device;
    int rc = device->copy_in(st, dst, values, (size_t)job->n_col * sizeof(*values));
    if (rc == 0)
        rc = device->stream_sync(st); /* values goes away */
    *job->vector = dst;
    return rc;
}

/* Rows of a matrix that go up at once. */
static int64_t weights_chunk_rows(const struct weights_job *job)
{
    int64_t row_bytes = dtype_bytes(job->weight->dtype, job->n_col);
    int64_t rows = WEIGHTS_CHUNK_BYTES / row_bytes / WEIGHTS_ROWS_MULTIPLE * WEIGHTS_ROWS_MULTIPLE;
    return min_of(max_of(rows, (int64_t)WEIGHTS_ROWS_MULTIPLE), (int64_t)job->n_row);
}

static int weights_load_chunk(struct weights *w, struct weights_job *job, struct stream *st,
                              int row, int n_row)
{
    int64_t row_bytes = dtype_bytes(job->weight->dtype, job->n_col);
    const void *from = w->source.dummy_bytes;
    if (job->tensor_i >= 0)
        from = w->source.tensors[job->tensor_i].data + row * row_bytes;
    int rc = w->upload ? upload_next(w->upload, &from) : 0;
    if (rc == 0)
        rc = w->model->ops->weight_load(st, job->weight, row, n_row, from, row_bytes);
    if (rc == 0 && w->upload)
        rc = upload_used(w->upload, st);
    w->loaded_bytes += (uint64_t)(row_bytes * n_row);
    return rc;
}

static int weights_load_matrix(struct weights *w, struct weights_job *job, struct stream *st,
                               model_progress_fn progress, void *arg)
{
    struct weight *weight = job->weight;
    if (job->bytes == 0) { /* the mapping; nobody writes it */
        weight->data = (void *)(uintptr_t)w->source.tensors[job->tensor_i].data;
        w->loaded_bytes += (uint64_t)(dtype_bytes(weight->dtype, job->n_col) * job->n_row);
        return 0;
    }
    weight->data = w->memory + job->offset;
    weight->bytes = job->bytes;
    int64_t chunk = weights_chunk_rows(job);
    for (int64_t row = 0; row < job->n_row; row += chunk) {
        int n_row = (int)min_of(chunk, job->n_row - row);
        int rc = weights_load_chunk(w, job, st, (int)row, n_row);
        if (rc < 0)
            return rc;
        if (progress)
            progress(arg, w->loaded_bytes, max_of(w->source.bytes, w->loaded_bytes));
    }
    return 0;
}

/* The chunks of all matrices in the order of weights_run_jobs; NULL: some have no file. */
static struct upload_piece *weights_pieces(const struct weights *w, int *ret_n)
{
    int n = 0, n_max = 0;
    for (int i = 0; i < w->n_job; i++)
        if (w->jobs[i].weight)
            n_max += (int)div_ceil((uint64_t)w->jobs[i].n_row,
                                   (uint64_t)weights_chunk_rows(&w->jobs[i]));
    struct upload_piece *pieces = calloc((size_t)n_max + 1, sizeof(*pieces));
    for (int i = 0; i < w->n_job && pieces; i++) {
        const struct weights_job *job = &w->jobs[i];
        if (!job->weight)
            continue;
        const struct source_tensor *t =
            job->tensor_i >= 0 ? &w->source.tensors[job->tensor_i] : NULL;
        if (!t || t->fd < 0) {
            free(pieces);
            return NULL;
        }
        int64_t row_bytes = dtype_bytes(job->weight->dtype, job->n_col);
        int64_t chunk = weights_chunk_rows(job);
        for (int64_t row = 0; row < job->n_row; row += chunk)
            pieces[n++] = (struct upload_piece){
                .fd = t->fd,
                .offset = t->offset + (uint64_t)(row * row_bytes),
                .bytes = (size_t)(row_bytes * min_of(chunk, job->n_row - row)),
            };
    }
    *ret_n = n;
    return pieces;
}

/* Random bytes as long as the longest chunk. */
static int weights_make_dummy(struct weights *w)
{
    int64_t bytes = 0;
    for (int i = 0; i < w->n_job; i++)
        if (w->jobs[i].weight)
            bytes = max_of(bytes, weights_chunk_rows(&w->jobs[i]) *
                                      dtype_bytes(w->jobs[i].weight->dtype, w->jobs[i].n_col));
    return weights_source_dummy(&w->source, bytes);
}

/* Threads that bring the file's pages in, in the order in which they will be read. */
static void weights_prefetch(const struct weights *w, struct prefetch **ret)
{
    struct prefetch_range *ranges = calloc((size_t)w->n_job + 1, sizeof(*ranges));
    int n = 0;
    *ret = NULL;
    if (!ranges)
        return;
    for (int i = 0; i < w->n_job; i++)
        if (w->jobs[i].tensor_i >= 0) {
            const struct source_tensor *t = &w->source.tensors[w->jobs[i].tensor_i];
            ranges[n++] = (struct prefetch_range){ t->data, t->bytes };
        }
    if (n > 0)
        prefetch_start(ranges, n, ret);
    free(ranges);
}

/* Copied weights need no mapped pages any more; those that are used in place do. */
static void weights_drop_pages(const struct weights *w)
{
    const struct model *m = w->model;
    if (!m->tensors && !m->gguf_owned && !m->source.gguf_is_file)
        return;
    for (int i = 0; i < w->n_job; i++)
        if (w->jobs[i].tensor_i >= 0 && w->jobs[i].bytes > 0) {
            const struct source_tensor *t = &w->source.tensors[w->jobs[i].tensor_i];
            prefetch_drop(t->data, t->bytes);
        }
}

static int weights_run_jobs(struct weights *w, struct stream *st, model_progress_fn progress,
                            void *progress_arg)
{
    int rc = 0;
    for (int i = 0; i < w->n_job && rc == 0; i++)
        if (w->jobs[i].vector)
            rc = weights_load_vector(w, &w->jobs[i], st);
    for (int i = 0; i < w->n_job && rc == 0; i++)
        if (w->jobs[i].weight)
            rc = weights_load_matrix(w, &w->jobs[i], st, progress, progress_arg);
    int sync = w->model->backend->device->stream_sync(st);
    return rc < 0 ? rc : sync;
}

/*
 * Read by io_uring for a device apart, else paged in by threads ahead of the copies: so too where
 * the system refuses io_uring or has no more pinned memory, which costs time and nothing else.
 */
static int weights_run(struct weights *w, struct stream *st, model_progress_fn progress,
                       void *progress_arg)
{
    const struct model *m = w->model;
    struct prefetch *prefetch = NULL;
    int n = 0, rc = w->source.dummy ? weights_make_dummy(w) : 0;
    auto_free struct upload_piece *pieces =
        m->backend->device->is_apart && !w->source.dummy ? weights_pieces(w, &n) : NULL;
    if (rc == 0 && pieces)
        (void)upload_open(m->backend->device, m->dev, pieces, n, &w->upload);
    if (rc == 0 && !w->upload)
        weights_prefetch(w, &prefetch);
    if (rc == 0)
        rc = weights_run_jobs(w, st, progress, progress_arg);
    upload_close(w->upload);
    w->upload = NULL;
    prefetch_stop(prefetch);
    weights_drop_pages(w);
    return rc;
}

int weights_load(struct weights *w, struct stream *st, model_progress_fn progress,
                 void *progress_arg, struct format_error *err)
{
    if (w->status < 0)
        return w->status;
    if (w->source.dummy)
        weights_count_dummy(w);
    int rc = weights_check_used(w, err);
    if (rc == 0)
        rc = weights_place(w, err);
    if (rc < 0)
        return rc;
    rc = weights_run(w, st, progress, progress_arg);
    if (rc < 0)
        return format_fail(err, rc, "%s: loading the weights failed: %s", w->model->source.path,
                           strerror(-rc));
    return 0;
}

enum dtype weights_main_dtype(const struct weights *w)
{
    return w->source.main_dtype;
}

uint64_t weights_file_bytes(const struct weights *w)
{
    return w->source.bytes;
}

uint64_t weights_device_bytes(const struct weights *w)
{
    return (uint64_t)w->memory_bytes;
}

uint64_t weights_parameters(const struct weights *w)
{
    return w->source.n_parameter;
}
