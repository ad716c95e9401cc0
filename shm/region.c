/* Sealed memfds: create, verify, map. See region.h for which seals and why. */
#include "shm/region.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/atomics.h"
#include "base/cleanup.h"
#include "base/compiler.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

/*
 * ThreadSanitizer knows bytes by their address. Its tests have both sides in one process, so there
 * a region that was made in this process is mapped once and shared; other builds have nothing of
 * this.
 */
#ifdef RINGLET_TSAN
#include <pthread.h>

static struct {
    ino_t inode;
    void *base;
    int uses;
} tsan_maps[256];
static pthread_mutex_t tsan_lock = PTHREAD_MUTEX_INITIALIZER;

static void tsan_note(int fd, void *base)
{
    struct stat st;
    pthread_mutex_lock(&tsan_lock);
    for (size_t i = 0; fstat(fd, &st) == 0 && i < ARRAY_SIZE(tsan_maps); i++) {
        if (tsan_maps[i].uses > 0)
            continue;
        tsan_maps[i].inode = st.st_ino;
        tsan_maps[i].base = base;
        tsan_maps[i].uses = 1;
        break;
    }
    pthread_mutex_unlock(&tsan_lock);
}

static void *tsan_share(ino_t inode)
{
    void *base = NULL;
    pthread_mutex_lock(&tsan_lock);
    for (size_t i = 0; i < ARRAY_SIZE(tsan_maps) && !base; i++) {
        if (tsan_maps[i].uses == 0 || tsan_maps[i].inode != inode)
            continue;
        tsan_maps[i].uses++;
        base = tsan_maps[i].base;
    }
    pthread_mutex_unlock(&tsan_lock);
    return base;
}

/* True: other users are left. */
static bool tsan_drop(void *base)
{
    bool kept = false;
    pthread_mutex_lock(&tsan_lock);
    for (size_t i = 0; i < ARRAY_SIZE(tsan_maps); i++)
        if (tsan_maps[i].uses > 0 && tsan_maps[i].base == base)
            kept = --tsan_maps[i].uses > 0;
    pthread_mutex_unlock(&tsan_lock);
    return kept;
}
#else
static inline void tsan_note(int fd, void *base)
{
    (void)fd, (void)base;
}

static inline void *tsan_share(ino_t inode)
{
    (void)inode;
    return NULL;
}

static inline bool tsan_drop(void *base)
{
    (void)base;
    return false;
}
#endif

static int seals_of(enum region_kind kind)
{
    int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    return kind == REGION_UP ? seals : seals | F_SEAL_FUTURE_WRITE;
}

int region_create(const char *name, size_t bytes, enum region_kind kind, struct region *ret_region)
{
    assert(bytes > 0 && bytes % 4096 == 0);
    auto_close int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
    if (fd < 0 && errno == EINVAL) /* before Linux 6.3 */
        fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)bytes) < 0)
        return -errno;
    void *base = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    if (fcntl(fd, F_ADD_SEALS, seals_of(kind)) < 0) {
        int error = -errno;
        munmap(base, bytes);
        return error;
    }
    (void)madvise(base, bytes, MADV_DONTFORK); /* best effort: the daemon does not fork */
    tsan_note(fd, base);
    *ret_region = (struct region){ .fd = steal_fd(&fd), .base = base, .bytes = bytes };
    return 0;
}

int region_map(int fd, size_t bytes, enum region_kind kind, struct region *ret_region)
{
    struct stat st;
    if (fstat(fd, &st) < 0)
        return -errno;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !S_ISREG(st.st_mode) || st.st_size < 0 || (size_t)st.st_size != bytes)
        return -EPROTO;
    if ((seals & ~F_SEAL_EXEC) != seals_of(kind))
        return -EPROTO;
    *ret_region = (struct region){ .fd = -1, .base = tsan_share(st.st_ino), .bytes = bytes };
    if (ret_region->base)
        return 0;
    int prot = kind == REGION_UP ? PROT_READ | PROT_WRITE : PROT_READ;
    void *base = mmap(NULL, bytes, prot, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    if (madvise(base, bytes, MADV_DONTFORK) < 0) {
        int error = -errno;
        munmap(base, bytes);
        return error;
    }
    ret_region->base = base;
    return 0;
}

int region_populate(const struct region *region, size_t off, size_t bytes)
{
    assert(bytes <= region->bytes && off <= region->bytes - bytes);
    if (bytes == 0)
        return 0;
    int rc;
    do {
        rc = madvise((char *)region->base + off, bytes, MADV_POPULATE_WRITE);
    } while (rc < 0 && (errno == EINTR || errno == EAGAIN));
    if (rc < 0 && errno != EINVAL) /* EINVAL: before Linux 5.14, the pages come by faults */
        return errno == EFAULT ? -ENOMEM : -errno;
    return 0;
}

void region_punch(const struct region *region, size_t off, size_t bytes)
{
    assert(bytes <= region->bytes && off <= region->bytes - bytes);
    if (bytes)
        (void)madvise((char *)region->base + off, bytes, MADV_REMOVE);
}

void region_close_fd(struct region *region)
{
    if (region->fd >= 0)
        close(region->fd);
    region->fd = -1;
}

void region_free(struct region *region)
{
    region_close_fd(region);
    if (region->base && !tsan_drop(region->base))
        munmap(region->base, region->bytes);
    region->base = NULL;
    region->bytes = 0;
}
