/*
 * How long the daemon's threads poll before they sleep: the measured price of a sleep and a wake,
 * unless there are fewer cores than threads that would poll at the same time. Start-up.
 */
#ifndef RINGLET_SPIN_H
#define RINGLET_SPIN_H

#include <stdint.h>

#include "daemon/config.h"

struct spin_plan {
    uint64_t idle_ns;     /* loop, no step in flight; UINT64_MAX: for ever */
    uint64_t busy_ns;     /* loop, while a step is in flight */
    uint64_t short_ns;    /* loop, while one is that should be as short as this */
    uint64_t executor_ns; /* idle executor */
    uint32_t n_core;      /* that this process may use: affinity and cgroup quota */
    char text[128];       /* for the start line */
};

/* threads: of the CPU backend, 0 = one per core. */
void spin_plan_make(enum config_spin wish, uint32_t threads, struct spin_plan *ret);

/*
 * The model computes on a GPU: no thread of the pool takes the loop's core, and a step's tokens are
 * not to wait for a wake-up. The loop polls through any step but the longest.
 */
void spin_plan_gpu(enum config_spin wish, struct spin_plan *plan);

/* Cores by sched_getaffinity and the cgroup's cpu.max, at least 1. */
uint32_t spin_cores(void);

/* Median of a sleep and wake between two threads, one way there and back. */
uint64_t spin_measure_ns(void);

#endif
