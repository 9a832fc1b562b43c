#!/usr/bin/env python3
"""Decoding beside llama.cpp and transformers, taking turns in one process tree.

    decode.py --ours build/tests/bench/bench_decode --model DIR --gguf F32.gguf [--batches 1,8,32]

DIR is a checkpoint of the shape in Hugging Face layout (random weights will do), F32.gguf the same
from `spin-model convert DIR F32.gguf --dtype F32`; other GGUF types are made from it by llama.cpp's
own quantizer, beside it. Needs llama-cpp-python, and with --transformers torch and transformers.

Each measurement: BATCH sequences of --context tokens in cache, then --steps steps of one token
each, prompts not timed. Ours samples (softmax over the vocabulary) and computes log-probabilities
of what it sampled, llama.cpp only computes logits and is given random tokens, transformers'
generate samples (its figure is tokens of a generate call less a call for one token). Every
configuration of a peer is tried once; the best two of a batch (and llama.cpp's F16 at batch 1) then
take turns with ours --repeats times.
Prints a table, and one JSON document with --json FILE."""
import argparse
import ctypes
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time

clock = time.perf_counter
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0")


class Ours:
    def __init__(self, program, model, threads, dtype, shared={}):
        key = (program, model, threads)
        if key not in shared:
            shared[key] = subprocess.Popen([program, model, "--threads", str(threads)], text=True,
                                           stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.device = json.loads(shared[key].stdout.readline())
        self.process, self.dtype, self.name = shared[key], dtype, f"spin {dtype}"

    def measure(self, batch, context, steps):
        self.process.stdin.write(f"{batch} {self.dtype} {context} {steps}\n")
        self.process.stdin.flush()
        got = json.loads(self.process.stdout.readline())
        return got["tokens_per_cpu_s" if clock is time.process_time else "tokens_per_s"]


class Llama:
    models = {}

    def __init__(self, gguf, kind, flash, threads):
        self.gguf, self.kind, self.flash, self.threads = gguf, kind, flash, threads
        self.name = f"llama.cpp {kind}{' flash' if flash else ''}"
        self.context = None

    def model(self):
        import llama_cpp as l
        if self.kind not in Llama.models:
            path = self.gguf if self.kind == "F32" else self.gguf + "." + self.kind
            if not os.path.exists(path):
                p = l.llama_model_quantize_default_params()
                p.ftype = getattr(l, "LLAMA_FTYPE_MOSTLY_" + self.kind)
                assert l.llama_model_quantize(self.gguf.encode(), path.encode(), p) == 0
            p = l.llama_model_default_params()
            p.n_gpu_layers = 0
            Llama.models[self.kind] = l.llama_model_load_from_file(path.encode(), p)
            assert Llama.models[self.kind]
        return Llama.models[self.kind]

    def decode(self, tokens, positions, sequences, logits):
        import llama_cpp as l
        n = len(tokens)
        batch = l.llama_batch_init(n, 0, 1)
        batch.n_tokens = n
        for i in range(n):
            batch.token[i] = tokens[i]
            batch.pos[i] = positions[i]
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequences[i]
            batch.logits[i] = logits
        start = clock()
        rc = l.llama_decode(self.context, batch)
        l.llama_synchronize(self.context)
        took = clock() - start  # the building of the batch in Python isn't counted
        l.llama_batch_free(batch)
        assert rc == 0, rc
        return took

    def measure(self, batch, context, steps):
        import llama_cpp as l
        p = l.llama_context_default_params()
        # A multiple of 256 for each sequence, as llama.cpp pads; each has a stream of its own.
        per = (context + steps + 255) // 256 * 256
        p.n_ctx, p.n_batch, p.n_ubatch = per * batch, 512, 512
        p.n_seq_max, p.n_threads, p.n_threads_batch = batch, self.threads, self.threads
        p.flash_attn_type = int(self.flash)
        p.no_perf = True
        self.context = l.llama_init_from_model(self.model(), p)
        assert self.context
        draw = random.Random(1)
        vocab = l.llama_vocab_n_tokens(l.llama_model_get_vocab(self.model()))
        prompts = [(at, s) for s in range(batch) for at in range(context)]
        for first in range(0, len(prompts), 512):
            rows = prompts[first : first + 512]
            self.decode([draw.randrange(vocab) for _ in rows], [at for at, _ in rows],
                        [s for _, s in rows], False)
        took = 0.0
        for step in range(steps):
            took += self.decode([draw.randrange(vocab) for _ in range(batch)],
                                [context + step] * batch, list(range(batch)), True)
        l.llama_free(self.context)
        self.context = None
        return batch * steps / took


class Transformers:
    models = {}

    def __init__(self, path, dtype, cache, threads):
        self.path, self.dtype, self.cache, self.threads = path, dtype, cache, threads
        self.name = f"transformers {dtype} {cache}"

    def measure(self, batch, context, steps):
        import torch
        import transformers
        torch.set_num_threads(self.threads)
        if self.dtype not in Transformers.models:
            Transformers.models[self.dtype] = transformers.AutoModelForCausalLM.from_pretrained(
                self.path, dtype=getattr(torch, self.dtype)).eval()
        model = Transformers.models[self.dtype]
        ids = torch.randint(3, model.config.vocab_size, (batch, context),
                            generator=torch.Generator().manual_seed(1))

        def generate(n):
            options = {"cache_implementation": "static"} if self.cache == "static" else {}
            start = clock()
            out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=True,
                                 max_new_tokens=n, min_new_tokens=n, top_k=0, top_p=1.0,
                                 temperature=1.0, pad_token_id=0, eos_token_id=None,
                                 disable_compile=True, **options)
            assert out.shape[1] == context + n
            return clock() - start

        with torch.inference_mode():
            return batch * steps / (generate(1 + steps) - generate(1))


