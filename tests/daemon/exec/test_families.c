/*
 * Every family, shape and type against transformers, through executor steps.
 * mirrors: daemon/model/arch_llama.c daemon/model/decoder.c daemon/model/decoder_gguf.c
 * mirrors: daemon/model/blocks.c daemon/model/decoder_hf.c
 * mirrors: daemon/model/arch_qwen2.c daemon/model/arch_qwen3.c daemon/model/arch_smollm3.c
 */
#include <errno.h>

#include "base/compiler.h"
#include "tests/daemon/exec/golden.h"
#include "tests/harness/harness.h"

enum { CASES_MAX = 64 };

/* False: this device has no kernel for the case's shape. */
static bool open_case(struct runner *r, const char *path, const char *kv_type, int n_thread)
{
    struct format_error err = { "" };
    struct executor_load load = {
        .source.path = path, .kv_type = kv_type, .batch_max = 4, .rows_max = 64, .samples_max = 1280
    };
    int rc = runner_open(r, golden_device(), n_thread, &load, &err);
    if (rc == -ENOTSUP && strcmp(golden_device(), "cpu") != 0) {
        fprintf(stderr, "%s\n", err.text);
        return false;
    }
    if (rc < 0)
        fail_msg("%s: %s", path, err.text[0] ? err.text : strerror(-rc));
    return true;
}

/*
 * On a GPU everything is bf16: about as far from the reference as transformers' own bf16 is, where
 * that is more than a thousandth (below, single positions decide).
 */
static void check_case_gpu(const char *name, const char *path, const struct golden *golden)
{
    struct golden_result whole, chunked;
    struct runner r;
    if (!open_case(&r, path, "auto", 1))
        return;
    golden_compare(&r, golden, &whole);
    r.chunk = 7;
    golden_compare(&r, golden, &chunked);
    fprintf(stderr,
            "%-22s %s: largest difference %.2g, KL %.2g; in chunks %.2g; transformers' bf16 %.2g\n",
            name, r.model.device, whole.diff_max, whole.kl_mean, chunked.kl_mean, golden->kl_bf16);
    runner_close(&r);
    double bound = fmax(1.25 * golden->kl_bf16, 1e-3);
    if (!(whole.kl_mean <= bound) || !(chunked.kl_mean <= bound))
        fail_msg("%s: mean KL %g and %g, transformers' bf16 has %g", name, whole.kl_mean,
                 chunked.kl_mean, golden->kl_bf16);
}

/* Bounds of the mean KL with the default KV cache, by the type of the weights. */
static double kl_bound(const char *type)
{
    if (strcmp(type, "f32") == 0)
        return 1e-4;
    if (strcmp(type, "f16") == 0)
        return 1e-3;
    return strcmp(type, "bf16") == 0 ? 3e-3 : 0.03;
}

static void check_case(const char *file, const char *name)
{
    struct golden golden;
    struct golden_result exact, usual;
    struct runner r;
    const char *path = golden_weights(name);
    golden_load(file, name, &golden);
    if (strcmp(golden_device(), "cpu") != 0) {
        check_case_gpu(name, path, &golden);
        return;
    }

    open_case(&r, path, "f32", 1);
    golden_compare(&r, &golden, &exact);
    char type[16];
    snprintf(type, sizeof(type), "%s", r.model.info.file_type);
    runner_close(&r);
    open_case(&r, path, "auto", 2);
    r.chunk = 7;
    golden_compare(&r, &golden, &usual);
    runner_close(&r);

    fprintf(stderr, "%-22s %-5s f32 KV: largest difference %.2g, KL %.2g; default KV: KL %.2g\n",
            name, type, exact.diff_max, exact.kl_mean, usual.kl_mean);
    if (strcmp(type, "f32") == 0 && !(exact.diff_max <= 2e-3))
        fail_msg("%s: log-probabilities differ by %g", name, exact.diff_max);
    if (!(usual.kl_mean <= kl_bound(type)) || !(exact.kl_mean <= kl_bound(type)))
        fail_msg("%s: mean KL %g and %g, bound %g", name, exact.kl_mean, usual.kl_mean,
                 kl_bound(type));
}

static void check_cases(const char *file, const char *prefix, int n_expected)
{
    static char names[CASES_MAX][64];
    int n = golden_names(file, prefix, names, CASES_MAX);
    assert_true(n >= n_expected);
    for (int i = 0; i < n; i++)
        check_case(file, names[i]);
}

TEST(llama_f32_matches_transformers)
{
    check_cases("llama/golden.json", "llama_f32", 11);
}

TEST(llama_half_precision_matches_transformers)
{
    check_case("llama/golden.json", "llama_f16");
    check_case("llama/golden.json", "llama_bf16");
}

TEST(llama_quantised_matches_transformers)
{
    check_cases("llama/golden.json", "llama_q", 8);
}

TEST(llama_mixed_types_match_transformers)
{
    check_cases("llama/golden.json", "llama_mixed", 2);
}

TEST(llama_checkpoints_match_transformers)
{
    check_cases("llama/golden.json", "llama_hf", 3);
    check_case("llama/golden.json", "mistral_hf_window");
}

TEST(qwen2_matches_transformers)
{
    check_cases("qwen2/golden.json", "qwen2", 3);
}

TEST(qwen3_matches_transformers)
{
    check_cases("qwen3/golden.json", "qwen3", 3);
}

TEST(smollm3_matches_transformers)
{
    check_cases("smollm3/golden.json", "smollm3", 3);
}

/* Greedy tokens of the device against the CPU's, up to the first near tie (no logits are 0.35
 * apart). */
TEST(families_continue_on_the_device_as_on_the_cpu)
{
    enum { NEW = 24 };
    static const char *const names[] = { "llama_hf_bf16", "qwen2_hf_tied_bf16",
                                         "qwen3_hf_tied_bf16", "smollm3_hf" };
    if (strcmp(golden_device(), "cpu") == 0)
        skip();
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        struct format_error err = { "" };
        struct step_token scored[NEW + 8];
        struct runner cpu, gpu;
        int32_t ids[NEW + 8] = { 5, 9, 17, 33, 65, 129, 3, 11 }, have[NEW];
        const char *path = golden_weights(names[i]);
        struct executor_load load = { .source.path = path, .rows_max = 64 };
        assert_ok(runner_open(&cpu, "cpu", 1, &load, &err));
        assert_ok(runner_open(&gpu, golden_device(), 1, &load, &err));
        assert_ok(runner_generate(&cpu, ids, 8, NEW, false, ids + 8));
        assert_ok(runner_score(&cpu, ids, NEW + 8, scored));
        assert_ok(runner_generate(&gpu, ids, 8, NEW, true, have)); /* replays graphs */
        for (int j = 0; j < NEW; j++) {
            const struct step_token *at = &scored[7 + j];
            if (at->top_logprob[0] - at->top_logprob[1] < 0.35f)
                break;
            assert_int_equal(have[j], ids[8 + j]);
            fprintf(stderr, "%s: id %d agrees\n", names[i], j);
        }
        runner_close(&cpu);
        runner_close(&gpu);
    }
}
