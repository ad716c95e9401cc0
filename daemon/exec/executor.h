/*
 * One executor per device: a thread that owns the device, its models, their KV pools and the
 * sampler. The loop hands it steps and takes results; the two meet in two SPSC queues only.
 *
 *   start-up   executor_open -> executor_load_weights, each model -> executor_load_kv, each
 *              -> executor_start
 *   loop       executor_submit (at most EXECUTOR_STEPS_MAX of a model in flight), executor_collect
 *   shutdown   executor_stop -> executor_close
 *
 * Steps of one model run in submission order, and come back in that order. After a device fault
 * every step comes back with status -EIO and draws nothing. An idle executor spins for its budget,
 * then sleeps on a futex.
 */
#ifndef RINGLET_EXEC_EXECUTOR_H
#define RINGLET_EXEC_EXECUTOR_H

#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/model/model.h" /* struct format_error too */
#include "daemon/step/step.h"

struct executor;
struct step;

enum {
    EXECUTOR_STEPS_MAX = 2, /* in flight, per model */
    EXECUTOR_MODELS_MAX = 8,
};

struct executor_config {
    const char *backend; /* "cpu" or "cuda" */
    int device_index;
    int n_thread;         /* CPU: pool threads, the executor's own included; 0 = one per core */
    const char *cpus;     /* CPU: list to pin to, or NULL */
    uint64_t spin_ns;     /* idle: poll this long before sleeping; UINT64_MAX = for ever */
    uint64_t watchdog_ns; /* a step that takes longer is a device fault; 0 = 60 s */
    const struct backend *table; /* instead of looking `backend` up (fault injection); else NULL */
};

/*
 * Open the backend and its device. First thing at start, so that a missing GPU fails at once.
 * Returns: 0; -ENOENT, -ENOEXEC no such backend; -ENODEV no such device; -ENOMEM. err says why.
 * Thread:  start-up.
 */
int executor_open(const struct executor_config *config, struct executor **ret,
                  struct format_error *err);

struct executor_load {
    const char *name; /* as configured, or NULL: the model's own */
    struct model_source source;
    int batch_max;       /* sequences of a step */
    int rows_max;        /* token budget of a step; >= batch_max */
    int samples_max;     /* logits rows of a step; >= batch_max */
    int lists_max;       /* bias and ban entries of a step; 0 = 320 per sequence, 2048 at least */
    int context;         /* tokens of one sequence; 0 = the model's, at most 8192 */
    const char *kv_type; /* "auto", "f32", "f16", "bf16", "q8_0"; NULL = auto */
    uint64_t kv_bytes;   /* KV pool; 0 = auto: what batch_max sequences can use, bounded by
                            a share of the free memory (CPU: a quarter, and 1 GiB or one
                            context; CUDA: nine tenths; divided by models_left) */
    uint64_t host_kv_bytes;     /* swap pool in host memory; 0 = none */
    int models_left;            /* models still to load on this device, this one included; >= 1 */
    model_progress_fn progress; /* may be NULL */
    void *progress_arg;
};

/* What came of it: for the model table, sched_config and step_init. */
struct executor_model {
    struct model_info info;
    int context;      /* effective */
    enum dtype dtype; /* that the model is computed in */
    enum dtype kv_dtype;
    int64_t kv_block_bytes; /* 16 tokens, all layers, K and V */
    int kv_blocks, kv_host_blocks;
    uint64_t kv_pool_bytes, scratch_bytes;
    uint64_t memory_free, memory_total; /* of the device, when all was taken */
    /* How long it took: all of it, and of that the weights, the first pass and the graphs. */
    uint64_t load_ns, weights_ns, warm_ns, capture_ns;
    int n_graph;
    struct step_limits limits; /* what a step of this model may hold: give it to step_init */
    char device[64];           /* "cpu avx512-vnni, 2 threads" */
};

/*
 * Load a model's weights and take its buffers: first of all models, since their KV pools share what
 * the weights leave.
 *
 *   model_i   0 .. EXECUTOR_MODELS_MAX - 1, as in step->model
 *   err       file, tensor or key, expected and actual; memory sums when it does not fit
 *
 * Returns: 0; as model_open and model_load; -ENOMEM it does not fit; -EINVAL a limit is absurd.
 * Thread:  start-up, before executor_start.
 */
int executor_load_weights(struct executor *ex, int model_i, const struct executor_load *load,
                          struct format_error *err);

/*
 * Take its KV pool, run one small pass to warm up and, where graphs are captured, long prompts of
 * padding; capture graphs.
 *
 *   load   as it was
 *
 * Returns: 0; -ENOMEM it does not fit; -ENOTSUP no kernel for a shape; -EIO device fault.
 * Thread:  start-up, after executor_load_weights of all models.
 */
int executor_load_kv(struct executor *ex, int model_i, const struct executor_load *load,
                     struct executor_model *ret, struct format_error *err);

/*
 * How the executor rings a loop that may sleep: after pushing a result it makes a full fence and,
 * if *loop_wait is odd, writes 1 to eventfd. The loop makes the word odd, makes a full fence, looks
 * at executor_collect once more, then blocks; awake again it makes it even.
 */
struct executor_wake {
    const uint32_t *loop_wait;
    int eventfd; /* -1: never rung, the loop polls */
};

/* Start the thread. Returns: 0, -errno. Thread: start-up. */
int executor_start(struct executor *ex, const struct executor_wake *wake);

/*
 * Let its thread run on these CPUs only; of no effect where the configuration pins it, or on a set
 * that the kernel refuses. Thread: loop.
 */
void executor_place(struct executor *ex, const cpu_set_t *cpus);

/*
 * Hand over a step. It belongs to the executor until executor_collect returns it.
 * Returns: 0; -EAGAIN EXECUTOR_STEPS_MAX steps of all loaded models are in flight.
 * Thread:  loop. No system call unless the executor sleeps (then one futex wake).
 */
int executor_submit(struct executor *ex, struct step *step);

/* The next finished step, or NULL. step->status tells how it went. Thread: loop. */
struct step *executor_collect(struct executor *ex);

/* Would executor_collect return a step? Looks, takes nothing. Thread: loop. */
bool executor_ready(const struct executor *ex);

/* How long opening the device took. Any thread. */
uint64_t executor_open_ns(const struct executor *ex);

/* Steps submitted and not collected. Thread: loop. */
int executor_in_flight(const struct executor *ex);

/* The device's sticky fault in words, or NULL; steps come back with -EIO then. Any thread. */
const char *executor_fault(const struct executor *ex);

/*
 * Is a step over its watchdog time without the executor noticing (the thread itself hangs in the
 * backend)? Then only a new process helps. Time in which nobody asked does not count (watch.h).
 * Thread: loop, on a timer.
 */
bool executor_stuck(struct executor *ex, uint64_t now_ns);

/* Finish the steps in flight, end the thread. Collect what is left afterwards. Idempotent. */
void executor_stop(struct executor *ex);

/* Stops if need be; frees models and device. NULL is fine. */
void executor_close(struct executor *ex);

#endif
