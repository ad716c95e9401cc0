/* The byte alphabet: 256 characters, each stands for one byte, no other does. */
#include "tests/harness/harness.h"

#include "daemon/text/byte_level.h"
#include "daemon/text/utf8.h"

TEST(byte_level_alphabet_has_each_byte_once)
{
    int seen[256] = { 0 }, n = 0;
    for (uint32_t code = 0; code < 0x110000; code++) {
        char text[4], out[4];
        if (code >= 0xd800 && code < 0xe000)
            continue;
        size_t bytes = utf8_encode(code, text), got = byte_level_decode(text, bytes, out);
        if (got == SIZE_MAX)
            continue;
        assert_int_equal(got, 1);
        seen[(uint8_t)out[0]]++;
        n++;
    }
    assert_int_equal(n, 256);
    for (int i = 0; i < 256; i++)
        assert_int_equal(seen[i], 1);
}

TEST(byte_level_knows_the_usual_ones)
{
    char out[8];
    assert_int_equal(byte_level_decode("\xc4\xa0"
                                       "a\xc4\x8a",
                                       5, out),
                     3); /* the marks of space and newline */
    assert_memory_equal(out, " a\n", 3);
    assert_int_equal(byte_level_decode("\xc5\x83", 2, out),
                     1); /* U+0143, the last one, is byte 173 */
    assert_int_equal((uint8_t)out[0], 173);
    assert_true(byte_level_decode("a b", 3, out) == SIZE_MAX);
    assert_int_equal(byte_level_decode("", 0, out), 0);
}
