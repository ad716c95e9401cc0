/*
 * Intake and validation against a client whose memory changes between two loads. The input is the
 * state of UP (entries, request blocks, arena) and then a stream that decides, at every single load
 * from UP, whether the true value is seen or another one. Whatever happens: no sanitizer report, no
 * assert, and what was accepted keeps the promises of validate.h in its private copy.
 *
 * Input: [1] entries, then per entry [1] control, [64] the entry; [1] blocks, each [1] place,
 * [128]; [2] arena bytes, the bytes; the rest is the stream. Short input reads as zeros.
 */
#include <math.h>

#include "daemon/base/log.h"
#include "daemon/base/payload.h"
#include "tests/daemon/session/rig.h"

enum { ENTRIES = 12, BLOCKS = 4, ARENA = 8192, SLOTS = 16 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t *stream;
static size_t stream_bytes, stream_at;
static bool adversary;

/* Most loads are honest; the stream picks those that are not, and what they see. */
uint64_t ring_load_hook(const void *p, unsigned bytes, uint64_t value)
{
    (void)p;
    if (!adversary || stream_at + 2 > stream_bytes)
        return value;
    uint8_t how = stream[stream_at++];
    if (how < 244)
        return value;
    uint8_t byte = stream[stream_at++];
    if (how < 250)
        return value ^ ((uint64_t)1 << byte % (8 * bytes));
    if (how < 253)
        return value + byte - 128;
    uint64_t forged = 0;
    for (unsigned i = 0; i < bytes && stream_at < stream_bytes; i++)
        forged |= (uint64_t)stream[stream_at++] << 8 * i;
    return forged;
}

static const uint8_t *in;
static size_t in_bytes;

static void take_bytes(void *to, size_t bytes)
{
    size_t n = min_of(bytes, in_bytes);
    memcpy(to, in, n);
    memset((uint8_t *)to + n, 0, bytes - n);
    in += n;
    in_bytes -= n;
}

static uint8_t take_byte(void)
{
    uint8_t byte;
    take_bytes(&byte, 1);
    return byte;
}

#define MUST(cond)                                                                                 \
    do {                                                                                           \
        if (!(cond)) {                                                                             \
            fprintf(stderr, "broken promise: %s\n", #cond);                                        \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

static void check_accepted(const struct rig *r, const struct intake_item *item)
{
    const struct request_params *p = &item->params;
    int32_t vocab = (int32_t)r->model.vocab;
    MUST(item->sqe.slot < SLOTS && item->sqe.generation != 0);
    if (item->sqe.op == RINGLET_OP_NOP || item->sqe.op == RINGLET_OP_RELEASE)
        return;
    MUST(item->sqe.model < r->env.n_model);
    MUST(p->temperature >= 0 && p->temperature <= 2 && p->top_p > 0 && p->top_p <= 1);
    MUST(p->min_p >= 0 && p->min_p <= 1 && p->repetition > 0 && p->repetition <= 2);
    MUST(fabsf(p->presence) <= 2 && fabsf(p->frequency) <= 2);
    MUST(p->n >= 1 && p->n <= RINGLET_N_MAX && p->logprobs_k <= RINGLET_LOGPROBS_MAX);
    MUST(p->prompt_logprobs_k <= RINGLET_LOGPROBS_MAX);
    MUST(item->n_stop_id <= RINGLET_STOP_IDS_MAX && item->n_bias <= RINGLET_LOGIT_BIAS_MAX);
    for (uint32_t i = 0; item->sqe.input_kind == RINGLET_INPUT_TOKENS && i < item->n_id; i++)
        MUST(item->ids[i] >= 0 && item->ids[i] < vocab);
    for (uint32_t i = 0; i < item->n_stop_id; i++)
        MUST(item->stop_ids[i] >= 0 && item->stop_ids[i] < vocab);
    for (uint32_t i = 0; i < item->n_bias; i++)
        MUST(item->bias[i].id >= 0 && item->bias[i].id < vocab && fabsf(item->bias[i].bias) <= 100);
    uint32_t at = 0, n_stop = 0;
    while (at < item->raw_stops_bytes) {
        uint32_t bytes;
        MUST(item->raw_stops_bytes - at >= 4);
        memcpy(&bytes, item->raw_stops + at, 4);
        MUST(bytes >= 1 && bytes <= RINGLET_STOP_BYTES_MAX && ++n_stop <= RINGLET_STOP_STRINGS_MAX);
        at += 4 + (bytes + 3) / 4 * 4;
        MUST(at <= item->raw_stops_bytes);
    }
}

static struct rig *r;
static struct raw_client c;
static struct session *s;
static size_t session_payload; /* what a session itself takes of the pool */

static void open_session(void)
{
    if (!r) {
        memset(log_levels, 0, sizeof(log_levels)); /* dropped sessions by the thousand */
        r = rig_open();
    }
    raw_connect(r, &c, (struct ringlet_hello){ .n_slot = SLOTS });
    s = rig_session(r);
    session_payload = payload_used(r->payload);
}

/* Entries as the input has them, with what the control byte repairs, so that many get far. */
static void put_entries(void)
{
    unsigned n = take_byte() % (ENTRIES + 1);
    for (unsigned i = 0; i < n && ring_writer_free(&c.sq) > 0; i++) {
        union ring_entry e;
        uint8_t control = take_byte();
        take_bytes(&e, sizeof(e));
        if (!(control & 1)) {
            e.sqe.slot = (uint16_t)i;
            e.sqe.generation |= 1;
        }
        if (!(control & 2)) {
            e.sqe.model = 0;
            e.sqe.model_generation = 1;
            e.sqe.must_understand = 0;
        }
        if (!(control & 4)) {
            e.sqe.op %= 6;
            e.sqe.flags &= RINGLET_SQE_FLAGS_KNOWN;
            e.sqe.input_kind %= 4;
        }
        if (!(control & 8)) {
            e.sqe.input_off = e.sqe.input_off % ARENA & ~7u;
            e.sqe.input_bytes %= 512;
        }
        if (!(control & 16)) {
            static const uint16_t bytes[] = { 0, RINGLET_BLOCK_BYTES, RINGLET_BLOCK_BYTES_MAX };
            e.sqe.block_off = ARENA + e.sqe.block_off % BLOCKS * RINGLET_BLOCK_BYTES_MAX;
            e.sqe.block_bytes = bytes[e.sqe.block_bytes % ARRAY_SIZE(bytes)];
        }
        uint32_t number = ring_writer_reserve(&c.sq);
        ring_writer_put_at(&c.sq, (control & 0xE0) == 0xE0 ? number + control : number, &e);
    }
}

static void put_arena(void)
{
    for (unsigned i = 0; i < BLOCKS; i++) {
        struct ringlet_block b;
        uint8_t control = take_byte();
        take_bytes(&b, sizeof(b));
        if (!(control & 1)) {
            b.block_bytes = control & 4 ? RINGLET_BLOCK_BYTES : RINGLET_BLOCK_BYTES_MAX;
            b.set &= RINGLET_SET_KNOWN;
            b.reserved = b.reserved1 = 0;
            memset(b.reserved2, 0, sizeof(b.reserved2));
            b.flags &= RINGLET_BLOCK_FLAGS_KNOWN;
        }
        struct ringlet_span *spans[] = { &b.stop, &b.stop_token_ids, &b.logit_bias };
        for (unsigned k = 0; !(control & 2) && k < ARRAY_SIZE(spans); k++) {
            spans[k]->offset = spans[k]->offset % ARENA & ~7u;
            spans[k]->bytes = spans[k]->bytes % 256 & ~7u;
        }
        memcpy(c.up_part.prompt + ARENA + i * sizeof(b), &b, sizeof(b));
    }
    uint16_t n;
    take_bytes(&n, sizeof(n));
    take_bytes(c.up_part.prompt, n % ARENA);
    for (unsigned i = 0; i < SLOTS; i++)
        c.up_part.cancel[i] = take_byte();
    c.up_part.head->cancel_seq += take_byte() & 1;
}

static void on_cancel(void *context, struct session *session, uint16_t slot)
{
    (void)context, (void)session;
    MUST(slot < SLOTS);
}

static void answer(const struct intake_item *item)
{
    struct publish_id id = { item->sqe.slot, item->sqe.generation, item->sqe.tag };
    struct publish_end end = { .index = RINGLET_INDEX_ALL, .reason = RINGLET_REASON_DONE };
    if (item->payload)
        payload_give(r->payload, item->payload);
    publish_last(s, &id, &end, NULL);
}

/* The short way of an idle loop, on which a NOP's slot is never marked. */
static void take_nops(void)
{
    struct ringlet_sqe nop;
    while (intake_take_nop(s, &r->env, &nop) == 1) {
        MUST(nop.slot < SLOTS && nop.generation != 0 && !s->slot[nop.slot].busy);
        publish_done(s, &nop);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct intake_item item;
    if (!s)
        open_session();
    in = data;
    in_bytes = size;
    put_entries();
    put_arena();
    stream = in;
    stream_bytes = in_bytes;
    stream_at = 0;
    for (int pass = 0; pass < 4 && !s->doomed; pass++) {
        adversary = true;
        (void)intake_ready(s);
        intake_cancels(s, on_cancel, NULL);
        take_nops();
        intake_begin(s);
        while (!s->doomed && intake_take(s, &r->env, &item)) {
            adversary = false;
            MUST(item.fault.error == 0 || item.payload == NULL);
            if (item.fault.error == 0)
                check_accepted(r, &item);
            answer(&item);
            adversary = true;
        }
        adversary = false;
        if (!s->doomed)
            intake_end(s);
    }
    uint32_t head = load_once(&c.down_part.head->sq_head);
    if (s->doomed || s->pending.taken || head != c.sq.tail ||
        ring_writer_see_head(&c.sq, head) < 0) {
        raw_close(&c); /* a fresh one for the next input */
        for (int i = 0; i < 100 && r->all->n_session > 0; i++)
            rig_turn(r, 1);
        MUST(r->all->n_session == 0);
        s = NULL;
    } else {
        MUST(s->n_busy == 0 && s->n_owed == 0);
        store_once(&c.up_part.head->cq_head, s->cq.tail);
    }
    MUST(payload_used(r->payload) == (s ? session_payload : 0));
    return 0;
}
