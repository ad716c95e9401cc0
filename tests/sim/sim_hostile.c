/*
 * Clients that keep no rule. They write anything anywhere in their UP region while the daemon reads
 * it, forge slots, numbers and spans, flood it with cancels and bells, and leave at any time. What
 * they get is not looked at; what others get must be as if they were not there.
 */
#include <errno.h>
#include <string.h>

#include "base/compiler.h"
#include "daemon/base/clock.h"
#include "shm/doorbell.h"
#include "shm/handshake.h"
#include "shm/layout.h"
#include "shm/region.h"
#include "shm/ring.h"
#include "tests/sim/sim_serve.h"

struct raw {
    struct client *c;
    struct prng *p;
    int fd, bell_up, bell_down;
    struct layout layout;
    struct region up, down;
    struct layout_up up_part;
    struct layout_down down_part;
    struct ring_writer sq;
    uint32_t cq_head;
    uint32_t generation;
};

static bool raw_open(struct raw *r, struct client *c)
{
    struct ringlet_welcome w;
    int fds[RINGLET_N_FD];
    *r = (struct raw){ .c = c, .p = &c->prng, .up = REGION_NONE, .down = REGION_NONE };
    if (handshake_connect("/sim", NS_NEVER, &r->fd))
        return false;
    struct ringlet_hello hello = { .n_slot = prng_chance(r->p, 80) ? 16 : 64,
                                   .prompt_bytes = 64 << 10,
                                   .text_bytes = 64 << 10 };
    if (handshake_send_hello(r->fd, &hello) ||
        handshake_recv_welcome(r->fd, false, os.now_ns + 3 * NS_PER_S, &w, fds))
        return false;
    if (layout_from_welcome(&w, &r->layout) ||
        region_map(fds[RINGLET_FD_UP], r->layout.up_bytes, REGION_UP, &r->up) ||
        region_map(fds[RINGLET_FD_DOWN], r->layout.down_bytes, REGION_DOWN, &r->down)) {
        os_fail("client %d: a WELCOME that cannot be", c->task_i);
        return false;
    }
    r->bell_up = fds[RINGLET_FD_BELL_UP];
    r->bell_down = fds[RINGLET_FD_BELL_DOWN];
    struct {
        const char *from, *to;
    } memory = { r->up.base, (char *)r->up.base + r->up.bytes };
    memcpy(&os.hostile[c->task_i % OS_HOSTILE], &memory, sizeof(memory));
    r->up_part = layout_up(&r->layout, r->up.base);
    r->down_part = layout_down(&r->layout, r->down.base);
    ring_writer_init(&r->sq, r->up_part.sq, r->layout.n_slot, w.sq_start);
    r->cq_head = w.cq_start;
    return handshake_send_attach(r->fd, w.session_id) == 0;
}

static void raw_close(struct raw *r)
{
    memset(&os.hostile[r->c->task_i % OS_HOSTILE], 0, sizeof(os.hostile[0]));
    region_free(&r->up);
    region_free(&r->down);
    os_close_fd(&r->fd);
    os_close_fd(&r->bell_up);
    os_close_fd(&r->bell_down);
}

static uint32_t any(struct raw *r)
{
    switch (prng_below(r->p, 5)) {
    case 0:
        return prng_below(r->p, 300);
    case 1:
        return UINT32_MAX - prng_below(r->p, 16);
    case 2:
        return 1u << prng_below(r->p, 32);
    case 3:
        return prng_below(r->p, 64 << 10) & ~7u;
    default:
        return (uint32_t)prng_next(r->p);
    }
}

