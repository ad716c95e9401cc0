/* What an honest client must get, computed from what it asked alone. */
#include <math.h>
#include <string.h>

#include "base/compiler.h"
#include "daemon/base/clock.h"
#include "tests/sim/fake_beam.h"
#include "tests/sim/sim_serve.h"

enum { EOS = 257 };

/* The daemon reads the clock once a pass, and may stop in the middle of one. */
#define CLOCK_LAG_NS (20 * NS_PER_MS)
#define GROUP_DOMAIN (UINT64_C(1) << 32) /* no uid */

/* ---- Text, the slow and simple way ---- */

/* Could these bytes begin a character, or be one? 0: no; 1: begin; 2: they are one. */
static int character(const uint8_t *b, uint32_t n)
{
    if (b[0] < 0x80)
        return 2;
    uint32_t len = b[0] >= 0xC2 && b[0] <= 0xDF   ? 2
                   : b[0] >= 0xE0 && b[0] <= 0xEF ? 3
                   : b[0] >= 0xF0 && b[0] <= 0xF4 ? 4
                                                  : 0;
    if (len == 0)
        return 0;
    for (uint32_t i = 1; i < n; i++) {
        uint8_t lo = 0x80, hi = 0xBF;
        if (i == 1) {
            lo = b[0] == 0xE0 ? 0xA0 : b[0] == 0xF0 ? 0x90 : lo;
            hi = b[0] == 0xED ? 0x9F : b[0] == 0xF4 ? 0x8F : hi;
        }
        if (b[i] < lo || b[i] > hi)
            return 0;
    }
    return n == len ? 2 : 1;
}

/* Which stop ends here, the longest one; -1: none. */
static int stop_at(const struct want *w, const char *text, uint32_t n)
{
    int best = -1;
    for (size_t i = 0; i < w->ask.n_stop; i++) {
        size_t bytes = w->stops[i].bytes;
        if (bytes <= n && memcmp(text + n - bytes, w->stops[i].text, bytes) == 0 &&
            (best < 0 || bytes > w->stops[best].bytes))
            best = (int)i;
    }
    return best;
}

/* The end of the text that may be the beginning of a stop. */
static uint32_t held_back(const struct want *w, const char *text, uint32_t n)
{
    uint32_t most = 0;
    for (size_t i = 0; i < w->ask.n_stop; i++)
        for (uint32_t k = 1; k < w->stops[i].bytes && k <= n; k++)
            if (k > most && memcmp(text + n - k, w->stops[i].text, k) == 0)
                most = k;
    return most;
}

uint32_t expect_text(const struct want *w, const int32_t *ids, uint32_t n, bool flush, char *to,
                     int *ret_stop, uint32_t *ret_stop_at)
{
    uint8_t part[4];
    uint32_t n_part = 0, n_text = 0;
    *ret_stop = -1;
    for (uint32_t i = 0; i < n; i++) {
        if (ids[i] > 255)
            continue;
        part[n_part++] = (uint8_t)ids[i];
        uint32_t before = n_text;
        int is = character(part, n_part);
        if (is == 0) {
            memcpy(to + n_text, "\xef\xbf\xbd", 3);
            n_text += 3;
            bool again = n_part > 1;
            part[0] = (uint8_t)ids[i];
            n_part = again;
            is = again ? character(part, 1) : 1;
            if (again && is == 0) {
                memcpy(to + n_text, "\xef\xbf\xbd", 3);
                n_text += 3;
                n_part = 0;
            }
        }
        if (is == 2) {
            memcpy(to + n_text, part, n_part);
            n_text += n_part;
            n_part = 0;
        }
        for (uint32_t end = before + 1; end <= n_text; end++) {
            int stop = stop_at(w, to, end);
            if (stop < 0)
                continue;
            *ret_stop = stop;
            *ret_stop_at = i;
            bool keep = w->ask.options & RINGLET_BLOCK_INCLUDE_STOP;
            return keep ? end : end - (uint32_t)w->stops[stop].bytes;
        }
    }
    if (!flush)
        return n_text - held_back(w, to, n_text);
    if (n_part) {
        memcpy(to + n_text, "\xef\xbf\xbd", 3);
        n_text += 3;
    }
    return n_text;
}

/* ---- Tokens ---- */

