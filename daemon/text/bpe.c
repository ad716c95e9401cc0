/*
 * Owns the merge loop. Symbols are a doubly linked list in arrays, indexed by where they begin in
 * order; rank[i] and merged[i] tell of the pair that symbol i makes with the next one. A heap entry
 * (rank, i) is stale unless rank[i] is still that rank. Nothing recurses, nothing allocates.
 */
#include "daemon/text/bpe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "daemon/text/utf8.h"
#include "daemon/text/vocab_internal.h"

enum { SCAN_MAX = 24 }; /* up to here looking at all pairs beats a heap */
#define NO_SYMBOL UINT32_MAX

struct bpe {
    const struct vocab *v;
    uint32_t capacity, n, n_heap;
    int32_t *id, *merged; /* id -1: no token */
    uint32_t *from, *next, *prev, *rank;
    uint64_t *heap; /* rank << 32 | symbol */
    const char *text;
    uint32_t bytes;
    uint8_t *whole; /* by id: does the text of this token encode as this token alone? */
};

enum { WHOLE_UNKNOWN, WHOLE_YES, WHOLE_NO };

int bpe_new(const struct vocab *v, size_t bytes_max, struct bpe **ret)
{
    struct bpe *b = calloc(1, sizeof(*b));
    if (!b)
        return -ENOMEM;
    b->v = v;
    b->capacity = (uint32_t)bytes_max;
    uint32_t **arrays[] = { &b->from, &b->next, &b->prev, &b->rank };
    for (size_t i = 0; i < ARRAY_SIZE(arrays); i++)
        *arrays[i] = malloc((bytes_max + 1) * sizeof(uint32_t));
    b->id = malloc((bytes_max + 1) * sizeof(int32_t));
    b->merged = malloc((bytes_max + 1) * sizeof(int32_t));
    b->heap = malloc((3 * bytes_max + 1) * sizeof(uint64_t));
    b->whole = calloc((size_t)v->n, 1);
    if (!b->whole || !b->from || !b->next || !b->prev || !b->rank || !b->id || !b->merged ||
        !b->heap) {
        bpe_free(b);
        return -ENOMEM;
    }
    *ret = b;
    return 0;
}

void bpe_free(struct bpe *b)
{
    if (!b)
        return;
    free(b->from);
    free(b->next);
    free(b->prev);
    free(b->rank);
    free(b->id);
    free(b->merged);
    free(b->heap);
    free(b->whole);
    free(b);
}

static void heap_push(struct bpe *b, uint64_t entry)
{
    uint32_t i = b->n_heap++;
    for (; i > 0 && b->heap[(i - 1) / 2] > entry; i = (i - 1) / 2)
        b->heap[i] = b->heap[(i - 1) / 2];
    b->heap[i] = entry;
}

static uint64_t heap_pop(struct bpe *b)
{
    uint64_t top = b->heap[0], last = b->heap[--b->n_heap];
    uint32_t i = 0, child;
    while ((child = 2 * i + 1) < b->n_heap) {
        if (child + 1 < b->n_heap && b->heap[child + 1] < b->heap[child])
            child++;
        if (b->heap[child] >= last)
            break;
        b->heap[i] = b->heap[child];
        i = child;
    }
    b->heap[i] = last;
    return top;
}

static uint32_t symbol_end(const struct bpe *b, uint32_t i)
{
    return b->next[i] == NO_SYMBOL ? b->bytes : b->from[b->next[i]];
}

/* Find out what the pair that begins at symbol i is worth. */
static void rate_pair(struct bpe *b, uint32_t i)
{
    const struct vocab *v = b->v;
    uint32_t j = b->next[i];
    b->rank[i] = RANK_NONE;
    if (j == NO_SYMBOL)
        return;
    if (v->kind == VOCAB_SCORES) {
        int32_t id = vocab_lookup(v, b->text + b->from[i], symbol_end(b, j) - b->from[i]);
        if (id >= 0) {
            b->merged[i] = id;
            b->rank[i] = v->score_rank[id];
        }
    } else if (b->id[i] >= 0 && b->id[j] >= 0) {
        const struct merge *m = vocab_merge(v, b->id[i], b->id[j]);
        if (m) {
            b->merged[i] = m->id;
            b->rank[i] = m->rank;
        }
    }
}

/* Symbol i takes in the next one; the pairs on both sides are rated anew. */
static void merge_pair(struct bpe *b, uint32_t i)
{
    uint32_t gone = b->next[i];
    b->id[i] = b->merged[i];
    b->next[i] = b->next[gone];
    if (b->next[i] != NO_SYMBOL)
        b->prev[b->next[i]] = i;
    b->rank[gone] = RANK_NONE;
    rate_pair(b, i);
    if (b->prev[i] != NO_SYMBOL)
        rate_pair(b, b->prev[i]);
}

