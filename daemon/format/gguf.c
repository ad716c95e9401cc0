/*
 * Owns opening and checking of GGUF files. Runs at start-up on any thread; after gguf_open nothing
 * changes. Invariants of an open file: every pointer in kvs and tensors lies in the mapping, with
 * all its bytes; keys and names are unique, printable ASCII and sorted for look-up.
 *
 *   magic u32 | version u32 | n_tensor u64 | n_kv u64 | kv ... | tensor info ... | pad | data
 *   kv: key string | type u32 | value      info: name | n_dims u32 | dims u64.. | type u32 | offset
 * u64
 *
 * Sizes stay u64 from end to end; nothing is allocated before its count was held against the bytes
 * that are left in the file.
 */
#include "daemon/format/gguf.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bits.h"
#include "daemon/format/format_file.h"
#include "daemon/format/gguf_internal.h"

#define MAGIC             0x46554747u
#define KEY_BYTES_MAX     65535u
#define LENGTH_MAX        (UINT64_C(1) << 30) /* of a string or an array, as in the reference */
#define ALIGNMENT_MAX     (UINT64_C(1) << 20)
#define ALIGNMENT_DEFAULT 32u
enum { KV_BYTES_MIN = 8 + 1 + 4 + 1, INFO_BYTES_MIN = 8 + 1 + 4 + 4 + 8 };

struct cursor {
    const struct gguf *g;
    uint64_t at;
    struct format_error *err;
};

static const struct {
    const char *name;
    uint16_t elems, bytes; /* 0: the layout is not known here */
} dtypes[GGUF_TENSOR_COUNT] = {
    [0] = { "F32", 1, 4 },         [1] = { "F16", 1, 2 },         [2] = { "Q4_0", 32, 18 },
    [3] = { "Q4_1", 32, 20 },      [6] = { "Q5_0", 32, 22 },      [7] = { "Q5_1", 32, 24 },
    [8] = { "Q8_0", 32, 34 },      [9] = { "Q8_1", 32, 36 },      [10] = { "Q2_K", 256, 84 },
    [11] = { "Q3_K", 256, 110 },   [12] = { "Q4_K", 256, 144 },   [13] = { "Q5_K", 256, 176 },
    [14] = { "Q6_K", 256, 210 },   [15] = { "Q8_K", 256, 292 },   [16] = { "IQ2_XXS", 256, 66 },
    [17] = { "IQ2_XS", 256, 74 },  [18] = { "IQ3_XXS", 256, 98 }, [19] = { "IQ1_S", 256, 50 },
    [20] = { "IQ4_NL", 32, 18 },   [21] = { "IQ3_S", 256, 110 },  [22] = { "IQ2_S", 256, 82 },
    [23] = { "IQ4_XS", 256, 136 }, [24] = { "I8", 1, 1 },         [25] = { "I16", 1, 2 },
    [26] = { "I32", 1, 4 },        [27] = { "I64", 1, 8 },        [28] = { "F64", 1, 8 },
    [29] = { "IQ1_M", 256, 56 },   [30] = { "BF16", 1, 2 },       [34] = { "TQ1_0", 256, 54 },
    [35] = { "TQ2_0", 256, 66 },   [39] = { "MXFP4", 32, 17 },    [40] = { "NVFP4", 64, 36 },
    [41] = { "Q1_0", 0, 0 },       [42] = { "Q2_0", 0, 0 },
};

const char *gguf_dtype_name(enum gguf_dtype dtype)
{
    return (unsigned)dtype < GGUF_TENSOR_COUNT && dtypes[dtype].name ? dtypes[dtype].name
                                                                     : "unknown";
}

bool gguf_dtype_block(enum gguf_dtype dtype, uint32_t *ret_elems, uint32_t *ret_bytes)
{
    if ((unsigned)dtype >= GGUF_TENSOR_COUNT || dtypes[dtype].elems == 0)
        return false;
    *ret_elems = dtypes[dtype].elems;
    *ret_bytes = dtypes[dtype].bytes;
    return true;
}

uint32_t gguf_value_bytes(enum gguf_value type)
{
    static const uint8_t bytes[GGUF_VALUE_COUNT] = {
        [GGUF_U8] = 1,  [GGUF_I8] = 1,  [GGUF_U16] = 2, [GGUF_I16] = 2,
        [GGUF_U32] = 4, [GGUF_I32] = 4, [GGUF_F32] = 4, [GGUF_BOOL] = 1,
        [GGUF_U64] = 8, [GGUF_I64] = 8, [GGUF_F64] = 8,
    };
    return (unsigned)type < GGUF_VALUE_COUNT ? bytes[type] : 0;
}

