/* Paged prefill attention: launches of sm90/attention_sm90.cuh. */
#include "kernels/cuda/sm90/attention_sm90.cuh"

namespace ACT_SPACE {

enum { PREFILL_ROWS_MIN = 17 };

/* A map of the pool for tensor copies: one KV block's rows of one head, 64 values wide. */
static int map_pool(struct stream *st, const void *base, const struct kv_layer *kv,
                    CUtensorMap *ret)
{
    cuuint64_t size[4] = { (cuuint64_t)kv->head_dim, KV_BLOCK_TOKENS, (cuuint64_t)kv->n_kv_head,
                           1u << 30 };
    cuuint64_t stride[3] = { (cuuint64_t)kv->head_dim * sizeof(act),
                             (cuuint64_t)kv->head_dim * KV_BLOCK_TOKENS * sizeof(act),
                             (cuuint64_t)kv->block_stride };
    cuuint32_t box[4] = { 64, KV_BLOCK_TOKENS, 1, 1 }, step[4] = { 1, 1, 1, 1 };
    if (!st->dev->encode_tiled)
        return -ENOTSUP;
    CUresult error = st->dev->encode_tiled(
        ret, ACT_MAP_TYPE, 4, (void *)base, size, stride, box, step,
        CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
        CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
        CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    return error == CUDA_SUCCESS ? 0 : -ENOTSUP;
}

template <int HD>
static int launch_prefill(struct stream *st, const prefill_params &p, const struct kv_layer *kv)
{
    CUtensorMap k_map, v_map;
    int error = map_pool(st, kv->k, kv, &k_map);
    if (!error)
        error = map_pool(st, kv->v, kv, &v_map);
    if (!error)
        error = CUDA_CHECK(st->dev, cudaFuncSetAttribute(
                                        attn_prefill_kernel<HD>,
                                        cudaFuncAttributeMaxDynamicSharedMemorySize,
                                        prefill_shared<HD>::BYTES));
    if (error)
        return error;
    return launch(st, attn_prefill_kernel<HD>, dim3((unsigned)(p.n_tile * p.a.n_kv_head)),
                  dim3(TILE_THREADS), prefill_shared<HD>::BYTES, p, k_map, v_map);
}

int attn_prefill(struct stream *st, const attn_params &a, const struct attn_args *args)
{
    const struct seq_batch *b = args->batch;
    int rows = b->n_row - b->n_decode, seqs = b->n_seq - b->n_decode;
    if (st->dev->compute != 90 || a.fixed || a.n_group > 1 || rows < PREFILL_ROWS_MIN
        || args->kv.block_stride % 16)
        return -ENOTSUP;
    prefill_params p = {};
    p.a = a;
    p.seq0 = b->n_decode;
    p.n_seq = b->n_seq;
    p.tile_tokens = TILE_ROWS / a.group;
    p.n_tile = rows / p.tile_tokens + seqs;
    return a.head_dim == 128 ? launch_prefill<128>(st, p, &args->kv)
                             : launch_prefill<64>(st, p, &args->kv);
}

} // namespace ACT_SPACE
