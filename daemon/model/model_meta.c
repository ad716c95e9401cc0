/* Optional metadata: what is absent or out of range is not an error, the defaults stand. */
#include "daemon/model/model_meta.h"

#include <stdio.h>
#include <string.h>

#include "base/bits.h"
#include "daemon/format/gguf.h"
#include "daemon/format/hfjson.h"
#include "daemon/model/model.h"

void copy_text(char *dst, size_t dst_bytes, const char *src)
{
    size_t bytes = min_of(strlen(src), dst_bytes - 1);
    memcpy(dst, src, bytes);
    dst[bytes] = 0;
}

static void meta_add_eos(struct model *m, uint32_t id)
{
    struct model_info *info = &m->info;
    if (id >= (uint32_t)m->shape.vocab || info->n_eos_id == MODEL_EOS_MAX)
        return;
    for (int i = 0; i < info->n_eos_id; i++)
        if (info->eos_ids[i] == (int)id)
            return;
    info->eos_ids[info->n_eos_id++] = (int)id;
}

/* One sampling default: kept if it lies within what a request may ask for. */
static void meta_set(struct model *m, uint32_t flag, float *dst, float value, float lo, float hi)
{
    if (!(value >= lo && value <= hi))
        return;
    *dst = value;
    m->info.sampling.set |= flag;
}

static void meta_sampling_gguf(struct model *m)
{
    struct model_sampling *s = &m->info.sampling;
    float value;
    uint32_t top_k;
    if (gguf_f32(m->gguf, "general.sampling.temp", &value) == 0)
        meta_set(m, MODEL_SETS_TEMPERATURE, &s->temperature, value, 0, 2);
    if (gguf_f32(m->gguf, "general.sampling.top_p", &value) == 0)
        meta_set(m, MODEL_SETS_TOP_P, &s->top_p, value, 1e-6f, 1);
    if (gguf_f32(m->gguf, "general.sampling.min_p", &value) == 0)
        meta_set(m, MODEL_SETS_MIN_P, &s->min_p, value, 0, 1);
    if (gguf_f32(m->gguf, "general.sampling.penalty_repeat", &value) == 0)
        meta_set(m, MODEL_SETS_REPETITION, &s->repetition, value, 1e-6f, 2);
    if (gguf_u32(m->gguf, "general.sampling.top_k", &top_k) == 0 &&
        top_k <= (uint32_t)m->shape.vocab) {
        s->top_k = top_k;
        s->set |= MODEL_SETS_TOP_K;
    }
}

static void meta_gguf(struct model *m)
{
    static const char *const eos_keys[] = { "tokenizer.ggml.eos_token_id",
                                            "tokenizer.ggml.eot_token_id",
                                            "tokenizer.ggml.eom_token_id" };
    struct gguf_array ids;
    uint32_t id;
    if (gguf_u32(m->gguf, "tokenizer.ggml.bos_token_id", &id) == 0 && id < (uint32_t)m->shape.vocab)
        m->info.bos_id = (int)id;
    for (size_t i = 0; i < ARRAY_SIZE(eos_keys); i++)
        if (gguf_u32(m->gguf, eos_keys[i], &id) == 0)
            meta_add_eos(m, id);
    if (gguf_array(m->gguf, "tokenizer.ggml.eog_token_ids", &ids) == 0)
        for (uint64_t i = 0; i < ids.n && gguf_array_u32(&ids, i, &id) == 0; i++)
            meta_add_eos(m, id);
    meta_sampling_gguf(m);
}

/* End ids: generation_config.json has the true set; config.json counts where it has none. */
static void meta_hf_ids(struct model *m, const struct hfjson *j)
{
    int64_t ids[MODEL_EOS_MAX];
    size_t n;
    if (m->info.n_eos_id == 0 && hfjson_ids(j, "eos_token_id", ids, ARRAY_SIZE(ids), &n) == 0)
        for (size_t i = 0; i < n; i++)
            if (ids[i] >= 0 && ids[i] < m->shape.vocab)
                meta_add_eos(m, (uint32_t)ids[i]);
    if (m->info.bos_id < 0 && hfjson_ids(j, "bos_token_id", ids, 1, &n) == 0 && n == 1 &&
        ids[0] >= 0 && ids[0] < m->shape.vocab)
        m->info.bos_id = (int)ids[0];
}

static void meta_sampling_hf(struct model *m)
{
    struct model_sampling *s = &m->info.sampling;
    const struct hfjson *j = m->generation;
    float value;
    uint32_t top_k;
    if (hfjson_f32(j, "temperature", &value) == 0)
        meta_set(m, MODEL_SETS_TEMPERATURE, &s->temperature, value, 0, 2);
    if (hfjson_f32(j, "top_p", &value) == 0)
        meta_set(m, MODEL_SETS_TOP_P, &s->top_p, value, 1e-6f, 1);
    if (hfjson_f32(j, "min_p", &value) == 0)
        meta_set(m, MODEL_SETS_MIN_P, &s->min_p, value, 0, 1);
    if (hfjson_f32(j, "repetition_penalty", &value) == 0)
        meta_set(m, MODEL_SETS_REPETITION, &s->repetition, value, 1e-6f, 2);
    if (hfjson_u32(j, "top_k", &top_k) == 0 && top_k <= (uint32_t)m->shape.vocab) {
        s->top_k = top_k;
        s->set |= MODEL_SETS_TOP_K;
    }
}

static void meta_hf(struct model *m)
{
    size_t bytes = strlen(m->source.path);
    while (bytes > 1 && m->source.path[bytes - 1] == '/')
        bytes--;
    const char *slash = memrchr(m->source.path, '/', bytes);
    const char *name = slash ? slash + 1 : m->source.path;
    snprintf(m->info.name, sizeof(m->info.name), "%.*s",
             (int)min_of(bytes - (size_t)(name - m->source.path), sizeof(m->info.name) - 1), name);
    if (m->generation) {
        meta_hf_ids(m, m->generation);
        meta_sampling_hf(m);
    }
    meta_hf_ids(m, m->config);
}

void model_meta_fill(struct model *m)
{
    if (m->gguf)
        meta_gguf(m);
    else if (m->config)
        meta_hf(m);
    else if (m->arch->meta)
        m->arch->meta(m);
}