#define wrong(c, w, ...)                                                                           \
    do {                                                                                           \
        char wrong_text[160];                                                                      \
        snprintf(wrong_text, sizeof(wrong_text), __VA_ARGS__);                                     \
        os_fail("client %d, request %llu (tag %llu): %s", (c)->task_i,                             \
                (unsigned long long)(w)->id, (unsigned long long)(w)->tag, wrong_text);            \
    } while (0)

static struct fake_executor *truth(const struct client *c, const struct want *w)
{
    struct fake_executor *fake = c->sim->truth[w->request.model];
    bool apart = w->request.params.deterministic && !c->sim->batch_invariant;
    uint64_t own = w->group ? GROUP_DOMAIN + w->group : c->process.uid;
    uint64_t domain = own ^ (apart ? UINT64_C(0x9e3779b97f4a7c15) : 0);
    fake_salt(fake, EXEC_TRUTH_SEQUENCE, domain + 1);
    return fake;
}

static bool is_in(int32_t id, const uint32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if ((int32_t)ids[i] == id)
            return true;
    return false;
}

static bool is_end_id(const struct want *w, int32_t id)
{
    return (id == EOS && !w->request.params.ignore_eos) ||
           is_in(id, w->stop_ids, w->ask.n_stop_token_id);
}

/* Did a pattern come as often as the detector wants, just now? */
static bool repeats(const struct want *w, const struct sequence *seq)
{
    uint32_t count = w->ask.repetition_count;
    for (uint32_t p = max_of(w->ask.repetition_min, (uint8_t)1);
         count >= 2 && p <= w->ask.repetition_max; p++) {
        uint32_t i = p * count;
        if (i > seq->n_output)
            return false;
        const int32_t *at = seq->output + seq->n_output - i;
        bool same = true;
        for (i = 0; i < p * (count - 1); i++)
            same &= at[i] == at[i + p];
        if (same)
            return true;
    }
    return false;
}

/* Does the stream end here by itself? The stop string came first. */
static bool natural_end(const struct client *c, const struct want *w, const struct sequence *seq,
                        int stop, uint16_t *ret_reason, uint32_t *ret_detail)
{
    uint32_t n = seq->n_output;
    uint32_t room = (uint32_t)c->sim->context[w->request.model] - w->request.n_prompt;
    int32_t id = n ? seq->output[n - 1] : -1;
    *ret_detail = 0;
    if (n && id == EOS && !w->request.params.ignore_eos) {
        *ret_reason = RINGLET_REASON_STOP_EOS;
        *ret_detail = EOS;
    } else if (n && is_end_id(w, id)) {
        *ret_reason = RINGLET_REASON_STOP_TOKEN;
        *ret_detail = (uint32_t)id;
    } else if (stop >= 0) {
        *ret_reason = RINGLET_REASON_STOP_STRING;
        *ret_detail = (uint32_t)stop;
    } else if (repeats(w, seq)) {
        *ret_reason = RINGLET_REASON_REPETITION;
    } else if (n == w->request.params.max_tokens) {
        *ret_reason = RINGLET_REASON_LENGTH;
    } else if (n == room) {
        *ret_reason = RINGLET_REASON_CONTEXT;
    } else if (w->request.params.beam_width && n == 0) {
        *ret_reason = RINGLET_REASON_DONE; /* there are not so many hypotheses */
    } else {
        return false;
    }
    return true;
}

/* The ids that give text: not the one that ended it. */
static uint32_t n_text_ids(const struct want *w, const struct sequence *seq)
{
    uint32_t n = seq->n_output;
    return n && is_end_id(w, seq->output[n - 1]) ? n - 1 : n;
}

static void check_text(struct client *c, struct want *w, uint32_t seq_i, bool flush)
{
    char text[4 * SIM_CONTEXT + 64];
    int stop;
    uint32_t at;
    const struct sequence *seq = &w->seq[seq_i];
    uint32_t n = expect_text(w, seq->output, n_text_ids(w, seq), flush, text, &stop, &at);
    if (w->request.params.no_text)
        n = 0;
    if (n != w->n_text[seq_i] || memcmp(text, w->text[seq_i], n) != 0)
        wrong(c, w, "text of sequence %u is \"%.*s\", not \"%.*s\"", seq_i, (int)w->n_text[seq_i],
              w->text[seq_i], (int)n, text);
    if (stop >= 0 && at + 1 != seq->n_output)
        wrong(c, w, "sequence %u goes on behind a stop string", seq_i);
}

