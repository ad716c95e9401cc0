/*
 * Beam search. A request's sequences are its beams; each step every open beam tells its best next
 * tokens, and the best of all of them go on: one child takes its parent's place, further ones share
 * the parent's blocks in the place of a beam that dies (copy-on-write). A beam waits for the others
 * before it goes on, so it has one row in flight at most.
 *
 *   prompt -> [ candidates of all open beams -> choose -> fork and die ] ... -> hypotheses, sorted
 *
 * A token that ends a beam makes a hypothesis if it is among the `width` best candidates. The best
 * `width` hypotheses are kept; their score is the sum of log-probabilities / length ^ penalty.
 */
#include "daemon/sched/sched_internal.h"

#include <math.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/compiler.h"
#include "base/planted.h"
#include "daemon/base/payload.h"

enum { WIDTH_MAX = RINGLET_BEAM_WIDTH_MAX, CHOICES_MAX = WIDTH_MAX * STEP_TOP_MAX };

struct hypothesis {
    double sum, score;
    uint32_t row; /* of beams.ids and beams.logprobs */
    uint32_t n_output;
    uint16_t reason;
    uint32_t detail;
};

/* What the open beams' rows told: candidates of one beam, best first. */
struct told {
    int n; /* -1: not there yet */
    int32_t id[STEP_TOP_MAX];
    float logprob[STEP_TOP_MAX];
};

struct beams {
    uint32_t width, n_open, n_hypothesis;
    uint8_t seq[WIDTH_MAX];      /* [n_open] by rank, best first: index of the sequence */
    double sum[WIDTH_MAX];       /* by sequence */
    struct told told[WIDTH_MAX]; /* by sequence */
    struct hypothesis hypothesis[WIDTH_MAX]; /* best first */
    uint32_t output_max;
    int32_t *ids;                  /* [width][output_max] of hypotheses */
    struct step_logprob *logprobs; /* likewise, or NULL */
};

/* A candidate: the token that rank `rank` goes on with. */
struct choice {
    double sum;
    uint8_t seq; /* of the parent */
    uint8_t top; /* place among its candidates */
};

bool beams_take_memory(struct sched *s, struct request *request)
{
    struct ticket *ticket = ticket_of(request);
    uint32_t width = request->params.beam_width, n_output = request->seq[0]->output_max;
    if (width == 0 || n_output == 0 || ticket->beams)
        return true;
    size_t head = align_up(sizeof(struct beams), 16);
    size_t ids = align_up((size_t)width * n_output * sizeof(int32_t), 16);
    size_t logprobs =
        request->params.logprobs ? (size_t)width * n_output * sizeof(struct step_logprob) : 0;
    char *piece = payload_take(s->config.payload, head + ids + logprobs);
    if (!piece)
        return false;
    struct beams *beams = (struct beams *)(void *)piece;
    *beams = (struct beams){ .width = width, .n_open = 1, .output_max = n_output };
    beams->ids = (int32_t *)(void *)(piece + head);
    if (logprobs)
        beams->logprobs = (struct step_logprob *)(void *)(piece + head + ids);
    ticket->beams = beams;
    beams_forget_told(beams);
    return true;
}

void beams_forget_told(struct beams *beams)
{
    for (uint32_t seq_i = 0; seq_i < WIDTH_MAX; seq_i++)
        beams->told[seq_i].n = -1;
}

struct sequence *beams_leader(const struct request *request)
{
    return request->seq[ticket_of(request)->beams->seq[0]];
}

uint32_t beams_open(const struct beams *beams)
{
    return beams->n_open;
}

bool beams_is_open(const struct sequence *seq)
{
    const struct beams *beams = ticket_of(seq->request)->beams;
    for (uint32_t rank = 0; rank < beams->n_open; rank++) {
        if (beams->seq[rank] == seq->index)
            return true;
    }
    return false;
}

/* Ids that both outputs begin with. */
static uint32_t common_output(const struct sequence *a, const struct sequence *b)
{
    uint32_t n = 0, n_both = min_of(a->n_output, b->n_output);
    while (n < n_both && a->output[n] == b->output[n])
        n++;
    return n;
}

uint32_t beams_common_tokens(const struct sequence *leader, const struct sequence *seq)
{
    return leader->request->n_prompt + common_output(leader, seq);
}

/* Ids that end a beam. */
static uint32_t n_end_ids(const struct sched *s, const struct request *request)
{
    return request->n_stop_id + (request->params.ignore_eos ? 0 : (uint32_t)s->config.n_eos_id);
}

