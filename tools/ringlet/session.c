/*
 * Connecting. A private daemon is a child in a process group of its own (Ctrl-C is ours to handle),
 * on a socket in a folder of its own; it gets SIGTERM when this process dies, however that happens.
 * What it prints goes to a memfd and is shown only when it fails.
 */
#include "tools/ringlet/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "config.h"

static void nap(unsigned ms)
{
    nanosleep(&(struct timespec){ .tv_nsec = ms * 1000000L }, NULL);
}

/* ringletd beside this program, in the build tree around it, else "ringletd" for PATH. */
static void find_daemon(char *path, size_t bytes)
{
    static const char *const places[] = { "ringletd", "../../daemon/ringletd", "../sbin/ringletd" };
    char self[3072];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    char *slash = NULL;
    if (n > 0) {
        self[n] = '\0';
        slash = strrchr(self, '/');
    }
    for (size_t i = 0; slash && i < ARRAY_SIZE(places); i++) {
        snprintf(path, bytes, "%.*s/%s", (int)(slash - self), self, places[i]);
        if (access(path, X_OK) == 0)
            return;
    }
    snprintf(path, bytes, "ringletd");
}

static void run_daemon(struct session *s, const char *model, pid_t parent)
{
    char path[4096];
    char *argv[] = { (char[]){ "ringletd" }, (char[]){ "--socket" }, s->socket,
                     (char[]){ "--model" },  strdup(model),          NULL };
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    if (getppid() != parent)
        _exit(1);
    signal(SIGPIPE, SIG_DFL);
    dup2(s->log, STDOUT_FILENO);
    dup2(s->log, STDERR_FILENO);
    find_daemon(path, sizeof(path));
    execvp(path, argv);
    dprintf(STDERR_FILENO, "ringletd: %s: %s\n", path, strerror(errno));
    _exit(127);
}

static int start_daemon(struct session *s, const char *model)
{
    const char *tmp = getenv("XDG_RUNTIME_DIR");
    if (!tmp || strlen(tmp) > 32 || access(tmp, W_OK) != 0)
        tmp = "/tmp";
    snprintf(s->folder, sizeof(s->folder), "%s/ringlet-XXXXXX", tmp);
    if (!mkdtemp(s->folder)) {
        int error = errno;
        snprintf(s->folder, sizeof(s->folder), "%s", "");
        return tool_say(TOOL_FAILED, "%s: cannot make a folder for a socket: %s", tmp,
                        strerror(error));
    }
    snprintf(s->socket, sizeof(s->socket), "%s/ringlet.sock", s->folder);
    s->log = memfd_create("ringletd-log", MFD_CLOEXEC);
    pid_t parent = getpid();
    s->pid = s->log < 0 ? -1 : fork();
    if (s->pid == 0)
        run_daemon(s, model, parent);
    if (s->pid < 0) {
        s->pid = 0;
        return tool_say(TOOL_FAILED, "cannot start ringletd: %s", strerror(errno));
    }
    return 0;
}

/* The last line that begins with "ringletd:", else the last line, goes to stderr. */
static bool pass_on_error(struct session *s)
{
    char text[8192], *best = NULL, *next;
    off_t end = lseek(s->log, 0, SEEK_END);
    off_t from = end > (off_t)sizeof(text) - 1 ? end - (off_t)sizeof(text) + 1 : 0;
    ssize_t n = pread(s->log, text, sizeof(text) - 1, from);
    if (n <= 0)
        return false;
    text[n] = '\0';
    for (char *line = strtok_r(text, "\n", &next); line; line = strtok_r(NULL, "\n", &next)) {
        if (!best || strncmp(line, "ringletd:", 9) == 0 || strncmp(best, "ringletd:", 9) != 0)
            best = line;
    }
    if (best)
        fprintf(stderr, "%s\n", best);
    return best != NULL;
}

/* The private daemon has ended: say why. */
static int daemon_ended(struct session *s, int status)
{
    s->pid = 0;
    if (WIFSIGNALED(status))
        return tool_say(TOOL_NO_DAEMON, "ringletd was killed by signal %d (%s)", WTERMSIG(status),
                        strsignal(WTERMSIG(status)));
    if (!pass_on_error(s))
        tool_say(0, "ringletd ended with status %d and said nothing", WEXITSTATUS(status));
    return TOOL_FAILED;
}

static int connect_once(struct session *s, const char *socket, size_t text_bytes)
{
    struct ringlet_options options;
    ringlet_options_init(&options);
    options.socket_path = socket;
    /* A person waits longer than a program would: a loaded machine is no dead daemon. */
    options.timeout_ns = options.heartbeat_ns = 5000000000u;
    if (text_bytes > RINGLET_PROMPT_BYTES_DEFAULT / 2)
        options.prompt_bytes =
            min_of((uint64_t)text_bytes * 2 + (1u << 20), (uint64_t)RINGLET_PROMPT_BYTES_MAX);
    return ringlet_connect(&options, &s->client);
}

