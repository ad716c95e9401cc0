/*
 * The executor over the model echo: queues, sleep and wake, plans, moves.
 * mirrors: daemon/model/arch_echo.c
 */
#include <dirent.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/compiler.h"
#include "tests/daemon/exec/step_runner.h"
#include "tests/harness/harness.h"

enum { ECHO_BOS = 256, ECHO_EOS = 257 };

static void open_echo(struct runner *r)
{
    struct format_error err = { "" };
    struct executor_load load = { .source.path = "echo",
                                  .context = 1024,
                                  .kv_bytes = 64 * 256,
                                  .host_kv_bytes = 64 * 16,
                                  .rows_max = 64 };
    int rc = runner_open(r, "cpu", 1, &load, &err);
    if (rc < 0)
        fail_msg("%s: %s", err.text, strerror(-rc));
}

/* Where the thread of this name may run; its name is there once it is. */
static cpu_set_t affinity_of(const char *name)
{
    for (;;) {
        DIR *dir = opendir("/proc/self/task");
        struct dirent *entry;
        assert_non_null(dir);
        while ((entry = readdir(dir))) {
            char path[300], comm[32] = "";
            snprintf(path, sizeof(path), "/proc/self/task/%s/comm", entry->d_name);
            FILE *file = fopen(path, "re");
            if (file && fgets(comm, sizeof(comm), file))
                comm[strcspn(comm, "\n")] = 0;
            if (file)
                fclose(file);
            if (strcmp(comm, name) == 0)
                break;
        }
        cpu_set_t set;
        bool found = entry && sched_getaffinity((pid_t)strtol(entry->d_name, NULL, 10), sizeof(set),
                                                &set) == 0;
        closedir(dir);
        if (found)
            return set;
        sched_yield();
    }
}

/* The two ends of what this process may use. */
static bool two_cpus(int *ret_first, int *ret_last)
{
    cpu_set_t all;
    assert_ok(sched_getaffinity(0, sizeof(all), &all));
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET((size_t)cpu, &all))
            *ret_last = cpu;
    for (int cpu = *ret_last; cpu >= 0; cpu--)
        if (CPU_ISSET((size_t)cpu, &all))
            *ret_first = cpu;
    return *ret_first != *ret_last;
}

static void expect_only(const char *thread, int cpu)
{
    cpu_set_t set = affinity_of(thread);
    assert_int_equal(CPU_COUNT(&set), 1);
    assert_true(CPU_ISSET((size_t)cpu, &set));
}

static int32_t *byte_ids(const char *text, int32_t *ids)
{
    for (int i = 0; text[i]; i++)
        ids[i] = (unsigned char)text[i];
    return ids;
}

static void expect_echo(struct runner *r, const char *text, int chunk, bool ahead)
{
    int32_t prompt[512], out[512];
    int n = (int)strlen(text);
    r->chunk = chunk;
    assert_ok(runner_generate(r, byte_ids(text, prompt), n, n + 2, ahead, out));
    for (int i = 0; i < n; i++)
        assert_int_equal(out[i], (unsigned char)text[i]);
    assert_int_equal(out[n], ECHO_EOS);
    assert_int_equal(out[n + 1], ECHO_EOS);
}

TEST(executor_describes_echo)
{
    struct runner r;
    open_echo(&r);
    assert_string_equal(r.model.info.arch, "echo");
    assert_string_equal(r.model.info.name, "echo");
    assert_int_equal(r.model.info.vocab, 258);
    assert_int_equal(r.model.info.bos_id, ECHO_BOS);
    assert_int_equal(r.model.info.n_eos_id, 1);
    assert_int_equal(r.model.info.eos_ids[0], ECHO_EOS);
    assert_int_equal(r.model.context, 1024);
    assert_int_equal(r.model.kv_blocks, 256);
    assert_int_equal(r.model.kv_host_blocks, 16);
    assert_int_equal(r.model.limits.blocks_max, 4 * 1024 / 16);
    runner_close(&r);
}

TEST(executor_echo_answers_its_prompt)
{
    struct runner r;
    open_echo(&r);
    expect_echo(&r, "a", 0, false);
    expect_echo(&r, "aaaaaaaaaaaaaaaaaaaaaaaaaaab", 0, false);
    expect_echo(&r, "the quick brown fox jumps over the lazy dog", 0, false);
    runner_close(&r);
}

TEST(executor_echo_survives_chunks_and_steps_ahead)
{
    struct runner r;
    open_echo(&r);
    static const int chunks[] = { 1, 3, 16, 17, 64 };
    for (size_t i = 0; i < ARRAY_SIZE(chunks); i++) {
        expect_echo(&r, "pack my box with five dozen liquor jugs, and then some", chunks[i], false);
        expect_echo(&r, "pack my box with five dozen liquor jugs, and then some", chunks[i], true);
    }
    r.first_block = 7;
    r.block_step = 3;
    expect_echo(&r, "blocks need not be neighbours, the table says where they are", 5, true);
    runner_close(&r);
}

