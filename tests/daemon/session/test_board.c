/* The BOARD as a client sees it: sealed, head, limits, a model entry behind its lock. */
#include "tests/harness/harness.h"

#include "daemon/session/board.h"
#include "shm/layout.h"

TEST(board_is_readable_and_only_that)
{
    struct board board;
    struct region seen;
    struct board_config config = { .version = "1.2.3", .daemon_generation = 42, .n_model = 2 };
    board_limits_default(&config.limits);
    assert_ok(board_create(&config, &board));
    assert_ok(region_map(board.region.fd, RINGLET_BOARD_BYTES, REGION_BOARD, &seen));
    const struct ringlet_board_head *head = seen.base;
    assert_int_equal(head->magic, RINGLET_MAGIC_BOARD);
    assert_int_equal(head->daemon_generation, 42);
    assert_string_equal(head->version, "1.2.3");
    const struct ringlet_limits *limits =
        (const void *)((char *)seen.base + RINGLET_BOARD_LIMITS_OFF);
    assert_int_equal(limits->struct_size, sizeof(*limits));
    assert_int_equal(limits->slots_max, RINGLET_SLOTS_MAX);

    struct ringlet_board_model in = { .generation = 3, .name = "m", .vocab = 99 }, out;
    board_set_model(&board, 1, &in);
    const struct ringlet_board_model *models =
        (const void *)((char *)seen.base + RINGLET_BOARD_MODELS_OFF);
    assert_ok(layout_read_model(&models[1], &out));
    assert_int_equal(out.vocab, 99);
    assert_string_equal(out.name, "m");
    board_beat(&board, 123);
    board_steps(&board, 7);
    const struct ringlet_board_beat *beat =
        (const void *)((char *)seen.base + RINGLET_BOARD_BEAT_OFF);
    assert_int_equal(beat->heartbeat_ns, 123);
    assert_int_equal(beat->steps, 7);
    seen.fd = -1;
    region_free(&seen);
    board_free(&board);
}
