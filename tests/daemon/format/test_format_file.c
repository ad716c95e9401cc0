/* What is opened as a model's file, and what is refused in which words. */
#include "daemon/format/format_file.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/harness/harness.h"

static char path[512];
static struct format_error err;

static void put_file(const char *text)
{
    snprintf(path, sizeof(path), "%s/file", harness_tmpdir());
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    assert_true(fputs(text, out) >= 0);
    assert_ok(fclose(out));
}

/* Both ways in refuse it alike. */
static void refused(const char *name, int error, const char *words)
{
    const void *base = NULL;
    char *text = NULL;
    size_t bytes = 7;
    int fd = -1;
    assert_int_equal(format_map_file(name, &fd, &base, &bytes, &err), error);
    assert_non_null(strstr(err.text, words));
    assert_int_equal(format_read_file(name, 100, &text, &bytes, &err), error);
    assert_non_null(strstr(err.text, words));
    assert_true(fd == -1 && !base && !text && bytes == 7);
}

TEST(format_file_refuses_what_is_no_regular_file)
{
    snprintf(path, sizeof(path), "%s/nothing", harness_tmpdir());
    refused(path, -ENOENT, "/nothing: No such file");
    refused(harness_tmpdir(), -EISDIR, "not a regular file");
    snprintf(path, sizeof(path), "%s/fifo", harness_tmpdir());
    assert_ok(mkfifo(path, 0600));
    refused(path, -EINVAL, "/fifo: not a regular file");
}

TEST(format_map_file_maps_the_whole_and_refuses_nothing_in_it)
{
    const void *base;
    size_t bytes;
    int fd;
    put_file("five!");
    assert_ok(format_map_file(path, &fd, &base, &bytes, &err));
    assert_int_equal(bytes, 5);
    assert_memory_equal(base, "five!", 5);
    assert_ok(munmap((void *)(uintptr_t)base, bytes));
    assert_ok(close(fd));
    put_file("");
    assert_int_equal(format_map_file(path, &fd, &base, &bytes, &err), -ENODATA);
    assert_non_null(strstr(err.text, "/file: the file is empty"));
}

TEST(format_read_file_reads_up_to_a_bound)
{
    char *text;
    size_t bytes;
    put_file("five!");
    assert_int_equal(format_read_file(path, 4, &text, &bytes, &err), -EFBIG);
    assert_non_null(strstr(err.text, "5 bytes, at most 4 are read"));
    assert_ok(format_read_file(path, 5, &text, &bytes, &err));
    assert_int_equal(bytes, 5);
    assert_string_equal(text, "five!");
    free(text);
    put_file("");
    assert_ok(format_read_file(path, 5, &text, &bytes, &err));
    assert_int_equal(bytes, 0);
    assert_string_equal(text, "");
    free(text);
}
