/*
 * The messages of the handshake, both ways, as bytes from anywhere, with descriptors that nobody
 * asked for. Input: [1] which message, [1] descriptors sent along, then the message.
 */
#include "shm/handshake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/compiler.h"
#include "shm/layout.h"
#include "tests/fuzz/must.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void send_message(int fd, const void *bytes, size_t n, unsigned n_fd)
{
    union {
        char bytes[CMSG_SPACE(8 * sizeof(int))];
        struct cmsghdr align;
    } control = { 0 };
    struct iovec iov = { (void *)(uintptr_t)bytes, n };
    struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1 };
    if (n_fd) {
        msg.msg_control = control.bytes;
        msg.msg_controllen = CMSG_SPACE(n_fd * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&msg);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n_fd * sizeof(int));
        for (unsigned i = 0; i < n_fd; i++)
            memcpy(CMSG_DATA(c) + i * sizeof(int), &fd, sizeof(int));
    }
    (void)!sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static void check_hello(int fd)
{
    struct ringlet_hello hello;
    uint16_t minor;
    uint64_t features;
    if (handshake_recv_hello(fd, &hello) != 0)
        return;
    MUST(hello.magic == RINGLET_MAGIC_HELLO);
    if (handshake_check_hello(&hello, 5, &minor, &features) != 0)
        return;
    struct layout l;
    MUST(minor <= RINGLET_ABI_MINOR && (features & ~(uint64_t)5) == 0);
    MUST(layout_compute(hello.n_slot, hello.prompt_bytes, hello.text_bytes, &l) == 0);
    MUST(l.up_bytes < 1u << 30 && l.down_bytes < 1u << 30);
}

static void check_welcome(int fd, bool observer)
{
    struct ringlet_welcome welcome;
    struct layout l;
    int fds[RINGLET_N_FD];
    int error = handshake_recv_welcome(fd, observer, UINT64_MAX, &welcome, fds);
    for (int i = 0; i < RINGLET_N_FD; i++) {
        MUST(error == 0 || fds[i] == -1);
        if (fds[i] >= 0)
            close(fds[i]);
    }
    if (error == 0 && layout_from_welcome(&welcome, &l) == 0)
        MUST(l.text_off + l.text_bytes == welcome.down_bytes && l.n_slot == welcome.n_slot);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int pair[2], next;
    if (size < 2 || size > 4096 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return 0;
    int before = dup(0);
    send_message(pair[0], data + 2, size - 2, data[1] % 8);
    switch (data[0] % 5) {
    case 0:
        check_hello(pair[1]);
        break;
    case 1:
        (void)!handshake_recv_attach(pair[1], 1);
        break;
    case 2:
        (void)!handshake_peek_closed(pair[1]);
        break;
    default:
        check_welcome(pair[1], data[0] % 5 == 3);
    }
    close(before);
    next = dup(0); /* the lowest free number: higher than before, if something was left open */
    MUST(next == before);
    close(next);
    close(pair[0]);
    close(pair[1]);
    return 0;
}
