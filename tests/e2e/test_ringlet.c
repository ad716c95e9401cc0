/* The command line against a real daemon on the model echo: output, JSON, exit statuses. */
#include "tests/e2e/command.h"
#include "tests/e2e/e2e.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "tests/daemon/format/gguf_writer.h"

static struct command c;
static struct e2e_daemon d;

#define assert_said(word)                                                                          \
    do {                                                                                           \
        if (!strstr(c.errors, (word)))                                                             \
            fail_msg("stderr does not say \"%s\": %s", (word), c.errors);                          \
    } while (0)

/* Line number i of stdout as JSON. */
static json_t *json_line(int i)
{
    char *line = c.text;
    while (i-- > 0) {
        line = strchr(line, '\n');
        assert_non_null(line);
        line++;
    }
    json_error_t error;
    json_t *root = json_loadb(line, strcspn(line, "\n"), JSON_ALLOW_NUL, &error);
    if (!root)
        fail_msg("%s in %.200s", error.text, line);
    return root;
}

static const char *text_of(const json_t *root, const char *key)
{
    const char *text = json_string_value(json_object_get(root, key));
    return text ? text : "(no text)";
}

TEST(ringlet_run_prints_the_answer)
{
    e2e_start(&d, NULL);
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "hello world"), 0);
    assert_string_equal(c.text, "hello world\n");
    assert_said("tokens/s");
    assert_int_equal(ringlet(&c, "from stdin", "run", "--socket", d.socket, "-q", "-"), 0);
    assert_string_equal(c.text, "from stdin\n");
    assert_string_equal(c.errors, "");
    assert_int_equal(ringlet(&c, "no dash", "run", "--socket", d.socket, "--model", "echo"), 0);
    assert_string_equal(c.text, "no dash\n");
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--", "--odd"), 0);
    assert_string_equal(c.text, "--odd\n");
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--stop", "l", "hello"), 0);
    assert_string_equal(c.text, "he\n");
    e2e_stop(&d);
}

TEST(ringlet_run_tells_the_sizes_of_what_does_not_fit)
{
    static char longer[4001];
    memset(longer, 'x', sizeof(longer) - 1);
    e2e_start(&d, (const char *[]){ "--kv-memory", "8K", NULL });
    assert_int_equal(ringlet(&c, longer, "run", "--socket", d.socket), 1);
    assert_said("too_big");
    assert_said("4000 tokens need 250 blocks of 16, there are ");
    e2e_stop(&d);
}

TEST(ringlet_run_tells_the_best_beams_when_the_search_is_over)
{
    e2e_start(&d, NULL);
    assert_int_equal(
        ringlet(&c, NULL, "run", "--socket", d.socket, "--quiet", "--beam-width", "3", "hello"), 0);
    assert_string_equal(c.text, "hello\n");
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--json", "--beam-width", "3",
                             "--n", "2", "--length-penalty", "0.5", "--early-stopping", "never",
                             "hello"),
                     0);
    double before = 0;
    for (int i = 0; i < 2; i++) {
        json_t *root = json_line(i);
        assert_int_equal(json_integer_value(json_object_get(root, "index")), i);
        double sum = json_number_value(json_object_get(root, "cumulative_logprob"));
        assert_true(sum <= before);
        before = sum;
        json_decref(root);
    }
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--stream-json", "--beam-width",
                             "3", "hello"),
                     0);
    json_t *root = json_line(0);
    assert_string_equal(text_of(root, "event"), "accepted");
    json_decref(root);
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--beam-width", "3", "--top-k",
                             "5", "hello"),
                     1);
    assert_said("bad_field: top_k");
    assert_int_equal(
        ringlet(&c, NULL, "run", "--socket", d.socket, "--early-stopping", "never", "hello"), 2);
    assert_non_null(strstr(c.errors, "--beam-width"));
    assert_int_equal(
        ringlet(&c, NULL, "run", "--socket", d.socket, "--length-penalty", "2", "hello"), 2);
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--beam-width", "0", "hello"),
                     2);
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--beam-width", "3",
                             "--early-stopping", "maybe", "hello"),
                     2);
    assert_said("true, false or never");
    e2e_stop(&d);
}

