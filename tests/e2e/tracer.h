/*
 * A daemon (or a client) whose system calls a test counts, fails or takes as the moment of death.
 * The caller is the tracer and must be an ancestor of the traced process. x86-64 alone.
 */
#ifndef RINGLET_TESTS_E2E_TRACER_H
#define RINGLET_TESTS_E2E_TRACER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

enum tracer_act {
    TRACER_COUNT, /* nothing happens */
    TRACER_FAIL,  /* the call is not made and gives -error */
    TRACER_DENY,  /* the same with all that follow it */
    TRACER_KILL,  /* SIGKILL as the call is entered */
};

struct tracer {
    pid_t pid;
    /* Which call: of these numbers (ended by -1; NULL: any that has an entry in `errors`), */
    const int *calls;
    /* and which of them, counted from 1 since tracer_arm(); 0: none. */
    int nth;
    enum tracer_act act;
    int n_seen;           /* of those calls since tracer_arm() */
    int other;            /* which of the call's errors: 0 or 1 */
    int hit;              /* number of the call that was hit, or -1 */
    int then, then_other; /* TRACER_FAIL: the then-th call behind it fails, too; 0: none */
    int then_hit;         /* number of that call, or -1 */
    bool after_exec;      /* calls count only once it has executed a program anew */
    int status;           /* how it died */
    /* Sees every call as it is entered, if set. */
    void (*look)(struct tracer *t, pid_t tid, int call, const uint64_t args[6]);
    const char *hung_name; /* threads of this name are never continued, once set */
    bool dead, execed;
};

/*
 * Take hold of every thread of pid. Returns: false where tracing is not to be had (then skip).
 * tracer_release() lets it go on by itself.
 */
bool tracer_seize(struct tracer *t, pid_t pid);
void tracer_release(struct tracer *t);
/* SIGKILL; takes the end of every thread, else the process could not end. */
void tracer_kill(struct tracer *t);
/* From now on the nth of these calls is hit. A sched_yield of the traced process ends that. */
void tracer_arm(struct tracer *t, const int *calls, int nth, enum tracer_act act);
/* Let it run until the child `until` of ours ends, or it dies itself. Returns: until's wait status,
 * or -1: the traced process is dead, `until` is not. Fails the test after a minute. */
int tracer_run(struct tracer *t, pid_t until);

/* The calls that can be failed, each with two errors that the kernel gives; ended by call -1. */
struct tracer_error {
    int call, error[2];
    const char *name;
};
extern const struct tracer_error tracer_errors[];
const char *tracer_call_name(int call);

#endif