static void check_logprob(struct client *c, struct want *w, const struct ringlet_event *ev,
                          uint32_t i, float logprob)
{
    if (!ev->logprobs ||
        (ev->logprobs[i] != logprob && !(isnan(logprob) && isnan(ev->logprobs[i]))))
        wrong(c, w, "wrong log-probability");
    for (uint32_t k = 0; k < ev->n_top; k++) {
        const struct ringlet_top *top = &ev->tops[i * ev->n_top + k];
        float other;
        int32_t id = fake_other(c->sim->truth[w->request.model], logprob, (int)k, &other);
        if (isnan(logprob) ? top->id != UINT32_MAX
                           : (int32_t)top->id != id || top->logprob != other)
            wrong(c, w, "wrong top log-probability %u", k);
    }
}

static void on_tokens(struct client *c, struct want *w, const struct ringlet_event *ev)
{
    uint32_t seq_i = ev->index;
    uint16_t reason;
    uint32_t detail, at;
    int stop = -1;
    char text[4 * SIM_CONTEXT + 64];
    if (!w->accepted || seq_i >= w->request.n_seq || w->ended[seq_i] || w->flushed[seq_i]) {
        wrong(c, w, "tokens of sequence %u out of order", seq_i);
        return;
    }
    struct sequence *seq = &w->seq[seq_i];
    if (w->deaf)
        wrong(c, w, "tokens come long after its cancel");
    if (ev->position != seq->n_output)
        wrong(c, w, "tokens of sequence %u at %u, not %u", seq_i, ev->position, seq->n_output);
    struct fake_executor *fake = truth(c, w);
    static const int32_t eos[] = { EOS };
    bool logprobs = w->request.params.logprobs;
    if (logprobs != (ev->logprobs != NULL) && ev->n_token)
        wrong(c, w, "log-probabilities are there, or not, against its wish");
    if (ev->n_token && logprobs && ev->n_top != w->request.params.logprobs_k)
        wrong(c, w, "%u top log-probabilities", ev->n_top);
    for (uint32_t i = 0; i < ev->n_token && !os.error[0]; i++) {
        if (seq->n_output && is_end_id(w, seq->output[seq->n_output - 1])) {
            wrong(c, w, "sequence %u goes on behind its end", seq_i);
            return;
        }
        if (seq->n_output == SIM_CONTEXT) {
            wrong(c, w, "sequence %u is longer than the context", seq_i);
            return;
        }
        float logprob;
        int32_t token = fake_token(fake, seq, seq->n_output, eos, 1, &logprob);
        if (w->request.params.beam_width)
            token = (int32_t)ev->tokens[i]; /* compared when all are there */
        if (token != (int32_t)ev->tokens[i])
            wrong(c, w, "output %u of sequence %u is %d, not %d", seq->n_output, seq_i,
                  (int)ev->tokens[i], token);
        if (logprobs)
            check_logprob(c, w, ev, i, logprob);
        seq->output[seq->n_output++] = token;
        c->sim->n_token++;
    }
    if (w->n_text[seq_i] + ev->text_bytes > sizeof(w->text[0])) {
        wrong(c, w, "too much text");
        return;
    }
    memcpy(w->text[seq_i] + w->n_text[seq_i], ev->text, ev->text_bytes);
    w->n_text[seq_i] += ev->text_bytes;
    w->flushed[seq_i] = ev->n_token == 0;
    check_text(c, w, seq_i, w->flushed[seq_i]);
    if (w->flushed[seq_i] || !w->ask.n_stop)
        return;
    expect_text(w, seq->output, n_text_ids(w, seq), false, text, &stop, &at);
    w->flushed[seq_i] = natural_end(c, w, seq, stop, &reason, &detail) && stop >= 0;
}

static void on_prompt(struct client *c, struct want *w, const struct ringlet_event *ev)
{
    uint32_t *n = &w->n_scored;
    bool scores = w->op == RINGLET_OP_GENERATE;
    if (ev->position != *n || *n + ev->n_token > w->request.n_prompt ||
        (scores && (!w->accepted || !w->request.params.prompt_logprobs))) {
        wrong(c, w, "PROMPT at %u, not %u", ev->position, *n);
        return;
    }
    struct fake_executor *fake = truth(c, w);
    for (uint32_t i = 0; i < ev->n_token; i++, ++*n) {
        int32_t id = w->n_long ? request_long_byte(w, *n) : w->prompt[*n];
        if ((int32_t)ev->tokens[i] != id)
            wrong(c, w, "prompt id %u is %u, not %d", *n, ev->tokens[i], id);
        if (scores)
            check_logprob(c, w, ev, i, *n ? fake_score(fake, &w->seq[0], *n) : NAN);
    }
}