TEST(ringlet_run_json_has_the_promised_members)
{
    e2e_start(&d, NULL);
    assert_int_equal(ringlet(&c, "q\"\\\n\t\x01 \xc3\xa4\xf0\x9f\x98\x80", "run", "--socket",
                             d.socket, "--json", "--seed", "7", "--logprobs", "1",
                             "--prompt-logprobs", "1"),
                     0);
    json_t *root = json_line(0);
    assert_string_equal(text_of(root, "text"), "q\"\\\n\t\x01 \xc3\xa4\xf0\x9f\x98\x80");
    assert_string_equal(text_of(root, "model"), "echo");
    assert_string_equal(text_of(root, "finish_reason"), "stop_eos");
    assert_true(json_is_null(json_object_get(root, "stop")));
    assert_int_equal(json_integer_value(json_object_get(root, "seed")), 7);
    assert_int_equal(json_integer_value(json_object_get(root, "index")), 0);
    size_t n = json_array_size(json_object_get(root, "tokens"));
    assert_int_equal(n, 14);
    assert_int_equal(json_array_size(json_object_get(root, "logprobs")), n);
    json_t *prompt = json_object_get(root, "prompt_logprobs");
    assert_int_equal(json_array_size(prompt), 13);
    assert_true(json_is_null(json_array_get(prompt, 0)));
    assert_true(json_is_number(json_object_get(json_array_get(prompt, 1), "logprob")));
    json_t *usage = json_object_get(root, "usage"), *timing = json_object_get(root, "timing");
    assert_int_equal(json_integer_value(json_object_get(usage, "prompt_tokens")), 13);
    assert_int_equal(json_integer_value(json_object_get(usage, "completion_tokens")), n);
    assert_true(json_integer_value(json_object_get(timing, "total_ns")) > 0);
    json_decref(root);
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--json", "--n", "3",
                             "--temperature", "1", "ab"),
                     0);
    unsigned seen = 0;
    for (int i = 0; i < 3; i++) {
        root = json_line(i);
        seen |= 1u << json_integer_value(json_object_get(root, "index"));
        assert_string_equal(text_of(root, "text"), "ab");
        json_decref(root);
    }
    assert_int_equal(seen, 7);
    e2e_stop(&d);
}

TEST(ringlet_run_json_tells_what_stopped_it)
{
    e2e_start(&d, NULL);
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--json", "--stop", "zz",
                             "--stop", "lo", "hello"),
                     0);
    json_t *root = json_line(0);
    assert_string_equal(text_of(root, "finish_reason"), "stop_string");
    assert_string_equal(text_of(root, "stop"), "lo");
    assert_string_equal(text_of(root, "text"), "hel");
    json_t *usage = json_object_get(root, "usage");
    assert_int_equal(json_integer_value(json_object_get(usage, "completion_tokens")), 5);
    json_decref(root);
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--json", "--stop-token-ids",
                             "108", "hello"),
                     0);
    root = json_line(0);
    assert_string_equal(text_of(root, "finish_reason"), "stop_token");
    assert_int_equal(json_integer_value(json_object_get(root, "stop")), 108);
    json_decref(root);
    assert_int_equal(
        ringlet(&c, NULL, "run", "--socket", d.socket, "--json", "--max-tokens", "2", "hello"), 0);
    root = json_line(0);
    assert_string_equal(text_of(root, "finish_reason"), "length");
    json_decref(root);
    e2e_stop(&d);
}

TEST(ringlet_run_stream_json_prints_every_event)
{
    e2e_start(&d, NULL);
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--stream-json", "hello"), 0);
    char text[64] = "";
    bool end = false;
    json_t *root = json_line(0);
    assert_string_equal(text_of(root, "event"), "accepted");
    json_decref(root);
    for (int i = 1; !end; i++) {
        root = json_line(i);
        if (strcmp(text_of(root, "event"), "tokens") == 0)
            strncat(text, text_of(root, "text"), sizeof(text) - strlen(text) - 1);
        end = json_is_true(json_object_get(root, "end"));
        if (end)
            assert_string_equal(text_of(root, "finish_reason"), "stop_eos");
        json_decref(root);
    }
    assert_string_equal(text, "hello");
    e2e_stop(&d);
}

