/* What a model's files say beside its shape: name, end ids, sampling defaults. */
#ifndef RINGLET_MODEL_MODEL_META_H
#define RINGLET_MODEL_MODEL_META_H

#include <stddef.h>

struct model;

/* Fill name, bos, eos and sampling of m->info. Values that make no sense are left unset. */
void model_meta_fill(struct model *m);

/* Copy a string, cut to the room there is, NUL-terminated. */
void copy_text(char *dst, size_t dst_bytes, const char *src);

#endif
