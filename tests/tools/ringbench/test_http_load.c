/* The HTTP engine against a small server of the test's own, over the real loopback. */
#include "tools/ringbench/load.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/harness/harness.h"

/* Answers one connection at a time, `n_answer` of them, with `head` and then `events` pieces. */
struct server {
    pthread_t thread;
    int fd, n_answer;
    const char *const *pieces; /* NULL-ended; each is one send() */
    char url[64];
    char request[65536]; /* the last one */
};

static void answer(struct server *server, int fd)
{
    size_t have = 0, want = 0;
    char *body = NULL;
    while (!body || (size_t)(server->request + have - body) < want) {
        ssize_t n = recv(fd, server->request + have, sizeof(server->request) - 1 - have, 0);
        if (n <= 0)
            return;
        have += (size_t)n;
        server->request[have] = 0;
        char *length = strcasestr(server->request, "content-length:");
        char *end = strstr(server->request, "\r\n\r\n");
        if (!end || !length)
            continue;
        body = end + 4;
        want = strtoul(length + 15, NULL, 10);
    }
    for (int i = 0; server->pieces[i]; i++)
        send(fd, server->pieces[i], strlen(server->pieces[i]), MSG_NOSIGNAL);
}

static void *serve(void *arg)
{
    struct server *server = arg;
    for (int i = 0; i < server->n_answer; i++) {
        int fd = accept(server->fd, NULL, NULL);
        if (fd < 0)
            break;
        answer(server, fd);
        close(fd);
    }
    return NULL;
}

static void server_start(struct server *server, const char *const *pieces, int n_answer)
{
    struct sockaddr_in address = { .sin_family = AF_INET,
                                   .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t bytes = sizeof(address);
    *server = (struct server){ .pieces = pieces, .n_answer = n_answer };
    server->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_true(server->fd >= 0);
    assert_ok(bind(server->fd, (struct sockaddr *)&address, bytes));
    assert_ok(listen(server->fd, 16));
    assert_ok(getsockname(server->fd, (struct sockaddr *)&address, &bytes));
    snprintf(server->url, sizeof(server->url), "http://127.0.0.1:%d/v1/", ntohs(address.sin_port));
    assert_ok(pthread_create(&server->thread, NULL, serve, server));
}

static void server_stop(struct server *server)
{
    pthread_join(server->thread, NULL);
    close(server->fd);
}

static struct load_params params;

static int load(const char *url, uint32_t n_request, struct load_totals *totals)
{
    params = (struct load_params){ .seed = 1,
                                   .concurrency = 2,
                                   .n_request = n_request,
                                   .prompt = "10",
                                   .output = "4",
                                   .n_group = 1,
                                   .vocab = 32000,
                                   .context = 4096,
                                   .workload = "plain",
                                   .model = "m",
                                   .http_url = url };
    memset(totals, 0, sizeof(*totals));
    struct workload *w = workload_open(&params);
    assert_non_null(w);
    int rc = load_http(&params, w, totals);
    workload_close(w);
    return rc;
}

static const char *const good[] = {
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
    "2f\r\ndata: {\"choices\":[{\"index\":0,\"text\":\" one\"}]}\n\r\n1\r\n\n\r\n",
    "2f\r\ndata: {\"choices\":[{\"index\":0,\"text\":\" two\"}]}\n\r\n1\r\n\n\r\n",
    "3a\r\ndata: {\"choices\":[],\"usage\":{\"completion_tokens\":4,\"prompt\r\n",
    "3c\r\n_tokens\":10,\"prompt_tokens_details\":{\"cached_tokens\":8}}}\n\n\n\r\n",
    "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n",
    NULL,
};

TEST(http_load_measures_a_chunked_stream_of_events)
{
    struct server server;
    struct load_totals totals;
    server_start(&server, good, 6);
    assert_int_equal(load(server.url, 6, &totals), 0);
    server_stop(&server);
    assert_int_equal(totals.n_done, 6);
    assert_int_equal(totals.n_failed, 0);
    assert_int_equal(totals.n_good, 6);
    assert_int_equal(totals.ttft.n, 6);
    assert_int_equal(totals.itl.n, 6);          /* two events each */
    assert_int_equal(totals.output_tokens, 24); /* as the usage says */
    assert_int_equal(totals.cached_tokens, 48);
    assert_true(totals.ended_ns > totals.started_ns);
    assert_non_null(strstr(server.request, "POST /v1/completions HTTP/1.1\r\n"));
    assert_non_null(strstr(server.request, "\"stream\":true"));
    assert_non_null(strstr(server.request, "\"model\":\"m\""));
    assert_non_null(strstr(server.request, "\"max_tokens\":4"));
    load_totals_free(&totals);
}

TEST(http_load_counts_failures_and_fails_when_all_do)
{
    static const char *const refused[] = { "HTTP/1.1 404 Not Found\r\nContent-Length: "
                                           "34\r\n\r\n{\"error\":{\"message\":\"no such thing\"}}",
                                           NULL };
    static const char *const cut[] = { "HTTP/1.1 200 OK\r\n\r\n",
                                       "data: {\"choices\":[{\"index\":0,\"text\":\"a\"}]}\n\n",
                                       NULL };
    struct server server;
    struct load_totals totals;
    server_start(&server, refused, 3);
    assert_int_equal(load(server.url, 3, &totals), 1);
    server_stop(&server);
    assert_int_equal(totals.n_failed, 3);
    assert_int_equal(totals.n_good, 0);
    load_totals_free(&totals);

    server_start(&server, cut, 2);
    assert_int_equal(load(server.url, 2, &totals), 1);
    server_stop(&server);
    assert_int_equal(totals.n_failed, 2);
    assert_int_equal(totals.ttft.n, 0); /* what failed is in no distribution */
    load_totals_free(&totals);
}

TEST(http_load_tells_an_absent_endpoint_and_a_bad_address)
{
    struct server server;
    struct load_totals totals;
    server_start(&server, good, 0);
    server_stop(&server); /* nobody listens there any more */
    assert_int_equal(load(server.url, 2, &totals), 3);
    assert_int_equal(totals.n_failed, 2);
    load_totals_free(&totals);
    assert_int_equal(load("https://127.0.0.1/v1", 1, &totals), 2);
    load_totals_free(&totals);
    assert_int_equal(load("http://no..host/v1", 1, &totals), 3);
    load_totals_free(&totals);
}
