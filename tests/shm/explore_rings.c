/*
 * The ring code itself (shm/ring.h, doorbell.h, span.h, span.c) under the explorer: every order of
 * its loads and stores that C11 allows, in small. The true code must pass each scenario to the end;
 * with one ordering taken out, or the publication word stored first, the same scenario must fail,
 * or it could not tell.
 *
 *     explore_rings        RINGLET_TEST_LONG=1: more entries
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "shm/doorbell.h"
#include "shm/ring.h"
#include "shm/span.h"
#include "tests/shm/explorer.h"

enum { N_MAX = 4, ARENA = 16, PIECE = 2, BELL = 0, CREDIT_BELL = 1, START = -3 };

/* What lies in shared memory. */
static struct {
    uint64_t words[2][N_MAX * 8] aligned_to(64);
    uint32_t head, wait[2], credit, cancel, cancel_seq;
    unsigned char arena[ARENA];
} shared;

/* Private to the writer's side, the reader's side. */
static struct ring_writer writer[2];
static struct ring_reader reader[2];
static struct wait_watch watch[2];
static struct wait_word word[2];
static struct span_arena arena;
static uint64_t arena_ends[N_MAX];
static uint32_t n_slot, n_entry, told;
static bool head_early; /* planted in the scenario: freed before it is copied */

static void reset(void)
{
    memset(&shared, 0, sizeof(shared));
    shared.head = (uint32_t)START;
    for (int i = 0; i < 2; i++) {
        ring_format(shared.words[i], n_slot, (uint32_t)START);
        ring_writer_init(&writer[i], shared.words[i], n_slot, (uint32_t)START);
        ring_reader_init(&reader[i], shared.words[i], n_slot, (uint32_t)START);
        wait_word_init(&word[i], &shared.wait[i]);
        wait_watch_init(&watch[i], &shared.wait[i]);
    }
    span_arena_init(&arena, ARENA, arena_ends, n_slot, (uint32_t)START);
    told = (uint32_t)START;
}

/* ---- Entries: all words of one tell which it is ---- */

static uint64_t mark(uint32_t nth, unsigned i)
{
    return (uint64_t)(nth + 1) << 32 | i;
}

static void put(int ring, uint32_t nth)
{
    union ring_entry e;
    e.word[0] = 0;
    for (unsigned i = 1; i < 8; i++)
        e.word[i] = mark(nth, i);
    ring_writer_put(&writer[ring], &e);
}

/* 1 taken, 0 none. */
static int take(int ring, uint32_t nth)
{
    union ring_entry e;
    int n = ring_reader_take(&reader[ring], &e);
    explore_assert(n >= 0, "an impossible running number");
    for (unsigned i = 1; n == 1 && i < 8; i++)
        explore_assert(e.word[i] == mark(nth, i), "an entry is torn, stale or out of order");
    return n;
}

static void await(int ring, uint32_t nth)
{
    while (take(ring, nth) == 0)
        explore_pause();
}

/* ---- Put and take; the ring does not fill ---- */

static void putting(void)
{
    for (uint32_t i = 0; i < n_entry; i++)
        put(0, i);
}

static void taking(void)
{
    for (uint32_t i = 0; i < n_entry; i++)
        await(0, i);
}

/* ---- Wrap: the writer waits for the head, the numbers pass 2^32 ---- */

static void wrap_putting(void)
{
    for (uint32_t i = 0; i < n_entry; i++) {
        while (ring_writer_free(&writer[0]) == 0) {
            uint32_t head = load_acquire(&shared.head);
            explore_assert(ring_writer_see_head(&writer[0], head) == 0, "head ahead of the tail");
            if (ring_writer_free(&writer[0]) == 0)
                explore_pause();
        }
        put(0, i);
    }
}

static void wrap_taking(void)
{
    for (uint32_t i = 0; i < n_entry; i++) {
        while (head_early && ring_reader_ready(&reader[0]) == 0)
            explore_pause();
        if (head_early)
            store_release(&shared.head, reader[0].head + 1);
        await(0, i);
        store_release(&shared.head, reader[0].head); /* pairs with load_acquire in wrap_putting */
    }
}

/* ---- Sleep and wake: one publisher, or two with one sleeper that fences once ---- */

/* Entries of each: three threads have many orders. */
static uint32_t n_of(int ring)
{
    return ring == 0 ? n_entry : 1;
}

static void publish(int ring)
{
    for (uint32_t i = 0; i < n_of(ring); i++) {
        put(ring, i);
        full_fence(); /* pairs with the sleeper's */
        if (wait_watch_must_ring(&watch[ring]))
            explore_ring(BELL);
    }
}

static void publishing(void)
{
    publish(0);
}

static void publishing_too(void)
{
    publish(1);
}

static void sleeping(void)
{
    for (uint32_t i = 0; i < n_entry;) {
        if (take(0, i) == 1) {
            i++;
            continue;
        }
        wait_word_announce(&word[0]);
        if (ring_reader_ready(&reader[0]) == 0)
            explore_wait(BELL);
        wait_word_withdraw(&word[0]);
    }
}

