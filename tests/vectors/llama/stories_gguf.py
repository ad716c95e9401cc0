#!/usr/bin/env python3
"""stories_gguf.py MODEL.bin TOKENIZER.bin OUT.gguf [TEMPLATE]: llama2.c's stories260K as a GGUF file.

That format pairs neighbours in its rotary embedding, as GGUF's llama does, so rows stay in order.
"""
import os
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import gguf_write


def main(model_path, tokenizer_path, out_path, template=None):
    with open(model_path, "rb") as f:
        data = f.read()
    dim, ffn, n_layer, n_head, n_kv, vocab, context = struct.unpack_from("<7i", data)
    at = 28
    vocab = abs(vocab)

    def take(n):
        nonlocal at
        at += 4 * n
        return data[at - 4 * n:at]

    kv_dim = dim // n_head * n_kv
    tensors = [("token_embd.weight", "F32", (vocab, dim), take(vocab * dim))]
    for name, shape in (("attn_norm", (dim,)), ("attn_q", (dim, dim)), ("attn_k", (kv_dim, dim)),
                        ("attn_v", (kv_dim, dim)), ("attn_output", (dim, dim)), ("ffn_norm", (dim,)),
                        ("ffn_gate", (ffn, dim)), ("ffn_down", (dim, ffn)), ("ffn_up", (ffn, dim))):
        n = shape[0] * (shape[1] if len(shape) > 1 else 1)
        for i in range(n_layer):
            tensors.append(("blk.%d.%s.weight" % (i, name), "F32", shape, take(n)))
    tensors.append(("output_norm.weight", "F32", (dim,), take(dim)))

    with open(tokenizer_path, "rb") as f:
        tok = f.read()
    pieces, scores, at_tok = [], [], 4
    while len(pieces) < vocab:
        score, n = struct.unpack_from("<fi", tok, at_tok)
        piece = tok[at_tok + 8:at_tok + 8 + n]
        at_tok += 8 + n
        pieces.append(piece.replace(b" ", "\u2581".encode()))
        scores.append(score)
    pieces[:3] = [b"<unk>", b"<s>", b"</s>"]
    types = [2, 3, 3] + [6 if 3 <= i < 259 else 1 for i in range(3, vocab)]
    gguf_write.write(out_path, {
        "general.architecture": "llama", "general.name": "stories260K",
        "llama.block_count": n_layer, "llama.context_length": context,
        "llama.embedding_length": dim, "llama.feed_forward_length": ffn,
        "llama.attention.head_count": n_head, "llama.attention.head_count_kv": n_kv,
        "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.freq_base": 10000.0,
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": scores, "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0, "tokenizer.ggml.add_bos_token": True,
    } | ({"tokenizer.chat_template": template} if template else {}), tensors)


if __name__ == "__main__":
    main(*sys.argv[1:])
