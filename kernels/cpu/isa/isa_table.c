/* The table of the level being compiled. */
#include "kernels/cpu/isa/isa_fns.h"

#if defined(CPU_ISA_AVX512)
#define NAME "avx512-vnni"
#elif defined(CPU_ISA_AVX2)
#define NAME "avx2"
#else
#define NAME "plain"
#endif

const struct cpu_isa ISA_FN(cpu_isa) = {
    .name = NAME,
    .rms_inverse = ISA_FN(rms_inverse),
    .scale_row = ISA_FN(scale_row),
    .quantize_row = ISA_FN(quantize_row),
    .swiglu_row = ISA_FN(swiglu_row),
    .dot = ISA_FN(dot),
    .tile_out = ISA_FN(tile_out),
    .rotate = ISA_FN(rotate),
    .kv_store = ISA_FN(kv_store),
    .kv_load = ISA_FN(kv_load),
    .span_attend = ISA_FN(span_attend),
    .attn_merge = ISA_FN(attn_merge),
    .row_max = ISA_FN(row_max),
    .sum_exp = ISA_FN(sum_exp),
    .philox = ISA_FN(philox),
};
