/*
 * Owns the way from text to ids: validity, added tokens, normalization, splitting, merging. One
 * thread for each encoder; nothing is allocated after encoder_create.
 *
 *   text -> stretches between added tokens -> normalized -> pieces -> ids
 */
#include "daemon/text/encode.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "daemon/text/bpe.h"
#include "daemon/text/normalize.h"
#include "daemon/text/pretokenize.h"
#include "daemon/text/utf8.h"
#include "daemon/text/vocab_internal.h"

#define BYTES_LIMIT        (UINT64_C(1) << 30)
#define BUDGET_NS          20000000u
#define BUDGET_NS_PER_BYTE 1000u

struct encoder {
    const struct vocab *v;
    size_t bytes_max, scratch_bytes;
    uint64_t budget_ns; /* 0: by the text's length */
    int32_t n_id;       /* the model's */
    struct split_budget budget;
    struct bpe *bpe;
    struct pretokenize_state *split;
    char *text;              /* a stretch, normalized */
    int32_t *codes, *sorted; /* NFC only */
};

int encoder_create(const struct vocab *v, size_t bytes_max, struct encoder **ret)
{
    if (bytes_max == 0 || bytes_max > BYTES_LIMIT)
        return -EINVAL;
    auto_call(encoder_free) struct encoder *e = calloc(1, sizeof(*e));
    if (!e)
        return -ENOMEM;
    e->v = v;
    e->bytes_max = bytes_max;
    e->n_id = v->n;
    e->scratch_bytes = (v->nfc ? NFC_BYTES_MAX(bytes_max) : bytes_max) + 1;
    if (bpe_new(v, e->scratch_bytes, &e->bpe) || pretokenize_state_new(e->scratch_bytes, &e->split))
        return -ENOMEM;
    e->text = malloc(e->scratch_bytes);
    if (v->nfc) {
        e->codes = malloc(NFC_CODES_MAX(bytes_max) * sizeof(*e->codes));
        e->sorted = malloc(NFC_CODES_MAX(bytes_max) * sizeof(*e->sorted));
    }
    if (!e->text || (v->nfc && (!e->codes || !e->sorted)))
        return -ENOMEM;
    *ret = steal_ptr(&e);
    return 0;
}

void encoder_free(struct encoder *e)
{
    if (!e)
        return;
    bpe_free(e->bpe);
    pretokenize_state_free(e->split);
    free(e->text);
    free(e->codes);
    free(e->sorted);
    free(e);
}

void encoder_set_budget(struct encoder *e, uint64_t budget_ns)
{
    e->budget_ns = budget_ns;
}

void encoder_set_ids(struct encoder *e, int32_t n_id)
{
    e->n_id = n_id;
}

static bool is_space_marker(const char *text, size_t left)
{
    return left >= 3 && memcmp(text, "\xe2\x96\x81", 3) == 0;
}

/*
 * SentencePiece's view of a stretch: its space marker is a space, and one may stand in front. text
 * may be out + 1: what is written is never ahead of what was read.
 */
static size_t mark_spaces(const struct vocab *v, const char *text, size_t bytes, bool at_start,
                          char *out)
{
    size_t n = 0;
    bool has_one = text[0] == ' ' || (v->metaspace && is_space_marker(text, bytes));
    if (v->space == SPACE_ALWAYS || (v->space == SPACE_UNLESS && !has_one) ||
        (v->space == SPACE_AT_START && at_start && !has_one))
        out[n++] = ' ';
    for (size_t i = 0; i < bytes;) {
        bool marker = v->metaspace && is_space_marker(text + i, bytes - i);
        out[n++] = marker ? ' ' : text[i];
        i += marker ? 3 : 1;
    }
    return n;
}

/* The parts that merges cannot leave, where no pattern splits: words, with the spaces before them.
 */
static int encode_words(struct encoder *e, const char *text, size_t bytes, struct id_sink *sink)
{
    size_t from = 0;
    int error = 0;
    for (size_t i = 1; !error && e->v->words && i < bytes; i++) {
        if (text[i] == ' ' && text[i - 1] != ' ') {
            error = bpe_encode(e->bpe, text + from, (uint32_t)(i - from), sink);
            from = i;
        }
    }
    return error ? error : bpe_encode(e->bpe, text + from, (uint32_t)(bytes - from), sink);
}

/* SentencePiece finds the symbols that users defined in the text as it sees it: after its spaces.
 */
