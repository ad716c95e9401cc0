/*
 * Tensors of a GGUF file, of a checkpoint folder, or none (dummy): one list for weights.c, whatever
 * the format. Start-up thread only.
 */
#ifndef RINGLET_MODEL_WEIGHTS_SOURCE_H
#define RINGLET_MODEL_WEIGHTS_SOURCE_H

#include "daemon/model/model.h"

/* A vector is one row. Views of the mapping; name lives as long as the source. */
struct source_tensor {
    const char *name;
    const char *type_name; /* as the file says it */
    bool known;            /* dtype is valid */
    enum dtype dtype;
    int64_t n_row, n_col; /* more than two dimensions: n_row -1 */
    uint32_t n_dims;      /* the file's */
    const uint8_t *data;
    uint64_t bytes;
    int fd; /* the file that data maps, -1 = none; offset is data's in it */
    uint64_t offset;
};

struct weights_source {
    bool dummy;
    enum dtype dummy_dtype, main_dtype;
    struct source_tensor *tensors; /* sorted by name */
    int n_tensor;
    uint64_t bytes, n_parameter;
    void *dummy_bytes; /* host_alloc memory */
    const struct model *model;
};

/* Returns: 0; -EINVAL, -ENOTSUP, -ENOMEM with err. */
int weights_source_open(const struct model *m, struct weights_source *ret,
                        struct format_error *err);
void weights_source_close(struct weights_source *s);

/* Index of the tensor of that name, -1 = none. */
int weights_source_find(const struct weights_source *s, const char *name);

/*
 * Random numbers of the dummy type, the same every time, in s->dummy_bytes until the source closes.
 * Returns: 0, -ENOMEM.
 */
int weights_source_dummy(struct weights_source *s, int64_t bytes);

/* The first n numbers of a plain tensor as f32. Returns: 0; -ENOTSUP a block type. */
int source_floats(const struct source_tensor *t, int n, float *ret);

#endif
