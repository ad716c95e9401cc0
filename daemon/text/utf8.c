/* Owns the decision what is UTF-8 and what is not. Pure; any thread. */
#include "daemon/text/utf8.h"

#include <string.h>

/* Range of the second byte, which excludes overlong forms, surrogates and what is above U+10FFFF.
 */
static int second_byte_ok(uint8_t first, uint8_t second)
{
    uint8_t lo = first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80;
    uint8_t hi = first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf;
    return second >= lo && second <= hi;
}

int utf8_look(const uint8_t *p, size_t bytes)
{
    if (p[0] < 0x80)
        return 1;
    if (p[0] < 0xc2 || p[0] > 0xf4)
        return -1;
    int length = (int)utf8_length(p[0]);
    for (int i = 1; i < length; i++) {
        if ((size_t)i == bytes)
            return 0;
        if (i == 1 ? !second_byte_ok(p[0], p[1]) : (p[i] & 0xc0) != 0x80)
            return -i;
    }
    return length;
}

bool utf8_valid(const char *text, size_t bytes)
{
    const uint8_t *p = (const uint8_t *)text, *end = p + bytes;
    while (p < end) {
        uint64_t eight;
        if (end - p >= 8 && (memcpy(&eight, p, 8), (eight & 0x8080808080808080u) == 0)) {
            p += 8;
            continue;
        }
        int length = utf8_look(p, (size_t)(end - p));
        if (length <= 0)
            return false;
        p += length;
    }
    return true;
}