static void sleeping_for_two(void)
{
    uint32_t got[2] = { 0, 0 };
    while (got[0] + got[1] < n_of(0) + n_of(1)) {
        bool any = false;
        for (int k = 0; k < 2; k++)
            if (got[k] < n_of(k) && take(k, got[k]) == 1) {
                got[k]++;
                any = true;
            }
        if (any)
            continue;
        for (int k = 0; k < 2; k++)
            wait_word_announce_unfenced(&word[k]);
        full_fence(); /* one for all words; pairs with the publishers' */
        if (ring_reader_ready(&reader[0]) == 0 && ring_reader_ready(&reader[1]) == 0)
            explore_wait(BELL);
        for (int k = 0; k < 2; k++)
            wait_word_withdraw(&word[k]);
    }
}

/* ---- Credit: the writer sleeps until the reader tells its head ---- */

static void crediting(void)
{
    struct wait_word credit;
    wait_word_init(&credit, &shared.credit);
    for (uint32_t i = 0; i < n_entry; i++) {
        while (ring_writer_free(&writer[0]) == 0) {
            wait_word_announce(&credit);                /* a new epoch each time */
            uint32_t head = load_acquire(&shared.head); /* pairs with tell_head */
            explore_assert(ring_writer_see_head(&writer[0], head) == 0, "head ahead of the tail");
            if (ring_writer_free(&writer[0]) > 0)
                break;
            explore_wait(CREDIT_BELL);
        }
        put(0, i);
    }
}

static void tell_head(struct wait_watch *credit)
{
    told = reader[0].head;
    store_release(&shared.head, told); /* pairs with load_acquire in crediting */
    full_fence();                      /* pairs with the one in wait_word_announce */
    if (wait_watch_must_ring(credit))
        explore_ring(CREDIT_BELL);
}

/* As client/reap.c: after n_slot entries, or when the ring is empty and somebody waits. */
static void consuming(void)
{
    struct wait_watch credit;
    wait_watch_init(&credit, &shared.credit);
    for (uint32_t i = 0; i < n_entry; i++) {
        while (take(0, i) == 0) {
            if (told != reader[0].head)
                tell_head(&credit);
            else
                explore_pause();
        }
        if (reader[0].head - told >= n_slot)
            tell_head(&credit);
    }
}

/* ---- Cancel: a word, then its number, then the bell test ---- */

static void cancelling(void)
{
    put(0, 0);
    store_once(&shared.cancel, 7);
    store_release(&shared.cancel_seq, 1); /* pairs with load_acquire in cancelled */
    full_fence();                         /* pairs with the sleeper's */
    if (wait_watch_must_ring(&watch[0]))
        explore_ring(BELL);
}

static void cancelled(void)
{
    bool taken = false, seen = false;
    while (!taken || !seen) {
        if (!taken)
            taken = take(0, 0) == 1;
        if (!seen && load_acquire(&shared.cancel_seq) == 1) {
            explore_assert(load_once(&shared.cancel) == 7, "the cancel's word is not there yet");
            seen = true;
        }
        if (taken && seen)
            break;
        wait_word_announce(&word[0]);
        bool more = (!taken && ring_reader_ready(&reader[0]) != 0) ||
                    (!seen && load_acquire(&shared.cancel_seq) == 1);
        if (!more)
            explore_wait(BELL);
        wait_word_withdraw(&word[0]);
    }
}

/* ---- Spans: bytes beside the ring, freed in entry order ---- */

static unsigned char byte_of(uint32_t nth, uint32_t k)
{
    return (unsigned char)(16 * (nth + 1) + k);
}

static void span_putting(void)
{
    for (uint32_t i = 0; i < n_entry; i++) {
        uint32_t off;
        while (ring_writer_free(&writer[0]) == 0 || span_arena_take(&arena, PIECE, &off) != 0) {
            uint32_t before = writer[0].head, head = load_acquire(&shared.head);
            explore_assert(ring_writer_see_head(&writer[0], head) == 0, "head ahead of the tail");
            span_arena_free_to(&arena, head);
            if (head == before)
                explore_pause();
        }
        for (uint32_t k = 0; k < PIECE; k++)
            store_once(&shared.arena[off + k], byte_of(i, k));
        uint32_t number = ring_writer_reserve(&writer[0]);
        span_arena_put(&arena, number);
        union ring_entry e = { .word = { 0, off, 2, 3, 4, 5, 6, 7 } };
        ring_writer_put_at(&writer[0], number, &e);
    }
}

static void span_taking(void)
{
    for (uint32_t i = 0; i < n_entry; i++) {
        unsigned char bytes[PIECE];
        union ring_entry e = { 0 };
        while (ring_reader_take(&reader[0], &e) == 0)
            explore_pause();
        if (head_early)
            store_release(&shared.head, reader[0].head);
        int error = span_fetch(bytes, shared.arena, ARENA, (uint32_t)e.word[1], PIECE, 8);
        explore_assert(error == 0, "a span outside of the arena");
        for (uint32_t k = 0; k < PIECE; k++)
            explore_assert(bytes[k] == byte_of(i, k), "a span's byte is stale or overwritten");
        store_release(&shared.head, reader[0].head); /* pairs with load_acquire in span_putting */
    }
}

