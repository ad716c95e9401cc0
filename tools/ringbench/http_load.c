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

enum { LINE_MAX_BYTES = 1 << 16 };

struct exchange {
    int fd;
    struct load_job *job;
    char *request;
    size_t request_bytes, sent;
    char line[LINE_MAX_BYTES]; /* the line that is being read */
    size_t line_bytes;
    int status; /* HTTP status, 0 before it is known */
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
            "{\"model\":\"%s\",\"stream\":true,\"ignore_eos\":true,\"max_tokens\":%u,\"n\":%u,"
            "\"temperature\":%g,\"prompt\":[",
            params->model ? params->model : "default", x->job->max_tokens, x->job->n,
            (double)params->temperature);
    for (uint32_t i = 0; i < x->job->n_token; i++)
        fprintf(out, "%s%u", i ? "," : "", x->job->tokens[i]);
    fputs("]}", out);
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

static void start(struct exchange *x, const struct endpoint *to, const struct load_params *params,
                  struct load_job *job)
{
    memset(x, 0, offsetof(struct exchange, line));
    x->line_bytes = 0;
    x->status = 0;
    x->job = job;
    build_request(x, to, params);
    job->sent_ns = bench_now_ns();
    x->fd = socket(to->address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int one = 1;
    setsockopt(x->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    if (connect(x->fd, (const struct sockaddr *)&to->address, to->address_bytes) < 0 &&
        errno != EINPROGRESS)
        job->reason = 0xFFFF;
}

static void take_line(struct exchange *x, struct load_totals *totals)
{
    struct load_job *job = x->job;
    x->line[min_of(x->line_bytes, (size_t)LINE_MAX_BYTES - 1)] = 0;
    if (!x->status && sscanf(x->line, "HTTP/1.%*d %d", &x->status) == 1)
        return;
    const char *data = strstr(x->line, "data: {");
    if (!data || !strstr(data, "\"text\""))
        return;
    if (strstr(data, "\"text\":\"\"") || strstr(data, "\"text\": \"\""))
        return; /* the closing event carries no token */
    uint64_t now = bench_now_ns();
    if (!job->first_ns)
        job->first_ns = now;
    else
        bench_samples_add(&totals->itl, now - job->last_ns);
    job->last_ns = now;
    job->n_output_all++;
    if (job->n_output < job->max_tokens) {
        job->output[job->n_output] = 300 + job->n_output % 64;
        job->n_output++;
    }
}

/* Returns true when the exchange is over. */
static bool advance(struct exchange *x, short revents, struct load_totals *totals)
{
    char buffer[16384];
    if (x->job->reason == 0xFFFF)
        return true;
    if (x->sent < x->request_bytes && (revents & (POLLOUT | POLLERR))) {
        ssize_t n = send(x->fd, x->request + x->sent, x->request_bytes - x->sent, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) {
            x->job->reason = 0xFFFF;
            return true;
        }
        x->sent += n > 0 ? (size_t)n : 0;
    }
    if (!(revents & (POLLIN | POLLHUP | POLLERR)))
        return false;
    ssize_t n = recv(x->fd, buffer, sizeof(buffer), 0);
    if (n < 0)
        return errno != EAGAIN && (x->job->reason = 0xFFFF);
    for (ssize_t i = 0; i < n; i++) {
        if (buffer[i] == '\n') {
            take_line(x, totals);
            x->line_bytes = 0;
        } else if (x->line_bytes < LINE_MAX_BYTES - 1) {
            x->line[x->line_bytes++] = buffer[i];
        }
    }
    if (n == 0 && x->status != 200)
        x->job->reason = 0xFFFF;
    return n == 0;
}

static void finish(struct exchange *x, const struct load_params *params, struct workload *w,
                   struct load_totals *totals)
{
    x->job->done_ns = x->job->last_ns ? x->job->last_ns : bench_now_ns();
    x->job->prompt_tokens = x->job->n_token;
    if (x->job->reason == 0xFFFF && totals->n_failed == 0)
        fprintf(stderr, "ringbench: request failed: HTTP status %d\n", x->status);
    load_count(totals, params, x->job);
    workload_done(w, x->job);
    close(x->fd);
    free(x->request);
    x->job = NULL;
}

static struct exchange *free_exchange(struct exchange *all, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!all[i].job)
            return &all[i];
    return NULL;
}

static void pump(struct exchange *all, struct pollfd *fds, const struct endpoint *to,
                 const struct load_params *params, struct workload *w, struct load_totals *totals)
{
    struct load_job *waiting = NULL;
    uint32_t n_out = 0, n = params->concurrency;
    while (waiting || n_out || !workload_finished(w)) {
        struct exchange *slot;
        while ((slot = free_exchange(all, n))) {
            if (!waiting)
                waiting = workload_next(w);
            if (!waiting || waiting->due_ns > bench_now_ns())
                break;
            start(slot, to, params, waiting);
            waiting = NULL;
            n_out++;
        }
        for (uint32_t i = 0; i < n; i++) {
            fds[i].fd = all[i].job ? all[i].fd : -1;
            fds[i].events =
                POLLIN | (all[i].job && all[i].sent < all[i].request_bytes ? POLLOUT : 0);
            fds[i].revents = 0;
        }
        poll(fds, n, 1);
        for (uint32_t i = 0; i < n; i++)
            if (all[i].job && advance(&all[i], fds[i].revents, totals)) {
                finish(&all[i], params, w, totals);
                n_out--;
                bench_progress("%s over HTTP: %llu requests done", params->workload,
                               (unsigned long long)totals->n_done);
            }
    }
}

int load_http(const struct load_params *params, struct workload *w, struct load_totals *totals)
{
    struct endpoint to;
    int rc = parse_url(params->http_url, &to);
    if (rc < 0) {
        fprintf(stderr, "ringbench: %s: %s\n", params->http_url,
                rc == -EINVAL ? "not of the form http://HOST:PORT/v1" : "no such host");
        return rc == -EINVAL ? 2 : 3;
    }
    struct exchange *all = calloc(params->concurrency, sizeof(*all));
    struct pollfd *fds = calloc(params->concurrency, sizeof(*fds));
    if (all && fds) {
        totals->started_ns = bench_now_ns();
        pump(all, fds, &to, params, w, totals);
        bench_progress_end();
    }
    free(all);
    free(fds);
    return totals->n_done && totals->n_failed == totals->n_done ? 3 : 0;
}
