/* UTF-8: validity, stepping through checked text, and sorting out unchecked bytes. Any thread. */
#ifndef RINGLET_TEXT_UTF8_H
#define RINGLET_TEXT_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* No surrogates, no overlong forms, nothing above U+10FFFF; NUL is a character. */
bool utf8_valid(const char *text, size_t bytes);

/*
 * What the first bytes are: > 0 the length of a whole character; 0 the beginning of one that more
 * bytes may complete; < 0 not UTF-8, and its negated value is the length of the maximal ill-formed
 * part that one U+FFFD stands for (the Unicode standard's practice, and Python's).
 * bytes must be > 0.
 */
int utf8_look(const uint8_t *p, size_t bytes);

/* Length of the character that begins at p, in text known to be valid. */
static inline unsigned utf8_length(uint8_t first)
{
    return first < 0x80 ? 1 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
}

/* The code point at p, in text known to be valid. */
static inline uint32_t utf8_decode(const char *text)
{
    const uint8_t *p = (const uint8_t *)text;
    switch (utf8_length(p[0])) {
    case 1:
        return p[0];
    case 2:
        return (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu);
    case 3:
        return (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu);
    default:
        return (p[0] & 0x07u) << 18 | (p[1] & 0x3fu) << 12 | (p[2] & 0x3fu) << 6 | (p[3] & 0x3fu);
    }
}

/* Writes 1 to 4 bytes and returns how many; code must be a scalar value. */
static inline unsigned utf8_encode(uint32_t code, char *out)
{
    uint8_t *p = (uint8_t *)out;
    if (code < 0x80) {
        p[0] = (uint8_t)code;
        return 1;
    }
    if (code < 0x800) {
        p[0] = (uint8_t)(0xc0 | code >> 6);
        p[1] = (uint8_t)(0x80 | (code & 0x3f));
        return 2;
    }
    if (code < 0x10000) {
        p[0] = (uint8_t)(0xe0 | code >> 12);
        p[1] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
        p[2] = (uint8_t)(0x80 | (code & 0x3f));
        return 3;
    }
    p[0] = (uint8_t)(0xf0 | code >> 18);
    p[1] = (uint8_t)(0x80 | (code >> 12 & 0x3f));
    p[2] = (uint8_t)(0x80 | (code >> 6 & 0x3f));
    p[3] = (uint8_t)(0x80 | (code & 0x3f));
    return 4;
}

#endif
