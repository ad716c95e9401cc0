/* Starts daemons for tests and talks to them through the client library, nothing else. */
#include "tests/e2e/e2e.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "config.h"

extern char **environ;

uint64_t e2e_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void e2e_nap_ms(long ms)
{
    nanosleep(&(struct timespec){ .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000 }, NULL);
}

bool e2e_may_wait(uint64_t deadline_ns)
{
    if (e2e_now_ns() >= deadline_ns)
        return false;
    e2e_nap_ms(1);
    return true;
}

uint64_t e2e_deadline_ns(void)
{
    return e2e_now_ns() + E2E_PATIENCE_NS;
}

struct ringlet_options e2e_options(const struct e2e_daemon *d)
{
    struct ringlet_options o;
    ringlet_options_init(&o);
    o.socket_path = d->socket;
    o.timeout_ns = E2E_PATIENCE_NS;
    o.heartbeat_ns = RINGLET_FOREVER;
    return o;
}

static void show_log(const struct e2e_daemon *d)
{
    char line[512];
    FILE *file = fopen(d->log, "r");
    while (file && fgets(line, sizeof(line), file))
        fputs(line, stderr);
    if (file)
        fclose(file);
}

/* It serves a moment before it tells how much of everything there is. */
static void until_counters_are_told(struct ringlet_client *cl)
{
    struct ringlet_stats_info info;
    assert_ok(ringlet_stats(cl, &info));
    for (uint32_t i = 0; i < info.n_model; i++) {
        e2e_stat_reaches(cl, "kv_blocks_total", (int)i, 1);
        e2e_audit(cl, (int)i);
    }
}

