/* Baselines through the kernel: eventfd, pipe, Unix socket, loopback TCP, minimal HTTP/1.1. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/atomics.h"
#include "base/compiler.h"
#include "tools/ringbench/channel.h"

/* A spinning channel is non-blocking and tried again; a sleeping one blocks. */
static void write_all(int fd, const void *buf, size_t bytes)
{
    const char *from = buf;
    while (bytes > 0) {
        ssize_t n = write(fd, from, bytes);
        if (n < 0 && errno != EAGAIN && errno != EINTR)
            _exit(1);
        from += n > 0 ? n : 0;
        bytes -= n > 0 ? (size_t)n : 0;
    }
}

/* At least `least`, at most `bytes`; returns how many. */
static size_t read_some(int fd, void *buf, size_t least, size_t bytes)
{
    size_t got = 0;
    while (got < least) {
        ssize_t n = read(fd, (char *)buf + got, bytes - got);
        if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
            _exit(0);
        got += n > 0 ? (size_t)n : 0;
    }
    return got;
}

static void bytes_round_trip(struct channel *ch)
{
    char message[CHANNEL_MESSAGE] = { 0 };
    write_all(ch->fds[0][1], message, sizeof(message));
    read_some(ch->fds[1][0], message, sizeof(message), sizeof(message));
}

static void bytes_echo(struct channel *ch)
{
    char message[CHANNEL_MESSAGE];
    for (;;) {
        read_some(ch->fds[0][0], message, sizeof(message), sizeof(message));
        write_all(ch->fds[1][1], message, sizeof(message));
    }
}

static void bytes_produce(struct channel *ch, uint64_t n)
{
    char message[CHANNEL_MESSAGE] = { 0 };
    for (uint64_t i = 0; i < n; i++)
        write_all(ch->fds[0][1], message, sizeof(message));
    ch->turn += n;
    while (load_acquire(&ch->shared->consumed) < ch->turn) /* pairs with bytes_consume */
        cpu_relax();
}

static void bytes_consume(struct channel *ch)
{
    static char buf[64 * 1024];
    for (uint64_t bytes = 0;;) {
        bytes += read_some(ch->fds[0][0], buf, 1, sizeof(buf));
        store_release(&ch->shared->consumed, bytes / CHANNEL_MESSAGE); /* pairs with produce */
    }
}

static int eventfd_open(struct channel *ch)
{
    for (int i = 0; i < 2; i++) {
        int fd = eventfd(0, EFD_CLOEXEC);
        if (fd < 0)
            return -errno;
        ch->fds[i][0] = ch->fds[i][1] = fd;
    }
    return 0;
}

static void eventfd_round_trip(struct channel *ch)
{
    uint64_t one = 1;
    write_all(ch->fds[0][1], &one, sizeof(one));
    read_some(ch->fds[1][0], &one, sizeof(one), sizeof(one));
}

static void eventfd_echo(struct channel *ch)
{
    uint64_t one;
    for (;;) {
        read_some(ch->fds[0][0], &one, sizeof(one), sizeof(one));
        one = 1;
        write_all(ch->fds[1][1], &one, sizeof(one));
    }
}

static int pipe_open(struct channel *ch)
{
    return pipe(ch->fds[0]) < 0 || pipe(ch->fds[1]) < 0 ? -errno : 0;
}

/* One socket an end, in both directions: the parent's is pair[0], the child's pair[1]. */
static void use_pair(struct channel *ch, const int pair[2])
{
    ch->fds[0][1] = ch->fds[1][0] = pair[0];
    ch->fds[0][0] = ch->fds[1][1] = pair[1];
}

static int unix_open(struct channel *ch)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return -errno;
    use_pair(ch, pair);
    return 0;
}

