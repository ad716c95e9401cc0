/*
 * Owns reading a vocabulary from GGUF metadata (tokenizer.ggml.*). The getters of format/ have
 * checked the bytes; what is checked here is what they mean. Start-up only.
 */
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "daemon/format/gguf.h"
#include "daemon/text/byte_level.h"
#include "daemon/text/pretokenize.h"
#include "daemon/text/utf8.h"
#include "daemon/text/vocab.h"
#include "daemon/text/vocab_internal.h"

#define KEY(name)  "tokenizer.ggml." name
#define TOKENS_MAX (1u << 24)

struct loader {
    const struct gguf *g;
    struct vocab *v;
    struct format_error *err;
};

static int fail_token(const struct loader *l, int rc, int32_t id, const char *why)
{
    return format_fail(l->err, rc, "%s: key \"" KEY("tokens") "\": token %d %s", gguf_path(l->g),
                       id, why);
}

/* The converter fills unused rows with "[PAD<id>]": no text should turn into them. */
static bool is_padding(struct gguf_text text, int32_t id)
{
    char name[32];
    snprintf(name, sizeof(name), "[PAD%d]", id);
    return gguf_text_is(text, name);
}

static int add_piece(const struct loader *l, int32_t id, struct gguf_text text, int64_t type)
{
    char raw[PIECE_BYTES_MAX];
    struct vocab *v = l->v;
    size_t bytes = text.bytes;
    if (type < PIECE_NONE || type > PIECE_BYTE)
        return fail_token(l, -EINVAL, id, "has an unknown type");
    if (!utf8_valid(text.data, text.bytes))
        return fail_token(l, -EINVAL, id, "is not UTF-8");
    if (text.bytes > sizeof(raw))
        return fail_token(l, -EINVAL, id, "is longer than 1024 bytes");
    if (type == PIECE_BYTE && v->kind != VOCAB_BYTE_LEVEL) {
        int byte = vocab_parse_byte(text.data, text.bytes);
        if (byte < 0)
            return fail_token(l, -EINVAL, id, "is of type byte, but not written as <0xNN>");
        raw[0] = (char)byte;
        return vocab_set_piece(v, id, raw, 1, PIECE_BYTE);
    }
    if (type == PIECE_USER_DEFINED && is_padding(text, id))
        type = PIECE_UNUSED;
    if (v->kind == VOCAB_BYTE_LEVEL && type == PIECE_NORMAL) {
        size_t decoded = byte_level_decode(text.data, text.bytes, raw);
        if (decoded != SIZE_MAX)
            return vocab_set_piece(v, id, raw, decoded, PIECE_NORMAL);
        type = PIECE_UNUSED; /* not in the byte alphabet: no text can reach it */
    } else if (v->kind == VOCAB_SCORES && type != PIECE_CONTROL) {
        bytes = vocab_unescape_spaces(text.data, text.bytes, raw);
        return vocab_set_piece(v, id, raw, bytes, (unsigned)type);
    }
    return vocab_set_piece(v, id, text.data, bytes, (unsigned)type);
}

static int load_pieces(const struct loader *l, struct gguf_array tokens)
{
    struct gguf_array types = { 0 };
    struct gguf_text text;
    int error = gguf_array(l->g, KEY("token_type"), &types);
    if (error && error != -ENOENT)
        return format_fail(l->err, error, "%s: key \"" KEY("token_type") "\" is no array",
                           gguf_path(l->g));
    if (!error && types.n != (uint64_t)l->v->n)
        return format_fail(l->err, -EINVAL,
                           "%s: key \"" KEY("token_type") "\" has %" PRIu64
                                                          " elements, expected %d",
                           gguf_path(l->g), types.n, l->v->n);
    bool typed = !error;
    for (int32_t id = 0; id < l->v->n; id++) {
        int64_t type = PIECE_NORMAL;
        if (typed && gguf_array_i64(&types, (uint64_t)id, &type))
            return format_fail(l->err, -EINVAL,
                               "%s: key \"" KEY("token_type") "\" is no array of integers",
                               gguf_path(l->g));
        error = gguf_array_next_string(&tokens, &text);
        if (error || (error = add_piece(l, id, text, type)))
            return error;
    }
    return 0;
}

