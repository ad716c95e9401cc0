/*
 * Templates: strings. Every operation carries the mark of each byte along: a string is wholly
 * trusted, wholly untrusted, or has a mask. Characters are code points, as in Python.
 */
#include "daemon/text/template_internal.h"

#include <errno.h>
#include <string.h>

#include <utf8proc.h>

struct text_builder text_begin(struct eval *e, size_t hint)
{
    struct text_builder b = { .e = e, .trust = TRUST_YES };
    b.text = template_alloc(e, hint);
    b.n_max = b.text ? (uint32_t)hint : 0;
    return b;
}

static bool text_grow(struct text_builder *b, size_t n)
{
    size_t need = (size_t)b->n + n, n_max = b->n_max;
    template_spend(b->e, n / 64);
    if (b->e->error)
        return false;
    if (need <= n_max)
        return true;
    if (need > UINT32_MAX / 2) {
        template_fail(b->e, -ENOSPC, "a string grows too long");
        return false;
    }
    n_max = max_of(need, n_max * 2);
    char *text = template_alloc(b->e, n_max);
    uint8_t *mask = b->mask ? template_alloc(b->e, n_max) : NULL;
    if (!text || (b->mask && !mask))
        return false;
    if (b->n) {
        memcpy(text, b->text, b->n);
        if (mask)
            memcpy(mask, b->mask, b->n);
    }
    b->text = text;
    b->mask = mask;
    b->n_max = (uint32_t)n_max;
    return true;
}

void text_add(struct text_builder *b, const char *s, size_t n, uint8_t trust, const uint8_t *mask)
{
    if (n == 0 || !text_grow(b, n))
        return;
    if (b->n == 0 && trust != TRUST_MIXED)
        b->trust = trust;
    if (!b->mask && trust != b->trust) {
        b->mask = template_alloc(b->e, b->n_max);
        if (!b->mask)
            return;
        memset(b->mask, b->trust, b->n);
        b->trust = TRUST_MIXED;
    }
    if (b->mask && trust == TRUST_MIXED)
        memcpy(b->mask + b->n, mask, n);
    else if (b->mask)
        memset(b->mask + b->n, trust, n);
    memcpy(b->text + b->n, s, n);
    b->n += (uint32_t)n;
}

void text_add_value(struct text_builder *b, const struct value *v)
{
    text_add(b, v->s, v->n, v->trust, v->aux);
}

void text_add_literal(struct text_builder *b, const char *s)
{
    text_add(b, s, strlen(s), TRUST_YES, NULL);
}

struct value text_end(struct text_builder *b)
{
    return (struct value){ .kind = VALUE_STRING,
                           .trust = b->mask ? TRUST_MIXED : b->trust,
                           .n = b->n,
                           .s = b->text,
                           .aux = b->mask };
}

struct value string_slice(const struct value *s, uint32_t from, uint32_t to)
{
    struct value v = *s;
    v.s = s->s + from;
    v.n = to - from;
    if (v.trust == TRUST_MIXED)
        v.aux = (const uint8_t *)s->aux + from;
    return v;
}

/* Malformed bytes cannot come from a client (checked at intake); a template's are taken singly. */
uint32_t utf8_decode(const char *s, uint32_t n, uint32_t *ret_bytes)
{
    utf8proc_int32_t c;
    utf8proc_ssize_t used = utf8proc_iterate((const utf8proc_uint8_t *)s, (utf8proc_ssize_t)n, &c);
    if (used <= 0) {
        *ret_bytes = 1;
        return 0xfffd;
    }
    *ret_bytes = (uint32_t)used;
    return (uint32_t)c;
}

uint32_t utf8_count(const char *s, uint32_t n)
{
    uint32_t count = 0, bytes;
    for (uint32_t at = 0; at < n; at += bytes, count++)
        utf8_decode(s + at, n - at, &bytes);
    return count;
}

uint32_t utf8_offset(const char *s, uint32_t n, uint32_t i)
{
    uint32_t at = 0, bytes;
    for (; at < n && i > 0; at += bytes, i--)
        utf8_decode(s + at, n - at, &bytes);
    return at;
}

