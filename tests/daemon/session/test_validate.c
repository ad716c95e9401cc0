/* "Accept if and only if in range": both sides of every bound, NaN, every unknown bit, every list.
 */
#include "tests/harness/harness.h"

#include "daemon/session/validate.h"

static struct validate_model models[2];
static struct validate_env env = { .models = models, .n_model = 2, .prompt_bytes = 65536 };
static struct validate_fault fault;
static struct request_params params;

static struct ringlet_sqe good_sqe(void)
{
    models[0] = (struct validate_model){
        .ready = true,
        .generation = 3,
        .vocab = 100,
        .context = 64,
        .has_text = true,
        .defaults = { .temperature = 0.7f, .top_p = 1, .repetition = 1, .n = 1 },
    };
    models[1] = (struct validate_model){ .ready = false };
    env.draining = false;
    return (struct ringlet_sqe){ .op = RINGLET_OP_GENERATE,
                                 .generation = 1,
                                 .model_generation = 3,
                                 .input_kind = RINGLET_INPUT_TEXT,
                                 .input_bytes = 16,
                                 .block_off = 1024,
                                 .block_bytes = sizeof(struct ringlet_block),
                                 .max_tokens = 5,
                                 .urgency = 128 };
}

static struct ringlet_block good_block(void)
{
    return (struct ringlet_block){ .block_bytes = sizeof(struct ringlet_block) };
}

static void refused_sqe(const struct ringlet_sqe *sqe, uint32_t error, uint32_t field)
{
    assert_false(validate_sqe(sqe, &env, &fault));
    assert_int_equal(fault.error, error);
    assert_int_equal(fault.field, field);
}

static bool accepts(const struct ringlet_block *b)
{
    struct ringlet_sqe sqe = good_sqe();
    bool ok = validate_block(&sqe, b, &env, &params, &fault);
    assert_int_equal(ok, fault.error == 0);
    return ok;
}

TEST(a_sound_entry_is_accepted)
{
    struct ringlet_sqe sqe = good_sqe();
    assert_true(validate_sqe(&sqe, &env, &fault));
    sqe.block_bytes = 0;
    assert_true(validate_sqe(&sqe, &env, &fault));
    sqe.op = RINGLET_OP_NOP;
    sqe.input_kind = 99; /* not looked at */
    assert_true(validate_sqe(&sqe, &env, &fault));
}

