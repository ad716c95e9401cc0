/* ringbench as a user runs it: load on a daemon, files, and what it says when it cannot. */
#include "tests/e2e/command.h"
#include "tests/e2e/e2e.h"

#include <dirent.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "base/compiler.h"

static struct command c;
static struct e2e_daemon d;

#define ringbench(...)                                                                             \
    command_run(&c, NULL, (const char *const[]){ "RINGBENCH", __VA_ARGS__, NULL })

#define assert_said(word)                                                                          \
    do {                                                                                           \
        if (!strstr(c.errors, (word)))                                                             \
            fail_msg("stderr does not say \"%s\": %s", (word), c.errors);                          \
    } while (0)

static json_t *result_of(json_t *root, const char *name, const char *subject)
{
    size_t i;
    json_t *object;
    json_array_foreach(
        json_object_get(root, "results"), i,
        object) if (strcmp(json_string_value(json_object_get(object, "name")), name) == 0 &&
                    strcmp(json_string_value(json_object_get(object, "subject")), subject) ==
                        0) return object;
    fail_msg("no result %s of %s", name, subject);
    return NULL;
}

static double figure(json_t *root, const char *name, const char *subject, const char *key)
{
    json_t *value = json_object_get(result_of(root, name, subject), key);
    if (!json_is_number(value))
        fail_msg("%s of %s has no %s", name, subject, key);
    return json_number_value(value);
}

static int n_cpu(void)
{
    cpu_set_t cpus;
    return sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? CPU_COUNT(&cpus) : 1;
}

static size_t file_size(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? (size_t)st.st_size : 0;
}

TEST(serve_measures_a_running_daemon_and_writes_its_files)
{
    char json[200], csv[200], html[200];
    snprintf(json, sizeof(json), "%s/a.json", harness_tmpdir());
    snprintf(csv, sizeof(csv), "%s/a.csv", harness_tmpdir());
    snprintf(html, sizeof(html), "%s/a.html", harness_tmpdir());
    e2e_start(&d, NULL);
    int rc = ringbench("serve", "--socket", d.socket, "--requests", "40", "--prompt", "10-40",
                       "--output", "5", "--repeat", "2", "--deadline", "60000", "--json", json,
                       "--csv", csv, "--html", html);
    assert_int_equal(rc, 0);
    assert_non_null(strstr(c.text, "ttft"));
    json_t *root = json_load_file(json, 0, NULL);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "bench")), "serve");
    assert_non_null(strstr(json_string_value(json_object_get(root, "command")), "--repeat 2"));
    assert_close(figure(root, "ttft", "ringlet", "n"), 40, 0, 0);
    assert_close(figure(root, "ttft", "ringlet", "runs"), 2, 0, 0);
    assert_true(figure(root, "inter_token", "ringlet", "n") > 0); /* an event may bring several */
    assert_close(figure(root, "throughput", "ringlet", "requests"), 80, 0, 0);
    assert_close(figure(root, "throughput", "ringlet", "failed"), 0, 0, 0);
    assert_close(figure(root, "throughput", "ringlet", "goodput_per_s"),
                 figure(root, "throughput", "ringlet", "requests_per_s"), 1e-6, 0.5);
    json_decref(root);
    assert_true(file_size(csv) > 200);
    assert_true(file_size(html) > 2000);
    /* its own files again, as one page and one table */
    assert_int_equal(ringbench("report", "--html", html, json, json), 0);
    assert_non_null(strstr(c.text, "end_to_end"));
    e2e_stop(&d);
}

