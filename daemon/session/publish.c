/* Credit is counted here; spans are freed in entry order as the client's cq_head moves on. */
#include "daemon/session/publish.h"

#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "base/planted.h"
#include "daemon/session/intake.h"

bool publish_refresh(struct session *s)
{
    uint32_t before = s->cq.head;
    if (ring_writer_see_head(&s->cq, intake_cq_head(s))) {
        session_doom(s, RINGLET_SESSION_ERROR_CQ_HEAD);
        return false;
    }
    if (s->cq.head != before) {
        if (!BUG(234))
            span_arena_free_to(&s->text, s->cq.head);
        session_feed(s);
    }
    return true;
}

bool publish_look(struct session *s)
{
    if (!s->starved && ring_writer_free(&s->cq) > s->n_owed)
        return false;
    if (intake_cq_head(s) == s->cq.head)
        return false;
    publish_refresh(s);
    return true;
}

static bool has_credit(const struct session *s, uint64_t span_bytes)
{
    return ring_writer_free(&s->cq) > s->n_owed &&
           (span_bytes == 0 || span_arena_room(&s->text) >= span_bytes);
}

bool publish_can(struct session *s, uint64_t span_bytes)
{
    if (s->doomed)
        return false;
    if (likely(has_credit(s, span_bytes)))
        return true;
    if (!publish_refresh(s))
        return false;
    if (has_credit(s, span_bytes))
        return true;
    for (;;) {
        uint32_t head = s->cq.head;
        session_starve(s); /* fences: the client sees the odd word, or we see its cq_head */
        if (!publish_refresh(s))
            return false;
        if (has_credit(s, span_bytes))
            return true;
        if (s->cq.head == head) /* else the refresh took the word back: announce anew */
            return false;
    }
}

uint64_t publish_room(struct session *s)
{
    if (s->doomed || !publish_refresh(s) || ring_writer_free(&s->cq) <= s->n_owed)
        return 0;
    return span_arena_room(&s->text);
}

bool publish_bulk(struct session *s, uint64_t bytes)
{
    if (s->bulk_pass != s->all->pass) {
        s->bulk_pass = s->all->pass;
        s->bulk_bytes = 0;
    }
    if (s->bulk_bytes >= LIMIT_PUBLISH_BYTES) {
        if (!s->hot && list_empty(&s->again_node))
            list_push_back(&s->all->again, &s->again_node);
        return false;
    }
    s->bulk_bytes += bytes;
    return true;
}

uint64_t publish_span_bytes(uint32_t n_id, bool logprobs, uint32_t n_top, uint32_t text_bytes)
{
    if (n_id <= 1 && n_top == 0 && text_bytes <= RINGLET_INLINE_BYTES)
        return 0;
    return layout_span_bytes(logprobs ? RINGLET_CQE_LOGPROBS : 0, n_id, n_top, text_bytes);
}

static void put(struct session *s, union ring_entry *e)
{
    uint32_t number = s->cq.tail;
    ring_writer_put(&s->cq, e);
    ring_writer_next(&s->cq);
    span_arena_put(&s->text, number);
    if (!s->dirty) {
        s->dirty = !BUG(236);
        list_push_back(&s->all->dirty, &s->dirty_node);
    }
}

/*
 * The first half of an entry, made word by word: narrow stores that are read again as a whole word
 * stall the store buffer, and this is the daemon's busiest function. Layout: struct ringlet_cqe.
 */
static union ring_entry entry_for(const struct publish_id *id, enum ringlet_kind kind,
                                  unsigned flags, uint16_t reason, uint16_t index,
                                  uint32_t position, uint32_t n_id, uint32_t n_top)
{
    union ring_entry e;
    e.word[0] = (uint64_t)kind << 32 | (uint64_t)flags << 40 | (uint64_t)reason << 48;
    e.word[1] = id->tag;
    e.word[2] = id->slot | (uint64_t)index << 16 | (uint64_t)id->generation << 32;
    e.word[3] = position | (uint64_t)n_id << 32 | (uint64_t)n_top << 40;
    e.word[4] = e.word[5] = e.word[6] = e.word[7] = 0;
    return e;
}

static uint64_t two_u32(uint32_t low, uint32_t high)
{
    return low | (uint64_t)high << 32;
}

