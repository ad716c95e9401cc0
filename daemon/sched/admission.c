/*
 * Level 1: who may run. Takes waiting requests in the policy's order while sequences, blocks and
 * output memory last; all of a request's live sequences or none. If it has more than could ever run
 * together, as many as could, the first ones: the rest are parked and have their turn when these
 * have ended. The first that does not fit stops the tick, so that no later, smaller one starves it;
 * those that wait for something short (a shared prefix being computed, a step in flight) are passed
 * over. Who waits for what only their own side can change, a client that does not read or a user's
 * cap, is set aside until it does: however many they are, they hide nobody.
 */
#include "daemon/sched/sched_internal.h"

#include <math.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/compiler.h"
#include "base/planted.h"
#include "daemon/base/payload.h"

enum { HINT_TICKS = 8 };
enum verdict { ADMITTED, PASS_OVER, SET_ASIDE, NO_ROOM, NO_MEMORY, TOO_LATE };

static struct sequence *first_live(const struct request *request)
{
    if (ticket_of(request)->beams && request->state != REQUEST_DONE)
        return beams_leader(request);
    for_each_live (seq, request)
        return seq;
    return NULL;
}

static uint32_t output_room(const struct sched *s, const struct request *request)
{
    uint32_t room = (uint32_t)s->config.context_max - request->n_prompt;
    return min_of(request->params.max_tokens, room);
}

static bool take_seq_memory(struct sched *s, struct sequence *seq)
{
    struct payload_pool *payload = s->config.payload;
    const struct request *request = seq->request;
    struct run *run = run_of(seq);
    uint32_t n_output = output_room(s, request);
    uint32_t n_block = block_count(request->n_prompt + n_output);
    if (!run->table.blocks) {
        int32_t *blocks = payload_take(payload, n_block * sizeof(int32_t));
        if (!blocks)
            return false;
        block_table_init(&run->table, blocks, n_block);
    }
    if (n_output > 0 && !seq->output) {
        seq->output = payload_take(payload, n_output * sizeof(*seq->output));
        if (!seq->output)
            return false;
        seq->output_max = n_output;
    }
    if (n_output > 0 && request->params.logprobs && !seq->logprobs)
        seq->logprobs = payload_take(payload, n_output * sizeof(*seq->logprobs));
    return n_output == 0 || !request->params.logprobs || seq->logprobs;
}

/*
 * Outputs, log-probabilities and tables of those whose turn it is; what was there already stays.
 * False: no memory now.
 */
static bool take_memory(struct sched *s, struct request *request, uint32_t n_turn)
{
    struct payload_pool *payload = s->config.payload;
    if (request->params.prompt_logprobs && !request->prompt_logprob) {
        request->prompt_logprob =
            payload_take(payload, request->n_prompt * sizeof(*request->prompt_logprob));
        if (!request->prompt_logprob)
            return false;
        if (request->n_prompt == 1) { /* its first id follows on nothing: that is all there is */
            request->prompt_logprob[0] = (struct step_logprob){ .logprob = NAN };
            request->n_prompt_scored = 1;
        }
    }
    for_each_live (seq, request) {
        if (n_turn-- == 0)
            break;
        if (!take_seq_memory(s, seq))
            return false;
    }
    return beams_take_memory(s, request);
}

/* How many of its live sequences can run together, were nobody else there. */
static uint32_t turn_size(const struct sched *s, const struct ticket *ticket)
{
    const struct request *request = ticket->request;
    uint32_t n = request->n_seq - request->n_seq_ended;
    uint32_t n_block = (uint32_t)s->pool->n_block - block_count(request->n_prompt);
    if (request->params.beam_width > 0)
        return n;
    n = min_of(n, s->seqs_max);
    n = min_of(n, ticket->account->running_max);
    return min_of(n, n_block + 1);
}

