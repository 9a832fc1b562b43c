#!/usr/bin/env python3
"""A SPIN step on a device beside torch and transformers, in turns in one sitting.

    gpu_step.py --build BUILD [--shape mistral-7b] [--pairs 512,256,256,16] [--micro 4]
                [--turns 2] [--repeats 3] [--json FILE] [--extra "--memory 72"]

Pairs are PROMPT,REAL,GENERATED,COUNT tokens of random ids, weights random. Ours is `spin-model bench
--pairs`. The peer does the same step as TRL's DPOTrainer does it: prompt with the human answer and
prompt with the opponent's are two sequences of a padded batch through LlamaForCausalLM (or what the
shape names) with weights, gradients and RMSprop's state in --dtype; log-probabilities under the
reference are given; logits are made for the answers' rows only; logistic loss, gradients of all
micro-batches added up, clipped, torch.optim.RMSprop, by layer, so that its temporaries are small.
Attention: torch's flash kernels (SDPA), and the package flash_attn where it is installed. Pairs in a
micro-batch and checkpointing of activations: each setting is tried once, the fastest one takes part.
Padding has no mask: it stands behind the answers, where nothing looks at it.

Both sides have a process of their own that ends before the other's begins, since both do not fit.
Operations are those that the result needs with a prompt that is run once (spin-model bench), on both
sides; the product that they are a share of is 8192 x 8192 x 8192 in bf16 by torch."""
import argparse
import pathlib
import sys
import warnings

import gpu

MICRO = (1, 2, 4, 8, 16)


class StepPeer(gpu.Torch):
    def __init__(self, options):
        super().__init__(options)
        self.pairs = list(map(int, options.pairs.split(",")))
        self.optimizer = None
        self.model = self.make_model(options.directory)
        self.model.config.use_cache = False
        self.model.train()
        self.ids, self.scored = self.batch()
        self.reference = None

    def batch(self):
        """All sequences, human answers first, right-padded; and which rows predict answers."""
        torch = self.torch
        prompt, real, generated, count = self.pairs
        longest = prompt + max(real, generated)
        g = torch.Generator().manual_seed(1)
        ids = torch.randint(3, self.model.config.vocab_size, (2 * count, longest), generator=g)
        ids[count:, :prompt] = ids[:count, :prompt]
        scored = torch.zeros(2 * count, longest - 1, dtype=torch.bool)
        for row in range(2 * count):
            n = real if row < count else generated
            scored[row, prompt - 1:prompt - 1 + n] = True
            ids[row, prompt + n:] = 0
        return ids.to(self.device), scored.to(self.device)

    def parameters_by_layer(self):
        groups, rest = [], []
        layers = self.model.model.layers
        for layer in layers:
            groups.append({"params": list(layer.parameters())})
        inside = {id(p) for group in groups for p in group["params"]}
        rest = [p for p in self.model.parameters() if id(p) not in inside]
        return groups + [{"params": [p]} for p in rest]

    def release(self):
        self.optimizer = None
        self.model.zero_grad(set_to_none=True)
        self.reset_peak()

    def do_settings(self):
        count = self.pairs[3]
        names = ["sdpa"]
        try:
            import flash_attn  # noqa: F401
            names.append("flash_attention_2")
        except ImportError:
            pass
        found = []
        for attention in names:
            for checkpoint in (False, True):
                for micro in MICRO:
                    if micro <= count and count % micro == 0 and micro <= self.options.most_micro:
                        found.append([attention, micro, checkpoint])
        return {"settings": found}

    def use(self, setting):
        attention, self.micro, checkpoint = setting
        self.attention(self.model, attention)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names that later versions change
            if checkpoint:
                self.model.gradient_checkpointing_enable({"use_reentrant": False})
            else:
                self.model.gradient_checkpointing_disable()
        if self.optimizer is None:
            self.optimizer = self.torch.optim.RMSprop(self.parameters_by_layer(), lr=1e-9,
                                                      alpha=0.99, foreach=self.cuda)

    def logprobs(self, at, n):
        """Sums over the answers of pairs [at, at + n): (2n)."""
        torch, count = self.torch, self.pairs[3]
        rows = torch.tensor([*range(at, at + n), *range(count + at, count + at + n)],
                            device=self.device)
        ids, scored = self.ids[rows], self.scored[rows]
        hidden = self.model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        logits = self.model.lm_head(hidden[scored]).float()
        tokens = -torch.nn.functional.cross_entropy(logits, ids[:, 1:][scored], reduction="none")
        where = scored.nonzero()[:, 0]
        return torch.zeros(2 * n, device=self.device).index_add(0, where, tokens)

    def flash(self):
        """Flash attention before all else. Also around the backward pass, where checkpointing runs
        the forward pass again."""
        attention = self.torch.nn.attention
        kind = attention.SDPBackend
        order = [kind.FLASH_ATTENTION, kind.EFFICIENT_ATTENTION, kind.MATH]
        try:
            return attention.sdpa_kernel(order, set_priority=True)
        except TypeError:  # its order is that anyhow
            return attention.sdpa_kernel(order)

    def references(self):
        if self.reference is None:
            with self.torch.no_grad(), self.flash():
                self.reference = [self.logprobs(i, 1) for i in range(self.pairs[3])]
            self.reference = self.torch.stack(self.reference, dim=1)  # (2, count)
        return self.reference

    def step(self):
        torch, count = self.torch, self.pairs[3]
        reference, self.loss = self.references(), 0.0
        losses = []
        for at in range(0, count, self.micro):
            with self.flash():
                sums = self.logprobs(at, self.micro).view(2, -1)
                change = sums - reference[:, at:at + self.micro]
                loss = torch.nn.functional.softplus(-0.1 * (change[0] - change[1])).sum() / count
                loss.backward()
            losses.append(loss.detach())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.loss = float(torch.stack(losses).sum())

    def do_try(self, setting):
        self.use(setting)
        self.references()
        self.reset_peak()
        self.step()
        return {"seconds": self.timed(self.step), "peak_bytes": self.peak_bytes()}

    def do_measure(self, setting, repeats):
        self.use(setting)
        self.step()
        self.reset_peak()
        seconds = [self.timed(self.step) for _ in range(repeats)]
        return {"seconds": seconds, "peak_bytes": self.peak_bytes(), "loss": self.loss}


