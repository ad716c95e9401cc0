/*
 * Captures at start, picks per step. A graph's kernels read the plan at fixed offsets of em->plan:
 * plan_layout puts what they read before anything whose length varies. Each slot has graphs of its
 * own, since its pinned memory is written into them.
 */
#include "daemon/exec/graphs.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/compiler.h"
#include "daemon/base/clock.h"
#include "daemon/exec/exec_model.h"

static const int batch_sizes[] = {
    1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 160, 192, 224, 256
};
static const int context_bounds[] = { 1024, 8192, INT32_MAX };

enum {
    BOUNDED_ROWS_MAX = 12, /* larger batches fill the device without splitting contexts */
    ANY_ROWS_MAX = 16,     /* as many rows take the same kernels whosever they are */
    HEAD_SHARE = 8,        /* of the layers: they run for longer than the rest takes to launch */
};

/*
 * A padded step of that size; the sampler may be asked for anything. n_decode 0 promises nothing
 * about whose the rows are.
 */
static struct exec_pass graphs_pass(const struct exec_model *em, int rows, int kv_tokens_max)
{
    return (struct exec_pass){ .n_row = rows,
                               .n_seq = rows,
                               .n_decode = rows <= ANY_ROWS_MAX ? 0 : rows,
                               .n_sample = rows,
                               .kv_tokens_max = kv_tokens_max,
                               .layer_end = em->info.info.n_layer,
                               .any_draw = true,
                               .any_penalty = true,
                               .any_logprob = true };
}

/* One size: run it op by op first, so that libraries choose their algorithms outside of capture. */
static int graphs_warm(struct exec_model *em, const struct plan *plan, int rows)
{
    struct exec_pass pass = graphs_pass(em, rows, em->info.context);
    int rc = exec_model_fetch(em, &em->slots[0], plan->bytes, plan->bytes);
    if (rc == 0)
        rc = exec_model_forward(em, &pass, plan);
    if (rc == 0)
        rc = exec_model_sample(em, &pass, plan);
    return rc;
}

/* Layers [first, end) of a captured step, with what comes before the first and behind the last. */
static int graphs_record(struct exec_model *em, const struct plan *plan, const struct captured *c,
                         const struct exec_slot *slot, int first, int end)
{
    struct exec_pass pass = graphs_pass(em, c->rows, c->kv_tokens_max);
    bool last = end == pass.layer_end;
    pass.layer_first = first;
    pass.layer_end = end;
    int rc = first == 0 ? exec_model_fetch(em, slot, plan->blocks, em->plan_bytes) : 0;
    if (rc == 0)
        rc = exec_model_forward(em, &pass, plan);
    if (rc == 0 && last && c->samples)
        rc = exec_model_sample(em, &pass, plan);
    if (rc == 0 && last && c->samples)
        rc = exec_model_deliver(em, slot, c->rows);
    return rc;
}

static int graphs_capture_part(struct exec_model *em, const struct plan *plan,
                               const struct captured *c, const struct exec_slot *slot, int first,
                               int layer_end, struct graph **ret)
{
    struct graph *graph = NULL;
    int rc = em->device->graph_begin(em->st);
    if (rc < 0)
        return rc;
    rc = graphs_record(em, plan, c, slot, first, layer_end);
    int end = em->device->graph_end(em->st, &graph);
    if (rc < 0 && end == 0)
        em->device->graph_close(graph);
    if (rc < 0 || end < 0)
        return rc < 0 ? rc : end;
    *ret = graph;
    em->graphs.n_graph++;
    return 0;
}

static int graphs_capture_one(struct exec_model *em, const struct plan *plan, int rows,
                              int kv_tokens_max, bool samples, bool in_parts)
{
    struct graphs *g = &em->graphs;
    int n_layer = em->info.info.n_layer, split = (int)div_ceil((uint64_t)n_layer, HEAD_SHARE);
    int rc = 0;
    in_parts = in_parts && split < n_layer;
    if (g->n == GRAPHS_MAX)
        return 0; /* the rest runs op by op */
    struct captured *c = &g->captured[g->n++];
    *c = (struct captured){ .rows = rows,
                            .kv_tokens_max = kv_tokens_max,
                            .any_rows = rows <= ANY_ROWS_MAX,
                            .samples = samples };
    for (int i = 0; i < EXECUTOR_STEPS_MAX && rc == 0; i++) {
        const struct exec_slot *slot = &em->slots[i];
        rc = graphs_capture_part(em, plan, c, slot, 0, n_layer, &c->graph[i]);
        if (rc == 0 && in_parts)
            rc = graphs_capture_part(em, plan, c, slot, 0, split, &c->head[i]);
        if (rc == 0 && in_parts)
            rc = graphs_capture_part(em, plan, c, slot, split, n_layer, &c->tail[i]);
    }
    return rc;
}

