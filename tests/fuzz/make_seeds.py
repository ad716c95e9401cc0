#!/usr/bin/env python3
"""Seeds of the fuzz targets that read files: make_seeds.py gguf|safetensors|tokenizer|checkpoint|config|chat|lt_file FOLDER

Small sound files, and files with the lies that broke other readers: counts, lengths, shapes, offsets
and alignments that overflow or point outside (the list is in RELIABILITY, model files).
"""
import glob, json, os, struct, sys

HERE = os.path.dirname(os.path.abspath(__file__))
U64 = (1 << 64) - 1


def text(s):
    s = s if isinstance(s, bytes) else s.encode()
    return struct.pack("<Q", len(s)) + s


def key(name, kind, value):
    return text(name) + struct.pack("<I", kind) + value


def array(name, kind, values, n=None):
    return key(name, 9, struct.pack("<IQ", kind, len(values) if n is None else n) + b"".join(values))


def info(name, dims, kind, offset):
    return text(name) + struct.pack("<I%dQIQ" % len(dims), len(dims), *dims, kind, offset)


def gguf(kvs=(), infos=(), data=b"", version=3, n_tensor=None, n_kv=None, align=32):
    out = struct.pack("<IIQQ", 0x46554747, version, len(infos) if n_tensor is None else n_tensor,
                      len(kvs) if n_kv is None else n_kv) + b"".join(kvs) + b"".join(infos)
    return out + b"\0" * (-len(out) % align) + data


def u32(value):
    return struct.pack("<I", value & 0xffffffff)


def vocabulary(model, tokens, types, *more):
    return [key("tokenizer.ggml.model", 8, text(model)), array("tokenizer.ggml.tokens", 8, [text(t) for t in tokens]),
            array("tokenizer.ggml.token_type", 5, [u32(t) for t in types]), *more]


def gguf_seeds():
    every = [key("a%d" % kind, kind, value) for kind, value in enumerate(
        [b"\1", b"\xff", b"\1\2", b"\1\2", u32(7), u32(-7), struct.pack("<f", 1.5), b"\1", text("x")])]
    every += [key("b", 10, struct.pack("<Q", U64)), key("c", 11, struct.pack("<q", -1)),
              key("d", 12, struct.pack("<d", 1e300)), array("e", 8, [text("x"), text("")]), array("f", 5, [u32(3)])]
    yield "types", gguf(every)
    yield "tensors", gguf([key("general.architecture", 8, text("llama"))],
                          [info("q", [64, 2], 3, 0), info("k", [256], 12, 96), info("f", [5], 0, 256)],
                          b"\1" * 276)
    yield "aligned", gguf([key("general.alignment", 4, u32(64))], [info("t", [8], 0, 0)], b"\0" * 64, align=64)
    letters = [chr(c) for c in range(33, 127)] + ["Ġ", "ab", "abc", "<|end|>"]
    types = [1] * 97 + [3]
    merges = array("tokenizer.ggml.merges", 8, [text("a b"), text("ab c")])
    yield "bpe", gguf(vocabulary("gpt2", letters, types, merges, key("tokenizer.ggml.pre", 8, text("qwen2")),
                                 key("tokenizer.ggml.eos_token_id", 4, u32(97)),
                                 key("tokenizer.chat_template", 8, text("{{ messages }}"))))
    pieces = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % i for i in range(256)] + ["▁", "a", "b", "▁a", "ab", "▁▁"]
    types = [2, 3, 3] + [6] * 256 + [1] * 5 + [4]
    scores = array("tokenizer.ggml.scores", 6, [struct.pack("<f", -i) for i in range(len(pieces))])
    yield "spm", gguf(vocabulary("llama", pieces, types, scores))
    yield "byte-token", gguf(vocabulary("llama", ["<0x-1>", "<0x41", "x"], [6, 6, 1],
                                        array("tokenizer.ggml.scores", 6, [u32(0)] * 3)))
    for name, value in (("max", U64), ("half", 1 << 63), ("32", 1 << 32), ("30", 1 << 30), ("60", 1 << 60)):
        yield "n-tensor-" + name, gguf(n_tensor=value)
        yield "n-kv-" + name, gguf(n_kv=value)
        yield "string-" + name, gguf([text("k") + u32(8) + struct.pack("<Q", value) + b"x"])
        yield "array-" + name, gguf([array("k", 12, [b"x" * 8], value)])
        yield "strings-" + name, gguf([array("k", 8, [text("x")], value)])
        yield "dims-" + name, gguf((), [info("t", [value, 2], 0, 0)], b"\0" * 64)
        yield "product-" + name, gguf((), [info("t", [value, value, value, value], 1, 0)], b"\0" * 64)
        yield "offset-" + name, gguf((), [info("t", [8], 0, value)], b"\0" * 64)
    for value in (0, 3, 1 << 31, 0xffffffff):
        yield "alignment-%d" % value, gguf([key("general.alignment", 4, u32(value))], [info("t", [8], 0, 0)], b"\0" * 64)
    yield "alignment-type", gguf([key("general.alignment", 10, struct.pack("<Q", 32))])
    yield "nested", gguf([key("k", 9, u32(9) + struct.pack("<Q", 1) + u32(0) + struct.pack("<Q", 1) + b"x")])
    yield "twice", gguf([key("k", 0, b"x"), key("k", 0, b"x")], [info("t", [8], 0, 0), info("t", [8], 0, 32)], b"\0" * 64)
    yield "zero", gguf((), [info("t", [0, 8], 0, 0)])
    yield "big-endian", struct.pack(">IIQQ", 0x47475546, 3, 0, 0)


