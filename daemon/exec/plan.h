/*
 * A step's arrays packed into one block, so that one copy brings them to the device: aligned
 * sections whose offsets depend on the counts alone (a captured graph sees fixed addresses). Pure.
 */
#ifndef RINGLET_EXEC_PLAN_H
#define RINGLET_EXEC_PLAN_H

#include <stddef.h>
#include <stdint.h>

struct step;
struct step_limits;

/* Counts that the offsets follow from. */
struct plan_limits {
    int n_row, n_seq, n_sample, n_block, n_list;
};

/* What a plan begins with: device.h's fetch reads the length, deliver the value. */
struct plan_head {
    uint32_t bytes; /* of the plan, this head included */
    uint32_t value; /* that tells the end of the step */
    uint32_t reserved[14];
};

/* Offsets of the sections in bytes; the head comes first. */
struct plan {
    size_t params;                         /* struct sample_params [n_sample] */
    size_t token, position, slot, row_seq; /* i32 [n_row] */
    size_t row_start, block_start;         /* i32 [n_seq + 1] */
    size_t kv_tokens, prompt_tokens;       /* i32 [n_seq] */
    size_t sample_row;                     /* i32 [n_sample] */
    size_t blocks;                         /* i32 [n_block]; before it all lengths are fixed */
    size_t bias_id, bias, ban_id;          /* [n_list]: behind what a captured graph sees */
    size_t bytes;
};

void plan_layout(const struct plan_limits *n, struct plan *ret);

struct plan_bounds {
    int vocab, context;
    int kv_blocks, kv_host_blocks;
    int n_sampled; /* sample rows of the step before */
};

/*
 * Check a step against its limits and the pool: rows, positions, slots, blocks, ids, references to
 * the step before. The scheduler made it, but a client's numbers went into it.
 *
 * Returns: 0, -EINVAL.
 */
int plan_check(const struct step *step, const struct plan_bounds *bounds);

/*
 * Write head and sections into dst [plan->bytes]. Where n has more rows, sequences or samples than
 * the step, padding fills them: rows of no token (slot -1), each in a sequence of kv_tokens 0 (the
 * last of these where they are fewer; one at least).
 *
 *   value   tells the end of the step
 */
void plan_pack(const struct step *step, const struct plan_limits *n, const struct plan *plan,
               uint32_t value, uint8_t *dst);

#endif
