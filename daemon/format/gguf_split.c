/*
 * Owns files that were split: NAME-00001-of-0000N.gguf holds the metadata, every part its own
 * tensors. Each part is checked like a file of its own, and then whether they belong together.
 * Start-up only.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/format/gguf_internal.h"

/* The path of part part_i (from 0), or -EINVAL when the first one is not named as a first part. */
static int part_path(const struct gguf *g, uint32_t part_i, uint32_t n, char **ret)
{
    char tail[64];
    int tail_bytes = snprintf(tail, sizeof(tail), "-%05u-of-%05u.gguf", 1u, n);
    size_t bytes = strlen(g->path), stem = bytes - (size_t)tail_bytes;
    if (bytes < (size_t)tail_bytes || strcmp(g->path + stem, tail) != 0)
        return -EINVAL;
    if (asprintf(ret, "%.*s-%05u-of-%05u.gguf", (int)stem, g->path, part_i + 1, n) < 0) {
        *ret = NULL;
        return -ENOMEM;
    }
    return 0;
}

static int check_part(const struct gguf *g, const struct gguf *part, uint32_t part_i, uint32_t n,
                      struct format_error *err)
{
    uint32_t no = 0, count = 0;
    gguf_u32(part, "split.no", &no);
    gguf_u32(part, "split.count", &count);
    if (no != part_i || count != n)
        return format_fail(err, -EINVAL,
                           "%s: says that it is part %u of %u, expected part %u of %u of %s",
                           part->path, no + 1, count, part_i + 1, n, g->path);
    return 0;
}

static int take_tensors(struct gguf *g, struct format_error *err)
{
    uint64_t total = g->n_tensor;
    int64_t expected;
    for (uint32_t i = 0; i < g->n_parts; i++)
        total += g->parts[i]->n_tensor;
    if (gguf_i64(g, "split.tensors.count", &expected) == 0 && expected != (int64_t)total)
        return format_fail(err, -EINVAL,
                           "%s: key \"split.tensors.count\" is %lld, the parts have %llu tensors",
                           g->path, (long long)expected, (unsigned long long)total);
    struct gguf_tensor *tensors = calloc(total + 1, sizeof(*tensors));
    const struct gguf_tensor **by_name = calloc(total + 1, sizeof(*by_name));
    if (total > UINT32_MAX || !tensors || !by_name) {
        free(tensors);
        free(by_name);
        return format_fail(err, -ENOMEM, "%s: no memory for the tensors", g->path);
    }
    uint32_t n = 0;
    for (uint32_t part = 0; part <= g->n_parts; part++) {
        const struct gguf *from = part ? g->parts[part - 1] : g;
        for (uint32_t i = 0; i < from->n_tensor; i++) {
            tensors[n] = from->tensors[i];
            tensors[n].part = part;
            by_name[n] = &tensors[n];
            n++;
        }
    }
    free(g->tensors);
    free(g->by_name);
    g->tensors = tensors;
    g->by_name = by_name;
    g->n_tensor = n;
    return gguf_sort_names(g, err);
}

int gguf_join_parts(struct gguf *g, struct format_error *err)
{
    uint32_t n = 1, no = 0;
    gguf_u32(g, "split.count", &n);
    gguf_u32(g, "split.no", &no);
    if (n <= 1)
        return 0;
    if (n > GGUF_PARTS_MAX)
        return format_fail(err, -EINVAL, "%s: key \"split.count\" is %u, at most %d parts are read",
                           g->path, n, GGUF_PARTS_MAX);
    if (no != 0)
        return format_fail(err, -EINVAL, "%s: this is part %u of %u; give the first part", g->path,
                           no + 1, n);
    g->parts = calloc(n, sizeof(*g->parts));
    if (!g->parts)
        return format_fail(err, -ENOMEM, "%s: no memory", g->path);
    for (uint32_t i = 1; i < n; i++) {
        auto_free char *path = NULL;
        int error = part_path(g, i, n, &path);
        if (error)
            return format_fail(err, error,
                               "%s: the first part of %u must be named NAME-00001-of-%05u.gguf",
                               g->path, n, n);
        if ((error = gguf_open_one(path, &g->parts[g->n_parts], err)))
            return error;
        g->n_parts++;
        if ((error = check_part(g, g->parts[g->n_parts - 1], i, n, err)))
            return error;
    }
    return take_tensors(g, err);
}
