/*
 * Runs a few threads of real code over the words of base/atomics.h in every order that C11 allows.
 * Built with RINGLET_EXPLORE, each access asks here: which thread goes next, and which of the
 * stores that it may still see does a load return. Each run is replayed from a list of such
 * decisions; the next run changes the last one that has an alternative (depth first, to the end).
 * Runs that differ only in the order of steps that have nothing to do with each other are taken
 * once (sleep sets).
 *
 * The memory is that of C11 as views have it: a word's stores in their order, each with what its
 * storer had seen if it was a release; a thread sees no store older than one it has seen. So these
 * are there: x86's reordering (a load is done before an earlier store of its own thread has left
 * the store buffer: the others still see the old value), and what weaker machines add (stale loads,
 * stores out of order). A load that is done after a later store of its own thread is not: scenarios
 * plant that by doing the store first. A full fence is a seq_cst fence.
 *
 * One real thread, coroutines in it. A word has one storing thread.
 */
#ifndef RINGLET_TESTS_EXPLORER_H
#define RINGLET_TESTS_EXPLORER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { EXPLORE_THREADS = 4 };

/* What is wrong on purpose. A place is a range of addresses; NULL is everywhere. */
enum explore_fault_kind {
    EXPLORE_SOUND,
    EXPLORE_NO_FENCE,      /* of thread `thread` */
    EXPLORE_NO_RELEASE,    /* store_release in the place is relaxed */
    EXPLORE_NO_ACQUIRE,    /* load_acquire in the place is relaxed */
    EXPLORE_PUBLISH_FIRST, /* the first word of an entry in the place is stored before the others */
};

struct explore_fault {
    enum explore_fault_kind kind;
    int thread;
    const void *place;
    size_t bytes;
};

struct explore_plan {
    void (*reset)(void);                    /* the words as they are at the start; plain memory */
    void (*threads[EXPLORE_THREADS])(void); /* NULL: fewer */
    void (*check)(void);                    /* after the last thread's end; may be NULL */
    struct explore_fault fault;
    uint64_t runs_max; /* then it gives up: counts as not complete */
};

struct explore_result {
    uint64_t runs, pruned; /* to the end; given up as equal to one before */
    uint64_t steps;        /* accesses, fences and bells in all runs */
    bool failed, complete;
    char why[160]; /* of the failure */
};

/* Explore until the first failure or the end. */
void explore(const struct explore_plan *plan, struct explore_result *ret);

/* ---- Called by the code under test ---- */

/* This must hold, or the run is a failure. */
void explore_assert(bool holds, const char *what);
/* What was last loaded is not what is waited for: go on when it is stored again. */
void explore_pause(void);
/* A bell, 0..3: ringing sets it, waiting blocks until it is set and clears it. */
void explore_ring(int bell);
void explore_wait(int bell);

#endif
