/* Owns look-up in an open GGUF file: keys, typed values, tensors by name. Any thread; read only. */
#include "daemon/format/gguf.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "daemon/format/gguf_internal.h"

const char *gguf_path(const struct gguf *g)
{
    return g->path;
}

const void *gguf_part(const struct gguf *g, uint32_t part_i, size_t *ret_bytes)
{
    if (part_i > g->n_parts)
        return NULL;
    const struct gguf *part = part_i ? g->parts[part_i - 1] : g;
    *ret_bytes = part->bytes;
    return part->base;
}

int gguf_part_fd(const struct gguf *g, uint32_t part_i)
{
    if (part_i > g->n_parts)
        return -1;
    return part_i ? g->parts[part_i - 1]->fd : g->fd;
}

uint32_t gguf_tensor_count(const struct gguf *g)
{
    return g->n_tensor;
}

const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint32_t tensor_i)
{
    return tensor_i < g->n_tensor ? &g->tensors[tensor_i] : NULL;
}

const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name)
{
    uint32_t lo = 0, hi = g->n_tensor;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        int order = strcmp(name, g->by_name[mid]->name);
        if (order == 0)
            return g->by_name[mid];
        if (order < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

uint32_t gguf_kv_count(const struct gguf *g)
{
    return g->n_kv;
}

const struct gguf_kv *gguf_kv_at(const struct gguf *g, uint32_t kv_i)
{
    return kv_i < g->n_kv ? &g->kvs[kv_i] : NULL;
}

const struct gguf_kv *gguf_kv_find(const struct gguf *g, const char *key)
{
    size_t bytes = strlen(key);
    uint32_t lo = 0, hi = g->n_kv;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        struct gguf_text at = g->kvs[mid].key;
        int order = memcmp(key, at.data, min_of(bytes, at.bytes));
        if (order == 0)
            order = (bytes > at.bytes) - (bytes < at.bytes);
        if (order == 0)
            return &g->kvs[mid];
        if (order < 0)
            hi = mid;
        else
            lo = mid + 1;
    }
    return NULL;
}

#define LOAD_INTEGER(type)                                                                         \
    {                                                                                              \
        type value;                                                                                \
        memcpy(&value, data, sizeof(value));                                                       \
        *ret_negative = value < 0 ? (int64_t)value : 0;                                            \
        *ret_positive = value < 0 ? 0 : (uint64_t)value;                                           \
        return 0;                                                                                  \
    }
#define LOAD_UNSIGNED(type)                                                                        \
    {                                                                                              \
        type value;                                                                                \
        memcpy(&value, data, sizeof(value));                                                       \
        *ret_negative = 0;                                                                         \
        *ret_positive = value;                                                                     \
        return 0;                                                                                  \
    }

/* Any integer as one of two halves: a negative number, or one that is not. */
static int load_integer(enum gguf_value type, const uint8_t *data, int64_t *ret_negative,
                        uint64_t *ret_positive)
{
    switch (type) {
    case GGUF_U8:
        LOAD_UNSIGNED(uint8_t)
    case GGUF_U16:
        LOAD_UNSIGNED(uint16_t)
    case GGUF_U32:
        LOAD_UNSIGNED(uint32_t)
    case GGUF_U64:
        LOAD_UNSIGNED(uint64_t)
    case GGUF_I8:
        LOAD_INTEGER(int8_t)
    case GGUF_I16:
        LOAD_INTEGER(int16_t)
    case GGUF_I32:
        LOAD_INTEGER(int32_t)
    case GGUF_I64:
        LOAD_INTEGER(int64_t)
    default:
        return -EINVAL;
    }
}

static int load_u32(enum gguf_value type, const uint8_t *data, uint32_t *ret)
{
    int64_t negative;
    uint64_t positive;
    int error = load_integer(type, data, &negative, &positive);
    if (error)
        return error;
    if (negative < 0 || positive > UINT32_MAX)
        return -ERANGE;
    *ret = (uint32_t)positive;
    return 0;
}

static int load_i64(enum gguf_value type, const uint8_t *data, int64_t *ret)
{
    int64_t negative;
    uint64_t positive;
    int error = load_integer(type, data, &negative, &positive);
    if (error)
        return error;
    if (positive > INT64_MAX)
        return -ERANGE;
    *ret = negative < 0 ? negative : (int64_t)positive;
    return 0;
}

static int load_f32(enum gguf_value type, const uint8_t *data, float *ret)
{
    if (type == GGUF_F32) {
        memcpy(ret, data, sizeof(*ret));
        return 0;
    }
    if (type != GGUF_F64)
        return -EINVAL;
    double value;
    memcpy(&value, data, sizeof(value));
    if (isfinite(value) && fabs(value) > 3.4028234663852886e38)
        return -ERANGE;
    *ret = (float)value;
    return 0;
}

int gguf_u32(const struct gguf *g, const char *key, uint32_t *ret)
{
    const struct gguf_kv *kv = gguf_kv_find(g, key);
    return kv ? load_u32(kv->type, kv->data, ret) : -ENOENT;
}

int gguf_i64(const struct gguf *g, const char *key, int64_t *ret)
{
    const struct gguf_kv *kv = gguf_kv_find(g, key);
    return kv ? load_i64(kv->type, kv->data, ret) : -ENOENT;
}

int gguf_f32(const struct gguf *g, const char *key, float *ret)
{
    const struct gguf_kv *kv = gguf_kv_find(g, key);
    return kv ? load_f32(kv->type, kv->data, ret) : -ENOENT;
}

int gguf_bool(const struct gguf *g, const char *key, bool *ret)
{
    const struct gguf_kv *kv = gguf_kv_find(g, key);
    if (!kv)
        return -ENOENT;
    if (kv->type != GGUF_BOOL)
        return -EINVAL;
    *ret = kv->data[0] != 0;
    return 0;
}

int gguf_string(const struct gguf *g, const char *key, struct gguf_text *ret)
{
    const struct gguf_kv *kv = gguf_kv_find(g, key);
    if (!kv)
        return -ENOENT;
    if (kv->type != GGUF_STRING)
        return -EINVAL;
    *ret = (struct gguf_text){ (const char *)kv->data + 8, (size_t)gguf_load_u64(kv->data) };
    return 0;
}

int gguf_array(const struct gguf *g, const char *key, struct gguf_array *ret)
{
    const struct gguf_kv *kv = gguf_kv_find(g, key);
    if (!kv)
        return -ENOENT;
    if (kv->type != GGUF_ARRAY)
        return -EINVAL;
    *ret = (struct gguf_array){ kv->elem, kv->n, kv->data, kv->data };
    return 0;
}

int gguf_array_i64(const struct gguf_array *array, uint64_t i, int64_t *ret)
{
    if (i >= array->n)
        return -ENOENT;
    return load_i64(array->elem, array->data + i * gguf_value_bytes(array->elem), ret);
}

int gguf_array_u32(const struct gguf_array *array, uint64_t i, uint32_t *ret)
{
    if (i >= array->n)
        return -ENOENT;
    return load_u32(array->elem, array->data + i * gguf_value_bytes(array->elem), ret);
}

int gguf_array_f32(const struct gguf_array *array, uint64_t i, float *ret)
{
    if (i >= array->n)
        return -ENOENT;
    return load_f32(array->elem, array->data + i * gguf_value_bytes(array->elem), ret);
}

int gguf_array_next_string(struct gguf_array *array, struct gguf_text *ret)
{
    if (array->elem != GGUF_STRING)
        return -EINVAL;
    if (array->n == 0)
        return -ENOENT;
    *ret = (struct gguf_text){ (const char *)array->next + 8, (size_t)gguf_load_u64(array->next) };
    array->next += 8 + ret->bytes;
    array->n--;
    return 0;
}

static int need_failed(const struct gguf *g, const char *key, const char *expected, int error,
                       struct format_error *err)
{
    const struct gguf_kv *kv = gguf_kv_find(g, key);
    if (!kv)
        return format_fail(err, error, "%s: key \"%s\" (%s) is missing", g->path, key, expected);
    if (error == -ERANGE)
        return format_fail(err, error, "%s: key \"%s\": the value does not fit %s", g->path, key,
                           expected);
    return format_fail(err, error, "%s: key \"%s\" is of type %s%s%s, expected %s", g->path, key,
                       gguf_value_name(kv->type), kv->type == GGUF_ARRAY ? " of " : "",
                       kv->type == GGUF_ARRAY ? gguf_value_name(kv->elem) : "", expected);
}

int gguf_need_u32(const struct gguf *g, const char *key, uint32_t *ret, struct format_error *err)
{
    int error = gguf_u32(g, key, ret);
    return error ? need_failed(g, key, "u32", error, err) : 0;
}

int gguf_need_f32(const struct gguf *g, const char *key, float *ret, struct format_error *err)
{
    int error = gguf_f32(g, key, ret);
    return error ? need_failed(g, key, "f32", error, err) : 0;
}

int gguf_need_string(const struct gguf *g, const char *key, struct gguf_text *ret,
                     struct format_error *err)
{
    int error = gguf_string(g, key, ret);
    return error ? need_failed(g, key, "string", error, err) : 0;
}

int gguf_need_array(const struct gguf *g, const char *key, enum gguf_value elem,
                    struct gguf_array *ret, struct format_error *err)
{
    struct gguf_array array;
    int error = gguf_array(g, key, &array);
    if (!error) {
        bool is_integer = array.elem != GGUF_STRING && array.elem != GGUF_BOOL &&
                          array.elem != GGUF_F32 && array.elem != GGUF_F64;
        if (elem == GGUF_U32 ? !is_integer : array.elem != elem)
            error = -EINVAL;
    }
    if (error)
        return need_failed(g, key,
                           elem == GGUF_STRING ? "an array of strings"
                           : elem == GGUF_F32  ? "an array of f32"
                                               : "an array of integers",
                           error, err);
    *ret = array;
    return 0;
}
