/*
 * What a load says and refuses. Files are tiny.py's, changed byte by byte.
 * mirrors: daemon/model/model.c daemon/model/weights.c
 * mirrors: daemon/model/weights_source.c daemon/exec/exec_load.c
 */
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/compiler.h"
#include "daemon/format/gguf.h"
#include "daemon/format/format_file.h"
#include "kernels/backend.h"
#include "kernels/kernels.h"
#include "tests/daemon/exec/golden.h"
#include "tests/daemon/format/gguf_writer.h"
#include "tests/harness/harness.h"

/* Load; its error, or 0 after closing again. */
static int try_load(const struct executor_load *load, struct format_error *err)
{
    struct runner r;
    *err = (struct format_error){ "" };
    int rc = runner_open(&r, "cpu", 1, load, err);
    if (rc == 0)
        runner_close(&r);
    return rc;
}

static const struct backend *the_cpu(void)
{
    const struct backend *cpu;
    char why[256];
    assert_ok(backend_find("cpu", &cpu, why, sizeof(why)));
    return cpu;
}

static void expect_refusal(const struct executor_load *load, int rc_expected, const char *word_a,
                           const char *word_b)
{
    struct format_error err;
    int rc = try_load(load, &err);
    if (rc != rc_expected || !strstr(err.text, word_a) || !strstr(err.text, word_b))
        fail_msg("got %d \"%s\", expected %d with \"%s\" and \"%s\"", rc, err.text, rc_expected,
                 word_a, word_b);
}

static void write_file(const char *path, const char *bytes, size_t n)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    fclose(file);
}

/* A case's GGUF with the first place of `from` replaced by `to` (equally long). */
static const char *changed_gguf(const char *name, const char *from, const char *to, size_t n)
{
    static char path[512];
    char *bytes;
    size_t size;
    assert_ok(format_read_file(golden_weights(name), 64 << 20, &bytes, &size, NULL));
    char *at = memmem(bytes, size, from, n);
    assert_non_null(at);
    memcpy(at, to, n);
    snprintf(path, sizeof(path), "%s/changed.gguf", harness_tmpdir());
    write_file(path, bytes, size);
    free(bytes);
    return path;
}

