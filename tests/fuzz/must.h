/* A fuzz target's promise: a broken one is told and ends the program, as a crash does. */
#ifndef RINGLET_TESTS_FUZZ_MUST_H
#define RINGLET_TESTS_FUZZ_MUST_H

#include <stdio.h>
#include <stdlib.h>

#define MUST(cond)                                                                                 \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "broken promise: %s\n", #cond);                                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif
