/* Sealed memfds: create, verify, map. See region.h for which seals and why. */
#include "shm/region.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/cleanup.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 0x0008U
#endif
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
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
    int prot = kind == REGION_UP ? PROT_READ | PROT_WRITE : PROT_READ;
    void *base = mmap(NULL, bytes, prot, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    if (madvise(base, bytes, MADV_DONTFORK) < 0) {
        int error = -errno;
        munmap(base, bytes);
        return error;
    }
    *ret_region = (struct region){ .fd = -1, .base = base, .bytes = bytes };
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

void region_punch(const struct region *region)
{
    if (region->base)
        (void)madvise(region->base, region->bytes, MADV_REMOVE);
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
    if (region->base)
        munmap(region->base, region->bytes);
    region->base = NULL;
    region->bytes = 0;
}
