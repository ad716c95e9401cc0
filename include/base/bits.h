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

/*
 * An index that a check has found below n; 0 while a CPU only guesses that it would. So a client's
 * number, wrong on purpose, is no key to other memory, not even in speculation.
 */
static inline uint32_t index_within(uint32_t i, uint32_t n)
{
#if defined(__x86_64__)
    uint32_t mask; /* all ones if i < n, by data flow and no branch */
    __asm__("cmpl %2, %1; sbbl %0, %0" : "=r"(mask) : "r"(i), "r"(n) : "cc");
#else
    uint32_t mask = (uint32_t)(((int64_t)i - (int64_t)n) >> 63);
    __asm__("" : "+r"(mask));
#endif
    return i & mask;
}

#endif
