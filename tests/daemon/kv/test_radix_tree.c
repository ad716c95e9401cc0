#include "daemon/kv/radix_tree.h"

#include "daemon/base/arena.h"
#include "daemon/base/prng.h"
#include "daemon/kv/block_table.h"
#include "tests/harness/harness.h"

static struct arena *arena;
static struct block_pool *pool, *host;
static struct radix_tree *tree;

static void make(int32_t n_block, int32_t n_host)
{
    host = NULL;
    assert_ok(arena_create(64 << 20, &arena));
    assert_ok(block_pool_create(n_block, arena, &pool));
    if (n_host)
        assert_ok(block_pool_create(n_host, arena, &host));
    assert_ok(radix_tree_create(pool, host, 4, arena, &tree));
}

/* Insert a stream with blocks of its own and let go of them: all CACHED, or exchanged. */
static void put(uint64_t domain, const int32_t *ids, uint32_t n)
{
    int32_t blocks[64];
    for (uint32_t i = 0; i < block_count(n); i++) {
        blocks[i] = block_pool_take(pool);
        assert_true(blocks[i] >= 0);
    }
    struct radix_cursor cursor = { 0 };
    radix_tree_insert(tree, domain, &cursor, ids, n, blocks);
    for (uint32_t i = 0; i < block_count(n); i++)
        block_pool_unref(pool, blocks[i]);
    assert_true(radix_tree_consistent(tree));
}

static uint32_t found(uint64_t domain, const int32_t *ids, uint32_t n)
{
    int32_t blocks[64];
    return radix_tree_match(tree, domain, ids, n, blocks, false).n_token;
}

TEST(radix_tree_match_is_exact_to_the_token)
{
    make(16, 0);
    int32_t ids[40], other[40];
    for (int i = 0; i < 40; i++)
        ids[i] = other[i] = 100 + i;
    put(1, ids, 40);
    assert_int_equal(found(1, ids, 40), 40);
    for (uint32_t n = 0; n <= 40; n++)
        assert_int_equal(found(1, ids, n), n);
    for (int at = 0; at < 40; at++) {
        other[at]++;
        assert_int_equal(found(1, other, 40), at);
        other[at]--;
    }
    assert_int_equal(pool->n_cached, 3);
    arena_free(arena);
}

TEST(radix_tree_keeps_domains_apart)
{
    make(16, 0);
    int32_t ids[20] = { 5 };
    put(1, ids, 20);
    assert_int_equal(found(2, ids, 20), 0);
    assert_int_equal(found(UINT64_C(1) << 32, ids, 20), 0);
    put(2, ids, 20);
    assert_int_equal(found(2, ids, 20), 20);
    assert_int_equal(pool->n_cached, 4);
    /* more domains than it can keep: silently not cached, nothing lost */
    for (uint64_t domain = 3; domain < 9; domain++)
        put(domain, ids, 20);
    assert_int_equal(found(4, ids, 20), 20);
    assert_int_equal(found(5, ids, 20), 0);
    assert_true(block_pool_consistent(pool, 0));
    arena_free(arena);
}

TEST(radix_tree_exchanges_blocks_that_it_has_already)
{
    make(16, 0);
    int32_t ids[32] = { 1, 2, 3 }, blocks[2];
    put(1, ids, 32);
    for (int i = 0; i < 2; i++)
        blocks[i] = block_pool_take(pool);
    int32_t before = blocks[0];
    struct radix_cursor cursor = { 0 };
    radix_tree_insert(tree, 1, &cursor, ids, 32, blocks);
    assert_int_not_equal(blocks[0], before);
    assert_int_equal(pool->n_free, 14);
    assert_int_equal(cursor.n_block, 2);
    assert_true(block_pool_consistent(pool, 2));
    arena_free(arena);
}

TEST(radix_tree_lengthens_a_partial_block)
{
    make(16, 0);
    int32_t ids[48];
    for (int i = 0; i < 48; i++)
        ids[i] = i * 7;
    put(1, ids, 5);
    assert_int_equal(found(1, ids, 48), 5);
    put(1, ids, 3); /* shorter: nothing new */
    assert_int_equal(pool->n_cached, 1);
    put(1, ids, 9);
    assert_int_equal(pool->n_cached, 1);
    assert_int_equal(found(1, ids, 48), 9);
    put(1, ids, 40);
    assert_int_equal(pool->n_cached, 3);
    assert_int_equal(found(1, ids, 48), 40);
    arena_free(arena);
}

TEST(radix_tree_goes_on_at_its_cursor)
{
    make(16, 0);
    int32_t ids[64], blocks[4];
    for (int i = 0; i < 64; i++)
        ids[i] = i;
    struct radix_cursor cursor = { 0 };
    for (int i = 0; i < 4; i++) {
        blocks[i] = block_pool_take(pool);
        radix_tree_insert(tree, 1, &cursor, ids, (uint32_t)(i + 1) * 16 - 3, blocks);
        assert_int_equal(cursor.n_block, i);
        assert_int_equal(found(1, ids, 64), (i + 1) * 16 - 3);
        assert_true(radix_tree_consistent(tree));
    }
    radix_tree_insert(tree, 1, &cursor, ids, 64, blocks);
    assert_int_equal(found(1, ids, 64), 64);
    assert_true(block_pool_consistent(pool, 4));
    arena_free(arena);
}

