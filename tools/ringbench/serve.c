/*
 * ringbench serve: open- and closed-loop load, by ring or over HTTP. Runs of all subjects are
 * interleaved; serve_report.c makes the results.
 */
#include "tools/ringbench/serve.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "ringlet.h"

static const char *const usage =
    "usage: ringbench serve [OPTION...]\n"
    "\n"
    "  --model NAME|PATH       a served model; with a path (or 'echo') an own daemon is started\n"
    "  --daemon-args 'ARGS'    more arguments for the own daemon\n"
    "  --versus 'ARGS'         a second own daemon with these arguments, interleaved run by run;\n"
    "                          with '--prefix-cache off' it tells the gain of the cache and\n"
    "                          what the saved tokens allow\n"
    "  --http URL              an OpenAI-compatible endpoint beside it, such as\n"
    "                          http://127.0.0.1:8000/v1; --http-only leaves the ring out\n"
    "  --http-model NAME       the model's name there\n"
    "  --workload NAME         plain (default), few-shot, n, beam, chat, tree, agent,\n"
    "                          rag, no-sharing\n"
    "  --concurrency N         requests out at once (default 8)\n"
    "  --rate R                open loop: R requests a second, Poisson; default: closed loop\n"
    "  --requests N            how many conversations (default 64)\n"
    "  --duration S            start none after S seconds\n"
    "  --prompt LEN            prompt tokens: N, A-B, exp:MEAN, normal:MEAN,SD (default 128)\n"
    "  --output LEN            answer tokens, the same forms (default 64)\n"
    "  --shared-prefix N       the first N prompt tokens are common to a group\n"
    "  --groups N              groups of common prefixes (default 1)\n"
    "  --ttft-deadline MS, --deadline MS   bounds that goodput counts by\n"
    "  --temperature T         default 0\n"
    "  --warm-up N             first N requests that are not counted (default 8; 0: none)\n"
    "  --seed N                of prompts and arrivals (default 1)\n"
    "  --poll                  the ring client polls and never sleeps: it takes a core\n"
    "\n"
    "Common options: ringbench --help.\n";

static double number(const char *option, const char *text, double lo, double hi)
{
    char *end;
    double value = text ? strtod(text, &end) : NAN;
    if (!text || *end || !(value >= lo && value <= hi)) {
        fprintf(stderr, "ringbench serve: %s %s: give a number from %g to %g\n", option,
                text ? text : "", lo, hi);
        exit(2);
    }
    return value;
}

/* Is it this one? Then it has a value. */
static bool is_option(const char *option, const char *value, const char *name)
{
    if (strcmp(option, name) != 0)
        return false;
    if (!value) {
        fprintf(stderr, "ringbench serve: %s needs a value\n", option);
        exit(2);
    }
    return true;
}

static void set_option(struct serve *s, const char *option, const char *value)
{
    struct load_params *p = &s->params;
    if (is_option(option, value, "--model"))
        p->model = value;
    else if (is_option(option, value, "--daemon-args"))
        s->daemon_args = value;
    else if (is_option(option, value, "--versus"))
        s->versus = value;
    else if (is_option(option, value, "--http"))
        p->http_url = value;
    else if (is_option(option, value, "--http-model"))
        s->http_model = value;
    else if (is_option(option, value, "--workload"))
        p->workload = value;
    else if (is_option(option, value, "--concurrency"))
        p->concurrency = (uint32_t)number(option, value, 1, 4096);
    else if (is_option(option, value, "--rate"))
        p->rate = number(option, value, 0, 1e6);
    else if (is_option(option, value, "--requests"))
        p->n_request = (uint32_t)number(option, value, 1, 1e8);
    else if (is_option(option, value, "--duration"))
        p->duration_ns = (uint64_t)(number(option, value, 0.001, 1e6) * 1e9);
    else if (is_option(option, value, "--prompt"))
        p->prompt = value;
    else if (is_option(option, value, "--output"))
        p->output = value;
    else if (is_option(option, value, "--shared-prefix"))
        p->shared_tokens = (uint32_t)number(option, value, 0, 1e7);
    else if (is_option(option, value, "--groups"))
        p->n_group = (uint32_t)number(option, value, 1, 1e5);
    else if (is_option(option, value, "--ttft-deadline"))
        p->ttft_deadline_ns = (uint64_t)(number(option, value, 0.001, 1e9) * 1e6);
    else if (is_option(option, value, "--deadline"))
        p->total_deadline_ns = (uint64_t)(number(option, value, 0.001, 1e9) * 1e6);
    else if (is_option(option, value, "--temperature"))
        p->temperature = (float)number(option, value, 0, 2);
    else if (is_option(option, value, "--warm-up"))
        s->n_warm_up = (uint32_t)number(option, value, 0, 1e6);
    else if (is_option(option, value, "--seed"))
        p->seed = (uint64_t)number(option, value, 0, 9e15);
    else {
        fprintf(stderr, "ringbench serve: unknown option '%s' (see --help)\n", option);
        exit(2);
    }
}

