/* Owns the byte alphabet of byte-level vocabularies. Pure; any thread. */
#include "daemon/text/byte_level.h"

#include <stdbool.h>

#include "daemon/text/utf8.h"

static bool stands_for_itself(uint32_t code)
{
    return (code >= 33 && code <= 126) || (code >= 161 && code <= 172) ||
           (code >= 174 && code <= 255);
}

/* -1 when the character is no byte. The 68 others are 0-32, 127-160 and 173, in this order. */
static int byte_of(uint32_t code)
{
    if (stands_for_itself(code))
        return (int)code;
    if (code < 0x100 || code > 0x143)
        return -1;
    int i = (int)code - 0x100;
    return i <= 32 ? i : i <= 66 ? 127 + i - 33 : 173;
}

size_t byte_level_decode(const char *text, size_t bytes, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes; i += utf8_length((uint8_t)text[i])) {
        int byte = byte_of(utf8_decode(text + i));
        if (byte < 0)
            return SIZE_MAX;
        out[n++] = (char)byte;
    }
    return n;
}
