/*
 * Can this build run on what the driver tells of itself and of a GPU? The decision and its words,
 * apart from the calls that ask, so that machines can be tested that nobody has. C and C++. Pure.
 */
#ifndef RINGLET_KERNELS_CUDA_GPU_FACTS_H
#define RINGLET_KERNELS_CUDA_GPU_FACTS_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum { GPU_COMPUTE_MIN = 80, GPU_DRIVER_MIN = 13000 };

struct gpu_facts {
    int driver;              /* CUDA version that it supports, 13000 = 13.0; 0: there is none */
    int n_gpu;               /* that it lists */
    const char *count_error; /* or why it cannot */
    int index;               /* the one that is asked for */
    const char *name;        /* its name; NULL: not known yet, nor what follows */
    int compute;             /* 90 = 9.0 */
    bool has_code;           /* this build brings machine code for it */
};

/* 0; -ENODEV: what is in the way stands in err. */
static inline int gpu_facts_check(const struct gpu_facts *f, char *err, size_t err_bytes)
{
    if (f->driver == 0)
        snprintf(err, err_bytes, "no NVIDIA driver is loaded (libcuda.so.1 is absent or refuses)");
    else if (f->driver < GPU_DRIVER_MIN)
        snprintf(err, err_bytes,
                 "the NVIDIA driver is too old: it supports CUDA %d.%d, this build needs %d.%d",
                 f->driver / 1000, f->driver % 1000 / 10, GPU_DRIVER_MIN / 1000,
                 GPU_DRIVER_MIN % 1000 / 10);
    else if (f->count_error || f->n_gpu == 0)
        snprintf(err, err_bytes, "no NVIDIA GPU is visible: %s",
                 f->count_error ? f->count_error : "the driver lists none");
    else if (f->index < 0 || f->index >= f->n_gpu)
        snprintf(err, err_bytes, "there is no GPU %d: the driver lists %d, from 0", f->index,
                 f->n_gpu);
    else if (f->name && f->compute < GPU_COMPUTE_MIN)
        snprintf(err, err_bytes,
                 "%s is too old: it has compute capability %d.%d, at least %d.%d is needed",
                 f->name, f->compute / 10, f->compute % 10, GPU_COMPUTE_MIN / 10,
                 GPU_COMPUTE_MIN % 10);
    else if (f->name && !f->has_code)
        snprintf(err, err_bytes,
                 "%s has compute capability %d.%d, which this build has no code for (build option "
                 "gpu_arch)",
                 f->name, f->compute / 10, f->compute % 10);
    else
        return 0;
    return -ENODEV;
}

#endif
