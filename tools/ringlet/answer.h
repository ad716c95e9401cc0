/* One request from submission to END: its events are printed, collected, or both. */
#ifndef RINGLET_TOOLS_RINGLET_ANSWER_H
#define RINGLET_TOOLS_RINGLET_ANSWER_H

#include "tools/ringlet/session.h"

enum answer_mode {
    ANSWER_PRINT = 1,  /* text to stdout as it comes; with several sequences when they all ended */
    ANSWER_JSON = 2,   /* an object per sequence when it ends */
    ANSWER_STREAM = 4, /* an object per event */
};

/* Tokens with what is known of them. Row i of tops holds n_top entries. */
struct token_list {
    uint32_t *ids;
    float *logprobs;
    struct ringlet_top *tops;
    size_t n, n_max;
    uint32_t n_top;
    bool has_logprobs;
};

struct sequence {
    struct tool_buffer text;
    struct token_list tokens;
    uint64_t first_token_ns;
    uint32_t detail, error_field;
    uint16_t reason;
    float cumulative_logprob; /* of a beam search's hypothesis */
    bool ended;
};

struct answer {
    struct session *session;
    const struct ringlet_request *request;
    unsigned mode;
    struct sequence *sequences;
    uint32_t n;
    struct token_list prompt;
    uint64_t submit_ns, accepted_ns, end_ns;
    uint64_t seed;
    uint32_t prompt_tokens, cached_tokens;
    struct ringlet_annex totals; /* zero until END */
    bool has_totals, cancelled, unwritable;
};

/*
 * Submit and take all events. Ctrl-C cancels; a second one leaves at once.
 *
 * Returns: exit status: TOOL_DONE, TOOL_FAILED (said why), TOOL_NO_DAEMON, TOOL_INTERRUPTED.
 */
int answer_run(struct answer *a, struct session *s, const struct ringlet_request *request,
               unsigned mode);
void answer_free(struct answer *a);
/* Three lines on stderr: tokens, times, speed. */
void answer_figures(const struct answer *a);

/* answer_json.c */
void answer_json_sequence(const struct answer *a, uint32_t index, bool last);
void answer_json_event(const struct answer *a, const struct ringlet_event *ev);
/* "bad_field: temperature" and the like; "" when there is nothing to add. */
const char *answer_error_text(unsigned reason, uint32_t detail, uint32_t field, char *text,
                              size_t bytes);

#endif
