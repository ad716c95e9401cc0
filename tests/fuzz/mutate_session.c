/*
 * Mutations of a ring's contents that know its shape: one field of an entry or a block gets a
 * value from its own bounds, a span is moved over an edge, entries and blocks are added, doubled or
 * taken away, and the adversary strikes at a load of the mutator's choice. What knows nothing of
 * the shape (LLVMFuzzerMutate) has its turn as well.
 */
#include <string.h>

#include "base/compiler.h"
#include "ringlet_abi.h"
#include "tests/fuzz/session_input.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

enum { STREAM_MAX = 4096 };

struct entry_input {
    uint8_t control;
    uint8_t bytes[RINGLET_ENTRY_BYTES];
};

struct block_input {
    uint8_t control;
    uint8_t bytes[sizeof(struct ringlet_block)];
};

struct input {
    uint8_t n_entry;
    struct entry_input entry[INPUT_ENTRIES];
    struct block_input block[INPUT_BLOCKS];
    uint16_t n_arena;
    uint8_t arena[INPUT_ARENA];
    uint8_t cancel[INPUT_SLOTS + 1], reads[INPUT_PASSES];
    size_t n_stream;
    uint8_t stream[STREAM_MAX];
};

struct field {
    uint16_t off;
    uint8_t bytes;
};

#define SQE(name)                                                                                  \
    {                                                                                              \
        offsetof(struct ringlet_sqe, name), sizeof(((struct ringlet_sqe *)0)->name)                \
    }
#define BLOCK(name)                                                                                \
    {                                                                                              \
        offsetof(struct ringlet_block, name), sizeof(((struct ringlet_block *)0)->name)            \
    }
#define SPAN(name)                                                                                 \
    { offsetof(struct ringlet_block, name), 4 },                                                   \
    {                                                                                              \
        offsetof(struct ringlet_block, name) + 4, 4                                                \
    }

/* Every field of the wire. The block's cover all of it: the test below says so when one is new. */
static const struct field sqe_fields[] = {
    SQE(seq),
    SQE(op),
    SQE(flags),
    SQE(slot),
    SQE(tag),
    SQE(generation),
    SQE(model),
    SQE(model_generation),
    SQE(input_off),
    SQE(input_bytes),
    SQE(block_off),
    SQE(block_bytes),
    SQE(input_kind),
    SQE(urgency),
    SQE(max_tokens),
    SQE(must_understand),
    SQE(total_deadline_ns),
    SQE(handle),
};
static const struct field block_fields[] = {
    BLOCK(block_bytes),
    BLOCK(set),
    BLOCK(seed),
    BLOCK(temperature),
    BLOCK(top_p),
    BLOCK(min_p),
    BLOCK(top_k),
    BLOCK(presence_penalty),
    BLOCK(frequency_penalty),
    BLOCK(repetition_penalty),
    BLOCK(min_tokens),
    BLOCK(n),
    BLOCK(logprobs),
    BLOCK(prompt_logprobs),
    BLOCK(flags),
    BLOCK(queue_deadline_ns),
    BLOCK(first_token_deadline_ns),
    BLOCK(lease_ns),
    SPAN(stop),
    SPAN(stop_token_ids),
    SPAN(logit_bias),
    SPAN(structure),
    SPAN(group),
    BLOCK(structure_kind),
    BLOCK(repetition_min),
    BLOCK(repetition_max),
    BLOCK(repetition_count),
    BLOCK(reserved),
    BLOCK(beam_width),
    BLOCK(early_stopping),
    BLOCK(reserved1),
    BLOCK(length_penalty),
    BLOCK(reserved2),
};

static uint64_t state;

static uint64_t draw(uint64_t below)
{
    state += UINT64_C(0x9E3779B97F4A7C15);
    uint64_t z = state;
    z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
    z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
    return (z ^ z >> 31) % below;
}

static const uint8_t *take(const uint8_t *from, const uint8_t *end, void *to, size_t bytes)
{
    size_t n = min_of(bytes, (size_t)(end - from));
    memcpy(to, from, n);
    memset((uint8_t *)to + n, 0, bytes - n);
    return from + n;
}

