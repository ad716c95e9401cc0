/* A view of elements in memory; owns nothing. Dimension 0 is the slowest (rows first). */
#ifndef RINGLET_KERNELS_TENSOR_H
#define RINGLET_KERNELS_TENSOR_H

#include <stdint.h>

#include "kernels/dtype.h"

struct tensor {
    void *data;
    enum dtype dtype;
    int n_dim;
    int64_t shape[4];  /* elements */
};

static inline int64_t tensor_elems(const struct tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->n_dim; i++)
        n *= t->shape[i];
    return n;
}

#endif
