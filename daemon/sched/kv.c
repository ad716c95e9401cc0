/*
 * Blocks for sequences: taking with eviction and reservations, copy-on-write, caching. A block that
 * is the source of a move in the step being filled stays pinned to the end of the tick, so that
 * nothing else of this step is written over it.
 */
#include "daemon/sched/sched_internal.h"

#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "base/planted.h"
#include "daemon/base/prng.h"

int64_t kv_available(const struct sched *s)
{
    return (int64_t)s->pool->n_free + s->pool->n_cached - (BUG(15) ? 0 : s->n_reserved);
}

/* Free a cached block, to the host if that can be had in this step. */
static bool evict(struct sched *s)
{
    struct step *step = s->step;
    int32_t block, host;
    if (s->host && step && step->n_swap_out < step->limits.moves_max &&
        s->n_host_pin < SCHED_PINS_MAX && radix_tree_demote(s->tree, &block, &host)) {
        if (!BUG(14))
            step->swap_out[step->n_swap_out++] = (struct step_move){ .src = block, .dst = host };
        if (!BUG(22))
            block_pool_ref(s->host, host); /* no other target of this step, nor evicted in it */
        if (!BUG(22))
            s->host_pin[s->n_host_pin++] = host;
        s->stats.swapped_out++;
        return true;
    }
    return radix_tree_evict(s->tree);
}

int32_t kv_take(struct sched *s, struct ticket *ticket)
{
    if (ticket->n_reserved > 0) {
        ticket->n_reserved--;
        s->n_reserved--;
    } else if (kv_available(s) <= 0) {
        return -1;
    }
    if (s->pool->n_free == 0 && !evict(s))
        return -1;
    return block_pool_take(s->pool);
}

void kv_unreserve(struct sched *s, struct ticket *ticket)
{
    s->n_reserved -= ticket->n_reserved;
    ticket->n_reserved = 0;
}

void kv_unpin(struct sched *s)
{
    while (s->n_pin > 0)
        block_pool_unref(s->pool, s->pin[--s->n_pin]);
    while (s->n_host_pin > 0)
        block_pool_unref(s->host, s->host_pin[--s->n_host_pin]);
}

/* Does a step that moves in these blocks take less time than computing them? */
static bool swap_pays(const struct sched *s)
{
    double compute_ns = s->cost.term[1] * BLOCK_TOKENS, swap_ns = s->cost.term[3];
    return s->cost.n_step == 0 || swap_ns <= compute_ns;
}

/* The host's blocks of a match that this step can move, kept where they are until its end. */
static uint32_t host_part(struct sched *s, const struct radix_match *match)
{
    uint32_t first = match->cursor.n_block, n = 0;
    const struct step *step = s->step;
    if (!swap_pays(s) || match->n_device_token % BLOCK_TOKENS)
        return 0;
    while (first + n < block_count(match->n_token) &&
           step->n_swap_in + (int)n < step->limits.moves_max && s->n_host_pin < SCHED_PINS_MAX) {
        int32_t host = -1 - s->matched[first + n++];
        block_pool_ref(s->host, host);
        s->host_pin[s->n_host_pin++] = host;
    }
    return n;
}

uint32_t kv_swap_in(struct sched *s, struct run *run, struct radix_match *match)
{
    struct step *step = s->step;
    uint32_t n_token = match->n_device_token, n_host = host_part(s, match);
    for (uint32_t block_i = 0; block_i < n_host; block_i++) {
        int32_t host = -1 - s->matched[run->table.n_block];
        int32_t block = kv_take(s, ticket_of(run->seq->request));
        if (block < 0)
            break;
        step->swap_in[step->n_swap_in++] = (struct step_move){ .src = host, .dst = block };
        step->n_swap_in -= BUG(26);
        s->stats.swapped_in++;
        block_table_push(&run->table, block);
        uint32_t n = min_of(match->n_token - n_token, (uint32_t)BLOCK_TOKENS);
        n_token += n;
        if (n == BLOCK_TOKENS || BUG(24)) /* whole: everybody's; else a copy of our own */
            radix_tree_promote(s->tree, host, block, &match->cursor);
    }
    return n_token;
}

static bool comes_in_this_step(const struct step *step, int32_t block)
{
    for (int move_i = 0; move_i < step->n_swap_in; move_i++) {
        if (step->swap_in[move_i].dst == block)
            return true;
    }
    return false;
}

/* The block that holds position n_planned is shared: go on in a copy of it. */
static enum kv_room tail_copy(struct sched *s, struct run *run, uint32_t block_i)
{
    struct step *step = s->step;
    if (step->n_copy == step->limits.moves_max || s->n_pin == SCHED_PINS_MAX)
        return KV_NO_MOVES;
    int32_t src = run->table.blocks[block_i];
    if (comes_in_this_step(step, src) && !BUG(23))
        return KV_NO_MOVES;
    int32_t dst = kv_take(s, ticket_of(run->seq->request));
    if (dst < 0)
        return KV_NO_BLOCKS;
    if (!BUG(16))
        step->copy[step->n_copy++] = (struct step_move){ .src = src, .dst = dst };
    if (BUG(17))
        block_pool_unref(s->pool, src);
    else
        s->pin[s->n_pin++] = src; /* the table's reference becomes the pin's */
    run->table.blocks[block_i] = dst;
    return KV_READY;
}

