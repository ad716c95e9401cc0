/*
 * Templates, third stage: expressions. A tree walk with a sticky error: once e->error is set,
 * everything returns quickly. Depth is counted in eval_expr and exec_body, so the C stack is
 * bounded; steps are spent per node, so time is.
 */
#include "daemon/text/template_eval.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const struct node *node_at(const struct eval *e, uint32_t i)
{
    return &e->t->nodes[i];
}

struct value node_text(const struct eval *e, uint32_t off, uint32_t bytes)
{
    return value_text(e->t->pool + off, bytes, true);
}

/* ---- variables ---- */

static struct variable *scope_find(struct eval *e, struct scope *scope, const struct value *name)
{
    for (struct variable *v = scope->variables; v; v = v->next) {
        template_spend(e, 1);
        if (v->name_bytes == name->n && memcmp(v->name, name->s, name->n) == 0)
            return v;
    }
    return NULL;
}

void scope_set(struct eval *e, struct scope *scope, const struct value *name,
               const struct value *value)
{
    struct variable *v = scope_find(e, scope, name);
    if (!v) {
        v = e->free_variables;
        if (v)
            e->free_variables = v->next;
        else
            v = template_alloc(e, sizeof(*v));
        if (!v)
            return;
        *v = (struct variable){ .name = name->s, .name_bytes = name->n, .next = scope->variables };
        scope->variables = v;
    }
    v->value = *value;
}

struct scope *scope_push(struct eval *e, struct scope *parent)
{
    struct scope *scope = e->free_scopes;
    if (scope)
        e->free_scopes = scope->parent;
    else
        scope = template_alloc(e, sizeof(*scope));
    if (scope)
        *scope = (struct scope){ .parent = parent };
    return scope;
}

void scope_pop(struct eval *e, struct scope *scope)
{
    struct variable **tail = &scope->variables;
    if (scope->kept)
        return;
    while (*tail)
        tail = &(*tail)->next;
    *tail = e->free_variables;
    e->free_variables = scope->variables;
    scope->parent = e->free_scopes;
    e->free_scopes = scope;
}

static struct value lookup(struct eval *e, const struct node *node)
{
    struct value name = node_text(e, node->a, node->b);
    for (struct scope *scope = e->scope; scope && !e->error; scope = scope->parent) {
        struct variable *v = scope_find(e, scope, &name);
        if (v)
            return v->value;
    }
    char *copy = template_alloc(e, node->b + 1u);
    if (!copy)
        return value_none();
    memcpy(copy, name.s, node->b);
    copy[node->b] = '\0';
    return value_undefined(copy);
}

/* ---- calls ---- */

static struct args *eval_args(struct eval *e, uint32_t first)
{
    struct args *args = e->free_args;
    if (args)
        e->free_args = args->next_free;
    else
        args = template_alloc(e, sizeof(*args));
    if (!args)
        return NULL;
    args->n_pos = args->n_kw = 0;
    for (uint32_t i = first; i && !e->error; i = node_at(e, i)->next) {
        const struct node *arg = node_at(e, i);
        if (arg->c == 0) {
            args->pos[args->n_pos++] = eval_expr(e, arg->a);
            continue;
        }
        args->kw[args->n_kw].name = e->t->pool + arg->b;
        args->kw[args->n_kw].bytes = arg->c;
        args->kw[args->n_kw++].value = eval_expr(e, arg->a);
    }
    return args;
}

/* No value points into args, so they are free once the call is over. */
static void free_args(struct eval *e, struct args *args)
{
    args->next_free = e->free_args;
    e->free_args = args;
}

static struct value call_range(struct eval *e, const struct args *args)
{
    int64_t from = args_int(e, args, 0, NULL, 0), to = args_int(e, args, 1, NULL, 0);
    int64_t step = args_int(e, args, 2, NULL, 1);
    if (args->n_pos == 1) {
        to = from;
        from = 0;
    }
    int64_t limit = INT64_C(1) << 40;
    if (args->n_pos == 0 || step == 0 || from > limit || from < -limit || to > limit ||
        to < -limit || step > limit || step < -limit) {
        template_fail(e, -EINVAL, "range: arguments out of range");
        return value_none();
    }
    int64_t n = step > 0 ? (to - from + step - 1) / step : (from - to - step - 1) / -step;
    n = n < 0 ? 0 : n;
    if (n > TEMPLATE_RANGE_MAX) {
        template_fail(e, -EINVAL, "range: more than %d numbers", TEMPLATE_RANGE_MAX);
        return value_none();
    }
    struct value list = value_list(e, (uint32_t)n);
    for (uint32_t i = 0; i < list.n; i++)
        list.list[i] = value_int(from + (int64_t)i * step, true);
    return list;
}

