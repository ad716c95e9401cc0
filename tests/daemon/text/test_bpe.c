/* The merge loop: the heap and the scan give what the definition gives, on random vocabularies. */
#include "tests/harness/harness.h"

#include <errno.h>

#include "daemon/text/bpe.h"
#include "daemon/text/vocab_internal.h"

enum { LETTERS = 3, MERGES_MAX = 60 };

struct toy {
    struct vocab *v;
    struct {
        int32_t left, right, id;
    } merges[MERGES_MAX];
    int n_merges;
};

/* Tokens a, b, c and random joins of earlier tokens, in the order in which they were made. */
static struct toy make_toy(uint64_t *s)
{
    struct toy toy = { 0 };
    char texts[LETTERS + MERGES_MAX][64];
    int n = LETTERS;
    assert_ok(vocab_new(LETTERS + MERGES_MAX, &toy.v));
    toy.v->kind = VOCAB_BYTE_LEVEL;
    for (int i = 0; i < LETTERS; i++)
        snprintf(texts[i], 64, "%c", 'a' + i);
    for (int k = 0; k < MERGES_MAX; k++) {
        int left = (int)(harness_rand(s) % (uint64_t)n),
            right = (int)(harness_rand(s) % (uint64_t)n);
        char whole[128];
        snprintf(whole, sizeof(whole), "%s%s", texts[left], texts[right]);
        bool known = strlen(whole) >= 12;
        for (int i = 0; i < n; i++)
            known = known || strcmp(texts[i], whole) == 0;
        if (known)
            continue;
        snprintf(texts[n], 64, "%.63s", whole);
        toy.merges[toy.n_merges].left = left;
        toy.merges[toy.n_merges].right = right;
        toy.merges[toy.n_merges++].id = n++;
    }
    for (int i = 0; i < n; i++)
        assert_ok(vocab_set_piece(toy.v, i, texts[i], strlen(texts[i]), PIECE_NORMAL));
    assert_ok(vocab_index(toy.v));
    assert_ok(vocab_reserve_merges(toy.v, MERGES_MAX));
    for (int k = 0; k < toy.n_merges; k++) {
        const char *left = texts[toy.merges[k].left], *right = texts[toy.merges[k].right];
        vocab_add_merge(toy.v, left, strlen(left), right, strlen(right), (uint32_t)k);
    }
    assert_int_equal(toy.v->merges_dropped, 0);
    return toy;
}

/* The definition: as long as some pair merges, merge the leftmost of the lowest rank. */
static size_t by_definition(const struct toy *toy, const char *text, size_t bytes, int32_t *ids)
{
    size_t n = bytes;
    for (size_t i = 0; i < n; i++)
        ids[i] = text[i] - 'a';
    for (int k = 0; k < toy->n_merges; k++) {
        for (size_t i = 0; i + 1 < n; i++) {
            if (ids[i] == toy->merges[k].left && ids[i + 1] == toy->merges[k].right) {
                ids[i] = toy->merges[k].id;
                memmove(ids + i + 1, ids + i + 2, (n - i - 2) * sizeof(*ids));
                n--;
                k = -1; /* it may have made a pair of a lower rank */
                break;
            }
        }
    }
    return n;
}

TEST(bpe_equals_its_definition)
{
    uint64_t s = harness_seed();
    for (int round = 0; round < 300; round++) {
        struct toy toy = make_toy(&s);
        struct bpe *b;
        assert_ok(bpe_new(toy.v, 200, &b));
        for (int k = 0; k < 20; k++) {
            char text[200];
            int32_t ids[200], expected[200];
            size_t bytes = harness_rand(&s) % sizeof(text);
            for (size_t i = 0; i < bytes; i++)
                text[i] = (char)('a' + harness_rand(&s) % LETTERS);
            struct id_sink sink = { ids, 0, 200 };
            assert_ok(bpe_encode(b, text, (uint32_t)bytes, &sink));
            assert_int_equal(sink.n, by_definition(&toy, text, bytes, expected));
            assert_memory_equal(ids, expected, sink.n * sizeof(*ids));
            if (sink.n) {
                struct id_sink small = { ids, 0, sink.n - 1 };
                assert_int_equal(bpe_encode(b, text, (uint32_t)bytes, &small), -E2BIG);
            }
        }
        bpe_free(b);
        vocab_free(toy.v);
    }
}
