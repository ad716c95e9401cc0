/*
 * Events in place, waiting, arming, sleeping and waking, a broken or stopped daemon, many threads.
 */
#include "ringlet.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <unistd.h>

#include "base/atomics.h"
#include "shm/doorbell.h"
#include "tests/client/fake_daemon.h"
#include "tests/harness/harness.h"

enum { PATIENCE_MS = 60000 };

static struct fake_daemon *d;
static struct ringlet_client *cl;

static void open_session(const struct fake_options *f, uint64_t spin_ns, uint32_t flags)
{
    static char path[128];
    struct ringlet_options o;
    snprintf(path, sizeof(path), "%s/s", harness_tmpdir());
    d = fake_daemon_start(path, f);
    ringlet_options_init(&o);
    o.socket_path = path;
    o.spin_ns = spin_ns;
    o.flags = flags;
    o.timeout_ns = RINGLET_FOREVER;
    o.heartbeat_ns = f && f->freeze ? 100000000u : RINGLET_FOREVER; /* this machine may be busy */
    assert_ok(ringlet_connect(&o, &cl));
}

static void close_session(void)
{
    ringlet_close(cl);
    fake_daemon_kill(d);
}

static struct ringlet_request nop(uint64_t tag)
{
    struct ringlet_request req;
    ringlet_request_init(&req);
    req.op = RINGLET_OP_NOP;
    req.tag = tag;
    return req;
}

TEST(peek_shows_the_same_event_until_advance)
{
    struct ringlet_event a, b;
    open_session(NULL, 50000, 0);
    assert_int_equal(ringlet_peek(cl, &a), -EAGAIN);
    ringlet_advance(cl); /* nothing is shown: nothing happens */
    struct ringlet_request req = nop(1), req2 = nop(2);
    assert_ok(ringlet_submit(cl, &req, NULL));
    assert_ok(ringlet_submit(cl, &req2, NULL));
    assert_ok(ringlet_wait(cl, &a, RINGLET_FOREVER));
    assert_ok(ringlet_peek(cl, &b));
    assert_int_equal(b.tag, 1);
    assert_ok(ringlet_wait(cl, &b, 0));
    assert_int_equal(b.tag, 1);
    ringlet_advance(cl);
    assert_ok(ringlet_wait(cl, &b, RINGLET_FOREVER));
    assert_int_equal(b.tag, 2);
    ringlet_advance(cl);
    close_session();
}

TEST(wait_keeps_its_deadline)
{
    struct ringlet_event ev;
    for (int i = 0; i < 3; i++) {
        open_session(NULL, i == 0 ? 0 : i == 1 ? 50000 : RINGLET_FOREVER, 0);
        uint64_t before = doorbell_now_ns();
        assert_int_equal(ringlet_wait(cl, &ev, 0), -ETIMEDOUT);
        assert_int_equal(ringlet_wait(cl, &ev, before), -ETIMEDOUT);
        assert_int_equal(ringlet_wait(cl, &ev, before + 30000000), -ETIMEDOUT);
        assert_true(doorbell_now_ns() - before >= 30000000);
        close_session();
    }
}

TEST(wait_gives_up_on_a_daemon_that_stands_still)
{
    struct fake_options f = { .freeze = 1 };
    struct ringlet_event ev;
    for (int i = 0; i < 2; i++) {
        open_session(&f, i ? RINGLET_FOREVER : 0, 0);
        struct ringlet_request req = nop(1);
        assert_ok(ringlet_submit(cl, &req, NULL));
        uint64_t before = doorbell_now_ns();
        assert_int_equal(ringlet_wait(cl, &ev, RINGLET_FOREVER), -ETIMEDOUT);
        assert_true(doorbell_now_ns() - before >= 100000000);
        close_session();
    }
}

TEST(wait_loses_no_wakeup_with_random_sleeps_on_both_sides)
{
    struct fake_options f = { .random_sleep = 100000 };
    struct ringlet_event ev;
    uint64_t rand = harness_seed();
    open_session(&f, 20000, 0);
    for (uint64_t i = 0; i < 20000; i++) {
        struct ringlet_request req = nop(i);
        uint64_t n = 1 + harness_rand(&rand) % 3;
        for (uint64_t k = 0; k < n; k++)
            assert_ok(ringlet_submit(cl, &req, NULL));
        for (uint64_t k = 0; k < n; k++) {
            /* far beyond any scheduling delay, so a timeout is a lost wake-up */
            assert_ok(ringlet_wait(cl, &ev, doorbell_now_ns() + PATIENCE_MS * UINT64_C(1000000)));
            assert_int_equal(ev.tag, i);
            ringlet_advance(cl);
        }
        for (uint64_t spin = harness_rand(&rand) % 200; i % 7 == 0 && spin > 0; spin--)
            compiler_barrier();
    }
    assert_true(fake_daemon_bells(d) > 0);
    close_session();
}