TEST(serve_tells_the_gain_of_the_prefix_cache)
{
    assert_int_equal(ringbench("serve", "--model", "echo", "--workload", "few-shot", "--versus",
                               "--prefix-cache off", "--requests", "8", "--repeat", "1", "--json",
                               "-"),
                     0);
    json_t *root = json_loads(c.text, 0, NULL);
    assert_non_null(root);
    assert_true(figure(root, "throughput", "ringlet", "cached_share") > 0.7);
    assert_close(figure(root, "throughput", "--prefix-cache off", "cached_share"), 0, 0, 0);
    assert_true(figure(root, "gain", "ringlet", "gain") > 0);
    /* whatever it is: echo's tokens cost next to nothing, and time has its noise */
    assert_true(isfinite(figure(root, "gain", "ringlet", "gain_allowed")));
    /* seven of eight find the thousand tokens */
    assert_close(figure(root, "gain", "ringlet", "saved_tokens"), 7000, 40, 0);
    json_decref(root);
}

TEST(serve_runs_every_workload_in_a_closed_and_an_open_loop)
{
    static const char *const names[] = { "plain", "few-shot", "n",   "beam",      "chat",
                                         "tree",  "agent",    "rag", "no-sharing" };
    e2e_start(&d, NULL);
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        const char *rate = i % 2 ? "500" : "0";
        assert_int_equal(ringbench("serve", "--socket", d.socket, "--workload", names[i],
                                   "--requests", "6", "--repeat", "1", "--rate", rate, "--json",
                                   "-"),
                         0);
        json_t *root = json_loads(c.text, 0, NULL);
        assert_non_null(root);
        assert_close(figure(root, "throughput", "ringlet", "failed"), 0, 0, 0);
        assert_true(figure(root, "throughput", "ringlet", "requests") >= 6);
        json_decref(root);
    }
    struct ringlet_client *cl = e2e_connect(&d);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(rings_measures_the_product_beside_its_baselines)
{
    static const char *const round_trips[] = { "ringlet", "cache_line",  "two_lines", "spsc",
                                               "pipe",    "unix_socket", "tcp",       "http" };
    static const char *const wake_ups[] = { "ringlet",     "eventfd", "futex", "pipe",
                                            "unix_socket", "tcp",     "http" };
    static const char *const rates[] = { "ringlet", "ringlet_nop", "cache_line",
                                         "spsc",    "pipe",        "unix_socket" };
    static const char *const quantiles[] = { "p50_ns",  "p90_ns",   "p99_ns",
                                             "p999_ns", "p9999_ns", "max_ns" };
    if (n_cpu() < 2)
        skip();
    assert_int_equal(
        ringbench("rings", "--repeat", "1", "--run-ms", "10", "--threads", "--json", "-"), 0);
    json_t *root = json_loads(c.text, 0, NULL);
    assert_non_null(root);
    assert_string_equal(json_string_value(json_object_get(root, "bench")), "rings");
    assert_true(json_is_object(json_object_get(root, "machine")));
    for (size_t i = 0; i < ARRAY_SIZE(round_trips); i++)
        for (size_t k = 0; k < ARRAY_SIZE(quantiles); k++) {
            double ns = figure(root, "round_trip", round_trips[i], quantiles[k]);
            assert_true(ns > 0);
            if (k > 0)
                assert_true(ns >= figure(root, "round_trip", round_trips[i], quantiles[k - 1]));
        }
    for (size_t i = 0; i < ARRAY_SIZE(wake_ups); i++)
        assert_true(figure(root, "wake_up", wake_ups[i], "p50_ns") > 0);
    for (size_t i = 0; i < ARRAY_SIZE(rates); i++)
        assert_true(figure(root, "throughput", rates[i], "msgs_per_s") >=
                    0); /* on a busy machine */
    assert_true(figure(root, "echo_round_trip", "ringlet", "n") > 0);
    json_t *threads = result_of(root, "shared_session", "2 threads");
    assert_non_null(strstr(json_string_value(json_object_get(threads, "note")), "2 threads on "));
    json_decref(root);
}