static int load_merges(const struct loader *l)
{
    struct gguf_array merges;
    struct gguf_text text;
    char left[PIECE_BYTES_MAX], right[PIECE_BYTES_MAX];
    int error = gguf_need_array(l->g, KEY("merges"), GGUF_STRING, &merges, l->err);
    if (error)
        return error;
    if (merges.n > TOKENS_MAX || vocab_reserve_merges(l->v, (uint32_t)merges.n))
        return format_fail(l->err, -ENOMEM, "%s: no memory for the merges", gguf_path(l->g));
    uint32_t rank = 0;
    for (; gguf_array_next_string(&merges, &text) == 0; rank++) {
        size_t first = vocab_split_merge(text.data, text.bytes), second = text.bytes - first - 1;
        const char *gap = text.data + first;
        if (first == 0 || !utf8_valid(text.data, text.bytes))
            return format_fail(l->err, -EINVAL,
                               "%s: key \"" KEY("merges") "\": element %u is not two tokens "
                                                          "with a space between",
                               gguf_path(l->g), rank);
        size_t n_left = first > sizeof(left) ? SIZE_MAX : byte_level_decode(text.data, first, left);
        size_t n_right =
            second > sizeof(right) ? SIZE_MAX : byte_level_decode(gap + 1, second, right);
        if (n_left != SIZE_MAX && n_right != SIZE_MAX)
            vocab_add_merge(l->v, left, n_left, right, n_right, rank);
    }
    if (rank / 2 > l->v->merges_used)
        return format_fail(
            l->err, -EINVAL,
            "%s: key \"" KEY("merges") "\": only %u of %u merge tokens of the vocabulary",
            gguf_path(l->g), l->v->merges_used, rank);
    return 0;
}

struct scored {
    float score;
    int32_t id;
};

static int compare_scored(const void *a, const void *b)
{
    const struct scored *x = a, *y = b;
    return (x->score < y->score) - (x->score > y->score);
}

static int load_scores(const struct loader *l)
{
    struct gguf_array scores;
    struct vocab *v = l->v;
    int error = gguf_need_array(l->g, KEY("scores"), GGUF_F32, &scores, l->err);
    if (error)
        return error;
    if (scores.n != (uint64_t)v->n)
        return format_fail(l->err, -EINVAL,
                           "%s: key \"" KEY("scores") "\" has %" PRIu64 " elements, expected %d",
                           gguf_path(l->g), scores.n, v->n);
    auto_free struct scored *order = malloc((size_t)v->n * sizeof(*order));
    v->score_rank = malloc((size_t)v->n * sizeof(*v->score_rank));
    if (!order || !v->score_rank)
        return format_fail(l->err, -ENOMEM, "%s: no memory for the scores", gguf_path(l->g));
    for (int32_t id = 0; id < v->n; id++) {
        order[id] = (struct scored){ 0, id };
        if (gguf_array_f32(&scores, (uint64_t)id, &order[id].score) || isnan(order[id].score))
            return format_fail(l->err, -EINVAL,
                               "%s: key \"" KEY("scores") "\": element %d is no number",
                               gguf_path(l->g), id);
    }
    qsort(order, (size_t)v->n, sizeof(*order), compare_scored);
    for (int32_t i = 0; i < v->n; i++) {
        bool same = i > 0 && order[i].score == order[i - 1].score;
        v->score_rank[order[i].id] = same ? v->score_rank[order[i - 1].id] : (uint32_t)i;
    }
    return 0;
}

static int load_id(const struct loader *l, const char *key, int32_t absent, int32_t *ret)
{
    uint32_t id;
    *ret = absent < l->v->n ? absent : -1;
    int error = gguf_u32(l->g, key, &id);
    if (error == -ENOENT)
        return 0;
    if (error == -ERANGE || (!error && id == UINT32_MAX))
        return 0; /* converters write -1 for "none" */
    if (error)
        return format_fail(l->err, error, "%s: key \"%s\" is no integer", gguf_path(l->g), key);
    if (id >= (uint32_t)l->v->n)
        return format_fail(l->err, -ERANGE, "%s: key \"%s\" is %u, the vocabulary has %d tokens",
                           gguf_path(l->g), key, id, l->v->n);
    *ret = (int32_t)id;
    return 0;
}

static int load_special(const struct loader *l)
{
    struct vocab *v = l->v;
    bool scores = v->kind == VOCAB_SCORES;
    int32_t eot, eom;
    int error;
    if ((error = load_id(l, KEY("bos_token_id"), scores ? 1 : -1, &v->bos)) ||
        (error = load_id(l, KEY("eos_token_id"), scores ? 2 : -1, &v->eos)) ||
        (error = load_id(l, KEY("unknown_token_id"), scores ? 0 : -1, &v->unk)) ||
        (error = load_id(l, KEY("eot_token_id"), -1, &eot)) ||
        (error = load_id(l, KEY("eom_token_id"), -1, &eom)))
        return error;
    vocab_make_control(v, v->bos);
    vocab_make_control(v, v->eos);
    vocab_make_control(v, eot);
    vocab_add_eog(v, v->eos);
    vocab_add_eog(v, eot);
    vocab_add_eog(v, eom);
    vocab_add_eog_by_name(v);
    for (int32_t id = 0; id < v->n; id++) {
        unsigned type = v->piece[id].type;
        if (type == PIECE_CONTROL || type == PIECE_UNKNOWN)
            error = vocab_add_special(v, id, SPECIAL_CONTROL);
        else if (type == PIECE_USER_DEFINED)
            error = vocab_add_special(v, id, 0);
        if (error)
            return format_fail(l->err, error, "%s: no memory for the special tokens",
                               gguf_path(l->g));
    }
    return 0;
}

