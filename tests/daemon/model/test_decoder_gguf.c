/* Keys of a GGUF file that say which layers see a sliding window. */
#include <errno.h>
#include <stdio.h>

#include "base/compiler.h"
#include "daemon/format/gguf.h"
#include "daemon/model/decoder.h"
#include "daemon/model/weights.h"
#include "kernels/backend.h"
#include "tests/daemon/format/gguf_writer.h"
#include "tests/harness/harness.h"

enum { LAYERS = 8, DIM = 64, KV_DIM = 32, HEAD = 16, FFN = 32, VOCAB = 32, CONTEXT = 256 };

/* A file under construction: keys, tensor infos, and how many there are. */
struct file {
    const char *arch;
    struct gguf_writer keys, infos, all;
    uint64_t n_key, n_tensor, offset;
    struct gguf *g;
};

static const char *key_of(const struct file *f, const char *name)
{
    static char text[96];
    snprintf(text, sizeof(text), "%s.%s", f->arch, name);
    return text;
}

static void add_u32(struct file *f, const char *name, uint32_t value)
{
    put_key(&f->keys, key_of(f, name), GGUF_U32);
    put_u32(&f->keys, value);
    f->n_key++;
}

static void add_tensor(struct file *f, const char *name, uint64_t n_col, uint64_t n_row)
{
    uint64_t dims[2] = { n_col, n_row };
    put_info(&f->infos, name, GGUF_TENSOR_F32, f->offset, n_row ? 2 : 1, dims);
    f->offset += n_col * (n_row ? n_row : 1) * sizeof(float);
    f->n_tensor++;
}

static void add_layer(struct file *f, int layer_i)
{
    static const struct {
        const char *name, *only; /* only: of the family */
        uint64_t n_col, n_row;
    } tensors[] = {
        { "attn_norm.weight", NULL, DIM, 0 },       { "attn_q.weight", NULL, DIM, DIM },
        { "attn_k.weight", NULL, DIM, KV_DIM },     { "attn_v.weight", NULL, DIM, KV_DIM },
        { "attn_output.weight", NULL, DIM, DIM },   { "attn_q.bias", "qwen2", DIM, 0 },
        { "attn_k.bias", "qwen2", KV_DIM, 0 },      { "attn_v.bias", "qwen2", KV_DIM, 0 },
        { "attn_q_norm.weight", "qwen3", HEAD, 0 }, { "attn_k_norm.weight", "qwen3", HEAD, 0 },
        { "ffn_norm.weight", NULL, DIM, 0 },        { "ffn_gate.weight", NULL, DIM, FFN },
        { "ffn_up.weight", NULL, DIM, FFN },        { "ffn_down.weight", NULL, FFN, DIM },
    };
    for (size_t i = 0; i < ARRAY_SIZE(tensors); i++) {
        char name[GGUF_NAME_BYTES];
        snprintf(name, sizeof(name), "blk.%d.%s", layer_i, tensors[i].name);
        if (!tensors[i].only || strcmp(tensors[i].only, f->arch) == 0)
            add_tensor(f, name, tensors[i].n_col, tensors[i].n_row);
    }
}

/* All but what a test adds. */
static void file_begin(struct file *f, const char *arch)
{
    *f = (struct file){ .arch = arch };
    put_key(&f->keys, "general.architecture", GGUF_STRING);
    put_string(&f->keys, arch);
    put_key(&f->keys, key_of(f, "attention.layer_norm_rms_epsilon"), GGUF_F32);
    put_f32(&f->keys, 1e-5f);
    f->n_key = 2;
    add_u32(f, "block_count", LAYERS);
    add_u32(f, "context_length", CONTEXT);
    add_u32(f, "embedding_length", DIM);
    add_u32(f, "feed_forward_length", FFN);
    add_u32(f, "attention.head_count", DIM / HEAD);
    add_u32(f, "attention.head_count_kv", KV_DIM / HEAD);
    add_tensor(f, "token_embd.weight", DIM, VOCAB);
    add_tensor(f, "output_norm.weight", DIM, 0);
    for (int i = 0; i < LAYERS; i++)
        add_layer(f, i);
}

/* The model is bound, so that its layers say what they do. */
static int file_open(struct file *f, struct model **ret, struct format_error *err)
{
    char why[256];
    const struct backend *cpu;
    put_header(&f->all, 3, f->n_tensor, f->n_key);
    put_bytes(&f->all, f->keys.data, f->keys.bytes);
    put_bytes(&f->all, f->infos.data, f->infos.bytes);
    put_padding(&f->all, 32);
    uint8_t *zeros = calloc(1, f->offset);
    assert_non_null(zeros);
    put_bytes(&f->all, zeros, f->offset);
    free(zeros);
    *err = (struct format_error){ "" };
    if (gguf_open_memory(f->all.data, f->all.bytes, "windows.gguf", &f->g, err) < 0)
        fail_msg("%s", err->text);
    struct model_source source = { .path = "windows.gguf", .gguf = f->g };
    assert_ok(backend_find("cpu", &cpu, why, sizeof(why)));
    int rc = model_open(cpu, NULL, &source, NULL, ret, err);
    if (rc == 0)
        assert_ok((*ret)->arch->bind(*ret, (*ret)->weights));
    return rc;
}

static void file_close(struct file *f)
{
    gguf_close(f->g);
    free(f->keys.data);
    free(f->infos.data);
    free(f->all.data);
}

