/*
 * From the listening socket to an open session: accept, kernel credentials, HELLO, quotas, WELCOME,
 * ATTACH, all within 2 s. At most 64 half-open connections are worked on, 16 of one user; what is
 * beyond them is parked, and the user with the fewest has the next turn; what is beyond that waits
 * in the listen queue. If nobody can be parked for LIMIT_CROWD_NS, some user has filled the queue,
 * and others stand behind it there: from then on connections are taken from it a few at a time, and
 * those of the user with the most parked are refused (-EAGAIN: the library comes again), while
 * another's takes the place of one of them. Loop thread.
 */
#ifndef RINGLET_SESSION_LISTENER_H
#define RINGLET_SESSION_LISTENER_H

#include <sys/types.h>

#include "daemon/session/session.h"

struct listener {
    struct sessions *all;
    int fd;
    loop_handle watch;
    struct timer retry; /* accepting has stopped: again in a while */
    bool no_fd;         /* for want of descriptors */
    bool sorts;         /* nobody could be parked for LIMIT_CROWD_NS */
    uint32_t n_sort;    /* connections that may be looked at now all the same */
    uint64_t told_ns;   /* when the log last said that descriptors were wanting */
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
