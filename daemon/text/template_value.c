/*
 * Templates: values of one rendering. All memory is the caller's arena, taken and never given back
 * before the end; every walk spends steps, so nothing here can outlast the budget.
 */
#include "daemon/text/template_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/bits.h"

void template_fail(struct eval *e, int error, const char *format, ...)
{
    if (e->error)
        return;
    e->error = error;
    int n = snprintf(e->err, e->err_bytes, "template line %u: ", e->line);
    if (n < 0 || (size_t)n >= e->err_bytes)
        return;
    va_list ap;
    va_start(ap, format);
    vsnprintf(e->err + n, e->err_bytes - (size_t)n, format, ap);
    va_end(ap);
}

void *template_alloc(struct eval *e, size_t bytes)
{
    size_t left = e->arena_bytes - e->arena_used;
    if (e->error)
        return NULL;
    if (bytes > left || align_up(bytes, 8) > left) {
        template_fail(e, -ENOMEM, "needs more than its %zu bytes of memory", e->arena_bytes);
        return NULL;
    }
    void *p = e->arena + e->arena_used;
    e->arena_used += align_up(bytes, 8);
    return p;
}

void template_spend(struct eval *e, size_t steps)
{
    if (steps < e->steps_left) {
        e->steps_left -= (uint32_t)steps;
        return;
    }
    e->steps_left = 0;
    template_fail(e, -ETIME, "takes too many steps");
}

struct value value_undefined(const char *name)
{
    return (struct value){ .kind = VALUE_UNDEFINED, .trust = TRUST_YES, .aux = name };
}

struct value value_none(void)
{
    return (struct value){ .kind = VALUE_NONE, .trust = TRUST_YES };
}

struct value value_bool(bool b)
{
    return (struct value){ .kind = VALUE_BOOL, .trust = TRUST_YES, .i = b };
}

struct value value_int(int64_t i, bool trusted)
{
    return (struct value){ .kind = VALUE_INT, .trust = trusted, .i = i };
}

struct value value_float(double f, bool trusted)
{
    return (struct value){ .kind = VALUE_FLOAT, .trust = trusted, .f = f };
}

struct value value_literal(const char *s)
{
    return value_text(s, strlen(s), true);
}

struct value value_text(const char *s, size_t bytes, bool trusted)
{
    return (struct value){ .kind = VALUE_STRING, .trust = trusted, .n = (uint32_t)bytes, .s = s };
}

struct value value_list(struct eval *e, uint32_t n)
{
    struct value *items = template_alloc(e, (size_t)n * sizeof(*items));
    template_spend(e, n / 4);
    return (
        struct value){ .kind = VALUE_LIST, .trust = TRUST_YES, .n = items ? n : 0, .list = items };
}

struct value value_tuple2(struct eval *e, const struct value *a, const struct value *b)
{
    struct value tuple = value_list(e, 2);
    if (tuple.n == 2) {
        tuple.list[0] = *a;
        tuple.list[1] = *b;
        tuple.detail = 1;
    }
    return tuple;
}

struct value value_dict(struct eval *e, uint8_t kind, uint32_t n_max)
{
    struct dict *d = template_alloc(e, sizeof(*d));
    struct pair *pairs = template_alloc(e, (size_t)n_max * sizeof(*pairs));
    if (!d || !pairs)
        return value_none();
    *d = (struct dict){ .pairs = pairs, .n_max = n_max };
    return (struct value){ .kind = kind, .trust = TRUST_YES, .dict = d };
}

void dict_set(struct eval *e, struct dict *d, const struct value *key, const struct value *value)
{
    struct value *there = (struct value *)(uintptr_t)dict_find(e, d, key);
    if (there) {
        *there = *value;
        return;
    }
    if (e->error)
        return;
    if (d->n == d->n_max) {
        uint32_t n_max = d->n_max ? d->n_max * 2 : 4;
        struct pair *pairs = template_alloc(e, (size_t)n_max * sizeof(*pairs));
        if (!pairs)
            return;
        if (d->n)
            memcpy(pairs, d->pairs, d->n * sizeof(*pairs));
        d->pairs = pairs;
        d->n_max = n_max;
    }
    d->pairs[d->n++] = (struct pair){ *key, *value };
}

/* From the end, so that of two equal keys of a JSON object the last one holds. */
const struct value *dict_find(struct eval *e, const struct dict *d, const struct value *key)
{
    template_spend(e, d->n / 8);
    for (uint32_t i = d->n; i-- > 0 && !e->error;) {
        if (value_equal(e, &d->pairs[i].key, key))
            return &d->pairs[i].value;
    }
    return NULL;
}

static bool is_number(const struct value *v)
{
    return v->kind == VALUE_BOOL || v->kind == VALUE_INT || v->kind == VALUE_FLOAT;
}

static double as_double(const struct value *v)
{
    return v->kind == VALUE_FLOAT ? v->f : (double)v->i;
}

bool value_truthy(const struct value *v)
{
    switch (v->kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return false;
    case VALUE_BOOL:
    case VALUE_INT:
        return v->i != 0;
    case VALUE_FLOAT:
        return v->f != 0;
    case VALUE_STRING:
    case VALUE_LIST:
        return v->n > 0;
    case VALUE_DICT:
        return v->dict->n > 0;
    default:
        return true;
    }
}

static bool lists_equal(struct eval *e, const struct value *a, const struct value *b)
{
    if (a->n != b->n || a->detail != b->detail)
        return false;
    for (uint32_t i = 0; i < a->n && !e->error; i++) {
        if (!value_equal(e, &a->list[i], &b->list[i]))
            return false;
    }
    return !e->error;
}

