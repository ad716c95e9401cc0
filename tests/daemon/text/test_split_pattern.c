/* Patterns of one dialect written in the other. */
#include "tests/harness/harness.h"

#include <errno.h>

#include "daemon/text/split_pattern.h"

static const char *rewritten(const char *pattern)
{
    static char copy[4096];
    char *text;
    size_t bytes;
    assert_ok(split_pattern_rewrite(pattern, strlen(pattern), &text, &bytes));
    assert_true(bytes < sizeof(copy));
    memcpy(copy, text, bytes);
    copy[bytes] = 0;
    free(text);
    return copy;
}

TEST(split_pattern_leaves_what_both_read_alike)
{
    static const char *const same[] = { "",
                                        "a",
                                        "\\p{L}+| ?[^\\r\\n]+",
                                        "(?i:'s|'t)",
                                        "[[:alpha:]x]",
                                        "a{2}",
                                        "a{2,}b*+",
                                        "\\[\\]",
                                        "[\\]\\[]",
                                        "(?<name>a)(?!b)",
                                        "\\x{180e}",
                                        "{a}",
                                        "\xe4\xb8\x80-\xe9\xbe\xa5" };
    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++)
        assert_string_equal(rewritten(same[i]), same[i]);
}

TEST(split_pattern_translates_what_they_read_differently)
{
    assert_string_equal(rewritten("\\u4e00"), "\\x{4e00}");
    assert_string_equal(rewritten("\\h[\\h]"), "[0-9a-fA-F][0-9a-fA-F]");
    assert_string_equal(rewritten("a{,3}"), "a{0,3}");
    assert_string_equal(rewritten("xa{3}+y"), "x(?:a{3})+y");
    assert_string_equal(rewritten("\\p{Nd}{1,3}+"), "(?:\\p{Nd}{1,3})+");
    assert_string_equal(rewritten("[ab]{2}+(cd|e){2}+"), "(?:[ab]{2})+(?:(cd|e){2})+");
    assert_string_equal(rewritten("[a[bc]d]"), "[abcd]");
    assert_string_equal(rewritten("[]a]"), "[\\]a]");
    assert_string_equal(rewritten("[^]a]"), "[^\\]a]");
    assert_non_null(strstr(rewritten("\\s"), "\\x{3000}"));
    assert_null(strstr(rewritten("\\s"), "180e"));
}

TEST(split_pattern_refuses_what_it_cannot_translate)
{
    char *text, deep[300];
    size_t bytes;
    assert_int_equal(split_pattern_rewrite("[a&&b]", 6, &text, &bytes), -ENOTSUP);
    assert_int_equal(split_pattern_rewrite("[a[^b]]", 7, &text, &bytes), -ENOTSUP);
    assert_int_equal(split_pattern_rewrite("\xff", 1, &text, &bytes), -EINVAL);
    memset(deep, '(', sizeof(deep));
    assert_int_equal(split_pattern_rewrite(deep, sizeof(deep), &text, &bytes), -E2BIG);
}

TEST(split_pattern_survives_random_patterns)
{
    static const char pieces[] = "\\\\\\[]()^{},+*?|:-&pPuxswWbBhHS019aZ \xc3\xa4";
    uint64_t s = harness_seed();
    for (int round = 0; round < 50000; round++) {
        char pattern[40], *text;
        size_t n = harness_rand(&s) % sizeof(pattern), bytes;
        for (size_t i = 0; i < n; i++)
            pattern[i] = pieces[harness_rand(&s) % (sizeof(pieces) - 1)];
        char *exact = malloc(n + !n);
        memcpy(exact, pattern, n);
        if (split_pattern_rewrite(exact, n, &text, &bytes) == 0)
            free(text);
        free(exact);
    }
}
