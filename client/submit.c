/*
 * The up side: requests and cancels. A request becomes one entry and, unless it is bare, one piece
 * of the prompt arena: the input, then the request block, then what the block points at. Everything
 * is written before the entry's publication word; the daemon looks at nothing before that.
 */
#include "client/client_internal.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/planted.h"

/* Where the parts of one request lie in its piece of the arena; filled by measure(). */
struct plan {
    uint64_t bytes; /* of the piece */
    uint64_t input_bytes;
    uint64_t block, stop, stop_ids, bias, structure, group; /* offsets in the piece */
    uint64_t stop_bytes;
    uint16_t block_bytes; /* 0: none */
    uint8_t input_kind;
};

/* Room for `bytes` more, 8-aligned, at *ret_off of the piece; false on overflow. */
static bool grow(struct plan *plan, uint64_t bytes, uint64_t *ret_off)
{
    uint64_t end;
    *ret_off = plan->bytes;
    if (bytes > RINGLET_PROMPT_BYTES_MAX || add_overflows(plan->bytes, bytes, &end) ||
        end > RINGLET_PROMPT_BYTES_MAX)
        return false;
    plan->bytes = align_up(end, RINGLET_SPAN_ALIGN);
    return true;
}

static uint64_t bytes_of(uint64_t n, uint64_t each)
{
    uint64_t bytes;
    return mul_overflows(n, each, &bytes) ? UINT64_MAX : bytes;
}

static int measure_messages(const struct ringlet_request *req, uint64_t *ret_bytes)
{
    uint64_t bytes = 0;
    for (size_t i = 0; i < req->n_message; i++) {
        const struct ringlet_message *m = &req->messages[i];
        if (m->reserved != 0 || (m->bytes && !m->text))
            return -EINVAL;
        if (m->bytes > RINGLET_PROMPT_BYTES_MAX)
            return -EMSGSIZE;
        bytes += sizeof(struct ringlet_chat_record) + align_up(m->bytes, 8);
        if (bytes > RINGLET_PROMPT_BYTES_MAX)
            return -EMSGSIZE;
    }
    *ret_bytes = bytes;
    return 0;
}

static int measure_input(const struct ringlet_request *req, struct plan *plan)
{
    if ((req->text != NULL) + (req->tokens != NULL) + (req->messages != NULL) > 1)
        return -EINVAL;
    if ((req->text_bytes && !req->text) || (req->n_token && !req->tokens) ||
        (req->n_message && !req->messages))
        return -EINVAL;
    uint64_t off;
    if (req->text) {
        plan->input_kind = RINGLET_INPUT_TEXT;
        plan->input_bytes = req->text_bytes;
    } else if (req->tokens) {
        plan->input_kind = RINGLET_INPUT_TOKENS;
        plan->input_bytes = bytes_of(req->n_token, sizeof(*req->tokens));
    } else if (req->messages) {
        plan->input_kind = RINGLET_INPUT_MESSAGES;
        int error = measure_messages(req, &plan->input_bytes);
        if (error < 0)
            return error;
    }
    return grow(plan, plan->input_bytes, &off) ? 0 : -EMSGSIZE;
}

static bool is_set(uint32_t value)
{
    return value != RINGLET_UNSET;
}

static bool is_set_float(float value)
{
    return !(value == RINGLET_UNSET_FLOAT); /* NaN is set, and the daemon refuses it */
}

static bool needs_block(const struct ringlet_request *req)
{
    return is_set(req->min_tokens) || is_set(req->n) || is_set(req->top_k) ||
           is_set(req->logprobs) || is_set(req->prompt_logprobs) ||
           req->seed != RINGLET_UNSET_SEED || is_set_float(req->temperature) ||
           is_set_float(req->top_p) || is_set_float(req->min_p) ||
           is_set_float(req->presence_penalty) || is_set_float(req->frequency_penalty) ||
           is_set_float(req->repetition_penalty) || req->options || req->repetition_count ||
           req->repetition_min || req->repetition_max || req->structure_kind || req->n_stop ||
           req->n_stop_token_id || req->n_logit_bias || req->structure_bytes || req->group_bytes ||
           req->queue_deadline_ns || req->first_token_deadline_ns || req->lease_ns ||
           req->beam_width;
}

