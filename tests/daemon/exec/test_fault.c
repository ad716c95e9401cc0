/* Faults of the device: every call fails once. */
#include <errno.h>
#include <unistd.h>

#include "base/compiler.h"
#include "daemon/base/watch.h"
#include "tests/daemon/exec/fault_device.h"
#include "tests/daemon/exec/golden.h"
#include "tests/daemon/exec/step_runner.h"
#include "tests/harness/harness.h"

static int open_faulty(struct runner *r, uint64_t watchdog_ns)
{
    struct format_error err = { "" };
    struct executor_config config = { .backend = "cpu", .n_thread = 1, .watchdog_ns = watchdog_ns };
    struct executor_load load = { .source.path = "echo", .context = 256, .rows_max = 64 };
    config.table = fault_backend("cpu");
    assert_non_null(config.table);
    return runner_open_config(r, &config, &load, &err);
}

static struct step *plan_echo(struct runner *r)
{
    static const int32_t prompt[] = { 'a', 'b', 'c' };
    struct step *step = runner_step(r);
    runner_add_seq(r, step, prompt, 0, 3, 3);
    runner_add_sample(step, 2, 3);
    return step;
}

/*
 * Each call of a load fails in its turn: the load says so, and nothing is left behind. So many of
 * them it can do without: it goes another way then, and its model answers as ever.
 */
static void fail_each_call(const char *path, int rc_of_call, int n_dispensable)
{
    struct executor_config config = { .backend = "cpu", .n_thread = 1 };
    struct executor_load load = { .source.path = path, .context = 256, .rows_max = 64 };
    struct format_error err = { "" };
    struct runner r;
    config.table = fault_backend("cpu");
    if (runner_open_config(&r, &config, &load, &err) < 0)
        fail_msg("%s", err.text);
    int n_call = fault_calls();
    assert_ok(runner_run(&r, plan_echo(&r)));
    int32_t want = r.steps[0].result[0].token;
    runner_close(&r);
    assert_true(n_call > 10);
    for (int call = 1; call <= n_call; call++) {
        err.text[0] = 0;
        config.table = fault_backend("cpu");
        fault_arm(&(struct fault_plan){ .fail_at = call, .fail_rc = rc_of_call });
        if (runner_open_config(&r, &config, &load, &err) == 0) {
            if (n_dispensable-- == 0)
                fail_msg("%s: call %d of %d failed and nobody noticed", path, call, n_call);
            assert_ok(runner_run(&r, plan_echo(&r)));
            assert_int_equal(r.steps[0].result[0].token, want);
            runner_close(&r);
            continue;
        }
        const char *why = rc_of_call == -EIO ? "injected fault" : "MB are free";
        if (!strstr(err.text, why))
            fail_msg("%s: call %d of %d failed, but \"%s\"", path, call, n_call, err.text);
    }
    assert_int_equal(n_dispensable, 0);
}

TEST(executor_reports_every_failing_call_of_a_load)
{
    fail_each_call("echo", -ENOMEM, 0);
    fail_each_call("echo", -EIO, 0);
}

TEST(executor_reports_every_failing_call_of_weights_going_up)
{
    enum { PINNED = 2 * 4 }; /* buffers to read weights into, and a word for each */
    char path[512];
    snprintf(path, sizeof(path), "%s", golden_weights("llama_hf_bf16"));
    fail_each_call(path, -ENOMEM, PINNED);
    fail_each_call(path, -EIO, 0);
}

TEST(executor_fails_every_step_after_a_device_fault)
{
    struct runner r;
    assert_ok(open_faulty(&r, 0));
    fault_arm(&(struct fault_plan){ 0 });
    assert_ok(runner_run(&r, plan_echo(&r)));
    int n_call = fault_calls();
    runner_close(&r);
    for (int call = 1; call <= n_call; call++) {
        assert_ok(open_faulty(&r, 0));
        fault_arm(&(struct fault_plan){ .fail_at = call, .fail_rc = -EIO });
        assert_int_equal(runner_run(&r, plan_echo(&r)), -EIO);
        assert_non_null(executor_fault(r.ex));
        assert_int_equal(runner_run(&r, plan_echo(&r)), -EIO);
        assert_int_equal(executor_in_flight(r.ex), 0);
        runner_close(&r);
    }
}

TEST(executor_watchdog_ends_steps_that_hang)
{
    struct runner r;
    assert_ok(open_faulty(&r, 30 * 1000000));
    fault_arm(&(struct fault_plan){ .fail_at = 1, .hang = true });
    struct step *first = plan_echo(&r);
    assert_ok(executor_submit(r.ex, first));
    assert_int_equal(runner_run_pending(&r, plan_echo(&r), first), -EIO);
    assert_int_equal(first->status, -EIO);
    assert_non_null(strstr(executor_fault(r.ex), "watchdog"));
    runner_close(&r);
}

TEST(a_launch_that_fails_waits_for_the_steps_before_it)
{
    int rc = -EIO;
    for (int tries = 0; tries < 20 && rc == -EIO; tries++) { /* the watchdog may have been first */
        struct runner r;
        assert_ok(open_faulty(&r, 500 * 1000000));
        fault_arm(&(struct fault_plan){ .fail_at = 1, .hang = true });
        struct step *first = plan_echo(&r);
        assert_ok(executor_submit(r.ex, first));
        while (!fault_holds()) /* on the device, and it stays there until the watchdog bites */
            nap_us(100);
        fault_arm(&(struct fault_plan){ .fail_at = 1, .fail_rc = -ENOMEM });
        rc = runner_run_pending(&r, plan_echo(&r), first);
        assert_int_equal(first->status, -EIO);
        runner_close(&r);
    }
    assert_int_equal(rc, -ENOMEM);
}

/* The fault shows in the second step's launch; what the first computed arrives after that. */
TEST(a_result_that_arrives_after_a_device_fault_is_not_believed)
{
    struct runner r;
    assert_ok(open_faulty(&r, 0));
    fault_arm(&(struct fault_plan){ .fail_at = 1, .hang = true });
    struct step *first = plan_echo(&r);
    assert_ok(executor_submit(r.ex, first));
    while (!fault_holds())
        cpu_relax();
    fault_arm(&(struct fault_plan){ .fail_at = 1, .fail_rc = -EIO, .late = true });
    assert_int_equal(runner_run_pending(&r, plan_echo(&r), first), -EIO);
    assert_int_equal(first->status, -EIO);
    runner_close(&r);
}

TEST(executor_stuck_tells_of_a_thread_that_hangs)
{
    struct runner r;
    assert_ok(open_faulty(&r, UINT64_C(3600) * 1000000000));
    assert_false(executor_stuck(r.ex, 1));
    assert_false(executor_stuck(r.ex, UINT64_C(1) << 50)); /* nothing is under way */
    fault_arm(&(struct fault_plan){ .fail_at = 1, .hang = true });
    assert_ok(executor_submit(r.ex, plan_echo(&r)));
    while (!fault_holds())
        nap_us(100);
    uint64_t now_ns = UINT64_C(1) << 51;
    assert_false(executor_stuck(r.ex, now_ns));
    now_ns += UINT64_C(1) << 50; /* nobody looked for days */
    assert_false(executor_stuck(r.ex, now_ns));
    for (int i = 1; i < 14400; i++)
        assert_false(executor_stuck(r.ex, now_ns += WATCH_GAP_NS));
    assert_true(executor_stuck(r.ex, now_ns += WATCH_GAP_NS));
    fault_break(); /* lets the thread end */
    while (!executor_collect(r.ex))
        cpu_relax();
    runner_close(&r);
}
