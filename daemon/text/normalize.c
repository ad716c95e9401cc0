/* Owns NFC. Pure; any thread. */
#include "daemon/text/normalize.h"

#include <stdbool.h>
#include <string.h>
#include <utf8proc.h>

#include "base/assert.h"
#include "daemon/text/utf8.h"

static unsigned combining_class(int32_t code)
{
    return (unsigned)utf8proc_get_property(code)->combining_class;
}

static void sort_short(int32_t *run, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        int32_t code = run[i];
        unsigned class = combining_class(code);
        size_t k = i;
        for (; k > 0 && combining_class(run[k - 1]) > class; k--)
            run[k] = run[k - 1];
        run[k] = code;
    }
}

/* Stable, by class; counting sort, for there are 255 classes. */
static void sort_long(int32_t *run, size_t n, int32_t *scratch)
{
    size_t at[257] = { 0 };
    for (size_t i = 0; i < n; i++)
        at[combining_class(run[i]) + 1]++;
    for (int i = 1; i < 257; i++)
        at[i] += at[i - 1];
    for (size_t i = 0; i < n; i++)
        scratch[at[combining_class(run[i])]++] = run[i];
    memcpy(run, scratch, n * sizeof(*run));
}

static void order_marks(int32_t *codes, size_t n, int32_t *scratch)
{
    for (size_t i = 0; i < n;) {
        if (combining_class(codes[i]) == 0) {
            i++;
            continue;
        }
        size_t end = i + 1;
        while (end < n && combining_class(codes[end]) != 0)
            end++;
        if (end - i <= 16)
            sort_short(codes + i, end - i);
        else
            sort_long(codes + i, end - i, scratch);
        i = end;
    }
}

/* Nothing below U+0300 changes, and no character below it takes part unless one above follows. */
static bool all_below_marks(const char *text, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        if ((uint8_t)text[i] >= 0xcc)
            return false;
    return true;
}

size_t normalize_nfc(const char *text, size_t bytes, int32_t *codes, int32_t *sorted, char *out)
{
    if (all_below_marks(text, bytes)) {
        memcpy(out, text, bytes);
        return bytes;
    }
    size_t n = 0, n_out = 0, n_max = NFC_CODES_MAX(bytes);
    for (size_t i = 0; i < bytes; i += utf8_length((uint8_t)text[i])) {
        int last_class = 0;
        int32_t code = (int32_t)utf8_decode(text + i);
        utf8proc_ssize_t got =
            utf8proc_decompose_char(code, codes + n, (utf8proc_ssize_t)(n_max - n),
                                    UTF8PROC_DECOMPOSE | UTF8PROC_STABLE, &last_class);
        assert(got > 0 && (size_t)got <= n_max - n);
        n += (size_t)got;
    }
    order_marks(codes, n, sorted);
    utf8proc_ssize_t kept =
        utf8proc_normalize_utf32(codes, (utf8proc_ssize_t)n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
    assert(kept >= 0);
    for (utf8proc_ssize_t i = 0; i < kept; i++)
        n_out += utf8_encode((uint32_t)codes[i], out + n_out);
    assert(n_out <= NFC_BYTES_MAX(bytes));
    return n_out;
}
