#!/usr/bin/env python3
"""tiny.py CASE OUT: a tiny random model, the same bytes every time. Python 3 alone, no packages.

A GGUF case becomes a file, a Hugging Face case a folder. The committed golden.json of each family
holds what transformers computes for the same weights (golden.py makes it). The weights themselves
are never committed.
"""
import json
import os
import random
import struct
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import gguf_write

BASE = dict(arch="llama", format="gguf", dtype="F32", n_layer=2, dim=64, n_head=4, n_kv=2, head_dim=16,
            ffn=96, vocab=160, context=256, tied=False, theta=10000.0, eps=1e-5)


def _case(**changes):
    return dict(BASE, **changes)


# like: the case whose weights and prompt these are, in the other format.
CASES = {
    # attention shapes
    "llama_f32_mha": _case(n_kv=4),
    "llama_f32_gqa_tied": _case(tied=True),
    "llama_f32_mqa": _case(n_kv=1, n_layer=3),
    "llama_f32_head6": _case(dim=48, n_head=3, n_kv=1, head_dim=6),
    "llama_f32_head18": _case(dim=60, n_head=3, n_kv=3, head_dim=18),
    "llama_f32_head34": _case(n_head=2, n_kv=2, head_dim=34),
    "llama_f32_head80": _case(n_head=2, n_kv=1, head_dim=80, n_layer=1),
    "llama_f32_head256": _case(n_head=2, n_kv=1, head_dim=256, n_layer=1),
    # rotary scaling
    "llama_f32_rope3": _case(theta=500.0, scaling="llama3", context=128),
    "llama_f32_linear": _case(scaling="linear"),
    "llama_f32_yarn": _case(scaling="yarn"),
    "llama_f32_yarn_beta": _case(scaling="yarn", beta=(6.0, 0.5), theta=100.0),
    # types
    "llama_f16": _case(dtype="F16"),
    "llama_bf16": _case(dtype="BF16"),
    "llama_q8_0": _case(dtype="Q8_0"),
    "llama_q4_0": _case(dtype="Q4_0"),
    "llama_q4_1": _case(dtype="Q4_1"),
    "llama_q5_0": _case(dtype="Q5_0"),
    "llama_q5_1": _case(dtype="Q5_1"),
    "llama_q4_k": _case(dtype="Q4_K", dim=256, ffn=256, head_dim=64, vocab=96, n_layer=1),
    "llama_q5_k": _case(dtype="Q5_K", dim=256, ffn=256, head_dim=64, vocab=96, n_layer=1),
    "llama_q6_k": _case(dtype="Q6_K", dim=256, ffn=256, head_dim=64, vocab=96, n_layer=1, tied=True),
    # what quantisers mix in one file
    "llama_mixed_k": _case(dtype="Q4_K", dim=256, ffn=256, head_dim=64, vocab=96, n_layer=2,
                           types={"v": "Q6_K", "down": "Q6_K", "o": "Q5_K", "head": "Q6_K"}),
    "llama_mixed_32": _case(dtype="Q4_0", types={"k": "Q8_0", "v": "F16", "up": "Q5_1", "embed": "F16",
                                                 "head": "F32", "down": "BF16"}),
    # checkpoint folders, and the other families in both formats
    "llama_hf": _case(format="hf"),
    "llama_hf_bf16": _case(format="hf", dtype="BF16", tied=True, shards=3),
    "llama_hf_f16_rope3": _case(format="hf", dtype="F16", theta=500.0, scaling="llama3", context=128),
    "llama_hf_beyond": _case(format="hf", beyond="~~"),
    "llama_hf_v2": _case(format="hf", dtype="F16", n_kv=4, silent=["rope_theta", "head_dim"]),
    "llama_hf_bias": _case(format="hf", bias=True, o_bias=True),
    "llama_hf_untied": _case(format="hf", dtype="BF16", says_tied=True),
    "llama_hf_copied": _case(format="hf", dtype="BF16", tied=True, head_copy=True),
    "llama_hf_linear": _case(format="hf", scaling="linear"),
    "llama_hf_yarn": _case(format="hf", scaling="yarn"),
    "mistral_hf_window": _case(format="hf", arch="mistral", window=7),
    "mistral_hf_bf16": _case(format="hf", arch="mistral", dtype="BF16", head_dim=24, theta=1e6),
    "qwen2_hf": _case(format="hf", arch="qwen2", bias=True),
    "qwen2_hf_tied_bf16": _case(format="hf", arch="qwen2", bias=True, tied=True, dtype="BF16"),
    "qwen2_hf_late": _case(format="hf", arch="qwen2", bias=True, n_layer=3, window=7, window_from=1),
    "qwen2_gguf": _case(arch="qwen2", bias=True),
    "qwen2_gguf_late": _case(like="qwen2_hf_late", arch="qwen2", bias=True, n_layer=3, window=7,
                             window_from=1),
    "qwen3_hf": _case(format="hf", arch="qwen3", qk_norm=True, head_dim=24),
    "qwen3_hf_tied_bf16": _case(format="hf", arch="qwen3", qk_norm=True, tied=True, dtype="BF16"),
    "qwen3_hf_late": _case(format="hf", arch="qwen3", qk_norm=True, n_layer=3, window=7, window_from=2),
    "qwen3_hf_bias": _case(format="hf", arch="qwen3", qk_norm=True, bias=True, o_bias=True),
    "qwen3_gguf": _case(arch="qwen3", qk_norm=True, head_dim=24),
    "smollm3_hf": _case(format="hf", arch="smollm3", n_layer=4, no_rope_interval=4, tied=True),
    "smollm3_hf_list": _case(format="hf", arch="smollm3", n_layer=3, no_rope=[0, 1, 0], tied=True),
    "smollm3_hf_window": _case(format="hf", arch="smollm3", n_layer=4, no_rope_interval=2, tied=True,
                               window=7, window_from=0),
    "smollm3_gguf": _case(arch="smollm3", n_layer=4, no_rope_interval=4, tied=True),
}
CLASSES = {"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM",
           "qwen3": "Qwen3ForCausalLM", "smollm3": "SmolLM3ForCausalLM"}


