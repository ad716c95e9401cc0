/* Honest clients: programs over libringlet that do all it offers, read slowly, and die. */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/compiler.h"
#include "client/client_internal.h"
#include "daemon/base/clock.h"
#include "tests/sim/sim_serve.h"

bool client_chance(struct client *c, uint32_t percent)
{
    return prng_chance(&c->prng, percent);
}

/* ---- A request, and what it must give ---- */

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

char client_long_byte(const struct want *w, uint32_t i)
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
        text[i] = client_long_byte(w, i);
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
    if (h->expires_ns)
        w->may_error |= 1u << RINGLET_ERROR_NO_HANDLE;
}

static void link_up(struct want *w)
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

/* An operation on the rings with its input. */
static void draw_request(struct client *c, struct want *w, char *text,
                         struct ringlet_message *message)
{
    struct prng *p = &c->prng;
    const struct sim_chances *chances = &c->sim->chances;
    memset(w, 0, offsetof(struct want, prompt));
    memset(w->ended, 0, sizeof(w->ended));
    memset(w->n_text, 0, sizeof(w->n_text));
    ringlet_request_init(&w->ask);
    bool is_long = client_chance(c, chances->longs);
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
        w->ask.lease_ns = 1 + prng_below(p, 50 * NS_PER_MS);
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
    link_up(w);
}

static void submit(struct client *c)
{
    static char text[SIM_CLIENTS][SIM_LONG + 8];
    struct ringlet_message message;
    struct want *w = NULL;
    for (uint32_t i = 0; i < SIM_WANTS && !w; i++)
        w = c->want[i].open ? NULL : &c->want[i];
    if (!w)
        return;
    draw_request(c, w, text[c->task_i - 1], &message);
    /* It is open before the library returns: another task may run in between. */
    int error = ringlet_submit(c->cl, &w->ask, &w->id);
    if (error == -EAGAIN || error == -EPIPE || error == -ECONNABORTED)
        return;
    if (error) {
        os_fail("client %d: submit: %s", c->task_i, ringlet_strerror(error));
        return;
    }
    w->open = true;
    c->n_open++;
    c->budget--;
    c->sim->n_request++;
    os_trace(w->id ^ 0x5000);
    os_say("client %d: request %llx tag %llu op %u, %u ids, n %u, max %u\n", c->task_i,
           (unsigned long long)w->id, (unsigned long long)w->tag, w->op, w->request.n_prompt,
           w->request.n_seq, w->ask.max_tokens);
}

static void cancel_some(struct client *c)
{
    struct want *w = &c->want[prng_below(&c->prng, SIM_WANTS)];
    if (!w->id)
        return;
    if (!w->cancelled)
        w->cancel_tick = c->sim->n_tick;
    w->cancelled = true;
    os_say("client %d: cancels %llx\n", c->task_i, (unsigned long long)w->id);
    int error = ringlet_cancel(c->cl, w->id);
    if (error && error != -EPIPE && error != -ECONNABORTED)
        os_fail("client %d: cancel: %s", c->task_i, ringlet_strerror(error));
}

/* RELEASE answers `done` while the handle lives; the world forgets it before. */
static void release_some(struct client *c)
{
    struct want *w = NULL;
    for (uint32_t i = 0; i < SIM_WANTS && !w; i++)
        w = c->want[i].open ? NULL : &c->want[i];
    if (!w || !c->n_handle)
        return;
    uint32_t i = prng_below(&c->prng, c->n_handle);
    struct sim_handle h = c->handle[i];
    memset(w, 0, offsetof(struct want, prompt));
    w->op = RINGLET_OP_RELEASE;
    w->tag = ++c->next_tag;
    if (h.expires_ns)
        w->may_error = 1u << RINGLET_ERROR_NO_HANDLE;
    link_up(w);
    if (ringlet_release(c->cl, h.handle, w->tag, &w->id))
        return;
    c->handle[i] = c->handle[--c->n_handle];
    w->open = true;
    c->n_open++;
    c->sim->n_request++;
}

/* ---- Reading ---- */

