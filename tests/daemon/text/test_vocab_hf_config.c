/* The files beside tokenizer.json: special ids, ends of generation, chat templates. */
#include "tests/daemon/text/text_data.h"

#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon/text/encode.h"
#include "daemon/text/template.h"

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
    expect_refused("generation_config.json", "{\"eos_token_id\":4294967296}", -ERANGE,
                   "eos_token_id");
    put_file("generation_config.json", "{\"eos_token_id\":-1}");
    v = open_folder(); /* -1 is none: config.json's */
    assert_int_equal(vocab_eog(v, &eog), 1);
    assert_int_equal(eog[0], 4);
    vocab_free(v);
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
    assert_non_null(vocab_template(v));
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

static void expect_special(const char *config, const char *map, int32_t bos, int32_t eos)
{
    put_file("tokenizer_config.json", config);
    put_file("special_tokens_map.json", map);
    struct vocab *v = open_folder();
    if (vocab_bos(v) != bos || vocab_eos(v) != eos)
        fail_msg("%s with the map %s: bos %d, eos %d, expected %d, %d", config, map, vocab_bos(v),
                 vocab_eos(v), bos, eos);
    vocab_free(v);
}

TEST(vocab_hf_special_tokens_are_the_tokenizers_and_not_those_of_config_json)
{
    put_file("tokenizer.json", TOKENIZER);
    put_file("config.json", "{\"bos_token_id\":3,\"eos_token_id\":4}");
    /* a null is none, and so is a word that is not there, unless the class has one */
    expect_special("{\"bos_token\":null,\"eos_token\":\"<end>\"}", NULL, -1, 5);
    expect_special("{\"bos_token\":\"\",\"eos_token\":null}", NULL, -1, -1);
    expect_special("{\"tokenizer_class\":\"PreTrainedTokenizerFast\"}", NULL, -1, -1);
    expect_special("{\"tokenizer_class\":\"LlamaTokenizerFast\"}", NULL, 3, 4);
    expect_special("{\"tokenizer_class\":\"LlamaTokenizer\",\"bos_token\":null}", NULL, -1, 4);
    /* the older file counts first, but not beside added_tokens_decoder */
    expect_special("{\"eos_token\":\"<end>\"}",
                   "{\"bos_token\":\"<s>\",\"eos_token\":{\"content\":\"</s>\"}}", 3, 4);
    expect_special("{\"eos_token\":\"<end>\",\"added_tokens_decoder\":{}}",
                   "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}", -1, 5);
    expect_special(NULL, "{\"bos_token\":\"<s>\",\"eos_token\":\"</s>\"}", 3, 4);
    expect_special(NULL, NULL, 3, 4); /* nobody says it but config.json */
    put_file("config.json", NULL);
}

/* Ids of a text with its control tokens. */
static void expect_ids(const char *text, const int32_t *want, size_t n_want)
{
    int32_t ids[16];
    size_t n;
    struct encoder *e;
    struct vocab *v = open_folder();
    assert_ok(encoder_create(v, 64, &e));
    assert_ok(encode_text(e, text, strlen(text), ENCODE_SPECIAL, NULL, ids, 16, &n));
    assert_int_equal(n, n_want);
    for (size_t i = 0; i < n; i++)
        assert_int_equal(ids[i], want[i]);
    encoder_free(e);
    vocab_free(v);
}

TEST(vocab_hf_added_tokens_that_tokenizer_json_lacks_are_added)
{
    put_file("tokenizer.json", TOKENIZER);
    put_file("tokenizer_config.json",
             "{\"added_tokens_decoder\":{\"3\":{\"content\":\"<s>\",\"special\":true},"
             "\"6\":{\"content\":\"<a>\",\"special\":true},\"8\":{\"content\":\"<b>\"},"
             "\"2\":{\"content\":\"<taken>\"},\"0\":{\"content\":\"b\"}}}");
    /* "b", a token of the model, is one that nothing merges now */
    expect_ids("a<a>a<b>ab<s>b", (int32_t[]){ 0, 6, 0, 8, 0, 1, 3, 1 }, 8);
    struct vocab *v = open_folder();
    assert_int_equal(vocab_size(v), 9);
    assert_true(vocab_is_control(v, 6));
    assert_false(vocab_is_control(v, 8));
    assert_int_equal(vocab_find(v, "<taken>", 7), -1);
    vocab_free(v);
    /* the older file's tokens are special where one has a name, and count where the newer has none
     */
    put_file("added_tokens.json", "{\"<old>\":6,\"<pad>\":7,\"<more>\":8}");
    v = open_folder();
    assert_int_equal(vocab_find(v, "<old>", 5), -1);
    vocab_free(v);
    put_file("tokenizer_config.json",
             "{\"pad_token\":{\"content\":\"<pad>\"},\"additional_special_tokens\":[\"<more>\"]}");
    expect_ids("a<old>b", (int32_t[]){ 0, 6, 1 }, 3);
    v = open_folder();
    assert_false(vocab_is_control(v, 6));
    assert_true(vocab_is_control(v, 7));
    assert_true(vocab_is_control(v, 8));
    vocab_free(v);
    expect_refused("tokenizer_config.json", "{\"added_tokens_decoder\":{\"x\":{}}}", -EINVAL,
                   "added_tokens_decoder");
    expect_refused("tokenizer_config.json",
                   "{\"added_tokens_decoder\":{\"99999999\":{\"content\":\"x\"}}}", -EINVAL,
                   "added_tokens");
    put_file("added_tokens.json", NULL);
}

