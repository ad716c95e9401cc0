/* One table holds every request option; getopt_long's table and the help are made from it. */
#include "tools/ringlet/options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"

enum kind {
    KIND_U32,
    KIND_U64,
    KIND_FLOAT,
    KIND_URGENCY,
    KIND_FLAG,   /* a bit of request.options */
    KIND_BOOL,   /* a bool of run_options */
    KIND_STRING, /* a const char * of run_options */
    KIND_MS,     /* a uint64_t of run_options */
    KIND_BEAM_WIDTH,
    KIND_LENGTH_PENALTY,
    KIND_EARLY_STOPPING,
    KIND_GROUP,
    KIND_STOP,
    KIND_STOP_IDS,
    KIND_BIAS,
    KIND_HELP,
    KIND_VERSION,
};

#define REQUEST(field)                                                                             \
    (uint16_t)(offsetof(struct run_options, request) + offsetof(struct ringlet_request, field))
#define OPTION(field) (uint16_t) offsetof(struct run_options, field)

#define IN_ALL        (OPTIONS_RUN | OPTIONS_CHAT | OPTIONS_QUERY)

static const struct entry {
    const char *name;
    uint8_t kind;
    uint8_t of; /* enum options_of */
    uint16_t offset, bit;
    const char *value, *help;
} entries[] = {
    { "model", KIND_STRING, IN_ALL, OPTION(model), 0, "NAME|PATH",
      "a served model, default the first; a path starts a private daemon" },
    { "socket", KIND_STRING, IN_ALL, OPTION(socket), 0, "PATH", "the daemon's socket" },
    { "system", KIND_STRING, IN_ALL, OPTION(system), 0, "TEXT",
      "system message before the prompt" },
    { "raw", KIND_BOOL, OPTIONS_RUN | OPTIONS_QUERY, OPTION(raw), 0, NULL,
      "send the text as it stands, no template" },
    { "tokens", KIND_STRING, OPTIONS_RUN | OPTIONS_QUERY, OPTION(tokens), 0, "IDS|@FILE",
      "send token ids in place of a prompt" },
    { "json", KIND_BOOL, OPTIONS_RUN | OPTIONS_QUERY, OPTION(json), 0, NULL,
      "one JSON object per sequence, when it ends" },
    { "stream-json", KIND_BOOL, OPTIONS_RUN, OPTION(stream_json), 0, NULL,
      "one JSON object per event" },
    { "quiet", KIND_BOOL, OPTIONS_RUN | OPTIONS_CHAT, OPTION(quiet), 0, NULL,
      "no figures on stderr" },
    { "max-tokens", KIND_U32, OPTIONS_RUN | OPTIONS_CHAT, REQUEST(max_tokens), 0, "N",
      "tokens per sequence; 0 only scores the prompt" },
    { "min-tokens", KIND_U32, OPTIONS_RUN | OPTIONS_CHAT, REQUEST(min_tokens), 0, "N",
      "no end before so many" },
    { "temperature", KIND_FLOAT, OPTIONS_RUN | OPTIONS_CHAT, REQUEST(temperature), 0, "T",
      "0 to 2; 0 is greedy" },
    { "top-k", KIND_U32, OPTIONS_RUN | OPTIONS_CHAT, REQUEST(top_k), 0, "K", "0 is all" },
    { "top-p", KIND_FLOAT, OPTIONS_RUN | OPTIONS_CHAT, REQUEST(top_p), 0, "P", "above 0, up to 1" },
    { "min-p", KIND_FLOAT, OPTIONS_RUN | OPTIONS_CHAT, REQUEST(min_p), 0, "P", "0 to 1" },
    { "presence-penalty", KIND_FLOAT, OPTIONS_RUN | OPTIONS_CHAT, REQUEST(presence_penalty), 0, "X",
      "-2 to 2" },
    { "frequency-penalty", KIND_FLOAT, OPTIONS_RUN | OPTIONS_CHAT, REQUEST(frequency_penalty), 0,
      "X", "-2 to 2" },
    { "repetition-penalty", KIND_FLOAT, OPTIONS_RUN | OPTIONS_CHAT, REQUEST(repetition_penalty), 0,
      "X", "above 0, up to 2" },
    { "seed", KIND_U64, OPTIONS_RUN | OPTIONS_CHAT, REQUEST(seed), 0, "N", "of the sampler" },
    { "stop", KIND_STOP, OPTIONS_RUN | OPTIONS_CHAT, 0, 0, "TEXT",
      "end before this text; repeatable" },
    { "stop-token-ids", KIND_STOP_IDS, OPTIONS_RUN | OPTIONS_CHAT, 0, 0, "IDS",
      "end at one of these tokens" },
    { "include-stop", KIND_FLAG, OPTIONS_RUN | OPTIONS_CHAT, 0, RINGLET_BLOCK_INCLUDE_STOP, NULL,
      "the stop text stays in the answer" },
    { "ignore-eos", KIND_FLAG, OPTIONS_RUN | OPTIONS_CHAT, 0, RINGLET_BLOCK_IGNORE_EOS, NULL,
      "go on behind the end token" },
    { "deterministic", KIND_FLAG, OPTIONS_RUN | OPTIONS_CHAT, 0, RINGLET_BLOCK_DETERMINISTIC, NULL,
      "results do not depend on other requests" },
    { "logit-bias", KIND_BIAS, OPTIONS_RUN | OPTIONS_CHAT, 0, 0, "ID=BIAS,...",
      "-100 to 100 each" },
    { "n", KIND_U32, OPTIONS_RUN, REQUEST(n), 0, "N", "sequences from one prompt" },
    { "beam-width", KIND_BEAM_WIDTH, OPTIONS_RUN | OPTIONS_CHAT, 0, 0, "N",
      "beam search, 1 to 10; --n of them are told" },
    { "length-penalty", KIND_LENGTH_PENALTY, OPTIONS_RUN | OPTIONS_CHAT, 0, 0, "X",
      "beams are ranked by logprobs / tokens ^ X" },
    { "early-stopping", KIND_EARLY_STOPPING, OPTIONS_RUN | OPTIONS_CHAT, 0, 0, "true|false|never",
      "when a beam search may end, default false" },
    { "logprobs", KIND_U32, OPTIONS_RUN, REQUEST(logprobs), 0, "K",
      "and the K best of each token" },
    { "prompt-logprobs", KIND_U32, OPTIONS_RUN, REQUEST(prompt_logprobs), 0, "K",
      "the same of the prompt" },
    { "urgency", KIND_URGENCY, OPTIONS_RUN | OPTIONS_CHAT, REQUEST(urgency), 0, "0..255",
      "default 128" },
    { "deadline", KIND_MS, OPTIONS_RUN | OPTIONS_CHAT, OPTION(total_deadline_ms), 0, "MS",
      "for the whole request" },
    { "first-token-deadline", KIND_MS, OPTIONS_RUN | OPTIONS_CHAT, OPTION(first_token_deadline_ms),
      0, "MS", "until the first token is there" },
    { "queue-deadline", KIND_MS, OPTIONS_RUN | OPTIONS_CHAT, OPTION(queue_deadline_ms), 0, "MS",
      "until it is admitted" },
    { "sharing-group", KIND_GROUP, IN_ALL, 0, 0, "NAME",
      "share the prefix cache with this group's other users" },
    { "help", KIND_HELP, IN_ALL, 0, 0, NULL, "show this" },
    { "version", KIND_VERSION, IN_ALL, 0, 0, NULL, "show the version" },
};

