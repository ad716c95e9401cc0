/* Honest clients: programs over libringlet that do all it offers, read slowly, and die. */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/compiler.h"
#include "client/client_internal.h"
#include "daemon/base/clock.h"
#include "tests/sim/sim_serve.h"

enum { SIM_BATCH = 5 };

bool client_chance(struct client *c, uint32_t percent)
{
    return prng_chance(&c->prng, percent);
}

static struct want *free_want(struct client *c)
{
    for (uint32_t i = 0; i < SIM_WANTS; i++)
        if (!c->want[i].open)
            return &c->want[i];
    return NULL;
}

void client_opened(struct client *c, struct want *w)
{
    w->open = true;
    c->n_open++;
    c->sim->n_request++;
    os_trace(w->id ^ 0x5000);
    os_say("client %d: request %llx tag %llu op %u, %u ids, n %u, max %u\n", c->task_i,
           (unsigned long long)w->id, (unsigned long long)w->tag, w->op, w->request.n_prompt,
           w->request.n_seq, w->ask.max_tokens);
}

static bool is_lost(int error)
{
    return error == -EPIPE || error == -ECONNABORTED;
}

static void submit(struct client *c)
{
    static char text[SIM_CLIENTS][SIM_LONG + 8];
    struct ringlet_message message;
    struct want *w = free_want(c);
    if (!w)
        return;
    request_draw(c, w, true, text[c->task_i - 1], &message);
    /* It is open before the library returns: another task may run in between. */
    int error = ringlet_submit(c->cl, &w->ask, &w->id);
    if (error == -EAGAIN || is_lost(error))
        return;
    if (error) {
        os_fail("client %d: submit: %s", c->task_i, ringlet_strerror(error));
        return;
    }
    c->budget--;
    client_opened(c, w);
}

/* Several at once; one that cannot be sent ends the batch, and those before it are on their way. */
static void submit_batch(struct client *c)
{
    static char text[SIM_CLIENTS][SIM_BATCH][SIM_PROMPT + 8];
    struct ringlet_message message[SIM_BATCH];
    struct ringlet_request asks[SIM_BATCH];
    struct want *w[SIM_BATCH];
    uint64_t ids[SIM_BATCH];
    size_t n = 0, n_put = 0, most = prng_between(&c->prng, 1, SIM_BATCH);
    size_t unsound = client_chance(c, 10) ? prng_below(&c->prng, SIM_BATCH) : SIM_BATCH;
    for (uint32_t i = 0; i < SIM_WANTS && n < min_of(most, (size_t)c->budget); i++) {
        if (c->want[i].open)
            continue;
        w[n] = &c->want[i];
        request_draw(c, w[n], false, text[c->task_i - 1][n], &message[n]);
        asks[n] = w[n]->ask;
        asks[n].struct_size = n == unsound ? 1 : asks[n].struct_size;
        n++;
    }
    int error = ringlet_submit_many(c->cl, asks, n, ids, &n_put);
    os_say("client %d: %zu of %zu requests at once, %d\n", c->task_i, n_put, n, error);
    bool fine = n_put == n         ? error == 0 || is_lost(error)
                : error == -EINVAL ? n_put == unsound
                : !is_lost(error)  ? error == -EAGAIN
                                   : n_put == 0;
    if (!fine)
        os_fail("client %d: %zu of %zu requests at once: %s", c->task_i, n_put, n,
                ringlet_strerror(error));
    for (size_t i = 0; i < n_put; i++) {
        w[i]->id = ids[i];
        c->budget--;
        client_opened(c, w[i]);
    }
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
    struct want *w = free_want(c);
    if (!w || !c->n_handle)
        return;
    uint32_t i = prng_below(&c->prng, c->n_handle);
    struct sim_handle h = c->handle[i];
    memset(w, 0, offsetof(struct want, prompt));
    w->op = RINGLET_OP_RELEASE;
    w->tag = ++c->next_tag;
    if (h.expires_ns)
        w->may_error = 1u << RINGLET_ERROR_NO_HANDLE;
    request_link(w);
    if (ringlet_release(c->cl, h.handle, w->tag, &w->id))
        return;
    c->handle[i] = c->handle[--c->n_handle];
    client_opened(c, w);
}

