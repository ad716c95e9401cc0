/* Who comes to the encoder when: users in turn, their sessions in turn, and never much at once. */
#include "daemon/encode_turns.h"

#include <stdlib.h>

#include "daemon/base/limits.h"
#include "daemon/base/prng.h"
#include "tests/harness/harness.h"

enum { N_USER = 3, N_SESSION = 6, N_TEXT = 64 };

struct text {
    struct list node;
    int session, number;
};

static struct encode_turns t;
static struct encode_place user[N_USER], session[N_SESSION];
static struct text texts[N_SESSION][N_TEXT];

static void set_up(void)
{
    encode_turns_init(&t);
    for (int i = 0; i < N_USER; i++)
        encode_place_init(&user[i]);
    for (int i = 0; i < N_SESSION; i++)
        encode_place_init(&session[i]);
}

/* Sessions 0 and 1 are user 0's, 2 and 3 user 1's, and so on. */
static void add(int session_i, int number)
{
    struct text *text = &texts[session_i][number];
    *text = (struct text){ .session = session_i, .number = number };
    list_init(&text->node);
    encode_turns_add(&t, &user[session_i / 2], &session[session_i], &text->node);
}

static void add_some(int session_i, int n)
{
    for (int i = 0; i < n; i++)
        add(session_i, i);
}

static struct text *next(void)
{
    struct list *node = encode_turns_next(&t);
    return node ? list_entry(node, struct text, node) : NULL;
}

static void expect(int session_i, int number)
{
    struct text *text = next();
    assert_non_null(text);
    assert_int_equal(text->session, session_i);
    assert_int_equal(text->number, number);
}

TEST(a_flood_of_one_session_delays_another_of_its_user_by_one_text)
{
    set_up();
    add_some(0, N_TEXT);
    expect(0, 0);
    add_some(1, 3);
    expect(0, 1); /* it was there before */
    expect(1, 0);
    expect(0, 2);
    expect(1, 1);
    expect(0, 3);
    expect(1, 2);
    for (int i = 4; i < N_TEXT; i++)
        expect(0, i);
    assert_null(next());
}

TEST(a_user_with_many_sessions_gets_no_more_turns_than_one_with_a_single_one)
{
    set_up();
    add_some(0, 8);
    add_some(1, 8);
    add_some(2, 8);
    for (int i = 0; i < 4; i++) {
        expect(0, i);
        expect(2, 2 * i);
        expect(1, i);
        expect(2, 2 * i + 1);
    }
}

TEST(a_long_text_goes_alone_and_short_ones_a_few_at_once)
{
    set_up();
    add_some(0, N_TEXT);
    for (int i = 0; i < LIMIT_ENCODING; i++) {
        expect(0, i);
        encode_turns_out(&t, 2000);
    }
    assert_null(next());
    encode_turns_back(&t, 2000);
    expect(0, LIMIT_ENCODING);
    encode_turns_out(&t, UINT32_MAX); /* behind short ones it may go, but nothing behind it */
    encode_turns_back(&t, 2000);
    encode_turns_back(&t, 2000);
    encode_turns_back(&t, 2000);
    assert_int_equal(t.n_out, 1);
    assert_null(next());
    encode_turns_back(&t, UINT32_MAX);
    expect(0, LIMIT_ENCODING + 1);
}

TEST(what_is_taken_back_leaves_its_session_and_user_out_of_the_turns)
{
    set_up();
    add_some(0, 4);
    add_some(1, 1);
    add_some(2, 2);
    list_remove(&texts[0][1].node);
    list_remove(&texts[2][0].node);
    list_remove(&texts[2][1].node); /* user 1 has nothing any more, and nobody said so */
    expect(0, 0);
    expect(1, 0);
    encode_turns_leave(&session[2]);
    expect(0, 2);
    list_remove(&texts[0][3].node);
    encode_turns_leave(&session[0]);
    assert_null(next());
    assert_true(list_empty(&t.users));
    add(2, 5); /* another session in that place */
    expect(2, 5);
    assert_null(next());
}

/* How long may a text wait? In its user's turn no other session comes twice before it. */
TEST(nobody_is_passed_by_twice_whatever_comes_and_goes)
{
    uint64_t seed = harness_seed();
    struct prng p = { seed };
    int waiting[N_SESSION] = { 0 }, first[N_SESSION] = { 0 }, n_came = 0;
    int passed[N_SESSION][N_SESSION] = { { 0 } };
    set_up();
    for (int i = 0; i < 20000; i++) {
        int s = (int)prng_below(&p, N_SESSION);
        if (prng_below(&p, 2) && waiting[s] < N_TEXT) {
            add(s, (first[s] + waiting[s]++) % N_TEXT);
            continue;
        }
        struct text *text = next();
        if (!text)
            continue;
        n_came++;
        assert_int_equal(text->number, first[text->session]); /* its own are in their order */
        first[text->session] = (first[text->session] + 1) % N_TEXT;
        waiting[text->session]--;
        for (int k = 0; k < N_SESSION; k++) {
            passed[k][text->session]++;
            if (k == text->session || !waiting[k])
                memset(passed[k], 0, sizeof(passed[k]));
            else if (k / 2 == text->session / 2)
                assert_in_range(passed[k][text->session], 0, 1);
            else /* its sibling may have the user's turn in between */
                assert_in_range(passed[k][text->session ^ 1] + passed[k][text->session], 0, 2);
        }
    }
    assert_true(n_came > 5000);
}
