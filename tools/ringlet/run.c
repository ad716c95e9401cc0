/* `ringlet run`: one request. */
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

static int run(struct run_options *o)
{
    struct tool_buffer prompt = { 0 };
    struct ringlet_message messages[2];
    struct session session = { .log = -1 };
    struct answer answer = { 0 };
    uint32_t *ids = NULL;
    if (o->json && o->stream_json)
        return tool_say(TOOL_USAGE, "run: --json or --stream-json, not both");
    if (o->tokens && parse_ids(o->tokens, "--tokens", &ids, &o->request.n_token))
        return TOOL_USAGE;
    o->request.tokens = ids;
    int status = get_prompt(o, &prompt);
    if (status < 0)
        status = session_open(&session, o->socket, o->model,
                              prompt.bytes + o->request.n_token * sizeof(*ids));
    if (status == 0)
        status = set_input(o, &session.model, &prompt, messages);
    if (status == 0) {
        run_options_set_deadlines(o, tool_now_ns());
        unsigned mode = o->json ? ANSWER_JSON : o->stream_json ? ANSWER_STREAM : ANSWER_PRINT;
        status = answer_run(&answer, &session, &o->request, mode);
        if (mode == ANSWER_PRINT && !o->quiet && status == TOOL_DONE)
            answer_figures(&answer);
        if (!tool_flush() && status == TOOL_DONE)
            status = TOOL_FAILED;
    }
    session_close(&session);
    answer_free(&answer);
    free(prompt.data);
    free(ids);
    return status;
}

int command_run(int argc, char **argv)
{
    struct run_options options;
    int status = run_options_parse(argc, argv, false, &options);
    if (status >= 0)
        return status;
    tool_catch_signals();
    status = run(&options);
    run_options_free(&options);
    return status;
}
