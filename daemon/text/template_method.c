/*
 * Templates: methods of strings and mappings, those of Python that read only. Lists have one,
 * since the others that templates try would change the list.
 */
#include "daemon/text/template_internal.h"

#include <errno.h>
#include <string.h>

static struct value bad_argument(struct eval *e, const char *method)
{
    template_fail(e, -EINVAL, "%s: an argument is missing or of the wrong kind", method);
    return value_none();
}

static const struct value *string_arg(const struct args *args, uint32_t i)
{
    const struct value *v = args_get(args, i, NULL);
    return v && v->kind == VALUE_STRING ? v : NULL;
}

static struct value method_strip(struct eval *e, const struct value *s, const struct args *args)
{
    return string_strip(e, s, args_get(args, 0, NULL), true, true);
}

static struct value method_lstrip(struct eval *e, const struct value *s, const struct args *args)
{
    return string_strip(e, s, args_get(args, 0, NULL), true, false);
}

static struct value method_rstrip(struct eval *e, const struct value *s, const struct args *args)
{
    return string_strip(e, s, args_get(args, 0, NULL), false, true);
}

/* Split into at most n_max + 1 parts; counts only when list is NULL. */
static uint32_t split_at(struct eval *e, const struct value *s, const struct value *by,
                         int64_t n_max, struct value *list)
{
    uint32_t from = 0, n = 0;
    for (; n_max < 0 || n < n_max; n++) {
        const char *hit = s->n > from ? memmem(s->s + from, s->n - from, by->s, by->n) : NULL;
        template_spend(e, 1);
        if (!hit || e->error)
            break;
        uint32_t to = (uint32_t)(hit - s->s);
        if (list)
            list[n] = string_slice(s, from, to);
        from = to + by->n;
    }
    if (list)
        list[n] = string_slice(s, from, s->n);
    return n + 1;
}

static uint32_t split_blanks(struct eval *e, const struct value *s, int64_t n_max,
                             struct value *list)
{
    uint32_t at = 0, n = 0;
    while (at < s->n && !e->error) {
        struct value rest = string_slice(s, at, s->n);
        struct value left = string_strip(e, &rest, NULL, true, false);
        at = s->n - left.n;
        uint32_t end = at, bytes;
        while (end < s->n && !unicode_is_space(utf8_decode(s->s + end, s->n - end, &bytes)))
            end += bytes;
        template_spend(e, 1);
        if (n_max >= 0 && n >= n_max)
            end = s->n;
        if (end > at) {
            if (list)
                list[n] = string_slice(s, at, end);
            n++;
        }
        at = end;
    }
    return n;
}

static struct value method_split(struct eval *e, const struct value *s, const struct args *args)
{
    const struct value *by = args_get(args, 0, "sep");
    int64_t n_max = args_int(e, args, 1, "maxsplit", -1);
    template_spend(e, s->n / 32);
    if (!by || by->kind == VALUE_NONE) {
        struct value list = value_list(e, split_blanks(e, s, n_max, NULL));
        if (list.n)
            split_blanks(e, s, n_max, list.list);
        return list;
    }
    if (by->kind != VALUE_STRING || by->n == 0)
        return bad_argument(e, "split");
    struct value list = value_list(e, split_at(e, s, by, n_max, NULL));
    if (list.n && split_at(e, s, by, n_max, list.list) != list.n)
        list.n = 0; /* out of steps */
    return list;
}

static struct value method_rsplit(struct eval *e, const struct value *s, const struct args *args)
{
    const struct value *by = args_get(args, 0, "sep");
    int64_t n_max = args_int(e, args, 1, "maxsplit", -1);
    if (!by || by->kind != VALUE_STRING || by->n == 0)
        return bad_argument(e, "rsplit");
    struct value all = value_list(e, split_at(e, s, by, -1, NULL));
    if (!all.n || split_at(e, s, by, -1, all.list) != all.n || n_max < 0 || n_max + 1 >= all.n)
        return all;
    uint32_t joined = all.n - (uint32_t)n_max;
    struct value list = value_list(e, (uint32_t)n_max + 1);
    for (uint32_t i = 0; i < list.n; i++)
        list.list[i] = all.list[joined - 1 + i];
    if (list.n) {
        const struct value *last = &all.list[joined - 1];
        list.list[0] = string_slice(s, 0, (uint32_t)(last->s - s->s) + last->n);
    }
    return list;
}

