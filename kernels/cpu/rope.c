/*
 * Norm of heads, rotation, and the way of K and V into their slots. Cosines and sines of a step
 * are computed once and kept on the stream: every layer asks for the same positions.
 */
#include <errno.h>
#include <math.h>
#include <string.h>

#include "base/assert.h"
#include "base/compiler.h"
#include "kernels/cpu/cpu.h"
#include "kernels/cpu/matmul.h"

static bool same_rope(const struct stream *st, const struct rope_append_args *args)
{
    const struct rope *a = &st->rope, *b = &args->rope;
    return st->n_rope_row == args->n_row && a->n_dim == b->n_dim && a->scale == b->scale &&
           memcmp(st->rope_position, args->position, (size_t)args->n_row * 4) == 0 &&
           memcmp(st->rope_freq, b->inv_freq, (size_t)b->n_dim / 2 * 4) == 0;
}

static int rope_prepare(struct stream *st, const struct rope_append_args *args)
{
    const struct rope *rope = &args->rope;
    int n = rope->n_dim / 2;

    if (args->kv.head_dim > 256 || rope->n_dim > args->kv.head_dim || rope->n_dim % 2 ||
        rope->n_dim > lanes_up(max_of(st->limits.head_dim, 2)) ||
        args->n_row > max_of(st->limits.rows_max, st->limits.samples_max))
        return -ENOTSUP;
    if (args->kv.dtype == DTYPE_Q8_0 && args->kv.head_dim % 32)
        return -ENOTSUP;
    if (same_rope(st, args))
        return 0;
    for (int r = 0; r < args->n_row; r++) {
        float *cos_sin = st->cos_sin + (int64_t)r * rope->n_dim;
        for (int i = 0; i < n; i++) {
            /* f32 product, as the models were trained with */
            float angle = (float)args->position[r] * rope->inv_freq[i];
            cos_sin[i] = (float)cos((double)angle) * rope->scale;
            cos_sin[n + i] = (float)sin((double)angle) * rope->scale;
        }
    }
    memcpy(st->rope_position, args->position, (size_t)args->n_row * 4);
    memcpy(st->rope_freq, rope->inv_freq, (size_t)n * 4);
    st->rope = *rope;
    st->n_rope_row = args->n_row;
    return 0;
}

static void *kv_at(const struct kv_layer *kv, void *base, int slot, int kv_head)
{
    int64_t row_bytes = dtype_bytes(kv->dtype, kv->head_dim);
    int64_t row = (int64_t)kv_head * KV_BLOCK_TOKENS + slot % KV_BLOCK_TOKENS;
    return (char *)base + slot / KV_BLOCK_TOKENS * kv->block_stride + row * row_bytes;
}

static void turn_head(struct stream *st, const struct rope_append_args *args, int row, float *head,
                      const float *norm)
{
    const struct cpu_isa *isa = st->dev->isa;
    int head_dim = args->kv.head_dim;
    if (norm)
        isa->scale_row(head, head, norm, isa->rms_inverse(head, head_dim, args->norm_eps),
                       head_dim);
    isa->rotate(head, st->cos_sin + (int64_t)row * args->rope.n_dim, args->rope.n_dim,
                args->rope.interleaved);
}

struct rope_job {
    struct stream *st;
    const struct rope_append_args *args;
};

/* Items are rows x (query heads, then KV heads). */
static void rope_items(void *arg, int from, int to)
{
    const struct rope_job *job = arg;
    const struct rope_append_args *args = job->args;
    const struct cpu_isa *isa = job->st->dev->isa;
    const struct kv_layer *kv = &args->kv;
    int n_head = args->n_head + kv->n_kv_head, head_dim = kv->head_dim;
    float k[256] aligned_to(64);

    for (int item = from; item < to; item++) {
        int row = item / n_head, head = item % n_head;
        if (head < args->n_head) {
            turn_head(job->st, args, row,
                      (float *)args->q + row * args->stride + head * head_dim, args->q_norm);
            continue;
        }
        if (args->slot[row] < 0)
            continue;
        head -= args->n_head;
        int64_t at = row * args->stride + (int64_t)head * head_dim;
        memcpy(k, (const float *)args->k + at, (size_t)head_dim * 4);
        turn_head(job->st, args, row, k, args->k_norm);
        isa->kv_store(kv_at(kv, kv->k, args->slot[row], head), k, head_dim, kv->dtype);
        isa->kv_store(kv_at(kv, kv->v, args->slot[row], head), (const float *)args->v + at,
                      head_dim, kv->dtype);
    }
}

int cpu_rope_append(struct stream *st, const struct rope_append_args *args)
{
    struct rope_job job = { st, args };
    if (args->n_row < 1)
        return 0;
    int error = rope_prepare(st, args);
    if (error)
        return error;
    /* Small steps are not worth a fork. */
    run_items(st, rope_items, &job, args->n_row * (args->n_head + args->kv.n_kv_head), 128);
    return 0;
}
