/*
 * Templates, second stage: statements to syntax tree, and the public compile. Tags that would load
 * other templates (include, import, extends, block) do not exist.
 */
#include "daemon/text/template_parse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t parse_body(struct parser *p, const char *const *ends);
static uint32_t parse_statement(struct parser *p);

static void expect_block_end(struct parser *p)
{
    if (p->token.type != TOKEN_BLOCK_END)
        parse_fail(p, "expected the end of the tag");
    parse_advance(p);
}

/* `%} body {% end`, where end is one of the words; the word that ended it is the current token. */
static uint32_t parse_block(struct parser *p, const char *const *ends)
{
    expect_block_end(p);
    if (++p->depth > TEMPLATE_PARSE_DEPTH_MAX)
        parse_fail(p, "nested more than %d deep", TEMPLATE_PARSE_DEPTH_MAX);
    uint32_t body = parse_body(p, ends);
    p->depth--;
    return body;
}

#define ENDS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static uint32_t parse_targets(struct parser *p)
{
    bool parens = parse_take_op(p, '(');
    uint32_t first = parse_name(p, NODE_NAME);
    if (!parse_is_op(p, ',')) {
        if (parens)
            parse_expect_op(p, ')');
        return first;
    }
    struct chain names = { 0 };
    parse_chain(p, &names, parse_node(p, NODE_ARG, first, 0, 0));
    while (parse_take_op(p, ',') && p->token.type == TOKEN_NAME && !parse_is_name(p, "in"))
        parse_chain(p, &names, parse_node(p, NODE_ARG, parse_name(p, NODE_NAME), 0, 0));
    if (parens)
        parse_expect_op(p, ')');
    return parse_node(p, NODE_TARGETS, names.first, 0, 0);
}

static uint32_t parse_for(struct parser *p)
{
    uint32_t filter = 0, otherwise = 0;
    uint32_t node = parse_node(p, NODE_FOR, 0, 0, 0);
    uint32_t target = parse_targets(p);
    if (!parse_take_name(p, "in"))
        return parse_fail(p, "expected `in`");
    uint32_t iterable = parse_expression_no_if(p);
    if (parse_is_op(p, ',')) {
        struct chain items = { 0 };
        parse_chain(p, &items, parse_node(p, NODE_ARG, iterable, 0, 0));
        while (parse_take_op(p, ',') && p->token.type != TOKEN_BLOCK_END)
            parse_chain(p, &items, parse_node(p, NODE_ARG, parse_expression_no_if(p), 0, 0));
        iterable = parse_node(p, NODE_LIST, items.first, 0, 0);
    }
    if (parse_take_name(p, "if"))
        filter = parse_expression(p);
    if (parse_take_name(p, "recursive"))
        return parse_fail(p, "recursive loops are not supported");
    p->loops++;
    uint32_t body = parse_block(p, ENDS("else", "endfor"));
    p->loops--;
    if (parse_take_name(p, "else"))
        otherwise = parse_block(p, ENDS("endfor"));
    parse_take_name(p, "endfor");
    uint32_t parts = parse_node(p, NODE_FOR_PARTS, body, otherwise, filter);
    if (p->error)
        return 0;
    p->t->nodes[node].a = target;
    p->t->nodes[node].b = iterable;
    p->t->nodes[node].c = parts;
    return node;
}

static uint32_t parse_if(struct parser *p)
{
    uint32_t first = 0, last = 0;
    for (;;) {
        uint32_t node = parse_node(p, NODE_IF, 0, 0, 0);
        uint32_t test = parse_expression(p);
        uint32_t body = parse_block(p, ENDS("elif", "else", "endif"));
        if (p->error)
            return 0;
        p->t->nodes[node].a = test;
        p->t->nodes[node].b = body;
        if (last)
            p->t->nodes[last].c = node;
        else
            first = node;
        last = node;
        if (!parse_take_name(p, "elif"))
            break;
    }
    if (parse_take_name(p, "else")) {
        uint32_t otherwise = parse_block(p, ENDS("endif"));
        if (!p->error)
            p->t->nodes[last].c = otherwise;
    }
    parse_take_name(p, "endif");
    return first;
}

/* `name`, `a, b` or `name.attribute`. */
static uint32_t parse_set_target(struct parser *p)
{
    uint32_t target = parse_targets(p);
    if (p->error || p->t->nodes[target].kind != NODE_NAME || !parse_take_op(p, '.'))
        return target;
    uint32_t name = parse_name(p, NODE_NAME);
    return parse_node(p, NODE_NS_TARGET, target, p->t->nodes[name].a, p->t->nodes[name].b);
}

static uint32_t parse_filter_chain(struct parser *p, uint32_t node)
{
    while (parse_take_op(p, '|'))
        node = parse_filter(p, node);
    return node;
}

