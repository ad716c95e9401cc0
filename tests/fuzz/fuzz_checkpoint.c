/*
 * A model's metadata, whoever wrote it. "GGUF...": a file, opened as a model of its family and
 * bound. Else the text files of a checkpoint folder, NUL between them: config.json,
 * generation_config.json, tokenizer_config.json, chat_template.jinja, the index of its shards,
 * special_tokens_map.json, added_tokens.json; an empty one is not there. Any bytes are refused with
 * a message or give a model within the bounds.
 */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "daemon/format/gguf.h"
#include "daemon/format/safetensors.h"
#include "daemon/model/decoder.h"
#include "daemon/model/weights.h"
#include "daemon/text/vocab.h"
#include "kernels/backend.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const names[] = {
    "config.json",         "generation_config.json",       "tokenizer_config.json",
    "chat_template.jinja", "model.safetensors.index.json", "special_tokens_map.json",
    "added_tokens.json"
};
static const char tokenizer[] =
    "{\"added_tokens\":[{\"id\":3,\"content\":\"<s>\",\"special\":true}],\"pre_tokenizer\":{"
    "\"type\":\"ByteLevel\"},\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a "
    "b\"]}}";
static char folder[64];

static void put_file(const char *name, const void *bytes, size_t n)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    if (n == 0) {
        unlink(path);
        return;
    }
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);
    assert(fd >= 0);
    assert(write(fd, bytes, n) == (ssize_t)n);
    close(fd);
}

static void end_folder(void)
{
    for (size_t i = 0; i < ARRAY_SIZE(names); i++)
        put_file(names[i], NULL, 0);
    put_file("tokenizer.json", NULL, 0);
    rmdir(folder);
}

static void make_folder(void)
{
    if (folder[0])
        return;
    snprintf(folder, sizeof(folder), "/dev/shm/fuzz-checkpoint-XXXXXX");
    assert(mkdtemp(folder));
    put_file("tokenizer.json", tokenizer, sizeof(tokenizer) - 1);
    atexit(end_folder);
}

static void check_model(struct model *m)
{
    const struct model_shape *s = &m->shape;
    const struct model_info *info = &m->info;
    const struct decoder *d = m->arch_state;
    assert(s->n_layer >= 1 && s->n_layer <= ARCH_LAYERS_MAX);
    assert(s->dim >= 1 && s->dim <= ARCH_DIM_MAX && s->ffn_dim >= 1 && s->ffn_dim <= ARCH_DIM_MAX);
    assert(s->n_head >= 1 && s->n_kv_head >= 1 && s->n_head % s->n_kv_head == 0);
    assert(s->head_dim >= 2 && s->head_dim <= ARCH_HEAD_DIM_MAX && s->head_dim % 2 == 0);
    assert(s->vocab >= 1 && s->vocab <= ARCH_VOCAB_MAX);
    assert(s->context >= 1 && s->context <= ARCH_CONTEXT_MAX);
    assert(info->bos_id >= -1 && info->bos_id < s->vocab);
    assert(info->n_eos_id >= 0 && info->n_eos_id <= MODEL_EOS_MAX);
    for (int i = 0; i < info->n_eos_id; i++)
        assert(info->eos_ids[i] >= 0 && info->eos_ids[i] < s->vocab);
    assert(!(info->sampling.temperature < 0) && isfinite(info->sampling.temperature));
    assert(model_kv_block_bytes(m, DTYPE_F16) > 0);
    if (m->arch->bind(m, m->weights) == 0)
        for (int i = 0; i < s->n_layer; i++)
            assert(d->layers[i].attn.window >= 0);
}

static void try_model(const struct model_source *source)
{
    struct format_error err = { "" };
    struct model *m = NULL;
    const struct backend *cpu;
    char why[256];
    assert(backend_find("cpu", &cpu, why, sizeof(why)) == 0);
    if (model_open(cpu, NULL, source, NULL, &m, &err) < 0) {
        assert(!m && err.text[0]);
        return;
    }
    check_model(m);
    model_close(m);
}

static void try_folder(const uint8_t *data, size_t size)
{
    struct format_error err = { "" };
    struct safetensors *tensors = NULL;
    struct vocab *v = NULL;
    make_folder();
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        const uint8_t *nul = memchr(data, 0, size);
        size_t n = nul && i + 1 < ARRAY_SIZE(names) ? (size_t)(nul - data) : size;
        put_file(names[i], data, n);
        data += n;
        size -= n;
        if (size > 0) /* the NUL */
            data++, size--;
    }
    try_model(&(struct model_source){ .path = folder, .dummy = true });
    if (vocab_open_hf(folder, &v, &err) == 0) {
        const int32_t *eog;
        assert(vocab_bos(v) >= -1 && vocab_bos(v) < vocab_size(v));
        assert(vocab_eog(v, &eog) <= VOCAB_EOG_MAX);
    } else {
        assert(!v && err.text[0]);
    }
    err.text[0] = 0;
    if (safetensors_open(folder, &tensors, &err) < 0)
        assert(!tensors && err.text[0]);
    vocab_free(v);
    safetensors_close(tensors);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *g = NULL;
    if (size < 4 || memcmp(data, "GGUF", 4) != 0) {
        try_folder(data, size);
        return 0;
    }
    if (gguf_open_memory(data, size, "fuzz.gguf", &g, NULL) == 0)
        try_model(&(struct model_source){ .path = "fuzz.gguf", .gguf = g });
    gguf_close(g);
    return 0;
}
