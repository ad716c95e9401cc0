/*
 * Shared by the template_*.c files: tokens, syntax tree, values and the state of one rendering.
 * Nobody else includes this.
 */
#ifndef RINGLET_DAEMON_TEXT_TEMPLATE_INTERNAL_H
#define RINGLET_DAEMON_TEXT_TEMPLATE_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/compiler.h"
#include "daemon/text/template.h"

/* ---- tokens ---- */

enum token_type {
    TOKEN_EOF,
    TOKEN_ERROR, /* lexer.error says why */
    TOKEN_TEXT,
    TOKEN_PRINT_BEGIN,
    TOKEN_PRINT_END,
    TOKEN_BLOCK_BEGIN,
    TOKEN_BLOCK_END,
    TOKEN_NAME,
    TOKEN_INT,
    TOKEN_FLOAT,
    TOKEN_STRING, /* off, bytes span the inside of the quotes, escapes untouched */
    TOKEN_OP,     /* op is the character, or one of the OP_* pairs */
};

enum token_op {
    OP_POW = 256,
    OP_FLOOR_DIV,
    OP_EQ,
    OP_NE,
    OP_LE,
    OP_GE,
    OPERAND_IN, /* of NODE_OPERAND only */
    OPERAND_NOT_IN,
};

struct token {
    uint32_t type, op, line, off, bytes;
};

struct lexer {
    const char *src;
    uint32_t bytes, pos, line;
    uint32_t nesting; /* open brackets inside an expression */
    uint8_t mode;     /* enum token_type: TOKEN_TEXT, TOKEN_PRINT_BEGIN or TOKEN_BLOCK_BEGIN */
    bool line_starting;
    const char *error;
};

void template_lex_init(struct lexer *lx, const char *src, uint32_t bytes);
void template_lex_next(struct lexer *lx, struct token *ret);

/* ---- syntax tree ---- */

enum node_kind {
    NODE_NONE,
    /* statements */
    NODE_TEXT,         /* a, b: text */
    NODE_PRINT,        /* a: expr */
    NODE_IF,           /* a: test, b: body, c: else */
    NODE_FOR,          /* a: target, b: iterable, c: NODE_FOR_PARTS */
    NODE_FOR_PARTS,    /* a: body, b: else, c: filter */
    NODE_SET,          /* a: target, b: expr */
    NODE_SET_BLOCK,    /* a: target, b: body, c: filter chain on NODE_CAPTURED, or 0 */
    NODE_MACRO,        /* a, b: name; c: NODE_MACRO_PARTS */
    NODE_MACRO_PARTS,  /* a: params, b: body */
    NODE_PARAM,        /* a, b: name; c: default or 0 */
    NODE_CALL_BLOCK,   /* a: call, b: NODE_MACRO */
    NODE_FILTER_BLOCK, /* a: filter chain, b: body */
    NODE_WITH,         /* a: NODE_SETs, b: body */
    NODE_GROUP,        /* a: body */
    NODE_BREAK,
    NODE_CONTINUE,
    /* expressions */
    NODE_NAME,   /* a, b: text */
    NODE_STR,    /* a, b: text in the pool */
    NODE_INT,    /* a, b: the halves of an int64 */
    NODE_FLOAT,  /* a, b: the halves of a double */
    NODE_CONST,  /* op: 0 none, 1 false, 2 true */
    NODE_LIST,   /* a: NODE_ARGs; op 1: tuple */
    NODE_DICT,   /* a: NODE_PAIRs */
    NODE_PAIR,   /* a: key, b: value */
    NODE_BINARY, /* op: token_op or character; a, b */
    NODE_NOT,
    NODE_NEG,
    NODE_POS,
    NODE_AND,
    NODE_OR,
    NODE_COND,      /* a: test, b: then, c: else or 0 */
    NODE_COMPARE,   /* a: first, b: NODE_OPERANDs */
    NODE_OPERAND,   /* op, a: expr */
    NODE_CONCAT,    /* a: NODE_ARGs */
    NODE_ATTR,      /* a: object; b, c: name */
    NODE_ITEM,      /* a: object, b: index or NODE_SLICE */
    NODE_SLICE,     /* a, b, c: start, stop, step, each or 0 */
    NODE_CALL,      /* a: callee, b: NODE_ARGs */
    NODE_ARG,       /* a: expr; b, c: keyword (pool) */
    NODE_FILTER,    /* a: input, b: NODE_ARGs, op: filter */
    NODE_TEST,      /* a: input, b: NODE_ARGs, op: test, c: 1 negated */
    NODE_CAPTURED,  /* the text that a block captured */
    NODE_TARGETS,   /* a: NODE_ARGs of NODE_NAMEs; a tuple to unpack into */
    NODE_NS_TARGET, /* a: NODE_NAME; b, c: attribute */
};

