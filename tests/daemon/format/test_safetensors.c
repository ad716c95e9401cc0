/* safetensors: what sound files and shards give, and how each kind of damage is refused. */
#include "tests/harness/harness.h"

#include <errno.h>
#include <sys/stat.h>

#include "daemon/format/safetensors.h"

struct file {
    uint8_t *data;
    size_t bytes;
};

static struct file make(const char *header, size_t n_data)
{
    uint64_t n = strlen(header);
    struct file f = { malloc(8 + n + n_data), 8 + n + n_data };
    memcpy(f.data, &n, 8);
    memcpy(f.data + 8, header, n);
    for (size_t i = 0; i < n_data; i++)
        f.data[8 + n + i] = (uint8_t)i;
    return f;
}

static void expect_refused(const char *header, size_t n_data, int rc, const char *text)
{
    struct file f = make(header, n_data);
    struct safetensors *s = NULL;
    struct format_error err = { "" };
    int got = safetensors_open_memory(f.data, f.bytes, "x.safetensors", &s, &err);
    if (got != rc || !strstr(err.text, text) || strncmp(err.text, "x.safetensors: ", 15) != 0)
        fail_msg("%s: rc %d, expected %d: \"%s\", expected \"%s\"", header, got, rc, err.text,
                 text);
    assert_null(s);
    free(f.data);
}

#define GOOD                                                                                       \
    "{\"__metadata__\":{\"format\":\"pt\"},"                                                       \
    "\"b\":{\"dtype\":\"BF16\",\"shape\":[2,3],\"data_offsets\":[4,16]},"                          \
    "\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},"                               \
    "\"e\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[16,16]},"                          \
    "\"f4\":{\"dtype\":\"F4\",\"shape\":[4],\"data_offsets\":[16,18]}}   "

TEST(safetensors_reads_tensors_by_name)
{
    struct file f = make(GOOD, 18);
    struct safetensors *s;
    const void *base;
    size_t bytes;
    assert_ok(safetensors_open_memory(f.data, f.bytes, "x", &s, NULL));
    assert_int_equal(safetensors_count(s), 4);
    const struct safetensors_tensor *t = safetensors_find(s, "b");
    assert_non_null(t);
    assert_int_equal(t->dtype, SAFETENSORS_BF16);
    assert_int_equal(t->n_dims, 2);
    assert_int_equal(t->dims[0], 2);
    assert_int_equal(t->dims[1], 3);
    assert_int_equal(t->dims[2], 1);
    assert_int_equal(t->bytes, 12);
    assert_int_equal(*(const uint8_t *)t->data, 4);
    assert_int_equal(safetensors_find(s, "a")->bytes, 4);
    assert_int_equal(safetensors_find(s, "e")->bytes, 0);
    assert_string_equal(safetensors_at(s, 0)->name, "a");
    assert_null(safetensors_at(s, 4));
    assert_null(safetensors_find(s, "__metadata__"));
    assert_int_equal(safetensors_shard_count(s), 1);
    assert_string_equal(safetensors_shard(s, 0, &base, &bytes), "x");
    assert_int_equal(bytes, f.bytes);
    safetensors_close(s);
    free(f.data);
}

#define ONE(dtype, shape, offsets)                                                                 \
    "{\"t\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

TEST(safetensors_refuses_bad_headers)
{
    expect_refused("[]", 0, -EINVAL, "'{'");
    expect_refused("{", 0, -EINVAL, "header, byte");
    expect_refused("{} x", 0, -EINVAL, "header, byte");
    expect_refused("{}", 3, -EINVAL, "3 bytes follow");
    expect_refused("{\"t\":{},\"t\":{}}", 0, -EINVAL, "duplicate");
    expect_refused("{\"t\":7}", 0, -EINVAL, "no dtype");
    expect_refused("{\"__metadata__\":{\"a\":1}}", 0, -EINVAL, "strings");
    expect_refused(ONE("\"F99\"", "[1]", "[0,4]"), 4, -ENOTSUP, "unknown dtype \"F99\"");
    expect_refused(ONE("\"F32\"", "7", "[0,4]"), 4, -EINVAL, "no shape");
    expect_refused(ONE("\"F32\"", "[-1]", "[0,4]"), 4, -EINVAL, "dimension 0");
    expect_refused(ONE("\"F32\"", "[1.0]", "[0,4]"), 4, -EINVAL, "dimension 0");
    expect_refused(ONE("\"F32\"", "[1,1,1,1,1,1,1,1,1]", "[0,4]"), 4, -ENOTSUP, "9 dimensions");
    expect_refused(ONE("\"F32\"", "[4294967296,4294967296]", "[0,4]"), 4, -EINVAL, "too large");
    expect_refused(ONE("\"F32\"", "[4611686018427387904]", "[0,0]"), 0, -EINVAL, "too large");
    expect_refused(ONE("\"F4\"", "[3]", "[0,1]"), 1, -EINVAL, "whole number");
    expect_refused(ONE("\"F32\"", "[1]", "[0,8]"), 8, -EINVAL, "8 bytes of data");
    expect_refused(ONE("\"F32\"", "[1]", "[4,0]"), 4, -EINVAL, "data_offsets");
    expect_refused(ONE("\"F32\"", "[1]", "[0]"), 4, -EINVAL, "data_offsets");
    expect_refused(ONE("\"F32\"", "[1]", "[-4,0]"), 4, -EINVAL, "data_offsets");
    expect_refused(ONE("\"F32\"", "[1]", "[0,4]"), 3, -ENODATA, "ends at byte");
    expect_refused(ONE("\"F32\"", "[1]", "[4,8]"), 8, -EINVAL, "a hole or an overlap");
    expect_refused("{\"t\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]},"
                   "\"u\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[4,8]}}",
                   8, -EINVAL, "a hole or an overlap");
}

