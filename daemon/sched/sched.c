/*
 * Owns the scheduler: what serve calls, the tick, and the ends of requests. Loop thread.
 *
 *   tick     make room for those who run -> admit -> fill the step
 *   commit   commit.c
 */
#include "daemon/sched/sched_internal.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "base/planted.h"
#include "daemon/base/arena.h"
#include "daemon/base/payload.h"
#include "daemon/base/pool.h"
#include "daemon/sched/policy_list.h"

static const struct policy *const policies[] = { POLICY_LIST };

const struct policy *policy_find(const char *name)
{
    for (size_t policy_i = 0; policy_i < ARRAY_SIZE(policies); policy_i++) {
        if (strcmp(policies[policy_i]->name, name) == 0)
            return policies[policy_i];
    }
    return NULL;
}

static bool config_good(const struct sched_config *config)
{
    return config->batch_max >= 1 && config->rows_max >= config->batch_max &&
           config->samples_max >= config->batch_max && config->context_max >= 1 &&
           config->kv_blocks >= 1 && config->requests_max >= 1 && config->sequences_max >= 1 &&
           config->moves_max >= 1 && config->lists_max >= 0 && config->payload &&
           config->queue_max >= 1;
}

/* The small arrays. */
static int take_arrays(struct sched *s, struct arena *arena)
{
    const struct sched_config *config = &s->config;
    uint32_t n_block = block_count((uint32_t)config->context_max) + 1;
    s->ticket = arena_array(arena, struct ticket, config->requests_max);
    s->run = arena_array(arena, struct run, config->sequences_max);
    s->state_free = arena_array(arena, int32_t, config->batch_max);
    s->scratch = arena_array(arena, int32_t, config->context_max + 1);
    s->matched = arena_array(arena, int32_t, n_block);
    s->carry = arena_array(arena, struct step_move, config->moves_max);
    if (!s->carry || !s->ticket || !s->run || !s->state_free || !s->scratch || !s->matched)
        return -ENOMEM;
    for (int slot = config->batch_max; slot-- > 0;)
        s->state_free[s->n_state_free++] = slot;
    uint32_t n_account = (uint32_t)(config->requests_max + max_of(config->handles_max, 0));
    int error = pool_create(sizeof(struct account), n_account, arena, &s->accounts);
    if (!error)
        error = hash_init(&s->account_of, n_account, arena);
    uint32_t n_handle = (uint32_t)max_of(config->handles_max, 0);
    list_init(&s->held);
    if (!error && n_handle > 0)
        error = pool_create(sizeof(struct held), n_handle, arena, &s->handles);
    if (!error)
        error = heap_init(&s->leases, n_handle, arena);
    return error ? error : heap_init(&s->deadlines, (uint32_t)config->requests_max, arena);
}

int sched_create(const struct sched_config *config, struct arena *arena, struct sched **ret)
{
    if (!config_good(config))
        return -EINVAL;
    struct sched *s = arena_new(arena, struct sched);
    if (!s)
        return -ENOMEM;
    s->config = *config;
    s->seqs_max = (uint32_t)config->batch_max;
    list_init(&s->running);
    list_init(&s->outbox);
    s->policy = policy_find(config->policy);
    if (!s->policy)
        return -EINVAL;
    int error = take_arrays(s, arena);
    if (!error)
        error = block_pool_create(config->kv_blocks, arena, &s->pool);
    if (!error && config->kv_host_blocks > 0)
        error = block_pool_create(config->kv_host_blocks, arena, &s->host);
    if (!error)
        error = radix_tree_create(s->pool, s->host, SCHED_DOMAINS_MAX, arena, &s->tree);
    if (!error)
        error = s->policy->create(config, s, arena, &s->policy_self);
    if (error)
        return error;
    *ret = s;
    return 0;
}

struct list *sched_outbox(struct sched *s)
{
    return &s->outbox;
}

void sched_touch(struct sched *s, struct request *request)
{
    list_remove(&request->outbox_node);
    list_push_back(&s->outbox, &request->outbox_node);
}