static int measure_block(const struct ringlet_request *req, struct plan *plan)
{
    /* What a block cannot even carry; ranges are the daemon's to check. */
    if ((is_set(req->n) && req->n > UINT16_MAX) || (is_set(req->logprobs) && req->logprobs > 255) ||
        (is_set(req->prompt_logprobs) && req->prompt_logprobs > 255))
        return -EINVAL;
    if ((req->n_stop && !req->stop) || (req->n_stop_token_id && !req->stop_token_ids) ||
        (req->n_logit_bias && !req->logit_bias) || (req->structure_bytes && !req->structure) ||
        (req->group_bytes && !req->group))
        return -EINVAL;
    if (req->n_stop > RINGLET_PROMPT_BYTES_MAX / 4)
        return -EMSGSIZE;
    for (size_t i = 0; i < req->n_stop; i++) {
        if (req->stop[i].bytes && !req->stop[i].text)
            return -EINVAL;
        if (req->stop[i].bytes > RINGLET_PROMPT_BYTES_MAX)
            return -EMSGSIZE;
        plan->stop_bytes += 4 + align_up(req->stop[i].bytes, 4);
    }
    plan->block_bytes = req->beam_width ? RINGLET_BLOCK_BYTES_MAX : RINGLET_BLOCK_BYTES;
    bool fits = grow(plan, plan->block_bytes, &plan->block) &&
                grow(plan, plan->stop_bytes, &plan->stop) &&
                grow(plan, bytes_of(req->n_stop_token_id, 4), &plan->stop_ids) &&
                grow(plan, bytes_of(req->n_logit_bias, 8), &plan->bias) &&
                grow(plan, req->structure_bytes, &plan->structure) &&
                grow(plan, req->group_bytes, &plan->group);
    return fits ? 0 : -EMSGSIZE;
}

/* A request that fits no field is refused here; everything else is the daemon's to judge. */
static bool is_sound(const struct ringlet_request *req)
{
    return req->struct_size == sizeof(*req) && req->flags <= UINT8_MAX &&
           req->length_penalty_set <= 1 &&
           (req->beam_width || !(req->length_penalty_set | req->early_stopping)) &&
           (req->reserved[0] | req->reserved[1] | req->reserved[2]) == 0;
}

/* A NOP has no parameters, and one without input needs no plan: what latency is measured by. */
static bool is_bare(const struct ringlet_request *req)
{
    return req->op == RINGLET_OP_NOP &&
           ((uintptr_t)req->text | (uintptr_t)req->tokens | (uintptr_t)req->messages |
            req->text_bytes | req->n_token | req->n_message) == 0;
}

static int measure(const struct ringlet_request *req, struct plan *plan)
{
    int error = measure_input(req, plan);
    if (error < 0)
        return error;
    if (req->op == RINGLET_OP_NOP)
        return 0;
    return needs_block(req) ? measure_block(req, plan) : 0;
}

static void write_padded(unsigned char *to, const void *from, size_t bytes, size_t align)
{
    if (bytes)
        memcpy(to, from, bytes);
    memset(to + bytes, 0, align_up(bytes, align) - bytes);
}

static void write_input(unsigned char *to, const struct ringlet_request *req,
                        const struct plan *plan)
{
    if (req->text && req->text_bytes)
        memcpy(to, req->text, req->text_bytes);
    if (req->tokens && plan->input_bytes)
        memcpy(to, req->tokens, plan->input_bytes);
    for (size_t i = 0; req->messages && i < req->n_message; i++) {
        const struct ringlet_message *m = &req->messages[i];
        struct ringlet_chat_record record = { m->kind, m->role, m->flags, (uint32_t)m->bytes };
        memcpy(to, &record, sizeof(record));
        write_padded(to + sizeof(record), m->text, m->bytes, 8);
        to += sizeof(record) + align_up(m->bytes, 8);
    }
}

