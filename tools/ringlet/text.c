/*
 * `ringlet tokenize`, `detokenize` and `template`: the daemon's own text code on a model's
 * vocabulary, without a daemon. A file without tensors is enough.
 */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <jansson.h>

#include "config.h"
#include "daemon/format/gguf.h"
#include "daemon/text/detokenize.h"
#include "daemon/text/encode.h"
#include "daemon/text/template.h"
#include "daemon/text/vocab.h"
#include "tools/ringlet/json_out.h"
#include "tools/ringlet/options.h"

#define ARENA_BYTES ((size_t)256 << 20) /* address space; touched only as far as needed */

struct text_options {
    const char *model, *tools, *args;
    bool bos, special, no_generation, keep_going;
    char **rest;
    int n_rest;
};

static const char *const usages[] = {
    "usage: ringlet tokenize --model PATH [--bos] [--special] [TEXT]\n\n"
    "Print the token ids of TEXT, or of stdin byte for byte, as a JSON array.\n\n"
    "  --bos      the model's BOS in front, if it asks for one\n"
    "  --special  control tokens spelt in the text count as such",
    "usage: ringlet detokenize --model PATH [--special] [IDS]\n\n"
    "Print the text of token ids, from the argument or stdin: 1,2,3 or a JSON array.\n\n"
    "  --special  show the text of control tokens",
    "usage: ringlet template --model PATH [OPTION...]\n\n"
    "Read a JSON array of {role, content} from stdin and print the prompt that the model's\n"
    "chat template makes of it.\n\n"
    "  --tools FILE            JSON array of tools\n"
    "  --args JSON             object with more variables of the template\n"
    "  --no-generation-prompt  without the beginning of the answer\n"
    "  --continue              the answer continues the last message",
};

/* which: index of usages. Returns -1 go on, else an exit status. */
static int parse(int argc, char **argv, int which, struct text_options *o)
{
    static const struct option all[] = { { "model", required_argument, NULL, 'm' },
                                         { "help", no_argument, NULL, 'h' },
                                         { "version", no_argument, NULL, 'V' },
                                         { "bos", no_argument, NULL, 'b' },
                                         { "special", no_argument, NULL, 's' },
                                         { "tools", required_argument, NULL, 't' },
                                         { "args", required_argument, NULL, 'a' },
                                         { "no-generation-prompt", no_argument, NULL, 'g' },
                                         { "continue", no_argument, NULL, 'c' },
                                         { 0 } };
    static const char *const letters[] = { "mhVbs", "mhVs", "mhVtagc" };
    struct option table[ARRAY_SIZE(all)];
    size_t n = 0;
    int found;
    for (size_t i = 0; all[i].name; i++) {
        if (strchr(letters[which], all[i].val))
            table[n++] = all[i];
    }
    table[n] = (struct option){ 0 };
    *o = (struct text_options){ 0 };
    while ((found = getopt_long(argc, argv, "h", table, NULL)) >= 0) {
        switch (found) {
        case 'm':
            o->model = optarg;
            break;
        case 'b':
            o->bos = true;
            break;
        case 's':
            o->special = true;
            break;
        case 't':
            o->tools = optarg;
            break;
        case 'a':
            o->args = optarg;
            break;
        case 'g':
            o->no_generation = true;
            break;
        case 'c':
            o->keep_going = true;
            break;
        case 'h':
            puts(usages[which]);
            return TOOL_DONE;
        case 'V':
            puts("ringlet " RINGLET_VERSION);
            return TOOL_DONE;
        default:
            return TOOL_USAGE;
        }
    }
    o->rest = argv + optind;
    o->n_rest = argc - optind;
    if (!o->model)
        return tool_say(TOOL_USAGE, "--model PATH is needed");
    if (o->n_rest > (which == 2 ? 0 : 1))
        return tool_say(TOOL_USAGE, "%s: too many arguments: quote the text",
                        o->rest[o->n_rest - 1]);
    return -1;
}

static int open_vocab(const char *path, struct vocab **ret)
{
    struct format_error err = { "" };
    struct gguf *g = NULL;
    struct stat st;
    int error;
    if (strcmp(path, "echo") == 0) {
        error = vocab_open_bytes(ret);
    } else if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        error = vocab_open_hf(path, ret, &err);
    } else {
        error = gguf_open(path, &g, &err);
        if (!error)
            error = vocab_open_gguf(g, ret, &err);
        gguf_close(g);
    }
    if (!error)
        return 0;
    if (err.text[0])
        return tool_say(TOOL_FAILED, "%s", err.text);
    return tool_say(TOOL_FAILED, "%s: %s", path, strerror(-error));
}

