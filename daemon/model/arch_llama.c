/*
 * Llama 1 to 3, SmolLM2 and what else calls itself llama, in GGUF Mistral 7B too. GGUF files keep q
 * and k rows permuted, so that rotation pairs are neighbours there; checkpoints pair the halves of
 * a head.
 */
#include "daemon/model/decoder.h"
#include "daemon/model/weights.h"

static int llama_parse(struct model *m, struct format_error *err)
{
    static const struct decoder_hf_defaults defaults = { .theta = 10000,
                                                         .context = 2048,
                                                         .reads_attention_bias = true };
    if (!m->gguf) {
        int rc = decoder_parse_hf(m, &defaults, err);
        return rc < 0 ? rc : decoder_hf_window(m, WINDOW_NEVER, err);
    }
    int rc = decoder_parse_gguf(m, "llama", err);
    if (rc < 0)
        return rc;
    struct decoder *d = m->arch_state;
    d->rope_interleaved = true;
    return decoder_gguf_window(m, "llama", WINDOW_ALWAYS, err); /* a Mistral's */
}

/* A few exporters of this family keep biases; the tensors tell. */
static int llama_bind(struct model *m, struct weights *w)
{
    struct decoder *d = m->arch_state;
    if (m->gguf) {
        d->qkv_bias = weights_has(w, "blk.0.attn_q.bias");
        d->o_bias = weights_has(w, "blk.0.attn_output.bias");
    }
    return decoder_bind(m, w);
}

static const char *const gguf_names[] = { "llama", NULL };
static const char *const hf_names[] = { "LlamaForCausalLM", "LLaMAForCausalLM", NULL };

const struct model_arch arch_llama = {
    .name = "llama",
    .gguf_names = gguf_names,
    .hf_names = hf_names,
    .parse = llama_parse,
    .bind = llama_bind,
    .prepare = decoder_prepare,
    .forward = decoder_forward,
    .close = decoder_close,
};
