#!/usr/bin/env python3
"""Ringlet beside other engines on the same GPU in the same run: measure vLLM, make one table.

usage: peers.py vllm FOLDER OUT.json [warm]
         Decode steps and prefill of vLLM (which must be importable) on the shapes of a checkpoint
         folder's config.json, random weights, temperature 0. A decode step is the difference
         between 144 and 16 answer tokens, over 128 (smallest of the repeats). warm: compile and
         capture only, with a quarter of the memory, so that several may do so at once.
       peers.py table DIR
         DIR has vllm-MODEL-N.json (this program's; several processes: the best counts),
         vllm-http-MODEL.json (a list of load results), ours-model.json (ringbench model) and
         ours-MODEL-WHAT.json (ringbench serve), ours-MODEL-start.json. What is absent is left out.
"""
import glob
import json
import os
import random
import sys
import time

MODELS = ["llama-3.1-8b", "llama-3.2-1b", "qwen3-0.6b"]
SHORT, LONG = 16, 144
DECODES = [(1, 32, 4), (16, 32, 2), (64, 32, 2), (256, 32, 2), (1, 1024, 3), (64, 1024, 2)]
PREFILLS = [(128, 8), (2048, 6), (8192, 4)]


def measure_vllm(folder, path, warm):
    born = time.time()
    from vllm import LLM, SamplingParams
    import vllm
    config = json.load(open(os.path.join(folder, "config.json")))
    out = {"vllm": vllm.__version__, "imported_s": round(time.time() - born, 1), "decode": [], "prefill": []}
    extra = {"gpu_memory_utilization": 0.25} if warm else {}
    llm = LLM(model=folder, load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16", max_model_len=10240,
              enable_prefix_caching=False, max_num_seqs=256, seed=0, **extra)
    out["ready_s"] = round(time.time() - born, 1)
    rng = random.Random(1)

    def run(batch, prompt, tokens):
        prompts = [{"prompt_token_ids": [rng.randrange(256, config["vocab_size"] - 512) for _ in range(prompt)]}
                   for _ in range(batch)]
        params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        start = time.perf_counter()
        answers = llm.generate(prompts, params, use_tqdm=False)
        took = time.perf_counter() - start
        assert len(answers) == batch and all(len(a.outputs[0].token_ids) == tokens for a in answers)
        return took

    def save():
        json.dump(out, open(path, "w"), indent=1)

    run(1, 16, 1)
    out["first_token_s"] = round(time.time() - born, 1)
    save()
    if warm:
        return
    for batch, prompt, repeats in DECODES:
        run(batch, prompt, 8)
        short = [run(batch, prompt, SHORT) for _ in range(repeats)]
        long = [run(batch, prompt, LONG) for _ in range(repeats)]
        ms = (min(long) - min(short)) / (LONG - SHORT) * 1e3
        out["decode"].append({"batch": batch, "prompt": prompt, "ms": round(ms, 4), "short_s": short, "long_s": long})
        print(f"{time.time() - born:6.1f} s", out["decode"][-1]["batch"], prompt, round(ms, 3), "ms", flush=True)
        save()
    for prompt, repeats in PREFILLS:
        run(1, prompt, 1)
        times = sorted(run(1, prompt, 1) for _ in range(repeats))
        out["prefill"].append({"prompt": prompt, "ms": round(times[0] * 1e3, 3), "median_ms": round(times[len(times) // 2] * 1e3, 3)})
        print(f"{time.time() - born:6.1f} s prefill", prompt, out["prefill"][-1]["ms"], "ms", flush=True)
        save()


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
    """What one folder knows, by model."""

    def __init__(self, folder, model):
        self.vllm = [v for p in sorted(glob.glob(os.path.join(folder, f"vllm-{model}-*.json"))) if (v := load("", p))]
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

    def theirs(self, kind, **keys):
        rows = [r for v in self.vllm for r in v.get(kind, []) if all(r[k] == x for k, x in keys.items())]
        return best([r["ms"] for r in rows])

    def ours(self, name, **keys):
        for r in self.own:
            if r["name"] == name and all(r.get(k) == x for k, x in keys.items()):
                return r
        return {}

    def served(self, what, name, quantile="p50_ns"):
        """Milliseconds; none where the time to a first token has cached prompts in it."""
        got = self.serve.get(what, {})
        if name == "ttft" and got.get("throughput", {}).get("cached_share", 0) > 0.01:
            return None
        value = got.get(name, {}).get(quantile)
        return None if value is None else value / 1e6


def show(value, digits=3):
    return "" if value is None else f"{value:.{digits}f}"


def row(*cells):
    print("| " + " | ".join(cells) + " |")


def steps_table(folder):
    print("Milliseconds. Ours: through the daemon (ring clients; a gap between tokens, or the time to the first one where no")
    print("prompt was cached), and the bare step of the op table, at 32 or 1,024 tokens of context, where theirs and the")
    print("daemon's go on for the answer. Share: bare step's of the limit. Ratio: theirs over the daemon's, else over the bare step.\n")
    row("model", "what", "theirs (vLLM)", "ours, daemon", "ours, bare step", "limit", "share", "ratio")
    row(*["---"] * 8)
    for model in MODELS:
        run = Run(folder, model)
        cases = [("decode", b, p) for b, p, _ in DECODES] + [("prefill", 1, p) for p, _ in PREFILLS]
        for kind, batch, prompt in cases:
            if kind == "decode":
                theirs = run.theirs("decode", batch=batch, prompt=prompt)
                ours = run.served(f"b{batch}-{prompt}", "inter_token")
                bare = run.ours("decode", batch=batch, context=prompt)
                what = f"decode, batch {batch}, prompts of {prompt}"
            else:
                theirs = run.theirs("prefill", prompt=prompt)
                ours = run.served(f"p{prompt}", "ttft")
                bare = run.ours("prefill", rows=prompt)
                what = f"prefill, {prompt} tokens"
            if theirs is None and ours is None and not bare:
                continue
            share = bare.get("share_of_limit")
            ratio = theirs / ours if theirs and ours else theirs / bare["ms"] if theirs and bare else None
            row(model, what, show(theirs), show(ours), show(bare.get("ms")), show(bare.get("limit_ms")),
                "" if share is None else f"{100 * share:.0f} %", "" if ratio is None else f"{ratio:.2f}")


def serve_table(folder):
    print("\nServing: theirs over HTTP with its Rust front end (keep-alive, loopback), ours over rings; p50 / p99 in ms.\n")
    row("model", "what", "theirs", "ours", "bare step", "beyond it, p50")
    row(*["---"] * 6)
    for model in MODELS:
        run = Run(folder, model)
        cases = [("first token, 1 client, 16 tokens", "ttft", 1, 1, 16, "ttft_ms", "ttft"),
                 ("gap, 1 client", "gap", 1, 128, 16, "gap_ms", "inter_token"),
                 ("first token, 64 clients", "c64", 64, 256, 16, "ttft_ms", "ttft"),
                 ("gap, 64 clients", "c64", 64, 256, 16, "gap_ms", "inter_token"),
                 ("first token, 2,048 tokens", "p2048", 1, 1, 2048, "ttft_ms", "ttft")]
        for text, what, clients, tokens, prompt, key, name in cases:
            theirs = next((r[key] for r in run.http if (r["clients"], r["max_tokens"], r["prompt"]) == (clients, tokens, prompt)
                           and r[key]), None)
            ours = run.served(what, name)
            if theirs is None and ours is None:
                continue
            bare = run.ours("prefill", rows=16).get("ms") if what == "ttft" else None
            row(model, text, f"{show(theirs['p50'])} / {show(theirs['p99'])}" if theirs else "",
                f"{show(ours)} / {show(run.served(what, name, 'p99_ns'))}" if ours else "", show(bare),
                f"{(ours - bare) * 1e3:.0f} us" if bare and ours else "")


def start_table(folder):
    print("\nProcess start to first token, seconds, no weights read (theirs: the quickest of its processes).\n")
    row("model", "theirs", "ours", "ours, where it went")
    row(*["---"] * 4)
    for model in MODELS:
        run = Run(folder, model)
        theirs = best([v.get("first_token_s") for v in run.vllm])
        if theirs is None and not run.start:
            continue
        start = run.start or {}
        row(model, show(theirs, 1), show(start.get("first_token_s"), 2), start.get("split", ""))


def main():
    if len(sys.argv) >= 4 and sys.argv[1] == "vllm":
        measure_vllm(sys.argv[2], sys.argv[3], sys.argv[4:] == ["warm"])
    elif len(sys.argv) == 3 and sys.argv[1] == "table":
        steps_table(sys.argv[2])
        serve_table(sys.argv[2])
        start_table(sys.argv[2])
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
