/*
 * The one ordering that x86 does not give for free: a store before a load of another word. A
 * publisher puts an entry and looks whether the reader sleeps; the reader says that it sleeps and
 * looks for an entry. If both look too early the wake-up is lost. Built twice over the real ring
 * code: with the fence nothing may be lost; with RINGLET_NO_FENCE a loss says that this machine
 * shows the order at all. Where none shows (the two CPUs are one, or seldom run at once) the other
 * build's answer says little, and this one says that it could not tell: explore_rings.c, which
 * takes every order that C11 allows and must fail without each fence, needs no luck.
 *
 *     litmus [ITERATIONS]    default two million, or what fits in ten seconds; both many times that
 *                            with RINGLET_TEST_LONG=1; without the fence until one is lost
 *
 * exit 0 as it must be, 1 not, 77 one CPU, or none lost without the fence
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "shm/doorbell.h"
#include "shm/ring.h"

enum {
    N = 16,
    ROUND = 5000, /* meetings between two looks at the clock; on a busy machine some ms each */
    SECONDS = 10, /* then no further round is begun */
};

static struct {
    uint64_t words[N * 8] aligned_to(128);
    uint32_t wait_word aligned_to(128);
    uint64_t turn[2][16] aligned_to(128);
    uint32_t rang[2] aligned_to(128);
} shared;

static cpu_set_t cpus;
static uint64_t n_iteration, n_lost, n_both;

/* To the nth CPU of those that the process began with: a thread inherits its maker's one. */
static void pin(int nth)
{
    cpu_set_t one;
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &cpus) && nth-- == 0)
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

static int skip(const char *why)
{
    printf("tests: 0 passed, 0 failed, 1 skipped (%s)\n", why);
    return 77;
}

int main(int argc, char **argv)
{
    if (sched_getaffinity(0, sizeof(cpus), &cpus) != 0 || CPU_COUNT(&cpus) < 2)
        return skip("one CPU");
    const char *text = getenv("RINGLET_TEST_LONG");
    bool is_long = text && strcmp(text, "1") == 0;
    uint64_t n_most = argc > 1 ? strtoull(argv[1], NULL, 10) : is_long ? 100000000 : 2000000;
    uint64_t n_done = 0;
    time_t end = time(NULL) + (is_long ? 60 : 1) * SECONDS;
#ifdef RINGLET_NO_FENCE
    n_most = UINT64_MAX;
#endif
    for (n_iteration = ROUND; n_done < n_most && n_lost == 0 && time(NULL) < end;
         n_done += n_iteration)
        if (meet_often() < 0)
            return 1;
    printf("%llu iterations: %llu wake-ups lost, %llu seen by both\n", (unsigned long long)n_done,
           (unsigned long long)n_lost, (unsigned long long)n_both);
#ifdef RINGLET_NO_FENCE
    if (n_lost == 0)
        return skip("this machine shows no loss without the fence");
    int ok = 1;
#else
    int ok = n_lost == 0;
#endif
    printf("tests: %d passed, %d failed, 0 skipped\n", ok, !ok);
    return !ok;
}
