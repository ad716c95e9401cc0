/*
 * Shared regions: sealed memfds that the daemon makes and the client maps. The daemon never maps a
 * descriptor that it did not make itself.
 *
 *   kind     daemon maps   client may          seals
 *   UP       read-write    read and write      SHRINK GROW SEAL
 *   DOWN     read-write    read                SHRINK GROW FUTURE_WRITE SEAL
 *   BOARD    read-write    read                SHRINK GROW FUTURE_WRITE SEAL
 *
 * FUTURE_WRITE is set after the daemon's own mapping exists: that one keeps writing, every later
 * writable mapping, pwrite, hole or re-opening is refused by the kernel. Without SHRINK a peer
 * could truncate the file and kill us with SIGBUS.
 */
#ifndef RINGLET_SHM_REGION_H
#define RINGLET_SHM_REGION_H

#include <stdbool.h>
#include <stddef.h>

#include "base/compiler.h"

enum region_kind { REGION_UP, REGION_DOWN, REGION_BOARD };

struct region {
    int fd; /* -1 once closed or handed over */
    void *base;
    size_t bytes;
};

/* An empty region: region_free of it does nothing. */
#define REGION_NONE ((struct region){ .fd = -1 })

/*
 * Daemon: create, size, map and seal a region.
 *
 *   name    shown in /proc/PID/maps; no secret
 *   bytes   multiple of 4096
 *   kind    decides the seals
 *
 * Returns: 0; -errno of memfd_create, ftruncate, mmap or F_ADD_SEALS (-ENOMEM, -EMFILE, ...).
 * Memory:  zeroed; no page is touched yet, see region_populate.
 */
nodiscard int region_create(const char *name, size_t bytes, enum region_kind kind,
                            struct region *ret_region);

/*
 * Client: check a received region and map it. Size and seals must be exactly as the kind demands,
 * so that nobody, the daemon's other clients included, can pull it away. The mapping is not
 * inherited by a forked child (MADV_DONTFORK). The descriptor stays the caller's.
 *
 * Returns: 0; -EPROTO wrong size or seals; -errno of mmap.
 */
nodiscard int region_map(int fd, size_t bytes, enum region_kind kind, struct region *ret_region);

/*
 * Prefault [off, off + bytes) for writing, so that no first touch is paid on the hot path and the
 * pages are charged to this process.
 *
 * Returns: 0; -ENOMEM, or another errno of madvise. A kernel without MADV_POPULATE_WRITE: 0.
 */
nodiscard int region_populate(const struct region *region, size_t off, size_t bytes);

/*
 * Daemon, when the client is gone: give UP's pages in [off, off + bytes) back even where a fork
 * still maps them.
 */
void region_punch(const struct region *region, size_t off, size_t bytes);

/* Close the descriptor, keep the mapping: once it was sent, nobody here needs it. */
void region_close_fd(struct region *region);

/* Unmap and close. REGION_NONE and a zeroed region with fd -1 are fine. */
void region_free(struct region *region);

#endif
