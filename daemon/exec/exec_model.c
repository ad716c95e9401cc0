/* Runs steps of one model. Executor thread. */
#include "daemon/exec/exec_model.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/atomics.h"
#include "base/bits.h"

/* A result row is the same bytes on both sides of the seam. */
static_assert(sizeof(struct step_token) == sizeof(struct sample_out), "sample_out");
static_assert(offsetof(struct step_token, top_id) == offsetof(struct sample_out, top_id), "top_id");
static_assert(offsetof(struct step_token, top_logprob) == offsetof(struct sample_out, top_logprob),
              "top_logprob");
static_assert(offsetof(struct step_token, flags) == offsetof(struct sample_out, flags), "flags");
static_assert(STEP_TOKEN_BAD == (int)SAMPLE_BAD, "bad flag");
static_assert(sizeof(struct sample_out) % 16 == 0, "deliver copies 16 bytes at a time");

enum { MOVE_BATCH = 64 };

/* Swap out, copy, swap in, in this order; the ops take arrays apart. */
static int exec_swap(struct exec_model *em, const struct step_move *move, int n, bool to_host)
{
    int32_t pool[MOVE_BATCH], host[MOVE_BATCH];
    for (int first = 0; first < n; first += MOVE_BATCH) {
        int count = min_of(n - first, (int)MOVE_BATCH);
        for (int i = 0; i < count; i++) {
            pool[i] = to_host ? move[first + i].src : move[first + i].dst;
            host[i] = to_host ? move[first + i].dst : move[first + i].src;
        }
        struct kv_move_args args = {
            .pool = em->kv_pool,
            .host = em->kv_host,
            .block_stride = em->info.kv_block_bytes,
            .pool_block = pool,
            .host_block = host,
            .n = count,
            .to_host = to_host,
        };
        int rc = em->ops->kv_move(em->st, &args);
        if (rc < 0)
            return rc;
    }
    return 0;
}

static int exec_copy(struct exec_model *em, const struct step_move *move, int n)
{
    int32_t src[MOVE_BATCH], dst[MOVE_BATCH];
    for (int first = 0; first < n; first += MOVE_BATCH) {
        int count = min_of(n - first, (int)MOVE_BATCH);
        for (int i = 0; i < count; i++) {
            src[i] = move[first + i].src;
            dst[i] = move[first + i].dst;
        }
        struct kv_copy_args args = {
            .pool = em->kv_pool,
            .block_stride = em->info.kv_block_bytes,
            .src = src,
            .dst = dst,
            .n = count,
        };
        int rc = em->ops->kv_copy(em->st, &args);
        if (rc < 0)
            return rc;
    }
    return 0;
}

/* The op takes one array: prompt, then output. */
static int exec_state_load(struct exec_model *em, const struct step_state_load *load)
{
    if (load->n_prompt > 0)
        memcpy(em->ids, load->prompt, (size_t)load->n_prompt * sizeof(*em->ids));
    if (load->n_output > 0)
        memcpy(em->ids + load->n_prompt, load->output, (size_t)load->n_output * sizeof(*em->ids));
    struct counts_load_args args = {
        .counts = em->counts,
        .slot = load->slot,
        .vocab = em->info.info.vocab,
        .id = em->ids,
        .n_prompt = load->n_prompt,
        .n_id = load->n_prompt + load->n_output,
    };
    return em->ops->counts_load(em->st, &args);
}

static int exec_before(struct exec_model *em, const struct step *step)
{
    int rc = exec_swap(em, step->swap_out, step->n_swap_out, true);
    if (rc == 0)
        rc = exec_copy(em, step->copy, step->n_copy);
    if (rc == 0)
        rc = exec_swap(em, step->swap_in, step->n_swap_in, false);
    for (int i = 0; i < step->n_state_load && rc == 0; i++)
        rc = exec_state_load(em, &step->state_load[i]);
    return rc;
}

int exec_model_forward(struct exec_model *em, const struct exec_pass *pass, const struct plan *p)
{
    const uint8_t *at = em->plan;
    struct seq_batch batch = {
        .n_row = pass->n_row,
        .n_seq = pass->n_seq,
        .n_decode = pass->n_decode,
        .kv_tokens_max = pass->kv_tokens_max,
        .row_start = (const int32_t *)(at + p->row_start),
        .kv_tokens = (const int32_t *)(at + p->kv_tokens),
        .block_start = (const int32_t *)(at + p->block_start),
        .blocks = (const int32_t *)(at + p->blocks),
        .row_seq = (const int32_t *)(at + p->row_seq),
        .deterministic = pass->deterministic,
    };
    struct forward_args args = {
        .batch = &batch,
        .token = (const int32_t *)(at + p->token),
        .position = (const int32_t *)(at + p->position),
        .slot = (const int32_t *)(at + p->slot),
        .prev_sampled = em->sampled,
        .prompt_tokens = (const int32_t *)(at + p->prompt_tokens),
        .sample_row = (const int32_t *)(at + p->sample_row),
        .n_sample = pass->n_sample,
        .kv_pool = em->kv_pool,
        .kv_block_bytes = em->info.kv_block_bytes,
        .kv_dtype = em->info.kv_dtype,
        .logits = em->logits,
    };
    return model_forward(em->model, em->st, &args);
}

