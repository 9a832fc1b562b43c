#!/usr/bin/env python3
"""A SPIN training step, scoring and prefill beside torch and TRL, taking turns.

    train.py --ours build/tests/bench/bench_step --model DIR [--peer torch] [--work step]
             [--pairs 128,128,2 | --lengths tests/bench/peers/gsm8k.lengths,8] [--repeats 5]

DIR needs a config.json; weights are random on both sides. --pairs PROMPT,RESPONSE,COUNT makes COUNT
pairs of one length, --lengths FILE,COUNT takes the first COUNT lines "prompt real generated".

Peers (--peer): `torch` is LlamaForCausalLM in fp32: forward and backward of the policy over both
sequences, right-padded to the longest of a micro-batch, forward of the reference, clipping, RMSprop;
`torch-compile` the same compiled, `torch-bf16` under autocast; `trl` is DPOTrainer with precomputed
reference log-probabilities (so, as on our side, no reference in the step). --micro N sets the peer's
pairs in one forward pass (0: the whole batch) and --peer-threads its threads.
--work: `step`; `score` (log-probabilities of all answers); `prefill` (one row of logits a prompt).

Both run as processes of their own that do one repeat when told to, and sleep otherwise. --cpu
compares seconds of CPU time, for machines that have other work; with more than one thread that
counts waiting threads too, so give --threads 1 --peer-threads 1. Peak memory is VmHWM of either
process. Prints a table; --json FILE appends one line. Needs torch and
transformers, for `trl` also trl; run it with the Python that has them, or name that with --python."""
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

PEERS = ("torch", "torch-compile", "torch-bf16", "trl")


def workload(args):
    if args.lengths:
        path, count = args.lengths.rsplit(",", 1)
        with open(path) as f:
            lines = [line.split() for line in f if line.strip() and not line.startswith("#")]
        return [tuple(map(int, line)) for line in lines[:int(count)]]
    prompt, response, count = map(int, args.pairs.split(","))
    return [(prompt, response, response)] * count


def peak_bytes():
    with open("/proc/self/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmHWM:"))


def random_pairs(pairs, vocab):
    import torch
    g = torch.Generator().manual_seed(1)
    draw = lambda n: torch.randint(10, vocab, (n,), generator=g).tolist()
    return [(draw(p), draw(r), draw(n)) for p, r, n in pairs]


# --- the peers, in a process of their own ---

def clocks():
    return time.perf_counter(), time.process_time()


def answer(start):
    wall, cpu = (b - a for a, b in zip(start, clocks()))
    print(json.dumps({"seconds": wall, "cpu_seconds": cpu, "peak_bytes": peak_bytes()}), flush=True)


