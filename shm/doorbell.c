/* The bells' system calls; the wait words are inline in doorbell.h. */
#include "shm/doorbell.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"

uint64_t doorbell_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void doorbell_nap(uint64_t ns)
{
    nanosleep(&(struct timespec){ .tv_nsec = (long)ns }, NULL);
}

int bell_up_create(int *ret_fd)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0)
        return -errno;
    *ret_fd = fd;
    return 0;
}

int bell_up_ring(int fd)
{
    uint64_t one = 1;
    ssize_t n;
    do {
        n = write(fd, &one, sizeof(one));
    } while (n < 0 && errno == EINTR);
    return n < 0 && errno != EAGAIN ? -errno : 0;
}

int bell_down_create(int *ret_read_fd, int *ret_write_fd)
{
    int fds[2];
    if (pipe2(fds, O_CLOEXEC | O_NONBLOCK) < 0)
        return -errno;
    (void)fcntl(fds[1], F_SETPIPE_SZ, 4096); /* less memory a session; any size is right */
    *ret_read_fd = fds[0];
    *ret_write_fd = fds[1];
    return 0;
}

int bell_down_ring(int write_fd)
{
    ssize_t n;
    do {
        n = write(write_fd, "", 1);
    } while (n < 0 && errno == EINTR);
    return n < 0 && errno != EAGAIN ? -errno : 0;
}

int bell_down_drain(int read_fd)
{
    char sink[256];
    for (;;) {
        ssize_t n = read(read_fd, sink, sizeof(sink));
        if (n == 0)
            return -EPIPE;
        if (n > 0 && n < (ssize_t)sizeof(sink))
            return 0;
        if (n < 0 && errno != EINTR)
            return errno == EAGAIN ? 0 : -errno;
    }
}

int bell_down_wait(int read_fd, uint64_t deadline_ns)
{
    struct timespec left, *timeout = NULL;
    if (deadline_ns != UINT64_MAX) {
        uint64_t now = doorbell_now_ns();
        uint64_t ns = deadline_ns > now ? deadline_ns - now : 0;
        left = (struct timespec){ .tv_sec = (time_t)(ns / 1000000000u),
                                  .tv_nsec = (long)(ns % 1000000000u) };
        timeout = &left;
    }
    struct pollfd pfd = { .fd = read_fd, .events = POLLIN };
    int n = ppoll(&pfd, 1, timeout, NULL);
    if (n < 0)
        return -errno;
    if (n == 0)
        return -ETIMEDOUT;
    return bell_down_drain(read_fd);
}
