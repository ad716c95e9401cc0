/*
 * A backend made ready for op tests. Cases are written once and run on every rig: the CPU at each
 * instruction set this machine has, with one and with three threads, and CUDA, if it is there, in
 * bf16 and in f16.
 * Host data are f32; a rig converts activations to the backend's type and back.
 */
#ifndef RINGLET_TESTS_KERNELS_RIG_H
#define RINGLET_TESTS_KERNELS_RIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/backend.h"
#include "kernels/kernels.h"

struct rig {
    const struct backend *backend;
    const struct kernel_ops *ops;
    struct device *dev;
    struct stream *st;
    enum dtype act;
    bool is_cpu;
    char name[64];
    void *taken[64];
    int n_taken;
};

/* The largest shapes that the tests use. */
extern const struct op_limits rig_limits;

/*
 * $RINGLET_TEST_SMALL is set: the GPU alone and small shapes, so that a sanitizer that slows every
 * access down a thousandfold comes to an end.
 */
bool rig_small(void);
/*
 * Run fn on every rig; returns how many there were. With $RINGLET_TEST_DEVICE = cuda the test fails
 * where no GPU is.
 */
int rig_each(void (*fn)(struct rig *rig));
/* One CPU rig. isa NULL = the best. */
void rig_open_cpu(struct rig *rig, const char *isa, int n_thread);
void rig_close(struct rig *rig);
/*
 * How far results may be from the oracle's: on the CPU `cpu`; on CUDA so many times what one
 * rounding to the activation type may change, 2^-8 for bf16, 2^-11 for f16.
 */
double rig_bound(const struct rig *rig, double cpu, double roundings);
/* Frees what the rig_put functions took. */
void rig_reset(struct rig *rig);

/* Device memory with these bytes; src NULL = bytes of 0xff (NaN). */
void *rig_put(struct rig *rig, const void *src, size_t bytes);
/* n activations; src NULL = NaN. */
void *rig_put_act(struct rig *rig, const float *src, size_t n);
void rig_get(struct rig *rig, const void *device, void *dst, size_t bytes);
void rig_get_act(struct rig *rig, const void *device, float *dst, size_t n);
/* f32 values as the backend's activation type keeps them: what the oracle must be fed. */
void rig_round(const struct rig *rig, float *x, size_t n);
/* A weight from a file's bytes. False: the backend does not support it. */
bool rig_put_weight(struct rig *rig, const struct weight *file, struct weight *ret);

/* Host side: a weight with random valid blocks (file layout), values of size about `scale`. */
struct weight random_weight(uint64_t *seed, enum dtype dtype, int n_row, int n_col, float scale);
/* n values in [-1, 1); every outlier_every-th (0 = none) is 50 times larger. */
float *random_floats(uint64_t *seed, size_t n, int outlier_every);
float *nan_floats(size_t n);

/*
 * Largest |a - b|, as a share of |b| or of the root mean square of b, whichever is more; infinity
 * if a has a NaN.
 */
double max_error(const float *a, const float *b, size_t n);

#endif