/* layers: W for each that has the window, another letter for the others. */
static void expect_windows(struct file *f, uint32_t window, const char *layers, int context)
{
    struct model *m;
    struct format_error err;
    if (window > 0)
        add_u32(f, "attention.sliding_window", window);
    if (file_open(f, &m, &err) < 0)
        fail_msg("%s: %s", f->arch, err.text);
    const struct decoder *d = m->arch_state;
    for (int i = 0; i < LAYERS; i++)
        if (d->layers[i].attn.window != (layers[i] == 'W' ? (int)window : 0))
            fail_msg("%s: layer %d has the window %d, expected %s", f->arch, i,
                     d->layers[i].attn.window, layers);
    assert_int_equal(m->info.context, context);
    model_close(m);
    file_close(f);
}

static const char *const families[] = { "llama", "qwen2", "qwen3", "smollm3" };
static const char none[] = "--------";

TEST(windows_of_a_gguf_file_are_none_where_it_says_none)
{
    struct file f;
    for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
        file_begin(&f, families[i]);
        expect_windows(&f, 0, none, CONTEXT);
        file_begin(&f, families[i]);
        add_u32(&f, "attention.sliding_window", 0);
        add_u32(&f, "attention.sliding_window_pattern", 2);
        expect_windows(&f, 0, none, CONTEXT);
    }
}

TEST(windows_of_a_gguf_file_are_in_the_layers_of_its_family)
{
    struct file f;
    file_begin(&f, "llama");
    expect_windows(&f, 9, "WWWWWWWW", CONTEXT);
    file_begin(&f, "smollm3");
    expect_windows(&f, 9, "---W---W", CONTEXT);
}

/* Qwen's begin at a layer that no key names: in a context of one window all readings agree. */
TEST(windows_of_a_gguf_file_end_the_context_where_their_layers_are_unknown)
{
    struct file f;
    for (int i = 1; i <= 2; i++) {
        file_begin(&f, families[i]);
        expect_windows(&f, 9, none, 9);
        file_begin(&f, families[i]);
        expect_windows(&f, CONTEXT + 1, none, CONTEXT);
    }
}

TEST(windows_of_a_gguf_file_are_in_every_layer_but_one_of_a_period)
{
    static const struct {
        uint32_t period;
        const char *layers;
    } cases[] = { { 0, "WWWWWWWW" }, { 1, none },       { 2, "W-W-W-W-" },
                  { 3, "WW-WW-WW" }, { 8, "WWWWWWW-" }, { UINT32_MAX, "WWWWWWWW" } };
    struct file f;
    for (size_t i = 0; i < ARRAY_SIZE(families); i++)
        for (size_t j = 0; j < ARRAY_SIZE(cases); j++) {
            file_begin(&f, families[i]);
            add_u32(&f, "attention.sliding_window_pattern", cases[j].period);
            expect_windows(&f, 9, cases[j].layers, CONTEXT);
        }
}

/* A list of one word a layer, as booleans and as integers. */
static void add_list(struct file *f, enum gguf_value elem, int n)
{
    put_array(&f->keys, key_of(f, "attention.sliding_window_pattern"), elem, (uint64_t)n);
    f->n_key++;
    for (int i = 0; i < n; i++)
        if (elem == GGUF_BOOL)
            put_u8(&f->keys, i % 3 == 0);
        else
            put_u32(&f->keys, i % 3 == 0);
}

TEST(windows_of_a_gguf_file_are_in_the_layers_of_its_list)
{
    struct file f;
    for (size_t i = 0; i < ARRAY_SIZE(families); i++) {
        file_begin(&f, families[i]);
        add_list(&f, GGUF_BOOL, LAYERS);
        expect_windows(&f, 9, "W--W--W-", CONTEXT);
        file_begin(&f, families[i]);
        add_list(&f, GGUF_I32, LAYERS);
        expect_windows(&f, 9, "W--W--W-", CONTEXT);
    }
}

static void expect_refusal(struct file *f, const char *word_a, const char *word_b)
{
    struct model *m;
    struct format_error err;
    assert_int_equal(file_open(f, &m, &err), -EINVAL);
    if (!strstr(err.text, word_a) || !strstr(err.text, word_b))
        fail_msg("\"%s\" does not name %s and %s", err.text, word_a, word_b);
    file_close(f);
}

TEST(windows_of_a_gguf_file_that_make_no_sense_are_refused_by_name)
{
    struct file f;
    file_begin(&f, "llama");
    put_key(&f.keys, "llama.attention.sliding_window", GGUF_F32);
    put_f32(&f.keys, 9);
    f.n_key++;
    expect_refusal(&f, "llama.attention.sliding_window\"", "f32");
    file_begin(&f, "qwen2");
    add_u32(&f, "attention.sliding_window", 9);
    add_list(&f, GGUF_BOOL, LAYERS - 1);
    expect_refusal(&f, "qwen2.attention.sliding_window_pattern", "7 entries for 8 layers");
    file_begin(&f, "qwen3");
    add_u32(&f, "attention.sliding_window", 9);
    add_list(&f, GGUF_F32, LAYERS);
    expect_refusal(&f, "qwen3.attention.sliding_window_pattern", "an array of integers");
    file_begin(&f, "smollm3");
    add_u32(&f, "attention.sliding_window", 9);
    put_key(&f.keys, "smollm3.attention.sliding_window_pattern", GGUF_STRING);
    put_string(&f.keys, "LLLG");
    f.n_key++;
    expect_refusal(&f, "smollm3.attention.sliding_window_pattern", "string");
}
