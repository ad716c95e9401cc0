/* The command line when something dies, stalls or is interrupted; private daemons; chat; the dump.
 */
#include "tests/e2e/command.h"
#include "tests/e2e/e2e.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

static struct command c;
static struct e2e_daemon d;

#define assert_said(word)                                                                          \
    do {                                                                                           \
        if (!strstr(c.errors, (word)))                                                             \
            fail_msg("stderr does not say \"%s\": %s", (word), c.errors);                          \
    } while (0)

/* The process that c started, once there is one. */
static pid_t child_of(pid_t pid)
{
    char path[96];
    int child = 0;
    snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
    for (uint64_t until = e2e_deadline_ns(); child == 0 && e2e_may_wait(until);) {
        FILE *file = fopen(path, "r");
        if (file && fscanf(file, "%d", &child) != 1)
            child = 0;
        if (file)
            fclose(file);
    }
    return child;
}

static const char *const long_context[] = { "--ctx", "65536", "--slow-client-s", "600", NULL };

/* A run whose answer is longer than its stdout takes: it stands in the middle of it. */
static void start_long_run(void)
{
    static char prompt[30000];
    memset(prompt, 'x', sizeof(prompt));
    command_start(&c, (const char *const[]){ "RINGLET", "run", "--socket", d.socket, NULL });
    assert_true(fcntl(c.out, F_SETPIPE_SZ, 4096) >= 4096);
    command_write(&c, prompt, sizeof(prompt));
    close(c.in);
    c.in = -1;
    /* It writes until the pipe is full; the rings hold more, but not all of it. */
    int queued = 0, before;
    uint64_t until = e2e_deadline_ns();
    do {
        assert_true(e2e_may_wait(until));
        before = queued;
        e2e_nap_ms(100);
        assert_int_equal(ioctl(c.out, FIONREAD, &queued), 0);
    } while (queued < 2048 || queued != before);
}

TEST(ringlet_run_says_when_the_daemon_dies_in_the_middle)
{
    e2e_start(&d, long_context);
    start_long_run();
    kill(d.pid, SIGKILL);
    waitpid(d.pid, NULL, 0);
    command_finish(&c);
    assert_int_equal(c.status, 3);
    assert_said("lost");
}

