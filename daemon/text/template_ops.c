/* Templates: operators, attributes, subscripts and slices, with Python's rules. */
#include "daemon/text/template_internal.h"

#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/bits.h"

static bool is_integer(const struct value *v)
{
    return v->kind == VALUE_INT || v->kind == VALUE_BOOL;
}

static bool is_number(const struct value *v)
{
    return is_integer(v) || v->kind == VALUE_FLOAT;
}

static double as_double(const struct value *v)
{
    return v->kind == VALUE_FLOAT ? v->f : (double)v->i;
}

static struct value bad_operands(struct eval *e, uint32_t op, const struct value *a,
                                 const struct value *b)
{
    const char *undefined = a->kind == VALUE_UNDEFINED   ? a->aux
                            : b->kind == VALUE_UNDEFINED ? b->aux
                                                         : NULL;
    const char *name = op == OP_POW ? "**" : op == OP_FLOOR_DIV ? "//" : NULL;
    char one[2] = { (char)op, '\0' };
    if (undefined)
        template_fail(e, -EINVAL, "%s is undefined", undefined);
    else
        template_fail(e, -EINVAL, "no %s of %s and %s", name ? name : one, value_kind_name(a),
                      value_kind_name(b));
    return value_none();
}

static int64_t floor_div(int64_t a, int64_t b)
{
    int64_t q = a / b;
    return q - ((a % b != 0) && ((a < 0) != (b < 0)));
}

static struct value integers(struct eval *e, uint32_t op, int64_t a, int64_t b, bool trusted)
{
    int64_t r = 0;
    bool overflow = false;
    if ((op == OP_FLOOR_DIV || op == '%' || op == '/') && b == 0) {
        template_fail(e, -EINVAL, "division by zero");
        return value_none();
    }
    switch (op) {
    case '+':
        overflow = add_overflows(a, b, &r);
        break;
    case '-':
        overflow = __builtin_sub_overflow(a, b, &r);
        break;
    case '*':
        overflow = mul_overflows(a, b, &r);
        break;
    case '/':
        return value_float((double)a / (double)b, trusted);
    case OP_FLOOR_DIV:
    case '%':
        overflow = a == INT64_MIN && b == -1;
        if (!overflow)
            r = op == '%' ? a - floor_div(a, b) * b : floor_div(a, b);
        break;
    case OP_POW:
        if (b < 0)
            return value_float(pow((double)a, (double)b), trusted);
        r = 1;
        for (int64_t i = 0; i < b && !overflow && !e->error; i++) {
            template_spend(e, 1);
            overflow = mul_overflows(r, a, &r);
        }
        break;
    }
    if (overflow)
        template_fail(e, -EINVAL, "a number beyond 64 bits");
    return value_int(r, trusted);
}

static struct value floats(struct eval *e, uint32_t op, double a, double b, bool trusted)
{
    double r = 0;
    if ((op == OP_FLOOR_DIV || op == '%' || op == '/') && b == 0) {
        template_fail(e, -EINVAL, "division by zero");
        return value_none();
    }
    switch (op) {
    case '+':
        r = a + b;
        break;
    case '-':
        r = a - b;
        break;
    case '*':
        r = a * b;
        break;
    case '/':
        r = a / b;
        break;
    case OP_FLOOR_DIV:
        r = floor(a / b);
        break;
    case '%':
        r = fmod(a, b);
        if (r != 0 && (r < 0) != (b < 0))
            r += b;
        break;
    case OP_POW:
        r = pow(a, b);
        break;
    }
    return value_float(r, trusted);
}

static struct value repeat(struct eval *e, const struct value *v, int64_t times)
{
    times = times < 0 ? 0 : times;
    if (v->n && times > (int64_t)(UINT32_MAX / 2 / v->n)) {
        template_fail(e, -ENOSPC, "a value repeated too often");
        return value_none();
    }
    if (v->kind == VALUE_STRING) {
        struct text_builder b = text_begin(e, v->n * (size_t)times);
        for (int64_t i = 0; v->n && i < times && !e->error; i++) {
            template_spend(e, 1);
            text_add_value(&b, v);
        }
        return text_end(&b);
    }
    struct value list = value_list(e, v->n * (uint32_t)times);
    for (uint32_t i = 0; i < list.n; i++)
        list.list[i] = v->list[i % v->n];
    list.detail = v->detail;
    return list;
}

static struct value join_lists(struct eval *e, const struct value *a, const struct value *b)
{
    struct value list = value_list(e, a->n + b->n);
    if (e->error)
        return list;
    for (uint32_t i = 0; i < a->n; i++)
        list.list[i] = a->list[i];
    for (uint32_t i = 0; i < b->n; i++)
        list.list[a->n + i] = b->list[i];
    list.detail = a->detail;
    return list;
}

