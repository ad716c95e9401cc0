/* Vocabularies in memory: look-up by text and id, merges, ends of generation.
 * mirrors: daemon/text/vocab_bytes.c */
#include "tests/harness/harness.h"

#include <errno.h>

#include "daemon/text/encode.h"
#include "daemon/text/vocab_internal.h"

static struct vocab *example(void)
{
    struct vocab *v;
    assert_ok(vocab_new(7, &v));
    v->kind = VOCAB_BYTE_LEVEL;
    assert_ok(vocab_set_piece(v, 0, "a", 1, PIECE_NORMAL));
    assert_ok(vocab_set_piece(v, 1, "b", 1, PIECE_NORMAL));
    assert_ok(vocab_set_piece(v, 2, "ab", 2, PIECE_NORMAL));
    assert_ok(vocab_set_piece(v, 3, "<|im_end|>", 10, PIECE_CONTROL));
    assert_ok(vocab_set_piece(v, 4, "ba", 2, PIECE_CONTROL));
    assert_ok(vocab_set_piece(v, 5, "user", 4, PIECE_USER_DEFINED));
    assert_ok(vocab_index(v));
    return v;
}

TEST(vocab_finds_pieces_by_text_and_id)
{
    struct vocab *v = example();
    size_t bytes;
    assert_int_equal(vocab_size(v), 7);
    assert_memory_equal(vocab_piece(v, 2, &bytes), "ab", 2);
    assert_int_equal(bytes, 2);
    static const int32_t outside[] = { -1, 7, INT32_MAX, INT32_MIN, 6 };
    for (size_t i = 0; i < 5; i++) {
        assert_non_null(vocab_piece(v, outside[i], &bytes));
        assert_int_equal(bytes, 0);
        assert_false(vocab_is_control(v, outside[i]));
    }
    assert_int_equal(vocab_find(v, "ab", 2), 2);
    assert_int_equal(vocab_find(v, "user", 4), 5);
    assert_int_equal(vocab_find(v, "<|im_end|>", 10), 3);
    assert_int_equal(vocab_find(v, "zz", 2), -1);
    assert_int_equal(vocab_find(v, "", 0), -1);
    assert_int_equal(vocab_lookup(v, "<|im_end|>", 10), -1); /* no text may merge into it */
    vocab_free(v);
}

TEST(vocab_merges_only_into_tokens_that_text_may_be)
{
    struct vocab *v = example();
    assert_ok(vocab_reserve_merges(v, 4));
    vocab_add_merge(v, "a", 1, "b", 1, 0);
    vocab_add_merge(v, "b", 1, "a", 1, 1); /* a control token */
    vocab_add_merge(v, "a", 1, "x", 1, 2); /* no token */
    vocab_add_merge(v, "a", 1, "b", 1, 3); /* again */
    assert_int_equal(v->merges_used, 1);
    assert_int_equal(v->merges_dropped, 3);
    assert_non_null(vocab_merge(v, 0, 1));
    assert_int_equal(vocab_merge(v, 0, 1)->id, 2);
    assert_int_equal(vocab_merge(v, 0, 1)->rank, 0);
    assert_null(vocab_merge(v, 1, 0));
    vocab_free(v);
}

TEST(vocab_keeps_ends_of_generation_once)
{
    struct vocab *v = example();
    const int32_t *eog;
    vocab_add_eog(v, 2);
    vocab_add_eog(v, 2);
    vocab_add_eog(v, -1);
    vocab_add_eog(v, 99);
    vocab_add_eog_by_name(v);
    assert_int_equal(vocab_eog(v, &eog), 2);
    assert_int_equal(eog[1], 3);
    assert_true(vocab_is_eog(v, 3));
    assert_false(vocab_is_eog(v, 0));
    vocab_free(v);
}

TEST(vocab_refuses_long_pieces_and_bad_templates)
{
    struct vocab *v = example();
    char text[PIECE_BYTES_MAX + 1] = "";
    assert_int_equal(vocab_set_piece(v, 6, text, sizeof(text), PIECE_NORMAL), -E2BIG);
    assert_int_equal(vocab_set_template(v, "a\0b", 3), -EINVAL);
    assert_int_equal(vocab_set_template(v, "\xff", 1), -EINVAL);
    assert_null(vocab_template(v));
    assert_ok(vocab_set_template(v, "xyz", 2));
    assert_string_equal(vocab_template(v), "xy");
    vocab_free(v);
}

TEST(vocab_helpers_read_their_notations)
{
    char out[16];
    assert_int_equal(vocab_parse_byte("<0x0A>", 6), 10);
    assert_int_equal(vocab_parse_byte("<0xfF>", 6), -1);
    assert_int_equal(vocab_parse_byte("<0x-1>", 6), -1);
    assert_int_equal(vocab_parse_byte("<0x0A", 5), -1);
    assert_int_equal(vocab_split_merge("ab c", 4), 2);
    assert_int_equal(vocab_split_merge("abc", 3), 0);
    assert_int_equal(vocab_split_merge("ab ", 3), 0);
    assert_int_equal(vocab_split_merge(" a b", 4), 2);
    assert_int_equal(vocab_unescape_spaces("\xe2\x96\x81x\xe2\x96", 6, out), 4);
    assert_memory_equal(out, " x\xe2\x96", 4);
}

TEST(vocab_of_raw_bytes_has_bytes_and_nothing_else)
{
    static const char text[] = "\xc3\xa4<eos>";
    const int32_t *eog;
    struct vocab *v;
    struct encoder *e;
    int32_t ids[32];
    size_t n;
    assert_ok(vocab_open_raw_bytes(&v));
    assert_int_equal(vocab_size(v), 256);
    assert_int_equal(vocab_bos(v), -1);
    assert_int_equal(vocab_eos(v), -1);
    assert_int_equal(vocab_eog(v, &eog), 0);
    vocab_piece(v, 128000, &n); /* of a model with more */
    assert_int_equal(n, 0);
    assert_ok(encoder_create(v, 32, &e));
    assert_ok(encode_text(e, text, 7, ENCODE_SPECIAL, NULL, ids, 32, &n));
    assert_int_equal(n, 7);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(ids[i], (uint8_t)text[i]);
    encoder_free(e);
    vocab_free(v);
}

TEST(vocab_of_bytes_gives_each_byte_its_id)
{
    static const char text[] = "a\xc3\xa4\0<bos>";
    struct vocab *v;
    struct encoder *e;
    int32_t ids[32];
    size_t n;
    assert_ok(vocab_open_bytes(&v));
    assert_ok(encoder_create(v, 32, &e));
    assert_ok(encode_text(e, text, 9, 0, NULL, ids, 32, &n));
    assert_int_equal(n, 9);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(ids[i], (uint8_t)text[i]);
    assert_ok(encode_text(e, text, 9, ENCODE_SPECIAL, NULL, ids, 32, &n));
    assert_int_equal(n, 5);
    assert_int_equal(ids[4], vocab_bos(v));
    encoder_free(e);
    vocab_free(v);
}
