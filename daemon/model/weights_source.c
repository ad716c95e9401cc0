/* Lists a model's tensors. The readers in daemon/format checked every offset already. */
#include "daemon/model/weights_source.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/bits.h"
#include "daemon/format/gguf.h"
#include "daemon/format/safetensors.h"

static const struct {
    enum gguf_dtype file;
    enum dtype dtype;
} gguf_dtypes[] = {
    { GGUF_TENSOR_F32, DTYPE_F32 },   { GGUF_TENSOR_F16, DTYPE_F16 },
    { GGUF_TENSOR_BF16, DTYPE_BF16 }, { GGUF_TENSOR_Q8_0, DTYPE_Q8_0 },
    { GGUF_TENSOR_Q4_0, DTYPE_Q4_0 }, { GGUF_TENSOR_Q4_1, DTYPE_Q4_1 },
    { GGUF_TENSOR_Q5_0, DTYPE_Q5_0 }, { GGUF_TENSOR_Q5_1, DTYPE_Q5_1 },
    { GGUF_TENSOR_Q4_K, DTYPE_Q4_K }, { GGUF_TENSOR_Q5_K, DTYPE_Q5_K },
    { GGUF_TENSOR_Q6_K, DTYPE_Q6_K },
};

static int source_compare(const void *a, const void *b)
{
    const struct source_tensor *x = a, *y = b;
    return strcmp(x->name, y->name);
}

/* Sort, add up, and find the type that most matrix elements have. */
static void source_finish(struct weights_source *s)
{
    uint64_t by_dtype[DTYPE_COUNT] = { 0 };
    qsort(s->tensors, (size_t)s->n_tensor, sizeof(*s->tensors), source_compare);
    for (int i = 0; i < s->n_tensor; i++) {
        const struct source_tensor *t = &s->tensors[i];
        s->bytes += t->bytes;
        if (t->n_row > 0)
            s->n_parameter += (uint64_t)t->n_row * (uint64_t)t->n_col;
        if (t->known && t->n_row > 1)
            by_dtype[t->dtype] += (uint64_t)t->n_row * (uint64_t)t->n_col;
    }
    s->main_dtype = DTYPE_F32;
    for (int i = 0; i < DTYPE_COUNT; i++)
        if (by_dtype[i] > by_dtype[s->main_dtype])
            s->main_dtype = (enum dtype)i;
}

static int source_open_gguf(const struct gguf *g, struct weights_source *s)
{
    uint32_t n = gguf_tensor_count(g);
    s->tensors = calloc((size_t)n + 1, sizeof(*s->tensors));
    if (!s->tensors)
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++) {
        const struct gguf_tensor *from = gguf_tensor_at(g, i);
        struct source_tensor *t = &s->tensors[s->n_tensor++];
        size_t part_bytes;
        const uint8_t *part = gguf_part(g, from->part, &part_bytes);
        *t = (struct source_tensor){
            .name = from->name,
            .type_name = gguf_dtype_name(from->dtype),
            .data = from->data,
            .bytes = from->bytes,
            .n_dims = from->n_dims,
            .n_col = (int64_t)from->dims[0],
            .n_row = from->n_dims <= 2 ? (int64_t)from->dims[1] : -1,
            .fd = gguf_part_fd(g, from->part),
            .offset = (uint64_t)((const uint8_t *)from->data - part),
        };
        for (size_t j = 0; j < ARRAY_SIZE(gguf_dtypes); j++)
            if (gguf_dtypes[j].file == from->dtype) {
                t->known = true;
                t->dtype = gguf_dtypes[j].dtype;
            }
    }
    source_finish(s);
    return 0;
}

static int source_open_safetensors(const struct safetensors *st, struct weights_source *s)
{
    uint32_t n = safetensors_count(st);
    s->tensors = calloc((size_t)n + 1, sizeof(*s->tensors));
    if (!s->tensors)
        return -ENOMEM;
    for (uint32_t i = 0; i < n; i++) {
        const struct safetensors_tensor *from = safetensors_at(st, i);
        struct source_tensor *t = &s->tensors[s->n_tensor++];
        const void *shard;
        size_t shard_bytes;
        safetensors_shard(st, from->shard, &shard, &shard_bytes);
        *t = (struct source_tensor){
            .name = from->name,
            .type_name = safetensors_dtype_name(from->dtype),
            .known = true,
            .data = from->data,
            .bytes = from->bytes,
            .n_dims = from->n_dims,
            .n_row = from->n_dims == 2  ? (int64_t)from->dims[0]
                     : from->n_dims < 2 ? 1
                                        : -1,
            .n_col = (int64_t)from->dims[from->n_dims == 2],
            .fd = safetensors_shard_fd(st, from->shard),
            .offset = (uint64_t)((const uint8_t *)from->data - (const uint8_t *)shard),
        };
        switch (from->dtype) {
        case SAFETENSORS_F32:
            t->dtype = DTYPE_F32;
            break;
        case SAFETENSORS_F16:
            t->dtype = DTYPE_F16;
            break;
        case SAFETENSORS_BF16:
            t->dtype = DTYPE_BF16;
            break;
        default:
            t->known = false;
            break;
        }
    }
    source_finish(s);
    return 0;
}

