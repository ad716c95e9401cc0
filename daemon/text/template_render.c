/*
 * Templates, third stage: statements, and the public render. Output goes straight into the
 * caller's buffer, each byte with its mark.
 */
#include "daemon/text/template_eval.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct node *node_at(const struct eval *e, uint32_t i)
{
    return &e->t->nodes[i];
}

static void emit(struct eval *e, const struct value *s)
{
    template_spend(e, s->n / 64);
    if (e->error || s->n == 0)
        return;
    if (s->n > e->out_max - e->out_bytes) {
        template_fail(e, -ENOSPC, "writes more than %zu bytes", e->out_max);
        return;
    }
    memcpy(e->out + e->out_bytes, s->s, s->n);
    if (s->trust == TRUST_MIXED)
        memcpy(e->trusted + e->out_bytes, s->aux, s->n);
    else
        memset(e->trusted + e->out_bytes, s->trust, s->n);
    e->out_bytes += s->n;
}

static void assign(struct eval *e, struct scope *scope, const struct node *target,
                   const struct value *value)
{
    if (e->error)
        return;
    if (target->kind == NODE_NAME) {
        struct value name = node_text(e, target->a, target->b);
        scope_set(e, scope, &name, value);
        return;
    }
    if (target->kind == NODE_NS_TARGET) {
        struct value object = eval_expr(e, target->a);
        struct value key = node_text(e, target->b, target->c);
        if (object.kind == VALUE_NAMESPACE)
            dict_set(e, object.dict, &key, value);
        else
            template_fail(e, -EINVAL, "an attribute is set on %s", value_kind_name(&object));
        return;
    }
    struct value items = value_iterable(e, value);
    uint32_t k = 0;
    for (uint32_t i = target->a; i && !e->error; i = node_at(e, i)->next, k++) {
        if (k >= items.n)
            break;
        const struct node *name_node = node_at(e, node_at(e, i)->a);
        struct value name = node_text(e, name_node->a, name_node->b);
        scope_set(e, scope, &name, &items.list[k]);
    }
    uint32_t n = 0;
    for (uint32_t i = target->a; i; i = node_at(e, i)->next)
        n++;
    if (n != items.n)
        template_fail(e, -EINVAL, "%u values for %u names", items.n, n);
}

/* The items that pass the loop's own filter. */
static struct value filter_items(struct eval *e, const struct node *node, struct value items)
{
    const struct node *parts = node_at(e, node->c);
    struct scope *saved = e->scope;
    if (!parts->c)
        return items;
    struct value kept = value_list(e, items.n);
    kept.n = 0;
    for (uint32_t i = 0; i < items.n && !e->error; i++) {
        e->scope = scope_push(e, saved);
        if (!e->scope)
            break;
        assign(e, e->scope, node_at(e, node->a), &items.list[i]);
        struct value passes = eval_expr(e, parts->c);
        if (!e->error && value_truthy(&passes))
            kept.list[kept.n++] = items.list[i];
        scope_pop(e, e->scope);
    }
    e->scope = saved;
    return kept;
}

static void exec_for(struct eval *e, const struct node *node)
{
    const struct node *parts = node_at(e, node->c);
    struct value iterable = eval_expr(e, node->b);
    struct scope *saved_scope = e->scope;
    struct loop *saved_loop = e->loop, *loop = template_alloc(e, sizeof(*loop));
    if (e->error)
        return;
    struct value items = value_iterable(e, &iterable);
    items = filter_items(e, node, items);
    *loop = (struct loop){ .items = items };
    struct value name = value_literal("loop");
    struct value self = { .kind = VALUE_LOOP, .trust = TRUST_YES, .loop = loop };
    for (uint32_t i = 0; i < items.n && !e->error && e->flow != NODE_BREAK; i++) {
        template_spend(e, 1);
        loop->index0 = i;
        e->loop = loop;
        e->scope = scope_push(e, saved_scope);
        if (!e->scope)
            break;
        scope_set(e, e->scope, &name, &self);
        assign(e, e->scope, node_at(e, node->a), &items.list[i]);
        exec_body(e, parts->a);
        scope_pop(e, e->scope);
        if (e->flow == NODE_CONTINUE)
            e->flow = 0;
    }
    e->flow = 0;
    e->scope = saved_scope;
    e->loop = saved_loop;
    if (items.n == 0 && parts->b && !e->error)
        exec_body(e, parts->b);
}

static void exec_if(struct eval *e, const struct node *node)
{
    /* elif is an NODE_IF alone in the else part: walked here, not by recursion. */
    for (;;) {
        struct value test = eval_expr(e, node->a);
        if (e->error)
            return;
        if (value_truthy(&test)) {
            exec_body(e, node->b);
            return;
        }
        const struct node *otherwise = node_at(e, node->c);
        if (node->c == 0)
            return;
        if (otherwise->kind != NODE_IF || otherwise->next != 0) {
            exec_body(e, node->c);
            return;
        }
        node = otherwise;
    }
}