static uint64_t daemon_deadline(const struct ringlet_client *cl, uint64_t deadline_ns)
{
    return deadline_ns ? deadline_ns + (uint64_t)cl->link.clock_shift_ns : 0;
}

static void set_float(struct ringlet_block *b, uint32_t bit, float *to, float value)
{
    if (is_set_float(value)) {
        b->set |= bit;
        *to = value;
    }
}

static void set_u32(struct ringlet_block *b, uint32_t bit, uint32_t *to, uint32_t value)
{
    if (is_set(value)) {
        b->set |= bit;
        *to = value;
    }
}

static void set_u64(struct ringlet_block *b, uint32_t bit, uint64_t *to, uint64_t value)
{
    if (value) {
        b->set |= bit;
        *to = value;
    }
}

static void set_span(struct ringlet_block *b, uint32_t bit, struct ringlet_span *to, uint64_t off,
                     uint64_t bytes)
{
    if (bytes) {
        b->set |= bit;
        *to = (struct ringlet_span){ (uint32_t)off, (uint32_t)bytes };
    }
}

static void fill_numbers(const struct ringlet_client *cl, const struct ringlet_request *req,
                         struct ringlet_block *b)
{
    if (req->seed != RINGLET_UNSET_SEED) {
        b->set |= RINGLET_SET_SEED;
        b->seed = req->seed;
    }
    set_float(b, RINGLET_SET_TEMPERATURE, &b->temperature, req->temperature);
    set_float(b, RINGLET_SET_TOP_P, &b->top_p, req->top_p);
    set_float(b, RINGLET_SET_MIN_P, &b->min_p, req->min_p);
    set_u32(b, RINGLET_SET_TOP_K, &b->top_k, req->top_k);
    set_float(b, RINGLET_SET_PRESENCE_PENALTY, &b->presence_penalty, req->presence_penalty);
    set_float(b, RINGLET_SET_FREQUENCY_PENALTY, &b->frequency_penalty, req->frequency_penalty);
    set_float(b, RINGLET_SET_REPETITION_PENALTY, &b->repetition_penalty, req->repetition_penalty);
    set_u32(b, RINGLET_SET_MIN_TOKENS, &b->min_tokens, req->min_tokens);
    if (is_set(req->n)) {
        b->set |= RINGLET_SET_N;
        b->n = (uint16_t)req->n;
    }
    b->flags = req->options;
    if (is_set(req->logprobs)) {
        b->set |= RINGLET_SET_LOGPROBS;
        b->logprobs = (uint8_t)req->logprobs;
        b->flags |= RINGLET_BLOCK_LOGPROBS;
    }
    if (is_set(req->prompt_logprobs)) {
        b->set |= RINGLET_SET_PROMPT_LOGPROBS;
        b->prompt_logprobs = (uint8_t)req->prompt_logprobs;
        b->flags |= RINGLET_BLOCK_PROMPT_LOGPROBS;
    }
    if (b->flags)
        b->set |= RINGLET_SET_FLAGS;
    set_u64(b, RINGLET_SET_QUEUE_DEADLINE, &b->queue_deadline_ns,
            daemon_deadline(cl, req->queue_deadline_ns));
    set_u64(b, RINGLET_SET_FIRST_TOKEN_DEADLINE, &b->first_token_deadline_ns,
            daemon_deadline(cl, req->first_token_deadline_ns));
    set_u64(b, RINGLET_SET_LEASE, &b->lease_ns, req->lease_ns);
    if (req->repetition_count || req->repetition_min || req->repetition_max) {
        b->set |= RINGLET_SET_REPETITION_DETECTOR;
        b->repetition_min = req->repetition_min;
        b->repetition_max = req->repetition_max;
        b->repetition_count = req->repetition_count;
    }
    if (req->beam_width) {
        b->set |= RINGLET_SET_BEAM;
        b->beam_width = req->beam_width;
        b->early_stopping = req->early_stopping;
        b->length_penalty = req->length_penalty_set ? req->length_penalty : 1;
    }
}

