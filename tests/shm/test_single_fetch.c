/*
 * Built with RINGLET_LOAD_HOOK: every load from the peer's memory is counted. An entry costs
 * exactly eight, each word once; a span each byte once; and what the peer writes afterwards is not
 * seen.
 */
#include "shm/ring.h"
#include "shm/span.h"
#include "tests/harness/harness.h"

enum { N = 16 };

static uint64_t words[N * 8] aligned_to(64);
static const void *loaded[256];
static unsigned n_loaded;
static uint64_t *scribble; /* spoilt right after each load */

uint64_t ring_load_hook(const void *p, unsigned bytes)
{
    uint64_t value = 0;
    memcpy(&value, p, bytes);
    if (n_loaded < ARRAY_SIZE(loaded))
        loaded[n_loaded] = p;
    n_loaded++;
    if (scribble)
        memset(scribble, 0xA5, RINGLET_ENTRY_BYTES);
    return value;
}

TEST(an_entry_is_copied_by_eight_loads_of_eight_words)
{
    struct ring_writer w;
    struct ring_reader r;
    union ring_entry e = { 0 }, copy;
    ring_format(words, N, 0);
    ring_writer_init(&w, words, N, 0);
    ring_reader_init(&r, words, N, 0);
    for (unsigned i = 1; i < 8; i++)
        e.word[i] = i * 0x0101010101010101u;
    ring_writer_put(&w, &e);
    n_loaded = 0;
    assert_int_equal(ring_reader_take(&r, &copy), 1);
    assert_int_equal(n_loaded, 8);
    for (unsigned i = 0; i < 8; i++)
        for (unsigned k = 0; k < 8; k++)
            assert_int_equal(loaded[i] == &words[k], i == k);
    assert_memory_equal(&copy.word[1], &e.word[1], 56);
    n_loaded = 0;
    assert_int_equal(ring_reader_take(&r, &copy), 0);
    assert_int_equal(n_loaded, 1);
}

TEST(the_number_that_was_checked_is_the_one_in_the_copy)
{
    struct ring_writer w;
    struct ring_reader r;
    union ring_entry e = { 0 }, copy;
    ring_format(words, N, 0);
    ring_writer_init(&w, words, N, 0);
    ring_reader_init(&r, words, N, 0);
    e.sqe.op = 5;
    e.sqe.slot = 3;
    ring_writer_put(&w, &e);
    scribble = words; /* the peer writes again between our loads */
    assert_int_equal(ring_reader_take(&r, &copy), 1);
    scribble = NULL;
    assert_int_equal(copy.sqe.seq, 1);
    assert_int_equal(copy.sqe.op, 5);
    assert_int_equal(copy.sqe.slot, 3);
}

TEST(a_span_is_copied_by_one_load_per_byte)
{
    unsigned char arena[64], to[64];
    for (unsigned i = 0; i < sizeof(arena); i++)
        arena[i] = (unsigned char)i;
    n_loaded = 0;
    assert_ok(span_fetch(to, arena, sizeof(arena), 8, 40, 8));
    assert_int_equal(n_loaded, 40);
    for (unsigned i = 0; i < 40; i++)
        assert_ptr_equal(loaded[i], arena + 8 + i);
    assert_memory_equal(to, arena + 8, 40);
}