/* A sequence's ids up to n, in one piece. */
static const int32_t *whole_ids(struct sched *s, const struct sequence *seq, uint32_t n)
{
    const struct request *request = seq->request;
    if (n <= request->n_prompt)
        return request->prompt;
    memcpy(s->scratch, request->prompt, request->n_prompt * sizeof(int32_t));
    memcpy(s->scratch + request->n_prompt, seq->output, (n - request->n_prompt) * sizeof(int32_t));
    return s->scratch;
}

/*
 * How much of the leader's context may come from the cache: its last token is always computed, and
 * so is every row that tells a prompt log-probability.
 */
static uint32_t held_limit(const struct sequence *leader)
{
    const struct request *request = leader->request;
    uint32_t limit = sequence_tokens(leader) - !BUG(28);
    if (request->params.prompt_logprobs && request->n_prompt_scored < request->n_prompt && !BUG(29))
        limit = min_of(limit, max_of(request->n_prompt_scored, 1u) - 1);
    return limit;
}

static uint32_t match_limit(const struct sched *s, const struct sequence *leader)
{
    bool any = s->config.prefix_cache || ticket_of(leader->request)->preempted;
    return any ? held_limit(leader) : 0;
}

/*
 * Tokens that both prompts begin with, if that is at least a block more than n_matched; else 0. The
 * block behind the match is looked at first: that is where most pairs differ.
 */
static uint32_t common_prefix(const struct request *a, const struct request *b, uint32_t n_matched)
{
    uint32_t n = n_matched + BLOCK_TOKENS, n_both = min_of(a->n_prompt, b->n_prompt);
    if (n_both < n ||
        memcmp(a->prompt + n_matched, b->prompt + n_matched, BLOCK_TOKENS * sizeof(int32_t)) != 0 ||
        memcmp(a->prompt, b->prompt, n_matched * sizeof(int32_t)) != 0)
        return 0;
    while (n < n_both && a->prompt[n] == b->prompt[n])
        n++;
    return n;
}

/* Is somebody computing a longer common prefix than the n_matched that the cache has? */
static bool shared_prefix_comes(const struct sched *s, const struct request *request,
                                uint32_t n_matched)
{
    list_for_each (node, &s->running) {
        const struct ticket *other = list_entry(node, struct ticket, run_node);
        const struct sequence *leader = first_live(other->request);
        if (kv_domain(s, other->request) != kv_domain(s, request) || !leader)
            continue;
        const struct run *run = run_of(leader);
        if (run->stalled || run->n_computed >= other->request->n_prompt)
            continue;
        uint32_t n_common = common_prefix(other->request, request, n_matched);
        if (n_common / BLOCK_TOKENS * BLOCK_TOKENS > max_of(run->n_computed, n_matched))
            return true;
    }
    return false;
}

/* What a beam has behind the common beginning. */
static uint32_t beam_blocks(const struct sequence *leader, const struct sequence *seq,
                            uint32_t more)
{
    if (!beams_is_open(seq))
        return 0;
    return block_count(sequence_tokens(seq) + more) -
           beams_common_tokens(leader, seq) / BLOCK_TOKENS;
}

/* Blocks that the next n_turn sequences need to go on, apart from those that matched. */
static uint32_t blocks_needed(const struct sched *s, const struct request *request, uint32_t n_turn,
                              uint32_t n_matched)
{
    const struct sequence *leader = first_live(request);
    uint32_t more = output_room(s, request) > 0 ? 1 : 0;
    uint32_t n = block_count(sequence_tokens(leader) + more) - block_count(n_matched);
    const struct beams *beams = ticket_of(request)->beams;
    for_each_live (seq, request) {
        if (n_turn-- == 0)
            break;
        if (beams) /* those that are not open may be soon, in a copy of a last block */
            n += seq == leader ? 0 : 1 + beam_blocks(leader, seq, more);
        else if (seq != leader)
            n += 1 + block_count(sequence_tokens(seq) + more) -
                 block_count(request->n_prompt + more);
    }
    /* Sequences that have grown apart may need more than the pool: the last ones are parked then.
     */
    n = min_of(n, (uint32_t)s->pool->n_block - block_count(n_matched));
    return n + (n_matched % BLOCK_TOKENS != 0); /* a partial block is copied */
}

