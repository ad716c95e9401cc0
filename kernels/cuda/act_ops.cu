/* The op table of one 16-bit type. */
#include "kernels/cuda/act.cuh"

namespace ACT_SPACE {

extern const struct kernel_ops cuda_kernel_ops = {
    ACT_DTYPE,
    cuda_weight_layout,
    cuda_weight_load,
    cuda_embed,
    cuda_rms_norm,
    cuda_matmul,
    cuda_rope_append,
    cuda_attn,
    cuda_swiglu,
    cuda_logits,
    cuda_sample,
    cuda_counts_load,
    cuda_kv_copy,
    cuda_kv_move,
    cuda_attn_in,
    cuda_ffn_in,
    cuda_attn_turns,
};

} // namespace ACT_SPACE
