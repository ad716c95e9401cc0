/*
 * Templates, second stage: expressions to syntax tree, by recursive descent with a depth limit.
 * Nodes live in one array that is bounded by the source's length; lists are chained by `next`.
 * template_block.c parses the statements.
 */
#include "daemon/text/template_parse.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t parse_or(struct parser *p);
static uint32_t parse_unary(struct parser *p, bool with_filters);

uint32_t parse_fail(struct parser *p, const char *format, ...)
{
    if (p->error)
        return 0;
    p->error = -EINVAL;
    int n = snprintf(p->err, p->err_bytes, "template line %u: ", p->token.line);
    if (n > 0 && (size_t)n < p->err_bytes) {
        va_list ap;
        va_start(ap, format);
        vsnprintf(p->err + n, p->err_bytes - (size_t)n, format, ap);
        va_end(ap);
    }
    p->token.type = TOKEN_EOF;
    return 0;
}

void parse_advance(struct parser *p)
{
    if (p->error)
        return;
    template_lex_next(&p->lx, &p->token);
    if (p->token.type == TOKEN_ERROR)
        parse_fail(p, "%s", p->lx.error);
}

uint32_t parse_node(struct parser *p, uint8_t kind, uint32_t a, uint32_t b, uint32_t c)
{
    struct template *t = p->t;
    if (p->error)
        return 0;
    if (t->n_node == t->n_node_max) {
        uint32_t n = t->n_node_max * 2;
        struct node *nodes = realloc(t->nodes, n * sizeof(*nodes));
        if (!nodes) {
            parse_fail(p, "out of memory");
            p->error = -ENOMEM;
            return 0;
        }
        t->nodes = nodes;
        t->n_node_max = n;
    }
    t->nodes[t->n_node] =
        (struct node){ .kind = kind, .line = p->token.line, .a = a, .b = b, .c = c };
    return t->n_node++;
}

void parse_chain(struct parser *p, struct chain *chain, uint32_t node)
{
    if (!node)
        return;
    if (chain->last)
        p->t->nodes[chain->last].next = node;
    else
        chain->first = node;
    chain->last = node;
}

bool parse_is_op(const struct parser *p, uint32_t op)
{
    return p->token.type == TOKEN_OP && p->token.op == op;
}

bool parse_take_op(struct parser *p, uint32_t op)
{
    if (!parse_is_op(p, op))
        return false;
    parse_advance(p);
    return true;
}

void parse_expect_op(struct parser *p, uint32_t op)
{
    if (!parse_take_op(p, op))
        parse_fail(p, "expected '%c'", (char)op);
}

bool parse_is_name(const struct parser *p, const char *name)
{
    return p->token.type == TOKEN_NAME && p->token.bytes == strlen(name) &&
           memcmp(p->t->src + p->token.off, name, p->token.bytes) == 0;
}

bool parse_take_name(struct parser *p, const char *name)
{
    if (!parse_is_name(p, name))
        return false;
    parse_advance(p);
    return true;
}

uint32_t parse_to_pool(struct parser *p, const char *s, uint32_t n)
{
    /* A byte of the source makes at most one byte of the pool; the check is a second lock. */
    uint32_t off = p->t->pool_bytes;
    if (n > 2 * p->t->src_bytes + 16 - off) {
        parse_fail(p, "too many names");
        return 0;
    }
    memcpy(p->t->pool + off, s, n);
    p->t->pool_bytes += n;
    return off;
}

uint32_t parse_name(struct parser *p, uint8_t kind)
{
    if (p->token.type != TOKEN_NAME)
        return parse_fail(p, "expected a name");
    uint32_t bytes = p->token.bytes;
    uint32_t off = parse_to_pool(p, p->t->src + p->token.off, bytes);
    uint32_t node = parse_node(p, kind, off, bytes, 0);
    parse_advance(p);
    return node;
}

static bool enter(struct parser *p)
{
    if (++p->depth > TEMPLATE_PARSE_DEPTH_MAX)
        parse_fail(p, "nested more than %d deep", TEMPLATE_PARSE_DEPTH_MAX);
    return !p->error;
}

