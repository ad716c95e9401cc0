/* Owns the array of a heap; the nodes are others'. */
#include "daemon/base/heap.h"

#include <errno.h>

#include "base/assert.h"
#include "daemon/base/arena.h"

int heap_init(struct heap *heap, uint32_t n_node_max, struct arena *arena)
{
    *heap = (struct heap){ .n_node_max = n_node_max };
    heap->node = arena_array(arena, struct heap_node *, n_node_max);
    return heap->node ? 0 : -ENOMEM;
}

static bool before(const struct heap_node *a, const struct heap_node *b)
{
    return a->key < b->key || (a->key == b->key && a->tie < b->tie);
}

static void place(struct heap *heap, uint32_t at, struct heap_node *node)
{
    heap->node[at] = node;
    node->place = at + 1;
}

static void sift(struct heap *heap, struct heap_node *node)
{
    uint32_t at = node->place - 1;
    while (at > 0 && before(node, heap->node[(at - 1) / 2])) {
        place(heap, at, heap->node[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child + 1 < heap->n_node && before(heap->node[child + 1], heap->node[child]))
            child++;
        if (child >= heap->n_node || !before(heap->node[child], node))
            break;
        place(heap, at, heap->node[child]);
        at = child;
    }
    place(heap, at, node);
}

void heap_put(struct heap *heap, struct heap_node *node)
{
    if (!node->place) {
        assert(heap->n_node < heap->n_node_max);
        place(heap, heap->n_node++, node);
    }
    sift(heap, node);
}

void heap_remove(struct heap *heap, struct heap_node *node)
{
    if (!node->place)
        return;
    uint32_t at = node->place - 1;
    struct heap_node *last = heap->node[--heap->n_node];
    node->place = 0;
    if (last == node)
        return;
    place(heap, at, last);
    sift(heap, last);
}
