/*
 * Tasks of a simulation: each has a stack of its own and runs until it yields, in one thread. The
 * daemon is one, each client another; who goes on is the seed's choice.
 */
#ifndef RINGLET_TESTS_SIM_TASK_H
#define RINGLET_TESTS_SIM_TASK_H

#include <stdbool.h>
#include <stdint.h>

enum { TASKS_MAX = 96 };

/* Begin a task: fn runs from the first task_run on. A task that is left half-way is forgotten. */
void task_start(int task_i, void (*fn)(void *arg), void *arg);
/* Let it run until it yields or returns. From outside of all tasks. False: it has returned. */
bool task_run(int task_i);
/* Give way. From inside a task. */
void task_yield(void);
/* Which task runs, -1: none. */
int task_current(void);

#endif
