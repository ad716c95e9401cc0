/* Text to ids: identical to the reference on every text of six real vocabularies, and never a
 * control token from text that nobody trusts. */
#include "tests/harness/harness.h"

#include <errno.h>

#include "base/cleanup.h"
#include "daemon/format/gguf.h"
#include "daemon/text/encode.h"
#include "daemon/text/vocab.h"
#include "tests/daemon/text/text_data.h"

static const char *const names[] = {
    "gpt-2", "llama-spm", "deepseek-coder", "falcon", "starcoder", "refact",
};

/* The texts of ggml-vocab.inp, between lines of the separator. */
static size_t read_texts(char **ret_all, struct text_span *texts, size_t max)
{
    static const char separator[] = "\n__ggml_vocab_test__\n";
    size_t bytes, n = 0;
    char *all = read_whole(harness_data("tokenizers/ggml-vocab.inp"), &bytes), *at = all;
    while (n < max) {
        char *end = strstr(at, separator);
        texts[n++] =
            (struct text_span){ at, end ? (size_t)(end - at) : bytes - (size_t)(at - all) };
        if (!end)
            break;
        at = end + sizeof(separator) - 1;
    }
    *ret_all = all;
    return n;
}

static void compare_with_reference(const char *name)
{
    char relative[128], *all, *line;
    struct text_span texts[64];
    struct vocab *v = open_test_vocab(name);
    struct encoder *e;
    assert_ok(encoder_create(v, 4096, &e));
    size_t n = read_texts(&all, texts, 64), out_bytes;
    snprintf(relative, sizeof(relative), "tokenizers/ggml-vocab-%s.gguf.out", name);
    char *out = read_whole(harness_data(relative), &out_bytes);
    line = out;
    assert_int_equal(n, 47); /* a separator ends the last of the 46 */
    for (size_t i = 0; i < 46; i++) {
        int32_t ids[4096];
        size_t n_ids = 0, k = 0;
        assert_ok(encode_text(e, texts[i].text, texts[i].bytes, 0, NULL, ids, 4096, &n_ids));
        char *end = strchr(line, '\n'), *at = line;
        for (; at < end; k++) {
            long expected = strtol(at, &at, 10);
            while (at < end && *at == ' ')
                at++;
            if (k >= n_ids || ids[k] != expected)
                fail_msg("%s: text %zu \"%.*s\": id %zu is %d, expected %ld", name, i,
                         (int)texts[i].bytes, texts[i].text, k, k < n_ids ? ids[k] : -1, expected);
        }
        if (k != n_ids)
            fail_msg("%s: text %zu gives %zu ids, expected %zu", name, i, n_ids, k);
        line = end + 1;
    }
    free(all);
    free(out);
    encoder_free(e);
    vocab_free(v);
}

TEST(encode_text_equals_the_reference_on_real_vocabularies)
{
    if (!harness_data("tokenizers/ggml-vocab.inp"))
        skip();
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
        compare_with_reference(names[i]);
}

TEST(encode_text_answers_bad_input_with_errors)
{
    struct vocab *v = open_test_vocab("gpt-2");
    struct encoder *e;
    int32_t ids[8];
    size_t n = 99;
    if (!v)
        skip();
    assert_int_equal(encoder_create(v, 0, &e), -EINVAL);
    assert_ok(encoder_create(v, 16, &e));
    assert_int_equal(encode_text(e, "12345678901234567", 17, 0, NULL, ids, 8, &n), -EMSGSIZE);
    assert_int_equal(encode_text(e, "a\xff", 2, 0, NULL, ids, 8, &n), -EILSEQ);
    assert_int_equal(encode_text(e, "\xed\xa0\x80", 3, 0, NULL, ids, 8, &n), -EILSEQ);
    assert_int_equal(encode_text(e, "\xe2\x82", 2, 0, NULL, ids, 8, &n), -EILSEQ);
    assert_int_equal(encode_text(e, "a b c d", 7, 0, NULL, ids, 3, &n), -E2BIG);
    assert_int_equal(n, 99);
    assert_ok(encode_text(e, "a b c d", 7, 0, NULL, ids, 4, &n));
    assert_int_equal(n, 4);
    assert_ok(encode_text(e, "", 0, 0, NULL, ids, 0, &n));
    assert_int_equal(n, 0);
    assert_ok(encode_text(e, "a\0b", 3, 0, NULL, ids, 8, &n));
    assert_int_equal(n, 3);
    encoder_free(e);
    vocab_free(v);
}

TEST(encode_text_puts_bos_where_the_vocabulary_asks_for_it)
{
    struct vocab *v = open_test_vocab("llama-spm");
    struct encoder *e;
    int32_t ids[8];
    size_t n;
    if (!v)
        skip();
    assert_ok(encoder_create(v, 16, &e));
    assert_int_equal(encode_text(e, "", 0, ENCODE_BOS, NULL, ids, 0, &n), -E2BIG);
    assert_ok(encode_text(e, "", 0, ENCODE_BOS, NULL, ids, 8, &n));
    assert_int_equal(n, 1);
    assert_int_equal(ids[0], 1);
    encoder_free(e);
    vocab_free(v);
}