bool unicode_is_space(uint32_t c)
{
    return (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x20) || c == 0x85 || c == 0xa0 ||
           c == 0x1680 || (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 ||
           c == 0x202f || c == 0x205f || c == 0x3000;
}

static bool strips(struct eval *e, const struct value *chars, const char *s, uint32_t n, uint32_t c)
{
    if (!chars || chars->kind != VALUE_STRING)
        return unicode_is_space(c);
    template_spend(e, 1 + chars->n / 64);
    return memmem(chars->s, chars->n, s, n) != NULL;
}

struct value string_strip(struct eval *e, const struct value *s, const struct value *chars,
                          bool left, bool right)
{
    uint32_t from = 0, to = s->n, bytes, c;
    while (left && from < to && !e->error) {
        c = utf8_decode(s->s + from, to - from, &bytes);
        if (!strips(e, chars, s->s + from, bytes, c))
            break;
        from += bytes;
    }
    while (right && to > from && !e->error) {
        uint32_t at = to - 1;
        while (at > from && to - at < 4 && ((unsigned char)s->s[at] & 0xc0) == 0x80)
            at--;
        c = utf8_decode(s->s + at, to - at, &bytes);
        if (at + bytes != to || !strips(e, chars, s->s + at, bytes, c))
            break;
        to = at;
    }
    return string_slice(s, from, to);
}

/* Does a word begin behind c? Jinja's filter and Python's method differ. */
static bool starts_word(enum text_case how, uint32_t c)
{
    if (how == CASE_TITLE)
        return unicode_is_space(c) || (c && c < 0x80 && strchr("-([{<", (int)c));
    utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
    return how == CASE_TITLE_METHOD && category != UTF8PROC_CATEGORY_LU &&
           category != UTF8PROC_CATEGORY_LL && category != UTF8PROC_CATEGORY_LT;
}

/* Simple case mapping, one character to one; Python also knows a few one-to-many mappings. */
struct value string_case(struct eval *e, const struct value *s, enum text_case how)
{
    struct text_builder b = text_begin(e, s->n);
    bool start = true;
    uint32_t bytes;
    for (uint32_t at = 0; at < s->n && !e->error; at += bytes) {
        uint32_t c = utf8_decode(s->s + at, s->n - at, &bytes);
        bool upper = how == CASE_UPPER || (start && how != CASE_LOWER);
        utf8proc_int32_t to = upper ? (how == CASE_UPPER ? utf8proc_toupper((utf8proc_int32_t)c)
                                                         : utf8proc_totitle((utf8proc_int32_t)c))
                                    : utf8proc_tolower((utf8proc_int32_t)c);
        char text[8];
        utf8proc_ssize_t n = utf8proc_encode_char(to, (utf8proc_uint8_t *)text);
        uint8_t trust = s->trust == TRUST_MIXED ? ((const uint8_t *)s->aux)[at] : s->trust;
        text_add(&b, text, n > 0 ? (size_t)n : 0, trust, NULL);
        start = starts_word(how, c);
    }
    return text_end(&b);
}

struct value string_replace(struct eval *e, const struct value *s, const struct value *from,
                            const struct value *to, int64_t count)
{
    struct text_builder b = text_begin(e, s->n);
    uint32_t at = 0, bytes;
    for (; count != 0 && at <= s->n && !e->error; count--) {
        uint32_t found = at;
        if (from->n) {
            const char *hit = s->n > at ? memmem(s->s + at, s->n - at, from->s, from->n) : NULL;
            if (!hit)
                break;
            found = (uint32_t)(hit - s->s);
        }
        template_spend(e, 1);
        struct value before = string_slice(s, at, found);
        text_add_value(&b, &before);
        text_add_value(&b, to);
        at = found + from->n;
        if (from->n == 0) {
            if (at >= s->n) {
                at = s->n;
                break;
            }
            utf8_decode(s->s + at, s->n - at, &bytes);
            before = string_slice(s, at, at + bytes);
            text_add_value(&b, &before);
            at += bytes;
        }
    }
    if (at < s->n) {
        struct value rest = string_slice(s, at, s->n);
        text_add_value(&b, &rest);
    }
    return text_end(&b);
}
