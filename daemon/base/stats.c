/* Lays the table of ringlet_board.h out once; from then on values are plain relaxed stores. */
#include "daemon/base/stats.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/compiler.h"

static const char *const daemon_names[STATS_N_DAEMON] = {
    [STATS_CLIENTS] = "clients",
    [STATS_OBSERVERS] = "observers",
    [STATS_HOT_SESSIONS] = "hot_sessions",
    [STATS_SESSIONS] = "sessions",
    [STATS_SESSIONS_DROPPED] = "sessions_dropped",
    [STATS_PROTOCOL_ERRORS] = "protocol_errors",
    [STATS_BELLS_UP] = "bells_up",
    [STATS_BELLS_DOWN] = "bells_down",
    [STATS_PASSES] = "passes",
    [STATS_SLEEPS] = "sleeps",
    [STATS_PROMPT_POOL_BYTES] = "prompt_pool_bytes",
    [STATS_PROMPT_POOL_USED] = "prompt_pool_used",
};

static const char *const model_names[STATS_N_MODEL] = {
    [STATS_RUNNING] = "running",
    [STATS_QUEUED] = "queued",
    [STATS_KV_TOTAL] = "kv_blocks_total",
    [STATS_KV_FREE] = "kv_blocks_free",
    [STATS_KV_CACHED] = "kv_blocks_cached",
    [STATS_KV_PINNED] = "kv_blocks_pinned",
    [STATS_HANDLES] = "handles",
    [STATS_HOST_KV_TOTAL] = "host_kv_blocks_total",
    [STATS_HOST_KV_USED] = "host_kv_blocks_used",
    [STATS_KV_OWNED] = "kv_blocks_owned",
    [STATS_ACCEPTED] = "requests_accepted",
    [STATS_FINISHED] = "requests_finished",
    [STATS_PROMPT_TOKENS] = "prompt_tokens",
    [STATS_CACHED_TOKENS] = "cached_tokens",
    [STATS_COMPLETION_TOKENS] = "completion_tokens",
    [STATS_STEPS] = "steps",
    [STATS_PREEMPTIONS] = "preemptions",
    [STATS_EVICTED_BLOCKS] = "evicted_blocks",
    [STATS_SWAPPED_OUT_BLOCKS] = "swapped_out_blocks",
    [STATS_SWAPPED_IN_BLOCKS] = "swapped_in_blocks",
    [STATS_PREFIX_QUERIES] = "prefix_cache_queries",
    [STATS_PREFIX_HITS] = "prefix_cache_hits",
};

static const char *const histogram_names[STATS_N_HISTOGRAM] = {
    [STATS_QUEUE_NS] = "queue_ns",
    [STATS_FIRST_TOKEN_NS] = "first_token_ns",
    [STATS_TOKEN_INTERVAL_NS] = "token_interval_ns",
    [STATS_TOTAL_NS] = "total_ns",
    [STATS_PREFILL_NS] = "prefill_ns",
    [STATS_DECODE_NS] = "decode_ns",
    [STATS_INFERENCE_NS] = "inference_ns",
    [STATS_PER_OUTPUT_TOKEN_NS] = "time_per_output_token_ns",
};

static const char *const whole_names[STATS_N_WHOLE] = {
    [STATS_REQUEST_PROMPT_TOKENS] = "request_prompt_tokens",
    [STATS_REQUEST_GENERATION_TOKENS] = "request_generation_tokens",
    [STATS_REQUEST_MAX_GENERATION_TOKENS] = "request_max_num_generation_tokens",
    [STATS_REQUEST_N] = "request_params_n",
    [STATS_REQUEST_MAX_TOKENS] = "request_params_max_tokens",
    [STATS_REQUEST_COMPUTED_TOKENS] = "request_prefill_kv_computed_tokens",
    [STATS_REQUEST_PREEMPTIONS] = "request_num_preemptions",
    [STATS_ITERATION_TOKENS] = "iteration_tokens",
    [STATS_STEP_NS] = "step_ns",
};

static const struct {
    uint16_t reason;
    const char *name;
} reasons[STATS_N_REASON] = {
    { RINGLET_REASON_DONE, "done" },
    { RINGLET_REASON_STOP_EOS, "stop_eos" },
    { RINGLET_REASON_STOP_TOKEN, "stop_token" },
    { RINGLET_REASON_STOP_STRING, "stop_string" },
    { RINGLET_REASON_LENGTH, "length" },
    { RINGLET_REASON_CONTEXT, "context" },
    { RINGLET_REASON_REPETITION, "repetition" },
    { RINGLET_REASON_CANCELLED, "cancelled" },
    { RINGLET_REASON_DEADLINE, "deadline" },
    { RINGLET_REASON_SLOW_CLIENT, "slow_client" },
    { RINGLET_REASON_REJECTED, "rejected" },
    { RINGLET_REASON_OVERLOAD, "overload" },
    { RINGLET_REASON_ERROR_REQUEST, "error_request" },
    { RINGLET_REASON_ERROR_ENGINE, "error_engine" },
};

