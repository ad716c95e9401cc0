/*
 * What one session asks for is much at once, all within the rules; others, of the same user too,
 * are served meanwhile.
 */
#include "tests/e2e/e2e.h"

static struct e2e_daemon d;
static struct e2e_answer answer;

static struct ringlet_client *connect_large(void)
{
    struct ringlet_options o = e2e_options(&d);
    o.n_slot = 512;
    o.prompt_bytes = 32 << 20;
    o.text_bytes = 16 << 20;
    return e2e_connect_with(&d, &o);
}

/* Ends that are there, without waiting. */
static int n_end(struct ringlet_client *cl)
{
    struct ringlet_event ev;
    int n = 0;
    while (ringlet_peek(cl, &ev) == 0) {
        n += ev.flags & RINGLET_CQE_END;
        ringlet_advance(cl);
    }
    return n;
}

static void pool_falls_below(struct ringlet_client *cl, uint64_t bytes)
{
    uint64_t until = e2e_deadline_ns();
    while (e2e_stat(cl, "prompt_pool_used", -1) >= bytes)
        assert_true(e2e_may_wait(until));
}

enum { N_FLOOD = 300, LONG = 60000, SHORT = 2000 };

/*
 * A text behind so many that are there already. Returns how many of these came before it, as far as
 * we could see: whoever is not run for a while sees later ones, too.
 */
static int flood_and_ask(struct ringlet_client *flood, struct ringlet_client *cl, const char *text)
{
    struct ringlet_request req = e2e_text("");
    req.op = RINGLET_OP_TOKENIZE;
    req.text = text;
    req.text_bytes = LONG;
    e2e_pause(&d); /* they are all there before the first is looked at */
    for (int n = 0; n < N_FLOOD; n++)
        assert_ok(ringlet_submit(flood, &req, NULL));
    e2e_resume(&d);
    int before = 0;
    for (uint64_t until = e2e_deadline_ns(); before == 0; before = n_end(flood))
        assert_true(e2e_may_wait(until));
    req.text_bytes = SHORT; /* too long for the loop all the same */
    e2e_ask(cl, &req, &answer);
    assert_int_equal(answer.reason, RINGLET_REASON_DONE);
    int meanwhile = n_end(flood);
    print_message("# a text came behind %d of the %d that another session had there\n", meanwhile,
                  N_FLOOD - before);
    return before + meanwhile;
}

/* It ends by closing the flood's session: what is left of it is given up, and nothing remains. */
TEST(a_flood_of_long_texts_delays_another_session_by_a_few_of_them)
{
    static char text[LONG];
    const char *model = e2e_stories();
    if (!model)
        skip();
    const char *const args[] = { "--model", model, NULL };
    e2e_start_with(&d, args);
    struct ringlet_client *flood = NULL, *cl = connect_large();
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = "once upon a time "[i % 17];
    int n_before = N_FLOOD;
    for (int tries = 0; tries < 20 && n_before >= N_FLOOD / 2; tries++) {
        ringlet_close(flood);
        flood = connect_large();
        n_before = flood_and_ask(flood, cl, text);
    }
    assert_true(n_before < N_FLOOD / 2); /* in turn with all of them it would be the last */
    ringlet_close(flood);
    e2e_stat_becomes(cl, "clients", -1, 1);
    pool_falls_below(cl, LONG);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(a_long_answer_goes_out_in_bites_of_a_pass_each)
{
    enum { N_ID = 1 << 20, BITE = 64 << 10 };
    static uint32_t ids[N_ID];
    static const char *const args[] = { "--spin", "never", NULL };
    e2e_start(&d, args);
    struct ringlet_client *cl = connect_large();
    struct ringlet_request req = e2e_text("");
    struct ringlet_event ev;
    for (size_t i = 0; i < N_ID; i++)
        ids[i] = (uint32_t)(i * 7 % 256);
    req.op = RINGLET_OP_TOKENIZE;
    req.text = NULL;
    req.text_bytes = 0;
    req.tokens = ids;
    req.n_token = N_ID;
    uint64_t passes = e2e_stat(cl, "passes", -1);
    assert_ok(ringlet_submit(cl, &req, NULL));
    size_t n = 0;
    for (bool end = false; !end; ringlet_advance(cl)) {
        assert_ok(ringlet_wait(cl, &ev, e2e_deadline_ns()));
        for (uint32_t i = 0; i < ev.n_token; i++, n++)
            assert_int_equal(ev.tokens[i], ids[n]);
        end = ev.flags & RINGLET_CQE_END;
        if (end)
            assert_int_equal(ev.reason, RINGLET_REASON_DONE);
    }
    assert_int_equal(n, N_ID);
    /* In by so many a pass, out by as many. */
    e2e_stat_reaches(cl, "passes", -1, passes + 2 * (sizeof(ids) / BITE) - 2);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}
