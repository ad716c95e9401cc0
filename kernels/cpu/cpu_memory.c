/* See cpu_memory.h. The allocation's head is in the mapping, a cache line before the caller's. */
#include "kernels/cpu/cpu_memory.h"

#include <linux/futex.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/atomics.h"
#include "base/bits.h"
#include "base/cleanup.h"
#include "base/compiler.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define HUGE_PAGE     (2u << 20)
#define SETTLE_BYTES  (32u << 20) /* less is touched soon enough */
#define SETTLE_NS     500000000   /* until start-up is over */
#define SETTLE_NAP_NS 1200000     /* after each huge page, which takes about 300 us */

struct cpu_allocation {
    struct cpu_allocation *prev, *next;
    size_t bytes;
    pthread_t settler;
    bool settles;
    uint32_t stop;
};

enum { HEAD_BYTES = 64 };
_Static_assert(sizeof(struct cpu_allocation) <= HEAD_BYTES, "the head fits its line");

void *cpu_memory_alloc(struct cpu_memory *memory, size_t bytes)
{
    size_t total;
    if (add_overflows(bytes, (size_t)HEAD_BYTES + HUGE_PAGE, &total))
        return NULL;
    bool huge = bytes >= HUGE_PAGE;
    total = align_up(bytes + HEAD_BYTES, huge ? HUGE_PAGE : 4096);
    struct cpu_allocation *a =
        mmap(NULL, total, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (a == MAP_FAILED)
        return NULL;
    if (huge)
        madvise(a, total, MADV_HUGEPAGE); /* a wish: without it the pages are small */
    *a = (struct cpu_allocation){ .next = memory->first, .bytes = total };
    if (a->next)
        a->next->prev = a;
    memory->first = a;
    return (char *)a + HEAD_BYTES;
}

/* Until it is to stop, or for so long. Returns whether it is to stop. */
static bool nap(struct cpu_allocation *a, long ns)
{
    struct timespec span = { .tv_nsec = ns };
    if (!load_acquire(&a->stop)) /* pairs with the store in end_settler */
        syscall(SYS_futex, &a->stop, FUTEX_WAIT_PRIVATE, 0, &span, NULL, 0);
    return load_acquire(&a->stop);
}

static void *settle(void *arg)
{
    struct cpu_allocation *a = arg;
    bool stop = nap(a, SETTLE_NS);
    for (size_t at = 0; at < a->bytes && !stop; at += HUGE_PAGE) {
        size_t bytes = min_of((size_t)HUGE_PAGE, a->bytes - at);
        if (madvise((char *)a + at, bytes, MADV_POPULATE_WRITE) < 0)
            break; /* an old kernel, or no memory: pages come as they are written */
        stop = nap(a, SETTLE_NAP_NS);
    }
    return NULL;
}

void cpu_memory_settle(void *p)
{
    struct cpu_allocation *a = (struct cpu_allocation *)(void *)((char *)p - HEAD_BYTES);
    if (a->settles || a->bytes < SETTLE_BYTES || a->bytes > cpu_memory_available() / 2)
        return;
    a->settles = pthread_create(&a->settler, NULL, settle, a) == 0;
    if (a->settles)
        (void)pthread_setname_np(a->settler, "settler");
}

static void end_settler(struct cpu_allocation *a)
{
    if (!a->settles)
        return;
    store_release(&a->stop, 1); /* pairs with load_acquire in nap */
    syscall(SYS_futex, &a->stop, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
    pthread_join(a->settler, NULL);
}

void cpu_memory_free(struct cpu_memory *memory, void *p)
{
    if (!p)
        return;
    struct cpu_allocation *a = (struct cpu_allocation *)(void *)((char *)p - HEAD_BYTES);
    end_settler(a);
    if (a->prev)
        a->prev->next = a->next;
    else
        memory->first = a->next;
    if (a->next)
        a->next->prev = a->prev;
    munmap(a, a->bytes);
}

void cpu_memory_free_all(struct cpu_memory *memory)
{
    while (memory->first)
        cpu_memory_free(memory, (char *)memory->first + HEAD_BYTES);
}

/* The number in a file; UINT64_MAX: none, or "max". */
static uint64_t number_in(const char *folder, const char *name)
{
    char path[4096], text[32] = "";
    unsigned long long n;
    if (snprintf(path, sizeof(path), "%s/%s", folder, name) >= (int)sizeof(path))
        return UINT64_MAX;
    auto_fclose FILE *file = fopen(path, "re");
    return file && fgets(text, sizeof(text), file) && sscanf(text, "%llu", &n) == 1 ? n
                                                                                    : UINT64_MAX;
}

/* What this cgroup and those above it leave, up to the mount itself. */
static uint64_t left_above(char *folder, size_t mount_bytes, const char *limit, const char *usage)
{
    uint64_t least = UINT64_MAX;
    for (;;) {
        uint64_t most = number_in(folder, limit), used = number_in(folder, usage);
        if (most != UINT64_MAX && used != UINT64_MAX)
            least = min_of(least, most - min_of(used, most));
        char *last = strrchr(folder, '/');
        if (!last || (size_t)(last - folder) < mount_bytes)
            return least;
        *last = 0;
    }
}

uint64_t cpu_memory_left_of_cgroups(const char *list, const char *mount)
{
    char line[2048], folder[4096];
    uint64_t least = UINT64_MAX;
    auto_fclose FILE *file = fopen(list, "re");
    while (file && fgets(line, sizeof(line), file)) {
        line[strcspn(line, "\n")] = 0;
        char *names = strchr(line, ':'), *path = names ? strchr(names + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        bool unified = names[1] == 0;
        if (!unified && strcmp(names + 1, "memory") != 0)
            continue;
        const char *tree = unified ? "" : "/memory";
        int n = snprintf(folder, sizeof(folder), "%s%s%s", mount, tree, path);
        if (n >= (int)sizeof(folder))
            continue;
        size_t mount_bytes = strlen(mount) + strlen(tree);
        if (n > 0 && folder[n - 1] == '/')
            folder[n - 1] = 0;
        least = min_of(least, left_above(folder, mount_bytes,
                                         unified ? "memory.max" : "memory.limit_in_bytes",
                                         unified ? "memory.current" : "memory.usage_in_bytes"));
    }
    return least;
}

uint64_t cpu_memory_available(void)
{
    long pages = sysconf(_SC_AVPHYS_PAGES), page = sysconf(_SC_PAGESIZE);
    uint64_t left = cpu_memory_left_of_cgroups("/proc/self/cgroup", "/sys/fs/cgroup");
    if (pages <= 0 || page <= 0)
        return left == UINT64_MAX ? 0 : left;
    return min_of((uint64_t)pages * (uint64_t)page, left);
}
