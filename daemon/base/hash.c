/* Owns the two arrays of a map. An entry lies at its home place or in the run that follows it. */
#include "daemon/base/hash.h"

#include <errno.h>

#include "base/assert.h"
#include "daemon/base/arena.h"
#include "daemon/base/prng.h"

int hash_init(struct hash *hash, uint32_t n_entry_max, struct arena *arena)
{
    if (n_entry_max == 0 || n_entry_max > UINT32_MAX / 4)
        return -EINVAL;
    uint32_t n_place = 4;
    while (n_place < 2 * n_entry_max)
        n_place *= 2;
    *hash = (struct hash){ .mask = n_place - 1, .n_entry_max = n_entry_max };
    hash->key = arena_array(arena, uint64_t, n_place);
    hash->value = arena_array(arena, uint32_t, n_place);
    return hash->key && hash->value ? 0 : -ENOMEM;
}

static uint32_t home(const struct hash *hash, uint64_t key)
{
    return (uint32_t)prng_mix(key + 1) & hash->mask;
}

static uint32_t find(const struct hash *hash, uint64_t key)
{
    uint32_t at = home(hash, key);
    while (hash->value[at] && hash->key[at] != key)
        at = (at + 1) & hash->mask;
    return at;
}

int hash_put(struct hash *hash, uint64_t key, uint32_t value)
{
    assert(value < UINT32_MAX);
    if (hash->n_entry == hash->n_entry_max)
        return -ENOSPC;
    uint32_t at = find(hash, key);
    assert(!hash->value[at]);
    hash->key[at] = key;
    hash->value[at] = value + 1;
    hash->n_entry++;
    return 0;
}

bool hash_get(const struct hash *hash, uint64_t key, uint32_t *ret_value)
{
    uint32_t at = find(hash, key);
    if (!hash->value[at])
        return false;
    *ret_value = hash->value[at] - 1;
    return true;
}

bool hash_remove(struct hash *hash, uint64_t key)
{
    uint32_t gap = find(hash, key);
    if (!hash->value[gap])
        return false;
    hash->n_entry--;
    for (uint32_t at = (gap + 1) & hash->mask; hash->value[at]; at = (at + 1) & hash->mask) {
        uint32_t from = home(hash, hash->key[at]);
        if (((at - from) & hash->mask) < ((at - gap) & hash->mask))
            continue; /* its home lies behind the gap */
        hash->key[gap] = hash->key[at];
        hash->value[gap] = hash->value[at];
        gap = at;
    }
    hash->value[gap] = 0;
    return true;
}
