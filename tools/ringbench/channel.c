/* Opening, forking and closing channels; the kinds are in channel_shm.c and channel_fd.c. */
#include "tools/ringbench/channel.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tools/ringbench/bench.h"

const struct channel_kind *const channel_kinds[] = {
    &channel_cache_line, &channel_two_lines, &channel_spsc, &channel_ring, &channel_eventfd,
    &channel_futex,      &channel_pipe,      &channel_unix, &channel_tcp,  &channel_http,
    NULL,
};

static void close_fds(struct channel *ch)
{
    for (int i = 0; i < 4; i++) {
        int *fd = &ch->fds[i / 2][i % 2];
        bool again = false; /* a socket stands in two places */
        for (int k = 0; k < i; k++)
            again = again || ch->fds[k / 2][k % 2] == *fd;
        if (*fd >= 0 && !again)
            close(*fd);
    }
    memset(ch->fds, 0xff, sizeof(ch->fds));
}

static void child_main(struct channel *ch, int cpu)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    bench_pin(cpu);
    if (ch->one_way)
        ch->kind->consume(ch);
    else
        ch->kind->echo(ch);
    _exit(0);
}

int channel_open(struct channel *ch, const struct channel_kind *kind, bool spin, bool one_way,
                 int child_cpu)
{
    *ch = (struct channel){ .kind = kind, .spin = spin, .one_way = one_way };
    memset(ch->fds, 0xff, sizeof(ch->fds));
    ch->shared = mmap(NULL, sizeof(*ch->shared), PROT_READ | PROT_WRITE,
                      MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (ch->shared == MAP_FAILED)
        return -errno;
    int error = kind->open ? kind->open(ch) : 0;
    for (int i = 0; i < 4 && spin && error == 0; i++) {
        int fd = ch->fds[i / 2][i % 2];
        if (fd >= 0 && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) < 0)
            error = -errno;
    }
    if (error == 0) {
        fflush(NULL);
        ch->child = fork();
        if (ch->child == 0)
            child_main(ch, child_cpu);
        if (ch->child < 0)
            error = -errno;
    }
    if (error < 0) {
        close_fds(ch);
        munmap(ch->shared, sizeof(*ch->shared));
    }
    return error;
}

void channel_close(struct channel *ch)
{
    kill(ch->child, SIGKILL);
    waitpid(ch->child, NULL, 0);
    close_fds(ch);
    munmap(ch->shared, sizeof(*ch->shared));
}
