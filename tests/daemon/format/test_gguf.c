/* GGUF: what a sound file gives, and how each kind of damage is refused. */
#include "tests/harness/harness.h"

#include <errno.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "daemon/format/gguf.h"
#include "tests/daemon/format/gguf_writer.h"

/* Three keys, two tensors: Q4_1 [64, 3] (120 bytes, padded to 128) and F32 [5]. */
static struct gguf_writer sound_file(void)
{
    struct gguf_writer w = { 0 };
    put_header(&w, 3, 2, 3);
    put_key(&w, "general.architecture", 8);
    put_string(&w, "llama");
    put_key(&w, "llama.block_count", 4);
    put_u32(&w, 2);
    put_array(&w, "tokenizer.ggml.tokens", 8, 2);
    put_string(&w, "a");
    put_string(&w, "");
    put_info(&w, "blk.0.ffn_up.weight", 3, 0, 2, (uint64_t[]){ 64, 3 });
    put_info(&w, "a.norm", 0, 128, 1, (uint64_t[]){ 5 });
    put_padding(&w, 32);
    for (int i = 0; i < 128; i++)
        put_u8(&w, (uint8_t)i);
    for (int i = 0; i < 5; i++)
        put_f32(&w, (float)i);
    return w;
}

static void expect_refused(struct gguf_writer w, int error, const char *text)
{
    struct gguf *g = NULL;
    struct format_error err = { "" };
    int rc = gguf_open_memory(w.data, w.bytes, "x.gguf", &g, &err);
    if (rc != error || !strstr(err.text, text) || !strstr(err.text, "x.gguf"))
        fail_msg("rc %d (expected %d): \"%s\" (expected \"%s\")", rc, error, err.text, text);
    assert_null(g);
    free(w.data);
}

TEST(gguf_reads_keys_and_tensors)
{
    struct gguf_writer w = sound_file();
    struct gguf *g;
    assert_ok(gguf_open_memory(w.data, w.bytes, "x.gguf", &g, NULL));
    assert_int_equal(gguf_tensor_count(g), 2);
    const struct gguf_tensor *t = gguf_tensor_find(g, "blk.0.ffn_up.weight");
    assert_non_null(t);
    assert_int_equal(t->dtype, GGUF_TENSOR_Q4_1);
    assert_int_equal(t->bytes, 120);
    assert_int_equal(t->dims[0], 64);
    assert_int_equal(t->dims[1], 3);
    assert_int_equal(t->dims[2], 1);
    assert_int_equal(((const uint8_t *)t->data)[119], 119);
    t = gguf_tensor_at(g, 1);
    assert_string_equal(t->name, "a.norm");
    float last;
    memcpy(&last, (const uint8_t *)t->data + 16, 4);
    assert_true(last == 4.0f);
    assert_null(gguf_tensor_find(g, "nothing"));
    assert_null(gguf_tensor_at(g, 2));
    gguf_close(g);
    free(w.data);
}

TEST(gguf_opens_a_mapped_file_and_names_it)
{
    struct gguf_writer w = sound_file();
    char path[128];
    snprintf(path, sizeof(path), "%s/a.gguf", harness_tmpdir());
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(w.data, 1, w.bytes, file), w.bytes);
    fclose(file);
    struct gguf *g;
    struct format_error err;
    assert_ok(gguf_open(path, &g, &err));
    assert_string_equal(gguf_path(g), path);
    gguf_close(g);
    assert_int_equal(truncate(path, (off_t)w.bytes - 1), 0);
    assert_int_equal(gguf_open(path, &g, &err), -ENODATA);
    assert_non_null(strstr(err.text, path));
    assert_non_null(strstr(err.text, "tensor \"a.norm\" ends at byte"));
    free(w.data);
    assert_int_equal(gguf_open("/nonexistent/a.gguf", &g, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/nonexistent/a.gguf: No such file"));
    assert_int_equal(gguf_open(harness_tmpdir(), &g, &err), -EISDIR);
}

TEST(gguf_refuses_every_truncation)
{
    struct gguf_writer w = sound_file();
    for (size_t n = 0; n < w.bytes; n++) {
        struct gguf *g = NULL;
        struct format_error err = { "" };
        /* A copy of exactly n bytes, so that a sanitizer sees any step beyond. */
        uint8_t *copy = malloc(n + !n);
        memcpy(copy, w.data, n);
        int rc = gguf_open_memory(copy, n, "x.gguf", &g, &err);
        assert_true(rc == -ENODATA || rc == -EINVAL);
        assert_true(err.text[0] != 0);
        free(copy);
    }
    free(w.data);
}

TEST(gguf_refuses_wrong_magic_version_and_byte_order)
{
    struct gguf_writer w = sound_file();
    w.data[0] = 'g';
    expect_refused(w, -EINVAL, "not a GGUF file");
    w = sound_file();
    memcpy(w.data, "version https://git-lfs.github.com/spec/v1", 42);
    expect_refused(w, -EINVAL, "a pointer of Git LFS");
    for (uint32_t version = 0; version < 8; version++) {
        if (version == 2 || version == 3)
            continue;
        w = (struct gguf_writer){ 0 };
        put_header(&w, version, 0, 0);
        expect_refused(w, -ENOTSUP, "version");
    }
    w = (struct gguf_writer){ 0 };
    put_header(&w, 0x03000000, 0, 0);
    expect_refused(w, -ENOTSUP, "big-endian");
}

TEST(gguf_refuses_counts_beyond_the_file)
{
    static const uint64_t counts[] = { 1000, UINT32_MAX, UINT64_C(1) << 40, UINT64_MAX, INT64_MAX };
    for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
        struct gguf_writer w = { 0 };
        put_header(&w, 3, counts[i], 0);
        expect_refused(w, -EINVAL, "the header counts");
        w = (struct gguf_writer){ 0 };
        put_header(&w, 3, 0, counts[i]);
        expect_refused(w, -EINVAL, "the header counts");
    }
}

