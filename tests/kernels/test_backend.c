/* Finding backends, and the CPU as a device. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/atomics.h"
#include "base/compiler.h"
#include "kernels/backend.h"
#include "kernels/device.h"
#include "kernels/kernels.h"
#include "tests/harness/harness.h"
#include "tests/kernels/rig.h"

static const struct backend *find_cpu(void)
{
    const struct backend *backend;
    char err[256];
    assert_ok(backend_find("cpu", &backend, err, sizeof(err)));
    assert_int_equal(backend->abi, BACKEND_ABI);
    assert_string_equal(backend->name, "cpu");
    return backend;
}

TEST(backend_find_names_what_there_is)
{
    const struct backend *backend = NULL;
    char err[256] = "";
    find_cpu();
    assert_int_equal(backend_find("vulkan", &backend, err, sizeof(err)), -ENOENT);
    assert_non_null(strstr(err, "vulkan"));
    assert_null(backend);
    int error = backend_find("cuda", &backend, err, sizeof(err));
    assert_true(error == 0 || error == -ENOENT || error == -ENOEXEC);
    if (error)
        assert_non_null(strstr(err, "ringlet_cuda.so"));
    if (error == -ENOENT)
        assert_non_null(strstr(err, "build it (meson option cuda"));
}

TEST(cpu_device_memory_is_aligned_and_zeroed)
{
    const struct backend *cpu = find_cpu();
    struct device_options options = { .n_thread = 1 };
    struct device *dev;
    struct device_info info;
    char err[256];
    assert_ok(cpu->device->open(&options, &dev, err, sizeof(err)));
    cpu->device->info(dev, &info);
    assert_int_equal(info.n_core, 1);
    assert_true(info.memory_total > 0);
    for (size_t bytes = 1; bytes < 8u << 20; bytes = bytes * 5 + 3) {
        unsigned char *p = cpu->device->alloc(dev, bytes);
        assert_non_null(p);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t i = 0; i < bytes; i += bytes / 100 + 1)
            assert_int_equal(p[i], 0);
        memset(p, 1, bytes);
        if (bytes % 2)
            cpu->device->free(dev, p); /* the rest is freed by close */
    }
    assert_null(cpu->device->alloc(dev, SIZE_MAX - 10));
    cpu->device->close(dev);
}

TEST(cpu_device_refuses_what_it_cannot_be)
{
    const struct backend *cpu = find_cpu();
    struct device *dev;
    char err[256] = "";
    assert_int_equal(cpu->device->count(), 1);
    assert_int_equal(
        cpu->device->open(&(struct device_options){ .index = 1 }, &dev, err, sizeof(err)), -ENODEV);
    assert_non_null(strstr(err, "1"));
    assert_int_equal(
        cpu->device->open(&(struct device_options){ .cpus = "zero" }, &dev, err, sizeof(err)),
        -EINVAL);
    assert_non_null(strstr(err, "zero"));
    setenv("RINGLET_CPU_ISA", "mmx", 1);
    assert_int_equal(cpu->device->open(&(struct device_options){ 0 }, &dev, err, sizeof(err)),
                     -EINVAL);
    assert_non_null(strstr(err, "mmx"));
}

TEST(weight_layout_refuses_types_and_widths_it_has_no_kernel_for)
{
    const struct backend *cpu = find_cpu();
    struct device *dev;
    char err[256];
    int64_t bytes;
    int layout;
    assert_ok(cpu->device->open(&(struct device_options){ .n_thread = 1 }, &dev, err, sizeof(err)));
    assert_int_equal(cpu->ops->weight_layout(dev, DTYPE_I32, 4, 32, &bytes, &layout), -ENOTSUP);
    assert_int_equal(cpu->ops->weight_layout(dev, DTYPE_Q4_0, 4, 33, &bytes, &layout), -ENOTSUP);
    assert_int_equal(cpu->ops->weight_layout(dev, DTYPE_Q6_K, 4, 128, &bytes, &layout), -ENOTSUP);
    assert_int_equal(cpu->ops->weight_layout(dev, DTYPE_F32, 0, 32, &bytes, &layout), -ENOTSUP);
    assert_int_equal(cpu->ops->weight_layout(dev, (enum dtype)99, 4, 32, &bytes, &layout),
                     -ENOTSUP);
    assert_ok(cpu->ops->weight_layout(dev, DTYPE_Q4_1, 17, 64, &bytes, &layout));
    assert_int_equal(bytes, 32 * 2 * 20); /* two groups, the file's own 20 bytes a block */
    cpu->device->close(dev);
}

