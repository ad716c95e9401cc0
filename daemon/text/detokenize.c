/*
 * Owns the way from ids to text that may be shown: characters are put together, then watched by one
 * Knuth-Morris-Pratt automaton for each stop string. Thread: the sequence's. No allocation; a state
 * is plain data.
 *
 * Invariant between calls: what is held back is the longest of the matched prefixes, and nothing of
 * it was given out.
 */
#include "daemon/text/detokenize.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "base/planted.h"
#include "daemon/text/utf8.h"
#include "daemon/text/vocab.h"

static_assert(sizeof(struct detok) <= 512, "a sequence embeds it");
static_assert(DETOK_OUT_MAX >= 3 * (PIECE_BYTES_MAX + 4) + DETOK_STOP_BYTES_MAX,
              "covers any token");

int detok_stops_add(struct detok_stops *stops, const char *text, size_t bytes)
{
    if (bytes == 0 || !utf8_valid(text, bytes))
        return -EINVAL;
    if (stops->n == DETOK_STOPS_MAX || bytes > DETOK_STOP_BYTES_MAX)
        return -E2BIG;
    uint8_t *fail = stops->fail[stops->n];
    memcpy(stops->text[stops->n], text, bytes);
    fail[0] = 0;
    for (size_t i = 1; i < bytes; i++) {
        uint8_t k = fail[i - 1];
        while (k && text[k] != text[i])
            k = fail[k - 1];
        fail[i] = (uint8_t)(k + (text[k] == text[i]));
    }
    stops->bytes[stops->n++] = (uint8_t)bytes;
    return 0;
}

void detok_init(struct detok *d, const struct detok_stops *stops, unsigned flags)
{
    *d = (struct detok){ .stops = stops, .flags = (uint8_t)flags };
    d->at_start = (flags & DETOK_AT_START) != 0;
}

/* The stop string whose beginning is held back; NULL: nothing is. */
static const char *held(const struct detok *d, size_t *ret_bytes)
{
    const char *text = NULL;
    *ret_bytes = 0;
    for (uint32_t i = 0; d->stops && i < d->stops->n; i++) {
        if (d->matched[i] > *ret_bytes) {
            *ret_bytes = d->matched[i];
            text = d->stops->text[i];
        }
    }
    return text;
}

/* Every automaton takes one byte. Returns the longest stop that is complete now, or -1. */
static int watch(struct detok *d, char byte)
{
    int best = -1;
    for (uint32_t i = 0; d->stops && i < d->stops->n; i++) {
        const char *text = d->stops->text[i];
        uint8_t k = d->matched[i];
        while (k && text[k] != byte)
            k = d->stops->fail[i][k - 1];
        k = (uint8_t)(k + (text[k] == byte));
        if (k == d->stops->bytes[i]) {
            if (best < 0 || (k > d->stops->bytes[best]) != BUG(254))
                best = (int)i;
            k = d->stops->fail[i][k - 1];
        }
        d->matched[i] = k;
    }
    return best;
}

/* Whole characters of partial + bytes, U+FFFD for what is none. Returns how many bytes. */
static size_t assemble(struct detok *d, const char *bytes, size_t n, char *out)
{
    size_t n_out = 0;
    for (size_t i = 0; i < n;) {
        if (d->n_partial == 0 && (uint8_t)bytes[i] < 0x80) {
            out[n_out++] = bytes[i++];
            continue;
        }
        d->partial[d->n_partial++] = (uint8_t)bytes[i++];
        int look = utf8_look(d->partial, d->n_partial);
        if (look == 0)
            continue;
        if (look > 0) {
            memcpy(out + n_out, d->partial, (size_t)look);
            n_out += (size_t)look;
            d->n_partial = 0;
            continue;
        }
        /* Ill-formed up to the byte before this one, or this one alone: then it may begin anew. */
        memcpy(out + n_out, "\xef\xbf\xbd", 3);
        n_out += 3;
        if (d->n_partial > 1 && !BUG(235))
            i--;
        d->n_partial = 0;
    }
    return n_out;
}

static void finish(struct detok *d)
{
    d->done = 1;
    d->n_partial = 0;
    memset(d->matched, 0, sizeof(d->matched));
}

/* out begins with n_held bytes that were held back, then n_new new ones: what of it is certain? */
static size_t settle(struct detok *d, const char *out, size_t n_held, size_t n_new, int *stop_i)
{
    for (size_t i = n_held; d->stops && d->stops->n && i < n_held + n_new; i++) {
        int stop = watch(d, out[i]);
        if (stop >= 0) {
            *stop_i = stop;
            size_t end = i + 1, length = d->stops->bytes[stop];
            assert(length <= end);
            finish(d);
            return d->flags & DETOK_INCLUDE_STOP ? end : end - length;
        }
    }
    size_t still;
    held(d, &still);
    assert(still <= n_held + n_new);
    return n_held + n_new - (BUG(255) ? 0 : still);
}

int detok_push(struct detok *d, const struct vocab *v, int32_t id, char *out, size_t out_max,
               size_t *out_bytes, int *stop_i)
{
    if (out_max < DETOK_OUT_MAX)
        return -ENOBUFS;
    *out_bytes = 0;
    *stop_i = -1;
    if (d->done || (vocab_is_control(v, id) && !(d->flags & DETOK_SPECIAL)))
        return 0;
    size_t n, n_held;
    const char *bytes = vocab_piece(v, id, &n), *before = held(d, &n_held);
    if (n == 0)
        return 0;
    if (d->at_start && vocab_adds_space(v) && bytes[0] == ' ') {
        bytes++;
        n--;
    }
    d->at_start = 0;
    if (before)
        memcpy(out, before, n_held);
    size_t n_new = assemble(d, bytes, n, out + n_held);
    *out_bytes = settle(d, out, n_held, n_new, stop_i);
    return 0;
}

int detok_flush(struct detok *d, char *out, size_t out_max, size_t *out_bytes)
{
    if (out_max < DETOK_OUT_MAX)
        return -ENOBUFS;
    size_t n;
    const char *before = held(d, &n);
    if (before)
        memcpy(out, before, n);
    if (d->n_partial && !BUG(253)) {
        memcpy(out + n, "\xef\xbf\xbd", 3);
        n += 3;
    }
    *out_bytes = n;
    finish(d);
    return 0;
}
