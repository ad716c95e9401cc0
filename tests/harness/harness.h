/*
 * TEST(name) { ... } registers one test. Each runs as a CMocka group of its own in a forked child,
 * so a crash, a hang (600 s, TEST_TIMEOUT_S) or a leaked file descriptor fails that test alone.
 * With arguments only tests whose name contains one of them run; --in-process runs without fork,
 * for a debugger. Exit: 0 passed, 1 failed, 77 all skipped.
 */
#ifndef RINGLET_TESTS_HARNESS_H
#define RINGLET_TESTS_HARNESS_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/assert.h"

struct harness_test {
    const char *name, *file;
    void (*fn)(void **state);
    struct harness_test *next;
};

void harness_register(struct harness_test *test);

/* Seed of this run: $TEST_SEED or drawn from the clock; printed when a test fails. */
uint64_t harness_seed(void);
/* xorshift; advance a caller's state. */
uint64_t harness_rand(uint64_t *state);
/* Uniform in [lo, hi). */
double harness_uniform(uint64_t *state, double lo, double hi);

/* run-tests --long: campaigns in full length. */
bool harness_long(void);

/* A file of the shared test data, or NULL after telling so: then skip(). Static buffer. */
const char *harness_data(const char *relative);
/* A fresh folder that is removed when the test ends. Static buffer. */
const char *harness_tmpdir(void);

/* This test used a GPU driver, which keeps descriptors for the life of the process. */
void harness_allow_descriptors(void);

#define TEST(test_name)                                                                            \
    static void test_name(void **state);                                                           \
    __attribute__((constructor)) static void test_name##_register(void)                            \
    {                                                                                              \
        static struct harness_test test = { #test_name, __FILE__, test_name, NULL };               \
        harness_register(&test);                                                                   \
    }                                                                                              \
    static void test_name(__attribute__((unused)) void **state)

/* |a - b| <= atol + rtol * |b|; NaN fails. */
#define assert_close(a, b, atol, rtol)                                                             \
    do {                                                                                           \
        double close_a_ = (a), close_b_ = (b);                                                     \
        if (!(fabs(close_a_ - close_b_) <= (atol) + (rtol)*fabs(close_b_)))                        \
            fail_msg("%s = %.9g, %s = %.9g differ by %.3g", #a, close_a_, #b, close_b_,            \
                     fabs(close_a_ - close_b_));                                                   \
    } while (0)

#define assert_ok(expr)                                                                            \
    do {                                                                                           \
        long ok_rc_ = (long)(expr);                                                                \
        if (ok_rc_ != 0)                                                                           \
            fail_msg("%s = %ld (%s)", #expr, ok_rc_, ok_rc_ < 0 ? strerror((int)-ok_rc_) : "");    \
    } while (0)

#endif