const char *gguf_value_name(enum gguf_value type)
{
    static const char *const names[GGUF_VALUE_COUNT] = {
        "u8",   "i8",     "u16",   "i16", "u32", "i32", "f32",
        "bool", "string", "array", "u64", "i64", "f64",
    };
    return (unsigned)type < GGUF_VALUE_COUNT ? names[type] : "unknown";
}

static int cut_off(struct cursor *c, uint64_t want, const char *what)
{
    return format_fail(c->err, -ENODATA,
                       "%s: %s at byte %" PRIu64 " needs %" PRIu64
                       " bytes, the file has %zu in all: the "
                       "file is cut off or damaged; fetch it again",
                       c->g->path, what, c->at, want, c->g->bytes);
}

static int take(struct cursor *c, void *ret, size_t bytes, const char *what)
{
    if (!span_inside(c->at, bytes, c->g->bytes))
        return cut_off(c, bytes, what);
    memcpy(ret, c->g->base + c->at, bytes);
    c->at += bytes;
    return 0;
}

static int take_string(struct cursor *c, struct gguf_text *ret, const char *what)
{
    uint64_t bytes = 0;
    int error = take(c, &bytes, sizeof(bytes), what);
    if (error)
        return error;
    if (bytes > LENGTH_MAX)
        return format_fail(c->err, -EINVAL,
                           "%s: %s at byte %" PRIu64 " says that it is %" PRIu64
                           " bytes long, at most %" PRIu64 " are allowed: the file is damaged",
                           c->g->path, what, c->at - 8, bytes, LENGTH_MAX);
    if (!span_inside(c->at, bytes, c->g->bytes))
        return cut_off(c, bytes, what);
    *ret = (struct gguf_text){ (const char *)c->g->base + c->at, (size_t)bytes };
    c->at += bytes;
    return 0;
}

/* Keys and tensor names: printable ASCII of a bounded length, so that messages may show them. */
static int take_name(struct cursor *c, size_t bytes_max, struct gguf_text *ret, const char *what)
{
    uint64_t at = c->at;
    int error = take_string(c, ret, what);
    if (error)
        return error;
    if (ret->bytes == 0 || ret->bytes > bytes_max)
        return format_fail(c->err, -EINVAL,
                           "%s: %s at byte %" PRIu64 " has %zu bytes, expected 1 to %zu",
                           c->g->path, what, at, ret->bytes, bytes_max);
    for (size_t i = 0; i < ret->bytes; i++)
        if (ret->data[i] < 0x20 || ret->data[i] > 0x7e)
            return format_fail(c->err, -EINVAL, "%s: %s at byte %" PRIu64 " is not printable ASCII",
                               c->g->path, what, at);
    return 0;
}

static int take_values(struct cursor *c, struct gguf_kv *kv)
{
    uint64_t bytes = 0;
    if (kv->elem == GGUF_STRING) {
        struct gguf_text text;
        for (uint64_t i = 0; i < kv->n; i++) {
            int error = take_string(c, &text, "a string value");
            if (error)
                return error;
        }
        return 0;
    }
    if (mul_overflows(kv->n, (uint64_t)gguf_value_bytes(kv->elem), &bytes) ||
        !span_inside(c->at, bytes, c->g->bytes))
        return cut_off(c, kv->n, "a metadata value");
    if (kv->elem == GGUF_BOOL)
        for (uint64_t i = 0; i < kv->n; i++)
            if (kv->data[i] > 1)
                return format_fail(c->err, -EINVAL,
                                   "%s: key \"%.*s\": a bool is %u, expected 0 or 1", c->g->path,
                                   (int)min_of(kv->key.bytes, 128), kv->key.data, kv->data[i]);
    c->at += bytes;
    return 0;
}

