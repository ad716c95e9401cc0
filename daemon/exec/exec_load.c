/* Loads a model for the executor: limits, weights, KV pool, buffers, passes to warm up. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "daemon/base/clock.h"
#include "daemon/exec/exec_model.h"

enum {
    CONTEXT_DEFAULT = 8192,
    LISTS_PER_SEQUENCE = 320, /* bias entries and bans, on average */
    LISTS_MIN = 2048,         /* one request at its limits */
    MOVES_MAX = 4096,
    MOVES_MIN = 64,
    BATCH_LIMIT = 4096, /* nobody means more */
    ROWS_LIMIT = 1 << 16,
    KV_BLOCKS_MIN = 2,
};

static const int64_t kv_auto_cpu_bytes = INT64_C(1) << 30;

static int load_kv_dtype(const struct exec_model *em, const char *type, enum dtype *ret,
                         struct format_error *err)
{
    static const enum dtype types[] = { DTYPE_F32, DTYPE_F16, DTYPE_BF16, DTYPE_Q8_0 };
    bool is_cpu = strcmp(em->model->backend->name, "cpu") == 0;
    enum dtype act = em->ops->act_dtype;
    if (!type || strcmp(type, "auto") == 0) {
        *ret = is_cpu ? DTYPE_F16 : act;
        return 0;
    }
    for (size_t i = 0; i < ARRAY_SIZE(types); i++)
        if (strcasecmp(dtype_name(types[i]), type) == 0) {
            *ret = types[i];
            if (act == DTYPE_F32 || types[i] == act)
                return 0;
            return format_fail(err, -ENOTSUP,
                               "%s: kv-type %s: this model is computed in %s on %s, and so is its "
                               "KV cache (--dtype)",
                               em->model->source.path, type, dtype_name(act),
                               em->model->backend->name);
        }
    return format_fail(err, -EINVAL, "kv-type \"%s\": choose auto, f32, f16, bf16 or q8_0", type);
}

static int load_limits(struct exec_model *em, const struct executor_load *load,
                       struct format_error *err)
{
    struct executor_model *info = &em->info;
    const char *path = load->source.path;
    if (load->batch_max < 1 || load->batch_max > BATCH_LIMIT || load->rows_max < load->batch_max ||
        load->rows_max > ROWS_LIMIT || load->samples_max < load->batch_max ||
        load->samples_max > ROWS_LIMIT)
        return format_fail(err, -EINVAL, "%s: batch of %d, %d rows, %d samples: out of range", path,
                           load->batch_max, load->rows_max, load->samples_max);
    if (load->context < 0 || load->context > info->info.context)
        return format_fail(err, -EINVAL, "%s: context of %d tokens asked for, the model has %d",
                           path, load->context, info->info.context);
    info->context =
        load->context ? load->context : min_of(info->info.context, (int)CONTEXT_DEFAULT);
    int64_t blocks =
        (int64_t)load->batch_max * (int64_t)div_ceil((uint64_t)info->context, KV_BLOCK_TOKENS);
    if (blocks > INT_MAX / 4)
        return format_fail(err, -EINVAL, "%s: %d sequences of %d tokens: too many", path,
                           load->batch_max, info->context);
    info->limits = (struct step_limits){
        .rows_max = load->rows_max,
        .seqs_max = load->batch_max,
        .samples_max = load->samples_max,
        .blocks_max = (int)blocks,
        .lists_max = load->lists_max ? load->lists_max
                                     : max_of(LISTS_PER_SEQUENCE * load->batch_max, (int)LISTS_MIN),
        .vocab = info->info.vocab,
    };
    int rc = load_kv_dtype(em, load->kv_type, &info->kv_dtype, err);
    if (rc < 0)
        return rc;
    info->kv_block_bytes = model_kv_block_bytes(em->model, info->kv_dtype);
    if (info->kv_block_bytes <= 0)
        return format_fail(err, -ENOTSUP,
                           "%s: kv-type %s needs heads of a multiple of 32, this model's are %d",
                           path, dtype_name(info->kv_dtype), info->info.head_dim);
    return 0;
}

static void load_op_limits(const struct exec_model *em, struct op_limits *ret)
{
    const struct model_shape *s = &em->model->shape;
    const struct step_limits *l = &em->info.limits;
    int q_dim = s->n_head * s->head_dim;
    *ret = (struct op_limits){
        .rows_max = l->rows_max,
        .seqs_max = l->seqs_max,
        .samples_max = l->samples_max,
        .dim_max = max_of(max_of(s->dim, s->ffn_dim), q_dim),
        .out_max = max_of(max_of(q_dim + 2 * s->n_kv_head * s->head_dim, 2 * s->ffn_dim), s->dim),
        .vocab = s->vocab,
        .n_head = s->n_head,
        .n_kv_head = s->n_kv_head,
        .head_dim = s->head_dim,
        .context_max = em->info.context,
    };
}

