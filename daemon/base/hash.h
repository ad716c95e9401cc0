/*
 * Map from a u64 key to a u32 value: open addressing over a mixed key, fixed capacity from the
 * arena, never more than half full, deletions without tombstones. One thread.
 */
#ifndef RINGLET_BASE_HASH_H
#define RINGLET_BASE_HASH_H

#include <stdbool.h>
#include <stdint.h>

struct arena;

struct hash {
    uint64_t *key;
    uint32_t *value; /* + 1; 0 = empty */
    uint32_t mask, n_entry, n_entry_max;
};

/* Returns: 0; -EINVAL; -ENOMEM. Thread: start-up. */
int hash_init(struct hash *hash, uint32_t n_entry_max, struct arena *arena);

/* Returns: 0; -ENOSPC full. The key must not be in. value < UINT32_MAX. */
int hash_put(struct hash *hash, uint64_t key, uint32_t value);

/* Returns: found, with the value in *ret_value. */
bool hash_get(const struct hash *hash, uint64_t key, uint32_t *ret_value);

/* Returns: it was in. */
bool hash_remove(struct hash *hash, uint64_t key);

#endif
