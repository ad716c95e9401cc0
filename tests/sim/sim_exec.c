/* Steps run when they come back, so whatever the loop changes in between shows. */
#include "tests/sim/sim_exec.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "daemon/base/wake.h"
#include "daemon/exec/executor.h"
#include "daemon/format/format_error.h"
#include "daemon/sched/sched_internal.h"
#include "tests/sim/fake_executor.h"
#include "tests/sim/sim_os.h"

enum { QUEUE = EXECUTOR_STEPS_MAX * EXECUTOR_MODELS_MAX };

struct executor {
    struct exec_faults faults;
    struct wake *wake;
    int n_model;
    struct fake_executor *fake[EXECUTOR_MODELS_MAX];
    struct sched *sched[EXECUTOR_MODELS_MAX];
    struct step *queue[QUEUE], *done[QUEUE];
    uint64_t due_ns[QUEUE];
    uint64_t began_ns;
    int n_queue, n_done;
    bool failed, drew_badly, hangs, told;
};

static struct executor the_executor;

struct executor *exec_open(const struct exec_faults *faults, struct wake *wake)
{
    the_executor = (struct executor){ .faults = *faults, .wake = wake };
    return &the_executor;
}

void exec_add(struct executor *ex, struct fake_executor *fake, struct sched *sched)
{
    ex->fake[ex->n_model] = fake;
    ex->sched[ex->n_model++] = sched;
}

void exec_close(struct executor *ex)
{
    for (int i = 0; i < ex->n_model; i++)
        fake_free(ex->fake[i]);
    ex->n_model = ex->n_queue = ex->n_done = 0;
}

uint64_t exec_next_ns(const struct executor *ex)
{
    return ex->n_queue && !ex->hangs ? ex->due_ns[0] : UINT64_MAX;
}

bool exec_failed(const struct executor *ex)
{
    return ex->failed || ex->hangs;
}

bool exec_told(const struct executor *ex)
{
    return ex->told;
}

bool exec_drew_badly(const struct executor *ex)
{
    return ex->drew_badly;
}

void exec_calm(struct executor *ex)
{
    ex->faults.fail = ex->faults.bad = ex->faults.oom = ex->faults.hang = 0;
}

/*
 * Whose KV this is, as the cache must keep it apart. None of a client whose end the daemon knew of
 * before it planned.
 */
static void look_at_plan(struct executor *ex, const struct step *step)
{
    struct sched *s = ex->sched[step->model];
    for (int i = 0; i < step->n_seq; i++) {
        const struct run *run = &s->run[step->seq_owner[i].seq];
        if (!run->seq)
            continue;
        uint32_t session_id = run->seq->request->session_id;
        if (os_session_over(session_id))
            os_fail("step %llu has rows of session %u, whose client is gone",
                    (unsigned long long)step->number, session_id);
        fake_salt(ex->fake[step->model], step->seq_owner[i].seq,
                  kv_sharing(s, run->seq->request) + 1);
    }
}

static void run(struct executor *ex, struct step *step)
{
    struct fake_executor *fake = ex->fake[step->model];
    step->status = 0;
    if (prng_below(&os.prng, 1000) < ex->faults.fail)
        ex->failed = true;
    if (ex->failed) {
        step->status = -EIO;
        fake_fail(fake, step);
    } else if (prng_below(&os.prng, 1000) < ex->faults.oom) {
        ex->drew_badly = true;
        step->status = -ENOMEM;
        fake_fail(fake, step);
    } else {
        fake_run(fake, step);
        if (step->n_sample && prng_below(&os.prng, 1000) < ex->faults.bad) {
            struct step_token *bad = &step->result[prng_below(&os.prng, (uint32_t)step->n_sample)];
            *bad = (struct step_token){ .token = -1, .flags = STEP_TOKEN_BAD };
            ex->drew_badly = true;
        }
    }
    if (fake_error(fake))
        os_fail("step %llu: %s", (unsigned long long)step->number, fake_error(fake));
    step->started_ns = ex->began_ns;
    step->ended_ns = os.now_ns;
}

