/*
 * Captured graphs of whole steps, from the plan's way in to the result's way out: one per padded
 * batch size, bound of the context, plan slot, and with or without the sampler. A step of single
 * rows, or a small one of any rows (a short prompt, say), is padded to the next size and replayed
 * by one call. Backends without graphs have none of this. Private to daemon/exec.
 *
 * Launching a graph takes a time that grows with its kernels, and nothing runs before it has ended.
 * Behind another step that is hidden. For an idle device small steps are there in two parts: the
 * first layers run while the rest is being launched.
 */
#ifndef RINGLET_EXEC_GRAPHS_H
#define RINGLET_EXEC_GRAPHS_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/exec/executor.h"
#include "daemon/exec/plan.h"

struct exec_model;
struct graph;
struct step;

enum { GRAPHS_MAX = 64 };

struct captured {
    struct graph *graph[EXECUTOR_STEPS_MAX]; /* by slot */
    int rows;                                /* of the padded batch */
    int kv_tokens_max;                       /* no sequence is longer */
    bool any_rows;                           /* sequences may have several rows of it */
    bool samples;                            /* sampling and delivery are inside */
    struct graph *head[EXECUTOR_STEPS_MAX], *tail[EXECUTOR_STEPS_MAX]; /* the same in two parts */
};

struct graphs {
    struct captured captured[GRAPHS_MAX];
    int n, n_graph;
    uint64_t capture_ns, replays, eager; /* how long it took; steps by way */
};

/*
 * Capture all sizes up to the model's limits. Start-up, when everything else of em stands.
 * Returns: 0, also without graphs; -EIO device fault; -ENOMEM.
 */
int graphs_capture(struct exec_model *em);
void graphs_close(struct exec_model *em);

/* The graph that this step can be replayed by, or NULL: then it runs op by op. */
const struct captured *graphs_pick(const struct exec_model *em, const struct step *step);

/* Replay it with that slot's plan. Returns: 0; -EIO device fault. */
int graphs_launch(struct exec_model *em, const struct captured *c, int slot_i);

/* Counts of the padded step, for plan_layout and plan_pack. */
void graphs_plan_limits(const struct captured *c, const struct step *step, struct plan_limits *ret);

#endif
