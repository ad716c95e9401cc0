/* Owns nothing but the references that a table stands for. */
#include "daemon/kv/block_table.h"

#include "base/assert.h"
#include "base/planted.h"

void block_table_push(struct block_table *table, int32_t block)
{
    assert(table->n_block < table->n_block_max && block >= 0);
    table->blocks[table->n_block++] = block;
}

int32_t block_table_share(struct block_table *table, const struct block_table *from,
                          uint32_t n_token, struct block_pool *pool)
{
    uint32_t n_full = n_token / BLOCK_TOKENS;
    assert(table->n_block == 0 && block_count(n_token) <= from->n_block);
    for (uint32_t block_i = 0; block_i < n_full; block_i++) {
        if (!BUG(4) || block_i > 0)
            block_pool_ref(pool, from->blocks[block_i]);
        block_table_push(table, from->blocks[block_i]);
    }
    return n_token % BLOCK_TOKENS ? from->blocks[n_full] : -1;
}

void block_table_drop(struct block_table *table, struct block_pool *pool)
{
    while (table->n_block > BUG(5))
        block_pool_unref(pool, table->blocks[--table->n_block]);
}
