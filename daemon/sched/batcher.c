/*
 * Level 2: what the next step computes. Decode rows first, one per sequence that draws, then
 * prefill in chunks, oldest admission first, into what is left of the budget. Before anything is
 * written every running sequence has the blocks that it is going to write, or somebody is
 * preempted.
 */
#include "daemon/sched/sched_internal.h"

#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "base/planted.h"

enum { CHUNK_ROWS_MIN = 16 }; /* prefill per step that no cadence target takes away */

/* Rows that a sequence still has to feed; 0: it waits for its last draw, or for its fork. */
static uint32_t rows_left(const struct run *run)
{
    const struct sequence *seq = run->seq;
    if (seq->state != SEQUENCE_PREFILL && seq->state != SEQUENCE_DECODE)
        return 0;
    bool all_drawn = seq->n_output + run->n_drawing >= seq->output_max + BUG(38);
    if (seq->state == SEQUENCE_DECODE && all_drawn)
        return 0;
    if (ticket_of(seq->request)->beams && run->n_drawing > 0)
        return 0; /* what it goes on with is chosen when all beams have told */
    return run_total(run) - run->n_planned;
}

/*
 * The one to give way: who does not read first, then by admission order, which is urgency and age
 * in one. So the first in that order is never preempted, and somebody always gets on.
 */
static struct request *victim(const struct sched *s)
{
    struct request *worst = NULL;
    bool worst_stalled = false;
    list_for_each (node, &s->running) {
        struct request *request = list_entry(node, struct ticket, run_node)->request;
        bool stalled = false;
        for_each_live (seq, request)
            stalled = stalled || run_of(seq)->stalled;
        if (!worst || stalled > worst_stalled ||
            (stalled == worst_stalled && ticket_before(ticket_of(worst), ticket_of(request)))) {
            worst = request;
            worst_stalled = stalled;
        }
    }
    return worst;
}

static struct sequence *last_active(const struct request *request)
{
    struct sequence *last = NULL;
    for_each_active(seq, request) last = seq;
    return last;
}

/* It has the whole pool, and that is not enough: its last sequence waits for the others, or ends.
 */
static void shrink(struct sched *s, struct request *request)
{
    struct sequence *last = last_active(request);
    if (ticket_of(request)->beams)
        beams_cut(s, request, RINGLET_REASON_CONTEXT, RINGLET_ERROR_TOO_BIG);
    else if (n_active(request) > 1)
        admission_park(s, last);
    else
        sched_end(s, last, RINGLET_REASON_CONTEXT, RINGLET_ERROR_TOO_BIG);
}

/* Blocks for one request's next rows. False: it runs no more, or has a sequence less. */
static bool request_make_room(struct sched *s, struct request *request, bool *ret_changed)
{
    for_each_live (seq, request) {
        struct run *run = run_of(seq);
        uint32_t n_row = rows_left(run);
        if (n_row == 0)
            continue;
        uint32_t n_token = seq->state == SEQUENCE_PREFILL ? run_total(run) : run->n_planned + 1;
        while (kv_extend(s, run, n_token) == KV_NO_BLOCKS) {
            struct request *worst = victim(s);
            bool alone = worst == request && s->n_running == 1;
            if (alone && ticket_of(request)->n_inflight > 0)
                break; /* what it draws now may be an end */
            *ret_changed = true;
            if (worst != request) {
                admission_preempt(s, worst);
                continue;
            }
            if (s->n_running > 1) {
                admission_preempt(s, request);
                return false;
            }
            shrink(s, request);
            return false;
        }
    }
    return true;
}

bool batcher_make_room(struct sched *s)
{
    bool changed = false;
    for (struct list *node = s->running.next; node != &s->running;) {
        struct ticket *ticket = list_entry(node, struct ticket, run_node);
        if (request_make_room(s, ticket->request, &changed)) {
            node = ticket->run_node.next;
            continue;
        }
        node = s->running.next; /* the list changed under us: begin again, what is done is done */
    }
    return !changed;
}

