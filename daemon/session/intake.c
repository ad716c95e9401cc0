/*
 * An entry goes ring -> pending (private) -> item. With a large input it stays pending over several
 * passes; with no room in the payload pool it stays until there is some, and so does everything
 * behind it: the ring fills and the client sees -EAGAIN.
 *
 *   payload piece:  [ids or room for them][text][stop table][raw stops][stop ids][bias]
 */
#include "daemon/session/intake.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/compiler.h"
#include "base/planted.h"
#include "daemon/base/payload.h"
#include "daemon/session/publish.h"

enum { PIECE_ALIGN = 16 };

void intake_begin(struct session *s)
{
    /* A budget that was not used does not pile up; one that was not enough does. */
    uint32_t left = s->pending.taken ? s->deficit : 0;
    s->deficit = min_of(left, (uint32_t)LIMIT_INTAKE_BYTES) + LIMIT_INTAKE_BYTES;
}

/* Slot and generation are protocol: a client that gets them wrong is broken. */
static bool slot_sound(const struct session *s, struct ringlet_sqe *sqe)
{
    if (sqe->slot >= s->layout.n_slot || sqe->generation == 0)
        return false;
    sqe->slot = (uint16_t)index_within(sqe->slot, s->layout.n_slot);
    return !s->slot[sqe->slot].busy || BUG(231);
}

static bool fetch(const struct session *s, void *to, uint32_t off, uint32_t bytes, uint32_t align)
{
    return span_fetch(to, s->up_part.prompt, s->layout.prompt_bytes, off, bytes, align) == 0;
}

/* Sizes of the parts of the payload, then the piece itself. -EAGAIN: the pool is full now. */
static int place(struct session *s, const struct validate_model *model,
                 struct validate_fault *fault)
{
    struct session_pending *p = &s->pending;
    const struct ringlet_sqe *sqe = &p->entry.sqe;
    bool tokens = sqe->input_kind == RINGLET_INPUT_TOKENS;
    uint64_t ids;
    if (tokens)
        ids = sqe->input_bytes / 4;
    else if (sqe->op == RINGLET_OP_TOKENIZE && sqe->input_kind == RINGLET_INPUT_TEXT)
        ids = (uint64_t)sqe->input_bytes + 8;
    else if (sqe->input_kind == RINGLET_INPUT_TEXT)
        ids = min_of((uint64_t)sqe->input_bytes + 8, (uint64_t)model->context + 1);
    else if (sqe->input_kind == RINGLET_INPUT_NONE)
        ids = 1; /* a handle is all the input */
    else
        ids = (uint64_t)model->context + 1;
    uint64_t at = align_up(ids * 4, PIECE_ALIGN);
    p->ids_max = (uint32_t)ids;
    p->input_at = 0;
    p->text_at = at;
    at = align_up(at + (tokens ? 0 : sqe->input_bytes), PIECE_ALIGN);
    bool stops = p->has_block && p->block.stop.bytes;
    p->detok_at = at;
    at = align_up(at + (stops ? s->all->config.stops_bytes : 0), PIECE_ALIGN);
    p->stops_at = at;
    at = align_up(at + (p->has_block ? p->block.stop.bytes : 0), PIECE_ALIGN);
    p->ids_at = at;
    at = align_up(at + (p->has_block ? p->block.stop_token_ids.bytes : 0), PIECE_ALIGN);
    p->bias_at = at;
    at += p->has_block ? p->block.logit_bias.bytes : 0;
    if (at > payload_bytes(s->all->config.payload) / 4) {
        *fault =
            (struct validate_fault){ RINGLET_ERROR_OVER_QUOTA, VALIDATE_SQE_FIELD(input_bytes) };
        return 0;
    }
    p->payload = intake_room(s->all, s->user, (uint32_t)at);
    if (!p->payload)
        return -EAGAIN;
    p->payload_bytes = (uint32_t)at;
    p->placed = true;
    return 0;
}

/*
 * The sharing group by its name. One that this user may not join looks like one that is not there.
 */
static bool fetch_group(struct session *s, struct validate_fault *fault)
{
    const struct sessions_config *config = &s->all->config;
    const struct ringlet_span *span = &s->pending.block.group;
    char name[RINGLET_GROUP_BYTES_MAX + 1] = { 0 };
    if (span->bytes == 0)
        return true;
    assert(span->bytes < sizeof(name)); /* validated */
    if (!fetch(s, name, span->offset, span->bytes, 4)) {
        *fault = (struct validate_fault){ RINGLET_ERROR_BAD_SPAN, VALIDATE_BLOCK_FIELD(group) };
        return false;
    }
    for (uint32_t i = 0; i < config->n_group; i++) {
        if ((s->user->groups >> i & 1 || BUG(257)) &&
            (strlen(config->groups[i]) == span->bytes || BUG(258)) &&
            memcmp(config->groups[i], name, span->bytes) == 0)
            s->pending.group = i + 1;
    }
    if (s->pending.group == 0)
        *fault = (struct validate_fault){ RINGLET_ERROR_BAD_FIELD, VALIDATE_BLOCK_FIELD(group) };
    return s->pending.group != 0;
}

