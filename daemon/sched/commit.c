/*
 * What a finished step brings: KV that is there now, tokens, log-probabilities, ends. Results of a
 * sequence that ended meanwhile are dropped; those of a preempted one count, only its KV is gone.
 */
#include "daemon/sched/sched_internal.h"

#include <math.h>
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "base/planted.h"
#include "daemon/base/limits.h"

static void copy_logprob(struct step_logprob *to, const struct step_token *from)
{
    to->logprob = from->logprob;
    to->n_top = (uint8_t)from->n_top;
    memcpy(to->top_id, from->top_id, sizeof(to->top_id));
    memcpy(to->top_logprob, from->top_logprob, sizeof(to->top_logprob));
}

static bool is_in(int32_t id, const int32_t *ids, uint32_t n)
{
    for (uint32_t id_i = 0; id_i < n; id_i++) {
        if (ids[id_i] == id)
            return true;
    }
    return false;
}

/* Do the last tokens repeat a pattern of p tokens `count` times? */
static bool repeats(const struct sequence *seq, uint32_t p, uint32_t count)
{
    uint32_t n_equal = 0, n_wanted = p * (count - 1);
    if (p == 0 || (uint64_t)p * count > seq->n_output)
        return false;
    while (n_equal < n_wanted &&
           seq->output[seq->n_output - 1 - n_equal] == seq->output[seq->n_output - 1 - n_equal - p])
        n_equal++;
    return n_equal == n_wanted;
}

static bool repetition_found(const struct sequence *seq)
{
    const struct request_params *params = &seq->request->params;
    if (params->repeat_count < 2)
        return false;
    for (uint32_t p = max_of(params->repeat_min, (uint8_t)1); p <= params->repeat_max; p++) {
        if (repeats(seq, p, params->repeat_count))
            return true;
    }
    return false;
}

uint16_t sched_end_reason(const struct sched *s, const struct request *request, int32_t id)
{
    const struct sched_config *config = &s->config;
    if (!request->params.ignore_eos && is_in(id, config->eos_ids, (uint32_t)config->n_eos_id))
        return RINGLET_REASON_STOP_EOS;
    if (is_in(id, request->stop_ids, request->n_stop_id) && !BUG(49))
        return RINGLET_REASON_STOP_TOKEN;
    return 0;
}

/* Does the token that was appended last end the sequence? */
static void ends_check(struct sched *s, struct sequence *seq, int32_t id)
{
    const struct request *request = seq->request;
    uint16_t reason = sched_end_reason(s, request, id);
    if (reason)
        sched_end(s, seq, reason, (uint32_t)id);
    else if (repetition_found(seq))
        sched_end(s, seq, RINGLET_REASON_REPETITION, 0);
    else if (seq->n_output == request->params.max_tokens)
        sched_end(s, seq, RINGLET_REASON_LENGTH, 0);
    else if (seq->n_output == seq->output_max)
        sched_end(s, seq, RINGLET_REASON_CONTEXT, 0);
}

static void take_token(struct sched *s, struct sequence *seq, const struct step_token *result)
{
    struct request *request = seq->request;
    if ((result->flags & STEP_TOKEN_BAD) || result->token < 0) {
        sched_end(s, seq, RINGLET_REASON_ERROR_ENGINE, 0);
        return;
    }
    assert(seq->n_output < seq->output_max);
    if (seq->logprobs)
        copy_logprob(&seq->logprobs[seq->n_output], result);
    seq->output[seq->n_output++] = result->token;
    request->totals.completion_tokens++;
    if (request->totals.first_token_ns == 0) {
        request->totals.first_token_ns = s->now_ns;
        sched_deadline_changed(s, request);
    }
    sched_touch(s, request);
    ends_check(s, seq, result->token);
}

/*
 * Scores come in order, so the known ones are always a prefix. Position 0 has none. Of logits that
 * are not finite there is no score, so there is no answer.
 */
static void take_score(struct sched *s, struct request *request, uint32_t position,
                       const struct step_token *result)
{
    if (result->flags & STEP_TOKEN_BAD) {
        for_each_live (seq, request)
            sched_end(s, seq, RINGLET_REASON_ERROR_ENGINE, 0);
        return;
    }
    if (request->n_prompt_scored == 0) {
        request->prompt_logprob[0] = (struct step_logprob){ .logprob = NAN };
        request->n_prompt_scored = 1;
    }
    assert(position == request->n_prompt_scored);
    copy_logprob(&request->prompt_logprob[position], result);
    request->n_prompt_scored++;
    sched_touch(s, request);
}

static struct run *owner_run(struct sched *s, const struct step_owner *owner)
{
    struct run *run = &s->run[owner->seq];
    assert(run->generation == owner->generation && run->n_inflight > 0);
    run->n_inflight--;
    ticket_of(run->seq->request)->n_inflight--;
    return run;
}

/* KV of these rows is there now: the cache may have it. */
static void take_rows(struct sched *s, const struct step *step, int seq_i, bool good)
{
    const struct step_owner *owner = &step->seq_owner[seq_i];
    struct run *run = owner_run(s, owner);
    struct request *request = run->seq->request;
    if (!good || (owner->epoch != run->epoch && !BUG(47)) || !seq_live(run->seq))
        return;
    bool prefill = run->n_computed < request->n_prompt;
    run->n_computed = (uint32_t)step->kv_tokens[seq_i];
    uint32_t n_blocks = run->table.n_block;
    request->totals.kv_blocks_peak = max_of(request->totals.kv_blocks_peak, n_blocks);
    if (prefill)
        kv_cache(s, run, false);
    if (run->n_computed < request->n_prompt)
        return;
    if (request->totals.prefilled_ns == 0) {
        request->totals.prefilled_ns = s->now_ns;
        uint64_t lease_ns = request->params.lease_ns;
        if (lease_ns)
            request->lease_handle = handle_keep(s, run, request->n_prompt, s->now_ns + lease_ns);
    }
}

