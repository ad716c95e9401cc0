/* Tables of ranges over the wire structs. No state, no clock, no system call. */
#include "daemon/session/validate.h"

#include <string.h>

#include "base/bits.h"
#include "base/compiler.h"
#include "daemon/base/limits.h"

enum number_type { NUMBER_F32, NUMBER_U32, NUMBER_U16, NUMBER_U8 };

/* A number of the block: where it is, which bit sets it, which values it may have. */
struct range {
    uint16_t off;
    uint8_t type;
    bool min_open; /* the lowest value itself is refused */
    uint32_t set;
    double min, max;
};

#define RANGE(field, type, bit, open, min, max)                                                    \
    {                                                                                              \
        offsetof(struct ringlet_block, field), type, open, bit, min, max                           \
    }

static const struct range ranges[] = {
    RANGE(temperature, NUMBER_F32, RINGLET_SET_TEMPERATURE, false, 0, 2),
    RANGE(top_p, NUMBER_F32, RINGLET_SET_TOP_P, true, 0, 1),
    RANGE(min_p, NUMBER_F32, RINGLET_SET_MIN_P, false, 0, 1),
    RANGE(top_k, NUMBER_U32, RINGLET_SET_TOP_K, false, 0, INT32_MAX),
    RANGE(presence_penalty, NUMBER_F32, RINGLET_SET_PRESENCE_PENALTY, false, -2, 2),
    RANGE(frequency_penalty, NUMBER_F32, RINGLET_SET_FREQUENCY_PENALTY, false, -2, 2),
    RANGE(repetition_penalty, NUMBER_F32, RINGLET_SET_REPETITION_PENALTY, true, 0, 2),
    RANGE(min_tokens, NUMBER_U32, RINGLET_SET_MIN_TOKENS, false, 0, INT32_MAX),
    RANGE(n, NUMBER_U16, RINGLET_SET_N, false, 1, RINGLET_N_MAX),
    RANGE(logprobs, NUMBER_U8, RINGLET_SET_LOGPROBS, false, 0, RINGLET_LOGPROBS_MAX),
    RANGE(prompt_logprobs, NUMBER_U8, RINGLET_SET_PROMPT_LOGPROBS, false, 0, RINGLET_LOGPROBS_MAX),
    RANGE(repetition_min, NUMBER_U8, RINGLET_SET_REPETITION_DETECTOR, false, 0, 64),
    RANGE(repetition_max, NUMBER_U8, RINGLET_SET_REPETITION_DETECTOR, false, 0, 64),
    RANGE(repetition_count, NUMBER_U8, RINGLET_SET_REPETITION_DETECTOR, false, 0, 255),
    RANGE(beam_width, NUMBER_U16, RINGLET_SET_BEAM, false, 1, RINGLET_BEAM_WIDTH_MAX),
    RANGE(early_stopping, NUMBER_U8, RINGLET_SET_BEAM, false, 0, RINGLET_EARLY_STOPPING_NEVER),
    RANGE(length_penalty, NUMBER_F32, RINGLET_SET_BEAM, false, -10, 10),
};

static bool refuse(struct validate_fault *fault, uint32_t error, uint32_t field)
{
    *fault = (struct validate_fault){ error, field };
    return false;
}

static double number_at(const struct ringlet_block *block, const struct range *r)
{
    const unsigned char *at = (const unsigned char *)block + r->off;
    float f;
    uint32_t u32;
    uint16_t u16;
    switch (r->type) {
    case NUMBER_F32:
        memcpy(&f, at, sizeof(f));
        return (double)f;
    case NUMBER_U32:
        memcpy(&u32, at, sizeof(u32));
        return u32;
    case NUMBER_U16:
        memcpy(&u16, at, sizeof(u16));
        return u16;
    default:
        return *at;
    }
}

static bool in_range(double x, const struct range *r)
{
    return (r->min_open ? x > r->min : x >= r->min) && x <= r->max;
}

static bool operation_known(uint8_t op)
{
    return op <= RINGLET_OP_TOKENIZE;
}

