/* The JSON objects of `run`: their members are promises to scripts. */
#include <string.h>

#include "tools/ringlet/answer.h"
#include "tools/ringlet/json_out.h"

static void put_tops(const struct ringlet_top *tops, uint32_t n)
{
    putchar('[');
    for (uint32_t k = 0; k < n && tops[k].id != UINT32_MAX; k++) {
        printf("%s[%u,", k ? "," : "", tops[k].id);
        out_float(stdout, tops[k].logprob);
        putchar(']');
    }
    putchar(']');
}

/* The prompt's first token has no logprob: null. */
static void put_logprobs(const struct token_list *list, size_t from, size_t to, bool prompt)
{
    putchar('[');
    for (size_t i = from; i < to; i++) {
        if (i > from)
            putchar(',');
        if (prompt && (i == 0 || list->logprobs[i] != list->logprobs[i])) {
            fputs("null", stdout);
            continue;
        }
        printf("{\"id\":%u,\"logprob\":", list->ids[i]);
        out_float(stdout, list->logprobs[i]);
        fputs(",\"top\":", stdout);
        put_tops(list->tops + i * list->n_top, list->n_top);
        putchar('}');
    }
    putchar(']');
}

static const struct {
    uint32_t offset;
    const char *name;
} fields[] = {
    { offsetof(struct ringlet_sqe, flags), "flags" },
    { offsetof(struct ringlet_sqe, slot), "slot" },
    { offsetof(struct ringlet_sqe, model), "model" },
    { offsetof(struct ringlet_sqe, input_off), "input_off" },
    { offsetof(struct ringlet_sqe, input_bytes), "input_bytes" },
    { offsetof(struct ringlet_sqe, block_off), "block_off" },
    { offsetof(struct ringlet_sqe, block_bytes), "block_bytes" },
    { offsetof(struct ringlet_sqe, input_kind), "input_kind" },
    { offsetof(struct ringlet_sqe, max_tokens), "max_tokens" },
    { offsetof(struct ringlet_sqe, must_understand), "must_understand" },
    { offsetof(struct ringlet_sqe, total_deadline_ns), "total_deadline_ns" },
    { offsetof(struct ringlet_sqe, handle), "handle" },
#define BLOCK_FIELD(field)                                                                         \
    {                                                                                              \
        64 + offsetof(struct ringlet_block, field), #field                                         \
    }
    BLOCK_FIELD(block_bytes),
    BLOCK_FIELD(set),
    BLOCK_FIELD(seed),
    BLOCK_FIELD(temperature),
    BLOCK_FIELD(top_p),
    BLOCK_FIELD(min_p),
    BLOCK_FIELD(top_k),
    BLOCK_FIELD(presence_penalty),
    BLOCK_FIELD(frequency_penalty),
    BLOCK_FIELD(repetition_penalty),
    BLOCK_FIELD(min_tokens),
    BLOCK_FIELD(n),
    BLOCK_FIELD(logprobs),
    BLOCK_FIELD(prompt_logprobs),
    BLOCK_FIELD(flags),
    BLOCK_FIELD(queue_deadline_ns),
    BLOCK_FIELD(lease_ns),
    BLOCK_FIELD(first_token_deadline_ns),
    BLOCK_FIELD(stop),
    BLOCK_FIELD(stop_token_ids),
    BLOCK_FIELD(logit_bias),
    BLOCK_FIELD(structure),
    BLOCK_FIELD(group),
    BLOCK_FIELD(structure_kind),
    BLOCK_FIELD(repetition_min),
    BLOCK_FIELD(repetition_max),
    BLOCK_FIELD(repetition_count),
    BLOCK_FIELD(reserved),
    BLOCK_FIELD(beam_width),
    BLOCK_FIELD(early_stopping),
    BLOCK_FIELD(length_penalty),
};

static const char *field_name(uint32_t offset)
{
    for (size_t i = 0; i < ARRAY_SIZE(fields); i++) {
        if (fields[i].offset == offset)
            return fields[i].name;
    }
    return NULL;
}

