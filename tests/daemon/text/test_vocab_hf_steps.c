/* tokenizer.json: what is not understood is refused by name, and damage never gets through. */
#include "tests/daemon/text/text_data.h"

#include <errno.h>

#include "config.h"
#include "daemon/text/vocab_hf.h"

#define MODEL                                                                                      \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[[\"a\",\"b\"]]}"

static void expect(const char *text, int rc, const char *says)
{
    struct vocab *v = NULL;
    struct format_error err = { "" };
    int got = vocab_open_hf_memory(text, strlen(text), "tokenizer.json", &v, &err);
    if (got != rc ||
        (rc && (!strstr(err.text, says) || strncmp(err.text, "tokenizer.json: ", 16) != 0)))
        fail_msg("%s: rc %d, expected %d: \"%s\", expected \"%s\"", text, got, rc, err.text, says);
    if (rc == 0)
        vocab_free(v);
}

TEST(vocab_hf_refuses_unknown_steps_by_name)
{
    expect("{" MODEL "}", 0, "");
    expect("{" MODEL ",\"normalizer\":null,\"pre_tokenizer\":null,\"added_tokens\":[]}", 0, "");
    expect("{" MODEL ",\"normalizer\":{\"type\":\"Lowercase\"}}", -ENOTSUP, "\"Lowercase\"");
    expect("{" MODEL ",\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"x\"}}", -ENOTSUP,
           "\"Prepend\"");
    expect("{" MODEL ",\"normalizer\":{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"}}",
           -ENOTSUP, "Replace");
    expect("{" MODEL ",\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}}", -ENOTSUP,
           "\"BertPreTokenizer\"");
    expect("{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"}}}",
           -EINVAL, "missing closing parenthesis");
    expect("{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{}}}", -ENOTSUP,
           "\"Split\"");
    expect("{" MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"x\"},"
           "\"behavior\":\"Odd\"}}",
           -ENOTSUP, "\"Split\"");
    expect("{" MODEL
           ",\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"ByteLevel\"},"
           "{\"type\":\"Digits\"}]}}",
           -ENOTSUP, "\"Digits\"");
}

TEST(vocab_hf_refuses_unsound_models)
{
    expect("{}", -EINVAL, "no vocabulary");
    expect("{\"model\":{\"type\":\"Unigram\",\"vocab\":{}}}", -ENOTSUP, "\"Unigram\"");
    expect("{\"model\":{\"vocab\":{\"a\":0}}}", -EINVAL, "merges");
    expect("{\"model\":{\"vocab\":{},\"merges\":[]}}", -EINVAL, "empty");
    expect("{\"model\":{\"vocab\":{\"a\":-1},\"merges\":[]}}", -EINVAL, "an id is no number");
    expect("{\"model\":{\"vocab\":{\"a\":99999999},\"merges\":[]}}", -EINVAL, "an id is no number");
    expect("{\"model\":{\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", -EINVAL, "the id 0 twice");
    expect("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a\"]}}", -EINVAL,
           "element 0 is not two tokens");
    expect("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[\"a x\",\"a y\"]}}", -EINVAL,
           "only 0 of 2");
    expect("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"end_of_word_suffix\":\"</w>\"}}",
           -ENOTSUP, "suffix");
    expect("{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}}", -ENOTSUP, "dropout");
    expect("{\"added_tokens\":[{\"id\":1}]," MODEL "}", -EINVAL, "added_tokens");
    /* found by fuzzing: untrusted text got the control token by its other entry */
    expect("{\"added_tokens\":[{\"id\":9,\"content\":\"<x>\"},{\"id\":9,\"content\":\"<x>\","
           "\"special\":true}]," MODEL "}",
           -EINVAL, "the id 9 twice");
}

TEST(vocab_hf_survives_random_damage)
{
    static const char *const names[] = { "qwen2", "llama2", "metaspace" };
    uint64_t s = harness_seed();
    for (int i = 0; i < 3; i++) {
        char path[512];
        size_t bytes;
        snprintf(path, sizeof(path),
                 RINGLET_SOURCE_ROOT "/tests/vectors/tokenizers/%s.tokenizer.json", names[i]);
        char *text = read_whole(path, &bytes), *copy = malloc(bytes);
        for (int round = 0; round < 300; round++) {
            memcpy(copy, text, bytes);
            for (int flips = 1 + (int)(harness_rand(&s) % 3); flips > 0; flips--) {
                size_t at = harness_rand(&s) % (harness_rand(&s) % 2 ? bytes : 1200);
                copy[at] = (char)(32 + harness_rand(&s) % 95);
            }
            struct vocab *v;
            if (vocab_open_hf_memory(copy, bytes, "x", &v, NULL) == 0)
                vocab_free(v);
        }
        free(text);
        free(copy);
    }
}