static int load_flags(const struct loader *l)
{
    struct vocab *v = l->v;
    struct gguf_text text;
    bool space = v->kind == VOCAB_SCORES, flag;
    v->add_bos = v->kind == VOCAB_SCORES || v->add_bos;
    if (gguf_bool(l->g, KEY("add_bos_token"), &flag) == 0)
        v->add_bos = flag;
    gguf_bool(l->g, KEY("add_space_prefix"), &space);
    v->space = space && v->kind == VOCAB_SCORES ? SPACE_ALWAYS : SPACE_NEVER;
    if (gguf_kv_find(l->g, KEY("precompiled_charsmap")))
        return format_fail(l->err, -ENOTSUP,
                           "%s: key \"" KEY("precompiled_charsmap") "\": normalizing by a "
                                                                    "table is not supported",
                           gguf_path(l->g));
    if (gguf_bool(l->g, KEY("remove_extra_whitespaces"), &flag) == 0 && flag)
        return format_fail(l->err, -ENOTSUP,
                           "%s: key \"" KEY("remove_extra_whitespaces") "\" is true, which is "
                                                                        "not supported",
                           gguf_path(l->g));
    int error = gguf_string(l->g, "tokenizer.chat_template", &text);
    if (error == -ENOENT)
        return 0;
    if (!error)
        error = vocab_set_template(v, text.data, text.bytes);
    if (!error && gguf_string(l->g, "tokenizer.chat_template.tool_use", &text) == 0)
        error = vocab_set_tool_template(v, text.data, text.bytes);
    return error ? format_fail(l->err, error,
                               "%s: key \"tokenizer.chat_template\" is no UTF-8 string",
                               gguf_path(l->g))
                 : 0;
}

static int load_pre(const struct loader *l)
{
    struct gguf_text pre = { "default", 7 };
    int error = gguf_string(l->g, KEY("pre"), &pre);
    if (error && error != -ENOENT)
        return format_fail(l->err, error, "%s: key \"" KEY("pre") "\" is no string",
                           gguf_path(l->g));
    struct pretokenize_family family;
    error = pretokenizer_family(pre.data, pre.bytes, &l->v->pre, &family);
    if (error == -ENOENT)
        return format_fail(l->err, -ENOTSUP,
                           "%s: key \"" KEY("pre") "\": the split pattern \"%.*s\" is not known",
                           gguf_path(l->g), (int)min_of(pre.bytes, 64), pre.data);
    if (error)
        return format_fail(l->err, error, "%s: split pattern: %s", gguf_path(l->g),
                           strerror(-error));
    l->v->nfc = family.nfc;
    l->v->ignore_merges = family.ignore_merges;
    l->v->add_bos = family.add_bos;
    return 0;
}

int vocab_open_gguf(const struct gguf *g, struct vocab **ret, struct format_error *err)
{
    struct gguf_text model;
    struct gguf_array tokens;
    int error = gguf_need_string(g, KEY("model"), &model, err);
    if (error || (error = gguf_need_array(g, KEY("tokens"), GGUF_STRING, &tokens, err)))
        return error;
    bool byte_level = gguf_text_is(model, "gpt2");
    if (!byte_level && !gguf_text_is(model, "llama"))
        return format_fail(err, -ENOTSUP,
                           "%s: key \"" KEY("model") "\" is \"%.*s\"; \"gpt2\" and \"llama\" are "
                                                     "supported",
                           gguf_path(g), (int)min_of(model.bytes, 64), model.data);
    if (tokens.n == 0 || tokens.n > TOKENS_MAX)
        return format_fail(err, -EINVAL,
                           "%s: key \"" KEY("tokens") "\" has %" PRIu64
                                                      " elements, expected 1 to %u",
                           gguf_path(g), tokens.n, TOKENS_MAX);
    auto_call(vocab_free) struct vocab *v = NULL;
    if (vocab_new((int32_t)tokens.n, &v))
        return format_fail(err, -ENOMEM, "%s: no memory for the vocabulary", gguf_path(g));
    v->kind = byte_level ? VOCAB_BYTE_LEVEL : VOCAB_SCORES;
    v->metaspace = !byte_level;
    struct loader l = { g, v, err };
    if (byte_level && (error = load_pre(&l)))
        return error;
    if ((error = load_pieces(&l, tokens)))
        return error;
    if ((error = vocab_index(v)))
        return format_fail(err, error, "%s: no memory for the vocabulary", gguf_path(g));
    error = byte_level ? load_merges(&l) : load_scores(&l);
    if (error || (error = load_special(&l)) || (error = load_flags(&l)))
        return error;
    vocab_find_word_ends(v);
    *ret = steal_ptr(&v);
    return 0;
}
