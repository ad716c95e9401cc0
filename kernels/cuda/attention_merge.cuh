/* How the results of a row's warps and splits become one: attention_rows.cuh says who has which. */
#ifndef RINGLET_CUDA_ATTENTION_MERGE_CUH
#define RINGLET_CUDA_ATTENTION_MERGE_CUH

#include "kernels/cuda/attention.cuh"

namespace ACT_SPACE {

/* A block's or a split's result for one head: maximum (log2), sum, then HD unscaled values. */
template <int HD> struct alignas(16) head_part {
    float o[HD], max, sum, pad[2];
};

/*
 * Head h's parts of the n of W warps that put one, in shared memory, `stride` from each other, in
 * order: values d to d + 3, maximum and sum.
 */
template <int HD, int W>
static __device__ __forceinline__ float4 merge_warps(const head_part<HD> *local, int n, int stride,
                                                     int h, int d, float *ret_max, float *ret_sum)
{
    float4 o[W], ends[W], value = make_float4(0, 0, 0, 0);
    float max = -INFINITY, sum = 0;
#pragma unroll
    for (int i = 0; i < W; i++) {
        const head_part<HD> *part = &local[min(i, n - 1) * stride + h];
        ends[i] = *(const float4 *)&part->max;
        o[i] = *(const float4 *)&part->o[d];
    }
#pragma unroll
    for (int i = 0; i < W; i++)
        max = fmaxf(max, ends[i].x);
#pragma unroll
    for (int i = 0; i < W; i++) {
        float f = i < n && ends[i].x != -INFINITY ? exp2f(ends[i].x - max) : 0.0f;
        sum += f * ends[i].y;
        value.x += f * o[i].x;
        value.y += f * o[i].y;
        value.z += f * o[i].z;
        value.w += f * o[i].w;
    }
    *ret_max = max;
    *ret_sum = sum;
    return value;
}

/* The splits' parts, from memory, in order. shared: floats for n_head x (active + 1). */
template <int HD, int W>
static __device__ void merge_splits(const head_part<HD> *part, int active, int stride, int n_head,
                                    act *out, float *shared)
{
    int n = n_head * active;
    for (int i = (int)threadIdx.x; i < n; i += W * 32)
        shared[i] = __ldcg(&part[i % active * stride + i / active].max);
    float *total = shared + n;
    __syncthreads();
    for (int h = (int)threadIdx.x / 32; h < n_head; h += W) {
        float max = -INFINITY, sum = 0;
        for (int i = (int)threadIdx.x % 32; i < active; i += 32)
            max = fmaxf(max, shared[h * active + i]);
        max = warp_max(max);
        for (int i = (int)threadIdx.x % 32; i < active; i += 32) {
            float f = exp2f(shared[h * active + i] - max);
            sum += f * __ldcg(&part[i * stride + h].sum);
            shared[h * active + i] = f;
        }
        sum = warp_sum(sum);
        if (threadIdx.x % 32 == 0)
            total[h] = 1.0f / sum;
    }
    __syncthreads();
    for (int i = (int)threadIdx.x; i < n_head * HD / 4; i += W * 32) {
        int h = i * 4 / HD, d = i * 4 % HD;
        float4 value = make_float4(0, 0, 0, 0);
#pragma unroll 8
        for (int j = 0; j < active; j++) {
            float4 v = __ldcg((const float4 *)&part[j * stride + h].o[d]);
            float f = shared[h * active + j];
            value.x += f * v.x;
            value.y += f * v.y;
            value.z += f * v.z;
            value.w += f * v.w;
        }
        act2 *to = (act2 *)(out + h * HD + d);
        to[0] = to_act2(value.x * total[h], value.y * total[h]);
        to[1] = to_act2(value.z * total[h], value.w * total[h]);
    }
}

/* Up to ATTN_CLUSTER_MAX parts, from memory or shared memory, in order, all asked for at once. */
template <int HD, int W, bool MEMORY>
static __device__ __forceinline__ void merge_few(const head_part<HD> *part, int active, int stride,
                                                 int n_head, act *out)
{
    for (int i = (int)threadIdx.x; i < n_head * HD / 4; i += W * 32) {
        int h = i * 4 / HD, d = i * 4 % HD;
        float4 o[ATTN_CLUSTER_MAX], ends[ATTN_CLUSTER_MAX];
#pragma unroll
        for (int j = 0; j < ATTN_CLUSTER_MAX; j++) {
            const head_part<HD> *from = part + min(j, active - 1) * stride + h;
            const float4 *at = (const float4 *)&from->o[d], *ends_at = (const float4 *)&from->max;
            o[j] = MEMORY ? __ldcg(at) : *at;
            ends[j] = MEMORY ? __ldcg(ends_at) : *ends_at;
        }
        float max = -INFINITY, sum = 0;
        float4 value = make_float4(0, 0, 0, 0);
#pragma unroll
        for (int j = 0; j < ATTN_CLUSTER_MAX; j++)
            max = fmaxf(max, ends[j].x);
#pragma unroll
        for (int j = 0; j < ATTN_CLUSTER_MAX; j++) {
            float f = j < active ? exp2f(ends[j].x - max) : 0.0f;
            sum += f * ends[j].y;
            value.x += f * o[j].x;
            value.y += f * o[j].y;
            value.z += f * o[j].z;
            value.w += f * o[j].w;
        }
        float scale = 1.0f / sum;
        act2 *to = (act2 *)(out + h * HD + d);
        to[0] = to_act2(value.x * scale, value.y * scale);
        to[1] = to_act2(value.z * scale, value.w * scale);
    }
}

} // namespace ACT_SPACE

#endif
