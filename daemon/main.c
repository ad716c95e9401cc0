/*
 * Start and end of the daemon: configuration, device, models, memory, threads, socket; then the
 * loop, until a signal; then the way back. The only file that exits.
 *
 * Exit: 0 drained after a signal; 2 bad flags or configuration; 1 anything else. A device fault
 * ends in a new execution of the same program with the listening socket kept (RINGLETD_LISTEN_FD).
 */
#include <config.h> /* the build's, not daemon/config.h */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/compiler.h"
#include "daemon/base/arena.h"
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/payload.h"
#include "daemon/base/trace.h"
#include "daemon/config.h"
#include "daemon/engine.h"
#include "daemon/serve.h"
#include "daemon/spin.h"
#include "shm/handshake.h"

enum { EXIT_USAGE = 2, RESTARTS_MAX = 3 };
#define LISTEN_ENV        "RINGLETD_LISTEN_FD"
#define RESTART_ENV       "RINGLETD_RESTARTS"
#define RESTART_FORGET_NS (60 * NS_PER_S) /* one that served so long may start anew again */

struct daemon {
    struct config config;
    uint64_t start_ns, ready_ns;
    struct arena *arena;
    struct engine engine;
    struct board board;
    struct loop *loop;
    struct payload_pool *payload;
    struct serve *serve;
    struct encode_thread *encode_thread;
    struct spin_plan spin;
    struct session_grant grants[CONFIG_USERS_MAX];
    const char *groups[CONFIG_GROUPS_MAX];
    int listen_fd, signal_fd, trace_fd;
    bool is_manager_socket; /* systemd's: its file stays at the end */
};

/* A line for the service manager. Without one nothing happens. */
static void notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to = { .sun_family = AF_UNIX };
    if (!path || (path[0] != '/' && path[0] != '@') || strlen(path) >= sizeof(to.sun_path))
        return;
    memcpy(to.sun_path, path, strlen(path));
    if (path[0] == '@')
        to.sun_path[0] = 0;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    socklen_t bytes = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    if (sendto(fd, state, strlen(state), MSG_NOSIGNAL, (struct sockaddr *)&to, bytes) < 0)
        log_warn(DAEMON, "cannot tell the service manager: %s", strerror(errno));
    close(fd);
}

static void raise_descriptors(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

static int block_signals(struct daemon *d)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL); /* threads that start later inherit it */
    signal(SIGPIPE, SIG_IGN);
    d->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return d->signal_fd < 0 ? -errno : 0;
}

static int env_number(const char *name, int otherwise)
{
    const char *text = getenv(name);
    char *end;
    long x = text ? strtol(text, &end, 10) : 0;
    return text && *text && !*end && x >= 0 && x <= INT32_MAX ? (int)x : otherwise;
}

/* A socket that listens already: from the execution before, or from systemd (LISTEN_FDS). */
static int adopt_socket(struct daemon *d)
{
    int fd = env_number(LISTEN_ENV, -1);
    d->is_manager_socket =
        env_number("LISTEN_PID", -1) == (int)getpid() && env_number("LISTEN_FDS", 0) == 1;
    if (fd < 0 && d->is_manager_socket)
        fd = 3;
    unsetenv(LISTEN_ENV);
    if (fd < 0)
        return 0;
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, O_NONBLOCK) < 0)
        return -errno;
    d->listen_fd = fd;
    return 0;
}

static int open_socket(struct daemon *d)
{
    const char *path = d->config.socket;
    if (d->listen_fd >= 0)
        return 0;
    char folder[sizeof(d->config.socket)];
    memcpy(folder, path, sizeof(folder));
    char *slash = strrchr(folder, '/');
    if (slash && slash != folder) {
        *slash = 0;
        if (mkdir(folder, 0755) < 0 && errno != EEXIST)
            log_warn(DAEMON, "%s: %s", folder, strerror(errno));
    }
    return handshake_listen(path, d->config.socket_mode, LIMIT_LISTEN_BACKLOG, &d->listen_fd);
}

static int fail_start(const char *what, int error)
{
    const char *why = error == -EADDRINUSE ? "a daemon serves there already, or it is no socket"
                                           : strerror(-error);
    log_write(LOG_TOPIC_DAEMON, LOG_LEVEL_ERROR, "%s: %s", what, why);
    return error;
}

static int make_loop(struct daemon *d)
{
    int error = loop_create(3 * LIMIT_CONNECTIONS + 16, d->arena, &d->loop);
    if (error == -EPERM || error == -ENOSYS || error == -EACCES)
        log_write(LOG_TOPIC_DAEMON, LOG_LEVEL_ERROR,
                  "io_uring: %s: the system refuses it; look at sysctl kernel.io_uring_disabled "
                  "(must be 0) and at the container's seccomp profile",
                  strerror(-error));
    else if (error)
        fail_start("io_uring", error);
    return error;
}