static int take_kv(struct cursor *c, struct gguf_kv *kv)
{
    uint32_t type = 0;
    int error = take_name(c, KEY_BYTES_MAX, &kv->key, "a metadata key");
    if (error || (error = take(c, &type, sizeof(type), "a metadata type")))
        return error;
    int key_bytes = (int)min_of(kv->key.bytes, 128);
    if (type >= GGUF_VALUE_COUNT)
        return format_fail(c->err, -EINVAL, "%s: key \"%.*s\" has type %u, the highest known is %d",
                           c->g->path, key_bytes, kv->key.data, type, GGUF_VALUE_COUNT - 1);
    kv->type = kv->elem = (enum gguf_value)type;
    kv->n = 1;
    if (type == GGUF_ARRAY) {
        uint32_t elem = 0;
        if ((error = take(c, &elem, sizeof(elem), "an array type")) ||
            (error = take(c, &kv->n, sizeof(kv->n), "an array length")))
            return error;
        if (elem >= GGUF_VALUE_COUNT || elem == GGUF_ARRAY)
            return format_fail(c->err, -EINVAL, "%s: key \"%.*s\" is an array of type %u (%s)",
                               c->g->path, key_bytes, kv->key.data, elem,
                               elem == GGUF_ARRAY ? "nested arrays are not read" : "unknown");
        if (kv->n > LENGTH_MAX)
            return format_fail(c->err, -EINVAL,
                               "%s: key \"%.*s\" has %" PRIu64 " elements, at most %" PRIu64
                               " are allowed",
                               c->g->path, key_bytes, kv->key.data, kv->n, LENGTH_MAX);
        kv->elem = (enum gguf_value)elem;
    }
    kv->data = c->g->base + c->at;
    return take_values(c, kv);
}

static int compare_text(struct gguf_text a, struct gguf_text b)
{
    int order = memcmp(a.data, b.data, min_of(a.bytes, b.bytes));
    return order ? order : (a.bytes > b.bytes) - (a.bytes < b.bytes);
}

static int compare_kv(const void *a, const void *b)
{
    return compare_text(((const struct gguf_kv *)a)->key, ((const struct gguf_kv *)b)->key);
}

static int compare_tensor(const void *a, const void *b)
{
    return strcmp((*(const struct gguf_tensor *const *)a)->name,
                  (*(const struct gguf_tensor *const *)b)->name);
}

static int read_kvs(struct cursor *c, struct gguf *g)
{
    g->kvs = calloc(max_of(g->n_kv, 1u), sizeof(*g->kvs));
    if (!g->kvs)
        return format_fail(c->err, -ENOMEM, "%s: no memory for %u keys", g->path, g->n_kv);
    for (uint32_t i = 0; i < g->n_kv; i++) {
        int error = take_kv(c, &g->kvs[i]);
        if (error)
            return error;
    }
    qsort(g->kvs, g->n_kv, sizeof(*g->kvs), compare_kv);
    for (uint32_t i = 1; i < g->n_kv; i++)
        if (compare_kv(&g->kvs[i - 1], &g->kvs[i]) == 0)
            return format_fail(c->err, -EINVAL, "%s: key \"%.*s\" is there twice", g->path,
                               (int)min_of(g->kvs[i].key.bytes, 128), g->kvs[i].key.data);
    return 0;
}

static int tensor_bytes(struct cursor *c, struct gguf_tensor *t)
{
    uint32_t block_elems, block_bytes;
    uint64_t elems = 1;
    if ((unsigned)t->dtype >= GGUF_TENSOR_COUNT || !dtypes[t->dtype].name)
        return format_fail(c->err, -EINVAL,
                           "%s: tensor \"%s\" has type %u, which no GGUF file may use", c->g->path,
                           t->name, t->dtype);
    if (!gguf_dtype_block(t->dtype, &block_elems, &block_bytes))
        return format_fail(c->err, -ENOTSUP,
                           "%s: tensor \"%s\" has type %s, which is not supported", c->g->path,
                           t->name, gguf_dtype_name(t->dtype));
    for (uint32_t i = 0; i < GGUF_DIMS_MAX; i++) {
        if (t->dims[i] == 0 || mul_overflows(elems, t->dims[i], &elems) || elems > INT64_MAX)
            return format_fail(c->err, -EINVAL,
                               "%s: tensor \"%s\" has the shape [%" PRIu64 ", %" PRIu64 ", %" PRIu64
                               ", %" PRIu64 "]: zero or too large",
                               c->g->path, t->name, t->dims[0], t->dims[1], t->dims[2], t->dims[3]);
    }
    if (t->dims[0] % block_elems)
        return format_fail(c->err, -EINVAL,
                           "%s: tensor \"%s\" has rows of %" PRIu64 " elements, %s needs a "
                           "multiple of %u",
                           c->g->path, t->name, t->dims[0], gguf_dtype_name(t->dtype), block_elems);
    if (mul_overflows(elems / block_elems, (uint64_t)block_bytes, &t->bytes) ||
        t->bytes > INT64_MAX)
        return format_fail(c->err, -EINVAL, "%s: tensor \"%s\" is too large", c->g->path, t->name);
    return 0;
}

