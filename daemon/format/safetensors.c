/*
 * Owns opening and checking of safetensors files. Start-up only; nothing changes afterwards.
 * Invariant of an open checkpoint: names are unique and sorted, every tensor's bytes lie in its
 * shard's mapping, as many as dtype and shape say.
 *
 *   N u64 | N bytes of JSON, {name: {dtype, shape, data_offsets: [begin, end)}} | data
 */
#include "daemon/format/safetensors.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bits.h"
#include "base/compiler.h"
#include "daemon/format/format_file.h"
#include "daemon/format/hfjson.h"

#define HEADER_BYTES_MAX UINT64_C(100000000)
enum { SHARDS_MAX = 4096 };

struct shard {
    char *path;
    const uint8_t *base;
    size_t bytes;
    bool mapped;
    int fd;         /* of the mapped file; -1 = none */
    json_t *header; /* keeps the names alive */
    uint64_t data_at;
};

struct safetensors {
    struct shard *shards;
    uint32_t n_shards;
    struct safetensors_tensor *tensors; /* sorted by name */
    uint32_t n;
};

static const struct {
    const char *name;
    uint32_t bits;
} dtypes[SAFETENSORS_DTYPE_COUNT] = {
    [SAFETENSORS_BOOL] = { "BOOL", 8 },
    [SAFETENSORS_F4] = { "F4", 4 },
    [SAFETENSORS_F6_E2M3] = { "F6_E2M3", 6 },
    [SAFETENSORS_F6_E3M2] = { "F6_E3M2", 6 },
    [SAFETENSORS_U8] = { "U8", 8 },
    [SAFETENSORS_I8] = { "I8", 8 },
    [SAFETENSORS_F8_E5M2] = { "F8_E5M2", 8 },
    [SAFETENSORS_F8_E4M3] = { "F8_E4M3", 8 },
    [SAFETENSORS_F8_E8M0] = { "F8_E8M0", 8 },
    [SAFETENSORS_F8_E4M3FNUZ] = { "F8_E4M3FNUZ", 8 },
    [SAFETENSORS_F8_E5M2FNUZ] = { "F8_E5M2FNUZ", 8 },
    [SAFETENSORS_I16] = { "I16", 16 },
    [SAFETENSORS_U16] = { "U16", 16 },
    [SAFETENSORS_F16] = { "F16", 16 },
    [SAFETENSORS_BF16] = { "BF16", 16 },
    [SAFETENSORS_I32] = { "I32", 32 },
    [SAFETENSORS_U32] = { "U32", 32 },
    [SAFETENSORS_F32] = { "F32", 32 },
    [SAFETENSORS_C64] = { "C64", 64 },
    [SAFETENSORS_F64] = { "F64", 64 },
    [SAFETENSORS_I64] = { "I64", 64 },
    [SAFETENSORS_U64] = { "U64", 64 },
};

const char *safetensors_dtype_name(enum safetensors_dtype dtype)
{
    return (unsigned)dtype < SAFETENSORS_DTYPE_COUNT ? dtypes[dtype].name : "unknown";
}

static int read_header(struct shard *f, struct format_error *err)
{
    uint64_t n;
    json_error_t why;
    if (f->bytes < sizeof(n))
        return format_fail(err, -ENODATA,
                           "%s: %zu bytes are no safetensors file: cut off; fetch it again",
                           f->path, f->bytes);
    if (format_refuse_pointer(err, f->path, f->base, f->bytes))
        return -EINVAL;
    memcpy(&n, f->base, sizeof(n));
    if (n > HEADER_BYTES_MAX)
        return format_fail(err, -EINVAL,
                           "%s: the header says that it is %" PRIu64 " bytes long, at most %" PRIu64
                           " are allowed: not a safetensors file",
                           f->path, n, HEADER_BYTES_MAX);
    if (!span_inside(sizeof(n), n, f->bytes))
        return format_fail(err, -ENODATA,
                           "%s: the header ends at byte %" PRIu64 ", the file has %zu: cut off; "
                           "fetch it again",
                           f->path, n + sizeof(n), f->bytes);
    const char *text = (const char *)f->base + sizeof(n);
    if (n == 0 || text[0] != '{')
        return format_fail(err, -EINVAL,
                           "%s: the header does not begin with '{': not a safetensors file",
                           f->path);
    f->header = json_loadb(text, n, JSON_REJECT_DUPLICATES, &why);
    if (!f->header)
        return format_fail(err, -EINVAL, "%s: header, byte %d: %s", f->path, why.position,
                           why.text);
    f->data_at = sizeof(n) + n;
    return 0;
}

