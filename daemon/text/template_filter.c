/*
 * Templates: filters. The table is a whitelist: what is not here does not exist, and none reaches
 * outside of its arguments.
 */
#include "daemon/text/template_internal.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

const struct value *args_get(const struct args *args, uint32_t i, const char *keyword)
{
    if (i < args->n_pos)
        return &args->pos[i];
    for (uint32_t k = 0; keyword && k < args->n_kw; k++) {
        if (strlen(keyword) == args->kw[k].bytes &&
            memcmp(args->kw[k].name, keyword, args->kw[k].bytes) == 0)
            return &args->kw[k].value;
    }
    return NULL;
}

int64_t args_int(struct eval *e, const struct args *args, uint32_t i, const char *keyword,
                 int64_t otherwise)
{
    const struct value *v = args_get(args, i, keyword);
    if (!v)
        return otherwise;
    if (v->kind != VALUE_INT && v->kind != VALUE_BOOL) {
        template_fail(e, -EINVAL, "an argument is %s, not an integer", value_kind_name(v));
        return otherwise;
    }
    return v->i;
}

static bool args_true(const struct args *args, uint32_t i, const char *keyword)
{
    const struct value *v = args_get(args, i, keyword);
    return v && value_truthy(v);
}

/* value.a.0.b, as map(attribute="a.0.b") asks. */
struct value template_dotted(struct eval *e, const struct value *v, const struct value *path)
{
    struct value at = *v;
    if (path->kind == VALUE_INT)
        return value_item(e, v, path);
    for (uint32_t from = 0; path->kind == VALUE_STRING && from <= path->n && !e->error;) {
        const char *name = path->s + from;
        const char *dot = path->n > from ? memchr(name, '.', path->n - from) : NULL;
        uint32_t bytes = dot ? (uint32_t)(dot - name) : path->n - from;
        struct value key = value_text(name, bytes, true);
        char *end;
        if (bytes > 0 && bytes < 9 && name[0] >= '0' && name[0] <= '9') {
            char digits[10] = { 0 };
            memcpy(digits, name, bytes);
            key = value_int(strtol(digits, &end, 10), true);
        }
        at = value_item(e, &at, &key);
        from += bytes + 1;
    }
    return at;
}

static struct value filter_trim(struct eval *e, const struct value *v, const struct args *args)
{
    struct value s = value_to_string(e, v);
    return string_strip(e, &s, args_get(args, 0, "chars"), true, true);
}

static struct value filter_length(struct eval *e, const struct value *v, const struct args *args)
{
    (void)args;
    switch (v->kind) {
    case VALUE_STRING:
        template_spend(e, v->n / 16);
        return value_int(utf8_count(v->s, v->n), true);
    case VALUE_LIST:
        return value_int(v->n, true);
    case VALUE_DICT:
        return value_int(v->dict->n, true);
    case VALUE_UNDEFINED:
        return value_int(0, true);
    default:
        template_fail(e, -EINVAL, "%s has no length", value_kind_name(v));
        return value_none();
    }
}

static struct value filter_tojson(struct eval *e, const struct value *v, const struct args *args)
{
    const struct value *indent = args_get(args, 1, "indent");
    const struct value *separators = args_get(args, 2, "separators");
    struct json_style style = { .indent = -1, .key = value_literal(": ") };
    if (indent && indent->kind != VALUE_NONE)
        style.indent = (int)min_of(args_int(e, args, 1, "indent", -1), INT64_C(65));
    if (style.indent > 64)
        template_fail(e, -EINVAL, "an indent of more than 64");
    style.item = value_literal(style.indent < 0 ? ", " : ",");
    style.ascii = args_true(args, 0, "ensure_ascii");
    style.sort_keys = args_true(args, 3, "sort_keys");
    if (separators && separators->kind != VALUE_NONE) {
        if (separators->kind != VALUE_LIST || separators->n != 2 ||
            separators->list[0].kind != VALUE_STRING || separators->list[1].kind != VALUE_STRING) {
            template_fail(e, -EINVAL, "separators are two strings");
            return value_none();
        }
        style.item = separators->list[0];
        style.key = separators->list[1];
    }
    return value_to_json(e, v, &style);
}

