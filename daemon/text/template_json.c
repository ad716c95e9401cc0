/*
 * Templates: a strict JSON reader into the arena. Strings without escapes point into the text that
 * was read, which the caller keeps for the rendering. Nothing that comes from here is trusted.
 */
#include "daemon/text/template_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define JSON_DEPTH_MAX 64

struct reader {
    struct eval *e;
    const char *json, *what;
    size_t bytes, pos;
    uint32_t depth;
};

static struct value read_value(struct reader *r);

static struct value bad(struct reader *r, const char *why)
{
    template_fail(r->e, -EINVAL, "%s: byte %zu: %s", r->what, r->pos, why);
    r->pos = r->bytes;
    return value_none();
}

static char peek(const struct reader *r)
{
    return r->pos < r->bytes ? r->json[r->pos] : '\0';
}

static char skip_to(struct reader *r)
{
    while (r->pos < r->bytes && strchr(" \t\r\n", r->json[r->pos]) && r->json[r->pos])
        r->pos++;
    return peek(r);
}

static bool take(struct reader *r, const char *word)
{
    size_t n = strlen(word);
    if (r->bytes - r->pos < n || memcmp(r->json + r->pos, word, n) != 0)
        return false;
    r->pos += n;
    return true;
}

static int32_t read_hex4(struct reader *r)
{
    int32_t c = 0;
    for (int i = 0; i < 4; i++, r->pos++) {
        char d = peek(r);
        int digit = d >= '0' && d <= '9'                     ? d - '0'
                    : (d | 0x20) >= 'a' && (d | 0x20) <= 'f' ? (d | 0x20) - 'a' + 10
                                                             : -1;
        if (digit < 0)
            return -1;
        c = c << 4 | digit;
    }
    return c;
}

static uint32_t put_utf8(char *to, uint32_t c)
{
    if (c < 0x80) {
        to[0] = (char)c;
        return 1;
    }
    uint32_t n = c < 0x800 ? 2 : c < 0x10000 ? 3 : 4;
    for (uint32_t i = n - 1; i > 0; i--, c >>= 6)
        to[i] = (char)(0x80 | (c & 63));
    to[0] = (char)((0xf00 >> n) | c);
    return n;
}

/* Behind `\u`; -1 for half a surrogate pair or no hex. */
static int32_t read_unicode(struct reader *r)
{
    int32_t c = read_hex4(r);
    if (c < 0xd800 || c >= 0xe000)
        return c;
    if (c >= 0xdc00 || !take(r, "\\u"))
        return -1;
    int32_t low = read_hex4(r);
    return low < 0xdc00 || low >= 0xe000 ? -1 : 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
}

static struct value read_escaped(struct reader *r, size_t from, size_t to)
{
    static const char names[] = "\"\\/bfnrt", chars[] = "\"\\/\b\f\n\r\t";
    char *text = template_alloc(r->e, to - from);
    uint32_t n = 0;
    if (!text)
        return value_none();
    for (r->pos = from; r->pos < to;) {
        char c = r->json[r->pos++];
        if (c != '\\') {
            text[n++] = c;
            continue;
        }
        char name = r->json[r->pos++];
        const char *known = strchr(names, name);
        if (name == 'u') {
            int32_t u = read_unicode(r);
            if (u < 0)
                return bad(r, "a \\u escape that names no character");
            n += put_utf8(text + n, (uint32_t)u);
        } else if (name && known) {
            text[n++] = chars[known - names];
        } else {
            return bad(r, "an unknown escape");
        }
    }
    r->pos = to + 1;
    return value_text(text, n, false);
}

static struct value read_string(struct reader *r)
{
    size_t from = ++r->pos;
    bool escaped = false;
    for (; r->pos < r->bytes && r->json[r->pos] != '"'; r->pos++) {
        if ((unsigned char)r->json[r->pos] < 0x20)
            return bad(r, "a control character in a string");
        if (r->json[r->pos] == '\\') {
            escaped = true;
            r->pos++;
        }
    }
    if (r->pos >= r->bytes)
        return bad(r, "a string without its closing quote");
    size_t to = r->pos++;
    template_spend(r->e, (to - from) / 64);
    if (escaped)
        return read_escaped(r, from, to);
    return value_text(r->json + from, to - from, false);
}

