/*
 * Drives an executor without a scheduler: single sequences, prefilled in chunks, decoded alone or
 * with the next step planned ahead. For tests and the model bench.
 */
#ifndef RINGLET_TESTS_STEP_RUNNER_H
#define RINGLET_TESTS_STEP_RUNNER_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/exec/executor.h"

struct arena;

struct runner {
    struct executor *ex;
    struct executor_model model;
    struct arena *arena;
    struct step steps[EXECUTOR_STEPS_MAX];
    uint64_t number;
    int chunk;          /* prefill rows of a step; 0 = as many as fit */
    bool deterministic; /* every step asks for batch-invariant kernels */
    int first_block;    /* the sequence's blocks are first_block, first_block + block_step ... */
    int block_step;
    uint64_t prefill_ns, decode_ns; /* of the last runner_generate */
};

/* Open, load as model 0, start. load's limits 0: batch 4, 512 rows, 512 samples. Returns -errno. */
int runner_open(struct runner *r, const char *backend, int n_thread,
                const struct executor_load *load, struct format_error *err);
/* The same with an executor's own config. */
int runner_open_config(struct runner *r, const struct executor_config *config,
                       const struct executor_load *load, struct format_error *err);
void runner_close(struct runner *r);

/* Greedy continuation. ahead: decode with two steps in flight. Returns the first step's error. */
int runner_generate(struct runner *r, const int32_t *prompt, int n_prompt, int n_new, bool ahead,
                    int32_t *ret);

/*
 * Score a text: ret[i] has the log-probability of ids[i + 1] and the 20 best after ids[0 .. i], for
 * i < n - 1; ret[n - 1] the best alone. ret has n entries.
 */
int runner_score(struct runner *r, const int32_t *ids, int n, struct step_token *ret);

/* Let other threads go on for a while. */
void nap_us(int us);

/* An empty step to fill; rows of one sequence at positions [first, first + n). */
struct step *runner_step(struct runner *r);
void runner_add_seq(struct runner *r, struct step *step, const int32_t *ids, int first, int n,
                    int n_prompt);
void runner_add_sample(struct step *step, int row, int position);
/* Submit and wait. Returns step->status. */
int runner_run(struct runner *r, struct step *step);
/* Submit `step` while `first` is in flight, wait for both in order. Returns the second's status. */
int runner_run_pending(struct runner *r, struct step *step, struct step *first);

#endif
