/*
 * The command line: what its files share. Results go to stdout, everything else to stderr, each
 * message one line that begins with the program's name.
 */
#ifndef RINGLET_TOOLS_RINGLET_TOOL_H
#define RINGLET_TOOLS_RINGLET_TOOL_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/compiler.h"
#include "ringlet.h"

enum tool_exit {
    TOOL_DONE = 0,
    TOOL_FAILED = 1,
    TOOL_USAGE = 2,
    TOOL_NO_DAEMON = 3,
    TOOL_INTERRUPTED = 130,
};

/* One line to stderr, "ringlet: " in front. Returns status, for `return tool_say(TOOL_FAILED,
 * ...)`. */
int tool_say(int status, const char *format, ...) printf_like(2, 3);

/* Each command; argv[0] is its name. Returns an exit status. */
int command_run(int argc, char **argv);
int command_chat(int argc, char **argv);
int command_cache(int argc, char **argv);
int command_status(int argc, char **argv);
int command_tokenize(int argc, char **argv);
int command_detokenize(int argc, char **argv);
int command_template(int argc, char **argv);
int command_doctor(int argc, char **argv);

/* Counts SIGINT and SIGTERM since tool_catch_signals. */
extern volatile sig_atomic_t tool_interrupts;
void tool_catch_signals(void);

/* CLOCK_MONOTONIC */
uint64_t tool_now_ns(void);

/* A growing buffer; out of memory ends the program with a message. */
struct tool_buffer {
    char *data;
    size_t bytes, bytes_max;
};
void tool_append(struct tool_buffer *b, const void *data, size_t bytes);
/*
 * All of a stream. Returns: 0; -EIO; -EFBIG beyond 1 GiB.
 */
int tool_read_all(FILE *from, struct tool_buffer *b);
void *tool_realloc(void *p, size_t n, size_t bytes_each);

/* Flush stdout. False after saying so when it cannot be written. */
bool tool_flush(void);

#endif