def names(case, i):
    """(role, name) of layer i's tensors, in both formats' words."""
    gguf = dict(attn_norm="attn_norm", q="attn_q", k="attn_k", v="attn_v", o="attn_output",
                q_norm="attn_q_norm", k_norm="attn_k_norm", ffn_norm="ffn_norm", gate="ffn_gate",
                up="ffn_up", down="ffn_down")
    hf = dict(attn_norm="input_layernorm", q="self_attn.q_proj", k="self_attn.k_proj",
              v="self_attn.v_proj", o="self_attn.o_proj", q_norm="self_attn.q_norm",
              k_norm="self_attn.k_norm", ffn_norm="post_attention_layernorm", gate="mlp.gate_proj",
              up="mlp.up_proj", down="mlp.down_proj")
    if case["format"] == "gguf":
        return {role: "blk.%d.%s" % (i, name) for role, name in gguf.items()}
    return {role: "model.layers.%d.%s" % (i, name) for role, name in hf.items()}


def _half(x):
    return struct.pack("<e", x)


def _bf16(x):
    bits, = struct.unpack("<I", struct.pack("<f", x))
    return struct.pack("<H", (bits + 0x7fff + (bits >> 16 & 1)) >> 16 & 0xffff)


def _block(rng, dtype, spread):
    """One random valid block whose elements have about that spread around zero."""
    def scale(x):
        return _half(x * rng.uniform(0.7, 1.3))
    if dtype == "Q8_0":
        return scale(spread / 64) + rng.randbytes(32)
    if dtype == "Q4_0":
        return scale(spread / 4.6) + rng.randbytes(16)
    if dtype == "Q5_0":
        return scale(spread / 9.2) + rng.randbytes(20)
    if dtype == "Q4_1":
        return scale(spread / 4.6) + scale(-spread / 4.6 * 7.5) + rng.randbytes(16)
    if dtype == "Q5_1":
        return scale(spread / 9.2) + scale(-spread / 9.2 * 15.5) + rng.randbytes(20)
    if dtype == "Q4_K":
        return scale(spread / 180) + scale(spread / 30) + rng.randbytes(140)
    if dtype == "Q5_K":
        return scale(spread / 360) + scale(spread / 30) + rng.randbytes(172)
    if dtype == "Q6_K":
        return rng.randbytes(208) + scale(spread / 1100)
    raise ValueError(dtype)


