/*
 * A backend is a device table and an op table or two. The CPU's is linked in; others are modules
 * that export one symbol and are loaded at run time.
 */
#ifndef RINGLET_KERNELS_BACKEND_H
#define RINGLET_KERNELS_BACKEND_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/dtype.h"

struct device_ops;
struct kernel_ops;

/* Bumped when device.h or kernels.h change shape (backend.c checks): stale modules are refused. */
#define BACKEND_ABI 7

struct backend {
    uint32_t abi;
    const char *name; /* "cpu", "cuda" */
    const struct device_ops *device;
    const struct kernel_ops *ops;     /* f32 on the CPU, bf16 on CUDA */
    const struct kernel_ops *ops_f16; /* the same in f16; NULL = there is none */
};

/* The op table for a model whose weights are mostly of that type. */
static inline const struct kernel_ops *backend_ops(const struct backend *backend,
                                                   enum dtype weights)
{
    return weights == DTYPE_F16 && backend->ops_f16 ? backend->ops_f16 : backend->ops;
}

/*
 * The backend of that name.
 *
 *   name      "cpu" or "cuda"
 *   err       a sentence that names the cause (no module, no driver, stale module), on failure
 *
 * Returns: 0; -ENOENT no such backend or module; -ENOEXEC stale or broken module.
 * Thread:  start-up.  Memory: the module stays loaded for the life of the process.
 */
int backend_find(const char *name, const struct backend **ret, char *err, size_t err_bytes);

#endif
