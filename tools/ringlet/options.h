/* The options of `run` and `chat`: the fields of a request, by the names of the API. */
#ifndef RINGLET_TOOLS_RINGLET_OPTIONS_H
#define RINGLET_TOOLS_RINGLET_OPTIONS_H

#include "tools/ringlet/tool.h"

enum { TOOL_STOPS_MAX = 64 };

struct run_options {
    const char *socket, *model, *system, *tokens;
    bool raw, json, stream_json, quiet;
    struct ringlet_request request; /* n_stop etc. filled in; deadlines not */
    struct ringlet_text stops[TOOL_STOPS_MAX];
    uint32_t *stop_token_ids;
    struct ringlet_logit_bias *logit_bias;
    uint64_t queue_deadline_ms, first_token_deadline_ms, total_deadline_ms; /* 0: none */
    char **rest; /* what follows the options */
    int n_rest;
};

enum options_of { OPTIONS_RUN = 1, OPTIONS_CHAT = 2, OPTIONS_QUERY = 4 };

/*
 * Read a command line.
 *
 *   of   whose: they have not all the same options
 *
 * Returns: -1 go on; else the exit status (help was shown, or a mistake was named).
 */
int run_options_parse(int argc, char **argv, enum options_of of, struct run_options *ret);
void run_options_free(struct run_options *options);
/* The deadlines count from now. */
void run_options_set_deadlines(struct run_options *options, uint64_t now_ns);

/*
 * "1,2,3", also with brackets and blanks, or "@FILE" with the same inside. Owned by the caller.
 * Returns: 0; -EINVAL, after saying what is wrong.
 */
int parse_ids(const char *text, const char *option, uint32_t **ret_ids, size_t *ret_n);

#endif