def safetensors(header, data=b"", n=None):
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(raw) if n is None else n) + raw + data


def tensor(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_seeds():
    yield "sound", safetensors({"__metadata__": {"format": "pt"}, "a": tensor("F32", [2, 3], 0, 24),
                                "b": tensor("BF16", [], 24, 26), "c": tensor("F4", [4], 26, 28),
                                "d": tensor("I64", [0], 28, 28)}, b"\1" * 28)
    yield "padded", safetensors(b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}      ', b"x")
    yield "empty", safetensors({})
    for name, n in (("max", U64), ("half", 1 << 63), ("hundred", 100000001), ("file", 1000)):
        yield "header-" + name, safetensors({}, n=n)
    for name, value in (("max", (1 << 63) - 1), ("32", 1 << 32), ("31", 1 << 31)):
        yield "shape-" + name, safetensors({"a": tensor("F64", [value, value], 0, 8)}, b"\0" * 8)
        yield "end-" + name, safetensors({"a": tensor("U8", [value], 0, value)}, b"\0" * 8)
    yield "overlap", safetensors({"a": tensor("U8", [4], 0, 4), "b": tensor("U8", [4], 2, 6)}, b"\0" * 6)
    yield "hole", safetensors({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 4, 6)}, b"\0" * 6)
    yield "negative", safetensors({"a": tensor("U8", [-1], -1, 0)}, b"\0")
    yield "twice", safetensors(b'{"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]},'
                               b'"a":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}', b"x")
    yield "deep", safetensors(b'{"a":' + b"[" * 3000)
    yield "float", safetensors(b'{"a":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}}', b"x")


def tokenizer_seeds():
    """A tokenizer.json, NUL, a text. The vectors' ones, with fewer tokens so that mutations hit."""
    sample = "Hello  world, it's 1234 <|end|> é e\u0301 日本\n\n  <tool>x ▁a"
    for path in sorted(glob.glob(os.path.join(HERE, "../vectors/tokenizers/*.tokenizer.json"))):
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        model = data["model"]
        keep = {t: i for t, i in model["vocab"].items() if i < 330 or t.startswith("<0x")}
        parts = [m if isinstance(m, list) else m.split(" ") for m in model["merges"]]
        model["merges"] = [m for m in parts if m[0] in keep and m[1] in keep and "".join(m) in keep]
        model["vocab"] = keep
        raw = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
        yield os.path.basename(path).split(".")[0], raw + b"\0" + sample.encode()
    model = '{"model":{"vocab":{"a":0,"aa":1},"merges":["a a"]},"pre_tokenizer":{"type":"Split","pattern":{"Regex":"%s"}}}'
    for i, pattern in enumerate(["(a+)+$", "(?:a|aa)+[^a]", "a{1,9}+", "[a[b]]", "\\\\bx\\\\B", "(?i:s)|^$", "x*"]):
        yield "pattern-%d" % i, (model % pattern).encode() + b"\0" + b"a" * 200


