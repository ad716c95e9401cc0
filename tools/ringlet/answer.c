/* The event loop of one request. Everything that an event points at is copied before it goes back.
 */
#include "tools/ringlet/answer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void list_add(struct token_list *list, const struct ringlet_event *ev)
{
    size_t need = list->n + ev->n_token;
    if (ev->n_token == 0)
        return;
    if (list->n == 0)
        list->n_top = ev->n_top;
    list->has_logprobs |= ev->logprobs != NULL;
    if (need > list->n_max) {
        list->n_max = max_of(need, 2 * list->n_max);
        list->ids = tool_realloc(list->ids, list->n_max, sizeof(*list->ids));
        list->logprobs = tool_realloc(list->logprobs, list->n_max, sizeof(*list->logprobs));
        if (list->n_top)
            list->tops = tool_realloc(list->tops, list->n_max * list->n_top, sizeof(*list->tops));
    }
    memcpy(list->ids + list->n, ev->tokens, ev->n_token * sizeof(*list->ids));
    for (uint32_t i = 0; i < ev->n_token; i++) {
        size_t row = list->n + i;
        list->logprobs[row] = ev->logprobs ? ev->logprobs[i] : 0;
        for (uint32_t k = 0; k < list->n_top; k++)
            list->tops[row * list->n_top + k] = ev->tops && k < ev->n_top
                                                    ? ev->tops[(size_t)i * ev->n_top + k]
                                                    : (struct ringlet_top){ UINT32_MAX, 0 };
    }
    list->n = need;
}

static void print_text(struct answer *a, const char *text, size_t bytes)
{
    if (bytes == 0 || a->unwritable)
        return;
    if (fwrite(text, 1, bytes, stdout) != bytes || fflush(stdout) != 0) {
        a->unwritable = true; /* the reader has gone: stop the model too */
        raise(SIGINT);
    }
}

static void take_finished(struct answer *a, const struct ringlet_event *ev)
{
    bool last = ev->flags & RINGLET_CQE_END;
    if (last && ev->annex) {
        a->totals = *ev->annex;
        a->has_totals = true;
        if (a->prompt_tokens == 0) {
            a->prompt_tokens = ev->annex->total_prompt_tokens;
            a->cached_tokens = ev->annex->total_cached_tokens;
        }
    }
    a->end_ns = tool_now_ns();
    for (uint32_t i = 0; i < a->n; i++) {
        struct sequence *seq = &a->sequences[i];
        if (seq->ended || (ev->index != i && ev->index != RINGLET_INDEX_ALL))
            continue;
        seq->ended = true;
        seq->reason = ev->reason;
        seq->detail = ev->detail;
        seq->error_field = ev->error_field;
        seq->cumulative_logprob = ev->cumulative_logprob;
        if (a->mode & ANSWER_JSON)
            answer_json_sequence(a, i, last);
    }
}

static void take_event(struct answer *a, const struct ringlet_event *ev)
{
    struct sequence *seq = ev->index < a->n ? &a->sequences[ev->index] : NULL;
    switch (ev->kind) {
    case RINGLET_KIND_ACCEPTED:
        a->accepted_ns = tool_now_ns();
        if (ev->annex) {
            a->prompt_tokens = ev->annex->prompt_tokens;
            a->cached_tokens = ev->annex->cached_tokens;
            memcpy(&a->seed, ev->annex->effective + offsetof(struct ringlet_block, seed),
                   sizeof(a->seed));
        }
        break;
    case RINGLET_KIND_PROMPT:
        list_add(&a->prompt, ev);
        break;
    case RINGLET_KIND_TOKENS:
        if (!seq)
            break;
        if (seq->first_token_ns == 0)
            seq->first_token_ns = tool_now_ns();
        list_add(&seq->tokens, ev);
        tool_append(&seq->text, ev->text, ev->text_bytes);
        if ((a->mode & ANSWER_PRINT) && a->n == 1)
            print_text(a, ev->text, ev->text_bytes);
        break;
    default:
        break;
    }
    if (a->mode & ANSWER_STREAM)
        answer_json_event(a, ev);
    if (ev->kind == RINGLET_KIND_FINISHED)
        take_finished(a, ev);
}

static int submit(struct answer *a, uint64_t *ret_id)
{
    a->submit_ns = tool_now_ns();
    int error = ringlet_submit(a->session->client, a->request, ret_id);
    if (error == -EPIPE)
        return session_lost(a->session, error);
    if (error == -EMSGSIZE)
        return tool_say(TOOL_FAILED, "the prompt is larger than this daemon takes");
    if (error)
        return tool_say(TOOL_FAILED, "the request was not taken: %s", ringlet_strerror(error));
    return 0;
}

/* Until END. */
static int take_events(struct answer *a, uint64_t id)
{
    for (bool end = false; !end;) {
        struct ringlet_event ev;
        if (tool_interrupts && !a->cancelled) {
            a->cancelled = true;
            ringlet_cancel(a->session->client, id);
        }
        if (tool_interrupts > 1)
            return TOOL_INTERRUPTED;
        int error = ringlet_wait(a->session->client, &ev, RINGLET_FOREVER);
        if (error == -EINTR)
            continue;
        if (error == -ETIMEDOUT)
            return tool_say(TOOL_NO_DAEMON, "the daemon stands still (no pass for 5 seconds)");
        if (error)
            return session_lost(a->session, error);
        if (ev.id != id) {
            ringlet_advance(a->session->client);
            continue;
        }
        take_event(a, &ev);
        end = ev.flags & RINGLET_CQE_END;
        ringlet_advance(a->session->client);
    }
    return 0;
}

