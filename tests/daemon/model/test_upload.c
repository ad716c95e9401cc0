#include "daemon/model/upload.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/atomics.h"
#include "kernels/backend.h"
#include "kernels/device.h"
#include "tests/harness/harness.h"

enum { FILE_BYTES = 21000003 };

struct bed {
    const struct device_ops *device;
    struct device *dev;
    struct stream *st;
    uint8_t *bytes;
    int fd;
};

/* Signals are held back until the test lets them go: a device that is slow. */
static uint32_t *held_word[64], held_value[64];
static int n_held, held_max;

static int slow_signal(struct stream *st, uint32_t *word, uint32_t value)
{
    (void)st;
    held_word[n_held] = word;
    held_value[n_held++] = value;
    if (n_held > held_max) {                        /* the oldest copy is done */
        store_release(held_word[0], held_value[0]); /* pairs with upload_next */
        n_held--;
        for (int i = 0; i < n_held; i++) {
            held_word[i] = held_word[i + 1];
            held_value[i] = held_value[i + 1];
        }
    }
    return 0;
}

static const char *sick(struct device *dev)
{
    (void)dev;
    return "sick";
}

static void bed_open(struct bed *b)
{
    const struct backend *cpu;
    char err[256], path[512];
    uint64_t seed = 5;
    assert_ok(backend_find("cpu", &cpu, err, sizeof(err)));
    b->device = cpu->device;
    assert_ok(
        cpu->device->open(&(struct device_options){ .n_thread = 1 }, &b->dev, err, sizeof(err)));
    b->st = NULL; /* the CPU's signal needs none */
    b->bytes = malloc(FILE_BYTES);
    assert_non_null(b->bytes);
    for (int i = 0; i < FILE_BYTES; i++)
        b->bytes[i] = (uint8_t)harness_rand(&seed);
    snprintf(path, sizeof(path), "%s/weights", harness_tmpdir());
    b->fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    assert_int_equal(write(b->fd, b->bytes, FILE_BYTES), FILE_BYTES);
}

static void bed_close(struct bed *b)
{
    b->device->close(b->dev);
    close(b->fd);
    free(b->bytes);
}

/* Pieces of many sizes, out of order, overlapping: each arrives whole. */
static void run(struct bed *b, const struct device_ops *device)
{
    static const struct {
        uint64_t offset;
        size_t bytes;
    } parts[] = { { 7, 1 },
                  { 100, 8 << 20 },
                  { 0, 3 },
                  { 9999999, 1 << 20 },
                  { 20000000, 1000003 },
                  { 5, (5 << 20) + 1 },
                  { 5, 1048577 },
                  { 1, 2 },
                  { 4096, 4096 },
                  { 64, 12 << 20 },
                  { 3, 900000 } };
    enum { N = sizeof(parts) / sizeof(*parts) };
    struct upload_piece pieces[N];
    struct upload *u;
    const void *got = NULL;
    for (int i = 0; i < N; i++)
        pieces[i] = (struct upload_piece){ b->fd, parts[i].offset, parts[i].bytes };
    assert_ok(upload_open(device, b->dev, pieces, N, &u));
    for (int i = 0; i < N; i++) {
        assert_ok(upload_next(u, &got));
        if (memcmp(got, b->bytes + parts[i].offset, parts[i].bytes) != 0)
            fail_msg("piece %d differs", i);
        assert_ok(upload_used(u, b->st));
    }
    upload_close(u);
}

TEST(upload_brings_every_piece_in_order)
{
    struct bed b;
    bed_open(&b);
    run(&b, b.device);
    struct device_ops slow = *b.device;
    slow.signal = slow_signal;
    for (held_max = 0; held_max < 4; held_max++) {
        n_held = 0;
        run(&b, &slow);
    }
    bed_close(&b);
}

TEST(upload_waits_for_the_device_and_sees_that_it_is_lost)
{
    struct bed b;
    struct upload *u;
    const void *got;
    struct upload_piece pieces[6];
    bed_open(&b);
    struct device_ops dead = *b.device;
    dead.signal = slow_signal;
    dead.error = sick;
    n_held = 0;
    held_max = 60; /* no copy is ever done */
    for (int i = 0; i < 6; i++)
        pieces[i] = (struct upload_piece){ b.fd, (uint64_t)i, 1000 };
    assert_ok(upload_open(&dead, b.dev, pieces, 6, &u));
    for (int i = 0; i < 4; i++) { /* as many buffers */
        assert_ok(upload_next(u, &got));
        assert_ok(upload_used(u, b.st));
    }
    assert_int_equal(upload_next(u, &got), -EIO);
    upload_close(u);
    bed_close(&b);
}

TEST(upload_tells_a_file_that_ends_early_and_one_that_cannot_be_read)
{
    struct bed b;
    struct upload *u;
    const void *got;
    bed_open(&b);
    const struct upload_piece beyond = { b.fd, FILE_BYTES - 100, 101 };
    assert_ok(upload_open(b.device, b.dev, &beyond, 1, &u));
    assert_int_equal(upload_next(u, &got), -ENODATA);
    upload_close(u);
    const struct upload_piece none = { -1, 0, 100 };
    assert_ok(upload_open(b.device, b.dev, &none, 1, &u));
    assert_int_equal(upload_next(u, &got), -EBADF);
    upload_close(u);
    const struct upload_piece many[2] = { { b.fd, 0, 8 << 20 }, { b.fd, 100, 8 << 20 } };
    assert_ok(upload_open(b.device, b.dev, many, 2, &u));
    assert_ok(upload_next(u, &got));
    upload_close(u); /* with reads out */
    upload_close(NULL);
    bed_close(&b);
}