/* The one argument, or stdin. */
static int get_text(const struct text_options *o, struct tool_buffer *text)
{
    if (o->n_rest == 1 && strcmp(o->rest[0], "-") != 0) {
        tool_append(text, o->rest[0], strlen(o->rest[0]));
        return 0;
    }
    int error = tool_read_all(stdin, text);
    return error ? tool_say(TOOL_FAILED, "stdin: %s", strerror(-error)) : 0;
}

static int tokenize(const struct vocab *v, const struct text_options *o,
                    const struct tool_buffer *text)
{
    struct encoder *e = NULL;
    size_t n_max = text->bytes + 8, n = 0;
    unsigned flags = (o->bos ? ENCODE_BOS : 0u) | (o->special ? ENCODE_SPECIAL : 0u);
    int error = encoder_create(v, text->bytes + 1, &e);
    if (error)
        return tool_say(TOOL_FAILED, "tokenize: %s", strerror(-error));
    int32_t *ids = tool_realloc(NULL, 2 * n_max, sizeof(*ids));
    error =
        encode_text(e, text->data ? text->data : "", text->bytes, flags, NULL, ids, 2 * n_max, &n);
    if (!error) {
        out_ids(stdout, (const uint32_t *)ids, n);
        putchar('\n');
    }
    free(ids);
    encoder_free(e);
    if (error)
        return tool_say(TOOL_FAILED, "tokenize: %s",
                        error == -EILSEQ ? "the text is not UTF-8" : strerror(-error));
    return tool_flush() ? TOOL_DONE : TOOL_FAILED;
}

int command_tokenize(int argc, char **argv)
{
    struct text_options o;
    struct tool_buffer text = { 0 };
    struct vocab *v = NULL;
    int status = parse(argc, argv, 0, &o);
    if (status >= 0)
        return status;
    status = open_vocab(o.model, &v);
    if (status == 0)
        status = get_text(&o, &text);
    if (status == 0)
        status = tokenize(v, &o, &text);
    free(text.data);
    vocab_free(v);
    return status;
}

static int detokenize(const struct vocab *v, const struct text_options *o, const uint32_t *ids,
                      size_t n)
{
    char out[DETOK_OUT_MAX];
    size_t bytes = 0;
    int stop_i;
    struct detok d;
    detok_init(&d, NULL,
               (o->special ? DETOK_SPECIAL : 0u) | (vocab_adds_space(v) ? DETOK_AT_START : 0u));
    for (size_t i = 0; i < n; i++) {
        if (ids[i] >= (uint32_t)vocab_size(v))
            return tool_say(TOOL_FAILED, "detokenize: %u: the vocabulary has %d tokens", ids[i],
                            vocab_size(v));
        int error = detok_push(&d, v, (int32_t)ids[i], out, sizeof(out), &bytes, &stop_i);
        if (error)
            return tool_say(TOOL_FAILED, "detokenize: %s", strerror(-error));
        fwrite(out, 1, bytes, stdout);
    }
    if (detok_flush(&d, out, sizeof(out), &bytes) == 0)
        fwrite(out, 1, bytes, stdout);
    return tool_flush() ? TOOL_DONE : TOOL_FAILED;
}

int command_detokenize(int argc, char **argv)
{
    struct text_options o;
    struct tool_buffer text = { 0 };
    struct vocab *v = NULL;
    uint32_t *ids = NULL;
    size_t n = 0;
    int status = parse(argc, argv, 1, &o);
    if (status >= 0)
        return status;
    status = open_vocab(o.model, &v);
    if (status == 0)
        status = get_text(&o, &text);
    tool_append(&text, "", 1);
    if (status == 0 && parse_ids(text.data, "detokenize", &ids, &n))
        status = TOOL_FAILED;
    if (status == 0)
        status = detokenize(v, &o, ids, n);
    free(ids);
    free(text.data);
    vocab_free(v);
    return status;
}