int weights_source_open(const struct model *m, struct weights_source *ret, struct format_error *err)
{
    *ret = (struct weights_source){ .model = m,
                                    .dummy = m->source.dummy,
                                    .dummy_dtype = m->shape.weight_dtype,
                                    .main_dtype = m->shape.weight_dtype };
    if (m->source.dummy)
        return 0;
    if (m->gguf)
        return source_open_gguf(m->gguf, ret);
    if (m->tensors)
        return source_open_safetensors(m->tensors, ret);
    return format_fail(err, -EINVAL, "%s: there are no weights", m->source.path);
}

void weights_source_close(struct weights_source *s)
{
    free(s->tensors);
    if (s->dummy_bytes)
        s->model->backend->device->host_free(s->model->dev, s->dummy_bytes);
    *s = (struct weights_source){ 0 };
}

int weights_source_find(const struct weights_source *s, const char *name)
{
    struct source_tensor key = { .name = name };
    const struct source_tensor *t =
        s->n_tensor ? bsearch(&key, s->tensors, (size_t)s->n_tensor, sizeof(key), source_compare)
                    : NULL;
    return t ? (int)(t - s->tensors) : -1;
}

/* Half precision by hand: not every compiler that we build with has the type. */
static float half_to_float(uint16_t h)
{
    uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 0x1f, bits = h & 0x3ff;
    float f;
    if (exponent == 0) { /* zero and subnormals: bits * 2^-24 */
        f = (float)bits * 0x1p-24f;
        return sign ? -f : f;
    }
    uint32_t word = sign | (exponent == 31 ? 255 : exponent + 112) << 23 | bits << 13;
    memcpy(&f, &word, sizeof(f));
    return f;
}

int source_floats(const struct source_tensor *t, int n, float *ret)
{
    for (int i = 0; i < n; i++) {
        uint16_t half;
        uint32_t bits;
        switch (t->dtype) {
        case DTYPE_F32:
            memcpy(&ret[i], t->data + 4 * (size_t)i, 4);
            break;
        case DTYPE_F16:
            memcpy(&half, t->data + 2 * (size_t)i, 2);
            ret[i] = half_to_float(half);
            break;
        case DTYPE_BF16:
            memcpy(&half, t->data + 2 * (size_t)i, 2);
            bits = (uint32_t)half << 16;
            memcpy(&ret[i], &bits, 4);
            break;
        default:
            return -ENOTSUP;
        }
    }
    return 0;
}

/* Small weights around zero: uniform in (-0.03, 0.03), so that activations stay finite. */
int weights_source_dummy(struct weights_source *s, int64_t bytes)
{
    s->dummy_bytes = s->model->backend->device->host_alloc(s->model->dev, (size_t)bytes);
    if (!s->dummy_bytes)
        return -ENOMEM;
    uint64_t x = UINT64_C(0x9e3779b97f4a7c15);
    size_t width = s->dummy_dtype == DTYPE_F32 ? 4 : 2;
    for (size_t i = 0; i + width <= (size_t)bytes; i += width) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        float f = ((float)(x >> 40) / (float)(1 << 24) - 0.5f) * 0.06f;
        uint32_t bits;
        memcpy(&bits, &f, 4);
        uint16_t half = (uint16_t)(bits >> 16);
        if (s->dummy_dtype == DTYPE_F16) /* normal numbers of 2^-14 and up, the rest is 0 */
            half =
                fabsf(f) < 0x1p-14f
                    ? 0
                    : (uint16_t)((bits >> 16 & 0x8000) | ((bits >> 13 & 0x3ffff) - (112u << 10)));
        memcpy((uint8_t *)s->dummy_bytes + i, width == 4 ? (void *)&bits : (void *)&half, width);
    }
    return 0;
}
