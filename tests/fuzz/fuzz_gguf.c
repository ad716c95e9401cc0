/*
 * GGUF: any bytes either are refused with a message or give tensors that lie in them; every key and
 * tensor is then looked at as readers do, and a vocabulary is tried.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/assert.h"
#include "daemon/format/gguf.h"
#include "daemon/text/vocab.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static volatile uint64_t sum;

static void look_at_key(const struct gguf *g, const struct gguf_kv *kv)
{
    char key[256];
    uint32_t u32;
    float f32;
    struct gguf_text text;
    struct gguf_array array;
    size_t bytes = kv->key.bytes < sizeof(key) - 1 ? kv->key.bytes : sizeof(key) - 1;
    memcpy(key, kv->key.data, bytes);
    key[bytes] = 0;
    sum += gguf_u32(g, key, &u32) == 0 ? u32 : 0;
    sum += gguf_f32(g, key, &f32) == 0;
    if (gguf_string(g, key, &text) == 0)
        for (size_t i = 0; i < text.bytes; i++)
            sum += (uint8_t)text.data[i];
    if (gguf_array(g, key, &array) == 0) {
        for (uint64_t i = 0; i < array.n && gguf_array_u32(&array, i, &u32) == 0; i++)
            sum += u32;
        while (gguf_array_next_string(&array, &text) == 0)
            for (size_t i = 0; i < text.bytes; i++)
                sum += (uint8_t)text.data[i];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf *g = NULL;
    struct vocab *v = NULL;
    struct format_error err = { "" };
    if (gguf_open_memory(data, size, "fuzz.gguf", &g, &err)) {
        assert(!g && err.text[0]);
        return 0;
    }
    for (uint32_t i = 0; i < gguf_kv_count(g); i++)
        look_at_key(g, gguf_kv_at(g, i));
    for (uint32_t i = 0; i < gguf_tensor_count(g); i++) {
        const struct gguf_tensor *t = gguf_tensor_at(g, i);
        assert(gguf_tensor_find(g, t->name) == t);
        assert(t->offset <= size && t->bytes <= size - t->offset);
        if (t->bytes)
            sum += ((const uint8_t *)t->data)[0] + ((const uint8_t *)t->data)[t->bytes - 1];
    }
    if (vocab_open_gguf(g, &v, &err) == 0)
        assert(vocab_size(v) > 0);
    else
        assert(!v && err.text[0]);
    vocab_free(v);
    gguf_close(g);
    return 0;
}
