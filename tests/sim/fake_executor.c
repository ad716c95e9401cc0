#include "tests/sim/fake_executor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/base/prng.h"
#include "daemon/kv/block_pool.h"
#include "daemon/request/request.h"
#include "daemon/step/step.h"

/* The KV of one position. */
struct cell {
    uint64_t chain;
    uint64_t step;  /* that wrote it */
    int32_t writer; /* sequence of that step */
};

struct fake_executor {
    int n_block, n_host, n_state, vocab;
    const int32_t *alphabet; /* NULL: every id */
    int n_alphabet;
    struct cell *cell; /* [n_block * 16] */
    struct cell *host; /* [n_host * 16] */
    uint64_t *counts;  /* [n_state] hash of a multiset of ids */
    int32_t *drawn;    /* ids that the last step drew */
    int n_drawn, n_drawn_max;
    uint64_t last_step;
    uint8_t *moved; /* [n_block + n_host] in one list of moves: 1 source, 2 target */
    uint64_t *salt; /* [FAKE_SEQUENCES] */
    char error[160];
};

struct fake_executor *fake_create(int n_block, int n_host_block, int n_state, int vocab)
{
    struct fake_executor *fake = calloc(1, sizeof(*fake));
    *fake = (struct fake_executor){ .n_block = n_block,
                                    .n_host = n_host_block,
                                    .n_state = n_state,
                                    .vocab = vocab,
                                    .n_drawn_max = 4096 };
    fake->cell = calloc((size_t)n_block * BLOCK_TOKENS, sizeof(struct cell));
    fake->host = calloc((size_t)n_host_block * BLOCK_TOKENS + 1, sizeof(struct cell));
    fake->counts = calloc((size_t)n_state + 1, sizeof(uint64_t));
    fake->drawn = calloc((size_t)fake->n_drawn_max, sizeof(int32_t));
    fake->salt = calloc(FAKE_SEQUENCES, sizeof(uint64_t));
    fake->moved = calloc((size_t)n_block + (size_t)n_host_block + 1, 1);
    return fake;
}

void fake_free(struct fake_executor *fake)
{
    free(fake->cell);
    free(fake->host);
    free(fake->counts);
    free(fake->drawn);
    free(fake->moved);
    free(fake->salt);
    free(fake);
}

void fake_alphabet(struct fake_executor *fake, const int32_t *ids, int n)
{
    fake->alphabet = ids;
    fake->n_alphabet = n;
}

void fake_salt(struct fake_executor *fake, uint32_t seq_pool_index, uint64_t salt)
{
    fake->salt[seq_pool_index] = salt;
}

const char *fake_error(const struct fake_executor *fake)
{
    return fake->error[0] ? fake->error : NULL;
}

#define complain(fake, ...)                                                                        \
    do {                                                                                           \
        if (!(fake)->error[0])                                                                     \
            snprintf((fake)->error, sizeof((fake)->error), __VA_ARGS__);                           \
    } while (0)

static uint64_t chain_next(uint64_t before, int32_t token, uint32_t position)
{
    return prng_mix(before * 31 + prng_mix((uint64_t)(uint32_t)token << 32 | (position + 1)));
}

static uint64_t fold_next(uint64_t fold, uint64_t chain)
{
    return (fold ^ chain) * UINT64_C(0x100000001b3) + 7;
}

/* Ids of the prompt count differently from those of the output, as in the real counts. */
static uint64_t count_of(int32_t id, bool prompt)
{
    return prng_mix((uint64_t)(uint32_t)id * 2 + prompt + 99);
}

struct draw {
    float temperature, top_p, min_p;
    int32_t top_k;
    uint64_t seed;
    uint32_t index, position;
    uint64_t counts; /* 0 = no penalties */
    const int32_t *bias_id;
    const float *bias;
    int n_bias, bias_stride;
    const int32_t *ban, *ban2;
    int n_ban, n_ban2;
};

static uint64_t float_bits(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof(bits));
    return bits;
}

static bool banned(const struct draw *draw, int32_t id)
{
    for (int ban_i = 0; ban_i < draw->n_ban; ban_i++)
        if (draw->ban[ban_i] == id)
            return true;
    for (int ban_i = 0; ban_i < draw->n_ban2; ban_i++)
        if (draw->ban2[ban_i] == id)
            return true;
    return false;
}

