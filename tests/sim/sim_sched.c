/*
 * Simulation of scheduler, KV, request and step code under a virtual clock: one seed is one small
 * world (pool, limits, policy, faults: each seed draws its own) and one history. Every token is
 * checked against the true one, the scheduler's invariants after each call. Usage: sim_main.c.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "daemon/base/pool.h"
#include "daemon/sched/sched_internal.h"
#include "tests/sim/sim_main.h"
#include "tests/sim/sim_world.h"

/* Faults. */

static struct request *some_request(struct world *w)
{
    struct mirror *mirror = &w->mirror[prng_below(&w->prng, REQUESTS)];
    return mirror->live && !mirror->done ? mirror->request : NULL;
}

/* A lease whose end nobody has looked for yet stays ended. */
static void renew(struct world *w, const struct handle *handle)
{
    const struct held *held =
        pool_get(w->sched->handles, (uint32_t)handle->handle, (uint32_t)(handle->handle >> 32));
    bool over = held && held->lease && held->expiry.key <= w->now;
    if (sched_handle_renew(w->sched, handle->session_id, handle->handle, 1000, w->now) == 0 && over)
        fail_world(w, "a lease was renewed after its end");
}

static void make_trouble(struct world *w)
{
    struct prng *p = &w->prng;
    struct request *request = some_request(w);
    if (request && prng_chance(p, w->cancel)) {
        trace(w, 1);
        sched_cancel(w->sched, request, RINGLET_REASON_CANCELLED, 0, w->now);
        sched_cancel(w->sched, request, RINGLET_REASON_CANCELLED, 0, w->now);
        check(w, "cancel");
    }
    request = some_request(w);
    if (request && prng_chance(p, w->stall)) {
        trace(w, 2);
        bool stalled = prng_chance(p, 50);
        for (uint32_t seq_i = 0; seq_i < request->n_seq; seq_i++)
            if (prng_chance(p, 80))
                sched_stall(w->sched, request->seq[seq_i], stalled);
        check(w, "stall");
    }
    if (w->n_handle && prng_chance(p, 5)) {
        trace(w, 5);
        uint32_t handle_i = prng_below(p, w->n_handle);
        const struct handle *held = &w->handle[handle_i];
        if (sched_handle_release(w->sched, held->session_id + 1, held->handle) == 0)
            fail_world(w, "another session released this handle");
        if (prng_chance(p, 50)) {
            renew(w, held);
        } else {
            sched_handle_release(w->sched, held->session_id, held->handle);
            if (sched_handle_release(w->sched, held->session_id, held->handle) == 0)
                fail_world(w, "a handle was released twice");
            handle_forget(w, handle_i);
        }
        check(w, "handle");
    }
    request = some_request(w);
    if (request && prng_chance(p, w->cancel) && request->params.beam_width == 0) {
        trace(w, 3);
        sched_finish(w->sched, request->seq[prng_chance(p, 50) ? 0 : prng_below(p, request->n_seq)],
                     RINGLET_REASON_CANCELLED, 0, w->now);
        check(w, "finish");
    }
}

static void calm(struct world *w)
{
    w->faults = false;
    for (int i = 0; i < REQUESTS; i++) {
        struct mirror *mirror = &w->mirror[i];
        for (uint32_t seq_i = 0; mirror->live && !mirror->done && seq_i < mirror->request->n_seq;
             seq_i++)
            sched_stall(w->sched, mirror->request->seq[seq_i], false);
    }
}

/* Steps. */

static void commit_oldest(struct world *w)
{
    struct step *step = w->flight[0];
    w->flight[0] = w->flight[1];
    w->n_flight--;
    sched_commit(w->sched, step, w->now);
    check(w, "commit");
    if (w->verbose)
        printf("commit %llu\n", (unsigned long long)step->number);
}