/* ---- What is run ---- */

#define RING shared.words[0], sizeof(shared.words[0])
#define SEQ  &shared.cancel_seq, sizeof(shared.cancel_seq)

struct scenario {
    const char *name;
    void (*threads[EXPLORE_THREADS])(void);
    uint32_t n_slot, n_entry, n_entry_long;
    struct {
        const char *name;
        struct explore_fault fault;
        bool head_early;
    } faults[6];
};

static const struct scenario scenarios[] = {
    { "put, take",
      { putting, taking },
      4,
      3,
      4,
      { { "publication relaxed", { EXPLORE_NO_RELEASE, 0, RING }, false },
        { "publication word first", { EXPLORE_PUBLISH_FIRST, 0, RING }, false },
        { "load of it relaxed", { EXPLORE_NO_ACQUIRE, 0, RING }, false } } },
    { "put, take over the wrap",
      { wrap_putting, wrap_taking },
      2,
      4,
      5,
      { { "publication relaxed", { EXPLORE_NO_RELEASE, 0, RING }, false },
        { "publication word first", { EXPLORE_PUBLISH_FIRST, 0, RING }, false },
        { "head told before the copy", { EXPLORE_SOUND, 0, NULL, 0 }, true } } },
    { "sleep, wake",
      { publishing, sleeping },
      4,
      2,
      3,
      { { "no fence, publisher", { EXPLORE_NO_FENCE, 0, NULL, 0 }, false },
        { "no fence, sleeper", { EXPLORE_NO_FENCE, 1, NULL, 0 }, false },
        { "publication relaxed", { EXPLORE_NO_RELEASE, 0, RING }, false } } },
    { "sleep, wake, two sessions",
      { publishing, publishing_too, sleeping_for_two },
      2,
      1,
      2,
      { { "no fence, a publisher", { EXPLORE_NO_FENCE, 1, NULL, 0 }, false },
        { "no fence, sleeper", { EXPLORE_NO_FENCE, 2, NULL, 0 }, false } } },
    { "credit",
      { crediting, consuming },
      2,
      4,
      5,
      { { "no fence, writer", { EXPLORE_NO_FENCE, 0, NULL, 0 }, false },
        { "no fence, reader", { EXPLORE_NO_FENCE, 1, NULL, 0 }, false } } },
    { "cancel",
      { cancelling, cancelled },
      2,
      1,
      1,
      { { "cancel_seq relaxed", { EXPLORE_NO_RELEASE, 0, SEQ }, false },
        { "load of it relaxed", { EXPLORE_NO_ACQUIRE, 0, SEQ }, false },
        { "no fence, client", { EXPLORE_NO_FENCE, 0, NULL, 0 }, false },
        { "no fence, sleeper", { EXPLORE_NO_FENCE, 1, NULL, 0 }, false } } },
    { "spans",
      { span_putting, span_taking },
      2,
      3,
      5,
      { { "publication relaxed", { EXPLORE_NO_RELEASE, 0, RING }, false },
        { "freed before the copy", { EXPLORE_SOUND, 0, NULL, 0 }, true } } },
};

static bool run(const struct scenario *s, const char *fault_name, const struct explore_fault *fault,
                bool early)
{
    struct explore_plan plan = { .reset = reset, .runs_max = 200000000 };
    struct explore_result r;
    memcpy(plan.threads, s->threads, sizeof(plan.threads));
    if (fault)
        plan.fault = *fault;
    head_early = early;
    explore(&plan, &r);
    bool ok = fault_name ? r.failed : r.complete && !r.failed;
    printf("%s%s%s: %llu runs, %llu given up as equal, %llu steps, %s%s: %s\n", s->name,
           fault_name ? ", planted: " : "", fault_name ? fault_name : "",
           (unsigned long long)r.runs, (unsigned long long)r.pruned, (unsigned long long)r.steps,
           r.failed     ? "fails: "
           : r.complete ? "all orders"
                        : "not complete",
           r.failed ? r.why : "", ok ? "ok" : "FAILED");
    fflush(stdout);
    return ok;
}

int main(void)
{
    const char *text = getenv("RINGLET_TEST_LONG");
    bool thorough = text && strcmp(text, "1") == 0;
    int passed = 0, failed = 0;
    for (size_t i = 0; i < ARRAY_SIZE(scenarios); i++) {
        const struct scenario *s = &scenarios[i];
        n_slot = s->n_slot;
        n_entry = thorough ? s->n_entry_long : s->n_entry;
        bool ok = run(s, NULL, NULL, false);
        passed += ok;
        failed += !ok;
        for (size_t k = 0; k < ARRAY_SIZE(s->faults) && s->faults[k].name; k++) {
            ok = run(s, s->faults[k].name, &s->faults[k].fault, s->faults[k].head_early);
            passed += ok;
            failed += !ok;
        }
    }
    printf("tests: %d passed, %d failed, 0 skipped\n", passed, failed);
    return failed > 0;
}