static bool breaks_line(uint32_t c)
{
    return (c >= 10 && c <= 13) || (c >= 0x1c && c <= 0x1e) || c == 0x85 || c == 0x2028 ||
           c == 0x2029;
}

static uint32_t split_lines(const struct value *s, struct value *list)
{
    uint32_t n = 0, from = 0, bytes;
    for (uint32_t at = 0; at < s->n;) {
        uint32_t c = utf8_decode(s->s + at, s->n - at, &bytes), end = at;
        at += bytes;
        if (!breaks_line(c))
            continue;
        if (c == '\r' && at < s->n && s->s[at] == '\n')
            at++;
        if (list)
            list[n] = string_slice(s, from, end);
        n++;
        from = at;
    }
    if (from < s->n && list)
        list[n] = string_slice(s, from, s->n);
    return n + (from < s->n);
}

static struct value method_splitlines(struct eval *e, const struct value *s,
                                      const struct args *args)
{
    (void)args;
    template_spend(e, s->n / 8);
    struct value list = value_list(e, split_lines(s, NULL));
    if (list.n)
        split_lines(s, list.list);
    return list;
}

static bool affix(const struct value *s, const struct value *with, bool at_end)
{
    return with->kind == VALUE_STRING && with->n <= s->n &&
           (with->n == 0 || memcmp(s->s + (at_end ? s->n - with->n : 0), with->s, with->n) == 0);
}

static struct value has_affix(struct eval *e, const struct value *s, const struct args *args,
                              bool at_end)
{
    const struct value *with = args_get(args, 0, NULL);
    bool found = false;
    if (!with || (with->kind != VALUE_STRING && with->kind != VALUE_LIST))
        return bad_argument(e, at_end ? "endswith" : "startswith");
    if (with->kind == VALUE_STRING)
        return value_bool(affix(s, with, at_end));
    template_spend(e, with->n);
    for (uint32_t i = 0; i < with->n; i++)
        found |= affix(s, &with->list[i], at_end);
    return value_bool(found);
}

static struct value method_startswith(struct eval *e, const struct value *s,
                                      const struct args *args)
{
    return has_affix(e, s, args, false);
}

static struct value method_endswith(struct eval *e, const struct value *s, const struct args *args)
{
    return has_affix(e, s, args, true);
}

static struct value method_removeprefix(struct eval *e, const struct value *s,
                                        const struct args *args)
{
    const struct value *with = string_arg(args, 0);
    if (!with)
        return bad_argument(e, "removeprefix");
    return affix(s, with, false) ? string_slice(s, with->n, s->n) : *s;
}

static struct value method_removesuffix(struct eval *e, const struct value *s,
                                        const struct args *args)
{
    const struct value *with = string_arg(args, 0);
    if (!with)
        return bad_argument(e, "removesuffix");
    return affix(s, with, true) ? string_slice(s, 0, s->n - with->n) : *s;
}

static struct value method_upper(struct eval *e, const struct value *s, const struct args *args)
{
    (void)args;
    return string_case(e, s, CASE_UPPER);
}

static struct value method_lower(struct eval *e, const struct value *s, const struct args *args)
{
    (void)args;
    return string_case(e, s, CASE_LOWER);
}

static struct value method_title(struct eval *e, const struct value *s, const struct args *args)
{
    (void)args;
    return string_case(e, s, CASE_TITLE_METHOD);
}

static struct value method_capitalize(struct eval *e, const struct value *s,
                                      const struct args *args)
{
    (void)args;
    return string_case(e, s, CASE_CAPITALIZE);
}

static struct value method_replace(struct eval *e, const struct value *s, const struct args *args)
{
    const struct value *from = string_arg(args, 0), *to = string_arg(args, 1);
    if (!from || !to)
        return bad_argument(e, "replace");
    return string_replace(e, s, from, to, args_int(e, args, 2, "count", -1));
}

static struct value method_find(struct eval *e, const struct value *s, const struct args *args)
{
    const struct value *what = string_arg(args, 0);
    if (!what)
        return bad_argument(e, "find");
    template_spend(e, s->n / 32);
    const char *hit = what->n == 0 ? s->s : s->n ? memmem(s->s, s->n, what->s, what->n) : NULL;
    return value_int(hit ? (int64_t)utf8_count(s->s, (uint32_t)(hit - s->s)) : -1, true);
}