/* The first child of a process; 0: none. */
static pid_t child_of(pid_t parent)
{
    DIR *dir = opendir("/proc");
    pid_t child = 0;
    for (struct dirent *entry; dir && !child && (entry = readdir(dir));) {
        char path[300], line[512] = "", *end;
        snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
        FILE *file = entry->d_name[0] >= '1' && entry->d_name[0] <= '9' ? fopen(path, "r") : NULL;
        if (file && fgets(line, sizeof(line), file) && (end = strrchr(line, ')')) &&
            strtol(end + 4, NULL, 10) == parent)
            child = (pid_t)strtol(line, NULL, 10);
        if (file)
            fclose(file);
    }
    if (dir)
        closedir(dir);
    return child;
}

static void wait_for_end_of(pid_t pid)
{
    for (uint64_t until = e2e_deadline_ns(); kill(pid, 0) == 0;)
        assert_true(e2e_may_wait(until));
}

TEST(its_own_daemon_ends_with_it_whatever_ends_it)
{
    static const int signals[] = { SIGINT, SIGTERM, SIGKILL };
    for (size_t i = 0; i < ARRAY_SIZE(signals); i++) {
        char path[64], arguments[512] = "", *folder = arguments;
        pid_t pid = 0;
        command_start(&c, (const char *const[]){ "RINGBENCH", "serve", "--model", "echo",
                                                 "--requests", "10000000", NULL });
        uint64_t until = e2e_deadline_ns();
        while (!strstr(folder, "/ringbench-") && e2e_may_wait(until)) {
            pid = child_of(c.pid);
            snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)pid);
            FILE *file = pid ? fopen(path, "r") : NULL;
            size_t n = file ? fread(arguments, 1, sizeof(arguments) - 1, file) : 0;
            for (size_t at = 0; at < n; at += strlen(arguments + at) + 1)
                if (strncmp(arguments + at, "/tmp/ringbench-", 15) == 0)
                    folder = arguments + at; /* of its socket */
            if (file)
                fclose(file);
        }
        assert_non_null(strstr(folder, "/ringbench-"));
        *strrchr(folder, '/') = 0;
        kill(c.pid, signals[i]);
        command_finish(&c);
        assert_int_equal(c.status, 128 + signals[i]);
        wait_for_end_of(pid);
        if (signals[i] != SIGKILL) {
            assert_true(access(folder, F_OK) < 0);
            continue;
        }
        char log[600];
        snprintf(log, sizeof(log), "%s/log", folder);
        unlink(log);
        rmdir(folder);
    }
}

