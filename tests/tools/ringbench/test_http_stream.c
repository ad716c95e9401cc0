#include "tools/ringbench/http_stream.h"

#include "tests/harness/harness.h"

static int n_token[4];

static void count(void *arg, uint32_t index)
{
    (void)arg;
    assert_true(index < 4);
    n_token[index]++;
}

static struct http_stream s;

/* Feed in pieces of `piece` bytes, then end the connection. */
static void take(const char *text, size_t piece)
{
    memset(n_token, 0, sizeof(n_token));
    http_stream_init(&s, count, NULL);
    for (size_t at = 0, n = strlen(text); at < n && s.where != HTTP_OVER; at += piece)
        http_stream_feed(&s, text + at, n - at < piece ? n - at : piece);
    http_stream_end(&s);
}

#define CHUNKED "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"

TEST(http_stream_reads_events_whatever_the_pieces_and_chunks)
{
    /* chunks end in the middle of a line, of a key and of an escape */
    static const char text[] =
        CHUNKED "2c\r\ndata: {\"choices\":[{\"index\":0,\"text\":\"a\"}]}\n\r\n"
                "a;x=y\r\n\ndata: {\"c\r\n"
                "42\r\nhoices\":[{\"index\":1,\"text\":\"\\u00e9\",\"finish_reason\":null}]}"
                "\r\n\r\n: co\r\n"
                "9\r\nmment\n\nda\r\n"
                "9\r\nta: [DONE\r\n"
                "3\r\n]\n\n\r\n0\r\nX-T: 1\r\n\r\n";
    for (size_t piece = 1; piece < sizeof(text); piece++) {
        take(text, piece);
        assert_string_equal(s.error, "");
        assert_int_equal(s.status, 200);
        assert_true(s.done_seen);
        assert_int_equal(n_token[0], 1);
        assert_int_equal(n_token[1], 1);
    }
}

TEST(http_stream_takes_usage_and_chat_deltas_and_no_token_from_the_end)
{
    take(
        "HTTP/1.1 200 OK\r\n\r\n"
        "data:{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"x\"},\"finish_reason\":null}]}"
        "\n\n"
        "data:{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":null}]}\n\n"
        "data:{\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\"},\"finish_reason\":\"stop\"}]}"
        "\n\n"
        "data:{\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2,"
        "\"prompt_tokens_details\":{\"cached_tokens\":5}}}\n\n"
        "data: [DONE]\n",
        7);
    assert_string_equal(s.error, "");
    assert_int_equal(n_token[0], 2); /* a token whose text is not complete yet counts */
    assert_true(s.has_usage);
    assert_int_equal(s.prompt_tokens, 7);
    assert_int_equal(s.completion_tokens, 2);
    assert_int_equal(s.cached_tokens, 5);
}

TEST(http_stream_tells_what_an_error_answer_says)
{
    take("HTTP/1.1 404 Not Found\r\ncontent-length: 45\r\n\r\n"
         "{\"error\":{\"message\":\"no model x\",\"code\":404}}",
         5);
    assert_string_equal(s.error, "HTTP 404: no model x");
    take("HTTP/1.1 503 Busy\r\nContent-Length: 13\r\n\r\nqueue is\nfull", 100);
    assert_string_equal(s.error, "HTTP 503: queue is full");
    take("HTTP/1.1 400 Bad\r\n\r\n{\"message\":\"too long\"}", 3); /* to the end */
    assert_string_equal(s.error, "HTTP 400: too long");
    take("HTTP/1.1 422 No\r\nTransfer-Encoding: "
         "Chunked\r\n\r\n10\r\n{\"detail\":\"bad\"}\r\n0\r\n\r\n",
         2);
    assert_string_equal(s.error, "HTTP 422: bad");
    take("HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", 100);
    assert_string_equal(s.error, "HTTP 500: ");
    take("HTTP/1.1 200 OK\r\n\r\ndata: {\"error\":{\"message\":\"engine died\"}}\n\ndata: [DONE]\n",
         9);
    assert_string_equal(s.error, "engine died");
}

TEST(http_stream_fails_what_is_cut_off_or_no_http)
{
    take("HTTP/1.1 200 OK\r\n\r\ndata: {\"choices\":[]}\n\n", 100);
    assert_string_equal(s.error, "the connection ended in the middle of the answer");
    take(CHUNKED "20\r\ndata: {\"choi", 100);
    assert_string_not_equal(s.error, "");
    take("", 1);
    assert_string_equal(s.error, "the connection ended before an answer");
    take("SSH-2.0-OpenSSH_9.2\r\n", 4);
    assert_string_equal(s.error, "this is no HTTP/1.1 server");
    take(CHUNKED "zz\r\n", 4);
    assert_string_equal(s.error, "a chunk has no size");
    take("HTTP/1.1 200 OK\r\n\r\ndata: {\"choices\":\n", 100);
    assert_string_equal(s.error, "an event is no JSON");
    /* all was said: a last chunk that never comes is no failure */
    take(CHUNKED "e\r\ndata: [DONE]\n\r\n", 100);
    assert_string_equal(s.error, "");
}

TEST(http_stream_bounds_lines)
{
    static char big[HTTP_LINE_BYTES + 100];
    memset(big, 'x', sizeof(big) - 1);
    http_stream_init(&s, count, NULL);
    http_stream_feed(&s, big, sizeof(big) - 1);
    assert_int_equal(s.where, HTTP_OVER);
    assert_string_not_equal(s.error, "");
    http_stream_init(&s, count, NULL);
    http_stream_feed(&s, "HTTP/1.1 200 OK\r\n\r\n", 19);
    http_stream_feed(&s, big, sizeof(big) - 1);
    assert_int_equal(s.where, HTTP_OVER);
    assert_string_equal(s.error, "an event is longer than 64 KiB");
}

TEST(http_stream_skips_100_continue)
{
    take("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\ndata: [DONE]\n", 1);
    assert_string_equal(s.error, "");
    assert_int_equal(s.status, 200);
}
