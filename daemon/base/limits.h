/*
 * Every named maximum of the daemon that is not part of the wire (those are in ringlet_abi.h). Told
 * on BOARD where a client may care.
 */
#ifndef RINGLET_BASE_LIMITS_H
#define RINGLET_BASE_LIMITS_H

#include <stdint.h>

#include "ringlet_abi.h"

enum {
    LIMIT_SESSIONS = 1024,    /* connected at once; each costs four descriptors */
    LIMIT_SESSIONS_UID = 512, /* half, so that one user cannot lock out the rest */
    LIMIT_SESSIONS_HOT = 64,  /* scanned each pass: 110 ns for 64 rings, 480 for 256 */
    LIMIT_HANDSHAKES = 64, /* half-open connections worked on; the rest waits in the listen queue */
    LIMIT_HANDSHAKES_UID = 16,
    LIMIT_PARKED = 3 * LIMIT_HANDSHAKES, /* accepted, and waiting for one of these places */
    LIMIT_SORTED = 64, /* looked at in each LIMIT_SORT_NS while more than that wait for long */
    LIMIT_OBSERVERS = 256,
    LIMIT_OBSERVERS_UID = 64,
    LIMIT_CONNECTIONS = LIMIT_SESSIONS + LIMIT_OBSERVERS + LIMIT_HANDSHAKES + LIMIT_PARKED,
    LIMIT_LISTEN_BACKLOG = 4096,
    LIMIT_MODELS = RINGLET_MODELS_MAX,
    LIMIT_DEVICES = 8,
    LIMIT_REQUESTS = 8192, /* in every state; queued ones are bounded below */
    LIMIT_REQUESTS_UID = LIMIT_REQUESTS / 4,
    LIMIT_SEQUENCES = 16384,
    LIMIT_QUEUED = 4096,
    LIMIT_QUEUED_UID = 1024,
    LIMIT_UIDS = 1024,            /* users with a session at once: at most one each */
    LIMIT_HELD = 64,              /* held sequences and leases of a session */
    LIMIT_HANDLES = 4096,         /* of all sessions together, per model */
    LIMIT_PINNED_PERCENT = 25,    /* of the KV pool, per uid */
    LIMIT_POOL_UID_PERCENT = 50,  /* of the prompt pool, for entries and requests of a uid */
    LIMIT_LOOP_TEXT_BYTES = 1024, /* longer text, chat and structures go to the encoder */
    LIMIT_LOOP_TEXT_PASS_BYTES = 16 * 1024, /* so does what is above this in one pass */
    LIMIT_ENCODING = 4, /* texts with the encoder at once; the rest waits, all in turn */
    LIMIT_ENCODING_BYTES = 64 * 1024, /* none goes there while it has as much as this */
    LIMIT_INTAKE_ENTRIES = 32,        /* per session and pass */
    LIMIT_INTAKE_BYTES = 64 * 1024,  /* copied per session and pass; above it deficit round robin */
    LIMIT_PUBLISH_BYTES = 64 * 1024, /* of what is known at once, per session and pass */
    LIMIT_UNPUBLISHED = 64,     /* tokens a sequence may be ahead of its client before it stalls */
    LIMIT_BELLS_PER_S = 100000, /* a session's bells above this unplug its poll for a while */
    LIMIT_TEMPLATE_FACTOR = 4,  /* template output: this times the context's bytes */
    LIMIT_STEPS_IN_FLIGHT = 2,
    LIMIT_DRAIN_S = 30,
    LIMIT_LOG_BURST_UID = 16,    /* lines about what a user's clients do; then one a second */
    LIMIT_PUNCH_BYTES = 8 << 20, /* of dead sessions' prompt arenas, given back per pass */
};

#define LIMIT_SHM_UID_BYTES     (UINT64_C(1) << 30)
#define LIMIT_PROMPT_POOL_BYTES (UINT64_C(256) << 20)
#define LIMIT_LEASE_NS          (UINT64_C(600) * 1000000000)
#define LIMIT_SLOW_CLIENT_NS    (UINT64_C(10) * 1000000000)
#define LIMIT_STRUCTURE_NS      (UINT64_C(50) * 1000000)
#define LIMIT_STRUCTURE_BYTES   (UINT64_C(8) << 20)
#define LIMIT_HANDSHAKE_NS      (UINT64_C(2) * 1000000000)
#define LIMIT_CROWD_NS          (UINT64_C(250) * 1000000) /* no place to wait in for so long */
#define LIMIT_SORT_NS           (UINT64_C(10) * 1000000)
#define LIMIT_COLD_AFTER_NS     (UINT64_C(100) * 1000000) /* idle for so long: not scanned */
#define LIMIT_HEARTBEAT_NS      (UINT64_C(100) * 1000000)
#define LIMIT_GROW_NS           (UINT64_C(10) * 1000000000) /* first wait after a shortage */
#define LIMIT_GROW_NS_MAX       (UINT64_C(3600) * 1000000000)
#define LIMIT_BELL_PENALTY_NS   (UINT64_C(100) * 1000000)

#endif
