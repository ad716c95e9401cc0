/* The scheduler's invariants in one place, recounted from the ground up. For tests and debugging.
 */
#include "daemon/sched/sched_internal.h"

struct check_sums {
    uint64_t refs;
    uint32_t running, running_seqs, queued, reserved, ended, state_slots;
};

static const char *check_seq(const struct sched *s, const struct ticket *ticket,
                             const struct sequence *seq, struct check_sums *sums)
{
    const struct run *run = seq->sched;
    if (!run || run->seq != seq)
        return "a sequence without its record";
    sums->refs += run->table.n_block;
    sums->state_slots += run->state_slot >= 0;
    if (run->n_computed > run->n_planned || run->n_planned > run->table.n_block * BLOCK_TOKENS)
        return "computed <= planned <= blocks does not hold";
    if (!seq_live(seq))
        return run->table.n_block || run->state_slot >= 0 ? "an ended sequence keeps something"
                                                          : NULL;
    if (run->stalled != (seq->state == SEQUENCE_STALLED))
        return "stalled and its state disagree";
    if (!ticket->running && (run->table.n_block || run->n_planned))
        return "a waiting sequence has KV";
    if (run->parked && (!ticket->running || run->table.n_block || run->n_drawing))
        return "a parked sequence runs";
    bool open = !run->parked && (!ticket->beams || beams_is_open(seq));
    if (ticket->running && ticket->forked && open && run->table.n_block == 0)
        return "a running sequence has no KV";
    if (run->n_drawing > s->n_planned_step - s->n_committed_step)
        return "more draws than steps in flight";
    if (run->room_tick && run->room_tick == s->n_tick && run->table.n_block == 0)
        return "a sequence without blocks is ready to write";
    if (run->n_planned > run_total(run))
        return "planned beyond its tokens";
    if (seq->n_output + run->n_drawing > seq->output_max && seq->output_max)
        return "draws beyond its output";
    if (ticket->beams && !beams_is_open(seq) && (run->table.n_block || run->n_drawing))
        return "a closed beam has KV";
    sums->running_seqs += ticket->running && !run->parked;
    return NULL;
}

/* For its client or its user, who will be heard of. */
static bool waits_aside(const struct ticket *ticket)
{
    for_each_live (seq, ticket->request)
        if (run_of(seq)->stalled)
            return true;
    return !list_empty(&ticket->wait_node) && ticket->account->n_running_seqs > 0;
}

static const char *check_ticket(const struct sched *s, const struct ticket *ticket,
                                struct check_sums *sums)
{
    const struct request *request = ticket->request;
    sums->running += ticket->running;
    sums->queued += ticket->queued;
    sums->reserved += ticket->n_reserved;
    sums->ended += request->state == REQUEST_DONE && !ticket->forgotten;
    if (ticket->running != (request->state == REQUEST_RUNNING) ||
        ticket->queued != (request->state == REQUEST_QUEUED))
        return "a request is not where its state says";
    if (ticket->running && n_active(request) == 0)
        return "nobody runs of a request that does";
    if (ticket->aside && (!ticket->queued || !waits_aside(ticket)))
        return "a request is set aside for nothing";
    if (!ticket->running && ticket->n_reserved)
        return "a waiting request keeps a reservation";
    if ((request->state == REQUEST_DONE) != (request->n_seq_ended == request->n_seq))
        return "done and its sequences disagree";
    for_each_seq (seq, request) {
        const char *wrong = check_seq(s, ticket, seq, sums);
        if (wrong)
            return wrong;
    }
    return NULL;
}

static const char *check_caps(const struct sched *s)
{
    for (int ticket_i = 0; ticket_i < s->config.requests_max; ticket_i++) {
        const struct ticket *ticket = &s->ticket[ticket_i];
        if (ticket->request && ticket->account &&
            ticket->account->n_running_seqs > ticket->account->running_max)
            return "a user has more running than they may";
    }
    return NULL;
}

/* What handles hold, in all and of each user, and whose lease ends next. */
static const char *check_handles(const struct sched *s, uint32_t *ret_pinned)
{
    uint64_t most =
        (uint64_t)s->pool->n_block * (uint32_t)max_of(s->config.pinned_percent, 0) / 100;
    *ret_pinned = 0;
    list_for_each (node, &s->held) {
        const struct held *held = list_entry(node, struct held, age_node);
        uint32_t n_account = 0;
        *ret_pinned += held->table.n_block;
        if (held->n_computed > held->table.n_block * BLOCK_TOKENS)
            return "a handle has more computed than blocks";
        if (held->lease && heap_top(&s->leases)->key > held->expiry.key)
            return "a lease ends before the first one that does";
        list_for_each (other, &s->held) {
            const struct held *theirs = list_entry(other, struct held, age_node);
            n_account += theirs->account == held->account ? theirs->table.n_block : 0;
        }
        if (n_account != held->account->n_pinned || n_account > most)
            return "a user's pinned blocks do not add up, or are too many";
    }
    return *ret_pinned == s->n_pinned && *ret_pinned <= 2 * most ? NULL
                                                                 : "pinned blocks do not add up";
}

const char *sched_check(const struct sched *s)
{
    struct check_sums sums = { 0 };
    for (int ticket_i = 0; ticket_i < s->config.requests_max; ticket_i++) {
        const struct ticket *ticket = &s->ticket[ticket_i];
        const char *wrong = ticket->request ? check_ticket(s, ticket, &sums) : NULL;
        if (wrong)
            return wrong;
    }
    if (sums.running != s->n_running || sums.running_seqs != s->n_running_seqs ||
        sums.queued != s->n_queued || sums.ended != s->n_ended)
        return "counts of requests disagree";
    const char *wrong_cap = check_caps(s);
    if (wrong_cap)
        return wrong_cap;
    uint32_t n_pinned;
    const char *wrong_handle = check_handles(s, &n_pinned);
    if (wrong_handle)
        return wrong_handle;
    sums.refs += n_pinned;
    if ((int64_t)s->pool->n_free + s->pool->n_cached < s->n_reserved)
        return "more is reserved than could be had";
    if (sums.reserved != s->n_reserved)
        return "reservations do not add up";
    if (sums.state_slots + (uint32_t)s->n_state_free != (uint32_t)s->config.batch_max)
        return "a row of token counts is lost";
    if (s->n_pin || (s->n_host_pin && !s->n_carry))
        return "a pin outlived its tick";
    if (!block_pool_consistent(s->pool, sums.refs))
        return "blocks are not conserved";
    if (s->host && !block_pool_consistent(s->host, s->n_host_pin))
        return "host blocks are not conserved";
    if (!radix_tree_consistent(s->tree))
        return "the radix tree is inconsistent";
    return NULL;
}