class TorchPeer:
    def __init__(self, args):
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
        self.torch, self.args = torch, args
        torch.set_num_threads(args.peer_threads)
        torch.manual_seed(0)
        config = AutoConfig.from_pretrained(args.model)
        config.use_cache = False
        make = lambda: AutoModelForCausalLM.from_config(config, torch_dtype=torch.float32,
                                                        attn_implementation="sdpa")
        self.model = make()
        self.pairs = random_pairs(workload(args), config.vocab_size)
        self.call = self.model
        if args.work == "step":
            self.reference = make()
            self.reference.load_state_dict(self.model.state_dict())
            self.reference.requires_grad_(False)
            self.reference_call = self.reference
            self.optimizer = torch.optim.RMSprop(self.model.parameters(), lr=1e-9, foreach=True)
        if args.peer == "torch-compile":
            self.call = torch.compile(self.model)
            if args.work == "step":
                self.reference_call = torch.compile(self.reference)

    def batch(self, pairs):
        torch = self.torch
        rows = [p + r for p, r, _ in pairs] + [p + g for p, _, g in pairs]
        answers = [len(r) for _, r, _ in pairs] + [len(g) for _, _, g in pairs]
        longest = max(map(len, rows))
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        mask = torch.zeros(len(rows), longest, dtype=torch.long)
        scored = torch.zeros(len(rows), longest - 1, dtype=torch.bool)
        for i, row in enumerate(rows):
            ids[i, :len(row)] = torch.tensor(row)
            mask[i, :len(row)] = 1
            scored[i, len(row) - 1 - answers[i]:len(row) - 1] = True
        return ids, (mask if int(mask.min()) == 0 else None), scored

    def logprobs(self, call, ids, mask, scored):
        torch = self.torch
        logits = call(input_ids=ids, attention_mask=mask).logits[:, :-1]
        # Only rows of responses go through softmax; the logits of all are there.
        rows = logits[scored].float()
        tokens = -torch.nn.functional.cross_entropy(rows, ids[:, 1:][scored], reduction="none")
        where = scored.nonzero()[:, 0]
        return torch.zeros(len(ids)).index_add(0, where, tokens)

    def autocast(self):
        return self.torch.autocast("cpu", dtype=self.torch.bfloat16,
                                   enabled=self.args.peer == "torch-bf16")

    def micro_batches(self):
        n = self.args.micro or len(self.pairs)
        return [self.batch(self.pairs[i:i + n]) for i in range(0, len(self.pairs), n)]

    def step(self):
        torch, n = self.torch, len(self.pairs)
        for ids, mask, scored in self.micro_batches():
            with self.autocast():
                with torch.no_grad():
                    reference = self.logprobs(self.reference_call, ids, mask, scored)
                real, generated = (self.logprobs(self.call, ids, mask, scored) - reference).chunk(2)
                loss = torch.nn.functional.softplus(-0.1 * (real - generated)).sum() / n
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def score(self):
        with self.torch.no_grad(), self.autocast():
            for ids, mask, scored in self.micro_batches():
                self.logprobs(self.call, ids, mask, scored)

    def prefill(self):
        with self.torch.no_grad(), self.autocast():
            for ids, _, _ in self.micro_batches():
                prompts = ids[:len(ids) // 2, :len(self.pairs[0][0])]
                self.call(input_ids=prompts, logits_to_keep=1)

    def serve(self):
        run = getattr(self, self.args.work)
        for _ in sys.stdin:
            start = clocks()
            run()
            answer(start)


def serve_trl(args):
    import tempfile

    import torch
    from datasets import Dataset
    from tokenizers import Tokenizer, models
    from transformers import (AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast,
                              TrainerCallback)
    from trl import DPOConfig, DPOTrainer
    torch.set_num_threads(args.peer_threads)
    config = AutoConfig.from_pretrained(args.model)
    config.use_cache = False
    model = AutoModelForCausalLM.from_config(config, torch_dtype=torch.float32)
    pairs = random_pairs(workload(args), config.vocab_size)
    micro = args.micro or len(pairs)
    words = Tokenizer(models.WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>",
                                        eos_token="<eos>")
    data = Dataset.from_list([{"prompt": "", "chosen": "", "rejected": "", "prompt_ids": p,
                               "chosen_ids": r, "rejected_ids": g} for p, r, g in pairs])

    class Turns(TrainerCallback):
        """Each optimizer step waits for a line, and its time is from there to its end."""

        def on_step_begin(self, *_, **__):
            if not sys.stdin.readline():
                os._exit(0)
            self.start = clocks()

        def on_step_end(self, *_, **__):
            answer(self.start)

    class Tokenized(DPOTrainer):
        def _prepare_dataset(self, dataset, *_, **__):
            return dataset

    options = DPOConfig(
        output_dir=tempfile.mkdtemp(), use_cpu=True, bf16=False, optim="rmsprop",
        learning_rate=1e-9, max_grad_norm=1.0, beta=0.1, per_device_train_batch_size=micro,
        gradient_accumulation_steps=len(pairs) // micro, precompute_ref_log_probs=True,
        gradient_checkpointing=False, max_length=None, num_train_epochs=100000, report_to=[],
        save_strategy="no", logging_strategy="no", disable_tqdm=True, remove_unused_columns=False)
    if len(pairs) % micro:
        sys.exit("train.py: --micro must divide the number of pairs")
    trainer = Tokenized(model=model, args=options, train_dataset=data,
                        processing_class=tokenizer, callbacks=[Turns()])
    trainer.train()


# --- the driver ---

class Process:
    def __init__(self, name, command, cpu):
        self.name, self.seconds, self.peak = name, [], 0
        self.clock = "cpu_seconds" if cpu else "seconds"
        self.process = subprocess.Popen(command, text=True, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE)

    def turn(self, count=True):
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        while line and not line.startswith("{"):
            line = self.process.stdout.readline()
        if not line:
            sys.exit(f"train.py: {self.name} ended")
        result = json.loads(line)
        self.peak = result["peak_bytes"]
        if count:
            self.seconds.append(result[self.clock])
        return result

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def versions(python):
    code = ("import json\nfrom importlib.metadata import version, PackageNotFoundError\nv = {}\n"
            "for p in ('torch', 'transformers', 'trl'):\n"
            " try: v[p] = version(p)\n except PackageNotFoundError: pass\nprint(json.dumps(v))")
    return json.loads(subprocess.run([python, "-c", code], check=True, text=True,
                                     capture_output=True).stdout)


def processor():
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.split(":")[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def drive(args):
    shared = ["--model", args.model, "--work", args.work, "--micro", str(args.micro),
              "--peer", args.peer, "--peer-threads", str(args.peer_threads)]
    shared += ["--lengths", args.lengths] if args.lengths else ["--pairs", args.pairs]
    pairs = workload(args)
    ours = Process("spin", [args.ours, args.model, "--threads", str(args.threads), "--work",
                            args.work, "--pairs", ";".join(" ".join(map(str, p)) for p in pairs)],
                   args.cpu)
    peer = Process(args.peer, [args.python, __file__, "--serve"] + shared, args.cpu)
    probes = []
    for side in (ours, peer):
        side.turn(count=False)
    for _ in range(args.repeats):
        for side in (ours, peer):
            time.sleep(0.5)  # the other's threads stop spinning
            result = side.turn()
            if side is ours:
                probes.append(result["fma_share"])
    for side in (ours, peer):
        side.close()
    report(args, pairs, ours, peer, probes)


def report(args, pairs, ours, peer, shares):
    document = {"work": args.work, "peer": args.peer, "micro": args.micro, "pairs": len(pairs),
                "tokens": sum(map(sum, pairs)), "threads": args.threads,
                "peer_threads": args.peer_threads, "repeats": args.repeats, "clock": ours.clock,
                "workload": args.lengths or args.pairs, "processor": processor(),
                "versions": versions(args.python), "fma_share": statistics.median(shares)}
    print(f"{args.work}, {document['workload']}: {len(pairs)} pairs; {document['processor']}; "
          + ", ".join(f"{k} {v}" for k, v in document["versions"].items()))
    print(f"{'':14} {'CPU s' if args.cpu else 'median s':>9} {'lowest':>8} {'highest':>8} {'pairs/s':>8} {'peak MiB':>9}")
    for side in (ours, peer):
        m = statistics.median(side.seconds)
        document[side.name] = {"seconds": side.seconds, "median": m, "peak_bytes": side.peak}
        print(f"{side.name:14} {m:9.3f} {min(side.seconds):8.3f} {max(side.seconds):8.3f} "
              f"{len(pairs) / m:8.3f} {side.peak / 2**20:9.0f}")
    ratios = sorted(p / o for o, p in zip(ours.seconds, peer.seconds))
    document["ratio"] = statistics.median(ratios)
    print(f"{args.peer} takes {document['ratio']:.2f} times as long (turn by turn {ratios[0]:.2f} to "
          f"{ratios[-1]:.2f}) and {peer.peak / ours.peak:.2f} times the memory; ours runs at "
          f"{100 * document['fma_share']:.0f} % of the multiply-add limit")
    if args.json:
        with open(args.json, "a") as f:
            f.write(json.dumps(document) + "\n")


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--ours", default="build/tests/bench/bench_step")
    p.add_argument("--model", required=True)
    p.add_argument("--peer", choices=PEERS, default="torch")
    p.add_argument("--work", choices=("step", "score", "prefill"), default="step")
    p.add_argument("--pairs", default="128,128,2")
    p.add_argument("--lengths")
    p.add_argument("--micro", type=int, default=0)
    p.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--peer-threads", type=int, default=len(os.sched_getaffinity(0)))
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--python", default=sys.executable)
    p.add_argument("--cpu", action="store_true")
    p.add_argument("--json")
    p.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    args = p.parse_args()
    if not args.serve:
        drive(args)
    elif args.peer == "trl":
        serve_trl(args)
    else:
        TorchPeer(args).serve()


if __name__ == "__main__":
    main()
