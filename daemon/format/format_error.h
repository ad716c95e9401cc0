/*
 * How the readers of foreign files say what is wrong: a negative errno for programs, one line for
 * people. The line names file, place, expected and actual, and holds printable characters only.
 */
#ifndef RINGLET_FORMAT_FORMAT_ERROR_H
#define RINGLET_FORMAT_FORMAT_ERROR_H

#include <stddef.h>

#include "base/compiler.h"

struct format_error {
    char text[512];
};

/*
 * Write the line and hand back rc, so that callers end with `return format_fail(err, -EINVAL,
 * ...)`. Bytes outside printable ASCII that a file smuggled into an argument become '?'.
 *
 *   err   may be NULL: then only rc counts
 *
 * Returns: rc.  Thread: any.
 */
int format_fail(struct format_error *err, int rc, const char *format, ...) printf_like(3, 4);

/*
 * What `git clone` leaves in place of a large file where Git LFS is not there: a few lines that say
 * which file it is. Returns: 0 it is something else; -EINVAL that, told in err.  Thread: any.
 */
int format_refuse_pointer(struct format_error *err, const char *path, const void *data,
                          size_t bytes);

#endif