/* 'text %s' % value or % (values). */
static struct value percent(struct eval *e, const struct value *format, const struct value *with)
{
    struct text_builder b = text_begin(e, format->n);
    const struct value *values = with;
    uint32_t n = 1, used = 0, from = 0, at = 0;
    if (with->kind == VALUE_LIST && with->detail) {
        values = with->list;
        n = with->n;
    }
    for (; at < format->n && !e->error; at++) {
        if (format->s[at] != '%')
            continue;
        struct value before = string_slice(format, from, at);
        text_add_value(&b, &before);
        char c = ++at < format->n ? format->s[at] : '\0';
        from = at + 1;
        if (c == '%') {
            text_add_literal(&b, "%");
            continue;
        }
        if ((c != 's' && c != 'd' && c != 'i') || used == n) {
            template_fail(e, -EINVAL, "a %% format that is not understood");
            break;
        }
        struct value text = value_to_string(e, &values[used++]);
        text_add_value(&b, &text);
    }
    if (from < format->n) {
        struct value rest = string_slice(format, from, format->n);
        text_add_value(&b, &rest);
    }
    return text_end(&b);
}

struct value value_binary(struct eval *e, uint32_t op, const struct value *a, const struct value *b)
{
    bool trusted = value_trusted(a) && value_trusted(b);
    if (is_integer(a) && is_integer(b))
        return integers(e, op, a->i, b->i, trusted);
    if (is_number(a) && is_number(b))
        return floats(e, op, as_double(a), as_double(b), trusted);
    if (op == '+' && a->kind == VALUE_STRING && b->kind == VALUE_STRING) {
        struct text_builder t = text_begin(e, (size_t)a->n + b->n);
        text_add_value(&t, a);
        text_add_value(&t, b);
        return text_end(&t);
    }
    if (op == '+' && a->kind == VALUE_LIST && b->kind == VALUE_LIST && a->detail == b->detail)
        return join_lists(e, a, b);
    if (op == '*' && (a->kind == VALUE_STRING || a->kind == VALUE_LIST) && is_integer(b))
        return repeat(e, a, b->i);
    if (op == '*' && (b->kind == VALUE_STRING || b->kind == VALUE_LIST) && is_integer(a))
        return repeat(e, b, a->i);
    if (op == '%' && a->kind == VALUE_STRING)
        return percent(e, a, b);
    return bad_operands(e, op, a, b);
}

static struct value loop_attribute(const struct loop *loop, const char *name, uint32_t bytes)
{
    static const char *const names[] = { "index",  "index0",   "revindex", "revindex0",
                                         "first",  "last",     "length",   "depth",
                                         "depth0", "previtem", "nextitem" };
    uint32_t n = loop->items.n, i = loop->index0;
    size_t which = 0;
    while (which < ARRAY_SIZE(names) &&
           (strlen(names[which]) != bytes || memcmp(names[which], name, bytes) != 0))
        which++;
    switch (which) {
    case 0:
        return value_int(i + 1, true);
    case 1:
        return value_int(i, true);
    case 2:
        return value_int(n - i, true);
    case 3:
        return value_int(n - i - 1, true);
    case 4:
        return value_bool(i == 0);
    case 5:
        return value_bool(i + 1 == n);
    case 6:
        return value_int(n, true);
    case 7: /* only recursive loops, which are not in the subset, go deeper */
    case 8:
        return value_int(which == 7, true);
    case 9:
        return i > 0 ? loop->items.list[i - 1] : value_undefined("loop.previtem");
    case 10:
        return i + 1 < n ? loop->items.list[i + 1] : value_undefined("loop.nextitem");
    default:
        return value_undefined("an attribute of loop");
    }
}

static struct value method_of(struct eval *e, const struct value *v, const char *name,
                              uint32_t bytes)
{
    int method = template_method_find(v, name, bytes);
    struct value *self = method < 0 ? NULL : template_alloc(e, sizeof(*self));
    if (!self)
        return value_undefined("an attribute");
    *self = *v;
    return (struct value){
        .kind = VALUE_METHOD, .trust = TRUST_YES, .detail = (uint16_t)method, .aux = self
    };
}

static struct value member_of(struct eval *e, const struct value *v, const struct value *key)
{
    const struct value *found = NULL;
    if (v->kind == VALUE_DICT || v->kind == VALUE_NAMESPACE)
        found = dict_find(e, v->dict, key);
    return found ? *found : value_undefined("a member");
}