TEST(no_bell_is_rung_while_the_daemon_is_awake)
{
    struct fake_options f = { .spin_ns = RINGLET_FOREVER };
    struct ringlet_event ev;
    open_session(&f, RINGLET_FOREVER, 0);
    struct ringlet_request req = nop(0);
    assert_ok(ringlet_submit(cl, &req, NULL));
    assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
    ringlet_advance(cl);
    uint64_t bells = fake_daemon_bells(d);
    /* On one CPU a round trip of two that spin takes as long as the scheduler lets each of them. */
    uint64_t until = doorbell_now_ns() + 10 * UINT64_C(1000000000);
    for (int i = 0; i < 5000 && (i < 100 || doorbell_now_ns() < until); i++) {
        assert_ok(ringlet_submit(cl, &req, NULL));
        assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
        ringlet_advance(cl);
    }
    assert_int_equal(fake_daemon_bells(d), bells);
    close_session();
}

TEST(arm_and_poll_see_every_event)
{
    struct ringlet_event ev;
    struct fake_options f = { .random_sleep = 50000 };
    open_session(&f, 0, 0);
    struct pollfd pfd = { .fd = ringlet_fd(cl), .events = POLLIN };
    for (uint64_t i = 0; i < 3000; i++) {
        struct ringlet_request req = nop(i);
        assert_ok(ringlet_submit(cl, &req, NULL));
        int got = 0;
        while (!got) {
            int armed = ringlet_arm(cl);
            if (armed == 0)
                assert_int_equal(poll(&pfd, 1, PATIENCE_MS), 1);
            else
                assert_int_equal(armed, -EALREADY);
            if (ringlet_peek(cl, &ev) == 0) {
                assert_int_equal(ev.tag, i);
                ringlet_advance(cl);
                got = 1;
            }
        }
    }
    /* With nothing coming the descriptor falls silent: no busy loop. */
    assert_int_equal(ringlet_arm(cl), 0);
    if (poll(&pfd, 1, 0) == 1) { /* one late bell may be left */
        assert_int_equal(ringlet_peek(cl, &ev), -EAGAIN);
        assert_int_equal(ringlet_arm(cl), 0);
        assert_int_equal(poll(&pfd, 1, 20), 0);
    }
    close_session();
}

TEST(armed_descriptor_tells_the_death)
{
    struct ringlet_event ev;
    open_session(NULL, 0, 0);
    struct pollfd pfd = { .fd = ringlet_fd(cl), .events = POLLIN };
    assert_int_equal(ringlet_arm(cl), 0);
    fake_daemon_kill(d);
    assert_int_equal(poll(&pfd, 1, PATIENCE_MS), 1);
    assert_true(pfd.revents & POLLHUP);
    assert_int_equal(ringlet_wait(cl, &ev, RINGLET_FOREVER), -EPIPE);
    assert_int_equal(ringlet_wait(cl, &ev, RINGLET_FOREVER), -EPIPE);
    assert_int_equal(ringlet_arm(cl), -EALREADY);
    struct ringlet_request req = nop(0);
    assert_int_equal(ringlet_submit(cl, &req, NULL), -EPIPE);
    ringlet_close(cl);
}

TEST(polling_peek_sees_the_death_too)
{
    struct ringlet_event ev;
    open_session(NULL, 0, 0);
    fake_daemon_kill(d);
    int error;
    while ((error = ringlet_peek(cl, &ev)) == -EAGAIN)
        ;
    assert_int_equal(error, -EPIPE);
    ringlet_close(cl);
}

static int spoil;