TEST(each_wrong_field_of_the_entry_is_named)
{
#define REFUSED(change, error, name)                                                               \
    do {                                                                                           \
        struct ringlet_sqe sqe = good_sqe();                                                       \
        change;                                                                                    \
        refused_sqe(&sqe, RINGLET_ERROR_##error, VALIDATE_SQE_FIELD(name));                        \
    } while (0)
    for (int op = 0; op < 256; op++)
        if (op > RINGLET_OP_TOKENIZE)
            REFUSED(sqe.op = (uint8_t)op, BAD_OP, op);
    for (int bit = 4; bit < 8; bit++)
        REFUSED(sqe.flags = (uint8_t)(1 << bit), BAD_BIT, flags);
    REFUSED((sqe.op = RINGLET_OP_QUERY, sqe.flags = RINGLET_SQE_HOLD), BAD_BIT, flags);
    for (int bit = 0; bit < 32; bit++)
        REFUSED(sqe.must_understand = 1u << bit, BAD_BIT, must_understand);
    REFUSED(sqe.model = 1, NO_MODEL, model);
    REFUSED(sqe.model = 2, NO_MODEL, model);
    REFUSED(sqe.model = 0xFFFF, NO_MODEL, model);
    REFUSED(sqe.model_generation = 4, MODEL_CHANGED, model_generation);
    REFUSED((sqe.op = RINGLET_OP_QUERY, sqe.handle = 1), NO_HANDLE, handle);
    REFUSED((sqe.op = RINGLET_OP_TOKENIZE, sqe.handle = 1), NO_HANDLE, handle);
    REFUSED(sqe.op = RINGLET_OP_RELEASE, NO_HANDLE, handle);
    REFUSED((sqe.op = RINGLET_OP_RELEASE, sqe.handle = 1), BAD_FIELD, input_kind);
    REFUSED((sqe.op = RINGLET_OP_LEASE, sqe.handle = 1), BAD_FIELD, handle);
    REFUSED((sqe.op = RINGLET_OP_LEASE, sqe.input_kind = 0, sqe.input_bytes = 0), BAD_FIELD,
            input_kind);
    REFUSED((sqe.op = RINGLET_OP_RELEASE, sqe.handle = 1, sqe.input_kind = 0, sqe.input_bytes = 8),
            BAD_FIELD, input_bytes);
    REFUSED((sqe.input_kind = 0, sqe.input_bytes = 0), BAD_FIELD, input_kind);
    REFUSED(sqe.input_kind = 4, BAD_FIELD, input_kind);
    REFUSED(sqe.input_kind = RINGLET_INPUT_MESSAGES, BAD_TEMPLATE, input_kind);
    REFUSED(sqe.input_off = 4, BAD_SPAN, input_off);
    REFUSED(sqe.input_off = 65536, BAD_SPAN, input_off);
    REFUSED(sqe.input_off = 65536 - 8, BAD_SPAN, input_off);
    REFUSED((sqe.input_off = 0xFFFFFFF8u, sqe.input_bytes = 0xFFFFFFFFu), BAD_SPAN, input_off);
    REFUSED((sqe.input_kind = RINGLET_INPUT_TOKENS, sqe.input_bytes = 6), BAD_SPAN, input_bytes);
    REFUSED((sqe.input_kind = RINGLET_INPUT_TOKENS, sqe.input_bytes = 0), BAD_FIELD, input_bytes);
    REFUSED((sqe.input_kind = RINGLET_INPUT_TOKENS, sqe.input_bytes = 65 * 4), TOO_LONG,
            input_bytes);
    REFUSED(sqe.block_bytes = 64, BAD_FIELD, block_bytes);
    REFUSED(sqe.block_bytes = 136, BAD_FIELD, block_bytes);
    REFUSED(sqe.block_off = 12, BAD_SPAN, block_off);
    REFUSED(sqe.block_off = 65536 - 64, BAD_SPAN, block_off);
    env.draining = true;
    struct ringlet_sqe sqe = good_sqe();
    env.draining = true;
    refused_sqe(&sqe, RINGLET_ERROR_DRAINING, 0);
}

TEST(numbers_are_accepted_up_to_their_bounds_and_no_further)
{
#define BOUND(bit, name, low_bad, low, high, high_bad)                                             \
    do {                                                                                           \
        struct ringlet_block b = good_block();                                                     \
        b.set = RINGLET_SET_##bit | RINGLET_SET_TEMPERATURE;                                       \
        b.temperature = 1;                                                                         \
        b.name = low;                                                                              \
        assert_true(accepts(&b));                                                                  \
        b.name = high;                                                                             \
        assert_true(accepts(&b));                                                                  \
        b.name = low_bad;                                                                          \
        assert_false(accepts(&b));                                                                 \
        assert_int_equal(fault.field, VALIDATE_BLOCK_FIELD(name));                                 \
        b.name = high_bad;                                                                         \
        assert_false(accepts(&b));                                                                 \
        assert_int_equal(fault.error, RINGLET_ERROR_BAD_FIELD);                                    \
        b.set &= ~(uint32_t)RINGLET_SET_##bit; /* not set: not looked at */                        \
        if (RINGLET_SET_##bit != RINGLET_SET_TEMPERATURE)                                          \
            assert_true(accepts(&b));                                                              \
    } while (0)
    BOUND(TEMPERATURE, temperature, -1e-6f, 0.0f, 2.0f, 2.0001f);
    BOUND(TEMPERATURE, temperature, NAN, 0.0f, 2.0f, INFINITY);
    BOUND(TOP_P, top_p, 0.0f, 1e-30f, 1.0f, 1.0001f);
    BOUND(TOP_P, top_p, NAN, 1e-30f, 1.0f, INFINITY);
    BOUND(MIN_P, min_p, -1e-30f, 0.0f, 1.0f, 1.0001f);
    BOUND(MIN_P, min_p, NAN, 0.0f, 1.0f, -INFINITY);
    BOUND(PRESENCE_PENALTY, presence_penalty, -2.001f, -2.0f, 2.0f, NAN);
    BOUND(FREQUENCY_PENALTY, frequency_penalty, NAN, -2.0f, 2.0f, 2.001f);
    BOUND(REPETITION_PENALTY, repetition_penalty, 0.0f, 1e-30f, 2.0f, NAN);
    BOUND(TOP_K, top_k, 0x80000000u, 0, 0x7FFFFFFFu, 0xFFFFFFFFu);
    BOUND(MIN_TOKENS, min_tokens, 0x80000000u, 0, 0x7FFFFFFFu, 0xFFFFFFFFu);
    BOUND(N, n, 0, 1, 64, 65);
    BOUND(LOGPROBS, logprobs, 21, 0, 20, 255);
    BOUND(PROMPT_LOGPROBS, prompt_logprobs, 21, 0, 20, 255);
}

TEST(divisors_of_logits_are_no_denormals)
{
    struct ringlet_sqe sqe = good_sqe();
    struct ringlet_block b = good_block();
    b.set = RINGLET_SET_TEMPERATURE | RINGLET_SET_REPETITION_PENALTY;
    b.temperature = b.repetition_penalty = 1e-44f;
    assert_true(validate_block(&sqe, &b, &env, &params, &fault));
    assert_close(params.temperature, VALIDATE_DIVISOR_MIN, 0, 0);
    assert_close(params.repetition, VALIDATE_DIVISOR_MIN, 0, 0);
    b.temperature = 0; /* greedy stays greedy */
    assert_true(validate_block(&sqe, &b, &env, &params, &fault));
    assert_close(params.temperature, 0, 0, 0);
}

static struct ringlet_block beam_block(void)
{
    struct ringlet_block b = good_block();
    b.set = RINGLET_SET_BEAM | RINGLET_SET_N;
    b.beam_width = 4;
    b.n = 3;
    b.length_penalty = 0.5f;
    return b;
}

TEST(beams_are_accepted_and_leave_the_models_sampling_out)
{
    struct ringlet_block b = beam_block();
    b.early_stopping = RINGLET_EARLY_STOPPING_NEVER;
    b.set |= RINGLET_SET_TEMPERATURE | RINGLET_SET_TOP_P;
    b.temperature = 0;
    b.top_p = 1;
    assert_true(accepts(&b));
    assert_int_equal(params.beam_width, 4);
    assert_int_equal(params.early_stopping, RINGLET_EARLY_STOPPING_NEVER);
    assert_int_equal(params.n, 3);
    assert_close(params.length_penalty, 0.5, 0, 0);
    assert_close(params.temperature, 0, 0, 0); /* the model's is 0.7 */
}

TEST(beams_refuse_what_shapes_a_draw_and_what_needs_text)
{
#define BEAMS_REFUSED(name, ...)                                                                   \
    do {                                                                                           \
        struct ringlet_block b = beam_block();                                                     \
        __VA_ARGS__;                                                                               \
        assert_false(accepts(&b));                                                                 \
        assert_int_equal(fault.error, RINGLET_ERROR_BAD_FIELD);                                    \
        assert_int_equal(fault.field, VALIDATE_BLOCK_FIELD(name));                                 \
    } while (0)
    BEAMS_REFUSED(n, b.n = 5);
    BEAMS_REFUSED(beam_width, b.beam_width = 0);
    BEAMS_REFUSED(beam_width, b.beam_width = 11);
    BEAMS_REFUSED(early_stopping, b.early_stopping = 3);
    BEAMS_REFUSED(length_penalty, b.length_penalty = NAN);
    BEAMS_REFUSED(temperature, (b.set |= RINGLET_SET_TEMPERATURE, b.temperature = 0.5f));
    BEAMS_REFUSED(top_k, (b.set |= RINGLET_SET_TOP_K, b.top_k = 5));
    BEAMS_REFUSED(presence_penalty,
                  (b.set |= RINGLET_SET_PRESENCE_PENALTY, b.presence_penalty = 1));
    BEAMS_REFUSED(stop, (b.set |= RINGLET_SET_STOP, b.stop.bytes = 8));
    BEAMS_REFUSED(logprobs, (b.set |= RINGLET_SET_LOGPROBS | RINGLET_SET_MIN_TOKENS, b.logprobs = 2,
                             b.min_tokens = 1));
    struct ringlet_block b = beam_block();
    struct ringlet_sqe sqe = good_sqe();
    sqe.op = RINGLET_OP_LEASE;
    assert_false(validate_block(&sqe, &b, &env, &params, &fault));
    assert_int_equal(fault.field, VALIDATE_BLOCK_FIELD(beam_width));
    sqe = good_sqe();
    sqe.block_bytes = b.block_bytes = RINGLET_BLOCK_BYTES; /* it has no room for them */
    assert_false(validate_block(&sqe, &b, &env, &params, &fault));
    assert_int_equal(fault.error, RINGLET_ERROR_BAD_BIT);
    b.set = RINGLET_SET_N;
    b.n = 2;
    assert_true(validate_block(&sqe, &b, &env, &params, &fault));
}

TEST(greedy_needs_one_sequence)
{
    struct ringlet_block b = good_block();
    b.set = RINGLET_SET_N | RINGLET_SET_TEMPERATURE;
    b.n = 2;
    assert_false(accepts(&b));
    b.n = 1;
    assert_true(accepts(&b));
}

TEST(unset_fields_take_the_models_defaults)
{
    struct ringlet_block b = good_block();
    b.set = RINGLET_SET_TOP_P;
    b.top_p = 0.5f;
    b.temperature = 99; /* not set */
    assert_true(accepts(&b));
    assert_close(params.temperature, 0.7, 0, 1e-6);
    assert_close(params.top_p, 0.5, 0, 0);
    assert_int_equal(params.max_tokens, 5);
    assert_int_equal(params.urgency, 128);
}

TEST(each_flag_of_the_block_sets_what_it_names)
{
    for (int bit = 0; bit < 5; bit++) {
        struct ringlet_block b = good_block();
        b.set = RINGLET_SET_FLAGS;
        b.flags = 1u << bit;
        assert_true(accepts(&b));
        assert_int_equal(params.ignore_eos, b.flags == RINGLET_BLOCK_IGNORE_EOS);
        assert_int_equal(params.logprobs, b.flags == RINGLET_BLOCK_LOGPROBS);
        assert_int_equal(params.prompt_logprobs, b.flags == RINGLET_BLOCK_PROMPT_LOGPROBS);
        assert_int_equal(params.include_stop, b.flags == RINGLET_BLOCK_INCLUDE_STOP);
        assert_int_equal(params.deterministic, b.flags == RINGLET_BLOCK_DETERMINISTIC);
        b.set = 0; /* flags that are not set say nothing */
        assert_true(accepts(&b));
        assert_false(params.ignore_eos || params.logprobs || params.deterministic);
    }
}

TEST(unknown_bits_and_what_is_not_there_yet_are_refused)
{
    for (int bit = 23; bit < 32; bit++) {
        struct ringlet_block b = good_block();
        b.set = 1u << bit;
        assert_false(accepts(&b));
        assert_int_equal(fault.error, RINGLET_ERROR_BAD_BIT);
    }
    for (int bit = 5; bit < 32; bit++) {
        struct ringlet_block b = good_block();
        b.set = RINGLET_SET_FLAGS;
        b.flags = 1u << bit;
        assert_false(accepts(&b));
        assert_int_equal(fault.error, RINGLET_ERROR_BAD_BIT);
    }
    struct ringlet_block b = good_block();
    b.reserved = 1;
    assert_false(accepts(&b));
    b = good_block();
    b.reserved1 = 1;
    assert_false(accepts(&b));
    b = good_block();
    b.reserved2[14] = 1;
    assert_false(accepts(&b));
    b = good_block();
    b.block_bytes = RINGLET_BLOCK_BYTES; /* the entry says more */
    assert_false(accepts(&b));
    b = good_block();
    b.set = RINGLET_SET_STRUCTURE;
    b.structure_kind = RINGLET_STRUCTURE_REGEX;
    assert_false(accepts(&b));
    assert_int_equal(fault.error, RINGLET_ERROR_BAD_GRAMMAR);
    b = good_block();
    b.set = RINGLET_SET_GROUP;
    b.group.bytes = RINGLET_GROUP_BYTES_MAX + 1;
    assert_false(accepts(&b));
}

TEST(lists_lie_inside_and_are_not_too_long)
{
    struct ringlet_block b = good_block();
    b.set = RINGLET_SET_STOP_TOKEN_IDS;
    b.stop_token_ids = (struct ringlet_span){ 65536 - 256, 256 };
    assert_true(accepts(&b));
    b.stop_token_ids = (struct ringlet_span){ 65536 - 256, 260 };
    assert_false(accepts(&b));
    assert_int_equal(fault.error, RINGLET_ERROR_BAD_SPAN);
    b.stop_token_ids = (struct ringlet_span){ 0, 260 };
    assert_false(accepts(&b));
    b.stop_token_ids = (struct ringlet_span){ 2, 4 };
    assert_false(accepts(&b));
    b.stop_token_ids = (struct ringlet_span){ 0, 6 };
    assert_false(accepts(&b));
    b.stop_token_ids = (struct ringlet_span){ 0xFFFFFFFCu, 8 };
    assert_false(accepts(&b));
    b = good_block();
    b.logit_bias = (struct ringlet_span){ 8, 8 }; /* there, but not set */
    assert_false(accepts(&b));
}

static bool stops(const void *bytes, uint32_t n)
{
    return validate_stops(bytes, n, &fault);
}

TEST(stop_strings_are_whole_and_utf8)
{
    assert_true(stops("\2\0\0\0ab\0\0\1\0\0\0x\0\0\0", 16));
    assert_true(stops("", 0));
    assert_false(stops("\0\0\0\0", 4));
    assert_false(stops("\5\0\0\0abcd", 8));
    assert_false(stops("\2\0\0", 3));
    assert_false(stops("\2\0\0\0\xc3\x28\0\0", 8));
    assert_int_equal(fault.error, RINGLET_ERROR_BAD_UTF8);
    char many[17 * 8] = { 0 };
    for (int i = 0; i < 17; i++) {
        many[i * 8] = 1;
        many[i * 8 + 4] = 'x';
    }
    assert_true(stops(many, 16 * 8));
    assert_false(stops(many, 17 * 8));
}

TEST(ids_and_biases_are_bounded_by_the_logits)
{
    int32_t ids[3] = { 0, 99, 5 };
    assert_true(validate_ids(ids, 3, 100));
    ids[2] = 100;
    assert_false(validate_ids(ids, 3, 100));
    ids[2] = -1;
    assert_false(validate_ids(ids, 3, 100));
    struct request_bias bias[2] = { { 0, 100 }, { 99, -100 } };
    assert_true(validate_bias(bias, 2, 100, &fault));
    bias[1].bias = NAN;
    assert_false(validate_bias(bias, 2, 100, &fault));
    bias[1] = (struct request_bias){ 100, 0 };
    assert_false(validate_bias(bias, 2, 100, &fault));
    assert_int_equal(fault.error, RINGLET_ERROR_BAD_TOKEN);
}

TEST(chat_records_are_whole)
{
    struct {
        struct ringlet_chat_record r;
        char text[8];
        struct ringlet_chat_record r2;
    } chat = { { RINGLET_CHAT_MESSAGE, RINGLET_ROLE_USER, 0, 3 }, "hi!", { 0, 2, 1, 0 } };
    assert_true(validate_chat(&chat, sizeof(chat), &fault));
    assert_false(validate_chat(&chat, sizeof(chat) - 1, &fault));
    chat.r.flags = 1; /* continue, but not the last */
    assert_false(validate_chat(&chat, sizeof(chat), &fault));
    chat.r.flags = 2;
    assert_false(validate_chat(&chat, sizeof(chat), &fault));
    chat.r.flags = 0;
    chat.r.role = 4;
    assert_false(validate_chat(&chat, sizeof(chat), &fault));
    chat.r.role = 1;
    chat.r.kind = 3;
    assert_false(validate_chat(&chat, sizeof(chat), &fault));
    chat.r.kind = RINGLET_CHAT_TOOLS; /* tools have no role */
    assert_false(validate_chat(&chat, sizeof(chat), &fault));
    chat.r.kind = 0;
    chat.r.bytes = 0xFFFFFFFF;
    assert_false(validate_chat(&chat, sizeof(chat), &fault));
    chat.r.bytes = 3;
    chat.text[1] = (char)0xff;
    assert_false(validate_chat(&chat, sizeof(chat), &fault));
}

TEST(utf8_is_what_the_standard_says)
{
    assert_true(validate_utf8("a\0\xc3\xbf\xe2\x82\xac\xf0\x9f\x98\x80\xef\xbf\xbd", 14));
    static const char *const bad[] = { "\x80",
                                       "\xc0\x80",
                                       "\xc1\xbf",
                                       "\xe0\x80\x80",
                                       "\xed\xa0\x80",
                                       "\xf0\x80\x80\x80",
                                       "\xf4\x90\x80\x80",
                                       "\xf5\x80\x80\x80",
                                       "\xe2\x82",
                                       "\xff",
                                       "\xc3(" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(validate_utf8(bad[i], strlen(bad[i])));
}
