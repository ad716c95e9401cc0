/*
 * Seeds of requests that bring none. A client is told its own and must not learn another's from it
 * (with a guessed prompt it could make the other's answer again), so they are the numbers 1, 2, 3,
 * ... under SipHash-2-4, a keyed function made so that outputs tell nothing of the key or of one
 * another.
 *
 * Source: Aumasson, Bernstein, "SipHash: a fast short-input PRF", 2012.
 */
#ifndef RINGLET_BASE_SEEDS_H
#define RINGLET_BASE_SEEDS_H

#include <stdint.h>

struct seeds {
    uint64_t key[2]; /* from the kernel's random numbers; never leaves the process */
    uint64_t n;
};

/* SipHash-2-4 of the eight bytes of message, little-endian. */
uint64_t seeds_hash(const uint64_t key[2], uint64_t message);

/* The next seed: 53 bits, so that it passes through any JSON. Loop thread. */
uint64_t seeds_next(struct seeds *seeds);

#endif
