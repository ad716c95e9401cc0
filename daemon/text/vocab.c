/*
 * Owns vocabularies in memory: pieces in one buffer, a table from text to id, a table of merges.
 * Hash tables are seeded by the process, so that a file cannot aim at collisions. Start-up only;
 * read by any thread afterwards.
 */
#include "daemon/text/vocab.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "daemon/text/pretokenize.h"
#include "daemon/text/utf8.h"
#include "daemon/text/vocab_internal.h"

int vocab_new(int32_t n, struct vocab **ret)
{
    auto_call(vocab_free) struct vocab *v = calloc(1, sizeof(*v));
    if (!v)
        return -ENOMEM;
    v->n = n;
    v->piece = calloc((size_t)n + 1, sizeof(*v->piece));
    if (!v->piece)
        return -ENOMEM;
    if (getrandom(&v->seed, sizeof(v->seed), GRND_NONBLOCK) != (ssize_t)sizeof(v->seed))
        v->seed = (uint64_t)(uintptr_t)v * 0x9e3779b97f4a7c15u;
    v->bos = v->eos = v->unk = -1;
    for (int i = 0; i < 256; i++)
        v->byte_ids[i] = -1;
    special_init(&v->special);
    special_init(&v->symbols);
    *ret = steal_ptr(&v);
    return 0;
}

void vocab_free(struct vocab *v)
{
    if (!v)
        return;
    pretokenizer_free(v->pre);
    special_free(&v->special);
    special_free(&v->symbols);
    free(v->template);
    free(v->score_rank);
    free(v->merges);
    free(v->table);
    free(v->bytes);
    free(v->piece);
    free(v);
}

int vocab_set_piece(struct vocab *v, int32_t id, const char *text, size_t bytes, unsigned type)
{
    assert(id >= 0 && id < v->n);
    if (bytes > PIECE_BYTES_MAX)
        return -E2BIG;
    if (v->n_bytes + bytes > v->capacity) {
        size_t capacity = max_of(v->capacity * 2, (size_t)v->n * 8 + bytes);
        if (capacity > UINT32_MAX)
            return -E2BIG;
        char *grown = realloc(v->bytes, capacity);
        if (!grown)
            return -ENOMEM;
        v->bytes = grown;
        v->capacity = capacity;
    }
    v->piece[id] = (struct piece){ (uint32_t)v->n_bytes, (uint16_t)bytes, (uint8_t)type };
    if (bytes)
        memcpy(v->bytes + v->n_bytes, text, bytes);
    v->n_bytes += bytes;
    v->piece_bytes_max = max_of(v->piece_bytes_max, (uint32_t)bytes);
    return 0;
}

static uint32_t table_capacity(uint32_t n)
{
    uint32_t capacity = 16;
    while (capacity < n * UINT64_C(2))
        capacity *= 2;
    return capacity;
}

/* The slot that holds this text, or the empty one where it belongs. */
static uint32_t table_slot(const struct vocab *v, const char *text, size_t bytes)
{
    uint32_t slot = (uint32_t)XXH3_64bits_withSeed(text, bytes, v->seed) & v->table_mask;
    for (; v->table[slot]; slot = (slot + 1) & v->table_mask) {
        const struct piece *p = &v->piece[v->table[slot] - 1];
        if (p->bytes == bytes && memcmp(v->bytes + p->at, text, bytes) == 0)
            break;
    }
    return slot;
}

static void index_type(struct vocab *v, unsigned type)
{
    for (int32_t id = 0; id < v->n; id++) {
        const struct piece *p = &v->piece[id];
        if (p->type != type || p->bytes == 0)
            continue;
        uint32_t slot = table_slot(v, v->bytes + p->at, p->bytes);
        if (!v->table[slot])
            v->table[slot] = (uint32_t)id + 1;
    }
}

int vocab_index(struct vocab *v)
{
    uint32_t capacity = table_capacity((uint32_t)v->n);
    v->table = calloc(capacity, sizeof(*v->table));
    if (!v->table)
        return -ENOMEM;
    v->table_mask = capacity - 1;
    index_type(v, PIECE_NORMAL);
    index_type(v, PIECE_USER_DEFINED);
    for (int byte = 0; byte < 256 && v->kind == VOCAB_BYTE_LEVEL; byte++)
        v->byte_ids[byte] = vocab_lookup(v, (const char[]){ (char)byte }, 1);
    for (int32_t id = 0; id < v->n && v->kind != VOCAB_BYTE_LEVEL; id++)
        if (v->piece[id].type == PIECE_BYTE && v->byte_ids[(uint8_t)v->bytes[v->piece[id].at]] < 0)
            v->byte_ids[(uint8_t)v->bytes[v->piece[id].at]] = id;
    return 0;
}

