/*
 * Foreign files on their way in: opened without waiting (a FIFO is refused, not read), whole, with
 * a message where they are not what a model's file can be. Start-up; any thread.
 */
#ifndef RINGLET_FORMAT_FORMAT_FILE_H
#define RINGLET_FORMAT_FORMAT_FILE_H

#include <stddef.h>

#include "daemon/format/format_error.h"

/*
 * Map a file for reading. The caller unmaps *ret_bytes at *ret_base and closes *ret_fd.
 * Returns: 0; -ENOENT and others from open or mmap; -EISDIR; -EINVAL no regular file; -ENODATA it
 * is empty.
 */
int format_map_file(const char *path, int *ret_fd, const void **ret_base, size_t *ret_bytes,
                    struct format_error *err);

/*
 * The whole of a small file, NUL after it, freed by the caller.
 * Returns: 0; as above, but an empty file is no error; -EFBIG above max; -ENODATA it became shorter
 * meanwhile; -ENOMEM.
 */
int format_read_file(const char *path, size_t max, char **ret, size_t *ret_bytes,
                     struct format_error *err);

#endif