static struct gguf_writer one_key(const char *key, uint32_t type)
{
    struct gguf_writer w = { 0 };
    put_header(&w, 3, 0, 1);
    put_key(&w, key, type);
    return w;
}

TEST(gguf_refuses_bad_metadata)
{
    struct gguf_writer w = one_key("k", 13);
    put_u64(&w, 0);
    expect_refused(w, -EINVAL, "key \"k\" has type 13");
    w = one_key("k", 7);
    put_u64(&w, 2);
    expect_refused(w, -EINVAL, "bool");
    w = one_key("k", 8);
    put_u64(&w, UINT64_MAX);
    expect_refused(w, -EINVAL, "bytes long");
    w = one_key("k", 8);
    put_u64(&w, 1 << 20);
    expect_refused(w, -ENODATA, "cut off");
    w = one_key("k", 9);
    put_u32(&w, 9);
    put_u64(&w, 1);
    expect_refused(w, -EINVAL, "nested");
    w = one_key("k", 9);
    put_u32(&w, 77);
    put_u64(&w, 1);
    expect_refused(w, -EINVAL, "array of type 77");
    w = one_key("k", 9);
    put_u32(&w, 12);
    put_u64(&w, UINT64_MAX / 8 + 2);
    expect_refused(w, -EINVAL, "elements");
    w = one_key("k", 9);
    put_u32(&w, 12);
    put_u64(&w, 1 << 29);
    expect_refused(w, -ENODATA, "cut off");
    w = one_key("", 0);
    put_u64(&w, 0);
    expect_refused(w, -EINVAL, "0 bytes");
    w = one_key("k\n", 0);
    put_u64(&w, 0);
    expect_refused(w, -EINVAL, "printable");
}

TEST(gguf_refuses_duplicates)
{
    struct gguf_writer w = { 0 };
    put_header(&w, 3, 0, 3);
    for (int i = 0; i < 3; i++) {
        put_key(&w, i == 1 ? "b" : "a", 4);
        put_u32(&w, 1);
    }
    expect_refused(w, -EINVAL, "key \"a\" is there twice");
    w = (struct gguf_writer){ 0 };
    put_header(&w, 3, 2, 0);
    put_info(&w, "t", 0, 0, 1, (uint64_t[]){ 8 });
    put_info(&w, "t", 0, 32, 1, (uint64_t[]){ 8 });
    put_padding(&w, 32);
    for (int i = 0; i < 64; i++)
        put_u8(&w, 0);
    expect_refused(w, -EINVAL, "tensor \"t\" is there twice");
}

static struct gguf_writer one_tensor(uint32_t dtype, uint64_t offset, uint32_t n_dims,
                                     const uint64_t *dims)
{
    struct gguf_writer w = { 0 };
    put_header(&w, 3, 1, 0);
    put_info(&w, "t", dtype, offset, n_dims, dims);
    put_padding(&w, 32);
    return w;
}

