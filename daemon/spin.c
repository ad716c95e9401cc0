/* Measured once, about a millisecond at start. */
#include "daemon/spin.h"

#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/compiler.h"
#include "daemon/base/clock.h"

enum { ROUNDS = 15 };
#define SPIN_NS_MIN (5 * NS_PER_US)
#define SPIN_NS_MAX (200 * NS_PER_US)
#define SPIN_NS_GPU (20 * NS_PER_MS)

/* cpu.max of this cgroup: "max 100000" or "quota period". 0: no limit known. */
static uint32_t quota_cores(void)
{
    char line[256], path[512];
    unsigned long quota, period;
    auto_fclose FILE *own = fopen("/proc/self/cgroup", "re");
    if (!own || !fgets(line, sizeof(line), own) || strncmp(line, "0::", 3))
        return 0;
    line[strcspn(line, "\n")] = 0;
    snprintf(path, sizeof(path), "/sys/fs/cgroup%s/cpu.max", line + 3);
    auto_fclose FILE *file = fopen(path, "re");
    if (!file || fscanf(file, "%lu %lu", &quota, &period) != 2 || period == 0)
        return 0;
    return max_of((uint32_t)(quota / period), 1u);
}

uint32_t spin_cores(void)
{
    cpu_set_t set;
    uint32_t n = sched_getaffinity(0, sizeof(set), &set) == 0 ? (uint32_t)CPU_COUNT(&set) : 1;
    uint32_t quota = quota_cores();
    return quota && quota < n ? quota : max_of(n, 1u);
}

static void *answer(void *arg)
{
    const int *fd = arg;
    uint64_t x;
    for (int i = 0; i < ROUNDS; i++)
        if (read(fd[0], &x, sizeof(x)) != sizeof(x) || write(fd[1], &x, sizeof(x)) != sizeof(x))
            break;
    return NULL;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The n-th CPU of a set alone. */
static cpu_set_t one_of(const cpu_set_t *set, int n)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    for (size_t cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, set) && n-- == 0)
            CPU_SET(cpu, &one);
    return one;
}

/*
 * The two threads on a CPU each, if there are two: a wake on the waker's own CPU, where the kernel
 * may well leave a thread, is no wake of an idle one.
 */
uint64_t spin_measure_ns(void)
{
    uint64_t took[ROUNDS] = { 0 }, x = 1;
    cpu_set_t all, here, other;
    bool apart = sched_getaffinity(0, sizeof(all), &all) == 0 && CPU_COUNT(&all) >= 2;
    auto_close int there = eventfd(0, EFD_CLOEXEC);
    auto_close int back = eventfd(0, EFD_CLOEXEC);
    int fd[2] = { there, back };
    pthread_t thread;
    if (there < 0 || back < 0 || pthread_create(&thread, NULL, answer, fd))
        return 50 * NS_PER_US;
    if (apart) {
        here = one_of(&all, 0);
        other = one_of(&all, 1);
        apart = sched_setaffinity(0, sizeof(here), &here) == 0;
        (void)pthread_setaffinity_np(thread, sizeof(other), &other);
    }
    for (int i = 0; i < ROUNDS; i++) {
        nanosleep(&(struct timespec){ .tv_nsec = 20000 }, NULL); /* both sides are asleep */
        uint64_t from = clock_now_ns();
        if (write(there, &x, sizeof(x)) != sizeof(x) || read(back, &x, sizeof(x)) != sizeof(x))
            break;
        took[i] = clock_now_ns() - from;
    }
    pthread_join(thread, NULL);
    if (apart)
        (void)sched_setaffinity(0, sizeof(all), &all);
    qsort(took, ROUNDS, sizeof(took[0]), by_value);
    return took[ROUNDS / 2];
}

void spin_plan_make(enum config_spin wish, uint32_t threads, struct spin_plan *ret)
{
    static const char *const names[] = { "adaptive", "always", "never" };
    uint32_t cores = spin_cores(), computing = threads ? min_of(threads, cores) : cores;
    uint64_t measured = wish == CONFIG_SPIN_ADAPTIVE ? spin_measure_ns() : 0;
    uint64_t budget = wish == CONFIG_SPIN_NEVER ? 0
                      : wish == CONFIG_SPIN_ALWAYS
                          ? UINT64_MAX
                          : min_of(max_of(measured, SPIN_NS_MIN), SPIN_NS_MAX);
    *ret = (struct spin_plan){ .n_core = cores };
    ret->idle_ns = cores >= 2 ? budget : 0;        /* the loop and a client */
    ret->busy_ns = cores > computing ? budget : 0; /* the loop beside the pool */
    ret->executor_ns = cores >= 3 ? budget : 0;    /* the loop, a client and the executor */
    ret->short_ns = cores >= 3 ? min_of(budget, (uint64_t)SPIN_NS_MAX) : 0;
    const char *fallback = "";
    if (wish != CONFIG_SPIN_NEVER && cores < 2)
        fallback = ", but never on one core";
    else if (wish != CONFIG_SPIN_NEVER && ret->short_ns && !ret->busy_ns)
        fallback = ", but not through long steps: too few cores";
    else if (wish != CONFIG_SPIN_NEVER && (!ret->busy_ns || !ret->executor_ns))
        fallback = ", but not while the model computes: too few cores";
    if (budget && budget != UINT64_MAX)
        snprintf(ret->text, sizeof(ret->text), "%s (%.0f us%s)", names[wish], (double)budget / 1e3,
                 fallback);
    else
        snprintf(ret->text, sizeof(ret->text), "%s%s", names[wish], fallback);
}

void spin_plan_gpu(enum config_spin wish, struct spin_plan *plan)
{
    if (wish == CONFIG_SPIN_NEVER || plan->n_core < 3) /* the loop, the executor and a client */
        return;
    plan->busy_ns = wish == CONFIG_SPIN_ALWAYS ? UINT64_MAX : SPIN_NS_GPU;
    if (wish == CONFIG_SPIN_ALWAYS)
        snprintf(plan->text, sizeof(plan->text), "always");
    else
        snprintf(plan->text, sizeof(plan->text), "adaptive (%.0f us, %.0f ms while a step runs)",
                 (double)plan->idle_ns / 1e3, (double)SPIN_NS_GPU / 1e6);
}