/* Until the private daemon serves its model, however long loading takes. */
static int await_daemon(struct session *s, const char *model, size_t text_bytes)
{
    bool progress = isatty(STDERR_FILENO), shown = false;
    uint64_t start = tool_now_ns();
    int status = 0, error = -ENOENT;
    for (;;) {
        if (!s->client)
            error = connect_once(s, s->socket, text_bytes);
        if (error == 0)
            error = ringlet_model(s->client, NULL, &s->model);
        if (error == 0 || tool_interrupts)
            break;
        if (waitpid(s->pid, &status, WNOHANG) == s->pid) {
            if (shown)
                fputs("\r\033[K", stderr);
            return daemon_ended(s, status);
        }
        if (s->client == NULL && error != -ENOENT && error != -ECONNREFUSED &&
            error != -ETIMEDOUT && error != -EAGAIN)
            return tool_say(TOOL_NO_DAEMON, "%s: %s", s->socket, ringlet_strerror(error));
        if (progress && !shown && tool_now_ns() - start > 300000000u) {
            fprintf(stderr, "loading %s ...", model);
            shown = true;
        }
        nap(5);
    }
    if (shown)
        fputs("\r\033[K", stderr);
    return tool_interrupts ? TOOL_INTERRUPTED : 0;
}

/* "echo", what has a slash, what exists, and what ends like a model file is a path. */
static bool is_path(const char *model)
{
    size_t n = strlen(model);
    return strcmp(model, "echo") == 0 || strchr(model, '/') || access(model, F_OK) == 0 ||
           (n > 5 && strcmp(model + n - 5, ".gguf") == 0);
}

const char *session_default_socket(char *path, size_t bytes)
{
    const char *env = getenv("RINGLET_SOCKET"), *runtime = getenv("XDG_RUNTIME_DIR");
    if (env && *env)
        snprintf(path, bytes, "%s", env);
    else if (runtime && *runtime)
        snprintf(path, bytes, "%s/ringlet/ringlet.sock", runtime);
    else
        snprintf(path, bytes, "/run/ringlet/ringlet.sock");
    return path;
}

int session_open(struct session *s, const char *socket, const char *model, size_t text_bytes)
{
    char path[512];
    *s = (struct session){ .log = -1 };
    if (!socket && model && is_path(model)) {
        int status = start_daemon(s, model);
        return status ? status : await_daemon(s, model, text_bytes);
    }
    int error = connect_once(s, socket, text_bytes);
    const char *shown = socket ? socket : session_default_socket(path, sizeof(path));
    if (error == -ENOENT || error == -ECONNREFUSED)
        return tool_say(TOOL_NO_DAEMON,
                        "%s: no daemon there; start `ringletd --model PATH`, or give --model PATH",
                        shown);
    if (error)
        return tool_say(TOOL_NO_DAEMON, "%s: %s", shown, ringlet_strerror(error));
    error = ringlet_model(s->client, model, &s->model);
    if (error == -ENOENT && model)
        return tool_say(TOOL_FAILED,
                        "%s: the daemon serves no model of that name; see `ringlet status`", model);
    if (error)
        return tool_say(TOOL_FAILED, "%s: no model is ready: %s", shown, ringlet_strerror(error));
    return 0;
}

int session_lost(struct session *s, int error)
{
    int status;
    if (s->pid > 0) {
        /* The socket closes a moment before the process is gone. */
        for (int i = 0; i < 200; i++, nap(5)) {
            if (waitpid(s->pid, &status, WNOHANG) != s->pid)
                continue;
            s->pid = 0;
            if (WIFSIGNALED(status))
                return tool_say(TOOL_NO_DAEMON, "ringletd was killed by signal %d (%s)",
                                WTERMSIG(status), strsignal(WTERMSIG(status)));
            pass_on_error(s);
            return tool_say(TOOL_NO_DAEMON, "ringletd ended with status %d", WEXITSTATUS(status));
        }
    }
    return tool_say(TOOL_NO_DAEMON, "the daemon is lost: %s", ringlet_strerror(error));
}

void session_close(struct session *s)
{
    ringlet_close(s->client);
    s->client = NULL;
    if (s->pid > 0) {
        kill(s->pid, SIGTERM);
        for (int i = 0; i < 1000 && waitpid(s->pid, NULL, WNOHANG) == 0; i++, nap(5)) {
            if (i == 400)
                kill(s->pid, SIGTERM); /* the second one: do not drain */
            if (i == 800)
                kill(s->pid, SIGKILL);
        }
        s->pid = 0;
    }
    if (s->folder[0]) {
        unlink(s->socket);
        rmdir(s->folder);
    }
    if (s->log >= 0)
        close(s->log);
    s->folder[0] = '\0';
    s->log = -1;
}
