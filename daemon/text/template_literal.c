/* Templates, second stage: string and number literals, with Python's escapes and prefixes. */
#include "daemon/text/template_parse.h"

#include <stdlib.h>
#include <string.h>

/* UTF-8 of c into the pool. */
static void pool_character(struct parser *p, uint32_t c)
{
    char s[4];
    uint32_t n = 0;
    if (c < 0x80) {
        s[n++] = (char)c;
    } else if (c < 0x800) {
        s[n++] = (char)(0xc0 | c >> 6);
        s[n++] = (char)(0x80 | (c & 63));
    } else if (c < 0x10000) {
        s[n++] = (char)(0xe0 | c >> 12);
        s[n++] = (char)(0x80 | (c >> 6 & 63));
        s[n++] = (char)(0x80 | (c & 63));
    } else {
        s[n++] = (char)(0xf0 | c >> 18);
        s[n++] = (char)(0x80 | (c >> 12 & 63));
        s[n++] = (char)(0x80 | (c >> 6 & 63));
        s[n++] = (char)(0x80 | (c & 63));
    }
    parse_to_pool(p, s, n);
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* s is behind the backslash, n > 0 bytes are left; returns the bytes taken. */
static uint32_t pool_escape(struct parser *p, const char *s, uint32_t n)
{
    static const char from[] = "ntrabfv\\'\"", to[] = "\n\t\r\a\b\f\v\\'\"";
    const char *known = s[0] ? strchr(from, s[0]) : NULL;
    if (known) {
        parse_to_pool(p, &to[known - from], 1);
        return 1;
    }
    if (s[0] == '\n')
        return 1;
    if (s[0] >= '0' && s[0] <= '7') {
        uint32_t c = 0, i = 0;
        for (; i < 3 && i < n && s[i] >= '0' && s[i] <= '7'; i++)
            c = c * 8 + (uint32_t)(s[i] - '0');
        pool_character(p, c);
        return i;
    }
    uint32_t digits = s[0] == 'x' ? 2 : s[0] == 'u' ? 4 : s[0] == 'U' ? 8 : 0;
    if (!digits) {
        parse_to_pool(p, "\\", 1);
        return 0;
    }
    uint32_t c = 0;
    for (uint32_t i = 1; i <= digits; i++) {
        int digit = i < n ? hex_digit(s[i]) : -1;
        if (digit < 0 || c > 0x10ffff) {
            parse_fail(p, "a bad \\%c escape", s[0]);
            return n;
        }
        c = c << 4 | (uint32_t)digit;
    }
    if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        parse_fail(p, "an escape that names no character");
    else
        pool_character(p, c);
    return digits + 1;
}

uint32_t parse_string(struct parser *p)
{
    uint32_t off = p->t->pool_bytes;
    uint32_t node = parse_node(p, NODE_STR, off, 0, 0);
    while (p->token.type == TOKEN_STRING) {
        const char *s = p->t->src + p->token.off;
        for (uint32_t i = 0; i < p->token.bytes && !p->error;) {
            const char *stop = memchr(s + i, '\\', p->token.bytes - i);
            uint32_t plain = stop ? (uint32_t)(stop - s) - i : p->token.bytes - i;
            parse_to_pool(p, s + i, plain);
            i += plain;
            if (i + 1 < p->token.bytes)
                i += 1 + pool_escape(p, s + i + 1, p->token.bytes - i - 1);
        }
        parse_advance(p);
    }
    if (!p->error)
        p->t->nodes[node].b = p->t->pool_bytes - off;
    return node;
}

uint32_t parse_number(struct parser *p)
{
    char digits[64];
    uint32_t n = 0;
    const char *s = p->t->src + p->token.off;
    for (uint32_t i = 0; i < p->token.bytes && n < sizeof(digits) - 1; i++) {
        if (s[i] != '_')
            digits[n++] = s[i];
    }
    digits[n] = '\0';
    bool is_float = p->token.type == TOKEN_FLOAT;
    uint64_t bits = 0;
    char *end = digits;
    errno = 0;
    if (is_float) {
        double f = strtod(digits, &end);
        memcpy(&bits, &f, sizeof(bits));
    } else {
        bool prefixed = digits[0] == '0' && n > 2;
        int base = !prefixed                   ? 10
                   : (digits[1] | 0x20) == 'x' ? 16
                   : (digits[1] | 0x20) == 'o' ? 8
                   : (digits[1] | 0x20) == 'b' ? 2
                                               : 10;
        bits = (uint64_t)strtoll(base == 10 || base == 16 ? digits : digits + 2, &end, base);
    }
    if (*end || (errno && !is_float))
        return parse_fail(p, "the number %s is out of range", digits);
    uint32_t node =
        parse_node(p, is_float ? NODE_FLOAT : NODE_INT, (uint32_t)bits, (uint32_t)(bits >> 32), 0);
    parse_advance(p);
    return node;
}