TEST(executor_echo_leaves_a_leading_bos_out)
{
    struct runner r;
    int32_t prompt[] = { ECHO_BOS, 'h', 'i' }, out[3];
    open_echo(&r);
    assert_ok(runner_generate(&r, prompt, 3, 3, true, out));
    assert_int_equal(out[0], 'h');
    assert_int_equal(out[1], 'i');
    assert_int_equal(out[2], ECHO_EOS);
    runner_close(&r);
}

TEST(executor_echo_shows_a_wrong_block_table)
{
    struct runner r;
    int32_t prompt[64], out;
    open_echo(&r);
    byte_ids("0123456789abcdef0123456789ABCDEF!", prompt);
    struct step *step = runner_step(&r);
    runner_add_seq(&r, step, prompt, 0, 33, 33);
    assert_ok(runner_run(&r, step));
    /* decode of output 1 wants prompt[1], in block 0; the table says block 1 */
    step = runner_step(&r);
    runner_add_seq(&r, step, prompt, 33, 1, 33);
    runner_add_sample(step, 0, 34);
    step->blocks[0] = 200;
    assert_ok(runner_run(&r, step));
    out = step->result[0].token;
    assert_int_not_equal(out, '1');
    runner_close(&r);
}

TEST(executor_batches_sequences_and_forks)
{
    struct runner r;
    int32_t a[16], b[16];
    open_echo(&r);
    struct step *step = runner_step(&r);
    runner_add_seq(&r, step, byte_ids("xy", a), 0, 2, 2);
    r.first_block = 9;
    runner_add_seq(&r, step, byte_ids("pqr", b), 0, 3, 3);
    runner_add_sample(step, 1, 2);
    runner_add_sample(step, 4, 3);
    runner_add_sample(step, 4, 3); /* a fork draws from the same row */
    assert_ok(runner_run(&r, step));
    assert_int_equal(step->result[0].token, 'x');
    assert_int_equal(step->result[1].token, 'p');
    assert_int_equal(step->result[2].token, 'p');
    assert_true(step->ended_ns >= step->started_ns && step->started_ns > 0);
    runner_close(&r);
}

TEST(executor_copies_and_swaps_blocks)
{
    struct runner r;
    int32_t prompt[32], out[8];
    open_echo(&r);
    assert_ok(runner_generate(&r, byte_ids("moving house", prompt), 12, 1, false, out));

    struct step *step = runner_step(&r); /* pool 0 -> host 3, pool 0 -> pool 5, host 3 -> pool 40 */
    step->swap_out[step->n_swap_out++] = (struct step_move){ 0, 3 };
    step->copy[step->n_copy++] = (struct step_move){ 0, 5 };
    step->swap_in[step->n_swap_in++] = (struct step_move){ 3, 40 };
    assert_ok(runner_run(&r, step));
    static const int homes[] = { 5, 40 };
    for (size_t i = 0; i < ARRAY_SIZE(homes); i++) {
        r.first_block = homes[i];
        step = runner_step(&r);
        runner_add_seq(&r, step, out, 12, 1, 12);
        runner_add_sample(step, 0, 13);
        assert_ok(runner_run(&r, step));
        assert_int_equal(step->result[0].token, 'o');
    }
    runner_close(&r);
}

TEST(executor_refuses_a_third_step)
{
    struct runner r;
    int32_t prompt[4];
    struct step extra = { 0 };
    open_echo(&r);
    byte_ids("abc", prompt);
    for (int i = 0; i < 2; i++) {
        struct step *step = runner_step(&r);
        runner_add_seq(&r, step, prompt, 0, 3, 3);
        assert_ok(executor_submit(r.ex, step));
    }
    assert_int_equal(executor_submit(r.ex, &extra), -EAGAIN);
    assert_int_equal(executor_in_flight(r.ex), 2);
    for (int n = 0; n < 2;)
        n += executor_collect(r.ex) != NULL;
    assert_int_equal(executor_in_flight(r.ex), 0);
    runner_close(&r);
}

TEST(executor_ends_a_step_whose_plan_is_out_of_bounds)
{
    struct runner r;
    int32_t prompt[4];
    open_echo(&r);
    byte_ids("abc", prompt);
    for (int what = 0; what < 5; what++) {
        struct step *step = runner_step(&r);
        runner_add_seq(&r, step, prompt, 0, 3, 3);
        runner_add_sample(step, 2, 3);
        switch (what) {
        case 0:
            step->token[1] = 258;
            break;
        case 1:
            step->token[1] = -2;
            break; /* the step before drew at most one */
        case 2:
            step->blocks[0] = r.model.kv_blocks;
            break;
        case 3:
            step->slot[2] = 999;
            break;
        case 4:
            step->sample_row[0] = 3;
            break;
        }
        assert_int_equal(runner_run(&r, step), -EINVAL);
    }
    assert_null(executor_fault(r.ex));
    expect_echo(&r, "still alive", 0, true);
    runner_close(&r);
}