def _matrix(rng, dtype, n_row, n_col, spread):
    n = n_row * n_col
    if dtype == "F32":
        return struct.pack("<%df" % n, *[rng.uniform(-1.7, 1.7) * spread for _ in range(n)])
    if dtype == "F16":
        return b"".join(_half(rng.uniform(-1.7, 1.7) * spread) for _ in range(n))
    if dtype == "BF16":
        return b"".join(_bf16(rng.uniform(-1.7, 1.7) * spread) for _ in range(n))
    elems = gguf_write.DTYPES[dtype][1]
    assert n_col % elems == 0
    return b"".join(_block(rng, dtype, spread) for _ in range(n // elems))


def _vector(rng, dtype, n, mean, spread):
    values = [mean + rng.uniform(-1.7, 1.7) * spread for _ in range(n)]
    if dtype == "BF16":
        return b"".join(map(_bf16, values))
    return b"".join(map(_half, values)) if dtype == "F16" else struct.pack("<%df" % n, *values)


def tensors(name):
    """[(tensor name, dtype, shape, bytes)] of a case."""
    case = CASES[name]
    rng = random.Random(case.get("like", name))
    gguf = case["format"] == "gguf"
    dtype, dim, ffn = case["dtype"], case["dim"], case["ffn"]
    vector_dtype = "F32" if gguf else dtype
    q_dim, kv_dim = case["n_head"] * case["head_dim"], case["n_kv"] * case["head_dim"]
    out = []

    types = case.get("types", {})

    def matrix(name, role, n_row, n_col, gain=1.0):
        kind = types.get(role, dtype)
        out.append((name + ".weight", kind, (n_row, n_col),
                    _matrix(rng, kind, n_row, n_col, gain / n_col ** 0.5)))

    def vector(role, n, mean=1.0, spread=0.1, ending=".weight"):
        out.append((role + ending, vector_dtype, (n,), _vector(rng, vector_dtype, n, mean, spread)))

    embed, norm, head = (("token_embd", "output_norm", "output") if gguf else
                         ("model.embed_tokens", "model.norm", "lm_head"))
    matrix(embed, "embed", case["vocab"], dim, 3.0 if case["tied"] else 0.5 * dim ** 0.5)
    for i in range(case["n_layer"]):
        n = names(case, i)
        vector(n["attn_norm"], dim)
        for role, rows in (("q", q_dim), ("k", kv_dim), ("v", kv_dim)):
            matrix(n[role], role, rows, dim, 2.0 if role != "v" else 1.0)
            if case.get("bias"):
                vector(n[role], rows, 0.0, 0.5, ".bias")
        if case.get("qk_norm"):
            vector(n["q_norm"], case["head_dim"], 1.5)
            vector(n["k_norm"], case["head_dim"], 1.5)
        matrix(n["o"], "o", dim, q_dim)
        if case.get("o_bias"):
            vector(n["o"], dim, 0.0, 0.5, ".bias")
        vector(n["ffn_norm"], dim)
        matrix(n["gate"], "gate", ffn, dim, 1.5)
        matrix(n["up"], "up", ffn, dim, 1.5)
        matrix(n["down"], "down", dim, ffn)
    vector(norm, dim)
    if not case["tied"]:
        matrix(head, "head", case["vocab"], dim, 3.0)
    if case.get("head_copy"): # as some exporters write tied weights
        out.append((head + ".weight",) + out[0][1:])
    if gguf and case.get("scaling") == "llama3":
        out.append(("rope_freqs.weight", "F32", (case["head_dim"] // 2,), _rope3_divisors(case)))
    return out


def _rope3_divisors(case):
    """Llama 3's scaling as the exporters write it: one divisor per frequency."""
    import math
    p, divisors = rope_parameters(case), []
    for i in range(case["head_dim"] // 2):
        wavelength = 2 * math.pi * case["theta"] ** (2 * i / case["head_dim"])
        original = p["original_max_position_embeddings"]
        if wavelength < original / p["high_freq_factor"]:
            divisors.append(1.0)
        elif wavelength > original / p["low_freq_factor"]:
            divisors.append(p["factor"])
        else:
            s = ((original / wavelength - p["low_freq_factor"]) /
                 (p["high_freq_factor"] - p["low_freq_factor"]))
            divisors.append(1 / ((1 - s) / p["factor"] + s))
    return struct.pack("<%df" % len(divisors), *divisors)


def rope_parameters(case):
    """transformers' words for a case's rotary scaling."""
    p = {"rope_type": case.get("scaling", "default"), "rope_theta": case["theta"]}
    if p["rope_type"] == "llama3":
        p.update(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                 original_max_position_embeddings=32)
    if p["rope_type"] == "linear":
        p.update(factor=4.0)
    if p["rope_type"] == "yarn":
        p.update(factor=4.0, original_max_position_embeddings=64)
        if case.get("beta"):
            p.update(beta_fast=case["beta"][0], beta_slow=case["beta"][1])
    return p


def hf_config(case):
    config = {
        "architectures": [CLASSES[case["arch"]]], "model_type": case["arch"],
        "hidden_size": case["dim"], "intermediate_size": case["ffn"], "hidden_act": "silu",
        "num_hidden_layers": case["n_layer"], "num_attention_heads": case["n_head"],
        "num_key_value_heads": case["n_kv"], "head_dim": case["head_dim"],
        "vocab_size": case["vocab"], "max_position_embeddings": case["context"],
        "rms_norm_eps": case["eps"], "tie_word_embeddings": case.get("says_tied", case["tied"]),
        "rope_theta": case["theta"],
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        "torch_dtype": {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}.get(case["dtype"]),
    }
    if case.get("scaling"):
        scaling = rope_parameters(case)
        del scaling["rope_theta"]
        config["rope_scaling"] = scaling
    if case["arch"] == "mistral" or case.get("window"):
        config["sliding_window"] = case.get("window")
    if "window_from" in case: # the layers that slide, where a family has a switch
        config.update(use_sliding_window=True, max_window_layers=case["window_from"])
    if case.get("o_bias"):
        config["attention_bias"] = True
    if case.get("no_rope_interval"):
        config["no_rope_layer_interval"] = case["no_rope_interval"]
    if case.get("no_rope"):
        config["no_rope_layers"] = case["no_rope"]
    for key in case.get("silent", []): # what older files leave to the class
        del config[key]
    return config


def write_gguf(name, path):
    case = CASES[name]
    arch = case["arch"]
    meta = {
        "general.architecture": arch, "general.name": name,
        arch + ".block_count": case["n_layer"], arch + ".context_length": case["context"],
        arch + ".embedding_length": case["dim"], arch + ".feed_forward_length": case["ffn"],
        arch + ".attention.head_count": case["n_head"],
        arch + ".attention.head_count_kv": case["n_kv"],
        arch + ".attention.key_length": case["head_dim"],
        arch + ".attention.value_length": case["head_dim"],
        arch + ".rope.dimension_count": case["head_dim"],
        arch + ".rope.freq_base": case["theta"],
        arch + ".attention.layer_norm_rms_epsilon": case["eps"],
    }
    if case.get("scaling") in ("linear", "yarn"):
        p = rope_parameters(case)
        meta[arch + ".rope.scaling.type"] = p["rope_type"]
        meta[arch + ".rope.scaling.factor"] = p["factor"]
        if "original_max_position_embeddings" in p:
            meta[arch + ".rope.scaling.original_context_length"] = p["original_max_position_embeddings"]
        for key in ("beta_fast", "beta_slow"):
            if key in p:
                meta[arch + ".rope.scaling.yarn_" + key] = p[key]
    if case.get("window"):
        meta[arch + ".attention.sliding_window"] = case["window"]
        meta[arch + ".attention.sliding_window_pattern"] = [
            i >= case["window_from"] for i in range(case["n_layer"])]
    gguf_write.write(path, meta, tensors(name))


def write_safetensors(path, entries):
    header, offset = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, data in entries:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, _, _, data in entries:
            f.write(data)


def tokenizer(case):
    """Ids are the bytes from "!" on after three control tokens; one more lies beyond the logits."""
    def added(i, content, special):
        return dict(id=i, content=content, special=special, single_word=False, lstrip=False,
                    rstrip=False, normalized=False)
    extra = [added(i, c, True) for i, c in enumerate(["<pad>", "<s>", "</s>"])]
    if case.get("beyond"):
        extra.append(added(case["vocab"] + 8, case["beyond"], False))
    vocab = {chr(33 + i): 3 + i for i in range(94)}
    vocab["\u0120"] = 97  # space
    return {"version": "1.0", "added_tokens": extra, "normalizer": None,
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
            "post_processor": None, "decoder": {"type": "ByteLevel"},
            "model": {"type": "BPE", "vocab": vocab, "merges": []}}


def write_hf(name, path):
    case, entries = CASES[name], tensors(name)
    os.makedirs(path, exist_ok=True)
    with open(os.path.join(path, "config.json"), "w") as f:
        json.dump(hf_config(case), f, indent=1)
    with open(os.path.join(path, "generation_config.json"), "w") as f:
        end_ids = [2, 5] + ([case["vocab"] + 8] if case.get("beyond") else [])
        json.dump({"bos_token_id": 1, "eos_token_id": end_ids, "temperature": 0.6, "top_p": 0.9,
                   "top_k": 40}, f)
    with open(os.path.join(path, "tokenizer.json"), "w") as f:
        json.dump(tokenizer(case), f)
    n = case.get("shards", 1)
    if n == 1:
        return write_safetensors(os.path.join(path, "model.safetensors"), entries)
    where = {}
    for i in range(n):
        shard = "model-%05d-of-%05d.safetensors" % (i + 1, n)
        part = entries[i::n]
        write_safetensors(os.path.join(path, shard), part)
        where.update({entry[0]: shard for entry in part})
    total = sum(len(entry[3]) for entry in entries)
    with open(os.path.join(path, "model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": total}, "weight_map": where}, f)


def prompt(name, n=40):
    """The ids that golden.json scores: three KV blocks, the last one partly filled."""
    rng = random.Random(CASES[name].get("like", name) + " prompt")
    return [rng.randrange(3, CASES[name]["vocab"]) for _ in range(n)]


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in CASES:
        sys.exit(__doc__)
    (write_gguf if CASES[sys.argv[1]]["format"] == "gguf" else write_hf)(sys.argv[1], sys.argv[2])
