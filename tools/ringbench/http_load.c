/*
 * The HTTP engine: the same jobs against an OpenAI-compatible endpoint, POST URL/completions with
 * token ids as prompt and "stream": true. One connection a request, non-blocking, one thread.
 * Ids do not come back over HTTP, so a workload's follow-up turns continue with drawn ids.
 */
#include "tools/ringbench/load.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "ringlet_abi.h"
#include "tools/ringbench/http_stream.h"

#define SILENCE_NS 120000000000u /* nothing for so long: the request has failed */

struct exchange {
    int fd;
    struct load_job *job;
    struct load_totals *totals;
    char *request;
    size_t request_bytes, sent;
    uint64_t heard_ns;
    int error; /* of the connection, an errno */
    struct http_stream stream;
};

struct endpoint {
    char host[256], port[16], path[512];
    struct sockaddr_storage address;
    socklen_t address_bytes;
};

static int parse_url(const char *url, struct endpoint *ret)
{
    int n = 0;
    snprintf(ret->port, sizeof(ret->port), "80");
    ret->path[0] = 0;
    if (sscanf(url, "http://%255[^:/]%n", ret->host, &n) != 1)
        return -EINVAL;
    url += n;
    if (*url == ':') {
        if (sscanf(url, ":%15[0-9]%n", ret->port, &n) != 1)
            return -EINVAL;
        url += n;
    }
    snprintf(ret->path, sizeof(ret->path), "%s", url);
    size_t length = strlen(ret->path);
    if (length && ret->path[length - 1] == '/')
        ret->path[length - 1] = 0;
    struct addrinfo *found, hints = { .ai_socktype = SOCK_STREAM };
    if (getaddrinfo(ret->host, ret->port, &hints, &found) != 0)
        return -EHOSTUNREACH;
    memcpy(&ret->address, found->ai_addr, found->ai_addrlen);
    ret->address_bytes = found->ai_addrlen;
    freeaddrinfo(found);
    return 0;
}

static void build_request(struct exchange *x, const struct endpoint *to,
                          const struct load_params *params)
{
    char *body = NULL;
    size_t body_bytes = 0;
    FILE *out = open_memstream(&body, &body_bytes);
    if (!out)
        return;
    fprintf(out,
            "{\"model\":\"%s\",\"stream\":true,\"stream_options\":{\"include_usage\":true},"
            "\"ignore_eos\":true,\"max_tokens\":%u,\"n\":%u,\"temperature\":%g,\"prompt\":[",
            params->model ? params->model : "default", x->job->max_tokens, x->job->n,
            (double)params->temperature);
    for (uint32_t i = 0; i < x->job->n_token; i++)
        fprintf(out, "%s%u", i ? "," : "", x->job->tokens[i]);
    fputs("]", out);
    if (x->job->beam_width) /* as vLLM's completions take it */
        fprintf(out, ",\"use_beam_search\":true,\"best_of\":%u", x->job->beam_width);
    fputs("}", out);
    fclose(out);
    out = open_memstream(&x->request, &x->request_bytes);
    if (out) {
        fprintf(out,
                "POST %s/completions HTTP/1.1\r\nHost: %s:%s\r\nContent-Type: application/json\r\n"
                "Accept: text/event-stream\r\nConnection: close\r\nContent-Length: %zu\r\n\r\n%s",
                to->path, to->host, to->port, body_bytes, body);
        fclose(out);
    }
    free(body);
}

/* One event of the stream brought a token, or several: they count as one. */
static void on_token(void *arg, uint32_t index)
{
    struct exchange *x = arg;
    struct load_job *job = x->job;
    uint64_t now = bench_now_ns();
    job->n_output_all++;
    if (!job->first_ns)
        job->first_ns = now;
    else if (index == 0 && job->last_ns)
        bench_samples_add(&x->totals->itl, now - job->last_ns);
    if (index != 0)
        return;
    job->last_ns = now;
    if (job->n_output < job->max_tokens) {
        job->output[job->n_output] = 300 + job->n_output % 64;
        job->n_output++;
    }
}

