/* The trace of a daemon that works: on SIGUSR2 while it goes on, and at its end. */
#include "tests/e2e/e2e.h"

#include <sys/wait.h>
#include <unistd.h>

#include "config.h"

static struct e2e_daemon d;
static struct e2e_answer a;
static char path[300];

/* By a reader of JSON that is not ours. Returns the number of preempted requests. */
static int check(int steps, int models)
{
    char line[1024], out[128] = "";
    int preempted = -1;
    snprintf(line, sizeof(line), "python3 %s/tests/e2e/check_trace.py %s %d %d",
             RINGLET_SOURCE_ROOT, path, steps, models);
    FILE *pipe = popen(line, "r");
    assert_non_null(pipe);
    if (fgets(out, sizeof(out), pipe))
        sscanf(out, "events=%*d preempted=%d", &preempted);
    assert_int_equal(pclose(pipe), 0);
    return preempted;
}

TEST(the_trace_is_written_on_demand_and_at_the_end)
{
    snprintf(path, sizeof(path), "%s/trace.json", harness_tmpdir());
    const char *const args[] = {
        "--model", "one=echo", "--model", "two=echo", "--trace", path, NULL
    };
    e2e_start_with(&d, args);
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req = e2e_text("twenty or so tokens of text");
    for (int i = 0; i < 20; i++) {
        req.model = (uint32_t)i % 2;
        e2e_ask(cl, &req, &a);
        assert_int_equal(a.reason, RINGLET_REASON_STOP_EOS);
    }
    kill(d.pid, SIGUSR2);
    assert_true(e2e_log_says(&d, "trace: written"));
    check(400, 2);
    kill(d.pid, SIGUSR2); /* a burst asks for one */
    kill(d.pid, SIGUSR2);
    for (int i = 0; i < 20; i++)
        e2e_ask(cl, &req, &a);
    ringlet_close(cl);
    e2e_stop(&d);
    check(800, 2);
}

TEST(preemptions_are_in_the_trace)
{
    snprintf(path, sizeof(path), "%s/trace2.json", harness_tmpdir());
    const char *const args[] = { "--trace",        path,  "--kv-memory", "4KiB", "--ctx", "512",
                                 "--prefix-cache", "off", NULL };
    e2e_start(&d, args);
    struct ringlet_options o = e2e_options(&d);
    o.n_slot = 512; /* room for all events: nobody waits for credit while the others end */
    struct ringlet_client *cl = e2e_connect_with(&d, &o);
    static char text[201];
    memset(text, 'p', 200);
    struct ringlet_request req = e2e_text(text);
    uint64_t id[4];
    e2e_pause(&d); /* they begin together; two of them fill the pool */
    for (int i = 0; i < 4; i++)
        assert_ok(ringlet_submit(cl, &req, &id[i]));
    e2e_resume(&d);
    for (int n_end = 0; n_end < 4;) {
        struct ringlet_event ev;
        assert_ok(ringlet_wait(cl, &ev, e2e_deadline_ns()));
        n_end += ev.flags & RINGLET_CQE_END;
        ringlet_advance(cl);
    }
    e2e_stop(&d); /* the counters' pages stay, and what it told before its end is the last word */
    uint64_t preempted = e2e_stat(cl, "preemptions", 0);
    ringlet_close(cl);
    assert_true(preempted > 0);
    assert_int_equal(check(200, 1), preempted);
}

TEST(without_a_trace_the_signal_does_no_harm)
{
    e2e_start(&d, NULL);
    kill(d.pid, SIGUSR2);
    assert_true(e2e_log_says(&d, "there is no trace to write"));
    struct ringlet_client *cl = e2e_connect(&d);
    struct ringlet_request req = e2e_text("well");
    e2e_ask(cl, &req, &a);
    assert_string_equal(a.text, "well");
    ringlet_close(cl);
    e2e_stop(&d);
}
