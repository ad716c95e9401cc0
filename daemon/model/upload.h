/*
 * Brings pieces of files to a device whose memory is not the host's: io_uring reads them ahead into
 * a few pinned buffers; each is free again when the device has passed the signal that stands behind
 * the copies from it. So reading and copying overlap, and nothing is copied by the CPU but by the
 * kernel. Start-up thread only.
 *
 *   upload_open -> { upload_next -> copies from the buffer are enqueued -> upload_used }* ->
 *   upload_close
 */
#ifndef RINGLET_MODEL_UPLOAD_H
#define RINGLET_MODEL_UPLOAD_H

#include <stddef.h>
#include <stdint.h>

struct device;
struct device_ops;
struct stream;
struct upload;

struct upload_piece {
    int fd; /* stays open until upload_close */
    uint64_t offset;
    size_t bytes;
};

/*
 *   pieces   copied; in the order in which they will be taken
 *
 * Returns: 0; -ENOMEM, also of pinned memory; -errno from io_uring.
 */
int upload_open(const struct device_ops *device, struct device *dev,
                const struct upload_piece *pieces, int n, struct upload **ret);

/*
 * Wait for the next piece; *ret holds its bytes until upload_used.
 * Returns: 0; -ENODATA the file is shorter; -EIO reading failed, or a device fault; -errno.
 */
int upload_next(struct upload *u, const void **ret);

/* All copies from the last piece are enqueued on st. Returns: 0; -EIO device fault. */
int upload_used(struct upload *u, struct stream *st);

/* Waits for what the kernel still reads; the caller has synchronised the stream. NULL is fine. */
void upload_close(struct upload *u);

#endif