/* ---- Admission ---- */

static void check_effective(struct client *c, struct want *w, const struct ringlet_annex *annex)
{
    struct ringlet_block b;
    struct request_params *p = &w->request.params;
    memset(&b, 0, sizeof(b));
    memcpy(&b, annex->effective, sizeof(annex->effective));
    if (w->ask.seed == RINGLET_UNSET_SEED)
        p->seed = b.seed;
    if (b.seed != p->seed || b.temperature != p->temperature || b.top_p != p->top_p ||
        b.min_p != p->min_p || b.top_k != p->top_k || b.presence_penalty != p->presence ||
        b.frequency_penalty != p->frequency || b.repetition_penalty != p->repetition ||
        b.min_tokens != p->min_tokens || b.n != p->n || annex->max_tokens != p->max_tokens ||
        annex->beam_width != p->beam_width)
        wrong(c, w, "effective parameters are others than asked for");
    if (annex->prompt_tokens != w->request.n_prompt)
        wrong(c, w, "%u prompt tokens, not %u", annex->prompt_tokens, w->request.n_prompt);
    if (annex->cached_tokens >= w->request.n_prompt)
        wrong(c, w, "%u of %u prompt tokens from the cache", annex->cached_tokens,
              w->request.n_prompt);
}

static void on_accepted(struct client *c, struct want *w, const struct ringlet_event *ev)
{
    if (w->accepted || w->op != RINGLET_OP_GENERATE || !ev->annex) {
        wrong(c, w, "ACCEPTED twice, or of another operation");
        return;
    }
    if (w->must_error)
        wrong(c, w, "accepted, and must have been refused");
    w->accepted = true;
    w->cached = ev->annex->cached_tokens;
    check_effective(c, w, ev->annex);
}

/* ---- Ends ---- */

static bool past(uint64_t deadline_ns)
{
    return deadline_ns && os.now_ns >= deadline_ns;
}

static bool has_cause(const struct client *c, const struct want *w, const struct ringlet_event *ev)
{
    const struct sim *sim = c->sim;
    switch (ev->reason) {
    case RINGLET_REASON_CANCELLED:
        return w->cancelled || sim->draining;
    case RINGLET_REASON_DEADLINE:
        if (ev->detail == 1)
            return ev->annex && ev->annex->estimate_ns > 0 &&
                   (w->ask.total_deadline_ns || w->ask.queue_deadline_ns ||
                    w->ask.first_token_deadline_ns);
        return past(w->ask.total_deadline_ns) || past(w->ask.queue_deadline_ns) ||
               past(w->ask.first_token_deadline_ns);
    case RINGLET_REASON_SLOW_CLIENT:
        return c->slow_ns >= sim->slow_client_ns;
    case RINGLET_REASON_REJECTED:
        if (ev->detail == RINGLET_ERROR_NO_HANDLE && w->sure_ns && !w->chat &&
            os.now_ns + CLOCK_LAG_NS < w->sure_ns)
            return false; /* too early */
        return ev->detail == RINGLET_ERROR_DRAINING ? sim->draining
                                                    : w->may_error >> ev->detail & 1;
    case RINGLET_REASON_OVERLOAD:
        return sim->tiny;
    case RINGLET_REASON_ERROR_ENGINE:
        return exec_failed(sim->executor) || exec_drew_badly(sim->executor) || sim->had_failed ||
               sim->had_bad;
    case RINGLET_REASON_DAEMON_LOST: /* in an orderly end, of what it never took */
        return w->orphan || (c->lost && (!w->accepted || sim->killed));
    default:
        return false;
    }
}

static void keep_handle(struct client *c, const struct want *w, const struct ringlet_event *ev,
                        const int32_t *output, uint32_t n_output)
{
    if (ev->handle && c->n_handle == SIM_HANDLES)
        c->n_forgotten++;
    if (!ev->handle || c->n_handle == SIM_HANDLES)
        return;
    for (uint32_t i = 0; i < c->n_handle; i++)
        if (c->handle[i].handle == ev->handle && c->handle[i].expires_ns == 0)
            os_fail("client %d: one handle twice", c->task_i);
    struct sim_handle *h = &c->handle[c->n_handle++];
    *h = (struct sim_handle){ .handle = ev->handle,
                              .model = w->request.model,
                              .n = w->request.n_prompt + n_output };
    memcpy(h->ids, w->prompt, w->request.n_prompt * sizeof(int32_t));
    if (n_output)
        memcpy(h->ids + w->request.n_prompt, output, n_output * sizeof(int32_t));
    if (w->op == RINGLET_OP_LEASE) {
        h->expires_ns = os.now_ns + w->ask.lease_ns;
        h->sure_ns = w->asked_ns + w->ask.lease_ns;
    }
}