static int take_tensor(struct cursor *c, struct gguf_tensor *t)
{
    struct gguf_text name;
    uint32_t dtype = 0;
    int error = take_name(c, GGUF_NAME_BYTES - 1, &name, "a tensor name");
    if (error)
        return error;
    memcpy(t->name, name.data, name.bytes);
    if ((error = take(c, &t->n_dims, sizeof(t->n_dims), "a tensor's rank")))
        return error;
    if (t->n_dims > GGUF_DIMS_MAX)
        return format_fail(c->err, -EINVAL,
                           "%s: tensor \"%s\" has %u dimensions, at most %d are allowed",
                           c->g->path, t->name, t->n_dims, GGUF_DIMS_MAX);
    for (uint32_t i = 0; i < GGUF_DIMS_MAX; i++)
        t->dims[i] = 1;
    if ((error = take(c, t->dims, t->n_dims * sizeof(t->dims[0]), "a tensor's shape")) ||
        (error = take(c, &dtype, sizeof(dtype), "a tensor's type")) ||
        (error = take(c, &t->offset, sizeof(t->offset), "a tensor's offset")))
        return error;
    t->dtype = (enum gguf_dtype)dtype;
    return tensor_bytes(c, t);
}

int gguf_sort_names(struct gguf *g, struct format_error *err)
{
    qsort(g->by_name, g->n_tensor, sizeof(*g->by_name), compare_tensor);
    for (uint32_t i = 1; i < g->n_tensor; i++)
        if (strcmp(g->by_name[i - 1]->name, g->by_name[i]->name) == 0)
            return format_fail(err, -EINVAL, "%s: tensor \"%s\" is there twice", g->path,
                               g->by_name[i]->name);
    return 0;
}

static int read_tensors(struct cursor *c, struct gguf *g)
{
    g->tensors = calloc(max_of(g->n_tensor, 1u), sizeof(*g->tensors));
    g->by_name = calloc(max_of(g->n_tensor, 1u), sizeof(*g->by_name));
    if (!g->tensors || !g->by_name)
        return format_fail(c->err, -ENOMEM, "%s: no memory for %u tensors", g->path, g->n_tensor);
    for (uint32_t i = 0; i < g->n_tensor; i++) {
        int error = take_tensor(c, &g->tensors[i]);
        if (error)
            return error;
        g->by_name[i] = &g->tensors[i];
    }
    return gguf_sort_names(g, c->err);
}

/* Offsets must follow each other without hole or overlap; then they are made absolute. */
static int place_tensors(struct cursor *c, struct gguf *g, uint64_t alignment)
{
    uint64_t start = align_up(c->at, alignment), running = 0, end = start;
    for (uint32_t i = 0; i < g->n_tensor; i++) {
        struct gguf_tensor *t = &g->tensors[i];
        if (t->offset != running)
            return format_fail(c->err, -EINVAL,
                               "%s: tensor \"%s\" lies at offset %" PRIu64 ", expected %" PRIu64
                               ": the file is damaged",
                               g->path, t->name, t->offset, running);
        if (add_overflows(start, running, &t->offset) || add_overflows(t->offset, t->bytes, &end) ||
            end > g->bytes)
            return format_fail(c->err, -ENODATA,
                               "%s: tensor \"%s\" ends at byte %" PRIu64 ", the file has %zu: "
                               "the file is cut off; fetch it again",
                               g->path, t->name, start + running + t->bytes, g->bytes);
        t->data = g->base + t->offset;
        running = align_up(running + t->bytes, alignment); /* no overflow: end fits the file */
    }
    uint64_t end_padded = align_up(end, alignment);
    if (g->bytes > end_padded)
        return format_fail(c->err, -EINVAL,
                           "%s: %" PRIu64 " bytes follow the last tensor: the file is damaged",
                           g->path, g->bytes - end_padded);
    return 0;
}

static int read_alignment(struct cursor *c, const struct gguf *g, uint64_t *ret)
{
    const struct gguf_kv *kv = gguf_kv_find(g, "general.alignment");
    uint32_t alignment = ALIGNMENT_DEFAULT;
    if (kv) {
        if (kv->type != GGUF_U32)
            return format_fail(c->err, -EINVAL,
                               "%s: key \"general.alignment\" is of type %s, expected u32", g->path,
                               gguf_value_name(kv->type));
        memcpy(&alignment, kv->data, sizeof(alignment));
        if (!is_pow2(alignment) || alignment > ALIGNMENT_MAX)
            return format_fail(c->err, -EINVAL,
                               "%s: key \"general.alignment\" is %u, expected a power of two "
                               "up to %" PRIu64,
                               g->path, alignment, ALIGNMENT_MAX);
    }
    *ret = alignment;
    return 0;
}

