#!/usr/bin/env python3
"""Decoding on a device beside transformers' generate, in turns in one sitting.

    gpu_decode.py --build BUILD [--shape mistral-7b] [--sequences 128,256,256]
                  [--turns 2] [--repeats 3] [--json FILE] [--extra "..."]

Sequences are COUNT,PROMPT,NEW: COUNT at once, NEW tokens each behind a prompt of PROMPT random ids,
weights random. Ours is `spin-model bench --sequences` with bf16 weights, cache and activations;
transformers samples at temperature 1 without top-k and top-p from weights in --dtype, attention by
torch's scaled dot product. Its settings: a dynamic cache, a static one, and a static one with what
generate compiles for it; each is tried once, the fastest takes part.

Two figures: *decode*, new tokens a second without the passes over prompts and the first token that
comes with them (of generate: a call less one for a single token), and *answer*, new tokens a second
of the whole call. The share of the memory roofline is the weights and the mean of the cached keys
and values, read once a token, over the rate of torch's copy (bytes read and written).

Both processes stay where both fit, see --apart."""
import argparse
import pathlib
import statistics
import sys

import gpu

SETTINGS = (["dynamic", False], ["static", False], ["static", True])


class DecodePeer(gpu.Torch):
    def __init__(self, options):
        super().__init__(options)
        self.count, self.prompt, self.new = map(int, options.sequences.split(","))
        self.model = self.make_model(options.directory).eval()
        self.model.generation_config.eos_token_id = None
        self.calls = 0

    def release(self):
        self.reset_peak()

    def do_settings(self):
        return {"settings": [s for s in SETTINGS if self.cuda or not s[1]]}

    def generate(self, setting, new):
        cache, compiled = setting
        torch = self.torch
        self.calls += 1
        g = torch.Generator().manual_seed(self.calls)
        ids = torch.randint(3, self.model.config.vocab_size, (self.count, self.prompt), generator=g)
        ids = ids.to(self.device)
        options = {"cache_implementation": "static"} if cache == "static" else {}

        def run():
            out = self.model.generate(
                ids, attention_mask=torch.ones_like(ids), do_sample=True, max_new_tokens=new,
                min_new_tokens=new, top_k=0, top_p=1.0, temperature=1.0, pad_token_id=0,
                eos_token_id=None, disable_compile=not compiled, **options)
            assert out.shape[1] == self.prompt + new

        return self.timed(run)

    def do_try(self, setting):
        self.reset_peak()
        self.generate(setting, self.new)  # what is compiled or captured at first
        return {"seconds": self.generate(setting, self.new), "peak_bytes": self.peak_bytes()}

    def do_measure(self, setting, repeats):
        """One length after the other: what is compiled may be so for one of them."""
        self.reset_peak()
        found = {}
        for name, new in (("whole", self.new), ("first", 1)):
            self.generate(setting, new)
            found[name] = [self.generate(setting, new) for _ in range(repeats)]
        found["peak_bytes"] = self.peak_bytes()
        self.reset_peak()  # ours comes next, and needs the room
        return found


def drive(o):
    directory = gpu.shape_directory(o.shape, o.scratch)
    count, prompt, new = map(int, o.sequences.split(","))
    document = {"what": "decode", "shape": o.shape, "sequences": o.sequences, "tried": []}
    rates = {"spin": {"decode": [], "answer": []}, "transformers": {"decode": [], "answer": []}}
    arguments = ["--directory", directory, "--sequences", o.sequences, "--device", o.device,
                 "--dtype", o.dtype]
    peer, setting, figures = None, None, {}
    for turn in range(o.turns):
        if turn > 0 and gpu.time_is_up(o):
            break
        if o.side != "ours":
            if peer is None:
                peer = gpu.Peer(__file__, o, arguments)
                document["peer"] = peer.description
            if setting is None:
                document["probe"] = peer.ask("probe")
                setting = gpu.choose(peer, o, document["tried"])
            got = peer.ask("measure", setting, o.repeats)
            if "failed" in got:
                sys.exit(f"the peer: {got['failed']}")
            document["peer_setting"], document["peer_peak_bytes"] = setting, got["peak_bytes"]
            theirs = rates["transformers"]
            theirs["answer"] += [count * new / w for w in got["whole"]]
            first = statistics.median(got["first"])
            theirs["decode"] += [count * (new - 1) / (w - first) for w in got["whole"] if w > first]
            if o.apart:
                peer.close()
                peer = None
        if o.side != "peer":
            result = gpu.ours(o, directory, "--sequences", o.sequences, "--weights", "bf16", "--kv",
                              "bf16", "--activations", "bf16")
            document["ours"] = {k: result[k] for k in ("backend", "device", "parameters")}
            for name in ("decode", "answer"):
                figures[name] = result[name][0]
                tokens = figures[name]["tokens_per_s"] * sorted(figures[name]["seconds"])[
                    len(figures[name]["seconds"]) // 2]
                rates["spin"][name] += [tokens / s for s in figures[name]["seconds"]]
    if peer:
        peer.close()
    report(o, document, rates, figures)


def report(o, document, rates, figures):
    print(f"{o.shape}, {o.sequences} (sequences, prompt, new tokens)")
    copy = document.get("probe", {}).get("gb_per_s")
    for name in ("decode", "answer"):
        for side in ("spin", "transformers"):
            values = rates[side][name]
            if not values:
                continue
            found = document.setdefault(name, {}).setdefault(side, gpu.spread(values))
            found["values"] = values
            more = ""
            if name == "decode" and figures and copy:
                figure = figures["decode"]
                gb_per_token = figure["gb_per_s"] / figure["tokens_per_s"]
                found["share_of_copy"] = found["median"] * gb_per_token / copy
                more = f"{100 * found['share_of_copy']:.1f} % of {copy:.0f} GB/s"
            gpu.line(f"{name}, {side}", "tokens/s", values, more)
    if "peer_setting" in document:
        cache, compiled = document["peer_setting"]
        print(f"transformers: {cache} cache{', compiled' if compiled else ''}; peak "
              f"{document['peer_peak_bytes'] / 2**30:.2f} GiB")
    if figures:
        document["figures"] = figures
        print(f"spin: {figures['decode']['gb_per_s']:.0f} GB/s")
        gpu.memory(document, figures["decode"], "decode")
        if copy:
            gpu.target(document, "decode: share of the memory roofline",
                       document["decode"]["spin"]["share_of_copy"], 0.6,
                       "share of the memory roofline")
    for name in ("decode", "answer"):
        if len(document.get(name, {})) == 2:
            ratio = document[name]["spin"]["median"] / document[name]["transformers"]["median"]
            document[name]["ratio"] = ratio
            gpu.target(document, f"{name}: tokens/s beside transformers", ratio, 3.0,
                       f"{name}: {ratio:.2f} times transformers")
    gpu.write(o.json, document)


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu.common_options(p)
    p.add_argument("--sequences", default="128,256,256")
    p.add_argument("--apart", action="store_true", help="the peer ends before ours begins")
    p.add_argument("--directory", help=argparse.SUPPRESS)
    o = p.parse_args()
    pathlib.Path(o.scratch).mkdir(parents=True, exist_ok=True)
    if o.serve:
        gpu.serve(DecodePeer(o))
    else:
        drive(o)


if __name__ == "__main__":
    main()
