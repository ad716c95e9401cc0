/*
 * A real daemon for a test: started on a socket of its own in the test's folder, watched, ended.
 */
#ifndef RINGLET_TESTS_E2E_H
#define RINGLET_TESTS_E2E_H

#include "tests/harness/harness.h"

#include <signal.h>
#include <stdbool.h>
#include <sys/types.h>

#include "ringlet.h"

/* How long what must come is waited for: the machine may have something else to do for long. */
#define E2E_PATIENCE_NS (UINT64_C(120) * 1000000000)

struct e2e_daemon {
    pid_t pid;
    char socket[128];
    char log[160]; /* its stderr */
};

/* Start `ringletd --model echo --socket ... EXTRA` (NULL-ended list) and wait until it serves. */
void e2e_start(struct e2e_daemon *d, const char *const *extra);
/* The same without a model of its own: extra names them. */
void e2e_start_with(struct e2e_daemon *d, const char *const *args);
/* After its end: another `ringletd --model echo` on the same socket. */
void e2e_start_again(struct e2e_daemon *d);
/* SIGTERM, wait; asserts exit status 0. */
void e2e_stop(struct e2e_daemon *d);
/* Wait for its end; returns the wait status. */
int e2e_wait(struct e2e_daemon *d);
/* Its log says this, or comes to: lines are written when the loop has time for them. */
bool e2e_log_says(const struct e2e_daemon *d, const char *what);
/* SIGSTOP, and wait until each of its threads stands still: what is done then it sees all at once.
 */
void e2e_pause(const struct e2e_daemon *d);
void e2e_resume(const struct e2e_daemon *d);

/* Defaults, but for this daemon, and with patience: a loop that makes no pass is not given up. */
struct ringlet_options e2e_options(const struct e2e_daemon *d);
struct ringlet_client *e2e_connect(const struct e2e_daemon *d);
struct ringlet_client *e2e_connect_with(const struct e2e_daemon *d, struct ringlet_options *o);

/* What one request gave, gathered until END. */
struct e2e_answer {
    char text[65536];
    size_t text_bytes;
    uint32_t tokens[16384];
    size_t n_token;
    uint32_t prompt[65536];
    size_t n_prompt;
    uint16_t reason, index;
    uint32_t detail, field;
    uint64_t handle, handles[64]; /* of the last FINISHED; by sequence index */
    int n_accepted, n_finished, n_event;
    uint16_t reasons[64]; /* by sequence index */
    struct ringlet_annex annex;
    uint64_t id;
};

/* Submit and gather; one request at a time on this session. */
void e2e_ask(struct ringlet_client *cl, const struct ringlet_request *req, struct e2e_answer *a);
/* Gather an answer to a request that was submitted. */
void e2e_gather(struct ringlet_client *cl, uint64_t id, struct e2e_answer *a);

/* A GENERATE of a text, greedy, all else default. */
struct ringlet_request e2e_text(const char *text);

/* One counter of the board; model -1: of the whole daemon. */
uint64_t e2e_stat(struct ringlet_client *cl, const char *name, int model);
/* A counter of the whole daemon, through an observer's session. */
uint64_t e2e_stat_of(const struct e2e_daemon *d, const char *name);
/* Wait until a counter has a value, or at least that: they are told every 10 ms, or before sleep.
 */
void e2e_stat_becomes(struct ringlet_client *cl, const char *name, int model, uint64_t value);
void e2e_stat_reaches(struct ringlet_client *cl, const char *name, int model, uint64_t value);
/* What the counters say from now on is so, with nothing under way: the loop slept anew, twice. */
void e2e_settle(struct ringlet_client *cl);
/* At rest: free + cached = total, owned 0, nothing runs, waits, or holds prompt memory. */
void e2e_audit(struct ringlet_client *cl, int model);

/* llama2.c's stories260K as a GGUF file in the test's folder; NULL: the shared data is not here. */
const char *e2e_stories(void);
const char *e2e_stories_with(const char *template); /* and this chat template */
/* A case of tests/vectors/tiny.py in the test's folder; NULL: there is no python3. */
const char *e2e_tiny(const char *name);
/* The default model; NULL where it is not, or where a sanitizer makes minutes of seconds. */
const char *e2e_smollm2(void);

int e2e_fd_count(pid_t pid);
/* Settle; the daemon's descriptors with nobody there but this session. */
int e2e_fd_count_at_rest(const struct e2e_daemon *d, struct ringlet_client *cl);
/* Wait until it has so many again: who was never let in goes by a timer. */
void e2e_fd_count_becomes(const struct e2e_daemon *d, int n);

uint64_t e2e_now_ns(void);
uint64_t e2e_deadline_ns(void); /* E2E_PATIENCE_NS from now */
void e2e_nap_ms(long ms);
/* Is the deadline still ahead? Naps a moment if so: for loops that wait for a condition. */
bool e2e_may_wait(uint64_t deadline_ns);

#endif
