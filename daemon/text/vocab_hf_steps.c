/*
 * Owns what tokenizer.json says about the steps around the model: normalizer, pre-tokenizer and the
 * BOS of the post-processor. What is not understood is refused by name, never skipped. Start-up
 * only.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/compiler.h"
#include "daemon/format/hfjson.h"
#include "daemon/text/pretokenize.h"
#include "daemon/text/vocab_hf.h"

#define MARKER "\xe2\x96\x81"
#define GPT2_PATTERN                                                                               \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
enum { NESTING_MAX = 4 };

static bool is(const json_t *node, const char *text)
{
    const char *value = json_string_value(node);
    return value && strcmp(value, text) == 0;
}

static int refuse(const struct hf_loader *l, const char *what, const json_t *node)
{
    return format_fail(l->err, -ENOTSUP,
                       "%s: %s of type \"%.40s\" with these options is not supported",
                       hfjson_path(l->json), what, hf_type(node));
}

/* {"String": " "} or {"Regex": " "}, the space that SentencePiece's converters replace. */
static bool is_space_pattern(const json_t *pattern)
{
    return is(json_object_get(pattern, "String"), " ") ||
           is(json_object_get(pattern, "Regex"), " ");
}

static int load_normalizer(struct hf_loader *l, const json_t *node, int depth)
{
    const char *type = hf_type(node);
    if (!node || json_is_null(node))
        return 0;
    if (strcmp(type, "Sequence") == 0 && depth < NESTING_MAX) {
        json_t *item;
        size_t i;
        json_array_foreach(json_object_get(node, "normalizers"), i, item)
        {
            int error = load_normalizer(l, item, depth + 1);
            if (error)
                return error;
        }
        return 0;
    }
    if (strcmp(type, "NFC") == 0) {
        l->v->nfc = true;
        return 0;
    }
    if (strcmp(type, "Prepend") == 0 && is(json_object_get(node, "prepend"), MARKER)) {
        l->v->space = SPACE_ALWAYS;
        return 0;
    }
    if (strcmp(type, "Replace") == 0 && is_space_pattern(json_object_get(node, "pattern")) &&
        is(json_object_get(node, "content"), MARKER)) {
        l->v->metaspace = true;
        return 0;
    }
    return refuse(l, "a normalizer", node);
}

struct steps {
    struct hf_loader *l;
    bool byte_level; /* seen: what follows sees the byte alphabet */
    bool normalized; /* spaces were replaced by the normalizer: no step sees one */
};

static int add_step(struct steps *s, const char *pattern, size_t bytes,
                    enum split_behavior behavior, bool invert)
{
    char why[160];
    int error = pretokenizer_add(s->l->v->pre, pattern, bytes, behavior, invert, why, sizeof(why));
    return error ? hf_fail(s->l, error, "a split pattern of \"pre_tokenizer\"", why) : 0;
}

static int read_behavior(const json_t *node, enum split_behavior absent, enum split_behavior *ret)
{
    static const char *const names[] = { "Isolated", "Removed", "MergedWithPrevious",
                                         "MergedWithNext", "Contiguous" };
    const json_t *value = json_object_get(node, "behavior");
    *ret = absent;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        if (is(value, names[i]))
            *ret = (enum split_behavior)i;
    return !value || is(value, names[*ret]) ? 0 : -EINVAL;
}

/* A literal as a pattern: every ASCII character that is no letter or digit is escaped. */
static size_t quote(const char *text, size_t bytes, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        uint8_t c = (uint8_t)text[i];
        bool word = c >= 0x80 || (c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z');
        if (!word)
            out[n++] = '\\';
        out[n++] = text[i];
    }
    return n;
}

/* After ByteLevel only patterns that mean the same in its alphabet: digits and letters of ASCII. */
static bool plain_ascii(const char *text)
{
    for (; *text; text++)
        if ((uint8_t)*text >= 0x80 || *text <= ' ' || strchr("\\^.$", *text))
            return false;
    return true;
}

static int load_split(struct steps *s, const json_t *node)
{
    const json_t *pattern = json_object_get(node, "pattern");
    const char *regex = json_string_value(json_object_get(pattern, "Regex"));
    const char *literal = json_string_value(json_object_get(pattern, "String"));
    enum split_behavior behavior;
    bool invert = json_is_true(json_object_get(node, "invert"));
    if ((!regex && !literal) || read_behavior(node, SPLIT_ISOLATED, &behavior))
        return refuse(s->l, "a pre-tokenizer", node);
    if (s->byte_level && (!regex || !plain_ascii(regex)))
        return refuse(s->l, "a pre-tokenizer after ByteLevel", node);
    if (s->normalized) {
        if (!is_space_pattern(pattern) || invert)
            return refuse(s->l, "a pre-tokenizer after the replacement of spaces", node);
        return 0; /* there is none left to split at */
    }
    if (regex)
        return add_step(s, regex, strlen(regex), behavior, invert);
    char quoted[512];
    if (strlen(literal) > sizeof(quoted) / 2 || !*literal)
        return refuse(s->l, "a pre-tokenizer", node);
    return add_step(s, quoted, quote(literal, strlen(literal), quoted), behavior, invert);
}