static void show_help(enum options_of of)
{
    if (of == OPTIONS_CHAT)
        puts("usage: ringlet chat [OPTION...]\n\nTalk with a model, turn by turn. A pipe is read a "
             "line a turn. Ctrl-C stops the\nanswer, twice leaves. /reset /system TEXT /save FILE "
             "/fork /back /exit\n");
    else if (of == OPTIONS_QUERY)
        puts(
            "usage: ringlet cache query [OPTION...] [PROMPT|-]\n\nTell how many tokens of a prompt "
            "the daemon has in its prefix cache; nothing is computed.\n");
    else
        puts(
            "usage: ringlet run [OPTION...] [PROMPT|-]\n\nSend one request and print the answer as "
            "it comes. Without PROMPT, or with -, the\nprompt is read from stdin.\n");
    for (size_t i = 0; i < ARRAY_SIZE(entries); i++) {
        const struct entry *entry = &entries[i];
        if (!(entry->of & of))
            continue;
        char left[64];
        snprintf(left, sizeof(left), "--%s%s%s", entry->name, entry->value ? " " : "",
                 entry->value ? entry->value : "");
        printf("  %-28s %s\n", left, entry->help);
    }
    puts("\nExit status: 0 done, 1 the request failed, 2 usage, 3 no daemon or lost, 130 "
         "interrupted.");
}

static int bad_value(const char *name, const char *text, const char *what)
{
    return tool_say(TOOL_USAGE, "--%s %s: %s", name, text, what);
}