static bool is_banned_until(const struct sequence *seq, uint32_t n_drawn)
{
    return n_drawn + BUG(37) < seq->request->params.min_tokens;
}

static int bans_needed(const struct sched *s, const struct sequence *seq, uint32_t n_drawn)
{
    if (!is_banned_until(seq, n_drawn))
        return 0;
    return s->config.n_eos_id + (int)seq->request->n_stop_id;
}

/* Is there room for one draw of each of n sequences like this one? */
static bool draws_fit(const struct sched *s, const struct sequence *seq, uint32_t n_drawn, int n)
{
    const struct step *step = s->step;
    const struct ticket *ticket = ticket_of(seq->request);
    int n_bias = ticket->bias_step == step->number ? 0 : (int)seq->request->n_bias;
    int n_ban = ticket->ban_step == step->number ? 0 : bans_needed(s, seq, n_drawn);
    return step->n_sample + n <= step->limits.samples_max &&
           step->n_bias + n_bias <= step->limits.lists_max &&
           step->n_ban + n_ban <= step->limits.lists_max;
}

/* Its sequences share the lists that a request has in a step. */
static void put_lists(struct sched *s, const struct sequence *seq, uint32_t n_drawn,
                      struct step_sample *sample)
{
    struct step *step = s->step;
    const struct request *request = seq->request;
    struct ticket *ticket = ticket_of(request);
    if (ticket->bias_step != step->number) {
        ticket->bias_step = step->number;
        ticket->bias_start = step->n_bias;
        for (uint32_t bias_i = 0; bias_i < request->n_bias; bias_i++) {
            step->bias_id[step->n_bias] = request->bias[bias_i].id;
            step->bias[step->n_bias++] = request->bias[bias_i].bias;
        }
    }
    sample->bias_start = BUG(40) ? 0 : ticket->bias_start;
    sample->n_bias = (int32_t)request->n_bias;
    sample->n_ban = bans_needed(s, seq, n_drawn);
    if (sample->n_ban == 0)
        return;
    if (ticket->ban_step != step->number && !(BUG(41) && ticket->ban_step)) {
        ticket->ban_step = step->number;
        ticket->ban_start = step->n_ban;
        for (int eos_i = 0; eos_i < s->config.n_eos_id; eos_i++)
            step->ban_id[step->n_ban++] = s->config.eos_ids[eos_i];
        for (uint32_t stop_i = 0; stop_i < request->n_stop_id; stop_i++)
            step->ban_id[step->n_ban++] = request->stop_ids[stop_i];
    }
    sample->ban_start = ticket->ban_start;
}

/* Sequences with penalties have a row of token counts, made anew when they (again) begin to draw.
 */
static int32_t state_slot(struct sched *s, struct run *run)
{
    const struct request *request = run->seq->request;
    const struct request_params *params = &request->params;
    struct step *step = s->step;
    if (params->presence == 0 && params->frequency == 0 && params->repetition == 1)
        return -1;
    if (run->state_slot >= 0)
        return run->state_slot;
    assert(s->n_state_free > 0 && run->n_drawing == 0);
    run->state_slot = s->state_free[--s->n_state_free];
    step->state_load[step->n_state_load++] = (struct step_state_load){
        .slot = run->state_slot,
        .n_prompt = (int32_t)request->n_prompt,
        .n_output = BUG(39) ? 0 : (int32_t)run->seq->n_output,
        .prompt = request->prompt,
        .output = run->seq->output,
    };
    return run->state_slot;
}

