#include "daemon/base/heap.h"

#include "daemon/base/arena.h"
#include "daemon/base/prng.h"
#include "tests/harness/harness.h"

TEST(heap_gives_keys_in_order_whatever_is_removed)
{
    enum { N = 500 };
    struct arena *arena;
    static struct heap_node node[N];
    struct heap heap;
    assert_ok(arena_create(1 << 20, &arena));
    assert_ok(heap_init(&heap, N, arena));
    struct prng prng = { harness_seed() };
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < N; i++) {
            node[i] = (struct heap_node){ .key = prng_below(&prng, 50), .tie = (uint64_t)i };
            heap_put(&heap, &node[i]);
        }
        for (int i = 0; i < 100; i++) {
            heap_remove(&heap, &node[prng_below(&prng, N)]);
            struct heap_node *moved = &node[prng_below(&prng, N)];
            if (moved->place) {
                moved->key = prng_below(&prng, 50);
                heap_put(&heap, moved);
            }
        }
        uint64_t key = 0, tie = 0;
        for (struct heap_node *top; (top = heap_top(&heap)); heap_remove(&heap, top)) {
            assert_true(top->key > key || (top->key == key && top->tie >= tie));
            key = top->key;
            tie = top->tie;
        }
        for (int i = 0; i < N; i++)
            assert_int_equal(node[i].place, 0);
    }
    arena_free(arena);
}

TEST(heap_remove_twice_does_nothing)
{
    struct arena *arena;
    struct heap heap;
    struct heap_node a = { .key = 1 }, b = { .key = 2 };
    assert_ok(arena_create(1 << 20, &arena));
    assert_ok(heap_init(&heap, 2, arena));
    heap_put(&heap, &b);
    heap_put(&heap, &a);
    assert_ptr_equal(heap_top(&heap), &a);
    heap_remove(&heap, &a);
    heap_remove(&heap, &a);
    assert_ptr_equal(heap_top(&heap), &b);
    assert_int_equal(heap.n_node, 1);
    arena_free(arena);
}
