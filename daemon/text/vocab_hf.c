/*
 * Owns reading a vocabulary from tokenizer.json: model, added tokens, merges. The steps before and
 * after them are in vocab_hf_steps.c, the other files of the folder in vocab_hf_config.c. Start-up
 * only.
 */
#include "daemon/text/vocab_hf.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "daemon/format/hfjson.h"
#include "daemon/text/byte_level.h"
#include "daemon/text/utf8.h"

#define TOKENS_MAX (1 << 24)

int hf_fail(const struct hf_loader *l, int rc, const char *what, const char *why)
{
    return format_fail(l->err, rc, "%s: %s: %s", hfjson_path(l->json), what, why);
}

const char *hf_type(const json_t *node)
{
    const char *type = json_string_value(json_object_get(node, "type"));
    return type ? type : "";
}

static int check_model(const struct hf_loader *l, const json_t *model)
{
    static const char *const empty[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    const char *type = hf_type(model);
    if (!json_is_object(model) || !json_is_object(json_object_get(model, "vocab")))
        return hf_fail(l, -EINVAL, "\"model\"", "no vocabulary in it");
    if (*type && strcmp(type, "BPE") != 0)
        return format_fail(l->err, -ENOTSUP,
                           "%s: \"model.type\" is \"%.32s\"; \"BPE\" is supported",
                           hfjson_path(l->json), type);
    for (size_t i = 0; i < ARRAY_SIZE(empty); i++)
        if (json_string_length(json_object_get(model, empty[i])) > 0)
            return hf_fail(l, -ENOTSUP, empty[i], "not supported");
    if (json_number_value(json_object_get(model, "dropout")) > 0)
        return hf_fail(l, -ENOTSUP, "\"model.dropout\"",
                       "not supported: ids would depend on chance");
    if (!json_is_array(json_object_get(model, "merges")))
        return hf_fail(l, -EINVAL, "\"model.merges\"", "missing");
    return 0;
}

/* An id in range, or -1. */
static int32_t id_of(const json_t *node)
{
    json_int_t id = json_is_integer(node) ? json_integer_value(node) : -1;
    return id >= 0 && id < TOKENS_MAX ? (int32_t)id : -1;
}

static int count_added(struct hf_loader *l, const json_t *added)
{
    json_t *node;
    size_t i;
    json_array_foreach(added, i, node)
    {
        int32_t id = id_of(json_object_get(node, "id"));
        if (id < 0 || json_string_length(json_object_get(node, "content")) == 0)
            return hf_fail(l, -EINVAL, "\"added_tokens\"", "one has no id or no content");
        l->n = max_of(l->n, id + 1);
    }
    return 0;
}

/* Of tokenizer.json, which is checked for what cannot be. */
static int count_tokens(struct hf_loader *l)
{
    const json_t *model = hfjson_node(l->json, "model");
    const char *text;
    json_t *node;
    int error = check_model(l, model);
    if (error)
        return error;
    json_object_foreach(json_object_get(model, "vocab"), text, node)
    {
        if (id_of(node) < 0)
            return hf_fail(l, -EINVAL, "\"model.vocab\"", "an id is no number from 0 to 16777215");
        l->n = max_of(l->n, id_of(node) + 1);
    }
    return count_added(l, hfjson_node(l->json, "added_tokens"));
}

/* The bytes that a token of the model stands for; SIZE_MAX: none that text can reach. */
static size_t raw_bytes(const struct vocab *v, const char *text, size_t bytes, char *out)
{
    if (v->kind == VOCAB_BYTE_LEVEL)
        return byte_level_decode(text, bytes, out);
    if (v->metaspace)
        return vocab_unescape_spaces(text, bytes, out);
    memcpy(out, text, bytes);
    return bytes;
}

static int load_vocab(const struct hf_loader *l, const json_t *vocab, bool byte_fallback)
{
    const char *text;
    json_t *node;
    char raw[PIECE_BYTES_MAX];
    json_object_foreach((json_t *)(uintptr_t)vocab, text, node)
    {
        size_t bytes = strlen(text), n = SIZE_MAX;
        int32_t id = id_of(node);
        unsigned type = PIECE_NORMAL;
        if (bytes > PIECE_BYTES_MAX)
            return hf_fail(l, -E2BIG, "\"model.vocab\"", "a token is longer than 1024 bytes");
        if (l->v->piece[id].type != PIECE_NONE)
            return format_fail(l->err, -EINVAL, "%s: \"model.vocab\" has the id %d twice",
                               hfjson_path(l->json), id);
        int byte = byte_fallback ? vocab_parse_byte(text, bytes) : -1;
        if (byte >= 0) {
            raw[0] = (char)byte;
            n = 1;
            type = PIECE_BYTE;
        } else {
            n = raw_bytes(l->v, text, bytes, raw);
        }
        int error = n == SIZE_MAX ? vocab_set_piece(l->v, id, text, bytes, PIECE_UNUSED)
                                  : vocab_set_piece(l->v, id, raw, n, type);
        if (error)
            return hf_fail(l, error, "\"model.vocab\"", strerror(-error));
    }
    return 0;
}

static unsigned added_flags(const json_t *node)
{
    return (json_is_true(json_object_get(node, "special")) ? SPECIAL_CONTROL : 0u) |
           (json_is_true(json_object_get(node, "lstrip")) ? SPECIAL_LSTRIP : 0u) |
           (json_is_true(json_object_get(node, "rstrip")) ? SPECIAL_RSTRIP : 0u) |
           (json_is_true(json_object_get(node, "single_word")) ? SPECIAL_SINGLE_WORD : 0u);
}

/* Their text is literal. One that the model has too stays reachable by merges unless it is special.
 */
static int load_added(const struct hf_loader *l, const json_t *added)
{
    size_t i;
    json_t *node;
    json_array_foreach(added, i, node)
    {
        const json_t *content = json_object_get(node, "content");
        int32_t id = id_of(json_object_get(node, "id"));
        unsigned flags = added_flags(node), type = l->v->piece[id].type;
        if (type == PIECE_CONTROL || type == PIECE_USER_DEFINED) /* one might be special, one not */
            return format_fail(l->err, -EINVAL, "%s: \"added_tokens\" has the id %d twice",
                               hfjson_path(l->json), id);
        int error =
            vocab_set_piece(l->v, id, json_string_value(content), json_string_length(content),
                            flags & SPECIAL_CONTROL ? PIECE_CONTROL : PIECE_USER_DEFINED);
        if (!error)
            error = vocab_add_special(l->v, id, flags);
        if (error)
            return hf_fail(l, error, "\"added_tokens\"", strerror(-error));
    }
    return 0;
}

static int merge_parts(const json_t *node, struct hf_text *left, struct hf_text *right)
{
    const char *text = json_string_value(node);
    if (text) {
        size_t bytes = json_string_length(node), gap = vocab_split_merge(text, bytes);
        *left = (struct hf_text){ text, gap };
        *right = (struct hf_text){ text + gap + 1, gap ? bytes - gap - 1 : 0 };
        return gap ? 0 : -EINVAL;
    }
    const json_t *first = json_array_get(node, 0), *second = json_array_get(node, 1);
    if (json_array_size(node) != 2 || !json_is_string(first) || !json_is_string(second))
        return -EINVAL;
    *left = (struct hf_text){ json_string_value(first), json_string_length(first) };
    *right = (struct hf_text){ json_string_value(second), json_string_length(second) };
    return 0;
}

static int load_merges(const struct hf_loader *l, const json_t *merges)
{
    char raw_left[PIECE_BYTES_MAX], raw_right[PIECE_BYTES_MAX];
    size_t rank, n = json_array_size(merges);
    json_t *node;
    if (n > TOKENS_MAX || vocab_reserve_merges(l->v, (uint32_t)n))
        return hf_fail(l, -ENOMEM, "\"model.merges\"", "too many");
    json_array_foreach(merges, rank, node)
    {
        struct hf_text left, right;
        if (merge_parts(node, &left, &right) || left.bytes > PIECE_BYTES_MAX ||
            right.bytes > PIECE_BYTES_MAX)
            return format_fail(l->err, -EINVAL,
                               "%s: \"model.merges\": element %zu is not two tokens",
                               hfjson_path(l->json), rank);
        size_t n_left = raw_bytes(l->v, left.text, left.bytes, raw_left);
        size_t n_right = raw_bytes(l->v, right.text, right.bytes, raw_right);
        if (n_left != SIZE_MAX && n_right != SIZE_MAX)
            vocab_add_merge(l->v, raw_left, n_left, raw_right, n_right, (uint32_t)rank);
    }
    if (n / 2 > l->v->merges_used)
        return format_fail(l->err, -EINVAL,
                           "%s: \"model.merges\": only %u of %zu merge tokens of the vocabulary",
                           hfjson_path(l->json), l->v->merges_used, n);
    return 0;
}

/* The id of an added token with this text, or -1. */
static int32_t find_added(const json_t *added, const char *text)
{
    json_t *node;
    size_t i;
    json_array_foreach(added, i, node)
    {
        const char *content = json_string_value(json_object_get(node, "content"));
        if (content && strcmp(content, text) == 0)
            return id_of(json_object_get(node, "id"));
    }
    return -1;
}

int32_t hf_find(const struct hf_loader *l, const char *text)
{
    int32_t id = find_added(hfjson_node(l->json, "added_tokens"), text);
    if (id < 0)
        id = find_added(l->more, text);
    return id >= 0 ? id : id_of(json_object_get(hfjson_node(l->json, "model.vocab"), text));
}

/* After count_tokens and hf_open_config. */
static int load_tokenizer(struct hf_loader *l)
{
    const json_t *model = hfjson_node(l->json, "model"),
                 *added = hfjson_node(l->json, "added_tokens");
    int error = count_added(l, l->more);
    if (error)
        return error;
    if (l->n == 0)
        return hf_fail(l, -EINVAL, "\"model.vocab\"", "empty");
    if (vocab_new(l->n, &l->v))
        return hf_fail(l, -ENOMEM, "\"model.vocab\"", "no memory");
    l->v->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    l->v->fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    bool byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    if ((error = hf_load_steps(l)) ||
        (error = load_vocab(l, json_object_get(model, "vocab"), byte_fallback)) ||
        (error = load_added(l, added)) || (error = load_added(l, l->more)))
        return error;
    if (vocab_index(l->v))
        return hf_fail(l, -ENOMEM, "\"model.vocab\"", "no memory");
    vocab_find_word_ends(l->v);
    const char *unk = json_string_value(json_object_get(model, "unk_token"));
    l->v->unk = unk ? hf_find(l, unk) : -1;
    return load_merges(l, json_object_get(model, "merges"));
}

int vocab_open_hf_memory(const char *json, size_t bytes, const char *name, struct vocab **ret,
                         struct format_error *err)
{
    auto_call(hfjson_close) struct hfjson *tokenizer = NULL;
    int error = hfjson_open_memory(json, bytes, name, &tokenizer, err);
    if (error)
        return error;
    struct hf_loader l = { .json = tokenizer, .err = err };
    error = count_tokens(&l);
    if (!error)
        error = load_tokenizer(&l);
    if (error)
        vocab_free(l.v);
    else
        *ret = l.v;
    return error;
}

int vocab_open_hf(const char *folder, struct vocab **ret, struct format_error *err)
{
    auto_call(hfjson_close) struct hfjson *tokenizer = NULL;
    int error = hfjson_open(folder, "tokenizer.json", &tokenizer, err);
    if (error == -ENOENT)
        return format_fail(
            err, error,
            "%s/tokenizer.json: missing; tokenizer.model and vocab.json are not read: "
            "save the tokenizer as tokenizer.json",
            folder);
    if (error)
        return error;
    struct hf_loader l = { .json = tokenizer, .err = err };
    error = count_tokens(&l);
    if (!error)
        error = hf_open_config(&l, folder);
    if (!error)
        error = load_tokenizer(&l);
    if (!error)
        error = hf_load_config(&l, folder);
    hf_close_config(&l);
    if (error)
        vocab_free(l.v);
    else
        *ret = l.v;
    return error;
}
