/* The publisher of a simulated world: is everything that comes out true and in order? */
#include "tests/sim/sim_world.h"

#include <math.h>
#include <string.h>

#include "tests/sim/fake_beam.h"

/* Did the search find what a search without forks finds? */
static void check_beams(struct world *w, const struct request *request)
{
    static struct fake_beam truth[FAKE_BEAMS];
    const struct sequence *first = request->seq[0];
    if (first->reason >= RINGLET_REASON_CANCELLED || request->params.max_tokens == 0 ||
        request->totals.search_cut)
        return;
    uint32_t room = (uint32_t)w->config.context_max - request->n_prompt;
    uint32_t n = fake_beam_search(w->fake, request, w->eos, w->config.n_eos_id, room, truth);
    n = min_of(n, (uint32_t)request->params.n);
    for (uint32_t i = 0; i < request->n_seq; i++) {
        const struct sequence *seq = request->seq[i];
        if (i >= n) {
            if (seq->n_output || seq->handle)
                fail_world(w, "request %u has more hypotheses than there are", request->pool_index);
            continue;
        }
        trace(w, seq->n_output);
        if (seq->n_output != truth[i].n || seq->reason != truth[i].reason ||
            memcmp(seq->output, truth[i].ids, truth[i].n * sizeof(*seq->output)) != 0 ||
            (double)seq->cumulative != truth[i].sum)
            fail_world(w,
                       "request %u: hypothesis %u of %u tokens (sum %g, reason %u) should have %u "
                       "(sum %g, reason %u)",
                       request->pool_index, i, seq->n_output, (double)seq->cumulative, seq->reason,
                       truth[i].n, truth[i].sum, truth[i].reason);
    }
}

static void check_tokens(struct world *w, struct mirror *mirror, const struct sequence *seq)
{
    for (uint32_t *at = &mirror->checked[seq->index]; *at < seq->n_output; (*at)++) {
        float logprob;
        int32_t token = fake_token(w->fake, seq, *at, w->eos, w->config.n_eos_id, &logprob);
        trace(w, (uint64_t)seq->output[*at]);
        if (token != seq->output[*at])
            fail_world(w, "request %u sequence %u output %u is %d, not %d",
                       mirror->request->pool_index, seq->index, *at, seq->output[*at], token);
        if (seq->logprobs && seq->logprobs[*at].logprob != logprob)
            fail_world(w, "request %u output %u has a wrong logprob", mirror->request->pool_index,
                       *at);
        if (seq->logprobs && seq->logprobs[*at].n_top != mirror->request->params.logprobs_k)
            fail_world(w, "wrong number of top logprobs");
    }
}

static void check_scores(struct world *w, struct mirror *mirror)
{
    struct request *request = mirror->request;
    for (; mirror->scored < request->n_prompt_scored; mirror->scored++) {
        float logprob = request->prompt_logprob[mirror->scored].logprob;
        if (mirror->scored == 0 ? !isnan(logprob)
                                : logprob != fake_score(w->fake, request->seq[0], mirror->scored))
            fail_world(w, "request %u: wrong prompt logprob at %u", request->pool_index,
                       mirror->scored);
    }
}

