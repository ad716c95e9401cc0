/*
 * One simulated world: a scheduler with a fake executor, a crowd of requests and a record of what
 * each of them must have got. sim_world.c makes worlds and requests, sim_check.c is the publisher
 * that compares, sim_sched.c lets time pass and trouble happen.
 */
#ifndef RINGLET_TESTS_SIM_WORLD_H
#define RINGLET_TESTS_SIM_WORLD_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "base/compiler.h"
#include "daemon/base/payload.h"
#include "daemon/base/prng.h"
#include "daemon/request/request.h"
#include "daemon/sched/sched.h"
#include "daemon/step/step.h"
#include "tests/sim/fake_executor.h"

enum {
    REQUESTS = 48,
    SEQUENCES = 160,
    STREAMS = 6,
    STREAM_TOKENS = 256,
    STOPS = 3,
    BIASES = 4,
    HANDLES = 16
};

struct mirror {
    struct request *request;
    bool live, done, forgotten;
    uint32_t checked[REQUEST_SEQS_MAX];
    uint32_t scored;
    uint64_t admitted_tick;
    int32_t prompt[STREAM_TOKENS];
    int32_t stop[STOPS];
    struct request_bias bias[BIASES];
};

struct handle {
    uint64_t handle;
    uint32_t session_id, uid, n;
    int32_t ids[STREAM_TOKENS];
};

struct world {
    uint64_t seed;
    bool verbose;
    struct prng prng;
    uint64_t now, tick, trace;
    uint64_t n_event;
    struct arena *arena;
    struct payload_pool *payload;
    struct request_pool *requests;
    struct sched *sched;
    struct sched_config config;
    struct fake_executor *fake;
    struct step step[2];
    int n_flight; /* steps that ran and are not committed, oldest first */
    struct step *flight[2];
    struct mirror mirror[REQUESTS];
    int32_t stream[STREAMS][STREAM_TOKENS];
    int32_t eos[2];
    struct handle handle[HANDLES];
    uint32_t n_handle;
    uint32_t n_wanted, n_added, n_released, n_ended;
    /* swarm: how likely each thing is, in percent; 0 in many worlds */
    uint32_t cancel, stall, deadline, fail, lag, forks, scores, penalties, lists, holds, beams;
    uint64_t swap_ns;
    bool faults;
    char error[256];
};

#define fail_world(w, ...)                                                                         \
    do {                                                                                           \
        if (!(w)->error[0])                                                                        \
            snprintf((w)->error, sizeof((w)->error), __VA_ARGS__);                                 \
    } while (0)

/* Record something that happened: the same seed must give the same record. */
static inline void trace(struct world *w, uint64_t what)
{
    w->trace = prng_mix(w->trace ^ what) + 1;
    w->n_event++;
}

static inline struct mirror *mirror_of(struct world *w, const struct request *request)
{
    return &w->mirror[request->pool_index];
}

/* The scheduler's own invariants. */
static inline void check(struct world *w, const char *after)
{
    const char *wrong = sched_check(w->sched);
    if (wrong)
        fail_world(w, "%s, after %s", wrong, after);
}

bool world_open(struct world *w, uint64_t seed, bool verbose);
void world_close(struct world *w);

/* One more request, at random. */
void add_request(struct world *w);
/* The world knows a handle from now on; it is forgotten, by its place. */
void handle_add(struct world *w, const struct request *request, uint64_t handle,
                const int32_t *output, uint32_t n_output);
void handle_forget(struct world *w, uint32_t handle_i);

/* Look at everything in the outbox; forget some of the requests that have ended. */
void publish(struct world *w);
void forget_some(struct world *w, uint32_t percent);

/* What there is, for a person. */
void show(const struct world *w);
void show_step(const struct step *step);

#endif