/* Operations that name a handle and nothing else, or may do so. */
static bool may_lack_input(const struct ringlet_sqe *sqe)
{
    return sqe->op == RINGLET_OP_RELEASE ||
           (sqe->handle && (sqe->op == RINGLET_OP_GENERATE || sqe->op == RINGLET_OP_LEASE));
}

static bool validate_input(const struct ringlet_sqe *sqe, const struct validate_model *model,
                           const struct validate_env *env, struct validate_fault *fault)
{
    uint32_t kind = sqe->input_kind;
    if (kind > RINGLET_INPUT_MESSAGES)
        return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_SQE_FIELD(input_kind));
    if (kind == RINGLET_INPUT_NONE && sqe->input_bytes)
        return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_SQE_FIELD(input_bytes));
    if (kind == RINGLET_INPUT_NONE ? !may_lack_input(sqe) : sqe->op == RINGLET_OP_RELEASE)
        return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_SQE_FIELD(input_kind));
    if (sqe->op == RINGLET_OP_LEASE && sqe->handle && kind != RINGLET_INPUT_NONE)
        return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_SQE_FIELD(handle));
    if ((kind == RINGLET_INPUT_TEXT && !model->has_text) ||
        (kind == RINGLET_INPUT_MESSAGES && !model->has_template))
        return refuse(fault,
                      kind == RINGLET_INPUT_TEXT ? RINGLET_ERROR_BAD_FIELD
                                                 : RINGLET_ERROR_BAD_TEMPLATE,
                      VALIDATE_SQE_FIELD(input_kind));
    if (sqe->input_off % RINGLET_SPAN_ALIGN ||
        !span_inside(sqe->input_off, sqe->input_bytes, env->prompt_bytes))
        return refuse(fault, RINGLET_ERROR_BAD_SPAN, VALIDATE_SQE_FIELD(input_off));
    if (kind == RINGLET_INPUT_TOKENS && sqe->input_bytes % 4)
        return refuse(fault, RINGLET_ERROR_BAD_SPAN, VALIDATE_SQE_FIELD(input_bytes));
    if (sqe->op != RINGLET_OP_TOKENIZE && kind == RINGLET_INPUT_TOKENS) {
        if (sqe->input_bytes == 0 && !sqe->handle)
            return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_SQE_FIELD(input_bytes));
        if (sqe->input_bytes / 4 > model->context)
            return refuse(fault, RINGLET_ERROR_TOO_LONG, VALIDATE_SQE_FIELD(input_bytes));
    }
    if (kind == RINGLET_INPUT_MESSAGES && sqe->input_bytes == 0)
        return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_SQE_FIELD(input_bytes));
    return true;
}

bool validate_sqe(const struct ringlet_sqe *sqe, const struct validate_env *env,
                  struct validate_fault *fault)
{
    *fault = (struct validate_fault){ 0 };
    if (!operation_known(sqe->op))
        return refuse(fault, RINGLET_ERROR_BAD_OP, VALIDATE_SQE_FIELD(op));
    if (sqe->flags & ~RINGLET_SQE_FLAGS_KNOWN ||
        (sqe->flags & RINGLET_SQE_HOLD && sqe->op != RINGLET_OP_GENERATE))
        return refuse(fault, RINGLET_ERROR_BAD_BIT, VALIDATE_SQE_FIELD(flags));
    if (sqe->must_understand & ~env->features)
        return refuse(fault, RINGLET_ERROR_BAD_BIT, VALIDATE_SQE_FIELD(must_understand));
    if (sqe->op == RINGLET_OP_NOP)
        return true;
    if (env->draining && sqe->op != RINGLET_OP_RELEASE)
        return refuse(fault, RINGLET_ERROR_DRAINING, 0);
    if (sqe->model >= env->n_model || !env->models[index_within(sqe->model, env->n_model)].ready)
        return refuse(fault, RINGLET_ERROR_NO_MODEL, VALIDATE_SQE_FIELD(model));
    const struct validate_model *model = &env->models[index_within(sqe->model, env->n_model)];
    if (sqe->model_generation && sqe->model_generation != model->generation)
        return refuse(fault, RINGLET_ERROR_MODEL_CHANGED, VALIDATE_SQE_FIELD(model_generation));
    bool takes_handle = sqe->op == RINGLET_OP_GENERATE || sqe->op == RINGLET_OP_LEASE ||
                        sqe->op == RINGLET_OP_RELEASE;
    if (sqe->handle ? !takes_handle : sqe->op == RINGLET_OP_RELEASE)
        return refuse(fault, RINGLET_ERROR_NO_HANDLE, VALIDATE_SQE_FIELD(handle));
    if (!validate_input(sqe, model, env, fault))
        return false;
    if (sqe->block_bytes == 0)
        return true;
    if (sqe->block_bytes != RINGLET_BLOCK_BYTES && sqe->block_bytes != RINGLET_BLOCK_BYTES_MAX)
        return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_SQE_FIELD(block_bytes));
    if (sqe->block_off % RINGLET_SPAN_ALIGN ||
        !span_inside(sqe->block_off, sqe->block_bytes, env->prompt_bytes))
        return refuse(fault, RINGLET_ERROR_BAD_SPAN, VALIDATE_SQE_FIELD(block_off));
    return true;
}