/* `to` is the piece, which begins at `off` of the arena. */
static void write_block(const struct ringlet_client *cl, unsigned char *to, uint32_t off,
                        const struct ringlet_request *req, const struct plan *plan)
{
    struct ringlet_block b = { .block_bytes = plan->block_bytes };
    fill_numbers(cl, req, &b);
    set_span(&b, RINGLET_SET_STOP, &b.stop, off + plan->stop, plan->stop_bytes);
    set_span(&b, RINGLET_SET_STOP_TOKEN_IDS, &b.stop_token_ids, off + plan->stop_ids,
             4 * req->n_stop_token_id);
    set_span(&b, RINGLET_SET_LOGIT_BIAS, &b.logit_bias, off + plan->bias, 8 * req->n_logit_bias);
    set_span(&b, RINGLET_SET_STRUCTURE, &b.structure, off + plan->structure, req->structure_bytes);
    set_span(&b, RINGLET_SET_GROUP, &b.group, off + plan->group, req->group_bytes);
    if (req->structure_kind) {
        b.set |= RINGLET_SET_STRUCTURE;
        b.structure_kind = req->structure_kind;
    }
    memcpy(to + plan->block, &b, plan->block_bytes);
    unsigned char *stop = to + plan->stop;
    for (size_t i = 0; i < req->n_stop; i++) {
        uint32_t bytes = (uint32_t)req->stop[i].bytes;
        memcpy(stop, &bytes, 4);
        write_padded(stop + 4, req->stop[i].text, bytes, 4);
        stop += 4 + align_up(bytes, 4);
    }
    if (req->n_stop_token_id)
        memcpy(to + plan->stop_ids, req->stop_token_ids, 4 * req->n_stop_token_id);
    if (req->n_logit_bias)
        memcpy(to + plan->bias, req->logit_bias, 8 * req->n_logit_bias);
    if (req->structure_bytes)
        memcpy(to + plan->structure, req->structure, req->structure_bytes);
    if (req->group_bytes)
        memcpy(to + plan->group, req->group, req->group_bytes);
}

/* Look where the daemon is: entries it took, and with them the arena, are free again. */
static int refresh(struct ringlet_client *cl)
{
    /* pairs with the daemon's store_release of sq_head after it copied */
    uint32_t head = load_acquire(&cl->link.down_parts.head->sq_head);
    int error = ring_writer_see_head(&cl->up.sq, head);
    if (error < 0)
        return client_lose(cl, error);
    span_arena_free_to(&cl->up.prompt, head);
    return 0;
}

static always_inline int take_room(struct ringlet_client *cl, uint64_t bytes, uint32_t *ret_off)
{
    struct client_up *up = &cl->up;
    bool fresh = false;
    /* pairs with store_release in slot_free */
    if (unlikely(load_acquire(&cl->down.free_tail) == up->free_head))
        return -EAGAIN;
    if (unlikely(ring_writer_free(&up->sq) == 0)) {
        int error = refresh(cl);
        if (error < 0)
            return error;
        fresh = true;
        if (ring_writer_free(&up->sq) == 0)
            return -EAGAIN;
    }
    if (bytes == 0)
        return 0;
    int error = span_arena_take(&up->prompt, bytes, ret_off);
    if (unlikely(error == -EAGAIN) && !fresh) {
        error = refresh(cl);
        if (error == 0)
            error = span_arena_take(&up->prompt, bytes, ret_off);
    }
    return error;
}