static int parse_u64(const struct entry *entry, const char *text, uint64_t max, uint64_t *ret)
{
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (end == text || *end || errno || *text == '-' || v > max) {
        char what[64];
        snprintf(what, sizeof(what), "expected an integer from 0 to %llu", (unsigned long long)max);
        return bad_value(entry->name, text, what);
    }
    *ret = v;
    return -1;
}

/* NaN and infinities are passed on: the daemon names the field that it refuses. */
static int parse_float(const struct entry *entry, const char *text, float *ret)
{
    char *end;
    float v = strtof(text, &end);
    if (end == text || *end)
        return bad_value(entry->name, text, "expected a number");
    *ret = v;
    return -1;
}

int parse_ids(const char *text, const char *option, uint32_t **ret_ids, size_t *ret_n)
{
    struct tool_buffer file = { 0 };
    uint32_t *ids = NULL;
    size_t n = 0, n_max = 0;
    if (text[0] == '@') {
        FILE *from = fopen(text + 1, "re");
        int error = from ? tool_read_all(from, &file) : -errno;
        if (from)
            fclose(from);
        if (error)
            return tool_say(-EINVAL, "%s %s: %s", option, text, strerror(-error));
        tool_append(&file, "", 1);
        text = file.data;
    }
    for (const char *at = text + strspn(text, ", \t\r\n[]"); *at;) {
        char *end;
        errno = 0;
        unsigned long long id = strtoull(at, &end, 10);
        if (end == at || errno || *at == '-' || id > UINT32_MAX || !strchr(", \t\r\n]", *end)) {
            tool_say(0, "%s: \"%.20s\" is no token id", option, at);
            free(ids);
            free(file.data);
            return -EINVAL;
        }
        if (n == n_max) {
            n_max = n_max ? 2 * n_max : 64;
            ids = tool_realloc(ids, n_max, sizeof(*ids));
        }
        ids[n++] = (uint32_t)id;
        at = end + strspn(end, ", \t\r\n[]");
    }
    free(file.data);
    *ret_ids = ids;
    *ret_n = n;
    return 0;
}

static int parse_bias(struct run_options *o, const char *text)
{
    for (const char *at = text; *at;) {
        char *end, *number;
        errno = 0;
        unsigned long long id = strtoull(at, &end, 10);
        if (end == at || *at == '-' || errno || id > UINT32_MAX || *end != '=')
            return bad_value("logit-bias", text, "expected ID=BIAS,...");
        float bias = strtof(end + 1, &number);
        if (number == end + 1 || (*number && *number != ','))
            return bad_value("logit-bias", text, "expected ID=BIAS,...");
        size_t n = o->request.n_logit_bias++;
        o->logit_bias = tool_realloc(o->logit_bias, n + 1, sizeof(*o->logit_bias));
        o->logit_bias[n] = (struct ringlet_logit_bias){ (uint32_t)id, bias };
        at = *number ? number + 1 : number;
    }
    return -1;
}

static int parse_list(const struct entry *entry, const char *text, struct run_options *o)
{
    if (entry->kind == KIND_BIAS)
        return parse_bias(o, text);
    if (entry->kind == KIND_STOP_IDS) {
        free(o->stop_token_ids);
        o->stop_token_ids = NULL;
        int error =
            parse_ids(text, "--stop-token-ids", &o->stop_token_ids, &o->request.n_stop_token_id);
        return error ? TOOL_USAGE : -1;
    }
    if (o->request.n_stop == TOOL_STOPS_MAX)
        return bad_value(entry->name, text, "too many stop texts");
    o->stops[o->request.n_stop++] = (struct ringlet_text){ text, strlen(text) };
    return -1;
}

static int parse_beam(const struct entry *entry, const char *text, struct run_options *o)
{
    static const char *const stops[] = { [RINGLET_EARLY_STOPPING_FALSE] = "false",
                                         [RINGLET_EARLY_STOPPING_TRUE] = "true",
                                         [RINGLET_EARLY_STOPPING_NEVER] = "never" };
    struct ringlet_request *r = &o->request;
    uint64_t v = 0;
    if (entry->kind == KIND_BEAM_WIDTH) {
        int status = parse_u64(entry, text, UINT16_MAX, &v);
        r->beam_width = (uint16_t)v;
        return status < 0 && v == 0 ? bad_value(entry->name, text, "expected 1 or more") : status;
    }
    if (entry->kind == KIND_LENGTH_PENALTY) {
        r->length_penalty_set = 1;
        return parse_float(entry, text, &r->length_penalty);
    }
    for (size_t i = 0; i < ARRAY_SIZE(stops); i++) {
        if (strcmp(text, stops[i]) == 0) {
            r->early_stopping = (uint8_t)i;
            return -1;
        }
    }
    return bad_value(entry->name, text, "expected true, false or never");
}

