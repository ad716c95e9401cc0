/* Rotary frequencies with the scaling that a file asks for; folded into inv_freq once, at load. */
#ifndef RINGLET_MODEL_ROPE_FREQ_H
#define RINGLET_MODEL_ROPE_FREQ_H

enum rope_scaling {
    ROPE_SCALING_NONE,
    ROPE_SCALING_LINEAR, /* all frequencies / factor */
    ROPE_SCALING_LLAMA3, /* low frequencies / factor, high ones as they are, a ramp between */
    ROPE_SCALING_YARN,   /* ramp by rotations within the original context; attention scaled */
};

struct rope_freq {
    int n_dim;  /* rotated dimensions of a head, even */
    float base; /* theta */
    enum rope_scaling scaling;
    float factor;                  /* linear, llama3, yarn */
    float low_factor, high_factor; /* llama3 */
    float beta_fast, beta_slow;    /* yarn: 32 and 1 */
    float attn_factor;             /* yarn: 0 = 0.1 ln(factor) + 1 */
    float context_original;        /* llama3, yarn */
};

/*
 * Fill inv_freq [n_dim / 2].
 *
 *   divide      per-frequency divisors from the file, or NULL
 *   ret_scale   factor of cos and sin: 1 but for yarn
 *
 * Returns: 0; -EINVAL a parameter or result is not a positive finite number.
 */
int rope_freq_fill(const struct rope_freq *r, const float *divide, float *inv_freq,
                   float *ret_scale);

#endif
