/* A scheduler on a bench: the simulation's fake executor, a clock by hand, requests in one line. */
#ifndef RINGLET_TESTS_SCHED_BED_H
#define RINGLET_TESTS_SCHED_BED_H

#include "daemon/request/request.h"
#include "daemon/sched/sched.h"
#include "daemon/step/step.h"
#include "tests/harness/harness.h"
#include "tests/sim/fake_executor.h"

enum { BED_EOS = 0, BED_REQUESTS = 2048, BED_TOKENS = 1024 };

struct bed {
    struct arena *arena;
    struct payload_pool *payload;
    struct request_pool *requests;
    struct sched *sched;
    struct sched_config config;
    struct fake_executor *fake;
    struct step step[2];
    struct step *flight[2]; /* planned, not committed */
    int n_flight;
    uint64_t now, row_ns; /* a step takes row_ns x rows; 0 = no time is told */
    uint64_t swap_ns;     /* and this for each block that moves between device and host */
    uint32_t n_released;
    bool comes;                 /* others will give payload back */
    int32_t stream[BED_TOKENS]; /* random ids, none of them EOS */
};

/* Defaults: pool of 64 blocks, batch 8, 64 rows, context 256, cache on. Change, then bed_open. */
void bed_init(struct bed *bed);
void bed_open(struct bed *bed);
/* Also asserts that nothing is left: blocks, payload, requests. */
void bed_close(struct bed *bed);

/*
 * A request for stream[from .. from + n_prompt), ignoring EOS; change it, then bed_submit. Its
 * prompt can be any other array too.
 */
struct request *bed_request(struct bed *bed, uint32_t from, uint32_t n_prompt, uint32_t max_tokens);
struct request *bed_fork(struct bed *bed, uint32_t from, uint32_t n_prompt, uint32_t max_tokens,
                         uint32_t n);
void bed_submit(struct bed *bed, struct request *request);

/* Plan and run one step; returns it, or NULL when there was nothing to do. */
struct step *bed_plan(struct bed *bed);
/* Commit the oldest; what sched_commit returned. */
bool bed_commit(struct bed *bed);
/* Plan and commit until nothing is left to do. */
void bed_run(struct bed *bed);

/* Every token that the request has so far is the true one. */
void bed_check(struct bed *bed, const struct request *request);
/* Empty the outbox of a request and forget it. */
void bed_forget(struct bed *bed, struct request *request);

#endif
