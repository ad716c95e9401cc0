/* The ring alone: order, wrap, broken peers, and two threads over one ring. */
#include "shm/ring.h"

#include <pthread.h>
#include <sched.h>

#include "tests/harness/harness.h"

enum { N = 16 };

struct pair {
    uint64_t words[N * 8] aligned_to(64);
    uint32_t head_word aligned_to(128);
    struct ring_writer w;
    struct ring_reader r;
};

static void open_pair(struct pair *p, uint32_t start)
{
    memset(p, 0, sizeof(*p));
    ring_format(p->words, N, start);
    ring_writer_init(&p->w, p->words, N, start);
    ring_reader_init(&p->r, p->words, N, start);
    p->head_word = start;
}

static void put_number(struct pair *p, uint64_t number)
{
    union ring_entry e = { .sqe = { .op = 1, .tag = number, .handle = ~number } };
    ring_writer_put(&p->w, &e);
}

TEST(ring_gives_entries_back_in_order_over_the_wrap)
{
    const uint32_t starts[] = { 0, RINGLET_SEQ_START, 0xFFFFFFFF - N, 0x7FFFFFFF };
    for (unsigned k = 0; k < ARRAY_SIZE(starts); k++) {
        struct pair p;
        union ring_entry e;
        open_pair(&p, starts[k]);
        uint64_t rand = harness_seed(), put = 0, taken = 0;
        while (taken < 5 * N) {
            for (uint64_t n = harness_rand(&rand) % (N + 1); n > 0 && ring_writer_free(&p.w); n--)
                put_number(&p, put++);
            for (uint64_t n = harness_rand(&rand) % (N + 1); n > 0 && taken < put; n--) {
                assert_int_equal(ring_reader_ready(&p.r), 1);
                assert_int_equal(ring_reader_take(&p.r, &e), 1);
                assert_int_equal(e.sqe.tag, taken);
                assert_int_equal(e.sqe.handle, ~taken);
                taken++;
            }
            if (taken == put)
                assert_int_equal(ring_reader_take(&p.r, &e), 0);
            assert_ok(ring_writer_see_head(&p.w, p.r.head));
        }
    }
}

TEST(ring_writer_knows_when_it_is_full)
{
    struct pair p;
    open_pair(&p, RINGLET_SEQ_START);
    for (int i = 0; i < N; i++) {
        assert_int_equal(ring_writer_free(&p.w), N - i);
        put_number(&p, 0);
    }
    assert_int_equal(ring_writer_free(&p.w), 0);
}

TEST(ring_writer_refuses_a_head_that_cannot_be)
{
    struct pair p;
    open_pair(&p, RINGLET_SEQ_START);
    for (int i = 0; i < 5; i++)
        put_number(&p, 0);
    assert_int_equal(ring_writer_see_head(&p.w, RINGLET_SEQ_START + 6), -EPROTO);
    assert_int_equal(ring_writer_see_head(&p.w, RINGLET_SEQ_START - 1), -EPROTO);
    assert_ok(ring_writer_see_head(&p.w, RINGLET_SEQ_START + 3));
    assert_int_equal(ring_writer_see_head(&p.w, RINGLET_SEQ_START + 2), -EPROTO);
    assert_ok(ring_writer_see_head(&p.w, RINGLET_SEQ_START + 5));
    assert_int_equal(ring_writer_free(&p.w), N);
}

TEST(ring_reader_tells_impossible_numbers_from_old_ones)
{
    struct pair p;
    union ring_entry e;
    open_pair(&p, 1000);
    uint64_t *word = &p.words[(1000 % N) * 8];
    *word = 0; /* a punched hole */
    assert_int_equal(ring_reader_take(&p.r, &e), 0);
    *word = 1002; /* the next lap's neighbour */
    assert_int_equal(ring_reader_take(&p.r, &e), -EPROTO);
    assert_int_equal(ring_reader_ready(&p.r), -EPROTO);
    *word = 1001 + N;
    assert_int_equal(ring_reader_take(&p.r, &e), -EPROTO);
    *word = 1001;
    assert_int_equal(ring_reader_take(&p.r, &e), 1);
}

enum { MANY = 200000 };

static void *write_many(void *arg)
{
    struct pair *p = arg;
    for (uint64_t i = 0; i < MANY; i++) {
        while (ring_writer_free(&p->w) == 0) {
            if (ring_writer_see_head(&p->w, load_acquire(&p->head_word)) < 0)
                return p;
            if (ring_writer_free(&p->w) == 0)
                sched_yield(); /* the reader may need this CPU */
        }
        put_number(p, i);
    }
    return NULL;
}

TEST(ring_carries_whole_entries_between_two_threads)
{
    static struct pair p;
    pthread_t writer;
    open_pair(&p, RINGLET_SEQ_START);
    assert_int_equal(pthread_create(&writer, NULL, write_many, &p), 0);
    union ring_entry e;
    for (uint64_t i = 0; i < MANY;) {
        int n = ring_reader_take(&p.r, &e);
        assert_true(n >= 0);
        if (n == 0) {
            sched_yield();
            continue;
        }
        assert_int_equal(e.sqe.tag, i);
        assert_int_equal(e.sqe.handle, ~i);
        i++;
        store_release(&p.head_word, p.r.head); /* pairs with load_acquire in write_many */
    }
    void *failed;
    pthread_join(writer, &failed);
    assert_null(failed);
}
