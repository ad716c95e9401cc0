/*
 * Load on an engine: jobs come from a workload, go out when their time has come, and tell what they
 * measured. One thread drives one engine (ring_load.c or http_load.c).
 */
#ifndef RINGLET_TOOLS_LOAD_H
#define RINGLET_TOOLS_LOAD_H

#include "base/list.h"
#include "tools/ringbench/bench.h"

/* One request. The workload owns tokens until workload_done gives the job back. */
struct load_job {
    uint32_t *tokens;
    uint32_t n_token, max_tokens, n; /* n sequences; max_tokens 0: the prompt alone */
    uint32_t beam_width;             /* 0: no beam search */
    uint64_t due_ns;                 /* open loop: when it must go out; 0 = at once */
    void *owner;                     /* the workload's */
    struct list node;                /* the workload's */
    /* filled by the engine */
    uint64_t sent_ns, first_ns, last_ns, done_ns;
    uint32_t *output;  /* [max_tokens] ids of sequence 0 */
    uint32_t n_output; /* of sequence 0 */
    uint32_t n_output_all, prompt_tokens, cached_tokens;
    uint16_t reason; /* RINGLET_REASON_*, or 0xFFFF: transport error */
    uint64_t id;
};

/* Beginnings of prompts that an engine had in its cache, to be asked for again. */
struct load_record {
    struct load_prefix {
        uint32_t *tokens, n_token;
    } * prefixes;
    size_t n, capacity;
    uint64_t n_token; /* of all */
};

void load_record_free(struct load_record *record);

struct load_params {
    uint64_t seed;
    uint32_t concurrency;
    double rate; /* requests/s, Poisson; 0: closed loop */
    uint32_t n_request;
    uint64_t duration_ns;        /* 0: until n_request */
    const char *prompt, *output; /* length distributions */
    uint32_t shared_tokens, n_group;
    uint32_t vocab, context;
    uint64_t ttft_deadline_ns, total_deadline_ns; /* goodput bounds, 0 = none */
    float temperature;
    const char *model, *workload;
    const char *http_url;
    bool polls;                 /* the ring client never sleeps */
    struct load_record *record; /* filled as jobs end; NULL: not wanted */
};

struct load_totals {
    struct bench_samples ttft, itl, e2e;
    uint64_t started_ns, ended_ns;
    uint64_t n_done, n_good, n_failed, prompt_tokens, cached_tokens, output_tokens;
};

void load_totals_free(struct load_totals *totals);

struct workload;

/* Unknown name or distribution: NULL after telling stderr. `params` must outlive it. */
struct workload *workload_open(const struct load_params *params);
/* The record's prefixes, one prompt each, nothing to answer. NULL: no memory. */
struct workload *workload_replay(const struct load_params *params,
                                 const struct load_record *record);
/* Jobs that are still out go with it. */
void workload_close(struct workload *w);
/* The next job that may go out, or NULL: none ready now (others are running) or none left. */
struct load_job *workload_next(struct workload *w);
/* The job has ended: follow-ups may become ready. The job is the workload's again. */
void workload_done(struct workload *w, struct load_job *job);
bool workload_finished(const struct workload *w);

/* Count an ended job into the totals; it has failed if its reason says so or nothing was said. */
void load_count(struct load_totals *totals, const struct load_params *params,
                const struct load_job *job);

/* Run the workload to its end. Returns an exit status: 0, 1, 3 no daemon. */
int load_ring(const struct load_params *params, const char *socket_path, struct workload *w,
              struct load_totals *totals);
int load_http(const struct load_params *params, struct workload *w, struct load_totals *totals);

/* Could this be an endpoint? If not it is told, and 2 returned; else 0. */
int load_http_check(const char *url);

struct ringlet_options;
/* Defaults for this socket, but for more patience: where CPUs are lent, a second is soon gone. */
void bench_client_options(struct ringlet_options *ret, const char *socket_path);

/* Why there is no connection to a daemon, and what to do. */
const char *bench_connect_error(int error);

/* A private daemon for the length of a benchmark. */
struct bench_daemon {
    int pid;
    char folder[64], socket_path[96], log_path[96];
};

/*
 * Start ringletd with these arguments after --socket (NULL-terminated) and wait until it answers.
 * It ends with this process, whatever ends that, and its folder unless that was SIGKILL.
 * Returns: 0; -errno after telling stderr (the daemon's own error line is passed on).
 */
int bench_daemon_start(struct bench_daemon *daemon, const char *const *arguments);
void bench_daemon_stop(struct bench_daemon *daemon);

#endif
