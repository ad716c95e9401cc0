/* One executor serves every model of the device; each model has its own KV pool and scheduler. */
#include "daemon/engine.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/compiler.h"
#include "daemon/base/arena.h"
#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/format/gguf.h"
#include "daemon/model/model.h"
#include "daemon/text/encode.h"
#include "daemon/text/template.h"
#include "daemon/text/vocab.h"

enum { BATCH_CPU = 32, BATCH_CUDA = 256, BATCH_ECHO = 256, ROWS_CPU = 512, ROWS_CUDA = 2048 };

#define EXECUTOR_SPIN_NS_CUDA (200 * NS_PER_US)

static bool is_echo(const char *path)
{
    return strcmp(path, "echo") == 0;
}

/* echo has no GPU form, and all models share the device. */
static bool serves_echo(const struct config *config)
{
    for (uint32_t i = 0; i < config->n_model; i++)
        if (is_echo(config->model[i].path))
            return true;
    return false;
}

static int open_device(const struct config *config, uint64_t spin_ns, struct engine *e,
                       struct format_error *err)
{
    struct executor_config ex = { .backend = "cpu",
                                  .n_thread = (int)config->threads,
                                  .cpus = config->cpus[0] ? config->cpus : NULL,
                                  .spin_ns = spin_ns,
                                  .watchdog_ns = config->watchdog_s * NS_PER_S };
    bool automatic = strcmp(config->device, "auto") == 0;
    if (strncmp(config->device, "cuda", 4) == 0 || (automatic && !serves_echo(config))) {
        struct executor_config cuda = ex;
        cuda.backend = "cuda";
        if (spin_ns > 0) /* a client that asks again at once finds it awake */
            cuda.spin_ns = max_of(spin_ns, EXECUTOR_SPIN_NS_CUDA);
        if (config->device[4] == ':')
            cuda.device_index = (int)strtol(config->device + 5, NULL, 10);
        int error = executor_open(&cuda, &e->executor, err);
        if (!error || !automatic) {
            snprintf(e->device, sizeof(e->device), "cuda");
            return error;
        }
        if (error != -ENOENT) /* it was built for one */
            log_info(MODEL, "models run on the CPU: %s", err->text);
        err->text[0] = 0;
    }
    snprintf(e->device, sizeof(e->device), "cpu");
    return executor_open(&ex, &e->executor, err);
}

static bool is_cuda(const struct engine *e)
{
    return strcmp(e->device, "cuda") == 0;
}

static bool is_dummy(const struct config_model *c)
{
    return strcmp(c->options.load_format, "dummy") == 0;
}

/* Weights that mean nothing need no tokenizer either: their text is bytes then. */
static bool lacks_tokenizer(const char *folder)
{
    char path[PATH_MAX];
    struct stat st;
    snprintf(path, sizeof(path), "%s/tokenizer.json", folder);
    return stat(path, &st) < 0 && errno == ENOENT && stat(folder, &st) == 0 && S_ISDIR(st.st_mode);
}

/* One of a checkpoint's files in place of the folder: no GGUF reader could say it better. */
static bool is_checkpoint_file(const char *path)
{
    const char *dot = strrchr(path, '.');
    return dot && (strcmp(dot, ".safetensors") == 0 || strcmp(dot, ".json") == 0);
}

/* The file's vocabulary and template; echo has bytes. */
static int open_text(const char *path, bool is_dummy, struct engine_model *m,
                     struct format_error *err)
{
    struct stat st;
    int error;
    if (is_echo(path)) {
        error = vocab_open_bytes(&m->vocab);
    } else if (is_dummy && lacks_tokenizer(path)) {
        log_warn(TEXT, "%s: no tokenizer.json: text is bytes, one id each", path);
        error = vocab_open_raw_bytes(&m->vocab);
    } else if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        error = model_check_family(path, NULL, err);
        if (!error)
            error = vocab_open_hf(path, &m->vocab, err);
    } else if (is_checkpoint_file(path)) {
        error = format_fail(err, -EINVAL, "%s: a checkpoint is named by its folder", path);
    } else {
        error = gguf_open(path, &m->gguf, err);
        if (!error)
            error = model_check_family(path, m->gguf, err);
        if (!error)
            error = vocab_open_gguf(m->gguf, &m->vocab, err);
    }
    const char *source = error ? NULL : vocab_template(m->vocab);
    char why[160];
    if (source && template_compile(source, strlen(source), &m->template, why, sizeof(why)))
        log_warn(TEXT, "%s: chat template: %s; chat messages will be refused", path, why);
    return error;
}

