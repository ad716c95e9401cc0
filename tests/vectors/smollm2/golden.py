#!/usr/bin/env python3
"""golden.py MODEL.gguf: golden.json of SmolLM2-135M-Instruct, from transformers in float32.

The file's tensors are dequantised by the gguf package; q and k rows go back to transformers' order.
Scored texts get the 20 best log-probabilities at every position; continuations are greedy, with the
distance of the two best logits at each place.
"""
import json
import os
import sys

import gguf
import numpy
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

TEXTS = [
    "Gravity is the force that pulls every object towards every other; the heavier they are and the "
    "closer they lie, the harder it pulls. An apple falls",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n"
    "\nprint([fibonacci(i) for i in range(10)])\n# [0, 1, 1, 2, 3, 5, 8",
    "<|im_start|>user\nName three rivers of Europe.<|im_end|>\n<|im_start|>assistant\nThe Danube, the "
    "Rhine and the Loire.<|im_end|>\n",
]
PROMPTS = [
    "The capital of France is", "Once upon a time", "Water boils at", "The three primary colors are",
    "In 1969, the first", "def add(a, b):\n    return", "My favourite food is", "The sun rises in the",
    "To make a cup of tea, you first", "import numpy as", "The quick brown fox", "1, 2, 3, 4, 5,",
    "A triangle has three", "Dear Sir or Madam,", "The opposite of hot is", "Photosynthesis is the",
    "<|im_start|>user\nWhat is a ring buffer?<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nSay hello in French.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWrite a haiku about rain.<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n<|im_start|>assistant\n",
]
N_NEW = 24


def load(path):
    reader = gguf.GGUFReader(path)
    field = {name: f.contents() for name, f in reader.fields.items()}
    weights = {t.name: torch.from_numpy(numpy.array(gguf.dequantize(t.data, t.tensor_type), "f4"))
               for t in reader.tensors}
    n_head, n_kv = field["llama.attention.head_count"], field["llama.attention.head_count_kv"]
    dim = field["llama.embedding_length"]
    config = transformers.LlamaConfig(
        hidden_size=dim, intermediate_size=field["llama.feed_forward_length"],
        num_hidden_layers=field["llama.block_count"], num_attention_heads=n_head,
        num_key_value_heads=n_kv, vocab_size=field["llama.vocab_size"],
        max_position_embeddings=field["llama.context_length"], tie_word_embeddings=True,
        rms_norm_eps=field["llama.attention.layer_norm_rms_epsilon"],
        rope_parameters={"rope_type": "default", "rope_theta": field["llama.rope.freq_base"]})
    names = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
             "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
             "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}
    state = {"model.embed_tokens.weight": weights["token_embd.weight"],
             "lm_head.weight": weights["token_embd.weight"],
             "model.norm.weight": weights["output_norm.weight"]}
    for i in range(config.num_hidden_layers):
        for there, here in names.items():
            w = weights["blk.%d.%s.weight" % (i, there)]
            if there in ("attn_q", "attn_k"):
                heads = n_head if there == "attn_q" else n_kv
                w = w.reshape(heads, w.shape[0] // heads // 2, 2, dim).swapaxes(1, 2).reshape(w.shape)
            state["model.layers.%d.%s.weight" % (i, here)] = w
    model = transformers.LlamaForCausalLM(config).float().eval()
    model.load_state_dict(state)

    tokens = field["tokenizer.ggml.tokens"]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)},
                                     [tuple(m.split(" ")) for m in field["tokenizer.ggml.merges"]]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.add_special_tokens([t for t, kind in zip(tokens, field["tokenizer.ggml.token_type"])
                                  if kind == 3])
    return model, tokenizer


def top(logits, k=20):
    best = torch.log_softmax(logits.double(), -1).topk(k, -1)
    return [[i.tolist(), [round(x, 4) for x in v.tolist()]] for v, i in zip(best.values, best.indices)]


def greedy(model, ids):
    out, gap, past, step = [], [], None, torch.tensor([ids])
    for _ in range(N_NEW):
        result = model(step, past_key_values=past, use_cache=True)
        past, best = result.past_key_values, result.logits[0, -1].topk(2)
        out.append(best.indices[0].item())
        gap.append(round((best.values[0] - best.values[1]).item(), 3))
        step = torch.tensor([[out[-1]]])
    return out, gap


def main(path):
    model, tokenizer = load(path)
    data = {"made_with": "transformers %s, torch %s, gguf, tokenizers" % (transformers.__version__,
                                                                          torch.__version__)}
    with torch.no_grad():
        for i, text in enumerate(TEXTS):
            ids = tokenizer.encode(text).ids
            data["smollm2_%d" % i] = {"ids": ids, "top": top(model(torch.tensor([ids])).logits[0])}
        data["greedy"] = []
        for text in PROMPTS:
            ids = tokenizer.encode(text).ids
            out, gap = greedy(model, ids)
            print(repr(text), "->", repr(tokenizer.decode(out, skip_special_tokens=False)))
            data["greedy"].append({"text": text, "ids": ids, "out": out, "gap": gap})
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden.json"), "w") as f:
        f.write(json.dumps(data, separators=(",", ":")).replace('},"', '},\n"').replace('},{', '},\n{') +
                "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
