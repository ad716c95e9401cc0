/* Builds small GGUF files in memory, sound or not, for tests and fuzz seeds. */
#ifndef RINGLET_TESTS_GGUF_WRITER_H
#define RINGLET_TESTS_GGUF_WRITER_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct gguf_writer {
    uint8_t *data;
    size_t bytes, capacity;
};

static inline void put_bytes(struct gguf_writer *w, const void *data, size_t bytes)
{
    if (w->bytes + bytes > w->capacity) {
        w->capacity = (w->bytes + bytes) * 2;
        w->data = realloc(w->data, w->capacity);
        if (!w->data)
            abort();
    }
    if (bytes)
        memcpy(w->data + w->bytes, data, bytes);
    w->bytes += bytes;
}

static inline void put_u8(struct gguf_writer *w, uint8_t v)
{
    put_bytes(w, &v, sizeof(v));
}

static inline void put_u32(struct gguf_writer *w, uint32_t v)
{
    put_bytes(w, &v, sizeof(v));
}

static inline void put_u64(struct gguf_writer *w, uint64_t v)
{
    put_bytes(w, &v, sizeof(v));
}

static inline void put_f32(struct gguf_writer *w, float v)
{
    put_bytes(w, &v, sizeof(v));
}

static inline void put_string(struct gguf_writer *w, const char *text)
{
    put_u64(w, strlen(text));
    put_bytes(w, text, strlen(text));
}

static inline void put_header(struct gguf_writer *w, uint32_t version, uint64_t n_tensor,
                              uint64_t n_kv)
{
    put_u32(w, 0x46554747u);
    put_u32(w, version);
    put_u64(w, n_tensor);
    put_u64(w, n_kv);
}

static inline void put_key(struct gguf_writer *w, const char *key, uint32_t type)
{
    put_string(w, key);
    put_u32(w, type);
}

static inline void put_array(struct gguf_writer *w, const char *key, uint32_t elem, uint64_t n)
{
    put_key(w, key, 9);
    put_u32(w, elem);
    put_u64(w, n);
}

static inline void put_info(struct gguf_writer *w, const char *name, uint32_t dtype,
                            uint64_t offset, uint32_t n_dims, const uint64_t *dims)
{
    put_string(w, name);
    put_u32(w, n_dims);
    put_bytes(w, dims, n_dims * sizeof(*dims));
    put_u32(w, dtype);
    put_u64(w, offset);
}

static inline void put_padding(struct gguf_writer *w, size_t alignment)
{
    while (w->bytes % alignment)
        put_u8(w, 0);
}

#endif
