/*
 * Owns the estimate. Terms are kept >= 0 by giving a negative one up (0) and solving for the rest:
 * a model that says more work takes less time would let prefill chunks grow without bound.
 */
#include "daemon/sched/cost.h"

#include <stdbool.h>
#include <string.h>

#include "base/compiler.h"

#define FORGET 0.98 /* weight of the past: about the last 50 steps count */
#define RIDGE  1e-6 /* keeps a term that never varied near zero instead of anywhere */

/* Solve for the terms that are in use by elimination; false: singular. */
static bool solve(const struct cost_model *cost, const bool use[COST_TERMS],
                  double term[COST_TERMS])
{
    double a[COST_TERMS][COST_TERMS + 1];
    for (int row = 0; row < COST_TERMS; row++) {
        for (int col = 0; col < COST_TERMS; col++)
            a[row][col] = use[row] && use[col] ? cost->xx[row][col] : row == col;
        a[row][row] += use[row] ? RIDGE * (1 + cost->xx[row][row]) : 0;
        a[row][COST_TERMS] = use[row] ? cost->xy[row] : 0;
    }
    for (int pivot = 0; pivot < COST_TERMS; pivot++) {
        if (!(a[pivot][pivot] > 1e-12)) /* symmetric, positive but for rounding */
            return false;
        for (int row = 0; row < COST_TERMS; row++) {
            double factor = a[row][pivot] / a[pivot][pivot];
            for (int col = 0; row != pivot && col <= COST_TERMS; col++)
                a[row][col] -= factor * a[pivot][col];
        }
    }
    for (int row = 0; row < COST_TERMS; row++)
        term[row] = a[row][COST_TERMS] / a[row][row];
    return true;
}

void cost_learn(struct cost_model *cost, uint32_t n_row, uint64_t n_kv_token, uint32_t n_swap,
                uint64_t ns)
{
    double x[COST_TERMS] = { 1, n_row, (double)n_kv_token / 1024, n_swap };
    for (int row = 0; row < COST_TERMS; row++) {
        for (int col = 0; col < COST_TERMS; col++)
            cost->xx[row][col] = cost->xx[row][col] * FORGET + x[row] * x[col];
        cost->xy[row] = cost->xy[row] * FORGET + x[row] * (double)ns;
    }
    cost->n_step++;
    bool use[COST_TERMS] = { true, true, true, true };
    for (int tries = 0; tries < COST_TERMS; tries++) {
        double term[COST_TERMS];
        if (!solve(cost, use, term))
            return; /* the terms of before stand */
        int worst = 0;
        for (int term_i = 1; term_i < COST_TERMS; term_i++)
            worst = term[term_i] < term[worst] ? term_i : worst;
        if (term[worst] >= 0) {
            memcpy(cost->term, term, sizeof(term));
            return;
        }
        use[worst] = false;
    }
}

uint64_t cost_predict(const struct cost_model *cost, uint32_t n_row, uint64_t n_kv_token)
{
    double ns = cost->term[0] + cost->term[1] * n_row + cost->term[2] * ((double)n_kv_token / 1024);
    return (uint64_t)max_of(ns, 0.0);
}