TEST(vocab_hf_named_tokens_without_an_id_get_the_next_ones)
{
    put_file("tokenizer.json", TOKENIZER);
    put_file("tokenizer_config.json",
             "{\"pad_token\":\"<pad>\",\"eos_token\":\"<E>\",\"bos_token\":{\"content\":\"a\"},"
             "\"additional_special_tokens\":[\"<x>\",\"<end>\",{\"content\":\"<y>\"}],"
             "\"added_tokens_decoder\":{\"6\":{\"content\":\"<d>\"}}}");
    /* 6 <d>, 7 <E>, 8 <pad>, 9 <x>, 10 <y>; "a" is a token of the model, and special now */
    expect_ids("b<E><x><y><pad><d>", (int32_t[]){ 1, 7, 9, 10, 8, 6 }, 6);
    struct vocab *v = open_folder();
    assert_int_equal(vocab_size(v), 11);
    assert_int_equal(vocab_bos(v), 0);
    assert_int_equal(vocab_eos(v), 7);
    assert_true(vocab_is_control(v, 0));
    assert_true(vocab_is_control(v, 10));
    assert_false(vocab_is_control(v, 6));
    vocab_free(v);
}

static void expect_rendered(const char *tools, const char *want)
{
    static _Alignas(8) char arena[1 << 16];
    char out[256], why[160];
    uint8_t trusted[256];
    size_t n = 0;
    struct template *t;
    struct template_input in = { .messages_json = "[]", .messages_json_bytes = 2 };
    struct vocab *v = open_folder();
    if (tools) {
        in.tools_json = tools;
        in.tools_json_bytes = strlen(tools);
    }
    assert_ok(template_compile(vocab_template(v), strlen(vocab_template(v)), &t, why, sizeof(why)));
    assert_ok(
        template_render(t, &in, arena, sizeof(arena), out, trusted, 255, &n, why, sizeof(why)));
    out[n] = 0;
    assert_string_equal(out, want);
    template_free(t);
    vocab_free(v);
}

TEST(vocab_hf_the_template_named_tool_use_is_for_tools)
{
    put_file("tokenizer.json", TOKENIZER);
    put_file("tokenizer_config.json",
             "{\"chat_template\":[{\"name\":\"tool_use\",\"template\":\"  {% if true %}\\nT \\n"
             "{% endif %} \\n\"},{\"name\":\"default\",\"template\":\"\\n  D  \"}]}");
    expect_rendered(NULL, "\n  D  ");
    expect_rendered("[]", "T \n ");
    put_file("tokenizer_config.json",
             "{\"chat_template\":{\"default\":\"d\\n\",\"tool_use\":\"t\\n\\n\"}}");
    expect_rendered(NULL, "d");
    expect_rendered("[1]", "t\n");
    put_file("chat_template.jinja", "J\n"); /* takes the place of both */
    expect_rendered("[1]", "J");
    char path[256];
    snprintf(path, sizeof(path), "%s/additional_chat_templates", harness_tmpdir());
    assert_ok(mkdir(path, 0700));
    put_file("additional_chat_templates/tool_use.jinja", "{{ tools[0] }}");
    expect_rendered(NULL, "J");
    expect_rendered("[7]", "7");
    expect_refused("additional_chat_templates/tool_use.jinja", "\xff", -EINVAL, "not UTF-8");
    assert_ok(rmdir(path));
    put_file("chat_template.jinja", NULL);
    expect_refused("tokenizer_config.json",
                   "{\"chat_template\":{\"default\":\"d\",\"tool_use\":7}}", -EINVAL,
                   "chat_template");
}
