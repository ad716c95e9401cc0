/* NFC: the same as libutf8proc's own, idempotent, and linear where that is not. */
#include "tests/harness/harness.h"

#include <utf8proc.h>

#include "daemon/text/normalize.h"
#include "daemon/text/utf8.h"

static size_t nfc(const char *text, size_t bytes, char *out)
{
    int32_t *codes = malloc(2 * NFC_CODES_MAX(bytes) * sizeof(*codes));
    size_t n = normalize_nfc(text, bytes, codes, codes + NFC_CODES_MAX(bytes), out);
    free(codes);
    return n;
}

TEST(normalize_nfc_knows_the_usual_cases)
{
    static const char *const cases[][2] = {
        { "", "" },
        { "abc", "abc" },
        { "e\xcc\x81", "\xc3\xa9" },                                /* e + acute */
        { "\xe2\x84\xab", "\xc3\x85" },                             /* angstrom sign */
        { "\xe1\x84\x80\xe1\x85\xa1\xe1\x86\xa8", "\xea\xb0\x81" }, /* jamo */
        { "a\xcc\x88\xcc\xa3", "\xe1\xba\xa1\xcc\x88" },            /* marks in the wrong order */
        { "\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc" },             /* excluded from composition */
        { "\xef\xac\x81", "\xef\xac\x81" },                         /* a ligature stays */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char out[64];
        size_t n = nfc(cases[i][0], strlen(cases[i][0]), out);
        assert_int_equal(n, strlen(cases[i][1]));
        assert_memory_equal(out, cases[i][1], n);
    }
}

TEST(normalize_nfc_equals_the_library_on_random_text)
{
    uint64_t s = harness_seed();
    for (int round = 0; round < 20000; round++) {
        char text[256], out[NFC_BYTES_MAX(256)], again[3 * NFC_BYTES_MAX(256)];
        size_t bytes = 0, n_char = harness_rand(&s) % 48;
        for (size_t i = 0; i < n_char; i++) {
            static const uint32_t from[] = { 0x41,   0xc0,   0x300,  0x316,  0x1100,  0x1160,
                                             0x11a7, 0xac00, 0x900,  0x1f80, 0x1d158, 0xfb1d,
                                             0x2126, 0x3099, 0x304b, 0x5d0,  0x590 };
            uint32_t base = from[harness_rand(&s) % (sizeof(from) / sizeof(from[0]))];
            uint32_t code = harness_rand(&s) % 8 ? base + (uint32_t)(harness_rand(&s) % 48)
                                                 : (uint32_t)(harness_rand(&s) % 0x10ffff);
            if ((code < 0xd800 || code >= 0xe000) && code)
                bytes += utf8_encode(code, text + bytes);
        }
        utf8proc_uint8_t *expected = NULL;
        utf8proc_ssize_t want =
            utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)bytes, &expected,
                         UTF8PROC_STABLE | UTF8PROC_COMPOSE);
        size_t got = nfc(text, bytes, out);
        assert_int_equal(got, want);
        assert_memory_equal(out, expected, got);
        assert_int_equal(nfc(out, got, again), got);
        free(expected);
    }
}

TEST(normalize_nfc_is_linear_in_marks)
{
    enum { MARKS = 4000000 }; /* bubbled it would take hours */
    char *text = malloc(2 * MARKS), *out = malloc(NFC_BYTES_MAX(2 * MARKS));
    for (size_t i = 0; i < MARKS; i++)
        memcpy(text + 2 * i, i % 2 ? "\xcc\x96" : "\xcc\x80", 2);
    assert_int_equal(nfc(text, 2 * MARKS, out), 2 * MARKS);
    assert_memory_equal(out, "\xcc\x96\xcc\x96", 4);
    free(text);
    free(out);
}