static struct value call_dict(struct eval *e, uint8_t kind, const struct args *args)
{
    struct value d = value_dict(e, kind, args->n_kw);
    const struct value *from = args_get(args, 0, NULL);
    if (from && from->kind == VALUE_DICT && !e->error) {
        for (uint32_t i = 0; i < from->dict->n; i++)
            dict_set(e, d.dict, &from->dict->pairs[i].key, &from->dict->pairs[i].value);
    }
    for (uint32_t i = 0; i < args->n_kw && !e->error; i++) {
        struct value key = value_text(args->kw[i].name, args->kw[i].bytes, true);
        dict_set(e, d.dict, &key, &args->kw[i].value);
    }
    return d;
}

static struct value call_raise(struct eval *e, const struct args *args)
{
    const struct value *why = args_get(args, 0, "message");
    struct value text = why ? value_to_string(e, why) : value_literal("refused");
    if (!e->error) {
        e->error = -ECANCELED;
        snprintf(e->err, e->err_bytes, "%.*s", (int)min_of(text.n, 400u), text.s);
    }
    return value_none();
}

static struct value call_strftime(struct eval *e, const struct args *args)
{
    const struct value *format = args_get(args, 0, "format");
    char pattern[128];
    struct tm tm;
    time_t now = (time_t)e->in->now_local_s;
    if (!format || format->kind != VALUE_STRING || format->n >= sizeof(pattern) ||
        !gmtime_r(&now, &tm)) {
        template_fail(e, -EINVAL, "strftime_now: a format of at most 127 bytes is needed");
        return value_none();
    }
    memcpy(pattern, format->s, format->n);
    pattern[format->n] = '\0';
    char *text = template_alloc(e, 512);
    size_t n = text ? strftime(text, 512, pattern, &tm) : 0;
    return value_text(text, n, value_trusted(format));
}

static struct value call_builtin(struct eval *e, uint16_t which, const struct args *args)
{
    switch (which) {
    case BUILTIN_RANGE:
        return call_range(e, args);
    case BUILTIN_NAMESPACE:
        return call_dict(e, VALUE_NAMESPACE, args);
    case BUILTIN_DICT:
        return call_dict(e, VALUE_DICT, args);
    case BUILTIN_STRFTIME:
        return call_strftime(e, args);
    default:
        return call_raise(e, args);
    }
}

/* A macro's text: it is written behind the output so far, taken from there and cut off again. */
struct value capture_end(struct eval *e, size_t start)
{
    struct text_builder b = text_begin(e, e->out_bytes - start);
    for (size_t from = start, to; from < e->out_bytes && !e->error; from = to) {
        uint8_t trust = e->trusted[from];
        for (to = from + 1; to < e->out_bytes && e->trusted[to] == trust; to++)
            ;
        text_add(&b, e->out + from, to - from, trust, NULL);
    }
    e->out_bytes = start;
    return text_end(&b);
}

static void bind_parameters(struct eval *e, struct scope *scope, uint32_t first,
                            const struct args *args)
{
    uint32_t i = 0;
    for (uint32_t p = first; p && !e->error; p = node_at(e, p)->next, i++) {
        const struct node *param = node_at(e, p);
        struct value name = node_text(e, param->a, param->b),
                     value = value_undefined("a parameter");
        const struct value *given = i < args->n_pos ? &args->pos[i] : NULL;
        for (uint32_t k = 0; !given && k < args->n_kw; k++) {
            if (args->kw[k].bytes == name.n && memcmp(args->kw[k].name, name.s, name.n) == 0)
                given = &args->kw[k].value;
        }
        if (given)
            value = *given;
        else if (param->c)
            value = eval_expr(e, param->c);
        scope_set(e, scope, &name, &value);
    }
    if (args->n_pos > i)
        template_fail(e, -EINVAL, "a macro takes at most %u arguments", i);
}

