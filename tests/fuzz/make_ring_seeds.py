#!/usr/bin/env python3
"""Seeds of fuzz_session and fuzz_handshake: make_ring_seeds.py session|handshake FOLDER"""
import os
import random
import struct
import sys


def entry(op=1, flags=0, tag=7, input_off=0, input_bytes=8, kind=2, block=1, max_tokens=5):
    return struct.pack("<IBBHQIHHIIIHBBIIQQ", 0, op, flags, 0, tag, 1, 0, 1, input_off, input_bytes,
                       0, block, kind, 128, max_tokens, 0, 0, 0)


def block(set_bits=0, temperature=1.0, n=1, stop=(0, 0), ids=(0, 0), bias=(0, 0)):
    return struct.pack("<IIQfffIfffIHBBIQQQIIIIIIIIII4BI", 128, set_bits, 1, temperature, 1.0, 0.0,
                       0, 0.0, 0.0, 1.0, 0, n, 0, 0, 0, 0, 0, 0, *stop, *ids, *bias, 0, 0, 0, 0,
                       0, 0, 0, 0, 0).ljust(256, b"\0")


def session(rng):
    arena = struct.pack("<4I", 1, 2, 3, 4) + struct.pack("<I", 3) + b"END\0" + \
        struct.pack("<If", 5, -1.5) + b"hello, world"
    for k in range(24):
        entries = [entry(op=rng.choice([0, 1, 1, 1, 2, 3, 4, 5]), kind=rng.choice([0, 1, 2, 2, 3]),
                         input_off=rng.choice([0, 8, 32]), input_bytes=rng.choice([4, 8, 16]),
                         block=rng.randrange(2)) for _ in range(rng.randrange(1, 9))]
        blocks = [block(), block(1 << 1, 0.0), block((1 << 9), 1.0, 4),
                  block((1 << 16) | (1 << 17) | (1 << 18), 1.0, 1, (16, 8), (0, 8), (24, 8))]
        stream = b"" if k % 3 == 0 else bytes(rng.randrange(256) for _ in range(rng.randrange(900)))
        yield bytes([len(entries)]) + b"".join(b"\0" + e for e in entries) + \
            b"".join(b"\0" + b for b in blocks) + struct.pack("<H", len(arena)) + arena + \
            bytes(17) + bytes(rng.choice([0, 3, 200, 255]) for _ in range(4)) + stream


def handshake(_):
    hello = struct.pack("<IHHIIQQIIQQQ", 0x49484C52, 1, 0, 64, 0, 0, 0, 64, 0, 1 << 20, 1 << 17, 0)
    welcome = struct.pack("<IHHIiQQQQ8IQQQQIIQ", 0x45574C52, 1, 0, 128, 0, 0, 1, 2, 3, 64, 256,
                          0x1000, 0x2000, 0x1000, 0x5000, 0x9000, 1 << 20, 1 << 20, 1 << 17,
                          0x2000 + (1 << 20), 0x9000 + (1 << 17), 1, 1, 0)
    attach = struct.pack("<IIQ", 0x54414C52, 16, 1)
    for which, message in ((0, hello), (1, attach), (2, b"x"), (3, welcome), (4, welcome)):
        for n_fd in (0, 1, 5):
            yield bytes([which, n_fd]) + message


kind, folder = sys.argv[1:]
os.makedirs(folder, exist_ok=True)
for i, seed in enumerate({"session": session, "handshake": handshake}[kind](random.Random(1))):
    with open(os.path.join(folder, f"{kind}-{i}"), "wb") as file:
        file.write(seed)
