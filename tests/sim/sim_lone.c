/*
 * Non-interference in two runs: a client of a user that shares with nobody does the same in a world
 * with others and in one without. What it is told, but for times, must be the same.
 */
#include <string.h>

#include "base/compiler.h"
#include "daemon/base/clock.h"
#include "tests/sim/sim_serve.h"

static uint64_t hash(uint64_t h, const void *bytes, size_t n)
{
    const unsigned char *b = bytes;
    for (size_t i = 0; i < n; i++)
        h = (h ^ b[i]) * UINT64_C(0x100000001b3);
    return h;
}

static void keep_record(struct client *c, const struct want *w)
{
    struct sim *sim = c->sim;
    struct record *r = &sim->record[sim->n_record++];
    *r = (struct record){
        .op = w->op, .told = w->told, .cached = w->cached, .total_cached = w->total_cached
    };
    r->stops = w->ask.n_stop > 0;
    for (uint32_t i = 0; i < w->request.n_seq; i++) {
        r->ids = hash(r->ids + i, w->out[i], w->seq[i].n_output * sizeof(w->out[0][0]));
        r->text = hash(r->text + i, w->text[i], w->n_text[i]);
        r->n_id += w->seq[i].n_output;
        r->n_text += w->n_text[i];
    }
}

void lone_run(void *arg)
{
    static char text[SIM_LONG + 8];
    struct client *c = arg;
    struct want *w = &c->want[0];
    struct ringlet_message message;
    struct prng before = c->prng; /* what is drawn must not tell how often it tried */
    while (!client_connect(c) && !os.error[0]) {
        c->prng = before;
        os_pause(NS_PER_MS);
    }
    for (uint32_t i = 0; i < SIM_RECORDS && !os.error[0]; i++) {
        request_draw(c, w, true, text, &message);
        if (w->op == RINGLET_OP_LEASE)
            continue; /* what all users pin together is bounded */
        if (w->ask.seed == RINGLET_UNSET_SEED)
            w->ask.seed = w->request.params.seed = w->tag; /* else the daemon draws one for it */
        int error = ringlet_submit(c->cl, &w->ask, &w->id);
        if (error) {
            os_fail("the lone client: submit: %s", ringlet_strerror(error));
            break;
        }
        client_opened(c, w);
        while (w->open && !c->lost && !os.error[0])
            client_read(c, NS_NEVER);
        keep_record(c, w);
        os_pause(prng_below(&os.prng, NS_PER_MS));
    }
    if (c->cl)
        ringlet_close(c->cl);
    c->cl = NULL;
}

/*
 * A stop string is seen when text goes out. The scheduler may have come to an end of its own behind
 * it by then, with one token's KV more in the cache.
 */
static bool differ(uint32_t a, uint32_t b, uint32_t slack)
{
    return max_of(a, b) - min_of(a, b) > slack;
}

void lone_compare(const struct sim *with, const struct record *without, uint32_t n_without)
{
    if (with->n_record != n_without)
        os_fail("the lone client: %u requests, alone %u", with->n_record, n_without);
    uint32_t slack = 0;
    for (uint32_t i = 0; i < n_without && !os.error[0]; i++) {
        const struct record *a = &with->record[i], *b = &without[i];
        if (a->op != b->op || a->told != b->told)
            os_fail("the lone client: request %u ends otherwise than alone", i);
        else if (a->ids != b->ids || a->n_id != b->n_id)
            os_fail("the lone client: %u ids of request %u, alone %u, or others", a->n_id, i,
                    b->n_id);
        else if (a->text != b->text || a->n_text != b->n_text)
            os_fail("the lone client: the text of request %u is another than alone", i);
        else if (differ(a->cached, b->cached, slack) ||
                 differ(a->total_cached, b->total_cached, slack))
            os_fail("the lone client: request %u (op %u): %u and %u cached tokens, alone %u and %u",
                    i, a->op, a->cached, a->total_cached, b->cached, b->total_cached);
        slack |= a->stops;
    }
}
