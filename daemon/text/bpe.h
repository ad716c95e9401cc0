/*
 * The merge loop of byte-pair encoding: lowest rank first, leftmost on ties, in O(n log n) for any
 * text: a scan for short pieces, a heap for long ones.
 *
 * Thread: the owner's of the scratch.
 */
#ifndef RINGLET_TEXT_BPE_H
#define RINGLET_TEXT_BPE_H

#include <stddef.h>
#include <stdint.h>

struct bpe;
struct vocab;

/* Scratch for pieces of bytes_max; 48 bytes for each. Returns 0 or -ENOMEM. */
int bpe_new(const struct vocab *v, size_t bytes_max, struct bpe **ret);
void bpe_free(struct bpe *b);

/* Ids on their way out. */
struct id_sink {
    int32_t *ids;
    size_t n, max;
};

/*
 * Encode one piece of valid UTF-8 (or of bytes, in a byte-level vocabulary), SentencePiece's space
 * marker written as a space.
 *
 * Returns: 0; -E2BIG the sink is full.  Memory: none allocated.
 */
int bpe_encode(struct bpe *b, const char *text, uint32_t bytes, struct id_sink *sink);

#endif