static struct value filter_join(struct eval *e, const struct value *v, const struct args *args)
{
    const struct value *glue = args_get(args, 0, "d"), *attribute = args_get(args, 1, "attribute");
    struct value items = value_iterable(e, v);
    struct value between = glue ? value_to_string(e, glue) : value_literal("");
    struct text_builder b = text_begin(e, 64);
    for (uint32_t i = 0; i < items.n && !e->error; i++) {
        struct value item =
            attribute ? template_dotted(e, &items.list[i], attribute) : items.list[i];
        item = value_to_string(e, &item);
        if (i > 0)
            text_add_value(&b, &between);
        text_add_value(&b, &item);
    }
    return text_end(&b);
}

static struct value change_case(struct eval *e, const struct value *v, enum text_case how)
{
    struct value s = value_to_string(e, v);
    return string_case(e, &s, how);
}

static struct value filter_upper(struct eval *e, const struct value *v, const struct args *args)
{
    (void)args;
    return change_case(e, v, CASE_UPPER);
}

static struct value filter_lower(struct eval *e, const struct value *v, const struct args *args)
{
    (void)args;
    return change_case(e, v, CASE_LOWER);
}

static struct value filter_capitalize(struct eval *e, const struct value *v,
                                      const struct args *args)
{
    (void)args;
    return change_case(e, v, CASE_CAPITALIZE);
}

static struct value filter_title(struct eval *e, const struct value *v, const struct args *args)
{
    (void)args;
    return change_case(e, v, CASE_TITLE);
}

static struct value filter_replace(struct eval *e, const struct value *v, const struct args *args)
{
    const struct value *from = args_get(args, 0, "old"), *to = args_get(args, 1, "new");
    if (!from || !to) {
        template_fail(e, -EINVAL, "replace needs two arguments");
        return value_none();
    }
    struct value s = value_to_string(e, v), a = value_to_string(e, from),
                 b = value_to_string(e, to);
    return string_replace(e, &s, &a, &b, args_int(e, args, 2, "count", -1));
}

static struct value at_end(struct eval *e, const struct value *v, bool last)
{
    struct value items = value_iterable(e, v);
    if (items.n == 0)
        return value_undefined("an element of nothing");
    return items.list[last ? items.n - 1 : 0];
}

static struct value filter_first(struct eval *e, const struct value *v, const struct args *args)
{
    (void)args;
    return at_end(e, v, false);
}

static struct value filter_last(struct eval *e, const struct value *v, const struct args *args)
{
    (void)args;
    return at_end(e, v, true);
}

static struct value filter_default(struct eval *e, const struct value *v, const struct args *args)
{
    const struct value *otherwise = args_get(args, 0, "default_value");
    (void)e;
    if (v->kind != VALUE_UNDEFINED && (value_truthy(v) || !args_true(args, 1, "boolean")))
        return *v;
    return otherwise ? *otherwise : value_literal("");
}

static struct value filter_items(struct eval *e, const struct value *v, const struct args *args)
{
    (void)args;
    if (v->kind == VALUE_UNDEFINED)
        return value_list(e, 0);
    if (v->kind != VALUE_DICT) {
        template_fail(e, -EINVAL, "%s has no items", value_kind_name(v));
        return value_none();
    }
    struct value list = value_list(e, v->dict->n);
    for (uint32_t i = 0; i < list.n; i++)
        list.list[i] = value_tuple2(e, &v->dict->pairs[i].key, &v->dict->pairs[i].value);
    return list;
}

static struct value filter_list(struct eval *e, const struct value *v, const struct args *args)
{
    (void)args;
    struct value list = value_iterable(e, v);
    list.detail = 0;
    return list;
}

