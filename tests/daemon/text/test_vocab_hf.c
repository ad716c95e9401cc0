/* Vocabularies that the reference libraries trained: the same ids on every text, whatever the
 * normalizer, the pre-tokenizer and the model are (tests/vectors/tokenizers/generate.py). */
#include "tests/daemon/text/text_data.h"

#include <errno.h>
#include <jansson.h>

#include "base/compiler.h"
#include "config.h"
#include "daemon/format/hfjson.h"
#include "daemon/text/detokenize.h"
#include "daemon/text/encode.h"
#include "daemon/text/vocab_hf.h"
#include "tests/daemon/format/gguf_writer.h"

#define VECTORS RINGLET_SOURCE_ROOT "/tests/vectors/tokenizers/"

static struct vocab *open_family(const char *name)
{
    char path[512];
    size_t bytes;
    struct vocab *v = NULL;
    struct format_error err = { "" };
    snprintf(path, sizeof(path), VECTORS "%s.tokenizer.json", name);
    char *text = read_whole(path, &bytes);
    if (vocab_open_hf_memory(text, bytes, name, &v, &err))
        fail_msg("%s", err.text);
    free(text);
    return v;
}

static void expect_ids(const char *name, struct encoder *e, const json_t *text,
                       const json_t *expected, unsigned flags)
{
    int32_t ids[2048];
    size_t n = 0;
    assert_ok(encode_text(e, json_string_value(text), json_string_length(text), flags, NULL, ids,
                          2048, &n));
    for (size_t i = 0; i < json_array_size(expected) || i < n; i++) {
        int want = i < json_array_size(expected)
                       ? (int)json_integer_value(json_array_get(expected, i))
                       : -1;
        if (i >= n || ids[i] != want)
            fail_msg("%s: \"%s\"%s: id %zu is %d, expected %d", name, json_string_value(text),
                     flags ? " with special tokens" : "", i, i < n ? ids[i] : -1, want);
    }
}

/*
 * Every vector of a family, both as untrusted and as trusted text. Texts that hold `without` are
 * left out.
 */
static void compare(const char *name, const char *path, const struct vocab *v, const char *without)
{
    json_error_t why;
    json_t *all = json_load_file(path, JSON_ALLOW_NUL, &why), *item;
    size_t i;
    struct encoder *e;
    if (!json_is_array(all))
        fail_msg("%s: line %d: %s", path, why.line, why.text);
    assert_ok(encoder_create(v, 1 << 16, &e));
    json_array_foreach(all, i, item)
    {
        const json_t *text = json_object_get(item, "text"),
                     *special = json_object_get(item, "special");
        if (without && strstr(json_string_value(text), without))
            continue;
        expect_ids(name, e, text, json_object_get(item, "ids"), 0);
        if (!json_is_null(special))
            expect_ids(name, e, text, special ? special : json_object_get(item, "ids"),
                       ENCODE_SPECIAL);
    }
    assert_true(i > 0);
    encoder_free(e);
    json_decref(all);
}

static void compare_family(const char *name)
{
    char path[512];
    const char *soak = getenv("TOKENIZER_SOAK"); /* a folder of what generate.py --random printed */
    struct vocab *v = open_family(name);
    assert_int_equal(v->merges_dropped, 0);
    snprintf(path, sizeof(path), VECTORS "%s.json", name);
    compare(name, path, v, NULL);
    if (soak) {
        snprintf(path, sizeof(path), "%s/%s.json", soak, name);
        compare(name, path, v, NULL);
    }
    vocab_free(v);
}

TEST(vocab_hf_gpt2_equals_the_reference)
{
    compare_family("gpt2");
}

TEST(vocab_hf_prefix_space_equals_the_reference)
{
    compare_family("prefix-space");
}

TEST(vocab_hf_llama3_equals_the_reference)
{
    compare_family("llama3");
}

TEST(vocab_hf_qwen2_equals_the_reference)
{
    compare_family("qwen2");
}

TEST(vocab_hf_o200k_equals_the_reference)
{
    compare_family("o200k");
}

TEST(vocab_hf_smollm_equals_the_reference)
{
    compare_family("smollm");
}

TEST(vocab_hf_deepseek_coder_equals_the_reference)
{
    compare_family("deepseek-coder");
}

TEST(vocab_hf_llama2_equals_the_reference)
{
    compare_family("llama2");
}

TEST(vocab_hf_metaspace_equals_the_reference)
{
    compare_family("metaspace");
}

TEST(vocab_hf_metaspace_always_equals_the_reference)
{
    compare_family("metaspace-always");
}

TEST(vocab_hf_gemma_equals_the_reference)
{
    compare_family("gemma");
}

static struct vocab *open_gguf(struct gguf_writer *w, const char *name)
{
    struct gguf *g;
    struct vocab *v = NULL;
    struct format_error err = { "" };
    if (gguf_open_memory(w->data, w->bytes, name, &g, &err) || vocab_open_gguf(g, &v, &err))
        fail_msg("%s", err.text);
    gguf_close(g);
    free(w->data);
    return v;
}

