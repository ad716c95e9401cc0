/*
 * Whose step is next: models share a device by time, not by steps. Steps wait here per model, the
 * model that had least of the device goes next. Idleness earns next to no credit. Pure. Private to
 * daemon/exec.
 */
#ifndef RINGLET_EXEC_TURNS_H
#define RINGLET_EXEC_TURNS_H

#include <stdint.h>

#include "daemon/exec/executor.h"

struct turns {
    struct turn {
        struct step *step[EXECUTOR_STEPS_MAX];
        int n;
        uint64_t used_ns; /* of the device's time */
    } model[EXECUTOR_MODELS_MAX];
};

/* Let a step wait; at most EXECUTOR_STEPS_MAX of a model do. */
void turns_add(struct turns *t, struct step *step);

/* Take the next step; NULL = none waits. Steps of one model keep their order. */
struct step *turns_take(struct turns *t);

/* A model had the device for that long. */
void turns_charge(struct turns *t, int model, uint64_t ns);

#endif
