#include "daemon/model/prefetch.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "tests/harness/harness.h"

enum { PAGE = 4096, PAGES = 5000 };

/* A mapped file of PAGES pages whose first bytes are their numbers. */
static uint8_t *map_file(void)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/pages", harness_tmpdir());
    int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)PAGE * PAGES), 0);
    for (int32_t i = 0; i < PAGES; i++)
        assert_int_equal(pwrite(fd, &i, sizeof(i), (off_t)PAGE * i), sizeof(i));
    uint8_t *base = mmap(NULL, (size_t)PAGE * PAGES, PROT_READ, MAP_PRIVATE, fd, 0);
    assert_ptr_not_equal(base, MAP_FAILED);
    close(fd);
    return base;
}

static void check(const uint8_t *base)
{
    for (int32_t i = 0; i < PAGES; i++)
        assert_memory_equal(base + (size_t)PAGE * (size_t)i, &i, sizeof(i));
}

TEST(prefetch_reads_ranges_and_drops_them)
{
    uint8_t *base = map_file();
    const struct prefetch_range ranges[] = {
        { base + 100, (size_t)PAGE * 4000 },
        { base, 1 },
        { base + (size_t)PAGE * 4000 + 7, (size_t)PAGE * 1000 - 7 },
    };
    struct prefetch *p;
    prefetch_start(ranges, 3, &p);
    assert_non_null(p);
    check(base);
    prefetch_stop(p);
    prefetch_drop(base + 1, (size_t)PAGE * PAGES - 1);
    check(base); /* pages come back from the file */
    munmap(base, (size_t)PAGE * PAGES);
}

TEST(prefetch_stops_early_and_takes_nothing)
{
    uint8_t *base = map_file();
    struct prefetch *p;
    for (int i = 0; i < 20; i++) {
        prefetch_start(&(struct prefetch_range){ base, (size_t)PAGE * PAGES }, 1, &p);
        prefetch_stop(p);
    }
    prefetch_start(NULL, 0, &p);
    prefetch_stop(p);
    prefetch_stop(NULL);
    munmap(base, (size_t)PAGE * PAGES);
}
