/* Whole KV blocks: copied inside the pool, swapped to host memory and back. */
#include <stdlib.h>
#include <string.h>

#include "tests/harness/harness.h"
#include "tests/kernels/rig.h"

enum { BLOCKS = 9, STRIDE = 5120 };

static void check_copy(struct rig *rig)
{
    static const int32_t src[] = { 0, 8, 3 }, dst[] = { 5, 1, 2 };
    static uint8_t pool[BLOCKS * STRIDE], got[BLOCKS * STRIDE];
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof(pool); i++)
        pool[i] = (uint8_t)harness_rand(&seed);
    struct kv_copy_args args = { rig_put(rig, pool, sizeof(pool)), STRIDE, src, dst, 3 };
    assert_ok(rig->ops->kv_copy(rig->st, &args));
    rig_get(rig, args.pool, got, sizeof(got));
    for (int i = 0; i < 3; i++)
        memcpy(pool + dst[i] * STRIDE, pool + src[i] * STRIDE, STRIDE);
    assert_memory_equal(got, pool, sizeof(pool));
    rig_reset(rig);
}

TEST(kv_copy_copies_whole_blocks_and_nothing_else)
{
    rig_each(check_copy);
}

static void check_move(struct rig *rig)
{
    static const int32_t pool_block[] = { 7, 0, 4 }, host_block[] = { 1, 3, 0 };
    static uint8_t pool[BLOCKS * STRIDE], got[BLOCKS * STRIDE];
    uint64_t seed = 2;
    for (size_t i = 0; i < sizeof(pool); i++)
        pool[i] = (uint8_t)harness_rand(&seed);
    uint8_t *host = rig->backend->device->host_alloc(rig->dev, 4 * STRIDE);
    assert_non_null(host);
    struct kv_move_args args = { rig_put(rig, pool, sizeof(pool)), host,       STRIDE,
                                 pool_block,                       host_block, 3, true };
    assert_ok(rig->ops->kv_move(rig->st, &args));
    assert_ok(rig->backend->device->stream_sync(rig->st));
    for (int i = 0; i < 3; i++)
        assert_memory_equal(host + host_block[i] * STRIDE, pool + pool_block[i] * STRIDE, STRIDE);
    assert_ok(rig->backend->device->fill(rig->st, args.pool, 0, sizeof(pool)));
    args.to_host = false;
    assert_ok(rig->ops->kv_move(rig->st, &args));
    rig_get(rig, args.pool, got, sizeof(got));
    for (int b = 0; b < BLOCKS; b++) {
        bool moved = b == 7 || b == 0 || b == 4;
        for (int i = 0; i < STRIDE; i++)
            assert_int_equal(got[b * STRIDE + i], moved ? pool[b * STRIDE + i] : 0);
    }
    rig->backend->device->host_free(rig->dev, host);
    rig_reset(rig);
}

TEST(kv_move_swaps_blocks_out_and_in)
{
    rig_each(check_move);
}