static void renew_some(struct client *c)
{
    struct want *w = free_want(c);
    if (!w || !c->n_handle)
        return;
    struct sim_handle *h = &c->handle[prng_below(&c->prng, c->n_handle)];
    if (h->renewing || (!h->expires_ns && client_chance(c, 80)))
        return;
    request_renew(c, w, h);
    if (ringlet_lease(c->cl, &w->ask, w->ask.lease_ns, &w->id) == 0)
        client_opened(c, w);
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

bool client_read(struct client *c, uint64_t deadline_ns)
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
    c->sim->heard_turn = c->sim->turn;
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
        if (client_chance(c, sim->chances.cancel)) /* with events waiting in a full ring, say */
            cancel_some(c);
    } else if (c->n_open == 0) {
        os_pause(prng_below(&c->prng,
                            client_chance(c, sim->chances.idle) ? 300 * NS_PER_MS : NS_PER_MS));
    } else if (client_chance(c, 50)) {
        client_read(c, until);
    } else {
        wait_armed(c, until);
    }
}

static void turn(struct client *c)
{
    struct sim *sim = c->sim;
    const struct sim_chances *chances = &sim->chances;
    for (uint32_t n = prng_below(&c->prng, 6); n > 0 && !c->lost; n--)
        if (!client_read(c, 0))
            break;
    while (c->budget && !c->lost && client_chance(c, chances->hurry) && c->n_open < SIM_WANTS &&
           !os.error[0]) {
        uint32_t budget = c->budget;
        if (client_chance(c, chances->batches))
            submit_batch(c);
        else
            submit(c);
        if (budget == c->budget)
            break;
    }
    if (!sim->calm && !c->lost && client_chance(c, chances->cancel))
        cancel_some(c);
    if (!c->lost && client_chance(c, 5))
        release_some(c);
    if (!c->lost && client_chance(c, chances->renews))
        renew_some(c);
    if (!c->lost && (c->n_open || c->budget))
        rest(c);
}

/* ---- Life ---- */

bool client_connect(struct client *c)
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
    bool comes_again =
        (sim->killed || sim->reborn) && !sim->draining && !sim->returned && client_chance(c, 70);
    if (sim->up && c->life == sim->n_life && !sim->draining)
        os_fail("client %d: dropped by the daemon", c->task_i);
    while (!os.error[0] && c->n_open > 0 && !(comes_again && client_chance(c, 30)))
        if (!client_read(c, 0) && c->n_open)
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
        c->n_handle = c->n_forgotten = 0;
        c->last_read_ns = os.now_ns;
        for (int k = 0; k < SIM_WANTS; k++)
            c->want[k].orphan |= c->want[k].open;
        return true;
    }
    while (!os.error[0] && c->n_open > 0)
        if (!client_read(c, 0) && c->n_open)
            os_fail("client %d: the daemon is lost, and %u requests have no end", c->task_i,
                    c->n_open);
    return false;
}

static void run(void *arg)
{
    struct client *c = arg;
    if (!client_connect(c))
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
    c->n_handle = c->n_forgotten = 0;
    for (uint32_t i = 0; i < SIM_WANTS; i++)
        c->want[i].open = false, c->want[i].id = 0;
    c->sim = sim;
    c->kind = kind;
    c->task_i = (int)client_i + 1;
    c->prng.state = prng_next(p);
    c->budget = prng_between(p, 1, sim->crowd ? 3 : 12);
    c->process = (struct os_process){ .pid = 100 + client_i, .uid = prng_below(p, SIM_UIDS) };
    if (kind == CLIENT_LONE)
        c->process.uid = SIM_UIDS;
    os.task[c->task_i] = (struct os_task){ .used = true, .process = &c->process };
    task_start(c->task_i,
               kind == CLIENT_HONEST    ? run
               : kind == CLIENT_HOSTILE ? hostile_run
               : kind == CLIENT_LONE    ? lone_run
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