/* Blocks that stay free for the growth of those who run already. */
static int64_t watermark(const struct sched *s)
{
    return min_of((int64_t)s->n_running_seqs, (int64_t)s->pool->n_block / 8);
}

/* Its user has as many running as they may, or too many for it; or its client does not read. */
static void set_aside(struct ticket *ticket, bool capped)
{
    ticket->aside = true;
    if (capped)
        list_push_back(&ticket->account->capped, &ticket->wait_node);
    else
        list_init(&ticket->wait_node);
}

void admission_look_again(struct sched *s, struct ticket *ticket)
{
    if (!ticket->aside)
        return;
    ticket->aside = false;
    list_remove(&ticket->wait_node);
    s->policy->put_back(s->policy_self, ticket);
}

void admission_count(struct sched *s, struct ticket *ticket, int n_more)
{
    struct account *account = ticket->account;
    s->n_running_seqs += (uint32_t)n_more;
    account->n_running_seqs += (uint32_t)n_more;
    while (n_more < 0 && !list_empty(&account->capped) && !BUG(80))
        admission_look_again(s, list_first(&account->capped, struct ticket, wait_node));
}

void admission_queue(struct sched *s, struct ticket *ticket)
{
    ticket->queued = true;
    s->n_queued++;
    s->backlog_tokens += ticket->request->n_prompt;
    ticket->account->n_queued++;
    s->policy->add(s->policy_self, ticket);
}

/* The policy has let go of it already. */
static void admission_unqueue(struct sched *s, struct ticket *ticket)
{
    ticket->queued = false;
    s->n_queued--;
    s->backlog_tokens -= ticket->request->n_prompt;
    ticket->account->n_queued -= !BUG(33);
}

uint32_t admission_cached(struct sched *s, const struct request *request)
{
    const struct sequence *leader = first_live(request);
    uint32_t n_held = leader ? handle_match(s, request, held_limit(leader)) : 0;
    uint32_t limit = leader ? min_of(match_limit(s, leader), request->n_prompt) : 0;
    if (limit <= n_held)
        return n_held;
    uint32_t n_cached =
        radix_tree_match(s->tree, kv_domain(s, request), request->prompt, limit, s->matched, false)
            .n_token;
    return max_of(n_held, n_cached);
}

static void enter(struct sched *s, struct ticket *ticket, uint32_t n_turn, uint32_t n_matched)
{
    struct request *request = ticket->request;
    admission_unqueue(s, ticket);
    ticket->running = true;
    ticket->forked = (ticket->beams ? beams_open(ticket->beams) : n_turn) == 1;
    uint32_t n = 0;
    for_each_live (seq, request)
        run_of(seq)->parked = n++ >= n_turn;
    list_push_back(&s->running, &ticket->run_node);
    s->n_running++;
    admission_count(s, ticket, (int)n_turn);
    request_to(request, REQUEST_RUNNING);
    if (!ticket->admitted_once) {
        ticket->admitted_once = true;
        request->totals.admitted_ns = s->now_ns;
        request->totals.cached_tokens = n_matched;
        s->stats.prefix_query_tokens += request->n_prompt;
        s->stats.prefix_hit_tokens += n_matched;
        sched_touch(s, request);
    }
}

uint32_t admission_hint(struct sched *s, struct ticket *ticket)
{
    if (ticket->hint_tick == 0 || s->n_tick >= ticket->hint_tick + HINT_TICKS) {
        ticket->hint_tick = max_of(s->n_tick, (uint64_t)1);
        ticket->hint_tokens = admission_cached(s, ticket->request);
    }
    return ticket->hint_tokens;
}

/* What matched in the tree goes into the table. */
static void refer(struct sched *s, struct run *run, uint32_t n_matched)
{
    for (uint32_t block_i = 0; block_i < block_count(n_matched); block_i++) {
        block_pool_ref(s->pool, s->matched[block_i]);
        block_table_push(&run->table, s->matched[block_i]);
    }
}