static int make_board(struct daemon *d, uint64_t generation)
{
    struct board_config board = { .version = RINGLET_VERSION,
                                  .daemon_generation = generation,
                                  .start_ns = d->start_ns,
                                  .n_model = d->engine.n_model };
    board_limits_default(&board.limits);
    board.limits.slow_client_ns = d->config.slow_client_s * NS_PER_S;
    int error = board_create(&board, &d->board);
    if (error)
        return fail_start("shared memory for the board", error);
    stats_set(d->board.stats.daemon[STATS_PROMPT_POOL_BYTES], LIMIT_PROMPT_POOL_BYTES);
    return 0;
}

/* The file is opened now, so that a wrong path is told, and emptied when it is written. */
static int make_trace(struct daemon *d)
{
    const char *path = d->config.trace;
    struct stat st;
    if (!path[0])
        return 0;
    d->trace_fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);
    if (d->trace_fd < 0 || fstat(d->trace_fd, &st) < 0)
        return fail_start(path, -errno);
    if (!S_ISREG(st.st_mode)) {
        log_write(LOG_TOPIC_DAEMON, LOG_LEVEL_ERROR, "--trace %s: no regular file", path);
        return -EINVAL;
    }
    int error = trace_create(d->arena);
    for (uint32_t i = 0; i < d->engine.n_model && !error; i++)
        trace_name_model((int)i, d->engine.model[i].loaded.info.name);
    return error ? fail_start("memory for the trace", error) : 0;
}

/* Everything the loop will ever use, from one arena that is closed afterwards. */
static int make_serve(struct daemon *d, struct format_error *err)
{
    uint64_t random[3];
    struct encode_model models[LIMIT_MODELS];
    if (getrandom(random, sizeof(random), 0) != (ssize_t)sizeof(random))
        return fail_start("getrandom", -EIO);
    int error = make_board(d, random[0] | 1);
    if (!error && (error = payload_create(LIMIT_PROMPT_POOL_BYTES, d->arena, &d->payload)))
        fail_start("memory for prompts", error);
    if (!error)
        error = make_trace(d);
    if (!error)
        error = make_loop(d);
    if (error)
        return error;
    for (uint32_t i = 0; i < d->config.n_user; i++)
        d->grants[i] = (struct session_grant){ .uid = d->config.user[i].uid,
                                               .sessions_max = d->config.user[i].sessions_max,
                                               .shm_bytes_max = d->config.user[i].shm_bytes_max,
                                               .groups = d->config.user[i].groups };
    for (uint32_t i = 0; i < d->config.n_group; i++)
        d->groups[i] = d->config.group[i];
    struct serve_config config = {
        .loop = d->loop,
        .board = &d->board,
        .payload = d->payload,
        .daemon_generation = d->board.head->daemon_generation,
        .slow_client_ns = d->config.slow_client_s * NS_PER_S,
        .drain_ns = d->config.drain_s * NS_PER_S,
        .watchdog_ns = d->config.watchdog_s * NS_PER_S,
        .spin = { d->spin.idle_ns, d->spin.busy_ns, d->spin.short_ns, d->spin.n_core },
        .requests_max = LIMIT_REQUESTS,
        .sequences_max = LIMIT_SEQUENCES,
        .sessions_max = LIMIT_SESSIONS,
        .sessions_uid_max = LIMIT_SESSIONS_UID,
        .shm_uid_bytes_max = LIMIT_SHM_UID_BYTES,
        .grants = d->grants,
        .n_grant = d->config.n_user,
        .groups = d->groups,
        .n_group = d->config.n_group,
        .seed_key = { random[1], random[2] },
        .signal_fd = d->signal_fd,
        .trace_fd = d->trace_fd,
    };
    error = serve_create(&config, d->arena, &d->serve);
    if (error)
        return fail_start("memory for requests and sessions", error);
    error = engine_attach(&d->engine, &d->config, d->serve, d->arena, err);
    if (error) {
        log_write(LOG_TOPIC_DAEMON, LOG_LEVEL_ERROR, "%s", err->text);
        return error;
    }
    engine_encode_models(&d->engine, models);
    error = encode_thread_create(models, d->engine.n_model, LIMIT_REQUESTS, d->arena,
                                 loop_wake(d->loop), &d->encode_thread);
    d->serve->encode_thread = d->encode_thread;
    return error ? fail_start("the encoder's memory", error) : log_create(d->arena);
}

static int start_threads(struct daemon *d)
{
    struct wake *wake = loop_wake(d->loop);
    struct executor_wake ring = { .loop_wait = &wake->word, .eventfd = wake->fd };
    int error = executor_start(d->engine.executor, &ring);
    if (!error)
        error = encode_thread_start(d->encode_thread);
    return error ? fail_start("threads", error) : 0;
}

/* The whole arena: reserved generously, committed as far as it is taken. */
static size_t arena_size(const struct daemon *d)
{
    return ((size_t)1 << 30) + serve_bytes() + engine_bytes(&d->engine);
}

