/*
 * GGUF, versions 2 and 3: a read-only mapping of the file, its metadata and its tensors. Knows
 * bytes, not models. Everything is checked when the file is opened, so that getters cannot meet a
 * bad offset later: magic, version, byte order, counts against the file's size, string and array
 * lengths, types, booleans, duplicate keys and tensor names, alignment, dimensions and their
 * product, whole blocks per row, offsets (contiguous, in order, aligned, inside the file), and
 * nothing after the last tensor but its padding.
 *
 * Thread: an open file never changes; any thread may read it. The file must not be truncated while
 * it is mapped (the kernel answers that with SIGBUS): replace model files by renaming.
 */
#ifndef RINGLET_FORMAT_GGUF_H
#define RINGLET_FORMAT_GGUF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "daemon/format/format_error.h"

enum gguf_value {
    GGUF_U8,
    GGUF_I8,
    GGUF_U16,
    GGUF_I16,
    GGUF_U32,
    GGUF_I32,
    GGUF_F32,
    GGUF_BOOL,
    GGUF_STRING,
    GGUF_ARRAY,
    GGUF_U64,
    GGUF_I64,
    GGUF_F64,
    GGUF_VALUE_COUNT,
};

/* Element types of tensors, numbered as in the file. */
enum gguf_dtype {
    GGUF_TENSOR_F32 = 0,
    GGUF_TENSOR_F16 = 1,
    GGUF_TENSOR_Q4_0 = 2,
    GGUF_TENSOR_Q4_1 = 3,
    GGUF_TENSOR_Q5_0 = 6,
    GGUF_TENSOR_Q5_1 = 7,
    GGUF_TENSOR_Q8_0 = 8,
    GGUF_TENSOR_Q8_1 = 9,
    GGUF_TENSOR_Q2_K = 10,
    GGUF_TENSOR_Q3_K = 11,
    GGUF_TENSOR_Q4_K = 12,
    GGUF_TENSOR_Q5_K = 13,
    GGUF_TENSOR_Q6_K = 14,
    GGUF_TENSOR_Q8_K = 15,
    GGUF_TENSOR_IQ4_NL = 20,
    GGUF_TENSOR_I8 = 24,
    GGUF_TENSOR_I16 = 25,
    GGUF_TENSOR_I32 = 26,
    GGUF_TENSOR_I64 = 27,
    GGUF_TENSOR_F64 = 28,
    GGUF_TENSOR_BF16 = 30,
    GGUF_TENSOR_MXFP4 = 39,
    GGUF_TENSOR_COUNT = 43,
};

enum { GGUF_DIMS_MAX = 4, GGUF_NAME_BYTES = 64 };

/* Bytes of the file; not NUL-terminated. */
struct gguf_text {
    const char *data;
    size_t bytes;
};

/* One metadata entry. A scalar has n == 1; an array's element type is `elem`. */
struct gguf_kv {
    struct gguf_text key;
    enum gguf_value type, elem;
    uint64_t n;
    const uint8_t *data;
};

struct gguf_array {
    enum gguf_value elem;
    uint64_t n;
    const uint8_t *data, *next; /* next: cursor of gguf_array_next_string */
};

struct gguf_tensor {
    char name[GGUF_NAME_BYTES];
    enum gguf_dtype dtype;
    uint32_t n_dims;
    uint64_t dims[GGUF_DIMS_MAX]; /* dims[0] is the contiguous one; 1 past n_dims */
    uint64_t offset, bytes;       /* offset from the start of the file, or of its part */
    uint32_t part;
    const void *data; /* aligned as the file says, 32 bytes at least by default */
};

struct gguf;

/*
 * Map and check a file. NAME-00001-of-0000N.gguf brings its other parts along: metadata is the
 * first part's, tensors are those of all parts.
 *
 *   path      copied; the messages name it
 *   ret       owned by the caller: gguf_close
 *   err       what is wrong, for people; may be NULL
 *
 * Returns: 0; -ENOENT, -EACCES ... from open; -EINVAL not a sound GGUF file; -ENOTSUP a version,
 *          byte order or element type that is not read; -ENODATA cut off; -ENOMEM.
 * Thread:  any; not on loop or executor (it allocates).
 */
