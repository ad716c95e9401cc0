/* Computed in double and rounded once. */
#include "daemon/model/rope_freq.h"

#include <errno.h>
#include <math.h>
#include <stdbool.h>

static bool positive(double x)
{
    return x > 0 && isfinite(x);
}

/* Llama 3.1: by wavelength against the original context. */
static double rope_freq_llama3(const struct rope_freq *r, double freq)
{
    double wavelength = 2 * M_PI / freq;
    double rotations = (double)r->context_original / wavelength;
    if (rotations < (double)r->low_factor)
        return freq / (double)r->factor;
    if (rotations > (double)r->high_factor)
        return freq;
    double smooth =
        (rotations - (double)r->low_factor) / ((double)r->high_factor - (double)r->low_factor);
    return (1 - smooth) * freq / (double)r->factor + smooth * freq;
}

/* Dimension at which `rotations` turns fit into the original context. */
static double rope_freq_yarn_dim(const struct rope_freq *r, double rotations)
{
    return r->n_dim * log((double)r->context_original / (rotations * 2 * M_PI)) /
           (2 * log((double)r->base));
}

static double rope_freq_yarn(const struct rope_freq *r, int i, double freq)
{
    double low = floor(rope_freq_yarn_dim(r, (double)r->beta_fast));
    double high = ceil(rope_freq_yarn_dim(r, (double)r->beta_slow));
    low = fmax(low, 0);
    high = fmin(high, r->n_dim - 1);
    if (high <= low)
        high = low + 0.001;
    double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
    return freq / (double)r->factor * ramp + freq * (1 - ramp);
}

int rope_freq_fill(const struct rope_freq *r, const float *divide, float *inv_freq,
                   float *ret_scale)
{
    float scale = 1;
    bool scaled = r->scaling != ROPE_SCALING_NONE;
    bool by_context = r->scaling == ROPE_SCALING_LLAMA3 || r->scaling == ROPE_SCALING_YARN;
    if (r->n_dim <= 0 || r->n_dim % 2 != 0 || !positive((double)r->base))
        return -EINVAL;
    if ((scaled && !positive((double)r->factor)) ||
        (by_context && !positive((double)r->context_original)))
        return -EINVAL;
    if (r->scaling == ROPE_SCALING_LLAMA3 &&
        (!positive((double)r->low_factor) || !(r->high_factor > r->low_factor) ||
         !isfinite(r->high_factor)))
        return -EINVAL;
    if (r->scaling == ROPE_SCALING_YARN) {
        if (!positive((double)r->beta_fast) || !positive((double)r->beta_slow) || !(r->base > 1))
            return -EINVAL;
        scale = positive((double)r->attn_factor) ? r->attn_factor
                                                 : (float)(0.1 * log((double)r->factor) + 1);
        if (r->factor <= 1 && !positive((double)r->attn_factor))
            scale = 1;
    }
    for (int i = 0; i < r->n_dim / 2; i++) {
        double freq = pow((double)r->base, -2.0 * i / r->n_dim);
        if (r->scaling == ROPE_SCALING_LINEAR)
            freq /= (double)r->factor;
        else if (r->scaling == ROPE_SCALING_LLAMA3)
            freq = rope_freq_llama3(r, freq);
        else if (r->scaling == ROPE_SCALING_YARN)
            freq = rope_freq_yarn(r, i, freq);
        if (divide)
            freq /= (double)divide[i];
        if (!positive(freq))
            return -EINVAL;
        inv_freq[i] = (float)freq;
    }
    *ret_scale = scale;
    return 0;
}
