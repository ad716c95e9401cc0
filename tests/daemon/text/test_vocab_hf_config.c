/* The files beside tokenizer.json: special ids, ends of generation, chat templates. */
#include "tests/daemon/text/text_data.h"

#include <errno.h>

#include "daemon/text/encode.h"

#define TOKENIZER                                                                                  \
    "{\"added_tokens\":[{\"id\":3,\"content\":\"<s>\",\"special\":true},"                          \
    "{\"id\":4,\"content\":\"</s>\",\"special\":true},{\"id\":5,\"content\":\"<end>\","            \
    "\"special\":true}],\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},"         \
    "\"merges\":[\"a b\"]},\"pre_tokenizer\":{\"type\":\"ByteLevel\","                             \
    "\"add_prefix_space\":false}}"

static void put_file(const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", harness_tmpdir(), name);
    if (!text) {
        remove(path);
        return;
    }
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    fputs(text, out);
    fclose(out);
}

static struct vocab *open_folder(void)
{
    struct vocab *v;
    struct format_error err = { "" };
    if (vocab_open_hf(harness_tmpdir(), &v, &err))
        fail_msg("%s", err.text);
    return v;
}

static void expect_refused(const char *name, const char *text, int rc, const char *says)
{
    struct vocab *v;
    struct format_error err = { "" };
    put_file(name, text);
    int got = vocab_open_hf(harness_tmpdir(), &v, &err);
    if (got != rc || !strstr(err.text, says))
        fail_msg("%s: rc %d, expected %d: \"%s\", expected \"%s\"", text, got, rc, err.text, says);
    put_file(name, NULL);
}

TEST(vocab_hf_needs_only_tokenizer_json)
{
    const int32_t *eog;
    struct vocab *v;
    struct format_error err;
    assert_int_equal(vocab_open_hf(harness_tmpdir(), &v, &err), -ENOENT);
    assert_non_null(strstr(err.text, "tokenizer.json: missing"));
    put_file("tokenizer.json", TOKENIZER);
    v = open_folder();
    assert_int_equal(vocab_size(v), 6);
    assert_int_equal(vocab_bos(v), -1);
    assert_int_equal(vocab_eog(v, &eog), 0);
    assert_false(vocab_add_bos(v));
    assert_null(vocab_template(v));
    vocab_free(v);
}

TEST(vocab_hf_takes_the_stop_set_of_generation_config)
{
    const int32_t *eog;
    put_file("tokenizer.json", TOKENIZER);
    put_file("config.json", "{\"bos_token_id\":3,\"eos_token_id\":4}");
    struct vocab *v = open_folder();
    assert_int_equal(vocab_bos(v), 3);
    assert_int_equal(vocab_eog(v, &eog), 1);
    assert_int_equal(eog[0], 4);
    assert_int_equal(vocab_eos(v), 4);
    vocab_free(v);
    put_file("generation_config.json", "{\"eos_token_id\":[5,4]}");
    v = open_folder();
    assert_int_equal(vocab_eog(v, &eog), 2);
    assert_int_equal(eog[0], 5);
    vocab_free(v);
    put_file("generation_config.json", "{\"eos_token_id\":5}");
    put_file("tokenizer_config.json", "{\"eos_token\":\"<s>\"}");
    v = open_folder(); /* config.json's does not count beside it, the tokenizer's does */
    assert_int_equal(vocab_eog(v, &eog), 2);
    assert_int_equal(eog[0], 5);
    assert_int_equal(eog[1], 3);
    assert_int_equal(vocab_eos(v), 3);
    vocab_free(v);
    put_file("tokenizer_config.json", NULL);
    expect_refused("generation_config.json", "{\"eos_token_id\":\"x\"}", -EINVAL, "eos_token_id");
    expect_refused("generation_config.json", "{\"eos_token_id\":-7}", -ERANGE, "eos_token_id");
}

TEST(vocab_hf_reads_names_and_template_of_tokenizer_config)
{
    struct encoder *e;
    int32_t ids[8];
    size_t n;
    put_file("tokenizer.json", TOKENIZER);
    put_file("tokenizer_config.json",
             "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\"},"
             "\"add_bos_token\":true,\"chat_template\":[{\"name\":\"tool_use\","
             "\"template\":\"T\"},{\"name\":\"default\",\"template\":\"D\"}]}");
    struct vocab *v = open_folder();
    assert_int_equal(vocab_bos(v), 3);
    assert_int_equal(vocab_eos(v), 4);
    assert_true(vocab_is_eog(v, 4));
    assert_true(vocab_add_bos(v));
    assert_string_equal(vocab_template(v), "D");
    assert_ok(encoder_create(v, 64, &e));
    assert_ok(encode_text(e, "ab", 2, ENCODE_BOS, NULL, ids, 8, &n));
    assert_int_equal(n, 2);
    assert_int_equal(ids[0], 3);
    assert_int_equal(ids[1], 2);
    encoder_free(e);
    vocab_free(v);
    put_file("chat_template.jinja", "J");
    v = open_folder();
    assert_string_equal(vocab_template(v), "J");
    vocab_free(v);
    expect_refused("chat_template.jinja", "\xff", -EINVAL, "chat_template.jinja: not UTF-8");
    expect_refused("tokenizer_config.json", "{\"chat_template\":7}", -EINVAL, "chat_template");
    expect_refused("tokenizer_config.json", "{", -EINVAL, "tokenizer_config.json: line 1");
}