/* The same for a text file of a checkpoint folder; lengths may differ. */
static const char *changed_folder(const char *name, const char *file, const char *from,
                                  const char *to)
{
    static char folder[512];
    char path[600], *text, *out;
    size_t size;
    snprintf(folder, sizeof(folder), "%s", golden_weights(name));
    snprintf(path, sizeof(path), "%s/%s", folder, file);
    assert_ok(format_read_file(path, 1 << 20, &text, &size, NULL));
    char *at = strstr(text, from);
    assert_non_null(at);
    int n = asprintf(&out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    assert_true(n > 0);
    write_file(path, out, (size_t)n);
    free(text);
    free(out);
    return folder;
}

TEST(load_names_a_missing_file)
{
    struct executor_load load = { .source.path = "/nowhere/model.gguf" };
    expect_refusal(&load, -ENOENT, "/nowhere/model.gguf", "No such file");
}

TEST(load_names_an_unknown_architecture)
{
    struct executor_load load = { .source.path =
                                      changed_gguf("llama_f32_mha", "llama", "bllam", 5) };
    expect_refusal(&load, -ENOTSUP, "bllam", "not supported");
}

TEST(load_names_divisors_of_another_number)
{
    static const char from[] = "rope.dimension_count\x04\x00\x00\x00\x10";
    static const char to[] = "rope.dimension_count\x04\x00\x00\x00\x08";
    struct executor_load load = { .source.path =
                                      changed_gguf("llama_f32_rope3", from, to, sizeof(from) - 1) };
    expect_refusal(&load, -EINVAL, "rope_freqs.weight\" is 1 x 8", "expected 4 numbers");
}

TEST(load_names_a_missing_tensor)
{
    static const char from[] = "blk.1.ffn_up.weight";
    struct executor_load load = {
        .source.path = changed_gguf("llama_f32_mha", from, "blk.1.ffn_xx.weight", sizeof(from) - 1)
    };
    expect_refusal(&load, -ENOENT, "blk.1.ffn_up.weight", "missing");
}

TEST(load_names_a_tensor_of_another_shape)
{
    static const char key[] = "llama.feed_forward_length\x04\x00\x00\x00\x60";
    static const char wrong[] = "llama.feed_forward_length\x04\x00\x00\x00\x40";
    struct executor_load load = { .source.path =
                                      changed_gguf("llama_f32_mha", key, wrong, sizeof(key) - 1) };
    expect_refusal(&load, -EINVAL, "blk.0.ffn_gate.weight", "96 x 64");
}

/* A checkpoint whose second up_proj says something else (equally long) in the header. */
static const char *changed_tensor(const char *from, const char *to)
{
    char *bytes, path[600];
    size_t size, n = strlen(from);
    const char *folder = golden_weights("llama_hf");
    snprintf(path, sizeof(path), "%s/model.safetensors", folder);
    assert_ok(format_read_file(path, 64 << 20, &bytes, &size, NULL));
    char *at = memmem(bytes, size, "model.layers.1.mlp.up_proj.weight", 33);
    assert_non_null(at);
    at = memmem(at, size - (size_t)(at - bytes), from, n);
    assert_non_null(at);
    memcpy(at, to, n);
    write_file(path, bytes, size);
    free(bytes);
    return folder;
}

TEST(load_names_a_tensor_of_another_type)
{
    struct executor_load load = { .source.path = changed_tensor("\"F32\"", "\"I32\"") };
    expect_refusal(&load, -ENOTSUP, "model.layers.1.mlp.up_proj.weight\" has type I32",
                   "expected f32, f16 or bf16");
}

TEST(load_names_a_tensor_of_more_dimensions)
{
    struct executor_load load = { .source.path = changed_tensor("[96, 64]", "[96,8,8]") };
    expect_refusal(&load, -EINVAL, "model.layers.1.mlp.up_proj.weight\" has 3 dimensions",
                   "asks for 96 x 64");
}

TEST(load_calls_packed_weights_quantised)
{
    struct executor_load load = { .source.path =
                                      changed_tensor("mlp.up_proj.weight", "mlp.up_pro.qweight") };
    expect_refusal(&load, -ENOENT, "model.layers.1.mlp.up_proj.weight", "missing");
    load.source.path = changed_tensor("up_proj.weight\": ", "up_proj.qweight\":");
    expect_refusal(&load, -ENOTSUP, "model.layers.1.mlp.up_proj.qweight\" in place of",
                   "quantised weights");
}

TEST(load_refuses_tensors_that_the_family_does_not_know)
{
    /* qwen3's head norms in a file that says llama */
    char *bytes;
    size_t size;
    assert_ok(format_read_file(golden_weights("qwen3_gguf"), 64 << 20, &bytes, &size, NULL));
    for (char *at = bytes; (at = memmem(at, size - (size_t)(at - bytes), "qwen3", 5)); at += 5)
        memcpy(at, "llama", 5);
    char path[512];
    snprintf(path, sizeof(path), "%s/renamed.gguf", harness_tmpdir());
    write_file(path, bytes, size);
    free(bytes);
    struct executor_load load = { .source.path = path };
    expect_refusal(&load, -ENOTSUP, "attn_k_norm.weight", "no place");
}

TEST(load_bounds_what_metadata_says)
{
    static const struct {
        const char *key;
        uint32_t from, to;
        const char *word;
    } cases[] = {
        { "llama.block_count", 2, 0, "layers is 0" },
        { "llama.block_count", 2, 1000000, "layers" },
        { "llama.attention.head_count", 4, 0, "heads" },
        { "llama.attention.head_count_kv", 4, 3, "KV heads" },
        { "llama.rope.dimension_count", 16, 18, "rotated" },
        { "llama.attention.key_length", 16, 17, "17" },
        { "llama.context_length", 256, 0, "context" },
        { "llama.embedding_length", 64, UINT32_MAX, "width" },
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char from[64], to[64];
        uint32_t type = 4;
        size_t n = strlen(cases[i].key);
        memcpy(from, cases[i].key, n);
        memcpy(from + n, &type, 4);
        memcpy(to, from, n + 4);
        memcpy(from + n + 4, &cases[i].from, 4);
        memcpy(to + n + 4, &cases[i].to, 4);
        struct executor_load load = { .source.path =
                                          changed_gguf("llama_f32_mha", from, to, n + 8) };
        struct format_error err;
        int rc = try_load(&load, &err);
        if (rc >= 0 || !strstr(err.text, cases[i].word))
            fail_msg("%s %u: %d \"%s\"", cases[i].key, cases[i].to, rc, err.text);
    }
}

/* A file of metadata alone but for an embedding, with one more number about its rotation. */
static int open_yarn(const char *key, float value, struct format_error *err)
{
    static const struct {
        const char *key;
        uint32_t value;
    } shape[] = { { "llama.block_count", 1 },
                  { "llama.context_length", 64 },
                  { "llama.embedding_length", 8 },
                  { "llama.feed_forward_length", 8 },
                  { "llama.attention.head_count", 2 } };
    struct gguf_writer w = { 0 };
    struct gguf *gguf;
    struct model *m;
    put_header(&w, 3, 1, ARRAY_SIZE(shape) + 4);
    put_key(&w, "general.architecture", 8), put_string(&w, "llama");
    for (size_t i = 0; i < ARRAY_SIZE(shape); i++)
        put_key(&w, shape[i].key, 4), put_u32(&w, shape[i].value);
    put_key(&w, "llama.attention.layer_norm_rms_epsilon", 6), put_f32(&w, 1e-5f);
    put_key(&w, "llama.rope.scaling.type", 8), put_string(&w, "yarn");
    put_key(&w, key, 6), put_f32(&w, value);
    put_info(&w, "token_embd.weight", 0, 0, 2, (uint64_t[]){ 8, 4 });
    put_padding(&w, 32);
    for (int i = 0; i < 32; i++)
        put_f32(&w, 0);
    assert_ok(gguf_open_memory(w.data, w.bytes, "x.gguf", &gguf, err));
    struct model_source source = { .path = "x.gguf", .gguf = gguf };
    int rc = model_open(the_cpu(), NULL, &source, NULL, &m, err);
    if (rc == 0)
        model_close(m);
    gguf_close(gguf);
    free(w.data);
    return rc;
}

TEST(load_refuses_an_extrapolation_that_it_does_not_know)
{
    static const char key[] = "llama.rope.scaling.yarn_ext_factor";
    struct format_error err = { "" };
    assert_ok(open_yarn(key, 1, &err));
    assert_ok(open_yarn(key, -1, &err)); /* the usual */
    assert_int_equal(open_yarn(key, 0.5f, &err), -ENOTSUP);
    assert_non_null(strstr(err.text, "yarn_ext_factor\" is 0.5: only 1 is supported"));
}

TEST(load_refuses_a_truncated_file)
{
    char *bytes, path[512];
    size_t size;
    assert_ok(format_read_file(golden_weights("llama_f16"), 64 << 20, &bytes, &size, NULL));
    snprintf(path, sizeof(path), "%s/cut.gguf", harness_tmpdir());
    for (size_t n = 0; n < size; n += size / 13) {
        struct executor_load load = { .source.path = path };
        struct format_error err;
        write_file(path, bytes, n);
        assert_true(try_load(&load, &err) < 0);
        assert_non_null(strstr(err.text, "cut.gguf"));
    }
    free(bytes);
}

TEST(load_checks_a_checkpoint_config)
{
    static const struct {
        const char *from, *to, *word;
        int rc;
    } cases[] = {
        { "LlamaForCausalLM", "MambaForCausalLM", "MambaForCausalLM", -ENOTSUP },
        { "\"hidden_act\": \"silu\"", "\"hidden_act\": \"gelu\"", "gelu", -ENOTSUP },
        { "\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": -1", "epsilon", -EINVAL },
        { "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 2.5", "num_hidden_layers", -EINVAL },
        { "\"hidden_size\": 64", "\"hidden_size\": 32", "model.", -EINVAL },
        { "\"rope_theta\": 10000.0",
          "\"rope_theta\": 1e4, \"rope_scaling\": {\"rope_type\": \"longrope\"}", "longrope",
          -ENOTSUP },
        { "\"rope_theta\": 10000.0",
          "\"rope_theta\": 1e4, \"quantization_config\": {\"quant_method\": \"awq\"}", "awq",
          -ENOTSUP },
        { "\"vocab_size\": 160,", "", "vocab_size", -ENOENT },
        { "\"head_dim\": 16", "\"head_dim\": 258", "head size is 258, not in 1 .. 256", -EINVAL },
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct executor_load load = { .source.path = changed_folder("llama_hf", "config.json",
                                                                    cases[i].from, cases[i].to) };
        struct format_error err;
        int rc = try_load(&load, &err);
        if (rc != cases[i].rc || !strstr(err.text, cases[i].word))
            fail_msg("%s: %d \"%s\"", cases[i].to, rc, err.text);
    }
}

TEST(load_names_what_a_checkpoint_folder_lacks)
{
    char path[600];
    struct executor_load load = { .source.path = golden_weights("llama_hf_bf16") };
    snprintf(path, sizeof(path), "%s/model-00002-of-00003.safetensors", load.source.path);
    assert_ok(unlink(path));
    expect_refusal(&load, -ENOENT, "model-00002-of-00003.safetensors: missing",
                   "model.safetensors.index.json lists it");
    load.source.path = golden_weights("llama_hf");
    snprintf(path, sizeof(path), "%s/model.safetensors", load.source.path);
    assert_ok(unlink(path));
    expect_refusal(&load, -ENOENT, "neither model.safetensors nor", "fetch the weights");
    snprintf(path, sizeof(path), "%s/pytorch_model.bin", load.source.path);
    write_file(path, "PK", 2);
    expect_refusal(&load, -ENOENT, "neither model.safetensors nor",
                   "pytorch_model.bin is not read: convert it");
}

TEST(load_reads_defaults_of_a_checkpoint)
{
    struct runner r;
    struct format_error err = { "" };
    struct executor_load load = { .source.path = golden_weights("llama_hf_bf16") };
    assert_ok(runner_open(&r, "cpu", 1, &load, &err));
    const struct model_info *info = &r.model.info;
    assert_string_equal(info->name, "llama_hf_bf16");
    assert_string_equal(info->arch, "llama");
    assert_string_equal(info->file_type, "bf16");
    assert_int_equal(info->bos_id, 1);
    assert_int_equal(info->n_eos_id, 2);
    assert_int_equal(info->eos_ids[1], 5);
    assert_int_equal(info->sampling.set,
                     MODEL_SETS_TEMPERATURE | MODEL_SETS_TOP_P | MODEL_SETS_TOP_K);
    assert_close((double)info->sampling.temperature, 0.6, 1e-6, 0);
    assert_int_equal(info->sampling.top_k, 40);
    assert_int_equal(info->vocab, 160);
    assert_true(info->n_parameter > 50000 && info->weight_bytes == 2 * info->n_parameter);
    runner_close(&r);
}

TEST(load_makes_dummy_weights_of_a_config)
{
    struct runner r;
    struct format_error err = { "" };
    int32_t prompt[] = { 5, 6, 7 }, out[8];
    const char *path = golden_weights("qwen2_hf_tied_bf16");
    char file[600];
    snprintf(file, sizeof(file), "%s/model.safetensors", path);
    assert_ok(unlink(file));
    struct executor_load load = { .source = { .path = path, .dummy = true } };
    assert_ok(runner_open(&r, "cpu", 1, &load, &err));
    assert_string_equal(r.model.info.file_type, "bf16");
    assert_true(r.model.info.n_parameter > 50000);
    assert_ok(runner_generate(&r, prompt, 3, 8, true, out));
    for (int i = 0; i < 8; i++)
        assert_true(out[i] >= 0 && out[i] < 160);
    runner_close(&r);
    load.source.dummy = false;
    expect_refusal(&load, -ENOENT, path, "");
}

TEST(load_makes_dummy_weights_of_all_that_a_gguf_file_lists)
{
    static const char *const cases[] = { "llama_f32_mha", "llama_f32_gqa_tied" };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        uint64_t n_parameter = 0;
        for (int dummy = 0; dummy < 2; dummy++) {
            struct gguf *gguf;
            struct format_error err = { "" };
            struct runner r;
            const char *path = golden_weights(cases[i]);
            assert_ok(gguf_open(path, &gguf, &err));
            struct executor_load load = { .source = {
                                              .path = path, .gguf = gguf, .dummy = dummy } };
            assert_ok(runner_open(&r, "cpu", 1, &load, &err));
            if (dummy)
                assert_int_equal(r.model.info.n_parameter, n_parameter);
            n_parameter = r.model.info.n_parameter;
            runner_close(&r);
            gguf_close(gguf);
        }
    }
}

TEST(load_refuses_absurd_limits)
{
    struct executor_load load = { .source.path = "echo", .batch_max = 5, .rows_max = 4 };
    expect_refusal(&load, -EINVAL, "rows", "out of range");
    load = (struct executor_load){ .source.path = "echo", .context = 1 << 20 };
    expect_refusal(&load, -EINVAL, "context of 1048576", "65536");
    load = (struct executor_load){ .source.path = "echo", .kv_bytes = 64 };
    expect_refusal(&load, -ENOMEM, "KV cache", "at least 2");
    load = (struct executor_load){ .source.path = golden_weights("llama_f32_mha"),
                                   .kv_bytes = UINT64_C(1) << 45 };
    expect_refusal(&load, -ENOMEM, "MB of KV cache", "are free");
    load =
        (struct executor_load){ .source.path = golden_weights("llama_f32_mha"), .kv_type = "q8_0" };
    expect_refusal(&load, -ENOTSUP, "q8_0", "multiple of 32");
    load.kv_type = "f8";
    expect_refusal(&load, -EINVAL, "f8", "choose");
}

/* The CPU with another device or other ops, or a second table of those for f16 (NULL: as it is). */
static int open_changed(struct runner *r, const struct executor_load *load,
                        const struct device_ops *device, const struct kernel_ops *ops,
                        const struct kernel_ops *f16, struct format_error *err)
{
    static struct backend table;
    const struct backend *cpu = the_cpu();
    table = (struct backend){ cpu->abi, cpu->name, device ? device : cpu->device,
                              ops ? ops : cpu->ops, f16 };
    struct executor_config config = { .backend = "cpu", .n_thread = 1, .table = &table };
    return runner_open_config(r, &config, load, err);
}

/* A refusal by the CPU behind a table for f16 beside its own. */
static void expect_refusal_f16(const struct executor_load *load, const char *word_a,
                               const char *word_b)
{
    static struct kernel_ops f16;
    struct format_error err = { "" };
    struct runner r;
    f16 = *the_cpu()->ops;
    f16.act_dtype = DTYPE_F16;
    assert_int_equal(open_changed(&r, load, NULL, NULL, &f16, &err), -ENOTSUP);
    if (!strstr(err.text, word_a) || !strstr(err.text, word_b))
        fail_msg("got \"%s\", expected \"%s\" and \"%s\"", err.text, word_a, word_b);
}

TEST(load_computes_in_the_type_of_the_weights_or_in_the_one_asked_for)
{
    char path[512];
    struct executor_load load = { .source.path = golden_weights("llama_hf_f16_rope3"),
                                  .batch_max = 2,
                                  .rows_max = 8,
                                  .kv_type = "bf16" };
    expect_refusal_f16(&load, "kv-type bf16", "is computed in f16");
    load.source.dtype = "f32";
    assert_ok(try_load(&load, &(struct format_error){ "" }));
    load.source.dtype = "bf16";
    expect_refusal_f16(&load, "dtype bf16", "computes in f32 or f16");
    snprintf(path, sizeof(path), "%s", golden_weights("llama_hf_bf16"));
    load.source.path = path;
    load.source.dtype = "f16";
    expect_refusal_f16(&load, "kv-type bf16", "is computed in f16");
    expect_refusal(&load, -ENOTSUP, "dtype f16", "cpu backend computes in f32");
    load.source.dtype = "auto";
    assert_ok(try_load(&load, &(struct format_error){ "" }));
}

static int no_kernel(struct stream *st, const struct attn_args *args)
{
    (void)st;
    (void)args;
    return -ENOTSUP;
}

TEST(load_names_a_shape_that_the_device_has_no_kernel_for)
{
    static struct kernel_ops ops;
    struct format_error err = { "" };
    struct runner r;
    ops = *the_cpu()->ops;
    ops.attn = no_kernel;
    struct executor_load load = { .source.path = golden_weights("llama_f32_head80") };
    assert_int_equal(open_changed(&r, &load, NULL, &ops, NULL, &err), -ENOTSUP);
    if (!strstr(err.text,
                "no kernel for this shape in f32 with a f16 KV cache: 2 heads of size 80"))
        fail_msg("got \"%s\"", err.text);
}

static void count_progress(void *arg, uint64_t done, uint64_t total)
{
    uint64_t *last = arg;
    assert_true(done > *last && done <= total);
    *last = done;
}

TEST(load_tells_progress)
{
    uint64_t last = 0;
    struct format_error err;
    struct executor_load load = { .source.path = golden_weights("llama_q4_0"),
                                  .progress = count_progress,
                                  .progress_arg = &last };
    assert_ok(try_load(&load, &err));
    assert_true(last > 10000);
}

TEST(load_takes_a_file_that_is_open_already)
{
    struct gguf *gguf;
    struct format_error err;
    const char *path = golden_weights("llama_q8_0");
    assert_ok(gguf_open(path, &gguf, &err));
    struct executor_load load = { .source = { .path = path, .gguf = gguf }, .name = "mine" };
    struct runner r;
    assert_ok(runner_open(&r, "cpu", 1, &load, &err));
    assert_string_equal(r.model.info.name, "mine");
    runner_close(&r);
    gguf_close(gguf);
}
