/*
 * Intake and validation against a client whose memory changes between two loads, and publishing to
 * one that reads as it likes. The input is the state of UP (entries, request blocks, arena) and
 * then a stream that decides, at every single load from UP, whether the true value is seen or
 * another one. The daemon's mapping of UP is shut (PROT_NONE) all the while: the accessor looks
 * through another one, so that any access that does not go through it faults. Whatever happens: no
 * sanitizer report, no assert, and what was accepted keeps the promises of validate.h in its
 * private copy. The input's shape: session_input.h.
 */
#include <math.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/base/log.h"
#include "daemon/base/payload.h"
#include "tests/daemon/session/rig.h"
#include "tests/fuzz/must.h"
#include "tests/fuzz/session_input.h"

enum { ENTRIES = INPUT_ENTRIES, BLOCKS = INPUT_BLOCKS, ARENA = INPUT_ARENA, SLOTS = INPUT_SLOTS };

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
uint64_t ring_load_hook(const void *p, unsigned bytes);

static struct rig *r;
static struct raw_client c;
static struct session *s;
static size_t session_payload; /* what a session itself takes of the pool */

static const uint8_t *stream;
static size_t stream_bytes, stream_at;
static bool adversary;

/* The truth, from the client's mapping: the daemon's is shut. */
static uint64_t load(const void *p, unsigned bytes)
{
    uint64_t value = 0;
    size_t off = (size_t)((const char *)p - (const char *)s->up.base);
    if (off >= s->up.bytes)
        abort(); /* no load from UP */
    memcpy(&value, (const char *)c.up.base + off, bytes);
    return value;
}