struct value call_macro(struct eval *e, const struct macro *macro, const struct args *args,
                        const struct value *caller)
{
    const struct node *parts = node_at(e, macro->node->c);
    struct scope *saved_scope = e->scope, *scope = scope_push(e, macro->scope);
    struct loop *saved_loop = e->loop;
    size_t start = e->out_bytes;
    if (!scope)
        return value_none();
    e->scope = scope;
    e->loop = NULL;
    bind_parameters(e, scope, parts->a, args);
    if (caller) {
        struct value name = value_literal("caller");
        scope_set(e, scope, &name, caller);
    }
    exec_body(e, parts->b);
    e->scope = saved_scope;
    e->loop = saved_loop;
    scope_pop(e, scope);
    return capture_end(e, start);
}

static struct value cycle(struct eval *e, const struct loop *loop, const struct args *args)
{
    if (args->n_pos == 0) {
        template_fail(e, -EINVAL, "loop.cycle needs arguments");
        return value_none();
    }
    return args->pos[loop->index0 % args->n_pos];
}

struct value eval_call(struct eval *e, const struct node *node, const struct value *caller)
{
    const struct node *callee = node_at(e, node->a);
    if (callee->kind == NODE_ATTR && e->loop && callee->c == 5 &&
        memcmp(e->t->pool + callee->b, "cycle", 5) == 0) {
        struct value object = eval_expr(e, callee->a);
        struct args *args = eval_args(e, node->b);
        if (!e->error && object.kind == VALUE_LOOP)
            return cycle(e, object.loop, args);
    }
    struct value fn = eval_expr(e, node->a), result = value_none();
    struct args *args = eval_args(e, node->b);
    if (e->error)
        return result;
    switch (fn.kind) {
    case VALUE_MACRO:
        result = call_macro(e, fn.macro, args, caller);
        break;
    case VALUE_BUILTIN:
        result = call_builtin(e, fn.detail, args);
        break;
    case VALUE_METHOD:
        result = template_method(e, fn.aux, fn.detail, args);
        break;
    case VALUE_UNDEFINED:
        template_fail(e, -EINVAL, "%s is undefined and cannot be called",
                      fn.aux ? (const char *)fn.aux : "a value");
        break;
    default:
        template_fail(e, -EINVAL, "%s cannot be called", value_kind_name(&fn));
    }
    free_args(e, args);
    return result;
}

/* ---- operators ---- */

static bool operand_holds(struct eval *e, uint16_t op, const struct value *a, const struct value *b)
{
    switch (op) {
    case OP_EQ:
        return value_equal(e, a, b);
    case OP_NE:
        return !value_equal(e, a, b);
    case '<':
        return value_compare(e, a, b) < 0;
    case '>':
        return value_compare(e, a, b) > 0;
    case OP_LE:
        return value_compare(e, a, b) <= 0;
    case OP_GE:
        return value_compare(e, a, b) >= 0;
    case OPERAND_IN:
        return value_contains(e, b, a);
    default:
        return !value_contains(e, b, a);
    }
}

static struct value eval_compare(struct eval *e, const struct node *node)
{
    struct value left = eval_expr(e, node->a);
    bool holds = true;
    for (uint32_t i = node->b; i && holds && !e->error; i = node_at(e, i)->next) {
        struct value right = eval_expr(e, node_at(e, i)->a);
        if (e->error)
            break;
        holds = operand_holds(e, node_at(e, i)->op, &left, &right);
        left = right;
    }
    return value_bool(holds);
}

static struct value eval_concat(struct eval *e, const struct node *node)
{
    struct text_builder b = text_begin(e, 64);
    for (uint32_t i = node->a; i && !e->error; i = node_at(e, i)->next) {
        struct value part = eval_expr(e, node_at(e, i)->a);
        part = value_to_string(e, &part);
        text_add_value(&b, &part);
    }
    return text_end(&b);
}

static struct value eval_list(struct eval *e, const struct node *node)
{
    uint32_t n = 0;
    for (uint32_t i = node->a; i; i = node_at(e, i)->next)
        n++;
    struct value list = value_list(e, n);
    for (uint32_t i = node->a, k = 0; i && k < list.n && !e->error; i = node_at(e, i)->next)
        list.list[k++] = eval_expr(e, node_at(e, i)->a);
    list.detail = node->op;
    return list;
}

static struct value eval_dict(struct eval *e, const struct node *node)
{
    struct value d = value_dict(e, VALUE_DICT, 4);
    for (uint32_t i = node->a; i && !e->error; i = node_at(e, i)->next) {
        struct value key = eval_expr(e, node_at(e, i)->a);
        struct value value = eval_expr(e, node_at(e, i)->b);
        if (!e->error)
            dict_set(e, d.dict, &key, &value);
    }
    return d;
}

