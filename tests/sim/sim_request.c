/* What an honest client asks for, and what it must then get or be refused for. */
#include <string.h>

#include "base/compiler.h"
#include "daemon/base/clock.h"
#include "tests/sim/sim_serve.h"

static void draw_input(struct client *c, struct want *w)
{
    struct prng *p = &c->prng;
    struct sim *sim = c->sim;
    uint32_t context = (uint32_t)sim->context[w->request.model];
    uint32_t most = client_chance(c, 90) ? context / 2 : context + 2;
    uint32_t n = prng_between(p, client_chance(c, 3) ? 0 : 1, max_of(most, 1u));
    uint32_t n_stream = min_of(n, prng_below(p, SIM_CONTEXT));
    int32_t *at = w->prompt + w->request.n_prompt;
    memcpy(at, sim->stream, n_stream * sizeof(*at));
    for (uint32_t i = n_stream; i < n; i++)
        at[i] = sim->alphabet[prng_below(p, sim->n_alphabet)];
    w->request.n_prompt += n;
}

/* The same ids as text: none of them is a control token then. */
static void as_text(struct want *w, uint32_t from, char *text)
{
    for (uint32_t i = from; i < w->request.n_prompt; i++) {
        w->prompt[i] = w->prompt[i] < 128 ? w->prompt[i] : 'z';
        text[i - from] = (char)w->prompt[i];
    }
    w->ask.text = text;
    w->ask.text_bytes = w->request.n_prompt - from;
}

/* As a chat of one message; the template adds role and mark. */
static void as_chat(struct want *w, uint32_t from, char *text, struct ringlet_message *message)
{
    uint32_t n = min_of(w->request.n_prompt - from, (uint32_t)SIM_CONTEXT);
    int32_t *to = w->prompt + from;
    as_text(w, from, text);
    w->ask.text = NULL;
    w->ask.text_bytes = 0;
    memmove(to + 5, to, n * sizeof(*to));
    for (uint32_t i = 0; i < 5; i++)
        to[i] = "user:"[i];
    to[5 + n] = 257;
    w->request.n_prompt = from + n + 6;
    *message = (struct ringlet_message){ .role = RINGLET_ROLE_USER, .text = text, .bytes = n };
    w->ask.messages = message;
    w->ask.n_message = 1;
    w->chat = true;
}

static void draw_stops(struct client *c, struct want *w)
{
    struct prng *p = &c->prng;
    const struct sim *sim = c->sim;
    w->ask.n_stop = prng_between(p, 1, SIM_STOPS);
    for (uint32_t i = 0; i < w->ask.n_stop; i++) {
        uint32_t n = prng_between(p, 1, 4);
        for (uint32_t k = 0; k < n; k++) {
            int32_t id = sim->alphabet[prng_below(p, sim->n_alphabet)];
            w->stop[i][k] = (char)(id < 128 ? id : 'a');
        }
        w->stops[i] = (struct ringlet_text){ w->stop[i], n };
    }
    w->ask.stop = w->stops;
    if (client_chance(c, 30))
        w->ask.options |= RINGLET_BLOCK_INCLUDE_STOP;
}

char request_long_byte(const struct want *w, uint32_t i)
{
    static const char mark[] = "<eos>";
    return i % 97 < 5 ? mark[i % 97] : (char)('a' + (w->tag * 31 + i * i) % 7);
}

/* A text for the encoder thread, and long enough to be copied in several bites. */
static void draw_long(struct client *c, struct want *w, char *text)
{
    uint32_t most = c->sim->chances.long_max;
    w->n_long = prng_between(&c->prng, client_chance(c, 50) ? most / 2 : 1100, most);
    for (uint32_t i = 0; i < w->n_long; i++)
        text[i] = request_long_byte(w, i);
    w->request.n_prompt = w->n_long;
    w->ask.text = text;
    w->ask.text_bytes = w->n_long;
}

