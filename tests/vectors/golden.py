#!/usr/bin/env python3
"""golden.py [--new] [FAMILY ...]: write FAMILY/golden.json from transformers, float32, for tiny.py's cases.

--new keeps what is there (another CPU rounds the last digits otherwise) and adds the cases that are
not. Needs torch, transformers, numpy and gguf (whose dequantisation is the reference for block types).
Made with the versions that each file names.
"""
import copy
import json
import os
import sys

import gguf
import numpy
import torch
import transformers

import tiny

HERE = os.path.dirname(os.path.abspath(__file__))


def to_float(dtype, shape, data):
    if dtype == "F32":
        a = numpy.frombuffer(data, "<f4")
    elif dtype == "F16":
        a = numpy.frombuffer(data, "<f2").astype("f4")
    elif dtype == "BF16":
        a = (numpy.frombuffer(data, "<u2").astype("u4") << 16).view("f4")
    else:
        raw = numpy.frombuffer(data, "u1").reshape(shape[0], -1)
        a = gguf.dequantize(raw, getattr(gguf.GGMLQuantizationType, dtype))
    return torch.from_numpy(numpy.array(a, "f4").reshape(shape))


def unpermute(case, w, n_head):
    """GGUF's rows of q and k for neighbouring pairs -> transformers' halves."""
    half = case["head_dim"] // 2
    return w.reshape(n_head, half, 2, -1).swapaxes(1, 2).reshape(w.shape)


def state(name):
    case = tiny.CASES[name]
    entries = {n: to_float(d, s, b) for n, d, s, b in tiny.tensors(name)}
    if case["format"] == "hf":
        return entries
    out = {"model.embed_tokens.weight": entries["token_embd.weight"],
           "model.norm.weight": entries["output_norm.weight"]}
    if not case["tied"]:
        out["lm_head.weight"] = entries["output.weight"]
    permuted = case["arch"] in ("llama", "smollm3")
    for i in range(case["n_layer"]):
        there = tiny.names(dict(case, format="hf"), i)
        for role, n in tiny.names(case, i).items():
            for ending in (".weight", ".bias"):
                if n + ending not in entries:
                    continue
                w = entries[n + ending]
                if permuted and role in ("q", "k"):
                    w = unpermute(case, w, case["n_head"] if role == "q" else case["n_kv"])
                out[there[role] + ending] = w
    return out


def model_of(config, weights):
    model = getattr(transformers, config["architectures"][0])(
        transformers.AutoConfig.for_model(**{k: v for k, v in config.items() if k != "torch_dtype"},
                                          attn_implementation="eager")).float().eval()
    if config["tie_word_embeddings"]:
        weights = dict(weights, **{"lm_head.weight": weights["model.embed_tokens.weight"]})
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected and not [m for m in missing if "rotary" not in m], (missing, unexpected)
    return model


def top(logits, k=20):
    """[[ids], [log-probabilities]] per position."""
    best = torch.log_softmax(logits.double(), -1).topk(k, -1)
    return [[i.tolist(), [round(x, 5) for x in v.tolist()]] for v, i in zip(best.values, best.indices)]


def kl_of(model, half, ids, reference):
    """How far transformers' own 16 bits are from its f32: KL over the 20 best, mean of all positions."""
    with torch.no_grad():
        logits = copy.deepcopy(model).to(half)(torch.tensor([ids])).logits[0]
    other = torch.log_softmax(logits.double(), -1)
    best = torch.log_softmax(reference.double(), -1).topk(20, -1)
    p = torch.log_softmax(best.values, -1)
    q = torch.log_softmax(other.gather(-1, best.indices), -1)
    return (p.exp() * (p - q)).sum(-1).mean().item()


def golden(name):
    config = tiny.hf_config(tiny.CASES[name])
    if config["model_type"] == "smollm3":
        config.setdefault("use_sliding_window", False)
    config["tie_word_embeddings"] = tiny.CASES[name]["tied"]  # what loading makes of says_tied
    config["rope_parameters"] = tiny.rope_parameters(tiny.CASES[name])
    config.pop("rope_scaling", None)
    model, ids = model_of(config, state(name)), tiny.prompt(name)
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    return {"ids": ids, "top": top(logits),
            "kl_bf16": round(kl_of(model, torch.bfloat16, ids, logits), 6),
            "kl_f16": round(kl_of(model, torch.float16, ids, logits), 9)}


def golden_before(path, made_with):
    """The cases that are there, if the same versions made them."""
    if not os.path.exists(path):
        return {}
    with open(path) as f:
        data = json.load(f)
    assert data.pop("made_with") == made_with, "other versions made %s" % path
    return data


def main(families):
    only_new = "--new" in families
    families = [f for f in families if f != "--new"]
    by_family = {}
    for name, case in tiny.CASES.items():
        family = {"mistral": "llama"}.get(case["arch"], case["arch"])
        by_family.setdefault(family, []).append(name)
    for family in families or by_family:
        path = os.path.join(HERE, family, "golden.json")
        made_with = "transformers %s, torch %s, gguf" % (transformers.__version__, torch.__version__)
        before = golden_before(path, made_with) if only_new else {}
        data = {"made_with": made_with}
        for name in by_family[family]:
            data[name] = before.get(name) or golden(name)
            spread = [row[1][0] for row in data[name]["top"]]
            print("%-22s best log-probability %.2f .. %.2f, KL of bf16 %.2g, of f16 %.2g" %
                  (name, min(spread), max(spread), data[name]["kl_bf16"], data[name]["kl_f16"]))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as f:
            f.write(json.dumps(data, separators=(",", ":")).replace('],"', '],\n"') + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
