/* How attention of single rows is laid out, as an H200 and as other GPUs have it. */
#include "kernels/cuda/attn_plan.h"

#include "base/bits.h"
#include "base/compiler.h"
#include "tests/harness/harness.h"

static const int contexts[] = { 0,   16,   64,   65,   128,  255,  256,   257,
                                512, 1023, 1024, 1025, 2048, 4096, 10000, 131072 };
static const int row_counts[] = { 1, 2, 3, 4, 5, 8, 12, 16, 17, 24, 64, 256 };

/* Decode of Llama-3.1-8B (heads of 128) or Llama-3.2-1B (64) on an H200. */
static struct attn_work work_of(int n_row, int head_dim, int kv_tokens_max)
{
    return (struct attn_work){ .n_sm = 132,
                               .compute = 90,
                               .units = 8 * n_row,
                               .head_dim = head_dim,
                               .group = 4,
                               .kv_tokens_max = kv_tokens_max };
}

static void assert_plan(struct attn_work w, int n_warp, int n_split, bool cluster)
{
    struct attn_plan p = attn_plan_of(&w);
    if (p.n_warp != n_warp || p.n_split != n_split || p.cluster != cluster)
        fail_msg("%d units of %d, %d tokens: %d warps, %d splits, %d", w.units, w.head_dim,
                 w.kv_tokens_max, p.n_warp, p.n_split, p.cluster);
}

/* Every row that a plan may meet: its splits cover its blocks, those with work come first. */
static void check_cover(const struct attn_work *w, const struct attn_plan *p)
{
    int round = p->n_warp * attn_flying(w->head_dim, w->group, p->n_warp);
    int most = (w->kv_tokens_max + 15) / 16;
    for (int n_block = 1; n_block <= most; n_block += 1 + n_block / 64) {
        int each = attn_split_blocks(n_block, p->n_split, round, w->fixed);
        int active = attn_div_up(n_block, each);
        if (active < 1 || active > p->n_split || active > ATTN_SPLIT_MAX)
            fail_msg("%d blocks of at most %d: %d splits of %d", n_block, most, active, p->n_split);
    }
}

static void check_plan(const struct attn_work *w)
{
    struct attn_plan p = attn_plan_of(w);
    assert_true(p.n_warp == ATTN_NARROW || p.n_warp == ATTN_WIDE ||
                (p.n_warp == ATTN_WIDEST && w->head_dim == 64));
    assert_in_range(p.n_split, 1, ATTN_SPLIT_MAX);
    if (p.cluster) {
        assert_in_range(p.n_split, 2, ATTN_CLUSTER_MAX);
        assert_true(w->compute >= 90 && !w->fixed);
    }
    if (p.n_warp > ATTN_NARROW) {
        assert_true(w->group <= 8 && !w->fixed);
        int blocks = p.n_warp == ATTN_WIDE && w->head_dim == 64 ? 2 : 1; /* that an SM holds */
        assert_true(w->units * p.n_split <= blocks * w->n_sm);
    }
    check_cover(w, &p);
}

TEST(attn_plan_covers_every_context_below_its_bound)
{
    for (size_t c = 0; c < ARRAY_SIZE(contexts); c++)
        for (size_t r = 0; r < ARRAY_SIZE(row_counts); r++)
            for (int i = 0; i < 16; i++) {
                struct attn_work w = work_of(row_counts[r], i & 1 ? 64 : 128, contexts[c]);
                w.group = i & 2 ? 16 : 4;
                w.fixed = i & 4;
                w.compute = i & 8 ? 80 : 90;
                w.n_sm = i & 8 ? 108 : 132;
                check_plan(&w);
            }
}

TEST(attn_plan_gives_wide_blocks_an_sm_each)
{
    assert_plan(work_of(8, 128, 2048), 8, 2, true);
    assert_plan(work_of(16, 128, 2048), 8, 1, false);
    assert_plan(work_of(1, 128, 1024), 8, 8, true);
    assert_plan(work_of(1, 64, 1024), 8, 8, true);
    assert_plan(work_of(12, 128, 2048), 4, 4, false); /* wide ones would leave 36 SMs idle */
    assert_plan(work_of(4, 64, 2048), 16, 3, true);
    assert_plan(work_of(8, 64, 2048), 16, 2, true);
    assert_plan(work_of(12, 64, 2048), 16, 1, false);
}

TEST(attn_plan_splits_nothing_where_heads_of_64_fill_the_device)
{
    assert_plan(work_of(16, 64, 2048), 16, 1, false);
    assert_plan(work_of(32, 64, 2048), 8, 1, false);
    assert_plan(work_of(33, 64, 129), 8, 1, false);
    assert_plan(work_of(32, 64, 128), 4, 1, false);
    assert_plan(work_of(28, 64, 2048), 4, 3, false); /* too many SMs would have one block alone */
    assert_plan(work_of(34, 64, 2048), 4, 4, false);
    assert_plan(work_of(64, 64, 2048), 4, 1, false);
    assert_plan(work_of(66, 64, 16384), 4, 1, false);
}

TEST(attn_plan_waits_for_no_second_round_of_a_short_context)
{
    assert_plan(work_of(1, 128, 64), 4, 1, false);
    assert_plan(work_of(1, 64, 128), 4, 1, false); /* two KV blocks a warp at once */
    assert_plan(work_of(1, 128, 128), 8, 1, false);
    assert_plan(work_of(1, 128, 256), 8, 2, true);
    assert_plan(work_of(1, 64, 256), 8, 2, true);
    assert_plan(work_of(1, 64, 1024), 8, 8, true);
    assert_plan(work_of(1, 64, 2048), 16, 8, true);
    assert_int_equal(attn_split_blocks(7, 8, 8, false), 8); /* a round each, at least */
    assert_int_equal(attn_split_blocks(17, 8, 8, false), 8);
    assert_int_equal(attn_split_blocks(128, 8, 8, false), 16);
}

TEST(attn_plan_of_many_rows_counts_waves_of_narrow_blocks)
{
    assert_plan(work_of(24, 128, 2048), 4, 2, false);
    assert_plan(work_of(64, 128, 2048), 4, 3, false);
    assert_plan(work_of(256, 128, 256), 4, 1, false);
}

TEST(attn_plan_splits_fixed_by_the_context_alone)
{
    for (size_t r = 0; r < ARRAY_SIZE(row_counts); r++) {
        struct attn_work w = work_of(row_counts[r], 128, 2048);
        w.fixed = true;
        assert_plan(w, ATTN_NARROW, 8, false);
    }
    for (int n_split = 1; n_split <= ATTN_SPLIT_MAX; n_split *= 2)
        for (int round = 4; round <= 8; round *= 2) {
            assert_int_equal(attn_split_blocks(3, n_split, round, true), 16);
            assert_int_equal(attn_split_blocks(1024, n_split, round, true), 16);
            assert_int_equal(attn_split_blocks(1025, n_split, round, true), 17);
        }
}
