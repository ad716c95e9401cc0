/*
 * Token ids to streamed text: whole UTF-8 characters only, and nothing that may yet turn out to be
 * the beginning of a stop string. The state is plain data: a struct copy forks a sequence.
 *
 *   bytes of tokens -> [ up to 3 bytes of a character ] -> [ longest prefix of a stop ] -> text
 *
 * The second box needs no buffer: what is held there spells the beginning of a stop string.
 *
 * Thread: the one that owns the sequence.  Memory: none allocated.
 */
#ifndef RINGLET_TEXT_DETOKENIZE_H
#define RINGLET_TEXT_DETOKENIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vocab;

enum { DETOK_STOPS_MAX = 16, DETOK_STOP_BYTES_MAX = 128 };

/* What one push can give at most: a token of undecodable bytes, three for one, and a held stop. */
enum { DETOK_OUT_MAX = 3 * (1024 + 4) + DETOK_STOP_BYTES_MAX };

enum {
    DETOK_INCLUDE_STOP = 1, /* the stop string stays in the text */
    DETOK_SPECIAL = 2,      /* control tokens give their literal text */
    DETOK_AT_START = 4,     /* take off the space that encoding put in front (SentencePiece) */
};

/* The stop strings of a request, shared by its sequences and their forks; never changes. */
struct detok_stops {
    uint32_t n;
    uint8_t bytes[DETOK_STOPS_MAX];
    char text[DETOK_STOPS_MAX][DETOK_STOP_BYTES_MAX];
    uint8_t fail[DETOK_STOPS_MAX][DETOK_STOP_BYTES_MAX];
};

struct detok {
    const struct detok_stops *stops; /* NULL: none */
    uint8_t flags, n_partial, at_start, done;
    uint8_t partial[4];               /* an incomplete character */
    uint8_t matched[DETOK_STOPS_MAX]; /* bytes of each stop that the text ends with */
};

/*
 * Add one stop string to a zeroed or growing set.
 *
 * Returns: 0; -EINVAL empty or not UTF-8; -E2BIG too many or too long.
 */
int detok_stops_add(struct detok_stops *stops, const char *text, size_t bytes);

/* stops may be NULL and must outlive every copy of d; flags: DETOK_*. */
void detok_init(struct detok *d, const struct detok_stops *stops, unsigned flags);

/*
 * Take one token.
 *
 *   id          any; control tokens, and ids outside of the vocabulary, give no bytes
 *   out         room for out_max >= DETOK_OUT_MAX bytes
 *   out_bytes   text that is certain now, whole UTF-8 characters; 0 while something is held back.
 *               Undecodable bytes become U+FFFD
 *   stop_i      index of the stop string that was completed, or -1. Of several, the one that is
 *               complete first; of those, the longest. Text is cut before it (or after it, with
 *               DETOK_INCLUDE_STOP) and nothing follows: later pushes give no text
 *
 * Returns: 0; -ENOBUFS out_max is too small.
 */
int detok_push(struct detok *d, const struct vocab *v, int32_t id, char *out, size_t out_max,
               size_t *out_bytes, int *stop_i);

/*
 * Give what is still held back when a sequence ends for another reason than a stop string; an
 * incomplete character becomes U+FFFD. Nothing more comes after it.
 */
int detok_flush(struct detok *d, char *out, size_t out_max, size_t *out_bytes);

#endif
