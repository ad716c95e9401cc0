/* Sessions and the daemon itself come and go: nothing is lost, leaked or left hanging. */
#include "tests/e2e/e2e.h"

#include <errno.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct e2e_daemon d;
static struct e2e_answer a;

TEST(two_models_answer_side_by_side)
{
    const char *const args[] = { "--model", "one=echo", "--model", "two=echo", NULL };
    e2e_start_with(&d, args);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_model_info m;
    assert_ok(ringlet_model(cl, "two", &m));
    assert_int_equal(m.index, 1);
    struct ringlet_request req = e2e_text("first"), other = e2e_text("second");
    other.model = 1;
    uint64_t id[2];
    assert_ok(ringlet_submit(cl, &req, &id[0]));
    assert_ok(ringlet_submit(cl, &other, &id[1]));
    int n_end = 0;
    char text[2][64] = { "", "" };
    while (n_end < 2) {
        struct ringlet_event ev;
        assert_ok(ringlet_wait(cl, &ev, e2e_deadline_ns()));
        if (ev.kind == RINGLET_KIND_TOKENS)
            strncat(text[ev.id == id[1]], ev.text, ev.text_bytes);
        n_end += ev.flags & RINGLET_CQE_END;
        ringlet_advance(cl);
    }
    assert_string_equal(text[0], "first");
    assert_string_equal(text[1], "second");
    e2e_audit(cl, 0);
    e2e_audit(cl, 1);
    req.model = 2;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_REJECTED);
    assert_int_equal(a.detail, RINGLET_ERROR_NO_MODEL);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(a_drain_lets_requests_finish_and_refuses_new_ones)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d), *late;
    static char text[3001];
    memset(text, 'z', 3000);
    struct ringlet_request req = e2e_text(text);
    uint64_t id, refused;
    assert_ok(ringlet_submit(cl, &req, &id));
    struct ringlet_event ev;
    assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
    ringlet_advance(cl);
    kill(d.pid, SIGTERM);
    assert_true(e2e_log_says(&d, "draining"));
    struct ringlet_options o = e2e_options(&d);
    o.timeout_ns = 50000000;
    assert_true(ringlet_connect(&o, &late) < 0);
    int error = ringlet_submit(cl, &req, &refused);
    e2e_gather(cl, id, &a);
    assert_int_equal(a.reason, RINGLET_REASON_STOP_EOS);
    assert_string_equal(a.text, text);
    (void)error;
    assert_int_equal(e2e_wait(&d), 0);
    ringlet_close(cl);
}

TEST(a_second_signal_ends_at_once_and_every_request_ends)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    static char text[4001];
    memset(text, 'z', 4000);
    struct ringlet_request req = e2e_text(text);
    uint64_t id;
    assert_ok(ringlet_submit(cl, &req, &id));
    struct ringlet_event ev; /* accepted: a drain that begins now may not refuse it */
    assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
    ringlet_advance(cl);
    kill(d.pid, SIGTERM);
    assert_true(e2e_log_says(&d, "draining")); /* two signals at once would be one */
    kill(d.pid, SIGTERM);
    assert_int_equal(e2e_wait(&d), 0);
    e2e_gather(cl, id, &a);
    assert_true(a.reason == RINGLET_REASON_CANCELLED || a.reason == RINGLET_REASON_DAEMON_LOST ||
                a.reason == RINGLET_REASON_STOP_EOS);
    assert_int_equal(a.n_finished, 1);
    ringlet_close(cl);
}

TEST(a_killed_daemon_is_told_at_once)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d); /* only its death itself can end the wait */
    static char text[4001];
    memset(text, 'k', 4000);
    struct ringlet_request req = e2e_text(text);
    uint64_t id;
    assert_ok(ringlet_submit(cl, &req, &id));
    struct ringlet_event ev;
    assert_ok(ringlet_wait(cl, &ev, RINGLET_FOREVER));
    ringlet_advance(cl);
    kill(d.pid, SIGKILL);
    e2e_gather(cl, id, &a);
    assert_int_equal(a.reason, RINGLET_REASON_DAEMON_LOST);
    assert_int_equal(a.n_finished, 1);
    e2e_wait(&d);
    ringlet_close(cl);
}

/* A client in a process of its own that is killed in the middle of an answer. */
static pid_t victim(void)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct ringlet_client *cl;
        struct ringlet_options o = e2e_options(&d);
        static char text[3001];
        memset(text, 'v', 3000);
        if (ringlet_connect(&o, &cl))
            _exit(1);
        struct ringlet_request req = e2e_text(text);
        for (int i = 0; i < 4; i++)
            if (ringlet_submit(cl, &req, NULL))
                _exit(2);
        for (;;) {
            struct ringlet_event ev;
            if (ringlet_wait(cl, &ev, RINGLET_FOREVER) == 0)
                ringlet_advance(cl);
        }
    }
    return pid;
}

