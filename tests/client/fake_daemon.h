/*
 * A daemon for tests of the library: the real protocol over the real shm/ code, in a thread of the
 * test, with no models behind it. NOP is answered; GENERATE echoes its input (UTF-8 in pieces, ids
 * one by one, messages with their records) and ends with `length`; the text "hang" waits for a
 * cancel; TOKENIZE gives bytes as ids; anything else is rejected with bad_op.
 */
#ifndef RINGLET_TESTS_FAKE_DAEMON_H
#define RINGLET_TESTS_FAKE_DAEMON_H

#include <stdint.h>

#include "ringlet_abi.h"

struct fake_daemon;

struct fake_options {
    uint64_t spin_ns;       /* before it sleeps */
    int refuse;             /* answer HELLO with this errno */
    unsigned refuse_times;  /* so many of them; 0: all */
    unsigned hang_up_times; /* close the connection instead of answering so many HELLOs */
    int freeze;             /* no heartbeat, no answers */
    unsigned random_sleep;  /* a random spin budget below this many ns, each pass anew */
    int (*cqe_hook)(struct ringlet_cqe *cqe); /* may spoil an event before it is put */
};

/* Start serving at `path`; aborts the test on failure. */
struct fake_daemon *fake_daemon_start(const char *path, const struct fake_options *options);

/* End it as a killed process would: descriptors close, nothing else is said. */
void fake_daemon_kill(struct fake_daemon *d);

/* HELLOs so far. */
uint64_t fake_daemon_hellos(const struct fake_daemon *d);
/* Entries taken and bells heard so far. */
uint64_t fake_daemon_taken(const struct fake_daemon *d);
uint64_t fake_daemon_bells(const struct fake_daemon *d);
/* The block of the last request that had one, and its input's bytes. */
struct ringlet_block fake_daemon_last_block(const struct fake_daemon *d);
struct ringlet_sqe fake_daemon_last_sqe(const struct fake_daemon *d);
/* Copies of the last request's stop strings and input as they lay in the arena. */
const unsigned char *fake_daemon_last_input(const struct fake_daemon *d);
const unsigned char *fake_daemon_last_stop(const struct fake_daemon *d);

#endif
