/*
 * The session socket: AF_UNIX SOCK_SEQPACKET, three messages, then silence until one side leaves.
 *
 *     client                         daemon
 *     handshake_connect              handshake_listen, accept
 *     handshake_send_hello   ----->  handshake_recv_hello, handshake_check_hello
 *     handshake_recv_welcome <-----  handshake_send_welcome   + UP, DOWN, BOARD, both bells
 *     map, check, then
 *     handshake_send_attach  ----->  handshake_recv_attach
 *     handshake_peek_closed          handshake_peek_closed: any further message is a breach
 *
 * The daemon's calls never block (MSG_DONTWAIT): its loop polls. A client's descriptors are never
 * kept: whatever comes is closed and the message refused.
 */
#ifndef RINGLET_SHM_HANDSHAKE_H
#define RINGLET_SHM_HANDSHAKE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/compiler.h"
#include "ringlet_abi.h"

/* Who is at the other end, from the kernel. */
struct handshake_peer {
    pid_t pid;
    uid_t uid;
    gid_t gid;
    int pidfd; /* readable when the process ends; -1 where the kernel has none. The caller closes */
};

/* ---- Daemon ---- */

/*
 * Could handshake_listen make a socket there? Nothing is made, and the folder is not looked at.
 * Waits up to seconds for the socket of a process that was killed to go.
 *
 * Returns: as handshake_listen.
 */
nodiscard int handshake_check_address(const char *path);

/*
 * Make the listening socket. A stale socket file (nobody accepts there) is replaced, a live one is
 * not. The folder must exist. Waits up to seconds for the socket of a process that was killed to
 * go.
 *
 *   path      shorter than 108 bytes
 *   mode      permissions of the socket file, as chmod
 *   ret_fd    non-blocking, close-on-exec
 *
 * Returns: 0; -ENAMETOOLONG; -EADDRINUSE a live daemon is there, or the path is no socket; -errno.
 */
nodiscard int handshake_listen(const char *path, mode_t mode, int backlog, int *ret_fd);

/*
 * Credentials of an accepted connection. Without SO_PEERPIDFD (before Linux 6.5) the process is
 * opened by number and the socket checked again after it.
 *
 * Returns: 0; -ESRCH it is gone already; -errno.
 */
nodiscard int handshake_peer(int fd, struct handshake_peer *ret_peer);

/*
 * Take the client's HELLO.
 *
 * Returns: 0; -EAGAIN nothing there yet; -EPIPE it left; -EPROTO wrong size, magic or reserved
 *          bytes, or descriptors came with it (closed).
 */
nodiscard int handshake_recv_hello(int fd, struct ringlet_hello *ret_hello);

/*
 * Is this HELLO acceptable, apart from quotas? Pure.
 *
 *   features           what this daemon grants
 *   ret_minor          negotiated abi_minor
 *   ret_features       granted bits
 *
 * Returns: 0; -EPROTONOSUPPORT another abi_major; -ENOTSUP a required feature is missing; -EINVAL
 *          unknown flag, n_slot or an arena size out of range.
 */
nodiscard int handshake_check_hello(const struct ringlet_hello *hello, uint64_t features,
                                    uint16_t *ret_minor, uint64_t *ret_features);

/*
 * Send WELCOME and its descriptors (RINGLET_N_FD of them, 1 for an observer, 0 with a refusal).
 * magic, versions and struct_size are filled in here, abi_minor excepted.
 *
 * Returns: 0; -EAGAIN the socket is full (a fresh one never is); -EPIPE it left; -errno.
 */
nodiscard int handshake_send_welcome(int fd, struct ringlet_welcome *welcome, const int *fds,
                                     unsigned n_fd);

/*
 * Take the client's ATTACH.
 *
 * Returns: 0; -EAGAIN; -EPIPE it left; -EPROTO wrong bytes or session, or descriptors (closed).
 */
nodiscard int handshake_recv_attach(int fd, uint64_t session_id);

/*
 * Either side, when the socket polls readable after the handshake: what is it?
 *
 * Returns: 0 nothing, still connected; -EPIPE the peer left; -EPROTO it sent something (descriptors
 *          were closed): drop the session.
 */
nodiscard int handshake_peek_closed(int fd);

/* ---- Client ---- */

/*
 * Connect, trying again while the listen queue is full, until the deadline.
 *
 *   deadline_ns   CLOCK_MONOTONIC, absolute
 *   ret_fd        blocking, close-on-exec
 *
 * Returns: 0; -ENAMETOOLONG; -ENOENT, -ECONNREFUSED no daemon there; -EACCES; -ETIMEDOUT; -errno.
 */
nodiscard int handshake_connect(const char *path, uint64_t deadline_ns, int *ret_fd);

/* Send HELLO; magic, versions and struct_size are filled in here. Returns: 0; -EPIPE; -errno. */
nodiscard int handshake_send_hello(int fd, struct ringlet_hello *hello);

/*
 * Wait for WELCOME.
 *
 *   ret_fds    RINGLET_N_FD descriptors, -1 where none came; close-on-exec; the caller closes.
 *              All are -1 on error
 *
 * Returns: 0; the daemon's refusal, welcome->result (a negative errno); -ETIMEDOUT; -EPIPE the
 *          daemon left; -EPROTO not a WELCOME, another abi_major, or the wrong number of
 *          descriptors.
 */
nodiscard int handshake_recv_welcome(int fd, bool observer, uint64_t deadline_ns,
                                     struct ringlet_welcome *ret_welcome,
                                     int ret_fds[RINGLET_N_FD]);

/* Send ATTACH. Returns: 0; -EPIPE the daemon left; -errno. */
nodiscard int handshake_send_attach(int fd, uint64_t session_id);

#endif