/* Draw a token of this sequence from a row. The caller has seen that it fits. */
static void put_draw(struct sched *s, struct run *run, int row)
{
    struct step *step = s->step;
    struct sequence *seq = run->seq;
    const struct request_params *params = &seq->request->params;
    uint32_t n_drawn = seq->n_output + run->n_drawing;
    struct step_sample *sample = &step->sample[step->n_sample];
    *sample = (struct step_sample){
        .temperature = params->temperature,
        .top_p = params->top_p,
        .min_p = params->min_p,
        .top_k = (int32_t)min_of(params->top_k, (uint32_t)INT32_MAX),
        .presence = params->presence,
        .frequency = params->frequency,
        .repetition = params->repetition,
        .flags = params->logprobs ? STEP_SAMPLE_LOGPROBS : 0,
        .seed = params->seed,
        .index = seq->index,
        .position = seq->request->n_prompt + (BUG(36) ? seq->n_output : n_drawn),
        .mask_index = -1,
        .n_top = params->logprobs ? params->logprobs_k : 0,
    };
    if (ticket_of(seq->request)->beams) {
        sample->temperature = 0;
        sample->flags = STEP_SAMPLE_LOGPROBS | STEP_SAMPLE_SHAPED;
        sample->n_top = beams_n_top(s, seq->request);
    }
    sample->state_slot = state_slot(s, run);
    put_lists(s, seq, n_drawn, sample);
    step->sample_row[step->n_sample] = row;
    step->sample_owner[step->n_sample] =
        (struct step_owner){ seq->pool_index, run->generation, run->epoch, -1 };
    run->sample_row = step->n_sample++;
    run->sample_step = step->number;
    run->n_drawing++;
    run->n_inflight++;
    ticket_of(seq->request)->n_inflight++;
}

/* Tell the log-probability of the prompt's token at `position`, from the row before it. */
static void put_score(struct sched *s, struct run *run, int row, uint32_t position)
{
    struct step *step = s->step;
    const struct request *request = run->seq->request;
    step->sample[step->n_sample] = (struct step_sample){
        .temperature = 1,
        .top_p = 1,
        .repetition = 1,
        .flags = STEP_SAMPLE_SCORE | STEP_SAMPLE_LOGPROBS,
        .state_slot = -1,
        .mask_index = -1,
        .n_top = request->params.prompt_logprobs_k,
        .score_id = request->prompt[position],
        .position = position,
    };
    step->sample_row[step->n_sample] = row;
    step->sample_owner[step->n_sample++] =
        (struct step_owner){ run->seq->pool_index, run->generation, run->epoch, (int32_t)position };
    run->n_inflight++;
    ticket_of(run->seq->request)->n_inflight++;
}

/* The id at a position: known, or drawn by the step before. */
static int32_t row_token(const struct sched *s, const struct run *run, uint32_t position)
{
    const struct request *request = run->seq->request;
    if (position < request->n_prompt)
        return request->prompt[position];
    if (position - request->n_prompt < run->seq->n_output)
        return run->seq->output[position - request->n_prompt];
    assert(run->n_drawing == 1 && run->sample_step + 1 == s->step->number);
    return -1 - (BUG(35) ? 0 : run->sample_row);
}

static bool seq_fits(const struct step *step, const struct run *run)
{
    return step->n_seq < step->limits.seqs_max && step->n_row < step->limits.rows_max &&
           step->block_start[step->n_seq] + (int32_t)run->table.n_block <= step->limits.blocks_max;
}

