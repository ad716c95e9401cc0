/* Element types of tensors, weights and KV blocks. Block types keep GGUF's bytes (see quant.c). */
#ifndef RINGLET_KERNELS_DTYPE_H
#define RINGLET_KERNELS_DTYPE_H

#include <stdint.h>

enum dtype {
    DTYPE_F32,
    DTYPE_F16,
    DTYPE_BF16,
    DTYPE_I32,
    DTYPE_I8,
    DTYPE_Q8_0,
    DTYPE_Q4_0,
    DTYPE_Q4_1,
    DTYPE_Q5_0,
    DTYPE_Q5_1,
    DTYPE_Q4_K,
    DTYPE_Q5_K,
    DTYPE_Q6_K,
    DTYPE_COUNT,
};

struct dtype_info {
    const char *name;
    int block_elems; /* 1 for plain types */
    int block_bytes;
};

extern const struct dtype_info dtype_infos[DTYPE_COUNT];

static inline const char *dtype_name(enum dtype type)
{
    return dtype_infos[type].name;
}

/* Bytes of n elements; n must be a multiple of the type's block. */
static inline int64_t dtype_bytes(enum dtype type, int64_t n)
{
    return n / dtype_infos[type].block_elems * dtype_infos[type].block_bytes;
}

#endif