TEST(a_killed_client_leaves_nothing_behind)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request warm = e2e_text("warm");
    e2e_ask(cl, &warm, &a);
    int fds = e2e_fd_count_at_rest(&d, cl);
    uint64_t pool = e2e_stat(cl, "prompt_pool_used", -1);
    for (int i = 0; i < 10; i++) {
        pid_t pid = victim();
        e2e_nap_ms(3 + 3 * i);
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
    }
    e2e_stat_becomes(cl, "clients", -1, 1);
    e2e_audit(cl, 0);
    e2e_stat_becomes(cl, "prompt_pool_used", -1, pool);
    e2e_fd_count_becomes(&d, fds);
    struct ringlet_request req = e2e_text("alive");
    e2e_ask(cl, &req, &a);
    assert_string_equal(a.text, "alive");
    ringlet_close(cl);
    e2e_stop(&d);
}

/* The loop's heartbeat as a time, known to lie between the two. */
struct beat {
    uint64_t lo_ns, hi_ns;
};

static struct beat beat_of(struct ringlet_client *cl)
{
    struct ringlet_stats_info stats;
    uint64_t before = e2e_now_ns();
    assert_ok(ringlet_stats(cl, &stats));
    return (struct beat){ before - stats.heartbeat_age_ns, e2e_now_ns() - stats.heartbeat_age_ns };
}

TEST(time_goes_on_under_a_flood)
{
    const char *const args[] = { "--spin", "always", NULL };
    e2e_start(&d, args);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req;
    struct ringlet_event ev;
    ringlet_request_init(&req);
    req.op = RINGLET_OP_NOP;
    struct beat last = beat_of(cl);
    for (int beats = 0; beats < 50;) { /* for ever, if the daemon, always busy, forgot the time */
        while (ringlet_submit(cl, &req, NULL) == 0)
            ;
        while (ringlet_peek(cl, &ev) == 0)
            ringlet_advance(cl);
        struct beat now = beat_of(cl);
        beats += now.lo_ns > last.hi_ns;
        last = now.lo_ns > last.hi_ns ? now : last;
    }
    ringlet_close(cl);
    e2e_stop(&d);
}

/* Until the loop made no passes, nor slept anew, for longer than any timer of an idle daemon. */
static void until_it_slept_for_a_second(struct ringlet_client *cl)
{
    uint64_t passes, sleeps, until = e2e_deadline_ns();
    do {
        assert_true(e2e_may_wait(until));
        passes = e2e_stat(cl, "passes", -1);
        sleeps = e2e_stat(cl, "sleeps", -1);
        e2e_nap_ms(1000);
    } while (e2e_stat(cl, "passes", -1) != passes || e2e_stat(cl, "sleeps", -1) != sleeps);
}

TEST(an_idle_daemon_makes_no_passes)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req = e2e_text("then silence");
    e2e_ask(cl, &req, &a);
    until_it_slept_for_a_second(cl);
    uint64_t passes = e2e_stat(cl, "passes", -1);
    e2e_ask(cl, &req, &a); /* and wakes up again */
    assert_string_equal(a.text, "then silence");
    e2e_stat_reaches(cl, "passes", -1, passes + 1);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(bad_fields_are_named_and_hurt_nobody)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    uint32_t bad_id = 258, good_id = 65;
    struct ringlet_logit_bias bias = { 1, NAN };
