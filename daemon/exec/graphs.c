/*
 * Captures at start, picks per step. A graph's kernels read the plan at fixed offsets of em->plan:
 * plan_layout puts what they read before anything whose length varies. They find their slot by the
 * device's count of turns.
 */
#include "daemon/exec/graphs.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/compiler.h"
#include "daemon/base/clock.h"
#include "daemon/exec/exec_model.h"

static const int batch_sizes[] = { 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256 };

/* Rows of long prompts whose products have algorithms of their own: powers of two (lt_gemm.cu). */
static const int prompt_sizes[] = { 512, 1024, 2048 };

/*
 * A graph's attention splits contexts for the longest that it may meet, so a bound pays where that
 * makes another plan (kernels/cuda/attn_plan.h): of few rows from one split to a cluster of them
 * and on to many; of many rows from one split, where a short context takes a warp, to several.
 */
static const struct {
    int tokens, rows_min, rows_max;
} context_bounds[] = {
    { 128, 1, 2 }, { 256, 1, 4 }, { 1024, 1, 2 }, { 1024, 17, INT32_MAX }, { 2048, 1, 4 },
};
static_assert(ARRAY_SIZE(context_bounds) < GRAPHS_BOUNDS_MAX, "one more: the model's context");

/*
 * Of any rows: a short prompt, alone or beside others that decode. They are rare, so fewer sizes
 * do. Bounds: of those that sample one row, a prompt's last; a fresh prompt is as long as its rows.
 */
static const int any_sizes[] = { 4, 8, 16 }, prompt_bounds[] = { 64, 1024 };

/* One more of any rows: the model's batch. More than bounds: all samples, and the model's part. */
static_assert(ARRAY_SIZE(batch_sizes) * (GRAPHS_BOUNDS_MAX + 1) +
                      (ARRAY_SIZE(any_sizes) + 1) * (ARRAY_SIZE(prompt_bounds) + 2) <=
                  GRAPHS_MAX,
              "whatever the model's batch and context: none is dropped");

/* A padded step of that size. n_decode 0 promises nothing about whose the rows are. */
static struct exec_pass graphs_pass(const struct captured *c)
{
    return (struct exec_pass){ .n_row = c->rows,
                               .n_seq = c->rows,
                               .n_decode = c->any_rows ? 0 : c->rows,
                               .n_sample = c->n_sample,
                               .kv_tokens_max = c->kv_tokens_max };
}

static void graphs_layout(const struct captured *c, struct plan *ret)
{
    plan_layout(&(struct plan_limits){ c->rows, c->rows, c->n_sample, 0, 0 }, ret);
}

/* Padding alone, op by op: libraries choose their algorithms outside of capture, kernels load. */
static int graphs_warm(struct exec_model *em, const struct exec_pass *pass)
{
    const struct plan_limits n = { pass->n_row, pass->n_seq, pass->n_sample, 0, 0 };
    struct step empty = { .row_start = (int32_t[1]){ 0 }, .block_start = (int32_t[1]){ 0 } };
    struct plan plan;
    plan_layout(&n, &plan);
    int rc = em->device->stream_sync(em->st); /* the last size's plan was in the same slot */
    plan_pack(&empty, &n, &plan, 0, em->slots[em->n_launched % EXECUTOR_STEPS_MAX].plan);
    if (rc == 0)
        rc = exec_model_fetch(em, plan.bytes, plan.bytes);
    if (rc == 0)
        rc = exec_model_forward(em, pass, &plan);
    if (rc == 0)
        rc = exec_model_sample(em, pass, &plan);
    return rc;
}

/* Not whole: the model's part alone. */
static int graphs_record(struct exec_model *em, const struct captured *c, bool whole,
                         struct graph **ret)
{
    struct exec_pass pass = graphs_pass(c);
    struct graph *graph = NULL;
    struct plan plan;
    graphs_layout(c, &plan);
    int rc = em->device->graph_begin(em->st);
    if (rc < 0)
        return rc;
    if (whole)
        rc = exec_model_fetch(em, plan.blocks, em->plan_bytes);
    if (rc == 0)
        rc = exec_model_forward(em, &pass, &plan);
    if (rc == 0 && whole)
        rc = exec_model_sample(em, &pass, &plan);
    if (rc == 0 && whole)
        rc = exec_model_deliver(em, c->n_sample);
    int end = em->device->graph_end(em->st, &graph);
    if (rc < 0 && end == 0)
        em->device->graph_close(graph);
    if (rc < 0 || end < 0)
        return rc < 0 ? rc : end;
    *ret = graph;
    return 0;
}

