/* Owns the one place where error lines of file readers are written and cleaned. Any thread. */
#include "daemon/format/format_error.h"

#include <stdarg.h>
#include <stdio.h>

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
