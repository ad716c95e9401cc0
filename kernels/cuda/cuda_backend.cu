/* The op table and the module's one exported symbol. */
#include "kernels/cuda/cuda_common.cuh"

static enum dtype cuda_act_dtype(enum dtype weights)
{
    (void)weights;
    return DTYPE_BF16;
}

static const struct kernel_ops cuda_kernel_ops = {
    cuda_act_dtype,
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
};

static const struct backend cuda_backend = {
    BACKEND_ABI,
    "cuda",
    &cuda_device_ops,
    &cuda_kernel_ops,
};

extern "C" __attribute__((visibility("default"))) const struct backend *ringlet_cuda_backend(void)
{
    return &cuda_backend;
}