static void digits(struct reader *r)
{
    while (peek(r) >= '0' && peek(r) <= '9')
        r->pos++;
}

static struct value read_number(struct reader *r)
{
    size_t from = r->pos;
    bool is_float = false;
    r->pos += peek(r) == '-';
    if (peek(r) < '0' || peek(r) > '9')
        return bad(r, "expected a value");
    if (peek(r) == '0')
        r->pos++;
    else
        digits(r);
    if (peek(r) == '.') {
        is_float = true;
        r->pos++;
        if (peek(r) < '0' || peek(r) > '9')
            return bad(r, "a number without digits behind its point");
        digits(r);
    }
    if ((peek(r) | 0x20) == 'e') {
        is_float = true;
        r->pos++;
        r->pos += peek(r) == '+' || peek(r) == '-';
        if (peek(r) < '0' || peek(r) > '9')
            return bad(r, "a number without digits in its exponent");
        digits(r);
    }
    char text[352];
    size_t n = r->pos - from;
    if (n >= sizeof(text))
        return bad(r, "a number that is too long");
    memcpy(text, r->json + from, n);
    text[n] = '\0';
    errno = 0;
    int64_t i = is_float ? 0 : strtoll(text, NULL, 10);
    if (!is_float && errno == 0)
        return value_int(i, false);
    /* Integers beyond 64 bits become floats. */
    return value_float(strtod(text, NULL), false);
}

/* Elements are counted by growing a chain first, since the arena cannot give back. */
struct element {
    struct value key, value;
    struct element *next;
};

/* Behind `[` or `{`. Returns the number of elements. */
static uint32_t read_elements(struct reader *r, char close, struct element **ret_first)
{
    struct element **link = ret_first;
    uint32_t n = 0;
    *ret_first = NULL;
    r->pos++;
    if (skip_to(r) == close) {
        r->pos++;
        return 0;
    }
    while (!r->e->error) {
        struct element *element = template_alloc(r->e, sizeof(*element));
        if (!element)
            return 0;
        *element = (struct element){ 0 };
        if (close == '}') {
            if (skip_to(r) != '"')
                return (void)bad(r, "expected a member's name"), 0;
            element->key = read_string(r);
            if (skip_to(r) != ':')
                return (void)bad(r, "expected a colon"), 0;
            r->pos++;
        }
        element->value = read_value(r);
        *link = element;
        link = &element->next;
        n++;
        char c = skip_to(r);
        r->pos++;
        if (c == close)
            return n;
        if (c != ',')
            return (void)bad(r, "expected a comma or the end of the list"), 0;
    }
    return 0;
}

static struct value read_nested(struct reader *r, bool list)
{
    struct element *element;
    if (++r->depth > JSON_DEPTH_MAX)
        return bad(r, "nested too deeply");
    uint32_t n = read_elements(r, list ? ']' : '}', &element);
    r->depth--;
    if (r->e->error)
        return value_none();
    if (list) {
        struct value v = value_list(r->e, n);
        for (uint32_t i = 0; i < v.n; i++, element = element->next)
            v.list[i] = element->value;
        return v;
    }
    struct value v = value_dict(r->e, VALUE_DICT, n);
    if (v.kind != VALUE_DICT)
        return v;
    for (; element; element = element->next)
        dict_set(r->e, v.dict, &element->key, &element->value);
    return v;
}

static struct value read_value(struct reader *r)
{
    template_spend(r->e, 1);
    switch (skip_to(r)) {
    case '{':
        return read_nested(r, false);
    case '[':
        return read_nested(r, true);
    case '"':
        return read_string(r);
    case 't':
        return take(r, "true") ? value_bool(true) : bad(r, "expected a value");
    case 'f':
        return take(r, "false") ? value_bool(false) : bad(r, "expected a value");
    case 'n':
        return take(r, "null") ? value_none() : bad(r, "expected a value");
    default:
        return read_number(r);
    }
}

struct value value_from_json(struct eval *e, const char *json, size_t bytes, const char *what)
{
    struct reader r = { .e = e, .json = json, .bytes = bytes, .what = what };
    if (bytes > UINT32_MAX / 4)
        return bad(&r, "too long");
    struct value v = read_value(&r);
    if (!e->error && (skip_to(&r), r.pos < r.bytes))
        return bad(&r, "something follows the value");
    return v;
}
