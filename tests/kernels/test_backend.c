/* Finding backends, and the CPU as a device. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "kernels/device.h"
#include "kernels/kernels.h"
#include "tests/harness/harness.h"

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
    assert_int_equal(cpu->device->open(&(struct device_options){ .index = 1 }, &dev, err,
                                       sizeof(err)), -ENODEV);
    assert_non_null(strstr(err, "1"));
    assert_int_equal(cpu->device->open(&(struct device_options){ .cpus = "zero" }, &dev, err,
                                       sizeof(err)), -EINVAL);
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
    assert_ok(cpu->device->open(&(struct device_options){ .n_thread = 1 }, &dev, err,
                                sizeof(err)));
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