/* What a body prints, through the filters of an expression; expr 0: as it stands. */
static struct value captured_body(struct eval *e, uint32_t body, uint32_t expr)
{
    size_t start = e->out_bytes;
    struct value saved = e->captured;
    struct scope *saved_scope = e->scope;
    e->scope = scope_push(e, saved_scope);
    if (e->scope)
        exec_body(e, body);
    e->scope = saved_scope;
    e->captured = capture_end(e, start);
    struct value value = expr ? eval_expr(e, expr) : e->captured;
    e->captured = saved;
    return value;
}

static void exec_set_block(struct eval *e, const struct node *node)
{
    struct value value = captured_body(e, node->b, node->c);
    assign(e, e->scope, node_at(e, node->a), &value);
}

static void exec_filter_block(struct eval *e, const struct node *node)
{
    struct value value = captured_body(e, node->b, node->a);
    value = value_to_string(e, &value);
    emit(e, &value);
}

static struct value make_macro(struct eval *e, const struct node *node)
{
    struct macro *macro = template_alloc(e, sizeof(*macro));
    if (!macro)
        return value_none();
    *macro = (struct macro){ .node = node, .scope = e->scope };
    for (struct scope *scope = e->scope; scope && !scope->kept; scope = scope->parent)
        scope->kept = true;
    return (struct value){ .kind = VALUE_MACRO, .trust = TRUST_YES, .macro = macro };
}

static void exec_with(struct eval *e, const struct node *node)
{
    struct scope *outer = e->scope, *scope = scope_push(e, outer);
    if (!scope)
        return;
    for (uint32_t i = node->a; i && !e->error; i = node_at(e, i)->next) {
        struct value value = eval_expr(e, node_at(e, i)->b);
        assign(e, scope, node_at(e, node_at(e, i)->a), &value);
    }
    e->scope = scope;
    exec_body(e, node->b);
    e->scope = outer;
}

static void exec_node(struct eval *e, const struct node *node)
{
    struct value v;
    switch (node->kind) {
    case NODE_TEXT:
        v = value_text(e->t->src + node->a, node->b, true);
        emit(e, &v);
        break;
    case NODE_PRINT:
        v = eval_expr(e, node->a);
        v = value_to_string(e, &v);
        emit(e, &v);
        break;
    case NODE_IF:
        exec_if(e, node);
        break;
    case NODE_FOR:
        exec_for(e, node);
        break;
    case NODE_SET:
        v = eval_expr(e, node->b);
        assign(e, e->scope, node_at(e, node->a), &v);
        break;
    case NODE_SET_BLOCK:
        exec_set_block(e, node);
        break;
    case NODE_MACRO: {
        struct value name = node_text(e, node->a, node->b);
        v = make_macro(e, node);
        scope_set(e, e->scope, &name, &v);
        break;
    }
    case NODE_CALL_BLOCK:
        v = make_macro(e, node_at(e, node->b));
        v = eval_call(e, node_at(e, node->a), &v);
        v = value_to_string(e, &v);
        emit(e, &v);
        break;
    case NODE_FILTER_BLOCK:
        exec_filter_block(e, node);
        break;
    case NODE_WITH:
        exec_with(e, node);
        break;
    case NODE_GROUP:
        exec_body(e, node->a);
        break;
    default:
        e->flow = node->kind; /* break and continue */
    }
}

void exec_body(struct eval *e, uint32_t first)
{
    if (++e->depth > TEMPLATE_DEPTH_MAX)
        template_fail(e, -ELOOP, "nested too deeply");
    for (uint32_t i = first; i && !e->error && !e->flow; i = node_at(e, i)->next) {
        template_spend(e, 1);
        if (e->error)
            break;
        e->line = node_at(e, i)->line;
        exec_node(e, node_at(e, i));
    }
    e->depth--;
}

/* ---- the variables that a template starts with ---- */

static void set_global(struct eval *e, const char *name, struct value value)
{
    struct value key = value_literal(name);
    scope_set(e, e->scope, &key, &value);
}

static struct value messages_value(struct eval *e)
{
    const struct template_input *in = e->in;
    struct value role = value_literal("role"), content = value_literal("content");
    if (in->messages_json)
        return value_from_json(e, in->messages_json, in->messages_json_bytes, "messages");
    struct value list = value_list(e, (uint32_t)min_of(in->n_message, (size_t)UINT32_MAX / 64));
    for (uint32_t i = 0; i < list.n && !e->error; i++) {
        const struct template_message *m = &in->messages[i];
        if (m->role_bytes > UINT32_MAX / 4 || m->content_bytes > UINT32_MAX / 4) {
            template_fail(e, -EINVAL, "message %u is too long", i);
            break;
        }
        struct value r = value_text(m->role, m->role_bytes, m->role_trusted);
        struct value c = value_text(m->content, m->content_bytes, false);
        list.list[i] = value_dict(e, VALUE_DICT, 2);
        if (e->error)
            break;
        dict_set(e, list.list[i].dict, &role, &r);
        dict_set(e, list.list[i].dict, &content, &c);
    }
    return list;
}