static void draw_lists(struct client *c, struct want *w)
{
    struct prng *p = &c->prng;
    const struct sim *sim = c->sim;
    w->ask.n_stop_token_id = prng_below(p, SIM_LISTS + 1);
    for (uint32_t i = 0; i < w->ask.n_stop_token_id; i++)
        w->stop_ids[i] = (uint32_t)sim->alphabet[prng_below(p, sim->n_alphabet)];
    w->ask.stop_token_ids = w->stop_ids;
    w->ask.n_logit_bias = prng_below(p, SIM_LISTS + 1);
    for (uint32_t i = 0; i < w->ask.n_logit_bias; i++) {
        w->bias[i] = (struct ringlet_logit_bias){ prng_below(p, 258), 0.25f };
        w->bias_seen[i] = (struct request_bias){ (int32_t)w->bias[i].id, 0.25f };
    }
    w->ask.logit_bias = w->bias;
    if (client_chance(c, 50))
        w->ask.min_tokens = prng_below(p, 20);
    if (client_chance(c, 30)) {
        w->ask.repetition_min = (uint8_t)prng_between(p, 1, 2);
        w->ask.repetition_max = (uint8_t)prng_between(p, w->ask.repetition_min, 3);
        w->ask.repetition_count = (uint8_t)prng_between(p, 2, 3);
    }
}

/* A beam search instead: without what it refuses. */
static void draw_beams(struct client *c, struct ringlet_request *ask)
{
    static const float penalties[] = { 0, 1, 0.5f, 2, -1 };
    struct prng *p = &c->prng;
    ask->beam_width = (uint16_t)prng_between(p, 1, SIM_SEQS);
    ask->n = prng_between(p, 1, ask->beam_width);
    ask->early_stopping = (uint8_t)prng_below(p, 3);
    ask->length_penalty_set = 1;
    ask->length_penalty = penalties[prng_below(p, ARRAY_SIZE(penalties))];
    ask->max_tokens = min_of(ask->max_tokens, 50u);
    ask->logprobs = RINGLET_UNSET;
    ask->top_p = ask->presence_penalty = ask->repetition_penalty = RINGLET_UNSET_FLOAT;
    ask->n_stop = 0;
    ask->repetition_count = 0;
}

static void draw_options(struct client *c, struct want *w)
{
    struct prng *p = &c->prng;
    const struct sim_chances *chances = &c->sim->chances;
    struct ringlet_request *ask = &w->ask;
    ask->max_tokens = client_chance(c, 5)    ? RINGLET_UNSET
                      : client_chance(c, 5)  ? 0
                      : client_chance(c, 80) ? prng_between(p, 1, 40)
                                             : prng_between(p, 1, 300);
    ask->urgency = client_chance(c, 70) ? 128 : (uint8_t)prng_below(p, 256);
    if (client_chance(c, 50))
        ask->seed = prng_next(p) >> 1;
    if (client_chance(c, 30))
        ask->top_p = (float)prng_between(p, 1, 10) / 10;
    if (client_chance(c, chances->forks))
        ask->n = prng_between(p, 1, SIM_SEQS);
    if (client_chance(c, chances->scores))
        ask->logprobs = prng_below(p, 21);
    if (client_chance(c, chances->scores))
        ask->prompt_logprobs = prng_below(p, 21);
    if (client_chance(c, chances->penalties))
        ask->presence_penalty = 0.5f;
    if (client_chance(c, chances->penalties))
        ask->repetition_penalty = 1.5f;
    if (client_chance(c, chances->lists))
        draw_lists(c, w);
    if (client_chance(c, chances->stops))
        draw_stops(c, w);
    ask->options |= (client_chance(c, 20) ? RINGLET_BLOCK_IGNORE_EOS : 0u) |
                    (client_chance(c, 20) ? RINGLET_BLOCK_DETERMINISTIC : 0u);
    ask->flags |= (client_chance(c, 15) ? RINGLET_SQE_NO_TEXT : 0u) |
                  (client_chance(c, chances->holds) ? RINGLET_SQE_HOLD : 0u);
    if (client_chance(c, chances->deadline))
        ask->total_deadline_ns = os.now_ns + prng_below(p, 20 * NS_PER_MS);
    if (client_chance(c, chances->deadline))
        ask->queue_deadline_ns = os.now_ns + 1 + prng_below(p, 5 * NS_PER_MS);
    if (client_chance(c, chances->deadline))
        ask->first_token_deadline_ns = os.now_ns + 1 + prng_below(p, 10 * NS_PER_MS);
    if (client_chance(c, chances->beams))
        draw_beams(c, ask);
}

static float or_default(float value, float normal)
{
    return value == RINGLET_UNSET_FLOAT ? normal : value;
}

