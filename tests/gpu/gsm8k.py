#!/usr/bin/env python3
"""Self-play on GSM8K end to end: coordinator, one generator and one trainer as processes of their
own that share the device.

    tests/gpu/gsm8k.py --build BUILD --model MODEL --gsm8k DIR [--prompts 1000] [--new-tokens 256]
                       [--iterations 1] [--out DIR]

MODEL is an instruction-tuned checkpoint in Hugging Face layout, or a GGUF file of one, which is
converted first; DIR holds train.jsonl (and for --few test.jsonl) of openai/grade-school-math. Runs until
there are as many iterations as asked for; the same command with more --iterations goes on where it
was, so each can be a step of its own. --out/gsm8k.json holds the figures of all of them, of which it
prints a table.

With --few N the mean negative log-likelihood of a token of N test problems' human solutions is taken
before and after each iteration."""
import argparse
import json
import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "deploy/quickstart.d"))
from cluster import Cluster, Failure  # noqa: E402

SETTINGS = """[run]
name = gsm8k
seed = {seed}
backend = {backend}
{run}
[data]
train = {train}
train_limit = {prompts}
holdout_share = {holdout_share}
max_sequence_tokens = {longest}

[model]
base = {model}

[generate]
max_new_tokens = {new_tokens}
{generate}
[train]
beta = {beta}
learning_rate = {rate}
epochs = 1
optimizer = rmsprop
batch_pairs = {batch}
guard_nats = 0
{train_more}
[verdict]
stop = false
accept_degraded = true
trained_sample = 0
"""
EVALUATION = """
[evaluation]
evaluate = {root}/deploy/tasks/gsm8k_nll.conf
evaluate_data = {test}
evaluate_limit = {few}
"""
FIELDS = ("iteration seconds generation_seconds train_seconds pairs generated_tokens train_tokens "
          "steps loss_first_step margin_abs_max_first_step loss_last_step holdout_accuracy "
          "identical_share verdict checkpoint_sha256 pairs_sha256").split()


def say(text):
    print(time.strftime("%H:%M:%S"), text, flush=True)


def model_directory(o):
    model = pathlib.Path(o.model)
    if model.is_dir():
        return model.resolve()
    converted = pathlib.Path(o.out, "model")
    if not (converted / "config.json").exists():
        say(f"{model} becomes {converted}")
        program = pathlib.Path(o.build, "common/spin-model/spin-model")
        subprocess.run([str(program), "convert", str(model), str(converted)], check=True)
    return converted.resolve()


def settings(o):
    """Those that --set gives stand in their sections, behind what is there."""
    more = {"run": "", "generate": "", "train": ""}
    for word in o.set:
        name, value = word.split("=", 1)
        section, key = name.split(".", 1)
        if section not in more:
            raise Failure(f"--set {word}: sections are {', '.join(more)}")
        more[section] += f"{key} = {value}\n"
    data = pathlib.Path(o.gsm8k).resolve()
    text = SETTINGS.format(
        seed=o.seed, backend=o.backend, train=data / "train.jsonl", prompts=o.prompts,
        holdout_share=o.holdout_share, longest=o.longest, model=model_directory(o),
        new_tokens=o.new_tokens, beta=o.beta, rate=o.rate, batch=o.batch, run=more["run"],
        generate=more["generate"], train_more=more["train"])
    if o.few:
        text += EVALUATION.format(root=ROOT, test=data / "test.jsonl", few=o.few)
    return text


def rate(row, tokens, seconds):
    return row[tokens] / row[seconds] if row.get(seconds) else 0


def line(row):
    return (f"iteration {row['iteration']}: {row['seconds']:.1f} s, {row['pairs']} pairs; "
            f"{row['generated_tokens']} tokens sampled in {row['generation_seconds']:.1f} s "
            f"({rate(row, 'generated_tokens', 'generation_seconds'):.0f}/s), "
            f"{row['train_tokens']} trained in {row['train_seconds']:.1f} s and {row['steps']} steps "
            f"({rate(row, 'train_tokens', 'train_seconds'):.0f}/s); loss "
            f"{row['loss_first_step']:.4f} → {row['loss_last_step']:.4f}, verdict {row['verdict']}")


