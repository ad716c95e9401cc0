/* Ids to text: whole characters only, stop strings held back and cut. */
#include "tests/harness/harness.h"

#include <errno.h>

#include "daemon/format/gguf.h"
#include "daemon/text/detokenize.h"
#include "daemon/text/encode.h"
#include "daemon/text/utf8.h"
#include "tests/daemon/format/gguf_writer.h"
#include "tests/daemon/text/text_data.h"

/* SentencePiece style: 0 <unk>, 1 <s>, 2..257 the bytes, then these words. */
static const char *const words[] = { "ab", "abc", "\xe2\x96\x81hello", "STOP", "S", "TO",
                                     "P",  "aaa", "\xe2\x82\xac",      "x" };
enum { BYTE_0 = 2, WORD_0 = 258, N_TOKENS = 268 };

static struct vocab *word_vocab(void)
{
    struct gguf_writer w = { 0 };
    char name[16];
    put_header(&w, 3, 0, 4);
    put_key(&w, "tokenizer.ggml.model", 8), put_string(&w, "llama");
    put_array(&w, "tokenizer.ggml.tokens", 8, N_TOKENS);
    put_string(&w, "<unk>"), put_string(&w, "<s>");
    for (int i = 0; i < 256; i++) {
        snprintf(name, sizeof(name), "<0x%02X>", i);
        put_string(&w, name);
    }
    for (int i = WORD_0; i < N_TOKENS; i++)
        put_string(&w, words[i - WORD_0]);
    put_array(&w, "tokenizer.ggml.scores", 6, N_TOKENS);
    for (int i = 0; i < N_TOKENS; i++)
        put_f32(&w, (float)-i);
    put_array(&w, "tokenizer.ggml.token_type", 5, N_TOKENS);
    for (int i = 0; i < N_TOKENS; i++)
        put_u32(&w, i == 0 ? 2 : i == 1 ? 3 : i < WORD_0 ? 6 : 1);
    struct gguf *g;
    struct vocab *v = NULL;
    struct format_error err = { "" };
    if (gguf_open_memory(w.data, w.bytes, "x.gguf", &g, &err) || vocab_open_gguf(g, &v, &err))
        fail_msg("%s", err.text);
    gguf_close(g);
    free(w.data);
    return v;
}

/* Feeds ids one by one; "|" stands between what the pushes gave, "!" before what the flush gave. */
static const char *stream(const struct vocab *v, const struct detok_stops *stops, unsigned flags,
                          const int32_t *ids, size_t n, int *ret_stop)
{
    static char all[65536];
    char out[DETOK_OUT_MAX];
    size_t bytes, at = 0;
    struct detok d;
    *ret_stop = -1;
    detok_init(&d, stops, flags);
    for (size_t i = 0; i < n; i++) {
        int stop;
        assert_ok(detok_push(&d, v, ids[i], out, sizeof(out), &bytes, &stop));
        assert_true(utf8_valid(out, bytes));
        memcpy(all + at, out, bytes);
        at += bytes;
        if (i + 1 < n)
            all[at++] = '|';
        if (stop >= 0)
            *ret_stop = stop;
    }
    assert_ok(detok_flush(&d, out, sizeof(out), &bytes));
    if (bytes)
        all[at++] = '!';
    memcpy(all + at, out, bytes);
    all[at + bytes] = 0;
    return all;
}

#define STREAM(flags, ...)                                                                         \
    stream(v, &stops, flags, (const int32_t[]){ __VA_ARGS__ },                                     \
           sizeof((const int32_t[]){ __VA_ARGS__ }) / sizeof(int32_t), &stop)

TEST(detok_holds_back_partial_characters)
{
    struct vocab *v = word_vocab();
    struct detok_stops stops = { 0 };
    int stop;
    assert_string_equal(STREAM(0, BYTE_0 + 0xe2, BYTE_0 + 0x82, BYTE_0 + 0xac), "||\xe2\x82\xac");
    assert_string_equal(STREAM(0, BYTE_0 + 0xe2, BYTE_0 + 0x82), "|!\xef\xbf\xbd");
    assert_string_equal(STREAM(0, BYTE_0 + 0xe2, WORD_0), "|\xef\xbf\xbd"
                                                          "ab");
    assert_string_equal(STREAM(0, BYTE_0 + 0xff, BYTE_0 + 0xf0), "\xef\xbf\xbd|!\xef\xbf\xbd");
    /* ed a0 is no beginning of any character: two ill-formed parts, then one more */
    assert_string_equal(STREAM(0, BYTE_0 + 0xed, BYTE_0 + 0xa0, BYTE_0 + 0x80),
                        "|\xef\xbf\xbd\xef\xbf\xbd|\xef\xbf\xbd");
    vocab_free(v);
}

