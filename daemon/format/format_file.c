/* Owns nothing. The one place where readers of foreign files open them. Any thread. */
#include "daemon/format/format_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"

static int open_regular(const char *path, int *ret_fd, size_t *ret_bytes, struct format_error *err)
{
    auto_close int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;
    if (fd < 0 || fstat(fd, &st) < 0)
        return format_fail(err, -errno, "%s: %s", path, strerror(errno));
    if (!S_ISREG(st.st_mode))
        return format_fail(err, S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL, "%s: not a regular file",
                           path);
    *ret_bytes = (size_t)st.st_size;
    *ret_fd = steal_fd(&fd);
    return 0;
}

int format_map_file(const char *path, int *ret_fd, const void **ret_base, size_t *ret_bytes,
                    struct format_error *err)
{
    auto_close int fd = -1;
    size_t bytes = 0;
    int error = open_regular(path, &fd, &bytes, err);
    if (error)
        return error;
    if (bytes == 0)
        return format_fail(err, -ENODATA, "%s: the file is empty; fetch it again", path);
    void *base = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    if (base == MAP_FAILED)
        return format_fail(err, -errno, "%s: mmap: %s", path, strerror(errno));
    *ret_fd = steal_fd(&fd);
    *ret_base = base;
    *ret_bytes = bytes;
    return 0;
}

int format_read_file(const char *path, size_t max, char **ret, size_t *ret_bytes,
                     struct format_error *err)
{
    auto_close int fd = -1;
    size_t size = 0, done = 0;
    int error = open_regular(path, &fd, &size, err);
    if (error)
        return error;
    if (size > max)
        return format_fail(err, -EFBIG, "%s: %zu bytes, at most %zu are read", path, size, max);
    auto_free char *text = malloc(size + 1);
    if (!text)
        return format_fail(err, -ENOMEM, "%s: no memory for %zu bytes", path, size);
    while (done < size) {
        ssize_t n = read(fd, text + done, size - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return format_fail(err, n ? -errno : -ENODATA, "%s: %s", path,
                               n ? strerror(errno) : "cut off");
        done += (size_t)n;
    }
    text[size] = 0;
    *ret = steal_ptr(&text);
    *ret_bytes = size;
    return 0;
}
