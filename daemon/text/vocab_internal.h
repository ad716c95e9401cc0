/*
 * What the files of this folder share about a vocabulary. Built by vocab_gguf.c and vocab_hf.c
 * through the functions below, in their order; read-only afterwards.
 */
#ifndef RINGLET_TEXT_VOCAB_INTERNAL_H
#define RINGLET_TEXT_VOCAB_INTERNAL_H

#include "daemon/text/special.h"
#include "daemon/text/vocab.h"

enum vocab_kind {
    VOCAB_BYTE_LEVEL, /* symbols are bytes, merges have ranks */
    VOCAB_CHARS,      /* symbols are characters, merges have ranks, the rest falls back to bytes */
    VOCAB_SCORES, /* symbols are characters, any two that spell a token merge, best score first */
};

/* Numbered as tokenizer.ggml.token_type. */
enum piece_type {
    PIECE_NONE,
    PIECE_NORMAL,
    PIECE_UNKNOWN,
    PIECE_CONTROL,
    PIECE_USER_DEFINED,
    PIECE_UNUSED,
    PIECE_BYTE,
};

/* When text of its own gets a space in front. */
enum vocab_space {
    SPACE_NEVER,
    SPACE_ALWAYS,  /* each stretch between added tokens */
    SPACE_UNLESS,  /* the same, but not where one is already */
    SPACE_AT_START /* as SPACE_UNLESS, at the start of the text only */
};

#define RANK_NONE UINT32_MAX

struct piece {
    uint32_t at; /* in pieces */
    uint16_t bytes;
    uint8_t type;
};

struct merge {
    int32_t left, right, id;
    uint32_t rank; /* RANK_NONE: an empty slot */
};

struct pretokenizer;

struct vocab {
    enum vocab_kind kind;
    enum vocab_space space;
    int32_t n;
    bool add_bos, nfc, ignore_merges, fuse_unk;
    bool metaspace; /* spaces are written as U+2581 in the file, and read as spaces here */
    bool words;     /* no token goes from a non-space to a space: text may be cut there */
    struct piece *piece;
    char *bytes;
    size_t n_bytes, capacity;
    uint32_t piece_bytes_max;
    uint64_t seed;
    uint32_t *table; /* text -> id + 1, open addressing */
    uint32_t table_mask;
    struct merge *merges; /* pair -> merge, open addressing */
    uint32_t merges_mask, merges_used, merges_dropped;
    uint32_t *score_rank; /* VOCAB_SCORES: equal scores, equal ranks */
    int32_t byte_ids[256];
    struct special_set special;
    struct special_set symbols; /* VOCAB_SCORES: user-defined ones, found after spaces are marked */
    struct pretokenizer *pre;
    int32_t bos, eos, unk;
    int32_t eog[VOCAB_EOG_MAX];
    size_t n_eog;
    char *template;
};

/* Room for n tokens, none of them set. */
int vocab_new(int32_t n, struct vocab **ret);
/* Each id once; type is an enum piece_type. -E2BIG longer than PIECE_BYTES_MAX; -ENOMEM. */
int vocab_set_piece(struct vocab *v, int32_t id, const char *text, size_t bytes, unsigned type);
/* After the last piece: the table from text to id, and byte_ids. */
int vocab_index(struct vocab *v);
/* After vocab_index. n merges will be added; the texts are raw bytes. A merge whose parts or whole
 * are no tokens, or whose whole is a control token, is counted as dropped. */
int vocab_reserve_merges(struct vocab *v, uint32_t n);
void vocab_add_merge(struct vocab *v, const char *left, size_t left_bytes, const char *right,
                     size_t right_bytes, uint32_t rank);
/* "left right": where the space between them is, 0 when there is none. */
size_t vocab_split_merge(const char *text, size_t bytes);
/* "<0x0A>" is one byte; -1: not of that form. */
int vocab_parse_byte(const char *text, size_t bytes);
/* U+2581 to a space; out has room for as many bytes. Returns how many it has now. */
size_t vocab_unescape_spaces(const char *text, size_t bytes, char *out);
/* After the last piece: sets `words`. */
void vocab_find_word_ends(struct vocab *v);
/* An added token; its piece is there already. flags: SPECIAL_*. */
int vocab_add_special(struct vocab *v, int32_t id, unsigned flags);
/* For files that mistype tokens: a token of the structure is a control token, unless merges spell
 * it. Before vocab_add_special. */
void vocab_make_control(struct vocab *v, int32_t id);
/* Adds to the ids that end a generation; ignores -1, repetitions and what is beyond VOCAB_EOG_MAX.
 */
void vocab_add_eog(struct vocab *v, int32_t id);
/* Tokens that are known to end a turn by their names: they become control tokens, too. */
void vocab_add_eog_by_name(struct vocab *v);
/* Copies a template. -EINVAL not UTF-8 or a NUL inside. */
int vocab_set_template(struct vocab *v, const char *text, size_t bytes);
/* After it: a second template, which is taken where there are tools. Nothing without a first. */
int vocab_set_tool_template(struct vocab *v, const char *text, size_t bytes);

/* Id of a mergeable token with these bytes, or -1: no control, byte or unused token. */
int32_t vocab_lookup(const struct vocab *v, const char *text, size_t bytes);

static inline uint32_t merge_slot(const struct vocab *v, int32_t left, int32_t right)
{
    uint64_t x = ((uint64_t)(uint32_t)left << 32 | (uint32_t)right) ^ v->seed;
    x = (x ^ x >> 32) * 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 29) * 0xbf58476d1ce4e5b9u;
    return (uint32_t)(x >> 32) & v->merges_mask;
}

/* The merge of two tokens, or NULL. */
static inline const struct merge *vocab_merge(const struct vocab *v, int32_t left, int32_t right)
{
    uint32_t slot = merge_slot(v, left, right);
    while (v->merges[slot].rank != RANK_NONE) {
        if (v->merges[slot].left == left && v->merges[slot].right == right)
            return &v->merges[slot];
        slot = (slot + 1) & v->merges_mask;
    }
    return NULL;
}

#endif
