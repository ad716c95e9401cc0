/*
 * The pool's sleep and wake with its gaps held open: who looks for sleepers loses its core behind
 * the look, and who goes to sleep loses it before the kernel has it. No helper may sleep for ever.
 */
#include <stdlib.h>
#include <unistd.h>

#include "base/atomics.h"
#include "tests/harness/harness.h"

static unsigned now_and_then(void)
{
    static __thread uint64_t seed;
    if (seed == 0)
        seed = harness_seed() ^ (uintptr_t)&seed;
    uint64_t r = harness_rand(&seed);
    return r % 4 ? 0 : (unsigned)(r >> 8) % 300;
}

static uint32_t slow_load(const uint32_t *at)
{
    uint32_t value = load_once(at);
    unsigned us = value ? now_and_then() : 0;
    if (us)
        usleep(us);
    return value;
}

static long slow_syscall(long number, uint32_t *word, int op, uint32_t value)
{
    unsigned us = now_and_then();
    if (us)
        usleep(us);
    return syscall(number, word, op, value, NULL, NULL, 0);
}

#undef load_once
#define load_once(at)                                      slow_load(at)
#define syscall(number, word, op, value, time, word2, arg) slow_syscall(number, word, op, value)
#include "kernels/cpu/cpu_threads.c"

static void take_all(void *arg, int thread_i)
{
    (void)thread_i;
    while (cpu_work_next(arg, 1) < 8)
        for (volatile int spin = 0; spin < 200; spin = spin + 1)
            ;
}

TEST(no_helper_sleeps_through_its_wake)
{
    uint64_t seed = harness_seed();
    for (int round = 0; round < 12; round++) {
        struct cpu_threads *pool;
        assert_ok(cpu_threads_open(2 + round % 2, NULL, &pool));
        for (int i = 0; i < 300; i++) {
            int next = 0;
            cpu_threads_run(pool, take_all, &next);
            uint64_t until =
                clock_ns() + harness_rand(&seed) % 90000; /* near the spin time's end */
            while (clock_ns() < until)
                cpu_relax();
        }
        cpu_threads_close(pool); /* joins: for ever, if one was missed */
    }
}