/* A list of the block: span inside the arena, aligned, of whole records, not too many of them. */
struct list_rule {
    uint16_t off;
    uint32_t set;
    uint32_t align, record_bytes, bytes_max;
};

static const struct list_rule list_rules[] = {
    { offsetof(struct ringlet_block, stop), RINGLET_SET_STOP, 4, 4,
      RINGLET_STOP_STRINGS_MAX *(4 + RINGLET_STOP_BYTES_MAX) },
    { offsetof(struct ringlet_block, stop_token_ids), RINGLET_SET_STOP_TOKEN_IDS, 4, 4,
      RINGLET_STOP_IDS_MAX * 4 },
    { offsetof(struct ringlet_block, logit_bias), RINGLET_SET_LOGIT_BIAS, 4, 8,
      RINGLET_LOGIT_BIAS_MAX * 8 },
    { offsetof(struct ringlet_block, group), RINGLET_SET_GROUP, 4, 1, RINGLET_GROUP_BYTES_MAX },
};

static bool validate_lists(const struct ringlet_block *block, const struct validate_env *env,
                           struct validate_fault *fault)
{
    for (size_t i = 0; i < ARRAY_SIZE(list_rules); i++) {
        const struct list_rule *rule = &list_rules[i];
        struct ringlet_span span;
        memcpy(&span, (const unsigned char *)block + rule->off, sizeof(span));
        if (!(block->set & rule->set)) {
            if (span.offset || span.bytes)
                return refuse(fault, RINGLET_ERROR_BAD_FIELD, 64u + rule->off);
            continue;
        }
        if (span.offset % rule->align || !span_inside(span.offset, span.bytes, env->prompt_bytes))
            return refuse(fault, RINGLET_ERROR_BAD_SPAN, 64u + rule->off);
        if (span.bytes % rule->record_bytes || span.bytes > rule->bytes_max)
            return refuse(fault, RINGLET_ERROR_BAD_FIELD, 64u + rule->off);
    }
    return true;
}

/* What ABI 1.0 names but this daemon cannot do yet is refused, never ignored. */
static bool validate_unsupported(const struct ringlet_block *block, struct validate_fault *fault)
{
    if (block->structure_kind > RINGLET_STRUCTURE_GRAMMAR)
        return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_BLOCK_FIELD(structure_kind));
    if (block->structure_kind || block->structure.offset || block->structure.bytes)
        return refuse(fault, RINGLET_ERROR_BAD_GRAMMAR, VALIDATE_BLOCK_FIELD(structure_kind));
    if (block->set & RINGLET_SET_LEASE ? block->lease_ns == 0 || block->lease_ns > LIMIT_LEASE_NS
                                       : block->lease_ns != 0)
        return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_BLOCK_FIELD(lease_ns));
    if (block->reserved)
        return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_BLOCK_FIELD(reserved));
    if (block->reserved1)
        return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_BLOCK_FIELD(reserved1));
    for (size_t i = 0; i < ARRAY_SIZE(block->reserved2); i++) {
        if (block->reserved2[i])
            return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_BLOCK_FIELD(reserved2));
    }
    return true;
}

