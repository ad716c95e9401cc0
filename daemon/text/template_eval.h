/* Between template_eval.c (expressions) and template_render.c (statements); nobody else's. */
#ifndef RINGLET_DAEMON_TEXT_TEMPLATE_EVAL_H
#define RINGLET_DAEMON_TEXT_TEMPLATE_EVAL_H

#include "daemon/text/template_internal.h"

struct value eval_expr(struct eval *e, uint32_t node);
/* caller: the macro of a call block, or NULL. */
struct value eval_call(struct eval *e, const struct node *node, const struct value *caller);
struct value call_macro(struct eval *e, const struct macro *macro, const struct args *args,
                        const struct value *caller);
void exec_body(struct eval *e, uint32_t first);
/* Takes the output back to start and returns what stood behind it as a string. */
struct value capture_end(struct eval *e, size_t start);
struct value node_text(const struct eval *e, uint32_t off, uint32_t bytes);
struct scope *scope_push(struct eval *e, struct scope *parent);
/* Gives the scope back for reuse, unless it is kept. */
void scope_pop(struct eval *e, struct scope *scope);
void scope_set(struct eval *e, struct scope *scope, const struct value *name,
               const struct value *value);

#endif
