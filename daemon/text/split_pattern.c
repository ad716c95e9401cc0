/* Owns the translation of split patterns from Oniguruma's dialect. Pure; start-up only. */
#include "daemon/text/split_pattern.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/cleanup.h"
#include "base/compiler.h"
#include "daemon/text/utf8.h"

#define SPACES                                                                                     \
    "\\t-\\r "                                                                                     \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NO_SPACES                                                                                  \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}!-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"      \
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{"   \
    "10ffff}"

/* Oniguruma's word characters, with its Latin-1 exceptions; and what \W is to it within a class. */
#define WORDS                                                                                      \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}"                        \
    "\\x{24b6}-\\x{24e9}\\x{1f130}-\\x{1f149}\\x{1f150}-\\x{1f169}\\x{1f170}-\\x{1f189}"
#define NO_WORDS             "\\p{Z}\\p{C}\\p{S}\\p{No}\\p{Pd}\\p{Ps}\\p{Pe}\\p{Pi}\\p{Pf}\\p{Po}"
#define BEFORE_AND(positive) "(?<" positive "[" WORDS "])"
#define AFTER_AND(positive)  "(?" positive "[" WORDS "])"

#define BOTH(before, after)  BEFORE_AND(before) AFTER_AND(after)
#define BOUNDARY             "(?:" BOTH("=", "!") "|" BOTH("!", "=") ")"
#define NO_BOUNDARY          "(?:" BOTH("=", "=") "|" BOTH("!", "!") ")"

/* What one escape becomes inside of a class, and outside; NULL: it stays. */
static const struct {
    char escape;
    const char *in_class, *outside;
} replacements[] = {
    { 's', SPACES, "[" SPACES "]" },
    { 'S', NO_SPACES, "[^" SPACES "]" },
    { 'h', "0-9a-fA-F", "[0-9a-fA-F]" },
    { 'H', NULL, "[^0-9a-fA-F]" },
    { 'w', WORDS, "[" WORDS "]" },
    { 'W', NO_WORDS, "[^" WORDS "]" },
    { 'b', NULL, BOUNDARY },
    { 'B', NULL, NO_BOUNDARY },
};

enum { GROUPS_MAX = 100, REPLACEMENT_BYTES_MAX = 400 };
static_assert(sizeof(NO_BOUNDARY) <= 2 * REPLACEMENT_BYTES_MAX, "an escape has two bytes");

struct rewriter {
    const char *pattern;
    size_t bytes, at;
    char *out;
    size_t n, capacity;
    int depth;                /* of character classes */
    size_t atom;              /* where what a quantifier would repeat begins in out */
    size_t group[GROUPS_MAX]; /* where the open groups begin */
    int n_group;
};

static char peek(const struct rewriter *r, size_t ahead)
{
    return r->bytes - r->at > ahead ? r->pattern[r->at + ahead] : 0;
}

/* Room was made for the longest replacement of every byte. */
static void put(struct rewriter *r, const char *text, size_t bytes)
{
    assert(bytes <= r->capacity - r->n);
    memcpy(r->out + r->n, text, bytes);
    r->n += bytes;
}

static void copy(struct rewriter *r, size_t bytes)
{
    bytes = min_of(bytes, r->bytes - r->at);
    put(r, r->pattern + r->at, bytes);
    r->at += bytes;
}

static void rewrite_escape(struct rewriter *r)
{
    char escape = peek(r, 1);
    size_t hex = 0;
    for (size_t i = 0; i < ARRAY_SIZE(replacements); i++) {
        const char *instead = r->depth ? replacements[i].in_class : replacements[i].outside;
        if (replacements[i].escape == escape && instead) {
            put(r, instead, strlen(instead));
            r->at += 2;
            return;
        }
    }
    while (hex < 4 && isxdigit((unsigned char)peek(r, 2 + hex)))
        hex++;
    if (escape == 'u' && hex == 4) {
        put(r, "\\x{", 3);
        put(r, r->pattern + r->at + 2, 4);
        put(r, "}", 1);
        r->at += 6;
        return;
    }
    bool braced = (escape == 'p' || escape == 'P' || escape == 'x') && peek(r, 2) == '{';
    copy(r, 1 + (escape ? utf8_length((uint8_t)escape) : 1));
    while (braced && r->at < r->bytes && r->pattern[r->at - 1] != '}')
        copy(r, 1);
}

