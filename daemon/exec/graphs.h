/*
 * Captured graphs of steps. Most are whole, from the plan's way in to the result's way out, so that
 * a step is one launch: one per padded batch size and bound of the context where each sequence has
 * one row; for short prompts, alone or beside others, some of any rows. Steps that sample with
 * lists have graphs of the model's part alone. A step is padded to the next size and replayed.
 * Backends without graphs have none of this. Private to daemon/exec.
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

enum { GRAPHS_MAX = 128, GRAPHS_BOUNDS_MAX = 6 };

struct captured {
    struct graph *whole;   /* or */
    struct graph *forward; /* neither fetch, sampling nor delivery */
    int rows;              /* of the padded batch */
    int n_sample;          /* of them, padded as well */
    int kv_tokens_max;     /* no sequence is longer */
    bool any_rows;         /* a sequence may have several rows, which takes other kernels */
};

struct graphs {
    struct captured captured[GRAPHS_MAX];
    int n;
    uint64_t capture_ns, replays, eager; /* how long it took; steps by way */
};

/*
 * The longest contexts that batches of that many rows have graphs for, ascending; the last is the
 * model's own. Pure.
 *
 *   ret   [GRAPHS_BOUNDS_MAX]
 *
 * Returns: how many.
 */
int graphs_bounds(int rows, int context, int *ret);

/*
 * Run long prompts of padding, so that the first real one waits neither for kernels to be loaded
 * nor for algorithms to be timed. Start-up; nothing where steps are not captured. Returns as below.
 */
int graphs_warm_prompts(struct exec_model *em);

/*
 * Capture all sizes up to the model's limits. Start-up, when everything else of em stands.
 * Returns: 0, also without graphs; -EIO device fault; -ENOMEM.
 */
int graphs_capture(struct exec_model *em);
void graphs_close(struct exec_model *em);

/* The graph that this step can be replayed by, or NULL: then it runs op by op. */
const struct captured *graphs_pick(const struct exec_model *em, const struct step *step);

/* Counts of the padded step, for plan_layout and plan_pack. */
void graphs_plan_limits(const struct captured *c, const struct step *step, struct plan_limits *ret);

#endif