/* Lists of the block: fetched once, checked in place. */
static bool fetch_lists(struct session *s, const struct validate_model *model,
                        struct validate_fault *fault)
{
    struct session_pending *p = &s->pending;
    const struct ringlet_block *b = &p->block;
    p->group = BUG(266) ? p->group : 0;
    if (!p->has_block)
        return true;
    if (!fetch_group(s, fault))
        return false;
    int32_t *stop_ids = (int32_t *)(void *)(p->payload + p->ids_at);
    struct request_bias *bias = (struct request_bias *)(void *)(p->payload + p->bias_at);
    if (!fetch(s, p->payload + p->stops_at, b->stop.offset, b->stop.bytes, 4) ||
        !fetch(s, stop_ids, BUG(228) ? b->logit_bias.offset : b->stop_token_ids.offset,
               b->stop_token_ids.bytes, 4) ||
        !fetch(s, bias, b->logit_bias.offset, b->logit_bias.bytes, 4)) {
        *fault = (struct validate_fault){ RINGLET_ERROR_BAD_SPAN, 64 };
        return false;
    }
    if (!validate_stops(p->payload + p->stops_at, b->stop.bytes, fault))
        return false;
    if (!validate_ids(stop_ids, b->stop_token_ids.bytes / 4, model->vocab)) {
        *fault = (struct validate_fault){ RINGLET_ERROR_BAD_TOKEN,
                                          VALIDATE_BLOCK_FIELD(stop_token_ids) };
        return false;
    }
    return validate_bias(bias, b->logit_bias.bytes / 8, model->vocab, fault);
}

/* The entry alone and its block; sets p->params. False: refused. */
static bool check_entry(struct session *s, const struct validate_env *any,
                        struct validate_fault *fault)
{
    struct session_pending *p = &s->pending;
    struct ringlet_sqe *sqe = &p->entry.sqe;
    if (sqe->op == RINGLET_OP_NOP) /* round trips of these are what the rings are measured by */
        return validate_sqe(sqe, any, fault);
    struct validate_env own = *any, *env = &own;
    own.prompt_bytes = s->layout.prompt_bytes;
    if (!validate_sqe(sqe, env, fault))
        return false;
    sqe->model = (uint16_t)index_within(sqe->model, env->n_model);
    p->has_block = sqe->block_bytes != 0;
    if (!p->has_block) {
        validate_no_block(sqe, env, &p->params);
        return true;
    }
    p->block = (struct ringlet_block){ 0 };
    if (!fetch(s, &p->block, sqe->block_off, sqe->block_bytes, RINGLET_SPAN_ALIGN)) {
        *fault = (struct validate_fault){ RINGLET_ERROR_BAD_SPAN, VALIDATE_SQE_FIELD(block_off) };
        return false;
    }
    return validate_block(sqe, &p->block, env, &p->params, fault);
}

/*
 * Copy as much of the input as the budget allows. Returns true when it is all there. Ids are
 * checked bite by bite: a look at all of a large input at once would hold up everybody else. Text
 * is checked by whoever encodes it.
 */
static bool copy_input(struct session *s, const struct validate_model *model,
                       struct validate_fault *fault)
{
    struct session_pending *p = &s->pending;
    const struct ringlet_sqe *sqe = &p->entry.sqe;
    uint32_t n = min_of(sqe->input_bytes - p->copied, s->deficit & ~7u);
    bool tokens = sqe->input_kind == RINGLET_INPUT_TOKENS;
    uint8_t *to = p->payload + (tokens ? p->input_at : p->text_at) + p->copied;
    if (n && !fetch(s, to, sqe->input_off + (BUG(227) ? 0 : p->copied), n, 1)) {
        *fault = (struct validate_fault){ RINGLET_ERROR_BAD_SPAN, VALIDATE_SQE_FIELD(input_off) };
        return true;
    }
    p->copied += n;
    s->deficit -= n;
    if (tokens && !BUG(245) &&
        !validate_ids((const int32_t *)(const void *)to, n / 4, model->vocab)) {
        *fault = (struct validate_fault){ RINGLET_ERROR_BAD_TOKEN, VALIDATE_SQE_FIELD(input_off) };
        return true;
    }
    return p->copied == sqe->input_bytes;
}

