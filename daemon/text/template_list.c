/* Templates: filters over lists and mappings. */
#include "daemon/text/template_internal.h"

#include <errno.h>
#include <string.h>

/* Without their first n positional arguments. */
static struct args *args_shift(struct eval *e, const struct args *args, uint32_t n)
{
    struct args *rest = template_alloc(e, sizeof(*rest));
    if (!rest)
        return NULL;
    *rest = *args;
    n = min_of(n, args->n_pos);
    rest->n_pos = args->n_pos - n;
    memmove(rest->pos, args->pos + n, rest->n_pos * sizeof(rest->pos[0]));
    return rest;
}

/* As Python's filters do it: nothing of anything that is false, be it a list or not. */
static struct value items_of(struct eval *e, const struct value *v)
{
    return value_truthy(v) ? value_iterable(e, v) : value_list(e, 0);
}

static struct value list_map(struct eval *e, const struct value *v, const struct args *args)
{
    const struct value *attribute = args_get(args, TEMPLATE_ARGS_MAX, "attribute");
    const struct value *otherwise = args_get(args, TEMPLATE_ARGS_MAX, "default");
    struct value items = items_of(e, v);
    struct value list = value_list(e, items.n);
    struct args *rest = args_shift(e, args, 1);
    int filter = -1;
    if (!attribute && args->n_pos > 0 && args->pos[0].kind == VALUE_STRING)
        filter = template_filter_find(args->pos[0].s, args->pos[0].n);
    if (!attribute && filter < 0)
        template_fail(e, -EINVAL, "map needs an attribute or a known filter");
    for (uint32_t i = 0; i < list.n && !e->error; i++) {
        if (!attribute) {
            list.list[i] = template_filter(e, filter, &items.list[i], rest);
            continue;
        }
        list.list[i] = template_dotted(e, &items.list[i], attribute);
        if (otherwise && list.list[i].kind == VALUE_UNDEFINED)
            list.list[i] = *otherwise;
    }
    return list;
}

/* select, reject, selectattr, rejectattr. */
static struct value choose(struct eval *e, const struct value *v, const struct args *args,
                           bool by_attribute, bool wanted)
{
    struct value items = items_of(e, v);
    struct value list = value_list(e, items.n);
    struct args *rest = args_shift(e, args, by_attribute + 1u);
    int test = -1;
    list.n = 0;
    if (by_attribute && args->n_pos == 0)
        template_fail(e, -EINVAL, "selectattr and rejectattr need an attribute");
    if (args->n_pos > by_attribute) {
        const struct value *name = &args->pos[by_attribute];
        test = name->kind == VALUE_STRING ? template_test_find(name->s, name->n) : -1;
        if (test < 0)
            template_fail(e, -EINVAL, "no such test");
    }
    for (uint32_t i = 0; i < items.n && !e->error; i++) {
        struct value item = items.list[i];
        if (by_attribute)
            item = template_dotted(e, &item, &args->pos[0]);
        bool is = test < 0 ? value_truthy(&item) : template_test(e, test, &item, rest);
        if (is == wanted)
            list.list[list.n++] = items.list[i];
    }
    return list;
}

static struct value list_select(struct eval *e, const struct value *v, const struct args *args)
{
    return choose(e, v, args, false, true);
}

static struct value list_reject(struct eval *e, const struct value *v, const struct args *args)
{
    return choose(e, v, args, false, false);
}

static struct value list_selectattr(struct eval *e, const struct value *v, const struct args *args)
{
    return choose(e, v, args, true, true);
}

static struct value list_rejectattr(struct eval *e, const struct value *v, const struct args *args)
{
    return choose(e, v, args, true, false);
}

static struct value list_reverse(struct eval *e, const struct value *v, const struct args *args)
{
    (void)args;
    struct value none = value_none(), back = value_int(-1, true);
    if (v->kind == VALUE_STRING)
        return value_slice(e, v, &none, &none, &back);
    struct value items = value_iterable(e, v);
    struct value list = value_slice(e, &items, &none, &none, &back);
    list.detail = 0;
    return list;
}

struct sort_item {
    struct value key, value;
};

static void merge(struct eval *e, struct sort_item *to, const struct sort_item *a, uint32_t n_a,
                  const struct sort_item *b, uint32_t n_b, bool reverse)
{
    while (n_a && n_b) {
        int order = e->error ? 0 : value_compare(e, &a->key, &b->key);
        if (reverse ? order >= 0 : order <= 0) {
            *to++ = *a++;
            n_a--;
        } else {
            *to++ = *b++;
            n_b--;
        }
    }
    memcpy(to, a, n_a * sizeof(*a));
    memcpy(to + n_a, b, n_b * sizeof(*b));
}

/* Stable, bottom up; a reverse sort keeps equal items in their order, as Python does. */
static struct value sort_items(struct eval *e, struct sort_item *items, uint32_t n, bool reverse)
{
    struct sort_item *other = template_alloc(e, n * sizeof(*other));
    struct value list = value_list(e, n);
    if (e->error)
        return value_list(e, 0);
    for (uint32_t width = 1; width < n && !e->error; width *= 2) {
        template_spend(e, n / 4);
        for (uint32_t from = 0; from < n; from += 2 * width) {
            uint32_t n_a = min_of(width, n - from), n_b = min_of(width, n - from - n_a);
            merge(e, other + from, items + from, n_a, items + from + n_a, n_b, reverse);
        }
        struct sort_item *swap = items;
        items = other;
        other = swap;
    }
    for (uint32_t i = 0; i < n; i++)
        list.list[i] = items[i].value;
    return list;
}

