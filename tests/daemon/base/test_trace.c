/* Trace rings: what a dump says, what it leaves out, and that a busy producer never tears it. */
#include "tests/harness/harness.h"

#include <fcntl.h>
#include <pthread.h>
#include <time.h>
#include <unistd.h>

#include "base/atomics.h"
#include "daemon/base/arena.h"
#include "daemon/base/trace.h"

static struct arena *arena;
static char *text; /* the dump, NUL-terminated */

static void begin(void)
{
    assert_ok(arena_create(16 << 20, &arena));
    assert_ok(trace_create(arena));
    assert_true(trace_on());
}

static void end(void)
{
    trace_destroy();
    assert_false(trace_on());
    arena_free(arena);
    free(text);
    text = NULL;
}

static void dump(size_t room)
{
    size_t n = 0, got;
    if (!text)
        text = malloc((size_t)TRACE_RINGS * TRACE_RING_EVENTS * TRACE_LINE_BYTES + room);
    assert_non_null(text);
    trace_dump_begin();
    do {
        got = trace_dump_next(text + n, room);
        assert_true(got <= room);
        n += got;
    } while (got);
    text[n] = 0;
}

static int count(const char *what)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, what)); at++)
        n++;
    return n;
}

static void put(uint64_t i, enum trace_kind kind)
{
    trace_put(&(struct trace_event){ .at_ns = 1000000 + i,
                                     .end_ns = 1002500 + i,
                                     .step = i,
                                     .rows = (uint32_t)i,
                                     .seqs = 2,
                                     .tokens = 3,
                                     .kind = (uint8_t)kind,
                                     .model = 1,
                                     .status = -5 });
}

TEST(trace_dump_tells_every_kind_of_event_on_its_track)
{
    begin();
    put(9, TRACE_PLANNED); /* no ring yet: dropped */
    trace_attach();
    trace_name_model(1, "a \"b\\\n");
    put(1, TRACE_PLANNED);
    put(1, TRACE_EXECUTED);
    put(2, TRACE_EXECUTED);
    put(1, TRACE_COMMITTED);
    put(0, TRACE_PUBLISHED);
    put(0, TRACE_PREEMPTED);
    dump(4096);
    assert_non_null(strstr(text, "{\"name\":\"model 1 (a _b__): loop\"}"));
    assert_non_null(strstr(text, "\"name\":\"plan\",\"ph\":\"X\""));
    assert_non_null(strstr(text, "\"tid\":4,\"ts\":1000.001,\"dur\":2.500,\"args\":{\"step\":1,"
                                 "\"rows\":1,\"seqs\":2,\"tokens\":3,\"status\":-5}}"));
    assert_non_null(strstr(text, "\"tid\":6,\"ts\":1000.001")); /* odd */
    assert_non_null(strstr(text, "\"tid\":5,\"ts\":1000.002")); /* even */
    assert_non_null(strstr(text, "\"args\":{\"requests\":2,\"tokens\":3}}"));
    assert_non_null(strstr(text, "\"ph\":\"i\",\"s\":\"t\""));
    assert_int_equal(count(",\"status\":-5,\"launch\":0.000}}"), 2); /* the executed ones */
    assert_int_equal(count("\"ts\":"), 6);
    assert_non_null(strstr(text, "\"otherData\":{\"events\":\"6\",\"overwritten\":\"0\"}}"));
    end();
}

TEST(trace_keeps_the_newest_events_and_counts_the_rest)
{
    begin();
    trace_attach();
    for (uint64_t i = 0; i < TRACE_RING_EVENTS + 10; i++)
        put(i, TRACE_PLANNED);
    dump(TRACE_LINE_BYTES); /* a line at a time */
    char want[96];
    snprintf(want, sizeof(want), "{\"events\":\"%d\",\"overwritten\":\"11\"}",
             TRACE_RING_EVENTS - 1);
    assert_non_null(strstr(text, want));
    assert_null(strstr(text, "\"step\":10,"));
    assert_non_null(strstr(text, "\"step\":11,"));
    snprintf(want, sizeof(want), "\"step\":%d,", TRACE_RING_EVENTS + 9);
    assert_non_null(strstr(text, want));
    end();
}

TEST(trace_goes_into_a_file_from_its_start)
{
    char path[300], line[64];
    snprintf(path, sizeof(path), "%s/trace.json", harness_tmpdir());
    int fd = open(path, O_CREAT | O_RDWR, 0600);
    assert_true(fd >= 0);
    begin();
    trace_attach();
    for (int i = 0; i < 1000; i++)
        put((uint64_t)i, TRACE_COMMITTED);
    assert_ok(trace_dump_to(fd));
    off_t once = lseek(fd, 0, SEEK_END);
    assert_true(once > 100000);
    assert_ok(trace_dump_to(fd)); /* in the place of the one before */
    assert_int_equal(lseek(fd, 0, SEEK_END), once);
    assert_int_equal(pread(fd, line, 19, 0), 19);
    assert_memory_equal(line, "{\"displayTimeUnit\":", 19);
    close(fd);
    assert_true(trace_dump_to(fd) < 0);
    end();
}

static uint32_t stop;

static uint64_t n_put; /* of whichever producer came last */

static void *producer(void *arg)
{
    trace_attach();
    for (uint64_t i = 0; !load_once(&stop); i++) {
        put(i, TRACE_PLANNED);
        store_once(&n_put, i);
        if (i % 200 == 0) /* slow enough that a dump, even instrumented, finds some events whole */
            nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    }
    return arg;
}

/*
 * rows, step and ts of one event come from one number. Returns how many events the dump has, a line
 * each: string functions that a sanitizer watches measure all that they are given, and a dump is
 * long.
 */
static int check_events(void)
{
    int n = 0;
    for (const char *at = text; (at = strchr(at, '\n')); at++) {
        unsigned long us, ns, step;
        unsigned rows;
        char line[200];
        snprintf(line, sizeof(line), "%.*s", (int)strcspn(at + 1, "\n"), at + 1);
        const char *ts = strstr(line, "\"ts\":");
        if (!ts)
            continue;
        assert_int_equal(sscanf(ts,
                                "\"ts\":%lu.%lu,\"dur\":2.500,\"args\":{\"step\":%lu,"
                                "\"rows\":%u",
                                &us, &ns, &step, &rows),
                         4);
        assert_true(us * 1000 + ns == 1000000 + step);
        assert_int_equal(rows, (uint32_t)step);
        n++;
    }
    return n;
}

TEST(trace_dump_is_whole_while_the_producer_goes_round)
{
    pthread_t thread[TRACE_RINGS + 1];
    begin();
    store_once(&stop, 0);
    for (int i = 0; i < TRACE_RINGS + 1; i++) /* one has no ring */
        assert_int_equal(pthread_create(&thread[i], NULL, producer, NULL), 0);
    int n = 0;
    while (n == 0 || load_once(&n_put) < 3 * TRACE_RING_EVENTS) {
        dump(4096);
        n += check_events();
    }
    store_once(&stop, 1);
    for (int i = 0; i < TRACE_RINGS + 1; i++)
        pthread_join(thread[i], NULL);
    end();
}
