/* Runs a program of the tree as a user does, and keeps what it printed. */
#ifndef RINGLET_TESTS_COMMAND_H
#define RINGLET_TESTS_COMMAND_H

#include "tests/harness/harness.h"

#include <sys/types.h>

struct command {
    pid_t pid;
    int in, out;        /* pipes: its stdin (-1: none is open), its stdout */
    int status;         /* exit status; 128 + N: killed by signal N */
    char text[1 << 18]; /* stdout */
    size_t bytes;
    char errors[16384]; /* stderr */
};

/* Start; argv[0] is an environment variable that names the program. stdin and stdout are pipes. */
void command_start(struct command *c, const char *const *argv);
void command_write(struct command *c, const char *text, size_t bytes);
/* Close stdin, read until the end, reap. Fails after 30 s. */
void command_finish(struct command *c);
/* All of it; input may be NULL. Returns the exit status. */
int command_run(struct command *c, const char *input, const char *const *argv);

/* A command line of the ringlet tool: ringlet(&c, input, "run", "--json", "hi"). */
#define ringlet(c, input, ...)                                                                     \
    command_run((c), (input), (const char *const[]){ "RINGLET", __VA_ARGS__, NULL })

#endif
