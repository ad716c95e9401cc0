/* What the tests of text share: reading files of the shared data and opening their vocabularies. */
#ifndef RINGLET_TESTS_TEXT_DATA_H
#define RINGLET_TESTS_TEXT_DATA_H

#include "tests/harness/harness.h"

#include "daemon/format/gguf.h"
#include "daemon/text/vocab.h"

struct text_span {
    const char *text;
    size_t bytes;
};

/* A whole file, with a NUL after it; freed by the caller. Fails the test when it is not there. */
static inline char *read_whole(const char *path, size_t *ret_bytes)
{
    FILE *file = path ? fopen(path, "rb") : NULL;
    if (!file)
        fail_msg("cannot read %s", path ? path : "(no data)");
    fseek(file, 0, SEEK_END);
    size_t bytes = (size_t)ftell(file);
    rewind(file);
    char *all = malloc(bytes + 1);
    if (!all || fread(all, 1, bytes, file) != bytes)
        fail_msg("cannot read %s", path);
    fclose(file);
    all[bytes] = 0;
    *ret_bytes = bytes;
    return all;
}

/* "gpt-2" and its sisters; fails the test when the file is there but refused, NULL without data. */
static inline struct vocab *open_test_vocab(const char *name)
{
    char relative[128];
    struct gguf *g;
    struct vocab *v = NULL;
    struct format_error err = { "" };
    snprintf(relative, sizeof(relative), "tokenizers/ggml-vocab-%s.gguf", name);
    const char *path = harness_data(relative);
    if (!path)
        return NULL;
    if (gguf_open(path, &g, &err) || vocab_open_gguf(g, &v, &err))
        fail_msg("%s", err.text);
    gguf_close(g);
    return v;
}

#endif
