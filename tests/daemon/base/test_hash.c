#include "daemon/base/hash.h"

#include <errno.h>

#include "daemon/base/arena.h"
#include "daemon/base/prng.h"
#include "tests/harness/harness.h"

TEST(hash_agrees_with_an_array)
{
    enum { N_KEY = 300, N_MAX = 100 };
    struct arena *arena;
    struct hash hash;
    assert_ok(arena_create(1 << 20, &arena));
    assert_ok(hash_init(&hash, N_MAX, arena));
    struct prng prng = { harness_seed() };
    bool in[N_KEY] = { false };
    uint32_t n_in = 0, value;
    for (int i = 0; i < 100000; i++) {
        uint32_t key = prng_below(&prng, N_KEY);
        assert_int_equal(hash_get(&hash, key, &value), in[key]);
        if (in[key])
            assert_int_equal(value, key * 3);
        if (in[key]) {
            assert_true(hash_remove(&hash, key));
            n_in--;
            in[key] = false;
        } else {
            assert_false(hash_remove(&hash, key));
            int error = hash_put(&hash, key, key * 3);
            assert_int_equal(error, n_in == N_MAX ? -ENOSPC : 0);
            in[key] = !error;
            n_in += !error;
        }
        assert_int_equal(hash.n_entry, n_in);
    }
    arena_free(arena);
}

TEST(hash_init_refuses_no_capacity)
{
    struct arena *arena;
    struct hash hash;
    assert_ok(arena_create(1 << 20, &arena));
    assert_int_equal(hash_init(&hash, 0, arena), -EINVAL);
    assert_int_equal(hash_init(&hash, 1 << 29, arena), -ENOMEM);
    arena_free(arena);
}
