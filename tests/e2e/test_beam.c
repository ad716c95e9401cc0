/* mirrors: daemon/sched/beam.c. Beam search through real rings and kernels, against what
 * transformers' generate(num_beams) finds on the same tiny checkpoint. */
#include "tests/e2e/e2e.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

#include "config.h"

#define VECTORS RINGLET_SOURCE_ROOT "/tests/vectors/"

enum { CASES_MAX = 64, TOKENS_MAX = 64, WIDTH_MAX = 10 };

static struct e2e_daemon d;
static json_t *golden;

/* One request as it is sent, and what came. */
struct search {
    uint64_t id;
    uint32_t prompt[TOKENS_MAX], stop[4];
    struct ringlet_logit_bias bias[4];
    struct {
        uint32_t ids[TOKENS_MAX], n;
        float cumulative;
        uint16_t reason;
    } found[WIDTH_MAX];
    uint32_t n_found, n_ended, preemptions;
};

static struct search searches[CASES_MAX];

static uint32_t number_of(const json_t *object, const char *name)
{
    return (uint32_t)json_integer_value(json_object_get(object, name));
}

static size_t read_ids(const json_t *list, uint32_t *ids)
{
    size_t n = json_array_size(list);
    for (size_t i = 0; i < n; i++)
        ids[i] = (uint32_t)json_integer_value(json_array_get(list, i));
    return n;
}

static struct ringlet_request request_of(const json_t *c, struct search *s)
{
    static const char *const early[] = { "false", "true", "never" };
    const char *id, *early_stopping = json_string_value(json_object_get(c, "early_stopping"));
    json_t *bias;
    struct ringlet_request req;
    ringlet_request_init(&req);
    req.flags = RINGLET_SQE_NO_TEXT;
    req.tokens = s->prompt;
    req.n_token = read_ids(json_object_get(c, "prompt"), s->prompt);
    req.stop_token_ids = s->stop;
    req.n_stop_token_id = read_ids(json_object_get(c, "stop_ids"), s->stop);
    req.logit_bias = s->bias;
    json_object_foreach(json_object_get(c, "bias"), id, bias) s->bias[req.n_logit_bias++] =
        (struct ringlet_logit_bias){ (uint32_t)strtoul(id, NULL, 10),
                                     (float)json_number_value(bias) };
    req.max_tokens = number_of(c, "max_tokens");
    req.min_tokens = number_of(c, "min_tokens");
    req.n = number_of(c, "n");
    req.beam_width = (uint16_t)number_of(c, "width");
    req.length_penalty_set = 1;
    req.length_penalty = (float)json_number_value(json_object_get(c, "length_penalty"));
    while (strcmp(early[req.early_stopping], early_stopping) != 0)
        req.early_stopping++;
    return req;
}

static struct search *search_of(uint64_t id)
{
    for (int i = 0; i < CASES_MAX; i++)
        if (searches[i].id == id)
            return &searches[i];
    fail_msg("an event of no request");
    return NULL;
}

/* Takes events until n searches have ended. */
static void gather(struct ringlet_client *cl, size_t n)
{
    while (n > 0) {
        struct ringlet_event ev;
        assert_ok(ringlet_wait(cl, &ev, e2e_deadline_ns()));
        struct search *s = search_of(ev.id);
        if (ev.kind == RINGLET_KIND_TOKENS) {
            assert_true(ev.index < WIDTH_MAX);
            assert_int_equal(ev.position, s->found[ev.index].n);
            for (uint32_t i = 0; i < ev.n_token; i++)
                s->found[ev.index].ids[s->found[ev.index].n++] = ev.tokens[i];
        } else if (ev.kind == RINGLET_KIND_FINISHED) {
            assert_true(ev.index < WIDTH_MAX && ev.flags & RINGLET_CQE_LOGPROBS);
            assert_int_equal(ev.index, s->n_found++); /* best first */
            s->found[ev.index].cumulative = ev.cumulative_logprob;
            s->found[ev.index].reason = ev.reason;
        }
        if (ev.flags & RINGLET_CQE_END) {
            s->n_ended++;
            s->preemptions = ev.annex->preemptions;
            n--;
        }
        ringlet_advance(cl);
    }
}

static void compare(const json_t *c, const struct search *s, size_t case_i)
{
    const json_t *want = json_object_get(c, "want");
    double penalty = json_number_value(json_object_get(c, "length_penalty"));
    assert_int_equal(s->n_found, json_array_size(want));
    for (uint32_t i = 0; i < s->n_found; i++) {
        const json_t *one = json_array_get(want, i);
        uint32_t ids[TOKENS_MAX];
        size_t n = read_ids(json_object_get(one, "ids"), ids);
        if (n != s->found[i].n || memcmp(ids, s->found[i].ids, n * sizeof(*ids)) != 0)
            fail_msg("case %zu: hypothesis %u differs", case_i, i);
        assert_close((double)s->found[i].cumulative / pow((double)n, penalty),
                     json_number_value(json_object_get(one, "score")), 1e-3, 1e-3);
        assert_int_equal(s->found[i].reason == RINGLET_REASON_LENGTH,
                         n == number_of(c, "max_tokens") &&
                             s->found[i].reason > RINGLET_REASON_STOP_TOKEN);
    }
}