/* Arguments come from clients: they may add variables, never replace what the engine gives. */
static void set_arguments(struct eval *e)
{
    static const char *const reserved[] = {
        "messages",  "tools",  "bos_token", "eos_token",       "add_generation_prompt",
        "namespace", "range",  "dict",      "raise_exception", "strftime_now",
        "loop",      "caller", "true",      "false",           "none",
        "self"
    };
    if (!e->in->args_json)
        return;
    struct value args =
        value_from_json(e, e->in->args_json, e->in->args_json_bytes, "template arguments");
    if (!e->error && args.kind != VALUE_DICT)
        template_fail(e, -EINVAL, "template arguments: %s, not an object", value_kind_name(&args));
    for (uint32_t i = 0; !e->error && i < args.dict->n; i++) {
        const struct pair *pair = &args.dict->pairs[i];
        for (size_t k = 0; k < ARRAY_SIZE(reserved); k++) {
            if (value_is(&pair->key, reserved[k]))
                template_fail(e, -EINVAL, "template arguments: \"%s\" is reserved", reserved[k]);
        }
        if (!e->error)
            scope_set(e, e->scope, &pair->key, &pair->value);
    }
}

static void set_globals(struct eval *e)
{
    static const struct {
        const char *name;
        uint16_t which;
    } builtins[] = { { "range", BUILTIN_RANGE },
                     { "namespace", BUILTIN_NAMESPACE },
                     { "dict", BUILTIN_DICT },
                     { "raise_exception", BUILTIN_RAISE },
                     { "strftime_now", BUILTIN_STRFTIME } };
    const struct template_input *in = e->in;
    e->scope = scope_push(e, NULL);
    if (!e->scope)
        return;
    set_global(e, "documents", value_none()); /* there in transformers, unless one brings some */
    set_arguments(e);
    for (size_t i = 0; i < ARRAY_SIZE(builtins); i++)
        set_global(e, builtins[i].name,
                   (struct value){
                       .kind = VALUE_BUILTIN, .trust = TRUST_YES, .detail = builtins[i].which });
    struct value tools = value_none();
    if (in->tools_json)
        tools = value_from_json(e, in->tools_json, in->tools_json_bytes, "tools");
    set_global(e, "tools", tools);
    set_global(e, "bos_token", value_literal(in->bos_token ? in->bos_token : ""));
    set_global(e, "eos_token", value_literal(in->eos_token ? in->eos_token : ""));
    set_global(e, "add_generation_prompt",
               value_bool(in->add_generation_prompt && !in->continue_final));
    set_global(e, "messages", messages_value(e));
    /* A scope of its own for what the template sets. */
    e->scope = scope_push(e, e->scope);
}

/* Cuts the text behind the last message's content, which the answer is to continue. */
static void cut_behind_final(struct eval *e)
{
    struct value messages = messages_value(e), at = value_int(-1, true);
    if (e->error || messages.kind != VALUE_LIST || messages.n == 0) {
        template_fail(e, -EINVAL, "no message to continue");
        return;
    }
    struct value last = value_item(e, &messages, &at);
    struct value content = value_attribute(e, &last, "content", 7);
    if (e->error || content.kind != VALUE_STRING) {
        template_fail(e, -EINVAL, "the message to continue has no text");
        return;
    }
    struct value stripped = string_strip(e, &content, NULL, true, true);
    struct value tail = string_strip(e, &content, NULL, true, false);
    for (size_t from = e->out_bytes + 1; from-- > 0 && !e->error;) {
        size_t left = e->out_bytes - from;
        template_spend(e, from % 16 == 0);
        if (left < stripped.n || (stripped.n && memcmp(e->out + from, stripped.s, stripped.n) != 0))
            continue;
        bool whole = left >= tail.n && (tail.n == 0 || memcmp(e->out + from, tail.s, tail.n) == 0);
        e->out_bytes = from + (whole ? tail.n : stripped.n);
        return;
    }
    template_fail(e, -EINVAL, "the message to continue is not in the rendered text");
}

int template_render(const struct template *t, const struct template_input *in, void *arena,
                    size_t arena_bytes, char *out, uint8_t *trusted, size_t out_max,
                    size_t *ret_bytes, char *err, size_t err_bytes)
{
    size_t skew = (size_t)(-(uintptr_t)arena & 7);
    struct eval e = { .t = t,
                      .in = in,
                      .out = out,
                      .trusted = trusted,
                      .out_max = out_max,
                      .err = err,
                      .err_bytes = err_bytes,
                      .line = 1,
                      .steps_left = in->steps_max ? in->steps_max : TEMPLATE_STEPS_MAX };
    if (arena_bytes > skew) {
        e.arena = (uint8_t *)arena + skew;
        e.arena_bytes = arena_bytes - skew;
    }
    set_globals(&e);
    if (!e.error)
        exec_body(&e, t->root);
    if (!e.error && in->continue_final)
        cut_behind_final(&e);
    if (e.error)
        return e.error;
    *ret_bytes = e.out_bytes;
    return 0;
}
