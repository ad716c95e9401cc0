/*
 * Chat templates: the subset of Jinja that models use, as a total function over data. A template
 * is compiled once at start-up; rendering runs on fuel (steps, depth, bytes), takes memory only
 * from the arena that the caller gives, reads no clock, no file and no environment, and so always
 * ends. Settings are those of the field: trim_blocks, lstrip_blocks, one final newline of the
 * template dropped, tojson without ASCII escapes.
 *
 * Each byte of the output carries a mark: 1 if the template wrote it, 0 if it came from a message,
 * a tool description or a template argument. Only marked bytes may spell control tokens.
 */
#ifndef RINGLET_DAEMON_TEXT_TEMPLATE_H
#define RINGLET_DAEMON_TEXT_TEMPLATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct template;

/* One message, UTF-8, neither string NUL-terminated. The content is never trusted. */
struct template_message {
    const char *role, *content;
    size_t role_bytes, content_bytes;
    bool role_trusted; /* the role is one of the four of the wire */
};

/*
 * What a template sees. Zero-filled fields are absent. The JSON texts are parsed strictly (depth
 * 64, no duplicate check) into the arena; their strings and numbers are not trusted.
 */
struct template_input {
    const struct template_message *messages;
    size_t n_message;
    const char *messages_json; /* in place of messages: an array of objects of any shape */
    size_t messages_json_bytes;
    const char *tools_json; /* any JSON value; absent: none */
    size_t tools_json_bytes;
    const char *args_json; /* an object whose members become variables; reserved names refused */
    size_t args_json_bytes;
    const char *bos_token, *eos_token; /* NUL-terminated; NULL: empty */
    bool add_generation_prompt;
    bool continue_final; /* no generation prompt; the text ends with the last message's content */
    int64_t now_local_s; /* what strftime_now formats: Unix time plus the zone's offset */
    uint32_t steps_max;  /* 0: TEMPLATE_STEPS_MAX */
};

#define TEMPLATE_SOURCE_BYTES_MAX (256u << 10)
#define TEMPLATE_STEPS_MAX        (2u << 20)
#define TEMPLATE_DEPTH_MAX        200
#define TEMPLATE_RANGE_MAX        100000

/*
 * Compile a template's source.
 *
 *   src, bytes       Jinja text, UTF-8; copied
 *   ret              to be freed by template_free
 *   err, err_bytes   on error one line with the line number and the cause, always terminated
 *
 * Returns: 0; -EINVAL not in the subset; -E2BIG source too long; -ENOMEM.
 * Thread:  any.  Memory: heap, bounded by a multiple of bytes.
 */
int template_compile(const char *src, size_t bytes, struct template **ret, char *err,
                     size_t err_bytes);
void template_free(struct template *t);

/*
 * Render a compiled template.
 *
 *   arena, arena_bytes  scratch memory, free again on return
 *   out, trusted        the text and a mark for each of its bytes, both out_max long
 *   ret_bytes           bytes of text; untouched on error
 *   err, err_bytes      as above
 *
 * Returns: 0; -EINVAL the template or its input is wrong; -ECANCELED the template called
 *          raise_exception (err is its text); -ENOMEM arena full; -ENOSPC out full; -ETIME out of
 *          steps; -ELOOP nested too deeply.
 * Thread:  any, the template is not changed.  Memory: the arena; about 100 KiB of stack at most.
 */
int template_render(const struct template *t, const struct template_input *in, void *arena,
                    size_t arena_bytes, char *out, uint8_t *trusted, size_t out_max,
                    size_t *ret_bytes, char *err, size_t err_bytes);

#endif