static struct value eval_optional(struct eval *e, uint32_t node)
{
    return node ? eval_expr(e, node) : value_none();
}

static struct value eval_item(struct eval *e, const struct node *node)
{
    struct value object = eval_expr(e, node->a);
    const struct node *index = node_at(e, node->b);
    if (index->kind != NODE_SLICE) {
        struct value key = eval_expr(e, node->b);
        return e->error ? value_none() : value_item(e, &object, &key);
    }
    struct value start = eval_optional(e, index->a), stop = eval_optional(e, index->b);
    struct value step = eval_optional(e, index->c);
    return e->error ? value_none() : value_slice(e, &object, &start, &stop, &step);
}

static struct value eval_sign(struct eval *e, const struct node *node)
{
    struct value v = eval_expr(e, node->a), zero = value_int(0, true);
    if (e->error)
        return v;
    if (v.kind == VALUE_FLOAT)
        return value_float(node->kind == NODE_NEG ? -v.f : v.f, value_trusted(&v));
    return value_binary(e, node->kind == NODE_NEG ? '-' : '+', &zero, &v);
}

static struct value eval_constant(const struct node *node)
{
    uint64_t bits = (uint64_t)node->b << 32 | node->a;
    double f;
    if (node->kind == NODE_CONST)
        return node->op == 0 ? value_none() : value_bool(node->op == 2);
    if (node->kind == NODE_INT)
        return value_int((int64_t)bits, true);
    memcpy(&f, &bits, sizeof(f));
    return value_float(f, true);
}

static struct value eval_applied(struct eval *e, const struct node *node)
{
    struct value v = eval_expr(e, node->a);
    struct args *args = eval_args(e, node->b);
    if (e->error)
        return value_none();
    if (node->kind == NODE_FILTER)
        v = template_filter(e, node->op, &v, args);
    else
        v = value_bool(template_test(e, node->op, &v, args) != (node->c != 0));
    free_args(e, args);
    return v;
}

static struct value eval_logic(struct eval *e, const struct node *node)
{
    struct value v = eval_expr(e, node->a);
    if (e->error)
        return v;
    switch (node->kind) {
    case NODE_NOT:
        return value_bool(!value_truthy(&v));
    case NODE_AND:
        return value_truthy(&v) ? eval_expr(e, node->b) : v;
    case NODE_OR:
        return value_truthy(&v) ? v : eval_expr(e, node->b);
    default:
        if (value_truthy(&v))
            return eval_expr(e, node->b);
        return node->c ? eval_expr(e, node->c) : value_undefined("an inline if without else");
    }
}

static struct value eval_node(struct eval *e, const struct node *node)
{
    struct value a, b;
    switch (node->kind) {
    case NODE_NAME:
        return lookup(e, node);
    case NODE_STR:
        return node_text(e, node->a, node->b);
    case NODE_INT:
    case NODE_FLOAT:
    case NODE_CONST:
        return eval_constant(node);
    case NODE_LIST:
        return eval_list(e, node);
    case NODE_DICT:
        return eval_dict(e, node);
    case NODE_BINARY:
        a = eval_expr(e, node->a);
        b = eval_expr(e, node->b);
        return e->error ? a : value_binary(e, node->op, &a, &b);
    case NODE_NOT:
    case NODE_AND:
    case NODE_OR:
    case NODE_COND:
        return eval_logic(e, node);
    case NODE_NEG:
    case NODE_POS:
        return eval_sign(e, node);
    case NODE_COMPARE:
        return eval_compare(e, node);
    case NODE_CONCAT:
        return eval_concat(e, node);
    case NODE_ATTR:
        a = eval_expr(e, node->a);
        return e->error ? a : value_attribute(e, &a, e->t->pool + node->b, node->c);
    case NODE_ITEM:
        return eval_item(e, node);
    case NODE_CALL:
        return eval_call(e, node, NULL);
    case NODE_FILTER:
    case NODE_TEST:
        return eval_applied(e, node);
    case NODE_CAPTURED:
        return e->captured;
    default:
        template_fail(e, -EINVAL, "not an expression");
        return value_none();
    }
}

struct value eval_expr(struct eval *e, uint32_t node)
{
    struct value v = value_none();
    template_spend(e, 1);
    if (e->error)
        return v;
    e->line = node_at(e, node)->line;
    if (++e->depth > TEMPLATE_DEPTH_MAX)
        template_fail(e, -ELOOP, "nested too deeply");
    else
        v = eval_node(e, node_at(e, node));
    e->depth--;
    return v;
}