/* Checked by a full JSON parser first, so that a mistake is named by line and column. */
static int check_messages(const struct tool_buffer *text)
{
    json_error_t error;
    json_t *root = json_loadb(text->data ? text->data : "", text->bytes, JSON_ALLOW_NUL, &error);
    json_t *message;
    size_t i;
    int status = 0;
    if (!root)
        return tool_say(TOOL_FAILED, "stdin: line %d, column %d: %s", error.line, error.column,
                        error.text);
    if (!json_is_array(root))
        status = tool_say(TOOL_FAILED, "stdin: expected a JSON array of messages");
    json_array_foreach(root, i, message)
    {
        if (status == 0 &&
            (!json_is_object(message) || !json_is_string(json_object_get(message, "role"))))
            status = tool_say(TOOL_FAILED, "stdin: message %zu is no object with a role", i);
    }
    json_decref(root);
    return status;
}

static char *piece_copy(const struct vocab *v, int32_t id)
{
    size_t n = 0;
    const char *piece = id < 0 ? "" : vocab_piece(v, id, &n);
    char *copy = tool_realloc(NULL, n + 1, 1);
    memcpy(copy, piece, n);
    copy[n] = '\0';
    return copy;
}

static int64_t local_seconds(void)
{
    time_t now = time(NULL);
    struct tm tm;
    return localtime_r(&now, &tm) ? (int64_t)now + tm.tm_gmtoff : (int64_t)now;
}

static int render(const struct template *t, const struct template_input *in)
{
    size_t out_max = in->messages_json_bytes * 4 + (4u << 20), bytes = 0;
    char err[512];
    void *arena = malloc(ARENA_BYTES);
    char *out = malloc(out_max);
    uint8_t *trusted = malloc(out_max);
    int error = -ENOMEM, status = TOOL_DONE;
    snprintf(err, sizeof(err), "out of memory");
    if (arena && out && trusted)
        error = template_render(t, in, arena, ARENA_BYTES, out, trusted, out_max, &bytes, err,
                                sizeof(err));
    if (error == -ECANCELED)
        status = tool_say(TOOL_FAILED, "the template refuses: %s", err);
    else if (error)
        status = tool_say(TOOL_FAILED, "%s", err);
    else
        fwrite(out, 1, bytes, stdout);
    if (!error && isatty(STDOUT_FILENO) && bytes > 0 && out[bytes - 1] != '\n')
        putchar('\n');
    free(arena);
    free(out);
    free(trusted);
    return tool_flush() ? status : TOOL_FAILED;
}

static int render_messages(const struct vocab *v, const struct text_options *o,
                           const struct tool_buffer *messages, const struct tool_buffer *tools)
{
    const char *source = vocab_template(v);
    struct template *t = NULL;
    char err[512];
    if (!source)
        return tool_say(TOOL_FAILED, "%s: the model has no chat template", o->model);
    if (template_compile(source, strlen(source), &t, err, sizeof(err)) != 0)
        return tool_say(TOOL_FAILED, "%s: %s", o->model, err);
    char *bos = piece_copy(v, vocab_bos(v)), *eos = piece_copy(v, vocab_eos(v));
    struct template_input in = {
        .messages_json = messages->data,
        .messages_json_bytes = messages->bytes,
        .tools_json = tools->data,
        .tools_json_bytes = tools->bytes,
        .args_json = o->args,
        .args_json_bytes = o->args ? strlen(o->args) : 0,
        .bos_token = bos,
        .eos_token = eos,
        .add_generation_prompt = !o->no_generation,
        .continue_final = o->keep_going,
        .now_local_s = local_seconds(),
        .steps_max = UINT32_MAX / 2,
    };
    int status = render(t, &in);
    template_free(t);
    free(bos);
    free(eos);
    return status;
}

int command_template(int argc, char **argv)
{
    struct text_options o;
    struct tool_buffer messages = { 0 }, tools = { 0 };
    struct vocab *v = NULL;
    int status = parse(argc, argv, 2, &o);
    if (status >= 0)
        return status;
    status = open_vocab(o.model, &v);
    if (status == 0 && o.tools) {
        FILE *from = fopen(o.tools, "re");
        int error = from ? tool_read_all(from, &tools) : -errno;
        if (from)
            fclose(from);
        if (error)
            status = tool_say(TOOL_FAILED, "%s: %s", o.tools, strerror(-error));
    }
    if (status == 0)
        status = get_text(&o, &messages);
    if (status == 0)
        status = check_messages(&messages);
    if (status == 0)
        status = render_messages(v, &o, &messages, &tools);
    free(messages.data);
    free(tools.data);
    vocab_free(v);
    return status;
}