TEST(gguf_refuses_bad_tensors)
{
    uint64_t huge = UINT64_C(1) << 33;
    expect_refused(one_tensor(0, 0, 5, (uint64_t[]){ 1, 1, 1, 1, 1 }), -EINVAL, "5 dimensions");
    expect_refused(one_tensor(0, 0, 2, (uint64_t[]){ huge, huge }), -EINVAL, "too large");
    expect_refused(one_tensor(0, 0, 1, (uint64_t[]){ UINT64_C(1) << 62 }), -EINVAL, "too large");
    expect_refused(one_tensor(28, 0, 1, (uint64_t[]){ UINT64_C(1) << 61 }), -EINVAL, "too large");
    expect_refused(one_tensor(0, 0, 1, (uint64_t[]){ UINT64_MAX }), -EINVAL, "too large");
    expect_refused(one_tensor(0, 0, 2, (uint64_t[]){ 4, 0 }), -EINVAL, "zero");
    expect_refused(one_tensor(43, 0, 1, (uint64_t[]){ 32 }), -EINVAL, "type 43");
    expect_refused(one_tensor(4, 0, 1, (uint64_t[]){ 32 }), -EINVAL, "type 4");
    expect_refused(one_tensor(41, 0, 1, (uint64_t[]){ 32 }), -ENOTSUP, "Q1_0");
    expect_refused(one_tensor(3, 0, 1, (uint64_t[]){ 33 }), -EINVAL, "rows of 33");
    expect_refused(one_tensor(0, 32, 1, (uint64_t[]){ 8 }), -EINVAL, "offset 32, expected 0");
    expect_refused(one_tensor(0, 0, 1, (uint64_t[]){ 9 }), -ENODATA, "ends at byte");
    expect_refused(one_tensor(0, 0, 1, (uint64_t[]){ UINT64_C(1) << 60 }), -ENODATA,
                   "ends at byte");
}

TEST(gguf_refuses_bad_alignment_and_trailing_bytes)
{
    static const uint32_t bad[] = { 0, 3, 48, 1u << 21, UINT32_MAX };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct gguf_writer w = one_key("general.alignment", 4);
        put_u32(&w, bad[i]);
        expect_refused(w, -EINVAL, "power of two");
    }
    struct gguf_writer w = one_key("general.alignment", 10);
    put_u64(&w, 32);
    expect_refused(w, -EINVAL, "expected u32");
    w = sound_file();
    put_padding(&w, 32);
    put_u8(&w, 0);
    expect_refused(w, -EINVAL, "follow the last tensor");
}

TEST(gguf_takes_other_alignments_and_padded_ends)
{
    struct gguf_writer w = { 0 };
    put_header(&w, 2, 2, 1);
    put_key(&w, "general.alignment", 4);
    put_u32(&w, 8);
    put_info(&w, "t", 0, 0, 1, (uint64_t[]){ 1 });
    put_info(&w, "scalar", 0, 8, 0, NULL);
    put_padding(&w, 8);
    put_u64(&w, 1);
    put_u64(&w, 2);
    struct gguf *g;
    assert_ok(gguf_open_memory(w.data, w.bytes, "x.gguf", &g, NULL));
    assert_int_equal(gguf_tensor_find(g, "scalar")->bytes, 4);
    gguf_close(g);
    free(w.data);
}

TEST(gguf_survives_random_damage)
{
    struct gguf_writer w = sound_file();
    uint64_t s = harness_seed();
    for (int round = 0; round < 20000; round++) {
        uint8_t *copy = malloc(w.bytes);
        memcpy(copy, w.data, w.bytes);
        for (int flips = 1 + (int)(harness_rand(&s) % 4); flips > 0; flips--)
            copy[harness_rand(&s) % w.bytes] = (uint8_t)harness_rand(&s);
        struct gguf *g = NULL;
        if (gguf_open_memory(copy, w.bytes, "x.gguf", &g, NULL) == 0) {
            for (uint32_t i = 0; i < gguf_tensor_count(g); i++) {
                const struct gguf_tensor *t = gguf_tensor_at(g, i);
                assert_true(t->offset + t->bytes <= w.bytes);
            }
            gguf_close(g);
        }
        free(copy);
    }
    free(w.data);
}

TEST(gguf_reads_a_real_model_file)
{
    const char *path = harness_data("models/llama-2-tiny-random.gguf");
    if (!path)
        skip();
    struct gguf *g;
    struct format_error err = { "" };
    if (gguf_open(path, &g, &err))
        fail_msg("%s", err.text);
    uint32_t blocks;
    assert_ok(gguf_need_u32(g, "llama.block_count", &blocks, &err));
    assert_int_equal(blocks, 1);
    assert_non_null(gguf_tensor_find(g, "token_embd.weight"));
    gguf_close(g);
}