/* Most loads are honest; the stream picks those that are not, and what they see. */
uint64_t ring_load_hook(const void *p, unsigned bytes)
{
    uint64_t value = load(p, bytes);
    if (!adversary || stream_at + 2 > stream_bytes)
        return value;
    uint8_t how = stream[stream_at++];
    if (how < STREAM_FLIP)
        return value;
    uint8_t byte = stream[stream_at++];
    if (how < STREAM_ADD)
        return value ^ ((uint64_t)1 << byte % (8 * bytes));
    if (how < STREAM_FORGE)
        return value + byte - 128;
    uint64_t forged = byte;
    for (unsigned i = 1; i < bytes && stream_at < stream_bytes; i++)
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

static void check_accepted(const struct intake_item *item)
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

static void open_session(void)
{
    if (!r) {
        memset(log_levels, 0, sizeof(log_levels)); /* dropped sessions by the thousand */
        r = rig_open();
    }
    raw_connect(r, &c,
                (struct ringlet_hello){ .n_slot = SLOTS, .text_bytes = RINGLET_TEXT_BYTES_MIN });
    s = rig_session(r);
    session_payload = payload_used(r->payload);
    if (mprotect(s->up.base, s->up.bytes, PROT_NONE))
        abort();
}

/* Entries as the input has them, with what the control byte repairs, so that many get far. */
static void put_entries(void)
{
    unsigned n = take_byte() % (ENTRIES + 1);
    for (unsigned i = 0; i < n && ring_writer_free(&c.sq) > 0; i++) {
        union ring_entry e;
        uint8_t control = take_byte();
        take_bytes(&e, sizeof(e));
        if (!(control & INPUT_RAW_SLOT)) {
            e.sqe.slot = (uint16_t)i;
            e.sqe.generation |= 1;
        }
        if (!(control & INPUT_RAW_MODEL)) {
            e.sqe.model = 0;
            e.sqe.model_generation = 1;
            e.sqe.must_understand = 0;
        }
        if (!(control & INPUT_RAW_OP)) {
            e.sqe.op %= 6;
            e.sqe.flags &= RINGLET_SQE_FLAGS_KNOWN;
            e.sqe.input_kind %= 4;
        }
        if (!(control & INPUT_RAW_SPAN)) {
            e.sqe.input_off = e.sqe.input_off % ARENA & ~7u;
            e.sqe.input_bytes %= 512;
        }
        if (!(control & INPUT_RAW_BLOCK)) {
            static const uint16_t bytes[] = { 0, RINGLET_BLOCK_BYTES, RINGLET_BLOCK_BYTES_MAX };
            e.sqe.block_off = ARENA + e.sqe.block_off % BLOCKS * RINGLET_BLOCK_BYTES_MAX;
            e.sqe.block_bytes = bytes[e.sqe.block_bytes % ARRAY_SIZE(bytes)];
        }
        uint32_t number = ring_writer_reserve(&c.sq);
        ring_writer_put_at(
            &c.sq, (control & INPUT_RAW_SEQ) == INPUT_RAW_SEQ ? number + control : number, &e);
    }
}

static void put_arena(void)
{
    for (unsigned i = 0; i < BLOCKS; i++) {
        struct ringlet_block b;
        uint8_t control = take_byte();
        take_bytes(&b, sizeof(b));
        if (!(control & INPUT_RAW_HEAD)) {
            b.block_bytes = control & INPUT_SHORT ? RINGLET_BLOCK_BYTES : RINGLET_BLOCK_BYTES_MAX;
            b.set &= RINGLET_SET_KNOWN;
            b.reserved = b.reserved1 = 0;
            memset(b.reserved2, 0, sizeof(b.reserved2));
            b.flags &= RINGLET_BLOCK_FLAGS_KNOWN;
        }
        struct ringlet_span *spans[] = { &b.stop, &b.stop_token_ids, &b.logit_bias };
        for (unsigned k = 0; !(control & INPUT_RAW_LISTS) && k < ARRAY_SIZE(spans); k++) {
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

/* As answer.c does: some ids and text where there is credit, then the end, for which there is. */
static void answer(const struct intake_item *item)
{
    static const int32_t ids[] = { 1, 2, 3, 4, 5, 6, 7, 8 };
    struct publish_id id = { item->sqe.slot, item->sqe.generation, item->sqe.tag };
    struct publish_end end = { .index = RINGLET_INDEX_ALL, .reason = RINGLET_REASON_DONE };
    struct publish_tokens t = { .kind = RINGLET_KIND_TOKENS,
                                .ids = ids,
                                .n_id = 8,
                                .text = (const char *)ids,
                                .text_bytes = 32 };
    uint64_t bytes = publish_span_bytes(t.n_id, false, 0, t.text_bytes);
    intake_give(r->all, s->user, item->payload, item->payload_bytes);
    for (int i = 0; i < 3 && item->sqe.op == RINGLET_OP_GENERATE; i++) {
        adversary = true;
        bool can = publish_can(s, bytes);
        MUST(!can || publish_room(s) >= bytes || s->doomed);
        adversary = false;
        if (!can || s->doomed)
            break;
        publish_tokens(s, &id, &t);
    }
    publish_last(s, &id, &end, NULL);
    MUST(ring_writer_free(&s->cq) >= s->n_owed);
}

/* How far the client says that it came, true or not, and whether it says that it sleeps. */
static void read_on(uint8_t how)
{
    uint32_t n = s->cq.tail - s->cq.head;
    uint32_t head = s->cq.head;
    if (how < 128)
        head += n ? how % (n + 1) : 0;
    else if (how < 250)
        head = s->cq.tail;
    else
        head += how; /* ahead of what was put, or backwards */
    store_once(&c.up_part.head->cq_head, head);
    store_once(&c.up_part.head->client_wait, how);
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

static void one_pass(void)
{
    static struct intake_item item;
    adversary = true;
    (void)intake_ready(s);
    (void)publish_refresh(s);
    intake_cancels(s, on_cancel, NULL);
    take_nops();
    intake_begin(s);
    while (!s->doomed && intake_take(s, &r->env, &item)) {
        adversary = false;
        MUST(item.fault.error == 0 || item.payload == NULL);
        if (item.fault.error == 0)
            check_accepted(&item);
        answer(&item);
        adversary = true;
    }
    adversary = false;
    if (s->doomed)
        return;
    intake_end(s);
    adversary = true;
    publish_flush(r->all);
    adversary = false;
}

/* Back to a session that another input can use, or a fresh one. */
static void settle(void)
{
    uint32_t head = load_once(&c.down_part.head->sq_head);
    store_once(&c.up_part.head->cq_head, s->cq.tail);
    if (!s->doomed)
        (void)publish_refresh(s);
    if (s->doomed || s->pending.taken || head != c.sq.tail ||
        ring_writer_see_head(&c.sq, head) < 0) {
        close(c.fd); /* its mapping stays until the daemon looks no more */
        for (int i = 0; i < RIG_PATIENCE_MS && r->all->n_session > 0; i++)
            rig_turn(r, i >= 100);
        MUST(r->all->n_session == 0);
        c.fd = -1;
        raw_close(&c);
        s = NULL;
    } else {
        MUST(s->n_busy == 0 && s->n_owed == 0 && ring_writer_free(&s->cq) == s->layout.n_cqe);
        MUST(span_arena_room(&s->text) == s->layout.text_bytes);
    }
    MUST(payload_used(r->payload) == (s ? session_payload : 0));
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    if (mutate_session_misses()) {
        fprintf(stderr, "%d bytes of the wire that mutate_session.c does not name\n",
                mutate_session_misses());
        abort();
    }
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t reads[INPUT_PASSES];
    if (!s)
        open_session();
    in = data;
    in_bytes = size;
    put_entries();
    put_arena();
    take_bytes(reads, sizeof(reads));
    stream = in;
    stream_bytes = in_bytes;
    stream_at = 0;
    for (int pass = 0; pass < INPUT_PASSES && !s->doomed; pass++) {
        read_on(reads[pass]);
        one_pass();
    }
    settle();
    return 0;
}
