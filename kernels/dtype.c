/* Names and block sizes of the element types; the block layouts are GGUF's. */
#include "kernels/dtype.h"

const struct dtype_info dtype_infos[DTYPE_COUNT] = {
    [DTYPE_F32] = { "f32", 1, 4 },
    [DTYPE_F16] = { "f16", 1, 2 },
    [DTYPE_BF16] = { "bf16", 1, 2 },
    [DTYPE_I32] = { "i32", 1, 4 },
    [DTYPE_I8] = { "i8", 1, 1 },
    [DTYPE_Q8_0] = { "q8_0", 32, 34 },
    [DTYPE_Q4_0] = { "q4_0", 32, 18 },
    [DTYPE_Q4_1] = { "q4_1", 32, 20 },
    [DTYPE_Q5_0] = { "q5_0", 32, 22 },
    [DTYPE_Q5_1] = { "q5_1", 32, 24 },
    [DTYPE_Q4_K] = { "q4_k", 256, 144 },
    [DTYPE_Q5_K] = { "q5_k", 256, 176 },
    [DTYPE_Q6_K] = { "q6_k", 256, 210 },
};
