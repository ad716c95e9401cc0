/* Qwen3: every head of q and k is normed before its rotation; no biases; halves are paired. */
#include "daemon/model/decoder.h"

static int qwen3_parse(struct model *m, struct format_error *err)
{
    static const struct decoder_hf_defaults defaults = { .theta = 10000,
                                                         .context = 32768,
                                                         .head_dim = 128,
                                                         .n_kv_head = 32,
                                                         .reads_attention_bias = true };
    int rc = m->gguf ? decoder_parse_gguf(m, "qwen3", err) : decoder_parse_hf(m, &defaults, err);
    if (rc < 0)
        return rc;
    struct decoder *d = m->arch_state;
    d->qk_norm = true;
    return m->gguf ? decoder_gguf_window(m, "qwen3", WINDOW_LATE, err)
                   : decoder_hf_window(m, WINDOW_LATE, err);
}

static const char *const gguf_names[] = { "qwen3", NULL };
static const char *const hf_names[] = { "Qwen3ForCausalLM", NULL };

const struct model_arch arch_qwen3 = {
    .name = "qwen3",
    .gguf_names = gguf_names,
    .hf_names = hf_names,
    .parse = qwen3_parse,
    .bind = decoder_bind,
    .prepare = decoder_prepare,
    .forward = decoder_forward,
    .close = decoder_close,
};
