/* `ringlet`: finds the command, and what all commands share. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "config.h"
#include "tools/ringlet/tool.h"

volatile sig_atomic_t tool_interrupts;

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
    const char *help;
} commands[] = {
    { "run", command_run, "send one request and print the answer" },
    { "chat", command_chat, "talk with a model, turn by turn" },
    { "status", command_status, "the daemon, its models, queues and KV use" },
    { "cache", command_cache, "cache query: how much of a prompt is cached" },
    { "tokenize", command_tokenize, "text to token ids; no daemon" },
    { "detokenize", command_detokenize, "token ids to text; no daemon" },
    { "template", command_template, "chat messages to a prompt; no daemon" },
    { "doctor", command_doctor, "what this machine gives, and what to change" },
};

int tool_say(int status, const char *format, ...)
{
    char line[1024];
    va_list ap;
    va_start(ap, format);
    vsnprintf(line, sizeof(line), format, ap);
    va_end(ap);
    fprintf(stderr, "ringlet: %s\n", line);
    return status;
}

static void on_signal(int number)
{
    (void)number;
    tool_interrupts++;
}

void tool_catch_signals(void)
{
    /* Without SA_RESTART, so that waiting ends. */
    struct sigaction action = { .sa_handler = on_signal };
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    action.sa_handler = SIG_IGN; /* writing to a closed pipe is an error like others */
    sigaction(SIGPIPE, &action, NULL);
}

uint64_t tool_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

void *tool_realloc(void *p, size_t n, size_t bytes_each)
{
    size_t bytes;
    void *grown = NULL;
    if (!__builtin_mul_overflow(n, bytes_each, &bytes))
        grown = realloc(p, bytes ? bytes : 1);
    if (!grown)
        exit(tool_say(TOOL_FAILED, "out of memory"));
    return grown;
}

void tool_append(struct tool_buffer *b, const void *data, size_t bytes)
{
    if (bytes > b->bytes_max - b->bytes) {
        b->bytes_max = max_of(b->bytes + bytes, 2 * b->bytes_max);
        b->data = tool_realloc(b->data, b->bytes_max, 1);
    }
    if (bytes > 0)
        memcpy(b->data + b->bytes, data, bytes);
    b->bytes += bytes;
}

int tool_read_all(FILE *from, struct tool_buffer *b)
{
    char piece[16384];
    size_t n;
    while ((n = fread(piece, 1, sizeof(piece), from)) > 0) {
        if (b->bytes + n > (size_t)1 << 30)
            return -EFBIG;
        tool_append(b, piece, n);
    }
    return ferror(from) ? -EIO : 0;
}

bool tool_flush(void)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return true;
    tool_say(0, "stdout: %s", strerror(errno ? errno : EIO));
    return false;
}

static void show_help(FILE *to)
{
    fputs("usage: ringlet COMMAND [OPTION...]\n\n", to);
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++)
        fprintf(to, "  %-12s %s\n", commands[i].name, commands[i].help);
    fputs("\nEach command has --help. The daemon's socket: --socket PATH, else $RINGLET_SOCKET, "
          "else\n"
          "$XDG_RUNTIME_DIR/ringlet/ringlet.sock, else /run/ringlet/ringlet.sock.\n",
          to);
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    static char program[64];
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        show_help(stdout);
        return tool_flush() ? TOOL_DONE : TOOL_FAILED;
    }
    if (strcmp(name, "--version") == 0) {
        puts("ringlet " RINGLET_VERSION);
        return tool_flush() ? TOOL_DONE : TOOL_FAILED;
    }
    for (size_t i = 0; i < ARRAY_SIZE(commands); i++) {
        if (strcmp(name, commands[i].name) != 0)
            continue;
        /* getopt's messages begin with argv[0]. */
        snprintf(program, sizeof(program), "ringlet %s", name);
        argv[1] = program;
        return commands[i].run(argc - 1, argv + 1);
    }
    if (*name)
        return tool_say(TOOL_USAGE, "%s: no such %s; see ringlet --help", name,
                        name[0] == '-' ? "option" : "command");
    show_help(stderr);
    return TOOL_USAGE;
}
