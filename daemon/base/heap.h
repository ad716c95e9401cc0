/*
 * Binary heap of pointers to nodes inside other objects, smallest key first, ties by a running
 * number. Fixed capacity, from the arena. A node knows its place, so any can be taken out. One
 * thread.
 */
#ifndef RINGLET_BASE_HEAP_H
#define RINGLET_BASE_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena;

struct heap_node {
    uint64_t key, tie;
    uint32_t place; /* index + 1 in the heap, 0 = not in one */
};

struct heap {
    struct heap_node **node;
    uint32_t n_node, n_node_max;
};

/* Returns: 0; -ENOMEM. Thread: start-up. */
int heap_init(struct heap *heap, uint32_t n_node_max, struct arena *arena);

/* Put a node in by its key and tie; one that is in already moves to its new place. */
void heap_put(struct heap *heap, struct heap_node *node);

/* Take a node out; does nothing if it is not in. */
void heap_remove(struct heap *heap, struct heap_node *node);

/* The smallest node, which stays in, or NULL. */
static inline struct heap_node *heap_top(const struct heap *heap)
{
    return heap->n_node ? heap->node[0] : NULL;
}

#endif