TEST(detok_cuts_at_stop_strings_across_tokens)
{
    struct vocab *v = word_vocab();
    struct detok_stops stops = { 0 };
    int stop;
    assert_ok(detok_stops_add(&stops, "never", 5));
    assert_ok(detok_stops_add(&stops, "STOP", 4));
    assert_string_equal(STREAM(0, WORD_0, WORD_0 + 4, WORD_0 + 5, WORD_0 + 6, WORD_0), "ab|||"
                                                                                       "|");
    assert_int_equal(stop, 1);
    assert_string_equal(STREAM(DETOK_INCLUDE_STOP, WORD_0, WORD_0 + 4, WORD_0 + 5, WORD_0 + 6),
                        "ab|||STOP");
    assert_int_equal(stop, 1);
    assert_string_equal(STREAM(0, WORD_0 + 4, WORD_0 + 5, WORD_0), "||STOab");
    assert_int_equal(stop, -1);
    assert_string_equal(STREAM(0, WORD_0 + 4, WORD_0 + 4, WORD_0 + 5), "|S|!STO");
    assert_string_equal(STREAM(0, WORD_0 + 3), "");
    assert_int_equal(stop, 1);
    vocab_free(v);
}

TEST(detok_finds_overlapping_and_self_similar_stops)
{
    struct vocab *v = word_vocab();
    struct detok_stops stops = { 0 };
    int stop;
    assert_ok(detok_stops_add(&stops, "aaab", 4));
    assert_string_equal(STREAM(0, WORD_0 + 7, WORD_0), "|a");
    assert_int_equal(stop, 0);
    memset(&stops, 0, sizeof(stops));
    assert_ok(detok_stops_add(&stops, "b", 1));
    assert_ok(detok_stops_add(&stops, "xab", 3));
    assert_string_equal(STREAM(0, WORD_0 + 9, WORD_0), "|"); /* both end there: the longer one */
    assert_int_equal(stop, 1);
    memset(&stops, 0, sizeof(stops));
    assert_ok(detok_stops_add(&stops,
                              "\xe2\x82\xac"
                              "x",
                              4));
    assert_string_equal(STREAM(0, BYTE_0 + 0xe2, BYTE_0 + 0x82, BYTE_0 + 0xac, WORD_0),
                        "|||\xe2\x82\xac"
                        "ab");
    assert_string_equal(STREAM(0, WORD_0 + 8, WORD_0 + 9), "|");
    assert_int_equal(stop, 0);
    vocab_free(v);
}

TEST(detok_stops_are_checked)
{
    struct detok_stops stops = { 0 };
    char long_one[200];
    memset(long_one, 'a', sizeof(long_one));
    assert_int_equal(detok_stops_add(&stops, "", 0), -EINVAL);
    assert_int_equal(detok_stops_add(&stops, "\xff", 1), -EINVAL);
    assert_int_equal(detok_stops_add(&stops, long_one, 129), -E2BIG);
    for (int i = 0; i < DETOK_STOPS_MAX; i++)
        assert_ok(detok_stops_add(&stops, long_one, 128));
    assert_int_equal(detok_stops_add(&stops, "a", 1), -E2BIG);
    struct detok d;
    char out[DETOK_OUT_MAX];
    size_t bytes;
    int stop;
    detok_init(&d, NULL, 0);
    assert_int_equal(detok_push(&d, NULL, 0, out, sizeof(out) - 1, &bytes, &stop), -ENOBUFS);
}

TEST(detok_gives_control_tokens_only_when_asked)
{
    struct vocab *v = word_vocab();
    struct detok_stops stops = { 0 };
    int stop;
    assert_string_equal(STREAM(0, 1, WORD_0, -5, 99999), "|ab||");
    assert_string_equal(STREAM(DETOK_SPECIAL, 1, WORD_0), "<s>|ab");
    assert_string_equal(STREAM(0, WORD_0 + 2), " hello");
    assert_string_equal(STREAM(DETOK_AT_START, 1, WORD_0 + 2, WORD_0 + 2), "|hello| hello");
    vocab_free(v);
}