static void start(struct exchange *x, const struct endpoint *to, const struct load_params *params,
                  struct load_totals *totals, struct load_job *job)
{
    int one = 1;
    x->job = job;
    x->totals = totals;
    x->sent = 0;
    x->error = 0;
    http_stream_init(&x->stream, on_token, x);
    build_request(x, to, params);
    job->sent_ns = x->heard_ns = bench_now_ns();
    x->fd = socket(to->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (x->fd < 0) {
        x->error = errno;
        return;
    }
    setsockopt(x->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(x->fd, (const struct sockaddr *)&to->address, to->address_bytes) < 0 &&
        errno != EINPROGRESS)
        x->error = errno;
}

/* Returns true when the exchange is over, well or not. */
static bool advance(struct exchange *x, short revents)
{
    char buffer[16384];
    if (!x->error && bench_now_ns() - x->heard_ns > SILENCE_NS)
        x->error = ETIMEDOUT;
    if (x->error)
        return true;
    if (x->sent < x->request_bytes && (revents & (POLLOUT | POLLERR))) {
        ssize_t n = send(x->fd, x->request + x->sent, x->request_bytes - x->sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN)
            return (x->error = errno) != 0;
        x->sent += n > 0 ? (size_t)n : 0;
    }
    if (!(revents & (POLLIN | POLLHUP | POLLERR)))
        return false;
    ssize_t n = recv(x->fd, buffer, sizeof(buffer), 0);
    if (n < 0)
        return errno != EAGAIN && (x->error = errno) != 0;
    x->heard_ns = bench_now_ns();
    if (n > 0)
        http_stream_feed(&x->stream, buffer, (size_t)n);
    else
        http_stream_end(&x->stream);
    return x->stream.where == HTTP_OVER;
}

/* The first failure is told with its cause; the rest are counted. */
static void finish(struct exchange *x, const struct endpoint *to, const struct load_params *params,
                   struct workload *w)
{
    struct load_job *job = x->job;
    bool failed = x->error || x->stream.error[0];
    job->done_ns = job->last_ns ? job->last_ns : bench_now_ns();
    job->prompt_tokens = job->n_token;
    if (x->stream.has_usage) {
        job->n_output_all = x->stream.completion_tokens;
        job->cached_tokens = x->stream.cached_tokens;
    }
    job->reason = failed ? 0xFFFF : RINGLET_REASON_LENGTH;
    if (failed && x->totals->n_failed == 0) {
        bench_progress_end();
        fprintf(stderr, "ringbench: http://%s:%s%s: %s\n", to->host, to->port, to->path,
                x->error ? strerror(x->error) : x->stream.error);
    }
    load_count(x->totals, params, job);
    workload_done(w, job);
    if (x->fd >= 0)
        close(x->fd);
    free(x->request);
    x->request = NULL;
    x->job = NULL;
}

static struct exchange *free_exchange(struct exchange *all, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!all[i].job)
            return &all[i];
    return NULL;
}

/* Milliseconds until the next request is due, at most 100; 0 if it is. */
static int patience_ms(const struct load_job *waiting, bool slot_free)
{
    uint64_t now = bench_now_ns();
    if (!waiting || !slot_free || waiting->due_ns > now + 100000000u)
        return 100;
    return waiting->due_ns > now ? (int)((waiting->due_ns - now) / 1000000u) : 0;
}

/* All requests out make progress. Returns how many ended; *ret_reached: some server answered. */
static uint32_t serve_sockets(struct exchange *all, struct pollfd *fds, uint32_t n, int wait_ms,
                              const struct endpoint *to, const struct load_params *params,
                              struct workload *w, bool *ret_reached)
{
    uint32_t n_ended = 0;
    for (uint32_t i = 0; i < n; i++) {
        bool sending = all[i].job && all[i].sent < all[i].request_bytes;
        fds[i].fd = all[i].job ? all[i].fd : -1;
        fds[i].events = (short)(POLLIN | (sending ? POLLOUT : 0));
        fds[i].revents = 0;
        if (all[i].job && all[i].error)
            wait_ms = 0;
    }
    poll(fds, n, wait_ms);
    for (uint32_t i = 0; i < n; i++) {
        if (!all[i].job || !advance(&all[i], fds[i].revents))
            continue;
        *ret_reached = *ret_reached || all[i].stream.status != 0;
        finish(&all[i], to, params, w);
        n_ended++;
    }
    return n_ended;
}

static bool pump(struct exchange *all, struct pollfd *fds, const struct endpoint *to,
                 const struct load_params *params, struct workload *w, struct load_totals *totals)
{
    struct load_job *waiting = NULL;
    uint32_t n_out = 0, n = params->concurrency;
    bool reached = false;
    while (waiting || n_out || !workload_finished(w)) {
        struct exchange *slot;
        while ((slot = free_exchange(all, n))) {
            if (!waiting)
                waiting = workload_next(w);
            if (!waiting || waiting->due_ns > bench_now_ns())
                break;
            start(slot, to, params, totals, waiting);
            waiting = NULL;
            n_out++;
        }
        n_out -=
            serve_sockets(all, fds, n, patience_ms(waiting, slot != NULL), to, params, w, &reached);
        bench_progress("%s over HTTP: %llu requests done", params->workload,
                       (unsigned long long)totals->n_done);
    }
    return reached;
}

int load_http_check(const char *url)
{
    struct endpoint to;
    if (parse_url(url, &to) != -EINVAL) /* what is no host here and now is for load_http to tell */
        return 0;
    fprintf(stderr, "ringbench: %s: not of the form http://HOST:PORT/v1\n", url);
    return 2;
}

int load_http(const struct load_params *params, struct workload *w, struct load_totals *totals)
{
    struct endpoint to;
    int rc = parse_url(params->http_url, &to);
    if (rc == -EINVAL)
        return load_http_check(params->http_url);
    if (rc < 0) {
        fprintf(stderr, "ringbench: %s: no such host\n", params->http_url);
        return 3;
    }
    struct exchange *all = calloc(params->concurrency, sizeof(*all));
    struct pollfd *fds = calloc(params->concurrency, sizeof(*fds));
    bool reached = false;
    if (all && fds) {
        totals->started_ns = bench_now_ns();
        reached = pump(all, fds, &to, params, w, totals);
        bench_progress_end();
    }
    free(all);
    free(fds);
    if (totals->n_done && totals->n_failed < totals->n_done)
        return 0;
    return reached ? 1 : 3;
}
