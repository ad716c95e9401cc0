/* What gguf.c and gguf_keys.c share. */
#ifndef RINGLET_FORMAT_GGUF_INTERNAL_H
#define RINGLET_FORMAT_GGUF_INTERNAL_H

#include "daemon/format/gguf.h"

struct gguf {
    char *path;
    const uint8_t *base;
    size_t bytes;
    bool mapped;
    int fd;              /* of the mapped file; -1 = none */
    struct gguf_kv *kvs; /* sorted by key */
    struct gguf_tensor *tensors;
    const struct gguf_tensor **by_name;
    uint32_t n_kv, n_tensor;
    struct gguf **parts; /* of a split file: all but the first */
    uint32_t n_parts;
};

enum { GGUF_PARTS_MAX = 1024 };

/* One file by itself, whatever it says about other parts. */
int gguf_open_one(const char *path, struct gguf **ret, struct format_error *err);
/* Sort by_name; -EINVAL when two tensors have one name. */
int gguf_sort_names(struct gguf *g, struct format_error *err);
/* Open the other parts, if there are any, and take over their tensors. */
int gguf_join_parts(struct gguf *g, struct format_error *err);

/* Bytes of one fixed-size value; 0 for strings, arrays and unknown types. */
uint32_t gguf_value_bytes(enum gguf_value type);
const char *gguf_value_name(enum gguf_value type);

static inline uint64_t gguf_load_u64(const uint8_t *p)
{
    uint64_t v;
    __builtin_memcpy(&v, p, sizeof(v));
    return v;
}

#endif
