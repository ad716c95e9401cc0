/* Splitting: the same pieces as the reference library for 141 real patterns, and limits that hold.
 */
#include "tests/daemon/text/text_data.h"

#include <errno.h>
#include <jansson.h>

#include "daemon/base/clock.h"
#include "daemon/text/pretokenize.h"

static json_t *load_gzip(const char *path)
{
    char command[4200];
    json_error_t why;
    snprintf(command, sizeof(command), "gzip -dc '%s'", path);
    FILE *in = popen(command, "r");
    assert_non_null(in);
    json_t *json = json_loadf(in, JSON_ALLOW_NUL, &why);
    pclose(in);
    if (!json)
        fail_msg("%s: %s", path, why.text);
    return json;
}

static enum split_behavior behavior_of(const json_t *node)
{
    static const char *const names[] = { "Isolated", "Removed", "MergedWithPrevious",
                                         "MergedWithNext", "Contiguous" };
    for (int i = 0; i < 5; i++)
        if (json_string_value(node) && strcmp(json_string_value(node), names[i]) == 0)
            return (enum split_behavior)i;
    return SPLIT_REMOVED;
}

struct oracle {
    json_t *patterns, *tokens;
    int n_checked, n_unreadable, n_different;
};

static bool same_pieces(const char *id, const char *pattern, const char *text,
                        const struct text_piece *pieces, uint32_t n, const json_t *want)
{
    for (uint32_t k = 0; k < n || k < json_array_size(want); k++) {
        const json_t *piece = json_array_get(want, k);
        size_t bytes = k < n ? pieces[k].to - pieces[k].from : 0;
        const char *at = k < n ? text + pieces[k].from : "";
        if (k < n && json_is_string(piece) && json_string_length(piece) == bytes &&
            memcmp(json_string_value(piece), at, bytes) == 0)
            continue;
        fprintf(stderr, "%s %s: \"%s\": piece %u is \"%.*s\", expected \"%s\"\n", id, pattern, text,
                k, (int)bytes, at, piece ? json_string_value(piece) : "(none)");
        return false;
    }
    return true;
}

/* One case: all its inputs. Counts a pattern that PCRE2 cannot read. */
static void check_case(struct oracle *o, const char *pattern, size_t bytes, const json_t *item,
                       const char *id)
{
    const json_t *defaults = json_object_get(o->patterns, "defaults");
    const json_t *behavior = json_object_get(item, "behavior"),
                 *invert = json_object_get(item, "invert");
    const json_t *inputs = json_object_get(item, "inputs"),
                 *expected = json_object_get(o->tokens, id), *input;
    struct pretokenizer *p;
    struct pretokenize_state *s;
    char why[160];
    size_t i;
    inputs = inputs ? inputs : json_object_get(defaults, "inputs");
    invert = invert ? invert : json_object_get(defaults, "invert");
    assert_ok(pretokenizer_new(&p));
    assert_ok(pretokenize_state_new(4096, &s));
    if (pretokenizer_add(p, pattern, bytes, behavior_of(behavior), json_is_true(invert), why,
                         sizeof(why))) {
        fprintf(stderr, "%s: %s: %s\n", id, pattern, why);
        o->n_unreadable++;
    } else {
        assert_int_equal(json_array_size(inputs), json_array_size(expected));
        json_array_foreach(inputs, i, input)
        {
            const struct text_piece *pieces = NULL;
            struct split_budget budget = split_budget_start(60 * NS_PER_S);
            uint32_t n = 0;
            const char *text = json_string_value(input);
            const json_t *want = json_array_get(expected, i);
            assert_ok(
                pretokenize(p, s, text, (uint32_t)json_string_length(input), &budget, &pieces, &n));
            o->n_different += !same_pieces(id, pattern, text, pieces, n, want);
            o->n_checked++;
        }
    }
    pretokenize_state_free(s);
    pretokenizer_free(p);
}

TEST(pretokenize_equals_the_reference_on_real_patterns)
{
    const char *path = harness_data("tokenizers/splitRegexPatterns.json");
    struct oracle o = { 0 };
    const json_t *item;
    json_error_t why;
    size_t i;
    if (!path)
        skip();
    o.patterns = json_load_file(path, JSON_ALLOW_NUL, &why);
    json_t *all = load_gzip(harness_data("tokenizers/splitRegexOracle.json.gz"));
    o.tokens = json_object_get(all, "tokens");
    const json_t *patterns = json_object_get(o.patterns, "patterns"), *other;
    json_array_foreach(patterns, i, item)
    {
        const json_t *pattern = json_object_get(item, "pattern"),
                     *name = json_object_get(item, "name");
        check_case(&o, json_string_value(pattern), json_string_length(pattern), item,
                   json_string_value(name ? name : json_object_get(item, "id")));
    }
    json_array_foreach(json_object_get(o.patterns, "additionalCases"), i, item)
    {
        size_t k;
        json_array_foreach(patterns, k, other)
        {
            const json_t *pattern = json_object_get(other, "pattern");
            if (json_equal(json_object_get(other, "id"), json_object_get(item, "patternId")))
                check_case(&o, json_string_value(pattern), json_string_length(pattern), item,
                           json_string_value(json_object_get(item, "name")));
        }
    }
    /* PCRE2 folds no sharp s to ss; an intersection of classes and \\p{Word} are refused. */
    assert_int_equal(o.n_different, 1);
    assert_int_equal(o.n_unreadable, 2);
    assert_true(o.n_checked > 2000);
    json_decref(o.patterns);
    json_decref(all);
}