static int read_dtype(const struct shard *f, const char *name, const json_t *info,
                      enum safetensors_dtype *ret, struct format_error *err)
{
    const char *dtype = json_string_value(json_object_get(info, "dtype"));
    if (!dtype)
        return format_fail(err, -EINVAL, "%s: tensor \"%s\" has no dtype", f->path, name);
    for (int i = 0; i < SAFETENSORS_DTYPE_COUNT; i++) {
        if (strcmp(dtypes[i].name, dtype) == 0) {
            *ret = (enum safetensors_dtype)i;
            return 0;
        }
    }
    return format_fail(err, -ENOTSUP, "%s: tensor \"%s\" has the unknown dtype \"%.32s\"", f->path,
                       name, dtype);
}

static int read_offset(const json_t *pair, size_t i, uint64_t *ret)
{
    const json_t *value = json_array_get(pair, i);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return -EINVAL;
    *ret = (uint64_t)json_integer_value(value);
    return 0;
}

static int read_shape(const struct shard *f, const json_t *info, struct safetensors_tensor *t,
                      struct format_error *err)
{
    const json_t *shape = json_object_get(info, "shape");
    uint64_t elems = 1, bits;
    if (!json_is_array(shape))
        return format_fail(err, -EINVAL, "%s: tensor \"%s\" has no shape", f->path, t->name);
    if (json_array_size(shape) > SAFETENSORS_DIMS_MAX)
        return format_fail(err, -ENOTSUP,
                           "%s: tensor \"%s\" has %zu dimensions, at most %d are read", f->path,
                           t->name, json_array_size(shape), SAFETENSORS_DIMS_MAX);
    t->n_dims = (uint32_t)json_array_size(shape);
    for (uint32_t i = 0; i < SAFETENSORS_DIMS_MAX; i++) {
        t->dims[i] = 1;
        if (i < t->n_dims && read_offset(shape, i, &t->dims[i]))
            return format_fail(err, -EINVAL, "%s: tensor \"%s\": dimension %u is no size", f->path,
                               t->name, i);
        if (mul_overflows(elems, t->dims[i], &elems))
            return format_fail(err, -EINVAL, "%s: tensor \"%s\" is too large", f->path, t->name);
    }
    if (mul_overflows(elems, (uint64_t)dtypes[t->dtype].bits, &bits) || bits % 8)
        return format_fail(err, -EINVAL,
                           "%s: tensor \"%s\" is too large, or no whole number of bytes", f->path,
                           t->name);
    t->bytes = bits / 8;
    return 0;
}

static int read_tensor(const struct shard *f, uint32_t shard, const char *name, const json_t *info,
                       struct safetensors_tensor *t, struct format_error *err)
{
    uint64_t begin, end, data_bytes = f->bytes - f->data_at;
    t->name = name;
    t->shard = shard;
    int error = read_dtype(f, name, info, &t->dtype, err);
    if (error || (error = read_shape(f, info, t, err)))
        return error;
    const json_t *pair = json_object_get(info, "data_offsets");
    if (json_array_size(pair) != 2 || read_offset(pair, 0, &begin) || read_offset(pair, 1, &end) ||
        begin > end)
        return format_fail(err, -EINVAL, "%s: tensor \"%s\" has no sound data_offsets", f->path,
                           name);
    if (end - begin != t->bytes)
        return format_fail(err, -EINVAL,
                           "%s: tensor \"%s\" has %" PRIu64
                           " bytes of data, its dtype and shape need "
                           "%" PRIu64,
                           f->path, name, end - begin, t->bytes);
    if (end > data_bytes)
        return format_fail(err, -ENODATA,
                           "%s: tensor \"%s\" ends at byte %" PRIu64
                           ", the file has %zu: the file is "
                           "cut off; fetch it again",
                           f->path, name, f->data_at + end, f->bytes);
    t->offset = f->data_at + begin;
    t->data = f->base + t->offset;
    return 0;
}