static int32_t id_at(const struct fake_executor *fake, uint64_t i)
{
    return fake->alphabet ? fake->alphabet[i % (uint64_t)fake->n_alphabet]
                          : (int32_t)(i % (uint64_t)fake->vocab);
}

int32_t fake_other(const struct fake_executor *fake, float logprob, int k, float *ret_logprob)
{
    *ret_logprob = logprob - (float)k;
    return (int32_t)(prng_mix(float_bits(logprob) + (uint64_t)k) % (uint64_t)fake->vocab);
}

static int32_t draw_token(const struct fake_executor *fake, uint64_t fold, const struct draw *draw,
                          float *ret_logprob)
{
    uint64_t hash = prng_mix(fold + draw->seed);
    hash = prng_mix(hash + draw->index * UINT64_C(1000003) + draw->position);
    hash = prng_mix(hash ^ float_bits(draw->temperature) ^ float_bits(draw->top_p) << 20 ^
                    float_bits(draw->min_p) << 32 ^ (uint64_t)(uint32_t)draw->top_k << 40);
    hash = prng_mix(hash + draw->counts);
    for (int bias_i = 0; bias_i < draw->n_bias; bias_i++) {
        const char *id = (const char *)draw->bias_id + (size_t)bias_i * (size_t)draw->bias_stride;
        const char *bias = (const char *)draw->bias + (size_t)bias_i * (size_t)draw->bias_stride;
        int32_t id_value;
        float bias_value;
        memcpy(&id_value, id, sizeof(id_value));
        memcpy(&bias_value, bias, sizeof(bias_value));
        hash = prng_mix(hash + (uint64_t)(uint32_t)id_value * 77 + float_bits(bias_value));
    }
    *ret_logprob = -(float)(hash >> 44);
    hash &= UINT64_MAX >> 1;
    for (int i = 0; i < fake->n_alphabet && banned(draw, id_at(fake, hash)); i++)
        hash++;
    int32_t token = id_at(fake, hash);
    while (banned(draw, token))
        token = (token + 1) % fake->vocab;
    return token;
}

/* What beam search chooses among. Coarse, so that sums are exact and ties happen. */
static float value_of(uint64_t fold, const struct draw *draw, int32_t id)
{
    float value = -(float)(prng_mix(fold + (uint64_t)(uint32_t)id * 0x9e37) >> 54) / 64;
    for (int bias_i = 0; bias_i < draw->n_bias; bias_i++) {
        struct request_bias bias;
        size_t at = (size_t)bias_i * (size_t)draw->bias_stride;
        memcpy(&bias.id, (const char *)draw->bias_id + at, sizeof(bias.id));
        memcpy(&bias.bias, (const char *)draw->bias + at, sizeof(bias.bias));
        value += bias.id == id ? bias.bias : 0;
    }
    return value;
}

/* The n best tokens, best first, the lower id first among equals. */
static int top_of(int vocab, uint64_t fold, const struct draw *draw, int n_max, int32_t *ids,
                  float *values)
{
    int n = 0;
    for (int32_t id = 0; id < vocab; id++) {
        float value = value_of(fold, draw, id);
        if (banned(draw, id) || (n == n_max && value <= values[n - 1]))
            continue;
        int at = n < n_max ? n++ : n - 1;
        for (; at > 0 && values[at - 1] < value; at--) {
            values[at] = values[at - 1];
            ids[at] = ids[at - 1];
        }
        values[at] = value;
        ids[at] = id;
    }
    return n;
}

static float score_of(uint64_t fold, int32_t id)
{
    return -(float)(prng_mix(fold + (uint64_t)(uint32_t)id) >> 44);
}

/* Moves. */

static bool move_good(struct fake_executor *fake, int src, int n_src, int dst, int n_dst, int shift)
{
    if (src < 0 || src >= n_src || dst < 0 || dst >= n_dst) {
        complain(fake, "move %d -> %d out of range", src, dst);
        return false;
    }
    if (fake->moved[dst + shift])
        complain(fake, "block %d is a target twice, or source and target, in one list", dst);
    return true;
}

static void run_copies(struct fake_executor *fake, const struct step *step)
{
    memset(fake->moved, 0, (size_t)fake->n_block);
    for (int copy_i = 0; copy_i < step->n_copy; copy_i++) {
        int src = step->copy[copy_i].src, dst = step->copy[copy_i].dst;
        if (!move_good(fake, src, fake->n_block, dst, fake->n_block, 0))
            continue;
        if (fake->moved[src] == 2)
            complain(fake, "copy from %d, which is a target in the same list", src);
        fake->moved[src] = 1;
        fake->moved[dst] = 2;
        memcpy(&fake->cell[dst * BLOCK_TOKENS], &fake->cell[src * BLOCK_TOKENS],
               BLOCK_TOKENS * sizeof(struct cell));
    }
}

