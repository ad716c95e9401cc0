/* JSON on a stream. No state, any thread with a stream of its own. */
#include "tools/ringlet/json_out.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Bytes of the character at s, 0 when it is not well-formed UTF-8. */
static size_t character(const unsigned char *s, size_t n)
{
    size_t bytes = s[0] < 0x80   ? 1
                   : s[0] < 0xc2 ? 0
                   : s[0] < 0xe0 ? 2
                   : s[0] < 0xf0 ? 3
                   : s[0] < 0xf5 ? 4
                                 : 0;
    if (bytes == 0 || bytes > n)
        return 0;
    for (size_t i = 1; i < bytes; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    }
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] >= 0xa0) ||
        (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] >= 0x90))
        return 0;
    return bytes;
}

void out_string(FILE *to, const char *text, size_t bytes)
{
    static const char chars[] = "\"\\\n\r\t\b\f", names[] = "\"\\nrtbf";
    const unsigned char *s = (const unsigned char *)text;
    putc('"', to);
    for (size_t at = 0; at < bytes;) {
        size_t n = character(s + at, bytes - at);
        const char *known = s[at] ? strchr(chars, s[at]) : NULL;
        if (n == 0)
            fputs("\xef\xbf\xbd", to);
        else if (known && n == 1)
            fprintf(to, "\\%c", names[known - chars]);
        else if (s[at] < 0x20)
            fprintf(to, "\\u%04x", s[at]);
        else
            fwrite(s + at, 1, n, to);
        at += n ? n : 1;
    }
    putc('"', to);
}

void out_float(FILE *to, float f)
{
    char text[32];
    if (!isfinite(f)) {
        fputs("null", to);
        return;
    }
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, (double)f);
        if (strtof(text, NULL) == f)
            break;
    }
    fputs(text, to);
}

void out_ids(FILE *to, const uint32_t *ids, size_t n)
{
    putc('[', to);
    for (size_t i = 0; i < n; i++)
        fprintf(to, "%s%u", i ? "," : "", ids[i]);
    putc(']', to);
}