static uint32_t parse_set(struct parser *p)
{
    uint32_t target = parse_set_target(p);
    if (parse_take_op(p, '=')) {
        uint32_t value = parse_expression(p);
        if (parse_is_op(p, ',')) {
            struct chain items = { 0 };
            parse_chain(p, &items, parse_node(p, NODE_ARG, value, 0, 0));
            while (parse_take_op(p, ','))
                parse_chain(p, &items, parse_node(p, NODE_ARG, parse_expression(p), 0, 0));
            value = parse_node(p, NODE_LIST, items.first, 0, 0);
            if (value)
                p->t->nodes[value].op = 1;
        }
        return parse_node(p, NODE_SET, target, value, 0);
    }
    uint32_t filters = parse_filter_chain(p, parse_node(p, NODE_CAPTURED, 0, 0, 0));
    uint32_t node = parse_node(p, NODE_SET_BLOCK, target, 0, filters);
    uint32_t body = parse_block(p, ENDS("endset"));
    parse_take_name(p, "endset");
    if (!p->error)
        p->t->nodes[node].b = body;
    return node;
}

static uint32_t parse_parameters(struct parser *p)
{
    struct chain params = { 0 };
    uint32_t n = 0;
    parse_expect_op(p, '(');
    while (!parse_is_op(p, ')') && !p->error) {
        if (++n > TEMPLATE_ARGS_MAX)
            return parse_fail(p, "more than %d parameters", TEMPLATE_ARGS_MAX);
        uint32_t param = parse_name(p, NODE_PARAM);
        uint32_t otherwise = parse_take_op(p, '=') ? parse_expression(p) : 0;
        if (!p->error)
            p->t->nodes[param].c = otherwise;
        parse_chain(p, &params, param);
        if (!parse_take_op(p, ','))
            break;
    }
    parse_expect_op(p, ')');
    return params.first;
}

/* Behind the parameters of a macro or a call block. */
static uint32_t parse_macro_body(struct parser *p, uint32_t params, const char *end)
{
    uint32_t loops = p->loops;
    p->loops = 0; /* break and continue do not cross a macro */
    uint32_t body = parse_block(p, ENDS(end));
    p->loops = loops;
    parse_take_name(p, end);
    if (p->token.type == TOKEN_NAME)
        parse_advance(p); /* endmacro may repeat the name */
    return parse_node(p, NODE_MACRO_PARTS, params, body, 0);
}

static uint32_t parse_macro(struct parser *p)
{
    uint32_t name = parse_name(p, NODE_NAME);
    if (p->error)
        return 0;
    uint32_t off = p->t->nodes[name].a, bytes = p->t->nodes[name].b;
    uint32_t node = parse_node(p, NODE_MACRO, off, bytes, 0);
    uint32_t params = parse_parameters(p);
    uint32_t parts = parse_macro_body(p, params, "endmacro");
    if (!p->error)
        p->t->nodes[node].c = parts;
    return node;
}

static uint32_t parse_call(struct parser *p)
{
    uint32_t params = parse_is_op(p, '(') ? parse_parameters(p) : 0;
    uint32_t call = parse_expression(p);
    if (!p->error && p->t->nodes[call].kind != NODE_CALL)
        return parse_fail(p, "expected a call");
    uint32_t parts = parse_macro_body(p, params, "endcall");
    uint32_t off = parse_to_pool(p, "caller", p->error ? 0 : 6);
    return parse_node(p, NODE_CALL_BLOCK, call, parse_node(p, NODE_MACRO, off, 6, parts), 0);
}

static uint32_t parse_filter_block(struct parser *p)
{
    uint32_t chain = parse_filter(p, parse_node(p, NODE_CAPTURED, 0, 0, 0));
    chain = parse_filter_chain(p, chain);
    uint32_t body = parse_block(p, ENDS("endfilter"));
    parse_take_name(p, "endfilter");
    return parse_node(p, NODE_FILTER_BLOCK, chain, body, 0);
}

static uint32_t parse_with(struct parser *p)
{
    struct chain sets = { 0 };
    while (p->token.type == TOKEN_NAME && !p->error) {
        uint32_t name = parse_name(p, NODE_NAME);
        parse_expect_op(p, '=');
        uint32_t value = parse_expression(p);
        parse_chain(p, &sets, parse_node(p, NODE_SET, name, value, 0));
        if (!parse_take_op(p, ','))
            break;
    }
    uint32_t body = parse_block(p, ENDS("endwith"));
    parse_take_name(p, "endwith");
    return parse_node(p, NODE_WITH, sets.first, body, 0);
}

/* `generation` marks the assistant's part for trainers; here it is only its body. */
static uint32_t parse_generation(struct parser *p)
{
    uint32_t body = parse_block(p, ENDS("endgeneration"));
    parse_take_name(p, "endgeneration");
    return parse_node(p, NODE_GROUP, body, 0, 0);
}