TEST(usage_is_told_with_status_2)
{
    assert_int_equal(ringbench("nonsense"), 2);
    assert_said("unknown subcommand 'nonsense'");
    assert_int_equal(ringbench("serve", "--nope", "1"), 2);
    assert_said("unknown option '--nope'");
    assert_int_equal(ringbench("serve", "--nope"), 2);
    assert_said("unknown option '--nope'");
    assert_int_equal(ringbench("rings", "--nope"), 2);
    assert_said("rings --nope: unknown option");
    assert_int_equal(ringbench("rings", "--no-daemon", "--threads"), 2);
    assert_said("--threads measures a daemon's clients");
    assert_int_equal(ringbench("rings", "--no-daemon", "--socket", "/nowhere"), 2);
    assert_said("give one of both");
    assert_int_equal(ringbench("serve", "--concurrency", "many"), 2);
    assert_said("--concurrency many: give a number from 1 to 4096");
    assert_int_equal(ringbench("serve", "--requests"), 2);
    assert_said("--requests needs a value");
    assert_int_equal(ringbench("serve", "--model", "echo", "--workload", "nonsense"), 2);
    assert_said("unknown workload 'nonsense'; known: plain, few-shot");
    assert_int_equal(ringbench("serve", "--model", "echo", "--prompt", "5-"), 2);
    assert_said("a length is N, A-B");
    assert_int_equal(ringbench("serve", "--socket", "/nowhere", "--output", "5-2"), 2);
    assert_said("not '5-2'"); /* before anybody is asked */
    assert_int_equal(ringbench("serve", "--versus", "--prefix-cache off"), 2);
    assert_said("--versus needs --model PATH");
    assert_int_equal(ringbench("serve", "--model", "echo", "--socket", "/nowhere"), 2);
    assert_said("give one of them");
    assert_int_equal(ringbench("serve", "--http-only"), 2);
    assert_said("--http-only needs --http URL");
    assert_int_equal(ringbench("serve", "--http", "ftp://x", "--http-only"), 2);
    assert_said("not of the form http://HOST:PORT/v1");
    assert_int_equal(ringbench("serve", "--repeat", "0"), 2);
    assert_said("--repeat 0: give a number from 1 to 64");
    assert_int_equal(ringbench("model", "--dtype", "f8", "tiny", "check"), 2);
    assert_said("--dtype LIST");
    assert_said("f8 is no list of bf16 and f16");
    assert_int_equal(ringbench("model", "nosuch", "32:1"), 2);
    assert_said("nosuch is no shape");
    assert_int_equal(ringbench("model", "--zz", "tiny", "32:1"), 2);
    assert_said("--zz is no option");
    assert_int_equal(ringbench("model", "tiny"), 2);
    assert_said("tiny has no figure");
    assert_int_equal(ringbench("model", "--dtype", "bf16,f16,", "tiny", "check"), 2);
    assert_int_equal(ringbench("model", "--dtype", "f16", "tiny", "32-1"), 2);
    assert_said("unknown figure '32-1'");
    assert_int_equal(ringbench("report"), 2);
    assert_int_equal(ringbench("serve", "--model", "echo", "--json", "/no/such/folder/x"), 2);
    assert_said("/no/such/folder/x: No such file or directory"); /* before anything is measured */
    assert_int_equal(ringbench("serve", "--help"), 0);
    assert_non_null(strstr(c.text, "--workload NAME"));
}

TEST(an_absent_daemon_is_told_with_status_3)
{
    char path[200];
    assert_int_equal(ringbench("serve", "--socket", "/no/such/socket"), 3);
    assert_said("cannot connect to /no/such/socket: no daemon there");
    assert_int_equal(ringbench("rings", "--socket", "/no/such/socket"), n_cpu() < 2 ? 1 : 3);
    assert_said(n_cpu() < 2 ? "rings needs two CPUs"
                            : "cannot connect to /no/such/socket: no daemon there");
    assert_null(strstr(c.errors, "run 1 of")); /* before anything is measured */
    assert_int_equal(ringbench("serve", "--http", "http://127.0.0.1:1/v1", "--http-only"), 3);
    assert_said("http://127.0.0.1:1/v1: Connection refused");
    snprintf(path, sizeof(path), "%s/no-model.gguf", harness_tmpdir());
    assert_int_equal(ringbench("serve", "--model", path), 3);
    assert_said("no-model.gguf"); /* the daemon's own line is passed on */
    e2e_start(&d, NULL);
    assert_int_equal(ringbench("serve", "--socket", d.socket, "--model", "other"), 1);
    assert_said("no model named 'other'");
    if (geteuid() != 0) {
        assert_int_equal(chmod(d.socket, 0), 0);
        assert_int_equal(ringbench("serve", "--socket", d.socket), 3);
        assert_said("no permission");
    }
    e2e_stop(&d);
}

TEST(a_daemon_that_dies_under_load_is_told_with_status_3)
{
    e2e_start(&d, NULL);
    command_start(&c, (const char *const[]){ "RINGBENCH", "serve", "--socket", d.socket,
                                             "--requests", "10000000", "--repeat", "1", NULL });
    struct ringlet_client *cl = e2e_connect(&d);
    e2e_stat_reaches(cl, "requests_finished", 0, 100);
    kill(d.pid, SIGKILL);
    command_finish(&c);
    assert_int_equal(c.status, 3);
    assert_said("the run broke off");
    ringlet_close(cl);
    e2e_wait(&d);
}