static int tcp_open(struct channel *ch)
{
    struct sockaddr_in addr = { .sin_family = AF_INET };
    socklen_t len = sizeof(addr);
    int one = 1, pair[2] = { -1, -1 }, error = 0;
    addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (listener < 0)
        return -errno;
    if (bind(listener, (struct sockaddr *)&addr, len) < 0 || listen(listener, 1) < 0 ||
        getsockname(listener, (struct sockaddr *)&addr, &len) < 0)
        error = -errno;
    pair[0] = error ? -1 : socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (error == 0 && (pair[0] < 0 || connect(pair[0], (struct sockaddr *)&addr, len) < 0))
        error = -errno;
    if (error == 0 && (pair[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0)
        error = -errno;
    for (int i = 0; i < 2 && error == 0; i++)
        if (setsockopt(pair[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0)
            error = -errno;
    close(listener);
    use_pair(ch, pair); /* channel_open closes them on error */
    return error;
}

/* ---- HTTP/1.1, keep-alive: the least that a client and a server can do. ---- */

static const char http_request[] = "POST /echo HTTP/1.1\r\nHost: localhost\r\n"
                                   "Content-Type: application/octet-stream\r\n"
                                   "Content-Length: 64\r\n\r\n";
static const char http_response[] = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n"
                                    "Content-Length: 64\r\nConnection: keep-alive\r\n\r\n";

/* One message: head up to the blank line, then Content-Length bytes; exits on anything else. */
static void http_receive(int fd, char body[CHANNEL_MESSAGE])
{
    char buf[1024];
    size_t got = 0;
    char *end = NULL, *length;
    while (!end && got < sizeof(buf) - 1) {
        got += read_some(fd, buf + got, 1, sizeof(buf) - 1 - got);
        buf[got] = 0;
        end = strstr(buf, "\r\n\r\n");
    }
    if (!end || !(length = strcasestr(buf, "\r\nContent-Length:")) ||
        strtoul(length + 17, NULL, 10) != CHANNEL_MESSAGE)
        _exit(1);
    size_t have = got - (size_t)(end + 4 - buf);
    if (have > CHANNEL_MESSAGE)
        _exit(1);
    memcpy(body, end + 4, have);
    if (have < CHANNEL_MESSAGE)
        read_some(fd, body + have, CHANNEL_MESSAGE - have, CHANNEL_MESSAGE - have);
}

static void http_send(int fd, const char *head, size_t head_bytes,
                      const char body[CHANNEL_MESSAGE])
{
    char buf[512];
    memcpy(buf, head, head_bytes);
    memcpy(buf + head_bytes, body, CHANNEL_MESSAGE);
    write_all(fd, buf, head_bytes + CHANNEL_MESSAGE);
}

static void http_round_trip(struct channel *ch)
{
    char body[CHANNEL_MESSAGE] = { 0 };
    http_send(ch->fds[0][1], http_request, sizeof(http_request) - 1, body);
    http_receive(ch->fds[1][0], body);
}

static void http_echo(struct channel *ch)
{
    char body[CHANNEL_MESSAGE];
    for (;;) {
        http_receive(ch->fds[0][0], body);
        http_send(ch->fds[1][1], http_response, sizeof(http_response) - 1, body);
    }
}

const struct channel_kind channel_eventfd = {
    .name = "eventfd", .open = eventfd_open, .round_trip = eventfd_round_trip,
    .echo = eventfd_echo, .can_sleep = true,
};
const struct channel_kind channel_pipe = {
    .name = "pipe", .open = pipe_open, .round_trip = bytes_round_trip, .echo = bytes_echo,
    .produce = bytes_produce, .consume = bytes_consume, .can_spin = true, .can_sleep = true,
};
const struct channel_kind channel_unix = {
    .name = "unix_socket", .open = unix_open, .round_trip = bytes_round_trip, .echo = bytes_echo,
    .produce = bytes_produce, .consume = bytes_consume, .can_spin = true, .can_sleep = true,
};
const struct channel_kind channel_tcp = {
    .name = "tcp", .open = tcp_open, .round_trip = bytes_round_trip, .echo = bytes_echo,
    .produce = bytes_produce, .consume = bytes_consume, .can_spin = true, .can_sleep = true,
};
const struct channel_kind channel_http = {
    .name = "http", .open = tcp_open, .round_trip = http_round_trip, .echo = http_echo,
    .can_spin = true, .can_sleep = true,
};