/*
 * A beam search draws nothing: what shapes a draw is refused where it is set to anything but
 * nothing, and the model's own defaults for it are left out.
 */
static bool validate_beams(const struct ringlet_sqe *sqe, const struct ringlet_block *block,
                           struct request_params *p, struct validate_fault *fault)
{
    static const struct {
        uint32_t set;
        uint16_t field;
        double neutral;
    } draws[] = {
#define DRAW(bit, name, neutral)                                                                   \
    { RINGLET_SET_##bit, offsetof(struct ringlet_block, name), neutral }
        DRAW(TEMPERATURE, temperature, 0),
        DRAW(TOP_P, top_p, 1),
        DRAW(MIN_P, min_p, 0),
        DRAW(TOP_K, top_k, 0),
        DRAW(PRESENCE_PENALTY, presence_penalty, 0),
        DRAW(FREQUENCY_PENALTY, frequency_penalty, 0),
        DRAW(REPETITION_PENALTY, repetition_penalty, 1),
        DRAW(REPETITION_DETECTOR, repetition_count, 0),
#undef DRAW
    };
    if (sqe->op != RINGLET_OP_GENERATE)
        return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_BLOCK_FIELD(beam_width));
    if (p->n > p->beam_width)
        return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_BLOCK_FIELD(n));
    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
        for (size_t k = 0; k < ARRAY_SIZE(draws); k++) {
            if (ranges[i].off == draws[k].field && block->set & draws[k].set &&
                number_at(block, &ranges[i]) != draws[k].neutral)
                return refuse(fault, RINGLET_ERROR_BAD_FIELD, 64u + draws[k].field);
        }
    }
    if (block->stop.bytes) /* text is made when the search is over */
        return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_BLOCK_FIELD(stop));
    if (p->logprobs_k && (block->logit_bias.bytes || p->min_tokens)) /* the best are not natural */
        return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_BLOCK_FIELD(logprobs));
    p->temperature = p->min_p = p->presence = p->frequency = 0;
    p->top_p = p->repetition = 1;
    p->top_k = 0;
    p->repeat_count = 0;
    return true;
}

static void params_from_sqe(const struct ringlet_sqe *sqe, struct request_params *p)
{
    p->urgency = sqe->urgency;
    p->max_tokens = sqe->max_tokens;
    p->total_deadline_ns = sqe->total_deadline_ns;
    p->no_text = sqe->flags & RINGLET_SQE_NO_TEXT;
    p->hold = sqe->flags & RINGLET_SQE_HOLD;
}