/* A request block, sound or nearly so, and lists that it may point at. */
static void put_block(struct raw *r, uint32_t at)
{
    struct ringlet_block b = { .block_bytes = sizeof(b) };
    b.set = (uint32_t)prng_next(r->p) & RINGLET_SET_KNOWN;
    b.set &= prng_chance(r->p, 80) ? ~(uint32_t)(RINGLET_SET_STRUCTURE | RINGLET_SET_GROUP) : ~0u;
    b.temperature = 1;
    b.top_p = 0.5f;
    b.repetition_penalty = 1;
    b.n = (uint16_t)prng_between(r->p, 1, prng_chance(r->p, 80) ? 3 : 70);
    b.logprobs = (uint8_t)prng_below(r->p, 21);
    b.prompt_logprobs = (uint8_t)prng_below(r->p, 21);
    b.min_tokens = prng_below(r->p, 9);
    b.flags = (uint32_t)prng_next(r->p) & RINGLET_BLOCK_FLAGS_KNOWN;
    b.seed = prng_next(r->p);
    if (b.set & RINGLET_SET_LEASE)
        b.lease_ns = 1 + prng_below(r->p, 1000000);
    struct ringlet_span *spans[] = { &b.stop, &b.stop_token_ids, &b.logit_bias };
    static const uint32_t bits[] = { RINGLET_SET_STOP, RINGLET_SET_STOP_TOKEN_IDS,
                                     RINGLET_SET_LOGIT_BIAS };
    for (unsigned i = 0; i < ARRAY_SIZE(spans); i++)
        if (b.set & bits[i])
            *spans[i] =
                (struct ringlet_span){ 8192 + prng_below(r->p, 64) * 8, prng_below(r->p, 4) * 8 };
    for (int n = prng_chance(r->p, 30) ? 3 : 0; n > 0; n--) {
        uint32_t lie = any(r);
        memcpy((char *)&b + prng_below(r->p, sizeof(b) / 4) * 4, &lie, 4);
    }
    memcpy(r->up_part.prompt + at, &b, sizeof(b));
    for (uint32_t i = 0; i < 640; i += 4) { /* stop strings, ids, biases: small numbers mostly */
        uint32_t word = prng_chance(r->p, 70) ? prng_below(r->p, 4) : any(r);
        memcpy(r->up_part.prompt + 8192 + i, &word, 4);
    }
}

static void put_entry(struct raw *r)
{
    struct prng *p = r->p;
    union ring_entry e = { .sqe = { .op = (uint8_t)(prng_chance(p, 70) ? RINGLET_OP_GENERATE
                                                                       : prng_below(p, 7)),
                                    .slot = (uint16_t)(r->sq.tail % r->layout.n_slot),
                                    .generation = ++r->generation,
                                    .tag = prng_next(p),
                                    .input_off = prng_below(p, 512) * 8,
                                    .input_bytes = prng_below(p, 64) * 4,
                                    .input_kind = (uint8_t)prng_between(p, 0, 3),
                                    .urgency = (uint8_t)prng_below(p, 256),
                                    .max_tokens = prng_below(p, 60) } };
    if (prng_chance(p, 60)) {
        e.sqe.block_off = 4096 + prng_below(p, 8) * 128;
        e.sqe.block_bytes = RINGLET_BLOCK_BYTES;
        put_block(r, e.sqe.block_off);
    }
    if (prng_chance(p, 10))
        e.sqe.handle = (uint64_t)prng_below(p, 4) << 32 | prng_below(p, 4);
    for (uint32_t i = 0; i < 64; i += 4) {
        uint32_t id = prng_chance(p, 95) ? (uint32_t)'a' + prng_below(p, 4) : any(r);
        memcpy(r->up_part.prompt + e.sqe.input_off + i, &id, 4);
    }
    for (int n = prng_chance(p, 15) ? 2 : 0; n > 0; n--)
        e.word[prng_between(p, 1, 7)] = (uint64_t)any(r) << 32 | any(r);
    uint32_t number = ring_writer_reserve(&r->sq);
    ring_writer_put_at(&r->sq, prng_chance(p, 1) ? number + any(r) : number, &e);
    r->sq.head = r->sq.tail;
}

static void scribble(struct raw *r)
{
    uint32_t word = any(r);
    uint64_t bytes = prng_chance(r->p, 50) ? r->layout.prompt_off : r->layout.up_bytes;
    uint32_t off = prng_below(r->p, (uint32_t)bytes / 4) * 4;
    if (off == offsetof(struct ringlet_up_head, cq_head) && prng_chance(r->p, 90))
        return; /* it would be over at once */
    memcpy((char *)r->up.base + off, &word, 4);
}

