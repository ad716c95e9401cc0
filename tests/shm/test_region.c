/* Seals: what a peer may and may not do with a region. */
#include "shm/region.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/harness/harness.h"

enum { BYTES = 65536 };

static int reopen(int fd)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    return open(path, O_RDWR | O_CLOEXEC);
}

TEST(region_up_is_writable_for_both_and_of_fixed_size)
{
    struct region daemon, client;
    assert_ok(region_create("up", BYTES, REGION_UP, &daemon));
    assert_ok(region_populate(&daemon, 0, BYTES));
    assert_ok(region_map(daemon.fd, BYTES, REGION_UP, &client));
    ((char *)client.base)[100] = 'x';
    assert_int_equal(((char *)daemon.base)[100], 'x');
    assert_int_equal(ftruncate(daemon.fd, 4096), -1); /* no SIGBUS for us */
    assert_int_equal(errno, EPERM);
    assert_int_equal(ftruncate(daemon.fd, 2 * BYTES), -1);
    assert_int_equal(fcntl(daemon.fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
    /* A hole succeeds and reads as zero: no message. */
    assert_int_equal(fallocate(daemon.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BYTES), 0);
    assert_int_equal(((char *)daemon.base)[100], 0);
    ((char *)client.base)[5000] = 'y';
    region_punch(&daemon, 0, BYTES);
    assert_int_equal(((char *)client.base)[5000], 0);
    region_free(&client);
    region_free(&daemon);
}

TEST(region_down_cannot_be_written_by_a_client_in_any_way)
{
    struct region daemon, client;
    assert_ok(region_create("down", BYTES, REGION_DOWN, &daemon));
    assert_ok(region_map(daemon.fd, BYTES, REGION_DOWN, &client));
    ((char *)daemon.base)[7] = 'd';
    assert_int_equal(((char *)client.base)[7], 'd');
    void *p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, daemon.fd, 0);
    assert_true(p == MAP_FAILED);
#if !defined(__SANITIZE_THREAD__) /* there region_map shares the daemon's own mapping */
    assert_int_equal(mprotect(client.base, BYTES, PROT_READ | PROT_WRITE), -1);
#endif
    assert_int_equal(pwrite(daemon.fd, "x", 1, 0), -1);
    assert_int_equal(fallocate(daemon.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, BYTES),
                     -1);
    int again = reopen(daemon.fd);
    if (again >= 0) {
        p = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0);
        assert_true(p == MAP_FAILED);
        assert_int_equal(pwrite(again, "x", 1, 0), -1);
        close(again);
    }
    ((char *)daemon.base)[7] = 'e'; /* and the daemon goes on */
    assert_int_equal(((char *)client.base)[7], 'e');
    region_free(&client);
    region_free(&daemon);
}

TEST(region_map_refuses_what_is_not_sealed_as_it_must)
{
    struct region client, daemon;
    int fd = memfd_create("plain", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, BYTES), 0);
    assert_int_equal(region_map(fd, BYTES, REGION_UP, &client), -EPROTO);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SEAL), 0);
    assert_int_equal(region_map(fd, BYTES, REGION_UP, &client), -EPROTO);
    close(fd);
    assert_ok(region_create("up", BYTES, REGION_UP, &daemon));
    assert_int_equal(region_map(daemon.fd, BYTES - 4096, REGION_UP, &client), -EPROTO);
    assert_int_equal(region_map(daemon.fd, BYTES, REGION_DOWN, &client), -EPROTO);
    region_free(&daemon);
    int pipe_fds[2];
    assert_int_equal(pipe(pipe_fds), 0);
    assert_int_equal(region_map(pipe_fds[0], BYTES, REGION_UP, &client), -EPROTO);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    assert_true(region_map(-1, BYTES, REGION_UP, &client) < 0);
}

TEST(region_free_takes_an_empty_one)
{
    struct region none = REGION_NONE;
    region_free(&none);
    region_punch(&none, 0, 0);
}
