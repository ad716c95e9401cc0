/*
 * daemon/loop/loop.h over the simulated system. Entering it is where the daemon stands still for
 * the rest of the world: loop_poll gives way, loop_wait sleeps. Events come late and in any order,
 * several edges may become one, and one may be told twice, as with io_uring.
 */
#include "daemon/loop/loop.h"

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/assert.h"
#include "tests/sim/sim_os.h"

enum { WATCHES = 512 };

struct watch {
    bool used;
    uint32_t generation;
    struct os_object *object;
    uint32_t events, pending, hold; /* hold: polls until it may be delivered */
    loop_poll_fn fn;
    loop_accept_fn accept_fn;
    void *context;
};

struct loop {
    struct wake wake;
    struct watch watch[WATCHES];
    uint32_t n_pending;
};

static struct loop the_loop;

void os_loop_reset(void)
{
    uint32_t generation[WATCHES];
    for (int i = 0; i < WATCHES; i++)
        generation[i] = the_loop.watch[i].generation;
    memset(&the_loop, 0, sizeof(the_loop));
    for (int i = 0; i < WATCHES; i++)
        the_loop.watch[i].generation = generation[i];
    the_loop.wake.fd = -1;
}

int loop_create(unsigned watches_max, struct arena *arena, struct loop **ret)
{
    (void)watches_max, (void)arena;
    os_loop_reset();
    *ret = &the_loop;
    return 0;
}

void loop_free(struct loop *loop)
{
    (void)loop;
}

static void post(struct watch *w, uint32_t events)
{
    events &= w->events | POLLHUP | POLLERR;
    if (!events)
        return;
    the_loop.n_pending += w->pending == 0;
    w->pending |= events;
    w->hold = prng_chance(&os.prng, os.late) ? prng_below(&os.prng, 12) : 0;
}

void os_event(struct os_object *object, uint32_t events)
{
    for (int i = 0; i < WATCHES; i++)
        if (the_loop.watch[i].used && the_loop.watch[i].object == object)
            post(&the_loop.watch[i], events);
}

/* What poll(2) would say at once of a descriptor that begins to be watched. */
static uint32_t state_of(const struct os_object *object)
{
    switch (object->kind) {
    case OS_SOCKET:
        return (object->n_up ? POLLIN : 0u) | (object->n_read ? 0u : POLLIN | POLLHUP | POLLRDHUP);
    case OS_PIDFD:
        return object->process->dead ? POLLIN : 0;
    case OS_LISTEN:
    case OS_SIGNALS:
        return object->bytes ? POLLIN : 0;
    default:
        return 0;
    }
}

static int watch_new(struct os_object *object, const struct watch *like, loop_handle *ret)
{
    assert(object); /* a descriptor that is not open is watched */
    for (uint32_t i = 0; i < WATCHES; i++) {
        struct watch *w = &the_loop.watch[i];
        if (w->used)
            continue;
        uint32_t generation = w->generation + 1;
        *w = *like;
        w->used = true;
        w->generation = generation;
        w->object = object;
        *ret = (uint64_t)generation << 32 | (i + 1);
        post(w, state_of(object));
        return 0;
    }
    return -ENOSPC;
}

static struct os_object *watchable(int fd)
{
    static const enum os_kind kinds[] = { OS_CONN, OS_PIDFD, OS_BELL, OS_SIGNALS, OS_LISTEN };
    for (size_t i = 0; i < ARRAY_SIZE(kinds); i++)
        if (os_fd(fd, kinds[i]))
            return os_fd(fd, kinds[i]);
    return NULL;
}

int loop_watch(struct loop *loop, int fd, uint32_t events, loop_poll_fn fn, void *context,
               loop_handle *ret)
{
    (void)loop;
    struct watch like = { .events = events, .fn = fn, .context = context };
    return watch_new(watchable(fd), &like, ret);
}

int loop_accept(struct loop *loop, int fd, loop_accept_fn fn, void *context, loop_handle *ret)
{
    (void)loop;
    struct watch like = { .events = POLLIN, .accept_fn = fn, .context = context };
    return watch_new(watchable(fd), &like, ret);
}

int loop_write(struct loop *loop, int fd, const void *bytes, size_t n, loop_write_fn fn,
               void *context)
{
    (void)loop, (void)fd, (void)bytes;
    fn(context, (int)n);
    return 0;
}

void loop_unwatch(struct loop *loop, loop_handle handle)
{
    uint32_t i = (uint32_t)handle - 1;
    if (handle == 0 || i >= WATCHES)
        return;
    struct watch *w = &loop->watch[i];
    if (!w->used || w->generation != (uint32_t)(handle >> 32))
        return;
    loop->n_pending -= w->pending != 0;
    w->used = false;
    w->pending = 0;
}

static void accept_all(struct watch *w)
{
    uint32_t generation = w->generation;
    while (w->used && w->generation == generation) {
        if (prng_chance(&os.prng, os.accept_error)) {
            post(w, POLLIN); /* whoever waits goes on waiting */
            w->accept_fn(w->context, -EMFILE);
            return;
        }
        int fd = os_accept();
        if (fd < 0)
            return;
        w->accept_fn(w->context, fd);
    }
}

/* The daemon is told this: does it know now that a client is gone? */
static void note_end(struct os_object *object, uint32_t events)
{
    if (object->kind == OS_PIDFD)
        object->conn->told |= object->process->dead;
    if (object->kind == OS_SOCKET)
        object->told |= events & POLLHUP && object->n_read == 0;
}

static int deliver(struct loop *loop)
{
    int n = 0;
    uint32_t from = loop->n_pending ? prng_below(&os.prng, WATCHES) : 0;
    for (uint32_t i = 0; loop->n_pending && i < WATCHES; i++) {
        struct watch *w = &loop->watch[(from + i) % WATCHES];
        if (!w->used || !w->pending)
            continue;
        if (w->hold > 0) {
            w->hold--;
            continue;
        }
        uint32_t events = w->pending;
        w->pending = 0;
        loop->n_pending--;
        if (prng_chance(&os.prng, os.late / 4) && w->object->kind == OS_BELL)
            post(w, events); /* told twice */
        n++;
        note_end(w->object, events);
        if (w->accept_fn)
            accept_all(w);
        else
            w->fn(w->context, events);
    }
    return n;
}

int loop_poll(struct loop *loop)
{
    os.daemon_quiet = true;
    os_yield();
    os.daemon_quiet = false;
    return deliver(loop);
}

bool loop_has_events(const struct loop *loop)
{
    if (prng_chance(&os.prng, 10))
        os_yield();
    return loop->n_pending > 0;
}

bool os_loop_events(void)
{
    return the_loop.n_pending > 0;
}

bool os_loop_pending(void)
{
    return the_loop.n_pending > 0 || !(the_loop.wake.word & 1);
}

static bool sleeper_ready(void *arg)
{
    (void)arg;
    return os_loop_pending();
}

int loop_wait(struct loop *loop, uint64_t until_ns)
{
    os.daemon_quiet = true;
    os_block(sleeper_ready, loop, until_ns);
    os.daemon_quiet = false;
    for (int i = 0; i < WATCHES && loop->n_pending; i++)
        loop->watch[i].hold = 0; /* it woke for them */
    return deliver(loop);
}

struct wake *loop_wake(struct loop *loop)
{
    return &loop->wake;
}

uint64_t loop_syscalls(const struct loop *loop)
{
    (void)loop;
    return 0;
}

uint32_t os_loop_watches(void)
{
    uint32_t n = 0;
    for (int i = 0; i < WATCHES; i++)
        n += the_loop.watch[i].used;
    return n;
}
