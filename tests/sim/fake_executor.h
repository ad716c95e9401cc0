/*
 * An executor without a model, whose every token proves where its KV came from. KV of position i is
 * a chain: mix(KV of i - 1 as the block table shows it, token, i). A row reads all KV of its prefix
 * through its block table and folds it; the token that it draws is a hash of the fold, of the
 * sampling parameters, of its lists and of its token counts. So KV of another stream, of another
 * position, stale, overwritten or not yet computed, a wrong list or count: all show as a wrong
 * token.
 *
 * Steps must be run in the order of planning. Illegal plans set an error text.
 */
#ifndef RINGLET_TESTS_SIM_FAKE_EXECUTOR_H
#define RINGLET_TESTS_SIM_FAKE_EXECUTOR_H

#include <stdbool.h>
#include <stdint.h>

enum { FAKE_SEQUENCES = 4096 };

struct request;
struct sequence;
struct step;
struct fake_executor;

struct fake_executor *fake_create(int n_block, int n_host_block, int n_state, int vocab);
void fake_free(struct fake_executor *fake);

/*
 * What a sequence's KV begins with: its sharing domain. So KV of another domain shows too, although
 * its ids are the same.
 */
void fake_salt(struct fake_executor *fake, uint32_t seq_pool_index, uint64_t salt);

/*
 * The ids that are drawn, some perhaps more than once; without this, or with all of them banned,
 * any of the vocabulary. They stay the caller's.
 */
void fake_alphabet(struct fake_executor *fake, const int32_t *ids, int n);

/* Run a plan and fill its result. */
void fake_run(struct fake_executor *fake, struct step *step);

/* The device fails at this step: all KV is lost, and what is drawn next makes no sense. */
void fake_fail(struct fake_executor *fake, const struct step *step);

/* What is wrong with a plan that was run, or NULL. */
const char *fake_error(const struct fake_executor *fake);

/*
 * The token, and its log-probability, that a right schedule gives this sequence as output number
 * output_i, from its true prompt and output before. n_eos ids are banned while min_tokens wants it.
 */
int32_t fake_token(const struct fake_executor *fake, const struct sequence *seq, uint32_t output_i,
                   const int32_t *eos, int n_eos, float *ret_logprob);

/*
 * What beam search chooses among after this output: the n best tokens, biases in, bans left out.
 * Returns how many there are.
 */
int fake_top(const struct fake_executor *fake, const struct request *request, const int32_t *output,
             uint32_t n_output, const int32_t *eos, int n_eos, int n, int32_t *ret_ids,
             float *ret_values);

/* The log-probability of the prompt's token at this position. */
float fake_score(const struct fake_executor *fake, const struct sequence *seq, uint32_t position);

/* The k-th best token beside one that was drawn or scored with this log-probability. */
int32_t fake_other(const struct fake_executor *fake, float logprob, int k, float *ret_logprob);

#endif