TEST(ringlet_run_sends_token_ids_as_they_are)
{
    e2e_start(&d, NULL);
    char path[128], at[160];
    snprintf(path, sizeof(path), "%s/ids", harness_tmpdir());
    snprintf(at, sizeof(at), "@%s", path);
    FILE *file = fopen(path, "w");
    fputs("[104,\n 105]\n", file);
    fclose(file);
    /* stdin stays open and unread: the command must not wait for it. */
    command_start(&c, (const char *const[]){ "RINGLET", "run", "--socket", d.socket, "--raw",
                                             "--tokens", "104, 105", NULL });
    int in = c.in;
    c.in = -1;
    command_finish(&c);
    close(in);
    assert_int_equal(c.status, 0);
    assert_string_equal(c.text, "hi\n");
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--tokens", at), 0);
    assert_string_equal(c.text, "hi\n");
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--tokens", "1,x"), 2);
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--tokens", "1", "text"), 2);
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--tokens", "99999"), 1);
    assert_said("bad_token");
    e2e_stop(&d);
}

TEST(ringlet_names_what_the_daemon_refuses)
{
    static const struct {
        const char *option, *value, *field;
    } cases[] = {
        { "--temperature", "nan", "temperature" },
        { "--temperature", "2.1", "temperature" },
        { "--temperature", "-inf", "temperature" },
        { "--top-p", "0", "top_p" },
        { "--top-p", "nan", "top_p" },
        { "--min-p", "1.5", "min_p" },
        { "--presence-penalty", "3", "presence_penalty" },
        { "--frequency-penalty", "-3", "frequency_penalty" },
        { "--repetition-penalty", "0", "repetition_penalty" },
        { "--logit-bias", "5=200", "logit_bias" },
        { "--n", "65", "n" },
        { "--beam-width", "11", "beam_width" },
    };
    e2e_start(&d, NULL);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        int status = ringlet(&c, NULL, "run", "--socket", d.socket, "--json", cases[i].option,
                             cases[i].value, "hi");
        if (status != 1)
            fail_msg("%s %s: status %d", cases[i].option, cases[i].value, status);
        assert_said(cases[i].field);
        json_t *root = json_line(0);
        assert_string_equal(text_of(root, "finish_reason"), "rejected");
        json_decref(root);
    }
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--n", "65", "hi"), 1);
    assert_string_equal(c.text, "");
    assert_int_equal(ringlet(&c, "\xff\xfe", "run", "--socket", d.socket), 1);
    assert_said("UTF-8");
    static char longer[20000];
    memset(longer, 'x', sizeof(longer) - 1);
    assert_int_equal(ringlet(&c, longer, "run", "--socket", d.socket), 1);
    assert_said("too_long");
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--model", "nobody", "x"), 1);
    assert_said("nobody");
    struct ringlet_client *cl = e2e_connect(&d);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(ringlet_usage_mistakes_exit_2)
{
    static const char *const lines[][5] = {
        { NULL },
        { "nope" },
        { "--nope" },
        { "run", "--nope" },
        { "run", "--temperature", "abc", "x" },
        { "run", "--temperature" },
        { "run", "--max-tokens", "-1", "x" },
        { "run", "--urgency", "256", "x" },
        { "run", "--logit-bias", "x=1", "x" },
        { "run", "--json", "--stream-json", "x" },
        { "run", "two", "prompts" },
        { "run", "--tokens", "", "--raw" },
        { "chat", "--nope" },
        { "chat", "--json" },
        { "chat", "words" },
        { "status", "--nope" },
        { "status", "words" },
        { "tokenize", "text" },
        { "tokenize", "--nope" },
        { "detokenize", "--bos", "--model", "x" },
        { "template" },
        { "doctor", "--nope" },
    };
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        const char *argv[8] = { "RINGLET" };
        memcpy(argv + 1, lines[i], sizeof(lines[i]));
        if (command_run(&c, NULL, argv) != 2)
            fail_msg("line %zu: status %d: %s", i, c.status, c.errors);
        assert_true(c.errors[0] != '\0');
        assert_string_equal(c.text, "");
    }
}

TEST(ringlet_help_and_version_exit_0)
{
    static const char *const commands[] = { "run",        "chat",     "status", "tokenize",
                                            "detokenize", "template", "doctor" };
    assert_int_equal(ringlet(&c, NULL, "--help"), 0);
    assert_int_equal(ringlet(&c, NULL, "--version"), 0);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        assert_int_equal(ringlet(&c, NULL, commands[i], "--help"), 0);
        assert_non_null(strstr(c.text, commands[i]));
        assert_string_equal(c.errors, "");
        assert_int_equal(ringlet(&c, NULL, commands[i], "--version"), 0);
        assert_non_null(strstr(c.text, "ringlet "));
    }
    assert_int_equal(command_run(&c, NULL, (const char *const[]){ "RINGLET_DUMP", "--help", NULL }),
                     0);
}