def drive(o):
    directory = gpu.shape_directory(o.shape, o.scratch)
    pairs = int(o.pairs.split(",")[3])
    document = {"what": "spin_step", "shape": o.shape, "pairs": o.pairs, "tried": []}
    seconds, peer_seconds, setting, figure, ratios = [], [], None, None, []
    arguments = ["--directory", directory, "--pairs", o.pairs, "--device", o.device, "--dtype",
                 o.dtype, "--most-micro", str(o.most_micro)]
    for turn in range(o.turns):
        if turn > 0 and gpu.time_is_up(o):
            break
        theirs, mine = None, None
        if o.side != "ours":
            peer = gpu.Peer(__file__, o, arguments)
            document["peer"] = peer.description
            if setting is None:
                document["probe"] = peer.ask("probe")
                setting = gpu.choose(peer, o, document["tried"])
            got = peer.ask("measure", setting, o.repeats)
            peer.close()
            if "failed" in got:
                sys.exit(f"the peer: {got['failed']}")
            theirs = got["seconds"]
            peer_seconds += theirs
            document["peer_setting"] = setting
            document["peer_peak_bytes"], document["peer_loss"] = got["peak_bytes"], got["loss"]
        if o.side != "peer":
            micro = ["--micro", str(o.micro)] if o.micro else []
            result = gpu.ours(o, directory, "--pairs", o.pairs, *micro)
            figure = result["spin_step"][0]
            document["ours"] = {k: result[k] for k in ("backend", "device", "parameters")}
            mine = figure["seconds"]
            seconds += mine
        if theirs and mine:
            ratios.append(sorted(theirs)[len(theirs) // 2] / sorted(mine)[len(mine) // 2])
    report(o, document, pairs, seconds, peer_seconds, figure, ratios)


def report(o, document, pairs, seconds, peer_seconds, figure, ratios):
    print(f"{o.shape}, a SPIN step of {o.pairs} (prompt, real, generated, pairs)")
    rates, peer_rates = [pairs / s for s in seconds], [pairs / s for s in peer_seconds]
    flops = figure["flops_per_pair"] if figure else None
    gemm = document.get("probe", {}).get("gemm_tflops")
    for name, values in (("spin", rates), ("torch", peer_rates)):
        if not values:
            continue
        document[name] = gpu.spread(values)
        document[name]["values"] = values
        more = ""
        if flops and gemm:
            share = document[name]["median"] * flops / (gemm * 1e12)
            document[name]["share_of_gemm"] = share
            more = f"{100 * share:.1f} % of {gemm:.0f} TFLOP/s"
        gpu.line(name, "pairs/s", values, more)
    if "peer_setting" in document:
        attention, micro, checkpoint = document["peer_setting"]
        print(f"torch: {attention}, micro-batches of {micro}, activations "
              f"{'computed again' if checkpoint else 'kept'}; peak "
              f"{document['peer_peak_bytes'] / 2**30:.2f} GiB; loss {document['peer_loss']:.4f}")
    if figure:
        document["figure"] = figure
        document["flops_per_pair"] = flops
        share = figure["fma_share"]
        print(f"spin: {100 * share:.1f} % of its own probe of {figure['probe_gflops'] / 1e3:.1f} "
              "TFLOP/s")
        gpu.memory(document, figure, "spin_step")
        if gemm:
            gpu.target(document, "spin_step: share of the GEMM peak",
                       document["spin"]["share_of_gemm"], 0.45, "share of the GEMM peak")
        else:
            gpu.target(document, "spin_step: share of its own probe", share, 0.45,
                       "share of its own probe")
    if ratios:
        document["ratio"] = document["spin"]["median"] / document["torch"]["median"]
        document["ratio_by_turn"] = ratios
        gpu.target(document, "spin_step: pairs/s beside torch", document["ratio"], 2.0,
                   f"{document['ratio']:.2f} times torch (turns {min(ratios):.2f} to "
                   f"{max(ratios):.2f})")
    gpu.write(o.json, document)


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    gpu.common_options(p)
    p.add_argument("--pairs", default="512,256,256,16")
    p.add_argument("--micro", type=int, default=0, help="ours: pairs of a micro-batch; 0: all")
    p.add_argument("--most-micro", type=int, default=4, help="the peer's: the most that is tried")
    p.add_argument("--directory", help=argparse.SUPPRESS)
    o = p.parse_args()
    pathlib.Path(o.scratch).mkdir(parents=True, exist_ok=True)
    if o.serve:
        gpu.serve(StepPeer(o))
    else:
        drive(o)


if __name__ == "__main__":
    main()
