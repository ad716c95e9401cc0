/*
 * config.json as the families' own config classes read it: what is absent, null, new or unknown.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/compiler.h"
#include "daemon/model/decoder.h"
#include "daemon/model/weights.h"
#include "kernels/backend.h"
#include "tests/harness/harness.h"

enum { LAYERS = 8 };

static void write_config(const char *text)
{
    char path[512];
    snprintf(path, sizeof(path), "%s/config.json", harness_tmpdir());
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

/* The config that was written; the model is bound, so that its layers say what they do. */
static int open_written(struct model **ret, struct format_error *err)
{
    char why[256];
    const struct backend *cpu;
    struct model_source source = { .path = harness_tmpdir(), .dummy = true };
    *err = (struct format_error){ "" };
    assert_ok(backend_find("cpu", &cpu, why, sizeof(why)));
    int rc = model_open(cpu, NULL, &source, NULL, ret, err);
    if (rc == 0)
        assert_ok((*ret)->arch->bind(*ret, (*ret)->weights));
    return rc;
}

/* A family's config with more keys. */
static int open_config(const char *class, const char *more, struct model **ret,
                       struct format_error *err)
{
    char text[4096];
    snprintf(text, sizeof(text),
             "{\"architectures\": [\"%s\"], \"hidden_size\": 64, \"intermediate_size\": 96, "
             "\"num_hidden_layers\": %d, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
             "\"vocab_size\": 160, \"max_position_embeddings\": 256%s%s}",
             class, LAYERS, *more ? ", " : "", more);
    write_config(text);
    return open_written(ret, err);
}

static struct model *open_good(const char *class, const char *more)
{
    struct model *m;
    struct format_error err;
    if (open_config(class, more, &m, &err) < 0)
        fail_msg("%s with %s: %s", class, more, err.text);
    return m;
}

static const struct decoder *decoder_of(const struct model *m)
{
    return m->arch_state;
}

/* Windows of the layers, one number for each. */
static void expect_windows(const char *class, const char *more, const int want[LAYERS])
{
    struct model *m = open_good(class, more);
    for (int i = 0; i < LAYERS; i++)
        if (decoder_of(m)->layers[i].attn.window != want[i])
            fail_msg("%s with %s: layer %d has the window %d, expected %d", class, more, i,
                     decoder_of(m)->layers[i].attn.window, want[i]);
    model_close(m);
}

static void expect_window(const char *class, const char *more, int window)
{
    int want[LAYERS];
    for (int i = 0; i < LAYERS; i++)
        want[i] = window;
    expect_windows(class, more, want);
}

TEST(windows_are_those_of_the_familys_config_class)
{
    static const int late[LAYERS] = { 0, 0, 0, 0, 0, 9, 9, 9 };
    static const int listed[LAYERS] = { 9, 0, 9, 0, 0, 0, 0, 9 };
    static const int unrotated[LAYERS] = { 0, 0, 0, 9, 0, 0, 0, 9 };
    static const char types[] = "\"use_sliding_window\": true, \"sliding_window\": 9, "
                                "\"layer_types\": [\"sliding_attention\", \"full_attention\", "
                                "\"sliding_attention\", \"full_attention\", \"full_attention\", "
                                "\"full_attention\", \"full_attention\", \"sliding_attention\"]";
    expect_window("LlamaForCausalLM", "\"sliding_window\": 9", 0);
    expect_window("MistralForCausalLM", "\"sliding_window\": 9", 9);
    expect_window("MistralForCausalLM", "\"sliding_window\": null", 0);
    expect_window("MistralForCausalLM", "", 4096);
    for (int qwen3 = 0; qwen3 < 2; qwen3++) {
        const char *class = qwen3 ? "Qwen3ForCausalLM" : "Qwen2ForCausalLM";
        expect_window(class, "\"sliding_window\": 9", 0);
        expect_window(class, "\"sliding_window\": 9, \"use_sliding_window\": false", 0);
        expect_window(class, "\"sliding_window\": 9, \"use_sliding_window\": true", 0);
        expect_window(class, "\"use_sliding_window\": true, \"max_window_layers\": 0", 4096);
        expect_windows(class,
                       "\"sliding_window\": 9, \"use_sliding_window\": true, "
                       "\"max_window_layers\": 5",
                       late);
        expect_windows(class, types, listed);
    }
    expect_window("SmolLM3ForCausalLM", "\"sliding_window\": 9", 0);
    expect_window("SmolLM3ForCausalLM", "\"use_sliding_window\": true", 0);
    expect_windows("SmolLM3ForCausalLM", "\"sliding_window\": 9, \"use_sliding_window\": true",
                   unrotated);
    expect_windows("SmolLM3ForCausalLM", types, listed);
}