static struct value filter_string(struct eval *e, const struct value *v, const struct args *args)
{
    (void)args;
    return value_to_string(e, v);
}

/* The number that a string spells, in a NUL-terminated copy; false if it spells none. */
static bool number_text(const struct value *v, char *text, size_t max)
{
    if (v->kind != VALUE_STRING || v->n == 0 || v->n >= max)
        return false;
    memcpy(text, v->s, v->n);
    text[v->n] = '\0';
    return memchr(v->s, '\0', v->n) == NULL && strpbrk(text, "pPnN") == NULL;
}

static struct value filter_float(struct eval *e, const struct value *v, const struct args *args)
{
    const struct value *otherwise = args_get(args, 0, "default");
    char text[64], *end;
    (void)e;
    if (v->kind == VALUE_FLOAT)
        return *v;
    if (v->kind == VALUE_INT || v->kind == VALUE_BOOL)
        return value_float((double)v->i, value_trusted(v));
    if (number_text(v, text, sizeof(text)) && !strpbrk(text, "xX")) {
        double f = strtod(text, &end);
        if (end != text && end[strspn(end, " \t\n")] == '\0')
            return value_float(f, value_trusted(v));
    }
    return otherwise ? *otherwise : value_float(0.0, true);
}

static struct value filter_int(struct eval *e, const struct value *v, const struct args *args)
{
    const struct value *otherwise = args_get(args, 0, "default");
    char text[64], *end;
    if (v->kind == VALUE_INT || v->kind == VALUE_BOOL)
        return value_int(v->i, value_trusted(v));
    if (number_text(v, text, sizeof(text))) {
        errno = 0;
        int64_t base = args_int(e, args, 1, "base", 10);
        int64_t i = base >= 2 && base <= 36 ? strtoll(text, &end, (int)base) : (end = text, 0);
        if (!errno && end != text && end[strspn(end, " \t\n")] == '\0')
            return value_int(i, value_trusted(v));
    }
    struct value nan = value_float(NAN, true), f = *v;
    if (v->kind != VALUE_FLOAT) {
        struct args with = { .n_pos = 1, .pos = { nan } };
        f = filter_float(e, v, &with);
    }
    if (f.kind == VALUE_FLOAT && fabs(f.f) < 9e18)
        return value_int((int64_t)f.f, value_trusted(v));
    return otherwise ? *otherwise : value_int(0, true);
}

static struct value filter_abs(struct eval *e, const struct value *v, const struct args *args)
{
    (void)args;
    if (v->kind == VALUE_FLOAT)
        return value_float(fabs(v->f), value_trusted(v));
    if ((v->kind == VALUE_INT || v->kind == VALUE_BOOL) && v->i != INT64_MIN)
        return value_int(v->i < 0 ? -v->i : v->i, value_trusted(v));
    template_fail(e, -EINVAL, "%s has no absolute value", value_kind_name(v));
    return value_none();
}

static struct value filter_round(struct eval *e, const struct value *v, const struct args *args)
{
    const struct value *method = args_get(args, 1, "method");
    int64_t precision = args_int(e, args, 0, "precision", 0);
    double f = v->kind == VALUE_FLOAT ? v->f : (double)v->i;
    if (v->kind < VALUE_BOOL || v->kind > VALUE_FLOAT || precision < 0 || precision > 15) {
        template_fail(e, -EINVAL, "%s cannot be rounded", value_kind_name(v));
        return value_none();
    }
    if (v->kind != VALUE_FLOAT && !method)
        return value_int(v->i, value_trusted(v));
    double scale = pow(10, (double)precision);
    f *= scale;
    f = !method || value_is(method, "common") ? nearbyint(f)
        : value_is(method, "ceil")            ? ceil(f)
                                              : floor(f);
    return value_float(f / scale, value_trusted(v));
}