static void parse(struct serve *s, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        char name[64], *equals = strchr(argv[i], '=');
        if (strcmp(argv[i], "--help") == 0) {
            fputs(usage, stdout);
            exit(0);
        }
        if (strcmp(argv[i], "--poll") == 0) {
            s->params.polls = true;
            continue;
        }
        if (strcmp(argv[i], "--http-only") == 0) {
            s->http_only = true;
            continue;
        }
        if (equals && argv[i][0] == '-') {
            snprintf(name, sizeof(name), "%.*s", (int)(equals - argv[i]), argv[i]);
            set_option(s, name, equals + 1);
            continue;
        }
        const char *option = argv[i];
        set_option(s, option, i + 1 < argc ? argv[i + 1] : NULL);
        i++;
    }
    if (s->http_only && !s->params.http_url) {
        fputs("ringbench serve: --http-only needs --http URL\n", stderr);
        exit(2);
    }
}

static struct subject *add_subject(struct serve *s, const char *name)
{
    struct subject *subject = &s->subjects[s->n_subject++];
    snprintf(subject->name, sizeof(subject->name), "%s", name);
    return subject;
}

/* Split "a b c" in place into argv. */
static int split(char *text, const char **argv, int max)
{
    int n = 0;
    char *save = NULL;
    for (char *word = strtok_r(text, " ", &save); word && n < max;
         word = strtok_r(NULL, " ", &save))
        argv[n++] = word;
    return n;
}

static int start_own(const struct serve *s, struct subject *subject)
{
    char common[1024], extra[1024];
    const char *argv[60] = { "--model", s->model_path };
    snprintf(common, sizeof(common), "%s", s->daemon_args ? s->daemon_args : "");
    snprintf(extra, sizeof(extra), "%s", subject->extra ? subject->extra : "");
    int n = 2;
    n += split(common, argv + n, 28);
    n += split(extra, argv + n, 28);
    argv[n] = NULL;
    int rc = bench_daemon_start(&subject->daemon, argv);
    subject->socket_path = subject->daemon.socket_path;
    return rc;
}

/* Vocabulary and context of the model, from the first ring subject; defaults over HTTP alone. */
static int learn_model(struct serve *s)
{
    struct ringlet_options options;
    struct ringlet_client *cl;
    struct ringlet_model_info model;
    if (s->subjects[0].http)
        return 0;
    bench_client_options(&options, s->subjects[0].socket_path);
    options.flags = RINGLET_OBSERVER;
    int rc = ringlet_connect(&options, &cl);
    if (rc < 0) {
        fprintf(stderr, "ringbench: cannot connect to %s: %s\n",
                options.socket_path ? options.socket_path : "the default socket",
                bench_connect_error(rc));
        return 3;
    }
    rc = ringlet_model(cl, s->params.model, &model);
    ringlet_close(cl);
    if (rc < 0) {
        fprintf(stderr, "ringbench: the daemon serves no model named '%s'\n",
                s->params.model ? s->params.model : "(any)");
        return 1;
    }
    s->params.vocab = model.vocab;
    s->params.context = model.context;
    return 0;
}

static int drive(const struct serve *s, const struct subject *subject, struct load_params *params,
                 struct workload *w, struct load_totals *totals)
{
    if (!w)
        return 2;
    if (subject->http)
        params->model = s->http_model;
    int rc = subject->http ? load_http(params, w, totals)
                           : load_ring(params, subject->socket_path, w, totals);
    workload_close(w);
    return rc;
}

/* Pages, caches and cost estimates settle; nothing of it is counted. */
static int warm_up(const struct serve *s, const struct subject *subject)
{
    struct load_params params = s->params;
    struct load_totals totals = { 0 };
    params.workload = "plain";
    params.n_request = s->n_warm_up;
    params.rate = 0;
    params.duration_ns = 0;
    params.shared_tokens = 0;
    params.prompt = "64";
    params.output = "8";
    params.seed = s->params.seed ^ 0x5eed;
    if (s->n_warm_up == 0)
        return 0;
    int rc = drive(s, subject, &params, workload_open(&params), &totals);
    load_totals_free(&totals);
    return rc;
}