struct node {
    uint8_t kind;
    uint16_t op;
    uint32_t line, a, b, c, next;
};

struct template
{
    char *src; /* newlines normalised */
    char *pool;
    struct node *nodes; /* [0] is NODE_NONE */
    uint32_t src_bytes, pool_bytes, n_node, n_node_max, root;
};

#define TEMPLATE_PARSE_DEPTH_MAX 60
#define TEMPLATE_ARGS_MAX        16

/* Indexes into the tables of template_filter.c and template_test.c; -1 unknown. */
int template_filter_find(const char *name, size_t bytes);
int template_test_find(const char *name, size_t bytes);

/* ---- values ---- */

enum value_kind {
    VALUE_UNDEFINED,
    VALUE_NONE,
    VALUE_BOOL,
    VALUE_INT,
    VALUE_FLOAT,
    VALUE_STRING,
    VALUE_LIST,
    VALUE_DICT,
    VALUE_NAMESPACE,
    VALUE_MACRO,
    VALUE_BUILTIN,
    VALUE_METHOD, /* aux: the receiver */
    VALUE_LOOP,
};

enum trust { TRUST_NO, TRUST_YES, TRUST_MIXED };

enum builtin {
    BUILTIN_RANGE,
    BUILTIN_NAMESPACE,
    BUILTIN_DICT,
    BUILTIN_RAISE,
    BUILTIN_STRFTIME,
};

struct value {
    uint8_t kind, trust;
    uint16_t detail; /* LIST: 1 tuple; BUILTIN, METHOD: which */
    uint32_t n;      /* STRING: bytes; LIST: elements */
    union {
        bool b;
        int64_t i;
        double f;
        const char *s;
        struct value *list;
        struct dict *dict;
        struct macro *macro;
        struct loop *loop;
    };
    const void
        *aux; /* STRING with TRUST_MIXED: uint8_t[n]; METHOD: struct value; UNDEFINED: name */
};

struct pair {
    struct value key, value;
};

struct dict {
    struct pair *pairs;
    uint32_t n, n_max;
};

struct variable {
    const char *name;
    uint32_t name_bytes;
    struct value value;
    struct variable *next;
};

struct scope {
    struct scope *parent;
    struct variable *variables;
    bool kept; /* a macro was made in it or below: it may outlive its block */
};

struct macro {
    const struct node *node;
    struct scope *scope;
};

struct loop {
    struct value items;
    uint32_t index0;
};

struct args {
    uint32_t n_pos, n_kw;
    struct args *next_free;
    struct value pos[TEMPLATE_ARGS_MAX];
    struct {
        const char *name;
        uint32_t bytes;
        struct value value;
    } kw[TEMPLATE_ARGS_MAX];
};

/* ---- one rendering ---- */

struct eval {
    const struct template *t;
    const struct template_input *in;
    uint8_t *arena;
    size_t arena_bytes, arena_used;
    char *out;
    uint8_t *trusted;
    size_t out_max, out_bytes;
    uint32_t steps_left, depth, line;
    int error;    /* sticky: the first one stays */
    uint8_t flow; /* 0, NODE_BREAK or NODE_CONTINUE on its way to the loop */
    struct scope *scope;
    struct loop *loop;
    struct value captured;
    /* what the arena cannot take back is used again */
    struct args *free_args;
    struct scope *free_scopes;
    struct variable *free_variables;
    char *err;
    size_t err_bytes;
};

/* A string under construction in the arena; the mask appears when bytes of both kinds meet. */
struct text_builder {
    struct eval *e;
    char *text;
    uint8_t *mask;
    uint32_t n, n_max;
    uint8_t trust;
};