static void note_reading(struct client *c, bool empty)
{
    c->slow_ns = max_of(c->slow_ns, os.now_ns - c->last_read_ns);
    if (!empty)
        return;
    c->last_read_ns = os.now_ns;
    for (uint32_t i = 0; i < SIM_WANTS; i++) {
        struct want *w = &c->want[i];
        w->deaf |= w->open && w->cancelled && c->sim->n_tick > w->cancel_tick + 100;
    }
}

/* One event. False: none now, or the session is lost. */
static bool read_one(struct client *c, uint64_t deadline_ns)
{
    struct ringlet_event ev;
    int error = deadline_ns ? ringlet_wait(c->cl, &ev, deadline_ns) : ringlet_peek(c->cl, &ev);
    note_reading(c, error != 0);
    if (error == -EPIPE || error == -ECONNABORTED) {
        c->lost = true;
        return false;
    }
    if (error && error != -EAGAIN && error != -ETIMEDOUT && error != -EINTR)
        os_fail("client %d: reading: %s", c->task_i, ringlet_strerror(error));
    if (error)
        return false;
    for (uint32_t i = 0; i < SIM_WANTS && ev.reason == RINGLET_REASON_DAEMON_LOST; i++)
        c->lost |= c->want[i].open && c->want[i].id == ev.id && !c->want[i].orphan;
    os_say("client %d: event of tag %llu: kind %u, flags %u, reason %u (%u), sequence %d, %u ids\n",
           c->task_i, (unsigned long long)ev.tag, ev.kind, ev.flags, ev.reason, ev.detail,
           (int16_t)ev.index, ev.n_token);
    expect_event(c, &ev);
    ringlet_advance(c->cl);
    return true;
}

static bool bell_rung(void *arg)
{
    struct client *c = arg;
    const struct os_object *pipe = os_fd(ringlet_fd(c->cl), OS_PIPE_READ);
    return !pipe || pipe->bytes || pipe->n_write == 0;
}

/* As a program with an event loop of its own waits. */
static void wait_armed(struct client *c, uint64_t until_ns)
{
    int error = ringlet_arm(c->cl);
    if (error == 0)
        os_block(bell_rung, c, until_ns);
    else if (error != -EALREADY && error != -EPIPE && error != -ECONNABORTED)
        os_fail("client %d: arm: %s", c->task_i, ringlet_strerror(error));
}

static void rest(struct client *c)
{
    struct sim *sim = c->sim;
    uint64_t until = client_chance(c, 50) ? NS_NEVER : os.now_ns + prng_below(&c->prng, 3000000);
    if (!sim->calm && client_chance(c, sim->chances.stall)) {
        os_say("client %d: does not read for a while\n", c->task_i);
        os_pause(prng_below(&c->prng, client_chance(c, 30) ? 100 * NS_PER_MS : NS_PER_MS));
    } else if (c->n_open == 0) {
        os_pause(prng_below(&c->prng,
                            client_chance(c, sim->chances.idle) ? 300 * NS_PER_MS : NS_PER_MS));
    } else if (client_chance(c, 50)) {
        read_one(c, until);
    } else {
        wait_armed(c, until);
    }
}

static void turn(struct client *c)
{
    struct sim *sim = c->sim;
    const struct sim_chances *chances = &sim->chances;
    for (uint32_t n = prng_below(&c->prng, 6); n > 0 && !c->lost; n--)
        if (!read_one(c, 0))
            break;
    while (c->budget && !c->lost && client_chance(c, chances->hurry) && c->n_open < SIM_WANTS &&
           !os.error[0]) {
        uint32_t budget = c->budget;
        submit(c);
        if (budget == c->budget)
            break;
    }
    if (!sim->calm && !c->lost && client_chance(c, chances->cancel))
        cancel_some(c);
    if (!c->lost && client_chance(c, 5))
        release_some(c);
    if (!c->lost && (c->n_open || c->budget))
        rest(c);
}

/* ---- Life ---- */