void *intake_room(struct sessions *all, struct session_uid *user, uint32_t bytes)
{
    struct payload_pool *pool = all->config.payload;
    uint64_t share = payload_bytes(pool) / 100 * LIMIT_POOL_UID_PERCENT;
    if (user->payload_bytes + bytes > share) /* waits for this user's other requests */
        return NULL;
    void *room = payload_take(pool, bytes);
    user->payload_bytes += room ? bytes : 0;
    return room;
}

void intake_give(struct sessions *all, struct session_uid *user, uint8_t *payload, uint32_t bytes)
{
    if (!payload)
        return;
    payload_give(all->config.payload, payload);
    user->payload_bytes -= bytes;
}

void intake_drop_pending(struct session *s)
{
    struct session_pending *p = &s->pending;
    if (p->payload)
        intake_give(s->all, s->user, p->payload, p->payload_bytes);
    p->payload = NULL;
    p->taken = p->placed = p->has_block = false;
    p->copied = 0;
}

/* It will be answered at once: what the answer names, and nothing else, on the shortest way. */
static void fill_bare_item(struct session *s, struct intake_item *item)
{
    const struct ringlet_sqe *sqe = &s->pending.entry.sqe;
    item->sqe.op = sqe->op;
    item->sqe.slot = sqe->slot;
    item->sqe.model = sqe->model;
    item->sqe.tag = sqe->tag;
    item->sqe.generation = sqe->generation;
    item->payload = NULL;
    intake_drop_pending(s);
}

static void fill_item(struct session *s, struct intake_item *item)
{
    struct session_pending *p = &s->pending;
    if (item->fault.error || p->entry.sqe.op == RINGLET_OP_NOP) {
        fill_bare_item(s, item);
        return;
    }
    item->sqe = p->entry.sqe;
    const struct ringlet_sqe *sqe = &item->sqe;
    bool tokens = sqe->input_kind == RINGLET_INPUT_TOKENS;
    item->params = p->params;
    item->group = p->group;
    item->seed_set = p->has_block && p->block.set & RINGLET_SET_SEED;
    item->payload = p->payload;
    item->payload_bytes = p->payload_bytes;
    item->ids = (int32_t *)(void *)(p->payload + p->input_at);
    item->ids_max = p->ids_max;
    item->n_id = tokens ? sqe->input_bytes / 4 : 0;
    item->text = (char *)p->payload + p->text_at;
    item->text_bytes = tokens ? 0 : sqe->input_bytes;
    item->stops = NULL;
    item->raw_stops_bytes = item->n_stop_id = item->n_bias = 0;
    if (p->has_block) {
        item->stops = p->block.stop.bytes ? p->payload + p->detok_at : NULL;
        item->raw_stops = p->payload + p->stops_at;
        item->raw_stops_bytes = p->block.stop.bytes;
        item->stop_ids = (const int32_t *)(const void *)(p->payload + p->ids_at);
        item->n_stop_id = p->block.stop_token_ids.bytes / 4;
        item->bias = (const struct request_bias *)(const void *)(p->payload + p->bias_at);
        item->n_bias = p->block.logit_bias.bytes / 8;
    }
    p->payload = NULL; /* the item's now */
    intake_drop_pending(s);
}

/* A fresh entry into s->pending. Returns 1, or 0 as intake_take. */
static int take_entry(struct session *s)
{
    struct session_pending *p = &s->pending;
    if (ring_writer_free(&s->cq) <= s->n_owed && !BUG(230)) {
        if (!publish_refresh(s))
            return 0;
        if (ring_writer_free(&s->cq) <= s->n_owed) {
            session_starve(s);
            return 0;
        }
    }
    int got = ring_reader_take(&s->sq, &p->entry);
    if (likely(got == 0))
        return 0;
    ring_writer_next(&s->cq); /* the answer's line, on its way while the entry is looked at */
    if (got < 0) {
        session_doom(s, RINGLET_SESSION_ERROR_SEQ);
        return 0;
    }
    if (!slot_sound(s, &p->entry.sqe)) {
        session_doom(s, RINGLET_SESSION_ERROR_SLOT);
        return 0;
    }
    p->taken = true;
    session_slot_take(s, p->entry.sqe.slot, p->entry.sqe.generation);
    s->n_owed += !BUG(229);
    s->active_ns = s->all->now_ns;
    return 1;
}

