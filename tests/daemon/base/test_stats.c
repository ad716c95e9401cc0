/* The counter table: every name once per model and class, values inside the board and apart. */
#include "tests/harness/harness.h"

#include <errno.h>

#include "daemon/base/stats.h"

static _Alignas(4096) uint8_t board[RINGLET_BOARD_BYTES];

static const struct ringlet_stat *find(const char *name, int model, int urgency_class)
{
    const struct ringlet_board_stats *head = (const void *)(board + RINGLET_BOARD_STATS_OFF);
    const struct ringlet_stat *stat = (const void *)(head + 1), *found = NULL;
    for (uint32_t i = 0; i < head->n_stat; i++)
        if (!strcmp(stat[i].name, name) && stat[i].model == model &&
            stat[i].urgency_class == urgency_class) {
            assert_null(found);
            found = &stat[i];
        }
    return found;
}

TEST(stats_are_found_by_name_and_hold_what_was_stored)
{
    struct stats s;
    assert_ok(stats_init(&s, board, sizeof(board), RINGLET_MODELS_MAX));
    stats_set(s.model[3].value[STATS_KV_FREE], 77);
    stats_add(s.model[3].reason[stats_reason_index(RINGLET_REASON_LENGTH)], 2);
    stats_observe(s.model[0].histogram[2][STATS_TOTAL_NS], 1000);
    const struct ringlet_stat *stat = find("kv_blocks_free", 3, RINGLET_STAT_ANY);
    assert_non_null(stat);
    assert_int_equal(*(uint64_t *)(void *)(board + stat->value_off), 77);
    stat = find("finished_length", 3, RINGLET_STAT_ANY);
    assert_int_equal(*(uint64_t *)(void *)(board + stat->value_off), 2);
    stats_set(s.model[15].value[STATS_PREFIX_HITS], 5);
    stat = find("prefix_cache_hits", 15, RINGLET_STAT_ANY);
    assert_int_equal(*(uint64_t *)(void *)(board + stat->value_off), 5);
    stat = find("total_ns", 0, 2);
    const uint64_t *h = (const void *)(board + stat->value_off);
    assert_int_equal(h[0], 1);
    assert_int_equal(h[1], 1000);
    assert_int_equal(h[2 + ringlet_stat_bucket(1000)], 1);
    assert_non_null(find("clients", RINGLET_STAT_ANY, RINGLET_STAT_ANY));
    stats_observe(s.model[15].whole[STATS_STEP_NS], 9);
    stat = find("step_ns", 15, RINGLET_STAT_ANY);
    assert_int_equal(((const uint64_t *)(const void *)(board + stat->value_off))[1], 9);
    assert_non_null(find("time_per_output_token_ns", 15, RINGLET_URGENCY_CLASSES - 1));
}

TEST(stats_values_do_not_overlap)
{
    struct stats s;
    assert_ok(stats_init(&s, board, sizeof(board), 2));
    const struct ringlet_board_stats *head = (const void *)(board + RINGLET_BOARD_STATS_OFF);
    const struct ringlet_stat *stat = (const void *)(head + 1);
    uint32_t at = (uint32_t)((const uint8_t *)(stat + head->n_stat) - board);
    for (uint32_t i = 0; i < head->n_stat; i++) {
        assert_int_equal(stat[i].value_off, at);
        at += stat[i].n_value * 8;
    }
    assert_true(at <= sizeof(board));
}

TEST(stats_need_room)
{
    struct stats s;
    assert_int_equal(stats_init(&s, board, 0x2000, 1), -ENOSPC);
    assert_int_equal(stats_init(&s, board, 0x4000, 16), -ENOSPC);
    assert_int_equal(stats_init(&s, board, sizeof(board), 17), -EINVAL);
    assert_int_equal(stats_reason_index(64), -1);
}