static int spoil_cqe(struct ringlet_cqe *e)
{
    switch (spoil) {
    case 0:
        e->kind = 0;
        break;
    case 1:
        e->kind = 5;
        break;
    case 2:
        e->flags |= 8;
        break;
    case 3:
        e->slot = 64;
        break;
    case 4:
        e->slot = 1;
        break;
    case 5:
        e->generation++;
        break;
    case 6:
        e->kind = RINGLET_KIND_ACCEPTED;
        break; /* with END */
    case 7:
        *e = (struct ringlet_cqe){ .kind = RINGLET_KIND_TOKENS,
                                   .slot = e->slot,
                                   .generation = e->generation,
                                   .n_token = 255,
                                   .span_off = 128 * 1024 - 8 };
        break;
    case 8:
        *e = (struct ringlet_cqe){ .kind = RINGLET_KIND_TOKENS,
                                   .slot = e->slot,
                                   .generation = e->generation,
                                   .span_off = 0xFFFFFFF8u,
                                   .text_bytes = 16 };
        break;
    case 9:
        *e = (struct ringlet_cqe){ .kind = RINGLET_KIND_TOKENS,
                                   .slot = e->slot,
                                   .generation = e->generation,
                                   .span_off = 4,
                                   .text_bytes = 16 };
        break;
    case 10:
        *e = (struct ringlet_cqe){ .kind = RINGLET_KIND_TOKENS,
                                   .flags = RINGLET_CQE_INLINE,
                                   .slot = e->slot,
                                   .generation = e->generation,
                                   .text_bytes = 17 };
        break;
    }
    return 0;
}

TEST(impossible_events_end_the_session_not_the_program)
{
    for (spoil = 0; spoil <= 10; spoil++) {
        struct fake_options f = { .cqe_hook = spoil_cqe };
        struct ringlet_event ev;
        open_session(&f, 0, 0);
        struct ringlet_request req = nop(5);
        assert_ok(ringlet_submit(cl, &req, NULL));
        assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
        assert_int_equal(ev.reason, RINGLET_REASON_DAEMON_LOST);
        assert_int_equal(ev.tag, 5);
        ringlet_advance(cl);
        assert_int_equal(ringlet_wait(cl, &ev, RINGLET_FOREVER), -EPROTO);
        assert_int_equal(ringlet_submit(cl, &req, NULL), -EPROTO);
        close_session();
    }
}

TEST(a_reader_that_is_far_behind_loses_nothing)
{
    char prompt[4000];
    struct ringlet_event ev;
    open_session(NULL, 0, 0);
    for (size_t i = 0; i < sizeof(prompt); i++)
        prompt[i] = (char)('a' + i % 26);
    struct ringlet_request req;
    ringlet_request_init(&req);
    req.text = prompt;
    req.text_bytes = sizeof(prompt);
    for (uint64_t i = 0; i < 64; i++) { /* 64 * 200 events: far more than ring and arena hold */
        req.tag = i;
        assert_ok(ringlet_submit(cl, &req, NULL));
    }
    size_t seen[64] = { 0 };
    for (int ends = 0; ends < 64;) {
        assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
        assert_int_equal(ev.position, ev.kind == RINGLET_KIND_TOKENS ? seen[ev.tag] : ev.position);
        assert_memory_equal(ev.text, prompt + seen[ev.tag], ev.text_bytes);
        seen[ev.tag] += ev.text_bytes;
        ends += ev.flags & RINGLET_CQE_END ? 1 : 0;
        ringlet_advance(cl);
    }
    for (int i = 0; i < 64; i++)
        assert_int_equal(seen[i], sizeof(prompt));
    close_session();
}

enum { THREADS = 4, EACH = 3000 };
static uint32_t ended[THREADS * EACH];
static uint32_t n_ended;

static void *share(void *arg)
{
    uint64_t base = (uint64_t)(uintptr_t)arg * EACH, sent = 0;
    struct ringlet_event ev;
    while (load_once(&n_ended) < THREADS * EACH) {
        struct ringlet_request req = nop(base + sent);
        if (sent < EACH && ringlet_submit(cl, &req, NULL) == 0)
            sent++;
        if (ringlet_wait(cl, &ev, doorbell_now_ns() + 1000000) == 0) {
            __atomic_add_fetch(&ended[ev.tag], 1, __ATOMIC_RELAXED);
            __atomic_add_fetch(&n_ended, 1, __ATOMIC_RELAXED);
            ringlet_advance(cl);
        }
    }
    return NULL;
}

TEST(shared_session_serves_many_threads)
{
    pthread_t threads[THREADS];
    open_session(NULL, 20000, RINGLET_SHARED);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, share, (void *)i), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < THREADS * EACH; i++)
        assert_int_equal(ended[i], 1);
    close_session();
}