static void storm(struct raw *r)
{
    for (uint32_t i = 0; i < r->layout.n_slot; i++)
        store_once(&r->up_part.cancel[i],
                   prng_chance(r->p, 50) ? r->generation - prng_below(r->p, 20) : any(r));
    store_release(&r->up_part.head->cancel_seq, any(r));
}

/* Reads on, or pretends to. */
static void pretend_reading(struct raw *r)
{
    const uint64_t *words = r->down_part.cq;
    uint32_t mask = r->layout.n_cqe - 1;
    for (int i = 0; i < 64; i++) {
        uint32_t seq = (uint32_t)load_acquire(&words[(size_t)(r->cq_head & mask) * 8]);
        if (seq != r->cq_head + 1)
            break;
        r->cq_head++;
    }
    uint32_t lie = prng_chance(r->p, 1) ? prng_below(r->p, 3) : 0;
    store_release(&r->up_part.head->cq_head, r->cq_head + lie);
    if (prng_chance(r->p, 30))
        store_once(&r->up_part.head->client_wait, any(r));
}

static void act(struct raw *r)
{
    switch (prng_below(r->p, 12)) {
    case 0:
    case 1:
    case 2:
    case 3:
        for (uint32_t n = prng_between(r->p, 1, 4); n > 0; n--)
            put_entry(r);
        break;
    case 4:
    case 5:
    case 6:
        pretend_reading(r);
        break;
    case 7:
        scribble(r);
        break;
    case 8:
        storm(r);
        break;
    case 9:
        for (uint32_t n = prng_between(r->p, 1, 5); n > 0; n--)
            (void)bell_up_ring(r->bell_up);
        break;
    case 10:
        if (prng_chance(r->p, 3))
            os_send_message(r->fd, prng_chance(r->p, 50) ? -EPROTO : 0);
        if (prng_chance(r->p, 3))
            region_punch(&r->up, 0, r->up.bytes);
        if (prng_chance(r->p, 3))
            os_close_fd(prng_chance(r->p, 50) ? &r->bell_down : &r->bell_up);
        break;
    default:
        os_pause(prng_below(r->p, prng_chance(r->p, 90) ? 100000 : 30 * NS_PER_MS));
    }
    if (prng_chance(r->p, 70) && r->bell_up >= 0)
        (void)bell_up_ring(r->bell_up);
    else
        os_yield();
}

void hostile_run(void *arg)
{
    struct client *c = arg;
    for (uint32_t life = prng_between(&c->prng, 1, 3); life > 0 && !c->sim->calm; life--) {
        struct raw r;
        if (raw_open(&r, c))
            for (uint32_t n = prng_between(r.p, 1, 300); n > 0 && !c->sim->calm && !os.error[0];
                 n--)
                act(&r);
        raw_close(&r);
    }
}

/* Handshakes that go nowhere. */
void rude_run(void *arg)
{
    struct client *c = arg;
    for (uint32_t n = prng_between(&c->prng, 1, 12); n > 0 && !c->sim->calm; n--) {
        int fd = -1;
        struct ringlet_hello hello = { .n_slot = prng_chance(&c->prng, 80) ? 16 : 5 };
        hello.flags = prng_chance(&c->prng, 30) ? RINGLET_HELLO_OBSERVER : 0;
        if (handshake_connect("/sim", NS_NEVER, &fd) == 0) {
            if (prng_chance(&c->prng, 20))
                os_send_message(fd, -EPROTO);
            bool said = prng_chance(&c->prng, 80) && handshake_send_hello(fd, &hello) == 0;
            if (said && prng_chance(&c->prng, 40) &&
                handshake_send_attach(fd, prng_below(&c->prng, 20)))
                os_say("client %d: hung up on\n", c->task_i);
            os_pause(prng_below(&c->prng, prng_chance(&c->prng, 80) ? NS_PER_MS : 3 * NS_PER_S));
        }
        os_close_fd(&fd);
    }
}
