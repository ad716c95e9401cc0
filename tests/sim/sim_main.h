/* What the simulations' programs have in common: seeds, many seeds, planted bugs. */
#ifndef RINGLET_TESTS_SIM_MAIN_H
#define RINGLET_TESTS_SIM_MAIN_H

#include <stdbool.h>
#include <stdint.h>

struct sim_program {
    const char *name;
    /* One seed's history. Returns the number of events, 0: it failed, and said why. */
    uint64_t (*run_seed)(uint64_t seed, bool verbose, uint64_t *ret_trace);
    int first_bug, last_bug; /* planted in the code that this simulation runs */
    uint32_t planted_seeds;  /* at most, for each of them */
};

int sim_main(const struct sim_program *program, int argc, char **argv);

#endif