TEST(radix_tree_will_not_have_a_block_of_another_domain)
{
    make(16, 0);
    int32_t ids[16] = { 3 }, blocks[1] = { block_pool_take(pool) };
    struct radix_cursor cursor = { 0 }, other = { 0 };
    radix_tree_insert(tree, 1, &cursor, ids, 16, blocks);
    radix_tree_insert(tree, 2, &other, ids, 16, blocks);
    assert_int_equal(found(2, ids, 16), 0);
    struct radix_stats stats;
    radix_tree_stats(tree, &stats);
    assert_int_equal(stats.n_domain, 1);
    assert_true(radix_tree_consistent(tree));
    arena_free(arena);
}

TEST(radix_tree_evicts_the_least_recently_used_leaf_first)
{
    make(16, 0);
    int32_t a[32] = { 1 }, b[32] = { 1 }, c[16] = { 2 };
    b[16] = 9; /* a and b share their first block */
    put(1, a, 32);
    put(1, b, 32);
    put(1, c, 16);
    int32_t blocks[4];
    radix_tree_match(tree, 1, a, 32, blocks, true);
    assert_true(radix_tree_evict(tree));
    assert_int_equal(found(1, b, 32), 16); /* b's own block was the oldest leaf */
    assert_true(radix_tree_evict(tree));
    assert_int_equal(found(1, c, 16), 0);
    assert_true(radix_tree_evict(tree));
    assert_int_equal(found(1, a, 32), 16);
    assert_true(radix_tree_evict(tree));
    assert_false(radix_tree_evict(tree));
    assert_int_equal(pool->n_free, 16);
    arena_free(arena);
}

TEST(radix_tree_never_evicts_what_a_table_holds)
{
    make(4, 0);
    int32_t ids[64], blocks[4];
    for (int i = 0; i < 64; i++)
        ids[i] = i;
    put(1, ids, 64);
    radix_tree_match(tree, 1, ids, 32, blocks, false);
    block_pool_ref(pool, blocks[0]);
    block_pool_ref(pool, blocks[1]);
    assert_true(radix_tree_evict(tree));
    assert_true(radix_tree_evict(tree));
    assert_false(radix_tree_evict(tree));
    assert_int_equal(found(1, ids, 64), 32);
    block_pool_unref(pool, blocks[0]);
    block_pool_unref(pool, blocks[1]);
    radix_tree_clear(tree);
    assert_int_equal(pool->n_free, 4);
    arena_free(arena);
}

TEST(radix_tree_demotes_to_the_host_and_promotes_back)
{
    make(4, 4);
    int32_t ids[48], blocks[4], block, host_block;
    for (int i = 0; i < 48; i++)
        ids[i] = i;
    put(1, ids, 48);
    assert_true(radix_tree_demote(tree, &block, &host_block));
    assert_int_equal(pool->n_free, 2);
    struct radix_match match = radix_tree_match(tree, 1, ids, 48, blocks, false);
    assert_int_equal(match.n_token, 48);
    assert_int_equal(match.n_device_token, 32);
    assert_int_equal(match.cursor.n_block, 2);
    assert_int_equal(blocks[2], -1 - host_block);
    assert_true(radix_tree_consistent(tree));
    int32_t mine = block_pool_take(pool);
    assert_true(radix_tree_promote(tree, host_block, mine, &match.cursor));
    assert_int_equal(match.cursor.n_block, 3);
    block_pool_unref(pool, mine);
    assert_int_equal(host->n_free, 4);
    assert_int_equal(radix_tree_match(tree, 1, ids, 48, blocks, false).n_device_token, 48);
    assert_true(radix_tree_consistent(tree));
    while (radix_tree_demote(tree, &block, &host_block)) {
    }
    assert_int_equal(pool->n_free, 4);
    assert_true(radix_tree_evict_host(tree));
    assert_int_equal(found(1, ids, 48), 32);
    assert_true(radix_tree_consistent(tree));
    arena_free(arena);
}

/* A flat list of what was put, beside the tree: the tree finds at least the same while nothing is
 * evicted, never more than what was put, and conserves its blocks. */
TEST(radix_tree_agrees_with_a_list_of_streams)
{
    enum { N_STREAM = 200, N_TOKEN = 90 };
    static int32_t stream[N_STREAM][N_TOKEN];
    static uint32_t length[N_STREAM];
    make(4096, 0);
    struct prng prng = { harness_seed() };
    for (int s = 0; s < N_STREAM; s++) {
        int from = s ? (int)prng_below(&prng, (uint32_t)s) : 0;
        uint32_t keep = s ? prng_below(&prng, length[from] + 1) : 0;
        length[s] = prng_between(&prng, 1, N_TOKEN);
        for (uint32_t i = 0; i < length[s]; i++)
            stream[s][i] = i < keep ? stream[from][i] : (int32_t)prng_below(&prng, 3);
        put(1, stream[s], length[s]);
        int32_t probe[N_TOKEN];
        for (int i = 0; i < N_TOKEN; i++)
            probe[i] = prng_chance(&prng, 90) ? stream[from][i] : (int32_t)prng_below(&prng, 3);
        uint32_t expected = 0;
        for (int t = 0; t <= s; t++) {
            uint32_t n = 0;
            while (n < length[t] && stream[t][n] == probe[n])
                n++;
            expected = n > expected ? n : expected;
        }
        assert_int_equal(found(1, probe, N_TOKEN), expected);
    }
    for (int32_t n = pool->n_cached; n > 0; n--) {
        assert_true(radix_tree_evict(tree));
        if (n % 64 == 0)
            assert_true(radix_tree_consistent(tree));
    }
    assert_int_equal(pool->n_free, 4096);
    assert_true(block_pool_consistent(pool, 0));
    arena_free(arena);
}