#define REJECTED(change, error)                                                                    \
    do {                                                                                           \
        struct ringlet_request req = e2e_text("bad");                                              \
        change;                                                                                    \
        e2e_ask(cl, &req, &a);                                                                     \
        assert_int_equal(a.reason, RINGLET_REASON_REJECTED);                                       \
        assert_int_equal(a.detail, RINGLET_ERROR_##error);                                         \
        assert_int_equal(a.n_event, 1);                                                            \
    } while (0)
    REJECTED(req.temperature = NAN, BAD_FIELD);
    REJECTED(req.temperature = 2.5f, BAD_FIELD);
    REJECTED(req.top_p = 0, BAD_FIELD);
    REJECTED(req.min_p = -1, BAD_FIELD);
    REJECTED(req.presence_penalty = INFINITY, BAD_FIELD);
    REJECTED(req.repetition_penalty = 0, BAD_FIELD);
    REJECTED(req.n = 2, BAD_FIELD); /* greedy */
    REJECTED((req.n = 65, req.temperature = 1), BAD_FIELD);
    REJECTED(req.logprobs = 21, BAD_FIELD);
    REJECTED((req.logit_bias = &bias, req.n_logit_bias = 1), BAD_FIELD);
    REJECTED((req.stop_token_ids = &bad_id, req.n_stop_token_id = 1), BAD_TOKEN);
    REJECTED((req.text = NULL, req.text_bytes = 0, req.tokens = &bad_id, req.n_token = 1),
             BAD_TOKEN);
    REJECTED((req.text = "\xff\xfe", req.text_bytes = 2), BAD_UTF8);
    REJECTED(req.text_bytes = 0, BAD_FIELD);
    REJECTED(req.must_understand = 8, BAD_BIT);
    REJECTED((req.flags = RINGLET_SQE_HOLD, req.op = RINGLET_OP_TOKENIZE), BAD_BIT);
    REJECTED(req.op = RINGLET_OP_RELEASE, NO_HANDLE);
    REJECTED((req.op = RINGLET_OP_QUERY, req.handle = 1), NO_HANDLE);
    REJECTED(req.op = 200, BAD_OP);
    REJECTED(req.handle = 1, NO_HANDLE);
    REJECTED(req.model_generation = 7, MODEL_CHANGED);
    REJECTED((req.structure_kind = RINGLET_STRUCTURE_REGEX, req.structure = "a*",
              req.structure_bytes = 2),
             BAD_GRAMMAR);
    struct ringlet_message hi = { .role = RINGLET_ROLE_USER, .text = "hi", .bytes = 2 };
    REJECTED((req.text = NULL, req.text_bytes = 0, req.messages = &hi, req.n_message = 1),
             BAD_TEMPLATE); /* echo has none */
    struct ringlet_request req = e2e_text("");
    req.text = NULL;
    req.tokens = &good_id;
    req.n_token = 1;
    e2e_ask(cl, &req, &a);
    assert_string_equal(a.text, "A");
    e2e_audit(cl, 0);
    e2e_settle(cl);
    assert_true(e2e_stat(cl, "prompt_pool_used", -1) < 65536);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(logprobs_of_answer_and_prompt_come_along)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req = e2e_text("logs");
    req.logprobs = 3;
    req.prompt_logprobs = 2;
    uint64_t id;
    int n_prompt = 0, n_token = 0;
    bool end = false;
    assert_ok(ringlet_submit(cl, &req, &id));
    while (!end) {
        struct ringlet_event ev;
        assert_ok(ringlet_wait(cl, &ev, e2e_deadline_ns()));
        if (ev.kind == RINGLET_KIND_TOKENS && ev.n_token) {
            assert_non_null(ev.logprobs);
            assert_int_equal(ev.n_top, 3);
            assert_close(ev.logprobs[0], 0, 1e-3, 0);
            assert_int_equal(ev.tops[0].id, ev.tokens[0]);
            n_token += (int)ev.n_token;
        }
        if (ev.kind == RINGLET_KIND_PROMPT) {
            assert_int_equal(ev.n_top, 2);
            for (uint32_t i = 0; i < ev.n_token; i++, n_prompt++)
                assert_int_equal(ev.tokens[i], (unsigned char)"logs"[n_prompt]);
        }
        end = ev.flags & RINGLET_CQE_END;
        ringlet_advance(cl);
    }
    assert_int_equal(n_prompt, 4);
    assert_int_equal(n_token, 5);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

/* A client that submits as fast as it can until it is killed: requests of all kinds. */
static pid_t campaigner(uint64_t seed)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct ringlet_client *cl;
        struct ringlet_options o = e2e_options(&d);
        static char text[2001];
        o.n_slot = 16;
        memset(text, 'v', 2000);
        if (ringlet_connect(&o, &cl))
            _exit(1);
        for (uint64_t i = 0;; i++) {
            struct ringlet_event ev;
            struct ringlet_request req = e2e_text(text);
            uint64_t id = 0;
            req.text_bytes = 1 + harness_rand(&seed) % (i % 4 ? 30 : 2000);
            req.op = i % 7 == 0   ? RINGLET_OP_TOKENIZE
                     : i % 5 == 0 ? RINGLET_OP_NOP
                                  : RINGLET_OP_GENERATE;
            if (ringlet_submit(cl, &req, &id) == 0 && i % 3 == 0)
                ringlet_cancel(cl, id);
            while (harness_rand(&seed) % 8 && ringlet_peek(cl, &ev) == 0)
                ringlet_advance(cl);
        }
    }
    return pid;
}

/* Resident kilobytes of the daemon. */
static long resident_kb(void)
{
    char path[64], line[128];
    long kb = 0;
    snprintf(path, sizeof(path), "/proc/%d/status", (int)d.pid);
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    while (kb == 0 && fgets(line, sizeof(line), file))
        (void)sscanf(line, "VmRSS: %ld", &kb);
    fclose(file);
    return kb;
}

