/*
 * The session layer without a daemon: a loop, sessions and a listener on a socket of its own, all
 * in the test's thread, and clients made of shm/ alone, so that they can write anything anywhere.
 */
#ifndef RINGLET_TESTS_SESSION_RIG_H
#define RINGLET_TESTS_SESSION_RIG_H

#include "tests/harness/harness.h"

#include "daemon/session/intake.h"
#include "daemon/session/listener.h"
#include "daemon/session/publish.h"

struct rig {
    struct arena *arena;
    struct loop *loop;
    struct timer_wheel wheel;
    struct board board;
    struct payload_pool *payload;
    struct sessions *all;
    struct listener listener;
    int listen_fd;
    char path[96];
    uint64_t stopped_ns; /* the time that it is, while time stands still; 0: it goes on */
    int n_gone, n_slow;
    struct session *last_slow;
    struct validate_model model;
    struct validate_env env;
};

struct raw_client {
    int fd, bell_up, bell_down;
    struct ringlet_welcome welcome;
    struct region up, down;
    struct layout layout;
    struct layout_up up_part;
    struct layout_down down_part;
    struct ring_writer sq;
    struct ring_reader cq;
    uint32_t n_cqe_read;
};

/* On a machine that has other things to do. */
enum { RIG_PATIENCE_MS = 60000 };
#define RIG_PATIENCE_NS (RIG_PATIENCE_MS * UINT64_C(1000000))

/* Time stands still for the daemon's side, so that nobody's runs out, until a test lets it go on.
 */
struct rig *rig_open(void);
void rig_close(struct rig *r);
void rig_stop_time(struct rig *r);
void rig_let_time_go_on(struct rig *r);
/* Handle what is there; waits up to ms for the first thing. */
void rig_turn(struct rig *r, int ms);

/* The same until there is something to read here: time is short on a busy machine. */
void rig_turn_until(struct rig *r, int fd);

/* The same until the condition holds, which it must in the end. */
#define rig_turn_to(r, condition)                                                                  \
    do {                                                                                           \
        for (int i_ = 0; i_ < RIG_PATIENCE_MS && !(condition); i_++)                               \
            rig_turn(r, 1);                                                                        \
        assert_true(condition);                                                                    \
    } while (0)

/* Whole handshake; the daemon's side is turned in between. */
void raw_connect(struct rig *r, struct raw_client *c, struct ringlet_hello hello);
void raw_close(struct raw_client *c);
/* The session of the client that connected last. */
struct session *rig_session(struct rig *r);

void raw_put(struct raw_client *c, struct ringlet_sqe sqe);
/* The next completion; false: none. */
bool raw_take(struct raw_client *c, struct ringlet_cqe *ret);

#endif
