/*
 * One ring of 64-byte entries with one writer and one reader, as both sides of the wire use it. An
 * entry carries its own running number, so the shared memory holds no tail: the writer stores bytes
 * 8..63, then the publication word (bytes 0..7, with the number + 1 in its low half) with release;
 * the reader waits for that word with acquire. How far the reader came is told by a word elsewhere
 * (sq_head in DOWN, cq_head in UP). Cursors of record are private; shared words are hints that are
 * checked before use.
 *
 *     number n lives in slot n mod N      word 0, low half: n + 1 = published
 *                                                           n + 1 - N = not yet (an older entry)
 *                                                           0 = not yet (fresh or punched page)
 *                                                           anything else = the peer is broken
 *
 * Everything here is inline: one push or take is about ten instructions and no call.
 */
#ifndef RINGLET_SHM_RING_H
#define RINGLET_SHM_RING_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/assert.h"
#include "base/atomics.h"
#include "base/compiler.h"
#include "ringlet_abi.h"
#include "shm/peer.h"

/* A private entry: filled by the caller before a put, by the ring at a take. */
union ring_entry {
    struct ringlet_sqe sqe;
    struct ringlet_cqe cqe;
    uint64_t word[RINGLET_ENTRY_BYTES / 8];
};

/* The writer's private side. */
struct ring_writer {
    uint64_t *words; /* shared: N entries of 8 words */
    uint32_t mask;   /* N - 1 */
    uint32_t tail;   /* running number of the next entry */
    uint32_t head;   /* the reader's, as last seen and checked */
};

/* The reader's private side. */
struct ring_reader {
    const uint64_t *words;
    uint32_t mask;
    uint32_t head; /* running number of the next entry */
};

/*
 * Prepare the shared slots for a ring whose first running number is `start`. The side that owns the
 * memory does it once, before the peer sees it.
 *
 *   words     64 * n_entry bytes, 64-aligned, all zero
 *   n_entry   power of two
 */
void ring_format(uint64_t *words, uint32_t n_entry, uint32_t start);

void ring_writer_init(struct ring_writer *w, uint64_t *words, uint32_t n_entry, uint32_t start);
void ring_reader_init(struct ring_reader *r, const uint64_t *words, uint32_t n_entry,
                      uint32_t start);

/* Entries that may be put without asking for a fresher head. */
static inline uint32_t ring_writer_free(const struct ring_writer *w)
{
    return w->mask + 1 - (w->tail - w->head);
}

/*
 * Take notice of the reader's head, as loaded (with acquire) from the peer's memory.
 *
 * Returns: 0; -EPROTO it runs backwards or ahead of what was put: the peer is broken.
 */
static inline int ring_writer_see_head(struct ring_writer *w, uint32_t head)
{
    if (unlikely(head - w->head > w->tail - w->head))
        return -EPROTO;
    w->head = head;
    return 0;
}

/*
 * Publish the entry of a number that ring_writer_reserve gave; its seq is filled in here.
 *
 *   e   private; the rest of word 0 (op, flags, slot or kind, flags, reason) as set; not changed
 */
static inline void ring_writer_put_at(const struct ring_writer *w, uint32_t number,
                                      const union ring_entry *e)
{
    uint64_t *to = w->words + (size_t)(number & w->mask) * 8;
    uint64_t w0 = (e->word[0] & ~(uint64_t)UINT32_MAX) | (uint32_t)(number + 1);
    uint64_t w1 = e->word[1], w2 = e->word[2], w3 = e->word[3];
    uint64_t w4 = e->word[4], w5 = e->word[5], w6 = e->word[6], w7 = e->word[7];
    /* All eight are at hand before the first is stored: a reader that polls the line would take it
     * away between two stores that do not follow each other at once. */
    __asm__ volatile("" : "+r"(w0), "+r"(w1), "+r"(w2), "+r"(w3));
    __asm__ volatile("" : "+r"(w4), "+r"(w5), "+r"(w6), "+r"(w7));
    store_once(to + 1, w1);
    store_once(to + 2, w2);
    store_once(to + 3, w3);
    store_once(to + 4, w4);
    store_once(to + 5, w5);
    store_once(to + 6, w6);
    store_once(to + 7, w7);
    store_release(to, w0); /* pairs with peer_load_acquire in ring_reader_take */
}