static struct value method_count(struct eval *e, const struct value *s, const struct args *args)
{
    const struct value *what = string_arg(args, 0);
    if (!what || what->n == 0)
        return bad_argument(e, "count");
    return value_int(split_at(e, s, what, -1, NULL) - 1, true);
}

static struct value list_count(struct eval *e, const struct value *list, const struct args *args)
{
    const struct value *what = args_get(args, 0, NULL);
    int64_t n = 0;
    if (!what)
        return bad_argument(e, "count");
    for (uint32_t i = 0; i < list->n && !e->error; i++)
        n += value_equal(e, &list->list[i], what);
    return value_int(n, true);
}

static struct value method_join(struct eval *e, const struct value *s, const struct args *args)
{
    const struct value *items = args_get(args, 0, NULL);
    if (!items)
        return bad_argument(e, "join");
    struct args *with = template_alloc(e, sizeof(*with));
    if (!with)
        return value_none();
    *with = (struct args){ .n_pos = 1, .pos = { *s } };
    return template_filter(e, template_filter_find("join", 4), items, with);
}

static struct value method_isdigit(struct eval *e, const struct value *s, const struct args *args)
{
    bool all = s->n > 0;
    (void)args;
    template_spend(e, s->n / 32);
    for (uint32_t i = 0; i < s->n; i++)
        all &= s->s[i] >= '0' && s->s[i] <= '9';
    return value_bool(all);
}

static struct value method_get(struct eval *e, const struct value *d, const struct args *args)
{
    const struct value *key = args_get(args, 0, NULL), *otherwise = args_get(args, 1, NULL);
    if (!key)
        return bad_argument(e, "get");
    const struct value *found = dict_find(e, d->dict, key);
    return found ? *found : otherwise ? *otherwise : value_none();
}

static struct value method_items(struct eval *e, const struct value *d, const struct args *args)
{
    return template_filter(e, template_filter_find("items", 5), d, args);
}

static struct value method_keys(struct eval *e, const struct value *d, const struct args *args)
{
    (void)args;
    return value_iterable(e, d);
}

static struct value method_values(struct eval *e, const struct value *d, const struct args *args)
{
    (void)args;
    struct value list = value_list(e, d->dict->n);
    for (uint32_t i = 0; i < list.n; i++)
        list.list[i] = d->dict->pairs[i].value;
    return list;
}

#define METHOD(kind, method)                                                                       \
    {                                                                                              \
        kind, #method, method_##method                                                             \
    }

static const struct {
    uint8_t kind;
    const char *name;
    struct value (*fn)(struct eval *e, const struct value *self, const struct args *args);
} methods[] = {
    METHOD(VALUE_STRING, strip),        METHOD(VALUE_STRING, lstrip),
    METHOD(VALUE_STRING, rstrip),       METHOD(VALUE_STRING, split),
    METHOD(VALUE_STRING, rsplit),       METHOD(VALUE_STRING, splitlines),
    METHOD(VALUE_STRING, startswith),   METHOD(VALUE_STRING, endswith),
    METHOD(VALUE_STRING, removeprefix), METHOD(VALUE_STRING, removesuffix),
    METHOD(VALUE_STRING, upper),        METHOD(VALUE_STRING, lower),
    METHOD(VALUE_STRING, title),        METHOD(VALUE_STRING, capitalize),
    METHOD(VALUE_STRING, replace),      METHOD(VALUE_STRING, find),
    METHOD(VALUE_STRING, count),        METHOD(VALUE_STRING, join),
    METHOD(VALUE_STRING, isdigit),      METHOD(VALUE_DICT, get),
    METHOD(VALUE_DICT, items),          METHOD(VALUE_DICT, keys),
    METHOD(VALUE_DICT, values),         { VALUE_LIST, "count", list_count },
};

int template_method_find(const struct value *v, const char *name, uint32_t bytes)
{
    for (size_t i = 0; i < ARRAY_SIZE(methods); i++) {
        if (methods[i].kind == v->kind && strlen(methods[i].name) == bytes &&
            memcmp(methods[i].name, name, bytes) == 0)
            return (int)i;
    }
    return -1;
}

struct value template_method(struct eval *e, const struct value *self, int method,
                             const struct args *args)
{
    template_spend(e, 1);
    return e->error ? value_none() : methods[method].fn(e, self, args);
}