bool exec_turn(struct executor *ex)
{
    if (exec_next_ns(ex) > os.now_ns || ex->n_done == QUEUE)
        return false;
    struct step *step = ex->queue[0];
    run(ex, step);
    os_trace(step->number * 3 + (uint64_t)step->n_row);
    os_say("step %llu of model %d is back: %d rows, status %d\n", (unsigned long long)step->number,
           step->model, step->n_row, step->status);
    ex->n_queue--;
    memmove(ex->queue, ex->queue + 1, (size_t)ex->n_queue * sizeof(ex->queue[0]));
    memmove(ex->due_ns, ex->due_ns + 1, (size_t)ex->n_queue * sizeof(ex->due_ns[0]));
    ex->began_ns = os.now_ns;
    ex->done[ex->n_done++] = step;
    wake_ring(ex->wake);
    return true;
}

/* ---- executor.h ---- */

int executor_submit(struct executor *ex, struct step *step)
{
    if (ex->n_queue + ex->n_done >= EXECUTOR_STEPS_MAX * ex->n_model)
        return -EAGAIN;
    look_at_plan(ex, step);
    if (prng_below(&os.prng, 10000) < ex->faults.hang)
        ex->hangs = true;
    if (ex->n_queue == 0)
        ex->began_ns = os.now_ns;
    uint64_t begin = ex->n_queue ? ex->due_ns[ex->n_queue - 1] : os.now_ns;
    ex->due_ns[ex->n_queue] = begin + 1 + prng_below(&os.prng, (uint32_t)ex->faults.step_ns);
    ex->queue[ex->n_queue++] = step;
    return 0;
}

void executor_place(struct executor *ex, const cpu_set_t *cpus)
{
    (void)ex;
    (void)cpus;
}

struct step *executor_collect(struct executor *ex)
{
    if (ex->n_done == 0)
        return NULL;
    struct step *step = ex->done[0];
    ex->n_done--;
    ex->told |= step->status == -EIO;
    memmove(ex->done, ex->done + 1, (size_t)ex->n_done * sizeof(ex->done[0]));
    return step;
}

bool executor_ready(const struct executor *ex)
{
    return ex->n_done > 0;
}

int executor_in_flight(const struct executor *ex)
{
    return ex->n_queue + ex->n_done;
}

const char *executor_fault(const struct executor *ex)
{
    return ex->failed ? "a simulated fault" : NULL;
}

bool executor_stuck(struct executor *ex, uint64_t now_ns)
{
    return ex->hangs && ex->n_queue && now_ns - ex->began_ns > ex->faults.watchdog_ns;
}

uint64_t executor_open_ns(const struct executor *ex)
{
    (void)ex;
    return 1;
}

/* The world opens the device itself: engine_open is the one part of the engine that is not run. */
int executor_open(const struct executor_config *config, struct executor **ret,
                  struct format_error *err)
{
    (void)config, (void)ret;
    return format_fail(err, -ENODEV, "simulated");
}

int model_check_family(const char *path, const struct gguf *g, struct format_error *err)
{
    (void)path, (void)g;
    return format_fail(err, -ENODEV, "simulated");
}

int executor_load_weights(struct executor *ex, int model_i, const struct executor_load *load,
                          struct format_error *err)
{
    (void)ex, (void)model_i, (void)load;
    return format_fail(err, -ENODEV, "simulated");
}

int executor_load_kv(struct executor *ex, int model_i, const struct executor_load *load,
                     struct executor_model *ret, struct format_error *err)
{
    (void)ex, (void)model_i, (void)load, (void)ret;
    return format_fail(err, -ENODEV, "simulated");
}

void executor_close(struct executor *ex)
{
    if (ex)
        exec_close(ex);
}