static void read_input(const uint8_t *at, size_t size, struct input *in)
{
    const uint8_t *end = at + size;
    at = take(at, end, &in->n_entry, 1);
    in->n_entry %= INPUT_ENTRIES + 1;
    at = take(at, end, in->entry, in->n_entry * sizeof(in->entry[0]));
    at = take(at, end, in->block, sizeof(in->block));
    at = take(at, end, &in->n_arena, 2);
    in->n_arena %= INPUT_ARENA;
    at = take(at, end, in->arena, in->n_arena);
    at = take(at, end, in->cancel, sizeof(in->cancel));
    at = take(at, end, in->reads, sizeof(in->reads));
    in->n_stream = min_of((size_t)(end - at), (size_t)STREAM_MAX);
    memcpy(in->stream, at, in->n_stream);
}

static size_t put(uint8_t *to, size_t at, size_t max, const void *from, size_t bytes)
{
    size_t n = min_of(bytes, max - at);
    memcpy(to + at, from, n);
    return at + n;
}

static size_t write_input(const struct input *in, uint8_t *to, size_t max)
{
    size_t at = put(to, 0, max, &in->n_entry, 1);
    at = put(to, at, max, in->entry, in->n_entry * sizeof(in->entry[0]));
    at = put(to, at, max, in->block, sizeof(in->block));
    at = put(to, at, max, &in->n_arena, 2);
    at = put(to, at, max, in->arena, in->n_arena);
    at = put(to, at, max, in->cancel, sizeof(in->cancel));
    at = put(to, at, max, in->reads, sizeof(in->reads));
    return put(to, at, max, in->stream, in->n_stream);
}

/* Values at the edges of something: of types, rings, arenas, tables, floats. */
static uint64_t edge(unsigned bytes)
{
    static const uint32_t edges[] = {
        0,          1,          2,          3,          4,          7,          8,
        9,          15,         16,         17,         20,         21,         31,
        63,         64,         65,         127,        128,        129,        255,
        256,        999,        1000,       1001,       1023,       1024,       1025,
        4095,       4096,       4097,       8184,       8191,       8192,       65535,
        65536,      0xFFFF8,    0xFFFFF,    0x100000,   0x100001,   0x7FFFFFFF, 0x80000000,
        0xFFFFFFF8, 0xFFFFFFFF, 0x3F800000, 0x40000000, 0x40000001, 0x00000001, 0x7F800000,
        0x7FC00000, 0xFF800000, 0x80000001, 0x3F800001, 0xBF800000, 0xC0000000, 0xC0000001,
        0x42C80000, 0x42C80001,
    };
    uint64_t x = edges[draw(ARRAY_SIZE(edges))];
    if (bytes == 8 && draw(2))
        x = draw(2) ? x << 32 | edges[draw(ARRAY_SIZE(edges))] : UINT64_MAX - x;
    return x;
}

static void change(uint8_t *base, const struct field *f)
{
    uint64_t x = 0;
    if (f->bytes > sizeof(x)) { /* a reserved field of several words: any byte of it */
        base[f->off + draw(f->bytes)] = (uint8_t)draw(256);
        return;
    }
    memcpy(&x, base + f->off, f->bytes);
    switch (draw(4)) {
    case 0:
        x = edge(f->bytes);
        break;
    case 1:
        x ^= UINT64_C(1) << draw(8 * f->bytes);
        break;
    case 2:
        x += draw(17) - 8;
        break;
    default:
        x = draw(UINT64_MAX);
    }
    memcpy(base + f->off, &x, f->bytes);
}

static void change_entry(struct input *in)
{
    if (in->n_entry == 0)
        return;
    struct entry_input *e = &in->entry[draw(in->n_entry)];
    if (draw(8) == 0)
        e->control = (uint8_t)draw(256);
    change(e->bytes, &sqe_fields[draw(ARRAY_SIZE(sqe_fields))]);
}