static struct value undefined_access(struct eval *e, const struct value *v, const char *name,
                                     uint32_t bytes)
{
    template_fail(e, -EINVAL, "%s is undefined, so it has no %.*s",
                  v->aux ? (const char *)v->aux : "a value", (int)min_of(bytes, 40u), name);
    return value_none();
}

struct value value_attribute(struct eval *e, const struct value *v, const char *name,
                             uint32_t bytes)
{
    struct value key = value_text(name, bytes, true);
    if (v->kind == VALUE_UNDEFINED)
        return undefined_access(e, v, name, bytes);
    if (v->kind == VALUE_LOOP)
        return loop_attribute(v->loop, name, bytes);
    if (v->kind == VALUE_NAMESPACE)
        return member_of(e, v, &key);
    struct value found = method_of(e, v, name, bytes);
    return found.kind == VALUE_METHOD ? found : member_of(e, v, &key);
}

/* The place of index in n elements, counted from the end when negative; n when out of range. */
static uint32_t place(int64_t index, uint32_t n)
{
    if (index < 0)
        index += n;
    return index < 0 || index >= n ? n : (uint32_t)index;
}

struct value value_item(struct eval *e, const struct value *v, const struct value *index)
{
    if (v->kind == VALUE_UNDEFINED)
        return undefined_access(e, v, index->kind == VALUE_STRING ? index->s : "item",
                                index->kind == VALUE_STRING ? index->n : 4);
    if (v->kind == VALUE_LIST && is_integer(index)) {
        uint32_t i = place(index->i, v->n);
        return i < v->n ? v->list[i] : value_undefined("an element past the end");
    }
    if (v->kind == VALUE_STRING && is_integer(index)) {
        template_spend(e, v->n / 16);
        uint32_t n = utf8_count(v->s, v->n), i = place(index->i, n);
        if (i == n)
            return value_undefined("a character past the end");
        uint32_t at = utf8_offset(v->s, v->n, i);
        return string_slice(v, at, at + utf8_offset(v->s + at, v->n - at, 1));
    }
    struct value found = member_of(e, v, index);
    if (found.kind != VALUE_UNDEFINED || index->kind != VALUE_STRING)
        return found;
    if (v->kind == VALUE_LOOP)
        return loop_attribute(v->loop, index->s, index->n);
    return method_of(e, v, index->s, index->n);
}

/* Python's slice.indices for one bound. */
static int64_t bound(const struct value *v, int64_t n, int64_t step, int64_t otherwise)
{
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    if (!is_integer(v))
        return otherwise;
    int64_t i = v->i < -n ? -n - 1 : v->i > n ? n : v->i;
    if (i < 0)
        i += n;
    return i < low ? low : i > high ? high : i;
}

struct value value_slice(struct eval *e, const struct value *v, const struct value *start,
                         const struct value *stop, const struct value *step)
{
    if (v->kind == VALUE_UNDEFINED)
        return undefined_access(e, v, "slice", 5);
    if (v->kind != VALUE_LIST && v->kind != VALUE_STRING) {
        template_fail(e, -EINVAL, "%s cannot be sliced", value_kind_name(v));
        return value_none();
    }
    bool string = v->kind == VALUE_STRING, run = string && !(is_integer(step) && step->i != 1);
    struct value items = run ? *v : value_iterable(e, v);
    int64_t n = run ? utf8_count(v->s, v->n) : items.n, by = is_integer(step) ? step->i : 1;
    template_spend(e, run ? v->n / 16 : 0);
    if (by == 0 || by > UINT32_MAX || by < -(int64_t)UINT32_MAX) {
        template_fail(e, -EINVAL, "a slice with a step of zero or beyond 32 bits");
        return value_none();
    }
    int64_t from = bound(start, n, by, by < 0 ? n - 1 : 0);
    int64_t to = bound(stop, n, by, by < 0 ? -1 : n);
    int64_t count = by > 0 ? (to - from + by - 1) / by : (from - to - by - 1) / -by;
    if (run) {
        uint32_t at = utf8_offset(v->s, v->n, (uint32_t)from);
        uint32_t bytes = utf8_offset(v->s + at, v->n - at, count > 0 ? (uint32_t)count : 0);
        return string_slice(v, at, at + bytes);
    }
    if (string) {
        struct text_builder b = text_begin(e, v->n);
        for (int64_t i = 0; i < count && !e->error; i++)
            text_add_value(&b, &items.list[from + i * by]);
        return text_end(&b);
    }
    struct value list = value_list(e, count > 0 ? (uint32_t)count : 0);
    for (uint32_t i = 0; i < list.n; i++)
        list.list[i] = items.list[from + i * by];
    list.detail = v->detail;
    return list;
}