static int apply(const struct entry *entry, const char *text, enum options_of of,
                 struct run_options *o)
{
    char *at = (char *)o + entry->offset;
    uint64_t v = 0;
    int status;
    switch (entry->kind) {
    case KIND_U32:
        status = parse_u64(entry, text, UINT32_MAX - 1, &v);
        *(uint32_t *)(void *)at = (uint32_t)v;
        return status;
    case KIND_URGENCY:
        status = parse_u64(entry, text, 255, &v);
        *(uint8_t *)at = (uint8_t)v;
        return status;
    case KIND_U64:
        return parse_u64(entry, text, UINT64_MAX - 1, (uint64_t *)(void *)at);
    case KIND_MS:
        status = parse_u64(entry, text, UINT32_MAX, &v);
        /* 0 ms: already over, but not "none". */
        *(uint64_t *)(void *)at = v ? v : UINT64_MAX;
        return status;
    case KIND_FLOAT:
        return parse_float(entry, text, (float *)(void *)at);
    case KIND_BEAM_WIDTH:
    case KIND_LENGTH_PENALTY:
    case KIND_EARLY_STOPPING:
        return parse_beam(entry, text, o);
    case KIND_GROUP:
        o->request.group = text;
        o->request.group_bytes = strlen(text);
        return -1;
    case KIND_FLAG:
        o->request.options |= entry->bit;
        return -1;
    case KIND_BOOL:
        *(bool *)at = true;
        return -1;
    case KIND_STRING:
        *(const char **)(void *)at = text;
        return -1;
    case KIND_HELP:
        show_help(of);
        return tool_flush() ? TOOL_DONE : TOOL_FAILED;
    case KIND_VERSION:
        puts("ringlet " RINGLET_VERSION);
        return tool_flush() ? TOOL_DONE : TOOL_FAILED;
    default:
        return parse_list(entry, text, o);
    }
}

int run_options_parse(int argc, char **argv, enum options_of of, struct run_options *ret)
{
    struct option table[ARRAY_SIZE(entries) + 1];
    size_t n = 0;
    int found;
    for (size_t i = 0; i < ARRAY_SIZE(entries); i++) {
        if (!(entries[i].of & of))
            continue;
        table[n++] =
            (struct option){ entries[i].name, entries[i].value ? required_argument : no_argument,
                             NULL, (int)i + 256 };
    }
    table[n] = (struct option){ 0 };
    *ret = (struct run_options){ 0 };
    ringlet_request_init(&ret->request);
    optind = 1;
    while ((found = getopt_long(argc, argv, "hq", table, NULL)) >= 0) {
        if (found == 'q') {
            ret->quiet = true;
            continue;
        }
        if (found == 'h') {
            show_help(of);
            return TOOL_DONE;
        }
        if (found == '?')
            return TOOL_USAGE;
        int status = apply(&entries[found - 256], optarg, of, ret);
        if (status >= 0) {
            run_options_free(ret);
            return status;
        }
    }
    ret->request.stop = ret->stops;
    ret->request.stop_token_ids = ret->stop_token_ids;
    ret->request.logit_bias = ret->logit_bias;
    ret->rest = argv + optind;
    ret->n_rest = argc - optind;
    const struct ringlet_request *r = &ret->request;
    if (r->beam_width == 0 && (r->length_penalty_set || r->early_stopping)) {
        run_options_free(ret);
        return tool_say(TOOL_USAGE, "--length-penalty and --early-stopping need --beam-width");
    }
    return -1;
}

void run_options_free(struct run_options *options)
{
    free(options->stop_token_ids);
    free(options->logit_bias);
    options->stop_token_ids = NULL;
    options->logit_bias = NULL;
}

static uint64_t deadline(uint64_t now_ns, uint64_t ms)
{
    return ms == 0 ? 0 : ms == UINT64_MAX ? now_ns : now_ns + ms * 1000000u;
}

void run_options_set_deadlines(struct run_options *options, uint64_t now_ns)
{
    struct ringlet_request *r = &options->request;
    r->queue_deadline_ns = deadline(now_ns, options->queue_deadline_ms);
    r->first_token_deadline_ns = deadline(now_ns, options->first_token_deadline_ms);
    r->total_deadline_ns = deadline(now_ns, options->total_deadline_ms);
}
