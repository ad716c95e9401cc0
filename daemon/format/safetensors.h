/*
 * safetensors checkpoints: one file, or the shards that an index names, mapped read-only. Knows
 * bytes, not models. Everything is checked when it is opened: the header's length and JSON,
 * duplicate names, dtypes, shapes and their product, offsets that cover the data without hole or
 * overlap, and for shards that each tensor is where the index says.
 *
 * Thread: an open checkpoint never changes; any thread may read it. Files must not be truncated
 * while they are mapped.
 */
#ifndef RINGLET_FORMAT_SAFETENSORS_H
#define RINGLET_FORMAT_SAFETENSORS_H

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "daemon/format/format_error.h"

enum safetensors_dtype {
    SAFETENSORS_BOOL,
    SAFETENSORS_F4,
    SAFETENSORS_F6_E2M3,
    SAFETENSORS_F6_E3M2,
    SAFETENSORS_U8,
    SAFETENSORS_I8,
    SAFETENSORS_F8_E5M2,
    SAFETENSORS_F8_E4M3,
    SAFETENSORS_F8_E8M0,
    SAFETENSORS_F8_E4M3FNUZ,
    SAFETENSORS_F8_E5M2FNUZ,
    SAFETENSORS_I16,
    SAFETENSORS_U16,
    SAFETENSORS_F16,
    SAFETENSORS_BF16,
    SAFETENSORS_I32,
    SAFETENSORS_U32,
    SAFETENSORS_F32,
    SAFETENSORS_C64,
    SAFETENSORS_F64,
    SAFETENSORS_I64,
    SAFETENSORS_U64,
    SAFETENSORS_DTYPE_COUNT,
};

enum { SAFETENSORS_DIMS_MAX = 8 };

struct safetensors_tensor {
    const char *name;
    enum safetensors_dtype dtype;
    uint32_t n_dims;
    uint64_t
        dims[SAFETENSORS_DIMS_MAX]; /* row-major: the last is the contiguous one; 1 past n_dims */
    uint32_t shard;
    uint64_t offset, bytes; /* offset in the shard's file */
    const void *data;       /* may be misaligned for its dtype: the format promises nothing */
};

struct safetensors;

/*
 *   path   a checkpoint folder (model.safetensors, else model.safetensors.index.json), one
 *          .safetensors file, or one .index.json
 *   ret    owned by the caller: safetensors_close
 *   err    what is wrong, for people; may be NULL
 *
 * Returns: 0; -ENOENT and others from open; -EINVAL not sound; -ENODATA cut off; -ENOTSUP an
 * unknown dtype or more than 8 dimensions; -ENOMEM.
 */
int safetensors_open(const char *path, struct safetensors **ret, struct format_error *err);
/* One file's bytes, which the caller keeps; for tests. */
int safetensors_open_memory(const void *data, size_t bytes, const char *name,
                            struct safetensors **ret, struct format_error *err);
void safetensors_close(struct safetensors *s);

/* Tensors in the order of their names. NULL past the end, or when there is none of that name. */
uint32_t safetensors_count(const struct safetensors *s);
const struct safetensors_tensor *safetensors_at(const struct safetensors *s, uint32_t tensor_i);
const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name);

/* The mapped files. */
uint32_t safetensors_shard_count(const struct safetensors *s);
const char *safetensors_shard(const struct safetensors *s, uint32_t shard, const void **ret_base,
                              size_t *ret_bytes);
/* The descriptor that the shard was mapped from, for reading; -1: it is the caller's memory. */
int safetensors_shard_fd(const struct safetensors *s, uint32_t shard);

const char *safetensors_dtype_name(enum safetensors_dtype dtype);

define_cleanup(struct safetensors, safetensors_close)

#endif