static bool connect(struct client *c)
{
    struct sim *sim = c->sim;
    struct ringlet_options options;
    ringlet_options_init(&options);
    options.socket_path = "/sim";
    options.n_slot = client_chance(c, 70) ? 16 : 64;
    options.text_bytes = 64 << 10;
    options.prompt_bytes = sim->chances.long_max == SIM_LONG ? 256 << 10 : 64 << 10;
    options.spin_ns = client_chance(c, 80) ? 0 : RINGLET_FOREVER;
    options.heartbeat_ns = RINGLET_FOREVER;
    options.flags = client_chance(c, 10) ? RINGLET_SHARED : 0;
    c->connecting = true;
    c->life = sim->n_life;
    int error = ringlet_connect(&options, &c->cl);
    c->connecting = false;
    if (error == 0)
        return true;
    c->cl = NULL;
    bool fine = error == -ECONNREFUSED || error == -ESHUTDOWN || error == -EPIPE ||
                error == -ETIMEDOUT || error == -EDQUOT || (error == -EAGAIN && sim->tiny) ||
                error == -EAGAIN;
    if (!fine)
        os_fail("client %d: connect: %s", c->task_i, ringlet_strerror(error));
    return false;
}

/* The daemon is gone. True: another one is there, and life goes on. */
static bool outlive(struct client *c)
{
    const struct sim *sim = c->sim;
    bool comes_again = sim->killed && !sim->draining && !sim->returned && client_chance(c, 70);
    if (sim->up && c->life == sim->n_life && !sim->draining)
        os_fail("client %d: dropped by the daemon", c->task_i);
    while (!os.error[0] && c->n_open > 0 && !(comes_again && client_chance(c, 30)))
        if (!read_one(c, 0) && c->n_open)
            os_fail("client %d: the daemon is lost, and %u requests have no end", c->task_i,
                    c->n_open);
    for (int i = 0; i < 50 && comes_again && !os.error[0]; i++) {
        c->connecting = true;
        c->life = sim->n_life;
        int error = ringlet_reconnect(c->cl);
        c->connecting = false;
        if (error) {
            os_pause(prng_below(&c->prng, 2 * NS_PER_MS));
            continue;
        }
        os_say("client %d: connected anew\n", c->task_i);
        c->lost = false;
        c->n_handle = 0;
        c->last_read_ns = os.now_ns;
        for (int k = 0; k < SIM_WANTS; k++)
            c->want[k].orphan |= c->want[k].open;
        return true;
    }
    while (!os.error[0] && c->n_open > 0)
        if (!read_one(c, 0) && c->n_open)
            os_fail("client %d: the daemon is lost, and %u requests have no end", c->task_i,
                    c->n_open);
    return false;
}

static void run(void *arg)
{
    struct client *c = arg;
    if (!connect(c))
        return;
    c->last_read_ns = os.now_ns;
    do {
        while (!os.error[0] && !c->lost && (c->budget > 0 || c->n_open > 0))
            turn(c);
    } while (c->lost && !os.error[0] && outlive(c));
    ringlet_close(c->cl);
    c->cl = NULL;
}

void client_start(struct sim *sim, uint32_t client_i, enum client_kind kind)
{
    struct client *c = &sim->client[client_i];
    struct prng *p = &sim->prng;
    memset(c, 0, offsetof(struct client, want));
    c->n_handle = 0;
    for (uint32_t i = 0; i < SIM_WANTS; i++)
        c->want[i].open = false, c->want[i].id = 0;
    c->sim = sim;
    c->kind = kind;
    c->task_i = (int)client_i + 1;
    c->prng.state = prng_next(p);
    c->budget = prng_between(p, 1, 12);
    c->process = (struct os_process){ .pid = 100 + client_i, .uid = prng_below(p, 3) };
    os.task[c->task_i] = (struct os_task){ .used = true, .process = &c->process };
    task_start(c->task_i,
               kind == CLIENT_HONEST    ? run
               : kind == CLIENT_HOSTILE ? hostile_run
                                        : rude_run,
               c);
}

void client_kill(struct client *c)
{
    os_say("client %d: killed\n", c->task_i);
    os.task[c->task_i].done = true;
    os_process_died(&c->process, prng_chance(&os.prng, 10));
}

void client_free(struct client *c)
{
    ringlet_close(c->cl);
    c->cl = NULL;
}
