/*
 * A backend that wraps another and fails on purpose: the n-th call of its device and op tables
 * gives an error, hangs (its signal never comes), or logits turn into NaN. Counts calls, so that a
 * test can try every one of them. One at a time.
 */
#ifndef RINGLET_TESTS_FAULT_DEVICE_H
#define RINGLET_TESTS_FAULT_DEVICE_H

#include <stdbool.h>

#include "kernels/backend.h"

struct fault_plan {
    int fail_at; /* call number from 1 that fails; 0 = none */
    int fail_rc; /* what it returns: -EIO is sticky, as a real device's; allocations give NULL */
    bool hang;   /* from call fail_at on no signal arrives */
    bool late;   /* call fail_at lets the signal go that a hanging device kept back */
    bool nan_logits; /* logits of the first row of each step become NaN */
};

/* Wraps the backend of that name ("cpu"). Returns NULL when there is none. */
const struct backend *fault_backend(const char *name);
/* Set the plan and restart the count. */
void fault_arm(const struct fault_plan *plan);
int fault_calls(void);
/* Does a hanging device keep a step's signal back? */
bool fault_holds(void);
/* The device is lost now. */
void fault_break(void);

#endif