static struct value sort_key(struct eval *e, const struct value *v, bool case_sensitive)
{
    if (v->kind != VALUE_STRING || case_sensitive)
        return *v;
    return string_case(e, v, CASE_LOWER);
}

static bool is_true(const struct args *args, uint32_t i, const char *keyword)
{
    const struct value *v = args_get(args, i, keyword);
    return v && value_truthy(v);
}

static struct value list_sort(struct eval *e, const struct value *v, const struct args *args)
{
    const struct value *attribute = args_get(args, 2, "attribute");
    struct value items = value_iterable(e, v);
    struct sort_item *sorted = template_alloc(e, items.n * sizeof(*sorted));
    for (uint32_t i = 0; i < items.n && !e->error; i++) {
        struct value key = items.list[i];
        if (attribute)
            key = template_dotted(e, &key, attribute);
        sorted[i].key = sort_key(e, &key, is_true(args, 1, "case_sensitive"));
        sorted[i].value = items.list[i];
    }
    return e->error ? value_none() : sort_items(e, sorted, items.n, is_true(args, 0, "reverse"));
}

static struct value list_dictsort(struct eval *e, const struct value *v, const struct args *args)
{
    const struct value *by = args_get(args, 1, "by");
    bool by_value = by && value_is(by, "value");
    if (v->kind != VALUE_DICT) {
        template_fail(e, -EINVAL, "dictsort of %s", value_kind_name(v));
        return value_none();
    }
    const struct dict *d = v->dict;
    struct sort_item *sorted = template_alloc(e, d->n * sizeof(*sorted));
    for (uint32_t i = 0; i < d->n && !e->error; i++) {
        const struct value *key = by_value ? &d->pairs[i].value : &d->pairs[i].key;
        sorted[i].key = sort_key(e, key, is_true(args, 0, "case_sensitive"));
        sorted[i].value = value_tuple2(e, &d->pairs[i].key, &d->pairs[i].value);
    }
    return e->error ? value_none() : sort_items(e, sorted, d->n, is_true(args, 2, "reverse"));
}

static struct value list_unique(struct eval *e, const struct value *v, const struct args *args)
{
    const struct value *attribute = args_get(args, 1, "attribute");
    struct value items = value_iterable(e, v);
    struct value list = value_list(e, items.n), keys = value_list(e, items.n);
    list.n = keys.n = 0;
    for (uint32_t i = 0; i < items.n && !e->error; i++) {
        struct value key = items.list[i];
        if (attribute)
            key = template_dotted(e, &key, attribute);
        key = sort_key(e, &key, is_true(args, 0, "case_sensitive"));
        if (value_contains(e, &keys, &key) || e->error)
            continue;
        keys.list[keys.n++] = key;
        list.list[list.n++] = items.list[i];
    }
    return list;
}

static struct value extreme(struct eval *e, const struct value *v, const struct args *args,
                            int wanted)
{
    const struct value *attribute = args_get(args, 1, "attribute");
    struct value items = value_iterable(e, v), best = value_undefined("an element of nothing"), key;
    for (uint32_t i = 0; i < items.n && !e->error; i++) {
        struct value k = items.list[i];
        if (attribute)
            k = template_dotted(e, &k, attribute);
        k = sort_key(e, &k, is_true(args, 0, "case_sensitive"));
        if (i > 0 && value_compare(e, &k, &key) * wanted <= 0)
            continue;
        best = items.list[i];
        key = k;
    }
    return best;
}

static struct value list_min(struct eval *e, const struct value *v, const struct args *args)
{
    return extreme(e, v, args, -1);
}

static struct value list_max(struct eval *e, const struct value *v, const struct args *args)
{
    return extreme(e, v, args, 1);
}

static struct value list_sum(struct eval *e, const struct value *v, const struct args *args)
{
    const struct value *attribute = args_get(args, 0, "attribute");
    const struct value *start = args_get(args, 1, "start");
    struct value items = value_iterable(e, v), sum = start ? *start : value_int(0, true);
    for (uint32_t i = 0; i < items.n && !e->error; i++) {
        struct value item = items.list[i];
        if (attribute)
            item = template_dotted(e, &item, attribute);
        sum = value_binary(e, '+', &sum, &item);
    }
    return sum;
}

#define FILTER(filter)                                                                             \
    {                                                                                              \
#filter, list_##filter                                                                     \
    }

static const struct {
    const char *name;
    struct value (*fn)(struct eval *e, const struct value *v, const struct args *args);
} list_filters[] = {
    FILTER(map),        FILTER(select),  FILTER(reject), FILTER(selectattr),
    FILTER(rejectattr), FILTER(reverse), FILTER(sort),   FILTER(dictsort),
    FILTER(unique),     FILTER(min),     FILTER(max),    FILTER(sum),
};

int template_list_filter_find(const char *name, size_t bytes)
{
    for (size_t i = 0; i < ARRAY_SIZE(list_filters); i++) {
        if (strlen(list_filters[i].name) == bytes && memcmp(list_filters[i].name, name, bytes) == 0)
            return (int)i;
    }
    return -1;
}

struct value template_list_filter(struct eval *e, int filter, const struct value *v,
                                  const struct args *args)
{
    return list_filters[filter].fn(e, v, args);
}
