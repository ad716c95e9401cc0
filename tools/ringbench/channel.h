/*
 * Ways for two processes to pass 64-byte messages: the baselines that stand beside the rings. The
 * other end is a forked child of ringbench. One thread in each process.
 */
#ifndef RINGLET_TOOLS_CHANNEL_H
#define RINGLET_TOOLS_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/compiler.h"

enum { CHANNEL_MESSAGE = 64, CHANNEL_BATCH = 16 };

struct channel;

struct channel_kind {
    const char *name;
    int (*open)(struct channel *ch);             /* before the fork: descriptors; may be NULL */
    void (*round_trip)(struct channel *ch);      /* parent: a message there and back */
    void (*echo)(struct channel *ch);            /* child: for ever */
    void (*produce)(struct channel *ch, uint64_t n); /* parent: n messages one way; may be NULL */
    void (*consume)(struct channel *ch);         /* child: for ever; tells `consumed` */
    bool can_spin, can_sleep; /* round trips with both ends polling, with both ends asleep */
};

/* Shared by both processes; the kinds lay it out for themselves. */
struct channel_shared {
    uint64_t consumed; /* messages that the child has taken, for produce */
    uint64_t pad[15];
    unsigned char bytes[1 << 16] aligned_to(CACHE_LINE_PAIR);
};

struct channel {
    const struct channel_kind *kind;
    struct channel_shared *shared;
    int fds[2][2]; /* [0] parent to child, [1] child to parent; {read or only, write} */
    bool spin;     /* poll instead of sleeping */
    bool one_way;  /* the child consumes instead of echoing */
    uint64_t turn; /* messages so far, each side its own */
    pid_t child;
};

/*
 * All kinds, NULL-terminated: cache_line, two_lines, spsc, ring, eventfd, futex, pipe, unix_socket,
 * tcp, http.
 */
extern const struct channel_kind *const channel_kinds[];

/*
 * Open a channel and fork its other end, pinned to child_cpu (-1: not).
 *
 *   one_way   the child consumes instead of echoing
 *
 * Returns: 0; -errno. End it with channel_close.
 */
int channel_open(struct channel *ch, const struct channel_kind *kind, bool spin, bool one_way,
                 int child_cpu);
void channel_close(struct channel *ch);

/* Kinds that live in files of their own. */
extern const struct channel_kind channel_cache_line, channel_two_lines, channel_spsc, channel_ring;
extern const struct channel_kind channel_futex;
extern const struct channel_kind channel_eventfd, channel_pipe, channel_unix, channel_tcp,
    channel_http;

#endif