static void run_swaps(struct fake_executor *fake, const struct step_move *move, int n, bool out)
{
    memset(fake->moved, 0, (size_t)(fake->n_block + fake->n_host));
    int n_src = out ? fake->n_block : fake->n_host, n_dst = out ? fake->n_host : fake->n_block;
    for (int move_i = 0; move_i < n; move_i++) {
        int src = move[move_i].src, dst = move[move_i].dst;
        if (!move_good(fake, src, n_src, dst, n_dst, 0))
            continue;
        fake->moved[dst] = 2;
        struct cell *from = (out ? fake->cell : fake->host) + src * BLOCK_TOKENS;
        struct cell *to = (out ? fake->host : fake->cell) + dst * BLOCK_TOKENS;
        memcpy(to, from, BLOCK_TOKENS * sizeof(struct cell));
    }
}

/* Rows. */

static struct cell *cell_at(struct fake_executor *fake, const struct step *step, int seq_i,
                            uint32_t position)
{
    int32_t at = step->block_start[seq_i] + (int32_t)(position / BLOCK_TOKENS);
    if (at >= step->block_start[seq_i + 1] || step->blocks[at] < 0 ||
        step->blocks[at] >= fake->n_block) {
        complain(fake, "position %u of sequence %d is outside of its blocks", position, seq_i);
        return &fake->cell[0];
    }
    return &fake->cell[step->blocks[at] * BLOCK_TOKENS + (int32_t)(position % BLOCK_TOKENS)];
}

/* Write a row's KV. */
static void run_row(struct fake_executor *fake, const struct step *step, int row)
{
    int seq_i = step->row_seq[row];
    uint32_t position = (uint32_t)step->position[row];
    int32_t token = step->token[row];
    if (token < 0) {
        if (step->number != fake->last_step + 1 || -1 - token >= fake->n_drawn)
            complain(fake, "row %d names a draw that the step before does not have", row);
        else
            token = fake->drawn[-1 - token];
    }
    if (fake->alphabet && token >= fake->vocab)
        complain(fake, "row %d has token %d, which is none", row, token);
    struct cell *cell = cell_at(fake, step, seq_i, position);
    if (cell - fake->cell != step->slot[row])
        complain(fake, "slot %d of row %d is not its position's", step->slot[row], row);
    if (cell->step == step->number)
        complain(fake, "slot %d is written twice in one step", step->slot[row]);
    uint64_t before = position ? cell_at(fake, step, seq_i, position - 1)->chain
                               : fake->salt[step->seq_owner[seq_i].seq];
    *cell = (struct cell){ chain_next(before, token, position), step->number, seq_i };
}

/* Read a row's prefix. */
static uint64_t row_fold(struct fake_executor *fake, const struct step *step, int row)
{
    int seq_i = step->row_seq[row];
    uint64_t fold = 0;
    for (uint32_t position = 0; position <= (uint32_t)step->position[row]; position++) {
        const struct cell *cell = cell_at(fake, step, seq_i, position);
        if (cell->step == step->number && cell->writer != seq_i)
            complain(fake, "sequence %d reads what another one writes in the same step", seq_i);
        fold = fold_next(fold, cell->chain);
    }
    return fold;
}

static void fill_tops(const struct fake_executor *fake, int n_top, struct step_token *result)
{
    result->n_top = n_top;
    for (int k = 0; k < n_top; k++)
        result->top_id[k] = fake_other(fake, result->logprob, k, &result->top_logprob[k]);
}