/* A renewal has been answered. */
static void on_renewed(struct client *c, const struct want *w, bool done)
{
    for (uint32_t i = 0; i < c->n_handle; i++) {
        struct sim_handle *h = &c->handle[i];
        if (h->handle != w->ask.handle)
            continue;
        h->renewing = false;
        if (!done)
            continue;
        h->sure_ns = w->asked_ns + w->ask.lease_ns;
        h->expires_ns = os.now_ns + w->ask.lease_ns;
    }
}

/* One sequence has come to its own end. */
static void on_sequence_end(struct client *c, struct want *w, const struct ringlet_event *ev)
{
    char text[4 * SIM_CONTEXT + 64];
    uint32_t seq_i = ev->index, detail = 0, at;
    uint16_t reason = 0;
    int stop = -1;
    if (!w->accepted || seq_i >= w->request.n_seq || w->ended[seq_i]) {
        wrong(c, w, "the end of sequence %u comes out of order", seq_i);
        return;
    }
    const struct sequence *seq = &w->seq[seq_i];
    w->ended[seq_i] = true;
    w->told += prng_mix((uint64_t)seq_i << 56 | (uint64_t)ev->detail << 16 | ev->reason);
    w->n_ended++;
    if (ev->position != seq->n_output)
        wrong(c, w, "sequence %u ends after %u tokens, %u came", seq_i, ev->position,
              seq->n_output);
    if (ev->reason >= RINGLET_REASON_CANCELLED) {
        if (ev->reason != RINGLET_REASON_ERROR_ENGINE || !has_cause(c, w, ev))
            wrong(c, w, "sequence %u ends with reason %u", seq_i, ev->reason);
        return;
    }
    expect_text(w, seq->output, n_text_ids(w, seq), false, text, &stop, &at);
    bool natural = natural_end(c, w, seq, stop, &reason, &detail);
    bool squeezed =
        ev->reason == RINGLET_REASON_CONTEXT && ev->detail == RINGLET_ERROR_TOO_BIG && !natural;
    if (!squeezed && (!natural || reason != ev->reason || detail != ev->detail))
        wrong(c, w, "sequence %u ends with reason %u (%u) after %u tokens, not %u (%u)", seq_i,
              ev->reason, ev->detail, seq->n_output, reason, detail);
    check_text(c, w, seq_i, true);
    if (w->request.params.hold)
        keep_handle(c, w, ev, seq->output, seq->n_output);
    else if (ev->handle)
        wrong(c, w, "a handle that nobody asked for");
}

static void check_totals(struct client *c, const struct want *w, const struct ringlet_event *ev)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < w->request.n_seq; i++)
        n += w->seq[i].n_output;
    if (!ev->annex || ev->annex->completion_tokens != n ||
        ev->annex->total_prompt_tokens != w->request.n_prompt)
        wrong(c, w, "totals tell %u completion tokens, %u came",
              ev->annex ? ev->annex->completion_tokens : 0, n);
    if (w->request.params.prompt_logprobs && w->n_scored != w->request.n_prompt)
        wrong(c, w, "%u of %u prompt log-probabilities came", w->n_scored, w->request.n_prompt);
}

/* A search draws nothing, and wants places for all its beams. */
void expect_beams(struct client *c, struct want *w)
{
    const struct ringlet_request *ask = &w->ask;
    struct request_params *params = &w->request.params;
    uint32_t width = ask->beam_width, n_block = (w->request.n_prompt + 15) / 16 + width - 1;
    params->beam_width = (uint8_t)width;
    params->early_stopping = ask->early_stopping;
    params->length_penalty = ask->length_penalty;
    params->temperature = params->min_p = 0;
    params->top_p = params->repetition = 1;
    params->top_k = 0;
    if (n_block > (uint32_t)c->sim->kv_blocks[ask->model])
        w->may_error |= 1u << RINGLET_ERROR_TOO_BIG;
    if (width > (uint32_t)c->sim->engine.model[ask->model].batch_max)
        w->may_error |= 1u << RINGLET_ERROR_OVER_QUOTA;
}