/* The next deadline that matters in the request's present state. */
static void deadline_set(struct sched *s, struct ticket *ticket)
{
    const struct request *request = ticket->request;
    const struct request_params *params = &request->params;
    uint64_t key = params->total_deadline_ns ? params->total_deadline_ns : UINT64_MAX;
    if (params->queue_deadline_ns && !ticket->admitted_once)
        key = min_of(key, params->queue_deadline_ns);
    if (params->first_token_deadline_ns && request->totals.first_token_ns == 0)
        key = min_of(key, params->first_token_deadline_ns);
    ticket->deadline.key = key;
    ticket->deadline.tie = ticket->serial;
    if (key == UINT64_MAX || request->state == REQUEST_DONE)
        heap_remove(&s->deadlines, &ticket->deadline);
    else
        heap_put(&s->deadlines, &ticket->deadline);
}

void sched_deadline_changed(struct sched *s, struct request *request)
{
    deadline_set(s, ticket_of(request));
}

/* Can it run at all, were it alone? If not for its size, that is told. */
static int fits_ever(const struct sched *s, struct request *request)
{
    uint32_t context = (uint32_t)s->config.context_max;
    uint32_t room = request->params.max_tokens > 0 ? 1 : 0;
    if (request->n_prompt < 1 || request->n_prompt + room > context)
        return -EMSGSIZE;
    uint32_t n_beam = request->params.beam_width ? request->n_seq - 1 : 0;
    request->totals.kv_blocks_peak = block_count(request->n_prompt) + n_beam;
    if (request->totals.kv_blocks_peak > (uint32_t)s->pool->n_block)
        return -E2BIG;
    request->totals.kv_blocks_peak = 0;
    if (request->n_bias > (uint32_t)s->config.lists_max ||
        request->n_stop_id + (uint32_t)s->config.n_eos_id > (uint32_t)s->config.lists_max)
        return -ENOSPC;
    return n_beam >= (uint32_t)s->config.batch_max ? -EUSERS : 0;
}

int sched_add(struct sched *s, struct request *request, uint64_t now_ns)
{
    assert(request->pool_index < (uint32_t)s->config.requests_max && !request->sched);
    int error = fits_ever(s, request);
    if (error)
        return error;
    struct account *account = account_ref(s, request->uid);
    assert(account); /* there are as many as requests */
    if (request->params.beam_width > 0 && request->n_seq > account->running_max)
        error = -EUSERS;
    else if (request->op == RINGLET_OP_LEASE && !handle_allowed(s, request, account))
        error = -EDQUOT;
    else if (s->n_queued >= (uint32_t)s->config.queue_max ||
             account->n_queued >= (uint32_t)s->config.queue_uid_max)
        error = -EAGAIN;
    if (error) {
        account_unref(s, account);
        return error;
    }
    struct ticket *ticket = &s->ticket[request->pool_index];
    *ticket = (struct ticket){ .request = request, .account = account, .serial = ++s->serial };
    list_init(&ticket->run_node);
    list_init(&ticket->wait_node);
    uint64_t worth = request->params.urgency * SCHED_AGING_NS;
    uint64_t arrived = now_ns + UINT8_MAX * SCHED_AGING_NS;
    ticket->order_ns = arrived - worth;
    request->sched = ticket;
    if (!request->totals.arrived_ns)
        request->totals.arrived_ns = now_ns;
    request->totals.prompt_tokens = request->n_prompt;
    for_each_seq (seq, request) {
        struct run *run = &s->run[seq->pool_index];
        *run = (struct run){ .seq = seq, .state_slot = -1, .generation = run->generation + 1 };
        seq->sched = run;
    }
    s->now_ns = max_of(s->now_ns, now_ns);
    if (s->policy->begin)
        s->policy->begin(s->policy_self, ticket);
    bool in_time = estimate_in_time(s, request, true);
    request_to(request, REQUEST_QUEUED);
    admission_queue(s, ticket);
    deadline_set(s, ticket);
    if (!in_time)
        sched_cancel(s, request, RINGLET_REASON_DEADLINE, 1, now_ns);
    return 0;
}

