#!/usr/bin/env python3
"""Ringlet beside other engines on the same GPU in the same run: measure them, make one table.

usage: peers.py vllm|sglang FOLDER OUT.json [DIR N]
         Decode steps and prefill of vLLM or SGLang (which must be importable) on the shapes of a
         checkpoint folder's config.json, random weights, temperature 0. A decode step is the
         difference between 144 and 16 answer tokens, over 128 (smallest of the repeats). With DIR
         N processes start up beside each other, with a share of the memory each; when all are
         ready (or failed: a file DIR/*.ready each) they measure one after another.
       peers.py table DIR...
         Each DIR is one card's: vllm-MODEL-N.json and sglang-MODEL-N.json (this program's; several
         processes: the best counts), vllm-http-MODEL.json (a list of load results), ours-model.json
         (ringbench model) and ours-MODEL-WHAT.json (ringbench serve), ours-MODEL-start.json. What
         is absent is left out. A peer stands beside our figures of its own card.
       peers.py json DIR...
         The figures that the table is made of, as one JSON object.
"""
import fcntl
import glob
import json
import os
import random
import sys
import time

PEERS = ["vllm", "sglang"]
MODELS = ["llama-3.1-8b", "llama-3.2-1b", "qwen3-0.6b"]
SHORT, LONG = 16, 144
DECODES = [(1, 32, 4), (16, 32, 2), (64, 32, 2), (256, 32, 2), (1, 1024, 3), (64, 1024, 2)]
PREFILLS = [(128, 8), (2048, 6), (8192, 4)]
CONTEXT = 10240
SHARED_TOKENS = 90000  # KV of one process where several share the memory: enough for every case
READY_S = 240


