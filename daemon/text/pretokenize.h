/*
 * Splitting text into the pieces that merges never cross: the model's own patterns, one step after
 * the other, each on the pieces of the step before. PCRE2 with JIT; match, depth and heap limits,
 * because patterns come from model files.
 *
 * The compiled steps are shared and read-only; each thread matches with a pretokenize_state of its
 * own.
 */
#ifndef RINGLET_TEXT_PRETOKENIZE_H
#define RINGLET_TEXT_PRETOKENIZE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct pretokenizer;
struct pretokenize_state;

/* What becomes of a match: names and meaning as in tokenizer.json. */
enum split_behavior {
    SPLIT_ISOLATED,
    SPLIT_REMOVED,
    SPLIT_MERGED_WITH_PREVIOUS,
    SPLIT_MERGED_WITH_NEXT,
    SPLIT_CONTIGUOUS,
};

/* What the name of a family says besides its patterns. */
struct pretokenize_family {
    bool nfc, ignore_merges, add_bos;
};

struct text_piece {
    uint32_t from, to;
};

/*
 * How long splitting may take. The clock is looked at every few matches; when the time is over, the
 * thread's own CPU time decides, from then on: a thread that was not run has not used its budget
 * up.
 */
struct split_budget {
    uint64_t ns, wall_deadline_ns, cpu_deadline_ns;
};

struct split_budget split_budget_start(uint64_t ns);

enum { SPLIT_STEPS_MAX = 8, SPLIT_PATTERN_BYTES_MAX = 16384 };

/* Empty: text passes in one piece. Returns 0 or -ENOMEM. */
int pretokenizer_new(struct pretokenizer **ret);
void pretokenizer_free(struct pretokenizer *p);
uint32_t pretokenizer_steps(const struct pretokenizer *p);

/*
 * The patterns that tokenizer.ggml.pre names.
 *
 * Returns: 0; -ENOENT unknown name; -ENOMEM.
 */
int pretokenizer_family(const char *name, size_t bytes, struct pretokenizer **ret,
                        struct pretokenize_family *ret_family);

/*
 * Add a step. The pattern is read as Oniguruma reads it where the two differ: \s without U+180E,
 * \uXXXX and \h.
 *
 *   invert       the pieces between the matches are the matches
 *   why          room for why_bytes, says why a pattern is refused
 *
 * Returns: 0; -EINVAL not a pattern, or one that PCRE2 cannot read; -E2BIG too many or too long;
 *          -ENOMEM.
 */
int pretokenizer_add(struct pretokenizer *p, const char *pattern, size_t bytes,
                     enum split_behavior behavior, bool invert, char *why, size_t why_bytes);

/* Scratch for texts of bytes_max; allocates all that matching needs. Returns 0 or -ENOMEM. */
int pretokenize_state_new(size_t bytes_max, struct pretokenize_state **ret);
void pretokenize_state_free(struct pretokenize_state *s);

/*
 * Split valid UTF-8.
 *
 *   budget   of all calls for one text
 *   ret      pieces in order, none empty; belongs to s, until the next call
 *
 * Returns: 0; -ETIME a limit or the budget was reached.  Memory: none allocated while JIT works.
 */
int pretokenize(const struct pretokenizer *p, struct pretokenize_state *s, const char *text,
                uint32_t bytes, struct split_budget *budget, const struct text_piece **ret,
                uint32_t *ret_n);

#endif
