/* Owns JSON files of checkpoints: reading them, and finding values by path. Start-up only. */
#include "daemon/format/hfjson.h"

#include <errno.h>
#include <float.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "daemon/format/format_file.h"

#define FILE_BYTES_MAX (UINT64_C(512) << 20)

struct hfjson {
    char *path;
    json_t *root;
};

/* Python writes three numbers that JSON has not. 0: this is none of them. */
static size_t word_bytes(const char *at)
{
    static const char *const words[] = { "NaN", "Infinity", "-Infinity" };
    for (size_t i = 0; i < ARRAY_SIZE(words); i++)
        if (strncmp(at, words[i], strlen(words[i])) == 0)
            return strlen(words[i]);
    return 0;
}

/*
 * Exporters write 1e30 ("no limit") as an integer, which is sound JSON and more than jansson's
 * integers hold. The last two digits of what may be too long become "e2": a real number, as large,
 * and nothing moves. NaN and Infinity become strings, which no reader takes for a number.
 */
static void mend_numbers(char *text)
{
    for (char *at = text; *at;) {
        if (*at == '"') {
            for (at++; *at && *at != '"'; at++)
                at += at[0] == '\\' && at[1];
            at += *at == '"';
            continue;
        }
        size_t word = word_bytes(at);
        if (word > 0) {
            at[0] = at[word - 1] = '"';
            at += word;
            continue;
        }
        size_t number = strspn(at, "+-.eE0123456789"), sign = *at == '-';
        size_t digits = strspn(at + sign, "0123456789");
        if (digits > 18 && number == sign + digits)
            memcpy(at + number - 2, "e2", 2);
        at += number ? number : 1;
    }
}

static json_t *parse(const char *text, size_t bytes, json_error_t *why)
{
    const size_t flags = JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL;
    json_t *root = json_loadb(text, bytes, flags, why);
    if (root || (json_error_code(why) != json_error_numeric_overflow &&
                 json_error_code(why) != json_error_invalid_syntax))
        return root;
    if (json_error_code(why) == json_error_invalid_syntax && !memmem(text, bytes, "NaN", 3) &&
        !memmem(text, bytes, "Infinity", 8))
        return NULL;
    auto_free char *copy = strndup(text, bytes);
    if (!copy || strlen(copy) != bytes) /* a NUL ended the copy, and is no JSON */
        return NULL;
    mend_numbers(copy);
    return json_loadb(copy, bytes, flags, why);
}

int hfjson_open_memory(const char *text, size_t bytes, const char *name, struct hfjson **ret,
                       struct format_error *err)
{
    json_error_t why;
    auto_call(hfjson_close) struct hfjson *j = calloc(1, sizeof(*j));
    if (!j || !(j->path = strdup(name)))
        return format_fail(err, -ENOMEM, "%s: no memory", name);
    j->root = parse(text, bytes, &why);
    if (!j->root && format_refuse_pointer(err, name, text, bytes))
        return -EINVAL;
    if (!j->root)
        return format_fail(err, -EINVAL, "%s: line %d, column %d: %s", name, why.line, why.column,
                           why.text);
    if (!json_is_object(j->root))
        return format_fail(err, -EINVAL, "%s: expected a JSON object", name);
    *ret = steal_ptr(&j);
    return 0;
}

int hfjson_open(const char *folder, const char *name, struct hfjson **ret, struct format_error *err)
{
    auto_free char *path = NULL, *text = NULL;
    size_t bytes;
    if (asprintf(&path, "%s%s%s", folder ? folder : "", folder ? "/" : "", name) < 0) {
        path = NULL;
        return format_fail(err, -ENOMEM, "%s: no memory", name);
    }
    int error = format_read_file(path, FILE_BYTES_MAX, &text, &bytes, err);
    return error ? error : hfjson_open_memory(text, bytes, path, ret, err);
}

void hfjson_close(struct hfjson *j)
{
    if (!j)
        return;
    json_decref(j->root);
    free(j->path);
    free(j);
}

const char *hfjson_path(const struct hfjson *j)
{
    return j->path;
}

static const json_t *walk(const struct hfjson *j, const char *path)
{
    const json_t *at = j->root;
    char key[128];
    while (at && path && *path) {
        if (*path == '[') {
            char *end;
            at = json_array_get(at, strtoul(path + 1, &end, 10));
            path = *end == ']' ? end + 1 : end;
        } else {
            size_t n = strcspn(path, ".[");
            if (n >= sizeof(key))
                return NULL;
            memcpy(key, path, n);
            key[n] = 0;
            at = json_object_get(at, key);
            path += n;
        }
        path += *path == '.';
    }
    return at;
}

const json_t *hfjson_node(const struct hfjson *j, const char *path)
{
    const json_t *at = walk(j, path);
    return at && !json_is_null(at) ? at : NULL;
}

bool hfjson_has(const struct hfjson *j, const char *path)
{
    return hfjson_node(j, path) != NULL;
}

bool hfjson_is_null(const struct hfjson *j, const char *path)
{
    return json_is_null(walk(j, path));
}