int32_t vocab_lookup(const struct vocab *v, const char *text, size_t bytes)
{
    if (bytes == 0 || bytes > v->piece_bytes_max)
        return -1;
    int32_t id = (int32_t)v->table[table_slot(v, text, bytes)] - 1;
    return id >= 0 && v->piece[id].type == PIECE_CONTROL ? -1 : id;
}

void vocab_make_control(struct vocab *v, int32_t id)
{
    if (id < 0 || v->piece[id].bytes < 2 || !v->merges ||
        (v->piece[id].type != PIECE_NORMAL && v->piece[id].type != PIECE_USER_DEFINED))
        return;
    for (uint32_t i = 0; i <= v->merges_mask; i++)
        if (v->merges[i].rank != RANK_NONE && v->merges[i].id == id)
            return;
    v->piece[id].type = PIECE_CONTROL;
}

int vocab_reserve_merges(struct vocab *v, uint32_t n)
{
    uint32_t capacity = table_capacity(n);
    v->merges = malloc(capacity * sizeof(*v->merges));
    if (!v->merges)
        return -ENOMEM;
    for (uint32_t i = 0; i < capacity; i++)
        v->merges[i].rank = RANK_NONE;
    v->merges_mask = capacity - 1;
    return 0;
}

void vocab_add_merge(struct vocab *v, const char *left, size_t left_bytes, const char *right,
                     size_t right_bytes, uint32_t rank)
{
    char whole[2 * PIECE_BYTES_MAX];
    int32_t left_id = vocab_lookup(v, left, left_bytes);
    int32_t right_id = vocab_lookup(v, right, right_bytes);
    int32_t id = -1;
    if (left_id >= 0 && right_id >= 0) {
        memcpy(whole, left, left_bytes);
        memcpy(whole + left_bytes, right, right_bytes);
        id = vocab_lookup(v, whole, left_bytes + right_bytes);
    }
    if (id < 0 || vocab_merge(v, left_id, right_id) || v->merges_used > v->merges_mask / 2) {
        v->merges_dropped++;
        return;
    }
    uint32_t slot = merge_slot(v, left_id, right_id);
    while (v->merges[slot].rank != RANK_NONE)
        slot = (slot + 1) & v->merges_mask;
    v->merges[slot] = (struct merge){ left_id, right_id, id, rank };
    v->merges_used++;
}

size_t vocab_split_merge(const char *text, size_t bytes)
{
    const char *gap = bytes > 2 ? memchr(text + 1, ' ', bytes - 2) : NULL;
    return gap ? (size_t)(gap - text) : 0;
}

int vocab_parse_byte(const char *text, size_t bytes)
{
    if (bytes != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>')
        return -1;
    int value = 0;
    for (int i = 3; i < 5; i++) {
        char c = text[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0)
            return -1;
        value = value * 16 + digit;
    }
    return value;
}

size_t vocab_unescape_spaces(const char *text, size_t bytes, char *out)
{
    size_t n = 0;
    for (size_t i = 0; i < bytes;) {
        if (bytes - i >= 3 && memcmp(text + i, "\xe2\x96\x81", 3) == 0) {
            out[n++] = ' ';
            i += 3;
        } else {
            out[n++] = text[i++];
        }
    }
    return n;
}

void vocab_find_word_ends(struct vocab *v)
{
    v->words = v->kind != VOCAB_BYTE_LEVEL && v->metaspace && !v->ignore_merges &&
               vocab_lookup(v, " ", 1) >= 0;
    for (int32_t id = 0; id < v->n && v->words; id++) {
        const struct piece *p = &v->piece[id];
        if (p->type != PIECE_NORMAL && p->type != PIECE_USER_DEFINED)
            continue;
        for (uint32_t i = 1; i < p->bytes; i++)
            if (v->bytes[p->at + i] == ' ' && v->bytes[p->at + i - 1] != ' ')
                v->words = false;
    }
}

int vocab_add_special(struct vocab *v, int32_t id, unsigned flags)
{
    const struct piece *p = &v->piece[id];
    bool symbol = v->kind == VOCAB_SCORES && !(flags & SPECIAL_CONTROL);
    struct special_set *set = symbol ? &v->symbols : &v->special;
    return p->bytes ? special_add(set, v->bytes + p->at, p->bytes, id, flags) : 0;
}

void vocab_add_eog(struct vocab *v, int32_t id)
{
    if (id >= 0 && id < v->n && !vocab_is_eog(v, id) && v->n_eog < VOCAB_EOG_MAX)
        v->eog[v->n_eog++] = id;
}

void vocab_add_eog_by_name(struct vocab *v)
{
    static const char *const names[] = {
        "<|im_end|>",
        "<|eot_id|>",
        "<|eom_id|>",
        "<|end|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "<|end_of_text|>",
        "<|return|>",
        "<|call|>",
        "<|EOT|>",
        "<EOT>",
        "[EOT]",
        /* two literals: a hexadecimal escape would take the e of "end" */
        ("<\xef\xbd\x9c"
         "end\xe2\x96\x81of\xe2\x96\x81sentence\xef\xbd\x9c>"),
    };
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        int32_t id = vocab_find(v, names[i], strlen(names[i]));
        vocab_make_control(v, id);
        if (vocab_is_control(v, id))
            vocab_add_eog(v, id);
    }
}