/* What a person may do about it. */
static const char *hint(uint32_t error)
{
    switch (error) {
    case RINGLET_ERROR_BAD_UTF8:
        return "the text is not UTF-8";
    case RINGLET_ERROR_BAD_TOKEN:
        return "a token id beyond the vocabulary";
    case RINGLET_ERROR_BAD_TEMPLATE:
        return "the model's chat template cannot take these messages";
    case RINGLET_ERROR_TOO_LONG:
        return "the prompt is longer than the model's context";
    case RINGLET_ERROR_TOO_BIG:
        return "the prompt is larger than the KV memory";
    case RINGLET_ERROR_DRAINING:
        return "the daemon is shutting down";
    case RINGLET_ERROR_OVER_QUOTA:
        return "this user's share is used up";
    default:
        return NULL;
    }
}

const char *answer_error_text(unsigned reason, uint32_t detail, uint32_t field, char *text,
                              size_t bytes)
{
    text[0] = '\0';
    if (reason == RINGLET_REASON_DEADLINE)
        snprintf(text, bytes, "%s", detail == 1 ? "it could not be met" : "expired");
    if (reason != RINGLET_REASON_REJECTED && reason != RINGLET_REASON_ERROR_REQUEST)
        return text;
    const char *name = field_name(field), *what = hint(detail);
    if (detail == RINGLET_ERROR_OVER_QUOTA && name && strcmp(name, "beam_width") == 0)
        what = "beam_width: more than may run at once";
    if (detail == RINGLET_ERROR_BAD_FIELD && name)
        snprintf(text, bytes, "bad_field: %s", name);
    else if (detail == RINGLET_ERROR_BAD_FIELD)
        snprintf(text, bytes, "bad_field at offset %u", field);
    else
        snprintf(text, bytes, "%s%s%s", ringlet_error_name(detail), what ? ": " : "",
                 what ? what : "");
    return text;
}

/* "finish_reason", "stop", and "error" where there is one. */
static void put_reason(const struct answer *a, unsigned reason, uint32_t detail, uint32_t field)
{
    printf(",\"finish_reason\":\"%s\",\"stop\":", ringlet_reason_name(reason));
    if (reason == RINGLET_REASON_STOP_STRING && detail < a->request->n_stop)
        out_string(stdout, a->request->stop[detail].text, a->request->stop[detail].bytes);
    else if (reason == RINGLET_REASON_STOP_TOKEN)
        printf("%u", detail);
    else
        fputs("null", stdout);
    if (reason == RINGLET_REASON_REJECTED || reason == RINGLET_REASON_ERROR_REQUEST) {
        const char *name = field_name(field);
        printf(",\"error\":\"%s\"", ringlet_error_name(detail));
        if (detail == RINGLET_ERROR_BAD_FIELD && name)
            printf(",\"field\":\"%s\"", name);
    }
}

/*
 * The daemon's figures come with END; a sequence that ends before the others gets what this
 * process's clock saw.
 */
static void put_totals(const struct answer *a, const struct sequence *seq, bool last)
{
    uint64_t queue = 0, prefill = 0, decode = 0, first = 0, total = 0;
    if (last && a->has_totals) {
        queue = a->totals.queue_ns;
        prefill = a->totals.prefill_ns;
        decode = a->totals.decode_ns;
        first = a->totals.first_token_ns;
        total = a->totals.total_ns;
    } else {
        total = a->end_ns - a->submit_ns;
        queue = a->accepted_ns ? a->accepted_ns - a->submit_ns : total;
        if (seq && seq->first_token_ns) {
            first = seq->first_token_ns - a->submit_ns;
            prefill = seq->first_token_ns - a->accepted_ns;
            decode = a->end_ns - seq->first_token_ns;
        }
    }
    printf(",\"usage\":{\"prompt_tokens\":%u,\"cached_tokens\":%u,\"completion_tokens\":%zu}",
           a->prompt_tokens, a->cached_tokens, seq ? seq->tokens.n : 0);
    printf(",\"timing\":{\"queue_ns\":%llu,\"prefill_ns\":%llu,\"decode_ns\":%llu,"
           "\"first_token_ns\":%llu,\"total_ns\":%llu}",
           (unsigned long long)queue, (unsigned long long)prefill, (unsigned long long)decode,
           (unsigned long long)first, (unsigned long long)total);
}

