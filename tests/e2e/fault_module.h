/*
 * A ringlet_cuda.so for tests: the CPU behind the fault-injecting layer. What it is to do wrong
 * stands in a file that the test maps as well, named by RINGLET_FAULT_CONTROL.
 */
#ifndef RINGLET_TESTS_FAULT_MODULE_H
#define RINGLET_TESTS_FAULT_MODULE_H

#include "tests/daemon/exec/fault_device.h"

/* The machine that it says it runs on; driver 0: a good one. */
struct fault_machine {
    int32_t driver, n_gpu, compute;
    uint32_t has_code;
    char name[48];
};

struct fault_control {
    struct fault_machine machine;
    struct fault_plan at_load; /* armed when the module is loaded */
    struct fault_plan plan;    /* armed when serial changes */
    uint32_t serial, armed;    /* the module tells the serial that it has armed */
    int32_t calls;             /* so far, after the latest load */
    uint32_t abi_beyond;       /* how much newer than this program the module is */
};

#endif
