/*
 * Owns the executor thread and its two queues. The loop's half is submit, collect and the counts of
 * steps in flight; the rest belongs to the thread once it runs.
 *
 *   loop --in--> [turns: wait, by model] --> [flights: on the device, in order] --out--> loop
 *
 * Models share the device by time: the one that had least of it goes next.
 */
#include "daemon/exec/executor.h"

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/atomics.h"
#include "base/bits.h"
#include "daemon/base/arena.h"
#include "daemon/base/clock.h"
#include "daemon/base/spsc.h"
#include "daemon/base/trace.h"
#include "daemon/base/watch.h"
#include "daemon/exec/exec_model.h"
#include "daemon/exec/turns.h"

enum {
    IN_FLIGHT_MAX = EXECUTOR_STEPS_MAX * EXECUTOR_MODELS_MAX,
    ARENA_BYTES = 1 << 16,
};

static const uint64_t watchdog_default_ns = 60 * NS_PER_S, fault_poll_ns = NS_PER_MS;

/* A launched step, oldest first in the ring below. */
struct flight {
    struct exec_model *em;
    struct exec_slot *slot;
    struct step *failed; /* it was never launched, and waits for those before it; else NULL */
    uint64_t launched_ns;
};

struct executor {
    const struct backend *backend;
    struct device *dev;
    uint64_t spin_ns, watchdog_ns, open_ns;
    struct arena *arena;
    struct exec_model models[EXECUTOR_MODELS_MAX];

    struct spsc in, out;
    struct executor_wake wake;
    pthread_t thread;
    bool started, pinned; /* pinned: to the CPUs of the configuration */
    int in_flight, model_in_flight[EXECUTOR_MODELS_MAX]; /* the loop's, as is the next */
    struct watch busy_watch;

    struct turns turns; /* the thread's, as are the flights */
    struct flight flights[EXECUTOR_STEPS_MAX];
    uint32_t flight_first, flight_end;
    uint64_t asked_ns;  /* when the device was last asked for a fault */
    struct watch watch; /* of the oldest flight */
    uint64_t landed_ns; /* when the device ended its latest step */

    /* Shared words */
    aligned_to(CACHE_LINE_PAIR) uint32_t wait; /* 1: the thread sleeps or is about to */
    uint32_t stopping;
    aligned_to(CACHE_LINE_PAIR) uint64_t busy_since_ns; /* launch of the oldest flight; 0 = none */
    uint32_t faulted;
    char fault[256];
};

int executor_open(const struct executor_config *config, struct executor **ret,
                  struct format_error *err)
{
    char why[256] = "";
    void *memory;
    if (posix_memalign(&memory, CACHE_LINE_PAIR, sizeof(struct executor)) != 0)
        return -ENOMEM;
    struct executor *ex = memory;
    memset(ex, 0, sizeof(*ex));
    ex->spin_ns = config->spin_ns;
    ex->pinned = config->cpus != NULL;
    ex->watchdog_ns = config->watchdog_ns ? config->watchdog_ns : watchdog_default_ns;
    const struct device_options options = { config->device_index, config->n_thread, config->cpus };

    uint64_t start_ns = clock_now_ns();
    int rc = 0;
    ex->backend = config->table;
    if (!ex->backend)
        rc = backend_find(config->backend, &ex->backend, why, sizeof(why));
    if (rc == 0)
        rc = ex->backend->device->open(&options, &ex->dev, why, sizeof(why));
    ex->open_ns = clock_now_ns() - start_ns;
    if (rc < 0)
        format_fail(err, rc, "device %s: %s", config->backend, why[0] ? why : strerror(-rc));
    if (rc == 0)
        rc = arena_create(ARENA_BYTES, &ex->arena);
    if (rc == 0)
        rc = spsc_init(&ex->in, ex->arena, IN_FLIGHT_MAX);
    if (rc == 0)
        rc = spsc_init(&ex->out, ex->arena, IN_FLIGHT_MAX);
    if (rc < 0) {
        executor_close(ex);
        return rc;
    }
    *ret = ex;
    return 0;
}

static void executor_describe(const struct executor *ex, char *dst, size_t bytes)
{
    struct device_info info;
    ex->backend->device->info(ex->dev, &info);
    snprintf(dst, bytes, "%.15s %.47s", ex->backend->name,
             info.features[0] ? info.features : info.name);
}

int executor_load_weights(struct executor *ex, int model_i, const struct executor_load *load,
                          struct format_error *err)
{
    assert(!ex->started && model_i >= 0 && model_i < EXECUTOR_MODELS_MAX);
    struct exec_model *em = &ex->models[model_i];
    assert(!em->model);
    return exec_model_load_weights(em, ex->backend, ex->dev, load, err);
}

int executor_load_kv(struct executor *ex, int model_i, const struct executor_load *load,
                     struct executor_model *ret, struct format_error *err)
{
    assert(!ex->started && model_i >= 0 && model_i < EXECUTOR_MODELS_MAX);
    struct exec_model *em = &ex->models[model_i];
    assert(em->model && !em->kv_pool);
    int rc = exec_model_load_kv(em, load, err);
    if (rc < 0)
        return rc;
    executor_describe(ex, em->info.device, sizeof(em->info.device));
    *ret = em->info;
    return 0;
}

/* Hand a step back to the loop and ring it if it may sleep. */
static void executor_give(struct executor *ex, struct step *step)
{
    step->ended_ns = clock_now_ns();
    if (trace_on())
        trace_put(
            &(struct trace_event){ .at_ns = step->started_ns,
                                   .end_ns = step->ended_ns,
                                   .step = step->number,
                                   .rows = (uint32_t)step->n_row,
                                   .seqs = (uint32_t)step->n_seq,
                                   .tokens = (uint32_t)step->n_sample,
                                   .launch_ns = (uint32_t)(step->launched_ns - step->started_ns),
                                   .kind = TRACE_EXECUTED,
                                   .model = (uint8_t)step->model,
                                   .status = (int16_t)step->status });
    bool pushed = spsc_push(&ex->out, step);
    assert(pushed); /* as many places as steps in flight */
    if (ex->wake.eventfd < 0 || !ex->wake.loop_wait)
        return;
    full_fence(); /* the push before the look at the wait word; pairs with wake_announce */
    if (load_once(ex->wake.loop_wait) & 1) {
        uint64_t one = 1;
        ssize_t n = write(ex->wake.eventfd, &one, sizeof(one));
        (void)n; /* full: the loop is rung already */
    }
}

static void executor_fail(struct executor *ex, const char *why)
{
    if (ex->faulted)
        return;
    snprintf(ex->fault, sizeof(ex->fault), "%s", why);
    store_release(&ex->faulted, 1); /* pairs with load_acquire in executor_fault */
}

static uint32_t executor_flying(const struct executor *ex)
{
    return ex->flight_end - ex->flight_first;
}

static void executor_take(struct executor *ex, struct step *step)
{
    struct exec_model *em = &ex->models[step->model];
    step->started_ns = clock_now_ns();
    struct flight f = { .em = em, .launched_ns = step->started_ns };
    if (executor_flying(ex) == 0)
        store_release(&ex->busy_since_ns, step->started_ns); /* pairs with executor_stuck */
    int rc = ex->faulted ? -EIO : exec_model_launch(em, step);
    step->launched_ns = clock_now_ns();
    if (rc == 0) {
        f.slot = &em->slots[(em->n_launched - 1) % EXECUTOR_STEPS_MAX];
    } else {
        const char *fault = ex->backend->device->error(ex->dev);
        if (rc == -EIO)
            executor_fail(ex, fault ? fault : "the device failed to run a step");
        step->status = rc;
        f.failed = step;
    }
    ex->flights[ex->flight_end++ % EXECUTOR_STEPS_MAX] = f;
}

/* While a flight has not landed: is the device lost? It is asked once in a while only. */
static bool executor_lost(struct executor *ex)
{
    uint64_t now_ns = clock_now_ns();
    if (ex->faulted)
        return true;
    if (now_ns < ex->asked_ns + fault_poll_ns)
        return false;
    ex->asked_ns = now_ns;
    const char *fault = ex->backend->device->error(ex->dev);
    if (fault)
        executor_fail(ex, fault);
    else if (watch_look(&ex->watch, ex->flight_first, now_ns) > ex->watchdog_ns)
        executor_fail(ex, "a step took longer than the watchdog allows");
    return ex->faulted;
}

/* Give back the oldest flight if it has landed, or if the device is lost. */
static bool executor_land(struct executor *ex)
{
    if (executor_flying(ex) == 0)
        return false;
    struct flight *f = &ex->flights[ex->flight_first % EXECUTOR_STEPS_MAX];
    struct step *step = f->failed;
    if (!step) {
        if (!exec_model_done(f->slot) && !executor_lost(ex))
            return false;
        step = exec_model_finish(f->slot);
        if (ex->faulted) /* nothing that came from a device with a fault is believed */
            step->status = -EIO;
    }
    uint64_t now_ns = clock_now_ns();
    turns_charge(&ex->turns, step->model, now_ns - max_of(f->launched_ns, ex->landed_ns));
    ex->landed_ns = now_ns;
    ex->flight_first++;
    const struct flight *next = &ex->flights[ex->flight_first % EXECUTOR_STEPS_MAX];
    /* pairs with executor_stuck */
    store_release(&ex->busy_since_ns, executor_flying(ex) ? next->launched_ns : 0);
    executor_give(ex, step);
    return true;
}

static void futex_call(uint32_t *word, int op, uint32_t value)
{
    syscall(SYS_futex, word, op, value, NULL, NULL, 0); /* spurious returns are looked at again */
}