static int load_byte_level(struct steps *s, const json_t *node)
{
    bool prefix = json_is_true(json_object_get(node, "add_prefix_space"));
    if (s->byte_level || s->normalized || (prefix && pretokenizer_steps(s->l->v->pre)))
        return refuse(s->l, "a pre-tokenizer", node);
    s->byte_level = true;
    s->l->v->kind = VOCAB_BYTE_LEVEL;
    if (prefix)
        s->l->v->space = SPACE_UNLESS;
    if (json_is_false(json_object_get(node, "use_regex")))
        return 0;
    return add_step(s, GPT2_PATTERN, strlen(GPT2_PATTERN), SPLIT_ISOLATED, false);
}

static int load_metaspace(struct steps *s, const json_t *node)
{
    const json_t *scheme = json_object_get(node, "prepend_scheme");
    bool old_prefix = !json_is_false(json_object_get(node, "add_prefix_space"));
    if (s->byte_level || s->normalized || pretokenizer_steps(s->l->v->pre) ||
        !is(json_object_get(node, "replacement"), MARKER))
        return refuse(s->l, "a pre-tokenizer", node);
    s->l->v->metaspace = true;
    if (scheme ? is(scheme, "always") : old_prefix)
        s->l->v->space = SPACE_UNLESS;
    else if (is(scheme, "first"))
        s->l->v->space = SPACE_AT_START;
    if (json_is_false(json_object_get(node, "split")))
        return 0;
    return add_step(s, " ", 1, SPLIT_MERGED_WITH_NEXT, false);
}

static int load_pre_tokenizer(struct steps *s, const json_t *node, int depth)
{
    const char *type = hf_type(node);
    enum split_behavior behavior;
    if (!node || json_is_null(node))
        return 0;
    if (strcmp(type, "Sequence") == 0 && depth < NESTING_MAX) {
        json_t *item;
        size_t i;
        json_array_foreach(json_object_get(node, "pretokenizers"), i, item)
        {
            int error = load_pre_tokenizer(s, item, depth + 1);
            if (error)
                return error;
        }
        return 0;
    }
    if (strcmp(type, "Split") == 0)
        return load_split(s, node);
    if (strcmp(type, "ByteLevel") == 0)
        return load_byte_level(s, node);
    if (strcmp(type, "Metaspace") == 0)
        return load_metaspace(s, node);
    if (s->byte_level || s->normalized)
        return refuse(s->l, "a pre-tokenizer", node);
    if (strcmp(type, "Digits") == 0) {
        bool each = json_is_true(json_object_get(node, "individual_digits"));
        return add_step(s, "\\p{N}", 5, each ? SPLIT_ISOLATED : SPLIT_CONTIGUOUS, false);
    }
    if (strcmp(type, "Punctuation") == 0 && read_behavior(node, SPLIT_ISOLATED, &behavior) == 0)
        return add_step(s, "[\\p{P}$+<=>^`|~]", 16, behavior, false);
    if (strcmp(type, "Whitespace") == 0)
        return add_step(s, "\\w+|[^\\w\\s]+", 13, SPLIT_REMOVED, true);
    if (strcmp(type, "WhitespaceSplit") == 0)
        return add_step(s, "\\s", 2, SPLIT_REMOVED, false);
    return refuse(s->l, "a pre-tokenizer", node);
}

/* TemplateProcessing whose single form begins with a token: that is BOS. */
static void load_post_processor(struct hf_loader *l, const json_t *node, int depth)
{
    if (strcmp(hf_type(node), "Sequence") == 0 && depth < NESTING_MAX) {
        json_t *item;
        size_t i;
        json_array_foreach(json_object_get(node, "processors"), i, item)
            load_post_processor(l, item, depth + 1);
        return;
    }
    if (strcmp(hf_type(node), "TemplateProcessing") != 0)
        return;
    const json_t *first = json_array_get(json_object_get(node, "single"), 0);
    const char *name =
        json_string_value(json_object_get(json_object_get(first, "SpecialToken"), "id"));
    if (name && hf_find(l, name) >= 0) {
        l->v->bos = hf_find(l, name);
        l->v->add_bos = true;
    }
}

int hf_load_steps(struct hf_loader *l)
{
    struct steps s = { .l = l };
    l->v->kind = VOCAB_CHARS;
    int error = load_normalizer(l, hfjson_node(l->json, "normalizer"), 0);
    if (error)
        return error;
    s.normalized = l->v->metaspace;
    if (l->v->space == SPACE_ALWAYS && !l->v->metaspace)
        return hf_fail(l, -ENOTSUP, "\"normalizer\"", "Prepend without Replace is not supported");
    if (pretokenizer_new(&l->v->pre))
        return hf_fail(l, -ENOMEM, "\"pre_tokenizer\"", "no memory");
    if ((error = load_pre_tokenizer(&s, hfjson_node(l->json, "pre_tokenizer"), 0)))
        return error;
    if (pretokenizer_steps(l->v->pre) == 0) {
        pretokenizer_free(l->v->pre);
        l->v->pre = NULL;
    }
    load_post_processor(l, hfjson_node(l->json, "post_processor"), 0);
    return 0;
}