/* It may be stopped first, and die so, or go on; now and then it is the daemon that is stopped. */
static void end_one(pid_t pid, uint64_t rand)
{
    if (rand % 4 == 0)
        kill(pid, SIGSTOP);
    if (rand % 32 == 1) {
        kill(d.pid, SIGSTOP);
        e2e_nap_ms(2);
    }
    if (rand % 8 == 0) {
        e2e_nap_ms(2);
        kill(pid, SIGCONT);
    }
    kill(pid, SIGKILL);
    if (rand % 32 == 1)
        kill(d.pid, SIGCONT);
    waitpid(pid, NULL, 0);
}

static int env_count(const char *name, int otherwise)
{
    const char *text = getenv(name);
    return text ? (int)strtol(text, NULL, 10) : otherwise;
}

TEST(kill_campaign_of_clients)
{
    enum { AT_ONCE = 4 };
    int n = env_count("RINGLET_CLIENT_KILLS", harness_long() ? 20000 : 500);
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req = e2e_text("before");
    e2e_ask(cl, &req, &a);
    int fds = e2e_fd_count_at_rest(&d, cl);
    uint64_t pool = e2e_stat(cl, "prompt_pool_used", -1), seed = harness_seed();
    pid_t pids[AT_ONCE] = { 0 };
    long resident = 0;
    for (int i = 0; i < n + AT_ONCE; i++) {
        pid_t *pid = &pids[i % AT_ONCE];
        if (*pid) {
            end_one(*pid, harness_rand(&seed));
            *pid = 0;
        }
        if (i == n / 4)
            resident = resident_kb();
        if (i < n)
            *pid = campaigner(harness_rand(&seed));
        nanosleep(&(struct timespec){ .tv_nsec = (long)(harness_rand(&seed) % 12000000) }, NULL);
        if (i % 50 == 0) {
            req = e2e_text("bystander");
            e2e_ask(cl, &req, &a);
            assert_string_equal(a.text, "bystander");
        }
    }
    e2e_stat_becomes(cl, "clients", -1, 1);
    e2e_audit(cl, 0);
    e2e_stat_becomes(cl, "prompt_pool_used", -1, pool);
    e2e_fd_count_becomes(&d, fds);
    long more = resident_kb() - resident;
    print_message("# %d clients killed, 0 descriptors, 0 KV blocks, 0 prompt bytes lost; resident "
                  "memory of the last three quarters %+ld kB\n",
                  n, more);
    assert_true(getenv("RINGLET_TEST_SANITIZED") || more < 8192);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(kill_campaign_of_the_daemon)
{
    int n = env_count("RINGLET_DAEMON_KILLS", harness_long() ? 1000 : 30), n_lost = 0, n_done = 0;
    uint64_t seed = harness_seed(), worst_ns = 0;
    for (int i = 0; i < n; i++) {
        e2e_start(&d, NULL);
        struct ringlet_client *cl = e2e_connect(&d);
        static char text[2001];
        memset(text, 'd', 2000);
        struct ringlet_request req = e2e_text(text);
        int n_open = 0, n_end = 0, ends[16] = { 0 };
        for (; n_open < 16; n_open++) {
            req.tag = (uint64_t)n_open;
            if (ringlet_submit(cl, &req, NULL))
                break;
        }
        uint64_t until = e2e_now_ns() + harness_rand(&seed) % 20000000;
        struct ringlet_event ev;
        while (e2e_now_ns() < until)
            if (ringlet_wait(cl, &ev, until) == 0) {
                n_end += ev.flags & RINGLET_CQE_END;
                ends[ev.tag] += ev.flags & RINGLET_CQE_END;
                ringlet_advance(cl);
            }
        kill(d.pid, SIGKILL);
        uint64_t killed = e2e_now_ns();
        while (n_end < n_open) { /* exactly one END each */
            int error = ringlet_wait(cl, &ev, e2e_deadline_ns());
            if (error)
                fail_msg("after the kill: %s", ringlet_strerror(error));
            if (ev.flags & RINGLET_CQE_END) {
                n_end++;
                ends[ev.tag]++;
                *(ev.reason == RINGLET_REASON_DAEMON_LOST ? &n_lost : &n_done) += 1;
            }
            ringlet_advance(cl);
        }
        if (e2e_now_ns() - killed > worst_ns)
            worst_ns = e2e_now_ns() - killed;
        assert_int_equal(ringlet_peek(cl, &ev), -EPIPE);
        for (int k = 0; k < n_open; k++)
            assert_int_equal(ends[k], 1);
        e2e_wait(&d);
        ringlet_close(cl);
    }
    print_message(
        "# %d daemons killed: %d requests told daemon_lost, %d had ended, slowest %.1f ms\n", n,
        n_lost, n_done, (double)worst_ns / 1e6);
    assert_true(n_lost > 0);
}