static uint32_t parse_dict(struct parser *p)
{
    struct chain pairs = { 0 };
    parse_expect_op(p, '{');
    while (!parse_is_op(p, '}') && !p->error) {
        uint32_t key = parse_expression(p);
        parse_expect_op(p, ':');
        uint32_t value = parse_expression(p);
        parse_chain(p, &pairs, parse_node(p, NODE_PAIR, key, value, 0));
        if (!parse_take_op(p, ','))
            break;
    }
    parse_expect_op(p, '}');
    return parse_node(p, NODE_DICT, pairs.first, 0, 0);
}

/* After `[` or `(`: elements up to the closing character. */
static uint32_t parse_elements(struct parser *p, uint32_t close, bool *ret_comma)
{
    struct chain items = { 0 };
    *ret_comma = false;
    while (!parse_is_op(p, close) && !p->error) {
        parse_chain(p, &items, parse_node(p, NODE_ARG, parse_expression(p), 0, 0));
        if (!parse_take_op(p, ','))
            break;
        *ret_comma = true;
    }
    parse_expect_op(p, close);
    return items.first;
}

static uint32_t parse_bracketed(struct parser *p)
{
    bool comma, list = parse_is_op(p, '[');
    parse_advance(p);
    uint32_t first = parse_elements(p, list ? ']' : ')', &comma);
    if (!list && first && !comma)
        return p->error ? 0 : p->t->nodes[first].a;
    uint32_t node = parse_node(p, NODE_LIST, first, 0, 0);
    if (node)
        p->t->nodes[node].op = !list;
    return node;
}

static uint32_t parse_primary(struct parser *p)
{
    static const struct {
        const char *name;
        uint16_t op;
    } constants[] = { { "none", 0 },  { "None", 0 }, { "false", 1 },
                      { "False", 1 }, { "true", 2 }, { "True", 2 } };
    uint32_t node = 0;
    switch (p->token.type) {
    case TOKEN_NAME:
        for (size_t i = 0; i < ARRAY_SIZE(constants); i++) {
            if (!parse_is_name(p, constants[i].name))
                continue;
            node = parse_node(p, NODE_CONST, 0, 0, 0);
            p->t->nodes[node].op = constants[i].op;
            parse_advance(p);
            return node;
        }
        return parse_name(p, NODE_NAME);
    case TOKEN_STRING:
        return parse_string(p);
    case TOKEN_INT:
    case TOKEN_FLOAT:
        return parse_number(p);
    case TOKEN_OP:
        if (!parse_is_op(p, '(') && !parse_is_op(p, '[') && !parse_is_op(p, '{'))
            break;
        if (enter(p))
            node = parse_is_op(p, '{') ? parse_dict(p) : parse_bracketed(p);
        p->depth--;
        return node;
    }
    return parse_fail(p, "expected an expression");
}

static uint32_t parse_subscript(struct parser *p, uint32_t object)
{
    uint32_t part[3] = { 0 }, n = 0;
    bool slice = false;
    parse_expect_op(p, '[');
    while (!parse_is_op(p, ']') && !p->error && n < 3) {
        if (parse_take_op(p, ':')) {
            slice = true;
            n++;
        } else {
            part[n] = parse_expression(p);
            if (!parse_is_op(p, ':'))
                break;
        }
    }
    parse_expect_op(p, ']');
    if (!slice && !part[0])
        return parse_fail(p, "an empty subscript");
    uint32_t index = slice ? parse_node(p, NODE_SLICE, part[0], part[1], part[2]) : part[0];
    return parse_node(p, NODE_ITEM, object, index, 0);
}

uint32_t parse_arguments(struct parser *p)
{
    struct chain args = { 0 };
    uint32_t n = 0;
    parse_expect_op(p, '(');
    while (!parse_is_op(p, ')') && !p->error) {
        if (++n > TEMPLATE_ARGS_MAX)
            return parse_fail(p, "more than %d arguments", TEMPLATE_ARGS_MAX);
        if (parse_is_op(p, '*') || parse_is_op(p, OP_POW))
            return parse_fail(p, "unpacked arguments are not supported");
        uint32_t value = parse_expression(p), name = 0, bytes = 0;
        if (!p->error && p->t->nodes[value].kind == NODE_NAME && parse_take_op(p, '=')) {
            name = p->t->nodes[value].a;
            bytes = p->t->nodes[value].b;
            value = parse_expression(p);
        }
        parse_chain(p, &args, parse_node(p, NODE_ARG, value, name, bytes));
        if (!parse_take_op(p, ','))
            break;
    }
    parse_expect_op(p, ')');
    return args.first;
}

