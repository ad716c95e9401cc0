/* Offsets, checks and packing; no state. */
#include "daemon/exec/plan.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "base/assert.h"
#include "base/bits.h"
#include "base/compiler.h"
#include "daemon/step/step.h"
#include "kernels/kernels.h"

/* The scheduler's and the op table's view of one row are the same bytes. */
#define same_field(field)                                                                          \
    static_assert(offsetof(struct step_sample, field) == offsetof(struct sample_params, field),    \
                  #field)
static_assert(sizeof(struct step_sample) == sizeof(struct sample_params), "sample params");
same_field(temperature);
same_field(top_p);
same_field(min_p);
same_field(top_k);
same_field(presence);
same_field(frequency);
same_field(repetition);
same_field(flags);
same_field(seed);
same_field(index);
same_field(position);
same_field(state_slot);
same_field(bias_start);
same_field(n_bias);
same_field(ban_start);
same_field(n_ban);
same_field(mask_index);
same_field(n_top);
same_field(score_id);
static_assert(STEP_SAMPLE_SCORE == (int)SAMPLE_SCORE, "flags");
static_assert(STEP_SAMPLE_LOGPROBS == (int)SAMPLE_LOGPROBS, "flags");
static_assert(STEP_SAMPLE_SHAPED == (int)SAMPLE_SHAPED, "flags");

enum { PLAN_ALIGN = 64 };
static_assert(sizeof(struct plan_head) == PLAN_ALIGN, "plan_head");

static size_t plan_take(size_t *at, int n, size_t item)
{
    size_t offset = *at;
    *at = (size_t)align_up(offset + (size_t)n * item, PLAN_ALIGN);
    return offset;
}

void plan_layout(const struct plan_limits *n, struct plan *ret)
{
    size_t at = sizeof(struct plan_head);
    ret->params = plan_take(&at, n->n_sample, sizeof(struct sample_params));
    ret->token = plan_take(&at, n->n_row, sizeof(int32_t));
    ret->position = plan_take(&at, n->n_row, sizeof(int32_t));
    ret->slot = plan_take(&at, n->n_row, sizeof(int32_t));
    ret->row_seq = plan_take(&at, n->n_row, sizeof(int32_t));
    ret->row_start = plan_take(&at, n->n_seq + 1, sizeof(int32_t));
    ret->block_start = plan_take(&at, n->n_seq + 1, sizeof(int32_t));
    ret->kv_tokens = plan_take(&at, n->n_seq, sizeof(int32_t));
    ret->prompt_tokens = plan_take(&at, n->n_seq, sizeof(int32_t));
    ret->sample_row = plan_take(&at, n->n_sample, sizeof(int32_t));
    ret->blocks = plan_take(&at, n->n_block, sizeof(int32_t));
    ret->bias_id = plan_take(&at, n->n_list, sizeof(int32_t));
    ret->bias = plan_take(&at, n->n_list, sizeof(float));
    ret->ban_id = plan_take(&at, n->n_list, sizeof(int32_t));
    ret->bytes = at;
}

static bool ids_inside(const int32_t *id, int n, int limit)
{
    for (int i = 0; i < n; i++)
        if (id[i] < 0 || id[i] >= limit)
            return false;
    return true;
}

static bool moves_inside(const struct step_move *move, int n, int n_src, int n_dst)
{
    for (int i = 0; i < n; i++)
        if (move[i].src < 0 || move[i].src >= n_src || move[i].dst < 0 || move[i].dst >= n_dst)
            return false;
    return true;
}

static bool loads_inside(const struct step *step, int vocab, int context)
{
    for (int i = 0; i < step->n_state_load; i++) {
        const struct step_state_load *load = &step->state_load[i];
        if (load->slot < 0 || load->slot >= step->limits.seqs_max || load->n_prompt < 0 ||
            load->n_output < 0 || load->n_output > context - load->n_prompt ||
            !ids_inside(load->prompt, load->n_prompt, vocab) ||
            !ids_inside(load->output, load->n_output, vocab))
            return false;
    }
    return true;
}

static bool counts_inside(const struct step *s, int n_block)
{
    const struct step_limits *l = &s->limits;
    return s->n_row >= 0 && s->n_row <= l->rows_max && s->n_seq >= 0 && s->n_seq <= l->seqs_max &&
           s->n_seq <= s->n_row && s->n_decode >= 0 && s->n_decode <= s->n_seq &&
           s->n_sample >= 0 && s->n_sample <= l->samples_max && s->n_bias >= 0 &&
           s->n_bias <= l->lists_max && s->n_ban >= 0 && s->n_ban <= l->lists_max && n_block >= 0 &&
           n_block <= l->blocks_max && s->n_copy >= 0 && s->n_copy <= l->moves_max &&
           s->n_swap_in >= 0 && s->n_swap_in <= l->moves_max && s->n_swap_out >= 0 &&
           s->n_swap_out <= l->moves_max && s->n_state_load >= 0 && s->n_state_load <= l->seqs_max;
}

/* Rows of sequence s: one consecutive run of positions, with blocks for all of them. */
static bool seq_inside(const struct step *step, int s, int kv_blocks)
{
    int32_t first = step->row_start[s], end = step->row_start[s + 1];
    int32_t n_block = step->block_start[s + 1] - step->block_start[s];
    int32_t kv_tokens = step->kv_tokens[s];
    if (end <= first || (s < step->n_decode && end != first + 1) || end > step->n_row ||
        n_block < 0)
        return false;
    if (kv_tokens < end - first ||
        div_ceil((uint64_t)kv_tokens, KV_BLOCK_TOKENS) > (uint64_t)n_block)
        return false;
    if (!ids_inside(&step->blocks[step->block_start[s]], n_block, kv_blocks))
        return false;
    for (int32_t i = first; i < end; i++) {
        int32_t position = kv_tokens - (end - i);
        const int32_t *blocks = &step->blocks[step->block_start[s]];
        if (step->row_seq[i] != s || step->position[i] != position ||
            step->slot[i] !=
                blocks[position / KV_BLOCK_TOKENS] * KV_BLOCK_TOKENS + position % KV_BLOCK_TOKENS)
            return false;
    }
    return true;
}

static bool samples_inside(const struct step *step, int vocab)
{
    for (int i = 0; i < step->n_sample; i++) {
        const struct step_sample *p = &step->sample[i];
        if (step->sample_row[i] < 0 || step->sample_row[i] >= step->n_row || p->n_top < 0 ||
            p->n_top > STEP_TOP_MAX || p->state_slot < -1 || p->state_slot >= step->limits.seqs_max)
            return false;
        if (p->n_bias < 0 || p->bias_start < 0 || p->n_bias > step->n_bias - p->bias_start ||
            p->n_ban < 0 || p->ban_start < 0 || p->n_ban > step->n_ban - p->ban_start)
            return false;
        if ((p->flags & STEP_SAMPLE_SCORE) && (p->score_id < 0 || p->score_id >= vocab))
            return false;
    }
    return ids_inside(step->bias_id, step->n_bias, vocab) &&
           ids_inside(step->ban_id, step->n_ban, vocab);
}

int plan_check(const struct step *step, const struct plan_bounds *b)
{
    int n_block = step->n_seq > 0 ? step->block_start[step->n_seq] : 0;
    if (!counts_inside(step, n_block))
        return -EINVAL;
    if (step->n_seq > 0 && (step->row_start[0] != 0 || step->block_start[0] != 0 ||
                            step->row_start[step->n_seq] != step->n_row))
        return -EINVAL;
    for (int s = 0; s < step->n_seq; s++)
        if (!seq_inside(step, s, b->kv_blocks))
            return -EINVAL;
    for (int i = 0; i < step->n_row; i++)
        if (step->token[i] >= b->vocab || step->token[i] < -b->n_sampled)
            return -EINVAL;
    if (!samples_inside(step, b->vocab) || !loads_inside(step, b->vocab, b->context))
        return -EINVAL;
    if (!moves_inside(step->copy, step->n_copy, b->kv_blocks, b->kv_blocks) ||
        !moves_inside(step->swap_in, step->n_swap_in, b->kv_host_blocks, b->kv_blocks) ||
        !moves_inside(step->swap_out, step->n_swap_out, b->kv_blocks, b->kv_host_blocks))
        return -EINVAL;
    return 0;
}

static void put(uint8_t *dst, size_t offset, const void *src, int n, size_t item)
{
    if (n > 0)
        memcpy(dst + offset, src, (size_t)n * item);
}

/* i32 section: n of src, then value up to n_padded. */
static void put_padded(uint8_t *dst, size_t offset, const int32_t *src, int n, int n_padded,
                       int32_t value)
{
    int32_t *to = (int32_t *)(void *)(dst + offset);
    put(dst, offset, src, n, sizeof(int32_t));
    for (int i = n; i < n_padded; i++)
        to[i] = value;
}

/*
 * Every padding row has a padding sequence of its own; what is left of those has no rows. Rows
 * beyond them name the last, though it has one row: who reads its kv_tokens takes them as padding.
 */
static void plan_pad(const struct step *s, const struct plan_limits *n, const struct plan *p,
                     uint8_t *dst)
{
    static const struct sample_params none = {
        .top_p = 1, .repetition = 1, .state_slot = -1, .mask_index = -1
    };
    struct sample_params *params = (struct sample_params *)(void *)(dst + p->params);
    int32_t *row_seq = (int32_t *)(void *)(dst + p->row_seq);
    int32_t *row_start = (int32_t *)(void *)(dst + p->row_start);
    for (int i = s->n_sample; i < n->n_sample; i++)
        params[i] = none;
    for (int row = s->n_row, seq = s->n_seq; row < n->n_row; row++, seq++)
        row_seq[row] = min_of(seq, n->n_seq - 1);
    for (int seq = s->n_seq, end = s->n_row; seq < n->n_seq; seq++) {
        end = min_of(end + 1, n->n_row);
        row_start[seq + 1] = end;
    }
}

void plan_pack(const struct step *s, const struct plan_limits *n, const struct plan *p,
               uint32_t value, uint8_t *dst)
{
    const struct plan_head head = { .bytes = (uint32_t)p->bytes, .value = value };
    memcpy(dst, &head, sizeof(head));
    int n_block = s->n_seq > 0 ? s->block_start[s->n_seq] : 0;
    put(dst, p->params, s->sample, s->n_sample, sizeof(*s->sample));
    put_padded(dst, p->token, s->token, s->n_row, n->n_row, 0);
    put_padded(dst, p->position, s->position, s->n_row, n->n_row, 0);
    put_padded(dst, p->slot, s->slot, s->n_row, n->n_row, -1);
    put(dst, p->row_seq, s->row_seq, s->n_row, sizeof(int32_t));
    put_padded(dst, p->sample_row, s->sample_row, s->n_sample, n->n_sample, 0);
    put(dst, p->row_start, s->row_start, s->n_seq + 1, sizeof(int32_t));
    put_padded(dst, p->block_start, s->block_start, s->n_seq + 1, n->n_seq + 1, n_block);
    put_padded(dst, p->kv_tokens, s->kv_tokens, s->n_seq, n->n_seq, 0);
    put_padded(dst, p->prompt_tokens, s->prompt_tokens, s->n_seq, n->n_seq, 0);
    put(dst, p->blocks, s->blocks, n_block, sizeof(int32_t));
    put(dst, p->bias_id, s->bias_id, s->n_bias, sizeof(int32_t));
    put(dst, p->bias, s->bias, s->n_bias, sizeof(float));
    put(dst, p->ban_id, s->ban_id, s->n_ban, sizeof(int32_t));
    plan_pad(s, n, p, dst);
}