/* Classes within classes are unions: their inner brackets go. */
static int rewrite_open(struct rewriter *r)
{
    if (r->depth && peek(r, 1) == ':') {
        do
            copy(r, 1);
        while (r->at < r->bytes && r->pattern[r->at - 1] != ']');
        return 0;
    }
    if (r->depth++) {
        r->at++;
        return peek(r, 0) == '^' ? -ENOTSUP : 0;
    }
    copy(r, 1);
    if (peek(r, 0) == '^')
        copy(r, 1);
    if (peek(r, 0) == ']') {
        put(r, "\\", 1);
        copy(r, 1);
    }
    return 0;
}

static int rewrite_in_class(struct rewriter *r)
{
    char c = peek(r, 0);
    if (c == '[')
        return rewrite_open(r);
    if (c == '&' && peek(r, 1) == '&')
        return -ENOTSUP;
    if (c == '\\')
        rewrite_escape(r);
    else if (c == ']' && --r->depth)
        r->at++;
    else
        copy(r, 1);
    return 0;
}

/* {n,m} at `at`: its length; 0 when it is literal text. */
static size_t interval(const struct rewriter *r)
{
    size_t i = 1, digits = 0, commas = 0;
    for (; isdigit((unsigned char)peek(r, i)) || peek(r, i) == ','; i++) {
        digits += peek(r, i) != ',';
        commas += peek(r, i) == ',';
    }
    return peek(r, i) == '}' && digits && commas <= 1 ? i + 1 : 0;
}

/* {,m} is {0,m}; a + after an interval repeats it, where PCRE2 would make it possessive. */
static void rewrite_interval(struct rewriter *r, size_t bytes)
{
    if (peek(r, 1) == ',') {
        put(r, "{0", 2);
        r->at++;
        bytes--;
    }
    copy(r, bytes);
    if (peek(r, 0) != '+')
        return;
    put(r, ")???", 4);
    r->n -= 3;
    memmove(r->out + r->atom + 3, r->out + r->atom, r->n - r->atom);
    memcpy(r->out + r->atom, "(?:", 3);
    r->n += 3;
    copy(r, 1);
}

static int rewrite_outside(struct rewriter *r)
{
    char c = peek(r, 0);
    size_t bytes = c == '{' ? interval(r) : 0;
    if (bytes) {
        rewrite_interval(r, bytes);
        return 0;
    }
    if (c == '*' || c == '+' || c == '?' || c == '|') {
        copy(r, 1);
        return 0;
    }
    if (c == ')') {
        r->n_group -= r->n_group > 0;
        r->atom = r->group[r->n_group];
        copy(r, 1);
        return 0;
    }
    r->atom = r->n;
    if (c == '(') {
        if (r->n_group == GROUPS_MAX)
            return -E2BIG;
        r->group[r->n_group++] = r->n;
        copy(r, peek(r, 1) == '?' ? 2 : 1);
        return 0;
    }
    if (c == '[')
        return rewrite_open(r);
    if (c == '\\')
        rewrite_escape(r);
    else
        copy(r, utf8_length((uint8_t)c));
    return 0;
}

int split_pattern_rewrite(const char *pattern, size_t bytes, char **ret, size_t *ret_bytes)
{
    if (!utf8_valid(pattern, bytes))
        return -EINVAL;
    struct rewriter r = { .pattern = pattern, .bytes = bytes };
    r.capacity = (bytes + 1) * REPLACEMENT_BYTES_MAX;
    auto_free char *out = r.out = malloc(r.capacity);
    int error = out ? 0 : -ENOMEM;
    while (!error && r.at < bytes)
        error = r.depth ? rewrite_in_class(&r) : rewrite_outside(&r);
    if (error)
        return error;
    *ret = steal_ptr(&out);
    *ret_bytes = r.n;
    return 0;
}
