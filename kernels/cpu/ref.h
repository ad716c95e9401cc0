/*
 * The oracle: every op of the table in plain C with double accumulation, one thread, no tricks.
 * It takes the args of the op table with these differences: activations are f32, and a weight's
 * data are the file's own bytes, row after row. Thread: any. Memory: takes what it needs by malloc
 * and aborts without it; for tests only.
 */
#ifndef RINGLET_KERNELS_CPU_REF_H
#define RINGLET_KERNELS_CPU_REF_H

#include <stdint.h>

#include "kernels/dtype.h"
#include "kernels/kernels.h"

/* n elements of a file's or a KV row's bytes to floats; n is a multiple of the type's block. */
void ref_dequantize(enum dtype dtype, const void *src, int n, float *out);
/* The other way, for types that KV and tests write: f32, f16, bf16, q8_0. */
void ref_quantize(enum dtype dtype, const float *src, int n, void *out);
/* What int8 activations by blocks of 32 keep of a row (the CPU's matmul of block types). */
void ref_round_activations(float *x, int n);

void ref_embed(const struct embed_args *args);
void ref_rms_norm(const struct rms_norm_args *args);
void ref_matmul(const struct matmul_args *args);
void ref_rope_append(const struct rope_append_args *args);
void ref_attn(const struct attn_args *args);
void ref_swiglu(const struct swiglu_args *args);
void ref_ffn_in(const struct ffn_in_args *args);
void ref_attn_in(const struct attn_in_args *args);
void ref_logits(const struct logits_args *args);
void ref_sample(const struct sample_args *args);
void ref_counts_load(const struct counts_load_args *args);

#endif
