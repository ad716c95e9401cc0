/*
 * The only spelling of shared-word access. Each store_release names, in a comment at the call, the
 * load_acquire that it pairs with. full_fence orders an earlier store before a later load of
 * another word (the sleep/wake protocol); under TSan, which does not model fences, it becomes a
 * sequentially consistent exchange.
 */
#ifndef RINGLET_BASE_ATOMICS_H
#define RINGLET_BASE_ATOMICS_H

#include <stdatomic.h>
#include <stdint.h>

#ifdef RINGLET_EXPLORE
/* tests/shm/explorer.c decides what each access sees, and tries all of it. */
uint64_t explore_load(const void *p, unsigned bytes, int acquire);
void explore_store(void *p, unsigned bytes, uint64_t value, int release);
void explore_fence(void);
#define load_once(p)        ((__typeof__(*(p)))explore_load((p), sizeof(*(p)), 0))
#define store_once(p, v)    explore_store((p), sizeof(*(p)), (uint64_t)(v), 0)
#define load_acquire(p)     ((__typeof__(*(p)))explore_load((p), sizeof(*(p)), 1))
#define store_release(p, v) explore_store((p), sizeof(*(p)), (uint64_t)(v), 1)
#else
#define load_once(p)        __atomic_load_n((p), __ATOMIC_RELAXED)
#define store_once(p, v)    __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define load_acquire(p)     __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#endif

#define compiler_barrier() __asm__ volatile("" ::: "memory")

#if defined(__SANITIZE_THREAD__)
#define RINGLET_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define RINGLET_TSAN 1
#endif
#endif

static inline void full_fence(void)
{
#if defined(RINGLET_NO_FENCE)
    /* Only the litmus test builds this: it must lose wake-ups. */
    compiler_barrier();
#elif defined(RINGLET_EXPLORE)
    explore_fence();
#elif defined(RINGLET_TSAN)
    static uint32_t tsan_word;
    __atomic_exchange_n(&tsan_word, 1u, __ATOMIC_SEQ_CST);
#elif defined(__x86_64__)
    /* A locked no-op on the stack: a full barrier at a quarter of mfence's price. */
    __asm__ volatile("lock; orl $0, (%%rsp)" ::: "memory", "cc");
#else
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
}

#endif
