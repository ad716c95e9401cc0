/*
 * The tensors of a model: found by name, checked against the shape that the arch expects, then
 * placed and loaded by the backend in one go. Nothing is copied before every name was bound.
 */
#ifndef RINGLET_MODEL_WEIGHTS_H
#define RINGLET_MODEL_WEIGHTS_H

#include "daemon/model/model.h"

struct weights;

/*
 * Collect the tensors of m's file or folder.
 * Returns: 0; -EINVAL, -ENOTSUP, -ENOMEM with err.  Thread: start-up.
 */
int weights_open(struct model *m, struct weights **ret, struct format_error *err);

/*
 * Is there a tensor of that name? For dummy weights a GGUF file's list tells; of a checkpoint the
 * arch's config decides, and this is false.
 */
bool weights_has(const struct weights *w, const char *name);

/*
 * Bind a matrix: n_row outputs of n_col inputs. name is a printf format (layer numbers).
 *
 *   dst   filled by weights_load; must stay where it is until then
 *
 * The first failure is kept and returned by every later call, so that an arch may bind all and
 * check once. Returns: 0; -ENOENT no such tensor; -EINVAL its shape differs; -ENOTSUP its type.
 */
int weights_matrix(struct weights *w, struct weight *dst, int n_row, int n_col, const char *name,
                   ...) printf_like(5, 6);

/* Bind a vector of n numbers, kept as f32 in device memory. Same rules. */
int weights_vector(struct weights *w, const float **dst, int n, const char *name, ...)
    printf_like(4, 5);

/* Place a computed vector (rope frequencies) in device memory. Returns: 0, -ENOMEM. */
int weights_const(struct weights *w, const float **dst, int n, const float *src);

/*
 * Read the n numbers of a small f32, f16 or bf16 vector to the host.
 * Returns: 0; -ENOENT there is none, which is no failure to keep; -EINVAL, -ENOTSUP its shape,
 * type.
 */
int weights_peek(struct weights *w, const char *name, int n, float *ret);

/* Are there two tensors of these names, of the same type, shape and bytes? */
bool weights_same(const struct weights *w, const char *name_a, const char *name_b);

/*
 * Tensors whose name ends so may stay unbound (buffers that old exporters wrote). Any other tensor
 * that nobody binds fails weights_load: it would change the model's answers in silence.
 */
void weights_ignore(struct weights *w, const char *suffix);

/* The failure that was kept, and its text. */
int weights_status(const struct weights *w, const struct format_error **ret_err);

/* Place and load all that was bound. Returns: 0; -ENOTSUP, -ENOMEM, -EIO with err. */
int weights_load(struct weights *w, struct stream *st, model_progress_fn progress,
                 void *progress_arg, struct format_error *err);

/* Type of most elements of the file's matrices, for the choice of ops and the model table. */
enum dtype weights_main_dtype(const struct weights *w);
uint64_t weights_file_bytes(const struct weights *w);
uint64_t weights_device_bytes(const struct weights *w);
uint64_t weights_parameters(const struct weights *w);

void weights_close(struct weights *w);

#endif