static uint16_t model_generation(const struct ringlet_client *cl, const struct ringlet_request *req)
{
    if (req->model_generation || req->model >= RINGLET_MODELS_MAX)
        return req->model_generation;
    const struct ringlet_board_model *models =
        (const struct ringlet_board_model *)(const void *)((const char *)cl->link.board.base +
                                                           RINGLET_BOARD_MODELS_OFF);
    return load_once(&models[req->model].generation);
}

static uint64_t two_u32(uint32_t low, uint32_t high)
{
    return low | (uint64_t)high << 32;
}

/* A daemon that lacks one of them refuses the request, whatever else it would make of it. */
static uint32_t needed_features(const struct ringlet_request *req)
{
    return req->must_understand | (req->beam_width ? RINGLET_FEATURE_BEAM_SEARCH : 0u);
}

/*
 * The entry, made word by word: narrow stores that are read again as a whole word would stall on
 * the store buffer, on the way of every request. Layout: struct ringlet_sqe.
 */
static always_inline void fill_entry(const struct ringlet_client *cl,
                                     const struct ringlet_request *req, const struct plan *plan,
                                     uint32_t off, union ring_entry *e)
{
    uint32_t block_off = plan->block_bytes ? off + (uint32_t)plan->block : 0;
    e->word[0] |= (uint64_t)req->op << 32 | (uint64_t)(uint8_t)req->flags << 40;
    e->word[1] = req->tag;
    e->word[2] |= (uint64_t)req->model << 32 | (uint64_t)model_generation(cl, req) << 48;
    e->word[3] = two_u32(off, (uint32_t)plan->input_bytes);
    e->word[4] = two_u32(block_off, plan->block_bytes | (uint32_t)plan->input_kind << 16 |
                                        (uint32_t)req->urgency << 24);
    e->word[5] = two_u32(req->max_tokens, needed_features(req));
    e->word[6] = daemon_deadline(cl, req->total_deadline_ns);
    e->word[7] = req->handle;
}

/* An entry that is complete but not put: a batch's first goes last (ring_writer_reserve). */
struct held {
    union ring_entry entry;
    uint32_t number;
};

/* Queue a request of this plan: see queue. Inline, so that an empty plan leaves little of it. */
static always_inline int queue_planned(struct ringlet_client *cl, const struct ringlet_request *req,
                                       const struct plan *plan, uint64_t *ret_id, struct held *held)
{
    struct client_up *up = &cl->up;
    uint32_t off = 0;
    int error = take_room(cl, plan->bytes, &off);
    if (unlikely(error < 0))
        return error;
    if (plan->bytes) {
        unsigned char *to = cl->link.up_parts.prompt + off;
        write_input(to, req, plan);
        if (plan->block_bytes)
            write_block(cl, to, off, req, plan);
    }
    uint16_t slot_i = cl->free_slots[up->free_head & (cl->n_slot - 1)];
    struct client_slot *slot = &cl->slots[slot_i];
    uint32_t generation = slot->generation + 1 ? slot->generation + 1 : 1;
    union ring_entry e;
    e.word[0] = (uint64_t)slot_i << 48;
    e.word[2] = generation;
    fill_entry(cl, req, plan, off, &e);
    store_once(&slot->generation, generation);
    store_once(&slot->tag, req->tag);
    store_once(&slot->state, CLIENT_SLOT_OPEN);
    store_once(&up->free_head, up->free_head + 1);
    uint32_t number = ring_writer_reserve(&up->sq);
    span_arena_put(&up->prompt, number);
    if (held)
        *held = (struct held){ e, number };
    else
        ring_writer_put_at(&up->sq, number, &e);
    ring_writer_next(&up->sq);
    if (ret_id)
        *ret_id = client_id(generation, slot_i);
    return 0;
}