static void run_sample(struct fake_executor *fake, const struct step *step, int sample_i)
{
    const struct step_sample *sample = &step->sample[sample_i];
    struct step_token *result = &step->result[sample_i];
    memset(result, 0, sizeof(*result));
    uint64_t fold = row_fold(fake, step, step->sample_row[sample_i]);
    if (sample->flags & STEP_SAMPLE_SCORE) {
        result->token = -1;
        result->logprob = score_of(fold, sample->score_id);
        fill_tops(fake, sample->n_top, result);
        return;
    }
    struct draw draw = {
        .temperature = sample->temperature,
        .top_p = sample->top_p,
        .min_p = sample->min_p,
        .top_k = sample->top_k,
        .seed = sample->seed,
        .index = sample->index,
        .position = sample->position,
        .bias_id = step->bias_id + sample->bias_start,
        .bias = step->bias + sample->bias_start,
        .n_bias = sample->n_bias,
        .bias_stride = sizeof(float),
        .ban = step->ban_id + sample->ban_start,
        .n_ban = sample->n_ban,
    };
    if (sample->state_slot >= fake->n_state)
        complain(fake, "state slot %d out of range", sample->state_slot);
    else if (sample->state_slot >= 0)
        draw.counts = fake->counts[sample->state_slot];
    result->token = draw_token(fake, fold, &draw, &result->logprob);
    fill_tops(fake, sample->n_top, result);
    if (sample->flags & STEP_SAMPLE_SHAPED)
        result->n_top =
            top_of(fake->vocab, fold, &draw, sample->n_top, result->top_id, result->top_logprob);
    if (sample->state_slot >= 0 && sample->state_slot < fake->n_state)
        fake->counts[sample->state_slot] += count_of(result->token, false);
}

static void run_state_loads(struct fake_executor *fake, const struct step *step)
{
    for (int load_i = 0; load_i < step->n_state_load; load_i++) {
        const struct step_state_load *load = &step->state_load[load_i];
        uint64_t counts = 1;
        for (int id_i = 0; id_i < load->n_prompt; id_i++)
            counts += count_of(load->prompt[id_i], true);
        for (int id_i = 0; id_i < load->n_output; id_i++)
            counts += count_of(load->output[id_i], false);
        if (load->slot >= 0 && load->slot < fake->n_state)
            fake->counts[load->slot] = counts;
        else
            complain(fake, "state load of slot %d", load->slot);
    }
}

static void check_lists(struct fake_executor *fake, const struct step *step)
{
    for (int i = 0; i < step->n_bias; i++)
        if (step->bias_id[i] < 0 || step->bias_id[i] >= fake->vocab)
            complain(fake, "bias of token %d, which is none", step->bias_id[i]);
    for (int i = 0; i < step->n_ban; i++)
        if (step->ban_id[i] < 0 || step->ban_id[i] >= fake->vocab)
            complain(fake, "ban of token %d, which is none", step->ban_id[i]);
}

static void check_shape(struct fake_executor *fake, const struct step *step)
{
    const struct step_limits *limits = &step->limits;
    if (step->n_row > limits->rows_max || step->n_seq > limits->seqs_max ||
        step->n_sample > limits->samples_max || step->n_bias > limits->lists_max ||
        step->n_ban > limits->lists_max || step->n_copy > limits->moves_max ||
        step->n_swap_in > limits->moves_max || step->n_swap_out > limits->moves_max ||
        step->n_state_load > limits->seqs_max ||
        step->block_start[step->n_seq] > limits->blocks_max)
        complain(fake, "step %llu exceeds a limit", (unsigned long long)step->number);
    if (step->n_row < 1 || step->row_start[step->n_seq] != step->n_row)
        complain(fake, "rows do not add up");
    for (int seq_i = 0; seq_i < step->n_seq; seq_i++) {
        int n = step->row_start[seq_i + 1] - step->row_start[seq_i];
        if (n < 1 || (seq_i < step->n_decode && n != 1))
            complain(fake, "sequence %d of %d has %d rows", seq_i, step->n_decode, n);
        for (int row_i = 0; row_i < n; row_i++) {
            int row = step->row_start[seq_i] + row_i;
            if (step->row_seq[row] != seq_i ||
                step->position[row] != step->kv_tokens[seq_i] - n + row_i)
                complain(fake, "row %d is not where its sequence says", row);
        }
    }
    for (int sample_i = 0; sample_i < step->n_sample; sample_i++)
        if (step->sample_row[sample_i] < 0 || step->sample_row[sample_i] >= step->n_row)
            complain(fake, "sample %d of row %d", sample_i, step->sample_row[sample_i]);
}

void fake_run(struct fake_executor *fake, struct step *step)
{
    check_shape(fake, step);
    check_lists(fake, step);
    if (fake->error[0])
        return;
    run_swaps(fake, step->swap_out, step->n_swap_out, true);
    run_copies(fake, step);
    run_swaps(fake, step->swap_in, step->n_swap_in, false);
    run_state_loads(fake, step);
    for (int row = 0; row < step->n_row; row++)
        run_row(fake, step, row);
    for (int sample_i = 0; sample_i < step->n_sample; sample_i++)
        run_sample(fake, step, sample_i);
    fake->n_drawn = step->n_sample < fake->n_drawn_max ? step->n_sample : fake->n_drawn_max;
    for (int sample_i = 0; sample_i < fake->n_drawn; sample_i++)
        fake->drawn[sample_i] = step->result[sample_i].token;
    fake->last_step = step->number;
}