int exec_model_sample(struct exec_model *em, const struct exec_pass *pass, const struct plan *p)
{
    const uint8_t *at = em->plan;
    struct sample_args args = {
        .logits = em->logits,
        .n_sample = pass->n_sample,
        .vocab = em->info.info.vocab,
        .params = (const struct sample_params *)(at + p->params),
        .bias_id = (const int32_t *)(at + p->bias_id),
        .bias = (const float *)(at + p->bias),
        .ban_id = (const int32_t *)(at + p->ban_id),
        .mask = pass->mask,
        .counts = em->counts,
        .out = em->out,
        .sampled = em->sampled,
    };
    return em->ops->sample(em->st, &args);
}

static void exec_pass_of(const struct step *step, struct exec_pass *ret)
{
    *ret = (struct exec_pass){
        .n_row = step->n_row,
        .n_seq = step->n_seq,
        .n_decode = step->n_decode,
        .n_sample = step->n_sample,
        .deterministic = step->deterministic,
        .mask = step->mask,
    };
    for (int s = 0; s < step->n_seq; s++)
        ret->kv_tokens_max = max_of(ret->kv_tokens_max, step->kv_tokens[s]);
}

int exec_model_fetch(struct exec_model *em, size_t bytes_sure, size_t bytes_max)
{
    return em->device->fetch(em->st, em->plan, em->slots[0].plan, &em->turn, bytes_sure, bytes_max);
}

int exec_model_deliver(struct exec_model *em, int n_sample)
{
    const struct exec_slot *slot = &em->slots[0];
    const void *value = em->plan + offsetof(struct plan_head, value);
    return em->device->deliver(em->st, slot->result, em->out,
                               (size_t)n_sample * sizeof(*slot->result), slot->signal, value,
                               &em->turn);
}

/* Op by op; the model's part may be a graph. */
static int exec_run_ops(struct exec_model *em, const struct step *step, const struct plan *plan,
                        struct graph *forward)
{
    struct exec_pass pass;
    exec_pass_of(step, &pass);
    int rc = exec_model_fetch(em, plan->bytes, plan->bytes);
    if (rc == 0 && forward)
        rc = em->device->graph_launch(em->st, forward);
    else if (rc == 0 && step->n_row > 0)
        rc = exec_model_forward(em, &pass, plan);
    if (rc == 0 && step->n_sample > 0)
        rc = exec_model_sample(em, &pass, plan);
    return rc < 0 ? rc : exec_model_deliver(em, step->n_sample);
}

/* The plan into the slot, then all that follows from it: replayed where a graph fits. */
static int exec_run(struct exec_model *em, const struct exec_slot *slot, const struct step *step)
{
    struct plan plan;
    int n_block = step->n_seq > 0 ? step->block_start[step->n_seq] : 0;
    struct plan_limits n = { step->n_row, step->n_seq, step->n_sample, n_block,
                             max_of(step->n_bias, step->n_ban) };
    const struct captured *captured = graphs_pick(em, step);
    if (captured)
        graphs_plan_limits(captured, step, &n);
    plan_layout(&n, &plan);
    plan_pack(step, &n, &plan, slot->signal_value, slot->plan);
    *(captured ? &em->graphs.replays : &em->graphs.eager) += 1;
    if (captured && captured->whole)
        return em->device->graph_launch(em->st, captured->whole);
    return exec_run_ops(em, step, &plan, captured ? captured->forward : NULL);
}

/* Everything of a step, in stream order. */
static int exec_enqueue(struct exec_model *em, const struct exec_slot *slot,
                        const struct step *step)
{
    int rc = exec_before(em, step);
    return rc < 0 ? rc : exec_run(em, slot, step);
}

int exec_model_launch(struct exec_model *em, struct step *step)
{
    struct exec_slot *slot = &em->slots[em->n_launched % EXECUTOR_STEPS_MAX];
    const struct executor_model *info = &em->info;
    assert(!slot->step);
    const struct plan_bounds bounds = {
        .vocab = info->info.vocab,
        .context = info->context,
        .kv_blocks = info->kv_blocks,
        .kv_host_blocks = info->kv_host_blocks,
        .n_sampled = em->n_sampled,
    };
    int rc = plan_check(step, &bounds);
    if (rc < 0)
        return rc;
    slot->signal_value = ++em->n_launched;
    slot->step = step;
    em->n_sampled = step->n_sample;
    rc = exec_enqueue(em, slot, step);
    if (rc < 0) {
        slot->step = NULL;
        em->n_launched--; /* it will not deliver: its turn is the next step's */
    }
    if (rc < 0 && rc != -EIO)
        em->device->stream_sync(em->st); /* what was enqueued of it still reads the slot */
    return rc;
}

bool exec_model_done(const struct exec_slot *slot)
{
    return load_acquire(slot->signal) == slot->signal_value; /* pairs with the device's signal */
}

struct step *exec_model_finish(struct exec_slot *slot)
{
    struct step *step = slot->step;
    slot->step = NULL;
    if (step->n_sample > 0)
        memcpy(step->result, slot->result, (size_t)step->n_sample * sizeof(*step->result));
    step->status = 0;
    return step;
}