static uint32_t or_u32(uint32_t value, uint32_t normal)
{
    return value == RINGLET_UNSET ? normal : value;
}

/* The effective parameters, and which refusals are right. */
static void predict(struct client *c, struct want *w)
{
    struct sim *sim = c->sim;
    const struct ringlet_request *ask = &w->ask;
    const struct request_params *normal = &sim->defaults[ask->model];
    uint32_t context = (uint32_t)sim->context[ask->model];
    struct request *r = &w->request;
    r->params = (struct request_params){
        .temperature = or_default(ask->temperature, normal->temperature),
        .top_p = or_default(ask->top_p, normal->top_p),
        .min_p = or_default(ask->min_p, normal->min_p),
        .presence = or_default(ask->presence_penalty, 0),
        .frequency = or_default(ask->frequency_penalty, 0),
        .repetition = or_default(ask->repetition_penalty, normal->repetition),
        .top_k = or_u32(ask->top_k, normal->top_k),
        .min_tokens = or_u32(ask->min_tokens, 0),
        .seed = ask->seed,
        .n = (uint16_t)or_u32(ask->n, 1),
        .logprobs = ask->logprobs != RINGLET_UNSET,
        .logprobs_k = (uint8_t)or_u32(ask->logprobs, 0),
        .prompt_logprobs = ask->prompt_logprobs != RINGLET_UNSET,
        .prompt_logprobs_k = (uint8_t)or_u32(ask->prompt_logprobs, 0),
        .ignore_eos = ask->options & RINGLET_BLOCK_IGNORE_EOS,
        .deterministic = ask->options & RINGLET_BLOCK_DETERMINISTIC,
        .hold = ask->flags & RINGLET_SQE_HOLD,
        .no_text = ask->flags & RINGLET_SQE_NO_TEXT,
    };
    r->params.max_tokens = ask->max_tokens;
    r->n_seq = r->params.n;
    uint32_t room = w->op == RINGLET_OP_GENERATE && ask->max_tokens > 0;
    uint32_t n_block = (r->n_prompt + 15) / 16;
    bool runs = w->op == RINGLET_OP_GENERATE || w->op == RINGLET_OP_LEASE;
    if (r->n_prompt == 0 && w->op != RINGLET_OP_TOKENIZE)
        w->may_error |= 1u << RINGLET_ERROR_BAD_FIELD;
    if (r->n_prompt + room > context && (w->op != RINGLET_OP_TOKENIZE || w->chat))
        w->may_error |= 1u << RINGLET_ERROR_TOO_LONG;
    if (runs && n_block > (uint32_t)sim->kv_blocks[ask->model])
        w->may_error |= 1u << RINGLET_ERROR_TOO_BIG;
    if (ask->beam_width)
        expect_beams(c, w);
    w->must_error = runs && w->may_error != 0;
    bool may_be_capped = ask->beam_width > 2 && c->process.uid == 1; /* see sim_daemon.c */
    if (sim->tiny || w->op == RINGLET_OP_LEASE || may_be_capped)
        w->may_error |= 1u << RINGLET_ERROR_OVER_QUOTA;
}

static void draw_handle(struct client *c, struct want *w)
{
    struct sim_handle *h = &c->handle[prng_below(&c->prng, c->n_handle)];
    w->ask.handle = h->handle;
    w->ask.model = w->request.model = h->model;
    memcpy(w->prompt, h->ids, min_of(h->n, (uint32_t)SIM_CONTEXT) * sizeof(int32_t));
    w->request.n_prompt = min_of(h->n, (uint32_t)SIM_CONTEXT);
    w->sure_ns = h->sure_ns;
    if (h->expires_ns)
        w->may_error |= 1u << RINGLET_ERROR_NO_HANDLE;
}

/* The cache of a group, of one that is another's, or of one that there is not. */
static void draw_group(struct client *c, struct want *w)
{
    uint32_t i = prng_below(&c->prng, SIM_GROUPS);
    w->ask.group = sim_groups[i];
    w->ask.group_bytes = strlen(sim_groups[i]) - client_chance(c, 5);
    w->group = i + 1;
    bool is_there = w->ask.group_bytes == strlen(sim_groups[i]);
    if (is_there && c->sim->groups[c->process.uid] >> i & 1)
        return;
    w->may_error |= 1u << RINGLET_ERROR_BAD_FIELD;
    w->must_error = true;
}

