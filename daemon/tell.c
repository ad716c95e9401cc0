/*
 * What the daemon says about itself: its counters on BOARD, its log, the trace. None of it waits:
 * log and trace go out through the loop, a piece at a time. Loop thread.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "daemon/base/log.h"
#include "daemon/base/payload.h"
#include "daemon/base/trace.h"
#include "daemon/serve.h"

void tell_stats(struct serve *sv)
{
    struct stats *stats = &sv->board->stats;
    stats_set(stats->daemon[STATS_PROMPT_POOL_USED], payload_used(sv->payload));
    for (uint32_t i = 0; i < sv->n_model; i++) {
        struct sched_stats now;
        uint64_t **value = sv->model[i].stats->value;
        sched_stats(sv->model[i].sched, &now);
        stats_set(value[STATS_RUNNING], now.running);
        stats_set(value[STATS_QUEUED], now.queued);
        stats_set(value[STATS_KV_TOTAL], now.kv_total);
        stats_set(value[STATS_KV_FREE], now.kv_free);
        stats_set(value[STATS_KV_CACHED], now.kv_cached);
        stats_set(value[STATS_KV_PINNED], now.kv_pinned);
        stats_set(value[STATS_HANDLES], now.handles);
        stats_set(value[STATS_HOST_KV_TOTAL], now.host_total);
        stats_set(value[STATS_HOST_KV_USED], now.host_used);
        stats_set(value[STATS_KV_OWNED], now.kv_owned);
        stats_set(value[STATS_STEPS], now.steps);
        stats_set(value[STATS_PREEMPTIONS], now.preemptions);
        stats_set(value[STATS_EVICTED_BLOCKS], now.evicted_blocks);
        stats_set(value[STATS_SWAPPED_OUT_BLOCKS], now.swapped_out);
        stats_set(value[STATS_SWAPPED_IN_BLOCKS], now.swapped_in);
        stats_set(value[STATS_PREFIX_QUERIES], now.prefix_query_tokens);
        stats_set(value[STATS_PREFIX_HITS], now.prefix_hit_tokens);
    }
}

void tell_step(struct serve *sv, const struct step *step)
{
    uint64_t **whole = sv->model[step->model].stats->whole;
    if (step->status < 0 || step->ended_ns < step->started_ns)
        return;
    stats_observe(whole[STATS_ITERATION_TOKENS], (uint64_t)step->n_row);
    stats_observe(whole[STATS_STEP_NS], step->ended_ns - step->started_ns);
}

static void on_log_written(void *context, int bytes)
{
    struct serve *sv = context;
    (void)bytes; /* a closed stderr loses lines, not the daemon */
    sv->log_writing = false;
}

void tell_log(struct serve *sv)
{
    if (sv->log_writing || !log_pending())
        return;
    size_t n = log_drain(sv->log, sizeof(sv->log));
    sv->log_writing = n && !loop_write(sv->loop, STDERR_FILENO, sv->log, n, on_log_written, sv);
}

static void on_trace_written(void *context, int bytes)
{
    struct serve *sv = context;
    sv->trace_state = bytes > 0 ? SERVE_TRACE_DUMPING : SERVE_TRACE_IDLE;
    sv->trace_at += bytes > 0 ? (size_t)bytes : 0;
    if (bytes <= 0)
        log_warn(DAEMON, "trace: cannot be written: %s", strerror(-bytes));
}

void tell_trace(struct serve *sv)
{
    if (sv->trace_state == SERVE_TRACE_WRITING)
        return;
    if (sv->trace_state == SERVE_TRACE_ASKED) {
        if (ftruncate(sv->trace_fd, 0) < 0 || lseek(sv->trace_fd, 0, SEEK_SET) < 0) {
            on_trace_written(sv, -errno);
            return;
        }
        trace_dump_begin();
        sv->trace_at = sv->trace_bytes = 0;
    }
    if (sv->trace_at == sv->trace_bytes) {
        sv->trace_at = 0;
        sv->trace_bytes = trace_dump_next(sv->trace, sizeof(sv->trace));
    }
    if (sv->trace_bytes == 0) {
        sv->trace_state = SERVE_TRACE_IDLE;
        log_info(DAEMON, "trace: written");
        return;
    }
    int error = loop_write(sv->loop, sv->trace_fd, sv->trace + sv->trace_at,
                           sv->trace_bytes - sv->trace_at, on_trace_written, sv);
    sv->trace_state = error ? SERVE_TRACE_IDLE : SERVE_TRACE_WRITING;
}
