/*
 * The KV blocks of one token stream, in order: block i holds positions 16 i .. 16 i + 15. Full
 * blocks are shared and never written again; only the last block of a table is written, by its one
 * owner (copy-on-write: see block_table_share). Loop thread. The array is the caller's.
 */
#ifndef RINGLET_KV_BLOCK_TABLE_H
#define RINGLET_KV_BLOCK_TABLE_H

#include <stdbool.h>
#include <stdint.h>

#include "daemon/kv/block_pool.h"

struct block_table {
    int32_t *blocks;
    uint32_t n_block, n_block_max;
};

static inline void block_table_init(struct block_table *table, int32_t *blocks,
                                    uint32_t n_block_max)
{
    *table = (struct block_table){ .blocks = blocks, .n_block_max = n_block_max };
}

/* Append a block that the caller holds: its reference moves into the table. */
void block_table_push(struct block_table *table, int32_t block);

/*
 * Begin an empty table with the first n_token tokens of `from`, which has them all. Full blocks are
 * shared. A partial last block is not: it is returned as the source of a copy into a block that the
 * caller takes and pushes, else -1.
 */
int32_t block_table_share(struct block_table *table, const struct block_table *from,
                          uint32_t n_token, struct block_pool *pool);

/* Give all blocks back; the table is empty. */
void block_table_drop(struct block_table *table, struct block_pool *pool);

/* Slot (block * 16 + offset) of a position that the table has. */
static inline int32_t block_table_slot(const struct block_table *table, uint32_t position)
{
    return table->blocks[position / BLOCK_TOKENS] * BLOCK_TOKENS +
           (int32_t)(position % BLOCK_TOKENS);
}

#endif
