/*
 * The daemon's one event loop, on io_uring: multishot polls, multishot accept, one write at a time
 * (log lines), no epoll. While there is work elsewhere the caller spins: loop_poll costs one load
 * until the kernel has something. loop_wait blocks, and returns for an event, a wake or the time.
 *
 * A watch is named by a handle with a generation, so that a completion that was already on its way
 * when its watch ended is dropped. Thread: one, the one that created it.
 */
#ifndef RINGLET_LOOP_LOOP_H
#define RINGLET_LOOP_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "daemon/base/wake.h"

struct arena;
struct loop;

/* 0 is no watch. */
typedef uint64_t loop_handle;

/* poll: what poll(2) would say in revents. */
typedef void (*loop_poll_fn)(void *context, uint32_t events);
/* accept: a new close-on-exec, non-blocking descriptor (the callee's), or a negative errno. */
typedef void (*loop_accept_fn)(void *context, int fd_or_error);
/* write: bytes written or a negative errno. */
typedef void (*loop_write_fn)(void *context, int bytes_or_error);

/*
 *   watches_max   polls, accepts and writes at once
 * Returns: 0; -ENOMEM; -EPERM, -ENOSYS and others of io_uring_setup: the system refuses io_uring.
 * Thread: the loop's (SINGLE_ISSUER).
 */
int loop_create(unsigned watches_max, struct arena *arena, struct loop **ret);
void loop_free(struct loop *loop);

/*
 * Watch a descriptor until loop_unwatch; each edge calls fn once. The caller keeps fd open until
 * after loop_unwatch. Returns: 0; -ENOSPC all watches are in use.
 */
int loop_watch(struct loop *loop, int fd, uint32_t events, loop_poll_fn fn, void *context,
               loop_handle *ret);

/* Accept connections until loop_unwatch. Returns as loop_watch. */
int loop_accept(struct loop *loop, int fd, loop_accept_fn fn, void *context, loop_handle *ret);

/* Write once, at offset -1. The bytes stay untouched until fn was called. Returns as loop_watch. */
int loop_write(struct loop *loop, int fd, const void *bytes, size_t n, loop_write_fn fn,
               void *context);

/* fn is never called again for this handle. 0 and an old handle are fine. */
void loop_unwatch(struct loop *loop, loop_handle handle);

/* Handle what the kernel has, without blocking. Returns the number of events; 0 costs a few loads.
 */
int loop_poll(struct loop *loop);

/* Would loop_poll find anything? Never enters the kernel. */
bool loop_has_events(const struct loop *loop);

/*
 * Block until an event, a wake_ring on loop_wake or until_ns (CLOCK_MONOTONIC, UINT64_MAX: for
 * ever), then handle what is there. The caller announced its sleep and looked at everything again.
 */
int loop_wait(struct loop *loop, uint64_t until_ns);

/* Rung by other threads after a hand-over; announced and withdrawn by the loop's owner. */
struct wake *loop_wake(struct loop *loop);

/* Calls into the kernel so far, for tests of the hot path. */
uint64_t loop_syscalls(const struct loop *loop);

#endif
