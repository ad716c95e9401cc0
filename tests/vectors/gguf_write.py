"""Minimal GGUF v3 writer for test models. Python 3 alone, no packages."""
import struct

U32, I32, F32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
DTYPES = {  # name: (number in the file, elements of a block, bytes of a block)
    "F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24), "Q8_0": (8, 32, 34), "Q4_K": (12, 256, 144), "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210), "BF16": (30, 1, 2),
}


def _string(s):
    b = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(b)) + b


def _value(v):
    if isinstance(v, bool):
        return BOOL, struct.pack("<B", v)
    if isinstance(v, int):
        return U32, struct.pack("<I", v)
    if isinstance(v, float):
        return F32, struct.pack("<f", v)
    if isinstance(v, (str, bytes)):
        return STRING, _string(v)
    if v and isinstance(v[0], float):
        return ARRAY, struct.pack("<IQ", F32, len(v)) + struct.pack("<%df" % len(v), *v)
    if v and isinstance(v[0], bool):
        return ARRAY, struct.pack("<IQ", BOOL, len(v)) + bytes(v)
    if v and isinstance(v[0], int):
        return ARRAY, struct.pack("<IQ", I32, len(v)) + struct.pack("<%di" % len(v), *v)
    return ARRAY, struct.pack("<IQ", STRING, len(v)) + b"".join(_string(x) for x in v)


def write(path, meta, tensors):
    """meta: {key: value}; tensors: [(name, dtype name, shape (slowest first), bytes)]."""
    out = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(meta))]
    for key, value in meta.items():
        number, data = _value(value)
        out += [_string(key), struct.pack("<I", number), data]
    offset = 0
    for name, dtype, shape, data in tensors:
        n = 1
        for dim in shape:
            n *= dim
        number, elems, block = DTYPES[dtype]
        assert n // elems * block == len(data), (name, dtype, shape, len(data))
        dims = list(reversed(shape))
        out += [_string(name), struct.pack("<I", len(dims)),
                struct.pack("<%dQ" % len(dims), *dims), struct.pack("<IQ", number, offset)]
        offset += (len(data) + 31) // 32 * 32
    head = b"".join(out)
    with open(path, "wb") as f:
        f.write(head + bytes(-len(head) % 32))
        for _, _, _, data in tensors:
            f.write(data + bytes(-len(data) % 32))
