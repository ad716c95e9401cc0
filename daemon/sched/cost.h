/*
 * How long a step takes, learned from the steps that ran: fixed part + rows x a + KV tokens read x b.
 * Exponentially forgotten least squares, three unknowns, a few dozen operations per step. Pure.
 */
#ifndef RINGLET_SCHED_COST_H
#define RINGLET_SCHED_COST_H

#include <stdint.h>

enum { COST_TERMS = 3 };

struct cost_model {
    double xx[COST_TERMS][COST_TERMS], xy[COST_TERMS]; /* sums, scaled; newest weigh most */
    double term[COST_TERMS];                           /* ns: per step, per row, per 1024 KV tokens */
    uint64_t n_step;
};

/* A step of so many rows that read so many KV tokens took this long. */
void cost_learn(struct cost_model *cost, uint32_t n_row, uint64_t n_kv_token, uint64_t ns);

/* Predicted time; 0 until something was learned. */
uint64_t cost_predict(const struct cost_model *cost, uint32_t n_row, uint64_t n_kv_token);

#endif