TEST(executor_sleeps_and_wakes)
{
    struct runner r;
    open_echo(&r);
    for (int i = 0; i < 20; i++) {
        nap_us(i < 5 ? 20000 : 500); /* its spin budget is 0: it sleeps */
        expect_echo(&r, "wake up", 3, true);
    }
    runner_close(&r);
}

TEST(executor_rings_the_loop_only_if_it_may_sleep)
{
    struct format_error err;
    struct executor *ex;
    struct executor_config config = { .backend = "cpu", .n_thread = 1 };
    struct executor_load load = {
        .source.path = "echo", .context = 64, .batch_max = 1, .rows_max = 16, .samples_max = 1
    };
    struct executor_model model;
    uint32_t loop_wait = 0;
    uint64_t rung;
    int fd = eventfd(0, EFD_NONBLOCK);
    assert_ok(executor_open(&config, &ex, &err));
    assert_ok(executor_load_weights(ex, 0, &load, &err));
    assert_ok(executor_load_kv(ex, 0, &load, &model, &err));
    assert_ok(executor_start(ex, &(struct executor_wake){ &loop_wait, fd }));
    for (int odd = 0; odd < 2; odd++) {
        struct step step = { .limits = model.limits, .number = 1 }; /* no rows: nothing runs */
        int32_t zero[2] = { 0 };
        step.row_start = step.block_start = zero;
        __atomic_store_n(&loop_wait, (uint32_t)odd, __ATOMIC_SEQ_CST);
        assert_ok(executor_submit(ex, &step));
        while (!executor_collect(ex))
            cpu_relax();
        struct pollfd bell = { .fd = fd, .events = POLLIN };
        assert_int_equal(poll(&bell, 1, odd ? 60000 : 2), odd); /* the ring comes after the push */
        assert_int_equal(read(fd, &rung, sizeof(rung)), odd ? 8 : -1);
    }
    executor_close(ex);
    close(fd);
}

TEST(executor_stops_while_asleep_and_gives_back_what_it_had)
{
    struct runner r;
    int32_t prompt[4];
    open_echo(&r);
    nap_us(5000);
    executor_stop(r.ex);
    executor_stop(r.ex); /* idempotent */
    runner_close(&r);

    open_echo(&r);
    struct step *step = runner_step(&r);
    runner_add_seq(&r, step, byte_ids("abc", prompt), 0, 3, 3);
    assert_ok(executor_submit(r.ex, step));
    executor_stop(r.ex);
    assert_ptr_equal(executor_collect(r.ex), step);
    assert_int_equal(step->status, 0);
    runner_close(&r);
}

TEST(executor_open_names_an_unknown_backend)
{
    struct format_error err = { "" };
    struct executor *ex;
    struct executor_config config = { .backend = "abacus" };
    assert_int_equal(executor_open(&config, &ex, &err), -ENOENT);
    assert_non_null(strstr(err.text, "abacus"));
}

/* The executor is its pool's first thread: --cpus pins it as it pins the helpers. */
TEST(executor_runs_on_the_first_cpu_of_its_list)
{
    struct format_error err = { "" };
    struct executor_load load = { .source.path = "echo", .context = 1024, .kv_bytes = 1 << 14 };
    char list[32];
    int first = 0, last = 0;
    if (!two_cpus(&first, &last))
        skip();
    snprintf(list, sizeof(list), "%d,%d", last, first);
    const struct executor_config config = { .backend = "cpu", .n_thread = 2, .cpus = list };
    struct runner r;
    assert_ok(runner_open_config(&r, &config, &load, &err));
    expect_echo(&r, "pinned before the first step", 0, false);
    expect_only("executor", last);
    expect_only("ringlet-cpu", first);
    cpu_set_t elsewhere;
    CPU_ZERO(&elsewhere);
    CPU_SET((size_t)first, &elsewhere);
    executor_place(r.ex, &elsewhere);
    expect_only("executor", last);
    runner_close(&r);
}

TEST(executor_goes_where_the_loop_wants_it)
{
    struct runner r;
    int first = 0, last = 0;
    if (!two_cpus(&first, &last))
        skip();
    open_echo(&r);
    cpu_set_t place;
    for (int i = 0; i < 2; i++) {
        CPU_ZERO(&place);
        CPU_SET((size_t)(i ? last : first), &place);
        executor_place(r.ex, &place);
        expect_only("executor", i ? last : first);
        expect_echo(&r, "here and there", 0, false);
    }
    runner_close(&r);
}