static void params_from_block(const struct ringlet_block *b, struct request_params *p)
{
#define TAKE(bit, to, from)                                                                        \
    do {                                                                                           \
        if (b->set & (bit))                                                                        \
            p->to = b->from;                                                                       \
    } while (0)
    TAKE(RINGLET_SET_SEED, seed, seed);
    TAKE(RINGLET_SET_TEMPERATURE, temperature, temperature);
    TAKE(RINGLET_SET_TOP_P, top_p, top_p);
    TAKE(RINGLET_SET_MIN_P, min_p, min_p);
    TAKE(RINGLET_SET_TOP_K, top_k, top_k);
    TAKE(RINGLET_SET_PRESENCE_PENALTY, presence, presence_penalty);
    TAKE(RINGLET_SET_FREQUENCY_PENALTY, frequency, frequency_penalty);
    TAKE(RINGLET_SET_REPETITION_PENALTY, repetition, repetition_penalty);
    TAKE(RINGLET_SET_MIN_TOKENS, min_tokens, min_tokens);
    TAKE(RINGLET_SET_N, n, n);
    TAKE(RINGLET_SET_LOGPROBS, logprobs_k, logprobs);
    TAKE(RINGLET_SET_PROMPT_LOGPROBS, prompt_logprobs_k, prompt_logprobs);
    TAKE(RINGLET_SET_QUEUE_DEADLINE, queue_deadline_ns, queue_deadline_ns);
    TAKE(RINGLET_SET_FIRST_TOKEN_DEADLINE, first_token_deadline_ns, first_token_deadline_ns);
    TAKE(RINGLET_SET_LEASE, lease_ns, lease_ns);
    TAKE(RINGLET_SET_REPETITION_DETECTOR, repeat_min, repetition_min);
    TAKE(RINGLET_SET_REPETITION_DETECTOR, repeat_max, repetition_max);
    TAKE(RINGLET_SET_REPETITION_DETECTOR, repeat_count, repetition_count);
    TAKE(RINGLET_SET_BEAM, beam_width, beam_width);
    TAKE(RINGLET_SET_BEAM, early_stopping, early_stopping);
    TAKE(RINGLET_SET_BEAM, length_penalty, length_penalty);
#undef TAKE
    if (b->set & RINGLET_SET_FLAGS) {
        p->ignore_eos = b->flags & RINGLET_BLOCK_IGNORE_EOS;
        p->logprobs = b->flags & RINGLET_BLOCK_LOGPROBS;
        p->prompt_logprobs = b->flags & RINGLET_BLOCK_PROMPT_LOGPROBS;
        p->include_stop = b->flags & RINGLET_BLOCK_INCLUDE_STOP;
        p->deterministic = b->flags & RINGLET_BLOCK_DETERMINISTIC;
    }
    p->logprobs |= (b->set & RINGLET_SET_LOGPROBS) != 0;
    p->prompt_logprobs |= (b->set & RINGLET_SET_PROMPT_LOGPROBS) != 0;
}

void validate_no_block(const struct ringlet_sqe *sqe, const struct validate_env *env,
                       struct request_params *ret_params)
{
    *ret_params = env->models[sqe->model].defaults;
    params_from_sqe(sqe, ret_params);
}

bool validate_block(const struct ringlet_sqe *sqe, const struct ringlet_block *block,
                    const struct validate_env *env, struct request_params *ret_params,
                    struct validate_fault *fault)
{
    *fault = (struct validate_fault){ 0 };
    if (block->block_bytes != sqe->block_bytes)
        return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_BLOCK_FIELD(block_bytes));
    bool longer = sqe->block_bytes > RINGLET_BLOCK_BYTES;
    if (block->set & ~(uint32_t)RINGLET_SET_KNOWN || (block->set & RINGLET_SET_BEAM && !longer))
        return refuse(fault, RINGLET_ERROR_BAD_BIT, VALIDATE_BLOCK_FIELD(set));
    if (block->flags & ~(uint32_t)RINGLET_BLOCK_FLAGS_KNOWN)
        return refuse(fault, RINGLET_ERROR_BAD_BIT, VALIDATE_BLOCK_FIELD(flags));
    if (!validate_unsupported(block, fault))
        return false;
    for (size_t i = 0; i < ARRAY_SIZE(ranges); i++) {
        const struct range *r = &ranges[i];
        if (block->set & r->set && !in_range(number_at(block, r), r))
            return refuse(fault, RINGLET_ERROR_BAD_FIELD, 64u + r->off);
    }
    if (!validate_lists(block, env, fault))
        return false;
    struct request_params p;
    validate_no_block(sqe, env, &p);
    params_from_block(block, &p);
    if (p.beam_width > 0 && !validate_beams(sqe, block, &p, fault))
        return false;
    if (p.temperature == 0 && p.n != 1 && p.beam_width == 0) /* n equal answers */
        return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_BLOCK_FIELD(n));
    if (p.repeat_count && (p.repeat_min == 0 || p.repeat_min > p.repeat_max || p.repeat_count < 2))
        return refuse(fault, RINGLET_ERROR_BAD_FIELD, VALIDATE_BLOCK_FIELD(repetition_min));
    /* Smaller divisors take logits to infinity, where tokens are no longer told apart. */
    if (p.temperature > 0)
        p.temperature = max_of(p.temperature, VALIDATE_DIVISOR_MIN);
    p.repetition = max_of(p.repetition, VALIDATE_DIVISOR_MIN);
    *ret_params = p;
    return true;
}