struct progress {
    const char *name;
    int told; /* tenths */
    uint64_t told_ns;
};

/* Each tenth, or what a second brought where that is more; a load of a second says nothing. */
static void on_progress(void *arg, uint64_t done, uint64_t total)
{
    struct progress *p = arg;
    int tenths = total ? (int)(done * 10 / total) : 10;
    if (tenths <= p->told)
        return;
    p->told = tenths;
    uint64_t now_ns = clock_now_ns();
    if (now_ns - p->told_ns < NS_PER_S)
        return;
    p->told_ns = now_ns;
    log_info(MODEL, "%s: weights %d %% (%.1f of %.1f MB)", p->name, tenths * 10, (double)done / 1e6,
             (double)total / 1e6);
}

/* Where the time of a load went. */
static void tell_times(const struct engine *e, const struct executor_model *l, uint64_t text_ns)
{
    uint64_t parts_ns = l->weights_ns + l->warm_ns + l->capture_ns;
    log_info(
        DAEMON,
        "start-up of %s: device %.0f ms, text %.0f ms, weights %.0f ms (%.2f GB/s), rooms %.0f "
        "ms, first pass %.0f ms, %d graphs %.0f ms",
        l->info.name, (double)executor_open_ns(e->executor) / 1e6, (double)text_ns / 1e6,
        (double)l->weights_ns / 1e6,
        (double)l->info.weight_bytes / (double)max_of(l->weights_ns, UINT64_C(1)),
        (double)(l->load_ns - min_of(parts_ns, l->load_ns)) / 1e6, (double)l->warm_ns / 1e6,
        l->n_graph, (double)l->capture_ns / 1e6);
}

/*
 * What is left beside weights and KV, for whoever must choose another size. Of a GPU all is told
 * for: scratch of the ops, graphs, the driver's context, other models and programs are the rest.
 */
static void tell_sums(const struct engine *e, const struct executor_model *l)
{
    uint64_t own = l->info.device_bytes + l->kv_pool_bytes + l->scratch_bytes;
    uint64_t taken = l->memory_total - min_of(l->memory_free, l->memory_total);
    char rest[64] = "";
    if (is_cuda(e))
        snprintf(rest, sizeof(rest), ", all else %.1f MB",
                 (double)(taken - min_of(own, taken)) / 1e6);
    log_info(DAEMON,
             "memory of %s: weights %.1f MB, KV %d blocks of %d tokens x %.1f KB = %.1f MB (%s), "
             "swap %d blocks = %.1f MB, buffers %.1f MB%s; device %.1f of %.1f MB free",
             l->info.name, (double)l->info.device_bytes / 1e6, l->kv_blocks, KV_BLOCK_TOKENS,
             (double)l->kv_block_bytes / KV_BLOCK_TOKENS / 1e3, (double)l->kv_pool_bytes / 1e6,
             dtype_name(l->kv_dtype), l->kv_host_blocks,
             (double)l->kv_host_blocks * (double)l->kv_block_bytes / 1e6,
             (double)l->scratch_bytes / 1e6, rest, (double)l->memory_free / 1e6,
             (double)l->memory_total / 1e6);
}

/*
 * The name of a model that was not given one: its file's without the ending, its folder's; what the
 * file calls itself may hold blanks and the name of some training run.
 */
static void default_name(const char *path, char *name, size_t bytes)
{
    size_t end = strlen(path);
    while (end > 1 && path[end - 1] == '/')
        end--;
    size_t from = end;
    while (from > 0 && path[from - 1] != '/')
        from--;
    if (end - from > 5 && memcmp(path + end - 5, ".gguf", 5) == 0)
        end -= 5;
    snprintf(name, bytes, "%.*s", (int)min_of(end - from, bytes - 1), path + from);
    for (char *at = name; *at; at++)
        *at = *at > ' ' && *at < 127 ? *at : '_';
}

