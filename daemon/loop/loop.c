/*
 * One io_uring with SINGLE_ISSUER, DEFER_TASKRUN and TASKRUN_FLAG. Requests are queued in the
 * submission ring and go to the kernel at the next poll or wait. user_data is the watch's handle:
 * generation in the high half, index + 1 in the low half, and bit 63 for an accept, whose late
 * completion still brings a descriptor; 0 belongs to cancellations.
 */
#include "daemon/loop/loop.h"

#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "daemon/base/arena.h"
#include "daemon/base/clock.h"

enum { SQ_ENTRIES = 256, CQ_ENTRIES = 4096, DISPATCH_MAX = 512, LOOK_AGAIN = 16 };

#define HANDLE_ACCEPT (UINT64_C(1) << 63)

enum watch_kind { WATCH_FREE, WATCH_POLL, WATCH_ACCEPT, WATCH_WRITE };

struct watch {
    uint32_t generation;
    uint8_t kind;
    int fd;
    uint32_t events;
    union {
        loop_poll_fn poll;
        loop_accept_fn accept;
        loop_write_fn write;
    } fn;
    void *context;
    uint32_t next_free; /* index + 1 */
};

struct loop {
    struct io_uring ring;
    struct watch *watch;
    unsigned watches_max;
    uint32_t free_head; /* index + 1, 0 = none */
    bool ring_open;
    struct wake wake;
    uint64_t syscalls;
    unsigned queued; /* requests that the kernel has not seen */
    bool vain;       /* the kernel says that it has work for us, and the last look found none */
    uint32_t n_vain; /* polls since */
};

static void on_wake(void *context, uint32_t events)
{
    (void)context, (void)events; /* the bell itself is all there is to it */
}

int loop_create(unsigned watches_max, struct arena *arena, struct loop **ret)
{
    struct loop *loop = arena_new(arena, struct loop);
    if (!loop)
        return -ENOMEM;
    loop->wake.fd = -1;
    loop->watches_max = watches_max + 1;
    loop->watch = arena_array(arena, struct watch, loop->watches_max);
    if (!loop->watch)
        return -ENOMEM;
    for (unsigned i = loop->watches_max; i-- > 0;) {
        loop->watch[i].next_free = loop->free_head;
        loop->free_head = i + 1;
    }
    struct io_uring_params params = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN |
                 IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_CQSIZE,
        .cq_entries = CQ_ENTRIES,
    };
    int error = io_uring_queue_init_params(SQ_ENTRIES, &loop->ring, &params);
    if (error)
        return error;
    loop->ring_open = true;
    io_uring_ring_dontfork(&loop->ring);
    loop_handle handle;
    error = wake_init(&loop->wake, EFD_NONBLOCK);
    if (!error)
        error = loop_watch(loop, loop->wake.fd, POLLIN, on_wake, loop, &handle);
    if (error) {
        loop_free(loop);
        return error;
    }
    *ret = loop;
    return 0;
}

void loop_free(struct loop *loop)
{
    if (!loop)
        return;
    if (loop->ring_open)
        io_uring_queue_exit(&loop->ring);
    loop->ring_open = false;
    wake_close(&loop->wake);
}

static loop_handle handle_of(const struct loop *loop, const struct watch *w)
{
    uint64_t accept = w->kind == WATCH_ACCEPT ? HANDLE_ACCEPT : 0;
    return accept | (uint64_t)w->generation << 32 | (uint64_t)(w - loop->watch + 1);
}

static struct watch *watch_of(struct loop *loop, loop_handle handle)
{
    uint32_t i = (uint32_t)handle;
    if (i == 0 || i > loop->watches_max)
        return NULL;
    struct watch *w = &loop->watch[i - 1];
    uint32_t generation = (uint32_t)((handle & ~HANDLE_ACCEPT) >> 32);
    return w->generation == generation && w->kind != WATCH_FREE ? w : NULL;
}

static struct watch *take(struct loop *loop, enum watch_kind kind, int fd, void *context)
{
    if (!loop->free_head)
        return NULL;
    struct watch *w = &loop->watch[loop->free_head - 1];
    loop->free_head = w->next_free;
    w->generation = (w->generation + 1) & INT32_MAX;
    w->kind = (uint8_t)kind;
    w->fd = fd;
    w->context = context;
    return w;
}

static void give(struct loop *loop, struct watch *w)
{
    w->kind = WATCH_FREE;
    w->next_free = loop->free_head;
    loop->free_head = (uint32_t)(w - loop->watch) + 1;
}

static void submit(struct loop *loop)
{
    int n = io_uring_submit(&loop->ring);
    loop->syscalls++;
    if (n > 0)
        loop->queued -= min_of((unsigned)n, loop->queued);
}

static struct io_uring_sqe *next_sqe(struct loop *loop)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);
    while (!sqe) {
        submit(loop);
        sqe = io_uring_get_sqe(&loop->ring);
    }
    loop->queued++;
    return sqe;
}