int32_t beams_n_top(const struct sched *s, const struct request *request)
{
    uint32_t width = request->params.beam_width;
    uint32_t n = max_of(2 * width, width + n_end_ids(s, request));
    n = max_of(n, (uint32_t)request->params.logprobs_k);
    return (int32_t)min_of(n, (uint32_t)STEP_TOP_MAX);
}

/* ---- Hypotheses ---- */

static double score_of(const struct request *request, double sum, uint32_t n_output)
{
    return sum / pow(n_output, (double)request->params.length_penalty);
}

/* The log-probability of a candidate, with its beam's best: without the bias that it was chosen by.
 */
static void told_logprob(const struct request *request, const struct told *told, uint32_t top,
                         struct step_logprob *to)
{
    float logprob = told->logprob[top];
    for (uint32_t bias_i = 0; bias_i < request->n_bias; bias_i++)
        logprob -= request->bias[bias_i].id == told->id[top] ? request->bias[bias_i].bias : 0;
    to->logprob = logprob;
    to->n_top = (uint8_t)min_of((int)request->params.logprobs_k, told->n);
    memcpy(to->top_id, told->id, sizeof(to->top_id));
    memcpy(to->top_logprob, told->logprob, sizeof(to->top_logprob));
}

/* A row for one hypothesis more with this score; false: it is none of the best. */
static bool hypothesis_row(struct beams *beams, double score, uint32_t *ret_at, uint32_t *ret_row)
{
    uint32_t n = beams->n_hypothesis, at = n;
    while (at > 0 && beams->hypothesis[at - 1].score < score)
        at--;
    if (at == beams->width)
        return false;
    bool full = n == beams->width;
    *ret_row = full ? beams->hypothesis[n - 1].row : n;
    for (uint32_t i = full ? n - 1 : n; i > at; i--)
        beams->hypothesis[i] = beams->hypothesis[i - 1];
    beams->n_hypothesis += !full;
    *ret_at = at;
    return true;
}

/* A beam ends, with one of its candidates more or (top < 0) as it is. */
static void hypothesis_add(struct request *request, const struct sequence *seq, int top,
                           uint16_t reason, uint32_t detail)
{
    struct beams *beams = ticket_of(request)->beams;
    const struct told *told = &beams->told[seq->index];
    double sum = beams->sum[seq->index] + (top >= 0 ? (double)told->logprob[top] : 0);
    uint32_t n_output = seq->n_output + (top >= 0), at, row;
    double score = score_of(request, sum, n_output - (BUG(68) && top >= 0));
    if (!hypothesis_row(beams, score, &at, &row))
        return;
    beams->hypothesis[at] = (struct hypothesis){ sum, score, row, n_output, reason, detail };
    int32_t *ids = beams->ids + (size_t)row * beams->output_max;
    memcpy(ids, seq->output, seq->n_output * sizeof(*ids));
    if (top >= 0)
        ids[seq->n_output] = told->id[top];
    if (!beams->logprobs)
        return;
    struct step_logprob *logprobs = beams->logprobs + (size_t)row * beams->output_max;
    memcpy(logprobs, seq->logprobs, seq->n_output * sizeof(*logprobs));
    if (top >= 0)
        told_logprob(request, told, (uint32_t)top, &logprobs[seq->n_output]);
}

/* The i-th best becomes what sequence i says. */
static void hypothesis_tell(struct request *request, uint32_t i)
{
    const struct beams *beams = ticket_of(request)->beams;
    const struct hypothesis *h = &beams->hypothesis[i];
    struct sequence *seq = request->seq[i];
    seq->n_output = 0;
    seq->cumulative = -INFINITY;
    if (i >= request->params.n || i >= beams->n_hypothesis)
        return;
    seq->n_output = h->n_output;
    seq->cumulative = (float)h->sum;
    memcpy(seq->output, beams->ids + (size_t)h->row * beams->output_max,
           h->n_output * sizeof(*seq->output));
    if (beams->logprobs)
        memcpy(seq->logprobs, beams->logprobs + (size_t)h->row * beams->output_max,
               h->n_output * sizeof(*seq->logprobs));
    request->totals.completion_tokens += h->n_output;
}

