/*
 * The added tokens of a vocabulary (control tokens and those that users defined) and where a text
 * spells one: leftmost, then longest. Built at start-up, then read by any thread.
 */
#ifndef RINGLET_TEXT_SPECIAL_H
#define RINGLET_TEXT_SPECIAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    SPECIAL_CONTROL = 1,     /* counts in trusted text only */
    SPECIAL_LSTRIP = 2,      /* takes the white space before it along */
    SPECIAL_RSTRIP = 4,      /* and the white space after it */
    SPECIAL_SINGLE_WORD = 8, /* counts only where no letter or digit touches it */
};

struct special_node {
    uint32_t child, next; /* indices; 0 = none */
    int32_t id;           /* -1: no token ends here */
    uint8_t byte, flags;
};

struct special_set {
    struct special_node *nodes;
    uint32_t n, capacity;
    uint32_t root[256];
};

struct special_match {
    int32_t id;
    uint32_t bytes;
    uint8_t flags;
};

void special_init(struct special_set *set);
void special_free(struct special_set *set);

/* The first to add a text keeps it. Returns: 0; -EINVAL empty text; -ENOMEM. */
int special_add(struct special_set *set, const char *text, size_t bytes, int32_t id,
                unsigned flags);

/*
 * The longest token that begins at text[at].
 *
 *   all       control tokens count everywhere
 *   trusted   as encode_text has it; may be NULL
 *
 * Returns: whether there is one.
 */
bool special_match_at(const struct special_set *set, const char *text, size_t bytes, size_t at,
                      bool all, const uint8_t *trusted, struct special_match *ret);

/* Can any token begin with this byte? */
static inline bool special_may_begin(const struct special_set *set, uint8_t byte)
{
    return set->root[byte] != 0;
}

#endif