class Vllm:
    def __init__(self, folder, config, shared):
        from vllm import LLM, SamplingParams
        import vllm
        self.version, self.sampling = vllm.__version__, SamplingParams
        extra = {}
        if shared:
            kv = 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * config["head_dim"] * 2
            extra = {"gpu_memory_utilization": 0.3, "kv_cache_memory_bytes": SHARED_TOKENS * kv}
        self.llm = LLM(model=folder, load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", max_model_len=CONTEXT,
                       enable_prefix_caching=False, max_num_seqs=256, seed=0, **extra)

    def generate(self, prompts, tokens):
        params = self.sampling(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        answers = self.llm.generate([{"prompt_token_ids": ids} for ids in prompts], params, use_tqdm=False)
        return [len(a.outputs[0].token_ids) for a in answers]

    def close(self):
        del self.llm


class Sglang:
    def __init__(self, folder, config, shared):
        del config
        import sglang
        self.version = sglang.__version__
        extra = {"port": 20000 + os.getpid() % 20000}
        extra |= {"max_total_tokens": SHARED_TOKENS} if shared else {}
        self.engine = sglang.Engine(model_path=folder, load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16",
                                    context_length=CONTEXT, disable_radix_cache=True, cuda_graph_max_bs_decode=256,
                                    max_running_requests=256, sampling_backend="pytorch", random_seed=0, log_level="info", **extra)

    def generate(self, prompts, tokens):
        params = {"temperature": 0.0, "max_new_tokens": tokens, "ignore_eos": True}
        return [len(a["output_ids"]) for a in self.engine.generate(input_ids=prompts, sampling_params=params)]

    def close(self):
        self.engine.shutdown()


def wait_for_turn(folder, n):
    """All n are ready; then one after another. The file is the turn: keep it."""
    open(os.path.join(folder, f"{os.getpid()}.ready"), "w").close()
    until = time.time() + READY_S
    while len(glob.glob(os.path.join(folder, "*.ready"))) < n and time.time() < until:
        time.sleep(0.2)
    turn = open(os.path.join(folder, "turn"), "w")
    fcntl.flock(turn, fcntl.LOCK_EX)
    return turn


def measure(engine, folder, path, group):
    born = time.time()
    config = json.load(open(os.path.join(folder, "config.json")))
    peer = {"vllm": Vllm, "sglang": Sglang}[engine](folder, config, group is not None)
    out = {"engine": engine, "version": peer.version, "beside": group[1] if group else 1, "decode": [], "prefill": []}
    out["ready_s"] = round(time.time() - born, 1)
    rng = random.Random(1)

    def run(batch, prompt, tokens):
        prompts = [[rng.randrange(256, config["vocab_size"] - 512) for _ in range(prompt)] for _ in range(batch)]
        start = time.perf_counter()
        counts = peer.generate(prompts, tokens)
        took = time.perf_counter() - start
        assert counts == [tokens] * batch, counts
        return took

    def save(kind, row):
        out[kind].append(row)
        print(f"{time.time() - born:6.1f} s {kind}", row, flush=True)
        json.dump(out, open(path, "w"), indent=1)

    run(1, 16, 1)
    out["first_token_s"] = round(time.time() - born, 1)
    print(f"{time.time() - born:6.1f} s first token", flush=True)
    turn = wait_for_turn(*group) if group else None
    for batch, prompt, repeats in DECODES:
        run(batch, prompt, 8)
        short = [run(batch, prompt, SHORT) for _ in range(repeats)]
        long = [run(batch, prompt, LONG) for _ in range(repeats)]
        ms = (min(long) - min(short)) / (LONG - SHORT) * 1e3
        save("decode", {"batch": batch, "prompt": prompt, "ms": round(ms, 4), "short_s": short, "long_s": long})
    for prompt, repeats in PREFILLS:
        run(1, prompt, 1)
        times = sorted(run(1, prompt, 1) for _ in range(repeats))
        save("prefill", {"prompt": prompt, "ms": round(times[0] * 1e3, 3), "median_ms": round(times[len(times) // 2] * 1e3, 3)})
    if turn:
        turn.close()
    peer.close()


def load(folder, name):
    path = os.path.join(folder, name)
    try:
        return json.load(open(path))
    except (OSError, ValueError):
        return None


def best(values):
    values = [v for v in values if v is not None]
    return min(values) if values else None


class Run:
    """What one folder, that is one card, knows of a model."""

    def __init__(self, folder, model):
        self.peer = {}
        for engine in PEERS:
            paths = sorted(glob.glob(os.path.join(folder, f"{engine}-{model}-*.json")))
            self.peer[engine] = [v for p in paths if (v := load("", p))]
        self.http = load(folder, f"vllm-http-{model}.json") or []
        own = load(folder, "ours-model.json") or {"results": []}
        self.own = [r for r in own["results"] if r.get("subject") == model]
        self.start = load(folder, f"ours-{model}-start.json")
        self.serve = {}
        for path in glob.glob(os.path.join(folder, f"ours-{model}-*.json")):
            what = os.path.basename(path)[len(f"ours-{model}-"):-len(".json")]
            got = load("", path)
            if got and "results" in got:
                self.serve[what] = {r["name"]: r for r in got["results"]}

    def theirs(self, engine, kind, **keys):
        rows = [r for v in self.peer[engine] for r in v.get(kind, []) if all(r[k] == x for k, x in keys.items())]
        return best([r["ms"] for r in rows])

    def bare(self, name, **keys):
        for r in self.own:
            if r["name"] == name and all(r.get(k) == x for k, x in keys.items()):
                return r
        return {}

    def served(self, what, name, quantile="p50_ns"):
        value = self.serve.get(what, {}).get(name, {}).get(quantile)
        return None if value is None else value / 1e6


def show(value, digits=3):
    return "" if value is None else f"{value:.{digits}f}"


def row(*cells):
    print("| " + " | ".join(cells) + " |")


def first(values):
    return next((v for v in values if v), None)


def steps(runs):
    """A row of figures for each model and case."""
    for model in MODELS:
        mine = [run[model] for run in runs]
        cases = [("decode", b, p) for b, p, _ in DECODES] + [("prefill", 1, p) for p, _ in PREFILLS]
        for kind, batch, prompt in cases:
            keys = {"batch": batch, "prompt": prompt} if kind == "decode" else {"prompt": prompt}
            served = (f"b{batch}-{prompt}", "inter_token") if kind == "decode" else (f"p{prompt}", "ttft")
            alone = {"batch": batch, "context": prompt} if kind == "decode" else {"rows": prompt}
            fig = {"model": model, "kind": kind, "batch": batch, "prompt": prompt}
            ratios = []
            for run in mine:
                ours = run.served(*served) or run.bare(kind, **alone).get("ms")
                for engine in PEERS:
                    theirs = run.theirs(engine, kind, **keys)
                    if theirs is None:
                        continue
                    fig[engine] = theirs
                    if ours:
                        fig["beside_" + engine] = ours
                        ratios.append(theirs / ours)
            fig["daemon"] = best([run.served(*served) for run in mine])
            bare = min((b for run in mine if (b := run.bare(kind, **alone))), key=lambda b: b["ms"], default={})
            fig.update({"bare": bare.get("ms"), "limit": bare.get("limit_ms"), "share": bare.get("share_of_limit")})
            fig["ratio"] = min(ratios) if ratios else None
            if any(fig.get(k) for k in [*PEERS, "daemon", "bare"]):
                yield fig


def steps_table(runs):
    print("Milliseconds. Ours: through the daemon (ring clients; a gap between tokens, or the time to the first one), on the")
    print("card of the peer to its left, and the bare step of the op table. Share: the bare step's of its limit. Ratio: the")
    print("better peer's time over ours on the same card.\n")
    row("model", "what", "vLLM", "ours", "SGLang", "ours", "bare step", "limit", "share", "ratio")
    row(*["---"] * 10)
    for f in steps(runs):
        what = f"decode, batch {f['batch']}, prompts of {f['prompt']}" if f["kind"] == "decode" else f"prefill, {f['prompt']} tokens"
        beside = [f.get("beside_" + engine) for engine in PEERS]
        if not any(beside):
            beside = [f["daemon"], None]
        row(f["model"], what, show(f.get("vllm")), show(beside[0]), show(f.get("sglang")), show(beside[1]), show(f["bare"]),
            show(f["limit"]), "" if f["share"] is None else f"{100 * f['share']:.0f} %",
            "" if f["ratio"] is None else f"{f['ratio']:.2f}")


def serve_table(runs):
    print("\nServing: theirs over HTTP (vLLM with its Rust front end, keep-alive, loopback), ours over rings; p50 / p99 in ms.\n")
    row("model", "what", "theirs", "ours", "bare step", "beyond it, p50")
    row(*["---"] * 6)
    cases = [("first token, 1 client, 16 tokens", "ttft", 1, 1, 16, "ttft_ms", "ttft"),
             ("gap, 1 client", "gap", 1, 128, 16, "gap_ms", "inter_token"),
             ("first token, 64 clients", "c64", 64, 256, 16, "ttft_ms", "ttft"),
             ("gap, 64 clients", "c64", 64, 256, 16, "gap_ms", "inter_token"),
             ("first token, 2,048 tokens", "p2048", 1, 1, 2048, "ttft_ms", "ttft")]
    for model in MODELS:
        run = first(r[model] if r[model].http else None for r in runs) or runs[0][model]
        for text, what, clients, tokens, prompt, key, name in cases:
            theirs = next((r[key] for r in run.http if (r["clients"], r["max_tokens"], r["prompt"]) == (clients, tokens, prompt)
                           and r[key]), None)
            ours = run.served(what, name)
            if theirs is None and ours is None:
                continue
            bare = run.bare("prefill", rows=16).get("ms") if what == "ttft" else None
            row(model, text, f"{show(theirs['p50'])} / {show(theirs['p99'])}" if theirs else "",
                f"{show(ours)} / {show(run.served(what, name, 'p99_ns'))}" if ours else "", show(bare),
                f"{(ours - bare) * 1e3:.0f} us" if bare and ours else "")


def start_of(runs, model):
    """Alone on the card where such a process was measured."""
    fig = {}
    for engine in PEERS:
        known = [v for run in runs for v in run[model].peer[engine] if v.get("first_token_s")]
        alone = [v for v in known if v.get("beside", 1) == 1]
        fig[engine] = best([v["first_token_s"] for v in alone or known])
    ours = [run[model].start for run in runs if run[model].start]
    fig["ours"] = min(ours, key=lambda s: s["first_token_s"], default=None)
    return fig


def start_table(runs):
    print("\nProcess start to first token, seconds, no weights read (theirs: with what an earlier process compiled).\n")
    row("model", "vLLM", "SGLang", "ours", "ours, where it went")
    row(*["---"] * 5)
    for model in MODELS:
        fig = start_of(runs, model)
        ours = fig["ours"] or {}
        if any(fig.values()):
            row(model, show(fig["vllm"], 1), show(fig["sglang"], 1), show(ours.get("first_token_s"), 2), ours.get("split", ""))


def figures(runs):
    out = {"bench": "peers", "unit": "ms", "steps": list(steps(runs)), "start": {m: start_of(runs, m) for m in MODELS},
           "processes": {}, "serve": {}}
    for model in MODELS:
        out["processes"][model] = [v for run in runs for engine in PEERS for v in run[model].peer[engine]]
        http = first(run[model].http for run in runs)
        own = [{what: {name: {k: v for k, v in r.items() if k != "curve_ns"} for name, r in got.items()}
                for what, got in run[model].serve.items()} for run in runs]
        out["serve"][model] = {"vllm_http": http, "ours_by_card": own}
    return out


def main():
    args = sys.argv[1:]
    if len(args) in (3, 5) and args[0] in PEERS:
        measure(*args[:3], (args[3], int(args[4])) if args[3:] else None)
    elif len(args) >= 2 and args[0] in ("table", "json"):
        runs = [{model: Run(folder, model) for model in MODELS} for folder in args[1:]]
        if args[0] == "json":
            json.dump(figures(runs), sys.stdout, separators=(",", ":"))
            print()
            return
        steps_table(runs)
        serve_table(runs)
        start_table(runs)
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