/* All hypotheses have come: are they the best, in their order? */
static void check_beams(struct client *c, struct want *w)
{
    static struct fake_beam best[FAKE_BEAMS];
    static const int32_t eos[] = { EOS };
    const struct request *r = &w->request;
    uint32_t room = (uint32_t)c->sim->context[r->model] - r->n_prompt;
    uint32_t n_token = r->n_prompt + min_of(r->params.max_tokens, room);
    /* In a small pool, half of which handles may hold, the search may have ended early. */
    if (r->params.beam_width * (n_token / 16 + 2) > (uint32_t)c->sim->kv_blocks[r->model] / 2)
        return;
    uint32_t n = fake_beam_search(truth(c, w), r, eos, 1, room, best);
    for (uint32_t i = 0; i < r->params.n; i++) {
        const struct sequence *seq = &w->seq[i];
        uint32_t n_id = i < n ? best[i].n : 0;
        if (seq->n_output != n_id || memcmp(seq->output, best[i].ids, n_id * sizeof(int32_t)) != 0)
            wrong(c, w, "hypothesis %u is not the true one", i);
    }
}

/* The one END of operations without a stream. */
static void on_done(struct client *c, struct want *w, const struct ringlet_event *ev)
{
    if (w->op == RINGLET_OP_GENERATE || w->must_error)
        wrong(c, w, "done, which is wrong");
    if (w->op == RINGLET_OP_TOKENIZE && w->n_scored != w->request.n_prompt)
        wrong(c, w, "%u of %u ids came", w->n_scored, w->request.n_prompt);
    if (w->op == RINGLET_OP_QUERY &&
        (!ev->annex || ev->annex->total_prompt_tokens != w->request.n_prompt ||
         ev->annex->total_cached_tokens > w->request.n_prompt))
        wrong(c, w, "wrong numbers of a query");
    if (w->op == RINGLET_OP_LEASE && !w->ask.handle) {
        if (!ev->handle)
            wrong(c, w, "a lease without a handle");
        keep_handle(c, w, ev, NULL, 0);
    }
}

static void on_end(struct client *c, struct want *w, const struct ringlet_event *ev)
{
    w->open = false;
    c->n_open--;
    os_trace(ev->reason);
    w->total_cached = ev->annex ? ev->annex->total_cached_tokens : 0;
    if (ev->index == RINGLET_INDEX_ALL) /* else it is that of whichever ended last */
        w->told += prng_mix((uint64_t)ev->detail << 16 | ev->reason);
    if (w->op == RINGLET_OP_LEASE && w->ask.handle)
        on_renewed(c, w, ev->reason == RINGLET_REASON_DONE);
    if (ev->index != RINGLET_INDEX_ALL) {
        on_sequence_end(c, w, ev);
        if (w->n_ended != w->request.n_seq)
            wrong(c, w, "END after %u of %u sequences", w->n_ended, w->request.n_seq);
        else if (!exec_drew_badly(c->sim->executor) && !c->sim->had_bad)
            check_totals(c, w, ev);
        if (w->request.params.beam_width && w->n_ended == w->request.n_seq)
            check_beams(c, w);
        return;
    }
    if (ev->reason == RINGLET_REASON_DONE)
        on_done(c, w, ev);
    else if (!has_cause(c, w, ev))
        wrong(c, w, "ends with reason %u (%u), without a cause", ev->reason, ev->detail);
}

void expect_event(struct client *c, const struct ringlet_event *ev)
{
    struct want *w = NULL;
    os_trace(ev->id ^ (uint64_t)ev->kind << 20 ^ (uint64_t)ev->n_token << 40);
    for (uint32_t i = 0; i < SIM_WANTS; i++)
        if (c->want[i].open && c->want[i].id == ev->id)
            w = &c->want[i];
    if (!w || w->tag != ev->tag) {
        os_fail("client %d: an event of a request that is not open, %llu", c->task_i,
                (unsigned long long)ev->id);
        return;
    }
    if (ev->kind == RINGLET_KIND_ACCEPTED)
        on_accepted(c, w, ev);
    else if (ev->kind == RINGLET_KIND_TOKENS)
        on_tokens(c, w, ev);
    else if (ev->kind == RINGLET_KIND_PROMPT)
        on_prompt(c, w, ev);
    else if (ev->flags & RINGLET_CQE_END)
        on_end(c, w, ev);
    else
        on_sequence_end(c, w, ev);
}