static struct value filter_safe(struct eval *e, const struct value *v, const struct args *args)
{
    (void)args;
    return value_to_string(e, v);
}

static struct value filter_escape(struct eval *e, const struct value *v, const struct args *args)
{
    static const char *const entities[][2] = {
        { "&", "&amp;" }, { "<", "&lt;" }, { ">", "&gt;" }, { "'", "&#39;" }, { "\"", "&#34;" },
    };
    (void)args;
    struct value s = value_to_string(e, v);
    for (size_t i = 0; i < ARRAY_SIZE(entities); i++) {
        struct value from = value_literal(entities[i][0]), to = value_literal(entities[i][1]);
        to.trust = TRUST_NO; /* stands for a character of the text */
        s = string_replace(e, &s, &from, &to, -1);
    }
    return s;
}

static struct value filter_indent(struct eval *e, const struct value *v, const struct args *args)
{
    const struct value *width = args_get(args, 0, "width");
    bool first = args_true(args, 1, "first"), blank = args_true(args, 2, "blank");
    struct value by = value_literal(" ");
    struct value s = value_to_string(e, v);
    if (width && width->kind == VALUE_STRING) {
        by = *width;
    } else {
        struct value times = value_int(args_int(e, args, 0, "width", 4), true);
        by = value_binary(e, '*', &by, &times);
    }
    struct text_builder b = text_begin(e, s.n + 64);
    if (first && !e->error)
        text_add_value(&b, &by);
    for (uint32_t from = 0; from < s.n && !e->error;) {
        const char *newline = memchr(s.s + from, '\n', s.n - from);
        uint32_t to = newline ? (uint32_t)(newline - s.s) + 1 : s.n;
        struct value line = string_slice(&s, from, to);
        text_add_value(&b, &line);
        if (newline && (blank || (to < s.n && s.s[to] != '\n')))
            text_add_value(&b, &by);
        from = to;
    }
    return text_end(&b);
}

#define FILTER(filter)                                                                             \
    {                                                                                              \
#filter, filter_##filter                                                                   \
    }

struct filter_entry {
    const char *name;
    struct value (*fn)(struct eval *e, const struct value *v, const struct args *args);
};

static const struct filter_entry simple_filters[] = {
    FILTER(trim),
    FILTER(length),
    { "count", filter_length },
    FILTER(tojson),
    FILTER(join),
    FILTER(upper),
    FILTER(lower),
    FILTER(capitalize),
    FILTER(title),
    FILTER(replace),
    FILTER(first),
    FILTER(last),
    FILTER(default),
    { "d", filter_default },
    FILTER(items),
    FILTER(list),
    FILTER(string),
    FILTER(int),
    FILTER(float),
    FILTER(abs),
    FILTER(round),
    FILTER(safe),
    FILTER(escape),
    { "e", filter_escape },
    FILTER(indent),
};

int template_filter_find(const char *name, size_t bytes)
{
    for (size_t i = 0; i < ARRAY_SIZE(simple_filters); i++) {
        if (strlen(simple_filters[i].name) == bytes &&
            memcmp(simple_filters[i].name, name, bytes) == 0)
            return (int)i;
    }
    int found = template_list_filter_find(name, bytes);
    return found < 0 ? -1 : found + (int)ARRAY_SIZE(simple_filters);
}

struct value template_filter(struct eval *e, int filter, const struct value *v,
                             const struct args *args)
{
    struct value result = value_none();
    template_spend(e, 1);
    if (e->error)
        return result;
    if (++e->depth > TEMPLATE_DEPTH_MAX)
        template_fail(e, -ELOOP, "nested too deeply");
    else if (filter < (int)ARRAY_SIZE(simple_filters))
        result = simple_filters[filter].fn(e, v, args);
    else
        result = template_list_filter(e, filter - (int)ARRAY_SIZE(simple_filters), v, args);
    e->depth--;
    return result;
}
