/*
 * What the daemon's threads did, step by step: each thread has a ring of its own of fixed events,
 * overwrites the oldest, and never waits. On demand the rings become a JSON file that Perfetto and
 * chrome://tracing read. Off, an event costs one load and a branch: `if (trace_on()) ...`.
 */
#ifndef RINGLET_BASE_TRACE_H
#define RINGLET_BASE_TRACE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"

struct arena;

enum {
    TRACE_RINGS = 2, /* threads: the loop, the executor */
    TRACE_RING_EVENTS = 1 << 15,
    TRACE_MODELS = 16,
    TRACE_LINE_BYTES = 320, /* of JSON, one event at most */
};

enum trace_kind {
    TRACE_PLANNED,   /* step, rows, seqs; tokens: rows whose logits are wanted */
    TRACE_EXECUTED,  /* the same, by the executor */
    TRACE_COMMITTED, /* the same, back on the loop */
    TRACE_PUBLISHED, /* tokens: handed to clients; seqs: requests that had something to say */
    TRACE_PREEMPTED, /* an instant; seqs: requests that lost their KV */
    TRACE_N_KIND
};

struct trace_event {
    uint64_t at_ns, end_ns; /* CLOCK_MONOTONIC */
    uint64_t step;
    uint32_t rows, seqs, tokens;
    uint32_t launch_ns; /* executed: until all of it was handed to the device */
    uint8_t kind, model;
    int16_t status; /* of the step: 0 or a negative errno */
    uint32_t reserved_0;
};

extern bool trace_wanted;

/* Does the daemon trace at all? */
static inline bool trace_on(void)
{
    return unlikely(trace_wanted);
}

/* Rings for TRACE_RINGS threads; trace_on from now on. Returns 0 or -ENOMEM. Thread: start-up. */
int trace_create(struct arena *arena);
/* Off again: the arena is about to go. Thread: the last one. */
void trace_destroy(void);

/* The track of a model is named so. `name` is copied. Thread: start-up. */
void trace_name_model(int model, const char *name);

/*
 * The calling thread has a ring from now on. More threads than rings: their events are dropped.
 * Thread: itself, once.
 */
void trace_attach(void);

/* Into the calling thread's ring; dropped without one. Never blocks. */
void trace_put(const struct trace_event *event);

/*
 * Begin a dump of what the rings hold now, then take it piece by piece while the threads go on.
 * What they overwrite meanwhile is left out and counted in "otherData".
 */
void trace_dump_begin(void);
/* Whole lines of JSON; room >= TRACE_LINE_BYTES. Returns bytes; 0: the dump is complete. */
size_t trace_dump_next(char *to, size_t room);

/* A whole dump into a file from its start, blocking: for the way out. Returns 0, -errno. */
int trace_dump_to(int fd);

#endif
