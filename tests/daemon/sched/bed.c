#include "tests/daemon/sched/bed.h"

#include "daemon/base/arena.h"
#include "daemon/base/payload.h"
#include "daemon/base/prng.h"

static const int32_t eos[] = { BED_EOS };

static void released(void *context, struct request *request)
{
    struct bed *bed = context;
    bed->n_released++;
    request_put(bed->requests, request);
}

static bool payload_comes(void *context, const struct sched *s)
{
    struct bed *bed = context;
    assert_ptr_equal(s, bed->sched);
    return bed->comes;
}

void bed_init(struct bed *bed)
{
    *bed = (struct bed){ .now = 1000 };
    bed->config = (struct sched_config){
        .policy = "fcfs",
        .batch_max = 8,
        .rows_max = 64,
        .samples_max = 64,
        .context_max = 256,
        .kv_blocks = 64,
        .queue_max = 1500,
        .queue_uid_max = 1500,
        .requests_max = BED_REQUESTS,
        .sequences_max = BED_REQUESTS,
        .lists_max = 256,
        .moves_max = 64,
        .handles_max = 8,
        .handles_session_max = 4,
        .pinned_percent = 25,
        .vocab = 1000,
        .prefix_cache = true,
        .batch_invariant = true,
        .eos_ids = eos,
        .n_eos_id = 1,
        .released = released,
        .payload_comes = payload_comes,
    };
    struct prng prng = { 11 };
    for (int id_i = 0; id_i < BED_TOKENS; id_i++)
        bed->stream[id_i] = 1 + (int32_t)prng_below(&prng, 999);
}

void bed_open(struct bed *bed)
{
    struct sched_config *config = &bed->config;
    assert_ok(arena_create(64 << 20, &bed->arena));
    assert_ok(payload_create(16 << 20, bed->arena, &bed->payload));
    assert_ok(request_pool_create(BED_REQUESTS, BED_REQUESTS, bed->arena, &bed->requests));
    config->payload = bed->payload;
    config->context = bed;
    assert_ok(sched_create(config, bed->arena, &bed->sched));
    struct step_limits limits = {
        .rows_max = config->rows_max,
        .seqs_max = config->batch_max,
        .samples_max = config->samples_max,
        .blocks_max = config->batch_max * (config->context_max / 16 + 1),
        .lists_max = config->lists_max,
        .moves_max = config->moves_max,
        .vocab = config->vocab,
    };
    assert_ok(step_init(&bed->step[0], &limits, bed->arena));
    assert_ok(step_init(&bed->step[1], &limits, bed->arena));
    bed->fake =
        fake_create(config->kv_blocks, config->kv_host_blocks, config->batch_max, config->vocab);
}

void bed_close(struct bed *bed)
{
    struct sched_stats stats;
    sched_stats(bed->sched, &stats);
    assert_int_equal(stats.kv_owned, 0);
    assert_int_equal(payload_used(bed->payload), 0);
    assert_int_equal(request_pool_used(bed->requests), 0);
    fake_free(bed->fake);
    arena_free(bed->arena);
}

struct request *bed_fork(struct bed *bed, uint32_t from, uint32_t n_prompt, uint32_t max_tokens,
                         uint32_t n)
{
    struct request *request = request_take(bed->requests, n);
    assert_non_null(request);
    assert_true(from + n_prompt <= BED_TOKENS);
    request->prompt = bed->stream + from;
    request->n_prompt = n_prompt;
    request->params.max_tokens = max_tokens;
    request->params.temperature = request->params.top_p = request->params.repetition = 1;
    request->params.ignore_eos = true;
    request->params.urgency = 128;
    request->params.seed = 5;
    for (uint32_t seq_i = 0; seq_i < n; seq_i++)
        fake_salt(bed->fake, request->seq[seq_i]->pool_index, 0);
    return request;
}

struct request *bed_request(struct bed *bed, uint32_t from, uint32_t n_prompt, uint32_t max_tokens)
{
    return bed_fork(bed, from, n_prompt, max_tokens, 1);
}

void bed_submit(struct bed *bed, struct request *request)
{
    assert_ok(sched_add(bed->sched, request, bed->now));
}

static void healthy(struct bed *bed)
{
    const char *wrong = sched_check(bed->sched);
    if (wrong)
        fail_msg("%s", wrong);
}

struct step *bed_plan(struct bed *bed)
{
    struct step *step =
        bed->n_flight && bed->flight[0] == &bed->step[0] ? &bed->step[1] : &bed->step[0];
    step_reset(step);
    int n_row = sched_tick(bed->sched, bed->now, step);
    healthy(bed);
    if (n_row == 0)
        return NULL;
    fake_run(bed->fake, step);
    if (fake_error(bed->fake))
        fail_msg("%s", fake_error(bed->fake));
    step->started_ns = bed->now;
    bed->now += bed->row_ns * (uint64_t)n_row;
    bed->now += bed->swap_ns * (uint64_t)(step->n_swap_in + step->n_swap_out);
    step->ended_ns = bed->now;
    bed->flight[bed->n_flight++] = step;
    return step;
}

bool bed_commit(struct bed *bed)
{
    struct step *step = bed->flight[0];
    bed->flight[0] = bed->flight[1];
    bed->n_flight--;
    bool news = sched_commit(bed->sched, step, ++bed->now);
    healthy(bed);
    return news;
}

void bed_run(struct bed *bed)
{
    for (int pass = 0; pass < 100000; pass++) {
        bool planned = bed->n_flight < 2 && bed_plan(bed);
        if (!planned && bed->n_flight == 0)
            return;
        if (!planned || bed->n_flight == 2)
            bed_commit(bed);
    }
    fail_msg("it never ends");
}

void bed_check(struct bed *bed, const struct request *request)
{
    for (uint32_t seq_i = 0; seq_i < request->n_seq; seq_i++) {
        const struct sequence *seq = request->seq[seq_i];
        for (uint32_t output_i = 0; output_i < seq->n_output; output_i++) {
            float logprob;
            assert_int_equal(seq->output[output_i],
                             fake_token(bed->fake, seq, output_i, bed->config.eos_ids,
                                        bed->config.n_eos_id, &logprob));
        }
    }
}

void bed_forget(struct bed *bed, struct request *request)
{
    assert_int_equal(request->state, REQUEST_DONE);
    bed_check(bed, request);
    sched_forget(bed->sched, request);
    healthy(bed);
}
