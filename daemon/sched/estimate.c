/*
 * Can a request's deadlines be met? By what steps have cost so far, how much of its prompt has to
 * be computed, and what waits before it. Nobody is refused for what comes after it or is cached.
 */
#include "daemon/sched/sched_internal.h"

#include "base/compiler.h"
#include "base/planted.h"

/* Learned often enough to refuse somebody by it; waiting ones whose cached part is looked up. */
enum { COST_STEPS_MIN = 8, LOOKUPS_MAX = 64 };

/* Prompt tokens to compute of those who are admitted before it; of the first few as they are. */
static uint64_t tokens_before(struct sched *s, const struct ticket *ticket)
{
    uint64_t n_token = 0, n_cached = 0, n_looked = 0;
    for (int ticket_i = 0; ticket_i < s->config.requests_max; ticket_i++) {
        struct ticket *other = &s->ticket[ticket_i];
        if (other == ticket || !other->request || !other->queued ||
            !s->policy->before(other, ticket))
            continue;
        n_token += other->request->n_prompt;
        if (n_looked == LOOKUPS_MAX)
            continue;
        n_looked++;
        n_cached += admission_hint(s, other);
    }
    return n_token - min_of(n_cached, n_token);
}

/* How long the deadline that is missed would take, 0: all are met. */
static uint64_t missed(const struct sched *s, const struct request *request, uint64_t n_before,
                       uint32_t n_compute)
{
    const struct request_params *params = &request->params;
    uint32_t rows_max = (uint32_t)s->config.rows_max;
    uint64_t row_ns = cost_predict(&s->cost, rows_max, 0) / rows_max;
    uint64_t step_ns = cost_predict(&s->cost, s->n_running_seqs + request->n_seq, 0);
    uint64_t start_ns = n_before * row_ns, first_ns = start_ns + n_compute * row_ns;
    uint32_t n_sure =
        params->ignore_eos && request->n_stop_id == 0 ? params->max_tokens : params->min_tokens;
    uint64_t total_ns = first_ns + min_of(n_sure, params->max_tokens) * step_ns;
    if (params->total_deadline_ns && s->now_ns + total_ns > params->total_deadline_ns)
        return total_ns;
    if (params->first_token_deadline_ns && s->now_ns + first_ns > params->first_token_deadline_ns)
        return first_ns;
    if (params->queue_deadline_ns && s->now_ns + start_ns > params->queue_deadline_ns)
        return start_ns;
    return 0;
}

bool estimate_in_time(struct sched *s, struct request *request, bool waiting)
{
    uint64_t n_before = waiting ? s->backlog_tokens : 0;
    if (s->cost.n_step < COST_STEPS_MIN || missed(s, request, n_before, request->n_prompt) == 0)
        return true;
    /* It is late if all that waits comes first and nothing is cached: look closer. */
    n_before = waiting ? tokens_before(s, ticket_of(request)) : 0;
    uint64_t late_ns =
        missed(s, request, n_before, request->n_prompt - admission_cached(s, request));
    if (late_ns > 0)
        request->totals.estimate_ns = late_ns;
    return late_ns == 0;
}