int vocab_set_template(struct vocab *v, const char *text, size_t bytes)
{
    if (!utf8_valid(text, bytes) || memchr(text, 0, bytes))
        return -EINVAL;
    free(v->template);
    v->template = strndup(text, bytes);
    return v->template ? 0 : -ENOMEM;
}

/* A template's text without the final newline that it would drop if it stood alone. */
static int whole_lines(const char *text, size_t bytes)
{
    return (int)(bytes - (bytes > 0 && text[bytes - 1] == '\n'));
}

int vocab_set_tool_template(struct vocab *v, const char *text, size_t bytes)
{
    if (!v->template)
        return 0;
    if (!utf8_valid(text, bytes) || memchr(text, 0, bytes) || bytes > INT_MAX)
        return -EINVAL;
    auto_free char *joined = NULL;
    if (asprintf(&joined,
                 "{%% if tools is defined and tools is not none %%}\n%.*s{%%+ else %%}\n%.*s"
                 "{%%+ endif %%}",
                 whole_lines(text, bytes), text, whole_lines(v->template, strlen(v->template)),
                 v->template) < 0) {
        joined = NULL;
        return -ENOMEM;
    }
    free(v->template);
    v->template = steal_ptr(&joined);
    return 0;
}

int32_t vocab_size(const struct vocab *v)
{
    return v->n;
}

int32_t vocab_bos(const struct vocab *v)
{
    return v->bos;
}

int32_t vocab_eos(const struct vocab *v)
{
    return v->eos;
}

int32_t vocab_unk(const struct vocab *v)
{
    return v->unk;
}

bool vocab_add_bos(const struct vocab *v)
{
    return v->add_bos && v->bos >= 0;
}

size_t vocab_eog(const struct vocab *v, const int32_t **ret_ids)
{
    *ret_ids = v->eog;
    return v->n_eog;
}

bool vocab_is_eog(const struct vocab *v, int32_t id)
{
    for (size_t i = 0; i < v->n_eog; i++)
        if (v->eog[i] == id)
            return true;
    return false;
}

const char *vocab_piece(const struct vocab *v, int32_t id, size_t *ret_bytes)
{
    if (id < 0 || id >= v->n) {
        *ret_bytes = 0;
        return "";
    }
    *ret_bytes = v->piece[id].bytes;
    return v->bytes + v->piece[id].at;
}

bool vocab_is_control(const struct vocab *v, int32_t id)
{
    if (id < 0 || id >= v->n)
        return false;
    return v->piece[id].type == PIECE_CONTROL || v->piece[id].type == PIECE_UNKNOWN;
}

int32_t vocab_find(const struct vocab *v, const char *text, size_t bytes)
{
    int32_t id = vocab_lookup(v, text, bytes);
    for (int32_t i = 0; id < 0 && bytes && i < v->n; i++) {
        const struct piece *p = &v->piece[i];
        if (p->type == PIECE_CONTROL && p->bytes == bytes &&
            memcmp(v->bytes + p->at, text, bytes) == 0)
            id = i;
    }
    return id;
}

bool vocab_adds_space(const struct vocab *v)
{
    return v->space != SPACE_NEVER;
}

const char *vocab_template(const struct vocab *v)
{
    return v->template;
}
