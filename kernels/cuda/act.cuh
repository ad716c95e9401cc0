/*
 * The 16-bit type that a translation unit computes in. Files that touch activations or weights are
 * compiled twice, with ACT_F16 for f16 and without for bf16; what they define lies in a namespace
 * of its own, so that both op tables fit into one module. Sums are f32 in either.
 *
 * f16 ends at 65504: what is larger becomes infinite, no value is cut off in silence, and sampling
 * refuses the row (SAMPLE_BAD).
 */
#ifndef RINGLET_CUDA_ACT_CUH
#define RINGLET_CUDA_ACT_CUH

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "kernels/cuda/cuda_common.cuh"

#ifdef ACT_F16
#define ACT_SPACE act_f16
#define ACT_PTX "f16"
#define ACT_DTYPE DTYPE_F16
#define ACT_LAYOUT LAYOUT_F16_ROWS
#define ACT_MAP_TYPE CU_TENSOR_MAP_DATA_TYPE_FLOAT16
#else
#define ACT_SPACE act_bf16
#define ACT_PTX "bf16"
#define ACT_DTYPE DTYPE_BF16
#define ACT_LAYOUT LAYOUT_BF16_ROWS
#define ACT_MAP_TYPE CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
#endif

namespace ACT_SPACE {

#ifdef ACT_F16
typedef __half act;
typedef __half2 act2;
#else
typedef __nv_bfloat16 act;
typedef __nv_bfloat162 act2;
#endif

/* May a row times its norm weights, before its norm, be too large for act? */
#ifdef ACT_F16
static constexpr bool ACT_NARROW = true;
#else
static constexpr bool ACT_NARROW = false;
#endif

static inline act *norm_x(const struct stream *st)
{
    return (act *)st->norm_x;
}

static inline act *wide(const struct stream *st)
{
    return (act *)st->wide;
}

int cuda_weight_layout(struct device *dev, enum dtype dtype, int n_row, int n_col,
                       int64_t *ret_bytes, int *ret_layout);
int cuda_weight_load(struct stream *st, struct weight *w, int first_row, int n_row,
                     const void *src, int64_t row_bytes);
int cuda_embed(struct stream *st, const struct embed_args *a);
int cuda_rms_norm(struct stream *st, const struct rms_norm_args *a);
int cuda_swiglu(struct stream *st, const struct swiglu_args *a);
int cuda_matmul(struct stream *st, const struct matmul_args *a);
int cuda_logits(struct stream *st, const struct logits_args *a);
int cuda_ffn_in(struct stream *st, const struct ffn_in_args *a);
int cuda_attn_in(struct stream *st, const struct attn_in_args *a);
int cuda_rope_append(struct stream *st, const struct rope_append_args *a);
int cuda_attn(struct stream *st, const struct attn_args *a);
bool cuda_attn_turns(struct stream *st, const struct attn_args *a);

/* Few rows: the weights stream once through tensor cores (gemv.cu). -ENOTSUP: use another way. */
int gemv_matmul(struct stream *st, const struct matmul_args *a);
int gemv_logits(struct stream *st, const struct logits_args *a);
int gemv_ffn_in(struct stream *st, const struct ffn_in_args *a);
int gemv_attn_in(struct stream *st, const struct attn_in_args *a);

/*
 * 2 to SKINNY_MAX rows on Hopper; x is normalised already (skinny.cu). -ENOTSUP: use another way.
 */
int skinny_matmul(struct stream *st, const struct matmul_args *a, const act *x, int64_t x_stride,
                  float scale);
int skinny_ffn_in(struct stream *st, const struct ffn_in_args *a);

/* Many rows on Hopper (ffn.cu). -ENOTSUP: use another way. */
int swiglu_ffn_in(struct stream *st, const struct ffn_in_args *a);

/* A tensor map of act [n_row, n_col] by stride, in boxes of 64 columns x box_rows (skinny.cu). */
int map_rows(struct stream *st, const void *base, int n_row, int n_col, int64_t stride,
             int box_rows, CUtensorMap *ret);

/* Any width and alignment, slowly (norm.cu); x is normalised already. */
int plain_matmul(struct stream *st, const struct matmul_args *a, const act *x, int64_t x_stride,
                 float scale);

/* ---- device side ---- */

#ifdef __CUDACC__

#ifdef ACT_F16
static __device__ __forceinline__ float to_float(act v)
{
    return __half2float(v);
}

static __device__ __forceinline__ float2 to_float2(act2 v)
{
    return __half22float2(v);
}

static __device__ __forceinline__ act to_act(float v)
{
    return __float2half_rn(v);
}

static __device__ __forceinline__ act2 to_act2(float lo, float hi)
{
    return __floats2half2_rn(lo, hi);
}
#else
static __device__ __forceinline__ float to_float(act v)
{
    return __bfloat162float(v);
}

static __device__ __forceinline__ float2 to_float2(act2 v)
{
    return __bfloat1622float2(v);
}

static __device__ __forceinline__ act to_act(float v)
{
    return __float2bfloat16(v);
}

static __device__ __forceinline__ act2 to_act2(float lo, float hi)
{
    return __floats2bfloat162_rn(lo, hi);
}
#endif

/* Two values as the word that tensor cores take. */
static __device__ __forceinline__ uint32_t pack_act(float lo, float hi)
{
    act2 v = to_act2(lo, hi);
    uint32_t r;
    memcpy(&r, &v, 4);
    return r;
}

/* 8 values of 16 bytes. */
struct alignas(16) act8 {
    act2 v[4];
};

/*
 * One value that an earlier kernel wrote. cuda_bf16's and cuda_fp16's __ldcg are no volatile asm:
 * the compiler may run them where the condition before them is false, and above pdl_wait().
 */
static __device__ __forceinline__ act load_act(const act *p)
{
    act v;
    unsigned short raw = __ldcg((const unsigned short *)p);
    memcpy(&v, &raw, sizeof v);
    return v;
}

static __device__ __forceinline__ act8 load8(const act *p)
{
    act8 r;
    uint4 raw = __ldcg((const uint4 *)p);
    memcpy(&r, &raw, 16);
    return r;
}

static __device__ __forceinline__ void store8(act *p, const float *v)
{
    act8 r;
#pragma unroll
    for (int i = 0; i < 4; i++)
        r.v[i] = to_act2(v[2 * i], v[2 * i + 1]);
    *(act8 *)p = r;
}

static __device__ __forceinline__ void unpack8(const act8 &r, float *v)
{
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 f = to_float2(r.v[i]);
        v[2 * i] = f.x;
        v[2 * i + 1] = f.y;
    }
}

/* d += a b: a 16x16 (row), b 16x8 (col), f32 accumulators. */
static __device__ __forceinline__ void mma_16816(float *d, uint32_t a0, uint32_t a1, uint32_t a2,
                                                 uint32_t a3, uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." ACT_PTX "." ACT_PTX ".f32 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

#endif

/* What every kernel that turns and appends is told; its struct has more, in another order. */
template <typename params>
static void rope_tell(params *p, const struct rope_append_args *r)
{
    p->position = r->position;
    p->slot = r->slot;
    p->inv_freq = r->rope.inv_freq;
    p->q_norm = r->q_norm;
    p->k_norm = r->k_norm;
    p->k_pool = (act *)r->kv.k;
    p->v_pool = (act *)r->kv.v;
    p->scale = r->rope.scale;
    p->eps = r->norm_eps;
}

} // namespace ACT_SPACE

#endif
