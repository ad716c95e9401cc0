/*
 * What one session asks for is much at once, all within the rules; others, of the same user too,
 * are served meanwhile.
 */
#include "tests/e2e/e2e.h"

#include <unistd.h>

static struct e2e_daemon d;
static struct e2e_answer answer;

static struct ringlet_client *connect_large(void)
{
    struct ringlet_options o;
    ringlet_options_init(&o);
    o.n_slot = 512;
    o.prompt_bytes = 32 << 20;
    o.text_bytes = 16 << 20;
    o.heartbeat_ns = RINGLET_FOREVER; /* the machine may be busy */
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
    for (int i = 0; i < 20000 && e2e_stat(cl, "prompt_pool_used", -1) >= bytes; i++)
        usleep(1000);
    assert_in_range(e2e_stat(cl, "prompt_pool_used", -1), 0, bytes);
}

/* It ends by closing the flood's session: what is left of it is given up, and nothing remains. */
TEST(a_flood_of_long_texts_delays_another_session_by_a_few_of_them)
{
    enum { N_FLOOD = 300, LONG = 60000, SHORT = 2000 };
    static char text[LONG];
    const char *model = e2e_stories();
    if (!model)
        skip();
    const char *const args[] = { "--model", model, NULL };
    e2e_start_with(&d, args);
    struct ringlet_client *flood = connect_large(), *cl = connect_large();
    for (size_t i = 0; i < sizeof(text); i++)
        text[i] = "once upon a time "[i % 17];
    struct ringlet_request req = e2e_text("");
    req.op = RINGLET_OP_TOKENIZE;
    req.text = text;
    req.text_bytes = LONG;
    for (int n = 0; n < N_FLOOD;)
        n += ringlet_submit(flood, &req, NULL) == 0;
    req.text_bytes = SHORT; /* too long for the loop all the same */
    int before = n_end(flood);
    e2e_ask(cl, &req, &answer);
    assert_int_equal(answer.reason, RINGLET_REASON_DONE);
    int meanwhile = n_end(flood);
    print_message("# a text came behind %d of the %d that another session had there\n", meanwhile,
                  N_FLOOD - before);
    assert_true(N_FLOOD - before > N_FLOOD / 2);
    assert_true(meanwhile < N_FLOOD / 4);
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
        assert_ok(ringlet_wait(cl, &ev, e2e_now_ns() + 50000000000u));
        for (uint32_t i = 0; i < ev.n_token; i++, n++)
            assert_int_equal(ev.tokens[i], ids[n]);
        end = ev.flags & RINGLET_CQE_END;
        if (end)
            assert_int_equal(ev.reason, RINGLET_REASON_DONE);
    }
    assert_int_equal(n, N_ID);
    /* In by so many a pass, out by as many. */
    assert_true(e2e_stat(cl, "passes", -1) - passes >= 2 * (sizeof(ids) / BITE) - 2);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}