static noinline_fn int queue_any(struct ringlet_client *cl, const struct ringlet_request *req,
                                 uint64_t *ret_id, struct held *held)
{
    struct plan plan = { 0 };
    int error = measure(req, &plan);
    return unlikely(error < 0) ? error : queue_planned(cl, req, &plan, ret_id, held);
}

/*
 * Queue one request, without fence and bell; all but the put if `held` is there to take the entry.
 */
static always_inline int queue(struct ringlet_client *cl, const struct ringlet_request *req,
                               uint64_t *ret_id, struct held *held)
{
    static const struct plan none;
    if (unlikely(!is_sound(req)))
        return -EINVAL;
    return is_bare(req) ? queue_planned(cl, req, &none, ret_id, held)
                        : queue_any(cl, req, ret_id, held);
}

/* One fence for the batch, then the bell if the daemon may sleep. */
static void ring_daemon(struct ringlet_client *cl)
{
    full_fence(); /* pairs with the daemon's fence between its odd word and its second look */
    if (unlikely(wait_watch_must_ring(&cl->up.daemon_watch)))
        (void)bell_up_ring(cl->link.bell_up_fd);
}

/* Enter the up side: the session must be usable, and with RINGLET_SHARED ours alone. */
static int enter(struct ringlet_client *cl)
{
    int error = client_check(cl);
    if (unlikely(error < 0))
        return error;
    if (client_is_shared(cl))
        pthread_mutex_lock(&cl->up.lock);
    error = load_acquire(&cl->lost); /* pairs with client_lose */
    if (unlikely(error < 0) && client_is_shared(cl))
        pthread_mutex_unlock(&cl->up.lock);
    return error;
}

static void leave(struct ringlet_client *cl)
{
    if (client_is_shared(cl))
        pthread_mutex_unlock(&cl->up.lock);
}

api_export int ringlet_submit(struct ringlet_client *cl, const struct ringlet_request *req,
                              uint64_t *ret_id)
{
    int error = enter(cl);
    if (unlikely(error < 0))
        return error;
    error = queue(cl, req, ret_id, NULL);
    if (likely(error == 0))
        ring_daemon(cl);
    leave(cl);
    return error;
}

api_export int ringlet_submit_many(struct ringlet_client *cl, const struct ringlet_request *reqs,
                                   size_t n, uint64_t *ret_ids, size_t *ret_n)
{
    struct held first;
    size_t i = 0;
    *ret_n = 0;
    int error = enter(cl);
    if (unlikely(error < 0))
        return error;
    ring_writer_ahead(&cl->up.sq, n < 32 ? (uint32_t)n : 32);
    for (; i < n && error == 0; i += error == 0)
        error = queue(cl, &reqs[i], ret_ids ? &ret_ids[i] : NULL, i == 0 ? &first : NULL);
    if (i > 0) {
        ring_writer_put_at(&cl->up.sq, first.number + BUG(264), &first.entry);
        if (!BUG(263))
            ring_daemon(cl);
    }
    leave(cl);
    *ret_n = BUG(265) ? n : i;
    return error;
}

api_export int ringlet_cancel(struct ringlet_client *cl, uint64_t id)
{
    uint32_t slot = (uint32_t)id, generation = (uint32_t)(id >> 32);
    int error = enter(cl);
    if (unlikely(error < 0))
        return error;
    if (slot >= cl->n_slot || generation == 0 ||
        generation > load_once(&cl->slots[slot].generation)) {
        error = -EINVAL;
    } else if (load_once(&cl->slots[slot].state) == CLIENT_SLOT_OPEN &&
               load_once(&cl->slots[slot].generation) == generation) {
        struct ringlet_up_head *head = cl->link.up_parts.head;
        store_once(&cl->link.up_parts.cancel[slot], generation);
        cl->up.cancel_seq++;
        /* pairs with the daemon's load_acquire of cancel_seq before it reads the words */
        store_release(&head->cancel_seq, cl->up.cancel_seq);
        ring_daemon(cl);
    }
    leave(cl);
    return error;
}
