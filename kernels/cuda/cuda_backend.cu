/* The module's one exported symbol. */
#include "kernels/cuda/cuda_common.cuh"

namespace act_bf16 {
extern const struct kernel_ops cuda_kernel_ops;
}

namespace act_f16 {
extern const struct kernel_ops cuda_kernel_ops;
}

static const struct backend cuda_backend = {
    BACKEND_ABI,
    "cuda",
    &cuda_device_ops,
    &act_bf16::cuda_kernel_ops,
    &act_f16::cuda_kernel_ops,
};

extern "C" __attribute__((visibility("default"))) const struct backend *ringlet_cuda_backend(void)
{
    return &cuda_backend;
}