bool hfjson_is_object(const struct hfjson *j, const char *path)
{
    return json_is_object(walk(j, path));
}

bool hfjson_is_true(const struct hfjson *j, const char *path)
{
    const json_t *node = hfjson_node(j, path);
    return node && !json_is_false(node) && !(json_is_object(node) && json_object_size(node) == 0);
}

int hfjson_i64(const struct hfjson *j, const char *path, int64_t *ret)
{
    const json_t *node = hfjson_node(j, path);
    if (!node)
        return -ENOENT;
    if (!json_is_integer(node))
        return -EINVAL;
    *ret = json_integer_value(node);
    return 0;
}

int hfjson_u32(const struct hfjson *j, const char *path, uint32_t *ret)
{
    int64_t value;
    int error = hfjson_i64(j, path, &value);
    if (error)
        return error;
    if (value < 0 || value > UINT32_MAX)
        return -ERANGE;
    *ret = (uint32_t)value;
    return 0;
}

int hfjson_f64(const struct hfjson *j, const char *path, double *ret)
{
    const json_t *node = hfjson_node(j, path);
    if (!node)
        return -ENOENT;
    if (!json_is_number(node))
        return -EINVAL;
    double value = json_number_value(node);
    if (!isfinite(value))
        return -ERANGE;
    *ret = value;
    return 0;
}

int hfjson_f32(const struct hfjson *j, const char *path, float *ret)
{
    double value;
    int error = hfjson_f64(j, path, &value);
    if (error)
        return error;
    if (fabs(value) > (double)FLT_MAX)
        return -ERANGE;
    *ret = (float)value;
    return 0;
}

int hfjson_bool(const struct hfjson *j, const char *path, bool *ret)
{
    const json_t *node = hfjson_node(j, path);
    if (!node)
        return -ENOENT;
    if (!json_is_boolean(node))
        return -EINVAL;
    *ret = json_is_true(node);
    return 0;
}

int hfjson_string(const struct hfjson *j, const char *path, const char **ret, size_t *ret_bytes)
{
    const json_t *node = hfjson_node(j, path);
    if (!node)
        return -ENOENT;
    if (!json_is_string(node))
        return -EINVAL;
    *ret = json_string_value(node);
    if (ret_bytes)
        *ret_bytes = json_string_length(node);
    return 0;
}

int hfjson_size(const struct hfjson *j, const char *path, size_t *ret)
{
    const json_t *node = hfjson_node(j, path);
    if (!node)
        return -ENOENT;
    if (!json_is_array(node))
        return -EINVAL;
    *ret = json_array_size(node);
    return 0;
}

int hfjson_ids(const struct hfjson *j, const char *path, int64_t *ret, size_t max, size_t *ret_n)
{
    const json_t *node = hfjson_node(j, path);
    if (!node)
        return -ENOENT;
    bool list = json_is_array(node);
    size_t n = list ? json_array_size(node) : 1;
    if (n > max)
        return -E2BIG;
    for (size_t i = 0; i < n; i++)
        if (!json_is_integer(list ? json_array_get(node, i) : node))
            return -EINVAL;
    for (size_t i = 0; i < n; i++)
        ret[i] = json_integer_value(list ? json_array_get(node, i) : node);
    *ret_n = n;
    return 0;
}

static const char *type_name(const json_t *node)
{
    static const char *const names[] = {
        [JSON_OBJECT] = "an object",   [JSON_ARRAY] = "an array",     [JSON_STRING] = "a string",
        [JSON_INTEGER] = "an integer", [JSON_REAL] = "a real number", [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",
    };
    return (size_t)json_typeof(node) < ARRAY_SIZE(names) ? names[json_typeof(node)] : "null";
}

static int need_failed(const struct hfjson *j, const char *path, const char *expected, int error,
                       struct format_error *err)
{
    const json_t *node = hfjson_node(j, path);
    if (!node)
        return format_fail(err, error, "%s: \"%s\" (%s) is missing", j->path, path, expected);
    if (error == -ERANGE)
        return format_fail(err, error, "%s: \"%s\" is out of range, expected %s", j->path, path,
                           expected);
    return format_fail(err, error, "%s: \"%s\" is %s, expected %s", j->path, path, type_name(node),
                       expected);
}

int hfjson_need_u32(const struct hfjson *j, const char *path, uint32_t *ret,
                    struct format_error *err)
{
    int error = hfjson_u32(j, path, ret);
    return error ? need_failed(j, path, "an integer from 0 to 4294967295", error, err) : 0;
}

int hfjson_need_f32(const struct hfjson *j, const char *path, float *ret, struct format_error *err)
{
    int error = hfjson_f32(j, path, ret);
    return error ? need_failed(j, path, "a number", error, err) : 0;
}

int hfjson_need_string(const struct hfjson *j, const char *path, const char **ret,
                       struct format_error *err)
{
    int error = hfjson_string(j, path, ret, NULL);
    return error ? need_failed(j, path, "a string", error, err) : 0;
}
