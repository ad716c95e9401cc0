/* Log rings: levels, cutting, control characters, drops; the parser of --log. */
#include "tests/harness/harness.h"

#include <errno.h>

#include "daemon/base/arena.h"
#include "daemon/base/log.h"

static char out[LOG_RING_LINES * LOG_LINE_BYTES * 2];

static size_t drain(void)
{
    size_t n = log_drain(out, sizeof(out) - 1);
    out[n] = 0;
    return n;
}

TEST(log_rings_hold_whole_lines_and_tell_drops)
{
    struct arena *arena;
    assert_ok(arena_create(4 << 20, &arena));
    assert_ok(log_create(arena));
    log_attach(3);
    log_info(DAEMON, "ready in %d ms", 7);
    log_info(SESSION, "not shown: sessions log warnings only");
    log_warn(SESSION, "peer said \"%s\"", "a\nb\033[31m");
    assert_true(log_pending());
    drain();
    assert_string_equal(out, "ringletd: ready in 7 ms\n"
                             "ringletd: session: peer said \"a?b?[31m\"\n");
    assert_false(log_pending());
    for (int i = 0; i < LOG_RING_LINES + 5; i++)
        log_error(LOOP, "%d", i);
    drain();
    assert_non_null(strstr(out, "loop: 255\n"));
    assert_null(strstr(out, "loop: 256\n"));
    assert_non_null(strstr(out, "5 log lines dropped\n"));
    log_detach();
    arena_free(arena);
}

TEST(log_cuts_a_long_line_and_drains_only_whole_ones)
{
    struct arena *arena;
    char text[1000];
    assert_ok(arena_create(4 << 20, &arena));
    assert_ok(log_create(arena));
    log_attach(0);
    memset(text, 'x', sizeof(text));
    text[999] = 0;
    log_error(EXEC, "%s", text);
    assert_int_equal(log_drain(out, 10), 0);
    assert_int_equal(drain(), LOG_LINE_BYTES);
    assert_int_equal(out[LOG_LINE_BYTES - 1], '\n');
    log_detach();
    arena_free(arena);
}

TEST(log_parse_takes_all_or_nothing)
{
    const char *bad;
    size_t bytes;
    assert_ok(log_parse("session=debug,loop=off", &bad, &bytes));
    assert_int_equal(log_levels[LOG_TOPIC_SESSION], LOG_LEVEL_DEBUG);
    assert_int_equal(log_levels[LOG_TOPIC_LOOP], LOG_LEVEL_OFF);
    assert_ok(log_parse("all=error", &bad, &bytes));
    assert_int_equal(log_levels[LOG_TOPIC_TEXT], LOG_LEVEL_ERROR);
    assert_int_equal(log_parse("loop=info,exec=loud", &bad, &bytes), -EINVAL);
    assert_int_equal(bytes, 9);
    assert_int_equal(log_levels[LOG_TOPIC_LOOP], LOG_LEVEL_ERROR);
    assert_int_equal(log_parse("nothing=info", &bad, &bytes), -EINVAL);
    assert_int_equal(log_parse("loop", &bad, &bytes), -EINVAL);
    assert_ok(log_parse("", &bad, &bytes));
}