/* What comes out in the end is what a search over the whole text would cut, for any split. */
TEST(detok_equals_a_search_over_the_whole_text)
{
    struct vocab *v = word_vocab();
    uint64_t s = harness_seed();
    for (int round = 0; round < 3000; round++) {
        struct detok_stops stops = { 0 };
        char whole[128] = "", got[128];
        int32_t ids[64];
        size_t n = 1 + harness_rand(&s) % 40, n_stops = harness_rand(&s) % 4;
        for (size_t i = 0; i < n; i++) {
            whole[i] = (char)('a' + harness_rand(&s) % 2);
            ids[i] = BYTE_0 + whole[i];
        }
        for (size_t i = 0; i < n_stops; i++) {
            char text[8];
            size_t bytes = 1 + harness_rand(&s) % 6;
            for (size_t k = 0; k < bytes; k++)
                text[k] = (char)('a' + harness_rand(&s) % 2);
            assert_ok(detok_stops_add(&stops, text, bytes));
        }
        size_t cut = n, cut_end = SIZE_MAX;
        for (size_t i = 0; i < n_stops; i++) {
            char text[8] = "";
            memcpy(text, stops.text[i], stops.bytes[i]);
            const char *at = strstr(whole, text);
            size_t from = at ? (size_t)(at - whole) : SIZE_MAX,
                   end = at ? from + stops.bytes[i] : SIZE_MAX;
            if (at && (end < cut_end || (end == cut_end && from < cut))) {
                cut = from;
                cut_end = end;
            }
        }
        int stop;
        const char *all = stream(v, &stops, 0, ids, n, &stop);
        size_t bytes = 0;
        for (; *all; all++)
            if (*all != '|' && *all != '!')
                got[bytes++] = *all;
        assert_int_equal(bytes, cut);
        assert_memory_equal(got, whole, cut);
        assert_int_equal(stop >= 0, cut_end != SIZE_MAX);
    }
    vocab_free(v);
}

TEST(detok_state_forks_by_copy)
{
    struct vocab *v = word_vocab();
    struct detok_stops stops = { 0 };
    struct detok d, fork;
    char out[DETOK_OUT_MAX];
    size_t bytes;
    int stop;
    assert_ok(detok_stops_add(&stops, "STOP", 4));
    detok_init(&d, &stops, 0);
    assert_ok(detok_push(&d, v, WORD_0 + 4, out, sizeof(out), &bytes, &stop));
    fork = d;
    assert_ok(detok_push(&d, v, WORD_0, out, sizeof(out), &bytes, &stop));
    assert_int_equal(bytes, 3);
    assert_memory_equal(out, "Sab", 3);
    assert_ok(detok_push(&fork, v, WORD_0 + 5, out, sizeof(out), &bytes, &stop));
    assert_int_equal(bytes, 0);
    assert_ok(detok_push(&fork, v, WORD_0 + 6, out, sizeof(out), &bytes, &stop));
    assert_int_equal(stop, 0);
    vocab_free(v);
}

TEST(detok_gives_back_every_text_of_real_vocabularies)
{
    static const char *const names[] = { "gpt-2",  "llama-spm", "deepseek-coder",
                                         "falcon", "starcoder", "refact" };
    const char *path = harness_data("tokenizers/ggml-vocab.inp");
    if (!path)
        skip();
    size_t n_text;
    char *text = read_whole(path, &n_text);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct vocab *v = open_test_vocab(names[i]);
        struct encoder *e;
        int32_t ids[4096];
        size_t n;
        int stop;
        assert_ok(encoder_create(v, 4096, &e));
        assert_ok(encode_text(e, text, n_text, 0, NULL, ids, 4096, &n));
        const char *all = stream(v, NULL, DETOK_AT_START, ids, n, &stop);
        size_t at = 0;
        for (; *all; all++) {
            if (*all == text[at])
                at++;
            else
                assert_int_equal(*all, '|');
        }
        assert_int_equal(at, n_text);
        encoder_free(e);
        vocab_free(v);
    }
    free(text);
}