static void open_all(const char *const *more)
{
    char script[] = VECTORS "beam.py", python[] = "python3", folder[256], model[300];
    snprintf(folder, sizeof(folder), "%s/tiny", harness_tmpdir());
    snprintf(model, sizeof(model), "tiny=%s", folder);
    char *argv[] = { python, script, folder, NULL };
    json_error_t error;
    pid_t pid;
    int status;
    if (posix_spawnp(&pid, python, NULL, NULL, argv, environ) != 0) {
        print_message("python3 is not there\n");
        skip();
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    const char *args[12] = { "--model", model, "--kv-type", "f32", "--device", "cpu" };
    for (int i = 0; more && more[i]; i++)
        args[6 + i] = more[i];
    e2e_start_with(&d, args);
    golden = json_load_file(VECTORS "beam/golden.json", 0, &error);
    assert_non_null(golden);
    memset(searches, 0, sizeof(searches));
}

/* So many at a time. */
static void run_all(struct ringlet_client *cl, size_t at_once)
{
    const json_t *cases = json_object_get(golden, "cases");
    size_t n = json_array_size(cases);
    assert_true(n >= 40 && n <= CASES_MAX);
    memset(searches, 0, sizeof(searches));
    for (size_t from = 0; from < n; from += at_once) {
        size_t end = from + at_once < n ? from + at_once : n;
        if (at_once > 1)
            e2e_pause(&d); /* or the first are over before the last are there */
        for (size_t i = from; i < end; i++) {
            struct ringlet_request req = request_of(json_array_get(cases, i), &searches[i]);
            assert_ok(ringlet_submit(cl, &req, &searches[i].id));
        }
        if (at_once > 1)
            e2e_resume(&d);
        gather(cl, end - from);
    }
    for (size_t i = 0; i < n; i++)
        compare(json_array_get(cases, i), &searches[i], i);
}

TEST(beams_are_those_of_transformers)
{
    open_all(NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    run_all(cl, 1);
    run_all(cl, 1); /* over the prefix cache */
    run_all(cl, CASES_MAX);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    json_decref(golden);
    e2e_stop(&d);
}

/* Room for two or three of them: they are preempted whole, and find the same. */
TEST(beams_are_those_of_transformers_when_memory_is_short)
{
    open_all((const char *[]){ "--kv-memory", "200KiB", NULL });
    struct ringlet_client *cl = e2e_connect(&d);
    run_all(cl, CASES_MAX);
    e2e_stat_reaches(cl, "preemptions", 0, 1);
    e2e_audit(cl, 0);
    ringlet_close(cl);
    json_decref(golden);
    e2e_stop(&d);
}

TEST(a_beam_search_is_cancelled_and_keeps_deadlines)
{
    e2e_start(&d, NULL);
    struct ringlet_client *cl = e2e_connect(&d);
    static struct e2e_answer a;
    struct ringlet_request req = e2e_text("a text that is echoed for a while");
    uint64_t id;
    req.beam_width = 4;
    req.n = 2;
    req.max_tokens = 200;
    req.options = RINGLET_BLOCK_IGNORE_EOS;
    e2e_pause(&d); /* it would not take long */
    assert_ok(ringlet_submit(cl, &req, &id));
    assert_ok(ringlet_cancel(cl, id));
    e2e_resume(&d);
    e2e_gather(cl, id, &a);
    assert_int_equal(a.reason, RINGLET_REASON_CANCELLED);
    assert_int_equal(a.n_token, 0); /* nothing before the end */
    assert_int_equal(a.index, RINGLET_INDEX_ALL);
    req.total_deadline_ns = e2e_now_ns();
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_DEADLINE);
    req.total_deadline_ns = 0;
    req.stop = &(struct ringlet_text){ "x", 1 };
    req.n_stop = 1;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_REJECTED);
    assert_int_equal(a.field, 64 + offsetof(struct ringlet_block, stop));
    e2e_audit(cl, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}

TEST(beams_beyond_the_batch_are_refused)
{
    e2e_start(&d, (const char *[]){ "--batch-max", "3", NULL });
    struct ringlet_client *cl = e2e_connect(&d);
    static struct e2e_answer a;
    struct ringlet_request req = e2e_text("hello");
    req.beam_width = 4;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_REJECTED);
    assert_int_equal(a.detail, RINGLET_ERROR_OVER_QUOTA);
    assert_int_equal(a.field, 64 + offsetof(struct ringlet_block, beam_width));
    req.beam_width = 3;
    e2e_ask(cl, &req, &a);
    assert_int_equal(a.reason, RINGLET_REASON_STOP_EOS);
    assert_string_equal(a.text, "hello");
    assert_int_equal(a.annex.beam_width, 3);
    assert_close(a.annex.length_penalty, 1, 0, 0);
    ringlet_close(cl);
    e2e_stop(&d);
}