static bool dicts_equal(struct eval *e, const struct dict *a, const struct dict *b)
{
    if (a->n != b->n)
        return false;
    for (uint32_t i = 0; i < a->n && !e->error; i++) {
        const struct value *other = dict_find(e, b, &a->pairs[i].key);
        if (!other || !value_equal(e, &a->pairs[i].value, other))
            return false;
    }
    return !e->error;
}

bool value_equal(struct eval *e, const struct value *a, const struct value *b)
{
    bool equal = false;
    template_spend(e, 1);
    if (e->error)
        return false;
    if (is_number(a) && is_number(b)) {
        if (a->kind != VALUE_FLOAT && b->kind != VALUE_FLOAT)
            return a->i == b->i;
        return as_double(a) == as_double(b);
    }
    if (a->kind != b->kind)
        return false;
    switch (a->kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return true;
    case VALUE_STRING:
        template_spend(e, a->n / 256);
        return a->n == b->n && (a->n == 0 || memcmp(a->s, b->s, a->n) == 0);
    case VALUE_LIST:
    case VALUE_DICT:
        if (++e->depth > TEMPLATE_DEPTH_MAX)
            template_fail(e, -ELOOP, "values nested too deeply");
        else
            equal = a->kind == VALUE_LIST ? lists_equal(e, a, b) : dicts_equal(e, a->dict, b->dict);
        e->depth--;
        return equal;
    default:
        return a->dict == b->dict && a->detail == b->detail;
    }
}

int value_compare(struct eval *e, const struct value *a, const struct value *b)
{
    template_spend(e, 1);
    if (is_number(a) && is_number(b)) {
        if (a->kind != VALUE_FLOAT && b->kind != VALUE_FLOAT)
            return (a->i > b->i) - (a->i < b->i);
        return (as_double(a) > as_double(b)) - (as_double(a) < as_double(b));
    }
    if (a->kind == VALUE_STRING && b->kind == VALUE_STRING) {
        uint32_t n = min_of(a->n, b->n);
        int order = n ? memcmp(a->s, b->s, n) : 0;
        template_spend(e, n / 256);
        return order ? order : (a->n > b->n) - (a->n < b->n);
    }
    if (a->kind == VALUE_LIST && b->kind == VALUE_LIST && e->depth < TEMPLATE_DEPTH_MAX) {
        e->depth++;
        int order = (a->n > b->n) - (a->n < b->n);
        for (uint32_t i = 0; i < a->n && i < b->n && !e->error; i++) {
            if (value_equal(e, &a->list[i], &b->list[i]))
                continue;
            order = value_compare(e, &a->list[i], &b->list[i]);
            break;
        }
        e->depth--;
        return order;
    }
    template_fail(e, -EINVAL, "%s and %s have no order", value_kind_name(a), value_kind_name(b));
    return 0;
}

bool value_contains(struct eval *e, const struct value *in, const struct value *what)
{
    switch (in->kind) {
    case VALUE_STRING:
        if (what->kind != VALUE_STRING) {
            template_fail(e, -EINVAL, "a string is searched for %s", value_kind_name(what));
            return false;
        }
        template_spend(e, in->n / 64);
        return what->n == 0 || (in->n && memmem(in->s, in->n, what->s, what->n));
    case VALUE_LIST:
        for (uint32_t i = 0; i < in->n && !e->error; i++) {
            if (value_equal(e, &in->list[i], what))
                return true;
        }
        return false;
    case VALUE_DICT:
        return dict_find(e, in->dict, what) != NULL;
    case VALUE_UNDEFINED:
        return false;
    default:
        template_fail(e, -EINVAL, "nothing can be in %s", value_kind_name(in));
        return false;
    }
}

static struct value string_characters(struct eval *e, const struct value *s)
{
    template_spend(e, s->n / 16);
    struct value list = value_list(e, utf8_count(s->s, s->n));
    uint32_t at = 0;
    for (uint32_t i = 0; i < list.n; i++) {
        uint32_t bytes = utf8_offset(s->s + at, s->n - at, 1);
        list.list[i] = string_slice(s, at, at + bytes);
        at += bytes;
    }
    return list;
}

struct value value_iterable(struct eval *e, const struct value *v)
{
    struct value list;
    switch (v->kind) {
    case VALUE_LIST:
        return *v;
    case VALUE_DICT:
        list = value_list(e, v->dict->n);
        for (uint32_t i = 0; i < list.n; i++)
            list.list[i] = v->dict->pairs[i].key;
        return list;
    case VALUE_STRING:
        return string_characters(e, v);
    case VALUE_UNDEFINED:
        return value_list(e, 0);
    default:
        template_fail(e, -EINVAL, "%s cannot be walked over", value_kind_name(v));
        return value_list(e, 0);
    }
}

const char *value_kind_name(const struct value *v)
{
    static const char *const names[] = {
        [VALUE_UNDEFINED] = "an undefined value",
        [VALUE_NONE] = "none",
        [VALUE_BOOL] = "a boolean",
        [VALUE_INT] = "an integer",
        [VALUE_FLOAT] = "a float",
        [VALUE_STRING] = "a string",
        [VALUE_LIST] = "a list",
        [VALUE_DICT] = "a mapping",
        [VALUE_NAMESPACE] = "a namespace",
        [VALUE_MACRO] = "a macro",
        [VALUE_BUILTIN] = "a function",
        [VALUE_METHOD] = "a method",
        [VALUE_LOOP] = "a loop",
    };
    return v->kind < ARRAY_SIZE(names) ? names[v->kind] : "a value";
}

bool value_is(const struct value *v, const char *s)
{
    size_t n = strlen(s);
    return v->kind == VALUE_STRING && v->n == n && memcmp(v->s, s, n) == 0;
}

bool value_trusted(const struct value *v)
{
    return v->trust == TRUST_YES;
}
