/* Added tokens: leftmost, longest, and control tokens only where the text is trusted. */
#include "tests/harness/harness.h"

#include <errno.h>

#include "daemon/text/special.h"

static struct special_set example(void)
{
    struct special_set set;
    special_init(&set);
    assert_ok(special_add(&set, "<|a|>", 5, 1, SPECIAL_CONTROL));
    assert_ok(special_add(&set, "<|a|>x", 6, 2, SPECIAL_CONTROL));
    assert_ok(special_add(&set, "<|", 2, 3, 0));
    assert_ok(special_add(&set, "word", 4, 4, SPECIAL_SINGLE_WORD));
    assert_ok(special_add(&set, "<|", 2, 9, 0));
    assert_int_equal(special_add(&set, "", 0, 5, 0), -EINVAL);
    return set;
}

static int32_t id_at(const struct special_set *set, const char *text, size_t at, bool all,
                     const uint8_t *trusted)
{
    struct special_match match;
    return special_match_at(set, text, strlen(text), at, all, trusted, &match) ? match.id : -1;
}

TEST(special_takes_the_longest)
{
    struct special_set set = example();
    assert_int_equal(id_at(&set, "<|a|>y", 0, true, NULL), 1);
    assert_int_equal(id_at(&set, "<|a|>x", 0, true, NULL), 2);
    assert_int_equal(id_at(&set, "<|a|", 0, true, NULL), 3);
    assert_int_equal(id_at(&set, "<a", 0, true, NULL), -1);
    assert_true(special_may_begin(&set, '<'));
    assert_false(special_may_begin(&set, '|'));
    special_free(&set);
}

TEST(special_control_tokens_need_trust_in_every_byte)
{
    struct special_set set = example();
    static const char text[] = "<|a|>x";
    uint8_t trusted[6] = { 1, 1, 1, 1, 1, 1 };
    assert_int_equal(id_at(&set, text, 0, false, NULL), 3);
    assert_int_equal(id_at(&set, text, 0, true, trusted), 2);
    trusted[5] = 0;
    assert_int_equal(id_at(&set, text, 0, true, trusted), 1);
    for (int i = 0; i < 5; i++) {
        trusted[i] = 0;
        assert_int_equal(id_at(&set, text, 0, true, trusted), 3);
        trusted[i] = 1;
    }
    special_free(&set);
}

TEST(special_single_words_stand_alone)
{
    struct special_set set = example();
    assert_int_equal(id_at(&set, "a word.", 2, false, NULL), 4);
    assert_int_equal(id_at(&set, "awords", 1, false, NULL), -1);
    assert_int_equal(id_at(&set, "word", 0, false, NULL), 4);
    assert_int_equal(id_at(&set, "words", 0, false, NULL), -1);
    special_free(&set);
}