def model_gguf(arch, **changes):
    """A sound model of one layer, 16 wide."""
    numbers = dict(block_count=1, embedding_length=16, feed_forward_length=16, context_length=64)
    numbers.update({"attention.head_count": 2, "attention.head_count_kv": 1, "rope.dimension_count": 8})
    numbers.update({k: v for k, v in changes.items() if not k.startswith("_")})
    kvs = [key("general.architecture", 8, text(arch)),
           key(arch + ".attention.layer_norm_rms_epsilon", 6, struct.pack("<f", 1e-5))]
    kvs += [key(arch + "." + k, 4, u32(v)) for k, v in numbers.items()] + changes.get("_more", [])
    shapes = {"token_embd": [16, 8], "output_norm": [16], "blk.0.attn_norm": [16], "blk.0.attn_q": [16, 16],
              "blk.0.attn_k": [16, 8], "blk.0.attn_v": [16, 8], "blk.0.attn_output": [16, 16],
              "blk.0.ffn_norm": [16], "blk.0.ffn_gate": [16, 16], "blk.0.ffn_up": [16, 16], "blk.0.ffn_down": [16, 16]}
    if arch == "qwen3":
        shapes.update({"blk.0.attn_q_norm": [8], "blk.0.attn_k_norm": [8]})
    infos, at = [], 0
    for name, dims in shapes.items():
        infos.append(info(name + ".weight", dims, 0, at))
        at += 4 * dims[0] * (dims[1] if len(dims) > 1 else 1)
    infos.append(info("rope_freqs.weight", [4], 0, at))
    return gguf(kvs, infos, b"\0\0\x80\x3f" * (at // 4 + 8))


def checkpoint_seeds():
    """Metadata of models: GGUF files, and the text files of checkpoint folders."""
    base = dict(hidden_size=16, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2,
                num_key_value_heads=1, vocab_size=8, max_position_embeddings=64, eos_token_id=2)
    generation = b'{"eos_token_id":[2,5],"bos_token_id":1,"temperature":0.6,"top_p":0.9,"top_k":4,"min_p":0.1}'
    tokenizer = b'{"bos_token":"<s>","eos_token":{"content":"a"},"add_bos_token":true,"chat_template":"{{ messages }}"}'
    index = b'{"metadata":{"total_size":1},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"config.json"}}'
    special = b'{"bos_token":"<s>","eos_token":{"content":"ab"},"additional_special_tokens":["<y>"]}'
    older = b'{"<y>":4,"<z>":7}'
    more = {"plain": {}, "window": dict(sliding_window=9, use_sliding_window=True, max_window_layers=2),
            "types": dict(layer_types=["full_attention", "sliding_attention"] * 2, use_sliding_window=True),
            "no-rope": dict(no_rope_layers=[1, 0, 1, 0]), "interval": dict(no_rope_layer_interval=2),
            "linear": dict(rope_scaling=dict(type="linear", factor=2.0)),
            "yarn": dict(rope_scaling=dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=32)),
            "llama3": dict(rope_parameters=dict(rope_type="llama3", rope_theta=500.0, factor=8, low_freq_factor=1,
                                                high_freq_factor=4, original_max_position_embeddings=32)),
            "partial": dict(partial_rotary_factor=0.5, head_dim=8, tie_word_embeddings=True),
            "bias": dict(attention_bias=True, hidden_act="silu", torch_dtype="float16", rms_norm_eps=1e-5),
            "quantised": dict(quantization_config=dict(quant_method="awq"))}
    for family in ("Llama", "Mistral", "Qwen2", "Qwen3", "SmolLM3"):
        for name, keys in more.items():
            config = dict(base, architectures=[family + "ForCausalLM"], **keys)
            yield "%s-%s" % (family, name), b"\0".join(
                [json.dumps(config).encode(), generation, tokenizer, b"{{ bos_token }}", index, special, older])
    decoder = json.dumps(dict(bos_token=None, added_tokens_decoder={
        "4": dict(content="<x>", special=True), "9": dict(content="b", lstrip=True), "3": dict(content="<s>")},
        chat_template=[dict(name="tool_use", template="T"), dict(name="default", template="D")])).encode()
    yield "added", b"\0".join([json.dumps(dict(base, model_type="llama")).encode(), b"", decoder, b"", b"", special])
    for arch in ("llama", "qwen2", "qwen3", "smollm3"):
        yield arch, model_gguf(arch)
    yield "llama-yarn", model_gguf("llama", _more=[
        key("llama.rope.scaling.type", 8, text("yarn")), key("llama.rope.scaling.factor", 6, struct.pack("<f", 4)),
        key("llama.rope.scaling.original_context_length", 4, u32(32))])
    for arch in ("llama", "qwen2", "smollm3"):
        window = key(arch + ".attention.sliding_window", 4, u32(9))
        pattern = arch + ".attention.sliding_window_pattern"
        yield arch + "-window", model_gguf(arch, _more=[window])
        yield arch + "-period", model_gguf(arch, _more=[window, key(pattern, 4, u32(2))])
        for n in (1, 2):
            yield "%s-listed-%d" % (arch, n), model_gguf(arch, _more=[window, array(pattern, 7, [b"\1"] * n)])
    for name in ("block_count", "embedding_length", "context_length", "attention.head_count", "rope.dimension_count"):
        for value in (0, 7, 1 << 31, 0xffffffff):
            yield "llama-%s-%d" % (name, value), model_gguf("llama", **{name: value})


def config_seeds():
    yield "all", b"""# every section
[daemon]
socket = /tmp/x.sock
socket-mode = 0666
device = cpu
threads = 2
cpus = 0-1,3
spin = never
drain-s = 3
slow-client-s = 5
watchdog-s = 9
dtype = auto
load-format = auto
[kv]
ctx = 512
kv-memory = 1.5G
kv-type = f16
host-kv-memory = 256MiB
prefix-cache = on
[sched]
batch-max = 8
policy = fair
cadence-ms = 20
[model a]
path = /tmp/a.gguf
ctx = 100
[user root]
weight = 3
running-max = 2
sessions-max = 4
shared-memory-max = 16M
groups = a,b
[log]
log = loop=debug,all=warn
trace = /tmp/t
"""
    for name, line in (("key", b"[kv]\nnothing = 1\n"), ("section", b"[what]\na=b\n"), ("number", b"[kv]\nctx = 1e9\n"),
                       ("long", b"[daemon]\nsocket = " + b"x" * 5000), ("model", b"[model ]\npath=\n"),
                       ("user", b"[user nobody-of-that-name]\nweight=1\n"), ("groups", b"[user root]\ngroups=" + b"g," * 200),
                       ("models", b"".join(b"[model m%d]\npath=echo\n" % i for i in range(40))), ("bom", b"\xef\xbb\xbf[kv]\n")):
        yield name, line


def chat_record(kind, role, flags, text):
    return struct.pack("<BBHI", kind, role, flags, len(text)) + text + bytes(-len(text) % 8)


def chat_seeds():
    user, answer = chat_record(0, 1, 0, b"why?"), chat_record(0, 2, 0, "weil \u00fc".encode())
    yield "talk", chat_record(0, 0, 0, b"be brief") + user + answer + user
    yield "continue", user + chat_record(0, 2, 1, b"because")
    yield "tools", user + chat_record(1, 0, 0, b'[{"name": "f", "x": [1, 2.5, null, true, "\\u00e9"]}]')
    yield "arguments", user + chat_record(2, 0, 0, b'{"enable_thinking": false, "n": {"a": [[]]}}')
    yield "deep", user + chat_record(1, 0, 0, b"[" * 300 + b"]" * 300)
    yield "many", user * 1100
    yield "empty", chat_record(0, 1, 0, b"")
    yield "cut", user[:-5]
    yield "length", struct.pack("<BBHI", 0, 1, 0, 0xffffffff) + b"x" * 16
    yield "not-utf8", chat_record(0, 1, 0, b"\xff\xc3")


def lt_file(keys, n=None, magic=0x32544c52, version=130000, device=b"NVIDIA H200", total=None):
    head = struct.pack("<IIQ128s", magic, len(keys) if n is None else n, version, device)
    body = b"".join(struct.pack("<4i", *k) + bytes(range(64)) for k in keys)
    fnv = 0xcbf29ce484222325
    for byte in head + body:
        fnv = (fnv ^ byte) * 0x100000001b3 & U64
    return head + struct.pack("<Q", fnv if total is None else total) + body


def lt_file_seeds():
    keys = [(1024, 4096, 16, 0), (1024, 4096, 64, 4), (4096, 1024, 512, 1), (4096, 1024, 512, 7)]
    yield "sound", lt_file(keys)
    yield "none", lt_file([])
    yield "many", lt_file([(i, 64, 16, 0) for i in range(1, 200)])
    yield "cut", lt_file(keys)[:-1]
    yield "sum", lt_file(keys, total=1)
    yield "order", lt_file(keys[::-1])
    yield "twice", lt_file(keys[:1] * 2)
    yield "old", lt_file(keys, magic=0x31544c52)
    yield "version", lt_file(keys, version=120900)
    yield "device", lt_file(keys, device=b"NVIDIA H100")
    for n in (0, 3, 5, 4096, 4097, 1 << 31, 0xffffffff):
        yield "n-%d" % n, lt_file(keys, n=n)
    for key in ((0, 1, 16, 0), (1, -1, 16, 0), (1, 1, 8, 0), (1, 1, 48, 0), (1, 1, -(1 << 31), 0), (1, 1, 16, 8)):
        yield "key-%d-%d-%d-%d" % key, lt_file([key])


def main():
    kind, folder = sys.argv[1:]
    os.makedirs(folder, exist_ok=True)
    for name, data in globals()[kind + "_seeds"]():
        with open(os.path.join(folder, name), "wb") as out:
            out.write(data)
    with open(os.path.join(folder, ".stamp"), "w") as out:
        out.write(kind)


if __name__ == "__main__":
    main()