static int encode_symbols(struct encoder *e, const char *text, size_t bytes, struct id_sink *sink)
{
    const struct special_set *symbols = &e->v->symbols;
    struct special_match match;
    size_t from = 0;
    int error = 0;
    for (size_t at = 0; !error && at < bytes;) {
        if (!special_may_begin(symbols, (uint8_t)text[at]) ||
            !special_match_at(symbols, text, bytes, at, false, NULL, &match)) {
            at++;
            continue;
        }
        error = encode_words(e, text + from, at - from, sink);
        if (!error && sink->n == sink->max)
            error = -E2BIG;
        if (!error)
            sink->ids[sink->n++] = match.id;
        from = at += match.bytes;
    }
    return error ? error : encode_words(e, text + from, bytes - from, sink);
}

/* A stretch between added tokens; from 0 it is the start of the text. */
static int encode_stretch(struct encoder *e, const char *text, size_t from, size_t to,
                          struct id_sink *sink)
{
    const struct vocab *v = e->v;
    const struct text_piece *pieces = NULL;
    const char *stretch = text + from;
    size_t bytes = to - from;
    uint32_t n = 0;
    if (bytes == 0)
        return 0;
    if (v->nfc) {
        bytes = normalize_nfc(stretch, bytes, e->codes, e->sorted, e->text + 1);
        stretch = e->text + 1;
    }
    if (v->space != SPACE_NEVER || v->metaspace) {
        bytes = mark_spaces(v, stretch, bytes, from == 0, e->text);
        stretch = e->text;
    }
    if (!v->pre)
        return encode_symbols(e, stretch, bytes, sink);
    int error = pretokenize(v->pre, e->split, stretch, (uint32_t)bytes, &e->budget, &pieces, &n);
    for (uint32_t i = 0; !error && i < n; i++)
        error = encode_words(e, stretch + pieces[i].from, pieces[i].to - pieces[i].from, sink);
    return error;
}

static bool is_space_at(const char *text, size_t at)
{
    uint32_t code = utf8_decode(text + at);
    return (code >= 9 && code <= 13) || code == ' ' || code == 0x85 || code == 0xa0 ||
           code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
           code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
}

/* Where the white space that ends at `to` begins, but not before `from`. */
static size_t strip_left(const char *text, size_t from, size_t to)
{
    while (to > from) {
        size_t at = to - 1;
        while (at > from && ((uint8_t)text[at] & 0xc0) == 0x80)
            at--;
        if (!is_space_at(text, at))
            break;
        to = at;
    }
    return to;
}

static size_t strip_right(const char *text, size_t bytes, size_t at)
{
    while (at < bytes && is_space_at(text, at))
        at += utf8_length((uint8_t)text[at]);
    return at;
}

static int encode_all(struct encoder *e, const char *text, size_t bytes, bool all,
                      const uint8_t *trusted, struct id_sink *sink)
{
    const struct special_set *special = &e->v->special;
    struct special_match match;
    size_t from = 0;
    for (size_t at = 0; at < bytes;) {
        if (!special_may_begin(special, (uint8_t)text[at]) ||
            !special_match_at(special, text, bytes, at, all, trusted, &match)) {
            at++;
            continue;
        }
        size_t to = match.flags & SPECIAL_LSTRIP ? strip_left(text, from, at) : at;
        int error = encode_stretch(e, text, from, to, sink);
        if (error)
            return error;
        if (sink->n == sink->max)
            return -E2BIG;
        sink->ids[sink->n++] = match.id;
        at += match.bytes;
        if (match.flags & SPECIAL_RSTRIP)
            at = strip_right(text, bytes, at);
        from = at;
    }
    return encode_stretch(e, text, from, bytes, sink);
}

static bool ids_known(const struct encoder *e, const struct id_sink *sink)
{
    bool known = true;
    for (size_t i = 0; e->n_id < e->v->n && i < sink->n; i++)
        known &= sink->ids[i] < e->n_id;
    return known;
}

int encode_text(struct encoder *e, const char *text, size_t bytes, unsigned flags,
                const uint8_t *trusted, int32_t *ret_ids, size_t ids_max, size_t *ret_n)
{
    struct id_sink sink = { ret_ids, 0, ids_max };
    if (bytes > e->bytes_max)
        return -EMSGSIZE;
    if (!utf8_valid(text, bytes))
        return -EILSEQ;
    if (flags & ENCODE_BOS && vocab_add_bos(e->v)) {
        if (ids_max == 0)
            return -E2BIG;
        sink.ids[sink.n++] = e->v->bos;
    }
    e->budget =
        split_budget_start(e->budget_ns ? e->budget_ns : BUDGET_NS + bytes * BUDGET_NS_PER_BYTE);
    bool all = flags & ENCODE_SPECIAL || trusted;
    int error = encode_all(e, text, bytes, all, trusted, &sink);
    if (!error && !ids_known(e, &sink))
        error = -ERANGE;
    if (!error)
        *ret_n = sink.n;
    return error;
}
