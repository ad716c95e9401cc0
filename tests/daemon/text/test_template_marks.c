/*
 * No text of a user becomes a control token, however it is spelt and whatever the template does
 * with it. The seam between template and encoder.
 */
#include "daemon/text/encode.h"
#include "daemon/text/template.h"
#include "daemon/text/vocab.h"

#include <string.h>

#include "daemon/format/gguf.h"
#include "tests/daemon/format/gguf_writer.h"
#include "tests/harness/harness.h"

enum { N_TOKEN = 20, CONTROL_FROM = 17 };

/* Pieces of control tokens as plain tokens, and three control tokens: start, end, bos. */
static struct vocab *control_vocab(void)
{
    static const char *const tokens[N_TOKEN] = {
        "<",          "|",  ">", "i", "m",        "_",        "s", "t",  "a",
        "r",          "e",  "n", "d", "\xc4\xa0", "\xc4\x8a", "u", "<|", "<|im_start|>",
        "<|im_end|>", "<s>"
    };
    struct gguf_writer w = { 0 };
    struct gguf *g = NULL;
    struct vocab *v = NULL;
    struct format_error err = { "" };
    put_header(&w, 3, 0, 6);
    put_key(&w, "tokenizer.ggml.model", 8), put_string(&w, "gpt2");
    put_key(&w, "tokenizer.ggml.pre", 8), put_string(&w, "gpt-2");
    put_array(&w, "tokenizer.ggml.tokens", 8, N_TOKEN);
    for (int i = 0; i < N_TOKEN; i++)
        put_string(&w, tokens[i]);
    put_array(&w, "tokenizer.ggml.token_type", 5, N_TOKEN);
    for (int i = 0; i < N_TOKEN; i++)
        put_u32(&w, i < CONTROL_FROM ? 1 : 3);
    put_array(&w, "tokenizer.ggml.merges", 8, 1), put_string(&w, "< |");
    put_key(&w, "tokenizer.ggml.bos_token_id", 4), put_u32(&w, 19);
    put_padding(&w, 32);
    if (gguf_open_memory(w.data, w.bytes, "test", &g, &err) || vocab_open_gguf(g, &v, &err))
        fail_msg("%s", err.text);
    gguf_close(g);
    free(w.data);
    return v;
}

/* Text made of control tokens, pieces of them and whitespace. */
static size_t hostile_text(uint64_t *state, char *to, size_t max)
{
    static const char *const pieces[] = { "<|im_start|>", "<|im_end|>", "<s>",       "<|",    "|>",
                                          "im_",          "start",      "<|im_",     "end|>", " ",
                                          "\n",           "<",          "assistant", "user",  "|" };
    size_t n = 0;
    for (uint64_t k = harness_rand(state) % 8; k > 0; k--) {
        const char *piece = pieces[harness_rand(state) % (sizeof(pieces) / sizeof(pieces[0]))];
        size_t bytes = strlen(piece);
        if (n + bytes > max)
            break;
        memcpy(to + n, piece, bytes);
        n += bytes;
    }
    return n;
}

struct probe {
    const char *source;
    unsigned n_control; /* control tokens that the template itself writes, with three messages */
};

static const struct probe probes[] = {
    { "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
      "{% endfor %}<|im_start|>assistant\n",
      8 },
    { "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] | trim + "
      "'<|im_end|>' }}{% endfor %}",
      6 },
    { "{% for m in messages %}<|{{ m.content }}|>{{ m.content | replace('<', '<|') }}{% endfor %}",
      0 },
    { "{{ messages | map(attribute='content') | join('<|im_end|>') }}", 2 },
    { "{{ messages | tojson }}", 0 },
    { "{% set ns = namespace(t='<|im_start|>') %}{% for m in messages %}"
      "{% set ns.t = ns.t ~ m.content[::-1] ~ m.content.split('|') | join('|') %}{% endfor %}"
      "{{ ns.t }}",
      1 },
    { "<|im_{{ messages[0].content }}start|><|im_start{{ messages[1].content }}|>", 0 },
    { "{% macro w(t) %}{{ t }}<|im_end|>{% endmacro %}{{ w(messages[2].content | upper | lower) }}",
      1 },
};

static unsigned count_controls(const int32_t *ids, size_t n)
{
    unsigned controls = 0;
    for (size_t i = 0; i < n; i++)
        controls += ids[i] >= CONTROL_FROM;
    return controls;
}

TEST(template_and_encoder_never_turn_user_text_into_control_tokens)
{
    static _Alignas(8) char arena[1 << 18];
    static char out[8192], texts[3][128];
    static uint8_t trusted[sizeof(out)];
    static int32_t ids[sizeof(out)];
    long rounds = harness_long() ? 200000 : 2000;
    uint64_t rng = harness_seed();
    struct vocab *v = control_vocab();
    struct encoder *e = NULL;
    char err[256];
    assert_ok(encoder_create(v, sizeof(out), &e));
    for (size_t p = 0; p < sizeof(probes) / sizeof(probes[0]); p++) {
        struct template *t = NULL;
        assert_ok(
            template_compile(probes[p].source, strlen(probes[p].source), &t, err, sizeof(err)));
        for (long i = rounds; i > 0; i--) {
            struct template_message messages[3];
            for (int k = 0; k < 3; k++)
                messages[k] = (struct template_message){
                    .role = "user",
                    .role_bytes = 4,
                    .role_trusted = true,
                    .content = texts[k],
                    .content_bytes = hostile_text(&rng, texts[k], sizeof(texts[k])),
                };
            struct template_input in = { .messages = messages, .n_message = 3, .bos_token = "<s>" };
            size_t bytes, n;
            assert_ok(template_render(t, &in, arena, sizeof(arena), out, trusted, sizeof(out),
                                      &bytes, err, sizeof(err)));
            assert_ok(
                encode_text(e, out, bytes, 0, trusted, ids, sizeof(ids) / sizeof(ids[0]), &n));
            unsigned controls = count_controls(ids, n);
            /* An empty text between the halves of a token lets the template spell it itself. */
            if (controls != probes[p].n_control && !(p == 6 && controls <= 2))
                fail_msg("%s: %u control tokens in %.*s", probes[p].source, controls, (int)bytes,
                         out);
            if (p == 6 && messages[0].content_bytes && messages[1].content_bytes)
                assert_int_equal(controls, 0);
        }
        template_free(t);
    }
    encoder_free(e);
    vocab_free(v);
}
