/* Typed getters of GGUF metadata: what fits is taken, everything else is told apart.
 * mirrors: daemon/format/format_error.c */
#include "tests/harness/harness.h"

#include <errno.h>

#include "daemon/format/gguf.h"
#include "tests/daemon/format/gguf_writer.h"

static struct gguf_writer w;

static struct gguf *open_keys(void)
{
    w = (struct gguf_writer){ 0 };
    put_header(&w, 3, 0, 11);
    put_key(&w, "u8", 0), put_u8(&w, 200);
    put_key(&w, "i8", 1), put_u8(&w, 0xff);
    put_key(&w, "u32", 4), put_u32(&w, UINT32_MAX);
    put_key(&w, "i32", 5), put_u32(&w, (uint32_t)-7);
    put_key(&w, "u64", 10), put_u64(&w, UINT64_MAX);
    put_key(&w, "f32", 6), put_f32(&w, 0.5f);
    double wide = 1e300;
    put_key(&w, "f64", 12), put_bytes(&w, &wide, 8);
    put_key(&w, "bool", 7), put_u8(&w, 1);
    put_key(&w, "text", 8), put_string(&w, "hello");
    put_array(&w, "strings", 8, 3), put_string(&w, "x"), put_string(&w, ""), put_string(&w, "yz");
    put_array(&w, "ints", 5, 2), put_u32(&w, 3), put_u32(&w, (uint32_t)-1);
    struct gguf *g;
    assert_ok(gguf_open_memory(w.data, w.bytes, "x.gguf", &g, NULL));
    return g;
}

static void close_keys(struct gguf *g)
{
    gguf_close(g);
    free(w.data);
}

TEST(gguf_integers_convert_when_they_fit)
{
    struct gguf *g = open_keys();
    uint32_t u32 = 1;
    int64_t i64;
    assert_ok(gguf_u32(g, "u8", &u32));
    assert_int_equal(u32, 200);
    assert_int_equal(gguf_u32(g, "i8", &u32), -ERANGE);
    assert_int_equal(gguf_u32(g, "u64", &u32), -ERANGE);
    assert_int_equal(gguf_u32(g, "f32", &u32), -EINVAL);
    assert_int_equal(gguf_u32(g, "nothing", &u32), -ENOENT);
    assert_int_equal(u32, 200);
    assert_ok(gguf_i64(g, "i32", &i64));
    assert_true(i64 == -7);
    assert_int_equal(gguf_i64(g, "u64", &i64), -ERANGE);
    close_keys(g);
}

TEST(gguf_floats_bools_and_strings)
{
    struct gguf *g = open_keys();
    float f32;
    bool flag = false;
    struct gguf_text text;
    assert_ok(gguf_f32(g, "f32", &f32));
    assert_true(f32 == 0.5f);
    assert_int_equal(gguf_f32(g, "f64", &f32), -ERANGE);
    assert_int_equal(gguf_f32(g, "u8", &f32), -EINVAL);
    assert_ok(gguf_bool(g, "bool", &flag));
    assert_true(flag);
    assert_int_equal(gguf_bool(g, "u8", &flag), -EINVAL);
    assert_ok(gguf_string(g, "text", &text));
    assert_true(gguf_text_is(text, "hello"));
    assert_int_equal(gguf_string(g, "strings", &text), -EINVAL);
    close_keys(g);
}

TEST(gguf_arrays_end_where_they_end)
{
    struct gguf *g = open_keys();
    struct gguf_array array;
    struct gguf_text text;
    uint32_t u32;
    int64_t i64;
    assert_ok(gguf_array(g, "strings", &array));
    assert_int_equal(gguf_array_u32(&array, 0, &u32), -EINVAL);
    assert_ok(gguf_array_next_string(&array, &text));
    assert_ok(gguf_array_next_string(&array, &text));
    assert_ok(gguf_array_next_string(&array, &text));
    assert_true(gguf_text_is(text, "yz"));
    assert_int_equal(gguf_array_next_string(&array, &text), -ENOENT);
    assert_ok(gguf_array(g, "ints", &array));
    assert_ok(gguf_array_u32(&array, 0, &u32));
    assert_int_equal(u32, 3);
    assert_int_equal(gguf_array_u32(&array, 1, &u32), -ERANGE);
    assert_ok(gguf_array_i64(&array, 1, &i64));
    assert_true(i64 == -1);
    assert_int_equal(gguf_array_u32(&array, 2, &u32), -ENOENT);
    assert_int_equal(gguf_array_next_string(&array, &text), -EINVAL);
    close_keys(g);
}

TEST(gguf_need_names_file_key_expected_and_actual)
{
    struct gguf *g = open_keys();
    struct format_error err;
    struct gguf_array array;
    uint32_t u32;
    float f32;
    assert_int_equal(gguf_need_u32(g, "nothing", &u32, &err), -ENOENT);
    assert_string_equal(err.text, "x.gguf: key \"nothing\" (u32) is missing");
    assert_int_equal(gguf_need_f32(g, "text", &f32, &err), -EINVAL);
    assert_string_equal(err.text, "x.gguf: key \"text\" is of type string, expected f32");
    assert_int_equal(gguf_need_u32(g, "u64", &u32, &err), -ERANGE);
    assert_int_equal(gguf_need_array(g, "ints", GGUF_STRING, &array, &err), -EINVAL);
    assert_string_equal(
        err.text, "x.gguf: key \"ints\" is of type array of i32, expected an array of strings");
    assert_ok(gguf_need_array(g, "ints", GGUF_U32, &array, &err));
    close_keys(g);
}

TEST(format_fail_shows_printable_bytes_only)
{
    struct format_error err;
    assert_int_equal(format_fail(&err, -EINVAL, "a%sb", "\x1b[31m\n\xff"), -EINVAL);
    assert_string_equal(err.text, "a?[31m??b");
    assert_int_equal(format_fail(NULL, -EINVAL, "x"), -EINVAL);
}