static int graphs_capture_one(struct exec_model *em, const struct captured *like, bool whole)
{
    struct graphs *g = &em->graphs;
    assert(g->n < GRAPHS_MAX);
    struct captured *c = &g->captured[g->n++];
    *c = *like;
    return graphs_record(em, c, whole, whole ? &c->whole : &c->forward);
}

int graphs_bounds(int rows, int context, int *ret)
{
    int n = 0;
    for (size_t i = 0; i < ARRAY_SIZE(context_bounds); i++)
        if (rows >= context_bounds[i].rows_min && rows <= context_bounds[i].rows_max &&
            context_bounds[i].tokens < context)
            ret[n++] = context_bounds[i].tokens;
    ret[n++] = context;
    return n;
}

/*
 * Of any rows, if that many have such graphs: for a prompt that samples its last, for more, and the
 * model's part alone. No algorithm is left to choose: their products are those of decode.
 */
static int graphs_capture_any(struct exec_model *em, int rows)
{
    int context = em->info.context, rc = 0;
    bool wanted = rows > 1 && rows == em->info.limits.seqs_max;
    for (size_t i = 0; i < ARRAY_SIZE(any_sizes); i++)
        wanted |= rows == any_sizes[i];
    if (!wanted || rows > any_sizes[ARRAY_SIZE(any_sizes) - 1])
        return 0;
    struct captured c = { .rows = rows, .n_sample = 1, .any_rows = true };
    for (size_t i = 0; i < ARRAY_SIZE(prompt_bounds) && rc == 0 && c.kv_tokens_max < context; i++) {
        c.kv_tokens_max = min_of(prompt_bounds[i], context);
        rc = graphs_capture_one(em, &c, true);
    }
    c.n_sample = rows;
    c.kv_tokens_max = context;
    if (rc == 0)
        rc = graphs_capture_one(em, &c, true);
    return rc < 0 ? rc : graphs_capture_one(em, &c, false);
}

/* One size; what fits most closely comes first. */
static int graphs_capture_size(struct exec_model *em, int rows)
{
    int bounds[GRAPHS_BOUNDS_MAX], n = graphs_bounds(rows, em->info.context, bounds);
    struct captured c = { .rows = rows, .n_sample = rows, .kv_tokens_max = em->info.context };
    const struct exec_pass pass = graphs_pass(&c);
    int rc = graphs_warm(em, &pass);
    for (int i = 0; i < n && rc == 0; i++) {
        c.kv_tokens_max = bounds[i];
        rc = graphs_capture_one(em, &c, true);
    }
    if (rc == 0)
        rc = graphs_capture_one(em, &c, false);
    return rc < 0 ? rc : graphs_capture_any(em, rows);
}

int graphs_warm_prompts(struct exec_model *em)
{
    int rc = 0, rows = 0;
    if (!em->device->graph_begin)
        return 0;
    for (size_t i = 0; i < ARRAY_SIZE(prompt_sizes) && rc == 0; i++) {
        if (rows == em->info.limits.rows_max)
            break;
        rows = min_of(prompt_sizes[i], em->info.limits.rows_max);
        rc = graphs_warm(em, &(struct exec_pass){
                                 .n_row = rows, .n_seq = 1, .n_sample = 1, .kv_tokens_max = rows });
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

void graphs_close(struct exec_model *em)
{
    for (int i = 0; i < em->graphs.n; i++) {
        const struct captured *c = &em->graphs.captured[i];
        if (c->whole)
            em->device->graph_close(c->whole);
        if (c->forward)
            em->device->graph_close(c->forward);
    }
    em->graphs.n = 0;
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
    bool single = step->n_seq == step->n_row, samples = !step_has_lists(step);
    for (int i = 0; i < em->graphs.n; i++) { /* sizes and bounds ascend */
        const struct captured *c = &em->graphs.captured[i];
        if (c->rows >= step->n_row && (single || c->any_rows) && c->kv_tokens_max >= kv_tokens &&
            c->n_sample >= step->n_sample && !c->forward == samples)
            return c;
    }
    return NULL;
}

void graphs_plan_limits(const struct captured *c, const struct step *step, struct plan_limits *ret)
{
    *ret = (struct plan_limits){ c->rows, c->rows, c->n_sample,
                                 step->n_seq > 0 ? step->block_start[step->n_seq] : 0,
                                 max_of(step->n_bias, step->n_ban) };
}