/* n rows of one sequence, from n_planned on. */
static void put_rows(struct sched *s, struct run *run, uint32_t n)
{
    struct step *step = s->step;
    struct request *request = run->seq->request;
    struct ticket *ticket = ticket_of(request);
    for (uint32_t row_i = 0; row_i < n; row_i++) {
        uint32_t position = run->n_planned + row_i;
        step->token[step->n_row] = row_token(s, run, position);
        step->position[step->n_row] = (int32_t)position;
        step->slot[step->n_row] = block_table_slot(&run->table, position);
        step->row_seq[step->n_row++] = step->n_seq;
    }
    run->n_planned += n;
    s->step_kv += (uint64_t)n * run->n_planned;
    int32_t *next_block = &step->blocks[step->block_start[step->n_seq]];
    uint32_t n_block = block_count(run->n_planned);
    memcpy(next_block, run->table.blocks, n_block * sizeof(*next_block));
    step->kv_tokens[step->n_seq] = (int32_t)run->n_planned;
    step->prompt_tokens[step->n_seq] = (int32_t)request->n_prompt;
    step->seq_owner[step->n_seq] =
        (struct step_owner){ run->seq->pool_index, run->generation, run->epoch, -1 };
    step->n_seq++;
    step->row_start[step->n_seq] = step->n_row;
    step->block_start[step->n_seq] = step->block_start[step->n_seq - 1] + (int32_t)n_block;
    step->deterministic = step->deterministic || request->params.deterministic;
    run->n_inflight++;
    ticket->n_inflight++;
    if (ticket->planned_step != step->number) {
        ticket->planned_step = step->number;
        request->totals.steps++;
    }
    if (s->policy->charge)
        s->policy->charge(s->policy_self, ticket, n);
}

static void put_decode(struct sched *s, struct run *run)
{
    uint32_t n_drawn = run->seq->n_output + run->n_drawing;
    if (!seq_fits(s->step, run) || !draws_fit(s, run->seq, n_drawn, 1))
        return;
    put_rows(s, run, 1);
    put_draw(s, run, s->step->n_row - 1);
}

/*
 * The prompt is planned, of a beam search all of the leader: the other sequences share its blocks
 * and begin.
 */
static void fork_others(struct sched *s, struct run *leader)
{
    struct request *request = leader->seq->request;
    bool beams = ticket_of(request)->beams;
    ticket_of(request)->forked = true;
    for_each_active(seq, request)
    {
        struct run *run = run_of(seq);
        if (run == leader || (beams && !beams_is_open(seq)))
            continue;
        /* One that did not begin with the leader draws its first token from a row of its own. */
        bool late = leader->seq->n_output > 0 && seq->n_output == 0 && !BUG(66);
        uint32_t n_share = beams ? beams_common_tokens(leader->seq, seq) : request->n_prompt;
        uint32_t n_token = n_share - late;
        int32_t tail = block_table_share(&run->table, &leader->table, n_share, s->pool);
        if (tail >= 0) { /* copied when somebody writes to it */
            if (!BUG(42))
                block_pool_ref(s->pool, tail);
            block_table_push(&run->table, tail);
        }
        run->n_planned = run->n_computed = n_token - (BUG(43) && tail >= 0);
        if (!run->stalled)
            sequence_to(seq, run_total(run) > n_token + 1 ? SEQUENCE_PREFILL : SEQUENCE_DECODE);
    }
}

/* All sequences that draw their first token from the leader's last prompt row. */
static int first_draws(const struct run *leader)
{
    const struct request *request = leader->seq->request;
    if (leader->seq->output_max == 0)
        return 0;
    if (ticket_of(request)->beams)
        return 1; /* and the others when they are open */
    if (ticket_of(request)->forked || leader->seq->n_output > 0)
        return 1;
    int n = 0;
    for_each_active(seq, request) n += seq->n_output == 0;
    return n;
}

/*
 * Rows of this sequence that the step may take on without breaking the cadence of those who decode
 * in it. Something is always computed, or a cadence that cannot be kept would stop all prefill.
 */
static uint32_t cadence_rows(const struct sched *s, const struct run *run)
{
    const struct step *step = s->step;
    uint64_t now_ns = cost_predict(&s->cost, (uint32_t)step->n_row, s->step_kv);
    uint32_t least = step->n_seq == step->n_decode ? CHUNK_ROWS_MIN : 0;
    if (s->config.cadence_ns == 0 || step->n_decode == 0 || s->cost.n_step == 0)
        return UINT32_MAX;
    if (now_ns >= s->config.cadence_ns)
        return least;
    double row_ns = s->cost.term[1] + s->cost.term[2] * (run->n_planned + 1) / 1024;
    double n = (double)(s->config.cadence_ns - now_ns) / max_of(row_ns, 0.001);
    return max_of(least, (uint32_t)min_of(n, 1e9));
}

