/* The file that a test and its daemon's alloc_guard share. */
#ifndef RINGLET_TESTS_ALLOC_GUARD_H
#define RINGLET_TESTS_ALLOC_GUARD_H

#include <stdint.h>

enum { ALLOC_LOOP_AND_EXECUTOR, ALLOC_ENCODER, ALLOC_N_KIND };

struct alloc_guard {
    uint32_t armed;
    uint64_t count[ALLOC_N_KIND];
};

#endif
