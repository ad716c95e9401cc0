/*
 * Mistral 7B as a checkpoint: a Llama whose layers all see a sliding window (version 0.1), or none.
 * GGUF files of it say that they are llama.
 */
#include "daemon/model/decoder.h"

static int mistral_parse(struct model *m, struct format_error *err)
{
    static const struct decoder_hf_defaults defaults = { .theta = 10000,
                                                         .context = 131072,
                                                         .n_kv_head = 8 };
    int rc = decoder_parse_hf(m, &defaults, err);
    return rc < 0 ? rc : decoder_hf_window(m, WINDOW_ALWAYS, err);
}

static const char *const hf_names[] = { "MistralForCausalLM", NULL };

const struct model_arch arch_mistral = {
    .name = "mistral",
    .hf_names = hf_names,
    .parse = mistral_parse,
    .bind = decoder_bind,
    .prepare = decoder_prepare,
    .forward = decoder_forward,
    .close = decoder_close,
};
