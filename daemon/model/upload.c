/*
 * Piece i lives in buffer i % BUFFERS. Three positions run over the pieces, each behind the one
 * before: what reads are asked for, what has arrived, what the device has copied.
 *
 *   [copied ... used)  the device works on them      [used ... asked)  the kernel reads them
 *
 * Reads are split, so that several of the kernel's threads share a piece.
 */
#include "daemon/model/upload.h"

#include <errno.h>
#include <liburing.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/atomics.h"
#include "base/bits.h"
#include "base/compiler.h"
#include "kernels/device.h"

enum {
    BUFFERS = 4,
    READ_BYTES = 1 << 20,
    READS_MAX = 64, /* out at once */
    LOOKS = 1000,   /* between two questions whether the device is well */
};

/* One read that is out, or what is left of it. */
struct upload_read {
    int piece_i;
    size_t at, bytes; /* in the piece */
};

struct upload {
    const struct device_ops *device;
    struct device *dev;
    struct upload_piece *pieces;
    int n;
    struct io_uring ring;
    uint8_t *buffer[BUFFERS];
    uint32_t *word[BUFFERS]; /* the device stores 1 + the piece that it has copied */
    size_t left[BUFFERS];    /* bytes of its piece that have not arrived */
    struct upload_read reads[READS_MAX];
    uint64_t free_reads; /* bit set */
    int next;            /* piece to hand out */
    int asked;           /* piece whose reads are being asked for ... */
    size_t asked_at;     /* ... from this byte on */
};

int upload_open(const struct device_ops *device, struct device *dev,
                const struct upload_piece *pieces, int n, struct upload **ret)
{
    size_t largest = 1;
    struct upload *u = calloc(1, sizeof(*u));
    if (!u)
        return -ENOMEM;
    int rc = io_uring_queue_init(READS_MAX, &u->ring, 0);
    if (rc < 0) {
        free(u);
        return rc;
    }
    u->device = device;
    u->dev = dev;
    u->n = n;
    u->free_reads = UINT64_MAX;
    u->pieces = calloc((size_t)n + 1, sizeof(*u->pieces));
    for (int i = 0; i < n; i++) {
        assert(pieces[i].bytes > 0);
        largest = max_of(largest, pieces[i].bytes);
    }
    bool ok = u->pieces != NULL;
    for (int i = 0; i < BUFFERS && ok; i++) {
        u->buffer[i] = device->host_alloc(dev, largest);
        u->word[i] = device->host_alloc(dev, sizeof(*u->word[i]));
        ok = u->buffer[i] && u->word[i];
    }
    if (!ok) {
        upload_close(u);
        return -ENOMEM;
    }
    if (n > 0)
        memcpy(u->pieces, pieces, (size_t)n * sizeof(*pieces));
    *ret = u;
    return 0;
}

/* May the buffer of this piece be written? Its last piece must have been copied. */
static bool buffer_is_free(const struct upload *u, int piece_i)
{
    int before = piece_i - BUFFERS;
    return before < 0 || (before < u->next &&
                          /* pairs with the device's signal */
                          load_acquire(u->word[piece_i % BUFFERS]) == (uint32_t)before + 1);
}

static void ask(struct upload *u, int read_i)
{
    const struct upload_read *r = &u->reads[read_i];
    const struct upload_piece *p = &u->pieces[r->piece_i];
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);
    assert(sqe); /* as many entries as reads */
    io_uring_prep_read(sqe, p->fd, u->buffer[r->piece_i % BUFFERS] + r->at, (unsigned)r->bytes,
                       p->offset + r->at);
    io_uring_sqe_set_flags(sqe, IOSQE_ASYNC); /* or cached pages are copied here, one by one */
    io_uring_sqe_set_data64(sqe, (uint64_t)read_i);
}