TEST(layers_without_rotation_are_a_list_or_every_nth)
{
    static const struct {
        const char *more, *want; /* R: rotates */
    } cases[] = {
        { "", "RRR-RRR-" },
        { "\"no_rope_layer_interval\": 3", "RR-RR-RR" },
        { "\"no_rope_layers\": [1, 0, 0, 1, 1, 1, 0, 1]", "R--RRR-R" },
        { "\"no_rope_layers\": [true, false, false, true, true, true, false, true]", "R--RRR-R" },
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct model *m = open_good("SmolLM3ForCausalLM", cases[i].more);
        for (int l = 0; l < LAYERS; l++)
            assert_int_equal(decoder_of(m)->layers[l].attn.no_rope, cases[i].want[l] == '-');
        model_close(m);
    }
}

TEST(a_stretched_rotation_makes_the_context_longer)
{
    static const struct {
        const char *more;
        int context;
    } cases[] = {
        { "\"rope_scaling\": null", 256 },
        { "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 4.0}", 1024 },
        { "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, "
          "\"original_max_position_embeddings\": 200}",
          800 },
        { "\"rope_scaling\": {\"rope_type\": \"yarn\", \"factor\": 4.0, "
          "\"original_max_position_embeddings\": 64}",
          256 },
        { "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8.0, \"low_freq_factor\": 1, "
          "\"high_freq_factor\": 4, \"original_max_position_embeddings\": 200}",
          256 },
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct model *m = open_good("Qwen2ForCausalLM", cases[i].more);
        assert_int_equal(m->info.context, cases[i].context);
        model_close(m);
    }
}

TEST(newer_configs_say_the_same_in_rope_parameters)
{
    struct model *old =
        open_good("LlamaForCausalLM", "\"rope_theta\": 500.0, \"partial_rotary_factor\": 0.5, "
                                      "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}");
    struct model *new = open_good("LlamaForCausalLM",
                                  "\"rope_parameters\": {\"rope_theta\": 500.0, \"rope_type\": "
                                  "\"linear\", \"partial_rotary_factor\": 0.5, \"factor\": 2.0}");
    assert_int_equal(decoder_of(old)->rope.n_dim, 8);
    assert_int_equal(decoder_of(new)->rope.n_dim, 8);
    assert_int_equal(decoder_of(new)->rope.scaling, ROPE_SCALING_LINEAR);
    assert_close((double)decoder_of(old)->rope.base, 500, 0, 0);
    assert_close((double)decoder_of(new)->rope.base, 500, 0, 0);
    assert_close((double)decoder_of(new)->rope.factor, 2, 0, 0);
    model_close(old);
    model_close(new);
}

TEST(what_a_family_assumes_where_the_config_is_silent)
{
    static const struct {
        const char *class;
        int head_dim;
        double theta;
        bool tied;
    } cases[] = {
        { "LlamaForCausalLM", 16, 1e4, false },  { "MistralForCausalLM", 16, 1e4, false },
        { "Qwen2ForCausalLM", 16, 1e4, false },  { "Qwen3ForCausalLM", 128, 1e4, false },
        { "SmolLM3ForCausalLM", 16, 2e6, true },
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct model *m = open_good(cases[i].class, "\"foo\": {\"bar\": [1, null]}");
        assert_int_equal(m->shape.head_dim, cases[i].head_dim);
        assert_close((double)decoder_of(m)->rope.base, cases[i].theta, 0, 0);
        assert_close((double)decoder_of(m)->norm_eps, 1e-6, 1e-12, 0);
        assert_int_equal(decoder_of(m)->tied, cases[i].tied);
        model_close(m);
    }
}

TEST(key_value_heads_are_the_classs_where_the_config_is_silent_and_all_heads_where_it_says_null)
{
    static const struct {
        const char *class;
        int silent;
    } cases[] = {
        { "Llama", 64 }, { "Mistral", 8 }, { "Qwen2", 32 }, { "Qwen3", 32 }, { "SmolLM3", 4 }
    };
    for (size_t i = 0; i < 2 * ARRAY_SIZE(cases); i++) {
        struct format_error err;
        struct model *m;
        char text[1024];
        bool null = i >= ARRAY_SIZE(cases);
        snprintf(text, sizeof(text),
                 "{\"architectures\": [\"%sForCausalLM\"], \"hidden_size\": 128, "
                 "\"intermediate_size\": 96, \"num_hidden_layers\": 1, \"vocab_size\": 160, "
                 "\"num_attention_heads\": 64, \"max_position_embeddings\": 256%s}",
                 cases[i % ARRAY_SIZE(cases)].class, null ? ", \"num_key_value_heads\": null" : "");
        write_config(text);
        assert_ok(open_written(&m, &err));
        assert_int_equal(m->shape.n_kv_head, null ? 64 : cases[i].silent);
        model_close(m);
    }
}

