/* Vocabularies that the reference libraries trained: the same ids on every text, whatever the
 * normalizer, the pre-tokenizer and the model are (tests/vectors/tokenizers/generate.py). */
#include "tests/daemon/text/text_data.h"

#include <errno.h>
#include <jansson.h>

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

/* Every vector of a family, both as untrusted and as trusted text. */
static void compare(const char *name, const char *path, const struct vocab *v)
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
    compare(name, path, v);
    if (soak) {
        snprintf(path, sizeof(path), "%s/%s.json", soak, name);
        compare(name, path, v);
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
    struct gguf *g;
    struct vocab *v = NULL;
    struct format_error err = { "" };
    if (gguf_open_memory(w.data, w.bytes, "sentencepiece", &g, &err) ||
        vocab_open_gguf(g, &v, &err))
        fail_msg("%s", err.text);
    gguf_close(g);
    free(w.data), free(scores.data), free(types.data), free(tokens.data);
    return v;
}

TEST(vocab_gguf_sentencepiece_equals_the_reference)
{
    const char *soak = getenv("TOKENIZER_SOAK");
    char path[512];
    struct vocab *v = open_sentencepiece();
    compare("sentencepiece", VECTORS "sentencepiece.json", v);
    if (soak) {
        snprintf(path, sizeof(path), "%s/sentencepiece.json", soak);
        compare("sentencepiece", path, v);
    }
    vocab_free(v);
}
