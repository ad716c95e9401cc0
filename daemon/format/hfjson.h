/*
 * The JSON files of a Hugging Face checkpoint: config.json, generation_config.json,
 * tokenizer_config.json, tokenizer.json. Strict: UTF-8, no duplicate keys, nothing after the end.
 * Integers beyond 64 bits are real numbers.
 *
 * A path names a value: "rope_scaling.factor", "architectures[0]". null counts as absent, because
 * exporters write it so.
 *
 * Thread: any may read an open file. Opening allocates; start-up only.
 */
#ifndef RINGLET_FORMAT_HFJSON_H
#define RINGLET_FORMAT_HFJSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "daemon/format/format_error.h"

struct hfjson;
struct json_t; /* jansson's */

/*
 * Read one file.
 *
 *   folder   and name are joined by '/'; folder may be NULL
 *
 * Returns: 0; -ENOENT and others from open; -EINVAL not JSON, or no object (the message says
 * where); -EFBIG above 512 MiB; -ENOMEM.
 */
int hfjson_open(const char *folder, const char *name, struct hfjson **ret,
                struct format_error *err);
/* The same over bytes; name stands for the path in messages. */
int hfjson_open_memory(const char *text, size_t bytes, const char *name, struct hfjson **ret,
                       struct format_error *err);
void hfjson_close(struct hfjson *j);

const char *hfjson_path(const struct hfjson *j);

/*
 * Typed getters; *ret is written only on success. Integers must be written without a point; f32
 * takes integers too. A string lives as long as j and ends in NUL.
 *
 * Returns: 0; -ENOENT absent; -EINVAL another type; -ERANGE does not fit, or not finite.
 */
int hfjson_u32(const struct hfjson *j, const char *path, uint32_t *ret);
int hfjson_i64(const struct hfjson *j, const char *path, int64_t *ret);
int hfjson_f32(const struct hfjson *j, const char *path, float *ret);
int hfjson_f64(const struct hfjson *j, const char *path, double *ret);
int hfjson_bool(const struct hfjson *j, const char *path, bool *ret);
int hfjson_string(const struct hfjson *j, const char *path, const char **ret, size_t *ret_bytes);
/* Elements of an array. */
int hfjson_size(const struct hfjson *j, const char *path, size_t *ret);
/* An integer or an array of integers (eos_token_id): *ret_n gets how many, -E2BIG above max. */
int hfjson_ids(const struct hfjson *j, const char *path, int64_t *ret, size_t max, size_t *ret_n);
bool hfjson_has(const struct hfjson *j, const char *path);
/* For the few keys where a null is not the same as nothing. */
bool hfjson_is_null(const struct hfjson *j, const char *path);
/* Neither absent nor null, false or {}: what transformers takes for nothing. */
bool hfjson_is_true(const struct hfjson *j, const char *path);
bool hfjson_is_object(const struct hfjson *j, const char *path);

/* As above, with the message: file, key, expected and actual. */
int hfjson_need_u32(const struct hfjson *j, const char *path, uint32_t *ret,
                    struct format_error *err);
int hfjson_need_f32(const struct hfjson *j, const char *path, float *ret, struct format_error *err);
int hfjson_need_string(const struct hfjson *j, const char *path, const char **ret,
                       struct format_error *err);

/* For readers that walk large objects: borrowed, NULL when absent. path NULL: the root. */
const struct json_t *hfjson_node(const struct hfjson *j, const char *path);

define_cleanup(struct hfjson, hfjson_close)

#endif
