/* Set-up of the rings; the moving parts are inline in ring.h. */
#include "shm/ring.h"

#include "base/bits.h"

void ring_format(uint64_t *words, uint32_t n_entry, uint32_t start)
{
    assert(is_pow2(n_entry));
    /* A ring that starts at 0 needs nothing: zero means "not yet" there for a whole lap. */
    for (uint32_t i = 0; i < n_entry; i++) {
        uint32_t number = start + i;
        uint64_t before = (uint32_t)(number + 1 - n_entry);
        store_once(words + (size_t)(number & (n_entry - 1)) * 8, before);
    }
}

void ring_writer_init(struct ring_writer *w, uint64_t *words, uint32_t n_entry, uint32_t start)
{
    assert(is_pow2(n_entry));
    *w = (struct ring_writer){ .words = words, .mask = n_entry - 1, .tail = start, .head = start };
}

void ring_reader_init(struct ring_reader *r, const uint64_t *words, uint32_t n_entry,
                      uint32_t start)
{
    assert(is_pow2(n_entry));
    *r = (struct ring_reader){ .words = words, .mask = n_entry - 1, .head = start };
}
