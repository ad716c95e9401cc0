/* mirrors: daemon/config.c daemon/usage.c. Flags and files: what is wrong is named with its place,
 * and the exit status says which kind. */
#include "tests/e2e/e2e.h"

#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char output[8192];
static int refused_call; /* a system call that the next daemon may not make; 0: none */

/* As a container's profile does: this call alone fails with EPERM. */
static void refuse(int call)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (uint32_t)call, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { .len = 4, .filter = filter };
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        _exit(126);
}

/* Run the daemon with these arguments (NULL-ended), gather stdout and stderr, return its status. */
static int run(const char *first, ...)
{
    const char *argv[32] = { getenv("RINGLETD"), first };
    int n = first ? 2 : 1, out[2], status;
    va_list args;
    va_start(args, first);
    while (first && n < 31 && (argv[n] = va_arg(args, const char *)))
        n++;
    va_end(args);
    argv[n] = NULL;
    assert_non_null(argv[0]);
    assert_int_equal(pipe(out), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(out[1], STDOUT_FILENO);
        dup2(out[1], STDERR_FILENO);
        if (refused_call)
            refuse(refused_call);
        execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    close(out[1]);
    size_t at = 0;
    for (ssize_t got; (got = read(out[0], output + at, sizeof(output) - 1 - at)) > 0;)
        at += (size_t)got;
    output[at] = 0;
    close(out[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void says(const char *text)
{
    if (!strstr(output, text))
        fail_msg("\"%s\" does not say \"%s\"", output, text);
}

static const char *config(const char *text)
{
    static char path[160];
    snprintf(path, sizeof(path), "%s/ringletd.conf", harness_tmpdir());
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
    return path;
}

TEST(help_and_version_are_no_errors)
{
    assert_int_equal(run("--help", NULL), 0);
    says("Usage: ringletd");
    says("--slow-client-s");
    assert_int_equal(run("--version", NULL), 0);
    says("ringletd 0.");
}

TEST(bad_flags_are_named)
{
    assert_int_equal(run(NULL), 2);
    says("no model");
    assert_int_equal(run("--model", "echo", "--no-such", NULL), 2);
    says("--no-such");
    assert_int_equal(run("--model", NULL), 2);
    says("--model: its value is missing");
    assert_int_equal(run("--model", "echo", "stray", NULL), 2);
    says("\"stray\" is no flag");
    assert_int_equal(run("--model", "echo", "--dtype", "f8", NULL), 2);
    says("--dtype: \"f8\"");
    assert_int_equal(run("--model", "x=", NULL), 2);
    says("no path");
    assert_int_equal(run("--model", "a=echo", "--model", "a=echo", NULL), 2);
    says("--model: two are named \"a\"");
    assert_int_equal(run("--model", "echo", "--ctx", "0", NULL), 2);
    says("--ctx: \"0\" is no number from 1");
    assert_int_equal(run("--model", "echo", "--kv-memory", "3X", NULL), 2);
    says("--kv-memory");
    assert_int_equal(run("--model", "echo", "--spin", "wildly", NULL), 2);
    says("adaptive|always|never");
    assert_int_equal(run("--model", "echo", "--device", "tpu", NULL), 2);
    says("auto|cpu|cuda");
    assert_int_equal(run("--model", "echo", "--log", "loop=loud", NULL), 2);
    says("\"loop=loud\"");
    assert_int_equal(run("--model", "echo", "--socket-mode", "9", NULL), 2);
    says("--socket-mode");
    assert_int_equal(run("--model", "echo", "--policy", "best", NULL), 2);
    says("fcfs|fair");
    char path[256];
    memset(path, 'p', 200);
    path[200] = 0;
    assert_int_equal(run("--model", "echo", "--socket", path, NULL), 2);
    says("--socket");
}

TEST(a_sound_file_is_read)
{
    const char *path = config("[daemon]\nspin = never\ndrain-s = 5\n[kv]\nctx = 100 ; a remark\n"
                              "[sched]\npolicy = deadline\n[model one]\npath = echo\nctx = 64\n"
                              "[user 0]\nweight = 3\nsessions-max = 7\nshared-memory-max = 64MiB\n"
                              "groups = lab, shop\n"
                              "[log]\nlog = session=debug\n");
    assert_int_equal(run("--config", path, "--check-config", NULL), 0);
    says("configuration is sound: 1 model");
}

TEST(bad_files_are_named_with_their_line)
{
    assert_int_equal(run("--config", "/nowhere/x.conf", "--check-config", NULL), 2);
    says("/nowhere/x.conf: No such file");
    assert_int_equal(run("--config", config("[daemon]\nspin = never\nspun = 1\n"), NULL), 2);
    says("ringletd.conf:3: unknown key \"spun\" in [daemon]");
    assert_int_equal(run("--config", config("\n[demon]\nspin = never\n"), NULL), 2);
    says("ringletd.conf:3: unknown section [demon]");
    assert_int_equal(run("--config", config("[kv]\nctx = many\n"), NULL), 2);
    says("ringletd.conf:2: ctx: \"many\"");
    assert_int_equal(run("--config", config("[daemon]\nthis is no line\n"), NULL), 2);
    says("ringletd.conf:2:");
    assert_int_equal(run("--config", config("[user nobody-of-that-name]\nweight = 1\n"), NULL), 2);
    says("no user");
    const char *twice = "[user root]\nweight = 2\n[user 0]\nweight = 3\n";
    assert_int_equal(run("--config", config(twice), NULL), 2);
    says(":4: [user 0] is who [user root] is");
    char longer[300];
    snprintf(longer, sizeof(longer), "[user 0]\ngroups = a,%065d\n", 0);
    assert_int_equal(run("--config", config(longer), NULL), 2);
    says("ringletd.conf:2: groups: a name is longer");
    snprintf(longer, sizeof(longer), "[model a]\npath = /%0199d#\n[kv]\nctx = 5\n", 0);
    assert_int_equal(run("--config", config(longer), NULL), 2);
    says("ringletd.conf:2: longer than 199 bytes");
    snprintf(longer, sizeof(longer), "# %0230d\n\n[kv]\nctx = x", 0);
    assert_int_equal(run("--config", config(longer), NULL), 2);
    says("ringletd.conf:4: ctx: \"x\"");
    assert_int_equal(run("--config", config("[model a]\nctx = 5\n"), NULL), 2);
    says("model \"a\" has no path");
    assert_int_equal(run("--config", config("[kv]\nspin = never\n"), NULL), 2);
    says("unknown key \"spin\" in [kv]");
}

TEST(flag_beats_section_beats_file)
{
    static struct e2e_daemon d;
    const char *path = config("[kv]\nctx = 100\n[model one]\npath = echo\nctx = 64\n"
                              "[model two]\npath = echo\n");
    const char *const args[] = { "--config", path, "--kv-type", "f32", NULL };
    struct ringlet_model_info m;
    e2e_start_with(&d, args);
    struct ringlet_client *cl = e2e_connect(&d);
    assert_ok(ringlet_model(cl, "one", &m));
    assert_int_equal(m.context, 64);
    assert_ok(ringlet_model(cl, "two", &m));
    assert_int_equal(m.context, 100);
    ringlet_close(cl);
    e2e_stop(&d);
    const char *const flag[] = { "--config", path, "--ctx", "32", NULL };
    e2e_start_with(&d, flag);
    cl = e2e_connect(&d);
    assert_ok(ringlet_model(cl, "one", &m));
    assert_int_equal(m.context, 32);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(models_share_the_memory_that_is_given_to_all)
{
    static struct e2e_daemon d;
    const char *path = config("[kv]\nkv-memory = 64K\nhost-kv-memory = 16K\n"
                              "[model one]\npath = echo\n"
                              "[model two]\npath = echo\nkv-memory = 8K\n");
    e2e_start_with(&d, (const char *[]){ "--config", path, NULL });
    struct ringlet_client *cl = e2e_connect(&d);
    uint64_t block = 32000 / e2e_stat(cl, "kv_blocks_total", 0); /* half of what all have */
    assert_in_range(block, 1, 8000);
    assert_int_equal(e2e_stat(cl, "kv_blocks_total", 1), 8000 / block); /* all of its own */
    e2e_stat_becomes(cl, "host_kv_blocks_total", 0, 8000 / block);      /* told right behind */
    e2e_stat_becomes(cl, "host_kv_blocks_total", 1, 8000 / block);
    ringlet_close(cl);
    e2e_stop(&d);
    const char *const args[] = { "--config", path, "--kv-memory", "32K", NULL };
    e2e_start_with(&d, args);
    cl = e2e_connect(&d);
    assert_int_equal(e2e_stat(cl, "kv_blocks_total", 0), 16000 / block); /* a flag is for all */
    assert_int_equal(e2e_stat(cl, "kv_blocks_total", 1), 16000 / block);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(what_cannot_start_says_why)
{
    static struct e2e_daemon d;
    char socket[160], path[160];
    snprintf(socket, sizeof(socket), "%s/s", harness_tmpdir());
    assert_int_equal(run("--model", "/nowhere/m.gguf", "--socket", socket, NULL), 1);
    says("/nowhere/m.gguf");
    assert_int_equal(run("--model", "echo", "--cpus", "0,1023", "--socket", socket, NULL), 1);
    says("on CPUs \"0,1023\": one of them is not there");
    assert_int_equal(run("--model", "echo", "--cpus", "0-x", "--socket", socket, NULL), 1);
    says("no list of CPUs");
    assert_int_equal(
        run("--model", "a=echo", "--model", "b=echo", "--device", "cuda", "--socket", socket, NULL),
        1);
    says("cuda"); /* no module, no driver, no GPU */
    snprintf(path, sizeof(path), "%s/config.json", harness_tmpdir());
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs("{\"architectures\": [\"FooForCausalLM\"]}", file); /* and no tokenizer */
    fclose(file);
    assert_int_equal(run("--model", harness_tmpdir(), "--socket", socket, NULL), 1);
    says("config.json: architecture \"FooForCausalLM\" is not supported");
    assert_int_equal(run("--model", path, "--socket", socket, NULL), 1);
    says("config.json: a checkpoint is named by its folder");
    e2e_start(&d, NULL);
    assert_int_equal(run("--model", "echo", "--socket", d.socket, NULL), 1);
    says("a daemon serves there already");
    assert_int_equal(run("--model", "/nowhere/m.gguf", "--socket", d.socket, NULL), 1);
    says("a daemon serves there already"); /* before a model is looked at */
    e2e_stop(&d);
    assert_int_equal(run("--model", "/nowhere/m.gguf", "--socket", "/proc/self/status", NULL), 1);
    says("it is no socket");
    assert_int_equal(run("--model", "echo", "--socket", "/proc/none/s", NULL), 1);
    says("/proc/none/s");
    assert_int_equal(run("--model", "echo", "--socket", "", NULL), 2);
    says("the socket's path is empty");
}

TEST(a_system_that_refuses_io_uring_is_told_so)
{
    char socket[160];
    snprintf(socket, sizeof(socket), "%s/s", harness_tmpdir());
    refused_call = SYS_io_uring_setup;
    int status = run("--model", "echo", "--socket", socket, NULL);
    if (status == 126)
        skip(); /* no filters here */
    assert_int_equal(status, 1);
    says("io_uring: ");
    says("kernel.io_uring_disabled");
    says("seccomp");
}