TEST(ringlet_without_a_daemon_exits_3)
{
    char socket[128];
    snprintf(socket, sizeof(socket), "%s/nobody", harness_tmpdir());
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", socket, "hi"), 3);
    assert_said(socket);
    assert_int_equal(ringlet(&c, NULL, "chat", "--socket", socket), 3);
    assert_int_equal(ringlet(&c, NULL, "status", "--socket", socket), 3);
    setenv("RINGLET_SOCKET", socket, 1);
    assert_int_equal(ringlet(&c, NULL, "status"), 3);
    assert_said(socket);
    assert_int_equal(ringlet(&c, NULL, "run", "--model", "name", "hi"), 3);
}

TEST(ringlet_cache_query_tells_what_is_cached)
{
    const char *prompt = "a prompt that is longer than three blocks of sixteen tokens each";
    e2e_start(&d, NULL);
    assert_int_equal(ringlet(&c, NULL, "cache", "query", "--socket", d.socket, "--json", prompt),
                     0);
    json_t *root = json_line(0);
    assert_int_equal(json_integer_value(json_object_get(root, "prompt_tokens")), strlen(prompt));
    assert_int_equal(json_integer_value(json_object_get(root, "cached_tokens")), 0);
    json_decref(root);
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "-q", prompt), 0);
    assert_int_equal(ringlet(&c, prompt, "cache", "query", "--socket", d.socket, "--json"), 0);
    root = json_line(0);
    assert_true(json_integer_value(json_object_get(root, "cached_tokens")) >= 48);
    json_decref(root);
    assert_int_equal(ringlet(&c, NULL, "cache", "query", "--socket", d.socket, prompt), 0);
    assert_non_null(strstr(c.text, "tokens are cached"));
    assert_int_equal(ringlet(&c, NULL, "cache"), 2);
    assert_int_equal(ringlet(&c, NULL, "cache", "nope"), 2);
    e2e_stop(&d);
}

TEST(ringlet_status_counts_and_conserves_blocks)
{
    e2e_start(&d, NULL);
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "hi"), 0);
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--max-tokens", "1", "hi"), 0);
    assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, "--n", "0", "hi"), 1);
    struct ringlet_client *cl = e2e_connect(&d);
    e2e_settle(cl);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    assert_int_equal(ringlet(&c, NULL, "status", "--socket", d.socket, "--json"), 0);
    json_t *root = json_line(0);
    assert_string_equal(text_of(root, "version"), ringlet_version());
    assert_true(json_integer_value(json_object_get(root, "uptime_ns")) > 0);
    json_t *model = json_array_get(json_object_get(root, "models"), 0);
    json_t *kv = json_object_get(model, "kv"), *requests = json_object_get(model, "requests");
    json_t *reasons = json_object_get(requests, "by_reason");
    assert_string_equal(text_of(model, "name"), "echo");
    assert_int_equal(json_integer_value(json_object_get(kv, "blocks_owned")), 0);
    assert_int_equal(json_integer_value(json_object_get(kv, "blocks_free")) +
                         json_integer_value(json_object_get(kv, "blocks_cached")),
                     json_integer_value(json_object_get(kv, "blocks_total")));
    assert_int_equal(json_integer_value(json_object_get(requests, "finished")), 3);
    assert_int_equal(json_integer_value(json_object_get(reasons, "rejected")), 1);
    assert_int_equal(json_integer_value(json_object_get(reasons, "length")), 1);
    assert_int_equal(json_integer_value(json_object_get(reasons, "stop_eos")), 1);
    json_decref(root);
    assert_int_equal(ringlet(&c, NULL, "status", "--socket", d.socket), 0);
    assert_non_null(strstr(c.text, "echo"));
    e2e_stop(&d);
}