void answer_json_sequence(const struct answer *a, uint32_t index, bool last)
{
    const struct sequence *seq = &a->sequences[index];
    fputs("{\"model\":", stdout);
    out_string(stdout, a->session->model.name, strlen(a->session->model.name));
    printf(",\"index\":%u,\"text\":", index);
    out_string(stdout, seq->text.data, seq->text.bytes);
    fputs(",\"tokens\":", stdout);
    out_ids(stdout, seq->tokens.ids, seq->tokens.n);
    put_reason(a, seq->reason, seq->detail, seq->error_field);
    printf(",\"seed\":%llu", (unsigned long long)a->seed);
    if (a->request->beam_width) {
        fputs(",\"cumulative_logprob\":", stdout);
        out_float(stdout, seq->cumulative_logprob);
    }
    if (a->request->logprobs != RINGLET_UNSET) {
        fputs(",\"logprobs\":", stdout);
        put_logprobs(&seq->tokens, 0, seq->tokens.n, false);
    }
    if (a->request->prompt_logprobs != RINGLET_UNSET) {
        fputs(",\"prompt_logprobs\":", stdout);
        put_logprobs(&a->prompt, 0, a->prompt.n, true);
    }
    put_totals(a, seq, last);
    fputs("}\n", stdout);
    fflush(stdout);
}

static void put_accepted(const struct answer *a)
{
    fputs("\"accepted\",\"model\":", stdout);
    out_string(stdout, a->session->model.name, strlen(a->session->model.name));
    printf(",\"seed\":%llu,\"prompt_tokens\":%u,\"cached_tokens\":%u", (unsigned long long)a->seed,
           a->prompt_tokens, a->cached_tokens);
}

static void put_tokens(const struct token_list *list, const struct ringlet_event *ev, bool prompt)
{
    printf("\"%s\",\"index\":%u,\"position\":%u,\"tokens\":", prompt ? "prompt" : "tokens",
           ev->index, ev->position);
    out_ids(stdout, ev->tokens, ev->n_token);
    if (!prompt) {
        fputs(",\"text\":", stdout);
        out_string(stdout, ev->text, ev->text_bytes);
    }
    if (ev->logprobs) {
        fputs(",\"logprobs\":", stdout);
        put_logprobs(list, list->n - ev->n_token, list->n, prompt);
    }
}

void answer_json_event(const struct answer *a, const struct ringlet_event *ev)
{
    bool end = ev->flags & RINGLET_CQE_END;
    fputs("{\"event\":", stdout);
    switch (ev->kind) {
    case RINGLET_KIND_ACCEPTED:
        put_accepted(a);
        break;
    case RINGLET_KIND_PROMPT:
        put_tokens(&a->prompt, ev, true);
        break;
    case RINGLET_KIND_TOKENS:
        put_tokens(&a->sequences[ev->index < a->n ? ev->index : 0].tokens, ev, false);
        break;
    default:
        printf("\"finished\",\"index\":");
        if (ev->index == RINGLET_INDEX_ALL)
            fputs("null", stdout);
        else
            printf("%u", ev->index);
        put_reason(a, ev->reason, ev->detail, ev->error_field);
        if (a->request->beam_width) {
            fputs(",\"cumulative_logprob\":", stdout);
            out_float(stdout, ev->cumulative_logprob);
        }
        if (end && ev->annex) {
            const struct ringlet_annex *t = ev->annex;
            printf(",\"usage\":{\"prompt_tokens\":%u,\"cached_tokens\":%u,"
                   "\"completion_tokens\":%u}",
                   t->total_prompt_tokens, t->total_cached_tokens, t->completion_tokens);
            printf(",\"timing\":{\"queue_ns\":%llu,\"prefill_ns\":%llu,\"decode_ns\":%llu,"
                   "\"first_token_ns\":%llu,\"total_ns\":%llu}",
                   (unsigned long long)t->queue_ns, (unsigned long long)t->prefill_ns,
                   (unsigned long long)t->decode_ns, (unsigned long long)t->first_token_ns,
                   (unsigned long long)t->total_ns);
        }
        printf(",\"end\":%s", end ? "true" : "false");
    }
    fputs("}\n", stdout);
    fflush(stdout);
}
