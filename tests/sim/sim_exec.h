/*
 * daemon/exec/executor.h in a simulated world: a device with a fake model (fake_executor.h) for
 * each of its models, that takes its time and has the faults of one.
 */
#ifndef RINGLET_TESTS_SIM_EXEC_H
#define RINGLET_TESTS_SIM_EXEC_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/sched/sched.h"

struct executor;
struct fake_executor;
struct wake;

/* What may go wrong and how long things take. */
struct exec_faults {
    uint32_t fail;    /* per thousand steps: the device fails for good */
    uint32_t bad;     /* per thousand: one draw is not finite */
    uint32_t oom;     /* per thousand: the device has no memory for this step, and goes on */
    uint32_t hang;    /* per ten thousand: it never comes back */
    uint64_t step_ns; /* a step takes up to this long */
    uint64_t watchdog_ns;
};

struct executor *exec_open(const struct exec_faults *faults, struct wake *wake);
void exec_add(struct executor *ex, struct fake_executor *fake, struct sched *sched);
void exec_close(struct executor *ex);

/* When the next step will be back, UINT64_MAX: none runs. */
uint64_t exec_next_ns(const struct executor *ex);
/* Bring back what is due; true: something was. From outside of all tasks. */
bool exec_turn(struct executor *ex);
/* Something failed, or was drawn badly, so that answers may say so. */
bool exec_failed(const struct executor *ex);
/* A failed step came back to the loop. */
bool exec_told(const struct executor *ex);
bool exec_drew_badly(const struct executor *ex);
void exec_calm(struct executor *ex);

/* The fake sequence that the truth of a client's request is computed with. */
enum { EXEC_TRUTH_SEQUENCE = 4095 };

#endif
