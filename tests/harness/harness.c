/*
 * The test runner: forks a child per test, watches time and descriptors, prints one line a test and
 * a last line that run-tests adds up.
 */
#include "tests/harness/harness.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "config.h"

enum { EXIT_SKIPPED = 77 };

static struct harness_test *tests_head, **tests_tail = &tests_head;
static uint64_t seed;
static char tmpdir[64];

void harness_register(struct harness_test *test)
{
    *tests_tail = test;
    tests_tail = &test->next;
}

uint64_t harness_seed(void)
{
    if (seed == 0) {
        const char *text = getenv("TEST_SEED");
        struct timespec now;
        clock_gettime(CLOCK_REALTIME, &now);
        uint64_t drawn = (uint64_t)now.tv_nsec * 2654435761u + (uint64_t)now.tv_sec;
        seed = text ? strtoull(text, NULL, 0) : drawn;
        seed |= 1;
    }
    return seed;
}

uint64_t harness_rand(uint64_t *state)
{
    uint64_t x = *state ? *state : 88172645463325252u;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

double harness_uniform(uint64_t *state, double lo, double hi)
{
    return lo + (hi - lo) * (double)(harness_rand(state) >> 11) * 0x1p-53;
}

bool harness_long(void)
{
    const char *text = getenv("RINGLET_TEST_LONG");
    return text && strcmp(text, "1") == 0;
}

const char *harness_data(const char *relative)
{
    static char path[4096];
    const char *root = getenv("RINGLET_SHARED_DATA");
    if (!root || !*root)
        root = RINGLET_SOURCE_ROOT "/../shared/data";
    snprintf(path, sizeof(path), "%s/%s", root, relative);
    if (access(path, R_OK) == 0)
        return path;
    print_message("no test data at %s (set RINGLET_SHARED_DATA)\n", path);
    return NULL;
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st, (void)type, (void)ftw;
    return remove(path);
}

const char *harness_tmpdir(void)
{
    if (!tmpdir[0]) {
        snprintf(tmpdir, sizeof(tmpdir), "/tmp/ringlet-test-XXXXXX");
        if (!mkdtemp(tmpdir))
            fail_msg("mkdtemp: %s", strerror(errno));
    }
    return tmpdir;
}

static int allow_descriptors;

void harness_allow_descriptors(void)
{
    allow_descriptors = 1;
}

static int fd_count(void)
{
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    if (!dir)
        return 0;
    while (readdir(dir))
        n++;
    closedir(dir);
    return n;
}

static int run_in_child(const struct harness_test *test)
{
    const struct CMUnitTest group[] = { { test->name, test->fn, NULL, NULL, NULL } };
    int fds_before = fd_count();
    cmocka_set_message_output(CM_OUTPUT_TAP);
    FILE *tap = tmpfile(); /* CMocka tells skips only in its output */
    int saved = dup(STDOUT_FILENO);
    fflush(stdout);
    dup2(fileno(tap), STDOUT_FILENO);
    int failed = cmocka_run_group_tests_name(test->name, group, NULL, NULL);
    fflush(stdout);
    dup2(saved, STDOUT_FILENO);
    close(saved);
    int skipped = 0;
    char line[4096];
    rewind(tap);
    while (fgets(line, sizeof(line), tap)) {
        if (strstr(line, "# SKIP"))
            skipped = 1;
        if (failed || line[0] == '#')
            fputs(line, stderr);
    }
    fclose(tap);
    if (tmpdir[0])
        nftw(tmpdir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
    int fds_after = fd_count();
    if (!failed && !skipped && !allow_descriptors && fds_after > fds_before) {
        fprintf(stderr, "%s: leaks %d file descriptors\n", test->name, fds_after - fds_before);
        failed = 1;
    }
    return failed ? 1 : skipped ? EXIT_SKIPPED : 0;
}

/* Ended, but not reaped: its id, and that of its group, are nobody else's yet. */
static bool has_ended(pid_t pid)
{
    siginfo_t info = { .si_pid = 0 };
    return waitid(P_PID, (id_t)pid, &info, WEXITED | WNOHANG | WNOWAIT) < 0 || info.si_pid == pid;
}

/* With it goes whatever it started and did not end: a test that fails leaves no busy child. */
static int wait_for(pid_t pid, const char *name)
{
    const char *text = getenv("TEST_TIMEOUT_S");
    int64_t left_ms = (text ? strtol(text, NULL, 10) : harness_long() ? 7200 : 600) * 1000;
    int status;
    for (; !has_ended(pid) && left_ms > 0; left_ms -= 1)
        nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    bool in_time = has_ended(pid);
    kill(-pid, SIGKILL);
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    if (!in_time) {
        fprintf(stderr, "%s: timed out\n", name);
        return 1;
    }
    if (WIFSIGNALED(status)) {
        fprintf(stderr, "%s: killed by signal %d\n", name, WTERMSIG(status));
        return 1;
    }
    return WEXITSTATUS(status);
}

static int selected(const char *name, char **patterns)
{
    if (!*patterns)
        return 1;
    for (; *patterns; patterns++)
        if (strstr(name, *patterns))
            return 1;
    return 0;
}

int main(int argc, char **argv)
{
    int in_process = argc > 1 && strcmp(argv[1], "--in-process") == 0;
    char **patterns = argv + 1 + in_process;
    int passed = 0, failed = 0, skipped = 0;
    harness_seed();
    for (const struct harness_test *test = tests_head; test; test = test->next) {
        if (!selected(test->name, patterns))
            continue;
        int rc;
        fflush(NULL);
        pid_t pid = in_process ? 0 : fork();
        if (pid == 0) {
            if (!in_process)
                setpgid(0, 0);
            rc = run_in_child(test);
            if (!in_process) {
                fflush(NULL);
                exit(rc);
            }
        } else {
            rc = pid < 0 ? 1 : wait_for(pid, test->name);
        }
        *(rc == 0 ? &passed : rc == EXIT_SKIPPED ? &skipped : &failed) += 1;
        if (rc != 0 && rc != EXIT_SKIPPED)
            fprintf(stderr, "FAILED %s (%s, TEST_SEED=%llu)\n", test->name, test->file,
                    (unsigned long long)harness_seed());
    }
    printf("tests: %d passed, %d failed, %d skipped\n", passed, failed, skipped);
    return failed ? 1 : skipped && !passed ? EXIT_SKIPPED : 0;
}