static uint32_t block_flags(const struct request_params *p)
{
    return (p->ignore_eos ? RINGLET_BLOCK_IGNORE_EOS : 0u) |
           (p->logprobs ? RINGLET_BLOCK_LOGPROBS : 0u) |
           (p->prompt_logprobs ? RINGLET_BLOCK_PROMPT_LOGPROBS : 0u) |
           (p->include_stop ? RINGLET_BLOCK_INCLUDE_STOP : 0u) |
           (p->deterministic ? RINGLET_BLOCK_DETERMINISTIC : 0u);
}

void publish_accepted(struct session *s, const struct request *request)
{
    const struct request_params *p = &request->params;
    struct ringlet_annex *annex = &s->down_part.annex[request->slot];
    struct ringlet_block block = {
        .block_bytes = RINGLET_BLOCK_BYTES,
        .set = RINGLET_SET_KNOWN & ~(uint32_t)(RINGLET_SET_LEASE | RINGLET_SET_STRUCTURE |
                                               RINGLET_SET_GROUP | RINGLET_SET_BEAM),
        .seed = p->seed + BUG(240),
        .temperature = p->temperature,
        .top_p = p->top_p,
        .min_p = p->min_p,
        .top_k = p->top_k,
        .presence_penalty = p->presence,
        .frequency_penalty = p->frequency,
        .repetition_penalty = p->repetition,
        .min_tokens = p->min_tokens,
        .n = p->n,
        .logprobs = p->logprobs_k,
        .prompt_logprobs = p->prompt_logprobs_k,
        .flags = block_flags(p),
        .queue_deadline_ns = p->queue_deadline_ns,
        .first_token_deadline_ns = p->first_token_deadline_ns,
        .lease_ns = p->lease_ns,
    };
    memcpy(annex->effective, &block, sizeof(annex->effective));
    annex->prompt_tokens = request->n_prompt;
    annex->cached_tokens = request->totals.cached_tokens;
    annex->max_tokens = p->max_tokens;
    annex->beam_width = p->beam_width;
    annex->early_stopping = p->early_stopping;
    annex->length_penalty = p->length_penalty;
    struct publish_id id = { request->slot, request->generation, request->tag };
    union ring_entry e = entry_for(&id, RINGLET_KIND_ACCEPTED, 0, 0, RINGLET_INDEX_ALL, 0, 0, 0);
    put(s, &e);
}

/* Ids, log-probabilities and text, written once where the client reads them. */
static void write_span(unsigned char *to, const struct publish_tokens *t)
{
    if (t->n_id) /* a flush of text has no ids, and memcpy takes no null even for 0 bytes */
        memcpy(to, t->ids, t->n_id * sizeof(uint32_t));
    to += t->n_id * sizeof(uint32_t);
    if (t->logprobs) {
        for (uint32_t i = 0; i < t->n_id; i++, to += sizeof(float))
            memcpy(to, &t->logprobs[i].logprob, sizeof(float));
        for (uint32_t i = 0; i < t->n_id; i++) {
            const struct step_logprob *lp = &t->logprobs[BUG(237) ? 0 : i];
            for (uint32_t k = 0; k < t->n_top; k++, to += sizeof(struct ringlet_top)) {
                struct ringlet_top top = { UINT32_MAX, __builtin_nanf("") };
                if (k < lp->n_top)
                    top = (struct ringlet_top){ (uint32_t)lp->top_id[k], lp->top_logprob[k] };
                memcpy(to, &top, sizeof(top));
            }
        }
    }
    if (t->text_bytes)
        memcpy(to, t->text, t->text_bytes);
}

