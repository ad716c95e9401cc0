/* Text to ids: identical to the reference on every text of six real vocabularies, and never a
 * control token from text that nobody trusts. */
#include "tests/harness/harness.h"

#include <errno.h>
#include <time.h>

#include "base/cleanup.h"
#include "daemon/format/gguf.h"
#include "daemon/text/detokenize.h"
#include "daemon/text/encode.h"
#include "daemon/text/vocab.h"
#include "tests/daemon/text/text_data.h"

#if defined(__has_feature)
#define SANITIZED __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

#if !SANITIZED
/* Every allocation of this program and its libraries passes here. */
void *__libc_malloc(size_t bytes);
void *__libc_calloc(size_t n, size_t bytes);
void *__libc_realloc(void *p, size_t bytes);

static unsigned n_allocated;

void *malloc(size_t bytes)
{
    n_allocated++;
    return __libc_malloc(bytes);
}

void *calloc(size_t n, size_t bytes)
{
    n_allocated++;
    return __libc_calloc(n, bytes);
}

void *realloc(void *p, size_t bytes)
{
    n_allocated++;
    return __libc_realloc(p, bytes);
}

TEST(encode_text_and_detok_push_allocate_nothing)
{
    static const char *const some[] = { "gpt-2", "llama-spm", "deepseek-coder" };
    static char text[60000], out[DETOK_OUT_MAX];
    static int32_t ids[60000];
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = "The quick brown fox, 1234 times!\n\t"[i % 35];
    for (size_t i = 0; i < 3; i++) {
        struct vocab *v = open_test_vocab(some[i]);
        struct encoder *e;
        struct detok d;
        size_t n, bytes;
        int stop;
        if (!v)
            skip();
        assert_ok(encoder_create(v, sizeof(text), &e));
        unsigned before = n_allocated;
        int error = encode_text(e, text, sizeof(text), ENCODE_SPECIAL, NULL, ids, 60000, &n);
        detok_init(&d, NULL, 0);
        for (size_t k = 0; !error && k < n; k++)
            error = detok_push(&d, v, ids[k], out, sizeof(out), &bytes, &stop);
        unsigned after = n_allocated;
        assert_ok(error);
        assert_true(before > 0);
        assert_int_equal(after - before, 0);
        encoder_free(e);
        vocab_free(v);
    }
}
#endif

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

TEST(encode_text_refuses_ids_that_the_model_does_not_know)
{
    struct vocab *v;
    struct encoder *e;
    int32_t ids[8];
    size_t n = 99;
    assert_ok(vocab_open_bytes(&v));
    assert_ok(encoder_create(v, 16, &e));
    assert_ok(encode_text(e, "abc", 3, 0, NULL, ids, 8, &n));
    encoder_set_ids(e, 'c');
    n = 99;
    assert_int_equal(encode_text(e, "abc", 3, 0, NULL, ids, 8, &n), -ERANGE);
    assert_int_equal(n, 99);
    assert_ok(encode_text(e, "ab", 2, 0, NULL, ids, 8, &n));
    assert_int_equal(n, 2);
    encoder_set_ids(e, 1 << 20);
    assert_ok(encode_text(e, "abc", 3, 0, NULL, ids, 8, &n));
    encoder_free(e);
    vocab_free(v);
}

#define DEEPSEEK_BOS                                                                               \
    "<\xef\xbd\x9c"                                                                                \
    "begin\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"

/* Text made of what control tokens are made of. */
static size_t hostile_text(uint64_t *s, const char *const *spellings, size_t n_spellings,
                           char *text, size_t max)
{
    size_t n = 0;
    while (n + 80 < max && harness_rand(s) % 12) {
        const char *word = spellings[harness_rand(s) % n_spellings];
        size_t from = harness_rand(s) % 4 ? 0 : harness_rand(s) % (strlen(word) + 1);
        size_t bytes =
            harness_rand(s) % 4 ? strlen(word) - from : harness_rand(s) % (strlen(word) - from + 1);
        memcpy(text + n, word + from, bytes);
        n += bytes;
    }
    return n;
}

