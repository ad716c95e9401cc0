/* Qwen2 and Qwen2.5: biases on q, k and v; both formats pair the halves of a head. */
#include "daemon/model/decoder.h"

static int qwen2_parse(struct model *m, struct format_error *err)
{
    static const struct decoder_hf_defaults defaults = { .theta = 10000,
                                                         .context = 32768,
                                                         .n_kv_head = 32 };
    int rc = m->gguf ? decoder_parse_gguf(m, "qwen2", err) : decoder_parse_hf(m, &defaults, err);
    if (rc < 0)
        return rc;
    struct decoder *d = m->arch_state;
    d->qkv_bias = true;
    return m->gguf ? decoder_gguf_window(m, "qwen2", WINDOW_LATE, err)
                   : decoder_hf_window(m, WINDOW_LATE, err);
}

static const char *const gguf_names[] = { "qwen2", NULL };
static const char *const hf_names[] = { "Qwen2ForCausalLM", NULL };

const struct model_arch arch_qwen2 = {
    .name = "qwen2",
    .gguf_names = gguf_names,
    .hf_names = hf_names,
    .parse = qwen2_parse,
    .bind = decoder_bind,
    .prepare = decoder_prepare,
    .forward = decoder_forward,
    .close = decoder_close,
};
