/*
 * Counters, gauges and histograms in the BOARD, described there so that any tool finds a value by
 * its name (ringlet_board.h). Totals per model and urgency class, nothing of a single client.
 * The loop is the only writer: relaxed stores, no lock. The names are promises to tools:
 *
 *   whole daemon  clients, observers, hot_sessions, sessions, sessions_dropped, protocol_errors,
 *                 bells_up, bells_down, passes, sleeps, prompt_pool_bytes, prompt_pool_used
 *   per model     running, queued, kv_blocks_total, kv_blocks_free, kv_blocks_cached,
 *                 kv_blocks_owned, requests_accepted, requests_finished, finished_REASON,
 *                 prompt_tokens, cached_tokens, completion_tokens, steps, preemptions,
 *                 evicted_blocks, prefix_cache_queries, prefix_cache_hits (tokens of admitted
 *                 prompts, and those of them whose KV was there)
 *   per model and urgency class, histograms of ns
 *                 queue_ns, first_token_ns, token_interval_ns, total_ns, prefill_ns (admission to
 *                 first token), decode_ns (first token to the end), inference_ns (both), and
 *                 time_per_output_token_ns
 *   per model, histograms
 *                 request_prompt_tokens, request_generation_tokens,
 * request_max_num_generation_tokens (of the longest sequence), request_params_n,
 * request_params_max_tokens, request_prefill_kv_computed_tokens, request_num_preemptions: of
 * requests that were admitted and have ended; iteration_tokens (rows of a step), step_ns
 *
 * Names are those of vLLM's metrics without unit and _total where that has one of the same meaning
 * and these are new; ringlet(7) says which metric of vLLM each one is.
 */
#ifndef RINGLET_BASE_STATS_H
#define RINGLET_BASE_STATS_H

#include <stddef.h>
#include <stdint.h>

#include "base/atomics.h"
#include "ringlet_abi.h"

enum stats_daemon {
    STATS_CLIENTS,
    STATS_OBSERVERS,
    STATS_HOT_SESSIONS,
    STATS_SESSIONS,
    STATS_SESSIONS_DROPPED,
    STATS_PROTOCOL_ERRORS,
    STATS_BELLS_UP,
    STATS_BELLS_DOWN,
    STATS_PASSES,
    STATS_SLEEPS,
    STATS_PROMPT_POOL_BYTES,
    STATS_PROMPT_POOL_USED,
    STATS_N_DAEMON
};

enum stats_model {
    STATS_RUNNING,
    STATS_QUEUED,
    STATS_KV_TOTAL,
    STATS_KV_FREE,
    STATS_KV_CACHED,
    STATS_KV_PINNED,
    STATS_HANDLES,
    STATS_HOST_KV_TOTAL,
    STATS_HOST_KV_USED,
    STATS_KV_OWNED,
    STATS_ACCEPTED,
    STATS_FINISHED,
    STATS_PROMPT_TOKENS,
    STATS_CACHED_TOKENS,
    STATS_COMPLETION_TOKENS,
    STATS_STEPS,
    STATS_PREEMPTIONS,
    STATS_EVICTED_BLOCKS,
    STATS_SWAPPED_OUT_BLOCKS,
    STATS_SWAPPED_IN_BLOCKS,
    STATS_PREFIX_QUERIES,
    STATS_PREFIX_HITS,
    STATS_N_MODEL
};

enum stats_histogram {
    STATS_QUEUE_NS,
    STATS_FIRST_TOKEN_NS,
    STATS_TOKEN_INTERVAL_NS,
    STATS_TOTAL_NS,
    STATS_PREFILL_NS,
    STATS_DECODE_NS,
    STATS_INFERENCE_NS,
    STATS_PER_OUTPUT_TOKEN_NS,
    STATS_N_HISTOGRAM
};

/* Histograms of a model that are not kept apart by urgency. */
enum stats_whole {
    STATS_REQUEST_PROMPT_TOKENS,
    STATS_REQUEST_GENERATION_TOKENS,
    STATS_REQUEST_MAX_GENERATION_TOKENS,
    STATS_REQUEST_N,
    STATS_REQUEST_MAX_TOKENS,
    STATS_REQUEST_COMPUTED_TOKENS,
    STATS_REQUEST_PREEMPTIONS,
    STATS_ITERATION_TOKENS,
    STATS_STEP_NS,
    STATS_N_WHOLE
};

enum { STATS_N_REASON = 14 };

struct stats_of_model {
    uint64_t *value[STATS_N_MODEL];
    uint64_t *reason[STATS_N_REASON];
    uint64_t *histogram[RINGLET_URGENCY_CLASSES][STATS_N_HISTOGRAM];
    uint64_t *whole[STATS_N_WHOLE];
};

struct stats {
    uint64_t *daemon[STATS_N_DAEMON];
    struct stats_of_model model[RINGLET_MODELS_MAX];
};

/*
 * Describe every value for n_model models in the board and point `s` at them.
 * Returns: 0; -ENOSPC the board is too small; -EINVAL. Thread: start-up.
 */
int stats_init(struct stats *s, void *board, size_t board_bytes, int n_model);

static inline void stats_set(uint64_t *value, uint64_t to)
{
    store_once(value, to);
}

static inline void stats_add(uint64_t *value, uint64_t n)
{
    store_once(value, load_once(value) + n);
}

/* One more observation of a histogram. */
static inline void stats_observe(uint64_t *histogram, uint64_t x)
{
    stats_add(&histogram[0], 1);
    stats_add(&histogram[1], x);
    stats_add(&histogram[2 + ringlet_stat_bucket(x)], 1);
}

/* Place of a reason among stats_of_model.reason, or -1. */
int stats_reason_index(uint16_t reason);

#endif