bool validate_stops(const void *bytes, uint32_t n_byte, struct validate_fault *fault)
{
    const uint32_t field = VALIDATE_BLOCK_FIELD(stop);
    uint32_t n = 0;
    for (uint64_t at = 0; at < n_byte; n++) {
        uint32_t len;
        if (n == RINGLET_STOP_STRINGS_MAX || n_byte - at < sizeof(len))
            return refuse(fault, RINGLET_ERROR_BAD_FIELD, field);
        memcpy(&len, (const char *)bytes + at, sizeof(len));
        at += sizeof(len);
        if (len == 0 || len > RINGLET_STOP_BYTES_MAX || len > n_byte - at)
            return refuse(fault, RINGLET_ERROR_BAD_FIELD, field);
        if (!validate_utf8((const char *)bytes + at, len))
            return refuse(fault, RINGLET_ERROR_BAD_UTF8, field);
        at += align_up(len, 4);
    }
    return true;
}

bool validate_ids(const int32_t *ids, uint32_t n, uint32_t vocab)
{
    uint32_t bad = 0;
    for (uint32_t i = 0; i < n; i++)
        bad |= (uint32_t)ids[i] >= vocab;
    return !bad;
}

bool validate_bias(const struct request_bias *bias, uint32_t n, uint32_t vocab,
                   struct validate_fault *fault)
{
    const uint32_t field = VALIDATE_BLOCK_FIELD(logit_bias);
    for (uint32_t i = 0; i < n; i++) {
        if ((uint32_t)bias[i].id >= vocab)
            return refuse(fault, RINGLET_ERROR_BAD_TOKEN, field);
        if (!(bias[i].bias >= -100.0f && bias[i].bias <= 100.0f))
            return refuse(fault, RINGLET_ERROR_BAD_FIELD, field);
    }
    return true;
}

bool validate_chat(const void *bytes, uint32_t n_byte, struct validate_fault *fault)
{
    const uint32_t field = VALIDATE_SQE_FIELD(input_off);
    uint32_t n = 0;
    for (uint64_t at = 0; at < n_byte; n++) {
        struct ringlet_chat_record r;
        if (n == RINGLET_MESSAGES_MAX || n_byte - at < sizeof(r))
            return refuse(fault, RINGLET_ERROR_BAD_FIELD, field);
        memcpy(&r, (const char *)bytes + at, sizeof(r));
        at += sizeof(r);
        bool message = r.kind == RINGLET_CHAT_MESSAGE;
        if (r.kind > RINGLET_CHAT_ARGUMENTS ||
            (message ? r.role > RINGLET_ROLE_TOOL : r.role != 0) ||
            r.flags & ~RINGLET_CHAT_FLAGS_KNOWN || r.bytes > n_byte - at)
            return refuse(fault, RINGLET_ERROR_BAD_FIELD, field);
        if (!validate_utf8((const char *)bytes + at, r.bytes))
            return refuse(fault, RINGLET_ERROR_BAD_UTF8, field);
        at += align_up(r.bytes, 8);
        if (r.flags & RINGLET_CHAT_CONTINUE && (!message || at < n_byte))
            return refuse(fault, RINGLET_ERROR_BAD_FIELD, field);
    }
    return true;
}

bool validate_utf8(const void *text, size_t bytes)
{
    const unsigned char *p = text, *end = p + bytes;
    while (p < end) {
        if (*p < 0x80) {
            p++;
            continue;
        }
        unsigned n = *p >= 0xF0 ? 4 : *p >= 0xE0 ? 3 : 2;
        unsigned low = *p == 0xE0 ? 0xA0 : *p == 0xF0 ? 0x90 : 0x80;
        unsigned high = *p == 0xED ? 0x9F : *p == 0xF4 ? 0x8F : 0xBF;
        if (*p < 0xC2 || *p > 0xF4 || (size_t)(end - p) < n || p[1] < low || p[1] > high)
            return false;
        for (unsigned i = 2; i < n; i++)
            if ((p[i] & 0xC0) != 0x80)
                return false;
        p += n;
    }
    return true;
}