void sched_end(struct sched *s, struct sequence *seq, uint16_t reason, uint32_t detail)
{
    struct request *request = seq->request;
    struct ticket *ticket = ticket_of(request);
    struct run *run = run_of(seq);
    if (!seq_live(seq))
        return;
    bool was_leader = run->table.n_block > 0;
    kv_restore(s, run);
    if (request->params.hold && reason < RINGLET_REASON_CANCELLED &&
        seq->index < request->params.n) {
        kv_cache(s, run, true);
        seq->handle = handle_keep(s, run, sequence_tokens(seq), 0);
    }
    kv_drop(s, run, reason != RINGLET_REASON_ERROR_ENGINE);
    sequence_end(seq, reason, detail);
    if (ticket->running && !run->parked && !BUG(57))
        admission_count(s, ticket, -1);
    run->parked = false;
    if (request->state == REQUEST_DONE) {
        request->totals.ended_ns = s->now_ns;
        admission_leave(s, request);
        if (!BUG(54))
            deadline_set(s, ticket);
        if (s->policy->end)
            s->policy->end(s->policy_self, ticket);
        account_unref(s, ticket->account);
        ticket->account = NULL;
        s->n_ended++;
    } else if (ticket->running && n_active(request) == 0) {
        admission_next_turn(s, request);
    } else if (ticket->running && !ticket->forked && was_leader && !BUG(58)) {
        admission_preempt(s, request); /* the others wait for a prompt that nobody computes */
    } else {
        admission_look_again(s, ticket); /* another leads now */
    }
    sched_touch(s, request);
}

void sched_cancel(struct sched *s, struct request *request, uint16_t reason, uint32_t detail,
                  uint64_t now_ns)
{
    s->now_ns = max_of(s->now_ns, now_ns);
    for_each_live (seq, request) {
        if (request->sched)
            sched_end(s, seq, reason, detail);
        else
            sequence_end(seq, reason, detail); /* never added */
    }
    if (!request->sched)
        sched_touch(s, request);
}

void sched_finish(struct sched *s, struct sequence *seq, uint16_t reason, uint32_t detail,
                  uint64_t now_ns)
{
    s->now_ns = max_of(s->now_ns, now_ns);
    sched_end(s, seq, reason, detail);
}

void sched_stall(struct sched *s, struct sequence *seq, bool stalled)
{
    struct run *run = run_of(seq);
    if (!seq_live(seq) || run->stalled == stalled || seq->request->params.beam_width > 0)
        return;
    run->stalled = stalled;
    if (!stalled && !BUG(81))
        admission_look_again(s, ticket_of(seq->request));
    if (stalled)
        sequence_to(seq, SEQUENCE_STALLED);
    else if (run->table.n_block == 0 && !BUG(55))
        sequence_to(seq, SEQUENCE_WAITING);
    else
        sequence_to(seq,
                    run_total(run) > run->n_planned + 1 || run->n_planned < seq->request->n_prompt
                        ? SEQUENCE_PREFILL
                        : SEQUENCE_DECODE);
}

static void give_memory(struct sched *s, struct request *request)
{
    struct payload_pool *payload = s->config.payload;
    payload_give(payload, request->prompt_logprob);
    request->prompt_logprob = NULL;
    payload_give(payload, ticket_of(request)->beams);
    ticket_of(request)->beams = NULL;
    for_each_seq (seq, request) {
        struct run *run = run_of(seq);
        payload_give(payload, run->table.blocks);
        payload_give(payload, BUG(56) ? NULL : seq->output);
        payload_give(payload, seq->logprobs);
        run->table = (struct block_table){ 0 };
        run->seq = NULL;
        seq->output = NULL;
        seq->logprobs = NULL;
        seq->output_max = 0;
        seq->sched = NULL;
    }
}