static bool plan_one(struct world *w)
{
    struct step *step = w->n_flight == 1 && w->flight[0] == &w->step[0] ? &w->step[1] : &w->step[0];
    step_reset(step);
    int n_row = sched_tick(w->sched, w->now, step);
    check(w, "tick");
    trace(w, (uint64_t)n_row);
    if (n_row == 0)
        return false;
    if (w->verbose)
        show_step(step);
    step->started_ns = w->now;
    if (w->faults && prng_chance(&w->prng, w->fail)) {
        trace(w, 4);
        step->status = prng_chance(&w->prng, 50) ? -EIO : -ENOMEM;
        fake_fail(w->fake, step);
    } else {
        fake_run(w->fake, step);
    }
    step->ended_ns = w->now + (uint64_t)step->n_row +
                     w->swap_ns * (uint64_t)(step->n_swap_in + step->n_swap_out);
    if (fake_error(w->fake))
        fail_world(w, "step %llu: %s", (unsigned long long)step->number, fake_error(w->fake));
    w->flight[w->n_flight++] = step;
    return true;
}

static bool world_turn(struct world *w)
{
    struct prng *p = &w->prng;
    w->tick++;
    w->now += prng_between(p, 1, 40);
    bool moved = false;
    if (w->n_flight == 2 || (w->n_flight == 1 && !prng_chance(p, w->lag))) {
        commit_oldest(w);
        publish(w);
        moved = true;
    }
    if (w->faults)
        make_trouble(w);
    sched_expire(w->sched, w->now);
    check(w, "expire");
    if (sched_next_ns(w->sched) <= w->now)
        fail_world(w, "something that is due was not ended");
    if (w->n_flight < 2)
        moved = plan_one(w) || moved;
    publish(w);
    forget_some(w, w->faults ? 50 : 100);
    return moved;
}

static uint64_t tokens_left(const struct world *w)
{
    uint64_t n = 0;
    for (int i = 0; i < REQUESTS; i++) {
        const struct mirror *mirror = &w->mirror[i];
        n += mirror->live ? 400u * mirror->request->n_seq : 0;
    }
    return n;
}

static void world_run(struct world *w)
{
    while (w->n_added < w->n_wanted && !w->error[0]) {
        for (uint32_t burst = prng_below(&w->prng, 4); burst > 0; burst--)
            add_request(w);
        check(w, "add");
        for (uint32_t turn = prng_below(&w->prng, 8); turn > 0 && !w->error[0]; turn--)
            world_turn(w);
    }
    calm(w);
    /* Liveness: every turn that is not idle computes something, and there is only so much to do. */
    uint64_t bound = 3 * tokens_left(w) + 1000;
    while (w->n_released < w->n_added && !w->error[0]) {
        uint32_t n_released = w->n_released;
        struct sched_stats before, after;
        sched_stats(w->sched, &before);
        bool moved = world_turn(w);
        sched_stats(w->sched, &after);
        /* A daemon ticks again only when something happened. */
        if (!moved && n_released == w->n_released && before.handles == after.handles &&
            w->n_flight == 0)
            fail_world(w, "nothing runs, nothing happens, and %u requests are not done",
                       w->n_added - w->n_released);
        if (bound-- == 0)
            fail_world(w, "faults have stopped, and still %u of %u requests are not done",
                       w->n_added - w->n_released, w->n_added);
    }
    while (w->n_flight > 0 && !w->error[0])
        commit_oldest(w);
    for (uint32_t session_id = 0; session_id < 24; session_id++)
        sched_handle_release_all(w->sched, session_id);
    check(w, "release_all");
    struct sched_stats stats;
    sched_stats(w->sched, &stats);
    if (!w->error[0] && (stats.kv_owned || stats.running || stats.queued))
        fail_world(w, "idle, and not empty");
    if (!w->error[0] && payload_used(w->payload))
        fail_world(w, "idle, and payload is out");
}

/* Returns the number of events, 0 on failure (told). */
static uint64_t run_seed(uint64_t seed, bool verbose, uint64_t *ret_trace)
{
    static struct world world;
    if (!world_open(&world, seed, verbose)) {
        fprintf(stderr, "sim_sched: cannot set up seed %llu\n", (unsigned long long)seed);
        exit(2);
    }
    world_run(&world);
    *ret_trace = world.trace;
    if (world.error[0])
        printf("FAILED: %s\n", world.error);
    if (world.error[0] && verbose)
        show(&world);
    uint64_t n_event = world.error[0] ? 0 : max_of(world.n_event, (uint64_t)1);
    world_close(&world);
    return n_event;
}

int main(int argc, char **argv)
{
    static const struct sim_program program = { "sim_sched", run_seed, 1, 81, 20000 };
    return sim_main(&program, argc, argv);
}
