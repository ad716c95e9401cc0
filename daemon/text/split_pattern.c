/* Owns the translation of split patterns from Oniguruma's dialect. Pure; start-up only. */
#include "daemon/text/split_pattern.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "daemon/text/utf8.h"

#define SPACES                                                                                     \
    "\\t-\\r "                                                                                     \
    "\\x{85}\\x{a0}\\x{1680}\\x{2000}-\\x{200a}\\x{2028}\\x{2029}\\x{202f}\\x{205f}\\x{3000}"
#define NO_SPACES                                                                                  \
    "\\x{0}-\\x{8}\\x{e}-\\x{1f}!-\\x{84}\\x{86}-\\x{9f}\\x{a1}-\\x{167f}\\x{1681}-\\x{1fff}"      \
    "\\x{200b}-\\x{2027}\\x{202a}-\\x{202e}\\x{2030}-\\x{205e}\\x{2060}-\\x{2fff}\\x{3001}-\\x{"   \
    "10ffff}"

/* What one escape becomes; the same inside of a class and outside of it, but for the brackets. */
static const char *replacement(char escape, bool in_class)
{
    switch (escape) {
    case 's':
        return in_class ? SPACES : "[" SPACES "]";
    case 'S':
        return in_class ? NO_SPACES : "[^" SPACES "]";
    case 'h':
        return in_class ? "0-9a-fA-F" : "[0-9a-fA-F]";
    case 'H':
        return in_class ? NULL : "[^0-9a-fA-F]";
    default:
        return NULL;
    }
}

static bool is_hex4(const char *p, size_t bytes)
{
    return bytes >= 4 && strspn(p, "0123456789abcdefABCDEF") >= 4;
}

int split_pattern_rewrite(const char *pattern, size_t bytes, char **ret, size_t *ret_bytes)
{
    if (!utf8_valid(pattern, bytes))
        return -EINVAL;
    auto_free char *copy = strndup(pattern, bytes); /* strspn needs the end */
    auto_free char *text = NULL;
    FILE *out = copy ? open_memstream(&text, ret_bytes) : NULL;
    if (!out)
        return -ENOMEM;
    int depth = 0;
    for (size_t i = 0; i < bytes; i++) {
        char c = pattern[i];
        if (c == '\\' && i + 1 < bytes) {
            char escape = pattern[++i];
            const char *instead = replacement(escape, depth > 0);
            if (instead) {
                fputs(instead, out);
            } else if (escape == 'u' && i < strlen(copy) && is_hex4(copy + i + 1, bytes - i - 1)) {
                fprintf(out, "\\x{%.4s}", pattern + i + 1);
                i += 4;
            } else {
                fputc(c, out);
                fputc(escape, out);
            }
            continue;
        }
        if (c == '[')
            depth = depth > 0 ? depth : 1; /* PCRE2 has no nested classes */
        else if (c == ']')
            depth = 0;
        fputc(c, out);
    }
    if (fclose(out) != 0)
        return -ENOMEM;
    *ret = steal_ptr(&text);
    return 0;
}