static void start_at_socket(struct e2e_daemon *d, const char *const *args)
{
    const char *argv[64] = { getenv("RINGLETD"), "--socket", d->socket };
    int n = 3;
    if (!argv[0])
        fail_msg("RINGLETD is not set: run me through meson test");
    while (*args)
        argv[n++] = *args++;
    argv[n] = NULL;
    d->pid = fork();
    if (d->pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int fd = open(d->log, O_CREAT | O_WRONLY | O_TRUNC, 0600);
        dup2(fd, STDERR_FILENO);
        execv(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    struct ringlet_options o = e2e_options(d);
    uint64_t until = e2e_deadline_ns();
    o.flags = RINGLET_OBSERVER;
    o.timeout_ns = 1000000000u; /* it may die in the handshake */
    do {
        struct ringlet_client *cl;
        int status;
        if (ringlet_connect(&o, &cl) == 0) {
            until_counters_are_told(cl);
            ringlet_close(cl);
            return;
        }
        if (waitpid(d->pid, &status, WNOHANG) == d->pid)
            break;
    } while (e2e_may_wait(until));
    show_log(d);
    fail_msg("the daemon did not start");
}

void e2e_start_with(struct e2e_daemon *d, const char *const *args)
{
    static int serial;
    serial++;
    snprintf(d->socket, sizeof(d->socket), "%s/s%d", harness_tmpdir(), serial);
    snprintf(d->log, sizeof(d->log), "%s/log%d", harness_tmpdir(), serial);
    start_at_socket(d, args);
}

void e2e_start_again(struct e2e_daemon *d)
{
    const char *const args[] = { "--model", "echo", NULL };
    start_at_socket(d, args);
}

void e2e_start(struct e2e_daemon *d, const char *const *extra)
{
    const char *args[40] = { "--model", "echo" };
    int n = 2;
    while (extra && *extra)
        args[n++] = *extra++;
    e2e_start_with(d, args);
}

int e2e_wait(struct e2e_daemon *d)
{
    int status = 0;
    uint64_t until = e2e_deadline_ns();
    do
        if (waitpid(d->pid, &status, WNOHANG) == d->pid)
            return status;
    while (e2e_may_wait(until));
    kill(d->pid, SIGKILL);
    show_log(d);
    fail_msg("the daemon does not end");
    return -1;
}

void e2e_stop(struct e2e_daemon *d)
{
    kill(d->pid, SIGTERM);
    int status = e2e_wait(d);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
        show_log(d);
        fail_msg("the daemon ended with status 0x%x", (unsigned)status);
    }
}

bool e2e_log_says(const struct e2e_daemon *d, const char *what)
{
    static char text[1 << 16];
    uint64_t until = e2e_deadline_ns();
    do {
        FILE *file = fopen(d->log, "r");
        size_t n = file ? fread(text, 1, sizeof(text) - 1, file) : 0;
        text[n] = 0;
        if (file)
            fclose(file);
        if (strstr(text, what))
            return true;
    } while (e2e_may_wait(until));
    return false;
}

/* The state of a thread, as ps has it. */
static char state_of(pid_t pid, const char *tid)
{
    char path[300], line[512] = "";
    snprintf(path, sizeof(path), "/proc/%d/task/%s/stat", (int)pid, tid);
    FILE *file = fopen(path, "r");
    if (file) {
        (void)!fgets(line, sizeof(line), file);
        fclose(file);
    }
    const char *end = strrchr(line, ')');
    return end && end[1] ? end[2] : 'X';
}

/* Does every thread stand still, be it by a signal or a tracer's? */
static bool is_paused(pid_t pid)
{
    char path[64];
    bool paused = true;
    snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
    DIR *dir = opendir(path);
    for (struct dirent *entry; dir && (entry = readdir(dir));)
        if (entry->d_name[0] != '.')
            paused = paused && strchr("TtXZ", state_of(pid, entry->d_name));
    if (dir)
        closedir(dir);
    return dir && paused;
}

void e2e_pause(const struct e2e_daemon *d)
{
    uint64_t until = e2e_deadline_ns();
    kill(d->pid, SIGSTOP);
    while (!is_paused(d->pid))
        assert_true(e2e_may_wait(until));
}

void e2e_resume(const struct e2e_daemon *d)
{
    kill(d->pid, SIGCONT);
}

struct ringlet_client *e2e_connect_with(const struct e2e_daemon *d, struct ringlet_options *o)
{
    struct ringlet_client *cl = NULL;
    o->socket_path = d->socket;
    assert_ok(ringlet_connect(o, &cl));
    return cl;
}

struct ringlet_client *e2e_connect(const struct e2e_daemon *d)
{
    struct ringlet_options o = e2e_options(d);
    return e2e_connect_with(d, &o);
}

struct ringlet_request e2e_text(const char *text)
{
    struct ringlet_request req;
    ringlet_request_init(&req);
    req.text = text;
    req.text_bytes = strlen(text);
    req.temperature = 0;
    return req;
}

static void take_event(struct e2e_answer *a, const struct ringlet_event *ev)
{
    a->n_event++;
    if (ev->kind == RINGLET_KIND_ACCEPTED)
        a->n_accepted++;
    if (ev->kind == RINGLET_KIND_TOKENS) {
        assert_true(a->text_bytes + ev->text_bytes < sizeof(a->text));
        memcpy(a->text + a->text_bytes, ev->text, ev->text_bytes);
        a->text_bytes += ev->text_bytes;
        a->text[a->text_bytes] = 0;
        for (uint32_t i = 0; i < ev->n_token && a->n_token < 16384; i++)
            a->tokens[a->n_token++] = ev->tokens[i];
    }
    if (ev->kind == RINGLET_KIND_PROMPT)
        for (uint32_t i = 0; i < ev->n_token && a->n_prompt < 65536; i++)
            a->prompt[a->n_prompt++] = ev->tokens[i];
    if (ev->kind == RINGLET_KIND_FINISHED) {
        a->n_finished++;
        a->reason = ev->reason;
        a->index = ev->index;
        a->detail = ev->detail;
        a->field = ev->error_field;
        a->handle = ev->handle;
        if (ev->index < 64) {
            a->reasons[ev->index] = ev->reason;
            a->handles[ev->index] = ev->handle;
        }
    }
    if (ev->annex && ev->flags & RINGLET_CQE_END)
        a->annex = *ev->annex;
}

void e2e_gather(struct ringlet_client *cl, uint64_t id, struct e2e_answer *a)
{
    memset(a, 0, sizeof(*a));
    a->id = id;
    for (bool end = false; !end;) {
        struct ringlet_event ev;
        int error = ringlet_wait(cl, &ev, e2e_deadline_ns());
        if (error)
            fail_msg("wait: %s", ringlet_strerror(error));
        if (ev.id == id) {
            take_event(a, &ev);
            end = ev.flags & RINGLET_CQE_END;
        }
        ringlet_advance(cl);
    }
}

void e2e_ask(struct ringlet_client *cl, const struct ringlet_request *req, struct e2e_answer *a)
{
    uint64_t id = 0;
    assert_ok(ringlet_submit(cl, req, &id));
    e2e_gather(cl, id, a);
}

uint64_t e2e_stat(struct ringlet_client *cl, const char *name, int model)
{
    struct ringlet_counter c;
    uint8_t want = model < 0 ? RINGLET_STAT_ANY : (uint8_t)model;
    for (uint32_t i = 0; ringlet_stat_at(cl, i, &c) == 0; i++)
        if (!strcmp(c.name, name) && c.model == want)
            return __atomic_load_n(&c.values[0], __ATOMIC_RELAXED);
    fail_msg("no counter %s", name);
    return 0;
}

uint64_t e2e_stat_of(const struct e2e_daemon *d, const char *name)
{
    struct ringlet_options o = e2e_options(d);
    o.flags = RINGLET_OBSERVER;
    struct ringlet_client *cl = e2e_connect_with(d, &o);
    uint64_t value = e2e_stat(cl, name, -1);
    ringlet_close(cl);
    return value;
}

void e2e_stat_becomes(struct ringlet_client *cl, const char *name, int model, uint64_t value)
{
    uint64_t now, until = e2e_deadline_ns();
    while ((now = e2e_stat(cl, name, model)) != value)
        if (!e2e_may_wait(until))
            fail_msg("%s is %llu, not %llu", name, (unsigned long long)now,
                     (unsigned long long)value);
}

void e2e_stat_reaches(struct ringlet_client *cl, const char *name, int model, uint64_t value)
{
    uint64_t now, until = e2e_deadline_ns();
    while ((now = e2e_stat(cl, name, model)) < value)
        if (!e2e_may_wait(until))
            fail_msg("%s is %llu, below %llu", name, (unsigned long long)now,
                     (unsigned long long)value);
}

void e2e_settle(struct ringlet_client *cl)
{
    struct ringlet_request req;
    struct ringlet_event ev;
    ringlet_request_init(&req);
    req.op = RINGLET_OP_NOP;
    for (int i = 0; i < 2; i++) {
        uint64_t sleeps = e2e_stat(cl, "sleeps", -1);
        assert_ok(ringlet_submit(cl, &req, NULL));
        assert_ok(ringlet_wait(cl, &ev, e2e_deadline_ns()));
        ringlet_advance(cl);
        e2e_stat_reaches(cl, "sleeps", -1, sleeps + 1);
    }
}

void e2e_audit(struct ringlet_client *cl, int model)
{
    e2e_stat_becomes(cl, "running", model, 0);
    e2e_stat_becomes(cl, "queued", model, 0);
    e2e_stat_becomes(cl, "kv_blocks_owned", model, 0);
    uint64_t sum, total = e2e_stat(cl, "kv_blocks_total", model), until = e2e_deadline_ns();
    do { /* two counters: read while they change, torn */
        sum = e2e_stat(cl, "kv_blocks_free", model) + e2e_stat(cl, "kv_blocks_cached", model);
        if (sum == total)
            return;
    } while (e2e_may_wait(until));
    fail_msg("%llu blocks free or cached of %llu", (unsigned long long)sum,
             (unsigned long long)total);
}

int e2e_fd_count(pid_t pid)
{
    char path[64];
    int n = -2; /* . and .. */
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    while (dir && readdir(dir))
        n++;
    if (dir)
        closedir(dir);
    return n;
}

int e2e_fd_count_at_rest(const struct e2e_daemon *d, struct ringlet_client *cl)
{
    e2e_settle(cl);
    e2e_stat_becomes(cl, "observers", -1, 0); /* the one that saw it start may still be there */
    e2e_settle(cl);                           /* and what it held is given back behind that */
    return e2e_fd_count(d->pid);
}

void e2e_fd_count_becomes(const struct e2e_daemon *d, int n)
{
    uint64_t until = e2e_deadline_ns();
    while (e2e_fd_count(d->pid) != n)
        if (!e2e_may_wait(until))
            fail_msg("the daemon has %d descriptors, not %d", e2e_fd_count(d->pid), n);
}

const char *e2e_stories(void)
{
    return e2e_stories_with(NULL);
}

static bool run_script(char *const *argv)
{
    pid_t pid;
    int status;
    if (posix_spawnp(&pid, argv[0], NULL, NULL, argv, environ) != 0)
        return false;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    return true;
}

const char *e2e_stories_with(const char *template)
{
    static char path[256];
    char script[] = RINGLET_SOURCE_ROOT "/tests/vectors/llama/stories_gguf.py";
    char python[] = "python3", model[4096], tokenizer[4096], text[1024];
    const char *data = harness_data("models/stories260K.bin");
    if (!data)
        return NULL;
    snprintf(model, sizeof(model), "%s", data);
    snprintf(tokenizer, sizeof(tokenizer), "%s", harness_data("models/tok512.bin"));
    snprintf(path, sizeof(path), "%s/stories.gguf", harness_tmpdir());
    snprintf(text, sizeof(text), "%s", template ? template : "");
    char *argv[] = { python, script, model, tokenizer, path, text, NULL };
    return run_script(argv) ? path : NULL;
}

const char *e2e_tiny(const char *name)
{
    static char path[256];
    char script[] = RINGLET_SOURCE_ROOT "/tests/vectors/tiny.py", python[] = "python3", text[64];
    snprintf(path, sizeof(path), "%s/%s", harness_tmpdir(), name);
    snprintf(text, sizeof(text), "%s", name);
    char *argv[] = { python, script, text, path, NULL };
    return run_script(argv) ? path : NULL;
}

const char *e2e_smollm2(void)
{
    static char path[512];
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    bool has_cache = cache && *cache;
    snprintf(path, sizeof(path), "%s%s/ringlet/SmolLM2-135M-Instruct.Q4_1.gguf",
             has_cache ? cache
             : home    ? home
                       : "",
             has_cache ? "" : "/.cache");
    if (getenv("RINGLET_TEST_SANITIZED"))
        return NULL;
    if (access(path, R_OK) != 0) {
        print_message("%s is not there: tools/get-model brings it\n", path);
        return NULL;
    }
    return path;
}
