/* Memory of the CPU device: present in the background, and no more than a cgroup leaves. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "kernels/cpu/cpu_memory.h"
#include "tests/harness/harness.h"

#define MIB ((size_t)1 << 20)

static size_t present_bytes(const unsigned char *p, size_t bytes)
{
    static unsigned char pages[64 * MIB / 4096];
    size_t n = bytes / 4096, present = 0;
    assert_ok(mincore((void *)((uintptr_t)p & ~(uintptr_t)4095), bytes, pages));
    for (size_t i = 0; i < n; i++)
        present += pages[i] & 1;
    return present * 4096;
}

TEST(cpu_memory_is_made_present_in_the_background)
{
    struct cpu_memory memory = { NULL };
    size_t bytes = 48 * MIB;
    if (cpu_memory_available() < 4 * bytes)
        skip();
    unsigned char *p = cpu_memory_alloc(&memory, bytes);
    assert_non_null(p);
    assert_true(present_bytes(p, bytes) <= 2 * MIB); /* the head's page */
    int error = madvise(p - 64, 2 * MIB, 23);        /* MADV_POPULATE_WRITE */
    cpu_memory_settle(p);
    cpu_memory_settle(p); /* once is enough */
    for (int i = 0; error == 0 && present_bytes(p, bytes) < bytes; i++) {
        assert_true(i < 30000);
        p[i] = 1; /* in use meanwhile */
        nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);
    }
    assert_int_equal(p[0], error == 0);
    assert_int_equal(p[bytes - 1], 0);
    cpu_memory_free_all(&memory);
    assert_null(memory.first);
}

TEST(cpu_memory_that_goes_does_not_wait_for_it)
{
    struct cpu_memory memory = { NULL };
    for (int i = 0; i < 50; i++) { /* each would take most of a second */
        void *p = cpu_memory_alloc(&memory, 40 * MIB), *small = cpu_memory_alloc(&memory, 100);
        cpu_memory_settle(p);
        cpu_memory_settle(small);
        cpu_memory_free(&memory, p);
        cpu_memory_free(&memory, small);
        cpu_memory_free(&memory, NULL);
        assert_null(memory.first);
    }
}

static void put(const char *folder, const char *name, const char *text)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

TEST(cpu_memory_left_is_the_least_of_the_cgroups_above)
{
    char mount[256], folder[400], list[300];
    snprintf(mount, sizeof(mount), "%s/cg", harness_tmpdir());
    snprintf(list, sizeof(list), "%s/list", harness_tmpdir());
    mkdir(mount, 0700);
    put(harness_tmpdir(), "list", "0::/a/b\n");
    assert_true(cpu_memory_left_of_cgroups(list, mount) == UINT64_MAX); /* no such folders */
    snprintf(folder, sizeof(folder), "%s/a", mount);
    mkdir(folder, 0700);
    put(folder, "memory.max", "1000\n");
    put(folder, "memory.current", "300\n");
    assert_int_equal(cpu_memory_left_of_cgroups(list, mount), 700);
    snprintf(folder, sizeof(folder), "%s/a/b", mount);
    mkdir(folder, 0700);
    put(folder, "memory.max", "max\n");
    put(folder, "memory.current", "300\n");
    assert_int_equal(cpu_memory_left_of_cgroups(list, mount), 700);
    put(folder, "memory.max", "200\n"); /* below what it uses */
    assert_int_equal(cpu_memory_left_of_cgroups(list, mount), 0);
    put(harness_tmpdir(), "list", "12:pids:/x\n9:memory:/\nnonsense\n");
    snprintf(folder, sizeof(folder), "%s/memory", mount);
    mkdir(folder, 0700);
    put(folder, "memory.limit_in_bytes", "9223372036854771712\n");
    put(folder, "memory.usage_in_bytes", "4096\n");
    assert_true(cpu_memory_left_of_cgroups(list, mount) > UINT64_C(1) << 60);
    put(folder, "memory.limit_in_bytes", "8192\n");
    assert_int_equal(cpu_memory_left_of_cgroups(list, mount), 4096);
    assert_true(cpu_memory_left_of_cgroups("/nowhere", mount) == UINT64_MAX);
    assert_true(cpu_memory_available() > 0);
}