/* A config of 32 heads that begins with these keys and lacks the context. */
static int open_sparse(const char *keys, struct model **ret, struct format_error *err)
{
    char text[1024];
    snprintf(text, sizeof(text),
             "{%s, \"hidden_size\": 512, \"intermediate_size\": 96, \"num_hidden_layers\": %d, "
             "\"num_attention_heads\": 32, \"vocab_size\": 160}",
             keys, LAYERS);
    write_config(text);
    return open_written(ret, err);
}

TEST(a_context_that_the_config_lacks_is_the_classs)
{
    static const struct {
        const char *type;
        int context;
    } cases[] = {
        { "llama", 2048 },  { "mistral", 131072 }, { "qwen2", 32768 },
        { "qwen3", 32768 }, { "smollm3", 32768 },
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct model *m;
        struct format_error err;
        char keys[128];
        snprintf(keys, sizeof(keys), "\"model_type\": \"%s\"", cases[i].type);
        assert_ok(open_sparse(keys, &m, &err));
        assert_string_equal(m->arch->name, cases[i].type);
        assert_int_equal(m->shape.context, cases[i].context);
        model_close(m);
    }
}

TEST(the_first_architecture_names_the_family_or_else_model_type)
{
    static const struct {
        const char *keys, *family; /* or what the message says */
        int rc;
    } cases[] = {
        { "\"architectures\": null, \"model_type\": \"mistral\"", "mistral", 0 },
        { "\"architectures\": [], \"model_type\": \"qwen2\"", "qwen2", 0 },
        { "\"architectures\": [\"LLaMAForCausalLM\"], \"model_type\": \"llama\"", "llama", 0 },
        { "\"architectures\": [\"Qwen3ForCausalLM\"]", "qwen3", 0 },
        { "\"model_type\": \"gpt2\"", "model type \"gpt2\" is not supported", -ENOTSUP },
        { "\"model_type\": \"echo\"", "model type \"echo\" is not supported", -ENOTSUP },
        { "\"architectures\": [\"LlamaModel\"], \"model_type\": \"llama\"",
          "architecture \"LlamaModel\" is not supported", -ENOTSUP },
        { "\"architectures\": [7], \"model_type\": \"llama\"", "architectures[0]", -EINVAL },
        { "\"model_type\": 7", "\"architectures[0]\" (a string) is missing", -ENOENT },
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct model *m = NULL;
        struct format_error err;
        int rc = open_sparse(cases[i].keys, &m, &err);
        const char *says = rc == 0 ? m->arch->name : err.text;
        if (rc != cases[i].rc || !strstr(says, cases[i].family))
            fail_msg("%s: %d \"%s\", expected %d with \"%s\"", cases[i].keys, rc, says, cases[i].rc,
                     cases[i].family);
        model_close(m);
    }
}

TEST(rope_scaling_in_a_newer_config_takes_the_place_of_rope_parameters)
{
    struct model *m = open_good("Qwen3ForCausalLM",
                                "\"rope_parameters\": {\"rope_type\": \"default\", "
                                "\"rope_theta\": 5}, \"rope_scaling\": {\"type\": \"linear\", "
                                "\"factor\": 2, \"rope_theta\": 7}");
    assert_int_equal(decoder_of(m)->rope.scaling, ROPE_SCALING_LINEAR);
    assert_close((double)decoder_of(m)->rope.base, 7, 0, 0);
    model_close(m);
    m = open_good("Qwen3ForCausalLM", "\"rope_parameters\": {\"type\": \"linear\", \"factor\": 2, "
                                      "\"rope_theta\": 5}, \"rope_scaling\": {}");
    assert_int_equal(decoder_of(m)->rope.scaling, ROPE_SCALING_LINEAR);
    assert_close((double)decoder_of(m)->rope.base, 5, 0, 0);
    model_close(m);
}