/* Reserve what the table lacks; false: it does not fit, and the table is empty again. */
static bool reserve(struct sched *s, struct ticket *ticket, struct run *run, uint32_t n_turn,
                    uint32_t n_matched)
{
    uint32_t n_needed = blocks_needed(s, ticket->request, n_turn, n_matched);
    int64_t spare = s->n_running > 0 ? watermark(s) : 0;
    if (kv_available(s) - spare < n_needed) {
        block_table_drop(&run->table, s->pool);
        return false;
    }
    ticket->n_reserved = n_needed;
    s->n_reserved += n_needed;
    return true;
}

/* The longer of what the request's handle has and what the tree has on the device. */
static uint32_t begin_table(struct sched *s, struct run *run, struct radix_match *match)
{
    uint32_t n_held = handle_share(s, run, held_limit(run->seq));
    if (n_held > 0 && n_held >= match->n_token) {
        *match = (struct radix_match){ 0 };
        return n_held;
    }
    block_table_drop(&run->table, s->pool);
    refer(s, run, match->n_device_token);
    return match->n_device_token;
}

static enum verdict try_admit(struct sched *s, struct ticket *ticket)
{
    struct request *request = ticket->request;
    struct sequence *leader = first_live(request);
    struct run *run = run_of(leader);
    uint32_t n_turn = turn_size(s, ticket);
    if (ticket->n_inflight > 0)
        return PASS_OVER;
    const struct account *account = ticket->account;
    bool stalled = run->stalled && !BUG(31),
         capped = account->n_running_seqs + n_turn > account->running_max && !BUG(75);
    if (stalled || capped || !list_empty(&account->capped)) { /* nor do smaller ones overtake it */
        set_aside(ticket, !stalled);
        return SET_ASIDE;
    }
    /* A beam wider than what a device short of memory is asked for runs alone. */
    uint32_t most = s->n_running_seqs ? s->seqs_max : (uint32_t)s->config.batch_max;
    if (s->n_running_seqs + (BUG(34) ? 1 : n_turn) > most)
        return NO_ROOM;
    if (!ticket->admitted_once && !estimate_in_time(s, request, false))
        return TOO_LATE;
    uint32_t limit = match_limit(s, leader);
    struct radix_match match = { 0 };
    if (limit > 0)
        match = radix_tree_match(s->tree, kv_domain(s, request), whole_ids(s, leader, limit), limit,
                                 s->matched, true);
    if (limit > 0 && shared_prefix_comes(s, request, match.n_token))
        return PASS_OVER;
    if (!take_memory(s, request, n_turn))
        return NO_MEMORY;
    bool tree = match.n_token > 0;
    uint32_t n_matched = begin_table(s, run, &match);
    if (!reserve(s, ticket, run, n_turn, n_matched)) {
        /* A partial block costs one more, for its copy. */
        tree = tree && n_matched % BLOCK_TOKENS && match.n_device_token == n_matched;
        n_matched -= n_matched % BLOCK_TOKENS;
        if (!tree)
            return NO_ROOM;
        refer(s, run, n_matched);
        if (!reserve(s, ticket, run, n_turn, n_matched))
            return NO_ROOM;
    } else if (tree && n_matched == match.n_device_token) {
        n_matched = kv_swap_in(s, run, &match);
    }
    run->cursor = match.cursor;
    run->n_planned = run->n_computed = n_matched;
    sequence_to(leader, SEQUENCE_PREFILL);
    enter(s, ticket, n_turn, n_matched);
    kv_extend(s, run, run_total(run)); /* what it lacks now it gets before the next step */
    return ADMITTED;
}

uint32_t sched_waiting(const struct sched *s)
{
    uint32_t n = 0;
    for (int ticket_i = 0; s->n_queued > 0 && ticket_i < s->config.requests_max; ticket_i++) {
        const struct ticket *ticket = &s->ticket[ticket_i];
        n += ticket->request && ticket->queued && !run_of(first_live(ticket->request))->stalled;
    }
    return n;
}