void request_renew(struct client *c, struct want *w, struct sim_handle *h)
{
    memset(w, 0, offsetof(struct want, prompt));
    ringlet_request_init(&w->ask);
    w->op = w->ask.op = RINGLET_OP_LEASE;
    w->tag = w->ask.tag = ++c->next_tag;
    w->ask.handle = h->handle;
    w->ask.lease_ns = 1 + prng_below(&c->prng, client_chance(c, 50) ? 50000000 : 1000000000);
    w->asked_ns = os.now_ns;
    w->sure_ns = h->sure_ns;
    w->may_error = 1u << RINGLET_ERROR_NO_HANDLE;
    w->must_error = h->expires_ns == 0;
    h->sure_ns = min_of(h->sure_ns, w->asked_ns + w->ask.lease_ns);
    h->renewing = true;
    request_link(w);
}

void request_link(struct want *w)
{
    w->request.prompt = w->prompt;
    w->request.stop_ids = (const int32_t *)w->stop_ids;
    w->request.n_stop_id = (uint32_t)w->ask.n_stop_token_id;
    w->request.bias = w->bias_seen;
    w->request.n_bias = (uint32_t)w->ask.n_logit_bias;
    for (uint32_t i = 0; i < SIM_SEQS; i++) {
        w->seq[i] = (struct sequence){ .request = &w->request,
                                       .index = i,
                                       .pool_index = EXEC_TRUTH_SEQUENCE,
                                       .output = w->out[i] };
        w->request.seq[i] = &w->seq[i];
    }
}

void request_draw(struct client *c, struct want *w, bool may_be_long, char *text,
                  struct ringlet_message *message)
{
    struct prng *p = &c->prng;
    const struct sim_chances *chances = &c->sim->chances;
    memset(w, 0, offsetof(struct want, prompt));
    memset(w->ended, 0, sizeof(w->ended));
    memset(w->n_text, 0, sizeof(w->n_text));
    ringlet_request_init(&w->ask);
    bool is_long = may_be_long && client_chance(c, chances->longs);
    w->op = w->ask.op = is_long                ? RINGLET_OP_TOKENIZE
                        : client_chance(c, 85) ? RINGLET_OP_GENERATE
                        : client_chance(c, 30) ? RINGLET_OP_NOP
                        : client_chance(c, 30) ? RINGLET_OP_QUERY
                        : client_chance(c, 50) ? RINGLET_OP_TOKENIZE
                                               : RINGLET_OP_LEASE;
    w->tag = w->ask.tag = ++c->next_tag;
    w->ask.model = w->request.model = (uint16_t)prng_below(p, c->sim->n_model);
    uint32_t from = 0;
    if (w->op == RINGLET_OP_GENERATE && c->n_handle && client_chance(c, chances->holds)) {
        draw_handle(c, w);
        from = w->request.n_prompt;
    }
    if (is_long)
        draw_long(c, w, text);
    else if (w->op != RINGLET_OP_NOP && !(from && client_chance(c, 10)))
        draw_input(c, w);
    if (w->op == RINGLET_OP_LEASE)
        w->ask.lease_ns = 1 + prng_below(p, (client_chance(c, 70) ? 50 : 500) * NS_PER_MS);
    else if (w->op == RINGLET_OP_GENERATE)
        draw_options(c, w);
    bool none = w->request.n_prompt == from && from;
    if (w->op == RINGLET_OP_NOP || none || w->n_long) {
    } else if (client_chance(c, chances->chats)) {
        as_chat(w, from, text, message);
        w->may_error |= from ? 1u << RINGLET_ERROR_NO_HANDLE : 0u;
    } else if (w->op == RINGLET_OP_TOKENIZE || client_chance(c, 40)) {
        as_text(w, from, text);
    } else {
        w->ask.tokens = (const uint32_t *)(w->prompt + from);
        w->ask.n_token = w->request.n_prompt - from;
    }
    uint32_t may_error = w->may_error;
    w->may_error = 0;
    predict(c, w);
    w->may_error |= may_error;
    if (w->op == RINGLET_OP_NOP)
        w->may_error = w->must_error = 0;
    else if (w->op != RINGLET_OP_TOKENIZE && client_chance(c, chances->groups))
        draw_group(c, w);
    w->asked_ns = os.now_ns;
    request_link(w);
}