static uint32_t parse_postfix(struct parser *p, uint32_t node)
{
    while (!p->error) {
        if (parse_take_op(p, '.')) {
            if (p->token.type == TOKEN_INT) {
                node = parse_node(p, NODE_ITEM, node, parse_number(p), 0);
                continue;
            }
            uint32_t name = parse_name(p, NODE_NAME);
            node = parse_node(p, NODE_ATTR, node, p->t->nodes[name].a, p->t->nodes[name].b);
        } else if (parse_is_op(p, '[')) {
            if (enter(p))
                node = parse_subscript(p, node);
            p->depth--;
        } else if (parse_is_op(p, '(')) {
            if (enter(p)) {
                uint32_t args = parse_arguments(p);
                node = parse_node(p, NODE_CALL, node, args, 0);
            }
            p->depth--;
        } else {
            break;
        }
    }
    return node;
}

static uint32_t parse_test(struct parser *p, uint32_t node)
{
    bool negated = parse_take_name(p, "not");
    const char *name = p->t->src + p->token.off;
    uint32_t bytes = p->token.bytes, args = 0;
    if (p->token.type != TOKEN_NAME)
        return parse_fail(p, "expected the name of a test");
    int test = template_test_find(name, bytes);
    if (test < 0)
        return parse_fail(p, "no test named %.*s", (int)min_of(bytes, 40u), name);
    parse_advance(p);
    if (parse_is_op(p, '(')) {
        args = parse_arguments(p);
    } else if (p->token.type == TOKEN_STRING || p->token.type == TOKEN_INT ||
               p->token.type == TOKEN_FLOAT || parse_is_op(p, '[') || parse_is_op(p, '{') ||
               (p->token.type == TOKEN_NAME && !parse_is_name(p, "else") &&
                !parse_is_name(p, "or") && !parse_is_name(p, "and") && !parse_is_name(p, "if") &&
                !parse_is_name(p, "is") && !parse_is_name(p, "in") && !parse_is_name(p, "not"))) {
        uint32_t arg = parse_postfix(p, parse_primary(p));
        args = parse_node(p, NODE_ARG, arg, 0, 0);
    }
    node = parse_node(p, NODE_TEST, node, args, negated);
    if (node)
        p->t->nodes[node].op = (uint16_t)test;
    return node;
}

uint32_t parse_filter(struct parser *p, uint32_t node)
{
    const char *name = p->t->src + p->token.off;
    uint32_t bytes = p->token.bytes, args = 0;
    if (p->token.type != TOKEN_NAME)
        return parse_fail(p, "expected the name of a filter");
    int filter = template_filter_find(name, bytes);
    if (filter < 0)
        return parse_fail(p, "no filter named %.*s", (int)min_of(bytes, 40u), name);
    parse_advance(p);
    if (parse_is_op(p, '('))
        args = parse_arguments(p);
    node = parse_node(p, NODE_FILTER, node, args, 0);
    if (node)
        p->t->nodes[node].op = (uint16_t)filter;
    return node;
}

static uint32_t parse_unary(struct parser *p, bool with_filters)
{
    uint32_t node = 0;
    if (!enter(p))
        return 0;
    if (parse_take_op(p, '-'))
        node = parse_node(p, NODE_NEG, parse_unary(p, false), 0, 0);
    else if (parse_take_op(p, '+'))
        node = parse_node(p, NODE_POS, parse_unary(p, false), 0, 0);
    else
        node = parse_primary(p);
    node = parse_postfix(p, node);
    while (with_filters && !p->error) {
        if (parse_take_op(p, '|'))
            node = parse_filter(p, node);
        else if (parse_take_name(p, "is"))
            node = parse_test(p, node);
        else if (parse_is_op(p, '('))
            node = parse_postfix(p, node);
        else
            break;
    }
    p->depth--;
    return node;
}

