/*
 * Which prefixes of which token streams have their KV in blocks. One node is one block: 16 tokens,
 * or fewer in a leaf. Siblings are a search tree in the order of their tokens, so the longest
 * common prefix, exact to the token, lies beside the search path: no hashes, nothing to collide.
 *
 *   super root -> domain -> block -> block -> ... -> partial block
 *
 * Domains are apart: nothing of one is ever found from another. The tree marks its blocks in the
 * pool; a block that no table holds is CACHED, and such leaves leave in least-recently-used order.
 *
 * With a host pool an evicted block can move there first: its node stays, without a device block.
 *
 * Cost: match and insert O(length x log siblings), evict O(log siblings). Loop thread; no
 * allocation after create.
 */
#ifndef RINGLET_KV_RADIX_TREE_H
#define RINGLET_KV_RADIX_TREE_H

#include <stdbool.h>
#include <stdint.h>

struct arena;
struct block_pool;
struct radix_tree;

/* Where an insertion goes on; valid while its caller holds the blocks that it stands for. */
struct radix_cursor {
    int32_t node;     /* of the last full block, 0 = nothing yet */
    uint32_t n_block; /* full blocks so far */
};

struct radix_match {
    uint32_t n_token;        /* found, <= n asked for */
    uint32_t n_device_token; /* of them before the first block that only the host has */
    struct radix_cursor cursor;
};

struct radix_stats {
    uint32_t n_node, n_domain;
    uint64_t evicted, demoted, host_evicted; /* blocks */
};

/*
 *   pool         device blocks
 *   host         host blocks, or NULL
 *   n_domain     domains that can have something cached at once
 *
 * Returns: 0; -ENOMEM. Thread: start-up.
 */
int radix_tree_create(struct block_pool *pool, struct block_pool *host, uint32_t n_domain,
                      struct arena *arena, struct radix_tree **ret);

/*
 * Longest prefix of ids[0 .. n) that the domain has.
 *
 *   ret_blocks  [block_count(n)] the blocks; the last is used in part if n_token % 16. A block that
 *               only the host has is told as -1 - host block. Nothing is referenced: the caller
 *               refers to them before it asks for another block.
 *   touch       it is going to be used: last to be evicted
 */
struct radix_match radix_tree_match(struct radix_tree *tree, uint64_t domain, const int32_t *ids,
                                    uint32_t n, int32_t *ret_blocks, bool touch);

/*
 * Offer the blocks of ids[0 .. n_token). Blocks whose tokens the tree has already are exchanged for
 * the tree's: blocks[] changes, and with it the caller's references.
 *
 *   cursor   where the last call for this stream stopped; {0} at first; moves on
 *   blocks   the caller's table; full ones and a partial last one
 *
 * When domains are used up nothing is kept, silently: a cache may forget.
 */
void radix_tree_insert(struct radix_tree *tree, uint64_t domain, struct radix_cursor *cursor,
                       const int32_t *ids, uint32_t n_token, int32_t *blocks);

/* Evict the least recently used unreferenced leaf for good. Returns: a block became free. */
bool radix_tree_evict(struct radix_tree *tree);

/*
 * The same, but its content moves to a host block (of which the least recently used is dropped if
 * none is free). The caller moves the bytes before it uses the block.
 * Returns: false nothing to evict, or no host block to be had (nothing changed).
 */
bool radix_tree_demote(struct radix_tree *tree, int32_t *ret_block, int32_t *ret_host);

/*
 * The device block `block` (which the caller holds) is going to have the content of that host
 * block: its node takes it, and the host block is free afterwards unless it is referenced. The
 * cursor, which stood before the block, moves on. Returns: false if no node has the host block.
 */
bool radix_tree_promote(struct radix_tree *tree, int32_t host, int32_t block,
                        struct radix_cursor *cursor);

/* Drop the least recently used host block that no node below needs. Returns: one became free. */
bool radix_tree_evict_host(struct radix_tree *tree);

/* Forget everything; blocks that tables hold stay theirs. */
void radix_tree_clear(struct radix_tree *tree);

void radix_tree_stats(const struct radix_tree *tree, struct radix_stats *ret);

/* Links, order, marks and counts agree. O(n), for tests. */
bool radix_tree_consistent(const struct radix_tree *tree);

#endif
