/*
 * Templates: values as text. str() and repr() as Python writes them, because that is what a
 * template that prints a list or a float was tested with; JSON as json.dumps(ensure_ascii=False).
 */
#include "daemon/text/template_internal.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <utf8proc.h>

static void add_repr(struct text_builder *b, const struct value *v);

static void add_float(struct text_builder *b, const struct value *v, bool json)
{
    char text[40];
    if (isnan(v->f) || isinf(v->f)) {
        const char *word = isnan(v->f) ? (json ? "NaN" : "nan")
                           : v->f > 0  ? (json ? "Infinity" : "inf")
                                       : (json ? "-Infinity" : "-inf");
        text_add(b, word, strlen(word), v->trust, NULL);
        return;
    }
    int digits = 1;
    for (; digits <= 17; digits++) {
        snprintf(text, sizeof(text), "%.*e", digits - 1, v->f);
        if (strtod(text, NULL) == v->f)
            break;
    }
    const char *e = strchr(text, 'e');
    int exponent = e ? (int)strtol(e + 1, NULL, 10) : 0;
    if (exponent >= -4 && exponent < 16)
        snprintf(text, sizeof(text), "%.*f", max_of(digits - 1 - exponent, 1), v->f);
    text_add(b, text, strlen(text), v->trust, NULL);
}

static void add_int(struct text_builder *b, const struct value *v)
{
    char text[24];
    int n = snprintf(text, sizeof(text), "%lld", (long long)v->i);
    text_add(b, text, (size_t)n, v->trust, NULL);
}

static uint8_t trust_at(const struct value *s, uint32_t at)
{
    return s->trust == TRUST_MIXED ? ((const uint8_t *)s->aux)[at] : s->trust;
}

