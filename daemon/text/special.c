/*
 * Owns the look-up of added tokens: a tree of bytes, siblings in a list. Node 0 is never used, so
 * that index 0 means "none". Built at start-up; read-only afterwards, any thread.
 */
#include "daemon/text/special.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "daemon/text/utf8.h"

void special_init(struct special_set *set)
{
    memset(set, 0, sizeof(*set));
}

void special_free(struct special_set *set)
{
    free(set->nodes);
    special_init(set);
}

static uint32_t find_sibling(const struct special_set *set, uint32_t first, uint8_t byte)
{
    while (first && set->nodes[first].byte != byte)
        first = set->nodes[first].next;
    return first;
}

static uint32_t new_node(struct special_set *set, uint8_t byte)
{
    if (set->n + 1 >= set->capacity) {
        uint32_t capacity = max_of(set->capacity * 2, 256u);
        struct special_node *nodes = realloc(set->nodes, capacity * sizeof(*nodes));
        if (!nodes)
            return 0;
        set->nodes = nodes;
        set->capacity = capacity;
    }
    set->nodes[++set->n] = (struct special_node){ .id = -1, .byte = byte };
    return set->n;
}

int special_add(struct special_set *set, const char *text, size_t bytes, int32_t id, unsigned flags)
{
    uint32_t parent = 0;
    if (bytes == 0)
        return -EINVAL;
    for (size_t i = 0; i < bytes; i++) {
        uint8_t byte = (uint8_t)text[i];
        uint32_t first = parent ? set->nodes[parent].child : set->root[byte];
        uint32_t node = find_sibling(set, first, byte);
        if (!node) {
            node = new_node(set, byte);
            if (!node)
                return -ENOMEM;
            if (parent) {
                set->nodes[node].next = first;
                set->nodes[parent].child = node;
            } else {
                set->root[byte] = node;
            }
        }
        parent = node;
    }
    if (set->nodes[parent].id < 0) {
        set->nodes[parent].id = id;
        set->nodes[parent].flags = (uint8_t)flags;
    }
    return 0;
}

static bool is_word_byte(uint8_t byte)
{
    return byte >= 0x80 || byte == '_' || (byte >= '0' && byte <= '9') ||
           (byte >= 'A' && byte <= 'Z') || (byte >= 'a' && byte <= 'z');
}

static bool stands_alone(const char *text, size_t bytes, size_t from, size_t to)
{
    return (from == 0 || !is_word_byte((uint8_t)text[from - 1])) &&
           (to == bytes || !is_word_byte((uint8_t)text[to]));
}

bool special_match_at(const struct special_set *set, const char *text, size_t bytes, size_t at,
                      bool all, const uint8_t *trusted, struct special_match *ret)
{
    bool found = false;
    uint32_t node = set->root[(uint8_t)text[at]];
    for (size_t i = at; node;) {
        all = all && (!trusted || trusted[i]);
        i++;
        const struct special_node *n = &set->nodes[node];
        if (n->id >= 0 && (all || !(n->flags & SPECIAL_CONTROL)) &&
            (!(n->flags & SPECIAL_SINGLE_WORD) || stands_alone(text, bytes, at, i))) {
            *ret = (struct special_match){ n->id, (uint32_t)(i - at), n->flags };
            found = true;
        }
        node = i < bytes ? find_sibling(set, n->child, (uint8_t)text[i]) : 0;
    }
    return found;
}
