/* UTF-8: every code point is taken, everything else is refused, ill-formed parts have the right
 * length. */
#include "tests/harness/harness.h"

#include "daemon/text/utf8.h"

TEST(utf8_takes_every_scalar_value_and_nothing_else)
{
    char text[4];
    for (uint32_t code = 0; code < 0x110000; code++) {
        bool surrogate = code >= 0xd800 && code < 0xe000;
        unsigned n = utf8_encode(code, text);
        assert_int_equal(utf8_valid(text, n), !surrogate);
        if (!surrogate) {
            assert_int_equal(utf8_decode(text), code);
            assert_int_equal(utf8_length((uint8_t)text[0]), n);
            for (unsigned k = 1; k < n; k++) {
                assert_false(utf8_valid(text, k));
                assert_int_equal(utf8_look((uint8_t *)text, k), 0);
            }
        }
    }
}

TEST(utf8_look_finds_the_maximal_ill_formed_part)
{
    static const struct {
        const char *bytes;
        size_t n;
        int look;
    } cases[] = {
        { "\x80", 1, -1 },         { "\xbf", 1, -1 },         { "\xc0\x80", 2, -1 },
        { "\xc1\xbf", 2, -1 },     { "\xf5\x80", 2, -1 },     { "\xff", 1, -1 },
        { "\xe0\x80\x80", 3, -1 }, { "\xe0\xa0\x41", 3, -2 }, { "\xed\xa0\x80", 3, -1 },
        { "\xf0\x80\x80", 3, -1 }, { "\xf4\x90\x80", 3, -1 }, { "\xf1\x80\x80\x41", 4, -3 },
        { "\xc3\x41", 2, -1 },     { "\xe2\x82", 2, 0 },      { "\xf0\x9f\x98", 3, 0 },
        { "A\xff", 2, 1 },
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        assert_int_equal(utf8_look((const uint8_t *)cases[i].bytes, cases[i].n), cases[i].look);
}

TEST(utf8_valid_looks_at_every_byte)
{
    char text[64];
    for (size_t n = 0; n < sizeof(text); n++) {
        memset(text, 'a', sizeof(text));
        assert_true(utf8_valid(text, n));
        for (size_t i = 0; i < n; i++) {
            text[i] = (char)0x80;
            assert_false(utf8_valid(text, n));
            text[i] = 'a';
        }
    }
}
