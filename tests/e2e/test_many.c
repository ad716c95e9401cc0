/*
 * 256 clients at once, 64 of them active, one that never reads, one that floods: everybody who
 * plays by the rules gets the same share, and those who are idle cost nothing.
 */
#include "tests/e2e/e2e.h"

#include <sys/resource.h>

enum { N_CLIENT = 256, N_ACTIVE = 64, ROUNDS = 25 };

static struct e2e_daemon d;
static struct ringlet_client *cl[N_CLIENT];

/* Each session of ours has four descriptors: often more than a shell allows, seldom than it may. */
static void allow_descriptors(void)
{
    struct rlimit limit;
    assert_ok(getrlimit(RLIMIT_NOFILE, &limit));
    limit.rlim_cur = limit.rlim_max;
    assert_ok(setrlimit(RLIMIT_NOFILE, &limit));
    if (limit.rlim_cur < 5 * N_CLIENT)
        skip();
}

static void connect_all(void)
{
    for (int i = 0; i < N_CLIENT; i++) {
        struct ringlet_options o = e2e_options(&d);
        o.n_slot = 16;
        o.prompt_bytes = 64 * 1024;
        o.text_bytes = 64 * 1024;
        cl[i] = e2e_connect_with(&d, &o);
    }
}

/* Read what is there; returns how many requests ended. */
static int drain(struct ringlet_client *c)
{
    struct ringlet_event ev;
    int n = 0;
    while (ringlet_peek(c, &ev) == 0) {
        n += ev.flags & RINGLET_CQE_END;
        ringlet_advance(c);
    }
    return n;
}

TEST(active_clients_are_served_alike_beside_a_flood_and_a_sleeper)
{
    const char *const args[] = { "--slow-client-s", "600", NULL };
    allow_descriptors();
    e2e_start(&d, args);
    connect_all();
    struct ringlet_client *stalled = cl[N_ACTIVE], *flood = cl[N_ACTIVE + 1];
    struct ringlet_request req = e2e_text("sixteen tokens!!");
    for (int i = 0; i < 16; i++)
        assert_ok(ringlet_submit(stalled, &req, NULL));
    static int done[N_ACTIVE], open[N_ACTIVE];
    int n_left = N_ACTIVE, flooded = 0, first_done_at_least = ROUNDS;
    uint64_t until = e2e_deadline_ns();
    while (n_left > 0 && e2e_now_ns() < until) {
        while (ringlet_submit(flood, &req, NULL) == 0)
            flooded++;
        drain(flood);
        for (int i = 0; i < N_ACTIVE; i++) {
            if (done[i] == ROUNDS)
                continue;
            int n = drain(cl[i]);
            done[i] += n;
            open[i] -= n;
            if (done[i] == ROUNDS) {
                if (n_left-- == N_ACTIVE) /* the fastest: how far is the slowest? */
                    for (int k = 0; k < N_ACTIVE; k++)
                        if (done[k] < first_done_at_least)
                            first_done_at_least = done[k];
            } else if (open[i] == 0 && ringlet_submit(cl[i], &req, NULL) == 0) {
                open[i]++;
            }
        }
    }
    assert_int_equal(n_left, 0);
    print_message(
        "# when the fastest of %d had %d answers the slowest had %d; the flood got %d in\n",
        N_ACTIVE, ROUNDS, first_done_at_least, flooded);
    assert_true(first_done_at_least >= ROUNDS / 2);
    for (int i = 0; i < N_CLIENT; i++)
        ringlet_close(cl[i]);
    struct ringlet_client *last = e2e_connect(&d);
    e2e_stat_becomes(last, "clients", -1, 1);
    e2e_audit(last, 0);
    ringlet_close(last);
    e2e_stop(&d);
}

TEST(idle_clients_are_not_looked_at)
{
    allow_descriptors();
    e2e_start(&d, NULL);
    connect_all();
    static struct e2e_answer a;
    struct ringlet_request req = e2e_text("one");
    uint64_t until = e2e_deadline_ns();
    do { /* the others cool down, and it is told now and then */
        e2e_ask(cl[7], &req, &a);
        assert_true(e2e_may_wait(until));
    } while (e2e_stat(cl[7], "hot_sessions", -1) > 2);
    for (int i = 0; i < N_CLIENT; i += 17) { /* each wakes up all the same */
        e2e_ask(cl[i], &req, &a);
        assert_string_equal(a.text, "one");
    }
    for (int i = 0; i < N_CLIENT; i++)
        ringlet_close(cl[i]);
    e2e_stop(&d);
}