def busy_share(seconds):
    """Share of the machine that is at work."""
    def read():
        with open("/proc/stat") as f:
            v = [int(x) for x in f.readline().split()[1:9]]
        return sum(v), v[3] + v[4]
    total, idle = read()
    time.sleep(seconds)
    total2, idle2 = read()
    return 1 - (idle2 - idle) / max(1, total2 - total)


def wait_for_quiet():
    """llama.cpp's and torch's barriers spin: anybody else's work would cost them most."""
    for _ in range(15):
        if busy_share(0.1) < 0.1:
            return
    print("decode.py: the machine is not quiet; figures are low", file=sys.stderr)


def versions():
    found = {"python": platform.python_version(), "machine": platform.processor()}
    for name in ("llama_cpp", "torch", "transformers"):
        if name in sys.modules:
            found[name] = sys.modules[name].__version__
    with open("/proc/cpuinfo") as f:
        found["cpu"] = next((x.split(":")[1].strip() for x in f if x.startswith("model name")), "")
    if "llama_cpp" in sys.modules:
        found["llama.cpp"] = sys.modules["llama_cpp"].llama_print_system_info().decode()
    return found


def measure(sides, batch, context, steps, repeats):
    """Figures of each side by name, sides taking turns."""
    figures = {s.name: [] for s in sides}
    for _ in range(repeats):
        for s in sides:
            if clock is time.perf_counter:
                wait_for_quiet()
            figures[s.name].append(s.measure(batch, context, steps))
            print(f"batch {batch} {s.name}: {figures[s.name][-1]:.1f}", file=sys.stderr)
    return figures


def write_json(path, result):
    with open(path, "w") as f:
        json.dump({**result, "versions": versions()}, f, indent=1)


def main():
    a = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--ours", required=True, help="the program bench_decode")
    a.add_argument("--model", required=True)
    a.add_argument("--gguf")
    a.add_argument("--transformers", action="store_true")
    a.add_argument("--batches", default="1,8,32,64,128")
    a.add_argument("--context", type=int, default=16)
    a.add_argument("--steps", type=int, default=0, help="0: by batch")
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--repeats", type=int, default=5)
    a.add_argument("--types", default="f32,bf16,pairs",
                   help="ours: weights and cache f32 or bf16; pairs: activations bf16 as well")
    a.add_argument("--only", default="", help="peers by name, separated by commas")
    a.add_argument("--cpu-time", action="store_true",
                   help="tokens by CPU second, for machines that are not quiet; with one thread")
    a.add_argument("--json")
    o = a.parse_args()
    if o.cpu_time:
        global clock
        clock = time.process_time
    peers = []
    if o.gguf:
        peers += [Llama(o.gguf, t, f, o.threads) for t in TYPES for f in (False, True)]
    if o.transformers:
        peers += [Transformers(o.model, d, c, o.threads)
                  for d in ("float32", "bfloat16") for c in ("dynamic", "static")]
    if o.only:
        peers = [p for p in peers if p.name in o.only.split(",")]
    sides = [Ours(o.ours, o.model, o.threads, d) for d in o.types.split(",")]
    result = {"clock": "cpu" if o.cpu_time else "wall", "context": o.context,
              "threads": o.threads, "rows": []}
    for batch in map(int, o.batches.split(",")):
        steps = o.steps or max(4, min(32, 384 // batch))
        tried = measure(peers, batch, o.context, max(3, steps // 3), 1)
        order = sorted(peers, key=lambda p: -statistics.median(tried[p.name]))
        f16 = [p for p in order if batch == 1 and p.name.startswith("llama.cpp F16")][:1]
        chosen = order[:2] + [p for p in f16 if p not in order[:2]]
        figures = measure(sides + chosen, batch, o.context, steps, o.repeats)
        best = max((statistics.median(figures[p.name]) for p in chosen), default=0)
        for name in [s.name for s in sides + chosen] + [p.name for p in order if p not in chosen]:
            v = sorted(figures.get(name) or tried[name])
            row = {"batch": batch, "steps": steps, "who": name, "median": statistics.median(v),
                   "lowest": v[0], "highest": v[-1], "repeats": len(v)}
            result["rows"].append(row)
            ratio = f"{row['median'] / best:6.2f} x best peer" if name.startswith("spin") else ""
            print(f"{batch:4d} {name:24s} {row['median']:8.1f} tok/s  {v[0]:8.1f} - {v[-1]:8.1f}"
                  f"  of {len(v)}  {ratio if best else ''}", flush=True)
        if o.json:  # after every batch, for when the time is cut
            write_json(o.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