void sched_release(struct sched *s, struct ticket *ticket)
{
    struct request *request = ticket->request;
    assert(ticket->forgotten && ticket->n_inflight == 0);
    give_memory(s, request);
    ticket->request = NULL;
    request->sched = NULL;
    if (s->config.released)
        s->config.released(s->config.context, request);
}

void sched_forget(struct sched *s, struct request *request)
{
    struct ticket *ticket = ticket_of(request);
    list_remove(&request->outbox_node);
    if (!ticket) { /* never added */
        if (s->config.released)
            s->config.released(s->config.context, request);
        return;
    }
    assert(request->state == REQUEST_DONE && !ticket->forgotten);
    ticket->forgotten = true;
    s->n_ended--;
    if (ticket->n_inflight == 0 || BUG(53))
        sched_release(s, ticket);
}

/*
 * What was swapped out in a tick that planned no rows happens at the start of the next step: nobody
 * writes to the blocks before, and the host's stay pinned. Copies and blocks that come in belong to
 * sequences with rows, so there are none.
 */
static void carry_keep(struct sched *s, const struct step *step)
{
    assert(step->n_copy + step->n_swap_in == 0);
    memcpy(s->carry, step->swap_out, (size_t)step->n_swap_out * sizeof(*s->carry));
    s->n_carry = step->n_swap_out;
}

static void carry_take(struct sched *s, struct step *step)
{
    assert(s->n_carry <= step->limits.moves_max);
    memcpy(step->swap_out, s->carry, (size_t)s->n_carry * sizeof(*s->carry));
    step->n_swap_out = s->n_carry;
    s->n_carry = 0;
}

int sched_tick(struct sched *s, uint64_t now_ns, struct step *step)
{
    assert(s->n_planned_step - s->n_committed_step < SCHED_IN_FLIGHT_MAX);
    s->now_ns = max_of(s->now_ns, now_ns);
    s->step = step;
    s->n_tick++;
    step->number = s->n_planned_step + 1;
    carry_take(s, step);
    bool had_room;
    do { /* again if somebody gave way and nobody is left with rows: 0 means that nothing can run */
        had_room = batcher_make_room(s);
        if (had_room)
            admission_run(s);
        batcher_fill(s);
    } while (!had_room && step->n_row == 0);
    s->step = NULL;
    if (step->n_row == 0) {
        carry_keep(s, step);
        if (s->n_carry == 0)
            kv_unpin(s);
        return 0;
    }
    kv_unpin(s);

    s->n_planned_step++;
    s->stats.steps++;
    return step->n_row;
}

uint64_t sched_next_ns(const struct sched *s)
{
    const struct heap_node *top = heap_top(&s->deadlines), *lease = heap_top(&s->leases);
    return min_of(top ? top->key : UINT64_MAX, lease ? lease->key : UINT64_MAX);
}

void sched_expire(struct sched *s, uint64_t now_ns)
{
    handle_expire(s, now_ns);
    for (;;) {
        struct heap_node *top = heap_top(&s->deadlines);
        if (!top || top->key > now_ns)
            return;
        struct request *request = container_of(top, struct ticket, deadline)->request;
        sched_cancel(s, request, RINGLET_REASON_DEADLINE, 0, now_ns);
    }
}

void sched_stats(const struct sched *s, struct sched_stats *ret)
{
    struct radix_stats tree;
    radix_tree_stats(s->tree, &tree);
    *ret = s->stats;
    ret->running = s->n_running_seqs;
    ret->queued = s->n_queued;
    ret->kv_total = (uint32_t)s->pool->n_block;
    ret->kv_free = (uint32_t)s->pool->n_free;
    ret->kv_cached = (uint32_t)s->pool->n_cached;
    ret->kv_owned = (uint32_t)block_pool_owned(s->pool);
    ret->evicted_blocks = tree.evicted;
    ret->handles = s->handles ? pool_used(s->handles) : 0;
    ret->kv_pinned = s->n_pinned;
    ret->host_total = s->host ? (uint32_t)s->host->n_block : 0;
    ret->host_used = s->host ? (uint32_t)(s->host->n_block - s->host->n_free) : 0;
}
