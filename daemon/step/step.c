/*
 * Owns the arrays of a step. One table says which arrays there are, so that their sum and their
 * taking cannot disagree. Thread: start-up, then whoever holds the step.
 */
#include "daemon/step/step.h"

#include <errno.h>
#include <string.h>

#include "base/bits.h"
#include "base/compiler.h"
#include "daemon/base/arena.h"

struct step_array {
    size_t field;  /* offset of the pointer in struct step */
    size_t object; /* bytes of one entry */
    size_t limit;  /* offset of the count in struct step_limits */
    int more;      /* entries beyond the count */
};

#define STEP_ARRAY(name, count, plus)                                                              \
    {                                                                                              \
        offsetof(struct step, name), sizeof(*((struct step *)0)->name),                            \
            offsetof(struct step_limits, count), (plus)                                            \
    }

static const struct step_array step_arrays[] = {
    STEP_ARRAY(token, rows_max, 0),
    STEP_ARRAY(position, rows_max, 0),
    STEP_ARRAY(slot, rows_max, 0),
    STEP_ARRAY(row_seq, rows_max, 0),
    STEP_ARRAY(row_start, seqs_max, 1),
    STEP_ARRAY(kv_tokens, seqs_max, 0),
    STEP_ARRAY(prompt_tokens, seqs_max, 0),
    STEP_ARRAY(block_start, seqs_max, 1),
    STEP_ARRAY(blocks, blocks_max, 0),
    STEP_ARRAY(sample_row, samples_max, 0),
    STEP_ARRAY(sample, samples_max, 0),
    STEP_ARRAY(bias_id, lists_max, 0),
    STEP_ARRAY(ban_id, lists_max, 0),
    STEP_ARRAY(bias, lists_max, 0),
    STEP_ARRAY(state_load, seqs_max, 0),
    STEP_ARRAY(copy, moves_max, 0),
    STEP_ARRAY(swap_in, moves_max, 0),
    STEP_ARRAY(swap_out, moves_max, 0),
    STEP_ARRAY(sample_owner, samples_max, 0),
    STEP_ARRAY(seq_owner, seqs_max, 0),
    STEP_ARRAY(result, samples_max, 0),
};

static size_t array_entries(const struct step_array *array, const struct step_limits *limits)
{
    int count;
    memcpy(&count, (const char *)limits + array->limit, sizeof(count));
    return count < 0 ? 0 : (size_t)count + (size_t)array->more;
}

int step_init(struct step *step, const struct step_limits *limits, struct arena *arena)
{
    if (limits->rows_max < 1 || limits->seqs_max < 1 || limits->samples_max < 1)
        return -EINVAL;
    memset(step, 0, sizeof(*step));
    step->limits = *limits;
    for (size_t array_i = 0; array_i < ARRAY_SIZE(step_arrays); array_i++) {
        const struct step_array *array = &step_arrays[array_i];
        void *piece = arena_take_array(arena, array_entries(array, limits), array->object);
        if (!piece)
            return -ENOMEM;
        memcpy((char *)step + array->field, &piece, sizeof(piece));
    }
    return 0;
}

size_t step_bytes(const struct step_limits *limits)
{
    size_t bytes = 0;
    for (size_t array_i = 0; array_i < ARRAY_SIZE(step_arrays); array_i++) {
        const struct step_array *array = &step_arrays[array_i];
        bytes += align_up(array_entries(array, limits) * array->object + 1, 2 * CACHE_LINE);
    }
    return bytes;
}

void step_reset(struct step *step)
{
    step->number = 0;
    step->n_row = step->n_seq = step->n_decode = step->n_sample = 0;
    step->n_bias = step->n_ban = step->n_state_load = 0;
    step->n_copy = step->n_swap_in = step->n_swap_out = 0;
    step->deterministic = false;
    step->row_start[0] = step->block_start[0] = 0;
    step->mask = NULL;
    step->status = 0;
    step->started_ns = step->ended_ns = 0;
}
