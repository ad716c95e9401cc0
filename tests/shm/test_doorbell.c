/* Bells that cannot block, end of file as death, and the wait words' bookkeeping. */
#include "shm/doorbell.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include "tests/harness/harness.h"

TEST(bell_down_never_blocks_and_tells_the_deaths)
{
    int client, daemon;
    signal(SIGPIPE, SIG_IGN);
    assert_ok(bell_down_create(&client, &daemon));
    for (int i = 0; i < 100000; i++) /* far more than a pipe holds */
        assert_ok(bell_down_ring(daemon));
    assert_ok(bell_down_wait(client, UINT64_MAX));
    assert_int_equal(bell_down_wait(client, doorbell_now_ns() + 1000000), -ETIMEDOUT);
    assert_ok(bell_down_ring(daemon));
    close(daemon);
    assert_int_equal(bell_down_wait(client, UINT64_MAX), 0); /* the byte that was there */
    assert_int_equal(bell_down_wait(client, UINT64_MAX), -EPIPE);
    close(client);
    assert_ok(bell_down_create(&client, &daemon));
    close(client);
    assert_int_equal(bell_down_ring(daemon), -EPIPE);
    close(daemon);
}

TEST(bell_up_rings_even_when_full)
{
    int fd;
    assert_ok(bell_up_create(&fd));
    uint64_t full = UINT64_MAX - 1;
    assert_int_equal(write(fd, &full, 8), 8);
    assert_ok(bell_up_ring(fd));
    struct pollfd pfd = { .fd = fd, .events = POLLIN };
    assert_int_equal(poll(&pfd, 1, 0), 1);
    close(fd);
}

TEST(wait_word_is_odd_while_announced_and_rings_once)
{
    uint32_t word = 0;
    struct wait_word owner;
    struct wait_watch peer;
    wait_word_init(&owner, &word);
    wait_watch_init(&peer, &word);
    assert_false(wait_watch_must_ring(&peer));
    for (int i = 0; i < 5; i++) {
        wait_word_announce(&owner);
        assert_true(wait_word_announced(&owner));
        assert_true(wait_watch_must_ring(&peer));
        assert_false(wait_watch_must_ring(&peer));
        wait_word_announce(&owner); /* again, without waking in between: may ring again */
        assert_true(wait_watch_must_ring(&peer));
        assert_false(wait_watch_must_ring(&peer));
        wait_word_withdraw(&owner);
        wait_word_withdraw(&owner);
        assert_false(wait_watch_must_ring(&peer));
    }
}

TEST(wait_word_epochs_survive_the_wrap)
{
    uint32_t word = 0xFFFFFFFEu;
    struct wait_word owner;
    struct wait_watch peer;
    wait_word_init(&owner, &word);
    wait_watch_init(&peer, &word);
    for (int i = 0; i < 4; i++) {
        wait_word_announce(&owner);
        assert_true(word & 1);
        assert_true(wait_watch_must_ring(&peer));
        wait_word_withdraw(&owner);
        assert_false(word & 1);
    }
}
