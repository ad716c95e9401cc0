#!/usr/bin/env python3
"""beam.py OUT: a tiny checkpoint with a tokenizer, as a folder. Python 3 alone.
beam.py: write beam/golden.json, what transformers' generate(num_beams=...) finds for it, float32.

The second needs torch, transformers, numpy and gguf. A case is taken only if float64 finds the same,
so that no near tie decides.
"""
import json
import os
import random
import sys

import tiny

HERE = os.path.dirname(os.path.abspath(__file__))
MODEL = "llama_hf"
EOS = [2, 5]  # of tiny.py's generation_config.json
TOKENS = tiny.CASES[MODEL]["vocab"]


def cases():
    """Widths, penalties, stops: every pair of neighbours once, the rest at random."""
    rng = random.Random(5)
    for width in (1, 2, 3, 4, 5, 8, 10):
        for early in ("false", "true", "never"):
            for penalty in (0.0, 1.0, rng.choice((-1.0, 0.5, 2.0))):
                yield dict(width=width, early_stopping=early, length_penalty=penalty,
                           n=rng.randint(1, width), max_tokens=rng.choice((1, 2, 9, 24)),
                           min_tokens=rng.choice((0, 0, 5)), stop_ids=rng.choice(([], [11, 90])),
                           bias=rng.choice(({}, {}, {"5": 1.5, "30": -2.0})),
                           prompt=[rng.randrange(TOKENS) for _ in range(rng.randint(1, 40))])


def byte_level():
    """GPT-2's printable stand-ins for the bytes, in their order."""
    keep = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    other = [b for b in range(256) if b not in keep]
    return [chr(b) for b in keep] + [chr(256 + i) for i in range(len(other))]


def make(out):
    tiny.write_hf(MODEL, out)
    vocab = {c: i for i, c in enumerate(byte_level()[:TOKENS])}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    with open(os.path.join(out, "tokenizer.json"), "w") as f:
        json.dump({"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": level,
                   "decoder": level, "model": {"type": "BPE", "vocab": vocab, "merges": []}}, f)


def search(model, case):
    import torch
    eos = EOS + case["stop_ids"]
    early = {"true": True, "false": False, "never": "never"}[case["early_stopping"]]
    more = {}
    if case["bias"]:
        more["sequence_bias"] = [[[int(i)], b] for i, b in case["bias"].items()]
    if case["min_tokens"]:
        more["min_new_tokens"] = case["min_tokens"]
    ids = torch.tensor([case["prompt"]])
    got = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False,
                         num_beams=case["width"], num_return_sequences=case["n"],
                         length_penalty=case["length_penalty"], early_stopping=early,
                         max_new_tokens=case["max_tokens"], eos_token_id=eos, pad_token_id=0,
                         return_dict_in_generate=True, output_scores=True, **more)
    out = []
    for i, row in enumerate(got.sequences):
        new = row[len(case["prompt"]):].tolist()
        end = [k for k, t in enumerate(new) if t in eos]
        new = new[:end[0] + 1] if end else new
        out.append({"ids": new, "score": round(float(got.sequences_scores[i]), 5)})
    return out


def main():
    import torch
    import transformers
    import golden
    config = tiny.hf_config(tiny.CASES[MODEL])
    config["rope_parameters"] = tiny.rope_parameters(tiny.CASES[MODEL])
    config.pop("rope_scaling", None)
    model = golden.model_of(config, golden.state(MODEL))
    kept, n_dropped = [], 0
    for case in cases():
        if case["width"] == 1:
            continue  # generate() has no beam search of one beam
        want = search(model.float(), case)
        exact = search(model.double(), case)
        if [w["ids"] for w in want] != [w["ids"] for w in exact]:
            n_dropped += 1
            continue
        kept.append(dict(case, want=exact))
    data = {"made_with": "transformers %s, torch %s" % (transformers.__version__, torch.__version__),
            "cases": kept}
    os.makedirs(os.path.join(HERE, "beam"), exist_ok=True)
    with open(os.path.join(HERE, "beam", "golden.json"), "w") as f:
        f.write(json.dumps(data, separators=(",", ":")).replace('},{"width"', '},\n{"width"') + "\n")
    print("%d cases, %d dropped" % (len(kept), n_dropped))


if __name__ == "__main__":
    make(sys.argv[1]) if len(sys.argv) > 1 else main()
