/* SmolLM3: a Llama whose every fourth layer (or those that its config names) has no rotation. */
#include "daemon/model/decoder.h"

static int smollm3_parse(struct model *m, struct format_error *err)
{
    static const struct decoder_hf_defaults defaults = { .theta = 2000000,
                                                         .context = 32768,
                                                         .n_kv_head = 4,
                                                         .tied = true,
                                                         .reads_attention_bias = true };
    int rc = m->gguf ? decoder_parse_gguf(m, "smollm3", err) : decoder_parse_hf(m, &defaults, err);
    if (rc < 0)
        return rc;
    struct decoder *d = m->arch_state;
    d->rope_interleaved = m->gguf != NULL; /* the exporter permutes q and k as for llama */
    if (!m->gguf) {
        rc = decoder_hf_no_rope(m, err);
        return rc < 0 ? rc : decoder_hf_window(m, WINDOW_NO_ROPE, err);
    }
    d->no_rope_interval = 4;
    return decoder_gguf_window(m, "smollm3", WINDOW_NO_ROPE, err);
}

static const char *const gguf_names[] = { "smollm3", NULL };
static const char *const hf_names[] = { "SmolLM3ForCausalLM", NULL };

const struct model_arch arch_smollm3 = {
    .name = "smollm3",
    .gguf_names = gguf_names,
    .hf_names = hf_names,
    .parse = smollm3_parse,
    .bind = decoder_bind,
    .prepare = decoder_prepare,
    .forward = decoder_forward,
    .close = decoder_close,
};
