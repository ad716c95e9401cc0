/*
 * Which CPUs the loop and the executor run on, where that decides what a hand-over costs. The
 * kernel tends to leave a thread on the CPU of whoever wakes it, though another one idles (on a
 * virtual machine a halted CPU looks taken), and tiny pauses give its balancer nothing to mend:
 *
 *   loop on a polling client's CPU   each works only while the other sleeps: the loop polls its
 *                                    budget in vain, sleeps, and is rung at once
 *   executor on a polling client's   (two CPUs) a step wakes the loop on a halted CPU
 *   executor on a polling loop's     (more) the loop polls in vain for what cannot run
 *
 * All of them show as brief sleeps in a row. Then a thread is moved: the loop to any other CPU; the
 * executor beside the loop if there are two CPUs, away from it if there are more. It stays there
 * for a while, since the next wake-up would bring it back; when it is let go and comes back at
 * once, the while doubles. Loop thread.
 */
#ifndef RINGLET_PLACEMENT_H
#define RINGLET_PLACEMENT_H

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>

struct executor;

enum {
    PLACEMENT_ROW = 16,               /* brief sleeps that lead to a move */
    PLACEMENT_BELL_BRIEF_NS = 10000,  /* less than a halted CPU takes to wake */
    PLACEMENT_STEP_BRIEF_NS = 100000, /* a step so short is no computing */
};

enum placement_move { PLACEMENT_STAY, PLACEMENT_LOOP, PLACEMENT_EXECUTOR };

struct placement {
    uint32_t n_core;         /* 0, 1: nothing is ever moved */
    uint32_t n_bell, n_step; /* brief sleeps in a row: with nothing in flight, with a step */
    uint64_t moved_ns, hold_ns, free_ns; /* the last move; how long it holds; until when */
    bool placed;                         /* threads are kept from going where they like */
    cpu_set_t all, loop; /* what the process may use; what the loop was restricted to */
};

/*
 * The loop slept, after its budget if it has one. What is to be moved? Pure.
 *
 *   in_flight   a step was; it ended the sleep
 */
enum placement_move placement_slept(struct placement *p, bool in_flight, uint64_t slept_ns,
                                    uint64_t now_ns);

/* Move it. */
void placement_do(struct placement *p, enum placement_move move, struct executor *const *executor,
                  uint32_t n_executor);

/* Now and then: threads that were moved may go where they like again when their while is over. */
void placement_turn(struct placement *p, uint64_t now_ns, struct executor *const *executor,
                    uint32_t n_executor);

/* A step took so long: if that is computing, they may at once. */
void placement_step(struct placement *p, uint64_t step_ns, struct executor *const *executor,
                    uint32_t n_executor);

#endif