static int compare_offset(const void *a, const void *b)
{
    const struct safetensors_tensor *x = a, *y = b;
    if (x->offset != y->offset)
        return x->offset < y->offset ? -1 : 1;
    return (x->bytes > y->bytes) - (x->bytes < y->bytes);
}

static int compare_name(const void *a, const void *b)
{
    return strcmp(((const struct safetensors_tensor *)a)->name,
                  ((const struct safetensors_tensor *)b)->name);
}

/* The tensors of one file must cover its data without hole or overlap. */
static int check_cover(const struct shard *f, struct safetensors_tensor *tensors, uint32_t n,
                       struct format_error *err)
{
    uint64_t at = f->data_at;
    qsort(tensors, n, sizeof(*tensors), compare_offset);
    for (uint32_t i = 0; i < n; i++) {
        if (tensors[i].offset != at)
            return format_fail(err, -EINVAL,
                               "%s: tensor \"%s\" begins at byte %" PRIu64 ", expected %" PRIu64
                               ": a hole or an overlap",
                               f->path, tensors[i].name, tensors[i].offset, at);
        at += tensors[i].bytes;
    }
    if (at != f->bytes)
        return format_fail(err, -EINVAL, "%s: %" PRIu64 " bytes follow the last tensor", f->path,
                           f->bytes - at);
    return 0;
}

/* Appends the tensors of one shard; unsorted among the shards. */
static int read_tensors(struct safetensors *s, uint32_t shard, struct format_error *err)
{
    struct shard *f = &s->shards[shard];
    const char *name;
    json_t *info;
    size_t n = json_object_size(f->header);
    struct safetensors_tensor *grown = realloc(s->tensors, (s->n + n + 1) * sizeof(*grown));
    if (!grown)
        return format_fail(err, -ENOMEM, "%s: no memory for %zu tensors", f->path, n);
    s->tensors = grown;
    uint32_t first = s->n;
    json_object_foreach(f->header, name, info)
    {
        if (strcmp(name, "__metadata__") == 0) {
            const char *key;
            json_t *value;
            bool sound = json_is_object(info);
            json_object_foreach(info, key, value) sound = sound && json_is_string(value);
            if (!sound)
                return format_fail(err, -EINVAL, "%s: __metadata__ must map strings to strings",
                                   f->path);
            continue;
        }
        s->tensors[s->n] = (struct safetensors_tensor){ 0 };
        int error = read_tensor(f, shard, name, info, &s->tensors[s->n], err);
        if (error)
            return error;
        s->n++;
    }
    return check_cover(f, s->tensors + first, s->n - first, err);
}

static struct shard *new_shard(struct safetensors *s, const char *path)
{
    struct shard *grown = realloc(s->shards, (s->n_shards + 1) * sizeof(*grown));
    if (!grown)
        return NULL;
    s->shards = grown;
    struct shard *f = &s->shards[s->n_shards];
    *f = (struct shard){ .path = strdup(path), .fd = -1 };
    if (!f->path)
        return NULL;
    s->n_shards++;
    return f;
}

static int open_file(struct safetensors *s, const char *path, struct format_error *err)
{
    struct shard *f = new_shard(s, path);
    if (!f)
        return format_fail(err, -ENOMEM, "%s: no memory", path);
    const void *base;
    int error = format_map_file(path, &f->fd, &base, &f->bytes, err);
    if (error)
        return error;
    f->base = base;
    f->mapped = true;
    error = read_header(f, err);
    return error ? error : read_tensors(s, s->n_shards - 1, err);
}

static int find_shard(const struct safetensors *s, const char *path)
{
    for (uint32_t i = 0; i < s->n_shards; i++)
        if (strcmp(s->shards[i].path, path) == 0)
            return (int)i;
    return -1;
}

