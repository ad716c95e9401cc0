/* Owns the one place where error lines of file readers are written and cleaned. Any thread. */
#include "daemon/format/format_error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int format_fail(struct format_error *err, int rc, const char *format, ...)
{
    if (!err)
        return rc;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof(err->text), format, args);
    va_end(args);
    for (char *p = err->text; *p; p++)
        if (*p < 0x20 || *p > 0x7e)
            *p = '?';
    return rc;
}

int format_refuse_pointer(struct format_error *err, const char *path, const void *data,
                          size_t bytes)
{
    static const char begin[] = "version https://git-lfs.github.com/spec/";
    if (bytes < sizeof(begin) - 1 || memcmp(data, begin, sizeof(begin) - 1) != 0)
        return 0;
    return format_fail(
        err, -EINVAL, "%s: a pointer of Git LFS and not the file itself: fetch that (git lfs pull)",
        path);
}