/* Bytes for the KV pool, by the rule in executor.h. */
static int64_t load_kv_auto(const struct exec_model *em, const struct executor_load *load)
{
    struct device_info device;
    em->device->info(em->dev, &device);
    bool is_cpu = strcmp(em->model->backend->name, "cpu") == 0;
    int64_t per_seq =
        (int64_t)div_ceil((uint64_t)em->info.context, KV_BLOCK_TOKENS) * em->info.kv_block_bytes;
    int64_t want = per_seq * em->info.limits.seqs_max;
    int64_t room = (int64_t)(is_cpu ? device.memory_free / 4 : device.memory_free / 10 * 9);
    room /= max_of(load->models_left, 1);
    if (is_cpu)
        want = max_of(min_of(want, kv_auto_cpu_bytes), per_seq);
    return min_of(want, room);
}

static int load_no_room(const struct exec_model *em, const char *what, uint64_t bytes,
                        struct format_error *err)
{
    return format_fail(err, -ENOMEM, "%s: no room for %.1f MB of %s", em->model->source.path,
                       (double)bytes / 1e6, what);
}

/*
 * Behind what failed: the device's own words, or where memory is short the sums that a person needs
 * to choose other sizes.
 */
static void load_tell_more(const struct exec_model *em, int rc, struct format_error *err)
{
    const char *fault = em->device->error(em->dev);
    struct device_info device;
    char what[sizeof(err->text)];
    if (!err->text[0])
        format_fail(err, rc, "%s: %s", em->model->source.path, strerror(-rc));
    snprintf(what, sizeof(what), "%s", err->text);
    if (fault && !strstr(what, fault))
        format_fail(err, rc, "%s: %s", what, fault);
    if (fault || rc != -ENOMEM)
        return;
    em->device->info(em->dev, &device);
    format_fail(err, rc, "%s (weights %.1f MB, KV cache %.1f MB; %.1f MB of %.1f MB are free)",
                what, (double)em->model->info.device_bytes / 1e6,
                (double)em->info.kv_pool_bytes / 1e6, (double)device.memory_free / 1e6,
                (double)device.memory_total / 1e6);
}

/* An explicit size must fit now: memory that is promised and not there fails much later. */
static bool load_kv_fits(const struct exec_model *em, uint64_t bytes)
{
    struct device_info device;
    em->device->info(em->dev, &device);
    return device.memory_free == 0 || bytes <= device.memory_free;
}

static int load_kv_pool(struct exec_model *em, const struct executor_load *load,
                        struct format_error *err)
{
    struct executor_model *info = &em->info;
    int64_t bytes = load->kv_bytes ? (int64_t)min_of(load->kv_bytes, (uint64_t)INT64_MAX)
                                   : load_kv_auto(em, load);
    int64_t n = min_of(bytes / info->kv_block_bytes, (int64_t)INT_MAX / KV_BLOCK_TOKENS);
    int64_t n_host =
        min_of((int64_t)min_of(load->host_kv_bytes, (uint64_t)INT64_MAX) / info->kv_block_bytes,
               (int64_t)INT_MAX / KV_BLOCK_TOKENS);
    if (n < KV_BLOCKS_MIN)
        return format_fail(err, -ENOMEM,
                           "%s: %" PRId64 " bytes for the KV cache hold %" PRId64
                           " blocks of %" PRId64 " bytes, at least %d are needed",
                           load->source.path, bytes, n, info->kv_block_bytes, KV_BLOCKS_MIN);
    info->kv_blocks = (int)n;
    info->kv_host_blocks = (int)n_host;
    info->kv_pool_bytes = (uint64_t)(n * info->kv_block_bytes);
    info->limits.moves_max =
        (int)max_of(min_of(n, (int64_t)MOVES_MAX), (int64_t)info->limits.seqs_max + MOVES_MIN);
    if (load_kv_fits(em, info->kv_pool_bytes))
        em->kv_pool = em->device->alloc(em->dev, (size_t)info->kv_pool_bytes);
    if (!em->kv_pool)
        return load_no_room(em, "KV cache", info->kv_pool_bytes, err);
    if (em->device->settle)
        em->device->settle(em->dev, em->kv_pool);
    if (n_host > 0) {
        em->kv_host = em->device->host_alloc(em->dev, (size_t)(n_host * info->kv_block_bytes));
        if (!em->kv_host)
            return load_no_room(em, "swap pool", (uint64_t)(n_host * info->kv_block_bytes), err);
    }
    return 0;
}