void publish_tokens(struct session *s, const struct publish_id *id, const struct publish_tokens *t)
{
    assert(t->n_id <= RINGLET_EVENT_TOKENS_MAX);
    uint64_t span = publish_span_bytes(t->n_id, t->logprobs != NULL, t->n_top, t->text_bytes);
    unsigned flags = (span ? 0u : RINGLET_CQE_INLINE) |
                     (t->logprobs && !(BUG(238) && !span) ? RINGLET_CQE_LOGPROBS : 0u);
    union ring_entry e = entry_for(id, (enum ringlet_kind)t->kind, flags, 0, t->index, t->position,
                                   t->n_id, t->logprobs ? t->n_top : 0);
    uint32_t logprob = 0, span_off = 0;
    if (t->logprobs && t->n_id)
        memcpy(&logprob, &t->logprobs[0].logprob, sizeof(logprob));
    if (span) {
        int error = span_arena_take(&s->text, span, &span_off);
        assert(!error); /* publish_can said so */
        write_span(s->down_part.text + span_off, t);
    } else if (t->text_bytes) {
        memcpy(e.cqe.body.text, t->text, t->text_bytes);
    }
    e.word[4] = two_u32(t->n_id ? (uint32_t)t->ids[0] : 0, logprob);
    e.word[5] = two_u32(span_off, t->text_bytes);
    put(s, &e);
}

static void put_finished(struct session *s, const struct publish_id *id,
                         const struct publish_end *end, bool last)
{
    unsigned flags = (last ? RINGLET_CQE_END : 0u) | (end->hypothesis ? RINGLET_CQE_LOGPROBS : 0u);
    union ring_entry e =
        entry_for(id, RINGLET_KIND_FINISHED, flags, end->reason, end->index, end->position, 0, 0);
    uint32_t cumulative = 0;
    if (end->hypothesis)
        memcpy(&cumulative, &end->cumulative, sizeof(cumulative));
    e.word[4] = two_u32(end->detail, cumulative);
    e.word[5] = two_u32(end->field, 0);
    e.word[6] = end->handle;
    put(s, &e);
}

void publish_finished(struct session *s, const struct publish_id *id, const struct publish_end *end)
{
    put_finished(s, id, end, false);
}

static uint64_t since(uint64_t from, uint64_t to)
{
    return from && to > from ? to - from : 0;
}

static void write_totals(struct ringlet_annex *annex, const struct request *request)
{
    const struct request_totals *t = &request->totals;
    annex->total_prompt_tokens = t->prompt_tokens;
    annex->total_cached_tokens = t->cached_tokens;
    annex->completion_tokens = t->completion_tokens;
    annex->preemptions = t->preemptions;
    annex->queue_ns = since(t->arrived_ns, t->admitted_ns ? t->admitted_ns : t->ended_ns);
    annex->prefill_ns = since(t->admitted_ns, t->prefilled_ns);
    annex->decode_ns = since(t->prefilled_ns, t->ended_ns);
    annex->first_token_ns = since(t->arrived_ns, t->first_token_ns);
    annex->total_ns = since(t->arrived_ns, t->ended_ns);
    annex->steps = t->steps;
    annex->drafted = t->drafted;
    annex->accepted = t->accepted;
    annex->kv_blocks_peak = t->kv_blocks_peak;
    annex->estimate_ns = t->estimate_ns;
}

void publish_last(struct session *s, const struct publish_id *id, const struct publish_end *end,
                  const struct request *request)
{
    assert(s->n_owed > 0);
    struct ringlet_annex *annex = &s->down_part.annex[id->slot];
    if (request)
        write_totals(annex, request);
    put_finished(s, id, end, true); /* first what somebody waits for, then our own books */
    session_slot_free(s, id->slot);
    s->n_owed -= !BUG(239);
}

void publish_done(struct session *s, const struct ringlet_sqe *sqe)
{
    const struct publish_id id = { sqe->slot, sqe->generation, sqe->tag };
    const struct publish_end end = { .index = RINGLET_INDEX_ALL, .reason = RINGLET_REASON_DONE };
    assert_slow(ring_writer_free(&s->cq) > s->n_owed);
    put_finished(s, &id, &end, true);
}

void publish_flush(struct sessions *all)
{
    if (list_empty(&all->dirty))
        return;
    full_fence(); /* pairs with the client's full_fence after client_wait went odd */
    list_for_each_safe (node, &all->dirty) {
        struct session *s = list_entry(node, struct session, dirty_node);
        list_remove(node);
        s->dirty = false;
        if (s->doomed || !intake_client_sleeps(s))
            continue;
        stats_add(all->config.stats->daemon[STATS_BELLS_DOWN], 1);
        if (bell_down_ring(s->bell_down))
            session_doom(s, RINGLET_SESSION_ERROR_NONE);
    }
}