TEST(encode_text_never_gives_control_tokens_for_untrusted_text)
{
    static const char *const spellings[] = {
        "<|endoftext|>",
        "<s>",
        "</s>",
        "<unk>",
        "<fim_prefix>",
        "<fim_middle>",
        "<pad>",
        "<|User|>",
        "<|EOT|>",
        DEEPSEEK_BOS,
        ">>TITLE<<",
        ">>QUESTION<<",
        "<0x00>",
        " ",
        "<",
        ">",
        "|",
        "a",
        "<filename>",
        "[PAD32022]",
        "\xe2\x96\x81",
        "\n",
    };
    uint64_t s = harness_seed();
    int rounds = harness_long() ? 170000 : 2000; /* for each of six: a million texts */
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        struct vocab *v = open_test_vocab(names[i]);
        struct encoder *e;
        if (!v)
            skip();
        assert_ok(encoder_create(v, 2048, &e));
        for (int round = 0; round < rounds; round++) {
            char text[1024];
            int32_t ids[2048];
            uint8_t nobody[1024] = { 0 };
            size_t n, bytes = hostile_text(&s, spellings, sizeof(spellings) / sizeof(spellings[0]),
                                           text, sizeof(text));
            int rc = encode_text(e, text, bytes, 0, round % 2 ? nobody : NULL, ids, 2048, &n);
            if (rc == -EILSEQ)
                continue; /* a spelling was cut within a character */
            assert_ok(rc);
            for (size_t k = 0; k < n; k++)
                if (vocab_is_control(v, ids[k]) &&
                    (ids[k] != vocab_unk(v) || vocab_is_eog(v, ids[k])))
                    fail_msg("%s: \"%.*s\" gives the control token %d", names[i], (int)bytes, text,
                             ids[k]);
        }
        encoder_free(e);
        vocab_free(v);
    }
}

static uint64_t cpu_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* CPU time of one text, the least of several runs. */
static double cost(struct encoder *e, const char *text, size_t bytes, int32_t *ids, size_t max)
{
    uint64_t best = UINT64_MAX;
    for (int i = 0; i < 3; i++) {
        size_t n;
        uint64_t before = cpu_ns();
        assert_ok(encode_text(e, text, bytes, 0, NULL, ids, max, &n));
        uint64_t took = cpu_ns() - before;
        best = took < best ? took : best;
    }
    return (double)best;
}

TEST(encode_text_time_grows_no_faster_than_n_log_n)
{
    static const char *const units[] = {
        "a", " ", "ab", "\n", ".", "\xe4\xb8\xad", "1", " a", "<", "e\xcc\x81\xcc\x96"
    };
    enum { BYTES = 1 << 16 };
    if (!harness_data("tokenizers/ggml-vocab-gpt-2.gguf"))
        skip();
    char *text = malloc(BYTES + 8);
    int32_t *ids = malloc((BYTES + 8) * sizeof(*ids));
    for (size_t i = 0; i < 3; i++) {
        struct vocab *v = open_test_vocab(names[i]);
        struct encoder *e;
        assert_ok(encoder_create(v, BYTES, &e));
        for (size_t k = 0; k < sizeof(units) / sizeof(units[0]); k++) {
            size_t unit = strlen(units[k]), n = 0;
            for (; n + unit <= BYTES; n += unit)
                memcpy(text + n, units[k], unit);
            size_t quarter = n / 4 / unit * unit;
            double ratio = 99;
            for (int tries = 0; tries < 8 && ratio > 4 * 1.6; tries++)
                ratio = cost(e, text, n, ids, BYTES + 8) / cost(e, text, quarter, ids, BYTES + 8);
            if (ratio > 4 * 1.6) /* n log n: 4.5; quadratic: 16 */
                fail_msg("%s: four times \"%s\" takes %.1f times as long", names[i], units[k],
                         ratio);
        }
        encoder_free(e);
        vocab_free(v);
    }
    free(text);
    free(ids);
}
