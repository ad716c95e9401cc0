/*
 * A fork-join pool: the caller and up to n_thread - 1 pinned helpers run one function, whose items
 * they take from a shared counter. Whoever comes takes part: the caller waits only for helpers
 * that have begun, so a helper that has lost its core to somebody else delays nothing. Helpers
 * spin for a while after each job, then sleep in a futex. One caller at a time.
 */
#ifndef RINGLET_KERNELS_CPU_THREADS_H
#define RINGLET_KERNELS_CPU_THREADS_H

#include <stdint.h>

enum { CPU_THREADS_MAX = 256 };

struct cpu_threads;

/*
 * Must do all items that are left when it is called, whoever else takes part: loop over
 * cpu_work_next. thread_i is 0 for the caller.
 */
typedef void cpu_job_fn(void *arg, int thread_i);

/*
 * Start the pool.
 *
 *   n_thread  the caller's thread included; 0 = one per core this process may use
 *   cpus      list such as "0-3,8" to pin helpers to (its first entry is the caller's, see
 * cpu_threads_adopt); NULL = not pinned
 *
 * Returns: 0; -EINVAL the list or the count is bad; -ENODEV a CPU of the list is not there or not
 *          this process's; -ENOMEM; -EAGAIN no more threads.
 */
int cpu_threads_open(int n_thread, const char *cpus, struct cpu_threads **ret);
void cpu_threads_close(struct cpu_threads *pool);
int cpu_threads_count(const struct cpu_threads *pool);

/* The calling thread is the one that will run jobs: pin it to the list's first CPU, if there is
 * one. */
void cpu_threads_adopt(const struct cpu_threads *pool);

/* Run fn on the caller and on every helper that comes in time; returns when the work is done. */
void cpu_threads_run(struct cpu_threads *pool, cpu_job_fn *fn, void *arg);

/* Inside a job: takes the next count items of a shared counter that starts at 0. */
static inline int cpu_work_next(int *counter, int count)
{
    return __atomic_fetch_add(counter, count, __ATOMIC_RELAXED);
}

#endif