static int graphs_capture_size(struct exec_model *em, int rows)
{
    const struct plan_limits n = { rows, rows, rows, 0, 0 };
    struct step empty = { .row_start = (int32_t[1]){ 0 }, .block_start = (int32_t[1]){ 0 } };
    struct plan plan;
    plan_layout(&n, &plan);
    plan_pack(&empty, &n, &plan, 0, em->slots[0].plan);
    int rc = graphs_warm(em, &plan, rows);
    if (rc == 0)
        rc = em->device->stream_sync(em->st); /* the plan's slot is written again */
    for (size_t i = 0; i < ARRAY_SIZE(context_bounds) && rc == 0; i++) {
        int bound = rows > BOUNDED_ROWS_MAX ? INT32_MAX : context_bounds[i];
        bound = min_of(bound, em->info.context);
        rc = graphs_capture_one(em, &plan, rows, bound, true, i == 0 && rows <= ANY_ROWS_MAX);
        if (rc == 0)
            rc = graphs_capture_one(em, &plan, rows, bound, false, false);
        if (bound == em->info.context)
            break;
    }
    return rc;
}

int graphs_capture(struct exec_model *em)
{
    uint64_t start_ns = clock_now_ns();
    int rc = 0;
    if (!em->device->graph_begin)
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(batch_sizes) && rc == 0; i++) {
        bool covers = batch_sizes[i] >= em->info.limits.seqs_max;
        int rows = min_of(batch_sizes[i], em->info.limits.seqs_max);
        rc = graphs_capture_size(em, rows);
        if (covers)
            break;
    }
    em->graphs.capture_ns = clock_now_ns() - start_ns;
    return rc;
}

static void graphs_close_one(struct exec_model *em, const struct captured *c, int slot_i)
{
    struct graph *all[] = { c->graph[slot_i], c->head[slot_i], c->tail[slot_i] };
    for (size_t i = 0; i < ARRAY_SIZE(all); i++)
        if (all[i])
            em->device->graph_close(all[i]);
}

void graphs_close(struct exec_model *em)
{
    for (int i = 0; i < em->graphs.n; i++)
        for (int k = 0; k < EXECUTOR_STEPS_MAX; k++)
            graphs_close_one(em, &em->graphs.captured[i], k);
    em->graphs.n = em->graphs.n_graph = 0;
}

/* The captured sampler does all but what lies behind the blocks, at offsets that vary. */
static bool step_has_lists(const struct step *step)
{
    for (int i = 0; i < step->n_sample; i++) {
        const struct step_sample *s = &step->sample[i];
        if (s->n_bias || s->n_ban || s->mask_index >= 0)
            return true;
    }
    return false;
}

const struct captured *graphs_pick(const struct exec_model *em, const struct step *step)
{
    if (em->graphs.n == 0 || step->n_row == 0 || step->deterministic ||
        step->n_sample > step->n_row)
        return NULL;
    int32_t kv_tokens = 0;
    for (int s = 0; s < step->n_seq; s++)
        kv_tokens = max_of(kv_tokens, step->kv_tokens[s]);
    bool single = step->n_decode == step->n_row, samples = !step_has_lists(step);
    for (int i = 0; i < em->graphs.n; i++) { /* sizes and bounds ascend */
        const struct captured *c = &em->graphs.captured[i];
        if (c->rows >= step->n_row && (single || c->any_rows) && c->kv_tokens_max >= kv_tokens &&
            c->samples == samples)
            return c;
    }
    return NULL;
}

int graphs_launch(struct exec_model *em, const struct captured *c, int slot_i)
{
    bool idle = true;
    for (int i = 0; i < EXECUTOR_STEPS_MAX; i++)
        idle &= i == slot_i || !em->slots[i].step;
    if (!idle || !c->head[slot_i])
        return em->device->graph_launch(em->st, c->graph[slot_i]);
    int rc = em->device->graph_launch(em->st, c->head[slot_i]);
    return rc < 0 ? rc : em->device->graph_launch(em->st, c->tail[slot_i]);
}

void graphs_plan_limits(const struct captured *c, const struct step *step, struct plan_limits *ret)
{
    *ret = (struct plan_limits){ c->rows, c->rows, c->rows,
                                 step->n_seq > 0 ? step->block_start[step->n_seq] : 0,
                                 max_of(step->n_bias, step->n_ban) };
}
