/*
 * From the listening socket to an open session: accept, kernel credentials, HELLO, quotas, WELCOME,
 * ATTACH, all within 2 s. At most 64 half-open connections are worked on, 16 of one user; what is
 * beyond a user's share is parked, what is beyond all waits in the listen queue. Loop thread.
 */
#ifndef RINGLET_SESSION_LISTENER_H
#define RINGLET_SESSION_LISTENER_H

#include <sys/types.h>

#include "daemon/session/session.h"

struct listener {
    struct sessions *all;
    int fd;
    loop_handle watch;
    struct timer retry; /* accept failed (no descriptors): again in a while */
    uint64_t told_ns;   /* when the log last said so */
};

/*
 * Begin to accept on a listening socket (handshake_listen), which stays the caller's.
 * Returns 0 or -ENOSPC. Thread: loop, at start.
 */
int listener_start(struct listener *l, struct sessions *all, int fd);

/* No new connections from here on. */
void listener_stop(struct listener *l);

/* Between passes: parked connections whose user has room again, and accepting if it had stopped. */
void listener_turn(struct listener *l);

#endif