static void merge_by_scan(struct bpe *b)
{
    for (;;) {
        uint32_t best = NO_SYMBOL, best_rank = RANK_NONE;
        for (uint32_t i = 0; i != NO_SYMBOL; i = b->next[i]) {
            if (b->rank[i] < best_rank) {
                best = i;
                best_rank = b->rank[i];
            }
        }
        if (best == NO_SYMBOL)
            return;
        merge_pair(b, best);
    }
}

static void offer(struct bpe *b, uint32_t i)
{
    if (i != NO_SYMBOL && b->rank[i] != RANK_NONE)
        heap_push(b, (uint64_t)b->rank[i] << 32 | i);
}

/* n - 1 entries at first, at most two more for each of n - 1 merges. */
static void merge_by_heap(struct bpe *b)
{
    b->n_heap = 0;
    for (uint32_t i = 0; i < b->n; i++)
        offer(b, i);
    while (b->n_heap) {
        uint64_t top = heap_pop(b);
        uint32_t i = (uint32_t)top;
        if (b->rank[i] != (uint32_t)(top >> 32))
            continue;
        merge_pair(b, i);
        offer(b, i);
        offer(b, b->prev[i]);
        assert(b->n_heap <= 3 * b->capacity);
    }
}

static void add_symbol(struct bpe *b, uint32_t from, int32_t id)
{
    uint32_t i = b->n++;
    b->from[i] = from;
    b->id[i] = id;
    b->prev[i] = i ? i - 1 : NO_SYMBOL;
    b->next[i] = i + 1;
}

/* One symbol for each byte or character; characters that are no token fall back to bytes at once
 * where merges have ranks, and after the merges where tokens have scores. */
static void begin_symbols(struct bpe *b)
{
    const struct vocab *v = b->v;
    b->n = 0;
    for (uint32_t at = 0; at < b->bytes;) {
        if (v->kind == VOCAB_BYTE_LEVEL) {
            add_symbol(b, at, v->byte_ids[(uint8_t)b->text[at]]);
            at++;
            continue;
        }
        uint32_t length = utf8_length((uint8_t)b->text[at]);
        int32_t id = vocab_lookup(v, b->text + at, length);
        if (id >= 0 || v->kind == VOCAB_SCORES || v->byte_ids[(uint8_t)b->text[at]] < 0) {
            add_symbol(b, at, id);
        } else {
            for (uint32_t k = 0; k < length; k++)
                add_symbol(b, at + k, v->byte_ids[(uint8_t)b->text[at + k]]);
        }
        at += length;
    }
    b->next[b->n - 1] = NO_SYMBOL;
}

static int put_id(struct id_sink *sink, int32_t id)
{
    if (sink->n == sink->max)
        return -E2BIG;
    sink->ids[sink->n++] = id;
    return 0;
}

/* A symbol that is no token: its bytes, or the unknown token, once for a run of them if asked.
 * Where a file names BOS or the end of generation as its unknown token, text must not spell that.
 */
static int put_unknown(struct bpe *b, uint32_t i, bool after_unknown, struct id_sink *sink)
{
    const struct vocab *v = b->v;
    uint32_t end = symbol_end(b, i);
    bool has_bytes = v->kind != VOCAB_BYTE_LEVEL;
    for (uint32_t at = b->from[i]; at < end && has_bytes; at++)
        has_bytes = v->byte_ids[(uint8_t)b->text[at]] >= 0;
    if (!has_bytes)
        return v->unk < 0 || v->unk == v->bos || vocab_is_eog(v, v->unk) ||
                       (after_unknown && v->fuse_unk)
                   ? 0
                   : put_id(sink, v->unk);
    for (uint32_t at = b->from[i]; at < end; at++)
        if (put_id(sink, v->byte_ids[(uint8_t)b->text[at]]))
            return -E2BIG;
    return 0;
}

static int put_symbols(struct bpe *b, struct id_sink *sink)
{
    bool after_unknown = false;
    for (uint32_t i = 0; i != NO_SYMBOL; i = b->next[i]) {
        int error = b->id[i] >= 0 ? put_id(sink, b->id[i]) : put_unknown(b, i, after_unknown, sink);
        if (error)
            return error;
        after_unknown = b->id[i] < 0;
    }
    return 0;
}

/* Most words are a token. That its own text merges into it is no law, so it is found out once. */
int bpe_encode(struct bpe *b, const char *text, uint32_t bytes, struct id_sink *sink)
{
    assert(bytes <= b->capacity);
    if (bytes == 0)
        return 0;
    int32_t id = vocab_lookup(b->v, text, bytes);
    if (id >= 0 && (b->v->ignore_merges || b->whole[id] == WHOLE_YES))
        return put_id(sink, id);
    b->text = text;
    b->bytes = bytes;
    begin_symbols(b);
    for (uint32_t i = 0; i < b->n; i++)
        rate_pair(b, i);
    if (b->n <= SCAN_MAX)
        merge_by_scan(b);
    else
        merge_by_heap(b);
    if (id >= 0)
        b->whole[id] = b->next[0] == NO_SYMBOL && b->id[0] == id ? WHOLE_YES : WHOLE_NO;
    return put_symbols(b, sink);
}