/* The slots' blocks behind each other, and the word that tells whose turn it is. */
static bool load_slots(struct exec_model *em, size_t plan_bytes, size_t result_bytes)
{
    static_assert(EXECUTOR_STEPS_MAX == 2, "turns alternate between two slots");
    size_t result = align_up(plan_bytes, CACHE_LINE);
    size_t signal = align_up(result + result_bytes, CACHE_LINE);
    em->turn.stride = signal + CACHE_LINE;
    em->turn.word = em->device->alloc(em->dev, CACHE_LINE);
    uint8_t *at = em->device->host_alloc(em->dev, EXECUTOR_STEPS_MAX * em->turn.stride);
    em->slots[0].plan = at; /* the whole of them */
    if (!at || !em->turn.word)
        return false;
    for (int i = 0; i < EXECUTOR_STEPS_MAX; i++, at += em->turn.stride) {
        em->slots[i].plan = at;
        em->slots[i].result = (struct sample_out *)(void *)(at + result);
        em->slots[i].signal = (uint32_t *)(void *)(at + signal);
    }
    return true;
}

static int load_buffers(struct exec_model *em, struct format_error *err)
{
    const struct step_limits *l = &em->info.limits;
    struct plan plan;
    em->plan_limits = (struct plan_limits){ l->rows_max, l->seqs_max, l->samples_max, l->blocks_max,
                                            l->lists_max };
    plan_layout(&em->plan_limits, &plan);
    size_t logits = (size_t)l->samples_max * (size_t)l->vocab * sizeof(*em->logits);
    size_t counts = (size_t)l->seqs_max * (size_t)l->vocab * sizeof(*em->counts);
    size_t out = (size_t)l->samples_max * sizeof(*em->out);
    size_t sampled = (size_t)l->samples_max * sizeof(*em->sampled);
    em->plan_bytes = plan.bytes;
    em->plan = em->device->alloc(em->dev, plan.bytes);
    em->logits = em->device->alloc(em->dev, logits);
    em->counts = em->device->alloc(em->dev, counts);
    em->out = em->device->alloc(em->dev, out);
    em->sampled = em->device->alloc(em->dev, sampled);
    em->ids = calloc((size_t)em->info.context + 1, sizeof(*em->ids));
    bool ok = em->plan && em->logits && em->counts && em->out && em->sampled && em->ids;
    ok = ok && load_slots(em, plan.bytes, out);
    em->info.scratch_bytes = plan.bytes + logits + counts + out + sampled;
    if (!ok)
        return load_no_room(em, "buffers", em->info.scratch_bytes, err);
    return 0;
}

/* A pass that fails: the device's own words, or the shape that it has no kernel for. */
static int load_pass_failed(const struct exec_model *em, const char *pass, int rc,
                            struct format_error *err)
{
    const struct model_shape *s = &em->model->shape;
    if (rc != -ENOTSUP || em->device->error(em->dev))
        return format_fail(err, rc, "%s: %s failed: %s", em->model->source.path, pass,
                           strerror(-rc));
    return format_fail(err, rc,
                       "%s: device %s has no kernel for this shape in %s with a %s KV cache: %d "
                       "heads of size %d over %d KV heads, width %d, ffn %d, vocabulary %d",
                       em->model->source.path, em->model->backend->name,
                       dtype_name(em->ops->act_dtype), dtype_name(em->info.kv_dtype), s->n_head,
                       s->head_dim, s->n_kv_head, s->dim, s->ffn_dim, s->vocab);
}

/* One sequence of a few rows, then it decodes: every op of the model runs, with any missing kernel.
 */
static int load_warm_up(struct exec_model *em, struct format_error *err)
{
    enum { ROWS = 4 };
    int32_t token[ROWS] = { 0 }, position[ROWS] = { 0, 1, 2, 3 }, slot[ROWS] = { 0, 1, 2, 3 };
    int32_t row_seq[ROWS] = { 0 }, row_start[2] = { 0, 0 }, kv_tokens[1], block_start[2] = { 0, 1 };
    int32_t blocks[1] = { 0 }, prompt_tokens[1] = { 1 }, sample_row[1], n_row;
    struct step_sample sample = { .top_p = 1, .repetition = 1, .state_slot = -1, .mask_index = -1 };
    struct step_token result;
    int n_prefill = min_of((int)ROWS - 1, em->info.limits.rows_max);
    for (int pass = 0; pass < 2; pass++) {
        n_row = pass == 0 ? n_prefill : 1;
        int first = pass == 0 ? 0 : n_prefill;
        row_start[1] = n_row;
        kv_tokens[0] = first + n_row;
        sample_row[0] = n_row - 1;
        struct step step = {
            .limits = em->info.limits,
            .n_row = n_row,
            .n_seq = 1,
            .n_decode = n_row == 1,
            .n_sample = 1,
            .token = token,
            .position = position + first,
            .slot = slot + first,
            .row_seq = row_seq,
            .row_start = row_start,
            .kv_tokens = kv_tokens,
            .block_start = block_start,
            .blocks = blocks,
            .prompt_tokens = prompt_tokens,
            .sample_row = sample_row,
            .sample = &sample,
            .result = &result,
        };
        int rc = exec_model_launch(em, &step);
        if (rc == 0)
            rc = em->device->stream_sync(em->st);
        if (rc < 0)
            return load_pass_failed(em, "the first pass", rc, err);
        exec_model_finish(&em->slots[(em->n_launched - 1) % EXECUTOR_STEPS_MAX]);
    }
    return 0;
}