TEST(safetensors_refuses_every_truncation_and_survives_damage)
{
    struct file f = make(GOOD, 18);
    struct safetensors *s;
    uint64_t seed = harness_seed();
    for (size_t n = 0; n < f.bytes; n++) {
        uint8_t *copy = malloc(n + !n);
        memcpy(copy, f.data, n);
        assert_true(safetensors_open_memory(copy, n, "x", &s, NULL) < 0);
        free(copy);
    }
    for (int round = 0; round < 5000; round++) {
        uint8_t *copy = malloc(f.bytes);
        memcpy(copy, f.data, f.bytes);
        for (int flips = 1 + (int)(harness_rand(&seed) % 3); flips > 0; flips--)
            copy[harness_rand(&seed) % f.bytes] = (uint8_t)harness_rand(&seed);
        if (safetensors_open_memory(copy, f.bytes, "x", &s, NULL) == 0) {
            for (uint32_t i = 0; i < safetensors_count(s); i++)
                assert_true(safetensors_at(s, i)->offset + safetensors_at(s, i)->bytes <= f.bytes);
            safetensors_close(s);
        }
        free(copy);
    }
    free(f.data);
}

static void write_file(const char *folder, const char *name, const void *data, size_t bytes)
{
    char path[256];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    FILE *out = fopen(path, "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(data, 1, bytes, out), bytes);
    fclose(out);
}

static void write_index(const char *folder, const char *text)
{
    write_file(folder, "model.safetensors.index.json", text, strlen(text));
}

TEST(safetensors_names_what_is_no_such_file)
{
    static const char pointer[] =
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 98120704\n";
    struct safetensors *s = NULL;
    struct format_error err = { "" };
    char path[256];
    const char *folder = harness_tmpdir();
    snprintf(path, sizeof(path), "%s/model.safetensors", folder);
    write_file(folder, "model.safetensors", pointer, sizeof(pointer) - 1);
    assert_int_equal(safetensors_open(folder, &s, &err), -EINVAL);
    assert_non_null(strstr(err.text, "a pointer of Git LFS"));
    write_file(folder, "model.safetensors", "", 0);
    assert_int_equal(safetensors_open(folder, &s, &err), -ENODATA);
    assert_non_null(strstr(err.text, "the file is empty"));
    assert_ok(remove(path));
    assert_ok(mkfifo(path, 0600));
    assert_int_equal(safetensors_open(folder, &s, &err), -EINVAL);
    assert_non_null(strstr(err.text, "not a regular file"));
    assert_ok(remove(path));
}

TEST(safetensors_opens_shards_by_their_index)
{
    const char *folder = harness_tmpdir();
    struct file one = make(ONE("\"F32\"", "[1]", "[0,4]"), 4), two = make(GOOD, 18);
    struct safetensors *s = NULL;
    struct format_error err;
    write_file(folder, "m-1.safetensors", one.data, one.bytes);
    write_file(folder, "m-2.safetensors", two.data, two.bytes);
    write_index(folder,
                "{\"metadata\":{\"total_size\":7},\"weight_map\":{\"t\":\"m-1.safetensors\","
                "\"b\":\"m-2.safetensors\"}}");
    assert_ok(safetensors_open(folder, &s, &err));
    assert_int_equal(safetensors_count(s), 2);
    assert_int_equal(safetensors_shard_count(s), 2);
    assert_int_equal(safetensors_find(s, "t")->bytes, 4);
    assert_null(safetensors_find(s, "a"));
    safetensors_close(s);
    write_index(folder, "{\"weight_map\":{\"t\":\"m-2.safetensors\"}}");
    assert_int_equal(safetensors_open(folder, &s, &err), -EINVAL);
    assert_non_null(strstr(err.text, "tensor \"t\" is not in"));
    write_index(folder, "{\"weight_map\":{\"t\":\"../m-1.safetensors\"}}");
    assert_int_equal(safetensors_open(folder, &s, &err), -EINVAL);
    assert_non_null(strstr(err.text, "is no file name"));
    write_index(folder, "{\"weight_map\":{\"t\":\"m-3.safetensors\"}}");
    assert_int_equal(safetensors_open(folder, &s, &err), -ENOENT);
    write_index(folder, "{}");
    assert_int_equal(safetensors_open(folder, &s, &err), -EINVAL);
    write_file(folder, "model.safetensors", two.data, two.bytes);
    assert_ok(safetensors_open(folder, &s, &err));
    assert_int_equal(safetensors_count(s), 4);
    safetensors_close(s);
    free(one.data);
    free(two.data);
}
