/*
 * A loaded model with all that its steps need on the device: KV pool, plan buffers, logits, sampler
 * state. Executor thread, but for load and close. Private to daemon/exec.
 *
 *   step -> exec_model_launch: plan packed into a slot's pinned block; on the device: moves, the
 *           plan fetched, forward, sample, results delivered to pinned memory, then the signal;
 *           one graph launch where a captured step fits
 *        -> exec_model_done: is the signal there?
 *        -> exec_model_finish: results into the step
 *
 * Plans alternate between two slots, so one step may be prepared while the other runs. The device
 * keeps count of whose turn it is (device.h: device_turn), so the same graph serves both.
 */
#ifndef RINGLET_EXEC_EXEC_MODEL_H
#define RINGLET_EXEC_EXEC_MODEL_H

#include "daemon/exec/executor.h"
#include "daemon/exec/graphs.h"
#include "daemon/exec/plan.h"
#include "kernels/device.h"

/* The host's side of a step in flight: one block of pinned memory, the next slot's behind it. */
struct exec_slot {
    uint8_t *plan;             /* the block; packed as struct plan says */
    struct sample_out *result; /* in it [samples_max] */
    uint32_t *signal;          /* in it */
    uint32_t signal_value;     /* of the step in flight */
    struct step *step;         /* in flight, or NULL */
};

struct exec_model {
    struct model *model;
    const struct kernel_ops *ops;
    const struct device_ops *device;
    struct device *dev;
    struct stream *st;
    struct executor_model info;
    struct plan_limits plan_limits;

    void *kv_pool, *kv_host;
    uint8_t *plan;           /* device memory: the running step's plan */
    size_t plan_bytes;       /* its room, and that of each slot's */
    struct device_turn turn; /* = signal value of the latest step that ended: the next one's slot */
    float *logits;           /* device [samples_max, vocab] */
    uint16_t *counts;        /* device [batch_max, vocab] */
    struct sample_out *out;  /* device [samples_max] */
    int32_t *sampled;        /* device [samples_max]: ids of the latest step, for the next */
    int32_t *ids;            /* host [context + 1]: one sequence's prompt and output */
    int n_sampled;           /* sample rows of the latest step: what the next may refer to */
    struct exec_slot slots[EXECUTOR_STEPS_MAX];
    struct graphs graphs;
    uint32_t n_launched; /* picks the slot and the signal value */
};

/*
 * Load weights into *em, which is zero, and take all but the KV pool; then that, with a pass to
 * warm up and the graphs. On failure of either nothing is left behind. Returns: as
 * executor_load_weights, executor_load_kv.  Thread: start-up.
 */
int exec_model_load_weights(struct exec_model *em, const struct backend *backend,
                            struct device *dev, const struct executor_load *load,
                            struct format_error *err);
int exec_model_load_kv(struct exec_model *em, const struct executor_load *load,
                       struct format_error *err);
void exec_model_close(struct exec_model *em);

/*
 * Enqueue a step. At most EXECUTOR_STEPS_MAX may be launched and not finished.
 * Returns: 0; -EINVAL the plan is outside of its limits (nothing ran); -EIO device fault.
 */
int exec_model_launch(struct exec_model *em, struct step *step);

/* The host's half of a pass; the rest lies in em->plan. */
struct exec_pass {
    int n_row, n_seq, n_decode, n_sample;
    int kv_tokens_max;
    bool deterministic;
    const uint32_t *mask;
};

/*
 * Enqueue the parts of a pass: the plan of the slot whose turn it is into em->plan (device.h:
 * fetch), logits, sampling, results and signal into the slot. For graphs.c.
 */
int exec_model_fetch(struct exec_model *em, size_t bytes_sure, size_t bytes_max);
int exec_model_forward(struct exec_model *em, const struct exec_pass *pass,
                       const struct plan *plan);
int exec_model_sample(struct exec_model *em, const struct exec_pass *pass, const struct plan *plan);
int exec_model_deliver(struct exec_model *em, int n_sample);

/* Has this slot's step ended on the device? */
bool exec_model_done(const struct exec_slot *slot);

/* Move the results into the step; the slot is free again. */
struct step *exec_model_finish(struct exec_slot *slot);

#endif