/* What the executor must know of a model; its name and progress are the caller's. */
static void fill_load(const struct engine *e, const struct config *config, uint32_t i,
                      struct executor_load *ret)
{
    const struct config_model *c = &config->model[i];
    const struct engine_model *m = &e->model[i];
    *ret = (struct executor_load){
        .source = { .path = c->path,
                    .gguf = m->gguf,
                    .gguf_is_file = true,
                    .dummy = is_dummy(c),
                    .dtype = c->options.dtype },
        .batch_max = m->batch_max,
        .rows_max = max_of(is_cuda(e) ? ROWS_CUDA : ROWS_CPU, 2 * m->batch_max),
        .samples_max = max_of(m->batch_max, 64),
        .context = (int)c->options.ctx,
        .kv_type = c->options.kv_type,
        .kv_bytes = c->options.kv_memory,
        .host_kv_bytes = c->options.host_kv_memory,
        .models_left = (int)(config->n_model - i),
    };
}

static int load_weights(struct engine *e, const struct config *config, uint32_t i,
                        struct format_error *err)
{
    const struct config_model *c = &config->model[i];
    struct engine_model *m = &e->model[i];
    uint64_t start_ns = clock_now_ns();
    int error = open_text(c->path, is_dummy(c), m, err);
    m->text_ns = clock_now_ns() - start_ns;
    if (error)
        return error;
    char name[RINGLET_MODEL_NAME_BYTES];
    snprintf(name, sizeof(name), "%s", c->name);
    if (!name[0])
        default_name(c->path, name, sizeof(name));
    m->batch_max = c->options.batch_max ? (int)c->options.batch_max
                   : is_echo(c->path)   ? BATCH_ECHO
                   : is_cuda(e)         ? BATCH_CUDA
                                        : BATCH_CPU;
    struct progress progress = { .name = name, .told_ns = clock_now_ns() };
    struct executor_load load;
    fill_load(e, config, i, &load);
    load.name = name;
    load.progress = on_progress;
    load.progress_arg = &progress;
    return executor_load_weights(e->executor, (int)i, &load, err);
}

static int load_kv(struct engine *e, const struct config *config, uint32_t i,
                   struct format_error *err)
{
    struct engine_model *m = &e->model[i];
    const struct executor_model *l = &m->loaded;
    struct executor_load load;
    fill_load(e, config, i, &load);
    int error = executor_load_kv(e->executor, (int)i, &load, &m->loaded, err);
    if (error)
        return error;
    log_info(DAEMON,
             "model %s: %s%s%s in %s, %.1f M parameters, weights %.1f MB, context %d, KV %d blocks "
             "(%.1f MB), %s, loaded in %.0f ms",
             l->info.name, l->info.arch, l->info.file_type[0] ? " " : "", l->info.file_type,
             dtype_name(l->dtype), (double)l->info.n_parameter / 1e6,
             (double)l->info.weight_bytes / 1e6, l->context, l->kv_blocks,
             (double)l->kv_pool_bytes / 1e6, l->device, (double)l->load_ns / 1e6);
    tell_sums(e, l);
    tell_times(e, l, m->text_ns);
    return 0;
}

static int check_names(const struct engine *e, struct format_error *err)
{
    for (uint32_t i = 0; i < e->n_model; i++)
        for (uint32_t k = 0; k < i; k++)
            if (strcmp(e->model[i].loaded.info.name, e->model[k].loaded.info.name) == 0)
                return format_fail(err, -EINVAL,
                                   "two models are named \"%s\": name one by "
                                   "--model NAME=PATH",
                                   e->model[i].loaded.info.name);
    return 0;
}

int engine_open(const struct config *config, uint64_t spin_ns, struct engine *ret,
                struct format_error *err)
{
    *ret = (struct engine){ 0 };
    if (config->n_model > EXECUTOR_MODELS_MAX)
        return format_fail(err, -EINVAL, "%u models: one device serves %d at most", config->n_model,
                           EXECUTOR_MODELS_MAX);
    int error = open_device(config, spin_ns, ret, err);
    for (uint32_t i = 0; i < config->n_model && !error; i++) {
        ret->n_model = i + 1;
        error = load_weights(ret, config, i, err);
    }
    for (uint32_t i = 0; i < config->n_model && !error; i++)
        error = load_kv(ret, config, i, err);
    return error ? error : check_names(ret, err);
}

size_t engine_bytes(const struct engine *e)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < e->n_model; i++)
        bytes += LIMIT_STEPS_IN_FLIGHT * step_bytes(&e->model[i].loaded.limits);
    return bytes;
}

void engine_encode_models(const struct engine *e, struct encode_model ret[LIMIT_MODELS])
{
    for (uint32_t i = 0; i < e->n_model; i++)
        ret[i] = (struct encode_model){ .vocab = e->model[i].vocab,
                                        .template = e->model[i].template,
                                        .context = (uint32_t)e->model[i].loaded.context,
                                        .n_id = e->model[i].loaded.info.vocab };
}

