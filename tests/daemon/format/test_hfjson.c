/* JSON files of checkpoints: values by path, typed, with messages that name file and key. */
#include "tests/harness/harness.h"

#include <errno.h>

#include "daemon/format/hfjson.h"

static struct hfjson *parse(const char *text)
{
    struct hfjson *j = NULL;
    struct format_error err = { "" };
    if (hfjson_open_memory(text, strlen(text), "config.json", &j, &err))
        fail_msg("%s", err.text);
    return j;
}

TEST(hfjson_finds_values_by_path)
{
    struct hfjson *j =
        parse("{\"a\":{\"b\":[1,{\"c\":-2.5}]},\"n\":null,\"s\":\"x\\u0000y\",\"t\":true,"
              "\"f\":false,\"empty\":{},\"big\":1e300,\"neg\":-1,\"eos\":7,\"list\":[7,8]}");
    uint32_t u32 = 9;
    float f32;
    double f64;
    bool flag = false;
    const char *text;
    size_t n;
    int64_t ids[4];
    assert_ok(hfjson_u32(j, "a.b[0]", &u32));
    assert_int_equal(u32, 1);
    assert_ok(hfjson_f32(j, "a.b[1].c", &f32));
    assert_true(f32 == -2.5f);
    assert_ok(hfjson_f32(j, "eos", &f32));
    assert_int_equal(hfjson_f32(j, "big", &f32), -ERANGE);
    assert_ok(hfjson_f64(j, "big", &f64));
    assert_int_equal(hfjson_u32(j, "neg", &u32), -ERANGE);
    assert_int_equal(hfjson_u32(j, "n", &u32), -ENOENT);
    assert_int_equal(hfjson_u32(j, "a.x.y", &u32), -ENOENT);
    assert_int_equal(hfjson_u32(j, "a.b[2]", &u32), -ENOENT);
    assert_int_equal(hfjson_u32(j, "t", &u32), -EINVAL);
    assert_ok(hfjson_bool(j, "t", &flag));
    assert_true(flag);
    assert_ok(hfjson_string(j, "s", &text, &n));
    assert_int_equal(n, 3);
    assert_ok(hfjson_size(j, "a.b", &n));
    assert_int_equal(n, 2);
    assert_ok(hfjson_ids(j, "eos", ids, 4, &n));
    assert_int_equal(n, 1);
    assert_ok(hfjson_ids(j, "list", ids, 4, &n));
    assert_int_equal(n, 2);
    assert_int_equal(ids[1], 8);
    assert_int_equal(hfjson_ids(j, "list", ids, 1, &n), -E2BIG);
    assert_int_equal(hfjson_ids(j, "s", ids, 1, &n), -EINVAL);
    assert_true(hfjson_has(j, "list"));
    assert_false(hfjson_has(j, "n"));
    assert_true(hfjson_is_null(j, "n"));
    assert_false(hfjson_is_null(j, "nothing"));
    assert_false(hfjson_is_object(j, "list"));
    assert_false(hfjson_is_object(j, "nothing"));
    assert_true(hfjson_is_object(j, NULL));
    assert_true(hfjson_is_true(j, "t"));
    assert_true(hfjson_is_true(j, "a"));
    assert_false(hfjson_is_true(j, "n"));
    assert_false(hfjson_is_true(j, "f"));
    assert_false(hfjson_is_true(j, "empty"));
    assert_false(hfjson_is_true(j, "nothing"));
    hfjson_close(j);
}

TEST(hfjson_need_names_file_key_expected_and_actual)
{
    struct hfjson *j = parse("{\"a\":\"x\",\"b\":-1}");
    struct format_error err;
    uint32_t u32;
    float f32;
    const char *text;
    assert_int_equal(hfjson_need_u32(j, "a", &u32, &err), -EINVAL);
    assert_string_equal(err.text,
                        "config.json: \"a\" is a string, expected an integer from 0 to 4294967295");
    assert_int_equal(hfjson_need_u32(j, "b", &u32, &err), -ERANGE);
    assert_int_equal(hfjson_need_f32(j, "c", &f32, &err), -ENOENT);
    assert_string_equal(err.text, "config.json: \"c\" (a number) is missing");
    assert_int_equal(hfjson_need_string(j, "b", &text, &err), -EINVAL);
    hfjson_close(j);
}

