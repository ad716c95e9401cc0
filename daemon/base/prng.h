/* A small seeded generator (splitmix64): chance is an argument, nobody owns it globally. */
#ifndef RINGLET_BASE_PRNG_H
#define RINGLET_BASE_PRNG_H

#include <stdbool.h>
#include <stdint.h>

struct prng {
    uint64_t state;
};

/* One round of splitmix64's output function: a good mix of 64 bits. */
static inline uint64_t prng_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

static inline uint64_t prng_next(struct prng *prng)
{
    return prng_mix(prng->state += UINT64_C(0x9e3779b97f4a7c15));
}

/* Uniform in [0, n), n >= 1; the bias of 2^-32 n does not matter to its users. */
static inline uint32_t prng_below(struct prng *prng, uint32_t n)
{
    return (uint32_t)(((prng_next(prng) >> 32) * n) >> 32);
}

/* Uniform in [lo, hi], hi - lo < 2^32 - 1. */
static inline uint32_t prng_between(struct prng *prng, uint32_t lo, uint32_t hi)
{
    return lo + prng_below(prng, hi - lo + 1);
}

static inline bool prng_chance(struct prng *prng, uint32_t percent)
{
    return prng_below(prng, 100) < percent;
}

#endif
