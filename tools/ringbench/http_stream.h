/*
 * An HTTP/1.1 answer as it comes in, in pieces of any size: status and headers, then a body in
 * chunks, of a stated length or up to the end, then server-sent events of an OpenAI-compatible
 * completion in it. Sees bytes only: sockets and clocks are the caller's.
 */
#ifndef RINGLET_TOOLS_HTTP_STREAM_H
#define RINGLET_TOOLS_HTTP_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { HTTP_LINE_BYTES = 1 << 16, HTTP_ERROR_BYTES = 200 };

/* One event brought text (or a token without text yet) for choice `index`. */
typedef void http_token_fn(void *arg, uint32_t index);

struct http_stream {
    http_token_fn *on_token;
    void *arg;
    enum http_where {
        HTTP_STATUS_LINE,
        HTTP_HEADERS,
        HTTP_BODY,       /* of body_left bytes, UINT64_MAX: to the end of the connection */
        HTTP_CHUNK_SIZE, /* line before a chunk */
        HTTP_CHUNK,      /* body_left bytes of it */
        HTTP_CHUNK_END,  /* empty line behind it */
        HTTP_TRAILERS,
        HTTP_OVER,
    } where;
    int status; /* 0 before it is known */
    bool chunked, sized;
    bool done_seen; /* [DONE], or the body's own end */
    uint64_t body_left;
    bool has_usage;
    uint32_t prompt_tokens, completion_tokens, cached_tokens; /* with has_usage */
    char error[HTTP_ERROR_BYTES];                             /* "" while all is well */
    size_t line_bytes;
    char line[HTTP_LINE_BYTES]; /* of status, headers, chunk sizes */
    size_t event_bytes;
    char event[HTTP_LINE_BYTES]; /* line of the body; the whole body of an error answer */
};

void http_stream_init(struct http_stream *s, http_token_fn *on_token, void *arg);

/* The next bytes. Afterwards `where` is HTTP_OVER if the answer is complete or broken. */
void http_stream_feed(struct http_stream *s, const char *bytes, size_t n);

/* The connection ended. What was not complete by then has failed: `error` says how. */
void http_stream_end(struct http_stream *s);

#endif