int gguf_open(const char *path, struct gguf **ret, struct format_error *err);

/*
 * The same over bytes that the caller keeps alive and unchanged until gguf_close. For tests.
 *
 *   name      stands for the path in messages
 */
int gguf_open_memory(const void *data, size_t bytes, const char *name, struct gguf **ret,
                     struct format_error *err);

void gguf_close(struct gguf *g);

const char *gguf_path(const struct gguf *g);
/*
 * The mapped files, for readahead hints and sums: one, or the parts of a split file in order. NULL
 * past the last one.
 */
const void *gguf_part(const struct gguf *g, uint32_t part_i, size_t *ret_bytes);
/* The descriptor that the part was mapped from, for reading; -1: it is the caller's memory. */
int gguf_part_fd(const struct gguf *g, uint32_t part_i);

/* Tensors in file order; NULL when there is no such tensor. */
uint32_t gguf_tensor_count(const struct gguf *g);
const struct gguf_tensor *gguf_tensor_at(const struct gguf *g, uint32_t tensor_i);
const struct gguf_tensor *gguf_tensor_find(const struct gguf *g, const char *name);

/* "Q4_1"; "type 99" has no name: "unknown". */
const char *gguf_dtype_name(enum gguf_dtype dtype);
/* Elements and bytes of one block; false when the layout is not known here. */
bool gguf_dtype_block(enum gguf_dtype dtype, uint32_t *ret_elems, uint32_t *ret_bytes);

/* Metadata in the order of its keys. */
uint32_t gguf_kv_count(const struct gguf *g);
const struct gguf_kv *gguf_kv_at(const struct gguf *g, uint32_t kv_i);
const struct gguf_kv *gguf_kv_find(const struct gguf *g, const char *key);

/*
 * Typed getters. Integers of any width and sign are taken if the value fits the asked type; f32
 * takes f64 too. *ret is written only on success.
 *
 * Returns: 0; -ENOENT no such key; -EINVAL another type; -ERANGE the value does not fit.
 */
int gguf_u32(const struct gguf *g, const char *key, uint32_t *ret);
int gguf_i64(const struct gguf *g, const char *key, int64_t *ret);
int gguf_f32(const struct gguf *g, const char *key, float *ret);
int gguf_bool(const struct gguf *g, const char *key, bool *ret);
int gguf_string(const struct gguf *g, const char *key, struct gguf_text *ret);
int gguf_array(const struct gguf *g, const char *key, struct gguf_array *ret);

/* Elements of arrays, same rules; -ENOENT past the end. */
int gguf_array_u32(const struct gguf_array *array, uint64_t i, uint32_t *ret);
int gguf_array_i64(const struct gguf_array *array, uint64_t i, int64_t *ret);
int gguf_array_f32(const struct gguf_array *array, uint64_t i, float *ret);
/* The next string of an array of strings, from its start on. */
int gguf_array_next_string(struct gguf_array *array, struct gguf_text *ret);

/*
 * As gguf_u32 and its sisters, with the message: file, key, what was expected and what is there.
 */
int gguf_need_u32(const struct gguf *g, const char *key, uint32_t *ret, struct format_error *err);
int gguf_need_f32(const struct gguf *g, const char *key, float *ret, struct format_error *err);
int gguf_need_string(const struct gguf *g, const char *key, struct gguf_text *ret,
                     struct format_error *err);
/* elem: GGUF_STRING, GGUF_F32, or GGUF_U32 for any integer. */
int gguf_need_array(const struct gguf *g, const char *key, enum gguf_value elem,
                    struct gguf_array *ret, struct format_error *err);

static inline bool gguf_text_is(struct gguf_text text, const char *what)
{
    return text.bytes == __builtin_strlen(what) &&
           __builtin_memcmp(text.data, what, text.bytes) == 0;
}

define_cleanup(struct gguf, gguf_close)

#endif