/* The search is over. A sequence that no hypothesis was found for ends without tokens. */
static void finish(struct sched *s, struct request *request)
{
    struct beams *beams = ticket_of(request)->beams;
    for (uint32_t rank = 0; rank < beams->n_open; rank++)
        kv_drop(s, run_of(request->seq[beams->seq[rank]]), true);
    beams->n_open = 0;
    request->totals.first_token_ns = s->now_ns;
    for (uint32_t i = 0; i < request->n_seq; i++)
        hypothesis_tell(request, i);
    for (uint32_t i = 0; i < request->n_seq; i++) {
        const struct hypothesis *h = &beams->hypothesis[i];
        bool told = request->seq[i]->n_output > 0;
        sched_end(s, request->seq[i], told ? h->reason : RINGLET_REASON_DONE, told ? h->detail : 0);
    }
}

static void end_all(struct sched *s, struct request *request, uint16_t reason, uint32_t detail)
{
    for_each_live (seq, request)
        sched_end(s, seq, reason, detail);
}

void beams_cut(struct sched *s, struct request *request, uint16_t reason, uint32_t detail)
{
    struct beams *beams = ticket_of(request)->beams;
    request->totals.search_cut = true;
    for (uint32_t rank = 0; rank < beams->n_open; rank++) {
        const struct sequence *seq = request->seq[beams->seq[rank]];
        if (seq->n_output > 0)
            hypothesis_add(request, seq, -1, reason, detail);
    }
    if (beams->n_hypothesis > 0) {
        finish(s, request);
        return;
    }
    end_all(s, request, reason, detail);
}

/* ---- Choosing ---- */

/*
 * The best candidates of the open beams, best first; among equals the better beam's, in its order.
 * So many are enough: a beam has at most n_end that end it.
 */
static uint32_t rank_choices(const struct beams *beams, uint32_t n_end,
                             struct choice choices[CHOICES_MAX])
{
    uint32_t n = 0, most = min_of(beams->width + beams->n_open * n_end, (uint32_t)CHOICES_MAX);
    for (uint32_t rank = 0; rank < beams->n_open; rank++) {
        uint8_t seq = beams->seq[rank];
        const struct told *told = &beams->told[seq];
        for (int top = 0; top < told->n; top++) {
            double sum = (BUG(69) ? 0 : beams->sum[seq]) + (double)told->logprob[top];
            if (n == most && choices[n - 1].sum >= sum)
                break; /* and so are all behind it */
            uint32_t at = n < most ? n++ : n - 1;
            for (; at > 0 && choices[at - 1].sum < sum; at--)
                choices[at] = choices[at - 1];
            choices[at] = (struct choice){ sum, seq, (uint8_t)top };
        }
    }
    return n;
}

/* Can no open beam become better than the worst hypothesis? best: the sum of the best open one. */
static bool is_done(const struct request *request, double best, uint32_t n_output)
{
    const struct beams *beams = ticket_of(request)->beams;
    const struct request_params *params = &request->params;
    if (beams->n_hypothesis < beams->width)
        return false;
    if (params->early_stopping == RINGLET_EARLY_STOPPING_TRUE)
        return true;
    bool never = params->early_stopping == RINGLET_EARLY_STOPPING_NEVER;
    uint32_t n = never && params->length_penalty > 0 ? beams->output_max : n_output;
    return score_of(request, best, n) <= beams->hypothesis[beams->width - 1].score;
}

/*
 * Candidates that end a beam become hypotheses, the best others go on. choices[0 .. return) are
 * those, best first.
 */
static uint32_t choose(const struct sched *s, struct request *request,
                       struct choice choices[CHOICES_MAX])
{
    const struct beams *beams = ticket_of(request)->beams;
    uint32_t n = rank_choices(beams, n_end_ids(s, request), choices), n_next = 0;
    for (uint32_t i = 0; i < n && n_next < beams->width; i++) {
        struct choice choice = choices[i];
        int32_t id = beams->told[choice.seq].id[choice.top];
        uint16_t reason = sched_end_reason(s, request, id);
        if (reason == 0)
            choices[n_next++] = choice;
        else if (i < beams->width || BUG(70))
            hypothesis_add(request, request->seq[choice.seq], choice.top, reason, (uint32_t)id);
    }
    return n_next;
}

/* ---- Forking ---- */

/* A second child: tokens of the parent, and its blocks, in the place of a beam that is no more. */
static void copy_beam(struct sched *s, struct sequence *to, const struct sequence *from)
{
    struct run *run = run_of(to), *parent = run_of(from);
    uint32_t n_same = common_output(to, from), n = from->n_output - n_same;
    n_same += BUG(71) && n > 0;
    memcpy(to->output + n_same, from->output + n_same, n * sizeof(*to->output));
    if (to->logprobs)
        memcpy(to->logprobs + n_same, from->logprobs + n_same, n * sizeof(*to->logprobs));
    to->n_output = from->n_output;
    int32_t tail = block_table_share(&run->table, &parent->table, parent->n_computed, s->pool);
    if (tail >= 0) {
        if (!BUG(72))
            block_pool_ref(s->pool, tail);
        block_table_push(&run->table, tail);
    }
    run->cursor = parent->cursor;
    run->n_planned = run->n_computed = parent->n_computed;
    sequence_to(to, SEQUENCE_DECODE);
}