/* Nothing to do: poll for the budget, then sleep until executor_submit or executor_stop rings. */
static void executor_idle(struct executor *ex)
{
    uint64_t until_ns = ex->spin_ns ? clock_now_ns() + ex->spin_ns : 0;
    if (until_ns < ex->spin_ns)
        until_ns = NS_NEVER;
    while (ex->spin_ns) { /* without a budget the loop waits for this core, maybe */
        for (int i = 0; i < 64; i++) {
            if (spsc_peek(&ex->in) || load_acquire(&ex->stopping)) /* pairs with executor_stop */
                return;
            cpu_relax();
        }
        if (clock_now_ns() >= until_ns)
            break;
    }

    store_once(&ex->wait, 1);
    full_fence(); /* the wait word before the last look; pairs with executor_ring */
    if (!spsc_peek(&ex->in) && !load_acquire(&ex->stopping))
        futex_call(&ex->wait, FUTEX_WAIT_PRIVATE, 1);
    store_once(&ex->wait, 0);
}

static void executor_ring(struct executor *ex)
{
    full_fence(); /* the push before the look at the wait word; pairs with executor_idle */
    if (load_once(&ex->wait)) {
        store_once(&ex->wait, 0); /* or the thread could sleep after this wake */
        futex_call(&ex->wait, FUTEX_WAKE_PRIVATE, 1);
    }
}

static void *executor_main(void *arg)
{
    struct executor *ex = arg;
    trace_attach();
    if (ex->backend->device->adopt)
        ex->backend->device->adopt(ex->dev);
    for (;;) {
        struct step *step;
        while ((step = spsc_pop(&ex->in)))
            turns_add(&ex->turns, step);
        step = executor_flying(ex) < EXECUTOR_STEPS_MAX ? turns_take(&ex->turns) : NULL;
        if (step)
            executor_take(ex, step);
        bool landed = executor_land(ex);
        if (step || landed)
            continue;
        if (executor_flying(ex) > 0) {
            cpu_relax();
            continue;
        }
        if (load_acquire(&ex->stopping)) /* pairs with executor_stop */
            return NULL;
        executor_idle(ex);
    }
}

int executor_start(struct executor *ex, const struct executor_wake *wake)
{
    assert(!ex->started);
    ex->wake = *wake;
    int rc = pthread_create(&ex->thread, NULL, executor_main, ex);
    if (rc != 0)
        return -rc;
    pthread_setname_np(ex->thread, "executor");
    ex->started = true;
    return 0;
}

void executor_place(struct executor *ex, const cpu_set_t *cpus)
{
    if (ex->started && !ex->pinned)
        (void)pthread_setaffinity_np(ex->thread, sizeof(*cpus), cpus); /* else it stays */
}

int executor_submit(struct executor *ex, struct step *step)
{
    assert(step->model >= 0 && step->model < EXECUTOR_MODELS_MAX && ex->models[step->model].model);
    if (ex->model_in_flight[step->model] == EXECUTOR_STEPS_MAX)
        return -EAGAIN;
    bool pushed = spsc_push(&ex->in, step);
    assert(pushed);
    ex->in_flight++;
    ex->model_in_flight[step->model]++;
    executor_ring(ex);
    return 0;
}

struct step *executor_collect(struct executor *ex)
{
    struct step *step = spsc_pop(&ex->out);
    if (step) {
        ex->in_flight--;
        ex->model_in_flight[step->model]--;
    }
    return step;
}

bool executor_ready(const struct executor *ex)
{
    return spsc_peek(&ex->out) != NULL;
}

uint64_t executor_open_ns(const struct executor *ex)
{
    return ex->open_ns;
}

int executor_in_flight(const struct executor *ex)
{
    return ex->in_flight;
}

const char *executor_fault(const struct executor *ex)
{
    return load_acquire(&ex->faulted) ? ex->fault : NULL; /* pairs with executor_fail */
}

bool executor_stuck(struct executor *ex, uint64_t now_ns)
{
    uint64_t since_ns = load_acquire(&ex->busy_since_ns); /* pairs with executor_take */
    uint64_t waited_ns = watch_look(&ex->busy_watch, since_ns, now_ns);
    return since_ns != 0 && waited_ns > ex->watchdog_ns;
}

void executor_stop(struct executor *ex)
{
    if (!ex->started)
        return;
    store_release(&ex->stopping, 1); /* pairs with executor_main, executor_idle */
    executor_ring(ex);
    pthread_join(ex->thread, NULL);
    ex->started = false;
}

void executor_close(struct executor *ex)
{
    if (!ex)
        return;
    executor_stop(ex);
    for (int i = 0; i < EXECUTOR_MODELS_MAX; i++)
        if (ex->models[i].model)
            exec_model_close(&ex->models[i]);
    if (ex->dev)
        ex->backend->device->close(ex->dev);
    arena_free(ex->arena);
    free(ex);
}
