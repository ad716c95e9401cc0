/*
 * How long a step takes, learned from the steps that ran: fixed part + rows x a + KV tokens read x
 * b
 * + swapped blocks x c. Exponentially forgotten least squares, a few hundred operations. Pure.
 */
#ifndef RINGLET_SCHED_COST_H
#define RINGLET_SCHED_COST_H

#include <stdint.h>

enum { COST_TERMS = 4 };

struct cost_model {
    double xx[COST_TERMS][COST_TERMS], xy[COST_TERMS]; /* sums, scaled; newest weigh most */
    double term[COST_TERMS]; /* ns: per step, row, 1024 KV tokens, swapped block */
    uint64_t n_step;
};

/* A step of so many rows that read so many KV tokens, and swapped so many blocks, took this long.
 */
void cost_learn(struct cost_model *cost, uint32_t n_row, uint64_t n_kv_token, uint32_t n_swap,
                uint64_t ns);

/* Predicted time of a step that swaps nothing; 0 until something was learned. */
uint64_t cost_predict(const struct cost_model *cost, uint32_t n_row, uint64_t n_kv_token);

#endif