static struct request_params default_params(const struct model_sampling *s)
{
    struct request_params p = {
        .temperature = 1, .top_p = 1, .repetition = 1, .n = 1, .urgency = 128
    };
    if (s->set & MODEL_SETS_TEMPERATURE)
        p.temperature = s->temperature;
    if (s->set & MODEL_SETS_TOP_P)
        p.top_p = s->top_p;
    if (s->set & MODEL_SETS_MIN_P)
        p.min_p = s->min_p;
    if (s->set & MODEL_SETS_TOP_K)
        p.top_k = s->top_k;
    if (s->set & MODEL_SETS_REPETITION)
        p.repetition = s->repetition;
    return p;
}

static void fill_entry(struct engine_model *m)
{
    const struct executor_model *l = &m->loaded;
    const struct model_sampling *s = &l->info.sampling;
    struct request_params p = default_params(s);
    struct ringlet_board_model *entry = &m->entry;
    *entry = (struct ringlet_board_model){
        .generation = 1,
        .state = RINGLET_MODEL_READY,
        .vocab = (uint32_t)l->info.vocab,
        .context = (uint32_t)l->context,
        .flags = RINGLET_MODEL_HAS_TEXT | (m->template ? RINGLET_MODEL_HAS_TEMPLATE : 0u) |
                 (vocab_add_bos(m->vocab) ? RINGLET_MODEL_ADDS_BOS : 0u) |
                 (m->template ? RINGLET_MODEL_HAS_SYSTEM : 0u),
        .kv_block_tokens = 16,
        .set = (s->set & MODEL_SETS_TEMPERATURE ? RINGLET_SET_TEMPERATURE : 0u) |
               (s->set & MODEL_SETS_TOP_P ? RINGLET_SET_TOP_P : 0u) |
               (s->set & MODEL_SETS_MIN_P ? RINGLET_SET_MIN_P : 0u) |
               (s->set & MODEL_SETS_TOP_K ? RINGLET_SET_TOP_K : 0u) |
               (s->set & MODEL_SETS_REPETITION ? RINGLET_SET_REPETITION_PENALTY : 0u),
        .temperature = p.temperature,
        .top_p = p.top_p,
        .min_p = p.min_p,
        .top_k = p.top_k,
        .repetition_penalty = p.repetition,
        .bos = (uint32_t)vocab_bos(m->vocab),
        .eos = (uint32_t)vocab_eos(m->vocab),
        .weight_bytes = l->info.weight_bytes,
        .n_parameter = l->info.n_parameter,
    };
    snprintf(entry->name, sizeof(entry->name), "%s", l->info.name);
    snprintf(entry->arch, sizeof(entry->arch), "%s", l->info.arch);
    snprintf(entry->file_type, sizeof(entry->file_type), "%s", l->info.file_type);
    snprintf(entry->device, sizeof(entry->device), "%.31s", l->device);
}

/*
 * Ids that end a sequence: what the tokenizer says and what the model file says. A tokenizer may
 * have ids that the model cannot give; those must not be banned in a step either.
 */
static int end_ids(const struct engine_model *m, int32_t *ids, int most)
{
    const int32_t *eog;
    int n = 0;
    size_t n_eog = vocab_eog(m->vocab, &eog);
    for (size_t i = 0; i < n_eog && n < most; i++)
        if (eog[i] < m->loaded.info.vocab)
            ids[n++] = eog[i];
    for (int i = 0; i < m->loaded.info.n_eos_id && n < most; i++) {
        bool known = false;
        for (int k = 0; k < n; k++)
            known |= ids[k] == m->loaded.info.eos_ids[i];
        if (!known)
            ids[n++] = m->loaded.info.eos_ids[i];
    }
    return n;
}

/* Weights and caps of the users that the configuration names. */
static const struct sched_share *make_shares(const struct config *config, struct arena *arena)
{
    struct sched_share *shares = arena_array(arena, struct sched_share, config->n_user);
    for (uint32_t i = 0; shares && i < config->n_user; i++)
        shares[i] = (struct sched_share){ .uid = config->user[i].uid,
                                          .weight = config->user[i].weight,
                                          .running_max = config->user[i].running_max };
    return shares;
}