static uint32_t binary(struct parser *p, uint32_t op, uint32_t a, uint32_t b)
{
    uint32_t node = parse_node(p, NODE_BINARY, a, b, 0);
    if (node)
        p->t->nodes[node].op = (uint16_t)op;
    return node;
}

static uint32_t parse_pow(struct parser *p)
{
    uint32_t node = parse_unary(p, true);
    while (parse_take_op(p, OP_POW))
        node = binary(p, OP_POW, node, parse_unary(p, true));
    return node;
}

static uint32_t parse_product(struct parser *p)
{
    uint32_t node = parse_pow(p);
    while (parse_is_op(p, '*') || parse_is_op(p, '/') || parse_is_op(p, '%') ||
           parse_is_op(p, OP_FLOOR_DIV)) {
        uint32_t op = p->token.op;
        parse_advance(p);
        node = binary(p, op, node, parse_pow(p));
    }
    return node;
}

static uint32_t parse_concat(struct parser *p)
{
    uint32_t node = parse_product(p);
    if (!parse_is_op(p, '~'))
        return node;
    struct chain parts = { 0 };
    parse_chain(p, &parts, parse_node(p, NODE_ARG, node, 0, 0));
    while (parse_take_op(p, '~'))
        parse_chain(p, &parts, parse_node(p, NODE_ARG, parse_product(p), 0, 0));
    return parse_node(p, NODE_CONCAT, parts.first, 0, 0);
}

static uint32_t parse_sum(struct parser *p)
{
    uint32_t node = parse_concat(p);
    while (parse_is_op(p, '+') || parse_is_op(p, '-')) {
        uint32_t op = p->token.op;
        parse_advance(p);
        node = binary(p, op, node, parse_concat(p));
    }
    return node;
}

/* The operator of a comparison, taken, or 0. OPERAND_IN and OPERAND_NOT_IN for the two words. */
static uint32_t take_comparison(struct parser *p)
{
    if (p->token.type == TOKEN_OP) {
        uint32_t op = p->token.op;
        if (op != OP_EQ && op != OP_NE && op != OP_LE && op != OP_GE && op != '<' && op != '>')
            return 0;
        parse_advance(p);
        return op;
    }
    if (parse_take_name(p, "in"))
        return OPERAND_IN;
    if (!parse_is_name(p, "not"))
        return 0;
    parse_advance(p);
    if (!parse_take_name(p, "in"))
        parse_fail(p, "expected `in` after `not`");
    return OPERAND_NOT_IN;
}

static uint32_t parse_comparison(struct parser *p)
{
    uint32_t node = parse_sum(p), op;
    struct chain operands = { 0 };
    while (!p->error && (op = take_comparison(p)) != 0) {
        uint32_t operand = parse_node(p, NODE_OPERAND, parse_sum(p), 0, 0);
        if (operand)
            p->t->nodes[operand].op = (uint16_t)op;
        parse_chain(p, &operands, operand);
    }
    return operands.first ? parse_node(p, NODE_COMPARE, node, operands.first, 0) : node;
}

static uint32_t parse_not(struct parser *p)
{
    if (!parse_is_name(p, "not"))
        return parse_comparison(p);
    uint32_t node = 0;
    parse_advance(p);
    if (enter(p))
        node = parse_node(p, NODE_NOT, parse_not(p), 0, 0);
    p->depth--;
    return node;
}

static uint32_t parse_and(struct parser *p)
{
    uint32_t node = parse_not(p);
    while (parse_take_name(p, "and"))
        node = parse_node(p, NODE_AND, node, parse_not(p), 0);
    return node;
}

static uint32_t parse_or(struct parser *p)
{
    uint32_t node = parse_and(p);
    while (parse_take_name(p, "or"))
        node = parse_node(p, NODE_OR, node, parse_and(p), 0);
    return node;
}

uint32_t parse_expression_no_if(struct parser *p)
{
    return parse_or(p);
}

uint32_t parse_expression(struct parser *p)
{
    uint32_t node = 0;
    if (!enter(p))
        return 0;
    node = parse_or(p);
    while (parse_take_name(p, "if")) {
        uint32_t test = parse_or(p), otherwise = 0;
        if (parse_take_name(p, "else"))
            otherwise = parse_expression(p);
        node = parse_node(p, NODE_COND, test, node, otherwise);
    }
    p->depth--;
    return node;
}
