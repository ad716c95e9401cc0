/* The start-up allocator: alignment, exhaustion, zeroed pieces, the seal. */
#include "tests/harness/harness.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "daemon/base/arena.h"

TEST(arena_pieces_are_zero_aligned_and_apart)
{
    struct arena *a;
    assert_ok(arena_create(1 << 20, &a));
    uint8_t *p = arena_take(a, 100, 64), *q = arena_take(a, 1, 4096), *r = arena_take(a, 0, 1);
    assert_non_null(p);
    assert_int_equal((uintptr_t)p % 64, 0);
    assert_int_equal((uintptr_t)q % 4096, 0);
    assert_true(q >= p + 100 && r > q);
    for (int i = 0; i < 100; i++)
        assert_int_equal(p[i], 0);
    arena_free(a);
}

TEST(arena_refuses_more_than_it_has)
{
    struct arena *a;
    assert_ok(arena_create(8192, &a));
    assert_null(arena_take(a, 8193, 16));
    assert_null(arena_take(a, SIZE_MAX, 16));
    assert_null(arena_take(a, 16, (size_t)1 << 40));
    assert_null(arena_take_array(a, SIZE_MAX / 2, 4));
    assert_non_null(arena_take(a, 4000, 16));
    assert_null(arena_take(a, 8000, 16));
    arena_free(a);
    arena_free(NULL);
}

TEST(arena_aborts_on_a_take_after_the_seal)
{
    struct arena *a;
    assert_ok(arena_create(8192, &a));
    uint8_t *p = arena_take(a, 64, 16);
    p[0] = 7;
    arena_seal(a);
    assert_true(arena_sealed(a));
    assert_int_equal(p[0], 7);
    pid_t pid = fork();
    if (pid == 0) {
        freopen("/dev/null", "w", stderr);
        signal(SIGABRT, SIG_DFL);
        arena_take(a, 1, 16);
        _exit(0);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    arena_free(a);
}

TEST(arena_lazy_pieces_are_not_touched_by_the_seal)
{
    struct arena *a;
    assert_ok(arena_create(8192, &a));
    uint8_t *p = arena_take_lazy(a, (size_t)1 << 36); /* more than any test machine has */
    assert_non_null(p);
    arena_seal(a);
    assert_int_equal(p[(size_t)1 << 35], 0);
    arena_free(a);
}
