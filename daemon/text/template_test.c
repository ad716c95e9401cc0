/* Templates: the tests behind `is`, and behind select and its relatives. */
#include "daemon/text/template_internal.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include <utf8proc.h>

enum {
    TEST_DEFINED,
    TEST_UNDEFINED,
    TEST_NONE,
    TEST_STRING,
    TEST_NUMBER,
    TEST_INTEGER,
    TEST_FLOAT,
    TEST_BOOLEAN,
    TEST_TRUE,
    TEST_FALSE,
    TEST_MAPPING,
    TEST_ITERABLE,
    TEST_SEQUENCE,
    TEST_CALLABLE,
    TEST_EVEN,
    TEST_ODD,
    TEST_DIVISIBLE,
    TEST_EQ,
    TEST_NE,
    TEST_LT,
    TEST_LE,
    TEST_GT,
    TEST_GE,
    TEST_IN,
    TEST_LOWER,
    TEST_UPPER,
    TEST_SAME,
};

static const struct {
    const char *name;
    int test;
} tests[] = {
    { "defined", TEST_DEFINED },
    { "undefined", TEST_UNDEFINED },
    { "none", TEST_NONE },
    { "string", TEST_STRING },
    { "number", TEST_NUMBER },
    { "integer", TEST_INTEGER },
    { "float", TEST_FLOAT },
    { "boolean", TEST_BOOLEAN },
    { "true", TEST_TRUE },
    { "false", TEST_FALSE },
    { "mapping", TEST_MAPPING },
    { "iterable", TEST_ITERABLE },
    { "sequence", TEST_SEQUENCE },
    { "callable", TEST_CALLABLE },
    { "even", TEST_EVEN },
    { "odd", TEST_ODD },
    { "eq", TEST_EQ },
    { "divisibleby", TEST_DIVISIBLE },
    { "equalto", TEST_EQ },
    { "==", TEST_EQ },
    { "ne", TEST_NE },
    { "!=", TEST_NE },
    { "lt", TEST_LT },
    { "lessthan", TEST_LT },
    { "<", TEST_LT },
    { "le", TEST_LE },
    { "<=", TEST_LE },
    { "gt", TEST_GT },
    { "greaterthan", TEST_GT },
    { ">", TEST_GT },
    { "ge", TEST_GE },
    { ">=", TEST_GE },
    { "in", TEST_IN },
    { "lower", TEST_LOWER },
    { "upper", TEST_UPPER },
    { "sameas", TEST_SAME },
};

int template_test_find(const char *name, size_t bytes)
{
    for (size_t i = 0; i < ARRAY_SIZE(tests); i++) {
        if (strlen(tests[i].name) == bytes && memcmp(tests[i].name, name, bytes) == 0)
            return tests[i].test;
    }
    return -1;
}

/* Python's islower and isupper: some letter has the case and none the other. */
static bool has_case(struct eval *e, const struct value *v, bool upper)
{
    struct value text = value_to_string(e, v);
    bool some = false;
    uint32_t bytes;
    v = &text;
    template_spend(e, v->n / 8);
    for (uint32_t at = 0; at < v->n; at += bytes) {
        uint32_t c = utf8_decode(v->s + at, v->n - at, &bytes);
        utf8proc_category_t category = utf8proc_category((utf8proc_int32_t)c);
        if (category == (upper ? UTF8PROC_CATEGORY_LL : UTF8PROC_CATEGORY_LU) ||
            category == UTF8PROC_CATEGORY_LT)
            return false;
        some |= category == (upper ? UTF8PROC_CATEGORY_LU : UTF8PROC_CATEGORY_LL);
    }
    return some;
}

static bool divisible(struct eval *e, const struct value *v, int64_t by, int64_t rest)
{
    if (v->kind == VALUE_FLOAT && by != 0)
        return fabs(fmod(v->f, (double)by)) == (double)rest;
    if ((v->kind != VALUE_INT && v->kind != VALUE_BOOL) || by == 0 || by == -1) {
        if (by != -1)
            template_fail(e, -EINVAL, "a division test of %s", value_kind_name(v));
        return !e->error;
    }
    int64_t r = v->i % by;
    return (r < 0 ? -r : r) == rest;
}

static bool same(const struct value *a, const struct value *b)
{
    if (a->kind != b->kind)
        return false;
    switch (a->kind) {
    case VALUE_UNDEFINED:
    case VALUE_NONE:
        return true;
    case VALUE_FLOAT:
        return a->f == b->f;
    case VALUE_STRING:
        return a->n == b->n && (a->n == 0 || memcmp(a->s, b->s, a->n) == 0);
    default:
        return a->i == b->i;
    }
}

static bool compares(struct eval *e, int test, const struct value *v, const struct value *other)
{
    switch (test) {
    case TEST_EQ:
        return value_equal(e, v, other);
    case TEST_NE:
        return !value_equal(e, v, other);
    case TEST_LT:
        return value_compare(e, v, other) < 0;
    case TEST_LE:
        return value_compare(e, v, other) <= 0;
    case TEST_GT:
        return value_compare(e, v, other) > 0;
    case TEST_GE:
        return value_compare(e, v, other) >= 0;
    case TEST_IN:
        return value_contains(e, other, v);
    case TEST_SAME:
        return same(v, other);
    default:
        return other->kind == VALUE_INT && divisible(e, v, other->i, 0);
    }
}

bool template_test(struct eval *e, int test, const struct value *v, const struct args *args)
{
    template_spend(e, 1);
    switch (test) {
    case TEST_DEFINED:
        return v->kind != VALUE_UNDEFINED;
    case TEST_UNDEFINED:
        return v->kind == VALUE_UNDEFINED;
    case TEST_NONE:
        return v->kind == VALUE_NONE;
    case TEST_STRING:
        return v->kind == VALUE_STRING;
    case TEST_NUMBER:
        return v->kind == VALUE_INT || v->kind == VALUE_FLOAT || v->kind == VALUE_BOOL;
    case TEST_INTEGER:
        return v->kind == VALUE_INT || v->kind == VALUE_BOOL;
    case TEST_FLOAT:
        return v->kind == VALUE_FLOAT;
    case TEST_BOOLEAN:
        return v->kind == VALUE_BOOL;
    case TEST_TRUE:
        return v->kind == VALUE_BOOL && v->i;
    case TEST_FALSE:
        return v->kind == VALUE_BOOL && !v->i;
    case TEST_MAPPING:
        return v->kind == VALUE_DICT;
    case TEST_ITERABLE:
    case TEST_SEQUENCE:
        return v->kind == VALUE_STRING || v->kind == VALUE_LIST || v->kind == VALUE_DICT ||
               v->kind == VALUE_UNDEFINED;
    case TEST_CALLABLE:
        return v->kind == VALUE_MACRO || v->kind == VALUE_BUILTIN || v->kind == VALUE_METHOD;
    case TEST_EVEN:
        return divisible(e, v, 2, 0);
    case TEST_ODD:
        return divisible(e, v, 2, 1);
    case TEST_LOWER:
    case TEST_UPPER:
        return has_case(e, v, test == TEST_UPPER);
    default:
        if (args->n_pos >= 1)
            return compares(e, test, v, &args->pos[0]);
        template_fail(e, -EINVAL, "a test that needs an argument has none");
        return false;
    }
}