/* A vocabulary of bytes: what the text commands do, without any model file. */
TEST(ringlet_text_commands_need_no_daemon)
{
    setenv("RINGLET_SOCKET", "/nonexistent/socket", 1);
    assert_int_equal(ringlet(&c, NULL, "tokenize", "--model", "echo", "hi"), 0);
    assert_string_equal(c.text, "[104,105]\n");
    assert_int_equal(ringlet(&c, "hi\n", "tokenize", "--model", "echo"), 0);
    assert_string_equal(c.text, "[104,105,10]\n");
    assert_int_equal(ringlet(&c, NULL, "tokenize", "--model", "echo", ""), 0);
    assert_string_equal(c.text, "[]\n");
    assert_int_equal(ringlet(&c, "", "tokenize", "--model", "echo"), 0);
    assert_string_equal(c.text, "[]\n");
    assert_int_equal(ringlet(&c, "\xff", "tokenize", "--model", "echo"), 1);
    assert_said("UTF-8");
    assert_int_equal(ringlet(&c, "[104, 105, 10]", "detokenize", "--model", "echo"), 0);
    assert_string_equal(c.text, "hi\n");
    assert_int_equal(ringlet(&c, NULL, "detokenize", "--model", "echo", "104,105"), 0);
    assert_string_equal(c.text, "hi");
    assert_int_equal(ringlet(&c, NULL, "detokenize", "--model", "echo", "70000"), 1);
    assert_said("70000");
    assert_int_equal(ringlet(&c, NULL, "detokenize", "--model", "echo", "x"), 1);
    assert_int_equal(ringlet(&c, "[]", "template", "--model", "echo"), 1);
    assert_said("no chat template");
    assert_int_equal(ringlet(&c, NULL, "tokenize", "--model", "/nonexistent/model.gguf", "x"), 1);
    assert_said("/nonexistent/model.gguf");
}

/* A GGUF with a vocabulary, a template and no tensors. */
static void write_model(const char *path)
{
    static const char *const tokens[] = { "a", "b", "ab", "<s>", "</s>" };
    static const char template[] =
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if tools %}{{ tools | tojson }}{% endif %}{% if mood is defined %}{{ mood }}{% endif %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}";
    struct gguf_writer w = { 0 };
    put_header(&w, 3, 0, 8);
    put_key(&w, "general.architecture", 8), put_string(&w, "nobody-knows-it");
    put_key(&w, "tokenizer.ggml.model", 8), put_string(&w, "gpt2");
    put_key(&w, "tokenizer.ggml.pre", 8), put_string(&w, "gpt-2");
    put_array(&w, "tokenizer.ggml.tokens", 8, 5);
    for (int i = 0; i < 5; i++)
        put_string(&w, tokens[i]);
    put_array(&w, "tokenizer.ggml.token_type", 5, 5);
    for (int i = 0; i < 5; i++)
        put_u32(&w, i < 3 ? 1 : 3);
    put_array(&w, "tokenizer.ggml.merges", 8, 1), put_string(&w, "a b");
    put_key(&w, "tokenizer.ggml.bos_token_id", 4), put_u32(&w, 3);
    put_key(&w, "tokenizer.chat_template", 8), put_string(&w, template);
    put_padding(&w, 32);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(w.data, 1, w.bytes, file), w.bytes);
    fclose(file);
    free(w.data);
}

TEST(ringlet_template_renders_messages)
{
    char path[128], tools[128];
    snprintf(path, sizeof(path), "%s/vocab.gguf", harness_tmpdir());
    snprintf(tools, sizeof(tools), "%s/tools.json", harness_tmpdir());
    write_model(path);
    FILE *file = fopen(tools, "w");
    fputs("[1]", file);
    fclose(file);
    const char *chat = "[{\"role\": \"user\", \"content\": \"x<s>\"}]";
    assert_int_equal(ringlet(&c, chat, "template", "--model", path), 0);
    assert_string_equal(c.text, "<s>[user]x<s>[assistant]");
    assert_int_equal(ringlet(&c, chat, "template", "--model", path, "--tools", tools, "--args",
                             "{\"mood\": \"good\"}", "--no-generation-prompt"),
                     0);
    assert_string_equal(c.text, "<s>[user]x<s>[1]good");
    assert_int_equal(ringlet(&c, NULL, "tokenize", "--model", path, "abba"), 0);
    assert_string_equal(c.text, "[2,1,0]\n");
    assert_int_equal(ringlet(&c, NULL, "tokenize", "--model", path, "--special", "<s>ab"), 0);
    assert_string_equal(c.text, "[3,2]\n");
    static const char *const bad[] = { "", "{", "{}", "[1]", "[{}]", "[{\"role\": 1}]", "[] x" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (ringlet(&c, bad[i], "template", "--model", path) != 1)
            fail_msg("%s was taken", bad[i]);
        assert_said("stdin");
    }
    assert_int_equal(ringlet(&c, chat, "template", "--model", path, "--args", "{\"tools\":1}"), 1);
    assert_said("reserved");
}
