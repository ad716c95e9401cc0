/* Split GGUF files: the parts become one file, and parts that do not belong together are refused.
 */
#include "tests/harness/harness.h"

#include <errno.h>
#include <unistd.h>

#include "daemon/format/gguf.h"
#include "tests/daemon/format/gguf_writer.h"

static char path[256];

static const char *part_path(uint32_t no, uint32_t count)
{
    snprintf(path, sizeof(path), "%s/m-%05u-of-%05u.gguf", harness_tmpdir(), no + 1, count);
    return path;
}

/* Part `no` holds one tensor of 8 floats with the value `no`. */
static void write_part(uint32_t no, uint32_t count, uint32_t says_no, uint32_t total,
                       const char *tensor)
{
    struct gguf_writer w = { 0 };
    put_header(&w, 3, 1, 4);
    put_key(&w, "split.no", 2), put_bytes(&w, &says_no, 2);
    put_key(&w, "split.count", 2), put_bytes(&w, &count, 2);
    put_key(&w, "split.tensors.count", 5), put_u32(&w, total);
    put_key(&w, "only.in", 4), put_u32(&w, no);
    put_info(&w, tensor, 0, 0, 1, (uint64_t[]){ 8 });
    put_padding(&w, 32);
    for (int i = 0; i < 8; i++)
        put_f32(&w, (float)no);
    FILE *out = fopen(part_path(no, count), "wb");
    assert_non_null(out);
    assert_int_equal(fwrite(w.data, 1, w.bytes, out), w.bytes);
    fclose(out);
    free(w.data);
}

static void expect_refused(int rc, const char *says)
{
    struct gguf *g = NULL;
    struct format_error err = { "" };
    int got = gguf_open(path, &g, &err);
    if (got != rc || !strstr(err.text, says))
        fail_msg("rc %d, expected %d: \"%s\", expected \"%s\"", got, rc, err.text, says);
    assert_null(g);
}

TEST(gguf_split_parts_become_one_file)
{
    struct gguf *g;
    struct format_error err = { "" };
    uint32_t value;
    size_t bytes;
    write_part(0, 3, 0, 3, "a");
    write_part(1, 3, 1, 3, "c");
    write_part(2, 3, 2, 3, "b");
    if (gguf_open(part_path(0, 3), &g, &err))
        fail_msg("%s", err.text);
    assert_int_equal(gguf_tensor_count(g), 3);
    const struct gguf_tensor *t = gguf_tensor_find(g, "b");
    assert_non_null(t);
    assert_int_equal(t->part, 2);
    assert_true(*(const float *)t->data == 2.0f);
    assert_true(*(const float *)gguf_tensor_find(g, "a")->data == 0.0f);
    assert_ok(gguf_u32(g, "only.in", &value));
    assert_int_equal(value, 0);
    assert_non_null(gguf_part(g, 0, &bytes));
    assert_non_null(gguf_part(g, 2, &bytes));
    assert_null(gguf_part(g, 3, &bytes));
    gguf_close(g);
}

TEST(gguf_split_refuses_what_does_not_belong_together)
{
    write_part(0, 2, 0, 2, "a");
    part_path(0, 2);
    expect_refused(-ENOENT, "m-00002-of-00002.gguf");
    write_part(1, 2, 0, 2, "b");
    part_path(0, 2);
    expect_refused(-EINVAL, "says that it is part 1 of 2, expected part 2 of 2");
    write_part(1, 2, 1, 2, "a");
    part_path(0, 2);
    expect_refused(-EINVAL, "tensor \"a\" is there twice");
    write_part(1, 2, 1, 2, "b");
    expect_refused(-EINVAL, "this is part 2 of 2; give the first part");
    write_part(0, 2, 0, 7, "a");
    part_path(0, 2);
    expect_refused(-EINVAL, "is 7, the parts have 2 tensors");
    char other[sizeof(path)];
    snprintf(other, sizeof(other), "%.200s/renamed.gguf", harness_tmpdir());
    assert_int_equal(rename(path, other), 0);
    memcpy(path, other, sizeof(path));
    expect_refused(-EINVAL, "must be named NAME-00001-of-00002.gguf");
}
