/*
 * The one ordering that x86 does not give for free: a store before a load of another word. A
 * publisher puts an entry and looks whether the reader sleeps; the reader says that it sleeps and
 * looks for an entry. If both look too early the wake-up is lost. Built twice over the real ring
 * code: with the fence nothing may be lost; with RINGLET_NO_FENCE the loss must show, or this test
 * could not tell.
 *
 *     litmus [ITERATIONS]    exit 0 as it must be, 1 not, 77 one CPU
 *                            default two million, a hundred with RINGLET_TEST_LONG=1; without
 *                            the fence twenty times as many at most, until one is lost
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "shm/doorbell.h"
#include "shm/ring.h"

enum { N = 16 };

static struct {
    uint64_t words[N * 8] aligned_to(128);
    uint32_t wait_word aligned_to(128);
    uint64_t turn[2][16] aligned_to(128);
    uint32_t rang[2] aligned_to(128);
} shared;

static uint64_t n_iteration, n_lost, n_both;

static void pin(int nth)
{
    cpu_set_t all, one;
    CPU_ZERO(&one);
    if (sched_getaffinity(0, sizeof(all), &all) != 0)
        return;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &all) && nth-- == 0)
            CPU_SET(cpu, &one);
    (void)sched_setaffinity(0, sizeof(one), &one);
}

/* Both sides meet; the other CPU may be busy with something else for a while. */
static void meet(int me, uint64_t turn)
{
    store_release(&shared.turn[me][0], turn); /* pairs with the other side's load below */
    for (unsigned spins = 0; load_acquire(&shared.turn[!me][0]) < turn; spins++) {
        cpu_relax();
        if (spins % 4096 == 4095)
            sched_yield();
    }
}

static void jitter(uint64_t *rand)
{
    *rand = *rand * 6364136223846793005u + 1442695040888963407u;
    for (unsigned n = (unsigned)(*rand >> 60); n > 0; n--)
        compiler_barrier();
}

static void *publisher(void *arg)
{
    struct ring_writer w;
    struct wait_watch watch;
    uint64_t rand = 1;
    (void)arg;
    pin(0);
    ring_writer_init(&w, shared.words, N, RINGLET_SEQ_START);
    wait_watch_init(&watch, &shared.wait_word);
    for (uint64_t i = 1; i <= n_iteration; i++) {
        union ring_entry e = { .sqe = { .tag = i } };
        meet(0, 2 * i);
        jitter(&rand);
        ring_writer_put(&w, &e);
        full_fence();
        uint32_t rang = wait_watch_must_ring(&watch);
        store_once(&shared.rang[i & 1], rang);
        meet(0, 2 * i + 1);
        (void)ring_writer_see_head(&w, w.tail);
    }
    return NULL;
}

static void reader(void)
{
    struct ring_reader r;
    struct wait_word word;
    union ring_entry e;
    uint64_t rand = 2;
    pin(1);
    ring_reader_init(&r, shared.words, N, RINGLET_SEQ_START);
    wait_word_init(&word, &shared.wait_word);
    for (uint64_t i = 1; i <= n_iteration; i++) {
        meet(1, 2 * i);
        jitter(&rand);
        wait_word_announce(&word);
        int seen = ring_reader_ready(&r);
        meet(1, 2 * i + 1);
        uint32_t rang = load_once(&shared.rang[i & 1]);
        n_lost += !seen && !rang;
        n_both += seen && rang;
        if (ring_reader_take(&r, &e) != 1 || e.sqe.tag != i)
            abort();
        wait_word_withdraw(&word);
    }
}

static int meet_often(void)
{
    pthread_t thread;
    memset(&shared, 0, sizeof(shared));
    ring_format(shared.words, N, RINGLET_SEQ_START);
    if (pthread_create(&thread, NULL, publisher, NULL) != 0)
        return -1;
    reader();
    pthread_join(thread, NULL);
    return 0;
}

int main(int argc, char **argv)
{
    cpu_set_t all;
    int rounds = 1, n_round = 0;
    if (sched_getaffinity(0, sizeof(all), &all) != 0 || CPU_COUNT(&all) < 2) {
        puts("tests: 0 passed, 0 failed, 1 skipped (one CPU)");
        return 77;
    }
    const char *text = getenv("RINGLET_TEST_LONG");
    uint64_t usual = text && strcmp(text, "1") == 0 ? 100000000 : 2000000;
    n_iteration = argc > 1 ? strtoull(argv[1], NULL, 10) : usual;
#ifdef RINGLET_NO_FENCE
    rounds = 200; /* a busy machine seldom has both sides on their CPUs at once: until one loses */
    n_iteration = n_iteration / 10 + 1;
#endif
    for (; n_round < rounds && n_lost == 0; n_round++)
        if (meet_often() < 0)
            return 1;
#ifdef RINGLET_NO_FENCE
    int ok = n_lost > 0;
    const char *kind = "without the fence, must lose";
#else
    int ok = n_lost == 0;
    const char *kind = "with the fence, must not lose";
#endif
    printf("%llu iterations %s: %llu wake-ups lost, %llu seen by both\n",
           (unsigned long long)n_iteration * (unsigned)n_round, kind, (unsigned long long)n_lost,
           (unsigned long long)n_both);
    printf("tests: %d passed, %d failed, 0 skipped\n", ok, !ok);
    return !ok;
}
