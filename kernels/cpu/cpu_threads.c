/*
 * The pool of a CPU device. `state` is generation << 32 | OPEN | helpers inside. A helper enters
 * the open job of the generation that it saw by a compare-and-swap; the caller ends a job by
 * clearing OPEN and waiting until nobody is inside. fn and arg change only then, so whoever got in
 * reads them safely. Waiting is always: spin about 40 us, then a futex.
 */
#include "kernels/cpu/cpu_threads.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/atomics.h"
#include "base/compiler.h"

enum { SPIN_NS = 40000, SPIN_CLOCK_EVERY = 64 };

#define OPEN 0x80000000u

/* A word to wait on, and how many sleep on it or are about to. */
struct wait_word {
    uint32_t value;
    uint32_t n_asleep;
};

struct helper {
    struct cpu_threads *pool;
    pthread_t thread;
    int index;
};

struct cpu_threads {
    uint64_t state aligned_to(CACHE_LINE_PAIR);
    struct wait_word generation aligned_to(CACHE_LINE_PAIR);
    struct wait_word empty; /* counts the times that the last helper left a closed job */
    cpu_job_fn *fn aligned_to(CACHE_LINE_PAIR);
    void *arg;
    int n_thread, n_started;
    int first_cpu; /* the caller's; -1: any */
    bool stop;
    struct helper helpers[CPU_THREADS_MAX];
};

static uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static long futex(uint32_t *word, int op, uint32_t value)
{
    return syscall(SYS_futex, word, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Returns once word->value is no longer old; acquires what its writer released. */
static void wait_change(struct wait_word *word, uint32_t old)
{
    uint64_t end = 0;
    /* pairs with store_release in wait_set */
    for (unsigned spin = 1; load_acquire(&word->value) == old; spin++) {
        cpu_relax();
        if (spin % SPIN_CLOCK_EVERY)
            continue;
        uint64_t now = clock_ns();
        if (!end)
            end = now + SPIN_NS;
        if (now < end)
            continue;
        __atomic_fetch_add(&word->n_asleep, 1, __ATOMIC_SEQ_CST);
        full_fence(); /* pairs with the fence in wait_set */
        if (load_acquire(&word->value) == old)
            futex(&word->value, FUTEX_WAIT, old); /* the kernel compares again */
        __atomic_fetch_sub(&word->n_asleep, 1, __ATOMIC_RELAXED);
    }
}

/*
 * Each sleeper takes its own mark back. Were it the writer's to take, one that loses its core
 * between the look and that store would wipe the mark of who sleeps by then, and nobody would wake
 * it again.
 */
static void wait_set(struct wait_word *word, uint32_t value)
{
    store_release(&word->value, value); /* pairs with load_acquire in wait_change */
    full_fence();
    if (load_once(&word->n_asleep))
        futex(&word->value, FUTEX_WAKE, INT_MAX);
}

/* True if this helper is inside the job of that generation. */
static bool enter(struct cpu_threads *pool, uint32_t generation)
{
    uint64_t state = load_acquire(&pool->state); /* pairs with store_release in cpu_threads_run */
    while (state >> 32 == generation && (state & OPEN))
        if (__atomic_compare_exchange_n(&pool->state, &state, state + 1, true, __ATOMIC_ACQUIRE,
                                        __ATOMIC_ACQUIRE))
            return true;
    return false;
}

static void leave(struct cpu_threads *pool)
{
    uint64_t state = __atomic_sub_fetch(&pool->state, 1, __ATOMIC_ACQ_REL);
    if ((uint32_t)state == 0) /* closed, and this was the last one */
        wait_set(&pool->empty, load_once(&pool->empty.value) + 1);
}

static void *helper_main(void *arg)
{
    struct helper *helper = arg;
    struct cpu_threads *pool = helper->pool;
    uint32_t generation = 0;

    for (;;) {
        wait_change(&pool->generation, generation);
        generation = load_acquire(&pool->generation.value); /* pairs with wait_set */
        if (load_acquire(&pool->stop)) /* pairs with store_release in cpu_threads_close */
            return NULL;
        if (!enter(pool, generation))
            continue;
        pool->fn(pool->arg, helper->index);
        leave(pool);
    }
}

void cpu_threads_run(struct cpu_threads *pool, cpu_job_fn *fn, void *arg)
{
    if (pool->n_thread == 1) {
        fn(arg, 0);
        return;
    }
    uint32_t generation = pool->generation.value + 1, times = load_once(&pool->empty.value);
    pool->fn = fn;
    pool->arg = arg;
    store_release(&pool->state, (uint64_t)generation << 32 | OPEN); /* pairs with enter */
    wait_set(&pool->generation, generation);
    fn(arg, 0);
    uint64_t inside = __atomic_fetch_and(&pool->state, ~(uint64_t)OPEN, __ATOMIC_ACQ_REL);
    if ((uint32_t)inside != OPEN) /* the last one out counts `empty` up */
        wait_change(&pool->empty, times);
}

/* Parses "0-3,8"; returns how many CPUs, in the list's order, or -EINVAL, -ENODEV. */
static int parse_cpus(const char *list, const cpu_set_t *usable, int *ret_cpus, int max)
{
    int n = 0;
    for (const char *p = list; *p;) {
        char *end;
        errno = 0;
        long first = strtol(p, &end, 10), last = first;
        if (end == p || errno || first < 0 || first >= CPU_SETSIZE)
            return -EINVAL;
        if (*end == '-') {
            p = end + 1;
            last = strtol(p, &end, 10);
            if (end == p || errno || last < first || last >= CPU_SETSIZE)
                return -EINVAL;
        }
        for (long cpu = first; cpu <= last && n < max; cpu++) {
            if (!CPU_ISSET((size_t)cpu, usable))
                return -ENODEV;
            ret_cpus[n++] = (int)cpu;
        }
        if (*end == ',')
            end++;
        else if (*end)
            return -EINVAL;
        p = end;
    }
    return n ? n : -EINVAL;
}

static int pin(pthread_t thread, int cpu)
{
    cpu_set_t set;
    if (cpu < 0)
        return 0;
    CPU_ZERO(&set);
    CPU_SET((size_t)cpu, &set);
    return pthread_setaffinity_np(thread, sizeof(set), &set);
}

static int start_helper(struct cpu_threads *pool, int index, int cpu)
{
    struct helper *helper = &pool->helpers[index];
    *helper = (struct helper){ .pool = pool, .index = index };
    int error = pthread_create(&helper->thread, NULL, helper_main, helper);
    if (error)
        return -error;
    pool->n_started++;
    pthread_setname_np(helper->thread, "ringlet-cpu");
    return pin(helper->thread, cpu) ? -EINVAL : 0;
}

int cpu_threads_open(int n_thread, const char *cpus, struct cpu_threads **ret)
{
    int list[CPU_THREADS_MAX], n_cpu = 0;
    cpu_set_t usable;

    if (sched_getaffinity(0, sizeof(usable), &usable) < 0)
        return -errno;
    if (cpus && (n_cpu = parse_cpus(cpus, &usable, list, CPU_THREADS_MAX)) < 0)
        return n_cpu;
    if (n_thread == 0 && n_cpu)
        n_thread = n_cpu;
    if (n_thread == 0)
        n_thread = min_of(CPU_COUNT(&usable), (int)CPU_THREADS_MAX);
    if (n_thread < 1 || n_thread > CPU_THREADS_MAX)
        return -EINVAL;
    struct cpu_threads *pool = aligned_alloc(CACHE_LINE_PAIR, sizeof(*pool));
    if (!pool)
        return -ENOMEM;
    memset(pool, 0, sizeof(*pool));
    pool->n_thread = n_thread;
    pool->first_cpu = n_cpu ? list[0] : -1;
    for (int i = 1; i < n_thread; i++) {
        int error = start_helper(pool, i, n_cpu ? list[i % n_cpu] : -1);
        if (error) {
            cpu_threads_close(pool);
            return error;
        }
    }
    *ret = pool;
    return 0;
}

void cpu_threads_adopt(const struct cpu_threads *pool)
{
    (void)pin(pthread_self(), pool->first_cpu); /* was usable at the start; else it stays free */
}

void cpu_threads_close(struct cpu_threads *pool)
{
    if (!pool)
        return;
    store_release(&pool->stop, true); /* pairs with load_acquire in helper_main */
    wait_set(&pool->generation, pool->generation.value + 1);
    for (int i = 1; i <= pool->n_started; i++)
        pthread_join(pool->helpers[i].thread, NULL);
    free(pool);
}

int cpu_threads_count(const struct cpu_threads *pool)
{
    return pool->n_thread;
}
