/*
 * The explorer on programs whose outcomes under C11 are known: what is allowed must be found, what
 * is forbidden must not, or its verdict on the rings is worth nothing.
 */
#include "tests/shm/explorer.h"

#include "base/atomics.h"
#include "tests/harness/harness.h"

static uint32_t a, b, got[4];
static bool found[16]; /* by the outcome's bits */
static bool fenced, ordered;

static void reset(void)
{
    a = b = 0;
    memset(got, 0, sizeof(got));
}

static void note(void)
{
    found[(got[0] & 1) | (got[1] & 1) << 1 | (got[2] & 1) << 2 | (got[3] & 1) << 3] = true;
}

static struct explore_result run(void (*t0)(void), void (*t1)(void), void (*t2)(void),
                                 void (*t3)(void))
{
    struct explore_plan plan = {
        .reset = reset, .threads = { t0, t1, t2, t3 }, .check = note, .runs_max = 1000000
    };
    struct explore_result r;
    memset(found, 0, sizeof(found));
    explore(&plan, &r);
    assert_true(r.complete);
    assert_false(r.failed);
    return r;
}

/* ---- Store buffering: a = 1; read b | b = 1; read a ---- */

static void store_a_load_b(void)
{
    store_release(&a, 1);
    if (fenced)
        full_fence();
    got[0] = load_acquire(&b);
}

static void store_b_load_a(void)
{
    store_release(&b, 1);
    if (fenced)
        full_fence();
    got[1] = load_acquire(&a);
}

TEST(both_stores_may_be_missed_unless_both_sides_fence)
{
    fenced = false;
    run(store_a_load_b, store_b_load_a, NULL, NULL);
    assert_true(found[0] && found[1] && found[2] && found[3]);
    fenced = true;
    run(store_a_load_b, store_b_load_a, NULL, NULL);
    assert_true(!found[0] && found[1] && found[2] && found[3]);
}

/* ---- The store buffer's forwarding: a thread reads its own store, nobody else can yet ---- */

static void store_a_load_a_b(void)
{
    store_once(&a, 1);
    got[0] = load_once(&a);
    if (fenced)
        full_fence();
    got[1] = load_once(&b);
}

static void store_b_load_b_a(void)
{
    store_once(&b, 1);
    got[2] = load_once(&b);
    if (fenced)
        full_fence();
    got[3] = load_once(&a);
}

TEST(own_stores_are_seen_before_they_leave_the_store_buffer)
{
    const int own = 1 | 4;
    for (int f = 0; f < 2; f++) {
        fenced = f;
        run(store_a_load_a_b, store_b_load_b_a, NULL, NULL);
        for (int i = 0; i < 16;
             i++) /* own stores always, the other's in any way but, fenced, none */
            assert_int_equal(found[i], (i & own) == own && !(fenced && i == own));
    }
}

/* ---- A delayed store: the sleeper's protocol in three lines, one fence or none ---- */

static void announce_look_block(void)
{
    store_once(&a, 1);
    if (fenced)
        full_fence();
    if (load_acquire(&b) == 0)
        explore_wait(0);
}

static void publish_look_ring(void)
{
    store_release(&b, 1);
    if (ordered)
        full_fence();
    if (load_once(&a))
        explore_ring(0);
}

TEST(a_wake_up_is_lost_unless_both_sides_fence)
{
    for (int fences = 0; fences < 4; fences++) {
        struct explore_plan plan = { .reset = reset,
                                     .threads = { announce_look_block, publish_look_ring },
                                     .runs_max = 1000 };
        struct explore_result r;
        fenced = fences & 1;
        ordered = fences & 2;
        explore(&plan, &r);
        assert_int_equal(r.failed, fences != 3);
        assert_int_equal(r.complete, fences == 3);
        if (r.failed)
            assert_non_null(strstr(r.why, "a wake-up is lost"));
    }
}

/* ---- Message passing: a = 1; b = 1 | read b; read a ---- */

static void send(void)
{
    store_once(&a, 1);
    if (ordered)
        store_release(&b, 1);
    else
        store_once(&b, 1);
}

static void receive(void)
{
    got[0] = load_acquire(&b);
    got[1] = load_once(&a);
}

TEST(a_message_is_seen_with_its_flag_only_if_the_flag_is_a_release)
{
    ordered = false;
    run(send, receive, NULL, NULL);
    assert_true(found[0] && found[1] && found[2] && found[3]);
    ordered = true;
    run(send, receive, NULL, NULL);
    assert_true(found[0] && !found[1] && found[2] && found[3]);
}

/* ---- One word: what was seen stays seen ---- */

static void store_twice(void)
{
    store_once(&a, 1);
    store_once(&a, 2);
}

static void load_thrice(void)
{
    for (int i = 0; i < 3; i++) {
        got[i] = load_once(&a);
        explore_assert(i == 0 || got[i] >= got[i - 1], "a word went back");
    }
}

TEST(a_word_does_not_go_back)
{
    struct explore_result r = run(store_twice, load_thrice, NULL, NULL);
    assert_true(r.runs >= 10); /* ten rising sequences of three out of 0, 1, 2 */
}

/* ---- Two readers of two writers: may they see them in different orders? ---- */

static void store_a(void)
{
    store_release(&a, 1);
}

static void store_b(void)
{
    store_release(&b, 1);
}

static void load_a_b(void)
{
    got[0] = load_acquire(&a);
    if (fenced)
        full_fence();
    got[1] = load_acquire(&b);
}

static void load_b_a(void)
{
    got[2] = load_acquire(&b);
    if (fenced)
        full_fence();
    got[3] = load_acquire(&a);
}

TEST(readers_agree_on_the_order_of_two_stores_only_with_fences)
{
    const int disagree = 1 | 4; /* a without b, b without a */
    fenced = false;
    run(store_a, store_b, load_a_b, load_b_a);
    assert_true(found[disagree]);
    fenced = true;
    run(store_a, store_b, load_a_b, load_b_a);
    assert_false(found[disagree]);
    for (int i = 0; i < 16; i++)
        assert_int_equal(found[i], i != disagree); /* everything else is still there */
}

/* ---- Bells, waiting, what fails ---- */

static void ring_it(void)
{
    store_once(&a, 1);
    explore_ring(2);
}

static void wait_for_it(void)
{
    explore_wait(2);
    explore_assert(load_once(&a) == 1, "a bell brings what was before it");
}

static void wait_twice(void)
{
    explore_wait(2);
    explore_wait(2);
}

static void poll_a(void)
{
    while (load_once(&a) == 0)
        explore_pause();
    got[0] = 1;
}

TEST(a_bell_wakes_once_and_a_poll_ends)
{
    run(ring_it, wait_for_it, NULL, NULL);
    run(store_a, poll_a, NULL, NULL);
    assert_true(found[1] && !found[0]);
    struct explore_plan plan = { .reset = reset,
                                 .threads = { ring_it, wait_twice },
                                 .runs_max = 100 };
    struct explore_result r;
    explore(&plan, &r);
    assert_true(r.failed);
    assert_non_null(strstr(r.why, "nobody can go on"));
}
