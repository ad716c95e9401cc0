/*
 * The operating system of a simulated world: a virtual clock, processes, descriptors with what is
 * behind them (sockets, pipes, bells, regions, signals), and tasks that block. It stands in, at
 * link time, for shm/region.c, shm/doorbell.c, shm/handshake.c, daemon/loop/loop.c and the few
 * system calls beside them; everything above is the product's own code.
 */
#ifndef RINGLET_TESTS_SIM_OS_H
#define RINGLET_TESTS_SIM_OS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "daemon/base/prng.h"
#include "ringlet_abi.h"
#include "tests/sim/sim_task.h"

enum {
    OS_FDS = 65536,
    OS_FD_BASE = 1 << 20,
    OS_DAEMON = 0,
    OS_MESSAGES = 8,
    OS_BACKLOG = 32,
    OS_HOSTILE = 4,
    OS_SESSIONS = 1024
};

enum os_kind {
    OS_CLOSED,
    OS_LISTEN,
    OS_SOCKET, /* a client's end */
    OS_CONN,   /* the daemon's end of the same */
    OS_PIDFD,
    OS_REGION,
    OS_BELL,
    OS_PIPE_READ,
    OS_PIPE_WRITE,
    OS_SIGNALS
};

/* A client's life as the kernel sees it. */
struct os_process {
    uint32_t pid, uid;
    bool dead;
};

/* What is behind a descriptor; shared by all that name it. */
struct os_object {
    enum os_kind kind; /* of the first of its two ends */
    bool live;
    uint32_t n_read, n_write; /* open ends; regions count descriptors in n_read */
    uint32_t bytes;           /* pipe: bells in it; listen: waiting; signals: pending */
    /* region */
    void *base;
    uint64_t size;
    int region_kind;
    uint32_t n_map, n_map_daemon;
    /* connection */
    struct os_process *process;
    struct os_object *conn; /* pidfd: of this connection, one of the process's */
    bool accepted, has_welcome;
    bool told;                 /* the daemon has heard of its end */
    uint32_t n_up;             /* messages to the daemon */
    int up_error[OS_MESSAGES]; /* 0 sound, or what receiving it gives */
    uint64_t up_attach;
    struct ringlet_hello hello;
    struct ringlet_welcome welcome;
    int passed_kind[RINGLET_N_FD];
    struct os_object *passed[RINGLET_N_FD];
    int signals[4];
    struct os_object *waiting[OS_BACKLOG];
};

struct os_task {
    bool used, done;
    bool (*ready)(void *arg); /* NULL: runs */
    void *arg;
    uint64_t until_ns;
    struct os_process *process; /* NULL: the daemon */
};

struct os {
    uint64_t now_ns;
    struct prng prng; /* what the system does */
    uint64_t trace, n_event;
    bool verbose;
    char error[256];
    struct os_task task[TASKS_MAX];
    uint32_t preempt_ppm; /* how often a load from shared memory gives way, per million */
    bool hooks;           /* loads may give way or lie */
    uint32_t lie_ppm;     /* how often a load from a hostile client's memory gives something else */
    struct {
        const char *from, *to;
    } hostile[OS_HOSTILE];
    bool daemon_quiet; /* the daemon is between two of its calls into the loop */
    bool no_pidfd;
    uint32_t accept_error; /* percent */
    uint32_t late;         /* percent: an event is not delivered at once */
    struct os_object *listen;
    int listen_fd;
    bool keep_listen; /* somebody else has it open too: it outlives the daemon, and who waits there
                       */
    struct {
        uint64_t id;
        const struct os_object *conn;
    } session[OS_SESSIONS]; /* that daemons opened */
    uint32_t n_session;
};

extern struct os os;

#define os_fail(...)                                                                               \
    do {                                                                                           \
        if (!os.error[0])                                                                          \
            snprintf(os.error, sizeof(os.error), __VA_ARGS__);                                     \
    } while (0)

#define os_say(...)                                                                                \
    do {                                                                                           \
        if (os.verbose) {                                                                          \
            printf("%9.3f ms  ", (double)(os.now_ns - 1000000000) / 1e6);                          \
            printf(__VA_ARGS__);                                                                   \
        }                                                                                          \
    } while (0)

/* Something happened: the same seed must give the same record. */
static inline void os_trace(uint64_t what)
{
    os.trace = prng_mix(os.trace ^ what) + 1;
    os.n_event++;
}

void os_open(uint64_t seed, bool verbose);
void os_close(void);

/* Descriptors. */
int os_fd_new(enum os_kind kind, struct os_object *object);
struct os_object *os_object_new(enum os_kind kind);
/* NULL: no open descriptor of this kind. */
struct os_object *os_fd(int fd, enum os_kind kind);
/* kill -9: what it had is closed, but for a socket that a forked child keeps. */
void os_process_died(struct os_process *process, bool forked);
/* The daemon died, or has begun anew: its descriptors and mappings are gone. */
void os_daemon_died(void);
uint32_t os_open_fds(bool daemon);

void os_close_fd(int *fd);
/* Unmap a region, by where it lies. */
void os_unmap(void *base, bool daemon);
/* A descriptor on its way over a connection, and its arrival: -1 if nothing came. */
void os_pass(struct os_object *conn, unsigned i, int fd);
int os_receive(struct os_object *conn, int i);
/* A new connection waits in the listen queue; the oldest one, accepted: its descriptor or -1. */
void os_connect(struct os_object *conn);
int os_accept(void);

/* Let others run; block until ready says so or the time has come. Inside a task. */
void os_yield(void);
void os_block(bool (*ready)(void *arg), void *arg, uint64_t until_ns);
void os_pause(uint64_t ns);
/* Who pauses does so no longer. */
void os_end_pause(int task_i);
bool os_task_runs(int task_i);

/* ---- The loop's side, sim_loop.c ---- */

/* Something happened to an object: whoever watches it hears of it. */
void os_event(struct os_object *object, uint32_t events);
/* Events that the daemon was not told of yet. */
bool os_loop_events(void);
/* The daemon, asleep, would wake for what is there: an event, or a ring of another thread. */
bool os_loop_pending(void);
uint32_t os_loop_watches(void);
void os_loop_reset(void);

/* ---- Handshakes beyond what the library does, sim_shm.c ---- */

/* A message on the session socket that receives as this error (-EPROTO), or a sound one (0). */
void os_send_message(int fd, int error);
int os_listen(void);
/* Has the daemon heard that this session's client is gone? */
bool os_session_over(uint64_t session_id);
void os_signal(struct os_object *signals, int number);

#endif
