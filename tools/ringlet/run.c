/* `ringlet run` and `ringlet cache query`: one request. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/ringlet/answer.h"
#include "tools/ringlet/options.h"

/* The prompt from the arguments or from stdin. Returns -1, or an exit status. */
static int get_prompt(const struct run_options *o, struct tool_buffer *prompt)
{
    if (o->n_rest > 1)
        return tool_say(TOOL_USAGE, "run: one prompt, please: quote it");
    if (o->tokens) {
        if (o->n_rest > 0)
            return tool_say(TOOL_USAGE, "run: --tokens stands in place of a prompt");
        return -1;
    }
    if (o->n_rest == 1 && strcmp(o->rest[0], "-") != 0) {
        tool_append(prompt, o->rest[0], strlen(o->rest[0]));
        return -1;
    }
    if (o->n_rest == 0 && isatty(STDIN_FILENO))
        return tool_say(TOOL_USAGE, "run: no prompt (- reads stdin; see ringlet run --help)");
    int error = tool_read_all(stdin, prompt);
    if (error)
        return tool_say(TOOL_FAILED, "stdin: %s", strerror(-error));
    return -1;
}

/* What is sent: ids, plain text, or messages for the model's template. */
static int set_input(struct run_options *o, const struct ringlet_model_info *model,
                     const struct tool_buffer *prompt, struct ringlet_message messages[2])
{
    struct ringlet_request *r = &o->request;
    bool chat = !o->raw && !o->tokens && (model->flags & RINGLET_MODEL_HAS_TEMPLATE);
    const char *text = prompt->data ? prompt->data : "";
    r->model = model->index;
    r->model_generation = model->generation;
    if (o->system && !chat)
        return tool_say(TOOL_USAGE, "run: --system needs a model with a chat template, and no %s",
                        o->raw ? "--raw" : "--tokens");
    if (chat) {
        r->messages = messages;
        if (o->system)
            messages[r->n_message++] = (struct ringlet_message){ .role = RINGLET_ROLE_SYSTEM,
                                                                 .text = o->system,
                                                                 .bytes = strlen(o->system) };
        messages[r->n_message++] = (struct ringlet_message){ .role = RINGLET_ROLE_USER,
                                                             .text = text,
                                                             .bytes = prompt->bytes };
    } else if (!o->tokens) {
        r->text = text;
        r->text_bytes = prompt->bytes;
    }
    return 0;
}

/* What the annex of a query says. */
static void show_query(const struct answer *a, bool json)
{
    const struct ringlet_annex *t = &a->totals;
    if (json)
        printf("{\"prompt_tokens\":%u,\"cached_tokens\":%u}\n", t->total_prompt_tokens,
               t->total_cached_tokens);
    else
        printf("%u of %u tokens are cached\n", t->total_cached_tokens, t->total_prompt_tokens);
}

static int ask(struct run_options *o, struct session *session)
{
    struct answer answer = { 0 };
    bool query = o->request.op == RINGLET_OP_QUERY;
    unsigned mode = query            ? 0
                    : o->json        ? ANSWER_JSON
                    : o->stream_json ? ANSWER_STREAM
                                     : ANSWER_PRINT;
    run_options_set_deadlines(o, tool_now_ns());
    int status = answer_run(&answer, session, &o->request, mode);
    if (mode == ANSWER_PRINT && !o->quiet && status == TOOL_DONE)
        answer_figures(&answer);
    if (query && status == TOOL_DONE)
        show_query(&answer, o->json);
    if (!tool_flush() && status == TOOL_DONE)
        status = TOOL_FAILED;
    answer_free(&answer);
    return status;
}

static int run(struct run_options *o)
{
    struct tool_buffer prompt = { 0 };
    struct ringlet_message messages[2];
    struct session session = { .log = -1 };
    uint32_t *ids = NULL;
    if (o->json && o->stream_json)
        return tool_say(TOOL_USAGE, "run: --json or --stream-json, not both");
    if (o->tokens && parse_ids(o->tokens, "--tokens", &ids, &o->request.n_token))
        return TOOL_USAGE;
    if (o->tokens && !ids)
        return tool_say(TOOL_USAGE, "run: --tokens: no ids");
    o->request.tokens = ids;
    int status = get_prompt(o, &prompt);
    if (status < 0)
        status = session_open(&session, o->socket, o->model,
                              prompt.bytes + o->request.n_token * sizeof(*ids));
    if (status == 0)
        status = set_input(o, &session.model, &prompt, messages);
    if (status == 0)
        status = ask(o, &session);
    session_close(&session);
    free(prompt.data);
    free(ids);
    return status;
}

static int command(int argc, char **argv, enum options_of of)
{
    struct run_options options;
    int status = run_options_parse(argc, argv, of, &options);
    if (status >= 0)
        return status;
    if (of == OPTIONS_QUERY)
        options.request.op = RINGLET_OP_QUERY;
    tool_catch_signals();
    status = run(&options);
    run_options_free(&options);
    return status;
}

int command_run(int argc, char **argv)
{
    return command(argc, argv, OPTIONS_RUN);
}

int command_cache(int argc, char **argv)
{
    static char name[] = "ringlet cache query";
    if (argc > 1 && strcmp(argv[1], "query") == 0) {
        argv[1] = name;
        return command(argc - 1, argv + 1, OPTIONS_QUERY);
    }
    if (argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "--version") == 0))
        return command(argc, argv, OPTIONS_QUERY);
    return tool_say(TOOL_USAGE, "cache: expected `query`");
}