static bool is_in(int32_t id, const int32_t *ids, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

/* Is the reason that a sequence ended with the right one? And did it not end too late? */
static void check_end(struct world *w, const struct sequence *seq)
{
    const struct request *request = seq->request;
    const struct request_params *params = &request->params;
    uint32_t n_eos = params->ignore_eos ? 0 : (uint32_t)w->config.n_eos_id;
    uint32_t room = (uint32_t)w->config.context_max - request->n_prompt;
    for (uint32_t i = 0; i < seq->n_output; i++) {
        bool eos = is_in(seq->output[i], w->eos, n_eos);
        bool stop = is_in(seq->output[i], request->stop_ids, request->n_stop_id);
        if ((eos || stop) && (i + 1 < seq->n_output || seq->state != SEQUENCE_ENDED))
            fail_world(w, "a sequence goes on after a stop id");
        if ((eos || stop) && i < params->min_tokens)
            fail_world(w, "a stop id before min_tokens");
    }
    if (seq->state != SEQUENCE_ENDED)
        return;
    int32_t last = seq->n_output ? seq->output[seq->n_output - 1] : -1;
    bool good = true;
    if (seq->reason == RINGLET_REASON_STOP_EOS)
        good = is_in(last, w->eos, n_eos);
    else if (seq->reason == RINGLET_REASON_STOP_TOKEN)
        good = is_in(last, request->stop_ids, request->n_stop_id);
    else if (seq->reason == RINGLET_REASON_LENGTH)
        good = seq->n_output == params->max_tokens;
    else if (seq->reason == RINGLET_REASON_CONTEXT)
        good = seq->n_output == room || seq->detail == RINGLET_ERROR_TOO_BIG;
    else if (seq->reason == RINGLET_REASON_DEADLINE)
        good = w->deadline > 0;
    else if (seq->reason == RINGLET_REASON_CANCELLED)
        good = w->cancel > 0;
    else if (seq->reason == RINGLET_REASON_ERROR_ENGINE)
        good = w->fail > 0;
    if (!good)
        fail_world(w, "sequence ended with reason %u after %u tokens, which is wrong", seq->reason,
                   seq->n_output);
    if (seq->reason == RINGLET_REASON_LENGTH && params->prompt_logprobs &&
        request->n_prompt_scored != request->n_prompt && request->n_prompt > 1 &&
        request->seq[0]->reason != RINGLET_REASON_CANCELLED)
        fail_world(w, "prompt logprobs are missing at the end");
}

void publish(struct world *w)
{
    struct list *outbox = sched_outbox(w->sched);
    while (!list_empty(outbox)) {
        struct request *request = list_first(outbox, struct request, outbox_node);
        struct mirror *mirror = mirror_of(w, request);
        list_remove(&request->outbox_node);
        if (mirror->done)
            fail_world(w, "something to publish after the end");
        bool beams = request->params.beam_width > 0;
        if (beams && request->state == REQUEST_DONE)
            check_beams(w, request);
        for (uint32_t seq_i = 0; seq_i < request->n_seq; seq_i++) {
            if (!beams)
                check_tokens(w, mirror, request->seq[seq_i]);
            check_end(w, request->seq[seq_i]);
        }
        check_scores(w, mirror);
        if (request->state == REQUEST_DONE) {
            mirror->done = true;
            w->n_ended++;
            handle_add(w, request, request->lease_handle, NULL, 0);
            for (uint32_t seq_i = 0; seq_i < request->n_seq; seq_i++)
                handle_add(w, request, request->seq[seq_i]->handle, request->seq[seq_i]->output,
                           request->seq[seq_i]->n_output);
            trace(w, request->seq[0]->reason);
        }
    }
}

void forget_some(struct world *w, uint32_t percent)
{
    for (int i = 0; i < REQUESTS; i++) {
        struct mirror *mirror = &w->mirror[i];
        if (!mirror->live || !mirror->done || mirror->forgotten || !prng_chance(&w->prng, percent))
            continue;
        mirror->forgotten = true;
        sched_forget(w->sched, mirror->request);
        check(w, "forget");
    }
}

void show_step(const struct step *step)
{
    printf("step %llu: %d rows, %d decode, %d draws;", (unsigned long long)step->number,
           step->n_row, step->n_decode, step->n_sample);
    for (int i = 0; i < step->n_swap_out; i++)
        printf(" out %d>%d", step->swap_out[i].src, step->swap_out[i].dst);
    for (int i = 0; i < step->n_copy; i++)
        printf(" copy %d>%d", step->copy[i].src, step->copy[i].dst);
    for (int i = 0; i < step->n_swap_in; i++)
        printf(" in %d>%d", step->swap_in[i].src, step->swap_in[i].dst);
    for (int i = 0; i < step->n_state_load; i++)
        printf(" load %d", step->state_load[i].slot);
    printf("\n");
    for (int i = 0; i < step->n_seq; i++) {
        int n = step->row_start[i + 1] - step->row_start[i];
        printf("    seq %u: positions %d..%d, token %d, blocks", step->seq_owner[i].seq,
               step->kv_tokens[i] - n, step->kv_tokens[i] - 1, step->token[step->row_start[i]]);
        for (int b = step->block_start[i]; b < step->block_start[i + 1]; b++)
            printf(" %d", step->blocks[b]);
        printf("\n");
    }
    for (int i = 0; i < step->n_sample; i++)
        printf("    sample %d: row %d for seq %u, position %u, counts %d, %d bias, %d ban\n", i,
               step->sample_row[i], step->sample_owner[i].seq, step->sample[i].position,
               step->sample[i].state_slot, step->sample[i].n_bias, step->sample[i].n_ban);
}

void show(const struct world *w)
{
    struct sched_stats stats;
    sched_stats(w->sched, &stats);
    printf("blocks: %u free, %u cached, %u owned of %u; batch %d, rows %d, context %d; "
           "%u running, %u queued, policy %s\n",
           stats.kv_free, stats.kv_cached, stats.kv_owned, stats.kv_total, w->config.batch_max,
           w->config.rows_max, w->config.context_max, stats.running, stats.queued,
           w->config.policy);
    for (int i = 0; i < REQUESTS; i++) {
        const struct request *request = w->mirror[i].request;
        if (!w->mirror[i].live)
            continue;
        printf("request %d: state %d, prompt %u, scored %u, max_tokens %u, preempted %u:", i,
               request->state, request->n_prompt, request->n_prompt_scored,
               request->params.max_tokens, request->totals.preemptions);
        for (uint32_t seq_i = 0; seq_i < request->n_seq; seq_i++)
            printf(" %d/%u", request->seq[seq_i]->state, request->seq[seq_i]->n_output);
        printf("\n");
    }
}
