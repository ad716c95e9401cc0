/*
 * The kernel's word that it has work (IORING_SQ_TASKRUN), set after the loop has done that work: it
 * stands then with nothing behind it. Seldom by itself, so it is set here by hand.
 * mirrors: daemon/loop/loop.c
 */
#include "daemon/loop/loop.c"
#include "tests/harness/harness.h"

#include <sys/eventfd.h>

static struct arena *arena;
static int n_call;

static void on_poll(void *context, uint32_t events)
{
    (void)context, (void)events;
    n_call++;
}

/* A loop that watches an eventfd, with a hint that is in vain. */
static struct loop *open_hinted(int *ret_fd)
{
    struct loop *loop;
    loop_handle h;
    assert_ok(arena_create(1 << 20, &arena));
    int error = loop_create(8, arena, &loop);
    if (error == -EPERM || error == -ENOSYS)
        skip();
    assert_ok(error);
    *ret_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    assert_ok(loop_watch(loop, *ret_fd, POLLIN, on_poll, NULL, &h));
    assert_int_equal(loop_poll(loop), 0);
    assert_false(loop_has_events(loop));
    __atomic_or_fetch(loop->ring.sq.kflags, IORING_SQ_TASKRUN, __ATOMIC_SEQ_CST);
    assert_true(loop_has_events(loop));
    assert_int_equal(loop_poll(loop), 0);
    return loop;
}

static void close_all(struct loop *loop, int fd)
{
    close(fd);
    loop_free(loop);
    arena_free(arena);
}

TEST(a_hint_in_vain_is_no_event_and_seldom_a_system_call)
{
    int fd;
    struct loop *loop = open_hinted(&fd);
    uint64_t before = loop_syscalls(loop);
    for (int i = 0; i < 100 * LOOK_AGAIN; i++) {
        assert_false(loop_has_events(loop));
        assert_int_equal(loop_poll(loop), 0);
    }
    assert_int_equal(loop_syscalls(loop) - before, 100);
    close_all(loop, fd);
}

TEST(what_comes_behind_a_hint_in_vain_is_found)
{
    int fd, polls = 0;
    uint64_t one = 1;
    struct loop *loop = open_hinted(&fd);
    assert_int_equal(write(fd, &one, 8), 8);
    while (n_call == 0 && polls++ < LOOK_AGAIN)
        loop_poll(loop);
    assert_int_equal(n_call, 1); /* and the flag is gone: */
    uint64_t before = loop_syscalls(loop);
    assert_int_equal(loop_poll(loop), 0);
    assert_int_equal(loop_syscalls(loop), before);
    assert_int_equal(write(fd, &one, 8), 8);
    assert_true(loop_has_events(loop)); /* the next one counts again */
    assert_int_equal(loop_poll(loop), 1);
    close_all(loop, fd);
}

TEST(a_wait_behind_a_hint_in_vain_ends_with_what_comes)
{
    int fd;
    uint64_t one = 1;
    struct loop *loop = open_hinted(&fd);
    assert_int_equal(write(fd, &one, 8), 8);
    assert_int_equal(loop_wait(loop, NS_NEVER), 1);
    assert_int_equal(n_call, 1);
    assert_int_equal(loop_wait(loop, clock_now_ns() + NS_PER_MS), 0);
    close_all(loop, fd);
}
