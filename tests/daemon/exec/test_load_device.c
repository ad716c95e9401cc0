/*
 * Loading into a device whose memory is not the host's, or is short.
 * mirrors: daemon/model/weights.c daemon/exec/exec_load.c
 */
#include <errno.h>

#include "base/compiler.h"
#include "kernels/backend.h"
#include "kernels/device.h"
#include "tests/daemon/exec/golden.h"
#include "tests/harness/harness.h"

static const struct backend *the_cpu(void)
{
    const struct backend *cpu;
    char why[256];
    assert_ok(backend_find("cpu", &cpu, why, sizeof(why)));
    return cpu;
}

/* Pinned memory that is refused so many times. */
static int host_refusals;

static void *host_alloc_after(struct device *dev, size_t bytes)
{
    if (host_refusals > 0) {
        host_refusals--;
        return NULL;
    }
    return the_cpu()->device->host_alloc(dev, bytes);
}

/* What the model says after a prompt, on a device whose memory is the host's or its own. */
static void say(const char *path, bool apart, int32_t out[6])
{
    static const int32_t prompt[] = { 5, 6, 7 };
    static struct device_ops device;
    static struct backend table;
    struct format_error err = { "" };
    struct runner r;
    device = *the_cpu()->device;
    device.is_apart = apart;
    device.host_alloc = host_alloc_after;
    table = *the_cpu();
    table.device = &device;
    struct executor_config config = { .backend = "cpu", .n_thread = 1, .table = &table };
    struct executor_load load = { .source.path = path, .batch_max = 4, .rows_max = 16 };
    if (runner_open_config(&r, &config, &load, &err) < 0)
        fail_msg("%s: %s", path, err.text);
    assert_ok(runner_generate(&r, prompt, 3, 6, false, out));
    runner_close(&r);
}

TEST(load_reads_files_into_a_device_apart)
{
    static const char *const cases[] = { "llama_f32_mha", "llama_q4_1", "llama_hf",
                                         "llama_hf_bf16" };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        int32_t want[6], have[6];
        char path[512];
        snprintf(path, sizeof(path), "%s", golden_weights(cases[i]));
        say(path, false, want);
        say(path, true, have);
        assert_memory_equal(have, want, sizeof(want));
        host_refusals = 1; /* of the first buffer that files are read into */
        say(path, true, have);
        assert_int_equal(host_refusals, 0);
        assert_memory_equal(have, want, sizeof(want));
    }
}

/* A device apart with little memory, which is never given back. */
static size_t small_total, small_taken;

static void small_info(struct device *dev, struct device_info *ret)
{
    the_cpu()->device->info(dev, ret);
    ret->memory_total = small_total;
    ret->memory_free = small_total - small_taken;
}

static void *small_alloc(struct device *dev, size_t bytes)
{
    if (bytes > small_total - small_taken)
        return NULL;
    small_taken += bytes;
    return the_cpu()->device->alloc(dev, bytes);
}

static struct executor *open_small(size_t total)
{
    static struct device_ops device;
    static struct backend small;
    struct format_error err;
    struct executor *ex;
    small = *the_cpu();
    device = *small.device;
    device.info = small_info;
    device.alloc = small_alloc;
    device.is_apart = true;
    small.device = &device;
    small.name = "small";
    small_total = total;
    small_taken = 0;
    struct executor_config config = { .backend = "cpu", .n_thread = 1, .table = &small };
    assert_ok(executor_open(&config, &ex, &err));
    return ex;
}

/* Three models where there is room for four without KV: only if all weights come first. */
TEST(load_shares_what_the_weights_of_all_models_leave)
{
    enum { MODELS = 3 };
    struct format_error err = { "" };
    struct executor_model loaded;
    struct executor_load load = { .source.path = golden_weights("llama_hf_bf16"),
                                  .batch_max = 64,
                                  .rows_max = 64,
                                  .samples_max = 64,
                                  .models_left = MODELS };
    struct executor *ex = open_small(SIZE_MAX);
    assert_ok(executor_load_weights(ex, 0, &load, &err));
    size_t each = small_taken;
    executor_close(ex);

    ex = open_small(4 * each);
    for (int i = 0; i < MODELS; i++)
        assert_ok(executor_load_weights(ex, i, &load, &err));
    for (int i = 0; i < MODELS; i++, load.models_left--) {
        if (executor_load_kv(ex, i, &load, &loaded, &err) < 0)
            fail_msg("model %d: %s", i, err.text);
        assert_in_range(loaded.kv_pool_bytes, each / 4, each * 2 / 5); /* about a third */
    }
    executor_close(ex);

    ex = open_small(4 * each);
    load.models_left = MODELS;
    for (int i = 0; i < 2; i++, load.models_left--) {
        assert_ok(executor_load_weights(ex, i, &load, &err));
        assert_ok(executor_load_kv(ex, i, &load, &loaded, &err));
    }
    assert_int_equal(executor_load_weights(ex, 2, &load, &err), -ENOMEM);
    executor_close(ex);
}
