#!/usr/bin/env python3
"""Writes dequant_golden.h: random valid blocks of each GGUF type and what the Python package gguf
makes of them. Run: python3 make_dequant_golden.py > dequant_golden.h (needs gguf and numpy)."""
import gguf
import numpy as np

TYPES = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
HALVES = {"Q6_K": [208], "Q4_1": [0, 2], "Q5_1": [0, 2], "Q4_K": [0, 2], "Q5_K": [0, 2]}


def lines(values, per_line):
    text = [", ".join(values[i:i + per_line]) for i in range(0, len(values), per_line)]
    return ",\n    ".join(text)


print("/* Made by make_dequant_golden.py. */")
print("static const struct {\n    enum dtype dtype;\n    int n;\n    uint8_t block[256];\n"
      "    float value[256];\n} goldens[] = {")
rng = np.random.default_rng(20261124)
for name in TYPES:
    kind = gguf.GGMLQuantizationType[name]
    elems, size = gguf.GGML_QUANT_SIZES[kind]
    block = rng.integers(0, 256, size, dtype=np.uint8)
    for at in HALVES.get(name, [0]):
        block[at:at + 2] = np.array([rng.uniform(-0.1, 0.1)], dtype=np.float16).view(np.uint8)
    values = gguf.quants.dequantize(block.reshape(1, size), kind).reshape(-1)
    print(f"    {{ DTYPE_{name},\n      {elems},")
    print("    { " + lines([str(b) for b in block], 20) + " },")
    print("    { " + lines([float(v).hex().replace("0000000p", "p") + "f" for v in values], 3) + " } },")
print("};")