static const char *split_text(const char *pattern, enum split_behavior behavior, bool invert,
                              const char *text)
{
    static char all[512];
    const struct text_piece *pieces = NULL;
    struct split_budget budget = split_budget_start(60 * NS_PER_S);
    struct pretokenizer *p;
    struct pretokenize_state *s;
    char why[160];
    uint32_t n = 0;
    size_t at = 0;
    assert_ok(pretokenizer_new(&p));
    assert_ok(pretokenize_state_new(256, &s));
    assert_ok(pretokenizer_add(p, pattern, strlen(pattern), behavior, invert, why, sizeof(why)));
    assert_ok(pretokenize(p, s, text, (uint32_t)strlen(text), &budget, &pieces, &n));
    for (uint32_t i = 0; i < n; i++)
        at += (size_t)snprintf(all + at, sizeof(all) - at, "%s%.*s", i ? "," : "",
                               (int)(pieces[i].to - pieces[i].from), text + pieces[i].from);
    all[at] = 0;
    pretokenize_state_free(s);
    pretokenizer_free(p);
    return all;
}

TEST(pretokenize_behaviors_are_those_of_tokenizer_json)
{
    assert_string_equal(split_text("-", SPLIT_ISOLATED, false, "the-final--countdown"),
                        "the,-,final,-,-,countdown");
    assert_string_equal(split_text("-", SPLIT_REMOVED, false, "the-final--countdown"),
                        "the,final,countdown");
    assert_string_equal(split_text("-", SPLIT_MERGED_WITH_PREVIOUS, false, "the-final--countdown"),
                        "the-,final-,-,countdown");
    assert_string_equal(split_text("-", SPLIT_MERGED_WITH_NEXT, false, "the-final--countdown"),
                        "the,-final,-,-countdown");
    assert_string_equal(split_text("-", SPLIT_CONTIGUOUS, false, "the-final--countdown"),
                        "the,-,final,--,countdown");
    assert_string_equal(split_text("[a-z]+", SPLIT_REMOVED, true, "the-final--countdown"),
                        "the,final,countdown");
    assert_string_equal(split_text("x*", SPLIT_ISOLATED, false, "axxb\xc3\xa4"), "a,xx,b,\xc3\xa4");
    assert_string_equal(split_text("-", SPLIT_ISOLATED, false, ""), "");
    assert_string_equal(split_text("(?=(\\d{3})+(?!\\d))", SPLIT_ISOLATED, false, "1234567"),
                        "1,234,567");
}

TEST(pretokenize_refuses_what_is_no_pattern)
{
    static const char *const bad[] = { "(",      "[",       "*",    "(?<a",     "\\C",
                                       "[a&&b]", "[a[^b]]", "\xff", "\\p{Nope}" };
    struct pretokenizer *p;
    char why[160], deep[400];
    assert_ok(pretokenizer_new(&p));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        why[0] = 0;
        assert_true(pretokenizer_add(p, bad[i], strlen(bad[i]), SPLIT_ISOLATED, false, why,
                                     sizeof(why)) < 0);
        assert_true(why[0] != 0);
    }
    memset(deep, '(', sizeof(deep));
    assert_true(pretokenizer_add(p, deep, sizeof(deep), SPLIT_ISOLATED, false, why, sizeof(why)) <
                0);
    assert_int_equal(pretokenizer_steps(p), 0);
    for (int i = 0; i < SPLIT_STEPS_MAX; i++)
        assert_ok(pretokenizer_add(p, "a", 1, SPLIT_ISOLATED, false, why, sizeof(why)));
    assert_int_equal(pretokenizer_add(p, "a", 1, SPLIT_ISOLATED, false, why, sizeof(why)), -E2BIG);
    pretokenizer_free(p);
}

TEST(pretokenize_ends_within_its_budget_whatever_the_pattern)
{
    static const char *const evil[] = { "(a+)+$",      "(a|a)*b",       "(?:a?){40}a{40}",
                                        "(?=(a+))a*b", "(?:a|aa)+[^a]", "a*a*a*a*a*a*[^a]" };
    static char text[20000];
    struct pretokenize_state *s;
    memset(text, 'a', sizeof(text));
    assert_ok(pretokenize_state_new(sizeof(text), &s));
    for (size_t i = 0; i < sizeof(evil) / sizeof(evil[0]); i++) {
        const struct text_piece *pieces;
        struct pretokenizer *p;
        char why[160];
        uint32_t n;
        assert_ok(pretokenizer_new(&p));
        assert_ok(
            pretokenizer_add(p, evil[i], strlen(evil[i]), SPLIT_ISOLATED, false, why, sizeof(why)));
        struct split_budget budget = split_budget_start(50 * NS_PER_MS);
        int rc = pretokenize(p, s, text, sizeof(text), &budget, &pieces, &n);
        assert_true(rc == 0 || rc == -ETIME); /* without a budget: years */
        pretokenizer_free(p);
    }
    pretokenize_state_free(s);
}

TEST(pretokenizer_family_knows_its_names)
{
    static const char *const good[] = { "default",     "gpt-2",     "llama-bpe",  "qwen2",
                                        "smollm",      "starcoder", "refact",     "deepseek-coder",
                                        "deepseek-v3", "falcon",    "tekken",     "gpt-4o",
                                        "command-r",   "qwen35",    "seed-coder", "bailingmoe",
                                        "viking",      "superbpe",  "glm4" };
    static const char *const bad[] = { "", "llama", "gpt", " ", "gpt-2 gpt2", "martian" };
    struct pretokenizer *p;
    struct pretokenize_family family;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
        assert_ok(pretokenizer_family(good[i], strlen(good[i]), &p, &family));
        pretokenizer_free(p);
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(pretokenizer_family(bad[i], strlen(bad[i]), &p, &family), -ENOENT);
    assert_int_equal(pretokenizer_family("gpt-2\0x", 7, &p, &family), -ENOENT);
}