def figures(o, cluster, wall):
    rows = cluster.spinctl("iterations", "gsm8k")["iterations"]
    found = {"model": str(o.model), "backend": o.backend, "prompts": o.prompts,
             "new_tokens": o.new_tokens, "batch_pairs": o.batch, "learning_rate": o.rate,
             "beta": o.beta, "seed": o.seed, "slots": o.slots, "settings": o.set,
             "seconds_of_this_start": wall,
             "iterations": [{k: row.get(k) for k in FIELDS} for row in rows], "raw": rows}
    try:
        found["workers"] = cluster.spinctl("workers")
    except Failure:
        pass
    if o.few:
        subjects = ["gsm8k@base"] + [f"gsm8k@{row['iteration']}" for row in rows]
        found["test_nll_token"] = {}
        for subject in subjects:
            row = cluster.spinctl("--timeout", 600, "evaluate", subject, "--task",
                                  ROOT / "deploy/tasks/gsm8k_nll.conf", "--data",
                                  pathlib.Path(o.gsm8k).resolve() / "test.jsonl", "--limit", o.few)
            found["test_nll_token"][subject] = row["metrics"]["nll_token"]["value"]
    return found


def run(o):
    out = pathlib.Path(o.out)
    out.mkdir(parents=True, exist_ok=True)
    o.build = pathlib.Path(o.build).resolve()
    started = time.monotonic()
    cluster = Cluster(o.build, out, 1, quiet=True, slots=o.slots, backend=o.backend)
    try:
        text = settings(o)
        cluster.start()
        cluster.spinctl("create-run", cluster.write_config("run-gsm8k", text))
        say(f"{o.prompts} prompts, {o.new_tokens} new tokens, until {o.iterations} iterations")
        done = subprocess.run(
            cluster.spinctl_command("--timeout", 600, "--quiet", "run", "gsm8k", "--force",
                                    "--iterations", o.iterations), check=False)
        if done.returncode != 0:
            raise Failure("the run did not finish (spinctl why gsm8k); the same command goes on")
        found = figures(o, cluster, time.monotonic() - started)
    finally:
        cluster.stop()
    (out / "gsm8k.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n",
                                    encoding="utf-8")
    for row in found["iterations"]:
        print(line(row))
    for subject, value in found.get("test_nll_token", {}).items():
        print(f"{subject}: {value:.4f} nats a token of {o.few} test problems' solutions")
    print(f"{out / 'gsm8k.json'} is written after {found['seconds_of_this_start']:.0f} s")


def main():
    p = argparse.ArgumentParser(description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--build", default="build")
    p.add_argument("--model", required=True)
    p.add_argument("--gsm8k", required=True)
    p.add_argument("--out", default="out-gpu/gsm8k")
    p.add_argument("--backend", default="cuda")
    p.add_argument("--iterations", type=int, default=1)
    p.add_argument("--prompts", type=int, default=1000)
    p.add_argument("--holdout-share", default="0.05")
    p.add_argument("--new-tokens", type=int, default=256)
    p.add_argument("--longest", type=int, default=768, help="tokens of a prompt with an answer")
    p.add_argument("--slots", type=int, default=128)
    p.add_argument("--batch", type=int, default=16, help="pairs of a step")
    p.add_argument("--rate", default="5e-7")
    p.add_argument("--beta", default="0.1")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--few", type=int, default=0)
    p.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=VALUE",
                   help="of the run's settings: [run], [generate] or [train]")
    o = p.parse_args()
    try:
        run(o)
    except (Failure, subprocess.CalledProcessError) as failure:
        sys.exit(f"gsm8k.py: {failure}")


if __name__ == "__main__":
    main()