/* The exit status that the reasons give, after naming the first that is not a normal end. */
static uint64_t kv_blocks(const struct answer *a)
{
    struct ringlet_counter c;
    for (uint32_t i = 0; ringlet_stat_at(a->session->client, i, &c) == 0; i++) {
        if (c.model == a->session->model.index && strcmp(c.name, "kv_blocks_total") == 0)
            return __atomic_load_n(&c.values[0], __ATOMIC_RELAXED);
    }
    return 0;
}

/* How much too much it was. */
static void add_figures(const struct answer *a, const struct sequence *seq, char *text,
                        size_t bytes)
{
    const struct ringlet_annex *t = &a->totals;
    size_t n = strlen(text);
    if (!a->has_totals)
        return;
    if (seq->reason == RINGLET_REASON_DEADLINE && t->estimate_ns)
        snprintf(text + n, bytes - n, ", it would take %.1f ms", (double)t->estimate_ns / 1e6);
    if (seq->reason != RINGLET_REASON_REJECTED)
        return;
    if (seq->detail == RINGLET_ERROR_TOO_BIG && t->kv_blocks_peak)
        snprintf(text + n, bytes - n, ": %u tokens need %u blocks of %u, there are %llu",
                 t->total_prompt_tokens, t->kv_blocks_peak, a->session->model.kv_block_tokens,
                 (unsigned long long)kv_blocks(a));
    if (seq->detail == RINGLET_ERROR_TOO_LONG && t->total_prompt_tokens)
        snprintf(text + n, bytes - n, ": %u tokens, and the context is %u", t->total_prompt_tokens,
                 a->session->model.context);
}

static int judge(const struct answer *a)
{
    char text[256];
    if (a->unwritable)
        return tool_say(TOOL_FAILED, "cannot write the answer: %s", strerror(EPIPE));
    if (a->cancelled)
        return TOOL_INTERRUPTED;
    for (uint32_t i = 0; i < a->n; i++) {
        const struct sequence *seq = &a->sequences[i];
        if (seq->ended && seq->reason < 16)
            continue;
        if (seq->reason == RINGLET_REASON_DAEMON_LOST)
            return session_lost(a->session, -EPIPE);
        answer_error_text(seq->reason, seq->detail, seq->error_field, text, sizeof(text));
        add_figures(a, seq, text, sizeof(text));
        return tool_say(TOOL_FAILED, "the request ended: %s%s%s", ringlet_reason_name(seq->reason),
                        text[0] ? ": " : "", text);
    }
    return TOOL_DONE;
}

int answer_run(struct answer *a, struct session *s, const struct ringlet_request *request,
               unsigned mode)
{
    uint64_t id = 0;
    *a = (struct answer){ .session = s, .request = request, .mode = mode };
    a->n = request->n == RINGLET_UNSET || request->n == 0 ? 1 : min_of(request->n, 64u);
    a->sequences = tool_realloc(NULL, a->n, sizeof(*a->sequences));
    memset(a->sequences, 0, a->n * sizeof(*a->sequences));
    int status = submit(a, &id);
    if (status == 0)
        status = take_events(a, id);
    for (uint32_t i = 0; (mode & ANSWER_PRINT) && a->n > 1 && a->accepted_ns && i < a->n; i++) {
        print_text(a, a->sequences[i].text.data, a->sequences[i].text.bytes);
        print_text(a, "\n", 1);
    }
    const struct tool_buffer *text = &a->sequences[0].text;
    if ((mode & ANSWER_PRINT) && a->n == 1 && text->bytes && text->data[text->bytes - 1] != '\n')
        print_text(a, "\n", 1);
    return status ? status : judge(a);
}

void answer_free(struct answer *a)
{
    for (uint32_t i = 0; i < a->n; i++) {
        free(a->sequences[i].text.data);
        free(a->sequences[i].tokens.ids);
        free(a->sequences[i].tokens.logprobs);
        free(a->sequences[i].tokens.tops);
    }
    free(a->sequences);
    free(a->prompt.ids);
    free(a->prompt.logprobs);
    free(a->prompt.tops);
    *a = (struct answer){ 0 };
}

static double per_second(double n, uint64_t ns)
{
    return ns ? n * 1e9 / (double)ns : 0;
}

void answer_figures(const struct answer *a)
{
    const struct ringlet_annex *t = &a->totals;
    uint32_t computed = t->total_prompt_tokens - t->total_cached_tokens;
    if (!a->has_totals || t->completion_tokens == 0)
        return;
    fprintf(stderr, "prompt: %u tokens (%u cached) in %.3f s, %.1f tokens/s\n",
            t->total_prompt_tokens, t->total_cached_tokens, (double)t->prefill_ns * 1e-9,
            per_second(computed, t->prefill_ns));
    fprintf(
        stderr, "answer: %u tokens in %.3f s, %.1f tokens/s\n", t->completion_tokens,
        (double)t->decode_ns * 1e-9,
        /* the first token of each sequence comes out of prefill */
        per_second(t->completion_tokens > a->n ? t->completion_tokens - a->n : 0, t->decode_ns));
    fprintf(stderr, "first token after %.3f s, all after %.3f s (%s, %s)\n",
            (double)t->first_token_ns * 1e-9, (double)t->total_ns * 1e-9, a->session->model.name,
            ringlet_reason_name(a->sequences[0].reason));
}
