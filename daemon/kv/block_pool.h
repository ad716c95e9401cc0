/*
 * KV blocks by number: who holds each, and which are free. The memory itself is the executor's.
 *
 *   FREE    nobody holds it
 *   OWNED   one block table or more hold it (sequences, held sequences, leases)
 *   CACHED  only the radix tree holds it: can be evicted
 *
 * The tree's hold is a mark beside the count, so free + cached + owned = total is known at any time
 * without a walk. Loop thread; the same type counts the blocks of the host pool.
 */
#ifndef RINGLET_KV_BLOCK_POOL_H
#define RINGLET_KV_BLOCK_POOL_H

#include <stdbool.h>
#include <stdint.h>

struct arena;

enum { BLOCK_TOKENS = 16 };

struct block_pool {
    int32_t n_block;
    int32_t n_free, n_cached; /* owned is the rest */
    uint32_t *refs;           /* [n_block] tables that hold the block */
    uint8_t *in_tree;         /* [n_block] the radix tree holds it */
    int32_t *free_stack;      /* [n_block] n_free of them, last freed on top */
};

/* Blocks that n tokens touch. */
static inline uint32_t block_count(uint32_t n_token)
{
    return (n_token + BLOCK_TOKENS - 1) / BLOCK_TOKENS;
}

/* Returns: 0; -EINVAL n_block < 1; -ENOMEM. Thread: start-up. */
int block_pool_create(int32_t n_block, struct arena *arena, struct block_pool **ret);

/* A free block with one reference, or -1. */
int32_t block_pool_take(struct block_pool *pool);

/* One holder more; one less. The last one frees the block unless the tree holds it. */
void block_pool_ref(struct block_pool *pool, int32_t block);
void block_pool_unref(struct block_pool *pool, int32_t block);

/* The radix tree holds an owned block; lets go of a block. */
void block_pool_tree_hold(struct block_pool *pool, int32_t block);
void block_pool_tree_drop(struct block_pool *pool, int32_t block);

static inline int32_t block_pool_owned(const struct block_pool *pool)
{
    return pool->n_block - pool->n_free - pool->n_cached;
}

/*
 * Conservation: every block is in exactly one state, and the counts agree.
 *
 *   ref_sum   references that all tables have together
 */
bool block_pool_consistent(const struct block_pool *pool, uint64_t ref_sum);

#endif