/*
 * The number of the next entry. The caller knows that one is free. A batch is fastest when its
 * first entry is put last: the reader, which goes in order, then finds all of them there at once
 * and does not fight for lines that are still being written.
 */
static inline uint32_t ring_writer_reserve(struct ring_writer *w)
{
    assert_slow(ring_writer_free(w) > 0);
    return w->tail++;
}

/*
 * Before a batch: ask for the lines of its n entries all at once, instead of waiting for one after
 * the other to come back from the reader. For a lone entry it would only cost.
 */
static inline void ring_writer_ahead(const struct ring_writer *w, uint32_t n)
{
    for (uint32_t i = 1; i < n && i <= 32; i++)
        prefetch_write(w->words + (size_t)((w->tail + i) & w->mask) * 8);
}

/*
 * After a lone entry: the next one's line may come while its answer is waited for. It stays with us
 * if the reader does not look too early (pace.h).
 */
static inline void ring_writer_next(const struct ring_writer *w)
{
    prefetch_write(w->words + (size_t)(w->tail & w->mask) * 8);
}

/*
 * Publish one entry. The caller knows that one is free, and after a batch it does the bell test
 * (doorbell.h).
 */
static inline void ring_writer_put(struct ring_writer *w, const union ring_entry *e)
{
    ring_writer_put_at(w, ring_writer_reserve(w), e);
}

/*
 * Is there an entry? Looks at its publication word only.
 *
 * Returns: 1 yes; 0 none yet; -EPROTO an impossible running number: the peer is broken.
 */
static inline int ring_reader_ready(const struct ring_reader *r)
{
    const uint64_t *from = r->words + (size_t)(r->head & r->mask) * 8;
    uint32_t seq = (uint32_t)peer_load_acquire(from); /* pairs with store_release in put */
    if (seq == r->head + 1)
        return 1;
    if (likely(seq == r->head - r->mask || seq == 0))
        return 0;
    return -EPROTO;
}

/*
 * As ring_reader_take, but an entry whose word 0 has any of these bits stays where it is.
 *
 * Returns: 1 taken; 0 none yet; -EAGAIN there is one, not taken; -EPROTO.
 */
static inline int ring_reader_take_if(struct ring_reader *r, uint64_t without,
                                      union ring_entry *ret_e)
{
    const uint64_t *from = r->words + (size_t)(r->head & r->mask) * 8;
    uint64_t word = peer_load_acquire(from); /* pairs with store_release in ring_writer_put */
    uint32_t seq = (uint32_t)word;
    if (unlikely(seq != r->head + 1))
        return seq == r->head - r->mask || seq == 0 ? 0 : -EPROTO;
    if (word & without)
        return -EAGAIN;
    ret_e->word[0] = word;
    ret_e->word[1] = peer_load(from + 1);
    ret_e->word[2] = peer_load(from + 2);
    ret_e->word[3] = peer_load(from + 3);
    ret_e->word[4] = peer_load(from + 4);
    ret_e->word[5] = peer_load(from + 5);
    ret_e->word[6] = peer_load(from + 6);
    ret_e->word[7] = peer_load(from + 7);
    compiler_barrier();
    r->head++;
    return 1;
}

/*
 * Copy the next entry out and step over it: exactly eight loads, each word once. The peer may still
 * be writing (if it is broken), so only the copy may be looked at from here on.
 *
 *   ret_e   private copy; untouched when there is none
 *
 * Returns: 1 taken; 0 none yet; -EPROTO an impossible running number.
 */
static inline int ring_reader_take(struct ring_reader *r, union ring_entry *ret_e)
{
    return ring_reader_take_if(r, 0, ret_e);
}

#endif
