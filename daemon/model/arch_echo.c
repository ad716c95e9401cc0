/*
 * No weights: the answer is the prompt, id by id, then EOS. For tests and for measuring everything
 * that is not the model. It keeps the id of every position in the KV block that the step names and
 * reads the answer back through the block table, so a wrong slot, block, copy or swap shows as
 * wrong text. Ids are bytes; 256 is BOS, 257 EOS. A leading BOS is not answered.
 */
#include <errno.h>
#include <string.h>

#include "daemon/model/model.h"

enum {
    ECHO_BOS = 256,
    ECHO_EOS = 257,
    ECHO_VOCAB = 258,
    ECHO_CONTEXT = 1 << 16,
};

static const float echo_logit = 100; /* of the answer; the others have 0 */

static int echo_parse(struct model *m, struct format_error *err)
{
    if (strcmp(m->backend->name, "cpu") != 0)
        return format_fail(err, -ENOTSUP, "echo: this model runs on the CPU, not on device %s",
                           m->backend->name);
    m->shape = (struct model_shape){
        .n_layer = 1,
        .dim = 64,
        .ffn_dim = 64,
        .n_head = 1,
        .n_kv_head = 1,
        .head_dim = 64,
        .vocab = ECHO_VOCAB,
        .context = ECHO_CONTEXT,
        .weight_dtype = DTYPE_F32,
        .kv_block_bytes = KV_BLOCK_TOKENS * (int64_t)sizeof(int32_t),
    };
    return 0;
}

static void echo_meta(struct model *m)
{
    m->info.bos_id = ECHO_BOS;
    m->info.eos_ids[0] = ECHO_EOS;
    m->info.n_eos_id = 1;
    m->info.sampling = (struct model_sampling){ .set = MODEL_SETS_TEMPERATURE };
}

static int echo_prepare(struct model *m, const struct op_limits *limits, struct format_error *err)
{
    (void)m, (void)limits, (void)err;
    return 0;
}

/* The id at a position of sequence s, as its KV block has it. */
static int32_t echo_read(const struct forward_args *args, int s, int32_t position)
{
    const struct seq_batch *b = args->batch;
    const int32_t *ids = args->kv_pool;
    int32_t block = b->blocks[b->block_start[s] + position / KV_BLOCK_TOKENS];
    return ids[(int64_t)block * KV_BLOCK_TOKENS + position % KV_BLOCK_TOKENS];
}

/* What follows position p of sequence s; -1 inside the prompt, where echo has no opinion. */
static int32_t echo_answer(const struct forward_args *args, int s, int32_t p)
{
    int32_t n_prompt = args->prompt_tokens[s], i = p + 1 - n_prompt;
    if (i < 0)
        return -1;
    if (n_prompt > 0 && echo_read(args, s, 0) == ECHO_BOS)
        i++;
    return i < n_prompt ? echo_read(args, s, i) : ECHO_EOS;
}

static int echo_forward(struct model *m, struct stream *st, const struct forward_args *args)
{
    const struct seq_batch *b = args->batch;
    int32_t *ids = args->kv_pool;
    (void)m, (void)st;
    for (int i = 0; i < b->n_row; i++) {
        int32_t id = args->token[i];
        if (args->slot[i] >= 0)
            ids[args->slot[i]] = id >= 0 ? id : args->prev_sampled[-1 - id];
    }
    for (int i = 0; i < args->n_sample; i++) {
        int32_t row = args->sample_row[i];
        int32_t id = echo_answer(args, b->row_seq[row], args->position[row]);
        float *logits = args->logits + (int64_t)i * ECHO_VOCAB;
        memset(logits, 0, ECHO_VOCAB * sizeof(*logits));
        if (id >= 0 && id < ECHO_VOCAB)
            logits[id] = echo_logit;
    }
    return 0;
}

const struct model_arch arch_echo = {
    .name = "echo",
    .parse = echo_parse,
    .meta = echo_meta,
    .prepare = echo_prepare,
    .forward = echo_forward,
};
