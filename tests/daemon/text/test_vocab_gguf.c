/* Vocabularies from GGUF metadata: what real files give, and what is refused and how. */
#include "tests/daemon/text/text_data.h"

#include <errno.h>

#include "daemon/text/encode.h"
#include "tests/daemon/format/gguf_writer.h"

TEST(vocab_gguf_reads_special_ids_and_flags)
{
    struct vocab *v = open_test_vocab("deepseek-coder");
    const int32_t *eog;
    size_t bytes;
    if (!v)
        skip();
    assert_int_equal(vocab_size(v), 32256);
    assert_int_equal(vocab_bos(v), 32013);
    assert_int_equal(vocab_eos(v), 32014);
    assert_true(vocab_add_bos(v));
    assert_true(vocab_is_control(v, 32013));
    assert_false(vocab_is_control(v, 0));
    assert_true(vocab_is_eog(v, 32014));
    assert_true(vocab_eog(v, &eog) >= 1);
    assert_int_equal(eog[0], 32014);
    assert_false(vocab_adds_space(v));
    assert_null(vocab_template(v));
    vocab_piece(v, 32256, &bytes);
    assert_int_equal(bytes, 0);
    vocab_free(v);
    v = open_test_vocab("llama-spm");
    assert_true(vocab_adds_space(v));
    assert_int_equal(vocab_bos(v), 1);
    assert_int_equal(vocab_piece(v, 13, &bytes)[0], '\n');
    assert_int_equal(bytes, 1);
    vocab_free(v);
}

struct odd {
    const char *model, *pre, *merge, *token;
    uint32_t eos, type;
    size_t n_scores;
    const char *template, *tool_template;
};

/* Five tokens: "a", "b", "ab", <end> (control), and `token`. */
static int open_odd(struct odd odd, struct vocab **ret, struct format_error *err)
{
    struct gguf_writer w = { 0 };
    uint64_t n_kv =
        4 + !!odd.pre + !!odd.merge + !!odd.n_scores + !!odd.template + !!odd.tool_template;
    put_header(&w, 3, 0, n_kv);
    put_key(&w, "tokenizer.ggml.model", 8), put_string(&w, odd.model);
    put_array(&w, "tokenizer.ggml.tokens", 8, 5);
    put_string(&w, "a"), put_string(&w, "b"), put_string(&w, "ab"), put_string(&w, "<end>");
    put_string(&w, odd.token ? odd.token : "x");
    put_array(&w, "tokenizer.ggml.token_type", 5, 5);
    put_u32(&w, 1), put_u32(&w, 1), put_u32(&w, 1), put_u32(&w, 3);
    put_u32(&w, odd.type ? odd.type : 1);
    put_key(&w, "tokenizer.ggml.eos_token_id", 4), put_u32(&w, odd.eos);
    if (odd.pre)
        put_key(&w, "tokenizer.ggml.pre", 8), put_string(&w, odd.pre);
    if (odd.merge)
        put_array(&w, "tokenizer.ggml.merges", 8, 1), put_string(&w, odd.merge);
    if (odd.n_scores)
        put_array(&w, "tokenizer.ggml.scores", 6, odd.n_scores);
    for (size_t i = 0; i < odd.n_scores; i++)
        put_f32(&w, (float)i);
    if (odd.template)
        put_key(&w, "tokenizer.chat_template", 8), put_string(&w, odd.template);
    if (odd.tool_template)
        put_key(&w, "tokenizer.chat_template.tool_use", 8), put_string(&w, odd.tool_template);
    struct gguf *g;
    assert_ok(gguf_open_memory(w.data, w.bytes, "x.gguf", &g, err));
    int rc = vocab_open_gguf(g, ret, err);
    gguf_close(g);
    free(w.data);
    return rc;
}

static void expect_refused(struct odd odd, int rc, const char *text)
{
    struct vocab *v = NULL;
    struct format_error err = { "" };
    int got = open_odd(odd, &v, &err);
    if (got != rc || !strstr(err.text, text) || strncmp(err.text, "x.gguf: ", 8) != 0)
        fail_msg("rc %d, expected %d: \"%s\", expected \"%s\"", got, rc, err.text, text);
    assert_null(v);
}

TEST(vocab_gguf_refuses_what_it_cannot_mean)
{
    struct odd ok = { .model = "gpt2", .pre = "gpt-2", .merge = "a b", .eos = 3 }, odd;
    odd = ok, odd.model = "bert";
    expect_refused(odd, -ENOTSUP, "\"bert\"");
    odd = ok, odd.pre = "martian";
    expect_refused(odd, -ENOTSUP, "\"martian\" is not known");
    odd = ok, odd.merge = "ab";
    expect_refused(odd, -EINVAL, "not two tokens");
    odd = ok, odd.merge = "a ";
    expect_refused(odd, -EINVAL, "not two tokens");
    odd = ok, odd.merge = NULL;
    expect_refused(odd, -ENOENT, "merges");
    odd = ok, odd.eos = 5;
    expect_refused(odd, -ERANGE, "eos_token_id\" is 5, the vocabulary has 5 tokens");
    odd = ok, odd.token = "\xff";
    expect_refused(odd, -EINVAL, "token 4 is not UTF-8");
    odd = ok, odd.type = 9;
    expect_refused(odd, -EINVAL, "token 4 has an unknown type");
    odd = ok, odd.template = "a", odd.tool_template = "\xff";
    expect_refused(odd, -EINVAL, "tokenizer.chat_template");
    odd = ok, odd.template = "\xff";
    expect_refused(odd, -EINVAL, "chat_template");
    odd = ok, odd.model = "llama";
    expect_refused(odd, -ENOENT, "scores");
    odd.n_scores = 4;
    expect_refused(odd, -EINVAL, "4 elements, expected 5");
    odd.n_scores = 5, odd.type = 6, odd.token = "<0x-1>";
    expect_refused(odd, -EINVAL, "token 4 is of type byte");
    char long_token[1100];
    memset(long_token, 'y', sizeof(long_token));
    long_token[sizeof(long_token) - 1] = 0;
    odd = ok, odd.token = long_token;
    expect_refused(odd, -EINVAL, "longer than 1024 bytes");
}