/* template_value.c */
void template_fail(struct eval *e, int error, const char *format, ...) printf_like(3, 4) cold_fn;
void *template_alloc(struct eval *e, size_t bytes);
void template_spend(struct eval *e, size_t steps);
struct value value_undefined(const char *name);
struct value value_none(void);
struct value value_bool(bool b);
struct value value_int(int64_t i, bool trusted);
struct value value_float(double f, bool trusted);
struct value value_literal(const char *s);
struct value value_text(const char *s, size_t bytes, bool trusted);
struct value value_tuple2(struct eval *e, const struct value *a, const struct value *b);
struct value value_list(struct eval *e, uint32_t n);
struct value value_dict(struct eval *e, uint8_t kind, uint32_t n_max);
void dict_set(struct eval *e, struct dict *d, const struct value *key, const struct value *value);
const struct value *dict_find(struct eval *e, const struct dict *d, const struct value *key);
bool value_truthy(const struct value *v);
bool value_equal(struct eval *e, const struct value *a, const struct value *b);
/* < 0, 0, > 0; fails for values that have no order. */
int value_compare(struct eval *e, const struct value *a, const struct value *b);
bool value_contains(struct eval *e, const struct value *in, const struct value *what);
/* What a for loop walks over: lists as they are, dicts as their keys, strings by character. */
struct value value_iterable(struct eval *e, const struct value *v);
const char *value_kind_name(const struct value *v);
bool value_is(const struct value *v, const char *s);
bool value_trusted(const struct value *v);

/* template_string.c */
struct text_builder text_begin(struct eval *e, size_t hint);
void text_add(struct text_builder *b, const char *s, size_t n, uint8_t trust, const uint8_t *mask);
void text_add_value(struct text_builder *b, const struct value *v); /* a VALUE_STRING */
void text_add_literal(struct text_builder *b, const char *s);
struct value text_end(struct text_builder *b);
struct value string_slice(const struct value *s, uint32_t from, uint32_t to);
struct value string_strip(struct eval *e, const struct value *s, const struct value *chars,
                          bool left, bool right);
uint32_t utf8_count(const char *s, uint32_t n);
/* Byte offset of character i; n when there are fewer. */
uint32_t utf8_offset(const char *s, uint32_t n, uint32_t i);
uint32_t utf8_decode(const char *s, uint32_t n, uint32_t *ret_bytes);
bool unicode_is_space(uint32_t c);
enum text_case { CASE_UPPER, CASE_LOWER, CASE_TITLE, CASE_TITLE_METHOD, CASE_CAPITALIZE };
struct value string_case(struct eval *e, const struct value *s, enum text_case how);
struct value string_replace(struct eval *e, const struct value *s, const struct value *from,
                            const struct value *to, int64_t count);

/* template_print.c: str(v) and json.dumps(v) as Python spells them. */
struct value value_to_string(struct eval *e, const struct value *v);
struct json_style {
    int indent;             /* < 0: on one line */
    struct value item, key; /* separators: strings */
    bool sort_keys, ascii;
};
struct value value_to_json(struct eval *e, const struct value *v, const struct json_style *style);

/* template_json.c: parse into the arena; bytes of strings are copied only where escaped. */
struct value value_from_json(struct eval *e, const char *json, size_t bytes, const char *what);

/* template_filter.c, template_test.c, template_method.c */
struct value template_filter(struct eval *e, int filter, const struct value *v,
                             const struct args *args);
/* template_list.c: the filters over lists and mappings; numbered on behind the simple ones. */
int template_list_filter_find(const char *name, size_t bytes);
struct value template_list_filter(struct eval *e, int filter, const struct value *v,
                                  const struct args *args);
/* The member that a path such as "function.name" or "0.id" leads to. */
struct value template_dotted(struct eval *e, const struct value *v, const struct value *path);
bool template_test(struct eval *e, int test, const struct value *v, const struct args *args);
int template_method_find(const struct value *v, const char *name, uint32_t bytes);
struct value template_method(struct eval *e, const struct value *self, int method,
                             const struct args *args);
const struct value *args_get(const struct args *args, uint32_t i, const char *keyword);
int64_t args_int(struct eval *e, const struct args *args, uint32_t i, const char *keyword,
                 int64_t otherwise);

/* template_ops.c */
struct value value_binary(struct eval *e, uint32_t op, const struct value *a,
                          const struct value *b);
struct value value_attribute(struct eval *e, const struct value *v, const char *name,
                             uint32_t bytes);
struct value value_item(struct eval *e, const struct value *v, const struct value *index);
struct value value_slice(struct eval *e, const struct value *v, const struct value *start,
                         const struct value *stop, const struct value *step);

#endif
