/*
 * Owns the parsing of an answer. Three layers: lines of the head, the body taken out of its chunks,
 * lines of server-sent events in the body, each data line a JSON object.
 */
#include "tools/ringbench/http_stream.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include <jansson.h>

#include "base/compiler.h"

void http_stream_init(struct http_stream *s, http_token_fn *on_token, void *arg)
{
    memset(s, 0, offsetof(struct http_stream, line));
    s->event_bytes = 0;
    s->on_token = on_token;
    s->arg = arg;
}

static void broken(struct http_stream *s, const char *why)
{
    if (!s->error[0])
        snprintf(s->error, sizeof(s->error), "%s", why);
    s->where = HTTP_OVER;
}

/* {"error":{"message":...}}, {"error":"..."}, {"message":...} or {"detail":...}. */
static const char *error_message(json_t *root)
{
    json_t *error = json_object_get(root, "error");
    const char *text = json_string_value(error);
    if (!text)
        text = json_string_value(json_object_get(error, "message"));
    if (!text)
        text = json_string_value(json_object_get(root, "message"));
    if (!text)
        text = json_string_value(json_object_get(root, "detail"));
    return text;
}

static uint32_t count_of(json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value > 0 && value < UINT32_MAX ? (uint32_t)value : 0;
}

static void take_usage(struct http_stream *s, json_t *usage)
{
    if (!json_is_object(usage))
        return;
    s->has_usage = true;
    s->prompt_tokens = count_of(usage, "prompt_tokens");
    s->completion_tokens = count_of(usage, "completion_tokens");
    s->cached_tokens = count_of(json_object_get(usage, "prompt_tokens_details"), "cached_tokens");
}

/* The last event of a choice may carry its reason and no token. */
static void take_choice(struct http_stream *s, json_t *choice)
{
    json_t *text = json_object_get(choice, "text");
    if (!text)
        text = json_object_get(json_object_get(choice, "delta"), "content");
    bool ends = json_is_string(json_object_get(choice, "finish_reason"));
    if (json_is_string(text) && (json_string_length(text) > 0 || !ends))
        s->on_token(s->arg, count_of(choice, "index"));
}

static void take_object(struct http_stream *s, const char *text, size_t bytes)
{
    json_error_t error;
    size_t i;
    json_t *choice, *root = json_loadb(text, bytes, 0, &error);
    if (!root) {
        broken(s, "an event is no JSON");
        return;
    }
    if (json_object_get(root, "error")) {
        const char *message = error_message(root);
        broken(s, message ? message : "an event tells an error");
    }
    json_array_foreach(json_object_get(root, "choices"), i, choice) take_choice(s, choice);
    take_usage(s, json_object_get(root, "usage"));
    json_decref(root);
}

static void take_event_line(struct http_stream *s)
{
    const char *line = s->event;
    size_t bytes = s->event_bytes;
    while (bytes && line[bytes - 1] == '\r')
        bytes--;
    if (bytes < 5 || memcmp(line, "data:", 5) != 0)
        return; /* a comment, another field, or the empty line between events */
    line += 5;
    bytes -= 5;
    while (bytes && *line == ' ') {
        line++;
        bytes--;
    }
    if (bytes == 6 && memcmp(line, "[DONE]", 6) == 0)
        s->done_seen = true;
    else if (bytes)
        take_object(s, line, bytes);
}

/* An answer that is no 200 keeps its whole body, to tell what it says. */
static void take_body(struct http_stream *s, const char *bytes, size_t n)
{
    for (size_t i = 0; i < n && s->where != HTTP_OVER; i++) {
        if (bytes[i] == '\n' && s->status == 200) {
            take_event_line(s);
            s->event_bytes = 0;
        } else if (s->event_bytes < HTTP_LINE_BYTES) {
            s->event[s->event_bytes++] = bytes[i];
        } else if (s->status == 200) {
            broken(s, "an event is longer than 64 KiB");
        }
    }
}

static void tell_status(struct http_stream *s)
{
    json_error_t error;
    json_t *root = json_loadb(s->event, s->event_bytes, 0, &error);
    const char *message = error_message(root);
    snprintf(s->error, sizeof(s->error), "HTTP %d: %.*s", s->status,
             message ? 160 : (int)min_of(s->event_bytes, (size_t)80), message ? message : s->event);
    for (char *c = s->error; *c; c++)
        *c = (unsigned char)*c < 0x20 ? ' ' : *c;
    json_decref(root);
}