/* Somebody, here or elsewhere, will give memory back; others that wait for it alike do not. */
static bool memory_comes(const struct sched *s)
{
    if (s->n_running > 0 || s->n_ended > 0 || s->n_planned_step != s->n_committed_step ||
        sched_waiting(s) < s->n_queued)
        return true;
    return s->config.payload_comes && s->config.payload_comes(s->config.context, s);
}

/* Too late, or its output finds no memory although nobody is left who would give some back. */
static bool refuse(struct sched *s, struct ticket *ticket, enum verdict verdict)
{
    bool never = verdict == NO_MEMORY && !memory_comes(s);
    if (verdict != TOO_LATE && !never)
        return false;
    s->policy->put_back(s->policy_self, ticket);
    if (verdict == TOO_LATE)
        sched_cancel(s, ticket->request, RINGLET_REASON_DEADLINE, 1, s->now_ns);
    else
        sched_cancel(s, ticket->request, RINGLET_REASON_REJECTED, RINGLET_ERROR_OVER_QUOTA,
                     s->now_ns);
    return true;
}

void admission_run(struct sched *s)
{
    struct ticket *passed[SCHED_SKIPS_MAX];
    uint32_t n_passed = 0;
    while (n_passed < SCHED_SKIPS_MAX && s->n_running_seqs < s->seqs_max) {
        struct ticket *ticket = s->policy->next(s->policy_self, s->now_ns);
        if (!ticket)
            break;
        enum verdict verdict = try_admit(s, ticket);
        if (verdict == ADMITTED || verdict == SET_ASIDE)
            continue;
        if (refuse(s, ticket, verdict))
            continue;
        passed[n_passed++] = ticket;
        bool idle = s->n_running == 0 && s->n_planned_step == s->n_committed_step;
        if (verdict == NO_ROOM && idle && handle_make_room(s))
            s->policy->put_back(s->policy_self, passed[--n_passed]);
        else if (verdict != PASS_OVER)
            break;
    }
    for (uint32_t ticket_i = 0; ticket_i < n_passed; ticket_i++)
        s->policy->put_back(s->policy_self, passed[ticket_i]);
}

void admission_leave(struct sched *s, struct request *request)
{
    struct ticket *ticket = ticket_of(request);
    if (!BUG(30))
        kv_unreserve(s, ticket);
    if (ticket->queued) {
        admission_look_again(s, ticket);
        s->policy->remove(s->policy_self, ticket);
        admission_unqueue(s, ticket);
    }
    if (ticket->running) {
        list_remove(&ticket->run_node);
        ticket->running = false;
        s->n_running--;
    }
}

/* Its KV goes, its tokens stay. */
static void leave_turn(struct sched *s, struct sequence *seq)
{
    struct run *run = run_of(seq);
    if (!BUG(32) || seq->index == 0)
        kv_drop(s, run, true);
    if (!run->stalled && seq->state != SEQUENCE_WAITING)
        sequence_to(seq, SEQUENCE_WAITING);
    admission_count(s, ticket_of(seq->request), -1);
}

void admission_next_turn(struct sched *s, struct request *request)
{
    struct ticket *ticket = ticket_of(request);
    ticket->preempted = true; /* what it computed of its prompt is there */
    for_each_live (seq, request)
        run_of(seq)->parked = false;
    admission_leave(s, request);
    request_to(request, REQUEST_QUEUED);
    admission_queue(s, ticket);
}

void admission_park(struct sched *s, struct sequence *seq)
{
    leave_turn(s, seq);
    run_of(seq)->parked = !BUG(67);
}

void admission_preempt(struct sched *s, struct request *request)
{
    assert(ticket_of(request)->running);
    if (ticket_of(request)->beams && !BUG(74))
        beams_forget_told(ticket_of(request)->beams);
    for_each_active(seq, request) leave_turn(s, seq);
    admission_next_turn(s, request);
    request->totals.preemptions++;
    s->stats.preemptions++;
}
