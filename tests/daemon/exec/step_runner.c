#include "tests/daemon/exec/step_runner.h"

#include <errno.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/compiler.h"
#include "daemon/base/arena.h"
#include "daemon/base/clock.h"

int runner_open(struct runner *r, const char *backend, int n_thread,
                const struct executor_load *load, struct format_error *err)
{
    struct executor_config config = { .backend = backend, .n_thread = n_thread };
    return runner_open_config(r, &config, load, err);
}

int runner_open_config(struct runner *r, const struct executor_config *config,
                       const struct executor_load *load, struct format_error *err)
{
    struct executor_load full = *load;
    struct executor_wake wake = { .eventfd = -1 };
    memset(r, 0, sizeof(*r));
    r->block_step = 1;
    if (!full.batch_max)
        full.batch_max = 4;
    if (!full.rows_max)
        full.rows_max = 512;
    if (!full.samples_max)
        full.samples_max = full.rows_max;
    int rc = executor_open(config, &r->ex, err);
    if (rc == 0)
        rc = executor_load_weights(r->ex, 0, &full, err);
    if (rc == 0)
        rc = executor_load_kv(r->ex, 0, &full, &r->model, err);
    if (rc < 0)
        goto out;
    rc = arena_create(EXECUTOR_STEPS_MAX * step_bytes(&r->model.limits) + 65536, &r->arena);
    for (int i = 0; i < EXECUTOR_STEPS_MAX && rc == 0; i++)
        rc = step_init(&r->steps[i], &r->model.limits, r->arena);
    if (rc == 0)
        rc = executor_start(r->ex, &wake);
out:
    if (rc < 0)
        runner_close(r);
    return rc;
}

void runner_close(struct runner *r)
{
    executor_close(r->ex);
    if (r->arena)
        arena_free(r->arena);
    memset(r, 0, sizeof(*r));
}

void nap_us(int us)
{
    nanosleep(&(struct timespec){ .tv_nsec = us * 1000L }, NULL);
}

struct step *runner_step(struct runner *r)
{
    struct step *step = &r->steps[r->number % EXECUTOR_STEPS_MAX];
    step_reset(step);
    step->number = ++r->number;
    step->deterministic = r->deterministic;
    step->row_start[0] = step->block_start[0] = 0;
    return step;
}

void runner_add_seq(struct runner *r, struct step *step, const int32_t *ids, int first, int n,
                    int n_prompt)
{
    int s = step->n_seq++, block = step->block_start[s];
    int n_block = (int)div_ceil((uint64_t)(first + n), 16);
    assert(r->first_block + (n_block - 1) * r->block_step < r->model.kv_blocks);
    for (int i = 0; i < n_block; i++)
        step->blocks[block + i] = r->first_block + i * r->block_step;
    for (int i = 0; i < n; i++) {
        int row = step->n_row++, position = first + i;
        step->token[row] = ids[i];
        step->position[row] = position;
        step->slot[row] = step->blocks[block + position / 16] * 16 + position % 16;
        step->row_seq[row] = s;
    }
    step->row_start[s + 1] = step->n_row;
    step->block_start[s + 1] = block + n_block;
    step->kv_tokens[s] = first + n;
    step->prompt_tokens[s] = n_prompt;
    if (n == 1 && step->n_decode == s)
        step->n_decode++;
}

void runner_add_sample(struct step *step, int row, int position)
{
    int i = step->n_sample++;
    step->sample_row[i] = row;
    step->sample[i] = (struct step_sample){ .top_p = 1,
                                            .repetition = 1,
                                            .position = (uint32_t)position,
                                            .state_slot = -1,
                                            .mask_index = -1,
                                            .score_id = -1 };
}

static struct step *runner_wait(struct runner *r)
{
    struct step *step;
    while (!(step = executor_collect(r->ex)))
        cpu_relax();
    return step;
}

int runner_run(struct runner *r, struct step *step)
{
    int rc = executor_submit(r->ex, step);
    if (rc < 0)
        return rc;
    struct step *done = runner_wait(r);
    assert(done == step);
    return done->status;
}