/* Where each choice goes on: the first child in its parent's place, the others in free ones. */
static void place(const struct beams *beams, const struct choice *choices, uint32_t n,
                  uint8_t ret_seq[WIDTH_MAX])
{
    bool taken[WIDTH_MAX] = { false }, first[WIDTH_MAX] = { false };
    for (uint32_t i = 0; i < n; i++) {
        first[i] = !taken[choices[i].seq];
        taken[choices[i].seq] = true;
    }
    for (uint32_t i = 0, free = 0; i < n; i++) {
        if (first[i]) {
            ret_seq[i] = choices[i].seq;
            continue;
        }
        while (taken[free])
            free++;
        assert(free < beams->width);
        ret_seq[i] = (uint8_t)free++;
    }
}

static bool is_in(uint8_t seq, const uint8_t *seqs, uint32_t n)
{
    return memchr(seqs, seq, n) != NULL;
}

static bool keeps_place(uint8_t seq, const struct choice *choices, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (choices[i].seq == seq)
            return true;
    }
    return false;
}

static void fork_and_die(struct sched *s, struct request *request, const struct choice *choices,
                         uint32_t n)
{
    struct beams *beams = ticket_of(request)->beams;
    uint8_t seqs[WIDTH_MAX];
    place(beams, choices, n, seqs);
    for (uint32_t rank = 0; rank < beams->n_open; rank++) {
        struct sequence *seq = request->seq[beams->seq[rank]];
        if (keeps_place(beams->seq[rank], choices, n))
            continue;
        kv_drop(s, run_of(seq), false);
        sequence_to(seq, SEQUENCE_WAITING);
        if (!is_in(beams->seq[rank], seqs, n))
            seq->n_output = 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        if (seqs[i] != choices[i].seq)
            copy_beam(s, request->seq[seqs[i]], request->seq[choices[i].seq]);
    }
    for (uint32_t i = 0; i < n; i++) {
        struct sequence *seq = request->seq[seqs[i]];
        const struct told *told = &beams->told[choices[i].seq];
        if (seq->logprobs)
            told_logprob(request, told, choices[i].top, &seq->logprobs[seq->n_output]);
        seq->output[seq->n_output++] = told->id[choices[i].top];
        beams->sum[seqs[i]] = choices[i].sum;
        beams->seq[i] = seqs[i];
    }
    beams->n_open = n;
    ticket_of(request)->forked = true;
}

/* Every open beam has told its candidates. */
static void advance(struct sched *s, struct request *request)
{
    struct beams *beams = ticket_of(request)->beams;
    struct choice choices[CHOICES_MAX];
    uint32_t n_output = beams_leader(request)->n_output + 1;
    uint32_t n = choose(s, request, choices);
    if (n == 0 || is_done(request, choices[0].sum, n_output)) {
        finish(s, request);
        return;
    }
    if (n_output < beams->output_max) {
        fork_and_die(s, request, choices, n);
        beams_forget_told(beams);
        return;
    }
    bool length = n_output == request->params.max_tokens;
    for (uint32_t i = 0; i < n; i++)
        hypothesis_add(request, request->seq[choices[i].seq], choices[i].top,
                       length ? RINGLET_REASON_LENGTH : RINGLET_REASON_CONTEXT, 0);
    finish(s, request);
}

void beams_take(struct sched *s, struct sequence *seq, const struct step_token *result)
{
    struct request *request = seq->request;
    struct beams *beams = ticket_of(request)->beams;
    if (result->flags & STEP_TOKEN_BAD) {
        end_all(s, request, RINGLET_REASON_ERROR_ENGINE, 0);
        return;
    }
    struct told *told = &beams->told[seq->index];
    assert(told->n < 0 && result->n_top <= STEP_TOP_MAX);
    told->n = 0;
    for (int top = 0; top < result->n_top; top++) {
        if (!isfinite(result->top_logprob[top]))
            continue;
        told->id[told->n] = result->top_id[top];
        told->logprob[told->n++] = result->top_logprob[top];
    }
    for (uint32_t rank = 0; rank < beams->n_open; rank++) {
        if (beams->told[beams->seq[rank]].n < 0)
            return;
    }
    advance(s, request);
}