/* The index keeps what it maps: a tensor that is in a shard but not in the map does not count. */
static int keep_mapped(struct safetensors *s, const json_t *map, const struct hfjson *index,
                       const char *folder, struct format_error *err)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < s->n; i++) {
        const char *file = json_string_value(json_object_get(map, s->tensors[i].name));
        const char *path = s->shards[s->tensors[i].shard].path + strlen(folder) + 1;
        if (file && strcmp(file, path) == 0)
            s->tensors[kept++] = s->tensors[i];
    }
    s->n = kept;
    if (kept == json_object_size(map))
        return 0;
    qsort(s->tensors, s->n, sizeof(*s->tensors), compare_name);
    const char *name;
    json_t *value;
    json_object_foreach((json_t *)(uintptr_t)map, name, value)
    {
        if (!safetensors_find(s, name))
            return format_fail(err, -EINVAL, "%s: tensor \"%s\" is not in %s/%s",
                               hfjson_path(index), name, folder, json_string_value(value));
    }
    return format_fail(err, -EINVAL, "%s: the shards do not hold what it lists",
                       hfjson_path(index));
}

static int open_index(struct safetensors *s, const char *folder, const char *name,
                      struct format_error *err)
{
    auto_call(hfjson_close) struct hfjson *index = NULL;
    int error = hfjson_open(folder, name, &index, err);
    if (error)
        return error;
    const json_t *map = hfjson_node(index, "weight_map");
    const char *tensor;
    json_t *value;
    if (!json_is_object(map) || json_object_size(map) == 0)
        return format_fail(err, -EINVAL, "%s: no \"weight_map\"", hfjson_path(index));
    json_object_foreach((json_t *)(uintptr_t)map, tensor, value)
    {
        auto_free char *path = NULL;
        const char *file = json_string_value(value);
        if (!file || !*file || *file == '.' || strchr(file, '/'))
            return format_fail(err, -EINVAL, "%s: tensor \"%s\": \"%s\" is no file name",
                               hfjson_path(index), tensor, file ? file : "(no string)");
        if (asprintf(&path, "%s/%s", folder, file) < 0) {
            path = NULL;
            return format_fail(err, -ENOMEM, "%s: no memory", file);
        }
        if (find_shard(s, path) >= 0)
            continue;
        if (s->n_shards == SHARDS_MAX)
            return format_fail(err, -EINVAL, "%s: more than %d shards", hfjson_path(index),
                               SHARDS_MAX);
        error = open_file(s, path, err);
        if (error == -ENOENT)
            return format_fail(err, error, "%s: missing, and %s lists it: fetch it again", path,
                               hfjson_path(index));
        if (error)
            return error;
    }
    return keep_mapped(s, map, index, folder, err);
}

static int finish(struct safetensors *s, struct format_error *err)
{
    qsort(s->tensors, s->n, sizeof(*s->tensors), compare_name);
    for (uint32_t i = 1; i < s->n; i++)
        if (compare_name(&s->tensors[i - 1], &s->tensors[i]) == 0)
            return format_fail(err, -EINVAL, "%s: tensor \"%s\" is there twice",
                               s->shards[s->tensors[i].shard].path, s->tensors[i].name);
    return 0;
}

static bool ends_with(const char *text, const char *tail)
{
    size_t n = strlen(text), m = strlen(tail);
    return n >= m && strcmp(text + n - m, tail) == 0;
}

static bool folder_has(const char *folder, const char *name)
{
    auto_free char *path = NULL;
    if (asprintf(&path, "%s/%s", folder, name) < 0) {
        path = NULL;
        return false;
    }
    return access(path, F_OK) == 0;
}

