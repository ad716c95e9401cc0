/* The wire's golden numbers: what a client built yesterday relies on. Offsets are asserted in the
 * headers themselves; here are the values of flags, operations, kinds, reasons and errors. */
#include "ringlet_abi.h"

#include "tests/harness/harness.h"

TEST(abi_numbers_are_the_released_ones)
{
    assert_int_equal(RINGLET_ABI_MAJOR, 1);
    assert_int_equal(RINGLET_MAGIC_HELLO, 0x49484C52);
    assert_int_equal(RINGLET_OP_GENERATE, 1);
    assert_int_equal(RINGLET_OP_LEASE, 2);
    assert_int_equal(RINGLET_OP_QUERY, 3);
    assert_int_equal(RINGLET_OP_RELEASE, 4);
    assert_int_equal(RINGLET_OP_TOKENIZE, 5);
    assert_int_equal(RINGLET_SQE_NO_TEXT, 1);
    assert_int_equal(RINGLET_SQE_HOLD, 2);
    assert_int_equal(RINGLET_SQE_PARSE_SPECIAL, 4);
    assert_int_equal(RINGLET_SQE_NO_BOS, 8);
    assert_int_equal(RINGLET_INPUT_MESSAGES, 3);
    assert_int_equal(RINGLET_KIND_FINISHED, 4);
    assert_int_equal(RINGLET_CQE_END, 1);
    assert_int_equal(RINGLET_CQE_INLINE, 2);
    assert_int_equal(RINGLET_CQE_LOGPROBS, 4);
    assert_int_equal(RINGLET_REASON_STOP_STRING, 3);
    assert_int_equal(RINGLET_REASON_CANCELLED, 16);
    assert_int_equal(RINGLET_REASON_REJECTED, 32);
    assert_int_equal(RINGLET_REASON_ERROR_ENGINE, 35);
    assert_int_equal(RINGLET_REASON_DAEMON_LOST, 64);
    assert_int_equal(RINGLET_ERROR_BAD_OP, 1);
    assert_int_equal(RINGLET_ERROR_DRAINING, 15);
    assert_int_equal(RINGLET_SET_REPETITION_DETECTOR, 1 << 21);
    assert_int_equal(RINGLET_SET_BEAM, 1 << 22);
    assert_int_equal(RINGLET_FEATURE_BEAM_SEARCH, 2);
    assert_int_equal(RINGLET_BLOCK_BYTES, 128); /* what old clients send stays valid */
    assert_int_equal(RINGLET_EARLY_STOPPING_TRUE, 1);
    assert_int_equal(RINGLET_EARLY_STOPPING_NEVER, 2);
    assert_int_equal(RINGLET_FD_BELL_DOWN, 4);
}

TEST(abi_histogram_buckets_are_whole_and_in_order)
{
    uint64_t before = 0;
    for (uint32_t b = 0; b < RINGLET_STAT_BUCKETS; b++) {
        uint64_t floor = ringlet_stat_bucket_floor(b);
        assert_int_equal(ringlet_stat_bucket(floor), b);
        if (b > 0) {
            assert_true(floor > before);
            assert_int_equal(ringlet_stat_bucket(floor - 1), b - 1);
        }
        before = floor;
    }
    assert_int_equal(ringlet_stat_bucket(UINT64_MAX), RINGLET_STAT_BUCKETS - 1);
    assert_int_equal(ringlet_stat_bucket(0), 0);
}