static int load_graphs(struct exec_model *em, struct format_error *err)
{
    uint64_t start_ns = clock_now_ns();
    int rc = graphs_warm_prompts(em);
    em->info.warm_ns += clock_now_ns() - start_ns;
    if (rc < 0)
        return load_pass_failed(em, "a pass of a long prompt", rc, err);
    rc = graphs_capture(em);
    if (rc == 0)
        rc = em->device->stream_sync(em->st);
    em->info.n_graph = em->graphs.n;
    em->info.capture_ns = em->graphs.capture_ns;
    return rc == 0 ? 0 : load_pass_failed(em, "capturing a graph", rc, err);
}

/* The end of either half of a load. */
static int load_ended(struct exec_model *em, uint64_t start_ns, int rc, struct format_error *err)
{
    em->info.load_ns += clock_now_ns() - start_ns;
    if (rc == 0)
        return 0;
    if (err)
        load_tell_more(em, rc, err);
    exec_model_close(em);
    return rc;
}

int exec_model_load_weights(struct exec_model *em, const struct backend *backend,
                            struct device *dev, const struct executor_load *load,
                            struct format_error *err)
{
    uint64_t start_ns = clock_now_ns();
    struct op_limits limits;
    em->device = backend->device;
    em->dev = dev;
    int rc = model_open(backend, dev, &load->source, load->name, &em->model, err);
    if (rc < 0)
        return rc;
    em->ops = em->model->ops;
    em->info.dtype = em->ops->act_dtype;
    em->info.info = em->model->info;
    rc = load_limits(em, load, err);
    if (rc == 0) {
        load_op_limits(em, &limits);
        rc = em->device->stream_open(dev, &limits, &em->st);
        if (rc < 0)
            format_fail(err, rc, "%s: the scratch of %d rows: %s", load->source.path,
                        limits.rows_max, strerror(-rc));
    }
    uint64_t weights_ns = clock_now_ns();
    if (rc == 0)
        rc = model_load(em->model, em->st, &limits, load->progress, load->progress_arg, err);
    em->info.weights_ns = clock_now_ns() - weights_ns;
    em->info.info = em->model->info;
    if (rc == 0)
        rc = load_buffers(em, err);
    return load_ended(em, start_ns, rc, err);
}

int exec_model_load_kv(struct exec_model *em, const struct executor_load *load,
                       struct format_error *err)
{
    uint64_t start_ns = clock_now_ns();
    int rc = load_kv_pool(em, load, err);
    uint64_t warm_ns = clock_now_ns();
    if (rc == 0)
        rc = load_warm_up(em, err);
    em->info.warm_ns = clock_now_ns() - warm_ns;
    if (rc == 0)
        rc = load_graphs(em, err);
    if (rc == 0) {
        struct device_info device;
        em->device->info(em->dev, &device);
        em->info.memory_free = device.memory_free;
        em->info.memory_total = device.memory_total;
    }
    return load_ended(em, start_ns, rc, err);
}

void exec_model_close(struct exec_model *em)
{
    graphs_close(em);
    void *on_device[] = { em->kv_pool, em->plan,    em->logits,   em->counts,
                          em->out,     em->sampled, em->turn.word };
    for (size_t i = 0; i < ARRAY_SIZE(on_device); i++)
        if (on_device[i])
            em->device->free(em->dev, on_device[i]);
    if (em->slots[0].plan)
        em->device->host_free(em->dev, em->slots[0].plan);
    if (em->kv_host)
        em->device->host_free(em->dev, em->kv_host);
    free(em->ids);
    model_close(em->model);
    if (em->st)
        em->device->stream_close(em->st);
    *em = (struct exec_model){ 0 };
}