/* The body is complete by its own account. */
static void body_over(struct http_stream *s)
{
    if (s->status == 200 && s->event_bytes)
        take_event_line(s);
    s->where = HTTP_OVER;
    s->done_seen = true;
    if (s->status != 200)
        tell_status(s);
}

static void head_over(struct http_stream *s)
{
    if (s->status >= 100 && s->status < 200) { /* 100 Continue: the real one follows */
        s->where = HTTP_STATUS_LINE;
        s->status = 0;
        return;
    }
    if (!s->sized)
        s->body_left = UINT64_MAX;
    s->where = s->chunked ? HTTP_CHUNK_SIZE : HTTP_BODY;
    if (s->where == HTTP_BODY && s->body_left == 0)
        body_over(s);
}

static void take_header(struct http_stream *s)
{
    if (strncasecmp(s->line, "transfer-encoding:", 18) == 0 && strcasestr(s->line, "chunked"))
        s->chunked = true;
    if (strncasecmp(s->line, "content-length:", 15) == 0) {
        s->sized = true;
        s->body_left = strtoull(s->line + 15, NULL, 10);
    }
}

static void take_chunk_size(struct http_stream *s)
{
    char *end;
    s->body_left = strtoull(s->line, &end, 16);
    if (end == s->line || (*end && *end != ';' && *end != ' ')) {
        broken(s, "a chunk has no size");
        return;
    }
    s->where = s->body_left ? HTTP_CHUNK : HTTP_TRAILERS;
}

/* A whole line of the head or between chunks, without its end. */
static void take_line(struct http_stream *s)
{
    int status;
    switch (s->where) {
    case HTTP_STATUS_LINE:
        if (sscanf(s->line, "HTTP/1.%*1d %3d", &status) != 1) {
            broken(s, "this is no HTTP/1.1 server");
            return;
        }
        s->status = status;
        s->where = HTTP_HEADERS;
        break;
    case HTTP_HEADERS:
        if (s->line_bytes)
            take_header(s);
        else
            head_over(s);
        break;
    case HTTP_CHUNK_SIZE:
        take_chunk_size(s);
        break;
    case HTTP_CHUNK_END:
        s->where = HTTP_CHUNK_SIZE;
        break;
    default: /* trailers end with an empty line */
        if (s->line_bytes == 0)
            body_over(s);
    }
}

static void line_byte(struct http_stream *s, char byte)
{
    if (byte != '\n') {
        if (s->line_bytes == HTTP_LINE_BYTES - 1)
            broken(s, "a line of the head is longer than 64 KiB");
        else
            s->line[s->line_bytes++] = byte;
        return;
    }
    if (s->line_bytes && s->line[s->line_bytes - 1] == '\r')
        s->line_bytes--;
    s->line[s->line_bytes] = 0;
    take_line(s);
    s->line_bytes = 0;
}

void http_stream_feed(struct http_stream *s, const char *bytes, size_t n)
{
    while (n > 0 && s->where != HTTP_OVER) {
        if (s->where != HTTP_BODY && s->where != HTTP_CHUNK) {
            line_byte(s, *bytes++);
            n--;
            continue;
        }
        size_t piece = (size_t)min_of((uint64_t)n, s->body_left);
        bool in_chunk = s->where == HTTP_CHUNK;
        take_body(s, bytes, piece);
        bytes += piece;
        n -= piece;
        s->body_left -= s->body_left == UINT64_MAX ? 0 : piece;
        if (s->body_left > 0 || s->where == HTTP_OVER)
            continue;
        if (in_chunk)
            s->where = HTTP_CHUNK_END;
        else
            body_over(s);
    }
}

void http_stream_end(struct http_stream *s)
{
    if (s->where == HTTP_OVER)
        return;
    if (s->status && s->status != 200)
        tell_status(s);
    else if (s->event_bytes) /* the last line may lack its end */
        take_event_line(s);
    if (!s->done_seen)
        broken(s, s->status ? "the connection ended in the middle of the answer"
                            : "the connection ended before an answer");
    s->where = HTTP_OVER;
}