void fake_fail(struct fake_executor *fake, const struct step *step)
{
    for (int at = 0; at < fake->n_block * BLOCK_TOKENS; at++)
        fake->cell[at].chain = prng_mix(fake->cell[at].chain + 1);
    for (int at = 0; at < fake->n_host * BLOCK_TOKENS; at++)
        fake->host[at].chain = prng_mix(fake->host[at].chain + 1);
    fake->n_drawn = step->n_sample < fake->n_drawn_max ? step->n_sample : fake->n_drawn_max;
    for (int sample_i = 0; sample_i < fake->n_drawn; sample_i++)
        fake->drawn[sample_i] = 3;
    fake->last_step = step->number;
}

/* The truth. */

static uint64_t true_fold_of(const struct fake_executor *fake, const struct sequence *seq,
                             const int32_t *output, uint32_t n_token)
{
    const struct request *request = seq->request;
    uint64_t chain = fake->salt[seq->pool_index], fold = 0;
    for (uint32_t position = 0; position < n_token; position++) {
        int32_t token = position < request->n_prompt ? request->prompt[position]
                                                     : output[position - request->n_prompt];
        chain = chain_next(chain, token, position);
        fold = fold_next(fold, chain);
    }
    return fold;
}

static uint64_t true_fold(const struct fake_executor *fake, const struct sequence *seq,
                          uint32_t n_token)
{
    return true_fold_of(fake, seq, seq->output, n_token);
}

int fake_top(const struct fake_executor *fake, const struct request *request, const int32_t *output,
             uint32_t n_output, const int32_t *eos, int n_eos, int n, int32_t *ret_ids,
             float *ret_values)
{
    struct draw draw = { .n_bias = (int)request->n_bias,
                         .bias_stride = sizeof(struct request_bias) };
    if (request->n_bias) {
        draw.bias_id = &request->bias->id;
        draw.bias = &request->bias->bias;
    }
    if (n_output < request->params.min_tokens) {
        draw.ban = eos;
        draw.n_ban = n_eos;
        draw.ban2 = request->stop_ids;
        draw.n_ban2 = (int)request->n_stop_id;
    }
    uint64_t fold = true_fold_of(fake, request->seq[0], output, request->n_prompt + n_output);
    return top_of(fake->vocab, fold, &draw, n, ret_ids, ret_values);
}

int32_t fake_token(const struct fake_executor *fake, const struct sequence *seq, uint32_t output_i,
                   const int32_t *eos, int n_eos, float *ret_logprob)
{
    const struct request *request = seq->request;
    const struct request_params *params = &request->params;
    struct draw draw = {
        .temperature = params->temperature,
        .top_p = params->top_p,
        .min_p = params->min_p,
        .top_k = (int32_t)params->top_k,
        .seed = params->seed,
        .index = seq->index,
        .position = request->n_prompt + output_i,
        .n_bias = (int)request->n_bias,
        .bias_stride = sizeof(struct request_bias),
    };
    if (request->n_bias) {
        draw.bias_id = &request->bias->id;
        draw.bias = &request->bias->bias;
    }
    if (output_i < params->min_tokens) {
        draw.ban = eos;
        draw.n_ban = n_eos;
        draw.ban2 = request->stop_ids;
        draw.n_ban2 = (int)request->n_stop_id;
    }
    if (params->presence != 0 || params->frequency != 0 || params->repetition != 1) {
        draw.counts = 1;
        for (uint32_t id_i = 0; id_i < request->n_prompt; id_i++)
            draw.counts += count_of(request->prompt[id_i], true);
        for (uint32_t id_i = 0; id_i < output_i; id_i++)
            draw.counts += count_of(seq->output[id_i], false);
    }
    return draw_token(fake, true_fold(fake, seq, request->n_prompt + output_i), &draw, ret_logprob);
}

float fake_score(const struct fake_executor *fake, const struct sequence *seq, uint32_t position)
{
    return score_of(true_fold(fake, seq, position), seq->request->prompt[position]);
}