/* Pins do not count: copies are made before anything of the step is written. */
static bool others_hold(const struct sched *s, int32_t block)
{
    uint32_t n = s->pool->refs[block];
    for (uint32_t pin_i = 0; n > 1 && pin_i < s->n_pin; pin_i++)
        n -= s->pin[pin_i] == block;
    return n > 1;
}

enum kv_room kv_extend(struct sched *s, struct run *run, uint32_t n_token)
{
    uint32_t block_i = run->n_planned / BLOCK_TOKENS;
    if (block_i < run->table.n_block) {
        int32_t block = run->table.blocks[block_i];
        bool shared = (others_hold(s, block) && !BUG(18)) || (s->pool->in_tree[block] && !BUG(19));
        enum kv_room room = shared ? tail_copy(s, run, block_i) : KV_READY;
        if (room != KV_READY)
            return room;
    }
    while (run->table.n_block < block_count(n_token)) {
        int32_t block = kv_take(s, ticket_of(run->seq->request));
        if (block < 0) {
            kv_restore(s, run);
            return KV_NO_BLOCKS;
        }
        block_table_push(&run->table, block);
    }
    run->room_tick = s->n_tick;
    return KV_READY;
}

uint64_t kv_sharing(const struct sched *s, const struct request *request)
{
    /* What batch-variant kernels computed is not what a deterministic request may build on. */
    bool apart = request->params.deterministic && !s->config.batch_invariant && !BUG(25);
    return request->domain ^ (apart ? UINT64_C(0x9e3779b97f4a7c15) : 0);
}

uint64_t kv_domain(const struct sched *s, const struct request *request)
{
    if (!s->config.prefix_cache) /* only a preempted request's own */
        return prng_mix(ticket_of(request)->serial) | 1;
    return kv_sharing(s, request);
}

/*
 * May the tree have a partial last block? Not in a tick, if others hold it and the tree does not:
 * one of them may have been told that it can be written where it is.
 */
static bool tail_is_ours(const struct sched *s, const struct run *run, uint32_t n)
{
    int32_t block = run->table.blocks[n / BLOCK_TOKENS];
    return !s->step || s->pool->refs[block] == 1 || s->pool->in_tree[block];
}

void kv_cache(struct sched *s, struct run *run, bool whole)
{
    const struct request *request = run->seq->request;
    bool wanted = s->config.prefix_cache || (s->host && ticket_of(request)->preempted);
    if (!wanted || run->n_computed == 0)
        return;
    /* What a step ahead computed behind a stop string was never said: how much depends on times. */
    uint32_t n_said = request->n_prompt + max_of(run->seq->n_output, 1u) - 1,
             n_sure = min_of(run->n_computed, n_said);
    whole = whole && n_sure % BLOCK_TOKENS && tail_is_ours(s, run, n_sure);
    uint32_t n = BUG(20) ? run->n_planned : whole ? n_sure : n_sure / BLOCK_TOKENS * BLOCK_TOKENS;
    uint32_t from = run->cursor.n_block * BLOCK_TOKENS;
    if (n <= from)
        return;
    const int32_t *ids = request->prompt;
    if (n > request->n_prompt) { /* in one piece, from the first block that is new */
        uint32_t n_prompt = request->n_prompt > from ? request->n_prompt - from : 0;
        memcpy(s->scratch + from, request->prompt + from, n_prompt * sizeof(*ids));
        from += n_prompt;
        memcpy(s->scratch + from, run->seq->output + (from - request->n_prompt),
               (n - from) * sizeof(*ids));
        ids = s->scratch;
    }
    radix_tree_insert(s->tree, kv_domain(s, request), &run->cursor, ids, n, run->table.blocks);
}

void kv_restore(struct sched *s, struct run *run)
{
    struct step *step = s->step;
    uint32_t block_i = run->n_planned / BLOCK_TOKENS;
    if (!step || block_i >= run->table.n_block)
        return;
    int32_t dst = run->table.blocks[block_i];
    for (int copy_i = 0; copy_i < step->n_copy; copy_i++) {
        if (step->copy[copy_i].dst != dst)
            continue;
        run->table.blocks[block_i] = step->copy[copy_i].src;
        uint32_t pin_i = 0;
        while (s->pin[pin_i] != step->copy[copy_i].src)
            pin_i++;
        s->pin[pin_i] = s->pin[--s->n_pin]; /* its reference is the table's again */
        step->copy[copy_i] = step->copy[--step->n_copy];
        block_pool_unref(s->pool, dst);
        return;
    }
}

void kv_drop(struct sched *s, struct run *run, bool cache)
{
    kv_restore(s, run);
    if (cache)
        kv_cache(s, run, true);
    block_table_drop(&run->table, s->pool);
    run->n_planned = run->n_computed = 0;
    run->room_tick *= BUG(78); /* it may run again in this tick, in blocks that it shares */
    run->cursor = (struct radix_cursor){ 0 };
    run->epoch += !BUG(21);
    if (run->state_slot >= 0)
        s->state_free[s->n_state_free] = run->state_slot, s->n_state_free += !BUG(27);
    run->state_slot = -1;
}
