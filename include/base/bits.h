/* Integer helpers; the checked forms return true on overflow and leave *ret unspecified then. */
#ifndef RINGLET_BASE_BITS_H
#define RINGLET_BASE_BITS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define add_overflows(a, b, ret) __builtin_add_overflow((a), (b), (ret))
#define mul_overflows(a, b, ret) __builtin_mul_overflow((a), (b), (ret))

static inline bool is_pow2(uint64_t x)
{
    return x != 0 && (x & (x - 1)) == 0;
}

/* align must be a power of two; the caller knows that the sum cannot overflow. */
static inline uint64_t align_up(uint64_t x, uint64_t align)
{
    return (x + align - 1) & ~(align - 1);
}

static inline uint64_t div_ceil(uint64_t x, uint64_t by)
{
    return x / by + (x % by != 0);
}

/* Is [off, off + len) inside [0, size)? Free of overflow. */
static inline bool span_inside(uint64_t off, uint64_t len, uint64_t size)
{
    return len <= size && off <= size - len;
}

#endif
