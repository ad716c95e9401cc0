/* A private ringletd: found beside this binary, in the build tree, or on PATH. */
#include "tools/ringbench/load.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ringlet.h"

enum { OWN_MAX = 4 };

/* Those that run, to be ended with this process. */
static struct bench_daemon *own[OWN_MAX];

void bench_client_options(struct ringlet_options *ret, const char *socket_path)
{
    ringlet_options_init(ret);
    ret->socket_path = socket_path;
    ret->timeout_ns = ret->heartbeat_ns = 30000000000u;
}

const char *bench_connect_error(int error)
{
    if (error == -ENOENT || error == -ECONNREFUSED)
        return "no daemon there; start `ringletd --model PATH`";
    return ringlet_strerror(error);
}

static void find_ringletd(char *path, size_t bytes)
{
    static const char *const places[] = { "ringletd", "../../daemon/ringletd", "../sbin/ringletd" };
    char self[2048];
    ssize_t length = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (length > 0) {
        self[length] = 0;
        *strrchr(self, '/') = 0;
        for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
            snprintf(path, bytes, "%s/%s", self, places[i]);
            if (access(path, X_OK) == 0)
                return;
        }
    }
    snprintf(path, bytes, "ringletd");
}

static const int end_signals[] = { SIGINT, SIGTERM, SIGHUP };

/* A child whose id is not known yet would be left alone by a signal that ends us. */
static void hold_signals(int how)
{
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < ARRAY_SIZE(end_signals); i++)
        sigaddset(&set, end_signals[i]);
    sigprocmask(how, &set, NULL);
}

static void run_child(const struct bench_daemon *daemon, const char *const *arguments, pid_t parent)
{
    char path[4096];
    const char *argv[64] = { "ringletd", "--socket", daemon->socket_path };
    int n = 3;
    for (; *arguments && n < 63; arguments++)
        argv[n++] = *arguments;
    argv[n] = NULL;
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    for (size_t i = 0; i < ARRAY_SIZE(end_signals); i++)
        signal(end_signals[i], SIG_DFL); /* our handler would end the daemon, which is itself */
    hold_signals(SIG_UNBLOCK);
    if (getppid() != parent) /* it has ended already */
        _exit(127);
    int log = open(daemon->log_path, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);
    if (log >= 0) {
        dup2(log, STDOUT_FILENO);
        dup2(log, STDERR_FILENO);
    }
    find_ringletd(path, sizeof(path));
    execvp(path, (char *const *)(uintptr_t)argv);
    dprintf(STDERR_FILENO, "ringbench: %s: %s\n", path, strerror(errno));
    _exit(127);
}

static void pass_on_log(const struct bench_daemon *daemon)
{
    char line[1024];
    FILE *log = fopen(daemon->log_path, "re");
    while (log && fgets(line, sizeof(line), log))
        fputs(line, stderr);
    if (log)
        fclose(log);
}

static void stop_all(void)
{
    for (int i = 0; i < OWN_MAX; i++)
        if (own[i])
            bench_daemon_stop(own[i]);
}

/* Ends as it would have without us, but alone. */
static void on_signal(int signal)
{
    stop_all();
    raise(signal); /* the default again, once this returns: SA_RESETHAND */
}

/* From here on an own daemon's folder does not outlive this process. */
static void take_charge(struct bench_daemon *daemon)
{
    static bool prepared;
    for (int i = 0; i < OWN_MAX; i++) {
        if (own[i])
            continue;
        own[i] = daemon;
        break;
    }
    if (prepared)
        return;
    prepared = true;
    atexit(stop_all);
    for (size_t i = 0; i < ARRAY_SIZE(end_signals); i++)
        sigaction(end_signals[i],
                  &(struct sigaction){ .sa_handler = on_signal, .sa_flags = (int)SA_RESETHAND },
                  NULL);
}

int bench_daemon_start(struct bench_daemon *daemon, const char *const *arguments)
{
    snprintf(daemon->folder, sizeof(daemon->folder), "/tmp/ringbench-XXXXXX");
    daemon->pid = 0;
    if (!mkdtemp(daemon->folder)) {
        fprintf(stderr, "ringbench: %s: %s\n", daemon->folder, strerror(errno));
        return -EIO;
    }
    snprintf(daemon->socket_path, sizeof(daemon->socket_path), "%s/socket", daemon->folder);
    snprintf(daemon->log_path, sizeof(daemon->log_path), "%s/log", daemon->folder);
    take_charge(daemon);
    pid_t self = getpid();
    hold_signals(SIG_BLOCK);
    daemon->pid = fork();
    if (daemon->pid == 0)
        run_child(daemon, arguments, self);
    hold_signals(SIG_UNBLOCK);
    for (int tries = 0; tries < 3000; tries++) {
        struct ringlet_options options;
        struct ringlet_client *cl;
        bench_client_options(&options, daemon->socket_path);
        options.flags = RINGLET_OBSERVER;
        options.timeout_ns = 20000000;
        int status, rc = ringlet_connect(&options, &cl);
        if (rc == 0) {
            ringlet_close(cl);
            return 0;
        }
        if (waitpid(daemon->pid, &status, WNOHANG) == daemon->pid) {
            pass_on_log(daemon);
            fprintf(stderr, "ringbench: ringletd ended before it served\n");
            daemon->pid = 0;
            bench_daemon_stop(daemon);
            return -ECHILD;
        }
        nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);
    }
    fprintf(stderr, "ringbench: ringletd did not answer within 60 s\n");
    bench_daemon_stop(daemon);
    return -ETIMEDOUT;
}

/* Also from a signal handler. */
void bench_daemon_stop(struct bench_daemon *daemon)
{
    if (daemon->pid > 0) {
        kill(daemon->pid, SIGTERM);
        kill(daemon->pid, SIGTERM); /* the second one: do not drain */
        waitpid(daemon->pid, NULL, 0);
    }
    daemon->pid = 0;
    unlink(daemon->log_path);
    unlink(daemon->socket_path);
    rmdir(daemon->folder);
    for (int i = 0; i < OWN_MAX; i++)
        if (own[i] == daemon)
            own[i] = NULL;
}
