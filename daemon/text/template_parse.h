/* Between template_parse.c (expressions) and template_block.c (statements); nobody else's. */
#ifndef RINGLET_DAEMON_TEXT_TEMPLATE_PARSE_H
#define RINGLET_DAEMON_TEXT_TEMPLATE_PARSE_H

#include <errno.h>

#include "daemon/text/template_internal.h"

struct parser {
    struct lexer lx;
    struct token token;
    struct template *t;
    uint32_t depth, loops;
    int error; /* sticky; the token is TOKEN_EOF from then on */
    char *err;
    size_t err_bytes;
};

/* A list of nodes while it grows; 0 is the empty list. */
struct chain {
    uint32_t first, last;
};

uint32_t parse_fail(struct parser *p, const char *format, ...) printf_like(2, 3) cold_fn;
void parse_advance(struct parser *p);
uint32_t parse_node(struct parser *p, uint8_t kind, uint32_t a, uint32_t b, uint32_t c);
void parse_chain(struct parser *p, struct chain *chain, uint32_t node);
bool parse_is_op(const struct parser *p, uint32_t op);
bool parse_take_op(struct parser *p, uint32_t op);
void parse_expect_op(struct parser *p, uint32_t op);
bool parse_is_name(const struct parser *p, const char *name);
bool parse_take_name(struct parser *p, const char *name);
uint32_t parse_to_pool(struct parser *p, const char *s, uint32_t n);
/* The name at hand as a node of this kind. */
uint32_t parse_name(struct parser *p, uint8_t kind);
/* template_literal.c: adjacent strings join. */
uint32_t parse_string(struct parser *p);
uint32_t parse_number(struct parser *p);
uint32_t parse_arguments(struct parser *p);
/* `| name(args)` behind the bar, applied to node. */
uint32_t parse_filter(struct parser *p, uint32_t node);
uint32_t parse_expression(struct parser *p);
/* Without a trailing `a if b else c`, for the iterable of a loop. */
uint32_t parse_expression_no_if(struct parser *p);

#endif