static void change_block(struct input *in)
{
    struct block_input *b = &in->block[draw(INPUT_BLOCKS)];
    if (draw(8) == 0)
        b->control = (uint8_t)draw(8);
    change(b->bytes, &block_fields[draw(ARRAY_SIZE(block_fields))]);
    if (draw(2)) { /* a value that is not set says nothing */
        uint32_t set;
        memcpy(&set, b->bytes + offsetof(struct ringlet_block, set), sizeof(set));
        set |= 1u << draw(23);
        memcpy(b->bytes + offsetof(struct ringlet_block, set), &set, sizeof(set));
    }
}

static void change_entries(struct input *in)
{
    size_t at = draw(INPUT_ENTRIES);
    if (draw(2) && in->n_entry < INPUT_ENTRIES) {
        if (in->n_entry)
            in->entry[in->n_entry] = in->entry[at % in->n_entry];
        else
            in->entry[0] = (struct entry_input){ .bytes = { [4] = RINGLET_OP_GENERATE } };
        in->n_entry++;
    } else if (in->n_entry) {
        at %= in->n_entry;
        memmove(&in->entry[at], &in->entry[at + 1], (in->n_entry - at - 1) * sizeof(in->entry[0]));
        in->n_entry--;
    }
}

/* Lists in the arena: stop strings, ids, biases, chat records begin with a u32 or two. */
static void change_arena(struct input *in)
{
    if (draw(4) == 0)
        in->n_arena = (uint16_t)draw(draw(2) ? 64 : INPUT_ARENA);
    if (in->n_arena < 8)
        in->n_arena = 8;
    size_t at = draw(in->n_arena / 4u) * 4;
    change(in->arena + at, &(struct field){ 0, draw(2) ? 4 : 1 });
}

/* The adversary strikes at the n-th load from here, everything before it is honest. */
static void change_stream(struct input *in)
{
    size_t at = draw(draw(3) ? 200 : STREAM_MAX - 16);
    if (at >= in->n_stream) {
        memset(in->stream + in->n_stream, 0, at - in->n_stream);
        in->n_stream = at;
    }
    uint8_t how = (uint8_t)(STREAM_FLIP + draw(256 - STREAM_FLIP));
    uint64_t what = draw(2) ? edge(8) : draw(UINT64_MAX);
    size_t n = how < STREAM_FORGE ? 1 : 8;
    in->stream[at] = how;
    memcpy(in->stream + at + 1, &what, n);
    in->n_stream = max_of(in->n_stream, at + 1 + n);
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
    static struct input in;
    _Static_assert(sizeof(struct entry_input) == 1 + RINGLET_ENTRY_BYTES, "no padding");
    state = seed * UINT64_C(0x9E3779B97F4A7C15) + size;
    if (draw(8) == 0)
        return LLVMFuzzerMutate(data, size, max_size);
    read_input(data, size, &in);
    for (uint64_t n = 1 + draw(4); n > 0; n--) {
        switch (draw(8)) {
        case 0:
        case 1:
            change_entry(&in);
            break;
        case 2:
        case 3:
            change_block(&in);
            break;
        case 4:
            change_entries(&in);
            break;
        case 5:
            change_arena(&in);
            break;
        case 6:
            change_stream(&in);
            break;
        default:
            if (draw(2))
                in.cancel[draw(sizeof(in.cancel))] = (uint8_t)draw(20);
            else
                in.reads[draw(INPUT_PASSES)] = (uint8_t)draw(256);
        }
    }
    return write_input(&in, data, max_size);
}

/* Is there a byte of the wire that no field names? */
int mutate_session_misses(void)
{
    static uint8_t sqe[sizeof(struct ringlet_sqe)], block[sizeof(struct ringlet_block)];
    int n = (int)(sizeof(sqe) + sizeof(block));
    for (size_t i = 0; i < ARRAY_SIZE(sqe_fields); i++)
        memset(sqe + sqe_fields[i].off, 1, sqe_fields[i].bytes);
    for (size_t i = 0; i < ARRAY_SIZE(block_fields); i++)
        memset(block + block_fields[i].off, 1, block_fields[i].bytes);
    for (size_t i = 0; i < sizeof(sqe); i++)
        n -= sqe[i];
    for (size_t i = 0; i < sizeof(block); i++)
        n -= block[i];
    return n;
}