/* One file, or else shards by their index; what else a folder may hold is named. */
static int open_folder(struct safetensors *s, const char *folder, struct format_error *err)
{
    static const char one[] = "model.safetensors", index[] = "model.safetensors.index.json";
    static const char *const others[] = { "pytorch_model.bin",
                                          "pytorch_model.bin.index.json",
                                          "consolidated.safetensors",
                                          "consolidated.00.pth",
                                          "tf_model.h5",
                                          "flax_model.msgpack" };
    auto_free char *path = NULL;
    if (folder_has(folder, one)) {
        if (asprintf(&path, "%s/%s", folder, one) < 0) {
            path = NULL;
            return format_fail(err, -ENOMEM, "%s: no memory", folder);
        }
        return open_file(s, path, err);
    }
    if (folder_has(folder, index))
        return open_index(s, folder, index, err);
    const char *other = NULL;
    for (size_t i = 0; i < ARRAY_SIZE(others) && !other; i++)
        other = folder_has(folder, others[i]) ? others[i] : NULL;
    return format_fail(err, -ENOENT, "%s: neither %s nor %s is there%s%s%s", folder, one, index,
                       other ? "; " : ": fetch the weights", other ? other : "",
                       other ? " is not read: convert it" : "");
}

static int open_path(struct safetensors *s, const char *path, struct format_error *err)
{
    struct stat st;
    auto_free char *folder = NULL;
    if (stat(path, &st) < 0)
        return format_fail(err, -errno, "%s: %s", path, strerror(errno));
    if (S_ISDIR(st.st_mode))
        return open_folder(s, path, err);
    if (!ends_with(path, ".json"))
        return open_file(s, path, err);
    const char *slash = strrchr(path, '/');
    folder = slash ? strndup(path, (size_t)(slash - path)) : strdup(".");
    if (!folder)
        return format_fail(err, -ENOMEM, "%s: no memory", path);
    return open_index(s, *folder ? folder : "/", slash ? slash + 1 : path, err);
}

int safetensors_open(const char *path, struct safetensors **ret, struct format_error *err)
{
    auto_call(safetensors_close) struct safetensors *s = calloc(1, sizeof(*s));
    if (!s)
        return format_fail(err, -ENOMEM, "%s: no memory", path);
    int error = open_path(s, path, err);
    if (error || (error = finish(s, err)))
        return error;
    *ret = steal_ptr(&s);
    return 0;
}

int safetensors_open_memory(const void *data, size_t bytes, const char *name,
                            struct safetensors **ret, struct format_error *err)
{
    auto_call(safetensors_close) struct safetensors *s = calloc(1, sizeof(*s));
    struct shard *f = s ? new_shard(s, name) : NULL;
    if (!f)
        return format_fail(err, -ENOMEM, "%s: no memory", name);
    f->base = data;
    f->bytes = bytes;
    int error = read_header(f, err);
    if (error || (error = read_tensors(s, 0, err)) || (error = finish(s, err)))
        return error;
    *ret = steal_ptr(&s);
    return 0;
}

void safetensors_close(struct safetensors *s)
{
    if (!s)
        return;
    for (uint32_t i = 0; i < s->n_shards; i++) {
        if (s->shards[i].mapped)
            munmap((void *)(uintptr_t)s->shards[i].base, s->shards[i].bytes);
        if (s->shards[i].fd >= 0)
            close(s->shards[i].fd);
        json_decref(s->shards[i].header);
        free(s->shards[i].path);
    }
    free(s->shards);
    free(s->tensors);
    free(s);
}

uint32_t safetensors_count(const struct safetensors *s)
{
    return s->n;
}

const struct safetensors_tensor *safetensors_at(const struct safetensors *s, uint32_t tensor_i)
{
    return tensor_i < s->n ? &s->tensors[tensor_i] : NULL;
}

const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name)
{
    const struct safetensors_tensor key = { .name = name };
    return s->n ? bsearch(&key, s->tensors, s->n, sizeof(key), compare_name) : NULL;
}

uint32_t safetensors_shard_count(const struct safetensors *s)
{
    return s->n_shards;
}

const char *safetensors_shard(const struct safetensors *s, uint32_t shard, const void **ret_base,
                              size_t *ret_bytes)
{
    *ret_base = s->shards[shard].base;
    *ret_bytes = s->shards[shard].bytes;
    return s->shards[shard].path;
}

int safetensors_shard_fd(const struct safetensors *s, uint32_t shard)
{
    return s->shards[shard].fd;
}
