/* The fork-join pool: all items once, more threads than cores, sleepers, bad lists. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "kernels/cpu/cpu_threads.h"
#include "tests/harness/harness.h"

enum { ITEMS = 1000 };

struct count_job {
    int next;
    int seen[ITEMS];
    int n_thread;
};

static void count_fn(void *arg, int thread_i)
{
    struct count_job *job = arg;
    assert_true(thread_i >= 0 && thread_i < job->n_thread);
    for (int i; (i = cpu_work_next(&job->next, 3)) < ITEMS;)
        for (int k = i; k < i + 3 && k < ITEMS; k++)
            job->seen[k]++; /* not atomic: each item has one owner */
}

static void run_jobs(int n_thread, int n_job, int pause_every)
{
    struct cpu_threads *pool;
    assert_ok(cpu_threads_open(n_thread, NULL, &pool));
    assert_int_equal(cpu_threads_count(pool), n_thread);
    for (int i = 0; i < n_job; i++) {
        struct count_job job = { .n_thread = n_thread };
        cpu_threads_run(pool, count_fn, &job);
        for (int k = 0; k < ITEMS; k++)
            assert_int_equal(job.seen[k], 1);
        if (pause_every && i % pause_every == 0)
            usleep(300); /* helpers fall asleep and are woken */
    }
    cpu_threads_close(pool);
}

TEST(cpu_threads_do_each_item_once)
{
    run_jobs(1, 100, 0);
    run_jobs(2, 3000, 0);
    run_jobs(4, 1000, 0);
}

TEST(cpu_threads_wake_sleeping_helpers)
{
    run_jobs(2, 300, 2);
    run_jobs(5, 200, 3);
}

TEST(cpu_threads_may_outnumber_the_cores)
{
    run_jobs(32, 200, 50);
}

/* A closed job must be over for everybody: its memory is gone when run returns. */
TEST(cpu_threads_never_touch_a_job_that_has_returned)
{
    struct cpu_threads *pool;
    assert_ok(cpu_threads_open(4, NULL, &pool));
    for (int i = 0; i < 5000; i++) {
        struct count_job job = { .next = ITEMS - 1 - i % 3, .n_thread = 4 };
        cpu_threads_run(pool, count_fn, &job);
        int next = job.next;
        memset(&job, 0x5a, sizeof(job));
        for (int k = 0; k < 50; k++)
            assert_int_equal(__atomic_load_n(&job.next, __ATOMIC_RELAXED), 0x5a5a5a5a);
        assert_true(next >= ITEMS);
    }
    cpu_threads_close(pool);
}

TEST(cpu_threads_refuse_bad_counts_and_lists)
{
    static const char *const bad[] = { "x", "0-", "3-1", "0,,1", "-1", "0;1", "99999999999999" };
    struct cpu_threads *pool;
    assert_int_equal(cpu_threads_open(-1, NULL, &pool), -EINVAL);
    assert_int_equal(cpu_threads_open(100000, NULL, &pool), -EINVAL);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(cpu_threads_open(2, bad[i], &pool), -EINVAL);
    assert_int_equal(cpu_threads_open(2, "1023", &pool), -ENODEV);
    assert_ok(cpu_threads_open(0, "0", &pool));
    assert_int_equal(cpu_threads_count(pool), 1);
    cpu_threads_close(pool);
    cpu_threads_close(NULL);
}
