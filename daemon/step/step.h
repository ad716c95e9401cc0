/*
 * One forward pass: what the batcher asks for (plan) and what the executor brings back (result).
 * Flat arrays of integers, all sized at start; the loop owns a step until executor_submit, the
 * executor until executor_collect gives it back. Two are in flight at most per model.
 *
 * Sequence s of the step has rows row_start[s] .. row_start[s + 1] - 1 at consecutive positions.
 * The first n_decode sequences have one row each. Rows of sequence s read the KV blocks
 * blocks[block_start[s] ...]; row i writes its K and V to slot[i].
 */
#ifndef RINGLET_STEP_STEP_H
#define RINGLET_STEP_STEP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct arena;

enum { STEP_TOP_MAX = 20 };

enum {
    STEP_SAMPLE_SCORE = 1,    /* no draw: log-probability of score_id (prompt logprobs) */
    STEP_SAMPLE_LOGPROBS = 2, /* also the log-probability of the token and the n_top best */
    STEP_SAMPLE_SHAPED = 4,   /* those n_top after bias and bans: beam search chooses among them */
};

/* How to sample one row; kernels.h says what the fields mean and in which order they act. */
struct step_sample {
    float temperature, top_p, min_p;
    int32_t top_k;
    float presence, frequency, repetition;
    uint32_t flags;
    uint64_t seed;
    uint32_t index, position;
    int32_t state_slot;         /* row of token counts, -1 = none */
    int32_t bias_start, n_bias; /* into bias_id, bias */
    int32_t ban_start, n_ban;   /* into ban_id */
    int32_t mask_index;         /* -1 = none */
    int32_t n_top;
    int32_t score_id;
};

/*
 * Before the pass: make the token counts of a state slot anew, from a prompt and the output so far.
 * Both arrays are the request's own and stay put until the step is collected.
 */
struct step_state_load {
    int32_t slot;
    int32_t n_prompt, n_output;
    const int32_t *prompt, *output;
};

/*
 * Before the pass, in order: swap out, copy, swap in. Block ids of the pool and the host pool.
 * Inside one of the three lists moves are independent: no block is a target twice, none is both
 * source and target, so they may run in any order or at once.
 */
struct step_move {
    int32_t src, dst;
};

/* A sequence at the time of planning: generation and epoch tell whether it still is the same. */
struct step_owner {
    uint32_t seq;        /* pool index */
    uint32_t generation; /* of the scheduler's record: the sequence's slot was not used anew */
    uint32_t epoch;      /* its KV was not taken away since */
    int32_t score;       /* sample rows: prompt position that is scored, -1 = a token is drawn */
};

enum { STEP_TOKEN_BAD = 1 /* a non-finite logit: nothing was drawn */ };

struct step_token {
    int32_t token; /* -1: scored only, or bad */
    float logprob;
    uint32_t flags;
    int32_t n_top;
    int32_t top_id[STEP_TOP_MAX];
    float top_logprob[STEP_TOP_MAX];
};

/* Named maxima of a step; config.c computes them. */
struct step_limits {
    int rows_max;    /* token budget */
    int seqs_max;    /* running sequences */
    int samples_max; /* >= seqs_max; more rows allow prompt logprobs in larger chunks */
    int blocks_max;  /* entries of all block tables of a step */
    int lists_max;   /* bias and ban entries */
    int moves_max;   /* copies, swaps in, swaps out: each */
    int vocab;       /* logits width */
};

struct step {
    struct step_limits limits;

    /* Plan */
    uint64_t number; /* running number of the model's steps, from 1 */
    int model;       /* index of the model */
    int n_row, n_seq, n_decode, n_sample;
    int n_bias, n_ban, n_state_load, n_copy, n_swap_in, n_swap_out;
    bool deterministic; /* some row asks for batch-invariant kernels */
    int32_t *token;     /* [rows] id; -1 - r: the id that sample row r of step number - 1 draws */
    int32_t *position;  /* [rows] */
    int32_t *slot;      /* [rows] block * 16 + offset */
    int32_t *row_seq;   /* [rows] */
    int32_t *row_start; /* [seqs + 1] */
    int32_t *kv_tokens; /* [seqs] with this step's rows */
    int32_t *prompt_tokens; /* [seqs] length of the sequence's prompt: the model echo answers it */
    int32_t *block_start;   /* [seqs + 1] */
    int32_t *blocks;        /* [blocks_max] */
    int32_t *sample_row;    /* [samples] row whose logits are wanted; a row may appear n times */
    struct step_sample *sample; /* [samples] */
    int32_t *bias_id, *ban_id;  /* [lists_max] */
    float *bias;
    const uint32_t *mask;               /* structure masks, later */
    struct step_state_load *state_load; /* [seqs] */
    struct step_move *copy, *swap_in, *swap_out;

    /* The scheduler's own notes of whom a sample row or a sequence is; the executor never looks. */
    struct step_owner *sample_owner; /* [samples] */
    struct step_owner *seq_owner;    /* [seqs] */

    /* Result */
    int status;                    /* 0; -EIO device fault, -ENOMEM; then no token counts */
    struct step_token *result;     /* [samples] */
    uint64_t started_ns, ended_ns; /* CLOCK_MONOTONIC, by the executor */
    uint64_t launched_ns;          /* all of it was handed to the device */
};

/* Take all arrays from the arena. Returns 0, -EINVAL, -ENOMEM. Thread: start-up. */
int step_init(struct step *step, const struct step_limits *limits, struct arena *arena);

/* Bytes that step_init will take for these limits. */
size_t step_bytes(const struct step_limits *limits);

/* Empty the plan and the result; limits, arrays and model stay. */
void step_reset(struct step *step);

#endif