static bool is_printable(uint32_t c)
{
    if (c < 0x7f)
        return c >= 0x20;
    switch (utf8proc_category((utf8proc_int32_t)c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
        return false;
    default:
        return true;
    }
}

static void add_repr_string(struct text_builder *b, const struct value *s)
{
    char quote = s->n && memchr(s->s, '\'', s->n) && !memchr(s->s, '"', s->n) ? '"' : '\'';
    uint32_t bytes;
    text_add(b, &quote, 1, TRUST_YES, NULL);
    for (uint32_t at = 0; at < s->n && !b->e->error; at += bytes) {
        uint32_t c = utf8_decode(s->s + at, s->n - at, &bytes);
        char text[16];
        if (c == '\\' || c == (uint32_t)quote)
            snprintf(text, sizeof(text), "\\%c", (char)c);
        else if (c == '\n' || c == '\r' || c == '\t')
            snprintf(text, sizeof(text), "\\%c", c == '\n' ? 'n' : c == '\r' ? 'r' : 't');
        else if (!is_printable(c))
            snprintf(text, sizeof(text),
                     c < 0x100     ? "\\x%02x"
                     : c < 0x10000 ? "\\u%04x"
                                   : "\\U%08x",
                     c);
        else
            snprintf(text, sizeof(text), "%.*s", (int)bytes, s->s + at);
        text_add(b, text, strlen(text), trust_at(s, at), NULL);
    }
    text_add(b, &quote, 1, TRUST_YES, NULL);
}

static void add_repr_list(struct text_builder *b, const struct value *v)
{
    text_add_literal(b, v->detail ? "(" : "[");
    for (uint32_t i = 0; i < v->n && !b->e->error; i++) {
        if (i > 0)
            text_add_literal(b, ", ");
        add_repr(b, &v->list[i]);
    }
    text_add_literal(b, v->detail ? (v->n == 1 ? ",)" : ")") : "]");
}

static void add_repr_dict(struct text_builder *b, const struct dict *d)
{
    text_add_literal(b, "{");
    for (uint32_t i = 0; i < d->n && !b->e->error; i++) {
        if (i > 0)
            text_add_literal(b, ", ");
        add_repr(b, &d->pairs[i].key);
        text_add_literal(b, ": ");
        add_repr(b, &d->pairs[i].value);
    }
    text_add_literal(b, "}");
}

static void add_nested(struct text_builder *b, const struct value *v)
{
    if (++b->e->depth > TEMPLATE_DEPTH_MAX)
        template_fail(b->e, -ELOOP, "values nested too deeply");
    else if (v->kind == VALUE_LIST)
        add_repr_list(b, v);
    else
        add_repr_dict(b, v->dict);
    b->e->depth--;
}

static void add_repr(struct text_builder *b, const struct value *v)
{
    template_spend(b->e, 1);
    switch (v->kind) {
    case VALUE_UNDEFINED:
        text_add_literal(b, "Undefined");
        break;
    case VALUE_NONE:
        text_add_literal(b, "None");
        break;
    case VALUE_BOOL:
        text_add_literal(b, v->i ? "True" : "False");
        break;
    case VALUE_INT:
        add_int(b, v);
        break;
    case VALUE_FLOAT:
        add_float(b, v, false);
        break;
    case VALUE_STRING:
        add_repr_string(b, v);
        break;
    case VALUE_LIST:
    case VALUE_DICT:
        add_nested(b, v);
        break;
    default:
        text_add_literal(b, "<");
        text_add_literal(b, value_kind_name(v));
        text_add_literal(b, ">");
    }
}

struct value value_to_string(struct eval *e, const struct value *v)
{
    if (v->kind == VALUE_STRING)
        return *v;
    if (v->kind == VALUE_UNDEFINED)
        return value_literal("");
    struct text_builder b = text_begin(e, 32);
    add_repr(&b, v);
    return text_end(&b);
}

/* ---- JSON ---- */

static void add_json(struct text_builder *b, const struct value *v, const struct json_style *style,
                     int level);

/* \u escapes of one character beyond ASCII. */
static void add_escaped(struct text_builder *b, uint32_t c, uint8_t trust)
{
    char text[16];
    if (c < 0x10000)
        snprintf(text, sizeof(text), "\\u%04x", c);
    else
        snprintf(text, sizeof(text), "\\u%04x\\u%04x", 0xd800 + ((c - 0x10000) >> 10),
                 0xdc00 + (c & 0x3ff));
    text_add(b, text, strlen(text), trust, NULL);
}

static void add_json_string(struct text_builder *b, const struct value *s, bool ascii)
{
    static const char chars[] = "\"\\\n\r\t\b\f", names[] = "\"\\nrtbf";
    uint32_t from = 0, at = 0, bytes;
    text_add_literal(b, "\"");
    while (at < s->n && !b->e->error) {
        unsigned char c = (unsigned char)s->s[at];
        if (c >= 0x20 && c != '"' && c != '\\' && (c < 0x7f || !ascii)) {
            at++;
            continue;
        }
        struct value plain = string_slice(s, from, at);
        text_add_value(b, &plain);
        const char *known = c ? strchr(chars, c) : NULL;
        char text[3] = { '\\', known ? names[known - chars] : '\0', '\0' };
        uint32_t character = utf8_decode(s->s + at, s->n - at, &bytes);
        if (known)
            text_add(b, text, 2, trust_at(s, at), NULL);
        else
            add_escaped(b, character, trust_at(s, at));
        at += bytes;
        from = at;
    }
    struct value rest = string_slice(s, from, at);
    text_add_value(b, &rest);
    text_add_literal(b, "\"");
}

static void add_line(struct text_builder *b, int indent, int level)
{
    static const char blanks[] = "                ";
    if (indent < 0)
        return;
    text_add_literal(b, "\n");
    for (int64_t n = (int64_t)indent * level; n > 0 && !b->e->error; n -= 16)
        text_add(b, blanks, (size_t)min_of(n, (int64_t)16), TRUST_YES, NULL);
}

static void add_json_key(struct text_builder *b, const struct value *key,
                         const struct json_style *style)
{
    struct json_style plain = *style;
    plain.indent = -1;
    if (key->kind == VALUE_STRING) {
        add_json_string(b, key, style->ascii);
        return;
    }
    text_add_literal(b, "\"");
    add_json(b, key, &plain, 0);
    text_add_literal(b, "\"");
}

/* The place of the i-th pair: as it stands, or by key. Keys that have no order fail. */
static const struct pair *pair_at(struct eval *e, const struct dict *d, uint32_t i, bool sorted,
                                  const struct pair *last)
{
    const struct pair *best = NULL;
    if (!sorted)
        return &d->pairs[i];
    for (uint32_t k = 0; k < d->n && !e->error; k++) {
        const struct pair *pair = &d->pairs[k];
        if (last && value_compare(e, &pair->key, &last->key) <= 0)
            continue;
        if (!best || value_compare(e, &pair->key, &best->key) < 0)
            best = pair;
    }
    return best;
}

static void add_json_nested(struct text_builder *b, const struct value *v,
                            const struct json_style *style, int level)
{
    bool list = v->kind == VALUE_LIST;
    uint32_t n = list ? v->n : v->dict->n;
    const struct pair *pair = NULL;
    text_add_literal(b, list ? "[" : "{");
    for (uint32_t i = 0; i < n && !b->e->error; i++) {
        if (i > 0)
            text_add_value(b, &style->item);
        add_line(b, style->indent, level + 1);
        if (!list) {
            pair = pair_at(b->e, v->dict, i, style->sort_keys, pair);
            if (!pair)
                break;
            add_json_key(b, &pair->key, style);
            text_add_value(b, &style->key);
        }
        add_json(b, list ? &v->list[i] : &pair->value, style, level + 1);
    }
    if (n > 0)
        add_line(b, style->indent, level);
    text_add_literal(b, list ? "]" : "}");
}

static void add_json(struct text_builder *b, const struct value *v, const struct json_style *style,
                     int level)
{
    template_spend(b->e, 1);
    switch (v->kind) {
    case VALUE_NONE:
        text_add_literal(b, "null");
        break;
    case VALUE_BOOL:
        text_add_literal(b, v->i ? "true" : "false");
        break;
    case VALUE_INT:
        add_int(b, v);
        break;
    case VALUE_FLOAT:
        add_float(b, v, true);
        break;
    case VALUE_STRING:
        add_json_string(b, v, style->ascii);
        break;
    case VALUE_LIST:
    case VALUE_DICT:
        if (++b->e->depth > TEMPLATE_DEPTH_MAX)
            template_fail(b->e, -ELOOP, "values nested too deeply");
        else
            add_json_nested(b, v, style, level);
        b->e->depth--;
        break;
    default:
        template_fail(b->e, -EINVAL, "%s has no JSON form", value_kind_name(v));
    }
}

struct value value_to_json(struct eval *e, const struct value *v, const struct json_style *style)
{
    struct text_builder b = text_begin(e, 64);
    add_json(&b, v, style, 0);
    return text_end(&b);
}