int runner_run_pending(struct runner *r, struct step *step, struct step *first)
{
    int rc = executor_submit(r->ex, step);
    if (rc < 0)
        return rc;
    struct step *done = runner_wait(r);
    assert(done == first);
    done = runner_wait(r);
    assert(done == step);
    return done->status;
}

/* All of the prompt; *ret is the first new id. */
static int runner_prefill(struct runner *r, const int32_t *prompt, int n_prompt, int32_t *ret)
{
    int chunk = r->chunk ? r->chunk : r->model.limits.rows_max;
    for (int first = 0; first < n_prompt; first += chunk) {
        int n = min_of(chunk, n_prompt - first);
        struct step *step = runner_step(r);
        runner_add_seq(r, step, prompt + first, first, n, n_prompt);
        if (first + n == n_prompt)
            runner_add_sample(step, n - 1, n_prompt);
        int rc = runner_run(r, step);
        if (rc < 0)
            return rc;
        *ret = step->n_sample ? step->result[0].token : -1;
    }
    return 0;
}

static struct step *runner_decode_step(struct runner *r, int32_t token, int position, int n_prompt)
{
    struct step *step = runner_step(r);
    runner_add_seq(r, step, &token, position, 1, n_prompt);
    runner_add_sample(step, 0, position + 1);
    return step;
}

/* Keeps two steps in flight: the second names "what the first draws". */
static int runner_decode_ahead(struct runner *r, int n_prompt, int n_new, int32_t *ret)
{
    int rc = executor_submit(r->ex, runner_decode_step(r, ret[0], n_prompt, n_prompt));
    for (int i = 1; i < n_new && rc == 0; i++) {
        if (i + 1 < n_new)
            rc = executor_submit(r->ex, runner_decode_step(r, -1, n_prompt + i, n_prompt));
        struct step *done = runner_wait(r);
        if (rc == 0)
            rc = done->status;
        ret[i] = done->result[0].token;
    }
    while (executor_in_flight(r->ex) > 0)
        runner_wait(r);
    return rc;
}

int runner_generate(struct runner *r, const int32_t *prompt, int n_prompt, int n_new, bool ahead,
                    int32_t *ret)
{
    uint64_t start_ns = clock_now_ns();
    int rc = runner_prefill(r, prompt, n_prompt, &ret[0]);
    uint64_t prefilled_ns = clock_now_ns();
    r->prefill_ns = prefilled_ns - start_ns;
    if (rc == 0 && ahead && n_new > 1)
        rc = runner_decode_ahead(r, n_prompt, n_new, ret);
    for (int i = 1; i < n_new && rc == 0 && !ahead; i++) {
        struct step *step = runner_decode_step(r, ret[i - 1], n_prompt + i - 1, n_prompt);
        rc = runner_run(r, step);
        ret[i] = step->result[0].token;
    }
    r->decode_ns = clock_now_ns() - prefilled_ns;
    return rc;
}

int runner_score(struct runner *r, const int32_t *ids, int n, struct step_token *ret)
{
    int chunk = min_of(r->model.limits.rows_max, r->model.limits.samples_max);
    if (r->chunk)
        chunk = min_of(chunk, r->chunk);
    for (int first = 0; first < n; first += chunk) {
        int count = min_of(chunk, n - first);
        struct step *step = runner_step(r);
        runner_add_seq(r, step, ids + first, first, count, n);
        for (int i = 0; i < count; i++) {
            runner_add_sample(step, i, first + i);
            struct step_sample *s = &step->sample[i];
            s->flags = STEP_SAMPLE_LOGPROBS | (first + i + 1 < n ? STEP_SAMPLE_SCORE : 0);
            s->score_id = first + i + 1 < n ? ids[first + i + 1] : -1;
            s->n_top = STEP_TOP_MAX;
        }
        int rc = runner_run(r, step);
        if (rc < 0)
            return rc;
        memcpy(ret + first, step->result, (size_t)count * sizeof(*ret));
    }
    return 0;
}