TEST(what_cannot_be_followed_is_refused_by_name)
{
    static const struct {
        const char *class, *more, *word;
        int rc;
    } cases[] = {
        { "Llama", "\"rope_scaling\": {\"type\": \"linear\"}", "rope_scaling.factor", -ENOENT },
        { "Llama", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": null}",
          "rope_scaling.factor", -ENOENT },
        { "Llama", "\"rope_scaling\": {\"type\": \"linear\", \"factor\": -2}",
          "rope_scaling.factor\" is -2", -EINVAL },
        { "Llama", "\"rope_scaling\": {\"type\": 5, \"factor\": 2}", "an integer", -EINVAL },
        { "Llama", "\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 2}", "dynamic",
          -ENOTSUP },
        { "Llama", "\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 2}",
          "low_freq_factor\" (a number) is missing", -ENOENT },
        { "Llama",
          "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, "
          "\"high_freq_factor\": 1, \"original_max_position_embeddings\": 64}",
          "high_freq_factor 1 is not above", -EINVAL },
        { "Llama", "\"rope_scaling\": [2]", "rope_scaling\" is no object", -EINVAL },
        { "Llama", "\"rope_scaling\": \"yarn\"", "rope_scaling\" is no object", -EINVAL },
        { "Llama", "\"rope_parameters\": {\"full_attention\": {}}", "full_attention", -ENOTSUP },
        { "Qwen2", "\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, \"truncate\": false}",
          "truncate", -ENOTSUP },
        { "Llama", "\"rope_parameters\": {\"rope_theta\": 0}", "rope_theta\" is 0", -EINVAL },
        { "Qwen3",
          "\"rope_parameters\": {\"rope_theta\": 5}, "
          "\"rope_scaling\": {\"type\": \"linear\", \"factor\": 2}",
          "rope_theta it lacks", -EINVAL },
        { "Llama", "\"hidden_act\": 5", "hidden_act", -EINVAL },
        { "Qwen2", "\"layer_types\": [\"full_attention\"]", "1 entries for 8 layers", -EINVAL },
        { "Qwen2", "\"layer_types\": \"full_attention\"", "layer_types", -EINVAL },
        { "Qwen3",
          "\"layer_types\": [\"linear_attention\", \"a\", \"a\", \"a\", \"a\", \"a\", \"a\", "
          "\"a\"]",
          "layer_types[0]\" is \"linear_attention\"", -ENOTSUP },
        { "Qwen3", "\"layer_types\": [1, 2, 3, 4, 5, 6, 7, 8]", "layer_types[0]", -EINVAL },
        { "Mistral", "\"sliding_window\": -1", "sliding_window", -ERANGE },
        { "Mistral", "\"sliding_window\": \"all\"", "sliding_window", -EINVAL },
        { "SmolLM3", "\"no_rope_layer_interval\": 0", "no_rope_layer_interval is 0", -EINVAL },
        { "SmolLM3", "\"no_rope_layers\": [1]", "1 entries for 8 layers", -EINVAL },
        { "SmolLM3", "\"no_rope_layers\": 4", "0 entries for 8 layers", -EINVAL },
        { "Qwen2", "\"quantization_config\": {\"bits\": 4, \"quant_method\": \"gptq\"}",
          "quantisation method \"gptq\"", -ENOTSUP },
        { "Qwen2", "\"quantization_config\": {\"load_in_4bit\": true}",
          "quantised weights (\"quantization_config\")", -ENOTSUP },
        { "Llama", "\"compression_config\": {\"quant_method\": \"compressed-tensors\"}",
          "quantisation method \"compressed-tensors\"", -ENOTSUP },
        { "Llama", "\"quantization\": {\"group_size\": 64, \"bits\": 4}",
          "quantised weights (\"quantization\")", -ENOTSUP },
    };
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct model *m;
        struct format_error err;
        char class[64];
        snprintf(class, sizeof(class), "%sForCausalLM", cases[i].class);
        int rc = open_config(class, cases[i].more, &m, &err);
        if (rc != cases[i].rc || !strstr(err.text, cases[i].word))
            fail_msg("%s: %d \"%s\", expected %d with \"%s\"", cases[i].more, rc, err.text,
                     cases[i].rc, cases[i].word);
    }
}

TEST(usual_words_for_the_usual_are_taken)
{
    model_close(open_good("LlamaForCausalLM", "\"hidden_act\": \"swish\""));
    model_close(open_good("Qwen2ForCausalLM", "\"rope_scaling\": {\"type\": \"yarn\", "
                                              "\"factor\": 4, \"truncate\": true}"));
    model_close(open_good("LlamaForCausalLM", "\"rope_scaling\": {}"));
    model_close(open_good("LlamaForCausalLM", "\"rope_scaling\": false"));
    model_close(open_good("LlamaForCausalLM", "\"quantization_config\": null"));
}