/* Longest chunk that budget, samples and lists allow. */
static uint32_t chunk_rows(const struct sched *s, const struct run *run, uint32_t budget)
{
    const struct step *step = s->step;
    const struct request *request = run->seq->request;
    uint32_t left = rows_left(run), n = min_of(left, budget);
    if (request->params.prompt_logprobs && run->n_planned + 1 < request->n_prompt) {
        uint32_t first = run->n_planned + 1; /* position that the first row predicts */
        uint32_t n_unscored = max_of(first, request->n_prompt_scored) - first;
        n = min_of(n, n_unscored + (uint32_t)(step->limits.samples_max - step->n_sample));
    }
    if (n < left)
        return n;
    int n_draw = first_draws(run);
    uint32_t n_score = 0;
    if (request->params.prompt_logprobs && run->n_planned + 1 < request->n_prompt)
        n_score = request->n_prompt - run->n_planned - 1;
    bool fits = draws_fit(s, run->seq, run->seq->n_output, n_draw) &&
                step->n_sample + (int)n_score + n_draw <= step->limits.samples_max;
    return fits ? n : n - 1;
}

static void put_scores(struct sched *s, struct run *run, uint32_t first_position, int first_row,
                       uint32_t n)
{
    const struct request *request = run->seq->request;
    for (uint32_t row_i = 0; row_i < n; row_i++) {
        uint32_t position =
            first_position + row_i + !BUG(44); /* the token that this row predicts */
        if (position < request->n_prompt && (position >= request->n_prompt_scored || BUG(52)))
            put_score(s, run, first_row + (int)row_i, position);
    }
}

static void put_prefill(struct sched *s, struct run *run)
{
    struct step *step = s->step;
    struct request *request = run->seq->request;
    uint32_t budget = (uint32_t)(step->limits.rows_max - step->n_row);
    uint32_t n = chunk_rows(s, run, min_of(budget, cadence_rows(s, run)));
    if (n == 0 || !seq_fits(step, run))
        return;
    bool last = n == rows_left(run);
    uint32_t first_position = run->n_planned;
    int first_row = step->n_row, n_draw = last ? first_draws(run) : 0;
    put_rows(s, run, n);
    if (request->params.prompt_logprobs)
        put_scores(s, run, first_position, first_row, n);
    if (last)
        sequence_to(run->seq, SEQUENCE_DECODE);
    bool planned = run->n_planned >= request->n_prompt && (last || !ticket_of(request)->beams);
    if (!ticket_of(request)->forked && planned)
        fork_others(s, run);
    if (n_draw == 1)
        put_draw(s, run, step->n_row - 1);
    for_each_active(seq, request)
    {
        if (n_draw > 1 && seq->n_output == 0)
            put_draw(s, run_of(seq), step->n_row - 1);
    }
}

void batcher_fill(struct sched *s)
{
    struct step *step = s->step;
    s->step_kv = 0;
    for (int pass = 0; pass < 2; pass++) {
        enum sequence_state state = pass == 0 ? SEQUENCE_DECODE : SEQUENCE_PREFILL;
        list_for_each (node, &s->running) {
            struct request *request = list_entry(node, struct ticket, run_node)->request;
            for_each_live (seq, request) {
                if (seq->state != state || (run_of(seq)->room_tick != s->n_tick && !BUG(45)))
                    continue;
                if (rows_left(run_of(seq)) == 0)
                    continue;
                if (pass == 0)
                    put_decode(s, run_of(seq));
                else
                    put_prefill(s, run_of(seq));
            }
        }
        if (pass == 0)
            step->n_decode = step->n_seq;
    }
}
