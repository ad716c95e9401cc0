/* Child processes with pipes; stderr goes to a file in the test's folder. */
#include "tests/e2e/command.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *errors_path(void)
{
    static char path[128];
    snprintf(path, sizeof(path), "%s/errors", harness_tmpdir());
    return path;
}

void command_start(struct command *c, const char *const *argv)
{
    const char *program = getenv(argv[0]);
    int in[2], out[2];
    if (!program)
        fail_msg("%s is not set: run me through meson test", argv[0]);
    errors_path();
    assert_int_equal(pipe2(in, O_CLOEXEC), 0);
    assert_int_equal(pipe2(out, O_CLOEXEC), 0);
    c->pid = fork();
    if (c->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int errors = open(errors_path(), O_CREAT | O_WRONLY | O_TRUNC, 0600);
        dup2(in[0], STDIN_FILENO);
        dup2(out[1], STDOUT_FILENO);
        dup2(errors, STDERR_FILENO);
        execv(program, (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    c->in = in[1];
    c->out = out[0];
    c->bytes = 0;
    c->status = -1;
}

void command_write(struct command *c, const char *text, size_t bytes)
{
    signal(SIGPIPE, SIG_IGN);
    while (bytes > 0) {
        ssize_t n = write(c->in, text, bytes);
        if (n <= 0)
            return; /* it does not read: its exit status tells */
        text += n;
        bytes -= (size_t)n;
    }
}

static void read_errors(struct command *c)
{
    FILE *file = fopen(errors_path(), "r");
    size_t n = file ? fread(c->errors, 1, sizeof(c->errors) - 1, file) : 0;
    c->errors[n] = '\0';
    if (file)
        fclose(file);
}

void command_finish(struct command *c)
{
    int status;
    if (c->in >= 0)
        close(c->in);
    c->in = -1;
    for (;;) {
        struct pollfd poll_fd = { .fd = c->out, .events = POLLIN };
        size_t room = sizeof(c->text) - 1 - c->bytes;
        if (poll(&poll_fd, 1, 300000) <= 0) {
            kill(c->pid, SIGKILL);
            fail_msg("the command hangs");
        }
        ssize_t n = read(c->out, c->text + c->bytes, room);
        if (n <= 0)
            break;
        c->bytes += (size_t)n;
    }
    c->text[c->bytes] = '\0';
    close(c->out);
    assert_int_equal(waitpid(c->pid, &status, 0), c->pid);
    c->status = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    read_errors(c);
}

int command_run(struct command *c, const char *input, const char *const *argv)
{
    command_start(c, argv);
    if (input)
        command_write(c, input, strlen(input));
    command_finish(c);
    return c->status;
}