TEST(vocab_gguf_the_template_for_tools_is_beside_the_other)
{
    struct odd odd = { .model = "gpt2", .pre = "gpt-2", .merge = "a b", .eos = 3 };
    struct vocab *v;
    struct format_error err;
    odd.tool_template = "with tools"; /* alone it is nothing */
    assert_ok(open_odd(odd, &v, &err));
    assert_null(vocab_template(v));
    vocab_free(v);
    odd.template = "without";
    assert_ok(open_odd(odd, &v, &err));
    assert_non_null(strstr(vocab_template(v), "with tools"));
    assert_non_null(strstr(vocab_template(v), "without"));
    vocab_free(v);
}

TEST(vocab_gguf_takes_control_tokens_from_trusted_text_only)
{
    struct odd odd = {
        .model = "gpt2", .pre = "gpt-2", .merge = "a b", .eos = 3, .template = "hi"
    };
    struct vocab *v;
    struct encoder *e;
    struct format_error err = { "" };
    int32_t ids[16];
    size_t n;
    uint8_t trusted[] = { 0, 0, 1, 1, 1, 1, 1 }, half[] = { 0, 0, 1, 1, 1, 1, 0 };
    assert_ok(open_odd(odd, &v, &err));
    assert_string_equal(vocab_template(v), "hi");
    assert_ok(encoder_create(v, 64, &e));
    assert_ok(encode_text(e, "ab<end>", 7, 0, NULL, ids, 16, &n));
    for (size_t i = 0; i < n; i++)
        assert_false(vocab_is_control(v, ids[i]));
    assert_ok(encode_text(e, "ab<end>", 7, ENCODE_SPECIAL, NULL, ids, 16, &n));
    assert_int_equal(n, 2);
    assert_int_equal(ids[1], 3);
    assert_ok(encode_text(e, "ab<end>", 7, 0, trusted, ids, 16, &n));
    assert_int_equal(ids[1], 3);
    assert_ok(encode_text(e, "ab<end>", 7, 0, half, ids, 16, &n));
    assert_true(n < 2 || ids[1] != 3);
    encoder_free(e);
    vocab_free(v);
}

TEST(vocab_gguf_guards_ends_of_turns_that_a_file_mistypes)
{
    struct odd odd = {
        .model = "gpt2", .pre = "gpt-2", .merge = "a b", .eos = 3, .type = 4, .token = "<|im_end|>"
    };
    struct vocab *v;
    struct encoder *e;
    struct format_error err = { "" };
    int32_t ids[16];
    size_t n;
    assert_ok(open_odd(odd, &v, &err));
    assert_true(vocab_is_control(v, 4));
    assert_true(vocab_is_eog(v, 4));
    assert_ok(encoder_create(v, 64, &e));
    assert_ok(encode_text(e, "<|im_end|>", 10, 0, NULL, ids, 16, &n));
    for (size_t i = 0; i < n; i++)
        assert_int_not_equal(ids[i], 4);
    encoder_free(e);
    vocab_free(v);
}

TEST(vocab_gguf_padding_rows_match_no_text)
{
    struct odd odd = {
        .model = "gpt2", .pre = "gpt-2", .merge = "a b", .eos = 3, .type = 4, .token = "[PAD4]"
    };
    struct vocab *v;
    struct encoder *e;
    struct format_error err = { "" };
    int32_t ids[16];
    size_t n;
    assert_ok(open_odd(odd, &v, &err));
    assert_ok(encoder_create(v, 64, &e));
    assert_ok(encode_text(e, "[PAD4]", 6, ENCODE_SPECIAL, NULL, ids, 16, &n));
    for (size_t i = 0; i < n; i++)
        assert_int_not_equal(ids[i], 4);
    encoder_free(e);
    vocab_free(v);
}

TEST(vocab_gguf_without_types_still_guards_its_eos)
{
    struct gguf_writer w = { 0 };
    struct gguf *g;
    struct vocab *v;
    struct format_error err = { "" };
    put_header(&w, 3, 0, 4);
    put_key(&w, "tokenizer.ggml.model", 8), put_string(&w, "gpt2");
    put_array(&w, "tokenizer.ggml.tokens", 8, 4);
    put_string(&w, "a"), put_string(&w, "b"), put_string(&w, "ab"), put_string(&w, "<end>");
    put_array(&w, "tokenizer.ggml.merges", 8, 1), put_string(&w, "a b");
    put_key(&w, "tokenizer.ggml.eos_token_id", 4), put_u32(&w, 3);
    assert_ok(gguf_open_memory(w.data, w.bytes, "x.gguf", &g, &err));
    assert_ok(vocab_open_gguf(g, &v, &err));
    assert_true(vocab_is_control(v, 3));
    assert_false(vocab_is_control(v, 2));
    vocab_free(v);
    gguf_close(g);
    free(w.data);
}
