/*
 *   NAME --seed N               one seed, verbose
 *   NAME --seeds FIRST COUNT    quiet; says which seed fails, and how to repeat it. With
 *                               RINGLET_TEST_LONG=1 in the environment a million, on all cores
 *   NAME --planted [N]          each planted bug (or one) must be seen
 */
#include "tests/sim/sim_main.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/compiler.h"
#include "base/planted.h"

enum { PLANTED_SECONDS = 10, SEED_SECONDS = 60, UNPLANTED_SEEDS = 2000, LONG_SEEDS = 1000000 };

int planted_bug; /* daemon/base/planted.h */

static const struct sim_program *program;
static uint64_t current_seed;

/* What a child did, in memory that it shares with its parent. */
struct tally {
    uint64_t n_seed, n_event;
};

/* An assert of the product fired, or worse: say which seed it was. */
static void crashed(int signal_number)
{
    char text[128];
    int n = snprintf(text, sizeof(text), "FAILED: %s\nrepeat: %s --seed %llu\n",
                     signal_number == SIGPROF ? "hangs" : "crashed", program->name,
                     (unsigned long long)current_seed);
    ssize_t written = write(STDOUT_FILENO, text, (size_t)n);
    (void)written;
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

/* Ends a seed that hangs. Seconds of work, not of the clock: the machine may be busy. */
static void patience(int seconds)
{
    setitimer(ITIMER_PROF, &(struct itimerval){ .it_value.tv_sec = seconds }, NULL);
}

static uint64_t run_seed(uint64_t seed, bool verbose, uint64_t *ret_trace)
{
    current_seed = seed;
    uint64_t n = program->run_seed(seed, verbose, ret_trace);
    if (n == 0)
        printf("repeat: %s --seed %llu\n", program->name, (unsigned long long)seed);
    return n;
}

static int run_seeds(uint64_t first, uint64_t count, uint64_t stride, struct tally *tally)
{
    for (uint64_t seed = first; seed < first + count; seed += stride) {
        patience(planted_bug ? PLANTED_SECONDS : SEED_SECONDS);
        uint64_t hash, again, n = run_seed(seed, false, &hash);
        tally->n_seed++;
        tally->n_event += n;
        if (n == 0)
            return 1;
        if (seed % 64 == 0 && (run_seed(seed, false, &again) == 0 || again != hash)) {
            printf("FAILED: seed %llu gives another history the second time\n",
                   (unsigned long long)seed);
            return 1;
        }
    }
    return 0;
}

static struct tally *shared_tallies(int n)
{
    void *p = mmap(NULL, (size_t)n * sizeof(struct tally), PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        perror(program->name);
        exit(2);
    }
    return p;
}

/* Every core takes its share. */
static int run_parallel(uint64_t first, uint64_t count)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1, failed = 0;
    struct tally *tallies = shared_tallies(n), sum = { 0 };
    fflush(stdout);
    for (int i = 0; i < n; i++) {
        pid_t child = fork();
        if (child == 0) {
            int rc = run_seeds(first + (uint64_t)i, count - (uint64_t)i, (uint64_t)n, &tallies[i]);
            fflush(stdout);
            _exit(rc);
        }
        failed |= child < 0;
    }
    for (int status; wait(&status) > 0;)
        failed |= status != 0;
    for (int i = 0; i < n; i++) {
        sum.n_seed += tallies[i].n_seed;
        sum.n_event += tallies[i].n_event;
    }
    printf("%llu seeds, %llu events%s\n", (unsigned long long)sum.n_seed,
           (unsigned long long)sum.n_event, failed ? ", FAILED" : ", all good");
    return failed;
}

static int run_count(uint64_t first, uint64_t count)
{
    const char *is_long = getenv("RINGLET_TEST_LONG");
    struct tally tally = { 0 };
    if (is_long && strcmp(is_long, "1") == 0)
        return run_parallel(first, max_of(count, (uint64_t)LONG_SEEDS));
    int failed = run_seeds(first, count, 1, &tally);
    if (!failed)
        printf("%llu seeds, %llu events, all good\n", (unsigned long long)tally.n_seed,
               (unsigned long long)tally.n_event);
    return failed;
}

/* Does the simulation see this bug? A crash or a hang is seen as well as a complaint. */
static bool bug_caught(int bug, FILE *sink, struct tally *tally)
{
    *tally = (struct tally){ 0 };
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        planted_bug = bug;
        dup2(fileno(sink), STDOUT_FILENO);
        dup2(fileno(sink), STDERR_FILENO);
        _exit(run_seeds(1, bug ? program->planted_seeds : UNPLANTED_SEEDS, 1, tally));
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) != child) {
        perror(program->name);
        exit(2);
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == 2)
        return false; /* the simulation itself gave up: that proves nothing */
    return status != 0;
}

/* All planted bugs, one at a time; the build without any must be good, or it proves nothing. */
static int run_planted(int only)
{
    if (!BUG(0)) {
        fprintf(stderr, "%s: no bugs are planted in this build\n", program->name);
        return 2;
    }
    FILE *sink = fopen("/dev/null", "w");
    if (!sink)
        return 2;
    struct tally *tally = shared_tallies(1);
    int n_missed = 0, first = only ? only : program->first_bug,
        last = only ? only : program->last_bug;
    if (!only && bug_caught(0, sink, tally)) {
        printf("FAILED: without any planted bug the simulation fails\n");
        n_missed++;
    }
    for (int bug = first; bug <= last; bug++) {
        if (bug_caught(bug, only ? stderr : sink, tally)) {
            printf("planted bug %d: seen after %llu seeds\n", bug,
                   (unsigned long long)tally->n_seed + (tally->n_seed == 0));
            continue;
        }
        printf("FAILED: planted bug %d is not seen in %llu seeds\n", bug,
               (unsigned long long)tally->n_seed);
        n_missed++;
    }
    fclose(sink);
    printf("%d planted bugs, %d missed\n", last - first + 1, n_missed);
    return n_missed > 0;
}

int sim_main(const struct sim_program *which, int argc, char **argv)
{
    uint64_t hash;
    program = which;
    struct sigaction action = { .sa_handler = crashed, .sa_flags = SA_NODEFER };
    sigaction(SIGABRT, &action, NULL);
    sigaction(SIGSEGV, &action, NULL);
    sigaction(SIGPROF, &action, NULL);
    if (argc == 3 && strcmp(argv[1], "--seed") == 0)
        return run_seed(strtoull(argv[2], NULL, 0), true, &hash) ? 0 : 1;
    if (argc == 4 && strcmp(argv[1], "--seeds") == 0)
        return run_count(strtoull(argv[2], NULL, 0), strtoull(argv[3], NULL, 0));
    if (argc >= 2 && argc <= 3 && strcmp(argv[1], "--planted") == 0)
        return run_planted(argc == 3 ? (int)strtol(argv[2], NULL, 10) : 0);
    fprintf(stderr, "usage: %s --seed N | --seeds FIRST COUNT | --planted [N]\n", program->name);
    return 2;
}
