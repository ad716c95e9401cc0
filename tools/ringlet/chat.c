/*
 * `ringlet chat`: turn after turn, the whole conversation sent each time (the daemon's prefix cache
 * makes that cheap). Without a chat template the conversation is plain text.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "tools/ringlet/answer.h"
#include "tools/ringlet/json_out.h"
#include "tools/ringlet/options.h"

struct turn {
    uint8_t role;
    char *text;
    size_t bytes;
};

struct chat {
    struct run_options *options;
    struct session session;
    struct turn *turns;
    size_t n_turn;
    size_t marks[64], n_mark; /* /fork: how many turns there were */
    bool terminal;            /* prompts and hints only for a person */
};

static void add_turn(struct chat *c, uint8_t role, const char *text, size_t bytes)
{
    c->turns = tool_realloc(c->turns, c->n_turn + 1, sizeof(*c->turns));
    char *copy = tool_realloc(NULL, bytes + 1, 1);
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    c->turns[c->n_turn++] = (struct turn){ role, copy, bytes };
}

static void drop_turns(struct chat *c, size_t keep)
{
    while (c->n_turn > keep)
        free(c->turns[--c->n_turn].text);
}

/* Try something else from here on: /back returns, and the daemon's cache still has the prefix. */
static void fork_here(struct chat *c)
{
    if (c->n_mark == ARRAY_SIZE(c->marks)) {
        tool_say(0, "/fork: %zu marks are enough", c->n_mark);
        return;
    }
    c->marks[c->n_mark++] = c->n_turn;
}

static void back(struct chat *c)
{
    if (c->n_mark == 0) {
        tool_say(0, "/back: there was no /fork");
        return;
    }
    drop_turns(c, c->marks[--c->n_mark]);
}

/* The system message stays first; an empty one goes away. */
static void set_system(struct chat *c, const char *text)
{
    drop_turns(c, 0);
    c->n_mark = 0;
    c->options->system = NULL;
    if (!text || !*text)
        return;
    add_turn(c, RINGLET_ROLE_SYSTEM, text, strlen(text));
}

static void reset(struct chat *c)
{
    c->n_mark = 0;
    drop_turns(c, c->n_turn > 0 && c->turns[0].role == RINGLET_ROLE_SYSTEM);
}

static void save(const struct chat *c, const char *path)
{
    static const char *const roles[] = { "system", "user", "assistant", "tool" };
    FILE *to = *path ? fopen(path, "we") : NULL;
    if (!to) {
        tool_say(0, "/save %s: %s", path, *path ? strerror(errno) : "expected a file name");
        return;
    }
    fputs("[", to);
    for (size_t i = 0; i < c->n_turn; i++) {
        fprintf(to, "%s\n {\"role\": \"%s\", \"content\": ", i ? "," : "", roles[c->turns[i].role]);
        out_string(to, c->turns[i].text, c->turns[i].bytes);
        fputs("}", to);
    }
    fputs("\n]\n", to);
    bool bad = ferror(to);
    if (fclose(to) != 0 || bad)
        tool_say(0, "/save %s: %s", path, strerror(errno));
    else if (c->terminal)
        fprintf(stderr, "saved %zu messages to %s\n", c->n_turn, path);
}

/* A line that begins with a slash. True: leave. */
static bool command(struct chat *c, char *line)
{
    char *rest = line + strcspn(line, " \t");
    if (*rest)
        *rest++ = '\0';
    rest += strspn(rest, " \t");
    if (strcmp(line, "/exit") == 0 || strcmp(line, "/quit") == 0)
        return true;
    if (strcmp(line, "/reset") == 0)
        reset(c);
    else if (strcmp(line, "/system") == 0)
        set_system(c, rest);
    else if (strcmp(line, "/save") == 0)
        save(c, rest);
    else if (strcmp(line, "/fork") == 0)
        fork_here(c);
    else if (strcmp(line, "/back") == 0)
        back(c);
    else
        tool_say(0, "%s: the commands are /reset, /system TEXT, /save FILE, /fork, /back, /exit",
                 line);
    return false;
}

/* The conversation as one text, for a model without a template. */
static void plain_text(const struct chat *c, struct tool_buffer *text)
{
    for (size_t i = 0; i < c->n_turn; i++) {
        tool_append(text, c->turns[i].text, c->turns[i].bytes);
        tool_append(text, "\n", 1);
    }
}