int stats_reason_index(uint16_t reason)
{
    for (int i = 0; i < STATS_N_REASON; i++)
        if (reasons[i].reason == reason)
            return i;
    return -1;
}

/* Where the next description and the next value go. */
struct cursor {
    uint8_t *board;
    struct ringlet_stat *stat, *stat_end;
    size_t value_off, board_bytes;
    bool full;
};

static uint64_t *describe(struct cursor *c, const char *name, enum ringlet_stat_kind kind,
                          int model, int urgency_class)
{
    uint32_t n = kind == RINGLET_STAT_HISTOGRAM ? RINGLET_STAT_HISTOGRAM_VALUES : 1;
    if (c->stat == c->stat_end || c->board_bytes - c->value_off < n * sizeof(uint64_t)) {
        c->full = true;
        return NULL;
    }
    struct ringlet_stat *stat = c->stat++;
    snprintf(stat->name, sizeof(stat->name), "%s", name);
    stat->kind = (uint8_t)kind;
    stat->model = model < 0 ? RINGLET_STAT_ANY : (uint8_t)model;
    stat->urgency_class = urgency_class < 0 ? RINGLET_STAT_ANY : (uint8_t)urgency_class;
    stat->value_off = (uint32_t)c->value_off;
    stat->n_value = n;
    uint64_t *value = (uint64_t *)(void *)(c->board + c->value_off);
    c->value_off += n * sizeof(uint64_t);
    return value;
}

static void describe_model(struct cursor *c, struct stats_of_model *m, int model)
{
    char name[40];
    for (int i = 0; i < STATS_N_MODEL; i++)
        m->value[i] =
            describe(c, model_names[i],
                     i <= STATS_KV_OWNED ? RINGLET_STAT_GAUGE : RINGLET_STAT_COUNTER, model, -1);
    for (int i = 0; i < STATS_N_REASON; i++) {
        snprintf(name, sizeof(name), "finished_%s", reasons[i].name);
        m->reason[i] = describe(c, name, RINGLET_STAT_COUNTER, model, -1);
    }
    for (int u = 0; u < RINGLET_URGENCY_CLASSES; u++)
        for (int i = 0; i < STATS_N_HISTOGRAM; i++)
            m->histogram[u][i] = describe(c, histogram_names[i], RINGLET_STAT_HISTOGRAM, model, u);
    for (int i = 0; i < STATS_N_WHOLE; i++)
        m->whole[i] = describe(c, whole_names[i], RINGLET_STAT_HISTOGRAM, model, -1);
}

int stats_init(struct stats *s, void *board, size_t board_bytes, int n_model)
{
    if (n_model < 0 || n_model > RINGLET_MODELS_MAX)
        return -EINVAL;
    size_t n_stat =
        STATS_N_DAEMON + (size_t)n_model * (STATS_N_MODEL + STATS_N_REASON + STATS_N_WHOLE +
                                            RINGLET_URGENCY_CLASSES * STATS_N_HISTOGRAM);
    size_t first = RINGLET_BOARD_STATS_OFF + sizeof(struct ringlet_board_stats);
    size_t values = first + n_stat * sizeof(struct ringlet_stat);
    if (values > board_bytes)
        return -ENOSPC;
    struct ringlet_board_stats *head =
        (struct ringlet_board_stats *)(void *)((uint8_t *)board + RINGLET_BOARD_STATS_OFF);
    struct ringlet_stat *stat = (struct ringlet_stat *)(void *)(head + 1);
    struct cursor c = { board, stat, stat + n_stat, values, board_bytes, false };

    memset(s, 0, sizeof(*s));
    for (int i = 0; i < STATS_N_DAEMON; i++) {
        bool gauge = i <= STATS_HOT_SESSIONS || i >= STATS_PROMPT_POOL_BYTES;
        s->daemon[i] = describe(&c, daemon_names[i],
                                gauge ? RINGLET_STAT_GAUGE : RINGLET_STAT_COUNTER, -1, -1);
    }
    for (int m = 0; m < n_model; m++)
        describe_model(&c, &s->model[m], m);
    if (c.full)
        return -ENOSPC;
    head->stat_bytes = sizeof(struct ringlet_stat);
    store_release(&head->n_stat, (uint32_t)n_stat); /* pairs with a tool's load_acquire */
    return 0;
}
