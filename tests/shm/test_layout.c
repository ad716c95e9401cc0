/* Geometry: every size in range fits and does not overlap, none outside is accepted. */
#include "shm/layout.h"

#include <errno.h>

#include "shm/ring.h"
#include "tests/harness/harness.h"

TEST(layout_default_is_the_documented_one)
{
    struct layout l;
    assert_ok(layout_compute(0, 0, 0, &l));
    assert_int_equal(l.n_slot, 64);
    assert_int_equal(l.n_cqe, 256);
    assert_int_equal(l.sq_off, 0x1000);
    assert_int_equal(l.prompt_off, 0x2000);
    assert_int_equal(l.up_bytes, 0x2000 + 1024 * 1024);
    assert_int_equal(l.cq_off, 0x1000);
    assert_int_equal(l.annex_off, 0x5000);
    assert_int_equal(l.text_off, 0x9000);
    assert_int_equal(l.down_bytes, 0x9000 + 128 * 1024);
}

TEST(layout_parts_never_overlap)
{
    for (uint32_t s = RINGLET_SLOTS_MIN; s <= RINGLET_SLOTS_MAX; s *= 2) {
        struct layout l;
        assert_ok(layout_compute(s, RINGLET_PROMPT_BYTES_MIN, RINGLET_TEXT_BYTES_MIN, &l));
        assert_true(l.sq_off >= RINGLET_UP_CANCEL_OFF + 4 * s);
        assert_true(l.prompt_off >= l.sq_off + 64 * s);
        assert_true(l.up_bytes == l.prompt_off + RINGLET_PROMPT_BYTES_MIN);
        assert_true(l.cq_off >= sizeof(struct ringlet_down_head));
        assert_true(l.annex_off >= l.cq_off + 64 * 4 * s);
        assert_true(l.text_off >= l.annex_off + 256 * s);
        assert_int_equal((l.sq_off | l.prompt_off | l.cq_off | l.annex_off | l.text_off) % 4096, 0);
    }
}

TEST(layout_refuses_sizes_out_of_range)
{
    struct layout l;
    const uint32_t slots[] = { 1, 8, 15, 17, 63, 65, 4095, 8192, 0x80000000u, UINT32_MAX };
    for (unsigned i = 0; i < sizeof(slots) / sizeof(slots[0]); i++)
        assert_int_equal(layout_compute(slots[i], 0, 0, &l), -EINVAL);
    const uint64_t bytes[] = { 1, 4096, 65535, 65537, 70000, 257ull << 20, UINT64_MAX,
                               UINT64_MAX - 4095, 1ull << 32, 1ull << 63 };
    for (unsigned i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++) {
        assert_int_equal(layout_compute(0, bytes[i], 0, &l), -EINVAL);
        assert_int_equal(layout_compute(0, 0, bytes[i], &l), -EINVAL);
    }
}

TEST(layout_survives_the_welcome_and_nothing_else_does)
{
    struct layout l, back;
    assert_ok(layout_compute(256, 1 << 20, 1 << 18, &l));
    struct ringlet_welcome w = { 0 };
    layout_to_welcome(&l, &w);
    assert_ok(layout_from_welcome(&w, &back));
    assert_true(l.n_slot == back.n_slot && l.n_cqe == back.n_cqe && l.sq_off == back.sq_off);
    assert_true(l.prompt_off == back.prompt_off && l.cq_off == back.cq_off);
    assert_true(l.annex_off == back.annex_off && l.text_off == back.text_off);
    assert_true(l.up_bytes == back.up_bytes && l.down_bytes == back.down_bytes);
    /* Each geometry word that is moved by a bit must be noticed. */
    for (size_t bit = 8 * offsetof(struct ringlet_welcome, n_slot);
         bit < 8 * offsetof(struct ringlet_welcome, sq_start); bit++) {
        struct ringlet_welcome bad = w;
        ((unsigned char *)&bad)[bit / 8] ^= (unsigned char)(1u << bit % 8);
        bool board = bit / 8 >= offsetof(struct ringlet_welcome, board_bytes) &&
                     bit / 8 < offsetof(struct ringlet_welcome, prompt_bytes);
        assert_int_equal(layout_from_welcome(&bad, &back), board ? 0 : -EPROTO);
    }
    memset(&w, 0, sizeof(w));
    assert_int_equal(layout_from_welcome(&w, &back), -EPROTO);
}

TEST(layout_model_entry_is_read_whole)
{
    static struct ringlet_board_model shared, copy;
    struct ringlet_board_model m = { .generation = 3, .state = 2, .name = "m", .vocab = 9,
                                     .reserved = { 1, 2, 3, 4 } };
    layout_write_model(&shared, &m);
    assert_ok(layout_read_model(&shared, &copy));
    assert_int_equal(copy.generation, 3);
    assert_int_equal(copy.vocab, 9);
    assert_int_equal(copy.reserved[3], 4);
    assert_int_equal(shared.lock, 2);
    shared.lock = 5; /* a writer that died in the middle */
    assert_int_equal(layout_read_model(&shared, &copy), -EAGAIN);
}

TEST(layout_span_bytes_cannot_overflow)
{
    assert_int_equal(layout_span_bytes(RINGLET_CQE_INLINE, 1, 0, 16), 0);
    assert_int_equal(layout_span_bytes(0, 3, 0, 5), 17);
    assert_int_equal(layout_span_bytes(RINGLET_CQE_LOGPROBS, 2, 3, 1), 2 * (4 + 4 + 24) + 1);
    assert_true(layout_span_bytes(RINGLET_CQE_LOGPROBS, 255, 255, UINT32_MAX) > UINT32_MAX);
}