/* (Re)arm a poll or an accept. */
static void arm(struct loop *loop, struct watch *w)
{
    struct io_uring_sqe *sqe = next_sqe(loop);
    if (w->kind == WATCH_POLL)
        io_uring_prep_poll_multishot(sqe, w->fd, w->events);
    else
        /* One at a time: the listener may stop after each, and then none may be at hand already
         * that would have to be refused. */
        io_uring_prep_accept(sqe, w->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    io_uring_sqe_set_data64(sqe, handle_of(loop, w));
}

int loop_watch(struct loop *loop, int fd, uint32_t events, loop_poll_fn fn, void *context,
               loop_handle *ret)
{
    struct watch *w = take(loop, WATCH_POLL, fd, context);
    if (!w)
        return -ENOSPC;
    w->events = events;
    w->fn.poll = fn;
    arm(loop, w);
    *ret = handle_of(loop, w);
    return 0;
}

int loop_accept(struct loop *loop, int fd, loop_accept_fn fn, void *context, loop_handle *ret)
{
    struct watch *w = take(loop, WATCH_ACCEPT, fd, context);
    if (!w)
        return -ENOSPC;
    w->fn.accept = fn;
    arm(loop, w);
    *ret = handle_of(loop, w);
    return 0;
}

int loop_write(struct loop *loop, int fd, const void *bytes, size_t n, loop_write_fn fn,
               void *context)
{
    struct watch *w = take(loop, WATCH_WRITE, fd, context);
    if (!w)
        return -ENOSPC;
    w->fn.write = fn;
    struct io_uring_sqe *sqe = next_sqe(loop);
    io_uring_prep_write(sqe, fd, bytes, (unsigned)n, (uint64_t)-1);
    io_uring_sqe_set_data64(sqe, handle_of(loop, w));
    return 0;
}

void loop_unwatch(struct loop *loop, loop_handle handle)
{
    struct watch *w = watch_of(loop, handle);
    if (!w)
        return;
    struct io_uring_sqe *sqe = next_sqe(loop);
    io_uring_prep_cancel64(sqe, handle, 0);
    io_uring_sqe_set_data64(sqe, 0);
    give(loop, w);
    submit(loop); /* before the caller closes the descriptor */
}

static void dispatch_one(struct loop *loop, uint64_t handle, int res, uint32_t flags)
{
    struct watch *w = watch_of(loop, handle);
    if (!w) { /* its watch has ended */
        if (handle & HANDLE_ACCEPT && res >= 0)
            close(res);
        return;
    }
    bool more = flags & IORING_CQE_F_MORE;
    switch (w->kind) {
    case WATCH_POLL:
        if (res >= 0)
            w->fn.poll(w->context, (uint32_t)res);
        else if (res != -ECANCELED)
            w->fn.poll(w->context, POLLERR);
        break;
    case WATCH_ACCEPT:
        w->fn.accept(w->context, res);
        break;
    default: {
        loop_write_fn fn = w->fn.write;
        give(loop, w);
        fn(w->context, res);
        return;
    }
    }
    if (!more && watch_of(loop, handle) == w && (w->kind == WATCH_ACCEPT || res >= 0))
        arm(loop, w);
}

/* Handle the completions that are in the ring. */
static int dispatch(struct loop *loop)
{
    int n = 0;
    struct io_uring_cqe *cqe;
    while (n < DISPATCH_MAX && io_uring_cq_ready(&loop->ring) &&
           io_uring_peek_cqe(&loop->ring, &cqe) == 0) {
        uint64_t handle = cqe->user_data;
        int res = cqe->res;
        uint32_t flags = cqe->flags;
        io_uring_cqe_seen(&loop->ring, cqe);
        if (handle) {
            dispatch_one(loop, handle, res, flags);
            n++;
        }
    }
    return n;
}

/*
 * Who brings work adds it to the kernel's list and then sets TASKRUN. If we have done the work in
 * between, the flag stands with nothing behind it until there is work again, and what comes then
 * does not change it. So after a look in vain it is no reason to stay awake, and is looked behind
 * at every LOOK_AGAIN-th poll and by each wait.
 */
static bool has_hint(const struct loop *loop)
{
    return load_once(loop->ring.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW);
}

bool loop_has_events(const struct loop *loop)
{
    return loop->queued || io_uring_cq_ready(&loop->ring) || (has_hint(loop) && !loop->vain);
}

int loop_poll(struct loop *loop)
{
    if (unlikely(loop->queued))
        submit(loop);
    if (likely(!has_hint(loop)))
        loop->vain = false;
    else if (!loop->vain || ++loop->n_vain % LOOK_AGAIN == 0) {
        loop->syscalls++;
        io_uring_get_events(&loop->ring);
        loop->vain = !io_uring_cq_ready(&loop->ring);
    }
    return likely(!io_uring_cq_ready(&loop->ring)) ? 0 : dispatch(loop);
}

int loop_wait(struct loop *loop, uint64_t until_ns)
{
    struct __kernel_timespec left, *timeout = NULL;
    if (until_ns != NS_NEVER) {
        uint64_t now = clock_now_ns();
        uint64_t ns = until_ns > now ? until_ns - now : 0;
        left.tv_sec = (long long)(ns / NS_PER_S);
        left.tv_nsec = (long long)(ns % NS_PER_S);
        timeout = &left;
    }
    struct io_uring_cqe *cqe;
    loop->syscalls++;
    loop->queued = 0;
    loop->vain = false;
    io_uring_submit_and_wait_timeout(&loop->ring, &cqe, 1, timeout, NULL);
    return dispatch(loop);
}

struct wake *loop_wake(struct loop *loop)
{
    return &loop->wake;
}

uint64_t loop_syscalls(const struct loop *loop)
{
    return loop->syscalls;
}