TEST(ringlet_killed_in_the_middle_leaves_nothing_behind)
{
    e2e_start(&d, long_context);
    start_long_run();
    kill(c.pid, SIGKILL);
    command_finish(&c);
    assert_int_equal(c.status, 128 + SIGKILL);
    struct ringlet_client *cl = e2e_connect(&d);
    e2e_stat_becomes(cl, "running", 0, 0);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(ringlet_run_interrupted_exits_130)
{
    e2e_start(&d, long_context);
    start_long_run();
    kill(c.pid, SIGINT);
    command_finish(&c);
    assert_int_equal(c.status, 130);
    struct ringlet_client *cl = e2e_connect(&d);
    e2e_stat_becomes(cl, "running", 0, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(ringlet_run_ends_when_nobody_reads_it)
{
    e2e_start(&d, long_context);
    start_long_run();
    close(c.out);
    int status;
    assert_int_equal(waitpid(c.pid, &status, 0), c.pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 1);
    e2e_stop(&d);
}

/* Private daemons make their folder here or in /tmp: count what they leave. */
static int folders_left(void)
{
    int n = 0;
    struct dirent *entry;
    DIR *dir = opendir("/tmp");
    while (dir && (entry = readdir(dir)))
        n += strncmp(entry->d_name, "ringlet-", 8) == 0 && strlen(entry->d_name) == 14;
    if (dir)
        closedir(dir);
    return n;
}

/* The answer "one" of a chat. */
static void read_one(void)
{
    char answer[8] = "";
    size_t n = 0;
    while (n < 4) {
        ssize_t got = read(c.out, answer + n, 4 - n);
        assert_true(got > 0);
        n += (size_t)got;
    }
    assert_string_equal(answer, "one\n");
}

TEST(ringlet_private_daemon_lives_as_long_as_the_command)
{
    unsetenv("XDG_RUNTIME_DIR");
    int before = folders_left();
    assert_int_equal(ringlet(&c, NULL, "run", "--model", "echo", "-q", "private"), 0);
    assert_string_equal(c.text, "private\n");
    assert_int_equal(folders_left(), before);
    command_start(&c, (const char *const[]){ "RINGLET", "chat", "--model", "echo", NULL });
    pid_t daemon = child_of(c.pid);
    assert_true(daemon > 0);
    command_write(&c, "one\n", 4);
    read_one();
    kill(c.pid, SIGKILL);
    command_finish(&c);
    /* It had no chance to end its daemon: the kernel does. */
    for (uint64_t until = e2e_deadline_ns(); kill(daemon, 0) == 0;)
        assert_true(e2e_may_wait(until));
}

TEST(ringlet_names_the_signal_that_killed_its_daemon)
{
    command_start(&c, (const char *const[]){ "RINGLET", "chat", "--model", "echo", NULL });
    pid_t daemon = child_of(c.pid);
    command_write(&c, "one\n", 4);
    read_one();
    kill(daemon, SIGKILL);
    e2e_nap_ms(100);
    command_write(&c, "two\n", 4);
    command_finish(&c);
    assert_int_equal(c.status, 3);
    assert_said("killed by signal 9");
}

TEST(ringlet_passes_on_why_its_daemon_did_not_start)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/none.gguf", harness_tmpdir());
    assert_int_equal(ringlet(&c, NULL, "run", "--model", path, "hi"), 1);
    assert_said(path);
    assert_said("ringletd:");
    FILE *file = fopen(path, "w");
    fputs("this is no model", file);
    fclose(file);
    assert_int_equal(ringlet(&c, NULL, "run", "--model", path, "hi"), 1);
    assert_said(path);
    file = fopen(path, "w");
    fwrite("GGUF\3\0\0\0\377\377\377\377\377\377\377\177\1\0\0\0\0\0\0\0", 1, 24, file);
    fclose(file);
    assert_int_equal(ringlet(&c, NULL, "run", "--model", path, "hi"), 1);
    assert_said(path);
    assert_int_equal(ringlet(&c, NULL, "tokenize", "--model", path, "hi"), 1);
    assert_said(path);
}

TEST(ringlet_chat_reads_a_pipe_line_by_line)
{
    char path[128], commands[512], saved[512] = "";
    snprintf(path, sizeof(path), "%s/saved.json", harness_tmpdir());
    snprintf(commands, sizeof(commands),
             "a \"b\"\n/reset\nc\n\n/save %s\n/what\n/system S\nd\n/exit\nnever\n", path);
    e2e_start(&d, NULL);
    assert_int_equal(ringlet(&c, commands, "chat", "--socket", d.socket), 0);
    /* Without a template the conversation is the prompt, and echo gives all of it back. */
    assert_string_equal(c.text, "a \"b\"\nc\nS\nd\n");
    assert_said("/what");
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    assert_true(fread(saved, 1, sizeof(saved) - 1, file) > 0);
    fclose(file);
    assert_string_equal(saved, "[\n {\"role\": \"user\", \"content\": \"c\"},\n"
                               " {\"role\": \"assistant\", \"content\": \"c\\n\"}\n]\n");
    assert_int_equal(ringlet(&c, "a\n/fork\nb\n/back\n/back\nc\n", "chat", "--socket", d.socket),
                     0);
    assert_string_equal(c.text, "a\na\na\n\nb\na\na\n\nc\n");
    assert_said("there was no /fork");
    assert_int_equal(ringlet(&c, "x\n", "chat", "--socket", d.socket, "--temperature", "9"), 1);
    assert_said("temperature");
    e2e_stop(&d);
}

TEST(ringlet_dump_looks_into_a_stopped_daemon)
{
    char pid[16];
    e2e_start(&d, NULL);
    snprintf(pid, sizeof(pid), "%d", d.pid);
    struct ringlet_client *cl = e2e_connect(&d);
    e2e_stat_becomes(cl, "clients", -1, 1);
    e2e_pause(&d);
    struct ringlet_request request = e2e_text("waiting");
    request.tag = 4711;
    assert_ok(ringlet_submit(cl, &request, NULL));
    assert_int_equal(command_run(&c, NULL, (const char *const[]){ "RINGLET_DUMP", pid, NULL }), 0);
    assert_non_null(strstr(c.text, "model 0: echo"));
    assert_non_null(strstr(c.text, "clients"));
    if (!strstr(c.text, "cannot be read")) { /* without ptrace permission only the counters */
        assert_non_null(strstr(c.text, "tag 4711"));
        assert_non_null(strstr(c.text, "1 of 64 waiting"));
    }
    e2e_resume(&d);
    ringlet_close(cl);
    e2e_stop(&d);
    assert_int_equal(command_run(&c, NULL, (const char *const[]){ "RINGLET_DUMP", pid, NULL }), 3);
    assert_int_equal(command_run(&c, NULL, (const char *const[]){ "RINGLET_DUMP", "x", NULL }), 2);
    assert_int_equal(command_run(&c, NULL, (const char *const[]){ "RINGLET_DUMP", NULL }), 2);
}

TEST(ringtop_prints_one_reading_without_a_terminal)
{
    static const char text[] = "a prompt of more than one KV block, of which one is found again";
    e2e_start(&d, NULL);
    for (int i = 0; i < 2; i++)
        assert_int_equal(ringlet(&c, NULL, "run", "--socket", d.socket, text), 0);
    struct ringlet_client *cl = e2e_connect(&d);
    e2e_stat_becomes(cl, "prefix_cache_queries", 0, 2 * (sizeof(text) - 1));
    e2e_settle(cl);
    uint64_t hits = e2e_stat(cl, "prefix_cache_hits", 0);
    assert_true(hits >= 48 && hits < sizeof(text));
    ringlet_close(cl);
    const char *const top[] = { "RINGTOP", "--socket", d.socket, "--interval", "0.1", NULL };
    uint64_t until = e2e_deadline_ns();
    do /* what the last steps did may be told in between */
        assert_int_equal(command_run(&c, NULL, top), 0);
    while (!strstr(c.text, "0 running     0 queued  idle") && e2e_may_wait(until));
    assert_non_null(strstr(c.text, "0 running     0 queued  idle"));
    assert_non_null(strstr(c.text, "echo"));
    assert_int_equal(command_run(&c, NULL, (const char *const[]){ "RINGTOP", "--nope", NULL }), 2);
    e2e_stop(&d);
    assert_int_equal(
        command_run(&c, NULL, (const char *const[]){ "RINGTOP", "--socket", d.socket, NULL }), 3);
}
