/* The ring engine: one session, one thread, as many requests out as --concurrency allows. */
#include "tools/ringbench/load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ringlet.h"

static int submit(struct ringlet_client *cl, const struct load_params *params,
                  const struct ringlet_model_info *model, struct load_job *job)
{
    struct ringlet_request req;
    ringlet_request_init(&req);
    req.model = model->index;
    req.tokens = job->tokens;
    req.n_token = job->n_token;
    req.max_tokens = job->max_tokens;
    req.n = job->n;
    req.temperature = job->n > 1 && params->temperature <= 0 ? 1.0f : params->temperature;
    if (job->beam_width) { /* draws nothing: no seed, no temperature */
        req.beam_width = (uint16_t)job->beam_width;
        req.temperature = 0;
    } else {
        req.seed = params->seed;
    }
    req.options = RINGLET_BLOCK_IGNORE_EOS;
    req.flags = RINGLET_SQE_NO_TEXT;
    req.tag = (uintptr_t)job;
    job->sent_ns = bench_now_ns();
    return ringlet_submit(cl, &req, &job->id);
}

/* Take one event; returns the job if it ended, else NULL. */
static struct load_job *take_event(const struct ringlet_event *ev, struct load_totals *totals)
{
    struct load_job *job = (struct load_job *)(uintptr_t)ev->tag;
    uint64_t now = bench_now_ns();
    if (ev->kind == RINGLET_KIND_TOKENS && ev->n_token) {
        if (!job->first_ns)
            job->first_ns = now;
        else if (ev->index == 0)
            bench_samples_add(&totals->itl, (now - job->last_ns) / ev->n_token);
        if (ev->index == 0) {
            job->last_ns = now;
            for (uint32_t i = 0; i < ev->n_token && job->n_output < job->max_tokens; i++)
                job->output[job->n_output++] = ev->tokens[i];
        }
        job->n_output_all += ev->n_token;
    }
    if (ev->kind == RINGLET_KIND_FINISHED && ev->reason > job->reason)
        job->reason = ev->reason;
    if (!(ev->flags & RINGLET_CQE_END))
        return NULL;
    if (ev->annex) {
        job->prompt_tokens = ev->annex->total_prompt_tokens;
        job->cached_tokens = ev->annex->total_cached_tokens;
    }
    job->done_ns = now;
    return job;
}

struct ring_state {
    struct ringlet_client *cl;
    struct ringlet_model_info model;
    struct load_job *waiting; /* drawn, not due yet */
    uint32_t n_out;
};

/* Send what is due. Returns 0 or a negative errno that ends the run. */
static int send_due(struct ring_state *s, const struct load_params *params, struct workload *w)
{
    while (s->n_out < params->concurrency) {
        if (!s->waiting)
            s->waiting = workload_next(w);
        if (!s->waiting || s->waiting->due_ns > bench_now_ns())
            return 0;
        int rc = submit(s->cl, params, &s->model, s->waiting);
        if (rc == -EAGAIN)
            return 0;
        if (rc < 0)
            return rc;
        s->waiting = NULL;
        s->n_out++;
    }
    return 0;
}

static int pump(struct ring_state *s, const struct load_params *params, struct workload *w,
                struct load_totals *totals)
{
    uint64_t seen = 0;
    while (s->waiting || s->n_out || !workload_finished(w)) {
        struct ringlet_event ev;
        int rc = send_due(s, params, w);
        if (rc < 0)
            return rc;
        rc = ringlet_wait(s->cl, &ev,
                          s->waiting && s->n_out < params->concurrency
                              ? max_of(s->waiting->due_ns, 1u)
                              : bench_now_ns() + 1000000000u);
        if (rc == -ETIMEDOUT || rc == -EAGAIN || rc == -EINTR)
            continue;
        if (rc < 0)
            return rc;
        struct load_job *ended = take_event(&ev, totals);
        ringlet_advance(s->cl);
        if (ended) {
            s->n_out--;
            load_count(totals, params, ended);
            workload_done(w, ended);
            bench_progress("%s: %llu requests done", params->workload, (unsigned long long)++seen);
        }
    }
    return 0;
}

int load_ring(const struct load_params *params, const char *socket_path, struct workload *w,
              struct load_totals *totals)
{
    struct ringlet_options options;
    struct ring_state s = { 0 };
    bench_client_options(&options, socket_path);
    options.n_slot = 16;
    if (params->polls)
        options.spin_ns = RINGLET_FOREVER;
    while (options.n_slot < params->concurrency && options.n_slot < 4096)
        options.n_slot *= 2;
    uint64_t prompts = (uint64_t)params->context * 4 * min_of(params->concurrency, 64u);
    options.prompt_bytes = min_of(prompts + (1u << 20), (uint64_t)RINGLET_PROMPT_BYTES_MAX);
    int rc = ringlet_connect(&options, &s.cl);
    if (rc < 0) {
        fprintf(stderr, "ringbench: cannot connect to %s: %s\n",
                socket_path ? socket_path : "the default socket", bench_connect_error(rc));
        return 3;
    }
    rc = ringlet_model(s.cl, params->model, &s.model);
    if (rc < 0) {
        fprintf(stderr, "ringbench: the daemon serves no model named '%s'\n",
                params->model ? params->model : "(any)");
        ringlet_close(s.cl);
        return 1;
    }
    totals->started_ns = bench_now_ns();
    rc = pump(&s, params, w, totals);
    bench_progress_end();
    ringlet_close(s.cl);
    if (rc < 0) {
        fprintf(stderr, "ringbench: the run broke off: %s\n", ringlet_strerror(rc));
        return rc == -EPIPE || rc == -ECONNABORTED ? 3 : 1;
    }
    return 0;
}