static int ask(struct chat *c, const char *line, size_t bytes)
{
    struct ringlet_request *r = &c->options->request;
    struct ringlet_message *messages = NULL;
    struct tool_buffer text = { 0 };
    struct answer answer;
    add_turn(c, RINGLET_ROLE_USER, line, bytes);
    if (c->session.model.flags & RINGLET_MODEL_HAS_TEMPLATE) {
        messages = tool_realloc(NULL, c->n_turn, sizeof(*messages));
        for (size_t i = 0; i < c->n_turn; i++)
            messages[i] = (struct ringlet_message){ .role = c->turns[i].role,
                                                    .text = c->turns[i].text,
                                                    .bytes = c->turns[i].bytes };
        r->messages = messages;
        r->n_message = c->n_turn;
    } else {
        plain_text(c, &text);
        r->text = text.data;
        r->text_bytes = text.bytes;
    }
    run_options_set_deadlines(c->options, tool_now_ns());
    int status = answer_run(&answer, &c->session, r, ANSWER_PRINT);
    struct sequence *seq = &answer.sequences[0];
    /* What was said before Ctrl-C counts; a refused turn is forgotten. */
    if (status == TOOL_DONE || (status == TOOL_INTERRUPTED && seq->text.bytes))
        add_turn(c, RINGLET_ROLE_ASSISTANT, seq->text.data ? seq->text.data : "", seq->text.bytes);
    else
        drop_turns(c, c->n_turn - 1);
    answer_free(&answer);
    free(messages);
    free(text.data);
    return status;
}

/* One line; -1 at the end of the input, or interrupted. */
static ssize_t read_line(const struct chat *c, char **line, size_t *max)
{
    if (c->terminal) {
        fputs("> ", stderr);
        fflush(stderr);
    }
    ssize_t n = getline(line, max, stdin);
    if (n > 0 && (*line)[n - 1] == '\n')
        (*line)[--n] = '\0';
    return n;
}

static int converse(struct chat *c)
{
    char *line = NULL;
    size_t max = 0;
    int status = TOOL_DONE;
    for (;;) {
        ssize_t n = read_line(c, &line, &max);
        if (n < 0 && tool_interrupts == 1 && c->terminal) {
            /* Once at the prompt: say how to leave. */
            clearerr(stdin);
            fputs("\n(Ctrl-C again or /exit leaves)\n", stderr);
            n = read_line(c, &line, &max);
        }
        if (n < 0) {
            status = tool_interrupts ? TOOL_INTERRUPTED : status;
            break;
        }
        tool_interrupts = 0;
        if (n == 0)
            continue;
        if (line[0] == '/') {
            if (command(c, line))
                break;
            continue;
        }
        int turn = ask(c, line, (size_t)n);
        if (turn == TOOL_NO_DAEMON || tool_interrupts > 1 ||
            (turn == TOOL_INTERRUPTED && !c->terminal)) {
            status = turn;
            break;
        }
        if (turn == TOOL_FAILED && !c->terminal)
            status = turn;
        tool_interrupts = 0;
    }
    if (c->terminal)
        fputs("\n", stderr);
    free(line);
    return status;
}

int command_chat(int argc, char **argv)
{
    struct run_options options;
    int status = run_options_parse(argc, argv, OPTIONS_CHAT, &options);
    if (status >= 0)
        return status;
    if (options.n_rest > 0) {
        run_options_free(&options);
        return tool_say(TOOL_USAGE, "chat: no prompt on the command line: it reads stdin");
    }
    tool_catch_signals();
    struct chat chat = { .options = &options, .terminal = isatty(STDIN_FILENO) };
    status =
        session_open(&chat.session, options.socket, options.model, RINGLET_PROMPT_BYTES_DEFAULT);
    if (status == 0) {
        if (options.system)
            set_system(&chat, options.system);
        if (chat.terminal)
            fprintf(stderr,
                    "%s, %u tokens of context. /reset /system TEXT /save FILE /fork /back /exit\n",
                    chat.session.model.name, chat.session.model.context);
        status = converse(&chat);
    }
    session_close(&chat.session);
    drop_turns(&chat, 0);
    free(chat.turns);
    run_options_free(&options);
    return tool_flush() ? status : TOOL_FAILED;
}
