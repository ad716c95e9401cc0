/*
 * The handshake over the SOCK_SEQPACKET session socket: HELLO, WELCOME, ATTACH. Part of
 * ringlet_abi.h, under the same rules; include that one.
 */
#ifndef RINGLET_HANDSHAKE_H
#define RINGLET_HANDSHAKE_H

#include "ringlet_abi.h"

enum ringlet_hello_flag {
    RINGLET_HELLO_OBSERVER = 1,    /* BOARD only, no rings: for tools */
    RINGLET_HELLO_LOW_LATENCY = 2, /* asks the daemon to keep the CPUs out of idle states */
    RINGLET_HELLO_FLAGS_KNOWN = 3
};

/* Client to daemon. */
struct ringlet_hello {
    uint32_t magic;
    uint16_t abi_major; /* must be the daemon's */
    uint16_t abi_minor; /* the smaller of both holds */
    uint32_t struct_size;
    uint32_t flags; /* enum ringlet_hello_flag */
    uint64_t features_wanted;
    uint64_t features_required; /* refused with -ENOTSUP where the daemon lacks one */
    uint32_t n_slot;            /* S: power of two; 0: default */
    uint32_t reserved0;
    uint64_t prompt_bytes; /* arena sizes, multiples of 4096; 0: default */
    uint64_t text_bytes;
    uint64_t reserved1;
};
RINGLET_ASSERT_SIZE(ringlet_hello, 64);
RINGLET_ASSERT_FIELD(ringlet_hello, magic, 0, 4);
RINGLET_ASSERT_FIELD(ringlet_hello, abi_major, 4, 2);
RINGLET_ASSERT_FIELD(ringlet_hello, abi_minor, 6, 2);
RINGLET_ASSERT_FIELD(ringlet_hello, struct_size, 8, 4);
RINGLET_ASSERT_FIELD(ringlet_hello, flags, 12, 4);
RINGLET_ASSERT_FIELD(ringlet_hello, features_wanted, 16, 8);
RINGLET_ASSERT_FIELD(ringlet_hello, features_required, 24, 8);
RINGLET_ASSERT_FIELD(ringlet_hello, n_slot, 32, 4);
RINGLET_ASSERT_FIELD(ringlet_hello, prompt_bytes, 40, 8);
RINGLET_ASSERT_FIELD(ringlet_hello, text_bytes, 48, 8);

/* Descriptors that come with WELCOME, in this order. An observer gets BOARD alone, as number 0. */
enum ringlet_welcome_fd {
    RINGLET_FD_UP = 0,
    RINGLET_FD_DOWN = 1,
    RINGLET_FD_BOARD = 2,
    RINGLET_FD_BELL_UP = 3,   /* eventfd, the client writes it */
    RINGLET_FD_BELL_DOWN = 4, /* read end of a pipe; end of file: the daemon died */
    RINGLET_N_FD = 5
};

/* Daemon to client. With result < 0 no descriptors come and all below `error` is 0. */
struct ringlet_welcome {
    uint32_t magic;
    uint16_t abi_major; /* negotiated */
    uint16_t abi_minor;
    uint32_t struct_size;
    int32_t result;    /* 0 or a negative errno */
    uint64_t features; /* granted */
    uint64_t session_id;
    uint64_t daemon_generation; /* as on BOARD: random per start */
    uint64_t now_ns;            /* the daemon's CLOCK_MONOTONIC when it sent this */
    uint32_t n_slot;
    uint32_t n_cqe;
    uint32_t sq_off; /* in UP */
    uint32_t prompt_off;
    uint32_t cq_off; /* in DOWN */
    uint32_t annex_off;
    uint32_t text_off;
    uint32_t board_bytes;
    uint64_t prompt_bytes;
    uint64_t text_bytes;
    uint64_t up_bytes;
    uint64_t down_bytes;
    uint32_t sq_start; /* running numbers of the first submission and the first completion */
    uint32_t cq_start;
    uint64_t reserved;
};
RINGLET_ASSERT_SIZE(ringlet_welcome, 128);
RINGLET_ASSERT_FIELD(ringlet_welcome, magic, 0, 4);
RINGLET_ASSERT_FIELD(ringlet_welcome, abi_major, 4, 2);
RINGLET_ASSERT_FIELD(ringlet_welcome, abi_minor, 6, 2);
RINGLET_ASSERT_FIELD(ringlet_welcome, struct_size, 8, 4);
RINGLET_ASSERT_FIELD(ringlet_welcome, result, 12, 4);
RINGLET_ASSERT_FIELD(ringlet_welcome, features, 16, 8);
RINGLET_ASSERT_FIELD(ringlet_welcome, session_id, 24, 8);
RINGLET_ASSERT_FIELD(ringlet_welcome, daemon_generation, 32, 8);
RINGLET_ASSERT_FIELD(ringlet_welcome, now_ns, 40, 8);
RINGLET_ASSERT_FIELD(ringlet_welcome, n_slot, 48, 4);
RINGLET_ASSERT_FIELD(ringlet_welcome, n_cqe, 52, 4);
RINGLET_ASSERT_FIELD(ringlet_welcome, sq_off, 56, 4);
RINGLET_ASSERT_FIELD(ringlet_welcome, prompt_off, 60, 4);
RINGLET_ASSERT_FIELD(ringlet_welcome, cq_off, 64, 4);
RINGLET_ASSERT_FIELD(ringlet_welcome, annex_off, 68, 4);
RINGLET_ASSERT_FIELD(ringlet_welcome, text_off, 72, 4);
RINGLET_ASSERT_FIELD(ringlet_welcome, board_bytes, 76, 4);
RINGLET_ASSERT_FIELD(ringlet_welcome, prompt_bytes, 80, 8);
RINGLET_ASSERT_FIELD(ringlet_welcome, text_bytes, 88, 8);
RINGLET_ASSERT_FIELD(ringlet_welcome, up_bytes, 96, 8);
RINGLET_ASSERT_FIELD(ringlet_welcome, down_bytes, 104, 8);
RINGLET_ASSERT_FIELD(ringlet_welcome, sq_start, 112, 4);
RINGLET_ASSERT_FIELD(ringlet_welcome, cq_start, 116, 4);
RINGLET_ASSERT_FIELD(ringlet_welcome, reserved, 120, 8);

/* Client to daemon: everything is mapped and checked, the session is hot from here. */
struct ringlet_attach {
    uint32_t magic;
    uint32_t struct_size;
    uint64_t session_id;
};
RINGLET_ASSERT_SIZE(ringlet_attach, 16);
RINGLET_ASSERT_FIELD(ringlet_attach, magic, 0, 4);
RINGLET_ASSERT_FIELD(ringlet_attach, struct_size, 4, 4);
RINGLET_ASSERT_FIELD(ringlet_attach, session_id, 8, 8);

#endif