TEST(hfjson_refuses_what_is_not_strict_json)
{
    static const char *const bad[] = { "",
                                       "[]",
                                       "{",
                                       "{\"a\":1}x",
                                       "{\"a\":1,\"a\":2}",
                                       "{\"a\":\"\xff\"}",
                                       "{\"a\":01}",
                                       "{\"a\":99999999999999999999}x",
                                       "{\"a\":099999999999999999999}",
                                       "{\"a\":1e999}",
                                       "{\"a\":nan}",
                                       "{\"a\":NaNN}",
                                       "{\"a\":+Infinity}",
                                       "{'a':1}" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct hfjson *j = NULL;
        struct format_error err = { "" };
        assert_int_equal(hfjson_open_memory(bad[i], strlen(bad[i]), "x.json", &j, &err), -EINVAL);
        assert_int_equal(strncmp(err.text, "x.json: ", 8), 0);
    }
    static const char nul[] = "{\"a\":99999999999999999999}\0x";
    struct hfjson *j = NULL;
    assert_int_equal(hfjson_open_memory(nul, sizeof(nul), "x.json", &j, NULL), -EINVAL);
    char deep[8192];
    memset(deep, '[', sizeof(deep));
    memcpy(deep, "{\"a\":", 5);
    assert_int_equal(hfjson_open_memory(deep, sizeof(deep), "x.json", &j, NULL), -EINVAL);
}

TEST(hfjson_takes_integers_beyond_64_bits_as_real_numbers)
{
    static const char text[] =
        "{\"model_max_length\":1000000000000000019884624838656,"
        "\"1000000000000000019884624838656\":\"\\\"1000000000000000019884624838656\","
        "\"list\":[-99999999999999999999,9223372036854775807,0.12345678901234567890123,7]}";
    struct hfjson *j = parse(text);
    int64_t i64;
    double f64;
    const char *string;
    assert_ok(hfjson_f64(j, "model_max_length", &f64));
    assert_close(f64, 1e30, 0, 1e-15);
    assert_int_equal(hfjson_i64(j, "model_max_length", &i64), -EINVAL);
    assert_ok(hfjson_string(j, "1000000000000000019884624838656", &string, NULL));
    assert_string_equal(string, "\"1000000000000000019884624838656");
    assert_ok(hfjson_f64(j, "list[0]", &f64));
    assert_close(f64, -1e20, 0, 1e-15);
    assert_ok(hfjson_f64(j, "list[1]", &f64));
    assert_close(f64, 0x1p63, 0, 1e-15);
    assert_ok(hfjson_f64(j, "list[2]", &f64));
    assert_close(f64, 0.12345678901234567890123, 0, 1e-15);
    assert_ok(hfjson_i64(j, "list[3]", &i64));
    assert_int_equal(i64, 7);
    hfjson_close(j);
}

TEST(hfjson_takes_pythons_words_for_numbers_but_not_as_numbers)
{
    struct hfjson *j =
        parse("{\"limit\":[0.0,Infinity],\"x\":-Infinity,\"y\": NaN ,\"NaN\":\"NaN\","
              "\"long\":1000000000000000019884624838656}");
    double f64;
    const char *string;
    assert_int_equal(hfjson_f64(j, "limit[1]", &f64), -EINVAL);
    assert_int_equal(hfjson_f64(j, "x", &f64), -EINVAL);
    assert_int_equal(hfjson_f64(j, "y", &f64), -EINVAL);
    assert_ok(hfjson_f64(j, "limit[0]", &f64));
    assert_ok(hfjson_string(j, "NaN", &string, NULL));
    assert_string_equal(string, "NaN");
    assert_ok(hfjson_f64(j, "long", &f64));
    assert_close(f64, 1e30, 0, 1e-15);
    hfjson_close(j);
}

TEST(hfjson_names_a_pointer_of_git_lfs)
{
    static const char text[] =
        "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 98120704\n";
    struct hfjson *j = NULL;
    struct format_error err = { "" };
    assert_int_equal(hfjson_open_memory(text, sizeof(text) - 1, "t.json", &j, &err), -EINVAL);
    assert_string_equal(err.text, "t.json: a pointer of Git LFS and not the file itself: fetch "
                                  "that (git lfs pull)");
    assert_int_equal(hfjson_open_memory(text, 20, "t.json", &j, &err), -EINVAL);
    assert_non_null(strstr(err.text, "line 1"));
}

TEST(hfjson_open_reads_files)
{
    struct hfjson *j;
    struct format_error err;
    char path[256];
    const char *folder = harness_tmpdir();
    assert_int_equal(hfjson_open(folder, "config.json", &j, &err), -ENOENT);
    assert_non_null(strstr(err.text, "/config.json: No such file"));
    snprintf(path, sizeof(path), "%s/config.json", folder);
    FILE *out = fopen(path, "w");
    fputs("{\"model_type\":\"llama\"}", out);
    fclose(out);
    assert_ok(hfjson_open(folder, "config.json", &j, &err));
    assert_string_equal(hfjson_path(j), path);
    hfjson_close(j);
}