/* Ask for all that there is room for. */
static int ask_ahead(struct upload *u)
{
    while (u->free_reads && u->asked < u->n && buffer_is_free(u, u->asked)) {
        const struct upload_piece *p = &u->pieces[u->asked];
        if (u->asked_at == 0)
            u->left[u->asked % BUFFERS] = p->bytes;
        int read_i = __builtin_ctzll(u->free_reads);
        size_t bytes = min_of(p->bytes - u->asked_at, (size_t)READ_BYTES);
        u->free_reads &= ~(UINT64_C(1) << read_i);
        u->reads[read_i] = (struct upload_read){ u->asked, u->asked_at, bytes };
        ask(u, read_i);
        u->asked_at += bytes;
        if (u->asked_at == p->bytes) {
            u->asked++;
            u->asked_at = 0;
        }
    }
    int n = io_uring_submit(&u->ring);
    return n < 0 && n != -EINTR ? n : 0;
}

static int take_one(struct upload *u, const struct io_uring_cqe *cqe)
{
    int read_i = (int)io_uring_cqe_get_data64(cqe), got = cqe->res;
    struct upload_read *r = &u->reads[read_i];
    if (got == -EINTR || got == -EAGAIN) {
        ask(u, read_i);
        return 0;
    }
    if (got <= 0) {
        u->free_reads |= UINT64_C(1) << read_i;
        return got < 0 ? got : -ENODATA;
    }
    u->left[r->piece_i % BUFFERS] -= (size_t)got;
    r->at += (size_t)got;
    r->bytes -= (size_t)got;
    if (r->bytes > 0)
        ask(u, read_i); /* a short read */
    else
        u->free_reads |= UINT64_C(1) << read_i;
    return 0;
}

static int take_arrived(struct upload *u)
{
    struct io_uring_cqe *cqe;
    int rc = 0;
    while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
        int one = take_one(u, cqe);
        io_uring_cqe_seen(&u->ring, cqe);
        rc = rc < 0 ? rc : one;
    }
    return rc;
}

static bool piece_has_arrived(const struct upload *u, int piece_i)
{
    return u->asked > piece_i && u->left[piece_i % BUFFERS] == 0;
}

int upload_next(struct upload *u, const void **ret)
{
    assert(u->next < u->n);
    for (int look = 1;; look++) {
        int rc = ask_ahead(u);
        if (rc == 0)
            rc = take_arrived(u);
        if (rc < 0)
            return rc;
        if (piece_has_arrived(u, u->next))
            break;
        if (u->free_reads != UINT64_MAX) {
            struct io_uring_cqe *cqe;
            rc = io_uring_submit_and_wait_timeout(
                &u->ring, &cqe, 1, &(struct __kernel_timespec){ .tv_nsec = 1000000 }, NULL);
            if (rc < 0 && rc != -ETIME && rc != -EINTR)
                return rc;
        } else {
            sched_yield(); /* the device still copies from the buffer that is wanted */
        }
        if (look % LOOKS == 0 && u->device->error(u->dev))
            return -EIO;
    }
    *ret = u->buffer[u->next % BUFFERS];
    return 0;
}

int upload_used(struct upload *u, struct stream *st)
{
    uint32_t *word = u->word[u->next % BUFFERS];
    return u->device->signal(st, word, (uint32_t)++u->next);
}

void upload_close(struct upload *u)
{
    if (!u)
        return;
    while (u->free_reads != UINT64_MAX) { /* the kernel still writes into the buffers */
        struct io_uring_cqe *cqe;
        int n = io_uring_submit_and_wait(&u->ring, 1);
        if (n < 0 && n != -EINTR)
            break;
        while (io_uring_peek_cqe(&u->ring, &cqe) == 0) {
            u->free_reads |= UINT64_C(1) << io_uring_cqe_get_data64(cqe);
            io_uring_cqe_seen(&u->ring, cqe);
        }
    }
    io_uring_queue_exit(&u->ring);
    for (int i = 0; i < BUFFERS; i++) {
        if (u->buffer[i])
            u->device->host_free(u->dev, u->buffer[i]);
        if (u->word[i])
            u->device->host_free(u->dev, u->word[i]);
    }
    free(u->pieces);
    free(u);
}
