#include "tests/kernels/attn_world.h"

#include <stdlib.h>
#include <string.h>

#include "base/compiler.h"
#include "kernels/cpu/ref.h"
#include "tests/kernels/rig.h"

/* The oracle's rounding is slow: so many rows differ, and no block, head or layer begins alike. */
enum { DISTINCT_ROWS = 97 };

void attn_world_make(struct attn_world *w, const struct attn_case *c, uint64_t *seed)
{
    int64_t row_bytes = dtype_bytes(c->kv, c->head_dim);
    *w = (struct attn_world){ .batch.kv_tokens_max = c->bound };
    for (int s = 0; s < c->n_seq; s++) {
        int n_block = (c->tokens[s] + 15) / 16;
        w->row_start[s + 1] = w->row_start[s] + c->rows[s];
        w->kv_tokens[s] = c->tokens[s];
        w->block_start[s + 1] = w->block_start[s] + n_block;
        for (int r = w->row_start[s]; r < w->row_start[s + 1]; r++)
            w->row_seq[r] = s;
        w->batch.kv_tokens_max = max_of(w->batch.kv_tokens_max, c->tokens[s]);
    }
    w->n_block = w->block_start[c->n_seq] + 3;
    for (int i = 0; i < w->block_start[c->n_seq]; i++)
        w->blocks[i] = (i * 7 + 2) % w->n_block;
    while (w->n_block % 7 == 0)
        w->n_block++;
    for (int i = 0; i < w->block_start[c->n_seq]; i++)
        w->blocks[i] = (i * 7 + 2) % w->n_block;
    w->layer_bytes = 2 * c->n_kv_head * KV_BLOCK_TOKENS * row_bytes;
    w->block_stride = 2 * w->layer_bytes;
    w->pool_bytes = w->block_stride * w->n_block;
    w->pool = malloc((size_t)w->pool_bytes);
    for (int64_t at = 0; at < w->pool_bytes; at += row_bytes) {
        if (at >= DISTINCT_ROWS * row_bytes) {
            memcpy(w->pool + at, w->pool + at - DISTINCT_ROWS * row_bytes, (size_t)row_bytes);
            continue;
        }
        float *row = random_floats(seed, (size_t)c->head_dim, 13);
        ref_quantize(c->kv, row, c->head_dim, w->pool + at);
        free(row);
    }
    w->batch.n_row = w->row_start[c->n_seq];
    w->batch.n_seq = c->n_seq;
    w->batch.n_decode = c->n_decode;
    w->batch.row_start = w->row_start;
    w->batch.kv_tokens = w->kv_tokens;
    w->batch.block_start = w->block_start;
    w->batch.blocks = w->blocks;
    w->batch.row_seq = w->row_seq;
    w->batch.deterministic = true;
    w->n_q = (size_t)w->batch.n_row * (size_t)(c->n_head * c->head_dim);
    w->q = random_floats(seed, w->n_q, 41);
}

struct attn_args attn_world_args(const struct attn_case *c, const struct attn_world *w, float *out)
{
    int64_t half = w->layer_bytes / 2;
    return (struct attn_args){
        .out = out,
        .q = w->q,
        .out_stride = c->n_head * c->head_dim,
        .q_stride = c->n_head * c->head_dim,
        .n_head = c->n_head,
        .scale = 0.02f, /* outliers of q and k meet: scores of hundreds */
        .window = c->window,
        .kv = { w->pool + w->layer_bytes, w->pool + w->layer_bytes + half, w->block_stride, c->kv,
                c->n_kv_head, c->head_dim },
        .batch = &w->batch,
    };
}
void attn_world_free(struct attn_world *w)
{
    free(w->pool);
    free(w->q);
}