enum { BLOCK_BYTES = 200000, BLOCK_SURE = 1024 };

/* Two blocks with their words behind them: what goes in, and the same again for what comes back. */
struct lane {
    uint8_t *in, *back;
    uint8_t *device; /* where the block is in between */
    struct device_turn turn;
    uint32_t n; /* trips so far: the value of the next is one more */
};

static void lane_enqueue(struct rig *rig, const struct lane *lane)
{
    const struct device_ops *d = rig->backend->device;
    uint32_t *word = (uint32_t *)(void *)(lane->back + BLOCK_BYTES);
    const void *value = lane->device + 4;
    assert_ok(d->fetch(rig->st, lane->device, lane->in, &lane->turn, BLOCK_SURE, BLOCK_BYTES));
    assert_ok(d->deliver(rig->st, lane->back, lane->device, BLOCK_BYTES, word, value, &lane->turn));
}

/* The next block of the pair, filled, its length in front; the other holds something else. */
static uint8_t *lane_fill(struct lane *lane, uint32_t bytes)
{
    static uint64_t seed = 3;
    size_t offset = lane->n % 2 * lane->turn.stride;
    uint32_t *host = (uint32_t *)(void *)(lane->in + offset);
    for (size_t k = 0; k < BLOCK_BYTES / 4; k++)
        host[k] = (uint32_t)harness_rand(&seed);
    host[0] = bytes;
    host[1] = ++lane->n;
    memset(lane->back + offset, 0xee, BLOCK_BYTES);
    return lane->back + offset;
}

/* Round trips host block -> device -> host, two in flight, as steps go: each by its own block. */
static void check_trips(struct rig *rig, struct lane *lane, struct graph *graph)
{
    static const uint32_t lengths[] = { BLOCK_SURE,  BLOCK_SURE + 16, 70000 / 16 * 16,
                                        BLOCK_BYTES, BLOCK_BYTES,     BLOCK_SURE };
    const struct device_ops *d = rig->backend->device;
    for (size_t i = 0; i < ARRAY_SIZE(lengths); i += 2) {
        uint8_t *back[2];
        for (size_t k = 0; k < 2; k++) {
            back[k] = lane_fill(lane, lengths[i + k]);
            if (graph)
                assert_ok(d->graph_launch(rig->st, graph));
            else
                lane_enqueue(rig, lane);
        }
        assert_ok(d->stream_sync(rig->st));
        for (size_t k = 0; k < 2; k++) {
            const uint32_t *word = (const uint32_t *)(const void *)(back[k] + BLOCK_BYTES);
            assert_int_equal(load_acquire(word), lane->n - 1 + k); /* pairs with deliver */
            assert_memory_equal(back[k], back[k] - lane->back + lane->in, lengths[i + k]);
        }
    }
}

static void check_fetch_and_deliver(struct rig *rig)
{
    const struct device_ops *d = rig->backend->device;
    struct lane lane = { .turn.stride = BLOCK_BYTES + 64 };
    lane.in = d->host_alloc(rig->dev, 2 * lane.turn.stride);
    lane.back = d->host_alloc(rig->dev, 2 * lane.turn.stride);
    lane.device = rig_put(rig, NULL, BLOCK_BYTES);
    lane.turn.word = d->alloc(rig->dev, 64);
    assert_true(lane.in && lane.back && lane.turn.word);
    check_trips(rig, &lane, NULL);
    if (d->graph_begin) {
        struct graph *graph;
        assert_ok(d->graph_begin(rig->st));
        lane_enqueue(rig, &lane);
        assert_ok(d->graph_end(rig->st, &graph));
        check_trips(rig, &lane, graph);
        d->graph_close(graph);
    }
    rig_reset(rig);
    d->host_free(rig->dev, lane.in);
    d->host_free(rig->dev, lane.back);
    d->free(rig->dev, lane.turn.word);
}

TEST(fetch_brings_what_the_block_says_and_deliver_tells_when_it_is_back)
{
    rig_each(check_fetch_and_deliver);
}
