/*
 * Asserts stay on in release. They may depend on our own state only, never on what a client or a
 * file can influence: those are checked errors in every build.
 */
#ifndef RINGLET_BASE_ASSERT_H
#define RINGLET_BASE_ASSERT_H

#include <assert.h>

#ifdef NDEBUG
#error "ringlet keeps its asserts: build without NDEBUG"
#endif

/* O(n) checks: debug and test builds only. */
#ifdef RINGLET_SLOW_ASSERTS
#define assert_slow(cond) assert(cond)
#else
#define assert_slow(cond) ((void)sizeof(cond))
#endif

#define unreachable() assert(!"unreachable")

#endif
