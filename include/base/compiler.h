/* Small compiler idioms that every folder may use. */
#ifndef RINGLET_BASE_COMPILER_H
#define RINGLET_BASE_COMPILER_H

#include <stddef.h>

#define likely(x)   __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define cold_fn       __attribute__((cold))
#define nodiscard     __attribute__((warn_unused_result))
#define printf_like(format_i, first_i) __attribute__((format(printf, format_i, first_i)))
#define always_inline inline __attribute__((always_inline))
#define noinline_fn   __attribute__((noinline))
#define aligned_to(n) __attribute__((aligned(n)))
#define api_export    __attribute__((visibility("default")))

#define CACHE_LINE 64
/* Adjacent-line prefetch pairs lines: words of different writers lie this far apart. */
#define CACHE_LINE_PAIR 128

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr) - offsetof(type, member)))

/* Arguments are evaluated once; the inner names are unique so that calls nest without shadowing. */
#define min_of(a, b) min_of_(a, b, __COUNTER__)
#define max_of(a, b) max_of_(a, b, __COUNTER__)
#define min_of_(a, b, n) extreme_of_(a, b, <, n)
#define max_of_(a, b, n) extreme_of_(a, b, >, n)
#define extreme_of_(a, b, op, n)                                                                   \
    __extension__({                                                                                \
        __auto_type extreme_a_##n = (a);                                                           \
        __auto_type extreme_b_##n = (b);                                                           \
        extreme_a_##n op extreme_b_##n ? extreme_a_##n : extreme_b_##n;                            \
    })

/* Ask for a cache line that will be written soon; no effect but time. */
#if defined(__x86_64__)
#define prefetch_write(p) __asm__ volatile("prefetchw %0" ::"m"(*(const char *)(p)))
#else
#define prefetch_write(p) __builtin_prefetch((p), 1, 3)
#endif

#define cpu_relax() __builtin_ia32_pause()
#if !defined(__x86_64__) && !defined(__i386__)
#undef cpu_relax
#define cpu_relax() __asm__ volatile("yield" ::: "memory")
#endif

#endif