int intake_take(struct session *s, const struct validate_env *env, struct intake_item *item)
{
    struct session_pending *p = &s->pending;
    item->fault = (struct validate_fault){ 0 };
    if (s->doomed || s->muted)
        return 0;
    if (!p->taken) {
        if (take_entry(s) == 0)
            return 0;
        if (!check_entry(s, env, &item->fault) || p->entry.sqe.op == RINGLET_OP_NOP) {
            fill_item(s, item);
            return 1;
        }
    }
    const struct validate_model *model = &env->models[p->entry.sqe.model];
    if (!p->placed) {
        if (place(s, model, &item->fault)) {
            session_wait_pool(s);
            return 0;
        }
        if (!item->fault.error && !fetch_lists(s, model, &item->fault))
            assert(item->fault.error);
    }
    if (!item->fault.error && !copy_input(s, model, &item->fault))
        return 0;
    fill_item(s, item);
    return 1;
}

int intake_take_nop(struct session *s, const struct validate_env *env, struct ringlet_sqe *ret)
{
    union ring_entry e;
    if (s->bite > 1 || s->pending.taken || s->muted || s->doomed ||
        ring_writer_free(&s->cq) <= s->n_owed)
        return -EAGAIN;
    int got = ring_reader_take_if(&s->sq, UINT64_C(0xffff) << 32, &e); /* op and flags */
    if (got < 0)
        return -EAGAIN;
    if (got == 0)
        return 0;
    ring_writer_next(&s->cq);
    if (!slot_sound(s, &e.sqe) || e.sqe.must_understand & ~env->features) {
        s->sq.head--; /* intake_take copies it anew, and says what is wrong with that copy */
        return -EAGAIN;
    }
    ret->slot = e.sqe.slot;
    ret->generation = e.sqe.generation;
    ret->tag = e.sqe.tag;
    s->active_ns = s->all->now_ns;
    return 1;
}

void intake_bitten(struct session *s, uint32_t n)
{
    if (n < s->bite) { /* the last look was in vain */
        s->bite = max_of(n, 1u);
        s->lone = LIMIT_INTAKE_ENTRIES;
    } else if (s->lone > n) {
        s->lone -= n;
    } else {
        s->bite = min_of(2 * s->bite, (uint32_t)LIMIT_INTAKE_ENTRIES);
        s->lone = 0;
    }
}

void intake_end(struct session *s)
{
    uint32_t head = s->sq.head -
                    (s->pending.taken && !BUG(226)); /* a half-copied entry is still the client's */
    if (load_once(&s->down_part.head->sq_head) != head)
        store_release(&s->down_part.head->sq_head, head); /* pairs with the client's load_acquire */
}

void intake_cancels(struct session *s, void (*fn)(void *context, struct session *s, uint16_t slot),
                    void *context)
{
    if (s->n_busy == 0 || s->doomed || s->muted)
        return;
    uint32_t seq =
        peer_load_acquire(&s->up_part.head->cancel_seq); /* pairs with the client's release */
    if (likely(seq == s->cancel_seq))
        return;
    s->cancel_seq = seq;
    s->active_ns = s->all->now_ns;
    for (uint32_t i = 0; i < div_ceil(s->layout.n_slot, 64); i++) {
        for (uint64_t busy = s->busy_map[i]; busy; busy &= busy - 1) {
            uint16_t slot = (uint16_t)(i * 64 + (uint32_t)__builtin_ctzll(busy));
            if (peer_load(&s->up_part.cancel[slot]) == s->slot[slot].generation || BUG(232))
                fn(context, s, slot);
        }
    }
}

bool intake_cancelled(const struct session *s, uint16_t slot)
{
    return peer_load(&s->up_part.cancel[slot]) == s->slot[slot].generation;
}

bool intake_ready(const struct session *s)
{
    if (s->doomed)
        return true;
    if (s->muted)
        return false;
    if (s->pending.taken && s->pending.placed) /* half copied: goes on next pass */
        return true;
    /* One that waits for the payload pool is brought on by whatever frees that. */
    if (!s->pending.taken && ring_writer_free(&s->cq) > s->n_owed && ring_reader_ready(&s->sq))
        return true;
    if (s->n_busy && peer_load_acquire(&s->up_part.head->cancel_seq) != s->cancel_seq && !BUG(233))
        return true;
    if (!s->starved && !list_empty(&s->blocked)) /* credit came while another answer was tried */
        return true;
    bool wants = s->starved || ring_writer_free(&s->cq) <= s->n_owed;
    return wants && intake_cq_head(s) != s->cq.head;
}

uint32_t intake_cq_head(const struct session *s)
{
    return peer_load_acquire(&s->up_part.head->cq_head); /* pairs with the client's release */
}

bool intake_client_sleeps(struct session *s)
{
    return wait_watch_must_ring(&s->client_watch);
}