/* The vocabulary of a family's tokenizer.json as a GGUF file holds it, which names the pattern. */
static struct vocab *open_as_gguf(const char *name, const char *pre)
{
    enum { NORMAL = 1, CONTROL = 3, USER_DEFINED = 4, TOKENS_MAX = 2048 };
    static const char *token[TOKENS_MAX];
    static uint32_t type[TOKENS_MAX];
    char path[512];
    struct gguf_writer w = { 0 };
    size_t n = 0, i;
    const char *text;
    json_t *added, *id, *pair;
    snprintf(path, sizeof(path), VECTORS "%s.tokenizer.json", name);
    json_t *root = json_load_file(path, 0, NULL), *model = json_object_get(root, "model");
    json_t *merges = json_object_get(model, "merges");
    json_object_foreach(json_object_get(model, "vocab"), text, id)
    {
        size_t at = (size_t)json_integer_value(id);
        assert_true(at < TOKENS_MAX);
        token[at] = text;
        type[at] = NORMAL;
        n = max_of(n, at + 1);
    }
    json_array_foreach(json_object_get(root, "added_tokens"), i, added)
    {
        size_t at = (size_t)json_integer_value(json_object_get(added, "id"));
        token[at] = json_string_value(json_object_get(added, "content"));
        type[at] = json_is_true(json_object_get(added, "special")) ? CONTROL : USER_DEFINED;
        n = max_of(n, at + 1);
    }
    put_header(&w, 3, 0, 5);
    put_key(&w, "tokenizer.ggml.model", 8), put_string(&w, "gpt2");
    put_key(&w, "tokenizer.ggml.pre", 8), put_string(&w, pre);
    put_array(&w, "tokenizer.ggml.tokens", 8, n);
    for (i = 0; i < n; i++)
        put_string(&w, token[i]);
    put_array(&w, "tokenizer.ggml.token_type", 5, n);
    for (i = 0; i < n; i++)
        put_u32(&w, type[i]);
    put_array(&w, "tokenizer.ggml.merges", 8, json_array_size(merges));
    json_array_foreach(merges, i, pair)
    {
        char joined[256];
        snprintf(joined, sizeof(joined), "%s %s", json_string_value(json_array_get(pair, 0)),
                 json_string_value(json_array_get(pair, 1)));
        put_string(&w, joined);
    }
    json_decref(root);
    return open_gguf(&w, pre);
}

/* Each pattern that a GGUF file names, on a vocabulary that was trained with the real one. */
TEST(vocab_gguf_families_equal_the_reference)
{
    static const struct {
        const char *pre, *name;
    } families[] = {
        { "gpt-2", "gpt2" },       { "llama-bpe", "llama3" },
        { "qwen2", "qwen2" },      { "smollm", "smollm" },
        { "starcoder", "smollm" }, { "refact", "smollm" },
        { "falcon", "falcon" },    { "deepseek-coder", "deepseek-coder" },
        { "gpt-4o", "o200k" },
    };
    const char *soak = getenv("TOKENIZER_SOAK"), *strip = "<strip>"; /* GGUF has no such flag */
    for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
        char path[512];
        struct vocab *v = open_as_gguf(families[i].name, families[i].pre);
        snprintf(path, sizeof(path), VECTORS "%s.json", families[i].name);
        compare(families[i].pre, path, v, strip);
        snprintf(path, sizeof(path), "%s/%s.json", soak, families[i].name);
        if (soak)
            compare(families[i].pre, path, v, strip);
        vocab_free(v);
    }
}

/* The pieces that sentencepiece trained, as a GGUF file holds them. */
static struct vocab *open_sentencepiece(void)
{
    struct gguf_writer w = { 0 }, scores = { 0 }, types = { 0 }, tokens = { 0 };
    char line[1024];
    uint64_t n = 0;
    FILE *in = fopen(VECTORS "sentencepiece.pieces", "r");
    assert_non_null(in);
    for (; fgets(line, sizeof(line), in); n++) {
        char *rest, *text;
        put_u32(&types, (uint32_t)strtoul(line, &rest, 10));
        put_f32(&scores, strtof(rest, &text));
        json_t *string = json_loads(text + 1, JSON_DECODE_ANY, NULL);
        assert_non_null(string);
        put_string(&tokens, json_string_value(string));
        json_decref(string);
    }
    fclose(in);
    put_header(&w, 3, 0, 4);
    put_key(&w, "tokenizer.ggml.model", 8), put_string(&w, "llama");
    put_array(&w, "tokenizer.ggml.tokens", 8, n), put_bytes(&w, tokens.data, tokens.bytes);
    put_array(&w, "tokenizer.ggml.scores", 6, n), put_bytes(&w, scores.data, scores.bytes);
    put_array(&w, "tokenizer.ggml.token_type", 5, n), put_bytes(&w, types.data, types.bytes);
    free(scores.data), free(types.data), free(tokens.data);
    return open_gguf(&w, "sentencepiece");
}

TEST(vocab_gguf_sentencepiece_equals_the_reference)
{
    const char *soak = getenv("TOKENIZER_SOAK");
    char path[512];
    struct vocab *v = open_sentencepiece();
    compare("sentencepiece", VECTORS "sentencepiece.json", v, NULL);
    if (soak) {
        snprintf(path, sizeof(path), "%s/sentencepiece.json", soak);
        compare("sentencepiece", path, v, NULL);
    }
    vocab_free(v);
}
