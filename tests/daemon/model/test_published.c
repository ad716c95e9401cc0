/*
 * Published models by their own config.json (tests/vectors/configs: the keys and numbers that they
 * are published with): the shape, down to the number of parameters, and what tells how it is
 * computed.
 * mirrors: daemon/model/decoder_hf.c daemon/model/model.c
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "base/compiler.h"
#include "config.h"
#include "daemon/format/format_file.h"
#include "daemon/model/decoder.h"
#include "kernels/backend.h"
#include "kernels/device.h"
#include "kernels/kernels.h"
#include "tests/harness/harness.h"

#define CONFIGS RINGLET_SOURCE_ROOT "/tests/vectors/configs/"

struct published {
    const char *file;
    uint64_t n_parameter;
    int head_dim, n_kv_head, context, window; /* of the first layer */
    double theta;
    enum rope_scaling scaling;
    bool tied;
    int n_eos_id, eos_id; /* the last of them */
};

static const struct published models[] = {
    { "llama-1-7b", 6738415616, 128, 32, 2048, 0, 1e4, ROPE_SCALING_NONE, false, 1, 2 },
    { "llama-2-7b", 6738415616, 128, 32, 4096, 0, 1e4, ROPE_SCALING_NONE, false, 1, 2 },
    { "llama-3.1-8b-instruct", 8030261248, 128, 8, 131072, 0, 5e5, ROPE_SCALING_LLAMA3, false, 3,
      128009 },
    { "llama-3.1-8b-v5", 8030261248, 128, 8, 131072, 0, 5e5, ROPE_SCALING_LLAMA3, false, 3,
      128009 },
    { "llama-3.2-1b", 1235814400, 64, 8, 131072, 0, 5e5, ROPE_SCALING_LLAMA3, true, 1, 128001 },
    { "deepseek-coder-6.7b", 6740512768, 128, 32, 65536, 0, 1e5, ROPE_SCALING_LINEAR, false, 1, 2 },
    { "mistral-7b-v0.1", 7241732096, 128, 8, 32768, 4096, 1e4, ROPE_SCALING_NONE, false, 1, 2 },
    { "mistral-7b-v0.3", 7248023552, 128, 8, 32768, 0, 1e6, ROPE_SCALING_NONE, false, 1, 2 },
    { "mistral-nemo-12b", 12247782400, 128, 8, 1024000, 0, 1e6, ROPE_SCALING_NONE, false, 1, 2 },
    { "smollm2-135m", 134515008, 64, 3, 8192, 0, 1e5, ROPE_SCALING_NONE, true, 1, 0 },
    { "smollm2-1.7b-instruct", 1711376384, 64, 32, 8192, 0, 130000, ROPE_SCALING_NONE, true, 1, 2 },
    { "smollm3-3b", 3075098624, 128, 4, 65536, 0, 5e6, ROPE_SCALING_NONE, true, 1, 128012 },
    { "qwen2-0.5b", 494032768, 64, 2, 131072, 0, 1e6, ROPE_SCALING_NONE, true, 1, 151643 },
    { "qwen2.5-7b-yarn", 7615616512, 128, 4, 131072, 0, 1e6, ROPE_SCALING_YARN, false, 1, 151645 },
    { "qwen2.5-72b", 72706203648, 128, 8, 32768, 0, 1e6, ROPE_SCALING_NONE, false, 1, 151645 },
    { "qwen3-0.6b", 596049920, 128, 8, 40960, 0, 1e6, ROPE_SCALING_NONE, true, 1, 151645 },
    { "qwen3-32b", 32762123264, 128, 8, 40960, 0, 1e6, ROPE_SCALING_NONE, false, 1, 151645 },
};

/* Weights of billions of parameters are asked for and not had. */
static void *no_room(struct device *dev, size_t bytes)
{
    (void)dev;
    (void)bytes;
    return NULL;
}

static void copy_config(const char *name)
{
    char path[512], *text;
    size_t bytes;
    snprintf(path, sizeof(path), CONFIGS "%s.json", name);
    assert_ok(format_read_file(path, 1 << 20, &text, &bytes, NULL));
    snprintf(path, sizeof(path), "%s/config.json", harness_tmpdir());
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    fclose(file);
    free(text);
}

static void check_published(const struct published *want, const struct backend *backend)
{
    const struct model_source source = { .path = harness_tmpdir(), .dummy = true };
    const struct op_limits limits = { .rows_max = 1 };
    struct format_error err = { "" };
    struct model *m;
    copy_config(want->file);
    if (model_open(backend, NULL, &source, NULL, &m, &err) < 0)
        fail_msg("%s: %s", want->file, err.text);
    const struct decoder *d = m->arch_state;
    const struct model_info *info = &m->info;
    if (model_load(m, NULL, &limits, NULL, NULL, &err) != -ENOMEM ||
        info->n_parameter != want->n_parameter)
        fail_msg("%s: %" PRIu64 " parameters, expected %" PRIu64 " (%s)", want->file,
                 info->n_parameter, want->n_parameter, err.text);
    assert_int_equal(info->head_dim, want->head_dim);
    assert_int_equal(info->n_kv_head, want->n_kv_head);
    assert_int_equal(info->context, want->context);
    assert_int_equal(d->layers[0].attn.window, want->window);
    assert_close((double)d->rope.base, want->theta, 0, 0);
    assert_int_equal(d->rope.scaling, want->scaling);
    assert_int_equal(d->tied, want->tied);
    assert_int_equal(info->n_eos_id, want->n_eos_id);
    assert_int_equal(info->eos_ids[info->n_eos_id - 1], want->eos_id);
    model_close(m);
}

TEST(published_models_are_what_their_configs_say)
{
    const struct backend *cpu;
    char why[256];
    assert_ok(backend_find("cpu", &cpu, why, sizeof(why)));
    struct device_ops device = *cpu->device;
    struct backend backend = *cpu;
    device.alloc = no_room;
    backend.device = &device;
    for (size_t i = 0; i < ARRAY_SIZE(models); i++)
        check_published(&models[i], &backend);
}
