/*
 * Runs a case of tests/vectors/tiny.py and compares it with its family's golden.json: weights are
 * generated into a folder of the test, the log-probabilities are transformers'.
 */
#ifndef RINGLET_TESTS_GOLDEN_H
#define RINGLET_TESTS_GOLDEN_H

#include "tests/daemon/exec/step_runner.h"

enum { GOLDEN_TOP = 20, GOLDEN_IDS_MAX = 512 };

struct golden {
    int n;          /* ids; top has n rows */
    double kl_bf16, kl_f16; /* transformers' own 16 bits against its f32; 0 = not told */
    int32_t ids[GOLDEN_IDS_MAX];
    int32_t top_id[GOLDEN_IDS_MAX][GOLDEN_TOP];
    float top_logprob[GOLDEN_IDS_MAX][GOLDEN_TOP];
};

struct golden_result {
    double diff_max; /* |log-probability - reference| over the reference's 20 best */
    double kl_mean;  /* Kullback-Leibler divergence over them, mean of all positions */
};

/*
 * Where tests of real arithmetic run: "cpu", or $RINGLET_TEST_DEVICE. Other devices' drivers keep
 * descriptors open, so they are allowed to.
 */
const char *golden_device(void);

/* The named case of FAMILY/golden.json (relative to tests/vectors). Fails the test if it is not
 * there. */
void golden_load(const char *file, const char *name, struct golden *ret);

/* Names of a file's cases that begin with prefix, in file order. Returns how many. */
int golden_names(const char *file, const char *prefix, char names[][64], int max);

/* Make the case's weights in the test's own folder. Static buffer. Skips without python3. */
const char *golden_weights(const char *name);

/* Score the case's text and compare. */
void golden_compare(struct runner *r, const struct golden *g, struct golden_result *ret);

#endif