static int start(struct daemon *d)
{
    struct format_error err = { 0 };
    int error = block_signals(d);
    if (error)
        return fail_start("signalfd", error);
    error = adopt_socket(d);
    if (error)
        return fail_start("the socket that was handed over", error);
    error = d->listen_fd < 0 ? handshake_check_address(d->config.socket) : 0;
    if (error) /* before a model is loaded in vain */
        return fail_start(d->config.socket, error);
    raise_descriptors();
    spin_plan_make(d->config.spin, d->config.threads, &d->spin);
    error = engine_open(&d->config, d->spin.executor_ns, &d->engine, &err);
    if (error && !err.text[0])
        return fail_start("models", error);
    if (error) {
        log_write(LOG_TOPIC_DAEMON, LOG_LEVEL_ERROR, "%s", err.text);
        return error;
    }
    if (strcmp(d->engine.device, "cuda") == 0)
        spin_plan_gpu(d->config.spin, &d->spin);
    error = arena_create(arena_size(d), &d->arena);
    if (error)
        return fail_start("address space", error);
    error = make_serve(d, &err);
    if (!error)
        error = start_threads(d);
    if (error)
        return error;
    arena_seal(d->arena);
    error = open_socket(d);
    if (error)
        return fail_start(d->config.socket, error);
    log_info(DAEMON, "memory: %.1f MB of tables, prompt pool of %.0f MB (as used), spin %s",
             (double)arena_used(d->arena) / 1e6, LIMIT_PROMPT_POOL_BYTES / 1e6, d->spin.text);
    d->ready_ns = clock_now_ns();
    log_info(DAEMON, "ready on %s in %.0f ms", d->config.socket,
             (double)(d->ready_ns - d->start_ns) / 1e6);
    return 0;
}

/* Nobody listens any more. */
static void close_socket(struct daemon *d)
{
    if (d->listen_fd < 0)
        return;
    if (!d->is_manager_socket)
        unlink(d->config.socket);
    close(d->listen_fd);
    d->listen_fd = -1;
}

static void stop(struct daemon *d)
{
    encode_thread_stop(d->encode_thread);
    engine_close(&d->engine);
    loop_free(d->loop);
    if (d->board.head)
        board_free(&d->board);
    close_socket(d);
    if (d->signal_fd >= 0)
        close(d->signal_fd);
    if (d->trace_fd >= 0)
        close(d->trace_fd);
    trace_destroy();
    arena_free(d->arena);
}

/* After a device fault only a new process helps: the same program, the same socket. */
static int restart(struct daemon *d, char **argv)
{
    char text[32];
    bool held = clock_now_ns() - d->ready_ns > RESTART_FORGET_NS;
    int n = held ? 0 : env_number(RESTART_ENV, 0);
    if (n >= RESTARTS_MAX) {
        log_write(LOG_TOPIC_DAEMON, LOG_LEVEL_ERROR,
                  "the device failed %d times in a row; giving up", n + 1);
        close_socket(d);
        return EXIT_FAILURE;
    }
    snprintf(text, sizeof(text), "%d", n + 1);
    setenv(RESTART_ENV, text, 1);
    snprintf(text, sizeof(text), "%d", d->listen_fd);
    setenv(LISTEN_ENV, text, 1);
    fcntl(d->listen_fd, F_SETFD, 0);
    execv("/proc/self/exe", argv);
    log_write(LOG_TOPIC_DAEMON, LOG_LEVEL_ERROR, "cannot execute anew: %s", strerror(errno));
    close_socket(d);
    return EXIT_FAILURE;
}

static int serve(struct daemon *d, char **argv)
{
    notify("READY=1\n");
    log_attach(0);
    trace_attach();
    enum serve_end end = serve_run(d->serve, d->listen_fd);
    log_detach();
    int error = d->trace_fd < 0 ? 0 : trace_dump_to(d->trace_fd);
    if (error)
        log_warn(DAEMON, "trace: %s: %s", d->config.trace, strerror(-error));
    bool lost = end == SERVE_ENGINE_LOST; /* nothing of the device can be trusted to close */
    if (lost && !d->serve->draining)
        _exit(restart(d, argv));
    notify("STOPPING=1\n"); /* no restart says so: the manager would kill it */
    if (lost) {             /* it was told to end before that */
        close_socket(d);
        _exit(EXIT_SUCCESS);
    }
    stop(d);
    return EXIT_SUCCESS;
}

static int check_only(const struct config *c)
{
    printf("configuration is sound: %u model%s, socket %s\n", c->n_model,
           c->n_model == 1 ? "" : "s", c->socket);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    static struct daemon d = { .listen_fd = -1, .signal_fd = -1, .trace_fd = -1 };
    char err[CONFIG_ERROR_BYTES];
    d.start_ns = clock_now_ns();
    if (config_load(argc, argv, &d.config, err)) {
        fprintf(stderr, "ringletd: %s\n", err);
        return EXIT_USAGE;
    }
    if (d.config.help)
        return fputs(config_usage(), stdout) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
    if (d.config.version)
        return printf("ringletd %s\n", RINGLET_VERSION) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
    if (d.config.check_only)
        return check_only(&d.config);
    if (start(&d)) {
        stop(&d);
        return EXIT_FAILURE;
    }
    return serve(&d, argv);
}
