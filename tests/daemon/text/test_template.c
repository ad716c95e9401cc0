/*
 * The differential test: every case of tests/vectors/templates/cases.json (written by generate.py
 * with jinja2) must give the same bytes, or fail where jinja2 failed.
 */
#include "daemon/text/template.h"

#include <errno.h>
#include <string.h>

#include <jansson.h>

#include "config.h"
#include "tests/harness/harness.h"

#define VECTORS RINGLET_SOURCE_ROOT "/tests/vectors/templates/"

static char *read_file(const char *name, size_t *ret_bytes)
{
    char path[512];
    snprintf(path, sizeof(path), VECTORS "%s", name);
    FILE *file = fopen(path, "rb");
    if (!file)
        fail_msg("cannot open %s", path);
    fseek(file, 0, SEEK_END);
    *ret_bytes = (size_t)ftell(file);
    rewind(file);
    char *text = malloc(*ret_bytes + 1);
    assert_int_equal(fread(text, 1, *ret_bytes, file), *ret_bytes);
    text[*ret_bytes] = '\0';
    fclose(file);
    return text;
}

struct rendered {
    char out[1 << 16], err[512];
    uint8_t trusted[1 << 16];
    size_t bytes;
};

static json_t *root;

static char *dump(json_t *value)
{
    return value ? json_dumps(value, JSON_ENCODE_ANY) : NULL;
}

static int render_case(json_t *test, struct rendered *r)
{
    static _Alignas(8) char arena[4 << 20];
    const char *file = json_string_value(json_object_get(test, "file"));
    json_t *source = json_object_get(test, "source");
    size_t bytes = json_string_length(source);
    char *from_file = file ? read_file(file, &bytes) : NULL;
    struct template *t = NULL;
    r->bytes = 0;
    r->err[0] = '\0';
    int error = template_compile(file ? from_file : json_string_value(source), bytes, &t, r->err,
                                 sizeof(r->err));
    free(from_file);
    if (error)
        return error;
    const char *chat = json_string_value(json_object_get(test, "chat"));
    const char *args = json_string_value(json_object_get(test, "args"));
    char *json[3] = { dump(json_object_get(json_object_get(root, "chats"), chat)) };
    if (json_object_get(test, "tools"))
        json[1] = dump(json_object_get(root, "tools"));
    if (args)
        json[2] = dump(json_object_get(json_object_get(root, "args"), args));
    struct template_input in = {
        .messages_json = json[0],
        .messages_json_bytes = strlen(json[0]),
        .tools_json = json[1],
        .tools_json_bytes = json[1] ? strlen(json[1]) : 0,
        .args_json = json[2],
        .args_json_bytes = json[2] ? strlen(json[2]) : 0,
        .bos_token = "<s>",
        .eos_token = "</s>",
        .add_generation_prompt = json_is_true(json_object_get(test, "add_generation_prompt")),
        .now_local_s = json_integer_value(json_object_get(root, "now")),
    };
    error = template_render(t, &in, arena, sizeof(arena), r->out, r->trusted, sizeof(r->out),
                            &r->bytes, r->err, sizeof(r->err));
    for (int i = 0; i < 3; i++)
        free(json[i]);
    template_free(t);
    return error;
}

static bool check_case(json_t *test, struct rendered *r)
{
    const char *name = json_string_value(json_object_get(test, "name"));
    json_t *expect = json_object_get(test, "expect");
    const char *refused = json_string_value(json_object_get(test, "refused"));
    int error = render_case(test, r);
    if (refused) {
        if (error == -ECANCELED && strcmp(r->err, refused) == 0)
            return true;
        print_error("%s: expected the refusal \"%s\", got %d \"%s\"\n", name, refused, error,
                    r->err);
        return false;
    }
    if (!expect) {
        if (error < 0 && r->err[0])
            return true;
        print_error("%s: expected an error (%s), got %d \"%.*s\"\n", name,
                    json_string_value(json_object_get(test, "error")), error, (int)r->bytes,
                    r->out);
        return false;
    }
    size_t want = json_string_length(expect);
    if (!error && r->bytes == want && memcmp(r->out, json_string_value(expect), want) == 0)
        return true;
    const char *source = json_string_value(json_object_get(test, "source"));
    print_error("%s: %s\n  error %d %s\n  want <%.*s>\n  got  <%.*s>\n", name, source ? source : "",
                error, r->err, (int)want, json_string_value(expect), (int)r->bytes, r->out);
    return false;
}

TEST(template_renders_what_jinja2_renders)
{
    size_t bytes;
    char *text = read_file("cases.json", &bytes);
    json_error_t json_error;
    root = json_loadb(text, bytes, JSON_ALLOW_NUL, &json_error);
    free(text);
    if (!root)
        fail_msg("cases.json: %s", json_error.text);
    struct rendered *r = calloc(1, sizeof(*r));
    json_t *cases = json_object_get(root, "cases"), *test;
    size_t i, wrong = 0;
    json_array_foreach(cases, i, test) wrong += !check_case(test, r);
    assert_true(json_array_size(cases) > 250);
    free(r);
    json_decref(root);
    if (wrong)
        fail_msg("%zu cases differ", wrong);
}