static int read_header(struct cursor *c, struct gguf *g)
{
    struct {
        uint32_t magic, version;
        uint64_t n_tensor, n_kv;
    } head;
    if (format_refuse_pointer(c->err, g->path, g->base, g->bytes))
        return -EINVAL;
    if (g->bytes >= 4) {
        memcpy(&head.magic, g->base, 4);
        if (head.magic != MAGIC)
            return format_fail(c->err, -EINVAL,
                               "%s: not a GGUF file: it begins with %02x %02x %02x %02x, "
                               "expected 47 47 55 46",
                               g->path, g->base[0], g->base[1], g->base[2], g->base[3]);
    }
    int error = take(c, &head, sizeof(head), "the header");
    if (error)
        return error;
    if ((head.version & 0xffff) == 0 && head.version != 0)
        return format_fail(c->err, -ENOTSUP,
                           "%s: a big-endian GGUF file; convert it to little-endian", g->path);
    if (head.version < 2 || head.version > 3)
        return format_fail(c->err, -ENOTSUP, "%s: GGUF version %u; versions 2 and 3 are supported",
                           g->path, head.version);
    uint64_t left = g->bytes - c->at;
    if (head.n_kv > left / KV_BYTES_MIN || head.n_tensor > left / INFO_BYTES_MIN ||
        head.n_kv > UINT32_MAX || head.n_tensor > UINT32_MAX)
        return format_fail(c->err, -EINVAL,
                           "%s: the header counts %" PRIu64 " keys and %" PRIu64 " tensors, more "
                           "than fit a file of %zu bytes: cut off or damaged",
                           g->path, head.n_kv, head.n_tensor, g->bytes);
    g->n_kv = (uint32_t)head.n_kv;
    g->n_tensor = (uint32_t)head.n_tensor;
    return 0;
}

static int parse(struct gguf *g, struct format_error *err)
{
    struct cursor c = { g, 0, err };
    uint64_t alignment = 0;
    int error = read_header(&c, g);
    if (error || (error = read_kvs(&c, g)) || (error = read_alignment(&c, g, &alignment)) ||
        (error = read_tensors(&c, g)))
        return error;
    return place_tensors(&c, g, alignment);
}

static struct gguf *new_gguf(const char *path)
{
    struct gguf *g = calloc(1, sizeof(*g));
    if (g && !(g->path = strdup(path))) {
        free(g);
        g = NULL;
    }
    if (g)
        g->fd = -1;
    return g;
}

int gguf_open_memory(const void *data, size_t bytes, const char *name, struct gguf **ret,
                     struct format_error *err)
{
    auto_call(gguf_close) struct gguf *g = new_gguf(name);
    if (!g)
        return format_fail(err, -ENOMEM, "%s: no memory", name);
    g->base = data;
    g->bytes = bytes;
    int error = parse(g, err);
    if (error)
        return error;
    *ret = steal_ptr(&g);
    return 0;
}

int gguf_open_one(const char *path, struct gguf **ret, struct format_error *err)
{
    auto_call(gguf_close) struct gguf *g = new_gguf(path);
    if (!g)
        return format_fail(err, -ENOMEM, "%s: no memory", path);
    const void *base;
    int error = format_map_file(path, &g->fd, &base, &g->bytes, err);
    if (error)
        return error;
    g->base = base;
    g->mapped = true;
    error = parse(g, err);
    if (error)
        return error;
    *ret = steal_ptr(&g);
    return 0;
}

int gguf_open(const char *path, struct gguf **ret, struct format_error *err)
{
    auto_call(gguf_close) struct gguf *g = NULL;
    int error = gguf_open_one(path, &g, err);
    if (error || (error = gguf_join_parts(g, err)))
        return error;
    *ret = steal_ptr(&g);
    return 0;
}

void gguf_close(struct gguf *g)
{
    if (!g)
        return;
    for (uint32_t i = 0; i < g->n_parts; i++)
        gguf_close(g->parts[i]);
    free(g->parts);
    if (g->mapped)
        munmap((void *)(uintptr_t)g->base, g->bytes);
    if (g->fd >= 0)
        close(g->fd);
    free(g->by_name);
    free(g->tensors);
    free(g->kvs);
    free(g->path);
    free(g);
}