static int attach_sched(struct engine_model *m, const struct config *config_all,
                        const struct config_model_options *o, struct serve *sv, struct arena *arena,
                        struct sched **ret)
{
    const struct sched_share *shares = make_shares(config_all, arena);
    if (!shares)
        return -ENOMEM;
    const struct executor_model *l = &m->loaded;
    int32_t *eos = arena_array(arena, int32_t, VOCAB_EOG_MAX + MODEL_EOS_MAX);
    if (!eos)
        return -ENOMEM;
    struct sched_config config = {
        .policy = o->policy,
        .batch_max = m->batch_max,
        .rows_max = l->limits.rows_max,
        .samples_max = l->limits.samples_max,
        .context_max = l->context,
        .kv_blocks = l->kv_blocks,
        .kv_host_blocks = l->kv_host_blocks,
        .queue_max = (int)min_of((uint32_t)LIMIT_QUEUED, sv->requests_max),
        .queue_uid_max = (int)min_of((uint32_t)LIMIT_QUEUED_UID, sv->requests_max),
        .requests_max = (int)sv->requests_max,
        .sequences_max = (int)sv->sequences_max,
        .lists_max = l->limits.lists_max,
        .moves_max = l->limits.moves_max,
        .vocab = l->info.vocab,
        .prefix_cache = o->prefix_cache,
        .batch_invariant = strncmp(l->device, "cpu", 3) == 0,
        .handles_max = LIMIT_HANDLES,
        .handles_session_max = LIMIT_HELD,
        .pinned_percent = LIMIT_PINNED_PERCENT,
        .shares = shares,
        .n_share = (int)config_all->n_user,
        .cadence_ns = o->cadence_ms * NS_PER_MS,
        .eos_ids = eos,
        .n_eos_id = end_ids(m, eos, VOCAB_EOG_MAX + MODEL_EOS_MAX),
        .payload = sv->payload,
        .released = serve_released,
        .payload_comes = accept_payload_comes,
        .context = sv,
    };
    return sched_create(&config, arena, ret);
}

static int attach_model(struct engine *e, uint32_t i, const struct config *config, struct serve *sv,
                        struct arena *arena)
{
    struct engine_model *m = &e->model[i];
    struct serve_model *to = &sv->model[i];
    int error = encoder_create(m->vocab, LIMIT_LOOP_TEXT_BYTES, &m->encoder);
    if (!error)
        encoder_set_ids(m->encoder, m->loaded.info.vocab);
    if (!error)
        error = attach_sched(m, config, &config->model[i].options, sv, arena, &to->sched);
    for (int k = 0; k < LIMIT_STEPS_IN_FLIGHT && !error; k++) {
        struct step *step = arena_new(arena, struct step);
        error = step ? step_init(step, &m->loaded.limits, arena) : -ENOMEM;
        if (error)
            break;
        step->model = (int)i;
        to->free_step[to->n_free++] = step;
    }
    if (error)
        return error;
    to->executor = e->executor;
    to->vocab = m->vocab;
    to->encoder = m->encoder;
    to->stats = &sv->board->stats.model[i];
    sv->validate_models[i] = (struct validate_model){
        .ready = true,
        .generation = 1,
        .vocab = (uint32_t)m->loaded.info.vocab,
        .context = (uint32_t)m->loaded.context,
        .has_text = true,
        .has_template = m->template != NULL,
        .defaults = default_params(&m->loaded.info.sampling),
    };
    fill_entry(m);
    board_set_model(sv->board, i, &m->entry);
    return 0;
}

int engine_attach(struct engine *e, const struct config *config, struct serve *sv,
                  struct arena *arena, struct format_error *err)
{
    for (uint32_t i = 0; i < e->n_model; i++) {
        int error = attach_model(e, i, config, sv, arena);
        if (error)
            return format_fail(err, error, "model %s: no memory for its scheduler and steps (%s)",
                               e->model[i].loaded.info.name, strerror(-error));
    }
    sv->n_model = sv->env.n_model = e->n_model;
    sv->executor[0] = e->executor;
    sv->n_executor = 1;
    return 0;
}

void engine_close(struct engine *e)
{
    executor_close(e->executor);
    for (uint32_t i = 0; i < e->n_model; i++) {
        struct engine_model *m = &e->model[i];
        encoder_free(m->encoder);
        template_free(m->template);
        vocab_free(m->vocab);
        gguf_close(m->gguf);
    }
    *e = (struct engine){ 0 };
}