static uint32_t parse_jump(struct parser *p, uint8_t kind)
{
    if (p->loops == 0)
        return parse_fail(p, "break and continue need a loop");
    return parse_node(p, kind, 0, 0, 0);
}

static uint32_t parse_statement(struct parser *p)
{
    if (parse_take_name(p, "for"))
        return parse_for(p);
    if (parse_take_name(p, "if"))
        return parse_if(p);
    if (parse_take_name(p, "set"))
        return parse_set(p);
    if (parse_take_name(p, "macro"))
        return parse_macro(p);
    if (parse_take_name(p, "call"))
        return parse_call(p);
    if (parse_take_name(p, "filter"))
        return parse_filter_block(p);
    if (parse_take_name(p, "with"))
        return parse_with(p);
    if (parse_take_name(p, "generation"))
        return parse_generation(p);
    if (parse_take_name(p, "break"))
        return parse_jump(p, NODE_BREAK);
    if (parse_take_name(p, "continue"))
        return parse_jump(p, NODE_CONTINUE);
    return parse_fail(p, "no tag named %.*s",
                      p->token.type == TOKEN_NAME ? (int)min_of(p->token.bytes, 40u) : 0,
                      p->t->src + p->token.off);
}

static bool ends_here(const struct parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++) {
        if (parse_is_name(p, *ends))
            return true;
    }
    return false;
}

static uint32_t parse_print(struct parser *p)
{
    parse_advance(p);
    uint32_t node = parse_node(p, NODE_PRINT, 0, 0, 0);
    uint32_t value = parse_expression(p);
    if (p->token.type != TOKEN_PRINT_END)
        return parse_fail(p, "expected '}}'");
    parse_advance(p);
    if (!p->error)
        p->t->nodes[node].a = value;
    return node;
}

/* Up to `{% end` with one of the words, or to the end of the text when ends is NULL. */
static uint32_t parse_body(struct parser *p, const char *const *ends)
{
    struct chain body = { 0 };
    while (!p->error) {
        switch (p->token.type) {
        case TOKEN_TEXT:
            parse_chain(p, &body, parse_node(p, NODE_TEXT, p->token.off, p->token.bytes, 0));
            parse_advance(p);
            break;
        case TOKEN_PRINT_BEGIN:
            parse_chain(p, &body, parse_print(p));
            break;
        case TOKEN_BLOCK_BEGIN:
            parse_advance(p);
            if (ends_here(p, ends))
                return body.first;
            parse_chain(p, &body, parse_statement(p));
            expect_block_end(p);
            break;
        default:
            if (ends)
                parse_fail(p, "the text ends where {%% %s %%} is missing", ends[0]);
            return body.first;
        }
    }
    return body.first;
}

/* Copies the source with CR LF and CR as LF, and without one final newline. */
static uint32_t copy_source(char *to, const char *from, size_t bytes)
{
    uint32_t n = 0;
    for (size_t i = 0; i < bytes; i++) {
        if (from[i] == '\r') {
            to[n++] = '\n';
            i += i + 1 < bytes && from[i + 1] == '\n';
        } else {
            to[n++] = from[i];
        }
    }
    return n - (n > 0 && to[n - 1] == '\n');
}

int template_compile(const char *src, size_t bytes, struct template **ret, char *err,
                     size_t err_bytes)
{
    if (bytes > TEMPLATE_SOURCE_BYTES_MAX) {
        snprintf(err, err_bytes, "template: %zu bytes, at most %u are read", bytes,
                 TEMPLATE_SOURCE_BYTES_MAX);
        return -E2BIG;
    }
    struct template *t = calloc(1, sizeof(*t));
    if (!t)
        return -ENOMEM;
    t->n_node_max = 256;
    t->src = malloc(bytes + 1);
    t->pool = malloc(2 * bytes + 32);
    t->nodes = calloc(t->n_node_max, sizeof(*t->nodes));
    t->n_node = 1;
    if (!t->src || !t->pool || !t->nodes) {
        template_free(t);
        snprintf(err, err_bytes, "template: out of memory");
        return -ENOMEM;
    }
    t->src_bytes = copy_source(t->src, src, bytes);
    struct parser p = { .t = t, .err = err, .err_bytes = err_bytes };
    template_lex_init(&p.lx, t->src, t->src_bytes);
    parse_advance(&p);
    t->root = parse_body(&p, NULL);
    if (p.error) {
        template_free(t);
        return p.error;
    }
    *ret = t;
    return 0;
}

void template_free(struct template *t)
{
    if (!t)
        return;
    free(t->src);
    free(t->pool);
    free(t->nodes);
    free(t);
}