static int one_run(struct serve *s, int subject_i, int run, struct load_record *record)
{
    struct load_params params = s->params;
    struct subject *subject = &s->subjects[subject_i];
    params.seed += (uint64_t)run * 7919;
    params.record = subject_i == 0 && s->versus ? record : NULL;
    return drive(s, subject, &params, workload_open(&params), &subject->totals[run]);
}

/* What did the second subject pay for the tokens that the first had cached? It pays again. */
static int measure_saved(struct serve *s, int run, const struct load_record *record)
{
    struct load_params params = s->params;
    const struct subject *second = &s->subjects[1];
    if (!s->versus || record->n == 0 || second->totals[run].cached_tokens > 0)
        return 0;
    params.record = NULL;
    params.workload = "saved tokens";
    return drive(s, second, &params, workload_replay(&params, record), &s->saved[run]);
}

static int all_runs(struct serve *s)
{
    int rc = 0;
    for (int i = 0; i < s->n_subject && rc == 0; i++)
        rc = warm_up(s, &s->subjects[i]);
    for (int run = 0; run < s->n_run && rc == 0; run++) {
        struct load_record record = { 0 };
        for (int i = 0; i < s->n_subject && rc == 0; i++)
            rc = one_run(s, (i + run) % s->n_subject, run, &record);
        if (rc == 0)
            rc = measure_saved(s, run, &record);
        load_record_free(&record);
    }
    return rc;
}

static bool is_path(const char *model)
{
    return model && (strchr(model, '/') || strcmp(model, "echo") == 0 || strstr(model, ".gguf"));
}

/* Who is measured, in order. False: usage, told. */
static bool choose_subjects(struct serve *s, const struct bench_options *options)
{
    bool own = is_path(s->params.model);
    if (s->versus && (!own || s->http_only)) {
        fputs("ringbench serve: --versus needs --model PATH, for daemons of its own\n", stderr);
        return false;
    }
    if (own && options->socket_path && !s->http_only) {
        fputs("ringbench serve: --socket means a running daemon, --model PATH an own one: give one "
              "of them\n",
              stderr);
        return false;
    }
    if (!s->http_only) {
        struct subject *first = add_subject(s, "ringlet");
        first->socket_path = options->socket_path;
        first->own = own;
        if (own) {
            s->model_path = s->params.model;
            s->params.model = NULL;
        }
        if (s->versus) {
            struct subject *second = add_subject(s, s->versus);
            second->own = true;
            second->extra = s->versus;
        }
    }
    if (s->params.http_url)
        add_subject(s, "http")->http = true;
    return true;
}

/* A load that cannot be is told before a model is loaded. */
static int check_load(struct serve *s)
{
    s->params.vocab = 32000;
    s->params.context = 1 << 20;
    struct workload *w = workload_open(&s->params);
    if (!w)
        return 2;
    workload_close(w);
    return s->params.http_url ? load_http_check(s->params.http_url) : 0;
}

static void free_all(struct serve *s)
{
    for (int i = 0; i < s->n_subject; i++) {
        if (s->subjects[i].own && s->subjects[i].daemon.pid > 0)
            bench_daemon_stop(&s->subjects[i].daemon);
        for (int run = 0; run < s->n_run; run++)
            load_totals_free(&s->subjects[i].totals[run]);
    }
    for (int run = 0; run < s->n_run; run++)
        load_totals_free(&s->saved[run]);
}

int bench_serve_main(int argc, char **argv, const struct bench_options *options)
{
    static struct serve s = { .params = { .seed = 1,
                                          .concurrency = 8,
                                          .n_request = 64,
                                          .prompt = "128",
                                          .output = "64",
                                          .n_group = 1,
                                          .workload = "plain" },
                              .n_warm_up = 8 };
    struct bench_report report = { .bench = "serve" };
    int rc = 0;
    snprintf(report.command, sizeof(report.command), "%s", options->command);
    parse(&s, argc, argv);
    if (!choose_subjects(&s, options) || check_load(&s) != 0)
        return 2;
    s.n_run = options->repeat ? options->repeat : 3;
    for (int i = 0; i < s.n_subject && rc == 0; i++)
        if (s.subjects[i].own && start_own(&s, &s.subjects[i]) < 0)
            rc = 3;
    rc = rc ? rc : learn_model(&s);
    rc = rc ? rc : all_runs(&s);
    if (rc == 0)
        serve_report(&report, &s);
    free_all(&s);
    if (rc == 0 && bench_report_write(&report, options) < 0)
        rc = 1;
    bench_report_free(&report);
    return rc;
}