static void take_sample(struct sched *s, const struct step *step, int sample_i, bool good)
{
    const struct step_owner *owner = &step->sample_owner[sample_i];
    struct run *run = owner_run(s, owner);
    struct sequence *seq = run->seq;
    if (owner->score < 0)
        run->n_drawing -= !BUG(51);
    if (!good || (!seq_live(seq) && !BUG(46)))
        return;
    if (owner->score >= 0)
        take_score(s, seq->request, (uint32_t)owner->score, &step->result[sample_i]);
    else if (ticket_of(seq->request)->beams) {
        if (owner->epoch == run->epoch || BUG(73)) /* else it is computed again */
            beams_take(s, seq, &step->result[sample_i]);
    } else
        take_token(s, seq, &step->result[sample_i]);
}

/* A request that asked for no tokens ends with its prompt. */
static void prompt_only_ends(struct sched *s, const struct step *step)
{
    for (int owner_i = 0; owner_i < step->n_seq; owner_i++) {
        struct run *run = &s->run[step->seq_owner[owner_i].seq];
        struct request *request = run->seq->request;
        const struct ticket *ticket = ticket_of(request);
        bool computed = run->n_computed >= request->n_prompt;
        if (!seq_live(run->seq)) /* it ended with its last chunk in flight; the others share that */
            computed = ticket->running && ticket->forked && ticket->n_inflight == 0;
        if (request->params.max_tokens > 0 || !computed)
            continue;
        for_each_live (seq, request)
            sched_end(s, seq, RINGLET_REASON_LENGTH, 0);
    }
}

/*
 * A step did not run: no KV is to be trusted any more. Everybody who runs ends here, so of a step
 * that was planned on top of this one nothing is taken either; if that fails too, it is nobody's.
 */
static bool fail_running(struct sched *s, const struct step *step)
{
    if (step->number < s->sound_step)
        return false;
    s->sound_step = s->n_planned_step + 1;
    while (!list_empty(&s->running)) {
        struct ticket *ticket = list_first(&s->running, struct ticket, run_node);
        for_each_live (seq, ticket->request)
            sched_end(s, seq, RINGLET_REASON_ERROR_ENGINE, 0);
    }
    if (!BUG(50))
        radix_tree_clear(s->tree);
    while (handle_make_room(s)) {
        if (BUG(65))
            break;
    }
    return true;
}

static void release_forgotten(struct sched *s, const struct step_owner *owner, int n)
{
    for (int owner_i = 0; owner_i < n; owner_i++) {
        struct run *run = &s->run[owner[owner_i].seq];
        if (!run->seq)
            continue; /* released a moment ago */
        struct ticket *ticket = ticket_of(run->seq->request);
        if (ticket->forgotten && ticket->n_inflight == 0)
            sched_release(s, ticket);
    }
}

static uint64_t kv_tokens_read(const struct step *step)
{
    uint64_t n = 0;
    for (int seq_i = 0; seq_i < step->n_seq; seq_i++)
        n += (uint64_t)step->kv_tokens[seq_i] *
             (uint64_t)(step->row_start[seq_i + 1] - step->row_start[seq_i]);
    return n;
}

/* The device was short of memory once. A step that filled what it is asked for since ended well. */
static void grow(struct sched *s, const struct step *step, uint64_t now_ns)
{
    uint32_t most = (uint32_t)s->config.batch_max;
    if ((uint32_t)step->n_seq < s->seqs_max || now_ns < s->grow_ns)
        return;
    s->seqs_max = min_of(s->seqs_max + max_of(most / 16, 1u), most);
    s->grow_ns = now_ns + s->grow_wait_ns;
}

bool sched_commit(struct sched *s, struct step *step, uint64_t now_ns)
{
    s->now_ns = max_of(s->now_ns, now_ns);
    assert(step->number == s->n_committed_step + 1);
    s->n_committed_step++;
    bool good = step->status == 0 || BUG(48);
    if (good && step->ended_ns > step->started_ns)
        cost_learn(&s->cost, (uint32_t)step->n_row, kv_tokens_read(step),
                   (uint32_t)(step->n_swap_in + step->n_swap_out),
                   step->ended_ns - step->started_ns);
    for (int seq_i = 0; seq_i < step->n_seq; seq_i++)
        take_rows(s, step, seq_i, good);
    for (int sample_i = 0; sample_i < step->n_sample; sample_i++)
        take_sample(s, step, sample_i, good);
    if (good)
        prompt_only_ends(s, step);
    bool news = step->status < 0 && fail_running(s, step);
    if (step->status == 0 && unlikely(s->seqs_max < (uint32_t)s->config.batch_max))
        grow(s, step, now_ns);
    release_forgotten(s, step->seq_owner, step->n_seq);
    release_forgotten(s, step->sample_owner, step->n_sample);
    return news;
}

uint32_t sched_shrink(struct sched *s, uint64_t now_ns)
{
    if (s->seqs_max == 1)
        return 0;
    bool again = s->seqs_max < (uint32_t)s->config.batch_max; /* it had grown too soon */
    s->grow_wait_ns = again ? min_of(2 * s->grow_wait_ns, LIMIT_GROW_NS_MAX) : LIMIT_GROW_NS;
    s->grow_ns = now_ns + s->grow_wait_ns;
    s->seqs_max /= 2;
    return s->seqs_max;
}
